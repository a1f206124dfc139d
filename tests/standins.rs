//! The configs of the real experiments, whole, against a hub on this machine with tiny stand-ins of the same shape: what the
//! models and data of the hub are called, how their files lie, which columns they have.

mod hub_server;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::Tensor;
use embeval::task::benchmark::{built_in_benchmarks, built_in_tasks};
use embeval::task::spec::{Source, TaskSpec};
use hub_server::stand_ins::{WORDS, lines, stand_in};
use hub_server::{Repo, Server};
use serde_json::{Value, json};

const USER2: &str = "deepvk/USER2-small";
const E5: &str = "intfloat/multilingual-e5-small";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn data(folder: &str) -> PathBuf {
    root().join("tests/data").join(folder)
}

/// A repository with a folder's files, without what tests compare with.
fn model(id: &str, folder: &str) -> Repo {
    let mut repo = Repo::model(id).folder(&data(folder));
    let of_tests = ["expected", "gradients", "training", "lora_"];
    repo.files.retain(|name, _| !of_tests.iter().any(|start| name.starts_with(start)));
    repo.file("README.md", "---\nlicense: mit\n---\n# A stand-in\n")
}

/// ModernBERT, mean pooling, four prompts: as USER2 lies on the hub.
fn user2() -> Repo {
    model(USER2, "architectures/modern_bert")
}

/// A BertModel with the tokenizer of XLM-R, as multilingual-e5-small is: the table of words has a row for each of its tokens.
fn e5() -> Repo {
    let (bert, tokenizer) = (data("models/bert"), data("models/xlm_roberta"));
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    let mut config: Value = serde_json::from_slice(&read(bert.join("config.json"))).unwrap();
    let tokens: Value = serde_json::from_slice(&read(tokenizer.join("tokenizer.json"))).unwrap();
    let wanted = tokens["model"]["vocab"].as_array().unwrap().len();
    config["vocab_size"] = json!(wanted);
    config["tokenizer_class"] = json!("XLMRobertaTokenizer");
    let mut weights: HashMap<String, Tensor> =
        candle_core::safetensors::load(bert.join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
    let table = weights.keys().find(|name| name.ends_with("word_embeddings.weight")).unwrap().clone();
    let words = &weights[&table];
    let more = words.narrow(0, 0, wanted - words.dim(0).unwrap()).unwrap().affine(-1.0, 0.1).unwrap();
    weights.insert(table.clone(), Tensor::cat(&[words, &more], 0).unwrap());
    let folder = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&weights, folder.path().join("model.safetensors")).unwrap();
    model(E5, "models/bert")
        .file("config.json", config.to_string())
        .file("model.safetensors", read(folder.path().join("model.safetensors")))
        .file("tokenizer.json", read(tokenizer.join("tokenizer.json")))
        .file("tokenizer_config.json", read(tokenizer.join("tokenizer_config.json")))
}

fn tasks_of(benchmark: &str) -> Vec<TaskSpec> {
    let benchmark = built_in_benchmarks().unwrap().into_iter().find(|b| b.name == benchmark).unwrap();
    let tasks = built_in_tasks().unwrap().into_iter();
    tasks.filter(|task| benchmark.tasks.contains(&task.name)).collect()
}

/// A hub with both models and the data of all of RuMTEB.
fn hub() -> Server {
    let mut repos = BTreeMap::new();
    for task in tasks_of("rumteb") {
        stand_in(&task, &mut repos);
    }
    Server::start([user2(), e5()].into_iter().chain(repos.into_values()).collect())
}

/// The binary at the root of the project, its caches in a folder.
fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embeval"));
    command.args(args).current_dir(root());
    for name in [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN_PATH",
    ] {
        command.env_remove(name);
    }
    command.env("HF_HOME", folder.join("hf")).env("EMBEVAL_CACHE", folder.join("cache"));
    command
}

/// Standard output of a command that is done.
fn done(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn contains(text: &str, all: &[&str]) {
    for part in all {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

/// `n` rows with five hard negatives each.
fn rows(n: usize) -> String {
    let text = |i: usize| format!("{} {}", WORDS[i % 6], WORDS[(i / 6) % 6]);
    lines((0..n).map(|i| {
        let negatives: Vec<String> = (1..=5).map(|k| format!("{} {k}", text(i + 7 * k))).collect();
        json!({"query": format!("{} {i}", text(i)), "pos": [format!("{} {i}", text(i + 1))], "neg": negatives})
    }))
}

/// A run's folders in a place, as arguments.
fn places(folder: &Path) -> [String; 4] {
    let at = |name: &str| folder.join(name).display().to_string();
    ["--output".into(), at("run"), "--report".into(), at("report")]
}

fn record(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("run/record.json")).unwrap()).unwrap()
}

#[test]
fn both_experiments_are_planned_without_network_and_with_nothing_here() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |config: &str, name: &str, value: &str| {
        let mut dry = command(folder.path(), &["sweep", config, "--dry-run"]);
        done(dry.args(places(folder.path())).env(name, value).output().unwrap())
    };
    for (name, value) in [("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9")] {
        let out = plan("configs/ru-en-embedder.yaml", name, value);
        let known =
            ["2 trials", "14 tasks", "train symmetric (full)", "merge symmetric with asymmetric, searching for α"];
        contains(&out, &known);
        let unknown = ["symmetric: steps not known", "data/ru-en/asymmetric.jsonl", "not known before"];
        contains(&out, &unknown);
        contains(&out, &["to download", &format!("model {USER2}"), "data set mteb/CEDRClassification", name]);
        let out = plan("configs/rumteb.yaml", name, value);
        contains(&out, &["0 trials", "nothing is trained", "23 tasks", "score base on test"]);
        contains(&out, &[&format!("model {E5}"), "data set mteb/MIRACLRetrievalHardNegatives", "not known before"]);
    }
    // Nothing was written.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // A run is not begun on what is not there.
    let mut run = command(folder.path(), &["sweep", "configs/ru-en-embedder.yaml"]);
    let output = run.args(places(folder.path())).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    contains(&String::from_utf8_lossy(&output.stderr), &[USER2, "HF_HUB_OFFLINE"]);
    let with_base = ["sweep", "configs/ru-en-embedder.yaml", "--set", "base=tests/data/architectures/modern_bert"];
    let output = command(folder.path(), &with_base).args(places(folder.path())).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    contains(&String::from_utf8_lossy(&output.stderr), &["data/ru-en/symmetric.jsonl"]);
    // What is wrong is not taken for absent.
    let faulty = folder.path().join("faulty.jsonl");
    std::fs::write(&faulty, "{\"query\": \"q\", \"pos\": []}\n").unwrap();
    let set = format!("trials.0.set.data.train={}", faulty.display());
    let mut dry = command(folder.path(), &["sweep", "configs/ru-en-embedder.yaml", "--dry-run", "--set", &set]);
    let output = dry.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    contains(&String::from_utf8_lossy(&output.stderr), &["faulty.jsonl"]);
}

#[test]
fn the_ru_en_experiment_runs_whole_and_has_the_published_row_beside_ours() {
    let folder = tempfile::tempdir().unwrap();
    let server = hub();
    let mut sets = vec!["train.batch=16".to_string(), "train.eval_every=2".into(), "data.dev={split: 0.2}".into()];
    sets.extend(["train.lr=1e-3".into(), "train.epochs=1".into()]);
    for (trial, name) in ["symmetric", "asymmetric"].into_iter().enumerate() {
        let path = folder.path().join(format!("{name}.jsonl"));
        std::fs::write(&path, rows(80)).unwrap();
        sets.push(format!("trials.{trial}.set.data.train={}", path.display()));
    }
    sets.extend(["score.seeds=1".into(), "choose.seeds=1".into(), "merge.0.slerp.budget=5".into()]);
    let sweep = |more: &[&str]| {
        let mut sweep = command(folder.path(), &["-q", "sweep", "configs/ru-en-embedder.yaml"]);
        sweep.args(places(folder.path())).env("HF_ENDPOINT", &server.url).args(more);
        sets.iter().for_each(|set| _ = sweep.args(["--set", set]));
        sweep
    };
    let estimate = done(sweep(&["--dry-run"]).output().unwrap());
    contains(
        &estimate,
        &["symmetric: 4 steps", "to train: 2 trainings, 8 steps", "to score: 4 models, and at most 5 in searches"],
    );
    let told = done(sweep(&[]).output().unwrap());
    let best = folder.path().join("run/best");
    contains(&told, &["chosen: ", &best.display().to_string()]);
    let record = record(folder.path());
    assert_eq!((&record["base"], &record["protocol"]), (&json!(USER2), &json!("sklearn-1.8")));
    let labels: Vec<&str> =
        record["variants"].as_array().unwrap().iter().map(|v| v["label"].as_str().unwrap()).collect();
    assert_eq!(labels.len(), 4);
    assert_eq!(labels[..3], ["base", "symmetric", "asymmetric"]);
    assert!(labels[3].starts_with("slerp(symmetric, asymmetric) α="), "{labels:?}");
    // α was searched for on dev, over the tasks that have a dev side.
    let merged = &record["variants"][3]["kind"];
    let alpha = merged["alpha"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&alpha) && merged["auto"] == json!(true), "{merged}");
    let search = &record["searches"][0];
    assert_eq!(search["chosen"].as_f64(), Some(alpha), "{search}");
    assert_eq!(record["variants"][3]["test"].as_array().unwrap().len(), 14);
    assert_eq!(record["settings"]["loss.hard_negatives"], "5");
    assert_eq!(record["settings"]["loss.memory"], "384 pairs, after 0 batches");
    // The table: a column a task, a row a model, the published one the last, with its own three decimals.
    let report = std::fs::read_to_string(folder.path().join("report/README.md")).unwrap();
    let table: Vec<&str> = report
        .lines()
        .skip_while(|l| !l.starts_with("## Scores on test"))
        .skip(2)
        .take_while(|l| l.starts_with('|'))
        .collect();
    assert_eq!(table.len(), 2 + 4 + 1, "{report}");
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect::<Vec<_>>();
    let (heads, published) = (cells(table[0]), cells(table[6]));
    assert_eq!(published[0], "ru-en-embedder-finetune (published)");
    assert_eq!((heads.len(), published.len()), (1 + 2 + 4 + 14, 1 + 2 + 4 + 14));
    let of = |head: &str| published[heads.iter().position(|h| h == head).unwrap()].as_str();
    assert_eq!((of("Mean (Task)"), of("CEDRClassification")), ("54.9", "37.3"));
    for task in tasks_of("rumteb-14") {
        assert!(of(&task.name).parse::<f64>().is_ok(), "{}", task.name);
    }
    contains(&report, &["ru-en-embedder-finetune as published: Mean (TaskType)", "not paired", "## α of SLERP"]);
    let scores = std::fs::read_to_string(folder.path().join("report/tables/scores.csv")).unwrap();
    contains(
        &scores,
        &["ru-en-embedder-finetune (published),test,CEDRClassification,MultilabelClassification,accuracy,,0.373000"],
    );
    // What the two models were trained on and how they differ.
    contains(
        &report,
        &["/symmetric.jsonl (80), ", "/asymmetric.jsonl (80).", "| `data.prompts` |", "search\\_document: "],
    );
    assert!(!report.contains("`objective` symmetric,") && !report.contains("but the base's own is"), "{report}");
    // The chosen model is a folder that can be scored, with the base's prompts, on data that is here by now.
    let best = best.display().to_string();
    let args = ["-q", "score", &best, "--model-name", USER2, "--tasks", "RuSTSBenchmarkSTS", "--format", "json"];
    let board = done(command(folder.path(), &args).env("HF_HUB_OFFLINE", "1").output().unwrap());
    let board: Value = serde_json::from_str(&board).unwrap();
    let chosen = record["choice"]["id"].as_str().unwrap();
    let variant = record["variants"].as_array().unwrap().iter().find(|v| v["id"] == chosen).unwrap();
    let sts = variant["test"].as_array().unwrap().iter().find(|t| t["name"] == "RuSTSBenchmarkSTS").unwrap();
    let difference = board["tasks"][0]["main_score"].as_f64().unwrap() - sts["main_score"].as_f64().unwrap();
    assert!(difference.abs() < 1e-6, "{difference}");
    // The config that lies in the run's folder is read from there, too, though its paths are of another place.
    let run = folder.path().join("run").display().to_string();
    let status = done(command(folder.path(), &["status", &run]).output().unwrap());
    assert!(!status.contains("the best is told by"), "{status}");
    // Planned again without the network, all of it is there.
    let again = done(sweep(&["--dry-run"]).env("HF_HUB_OFFLINE", "1").output().unwrap());
    contains(&again, &["to train: 0 trainings", "to score: 0 models"]);
}

#[test]
fn the_whole_of_rumteb_is_scored_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let server = hub();
    let mut sweep = command(folder.path(), &["-q", "sweep", "configs/rumteb.yaml", "--set", "score.seeds=1"]);
    let told = done(sweep.args(places(folder.path())).env("HF_ENDPOINT", &server.url).output().unwrap());
    contains(&told, &["the base alone was scored", "report/README.md"]);
    let record = record(folder.path());
    assert_eq!((&record["base"], &record["choice"]), (&json!(E5), &Value::Null));
    assert_eq!(record["variants"].as_array().unwrap().len(), 1);
    let report = std::fs::read_to_string(folder.path().join("report/README.md")).unwrap();
    let tasks = tasks_of("rumteb");
    assert_eq!(tasks.len(), 23);
    for task in &tasks {
        let found = record["variants"][0]["test"].as_array().unwrap().iter().find(|t| t["name"] == task.name.as_str());
        assert!(found.is_some_and(|t| t["main_score"].as_f64().is_some_and(f64::is_finite)), "{}", task.name);
        contains(&report, &[&task.name]);
    }
    contains(&report, &["Nothing was trained", "On test: Mean (TaskType)", "Means are over these 23 tasks", E5]);
    assert!(!report.contains("Scores on dev") && !report.contains("–"), "{report}");
    assert!(folder.path().join("report/index.html").is_file());
    // The data are those of the revisions that the task files name, and nothing else was asked for.
    let requests = server.requests();
    for task in &tasks {
        let Source::Hub { repo, revision: Some(revision), .. } = &task.source else { panic!("{}", task.name) };
        let listing = format!("/api/datasets/{repo}/revision/{revision}");
        assert!(requests.iter().any(|r| r.path.starts_with(&listing)), "{listing}");
    }
    let refused: Vec<&String> = requests.iter().filter(|r| r.status >= 400).map(|r| &r.path).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
