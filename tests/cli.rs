//! The binary from outside: results, resumption, and one clear error for each kind of bad input.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The binary at the root of the project, with a cache of its own.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embeval"));
    command.current_dir(root()).env("EMBEVAL_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
    command
}

fn embeval(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Runs, expects the exit code, one line that holds every word, and no panic; returns standard error.
fn fails(code: i32, words: &[&str], args: &[&str]) -> String {
    let output = embeval(args);
    let error = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{error}");
    assert!(!error.contains("panicked"), "{error}");
    assert!(output.stdout.is_empty(), "a failure prints no result");
    for word in words {
        assert!(error.contains(word), "`{word}` is missing in: {error}");
    }
    error
}

fn bert() -> PathBuf {
    root().join("tests/data/models/bert")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// A copy of the tiny BERT to spoil.
fn spoiled() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy(&bert(), &model);
    (folder, model)
}

/// A task file over rows given as JSON lines.
fn task(folder: &Path, kind: &str, columns: &str, train: &str, test: &str) -> PathBuf {
    std::fs::write(folder.join("train.jsonl"), train).unwrap();
    std::fs::write(folder.join("test.jsonl"), test).unwrap();
    let path = folder.join("Task.yaml");
    let yaml = format!(
        "name: Task\ntype: {kind}\ndata: {{files: {{train: train.jsonl, test: test.jsonl}}}}\nsplits: {{train: train, test: test}}\ncolumns: {columns}\n"
    );
    std::fs::write(&path, yaml).unwrap();
    path
}

const STS: &str = "tasks/everyday/EverydaySTS.yaml";

#[test]
fn score_prints_one_json_document() {
    let output = embeval(&["score", &text(&bert()), "--tasks", "tasks/everyday", "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tasks = json["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 4);
    for task in tasks {
        let (low, high) = (task["ci95"][0].as_f64().unwrap(), task["ci95"][1].as_f64().unwrap());
        let score = task["main_score"].as_f64().unwrap();
        assert!(low <= score && score <= high, "{task}");
    }
    let mean = tasks.iter().map(|t| t["main_score"].as_f64().unwrap()).sum::<f64>() / 4.0;
    assert!((json["mean_task"].as_f64().unwrap() - mean).abs() < 1e-12);
}

#[test]
fn a_truncated_safetensors_file() {
    let (_folder, model) = spoiled();
    let path = model.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    fails(1, &["model.safetensors", "not a whole safetensors file"], &["score", &text(&model), "--tasks", STS]);
}

#[test]
fn a_tensor_of_another_shape() {
    let (_folder, model) = spoiled();
    let path = model.join("config.json");
    let config =
        std::fs::read_to_string(&path).unwrap().replace("\"intermediate_size\": 64", "\"intermediate_size\": 48");
    std::fs::write(&path, config).unwrap();
    let words = ["encoder.layer.0.intermediate.dense.weight", "[48, 32]", "[64, 32]"];
    fails(1, &words, &["score", &text(&model), "--tasks", STS]);
}

#[test]
fn weights_that_are_not_numbers() {
    let (_folder, model) = spoiled();
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    fails(1, &["model.safetensors", "not a finite number", "tensor `"], &["score", &text(&model), "--tasks", STS]);
}

#[test]
fn an_unknown_key_and_every_other_fault_of_a_config_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.yaml");
    std::fs::write(
        &path,
        "name: x\nbase: {scratch: {}}\ndata: {train: a.jsonl}\nloss:\n  temprature: 0.1\ntrain:\n  lr: -1\n",
    )
    .unwrap();
    let words = ["bad.yaml:5", "did you mean `temperature`?", "bad.yaml:7: train.lr = -1: must be above 0"];
    fails(2, &words, &["sweep", &text(&path)]);
}

#[test]
fn a_setting_that_names_a_task_which_is_not_scored() {
    for set in ["choose.by=EverydaySST", "score.limits={EverydaySST: 30}"] {
        let words = [set.split('=').next().unwrap(), "EverydaySST", "did you mean `EverydaySTS`?"];
        fails(2, &words, &["sweep", "configs/sweep.yaml", "--dry-run", "--set", set]);
    }
}

#[test]
fn a_typo_in_a_tasks_name() {
    fails(2, &["EverydaySST", "did you mean `EverydaySTS`?"], &["score", &text(&bert()), "--tasks", "EverydaySST"]);
}

#[test]
fn a_missing_column() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": 0}\n";
    let path = task(folder.path(), "Classification", "{text: txt, label: label}", rows, rows);
    let words = ["train.jsonl", "has no column `txt`", "did you mean `text`?"];
    fails(1, &words, &["score", &text(&bert()), "--tasks", &text(&path)]);
}

#[test]
fn an_empty_split() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": 0}\n";
    let path = task(folder.path(), "Classification", "{text: text, label: label}", rows, "\n");
    fails(1, &["test.jsonl", "holds no rows"], &["score", &text(&bert()), "--tasks", &text(&path)]);
}

#[test]
fn a_task_of_one_class() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": 1}\n";
    let path = task(folder.path(), "Classification", "{text: text, label: label}", rows, rows);
    fails(1, &["task Task", "label"], &["score", &text(&bert()), "--tasks", &text(&path)]);
}

#[test]
fn an_output_folder_that_cannot_be_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("run");
    let words = [&text(&file)[..]];
    fails(1, &words, &["sweep", "configs/sweep.yaml", "--output", &text(&inside)]);
}

#[test]
fn models_that_cannot_be_merged() {
    let other = root().join("tests/data/models/roberta");
    let folder = tempfile::tempdir().unwrap();
    let output = text(&folder.path().join("merged"));
    let args = ["merge", "slerp", &text(&bert()), &text(&other), "--alpha", "0.5", "--output", &output];
    fails(1, &["cannot be merged", "architectures differ"], &args);
    assert!(!Path::new(&output).exists());
}

#[test]
fn empty_and_huge_texts_are_encoded() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("texts.txt");
    std::fs::write(&input, format!("\n \n{}\nкот\n", "слово ".repeat(20_000))).unwrap();
    let output = folder.path().join("out.npy");
    let run =
        embeval(&["encode", &text(&bert()), "--input", &text(&input), "--output", &text(&output), "--format", "json"]);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(json["texts"], 4);
    assert_eq!(json["truncated"], 1);
    assert!(std::fs::read(&output).unwrap().starts_with(b"\x93NUMPY"));
}

/// A short run of `train` on the bundled data, a tiny model and a LoRA adapter.
fn tiny_training(folder: &Path, steps: usize, output: &Path) -> Command {
    let config = folder.join("train.yaml");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/everyday");
    let text = format!(
        "name: tiny\nbase: {}\ndata: {{train: {}, dev: {}}}\nadapter: {{kind: lora, rank: 2, dropout: 0.1}}\n\
         loss: {{memory: {{size: 64, warmup: 2}}}}\n\
         train: {{epochs: 2, max_steps: {steps}, batch: 16, lr: 1e-3, max_length: 32, eval_every: 20, state_every: 1, metric: mrr}}\n",
        bert().display(),
        data.join("pairs-train.jsonl").display(),
        data.join("pairs-dev.jsonl").display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = command();
    command.args(["-q", "train", config.to_str().unwrap(), "--format", "json", "--output", output.to_str().unwrap()]);
    command
}

#[test]
fn a_killed_training_run_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("a"), folder.path().join("b"));
    let start = std::time::Instant::now();
    let output = tiny_training(folder.path(), 60, &whole).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let full = start.elapsed();
    for part in [35, 45] {
        let mut child = tiny_training(folder.path(), 60, &broken).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(full * part / 100);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let resumed = tiny_training(folder.path(), 60, &broken).output().unwrap();
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    let read = |output: &std::process::Output| serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    let (a, b) = (read(&output), read(&resumed));
    for key in ["steps", "tokens", "losses", "dev", "best", "result_step"] {
        assert_eq!(a[key], b[key], "{key}");
    }
    let adapter = |summary: &serde_json::Value| {
        std::fs::read(Path::new(summary["output"].as_str().unwrap()).join("adapter_model.safetensors")).unwrap()
    };
    assert_eq!(adapter(&a), adapter(&b));
    // The log tells each step once, and the result is the best of the evaluations.
    let log = std::fs::read_to_string(broken.join("log.jsonl")).unwrap();
    let steps = log.lines().filter(|line| line.contains("grad_norm")).count();
    assert_eq!(steps, 60);
    let mrr: Vec<f64> = a["dev"].as_array().unwrap().iter().skip(1).filter_map(|p| p["mrr"].as_f64()).collect();
    assert_eq!(a["best"][1].as_f64().unwrap(), mrr.iter().copied().fold(0.0, f64::max));
    // Run once more it is known to be done; with other settings it is refused, and with --restart begun anew.
    let again = tiny_training(folder.path(), 60, &broken).output().unwrap();
    assert_eq!(read(&again)["losses"], b["losses"]);
    let other = tiny_training(folder.path(), 10, &broken).output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("--restart"), "{}", String::from_utf8_lossy(&other.stderr));
    assert_eq!(adapter(&a), adapter(&b));
    let anew = tiny_training(folder.path(), 10, &broken).arg("--restart").output().unwrap();
    assert_eq!(read(&anew)["steps"], 10);
}
