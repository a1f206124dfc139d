//! Every loss against PyTorch (`tests/peers/golden_losses.py` wrote `tests/data/losses`), and what holds for all of them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use embeval::loss::angle::AnglE;
use embeval::loss::arcface::{ArcFace, own_cosines};
use embeval::loss::cosent::CoSent;
use embeval::loss::distance::Distance;
use embeval::loss::distillation::{Groups, KlDivergence, Similarity, margin_mse};
use embeval::loss::gist::{Gist, Side};
use embeval::loss::info_nce::{InfoNce, Masks};
use embeval::loss::margin::Margin;
use embeval::loss::matryoshka::Matryoshka;
use embeval::loss::regression::cosine_regression;
use embeval::loss::simcse::SimCse;
use embeval::loss::temperature::Temperature;
use embeval::loss::triplet::Triplet;
use embeval::loss::triplet_mining::{Mining, TripletMining};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn scalar(loss: Result<Tensor>) -> f32 {
    loss.unwrap().to_scalar().unwrap()
}

// --- PyTorch ---

/// A case of the golden data.
struct Case<'a>(&'a Value);

impl Case<'_> {
    fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> T {
        let value = self.0[key].clone();
        serde_json::from_value(value).unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name()))
    }

    fn matrix(&self, key: &str) -> Tensor {
        tensor(&self.0[key])
    }

    fn distance(&self) -> Distance {
        match self.get::<String>("distance").as_str() {
            "cosine" => Distance::Cosine,
            "euclidean" => Distance::Euclidean,
            "manhattan" => Distance::Manhattan,
            other => panic!("{other}"),
        }
    }

    fn margin(&self, key: &str) -> Option<Margin> {
        self.get::<Option<(String, f64)>>(key).map(|(kind, margin)| match kind.as_str() {
            "absolute" => Margin::Absolute(margin),
            "relative" => Margin::Relative(margin),
            other => panic!("{other}"),
        })
    }

    fn similarity(&self) -> Similarity {
        if self.get::<String>("similarity") == "cosine" { Similarity::Cosine } else { Similarity::Dot }
    }

    /// The loss of these inputs, in the order of the case.
    fn loss(&self, inputs: &[(&str, Tensor)]) -> Result<Tensor> {
        let find = |key: &str| inputs.iter().find(|(name, _)| *name == key).map(|(_, tensor)| tensor);
        let input = |key: &str| find(key).unwrap_or_else(|| panic!("{}: no input {key}", self.name()));
        let pair = || (input("x"), input("y"), self.get::<Vec<f32>>("scores"));
        match self.get::<String>("loss").as_str() {
            "info_nce" => {
                let settings = InfoNce {
                    temperature: match find("log_scale") {
                        Some(log_scale) => Temperature::Learned(log_scale.clone()),
                        None => Temperature::Fixed(self.get("temperature")),
                    },
                    label_smoothing: self.get("label_smoothing"),
                    both_directions: self.get("both_directions"),
                    false_negatives: self.margin("false_negatives"),
                };
                let masks = Masks {
                    documents: Arc::new(self.get("mask_documents")),
                    queries: Arc::new(self.get("mask_queries")),
                };
                settings.loss(input("queries"), input("documents"), find("more_queries"), &masks)
            }
            "triplet" => Triplet { margin: self.get("margin"), distance: self.distance() }.loss(
                input("anchors"),
                input("positives"),
                input("negatives"),
                &self.get::<Vec<usize>>("owners"),
            ),
            "mining" => {
                let margin = self.get("margin");
                let mining = match self.get::<String>("mining").as_str() {
                    "hard" => Mining::Hard { margin },
                    "hard_soft_margin" => Mining::HardSoftMargin,
                    "semi_hard" => Mining::SemiHard { margin },
                    "all" => Mining::All { margin },
                    other => panic!("{other}"),
                };
                let labels: Vec<u32> = self.get("labels");
                TripletMining { distance: self.distance(), mining }.loss(input("embeddings"), &labels)
            }
            "cosent" => {
                let (x, y, scores) = pair();
                CoSent { scale: self.get("scale") }.loss(x, y, &scores)
            }
            "angle" => {
                let (x, y, scores) = pair();
                AnglE { scale: self.get("scale") }.loss(x, y, &scores)
            }
            "regression" => {
                let (x, y, scores) = pair();
                cosine_regression(x, y, &scores)
            }
            "arcface" => {
                let (labels, margins): (Vec<u32>, Vec<f64>) = (self.get("labels"), self.get("margins"));
                ArcFace { scale: self.get("scale") }.loss(input("embeddings"), input("classes"), &labels, &margins)
            }
            kind @ ("kl" | "margin_mse") => {
                let (documents, teacher): (Vec<Vec<usize>>, Vec<Vec<f32>>) = (self.get("groups"), self.get("teacher"));
                let groups = Groups { documents: &documents, teacher: &teacher };
                if kind == "margin_mse" {
                    return margin_mse(input("queries"), input("documents"), groups, self.similarity());
                }
                let settings = KlDivergence {
                    similarity: self.similarity(),
                    temperature: self.get("temperature"),
                    teacher_temperature: self.get("teacher_temperature"),
                };
                settings.loss(input("queries"), input("documents"), groups)
            }
            "gist" => {
                let settings = Gist {
                    temperature: self.get("temperature"),
                    margin: self.margin("margin").unwrap(),
                    contrast_anchors: self.get("contrast_anchors"),
                    contrast_positives: self.get("contrast_positives"),
                };
                let student = Side { queries: input("queries"), documents: input("documents") };
                let guide = Side { queries: &self.matrix("guide_queries"), documents: &self.matrix("guide_documents") };
                settings.loss(student, guide, &Masks::default())
            }
            "simcse" => {
                let settings = SimCse { temperature: Temperature::Fixed(self.get("temperature")) };
                settings.loss(input("a"), input("b"), &self.get::<Vec<u64>>("identities"))
            }
            "matryoshka" => {
                let settings = Matryoshka { dims: self.get("dims"), weights: self.get("weights") };
                let columns: Vec<&Tensor> = inputs.iter().map(|(_, column)| column).collect();
                let inner = Case(&self.0["inner"]);
                settings.loss(&columns, &|cut| match inner.get::<String>("loss").as_str() {
                    "info_nce" => InfoNce::with_temperature(inner.get("temperature")).loss(
                        &cut[0],
                        &Tensor::cat(&cut[1..], 0)?,
                        None,
                        &Masks::default(),
                    ),
                    _ => CoSent { scale: inner.get("scale") }.loss(&cut[0], &cut[1], &inner.get::<Vec<f32>>("scores")),
                })
            }
            other => panic!("{other}"),
        }
    }

    fn gradient<T: DeserializeOwned>(&self, input: &str) -> T {
        Case(&self.0["gradients"]).get(input)
    }

    /// The largest errors of the value and of the gradients, as parts of what is tolerated.
    fn check(&self) -> (f64, f64) {
        let vars: Vec<(&str, Var)> = self.0["inputs"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, rows)| (name.as_str(), Var::from_tensor(&tensor(rows)).unwrap()))
            .collect();
        let inputs: Vec<(&str, Tensor)> = vars.iter().map(|(name, var)| (*name, var.as_tensor().clone())).collect();
        let loss = self.loss(&inputs).unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        let (got, want) = (f64::from(loss.to_scalar::<f32>().unwrap()), self.get::<f64>("value"));
        let value_error = part_of_tolerance(got, want, want.abs());
        assert!(value_error <= 1.0, "{}: {got} instead of {want}", self.name());
        let gradients = loss.backward().unwrap();
        let mut worst = 0f64;
        for (name, var) in &vars {
            let got = gradients.get(var).unwrap_or_else(|| panic!("{}: no gradient by {name}", self.name()));
            let want: Vec<Option<Vec<f64>>> = match &self.0["gradients"][name] {
                Value::Array(rows) if rows[0].is_number() => vec![Some(self.gradient(name))],
                _ => self.gradient(name),
            };
            let largest = |row: &[f64]| row.iter().fold(0f64, |max, v| max.max(v.abs()));
            // The gradient of a zero embedding, 1e12 times that of the others, has its own scale.
            let others = want.iter().flatten().map(|row| largest(row)).filter(|l| *l < 1e6).fold(0.0, f64::max);
            let width = got.elem_count() / want.len();
            for (row, (got, want)) in values(got).chunks(width).zip(want).enumerate() {
                assert!(got.iter().all(|g| g.is_finite()), "{}: gradient by {name}, row {row}: {got:?}", self.name());
                // None where what the peer has is its own convention.
                let Some(want) = want else { continue };
                let scale = largest(&want).max(others);
                for (got, want) in got.iter().zip(want) {
                    let error = part_of_tolerance(f64::from(*got), want, scale);
                    assert!(error <= 1.0, "{}: gradient by {name}, row {row}: {got} instead of {want}", self.name());
                    worst = worst.max(error);
                }
            }
        }
        (value_error, worst)
    }
}

/// 1 is an error of 1e-5, or 1e-5 of the scale where it is above 1. A NaN is above all.
fn part_of_tolerance(got: f64, want: f64, scale: f64) -> f64 {
    let part = (got - want).abs() / (1e-5 * scale.max(1.0));
    if part.is_nan() { f64::INFINITY } else { part }
}

fn tensor(rows: &Value) -> Tensor {
    if rows[0].is_number() {
        let values: Vec<f32> = serde_json::from_value(rows.clone()).unwrap();
        return Tensor::new(values, &Device::Cpu).unwrap();
    }
    let values: Vec<Vec<f32>> = serde_json::from_value(rows.clone()).unwrap();
    Tensor::new(values, &Device::Cpu).unwrap()
}

/// Checks all cases of a file; there are as many as this.
fn golden(file: &str, cases: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/losses").join(format!("{file}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(all.len(), cases, "{file}");
    let (mut value, mut gradient) = (0f64, 0f64);
    for case in &all {
        let errors = Case(case).check();
        value = value.max(errors.0);
        gradient = gradient.max(errors.1);
    }
    println!("{file}: {cases} cases, value within {:.1e}, gradients within {:.1e}", value * 1e-5, gradient * 1e-5);
}

#[test]
fn info_nce_is_pytorchs() {
    golden("info_nce", 30);
}

#[test]
fn triplet_is_pytorchs() {
    golden("triplet", 18);
}

#[test]
fn triplet_mining_is_pytorchs() {
    golden("triplet_mining", 60);
}

#[test]
fn cosent_is_pytorchs() {
    golden("cosent", 12);
}

#[test]
fn angle_is_pytorchs() {
    golden("angle", 12);
}

#[test]
fn regression_is_pytorchs() {
    golden("regression", 10);
}

#[test]
fn arcface_is_pytorchs() {
    golden("arcface", 10);
}

#[test]
fn distillation_is_pytorchs() {
    golden("distillation", 19);
}

#[test]
fn gist_is_pytorchs() {
    golden("gist", 14);
}

#[test]
fn simcse_is_pytorchs() {
    golden("simcse", 4);
}

#[test]
fn matryoshka_is_pytorchs() {
    golden("matryoshka", 5);
}

// --- What holds for every loss ---

/// Examples of a batch; row `order[i]` of the whole is its row i.
const N: usize = 5;
const WIDTH: usize = 6;
/// Of embeddings with no hinge, false negative, coordinate or choice of a triplet so near to its bound that a finite
/// difference crosses it.
const SEED: u64 = 41;

/// How a tensor follows the order of the batch.
#[derive(Clone, Copy, PartialEq)]
enum Rows {
    /// One row an example.
    Examples,
    /// One row an example, then this many that stay.
    ExamplesThen(usize),
    /// None is an example's.
    Fixed(usize),
    /// One number.
    Number,
}

/// The loss of a batch in this order.
type Loss = Box<dyn Fn(&[Tensor], &[usize]) -> Result<Tensor>>;

struct Entry {
    name: &'static str,
    inputs: Vec<Rows>,
    loss: Loss,
    /// Whether lengths of embeddings do not matter.
    by_cosine: bool,
}

fn entry(
    name: &'static str,
    inputs: &[Rows],
    by_cosine: bool,
    loss: impl Fn(&[Tensor], &[usize]) -> Result<Tensor> + 'static,
) -> Entry {
    Entry { name, inputs: inputs.to_vec(), loss: Box::new(loss), by_cosine }
}

const SCORES: [f32; N] = [0.9, 0.1, 0.5, 0.5, 0.3];
const LABELS: [u32; N] = [0, 1, 0, 2, 1];
const MARGINS: [f64; 3] = [0.2, 0.5, 0.35];

fn ordered<T: Copy>(of: &[T], order: &[usize]) -> Vec<T> {
    order.iter().map(|&i| of[i]).collect()
}

/// Masks of `extra` candidates after the examples', hidden from each other by fixed rules.
fn masks(order: &[usize], documents: usize, queries: usize) -> Masks {
    let hidden = |a: usize, b: usize| a != b && (a * 3 + b * 5).is_multiple_of(7);
    let table = |extra: usize| {
        let column = |c: usize| if c < N { order[c] } else { c };
        Arc::new(order.iter().flat_map(|&i| (0..N + extra).map(move |c| hidden(i, column(c)))).collect())
    };
    Masks { documents: table(documents), queries: table(queries) }
}

fn table() -> Vec<Entry> {
    use Rows::{Examples, ExamplesThen, Fixed, Number};
    let mut entries = vec![
        entry("info_nce", &[Examples, ExamplesThen(3)], true, |t, _| {
            InfoNce::with_temperature(0.3).loss(&t[0], &t[1], None, &Masks::default())
        }),
        entry("info_nce with everything", &[Examples, ExamplesThen(3), Fixed(2), Number], true, |t, order| {
            let settings = InfoNce {
                temperature: Temperature::Learned(t[3].clone()),
                label_smoothing: 0.2,
                both_directions: true,
                false_negatives: Some(Margin::Relative(0.4)),
            };
            settings.loss(&t[0], &t[1], Some(&t[2]), &masks(order, 3, 2))
        }),
        entry("gist", &[Examples, ExamplesThen(3)], true, |t, order| {
            let settings = Gist {
                temperature: 0.3,
                margin: Margin::Absolute(0.3),
                contrast_anchors: true,
                contrast_positives: true,
            };
            let guide =
                [arrange(Examples, &matrix(N, 4, 71), order), arrange(ExamplesThen(3), &matrix(N + 3, 4, 72), order)];
            let guide = Side { queries: &guide[0], documents: &guide[1] };
            settings.loss(Side { queries: &t[0], documents: &t[1] }, guide, &masks(order, 3, 0))
        }),
        entry("simcse", &[Examples, Examples], true, |t, order| {
            let settings = SimCse { temperature: Temperature::Fixed(0.3) };
            settings.loss(&t[0], &t[1], &ordered(&[4, 6, 4, 5, 8], order))
        }),
        entry("matryoshka", &[Examples, Examples], true, |t, order| {
            let settings = Matryoshka { dims: vec![WIDTH, 4, 2], weights: vec![1.0, 0.5, 0.25] };
            settings
                .loss(&[&t[0], &t[1]], &|cut| CoSent { scale: 4.0 }.loss(&cut[0], &cut[1], &ordered(&SCORES, order)))
        }),
        entry("cosent", &[Examples, Examples], true, |t, order| {
            CoSent { scale: 4.0 }.loss(&t[0], &t[1], &ordered(&SCORES, order))
        }),
        entry("angle", &[Examples, Examples], true, |t, order| {
            AnglE { scale: 4.0 }.loss(&t[0], &t[1], &ordered(&SCORES, order))
        }),
        entry("regression", &[Examples, Examples], true, |t, order| {
            cosine_regression(&t[0], &t[1], &ordered(&SCORES, order))
        }),
        entry("arcface", &[Examples, Fixed(3)], true, |t, order| {
            ArcFace { scale: 6.0 }.loss(&t[0], &t[1], &ordered(&LABELS, order), &MARGINS)
        }),
    ];
    for similarity in [Similarity::Cosine, Similarity::Dot] {
        let by_cosine = similarity == Similarity::Cosine;
        let groups = |order: &[usize]| -> (Vec<Vec<usize>>, Vec<Vec<f32>>) {
            let place = |example: usize| order.iter().position(|&i| i == example).unwrap();
            let documents = order.iter().map(|&i| {
                // The positive, hard negatives, and with the second example another's positive.
                let mut group = vec![place(i)];
                group.extend((0..i % 3).map(|j| N + j));
                group.extend((i == 1).then(|| place(3)));
                group
            });
            let documents: Vec<Vec<usize>> = documents.collect();
            let score = |i: usize, j: usize| ((i * 7 + j * 5) % 9) as f32 / 4.0;
            let teacher =
                order.iter().zip(&documents).map(|(&i, group)| (0..group.len()).map(|j| score(i, j)).collect());
            (documents.clone(), teacher.collect())
        };
        entries.push(entry("kl_divergence", &[Examples, ExamplesThen(3)], by_cosine, move |t, order| {
            let (documents, teacher) = groups(order);
            let settings = KlDivergence { similarity, temperature: 0.5, teacher_temperature: 1.5 };
            settings.loss(&t[0], &t[1], Groups { documents: &documents, teacher: &teacher })
        }));
        entries.push(entry("margin_mse", &[Examples, ExamplesThen(3)], by_cosine, move |t, order| {
            let (documents, teacher) = groups(order);
            margin_mse(&t[0], &t[1], Groups { documents: &documents, teacher: &teacher }, similarity)
        }));
    }
    for distance in [Distance::Cosine, Distance::Euclidean, Distance::Manhattan] {
        let (by_cosine, margin) = (distance == Distance::Cosine, 0.4);
        entries.push(entry("triplet", &[Examples, Examples, Fixed(6)], by_cosine, move |t, order| {
            let place = |example: usize| order.iter().position(|&i| i == example).unwrap();
            let owners = [0, 2, 2, 1, 4, 4].map(place);
            Triplet { margin, distance }.loss(&t[0], &t[1], &t[2], &owners)
        }));
        let minings = [
            ("hard", Mining::Hard { margin }),
            ("hard_soft_margin", Mining::HardSoftMargin),
            ("semi_hard", Mining::SemiHard { margin }),
            ("all", Mining::All { margin }),
        ];
        for (name, mining) in minings {
            entries.push(entry(name, &[Examples], by_cosine, move |t, order| {
                TripletMining { distance, mining }.loss(&t[0], &ordered(&LABELS, order))
            }));
        }
    }
    entries
}

/// Deterministic values in (−1, 1).
fn matrix(rows: usize, width: usize, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data: Vec<f32> = (0..rows * width)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f64 / (1u64 << 31) as f64 * 2.0 - 1.0) as f32
        })
        .collect();
    Tensor::from_vec(data, (rows, width), &Device::Cpu).unwrap()
}

/// The rows of `t` in the order of the batch.
fn arrange(rows: Rows, t: &Tensor, order: &[usize]) -> Tensor {
    let extra = match rows {
        Rows::Examples => 0,
        Rows::ExamplesThen(extra) => extra,
        Rows::Fixed(_) | Rows::Number => return t.clone(),
    };
    let indices: Vec<u32> = order.iter().copied().chain(N..N + extra).map(|i| i as u32).collect();
    t.index_select(&Tensor::new(indices, &Device::Cpu).unwrap(), 0).unwrap()
}

impl Entry {
    fn tensors(&self) -> Vec<Tensor> {
        let tensor = |(i, rows): (usize, &Rows)| match *rows {
            Rows::Examples => matrix(N, WIDTH, SEED + i as u64),
            Rows::ExamplesThen(extra) => matrix(N + extra, WIDTH, SEED + i as u64),
            Rows::Fixed(count) => matrix(count, WIDTH, SEED + i as u64),
            Rows::Number => Tensor::new(1.2f32, &Device::Cpu).unwrap(),
        };
        self.inputs.iter().enumerate().map(tensor).collect()
    }

    fn at(&self, tensors: &[Tensor]) -> f32 {
        scalar((self.loss)(tensors, &[0, 1, 2, 3, 4]))
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    for entry in table() {
        let vars: Vec<Var> = entry.tensors().iter().map(|t| Var::from_tensor(t).unwrap()).collect();
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let gradients = (entry.loss)(&tensors, &[0, 1, 2, 3, 4]).unwrap().backward().unwrap();
        for (k, var) in vars.iter().enumerate() {
            let analytic = values(gradients.get(var).unwrap_or_else(|| panic!("{}: input {k}", entry.name)));
            assert!(analytic.iter().any(|g| *g != 0.0), "{}: the gradient by input {k} is zero", entry.name);
            let base = values(var);
            for i in 0..base.len() {
                let at = |h: f32| {
                    let mut moved = base.clone();
                    moved[i] += h;
                    let mut tensors = tensors.clone();
                    tensors[k] = Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap();
                    entry.at(&tensors)
                };
                let numeric = (at(2e-3) - at(-2e-3)) / 4e-3;
                let error = (numeric - analytic[i]).abs();
                assert!(
                    error < 1e-3 * analytic[i].abs().max(1.0),
                    "{}: input {k}[{i}]: {numeric} {}",
                    entry.name,
                    analytic[i]
                );
            }
        }
    }
}

#[test]
fn the_order_of_the_batch_does_not_matter() {
    for entry in table() {
        let tensors = entry.tensors();
        let base = entry.at(&tensors);
        for order in [[3, 0, 4, 1, 2], [4, 3, 2, 1, 0]] {
            let arranged: Vec<Tensor> =
                tensors.iter().zip(&entry.inputs).map(|(t, rows)| arrange(*rows, t, &order)).collect();
            let loss = scalar((entry.loss)(&arranged, &order));
            assert!((base - loss).abs() < 1e-5 * base.abs().max(1.0), "{}: {base} {loss}", entry.name);
        }
    }
}

#[test]
fn lengths_do_not_matter_to_cosines() {
    for entry in table() {
        let mut tensors = entry.tensors();
        let base = entry.at(&tensors);
        for tensor in tensors.iter_mut().filter(|t| t.rank() == 2) {
            let count = tensor.dim(0).unwrap();
            // Every row by a factor of its own.
            let factors: Vec<f32> = (0..count).map(|i| 0.01 * 7f32.powi((i % 5) as i32)).collect();
            let factors = Tensor::from_vec(factors, (count, 1), &Device::Cpu).unwrap();
            *tensor = tensor.broadcast_mul(&factors).unwrap();
        }
        let scaled = entry.at(&tensors);
        let same = (base - scaled).abs() < 1e-5 * base.abs().max(1.0);
        assert_eq!(same, entry.by_cosine, "{}: {base} {scaled}", entry.name);
    }
}

#[test]
fn equal_and_zero_embeddings_give_numbers() {
    for entry in table() {
        for degenerate in ["all rows alike", "all zero", "a zero row", "huge", "tiny"] {
            let change = |t: Tensor| -> Result<Tensor> {
                if t.rank() == 0 {
                    return Ok(t);
                }
                let rows = t.dim(0)?;
                match degenerate {
                    "all rows alike" => Tensor::ones((rows, WIDTH), t.dtype(), t.device()),
                    "all zero" => t.zeros_like(),
                    "a zero row" => Tensor::cat(&[t.narrow(0, 0, 1)?.zeros_like()?, t.narrow(0, 1, rows - 1)?], 0),
                    "huge" => t * 1e6,
                    _ => t * 1e-10,
                }
            };
            let vars: Vec<Var> =
                entry.tensors().into_iter().map(|t| Var::from_tensor(&change(t).unwrap()).unwrap()).collect();
            let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
            let loss = (entry.loss)(&tensors, &[0, 1, 2, 3, 4]).unwrap();
            assert!(values(&loss)[0].is_finite(), "{}, {degenerate}", entry.name);
            let gradients = loss.backward().unwrap();
            for (k, var) in vars.iter().enumerate() {
                let gradient = values(gradients.get(var).unwrap());
                assert!(gradient.iter().all(|g| g.is_finite()), "{}, {degenerate}: input {k}", entry.name);
            }
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    for entry in table() {
        let tensors = entry.tensors();
        for (k, rows) in entry.inputs.iter().enumerate() {
            let t = &tensors[k];
            let mut wrong = vec![t.unsqueeze(0).unwrap(), Tensor::zeros((0, WIDTH), t.dtype(), t.device()).unwrap()];
            match rows {
                Rows::Number => wrong = vec![matrix(2, 2, 1)],
                Rows::Fixed(_) => {}
                Rows::Examples => wrong.push(matrix(N + 4, WIDTH, 1)),
                Rows::ExamplesThen(_) => wrong.push(matrix(N - 1, WIDTH, 1)),
            }
            if *rows != Rows::Number && entry.inputs.len() > 1 {
                wrong.push(matrix(t.dim(0).unwrap(), WIDTH + 1, 1));
            }
            for (i, wrong) in wrong.into_iter().enumerate() {
                let mut tensors = tensors.clone();
                tensors[k] = wrong;
                assert!((entry.loss)(&tensors, &[0, 1, 2, 3, 4]).is_err(), "{}: input {k}, case {i}", entry.name);
            }
        }
    }
}

#[test]
fn settings_that_make_no_sense_are_errors() {
    let (x, y) = (matrix(N, WIDTH, 1), matrix(N, WIDTH, 2));
    for scale in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(CoSent { scale }.loss(&x, &y, &SCORES).is_err());
        assert!(AnglE { scale }.loss(&x, &y, &SCORES).is_err());
        assert!(ArcFace { scale }.loss(&x, &y, &LABELS, &[0.1; N]).is_err());
        assert!(SimCse { temperature: Temperature::Fixed(scale) }.loss(&x, &y, &[]).is_err());
    }
    assert!(CoSent { scale: 20.0 }.loss(&x, &y, &[0.0, 1.0, f32::NAN, 0.0, 0.0]).is_err());
    assert!(cosine_regression(&x, &y, &SCORES[1..]).is_err());
    let arcface = ArcFace { scale: 30.0 };
    assert!(arcface.loss(&x, &y, &[0, 1, 2, 3, 5], &[0.1; N]).is_err());
    assert!(arcface.loss(&x, &y, &LABELS, &[0.1; N - 1]).is_err());
    assert!(arcface.loss(&x, &y, &LABELS, &[0.1, 0.1, 3.2, 0.1, 0.1]).is_err());
    assert!(own_cosines(&x, &y, &[7; N]).is_err());
    let triplet = Triplet { margin: 0.1, distance: Distance::Cosine };
    assert!(triplet.loss(&x, &y, &x, &[0, 1, 2, 3, 5]).is_err());
    assert!(triplet.loss(&x, &y, &x, &[0, 1]).is_err());
    assert!(Triplet { margin: f64::NAN, ..triplet }.loss(&x, &y, &x, &[0, 1, 2, 3, 4]).is_err());
    assert!(SimCse { temperature: Temperature::Fixed(0.1) }.loss(&x, &y, &[1, 2]).is_err());

    let (documents, teacher) = (vec![vec![0, 1]; N], vec![vec![0.5, 0.25]; N]);
    let kl = |documents: &[Vec<usize>], teacher: &[Vec<f32>]| {
        let settings = KlDivergence { similarity: Similarity::Dot, temperature: 1.0, teacher_temperature: 1.0 };
        settings.loss(&x, &y, Groups { documents, teacher })
    };
    assert!(kl(&documents, &teacher).is_ok());
    assert!(kl(&documents, &teacher[1..]).is_err());
    assert!(kl(&vec![vec![0, 9]; N], &teacher).is_err());
    assert!(kl(&vec![vec![0]; N], &teacher).is_err());
    assert!(kl(&vec![vec![]; N], &vec![vec![]; N]).is_err());
    let lonely = (vec![vec![0]; N], vec![vec![0.5]; N]);
    let groups = Groups { documents: &lonely.0, teacher: &lonely.1 };
    assert!(margin_mse(&x, &y, groups, Similarity::Dot).is_err());

    let sum = |cut: &[Tensor]| cut[0].sum_all();
    for (dims, weights) in [(vec![], vec![]), (vec![0], vec![]), (vec![WIDTH + 1], vec![]), (vec![2], vec![1.0, 1.0])] {
        assert!(Matryoshka { dims, weights }.loss(&[&x], &sum).is_err());
    }
    assert!(Matryoshka { dims: vec![2], weights: vec![f64::NAN] }.loss(&[&x], &sum).is_err());
    assert!(Matryoshka { dims: vec![2], weights: vec![] }.loss(&[], &sum).is_err());
}

#[test]
fn own_cosines_are_those_of_the_labels() {
    let (x, classes) = (matrix(N, WIDTH, 1), matrix(3, WIDTH, 2));
    let own = own_cosines(&x, &classes, &LABELS).unwrap();
    let labels: Vec<Tensor> = LABELS.iter().map(|&l| classes.narrow(0, l as usize, 1).unwrap()).collect();
    let distances = values(&Distance::Cosine.rows(&x, &Tensor::cat(&labels, 0).unwrap()).unwrap());
    assert!(own.iter().zip(distances).all(|(cosine, distance)| (1.0 - cosine - distance).abs() < 1e-6));
}
