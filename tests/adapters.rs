//! Quantised weights against bitsandbytes (`tests/peers/golden_nf4.py`), adapters against PEFT (`tests/peers/golden_adapters.py`),
//! and what both promise.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use embeval::adapter::{Adapter, LoraSpec, peft};
use embeval::encode::encode;
use embeval::model::{BuildOptions, Embedder, Mode, ModelFiles};
use embeval::nn::embedding::{Embedding, Table};
use embeval::nn::linear::{Joint, Linear, LowRank};
use embeval::nn::quantized::{Int8, Nf4, QuantKind, Quantization, Quantized, Statistics, Weight};
use embeval::nn::{PackedBatch, activation::Activation, composed, dora};
use serde_json::{Value, json};

const KINDS: [QuantKind; 3] = [QuantKind::Nf4 { double: true }, QuantKind::Nf4 { double: false }, QuantKind::Int8];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn bert() -> ModelFiles {
    ModelFiles::load(&data().join("models/bert")).unwrap()
}

fn read(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Deterministic values in (−1, 1), scaled.
fn var(shape: &[usize], seed: u64, scale: f64) -> Var {
    let n: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((state >> 33) as f64 / (1u64 << 31) as f64 * 2.0 - 1.0) * scale) as f32
    };
    Var::from_vec((0..n).map(|_| draw()).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

fn still(v: &Var) -> Tensor {
    v.as_tensor().detach()
}

/// `draw` of golden_nf4.py.
fn drawn(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = ((state >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32;
        value * value * value
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn codes_and_values_equal_bitsandbytes_to_the_bit() {
    let golden = read(&data().join("adapters/nf4.safetensors"));
    let of = |key: &str| values(&golden[key]);
    for case in ["one", "odd", "partial", "ties", "extremes", "halves", "large"] {
        let input = match case {
            "large" => Tensor::from_vec(drawn(200 * 192, 4), (200, 192), &Device::Cpu).unwrap(),
            case => golden[&format!("{case}.input")].clone(),
        };
        let (rows, columns) = input.dims2().unwrap();
        let input = values(&input);
        let key = |name: &str| format!("{case}.{name}");
        let plain = Nf4::new(&input, rows, columns, false);
        let codes: Vec<f32> = plain.codes().iter().map(|c| f32::from(*c)).collect();
        assert_eq!(codes, of(&key("codes")), "{case}: codes");
        let Statistics::Plain(absmax) = plain.statistics() else { panic!("{case}: nested") };
        assert_eq!(bits(absmax), bits(&of(&key("absmax"))), "{case}: statistics");
        let nested = Nf4::new(&input, rows, columns, true);
        assert_eq!(nested.codes(), plain.codes());
        let Statistics::Nested { codes, absmax, offset } = nested.statistics() else { panic!("{case}: plain") };
        assert_eq!(offset.to_bits(), of(&key("nested_offset"))[0].to_bits(), "{case}: offset");
        let codes: Vec<f32> = codes.iter().map(|c| f32::from(*c)).collect();
        assert_eq!(codes, of(&key("nested_codes")), "{case}: nested codes");
        assert_eq!(bits(absmax), bits(&of(&key("nested_absmax"))), "{case}: nested statistics");
        let int8 = Int8::new(&input, rows, columns);
        assert_eq!(bits(int8.absmax()), bits(&of(&key("int8_absmax"))), "{case}: rows");
        let whole = |quantized: Quantized| quantized.dequantize();
        let got = whole(Quantized::Nf4(nested));
        let want = of(&key("nested_values"));
        if case == "large" {
            let some: Vec<f32> = got.iter().step_by(64).copied().collect();
            assert_eq!(bits(&some), bits(&want));
            continue;
        }
        assert_eq!(bits(&got), bits(&want), "{case}: nested values");
        assert_eq!(bits(&whole(Quantized::Nf4(plain))), bits(&of(&key("values"))), "{case}: values");
        let codes: Vec<i8> = of(&key("int8_codes")).iter().map(|c| *c as u8 as i8).collect();
        assert_eq!(int8.codes(), codes, "{case}: 8-bit codes");
        assert_eq!(bits(&whole(Quantized::Int8(int8))), bits(&of(&key("int8_values"))), "{case}: 8-bit values");
    }
}

#[test]
fn what_is_held_takes_the_bytes_that_are_told() {
    let weight = var(&[384, 384], 1, 1.0);
    let of = |kind| Quantized::new(kind, &weight).unwrap().bytes();
    let blocks = 384 * 384 / 64;
    assert_eq!(of(KINDS[0]), 384 * 384 / 2 + blocks + blocks / 256 * 4 + 4);
    assert_eq!(of(KINDS[1]), 384 * 384 / 2 + blocks * 4);
    assert_eq!(of(KINDS[2]), 384 * 384 + 384 * 4);
}

/// Compares value and gradients of two functions of the same variables under a fixed cotangent.
fn compare(name: &str, vars: &[&Var], fused: impl Fn() -> Result<Tensor>, reference: impl Fn() -> Result<Tensor>) {
    let error = |a: &Tensor, b: &Tensor| {
        let (a, b) = (values(a), values(b));
        difference(&a, &b) / b.iter().fold(1e-20f32, |m, v| m.max(v.abs()))
    };
    let (y, want) = (fused().unwrap(), reference().unwrap());
    assert!(error(&y, &want) <= 1e-5, "{name}: forward differs by {}", error(&y, &want));
    let cotangent = still(&var(y.dims(), 99, 1.0));
    let gradients = y.mul(&cotangent).unwrap().sum_all().unwrap().backward().unwrap();
    let wanted = want.mul(&cotangent).unwrap().sum_all().unwrap().backward().unwrap();
    for (i, var) in vars.iter().enumerate() {
        let got = gradients.get(var).unwrap_or_else(|| panic!("{name}: operand {i} has no gradient"));
        let off = error(got, wanted.get(var).unwrap());
        assert!(off <= 1e-5, "{name}: gradient {i} differs by {off}");
        assert!(values(got).iter().any(|v| *v != 0.0), "{name}: gradient {i} is zero");
    }
}

#[test]
fn layers_on_quantised_weights_equal_those_on_what_they_dequantise_to() {
    for (rows, inputs, outputs, rank) in [(1, 8, 3, 2), (133, 96, 200, 8), (300, 80, 33, 4)] {
        let x = var(&[rows, inputs], 1, 1.0);
        let (w, b) = (var(&[outputs, inputs], 2, 1.0), var(&[outputs], 3, 1.0));
        let (la, lb, m) = (var(&[rank, inputs], 4, 1.0), var(&[outputs, rank], 5, 1.0), var(&[outputs], 6, 2.0));
        let lora = || Some(LowRank { a: la.as_tensor().clone(), b: lb.as_tensor().clone(), scale: 0.7, dropout: 0.3 });
        let mut weights = vec![Weight::Dense(still(&w))];
        weights.extend(KINDS.map(|kind| Weight::Quantized(Arc::new(Quantized::new(kind, &w).unwrap()))));
        for weight in weights {
            let name = format!("{rows} {inputs} {outputs} {weight:.0?}").chars().take(40).collect::<String>();
            let dense = weight.tensor(&Device::Cpu).unwrap();
            let layer = |lora| {
                (Linear::new(weight.clone(), Some(still(&b)), lora), Linear::new(dense.clone(), Some(still(&b)), None))
            };
            let (plain, reference) = layer(None);
            let (plain, mut reference) = (plain.unwrap(), reference.unwrap());
            compare(&name, &[&x], || plain.forward(&x, None), || composed::linear(&x, &reference, None));
            let fused = plain.forward_activated(&still(&x), Activation::Gelu, None).unwrap();
            let apart = Activation::Gelu.forward(&plain.forward(&still(&x), None).unwrap()).unwrap();
            assert_eq!(values(&fused), values(&apart), "{name}");
            reference.lora = lora();
            let adapted = layer(lora()).0.unwrap();
            for seed in [None, Some(7)] {
                let want = || composed::linear(&x, &reference, seed);
                compare(&format!("{name} lora {seed:?}"), &[&x, &la, &lb], || adapted.forward(&x, seed), want);
            }
            let mut reference = reference.clone();
            reference.magnitude = Some(m.as_tensor().clone());
            let scaled = adapted.clone().with_magnitude(m.as_tensor().clone()).unwrap();
            for seed in [None, Some(7)] {
                let want = || composed::linear(&x, &reference, seed);
                compare(&format!("{name} dora {seed:?}"), &[&x, &la, &lb, &m], || scaled.forward(&x, seed), want);
            }
        }
    }
}

/// PEFT's formula in words of its own, as `composed::linear` is code of the same hand.
#[test]
fn dora_is_the_formula_of_its_paper_and_the_norm_has_no_gradient() {
    let (x, w) = (var(&[5, 6], 1, 1.0), still(&var(&[4, 6], 2, 1.0)));
    let (a, b, m) = (var(&[2, 6], 3, 1.0), var(&[4, 2], 4, 1.0), var(&[4], 5, 2.0));
    let low = LowRank { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale: 0.5, dropout: 0.0 };
    let layer = Linear::new(w.clone(), None, Some(low)).unwrap().with_magnitude(m.as_tensor().clone()).unwrap();
    let y = layer.forward(&x, None).unwrap();
    let whole = (&w + (still(&b).matmul(&still(&a)).unwrap() * 0.5).unwrap()).unwrap().to_vec2::<f32>().unwrap();
    let lengths: Vec<f32> = whole.iter().map(|row| row.iter().map(|v| v * v).sum::<f32>().sqrt()).collect();
    let (xs, ms, ys) = (x.to_vec2::<f32>().unwrap(), m.to_vec1::<f32>().unwrap(), y.to_vec2::<f32>().unwrap());
    for (x, y) in xs.iter().zip(&ys) {
        for o in 0..4 {
            let sum: f32 = x.iter().zip(&whole[o]).map(|(x, w)| x * w).sum();
            assert!((y[o] - ms[o] / lengths[o] * sum).abs() < 1e-5);
        }
    }
    // With the lengths held, the gradient by finite differences of B; were they not, it would be another.
    let gradients = y.sum_all().unwrap().backward().unwrap();
    let got = gradients.get(&b).unwrap().to_vec2::<f32>().unwrap();
    let loss = |b: &[Vec<f32>]| -> f64 {
        let mut total = 0.0;
        let a = a.to_vec2::<f32>().unwrap();
        for x in &xs {
            for o in 0..4 {
                for (i, x) in x.iter().enumerate() {
                    let change: f32 = (0..2).map(|r| b[o][r] * a[r][i]).sum();
                    let w = w.to_vec2::<f32>().unwrap()[o][i];
                    total += f64::from(ms[o] / lengths[o]) * f64::from(w + 0.5 * change) * f64::from(*x);
                }
            }
        }
        total
    };
    let start = b.to_vec2::<f32>().unwrap();
    for o in 0..4 {
        for r in 0..2 {
            let moved = |step: f32| {
                let mut b = start.clone();
                b[o][r] += step;
                loss(&b)
            };
            let slope = (moved(0.01) - moved(-0.01)) / 0.02;
            assert!((slope - f64::from(got[o][r])).abs() < 1e-3 * slope.abs().max(1.0), "{slope} {}", got[o][r]);
        }
    }
}

#[test]
fn the_input_gradient_of_a_quantised_layer_is_the_slope() {
    let w = Arc::new(Quantized::new(KINDS[0], &var(&[7, 10], 2, 1.0)).unwrap());
    let layer = Linear::new(w, None, None).unwrap();
    let x = var(&[3, 10], 1, 1.0);
    let loss = |x: &Tensor| layer.forward(x, None).unwrap().sqr().unwrap().sum_all().unwrap();
    let gradients = loss(&x).backward().unwrap();
    let got = values(gradients.get(&x).unwrap());
    let start = values(&x);
    for i in 0..start.len() {
        let moved = |step: f32| {
            let mut x = start.clone();
            x[i] += step;
            loss(&Tensor::from_vec(x, (3, 10), &Device::Cpu).unwrap()).to_scalar::<f32>().unwrap()
        };
        let slope = (moved(0.05) - moved(-0.05)) / 0.1;
        assert!((slope - got[i]).abs() < 2e-3 * slope.abs().max(1.0), "{slope} {}", got[i]);
    }
}

#[test]
fn quantised_layers_are_not_joined_and_keep_nothing() {
    let weight = Arc::new(Quantized::new(KINDS[1], &var(&[64, 64], 2, 1.0)).unwrap());
    let layer = Linear::new(weight.clone(), None, None).unwrap();
    let parts = [&layer, &layer];
    assert!(Joint::new(&parts).unwrap().forward(&var(&[40, 64], 1, 1.0), &parts).unwrap().is_none());
    assert_eq!(Arc::strong_count(&weight), 2);
}

#[test]
fn a_table_in_8_bits_gives_the_rows_that_it_dequantises_to() {
    let (word, position, kind) = (var(&[50, 40], 1, 1.0), var(&[80, 40], 2, 1.0), var(&[2, 40], 3, 1.0));
    let table = Int8::of(&word).unwrap();
    let dense = table.to_tensor(&Device::Cpu).unwrap();
    let tables = |word: Table| Embedding {
        word,
        position: position.as_tensor().clone(),
        token_type: Some(kind.as_tensor().clone()),
    };
    let (held, dense) = (tables(Table::Int8(Arc::new(table))), tables(Table::Dense(dense)));
    let ids: Vec<u32> = (0..49).map(|i| i * 7 % 50).collect();
    let batch = PackedBatch::new(&[ids]);
    for reference in
        [composed::embedding(&held, &batch.ids, &batch.positions), dense.forward(&batch.ids, &batch.positions)]
    {
        let reference = reference.unwrap();
        compare("table", &[&position, &kind], || held.forward(&batch.ids, &batch.positions), || Ok(reference.clone()));
    }
    assert!(held.forward(&Arc::new(vec![50]), &Arc::new(vec![0])).is_err());
}

fn texts() -> Vec<String> {
    let text = std::fs::read_to_string(data().join("adapters/peft/texts.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn embed(files: &ModelFiles, options: &BuildOptions<'_>) -> Vec<f32> {
    embed_with(&Embedder::build(files, options).unwrap())
}

fn embed_with(embedder: &Embedder) -> Vec<f32> {
    let texts = texts();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    encode(embedder, &texts, "", &|_| {}).unwrap().embeddings.data().to_vec()
}

fn with(adapter: &Adapter) -> BuildOptions<'_> {
    BuildOptions { adapter: Some(adapter), ..Default::default() }
}

fn merged(files: &ModelFiles, adapter: &Adapter) -> ModelFiles {
    let mut weights = files.weights.clone();
    adapter.merge_into(&mut weights).unwrap();
    files.with_weights(&weights)
}

fn kinds_of_adapter() -> Vec<String> {
    let folders = std::fs::read_dir(data().join("adapters/peft")).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> =
        folders.filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    names
}

#[test]
fn adapters_made_by_peft_give_pefts_embeddings_merged_saved_and_read_again() {
    let files = bert();
    let folder = data().join("adapters/peft");
    let expected = read(&folder.join("expected.safetensors"));
    let base = values(&expected["base"]);
    assert!(difference(&embed(&files, &BuildOptions::default()), &base) < 2e-5);
    for kind in kinds_of_adapter() {
        let adapter = peft::load(&folder.join(&kind)).unwrap();
        let want = values(&expected[&kind]);
        assert!(difference(&base, &want) > 0.02, "{kind} changes nothing");
        assert!(!adapter.is_identity().unwrap() && !adapter.is_identity_on(&files.weights).unwrap(), "{kind}");
        let embedder = Embedder::build(&files, &with(&adapter)).unwrap();
        let got = embed_with(&embedder);
        assert!(difference(&got, &want) < 2e-5, "{kind}: {}", difference(&got, &want));
        let follower = embed_with(&embedder.detached().unwrap());
        assert!(difference(&follower, &got) < 2e-6, "{kind}: the detached model differs");
        let merged = embed(&merged(&files, &adapter), &BuildOptions::default());
        assert!(difference(&merged, &got) < 2e-5, "{kind}: merged differs by {}", difference(&merged, &got));
        // What the model made of it is saved by this model's names.
        let made = embedder.adapter().unwrap();
        let saved = tempfile::tempdir().unwrap();
        for adapter in [&adapter, &made] {
            peft::save(adapter, "bert", saved.path()).unwrap();
            let again = peft::load(saved.path()).unwrap();
            assert_eq!(embed(&files, &with(&again)), got, "{kind}: read again");
            for (name, tensor) in adapter.tensors() {
                assert_eq!(values(&tensor), values(&again.tensors()[&name]), "{kind}: {name}");
            }
        }
    }
}

/// An adapter with random matrices, and magnitudes where it is DoRA.
fn random_adapter(files: &ModelFiles, spec: LoraSpec, targets: &[&str], seed: u64) -> Adapter {
    let linears: BTreeMap<String, (usize, usize)> = files
        .weights
        .iter()
        .filter(|(name, _)| name.starts_with("encoder"))
        .filter_map(|(name, tensor)| Some((name.strip_suffix(".weight")?.to_string(), tensor.dims2().ok()?)))
        .collect();
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let fresh = Adapter::init(spec, &targets, &linears, seed).unwrap();
    let embedder = Embedder::build(files, &with(&fresh)).unwrap();
    let mut n = seed;
    let tensors: BTreeMap<String, Tensor> = embedder
        .adapter()
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            n += 1;
            let noise = still(&var(tensor.dims(), n, 0.3));
            (name, (tensor.broadcast_add(&noise)).unwrap())
        })
        .collect();
    fresh.with_tensors(|name| tensors.get(name).cloned())
}

fn specs() -> Vec<(&'static str, LoraSpec, &'static [&'static str])> {
    let spec = LoraSpec { rank: 4, alpha: 6.0, ..LoraSpec::default() };
    let patterns = LoraSpec {
        rank_pattern: vec![(r"layer\.1\..*query".into(), 2), ("value".into(), 6)],
        alpha_pattern: vec![("value".into(), 2.5)],
        ..spec.clone()
    };
    vec![
        ("lora", spec.clone(), &["query", "value"]),
        ("rslora", LoraSpec { rslora: true, dropout: 0.2, ..spec.clone() }, &["all-linear"]),
        ("dora", LoraSpec { dora: true, ..spec }, &["all-linear"]),
        ("patterns", patterns.clone(), &["query", "value"]),
        ("dora_patterns", LoraSpec { dora: true, rslora: true, ..patterns }, &["query", "value", "output.dense"]),
    ]
}

/// `tests/peers/check_adapters.py` reads what this leaves, with PEFT.
#[test]
fn adapters_made_here_are_the_same_merged_and_lie_ready_for_peft() {
    let files = bert();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("adapters");
    for (name, spec, targets) in specs() {
        let adapter = random_adapter(&files, spec, targets, 3);
        let got = embed(&files, &with(&adapter));
        let merged = embed(&merged(&files, &adapter), &BuildOptions::default());
        assert!(difference(&merged, &got) < 2e-5, "{name}: merged differs by {}", difference(&merged, &got));
        let path = folder.join(name);
        peft::save(&adapter, "bert", &path).unwrap();
        assert_eq!(embed(&files, &with(&peft::load(&path).unwrap())), got, "{name}");
        let rows = texts().len();
        let tensor = Tensor::from_vec(got.clone(), (rows, got.len() / rows), &Device::Cpu).unwrap();
        candle_core::safetensors::save(&HashMap::from([("embeddings", tensor)]), path.join("expected.safetensors"))
            .unwrap();
    }
}

#[test]
fn adapters_that_change_nothing_are_told() {
    let files = bert();
    let base = embed(&files, &BuildOptions::default());
    for (name, spec, targets) in specs() {
        let adapter = random_adapter(&files, spec.clone(), targets, 3);
        let identity = adapter.with_tensors(|name| {
            let tensor = adapter.tensors().get(name)?.clone();
            if name.contains("lora_B") { Some(tensor.zeros_like().unwrap()) } else { None }
        });
        assert!(!adapter.is_identity_on(&files.weights).unwrap(), "{name}");
        assert_eq!(identity.is_identity().unwrap(), !spec.dora, "{name}");
        assert_eq!(identity.is_identity_on(&files.weights).unwrap(), !spec.dora, "{name}");
        if spec.dora {
            // As it is before the first step: the magnitudes are the lengths of the rows.
            let weights = files.weights.clone();
            let fresh = identity.with_tensors(|name| {
                let module = name.strip_suffix(".lora_magnitude_vector.weight")?;
                let weight = Weight::Dense(weights[&format!("{module}.weight")].clone());
                Some(dora::norms(&weight, &identity.low_rank(module)?).unwrap())
            });
            assert!(fresh.is_identity_on(&files.weights).unwrap());
            assert!(difference(&embed(&files, &with(&fresh)), &base) < 2e-6);
        }
    }
}

#[test]
fn a_quantised_model_is_the_model_of_its_dequantised_weights() {
    let files = bert();
    let base = embed(&files, &BuildOptions::default());
    for kind in KINDS {
        for embeddings in [false, true] {
            let quantization = Quantization { kind, embeddings };
            let options = BuildOptions { quantize: Some(&quantization), ..Default::default() };
            let embedder = Embedder::build(&files, &options).unwrap();
            // Six linear layers in each of two blocks; neither norms nor biases nor the pooler.
            assert_eq!((embedder.held().linears.len(), embedder.held().tables.len()), (12, usize::from(embeddings)));
            assert!(embedder.held().names().all(|name| !embedder.files().weights.contains_key(name)));
            let weights = Embedder::dequantized_weights(&files, &quantization).unwrap();
            assert_eq!(weights.len(), files.weights.len());
            let changed = weights.iter().filter(|(name, w)| values(w) != values(&files.weights[*name])).count();
            assert_eq!(changed, 12 + usize::from(embeddings));
            let got = embed_with(&embedder);
            let want = embed(&files.with_weights(&weights), &BuildOptions::default());
            assert!(difference(&got, &want) < 1e-5, "{kind}: {}", difference(&got, &want));
            assert!(difference(&got, &base) > 1e-4, "{kind} changes nothing");
            let bytes = embedder.weight_bytes();
            let dense = Embedder::build(&files, &BuildOptions::default()).unwrap().weight_bytes();
            assert_eq!((dense.held, dense.dense, bytes.dense), (dense.dense, bytes.dense, dense.dense));
            let linears: usize = embedder.held().linears.values().map(|w| w.shape().0 * w.shape().1).sum();
            assert!(dense.held - bytes.held > linears * 5 / 2, "{kind}: {bytes:?}");
            // The detached model holds the very same codes.
            let detached = embedder.detached().unwrap();
            let same = |name: &String| Arc::ptr_eq(&embedder.held().linears[name], &detached.held().linears[name]);
            assert!(detached.held().linears.keys().all(same) && detached.held().linears.len() == 12);
            assert!(detached.held().tables.iter().all(|(n, t)| Arc::ptr_eq(t, &embedder.held().tables[n])));
            assert_eq!(embed_with(&detached), got);
            assert_eq!(detached.weight_bytes(), bytes);
        }
    }
}

#[test]
fn embeddings_of_a_quantised_model_do_not_depend_on_the_batch() {
    let files = bert();
    let quantization = Quantization { kind: KINDS[0], embeddings: true };
    let adapter = random_adapter(&files, specs()[2].1.clone(), &["all-linear"], 5);
    let options = BuildOptions { quantize: Some(&quantization), ..with(&adapter) };
    let embedder = Embedder::build(&files, &options).unwrap();
    let texts: Vec<String> = (0..90).map(|i| texts()[i % 5].repeat(1 + i % 4) + &i.to_string()).collect();
    let embed = |texts: &[String]| {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        encode(&embedder, &texts, "", &|_| {}).unwrap().embeddings.data().to_vec()
    };
    let together = embed(&texts);
    let dim = files.embedding_size();
    for (size, step) in [(1, 7), (40, 37)] {
        for start in (0..texts.len()).step_by(step) {
            let alone = embed(&texts[start..(start + size).min(texts.len())]);
            assert_eq!(bits(&alone), bits(&together[start * dim..start * dim + alone.len()]), "{size} from {start}");
        }
    }
}

#[test]
fn what_is_trained_is_not_quantised() {
    let files = bert();
    let quantization = Quantization { kind: KINDS[2], embeddings: true };
    let trainable = |name: &str| name.contains("layer.1") || name.contains("word_embeddings");
    let options = BuildOptions { quantize: Some(&quantization), trainable: &trainable, ..Default::default() };
    let embedder = Embedder::build(&files, &options).unwrap();
    assert!(embedder.held().names().all(|name| name.contains("layer.0")) && embedder.held().linears.len() == 6);
    assert!(embedder.vars().keys().all(|name| trainable(name)) && !embedder.vars().is_empty());
}

/// QLoRA and QDoRA: gradients reach everything that is trained, a step makes the loss smaller, and the follower follows.
#[test]
fn adapters_on_quantised_models_are_trained() {
    let files = bert();
    let ids = files.tokenizer().encode(&texts().iter().map(String::as_str).collect::<Vec<_>>(), "").unwrap();
    let batch = PackedBatch::new(&ids);
    for dora in [false, true] {
        let adapter = random_adapter(&files, LoraSpec { dora, rank: 2, ..LoraSpec::default() }, &["all-linear"], 9);
        let quantization = Quantization { kind: KINDS[0], embeddings: true };
        let options = BuildOptions { adapter_trainable: true, quantize: Some(&quantization), ..with(&adapter) };
        let embedder = Embedder::build(&files, &options).unwrap();
        assert_eq!(embedder.vars().len(), 12 * if dora { 3 } else { 2 });
        let follower = embedder.detached().unwrap();
        let before = embed_with(&follower);
        let target = still(&var(&[ids.len(), files.embedding_size()], 11, 1.0));
        let loss = || -> Tensor {
            let y = embedder.forward(&batch, Mode::INFERENCE).unwrap();
            (y - &target).unwrap().sqr().unwrap().sum_all().unwrap()
        };
        let start = loss();
        let gradients = start.backward().unwrap();
        for (name, var) in embedder.vars() {
            let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
            assert!(values(gradient).iter().all(|v| v.is_finite()) && values(gradient).iter().any(|v| *v != 0.0));
            let parts = ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector.weight"];
            assert!(parts.iter().any(|part| name.ends_with(part)), "{name}");
            var.set(&(var.as_tensor().detach() - (gradient * 1e-3).unwrap()).unwrap()).unwrap();
        }
        let after = loss().to_scalar::<f32>().unwrap();
        assert!(after < start.to_scalar::<f32>().unwrap(), "dora {dora}: {after}");
        let followed = embed_with(&follower);
        assert!(difference(&followed, &before) > 1e-6);
        // The trained adapter on the dequantised base is the quantised model, merged or not.
        let trained = embedder.adapter().unwrap();
        let dequantized = files.with_weights(&Embedder::dequantized_weights(&files, &quantization).unwrap());
        assert!(difference(&embed(&dequantized, &with(&trained)), &followed) < 1e-5);
        let merged = embed(&merged(&dequantized, &trained), &BuildOptions::default());
        assert!(difference(&merged, &followed) < 2e-5, "dora {dora}: {}", difference(&merged, &followed));
    }
}

/// A way to spoil an adapter, and words that the error must hold.
struct Spoilt {
    name: &'static str,
    config: fn(&mut Value),
    tensors: fn(&mut HashMap<String, Tensor>),
    words: &'static [&'static str],
}

const QUERY: &str = "base_model.model.encoder.layer.0.attention.self.query";

fn rename(tensors: &mut HashMap<String, Tensor>, from: &str, to: &str) {
    let names: Vec<String> = tensors.keys().filter(|name| name.contains(from)).cloned().collect();
    for name in names {
        let tensor = tensors.remove(&name).unwrap();
        tensors.insert(name.replace(from, to), tensor);
    }
}

#[test]
fn hostile_adapters_each_give_one_clear_error() {
    let keep: fn(&mut HashMap<String, Tensor>) = |_| {};
    let as_is: fn(&mut Value) = |_| {};
    fn put(tensors: &mut HashMap<String, Tensor>, part: &str, shape: &[usize], dtype: DType) {
        tensors.insert(format!("{QUERY}.{part}"), Tensor::ones(shape, dtype, &Device::Cpu).unwrap());
    }
    let cases = [
        Spoilt {
            name: "other kind",
            config: |c| c["peft_type"] = json!("LOHA"),
            tensors: keep,
            words: &["peft_type", "LOHA"],
        },
        Spoilt {
            name: "no rank",
            config: |c| _ = c.as_object_mut().unwrap().remove("r"),
            tensors: keep,
            words: &["r = null"],
        },
        Spoilt {
            name: "no alpha",
            config: |c| _ = c.as_object_mut().unwrap().remove("lora_alpha"),
            tensors: keep,
            words: &["lora_alpha"],
        },
        Spoilt { name: "rank zero", config: |c| c["r"] = json!(0), tensors: keep, words: &["r = 0"] },
        Spoilt { name: "rank in words", config: |c| c["r"] = json!("4"), tensors: keep, words: &["r = \"4\""] },
        Spoilt { name: "other rank", config: |c| c["r"] = json!(8), tensors: keep, words: &["rank 8", "query"] },
        Spoilt {
            name: "other rank by pattern",
            config: |c| c["rank_pattern"] = json!({"query": 3}),
            tensors: keep,
            words: &["rank 3", "query"],
        },
        Spoilt {
            name: "bad pattern",
            config: |c| c["alpha_pattern"] = json!({"(": 3}),
            tensors: keep,
            words: &["`(`", "regular expression"],
        },
        Spoilt {
            name: "pattern's value",
            config: |c| c["rank_pattern"] = json!({"query": -1}),
            tensors: keep,
            words: &["rank_pattern", "`query` = -1"],
        },
        Spoilt {
            name: "endless pattern",
            config: |c| c["target_modules"] = json!("(?=(.*.*.*.*.*.*.*.*.*.*.*.*.*)x)y"),
            tensors: keep,
            words: &["query"],
        },
        Spoilt {
            name: "fan in",
            config: |c| c["fan_in_fan_out"] = json!(true),
            tensors: keep,
            words: &["fan_in_fan_out"],
        },
        Spoilt { name: "lora bias", config: |c| c["lora_bias"] = json!(true), tensors: keep, words: &["lora_bias"] },
        Spoilt { name: "bias", config: |c| c["bias"] = json!("some"), tensors: keep, words: &["bias = \"some\""] },
        Spoilt {
            name: "changed base",
            config: |c| c["init_lora_weights"] = json!("pissa_niter_4"),
            tensors: keep,
            words: &["pissa_niter_4", "path_initial_model"],
        },
        Spoilt {
            name: "replicated",
            config: |c| c["layer_replication"] = json!([[0, 1]]),
            tensors: keep,
            words: &["layer_replication"],
        },
        Spoilt {
            name: "dropout",
            config: |c| c["lora_dropout"] = json!(1.5),
            tensors: keep,
            words: &["lora_dropout = 1.5"],
        },
        Spoilt {
            name: "no magnitudes",
            config: |c| c["use_dora"] = json!(true),
            tensors: keep,
            words: &["lora_magnitude_vector", "query"],
        },
        Spoilt {
            name: "not chosen",
            config: |c| c["target_modules"] = json!(["value"]),
            tensors: keep,
            words: &["query", "target_modules"],
        },
        Spoilt {
            name: "excluded",
            config: |c| c["exclude_modules"] = json!(["query"]),
            tensors: keep,
            words: &["query", "exclude_modules"],
        },
        Spoilt {
            name: "other layers",
            config: |c| c["layers_to_transform"] = json!([1]),
            tensors: keep,
            words: &["layer.0", "layers_to_transform"],
        },
        Spoilt {
            name: "saved module",
            config: |c| c["modules_to_save"] = json!(["classifier"]),
            tensors: |t| {
                _ = t.insert(
                    "base_model.model.classifier.weight".into(),
                    Tensor::ones((2, 32), DType::F32, &Device::Cpu).unwrap(),
                )
            },
            words: &["classifier.weight", "has not"],
        },
        Spoilt {
            name: "saved module of another shape",
            config: |c| c["modules_to_save"] = json!(["LayerNorm"]),
            tensors: |t| {
                _ = t.insert(
                    "base_model.model.embeddings.LayerNorm.weight".into(),
                    Tensor::ones(31, DType::F32, &Device::Cpu).unwrap(),
                )
            },
            words: &["embeddings.LayerNorm.weight", "[31]", "[32]"],
        },
        Spoilt {
            name: "unannounced",
            config: as_is,
            tensors: |t| {
                _ = t.insert(
                    "base_model.model.embeddings.LayerNorm.bias".into(),
                    Tensor::ones(32, DType::F32, &Device::Cpu).unwrap(),
                )
            },
            words: &["embeddings.LayerNorm.bias", "modules_to_save"],
        },
        Spoilt {
            name: "missing pair",
            config: as_is,
            tensors: |t| _ = t.remove(&format!("{QUERY}.lora_B.weight")),
            words: &["layer.0", "not both"],
        },
        Spoilt {
            name: "wrong shape of A",
            config: as_is,
            tensors: |t| put(t, "lora_A.weight", &[4, 31], DType::F32),
            words: &["query", "[4, 31]", "[32, 32]"],
        },
        Spoilt {
            name: "wrong shape of B",
            config: as_is,
            tensors: |t| put(t, "lora_B.weight", &[33, 4], DType::F32),
            words: &["query", "[33, 4]"],
        },
        Spoilt {
            name: "one dimension",
            config: as_is,
            tensors: |t| put(t, "lora_A.weight", &[128], DType::F32),
            words: &["query", "[128]"],
        },
        Spoilt {
            name: "whole numbers",
            config: as_is,
            tensors: |t| put(t, "lora_A.weight", &[4, 32], DType::U8),
            words: &["lora_A", "U8"],
        },
        Spoilt {
            name: "stray magnitude",
            config: as_is,
            tensors: |t| put(t, "lora_magnitude_vector", &[32], DType::F32),
            words: &["lora_magnitude_vector", "use_dora"],
        },
        Spoilt {
            name: "embedding",
            config: as_is,
            tensors: |t| put(t, "lora_embedding_A", &[4, 32], DType::F32),
            words: &["lora_embedding_A", "embedding"],
        },
        Spoilt {
            name: "not finite",
            config: as_is,
            tensors: |t| {
                _ = t.insert(format!("{QUERY}.lora_A.weight"), Tensor::full(f32::NAN, (4, 32), &Device::Cpu).unwrap())
            },
            words: &["lora_A", "finite"],
        },
        Spoilt {
            name: "unknown module",
            config: as_is,
            tensors: |t| rename(t, "encoder.layer.1", "encoder.layer.7"),
            words: &["encoder.layer.7.attention.self.query", "has not"],
        },
        Spoilt {
            name: "unknown prefix",
            config: as_is,
            tensors: |t| rename(t, "model.encoder", "model.decoder"),
            words: &["decoder.layer.0", "has not"],
        },
        Spoilt {
            name: "ambiguous",
            config: as_is,
            tensors: |t| {
                t.retain(|name, _| name.contains("layer.0") && name.contains("query"));
                rename(t, "encoder.layer.0.attention.self.", "");
            },
            words: &["`query`", "may mean"],
        },
        Spoilt {
            name: "two adapters",
            config: as_is,
            tensors: |t| {
                rename(t, "layer.0.attention.self.query.lora_A", "layer.0.attention.self.query.lora_A.x");
                rename(t, "layer.0.attention.self.query.lora_B", "layer.0.attention.self.query.lora_B.y");
            },
            words: &["two adapters"],
        },
        Spoilt {
            name: "empty",
            config: as_is,
            tensors: |t| {
                t.clear();
                t.insert("x.lora_A.weight".into(), Tensor::ones((4, 32), DType::F32, &Device::Cpu).unwrap());
            },
            words: &["`x`", "not both"],
        },
    ];
    let files = bert();
    let source = data().join("adapters/peft/lora");
    for Spoilt { name, config, tensors, words } in cases {
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(source.join("adapter_config.json")).unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        config(&mut json);
        std::fs::write(folder.path().join("adapter_config.json"), json.to_string()).unwrap();
        let mut content = read(&source.join("adapter_model.safetensors"));
        tensors(&mut content);
        candle_core::safetensors::save(&content, folder.path().join("adapter_model.safetensors")).unwrap();
        let outcome = peft::load(folder.path())
            .map_err(|e| e.to_string())
            .and_then(|adapter| Embedder::build(&files, &with(&adapter)).map(|_| ()).map_err(|e| e.to_string()));
        let error = outcome.expect_err(name);
        assert!(words.iter().all(|word| error.contains(word)), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
}

#[test]
fn damaged_files_are_told() {
    let source = data().join("adapters/peft/lora");
    let folder = tempfile::tempdir().unwrap();
    let load = || peft::load(folder.path()).map(|_| ()).unwrap_err().to_string();
    assert!(load().contains("adapter_config.json"));
    std::fs::write(folder.path().join("adapter_config.json"), "{").unwrap();
    assert!(load().contains("not JSON"));
    std::fs::copy(source.join("adapter_config.json"), folder.path().join("adapter_config.json")).unwrap();
    assert!(load().contains("adapter_model.safetensors"));
    let whole = std::fs::read(source.join("adapter_model.safetensors")).unwrap();
    for length in [0, 4, 9, 300, whole.len() / 2, whole.len() - 1] {
        std::fs::write(folder.path().join("adapter_model.safetensors"), &whole[..length]).unwrap();
        let error = load();
        assert!(error.contains("not a whole safetensors file"), "{length}: {error}");
    }
}

fn embeval(args: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_embeval"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("EMBEVAL_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command.args(args).output().unwrap()
}

#[test]
fn merging_says_what_was_written_and_scores_the_ways_to_apply_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let (model, adapter) = (data().join("models/bert"), data().join("adapters/peft/dora"));
    let texts = folder.path().join("texts.txt");
    std::fs::write(&texts, "One text\nAnother, longer text\n").unwrap();
    let path = |path: &Path| path.display().to_string();
    let mut embeddings = Vec::new();
    for into in ["original", "dequantized"] {
        let output = folder.path().join(into);
        let (model, adapter, to) = (path(&model), path(&adapter), path(&output));
        let args = ["merge", "adapter", &model, &adapter, "--output", &to, "--into", into];
        let tasks =
            ["--quantization", "int8", "--tasks", "EverydaySTS", "EverydayTopicClassification", "--split", "dev"];
        let run = embeval(&[&args[..], &tasks[..]].concat());
        let shown = String::from_utf8(run.stdout).unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let rows: Vec<&str> = shown.lines().collect();
        assert!(rows[0].contains("Unmerged on int8") && rows[0].matches("Change").count() == 2, "{shown}");
        assert!(rows[1].starts_with("EverydaySTS ") && rows[2].starts_with("EverydayTopic"), "{shown}");
        // Merged into what the adapter was trained on, it scores as unmerged.
        let last = |row: &str| row.split_whitespace().last().unwrap().parse::<f64>().unwrap();
        assert!(rows[3].starts_with("Mean ") && last(rows[3]).abs() < 1e-3, "{shown}");
        let said = if into == "original" { "as it is stored" } else { "after quantisation (int8) and back" };
        let card = std::fs::read_to_string(output.join("README.md")).unwrap();
        assert!(shown.contains(said) && card.contains(said) && card.contains("EverydaySTS"), "{shown}\n{card}");
        let vectors = folder.path().join("vectors.npy");
        let run = embeval(&["encode", &to, "--input", &path(&texts), "--output", &path(&vectors)]);
        assert!(run.status.success());
        embeddings.push(std::fs::read(&vectors).unwrap());
    }
    assert_ne!(embeddings[0], embeddings[1]);
}

#[test]
fn an_adapter_that_cannot_be_applied_is_one_error_at_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    let source = data().join("adapters/peft/lora");
    let text = std::fs::read_to_string(source.join("adapter_config.json")).unwrap();
    std::fs::write(adapter.join("adapter_config.json"), text.replace("\"r\": 4", "\"r\": 5")).unwrap();
    std::fs::copy(source.join("adapter_model.safetensors"), adapter.join("adapter_model.safetensors")).unwrap();
    let (model, adapter, output) =
        (data().join("models/bert"), adapter.display().to_string(), folder.path().join("out"));
    let (model, to) = (model.display().to_string(), output.display().to_string());
    for args in [
        vec!["merge", "adapter", &model, &adapter, "--output", &to],
        vec!["score", &model, "--adapter", &adapter, "--tasks", "EverydaySTS"],
    ] {
        let run = embeval(&args);
        let error = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(1), "{error}");
        assert!(error.contains("rank 5") && error.lines().count() == 1 && run.stdout.is_empty(), "{error}");
    }
    assert!(!output.exists());
}
