//! The protocols against mteb's own numbers: every case folder of the golden data, and the stand-alone fixtures of the parts.
//!
//! `EMBEVAL_GOLDEN` names the folder; without it `../shared/golden` is used where it exists, else the subset in
//! `tests/data/golden`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use embeval::data::matrix::Matrix;
use embeval::data::random::numpy_legacy::Distribution;
use embeval::data::random::{Generator, PythonRandom, RandomState};
use embeval::data::subsample::{class_names, stratified_subsample};
use embeval::estimator::logistic_regression::{LogisticRegression, Settings as LogisticSettings};
use embeval::estimator::mini_batch_k_means::{self, BatchSampler};
use embeval::metric::average_precision::average_precision;
use embeval::metric::classification::classification_scores;
use embeval::metric::clustering::{adjusted_mutual_information, v_measure};
use embeval::metric::correlation::{average_ranks, pearson, spearman};
use embeval::metric::multilabel::{label_ranking_average_precision, multilabel_scores};
use embeval::metric::ranking::{CUTS, normalised_abstention, query_scores, rounded};
use embeval::task::evaluate::{EncodeError, Part, TextEncoder, evaluate, protocol_seeds};
use embeval::task::label::Label;
use embeval::task::load::{TaskData, Texts};
use embeval::task::protocol::{Protocol, Similarity};
use embeval::task::ranking::{Documents, Ranker, RankingRows, id_ranks};
use embeval::task::spec::{Estimator, Split, TaskSpec};
use embeval::task::{classification, clustering, multilabel, sts};
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

fn golden() -> PathBuf {
    if let Some(named) = std::env::var_os("EMBEVAL_GOLDEN") {
        return named.into();
    }
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
    if shared.is_dir() { shared } else { committed() }
}

/// The fixtures of the parts: those of the golden data, or the committed ones where it has cases alone.
fn standalone() -> PathBuf {
    let folder = golden().join("standalone");
    if folder.is_dir() { folder } else { committed().join("standalone") }
}

/// Whether the cases are ours to know: another folder may have those of some types only.
fn own_cases() -> bool {
    std::env::var_os("EMBEVAL_GOLDEN").is_none()
}

fn read<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn take<T: DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

/// The tensors of a file as `f64` with their shapes.
struct Tensors(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Tensors {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                Dtype::U8 => data.iter().map(|&b| f64::from(b)).collect(),
                Dtype::I32 => data.as_chunks().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
                Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
                other => panic!("{}: {name} has type {other:?}", path.display()),
            };
            (name.to_owned(), (view.shape().to_vec(), values))
        });
        Self(tensors.collect())
    }

    fn values(&self, name: &str) -> &[f64] {
        &self.0[name].1
    }

    fn numbers(&self, name: &str) -> Vec<usize> {
        self.values(name).iter().map(|&value| value as usize).collect()
    }

    fn matrix(&self, name: &str) -> Matrix {
        let (shape, values) = &self.0[name];
        Matrix::new(shape[0], shape[1], values.iter().map(|&value| value as f32).collect()).unwrap()
    }
}

/// The largest difference between the numbers of `expected` and those under the same keys of `actual`.
fn largest_difference(at: &str, expected: &Value, actual: &Value) -> f64 {
    match (expected, actual) {
        (Value::Null, Value::Null) => 0.0,
        (Value::Number(expected), Value::Number(actual)) => {
            (expected.as_f64().unwrap() - actual.as_f64().unwrap()).abs()
        }
        (Value::Array(expected), Value::Array(actual)) => {
            assert_eq!(expected.len(), actual.len(), "{at}: number of entries");
            let pairs = expected.iter().zip(actual).enumerate();
            pairs
                .map(|(i, (expected, actual))| largest_difference(&format!("{at}[{i}]"), expected, actual))
                .fold(0.0, f64::max)
        }
        (Value::Object(expected), Value::Object(actual)) => expected
            .iter()
            .filter(|(key, _)| !["hf_subset", "languages"].contains(&key.as_str()))
            .map(|(key, expected)| {
                let at = format!("{at}.{key}");
                let actual = actual.get(key).unwrap_or_else(|| panic!("{at} is missing"));
                largest_difference(&at, expected, actual)
            })
            .fold(0.0, f64::max),
        _ => panic!("{at}: expected {expected}, got {actual}"),
    }
}

fn largest(pairs: impl IntoIterator<Item = (f64, f64)>) -> f64 {
    pairs.into_iter().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

struct Case {
    name: String,
    folder: PathBuf,
    kind: String,
    task: Value,
    similarity: Similarity,
    data: Value,
    inputs: Tensors,
    expected: Value,
}

/// The stored embeddings, handed out by the rows that are asked for.
struct Stored<'a>(&'a Case);

impl TextEncoder for Stored<'_> {
    fn encode(&self, _: &TaskSpec, parts: &[Part<'_>]) -> Result<Vec<Matrix>, EncodeError> {
        let matrix = |part: &Part<'_>| {
            let name = match part.column {
                Some("documents") => "docs",
                Some(column) => column,
                None => part.split,
            };
            let all = self.0.inputs.matrix(name);
            // Those of the training rows are asked for by their rows; none may be left out of the count.
            if all.rows() == part.total {
                Ok(all.select(&part.rows))
            } else {
                Err(format!("{name}: {}", part.total).into())
            }
        };
        parts.iter().map(matrix).collect()
    }

    fn similarity(&self) -> Similarity {
        self.0.similarity
    }
}

impl Case {
    fn read(folder: PathBuf) -> Self {
        let case: Value = read(&folder.join("case.json"));
        Self {
            name: take(&case["case"]),
            kind: take(&case["task_type"]),
            task: case["task"].clone(),
            similarity: if case["similarity"] == "dot" { Similarity::Dot } else { Similarity::Cosine },
            data: read(&folder.join("data.json")),
            inputs: Tensors::read(&folder.join("inputs.safetensors")),
            expected: read(&folder.join("expected.json")),
            folder,
        }
    }

    fn setting(&self, name: &str) -> usize {
        take(&self.task[name])
    }

    fn seed(&self) -> u32 {
        take(&self.task["task_seed"])
    }

    fn splits(&self) -> Vec<String> {
        take(&self.task["eval_splits"])
    }

    fn outputs(&self) -> Tensors {
        Tensors::read(&self.folder.join("expected.safetensors"))
    }

    /// The task file and the data files of the case, as a user has them; what a text says does not matter here.
    fn write(&self, folder: &Path) -> PathBuf {
        let lines = |name: &str, rows: Vec<Value>| {
            let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
            fs::write(folder.join(name), text).unwrap();
            json!(name)
        };
        let splits = self.splits();
        let mut all = splits.clone();
        let mut settings = json!({});
        let set = |settings: &mut Value, pairs: &[(&str, &str)]| {
            for (ours, theirs) in pairs {
                settings[*ours] = self.task[*theirs].clone();
            }
        };
        let labels = |split: &String| self.data["labels"][split].as_array().unwrap().clone();
        let files: serde_json::Map<String, Value> = match self.kind.as_str() {
            "Classification" | "MultilabelClassification" => {
                set(&mut settings, &[("samples_per_label", "samples_per_label"), ("n_experiments", "n_experiments")]);
                let column = if self.kind == "Classification" { "label" } else { "labels" };
                if column == "labels" {
                    set(&mut settings, &[("k", "k_neighbors")]);
                }
                all.push("train".into());
                let rows = |split| labels(split).into_iter().map(|l| json!({"text": "x", column: l})).collect();
                all.iter().map(|split| (split.clone(), lines(&format!("{split}.jsonl"), rows(split)))).collect()
            }
            "Clustering" => {
                set(
                    &mut settings,
                    &[
                        ("n_experiments", "n_clusters"),
                        ("max_documents", "max_document_to_embed"),
                        ("bootstrap_size", "max_documents_per_cluster"),
                        ("batch_size", "k_mean_batch_size"),
                    ],
                );
                let rows = |split| labels(split).into_iter().map(|l| json!({"sentences": "x", "labels": l})).collect();
                all.iter().map(|split| (split.clone(), lines(&format!("{split}.jsonl"), rows(split)))).collect()
            }
            "STS" | "PairClassification" | "BitextMining" => {
                let (ours, theirs) = if self.kind == "STS" { ("score", "scores") } else { ("labels", "labels") };
                if self.kind == "STS" {
                    set(&mut settings, &[("min_score", "min_score"), ("max_score", "max_score")]);
                }
                let rows = self.inputs.matrix("sentence1").rows();
                let row = |i: usize| json!({"sentence1": "x", "sentence2": "y", ours: self.data[theirs][i]});
                all.iter().map(|s| (s.clone(), lines(&format!("{s}.jsonl"), (0..rows).map(row).collect()))).collect()
            }
            _ => {
                set(&mut settings, &[("ignore_identical_ids", "ignore_identical_ids")]);
                // mteb takes judgements of documents that are not there.
                settings["allow_missing_documents"] = json!(true);
                let texts = |key: &str| {
                    let ids = self.data[key].as_array().unwrap().iter();
                    ids.map(|id| json!({"_id": id, "text": "x"})).collect()
                };
                let qrels = self.data["qrels"].as_object().unwrap();
                let judged = |(query, of_query): (&String, &Value)| {
                    let of_query = of_query.as_object().unwrap().clone();
                    let query = query.clone();
                    of_query
                        .into_iter()
                        .map(move |(d, grade)| json!({"query-id": query, "corpus-id": d, "score": grade}))
                };
                let mut files = serde_json::Map::new();
                files.insert("corpus".into(), lines("corpus.jsonl", texts("doc_ids")));
                files.insert("queries".into(), lines("queries.jsonl", texts("query_ids")));
                let grades = lines("qrels.jsonl", qrels.iter().flat_map(judged).collect());
                files.insert("qrels".into(), json!({splits[0].clone(): grades}));
                if let Some(lists) = self.data["top_ranked"].as_object() {
                    let rows = lists.iter().map(|(query, ids)| json!({"query-id": query, "corpus-ids": ids}));
                    files.insert("top_ranked".into(), lines("top_ranked.jsonl", rows.collect()));
                }
                files
            }
        };
        let mut task = json!({
            "name": self.name, "type": self.kind, "metric": self.task["main_score"], "data": {"files": files},
            "splits": {"test": splits}, "settings": settings,
        });
        if all.contains(&"train".to_string()) && !splits.contains(&"train".to_string()) {
            task["splits"]["train"] = json!("train");
        }
        let path = folder.join("task.yaml");
        fs::write(&path, task.to_string()).unwrap();
        path
    }

    /// Every score of every split through what `score` runs; the largest difference to mteb's.
    fn evaluated(&self, expected: &Value, protocol: Protocol) -> f64 {
        let folder = tempfile::tempdir().unwrap();
        let spec = TaskSpec::load(&self.write(folder.path())).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let data = TaskData::load(&spec, Split::Test, None).unwrap_or_else(|e| panic!("{}: {e}", self.name)).unwrap();
        let evaluation = evaluate(&spec, Split::Test, &data, &Stored(self), &[self.seed()], protocol)
            .unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let scores = &evaluation.seeds[0];
        let mut worst = (scores.main_score - take::<f64>(&expected["main_score_over_splits"])).abs();
        assert_eq!(scores.splits.len(), self.splits().len());
        for (split, scored) in &scores.splits {
            assert_eq!(self.task["main_score"], scored.metric.as_str());
            assert_eq!(scored.scores["main_score"].as_f64(), Some(scored.main_score));
            let ours = Value::Object(scored.scores.clone());
            worst = worst.max(largest_difference(&self.name, &expected["splits"][split], &ours));
        }
        worst
    }

    /// The training rows of every experiment, and what is predicted from them.
    fn classification(&self) {
        let labels: BTreeMap<String, Vec<Label>> = take(&self.data["labels"]);
        let train = self.inputs.matrix("train");
        let known = &labels["train"];
        let rows = classification::training_rows(
            known,
            self.setting("samples_per_label"),
            self.setting("n_experiments"),
            self.seed(),
        )
        .unwrap();
        assert_eq!(rows, take::<Vec<Vec<usize>>>(&self.expected["intermediate"]["train_indices"]), "{}", self.name);
        let classes: Vec<Label> = take(&self.expected["intermediate"]["classes"]);
        let outputs = self.outputs();
        for split in self.splits() {
            let (eval, truth) = (self.inputs.matrix(&split), &labels[&split]);
            let predictions = classification::predict(&train, known, &rows, &eval, truth, Estimator::Own).unwrap();
            let predicted = predictions.experiments.iter().flatten().map(|&class| &predictions.classes[class]);
            let wanted = outputs.numbers(&format!("predictions_{split}"));
            assert!(predicted.eq(wanted.iter().map(|&class| &classes[class])), "{}: predictions", self.name);
        }
    }

    fn multilabel(&self) {
        let labels: BTreeMap<String, Vec<Vec<Label>>> = take(&self.data["labels"]);
        let train = self.inputs.matrix("train");
        let known = &labels["train"];
        let mut random = Generator::new(self.seed());
        let (samples, experiments) = (self.setting("samples_per_label"), self.setting("n_experiments"));
        let mut draw = || multilabel::training_rows(known, samples, experiments, &mut random).unwrap();
        let rows = draw();
        assert_eq!(rows, take::<Vec<Vec<usize>>>(&self.expected["intermediate"]["train_indices"]), "{}", self.name);
        let (outputs, k) = (self.outputs(), self.setting("k_neighbors"));
        for (number, split) in self.splits().into_iter().enumerate() {
            let rows = if number == 0 { rows.clone() } else { draw() };
            let (eval, truth) = (self.inputs.matrix(&split), &labels[&split]);
            let predictions = multilabel::predict(&train, known, &rows, &eval, truth, (k, Estimator::Own)).unwrap();
            let predicted = predictions.experiments.iter().flatten().map(|&value| usize::from(value));
            assert!(predicted.eq(outputs.numbers(&format!("predictions_{split}"))), "{}: predictions", self.name);
        }
    }

    /// The documents, the bootstrap samples and the clusters of the first split.
    fn clustering(&self) {
        let labels: BTreeMap<String, Vec<Label>> = take(&self.data["labels"]);
        let split = &self.splits()[0];
        let all = self.inputs.matrix(split);
        let mut random = PythonRandom::new(self.seed());
        let rows = clustering::document_rows(all.rows(), self.setting("max_document_to_embed"), &mut random);
        let intermediate = &self.expected["intermediate"];
        let wanted: Vec<usize> = take(&intermediate["downsample_indices_first_100"]);
        assert_eq!(rows[..wanted.len()], wanted, "{}: documents", self.name);
        let embeddings = all.select(&rows);
        let labels: Vec<Label> = rows.iter().map(|&row| labels[split][row].clone()).collect();
        let settings = clustering::Settings {
            experiments: self.setting("n_clusters"),
            sample_size: self.setting("max_documents_per_cluster"),
            batch_size: self.setting("k_mean_batch_size"),
            seed: self.seed(),
            estimator: Estimator::Own,
        };
        let assigned = clustering::assign(&embeddings, &labels, &mut random, &settings, Protocol::Sklearn19).unwrap();
        let wanted: Vec<usize> = take(&intermediate["bootstrap0_indices_first_100"]);
        assert_eq!(assigned[0].rows[..wanted.len()], wanted, "{}: bootstrap", self.name);
        let first_three: Vec<usize> = assigned.iter().take(3).flat_map(|one| &one.clusters).copied().collect();
        assert!(first_three == self.outputs().numbers("assignments_experiments_0_to_2"), "{}: clusters", self.name);
    }

    /// The score of every pair under every similarity.
    fn pairs(&self) {
        let (first, second) = (self.inputs.matrix("sentence1"), self.inputs.matrix("sentence2"));
        let outputs = self.outputs();
        let scores = sts::pair_scores(&first, &second, self.similarity).unwrap();
        let mut lists = vec![
            ("cosine_scores", &scores.cosine),
            ("manhattan_distances", &scores.manhattan),
            ("euclidean_distances", &scores.euclidean),
            ("similarity_scores", &scores.similarity),
        ];
        if self.kind == "PairClassification" {
            lists.push(("dot_scores", &scores.dot));
        }
        for (name, values) in lists {
            // Distances are negated here; mteb does so in STS.
            let sign = if self.kind != "STS" && name.ends_with("distances") { -1.0 } else { 1.0 };
            let wanted = outputs.values(name);
            assert_eq!(wanted.len(), values.len(), "{}: {name}", self.name);
            let relative = values.iter().zip(wanted).map(|(&a, b)| (f64::from(a) * sign - b).abs() / b.abs().max(1.0));
            assert!(relative.fold(0.0, f64::max) < 2e-6, "{}: {name}", self.name);
        }
    }

    /// The ten best documents of every query, in order, and the measures of each.
    fn ranking(&self) {
        let ids: Vec<String> = take(&self.data["doc_ids"]);
        let query_ids: Vec<String> = take(&self.data["query_ids"]);
        let number: BTreeMap<&str, u32> = ids.iter().enumerate().map(|(i, id)| (id.as_str(), i as u32)).collect();
        let qrels: BTreeMap<String, BTreeMap<String, i64>> = take(&self.data["qrels"]);
        let lists: Option<BTreeMap<String, Vec<String>>> =
            self.data.get("top_ranked").filter(|v| v.is_object()).map(take);
        let texts = |n: usize| Texts::new("test", None, vec![String::new(); n]);
        let rows = RankingRows {
            judged: query_ids
                .iter()
                .map(|q| qrels[q].iter().map(|(d, grade)| (number.get(d.as_str()).copied(), *grade)).collect())
                .collect(),
            candidates: lists
                .map(|lists| query_ids.iter().map(|q| lists[q].iter().map(|d| number[d.as_str()]).collect()).collect()),
            queries: texts(query_ids.len()),
            documents: Documents::Listed { texts: texts(ids.len()), ids: ids.clone() },
            query_ids: query_ids.clone(),
        };
        let ranks = id_ranks(&ids);
        let mut ranker = Ranker::new(&rows, self.inputs.matrix("queries"), self.similarity, &ranks).unwrap();
        let documents = self.inputs.matrix("docs");
        // In uneven blocks: the blocks must not matter.
        let all: Vec<usize> = (0..ids.len()).collect();
        for block in all.chunks(617) {
            ranker.add(block, documents.select(block)).unwrap();
        }
        let rankings = ranker.finish(&ranks, take(&self.task["ignore_identical_ids"]));
        let intermediate = &self.expected["intermediate"];
        for (query, ranking) in query_ids.iter().zip(&rankings) {
            let top: Vec<(String, f64)> = take(&intermediate["top10"][query]);
            for (hit, (id, score)) in ranking.iter().zip(&top) {
                assert_eq!(ids[hit.document as usize], *id, "{}: {query}", self.name);
                assert!((f64::from(hit.score) - score).abs() < 1e-5 * score.abs().max(1.0), "{}: {query}", self.name);
            }
            assert!(ranking.len() >= top.len());
        }
    }
}

#[test]
fn cases() {
    let folder = golden();
    let mut folders: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("case.json").is_file())
        .collect();
    folders.sort();
    let mut by_type: BTreeMap<String, (usize, f64)> = BTreeMap::new();
    for folder in folders {
        let case = Case::read(folder);
        match case.kind.as_str() {
            "Classification" => case.classification(),
            "MultilabelClassification" => case.multilabel(),
            "Clustering" => case.clustering(),
            "STS" | "PairClassification" => case.pairs(),
            "Retrieval" | "Reranking" => case.ranking(),
            _ => {}
        }
        let start = Instant::now();
        let mut difference = case.evaluated(&case.expected, Protocol::Sklearn19);
        let older = case.folder.join("expected.sklearn18.json");
        // Where there is no such file, nothing differs between the versions.
        let expected = if older.is_file() { read(&older) } else { case.expected.clone() };
        difference = difference.max(case.evaluated(&expected, Protocol::Sklearn18));
        println!("{:24} {difference:.1e} in {:.2} s", case.name, start.elapsed().as_secs_f64());
        let limit = match case.kind.as_str() {
            "STS" | "PairClassification" => 1e-6,
            // The confidences of nAUC are differences of f32 scores.
            "Retrieval" | "Reranking" => 1e-5,
            _ => 1e-9,
        };
        assert!(difference < limit, "{}: off by {difference}", case.name);
        let entry = by_type.entry(case.kind).or_default();
        *entry = (entry.0 + 1, entry.1.max(difference));
    }
    println!("largest differences: {by_type:?}");
    let types = [
        "Classification",
        "Clustering",
        "MultilabelClassification",
        "PairClassification",
        "Reranking",
        "Retrieval",
        "STS",
    ];
    assert!(!by_type.is_empty(), "no cases in {}", golden().display());
    for kind in types.into_iter().filter(|_| own_cases()) {
        assert!(by_type.contains_key(kind), "no {kind} case in {}", golden().display());
    }
}

/// Other protocol seeds give what mteb gives with them: the spread that `--seeds` shows is mteb's.
#[test]
fn noise_floor() {
    let recorded: Value = read(&committed().join("noise_floor.json"));
    let mut compared = 0;
    for (name, values) in recorded["cases"].as_object().unwrap() {
        let folder = [golden(), committed()].into_iter().map(|folder| folder.join(name)).find(|f| f.is_dir());
        let Some(folder) = folder else { continue };
        let case = Case::read(folder);
        let place = tempfile::tempdir().unwrap();
        let spec = TaskSpec::load(&case.write(place.path())).unwrap();
        let data = TaskData::load(&spec, Split::Test, None).unwrap().unwrap();
        let seeds = protocol_seeds(10, 42);
        assert_eq!(seeds, [42, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let evaluation = evaluate(&spec, Split::Test, &data, &Stored(&case), &seeds, Protocol::Sklearn19).unwrap();
        let ours: Vec<f64> = evaluation.seeds.iter().map(|s| s.main_score).collect();
        let theirs: Vec<f64> = take(&values["values"]);
        let worst = largest(ours.iter().copied().zip(theirs.iter().copied()));
        // One of the 400 k-means fits ends with other labels: scikit-learn's f32 sums are in another order than ours.
        let limit = if case.kind == "Clustering" { 1e-4 } else { 1e-9 };
        assert!(ours.len() == theirs.len() && worst < limit, "{name}: {ours:?} {theirs:?}");
        compared += 1;
    }
    assert!(compared >= 4, "{compared} cases");
}

/// mteb's task object has one generator for multilabel samples and one for clusterings, which go on to the next split.
#[test]
fn generators_go_on_from_split_to_split() {
    for name in ["ml_18label", "clu_8_seed7"] {
        let case = Case::read(committed().join(name));
        let folder = tempfile::tempdir().unwrap();
        let spec = TaskSpec::load(&case.write(folder.path())).unwrap();
        let mut data = TaskData::load(&spec, Split::Test, None).unwrap().unwrap();
        let again = data.splits[0].1.clone();
        data.splits.push(("again".into(), again));
        let evaluation =
            evaluate(&spec, Split::Test, &data, &Stored(&case), &[case.seed()], Protocol::Sklearn19).unwrap();
        let scores = &evaluation.seeds[0];
        let second = match case.kind.as_str() {
            "MultilabelClassification" => {
                let labels: BTreeMap<String, Vec<Vec<Label>>> = take(&case.data["labels"]);
                let (samples, experiments) = (case.setting("samples_per_label"), case.setting("n_experiments"));
                let mut random = Generator::new(case.seed());
                let mut draw =
                    || multilabel::training_rows(&labels["train"], samples, experiments, &mut random).unwrap();
                let rows = [draw(), draw()].into_iter().last().unwrap();
                let (train, eval) = (case.inputs.matrix("train"), case.inputs.matrix("test"));
                let voting = (case.setting("k_neighbors"), Estimator::Own);
                multilabel::score(&train, &labels["train"], &rows, &eval, &labels["test"], voting).unwrap()
            }
            _ => {
                let labels: BTreeMap<String, Vec<Label>> = take(&case.data["labels"]);
                let mut random = PythonRandom::new(case.seed());
                let settings = clustering::Settings {
                    experiments: case.setting("n_clusters"),
                    sample_size: case.setting("max_documents_per_cluster"),
                    batch_size: case.setting("k_mean_batch_size"),
                    seed: case.seed(),
                    estimator: Estimator::Own,
                };
                let all = case.inputs.matrix("test");
                let mut score = || {
                    let rows =
                        clustering::document_rows(all.rows(), case.setting("max_document_to_embed"), &mut random);
                    let of_rows: Vec<Label> = rows.iter().map(|&row| labels["test"][row].clone()).collect();
                    let newest = Protocol::Sklearn19;
                    clustering::score(&all.select(&rows), &of_rows, &mut random, &settings, newest).unwrap()
                };
                [score(), score()].into_iter().last().unwrap()
            }
        };
        assert_eq!(scores.splits[1].1.scores, second.scores, "{name}");
        assert_ne!(scores.splits[0].1.main_score, second.main_score, "{name}");
        let mean = (scores.splits[0].1.main_score + second.main_score) / 2.0;
        assert!((scores.main_score - mean).abs() < 1e-15, "{name}");
    }
}

/// `embeval score --embeddings` from outside, on the embeddings as they lie in the case folders.
#[test]
fn through_the_binary() {
    let mut types = std::collections::BTreeSet::new();
    for entry in fs::read_dir(golden()).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("case.json").is_file() {
            continue;
        }
        let case = Case::read(folder);
        let place = tempfile::tempdir().unwrap();
        let task = case.write(place.path());
        let embeddings = place.path().join("embeddings");
        fs::create_dir(&embeddings).unwrap();
        let inputs = embeddings.join(format!("{}.safetensors", case.name));
        fs::copy(case.folder.join("inputs.safetensors"), inputs).unwrap();
        let similarity = if case.similarity == Similarity::Dot { "dot" } else { "cosine" };
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_embeval"))
            .args(["-q", "score", "--format", "json", "--similarity", similarity, "--seed", &case.seed().to_string()])
            .arg("--embeddings")
            .arg(&embeddings)
            .arg("--tasks")
            .arg(&task)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected: f64 = take(&case.expected["main_score_over_splits"]);
        let main = json["tasks"][0]["main_score"].as_f64().unwrap();
        assert!((main - expected).abs() < 1e-6, "{}: {main}, expected {expected}", case.name);
        types.insert(case.kind);
    }
    assert!(types.len() >= if own_cases() { 7 } else { 1 }, "{types:?}");
}

#[test]
fn random_numbers() {
    let fixtures: Value = read(&standalone().join("rng.json"));
    fn same<T: DeserializeOwned + PartialEq + std::fmt::Debug>(fixtures: &Value, name: &str, actual: &[T]) {
        let expected: Vec<T> = take(&fixtures[name]["values"]);
        assert_eq!(expected, actual[..expected.len()], "{name}");
    }
    let numpy = || RandomState::new(42);
    let shuffled = |n: usize| {
        let mut list: Vec<usize> = (0..n).collect();
        numpy().shuffle(&mut list);
        list
    };
    let mut state = numpy();
    same(&fixtures, "randomstate_raw_u32", &(0..50).map(|_| state.next_u32()).collect::<Vec<_>>());
    // serde_json reads a decimal to within one unit in the last place.
    let near = |name: &str, mut draw: Box<dyn FnMut() -> f64>| {
        let expected: Vec<f64> = take(&fixtures[name]["values"]);
        assert!(largest(expected.into_iter().map(|value| (value, draw()))) < 1e-15, "{name}");
    };
    let mut state = numpy();
    near("randomstate_random_sample", Box::new(move || state.random_sample()));
    for n in [10, 50, 1000] {
        same(&fixtures, &format!("randomstate_shuffle_list_{n}"), &shuffled(n));
    }
    let mut list: Vec<usize> = (0..1000).collect();
    let carried: Vec<Vec<usize>> = (0..3)
        .map(|_| {
            numpy().shuffle(&mut list);
            list[..50].to_vec()
        })
        .collect();
    same(&fixtures, "randomstate_shuffle_carried_1000", &carried);
    same(&fixtures, "randomstate_permutation_1000", &numpy().permutation(1000));
    same(&fixtures, "randomstate_randint_16384", &numpy().randint(16384, 1536));
    same(&fixtures, "randomstate_randint_2000", &numpy().randint(2000, 50));
    same(&fixtures, "randomstate_choice_p_16384", &numpy().choice(&Distribution::uniform_f32(16384), 512));
    same(&fixtures, "randomstate_choice_noreplace", &numpy().choice_without_replacement(512, 7));
    let one = numpy().choice(&Distribution::uniform_f32(1536), 1)[0];
    assert_eq!(take::<usize>(&fixtures["randomstate_choice_p_scalar"]["values"]), one);

    let mut generator = Generator::new(42);
    let raw: Vec<String> = (0..20).map(|_| generator.next_u64().to_string()).collect();
    same(&fixtures, "generator_raw_u64", &raw);
    let mut generator = Generator::new(42);
    let lists: Vec<Vec<usize>> = (0..3)
        .map(|_| {
            let mut list: Vec<usize> = (0..1000).collect();
            generator.shuffle(&mut list);
            list[..50].to_vec()
        })
        .collect();
    same(&fixtures, "generator_shuffle_list_1000", &lists);
    same(&fixtures, "generator_permutation_1000", &Generator::new(42).permutation(1000));
    let chosen: Vec<usize> =
        Generator::new(42).choice_without_replacement(28, 12).into_iter().map(|value| 3 * value).collect();
    same(&fixtures, "generator_choice_noreplace_28_12", &chosen);

    let python = || PythonRandom::new(42);
    let mut random = python();
    near("python_random", Box::new(move || random.random()));
    let mut random = python();
    same(&fixtures, "python_getrandbits32", &(0..20).map(|_| random.getrandbits(32)).collect::<Vec<_>>());
    same(&fixtures, "python_sample_2048", &python().sample(2048, 2048));
    same(&fixtures, "python_sample_100000_2000", &python().sample(100_000, 2000));
    let mut random = python();
    random.sample(2048, 2048);
    same(&fixtures, "python_sample_then_choices", &random.choices(2048, 16384));
}

fn close(name: &str, expected: &Value, actual: Option<f64>) {
    match (expected.as_f64(), actual) {
        (Some(expected), Some(actual)) => assert!((expected - actual).abs() < 1e-9, "{name}: {expected} {actual}"),
        (None, None) => {}
        (expected, actual) => panic!("{name}: {expected:?} {actual:?}"),
    }
}

fn numbered(labels: &Value) -> Vec<usize> {
    let labels: Vec<Label> = take(labels);
    let mut distinct = labels.clone();
    distinct.sort();
    distinct.dedup();
    labels.iter().map(|label| distinct.binary_search(label).unwrap()).collect()
}

#[test]
fn metrics() {
    let fixtures: Value = read(&standalone().join("metrics.json"));
    let cases = |name: &str| fixtures[name].as_array().unwrap().clone();
    for case in cases("v_measure_ami") {
        let (gold, clusters) = (numbered(&case["labels"]), numbered(&case["pred"]));
        let scores = v_measure(&gold, &clusters);
        close("homogeneity", &case["homogeneity"], Some(scores.homogeneity));
        close("completeness", &case["completeness"], Some(scores.completeness));
        close("v_measure", &case["v_measure"], Some(scores.v_measure));
        close("ami", &case["ami"], Some(adjusted_mutual_information(&gold, &clusters)));
    }
    for case in cases("classification") {
        let (truth, predicted): (Vec<usize>, Vec<usize>) = (take(&case["labels"]), take(&case["pred"]));
        let scores = classification_scores(&truth, &predicted, 10);
        close("accuracy", &case["scores"]["accuracy"], Some(scores.accuracy));
        close("f1", &case["scores"]["f1"], Some(scores.f1));
        close("f1_weighted", &case["scores"]["f1_weighted"], Some(scores.f1_weighted));
        close("precision", &case["scores"]["precision"], Some(scores.precision));
        close("precision_weighted", &case["scores"]["precision_weighted"], Some(scores.precision_weighted));
        close("recall", &case["scores"]["recall"], Some(scores.recall));
        close("recall_weighted", &case["scores"]["recall_weighted"], Some(scores.recall_weighted));
        close("ap", &case["scores"]["ap"], scores.average_precision);
    }
    for case in cases("average_precision") {
        let positive: Vec<bool> = take::<Vec<u8>>(&case["labels"]).into_iter().map(|label| label != 0).collect();
        close("ap", &case["ap"], Some(average_precision(&positive, &take::<Vec<f64>>(&case["scores"]))));
    }
    for case in cases("lrap") {
        let truth: Vec<Vec<u8>> = take(&case["labels"]);
        let scores: Vec<Vec<f64>> = take(&case["scores"]);
        let lrap = label_ranking_average_precision(&truth.concat(), &scores.concat(), truth[0].len());
        close("lrap", &case["lrap"], Some(lrap));
    }
    for case in cases("multilabel") {
        let (truth, predicted): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (take(&case["labels"]), take(&case["pred"]));
        let scores = multilabel_scores(&truth.concat(), &predicted.concat(), truth[0].len());
        close("accuracy", &case["subset_accuracy"], Some(scores.accuracy));
        close("f1", &case["f1_macro"], Some(scores.f1));
        close("hamming", &case["hamming_score"], Some(scores.hamming));
        close("lrap", &case["lrap_of_binary_predictions"], Some(scores.lrap));
    }
    for case in cases("correlation") {
        let (x, y): (Vec<f64>, Vec<f64>) = (take(&case["x"]), take(&case["y"]));
        assert_eq!(average_ranks(&x), take::<Vec<f64>>(&case["ranks_x"]));
        close("spearman", &case["spearman"], spearman(&x, &y));
        close("pearson", &case["pearson"], pearson(&x, &y));
    }
}

#[test]
fn stratified_subsampling() {
    let path = standalone().join("stratified_subsampling.json");
    for case in read::<Vec<Value>>(&path) {
        let labels: Vec<String> = take::<Vec<Value>>(&case["labels"])
            .iter()
            .map(|v| v.as_str().map_or(v.to_string(), str::to_owned))
            .collect();
        let names = class_names(labels.iter().map(String::as_str));
        assert_eq!(names, take::<Vec<String>>(&case["class_names"]));
        let classes: Vec<usize> = labels.iter().map(|label| names.binary_search(label).unwrap()).collect();
        let rows = stratified_subsample(&classes, take(&case["n_samples"]), take(&case["seed"]));
        assert_eq!(rows, take::<Vec<usize>>(&case["selected_rows"]));
        let after: Vec<usize> = take(&case["labels_after"]);
        assert!(after.iter().eq(rows.iter().map(|&row| &classes[row]).take(after.len())));
    }
}

#[test]
fn logistic_regression() {
    let folder = standalone();
    let (tensors, runs) =
        (Tensors::read(&folder.join("logreg.safetensors")), read::<Value>(&folder.join("logreg.json")));
    for (problem, classes) in [("multi", 5), ("binary", 2)] {
        let name = |what: &str| format!("{problem}_{what}");
        let settings = LogisticSettings::default();
        let labels = tensors.numbers(&name("y"));
        let model = LogisticRegression::fit(&tensors.matrix(&name("X")), &labels, classes, &settings).unwrap();
        let run = &runs["runs"][name("float64")];
        let wanted = run["iterations"].as_array().unwrap();
        assert_eq!(wanted.len(), model.iterations().len(), "{problem}: iterations");
        for (wanted, iteration) in wanted.iter().zip(model.iterations()) {
            close("f", &wanted["f"], Some(iteration.value));
            close("max_abs_grad", &wanted["max_abs_grad"], Some(iteration.max_gradient));
            assert_eq!(take::<usize>(&wanted["n_evals"]), iteration.evaluations, "{problem}");
        }
        let difference = |what: &str, actual: &[f64]| {
            let wanted = tensors.values(&name(what));
            assert_eq!(wanted.len(), actual.len(), "{problem}: {what}");
            let worst = largest(wanted.iter().copied().zip(actual.iter().copied()));
            println!("{problem} {what}: {worst:.1e}");
            assert!(worst < 1e-10, "{problem}: {what} off by {worst}");
        };
        difference("float64_coef", model.weights());
        difference("float64_intercept", model.intercepts());
        let test = tensors.matrix(&name("X_test"));
        difference("float64_decision", &model.decision(&test).unwrap());
        assert_eq!(tensors.numbers(&name("float64_pred")), model.predict(&test).unwrap());
    }
}

#[test]
fn mini_batch_k_means() {
    let folder = standalone();
    for (file, sampler) in
        [("minibatch_kmeans", BatchSampler::Choice), ("minibatch_kmeans.sklearn18", BatchSampler::RandInt)]
    {
        let path = folder.join(format!("{file}.json"));
        let record: Value = read(&path);
        let tensors = Tensors::read(&folder.join(format!("{file}.safetensors")));
        let points = tensors.matrix("X");
        let settings = mini_batch_k_means::Settings {
            clusters: take(&record["params"]["n_clusters"]),
            batch_size: take(&record["params"]["batch_size"]),
            max_epochs: 100,
            sampler,
            seed: take(&record["params"]["random_state"]),
        };
        let all: Vec<usize> = (0..points.rows()).collect();
        let fitted = mini_batch_k_means::fit(&points, &all, &settings).unwrap();
        assert_eq!(take::<usize>(&record["n_steps"]), fitted.steps, "{file}");
        assert_eq!(tensors.numbers("labels"), fitted.labels, "{file}");
        let centres = fitted.centres.data().iter().map(|&value| f64::from(value));
        let worst = largest(tensors.values("centers").iter().copied().zip(centres));
        println!("{file}: centres {worst:.1e}");
        assert!(worst < 1e-5, "{file}: centres off by {worst}");
        let inertia: f64 = take(&record["inertia"]);
        assert!((inertia - fitted.inertia).abs() < 1e-5 * inertia);
    }
}

#[test]
fn rows_of_a_long_multilabel_split() {
    let labels: Vec<Vec<Label>> = read(&committed().join("goemotions_labels.json"));
    let rows: Vec<usize> = read(&committed().join("goemotions_eval_rows.json"));
    assert_eq!(rows, multilabel::evaluated_rows(&labels, 3000, 42));
}

#[test]
fn ranking_measures() {
    let fixtures: Value = read(&standalone().join("metrics.json"));
    let mut compared = 0;
    for fixture in fixtures["trec"].as_array().unwrap() {
        let qrels: BTreeMap<String, BTreeMap<String, i64>> = take(&fixture["qrels"]);
        let runs: BTreeMap<String, BTreeMap<String, f64>> = take(&fixture["run"]);
        let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (query, run) in &runs {
            let Some(judged) = qrels.get(query) else { continue };
            // trec_eval compares scores as f32, and ids downwards.
            let mut ranking: Vec<(f32, &String)> = run.iter().map(|(id, score)| (*score as f32, id)).collect();
            ranking.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| b.1.cmp(a.1)));
            let grades: Vec<i64> = ranking.iter().map(|(_, id)| judged.get(*id).copied().unwrap_or(0)).collect();
            let all: Vec<i64> = judged.values().copied().collect();
            let mut scores = query_scores(&grades, &all);
            // mteb's own reciprocal rank compares f64. Scores of embeddings are f32, so there the two are one.
            let mut wide: Vec<(f64, &String)> = run.iter().map(|(id, score)| (*score, id)).collect();
            wide.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| b.1.cmp(a.1)));
            let grades: Vec<i64> = wide.iter().map(|(_, id)| judged.get(*id).copied().unwrap_or(0)).collect();
            scores.mrr = query_scores(&grades, &all).mrr;
            for (name, values) in scores.named() {
                for (cut, value) in CUTS.iter().zip(values) {
                    sums.entry(format!("{name}@{cut}")).or_default().push(*value);
                    let theirs = match name {
                        "ndcg" => format!("ndcg_cut_{cut}"),
                        "map" => format!("map_cut_{cut}"),
                        "recall" => format!("recall_{cut}"),
                        "precision" => format!("P_{cut}"),
                        "hit_rate" => format!("success_{cut}"),
                        _ => continue,
                    };
                    if let Some(expected) = fixture["per_query"][query][&theirs].as_f64() {
                        assert!((expected - value).abs() < 1e-12, "{}: {query} {theirs}", fixture["note"]);
                        compared += 1;
                    }
                }
            }
        }
        for (group, name, title) in [
            ("ndcg", "ndcg", "NDCG"),
            ("map", "map", "MAP"),
            ("recall", "recall", "Recall"),
            ("precision", "precision", "P"),
            ("mrr", "mrr", "MRR"),
            ("hit_rate", "hit_rate", "HitRate"),
        ] {
            for cut in CUTS {
                let Some(expected) = fixture[group][format!("{title}@{cut}")].as_f64() else { continue };
                let values = &sums[&format!("{name}@{cut}")];
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                let value = if name == "mrr" { mean } else { rounded(mean) };
                assert!((expected - value).abs() < 1e-12, "{}: {title}@{cut} {expected} {value}", fixture["note"]);
                compared += 1;
            }
        }
    }
    for fixture in fixtures["nauc"].as_array().unwrap() {
        let (confidence, metric): (Vec<f64>, Vec<f64>) = (take(&fixture["confidence"]), take(&fixture["metric"]));
        let expected: Option<f64> = take(&fixture["nauc"]);
        match (expected, normalised_abstention(&confidence, &metric)) {
            (Some(expected), Some(value)) => assert!((expected - value).abs() < 1e-12, "{expected} {value}"),
            (expected, value) => assert_eq!(expected, value),
        }
        compared += 1;
    }
    println!("{compared} values");
    assert!(compared > 50);
}
