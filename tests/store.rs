//! What is told of a run's folder, what is removed from it, and what is shipped of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use candle_core::Device;
use embeval::adapter::peft;
use embeval::config::Document;
use embeval::exec::event::Silence;
use embeval::exec::{Engine, shipping};
use embeval::model::{BuildOptions, Embedder, ModelFiles};
use embeval::plan::{ModelRef, Plan};
use embeval::store::budget::over_budget;
use embeval::store::folder::{RunFolder, read_json};
use embeval::store::models::{is_removed, made_again, remove, removed};
use embeval::store::record::{Choice, RunRecord, VariantKind};
use embeval::store::survey::Rule;
use embeval::task::select::select;
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The binary in a folder of its own, with a cache of its own.
fn embeval(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embeval"));
    command.current_dir(folder).env("EMBEVAL_CACHE", folder.join("cache")).args(args).output().unwrap()
}

fn says(folder: &Path, args: &[&str]) -> String {
    let output = embeval(folder, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}\n{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(folder: &Path, code: i32, words: &[&str], args: &[&str]) {
    let output = embeval(folder, args);
    let error = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{error}");
    assert!(!error.contains("panicked"), "{error}");
    for word in words {
        assert!(error.contains(word), "`{word}` is missing in: {error}");
    }
}

fn document(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&says(folder, args)).unwrap()
}

/// Ids as the plan makes them: 24 hexadecimal digits.
fn id(number: usize) -> String {
    format!("{number:024x}")
}

/// A run with two trainings of 100 steps and checkpoints at 50, a merge of them, and scores of all: written by hand, so that
/// every state can be had.
struct Sample {
    folder: tempfile::TempDir,
}

const TRAIN: [usize; 2] = [1, 2];
const MERGE: usize = 3;

fn score(train: usize, step: usize, split: &str) -> usize {
    10 * train + step / 50 + if split == "dev" { 0 } else { 5 }
}

impl Sample {
    fn new() -> Self {
        let sample = Self { folder: tempfile::tempdir().unwrap() };
        let mut steps = Vec::new();
        for (trial, train) in TRAIN.into_iter().enumerate() {
            let title = format!("train t{trial} (full, 100 steps)");
            steps.push(json!({"id": id(train), "title": title, "work": {"train": {"trial": trial}}, "inputs": []}));
        }
        let inputs = TRAIN.map(id);
        steps.push(
            json!({"id": id(MERGE), "title": "merge t0 with t1", "work": {"merge": {"merge": 0}}, "inputs": inputs}),
        );
        for (trial, train) in TRAIN.into_iter().enumerate() {
            for at in [50, 100] {
                for split in ["dev", "test"] {
                    let label = if at == 100 { format!("t{trial}") } else { format!("t{trial} @{at}") };
                    steps.push(json!({
                        "id": id(score(train, at, split)), "title": format!("score {label} on {split}"), "inputs": [id(train)],
                        "work": {"score": {"model": {"checkpoint": {"trial": trial, "step": at}}, "split": split}},
                    }));
                }
            }
        }
        for split in ["dev", "test"] {
            steps.push(json!({
                "id": id(score(MERGE, 0, split)), "title": format!("score merge 1 on {split}"), "inputs": [id(MERGE)],
                "work": {"score": {"model": {"merged": 0}, "split": split}},
            }));
        }
        sample.put("plan.json", &json!(steps));
        fs::create_dir_all(sample.run().join("steps")).unwrap();
        let config = "name: r\nbase: {scratch: {layers: 1}}\ndata: {train: a.jsonl}\nscore: {tasks: [x]}\nchoose: {on: dev, by: T}\n";
        fs::write(sample.run().join("config.yaml"), config).unwrap();
        sample
    }

    fn run(&self) -> PathBuf {
        self.folder.path().join("runs/r")
    }

    fn at(&self) -> &Path {
        self.folder.path()
    }

    fn step(&self, number: usize) -> PathBuf {
        self.run().join("steps").join(id(number))
    }

    fn put(&self, name: &str, value: &Value) {
        let path = self.run().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, serde_json::to_string_pretty(value).unwrap()).unwrap();
    }

    fn in_step(&self, number: usize, name: &str, value: &Value) {
        self.put(&format!("steps/{}/{name}", id(number)), value);
    }

    fn complete(&self, number: usize, seconds: f64) {
        self.in_step(number, "step.json", &json!({"id": id(number), "inputs": []}));
        self.in_step(number, "status.json", &json!({"state": "complete", "seconds": seconds}));
    }

    /// A checkpoint of a kilobyte.
    fn checkpoint(&self, train: usize, step: usize) {
        let folder = self.step(train).join(format!("checkpoint-{step:06}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("model.safetensors"), [0; 1000]).unwrap();
    }

    fn scored(&self, number: usize, value: f64) {
        self.complete(number, 4.0);
        let task = json!({
            "name": "T", "task_type": "STS", "metric": "cosine_spearman", "main_score": value, "seeds": [], "rows": 2,
            "outcomes": {"kind": "pairs", "values": [[0.1, 0.0], [0.2, 1.0]]},
        });
        self.in_step(number, "scores.json", &json!({"tasks": [task], "truncated": 0}));
    }

    fn lock(&self, number: usize, text: &str) {
        fs::create_dir_all(self.step(number)).unwrap();
        fs::write(self.step(number).join("lock"), text).unwrap();
    }

    /// All done: t1 @50 is the best on dev.
    fn finished() -> Self {
        let sample = Self::new();
        for train in TRAIN {
            sample.complete(train, 30.0);
            sample.checkpoint(train, 50);
            sample.checkpoint(train, 100);
        }
        sample.complete(MERGE, 20.0);
        fs::create_dir_all(sample.step(MERGE).join("model")).unwrap();
        fs::write(sample.step(MERGE).join("model/model.safetensors"), [0; 1000]).unwrap();
        for split in ["dev", "test"] {
            sample.scored(score(1, 50, split), 0.2);
            sample.scored(score(1, 100, split), 0.3);
            sample.scored(score(2, 50, split), 0.9);
            sample.scored(score(2, 100, split), 0.1);
            sample.scored(score(MERGE, 0, split), 0.5);
        }
        sample
    }
}

/// Relative path → (content, time) of all files.
fn contents(folder: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let mut out = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let time = fs::metadata(&path).unwrap().modified().unwrap();
                out.insert(path.strip_prefix(folder).unwrap().display().to_string(), (fs::read(&path).unwrap(), time));
            }
        }
    }
    out
}

#[test]
fn status_tells_what_is_done_running_failed_and_left() {
    let sample = Sample::new();
    sample.complete(1, 30.0);
    sample.scored(score(1, 100, "dev"), 0.25);
    sample.scored(score(1, 50, "dev"), 0.75);
    sample.in_step(
        score(1, 50, "test"),
        "status.json",
        &json!({"state": "failed", "message": "it burnt", "attempts": 3}),
    );
    // The second training is at work: its log has 40 of 100 steps, two a second, the last line half written.
    sample.in_step(2, "step.json", &json!({}));
    let held = RunFolder::open(&sample.run()).unwrap().lock(&id(2)).unwrap();
    let mut log = String::new();
    for step in 1..=40 {
        log += &format!(
            "{{\"type\":\"step\",\"step\":{step},\"loss\":0.5,\"tokens\":{},\"seconds\":{}}}\n",
            300 * step,
            0.5 * step as f64
        );
    }
    fs::write(sample.step(2).join("log.jsonl"), log + "{\"type\":\"st").unwrap();
    sample.lock(score(1, 100, "test"), "nowhere 1 1");
    let old = SystemTime::now() - Duration::from_secs(3600);
    let lock = sample.step(score(1, 100, "test")).join("lock");
    fs::File::options().append(true).open(lock).unwrap().set_modified(old).unwrap();

    let before = contents(&sample.run());
    let status = document(sample.at(), &["status", "r", "--format", "json"]);
    assert_eq!(status["state"], "running");
    let counts = |key: &str| status["steps"][key].as_u64().unwrap();
    assert_eq!(["all", "complete", "running", "failed", "waiting"].map(counts), [13, 3, 1, 1, 8]);
    let running = &status["running"][0];
    assert_eq!(
        (running["pid"].as_u64(), running["kind"].as_str()),
        (Some(u64::from(std::process::id())), Some("train"))
    );
    assert_eq!((running["progress"]["done"].as_u64(), running["progress"]["all"].as_u64()), (Some(40), Some(100)));
    assert_eq!(running["progress"]["tokens_per_second"].as_f64(), Some(600.0));
    // 60 steps of half a second, and 7 scores of 4 s; nothing is known of merges.
    assert_eq!(status["left"]["seconds"].as_f64(), Some(30.0 + 7.0 * 4.0));
    assert_eq!(status["left"]["at_least"], true);
    assert_eq!((status["best"]["label"].as_str(), status["best"]["score"].as_f64()), (Some("t0 @50"), Some(0.75)));
    assert_eq!(
        (status["failed"][0]["message"].as_str(), status["failed"][0]["attempts"].as_u64()),
        (Some("it burnt"), Some(3))
    );
    assert_eq!(status["stale_locks"][0]["host"], "nowhere");
    let table = says(sample.at(), &["status", "r"]);
    for words in
        ["40 of 100 steps, loss 0.5000, 600 tokens/s", "it burnt", "t0 @50", "at least 58 s left", "and 3 more"]
    {
        assert!(table.contains(words), "`{words}` is missing in\n{table}");
    }
    assert!(says(sample.at(), &["status", "runs/r", "--format", "markdown"]).contains("| train | "));
    assert!(before == contents(&sample.run()), "status writes nothing");
    drop(held);
    assert_eq!(document(sample.at(), &["status", "r", "--format", "json"])["state"], "failed");
}

#[test]
fn damaged_and_old_runs_are_told_of_and_never_a_panic() {
    let sample = Sample::finished();
    for name in ["plan.json", "config.yaml"] {
        let kept = fs::read(sample.run().join(name)).unwrap();
        for text in ["", "{", "[1, {\"id\": \"../x\"}, {\"id\": 7}]", "null", "\u{0}\u{1}", "name: [", "[{}]"] {
            fs::write(sample.run().join(name), text).unwrap();
            let status = document(sample.at(), &["status", "r", "--format", "json"]);
            assert!(!status["faults"].as_array().unwrap().is_empty(), "{name}: {text}");
            says(sample.at(), &["runs"]);
            if name == "plan.json" {
                assert_eq!(status["state"], "unreadable");
                fails(sample.at(), 1, &["nothing is removed"], &["clean", "r", "--keep", "best"]);
            }
        }
        fs::write(sample.run().join(name), kept).unwrap();
    }
    for (name, text) in [("status.json", "{\"state\": 7}"), ("scores.json", "{}"), ("lock", ""), ("step.json", "[")] {
        fs::write(sample.step(score(2, 50, "dev")).join(name), text).unwrap();
        says(sample.at(), &["status", "r"]);
    }
    fs::write(sample.run().join("record.json"), "{").unwrap();
    says(sample.at(), &["status", "r"]);
    says(sample.at(), &["runs"]);
    fails(sample.at(), 2, &["no such run"], &["status", "nothing"]);
    fs::create_dir_all(sample.at().join("other")).unwrap();
    fs::write(sample.at().join("other/file.tmp"), "mine").unwrap();
    fails(sample.at(), 2, &["no run of a sweep"], &["clean", "other"]);
    fails(sample.at(), 2, &["--all"], &["clean"]);
    assert!(sample.at().join("other/file.tmp").is_file());
}

#[test]
fn runs_are_listed_with_their_state_and_best() {
    let sample = Sample::finished();
    let rows = document(sample.at(), &["runs", "--format", "json"]);
    let row = &rows[0];
    assert_eq!((row["name"].as_str(), row["state"].as_str()), (Some("r"), Some("stopped")), "there is no record");
    assert_eq!((row["trials"].as_u64(), row["done"].as_u64(), row["steps"].as_u64()), (Some(2), Some(13), Some(13)));
    assert_eq!((row["best"]["label"].as_str(), row["best"]["on"].as_str()), (Some("t1 @50"), Some("dev")));
    assert!(row["bytes"].as_u64().unwrap() > 5000);
    fs::create_dir_all(sample.at().join("reports/r")).unwrap();
    fs::write(sample.at().join("reports/r/README.md"), "").unwrap();
    let table = says(sample.at(), &["runs"]);
    assert!(table.contains("13/13") && table.contains("reports/r/README.md") && table.contains("now"), "{table}");
    fails(sample.at(), 2, &["no such folder"], &["runs", "nowhere"]);
}

#[test]
fn clean_removes_what_nobody_needs_and_nothing_else() {
    let sample = Sample::finished();
    let needed = contents(&sample.run());
    let state = sample.step(1).join("checkpoint-000100/training_state.safetensors");
    fs::write(&state, [0; 500]).unwrap();
    fs::create_dir_all(sample.step(2).join("resume-000070")).unwrap();
    fs::write(sample.step(2).join("resume-000070/training_state.json"), [0; 300]).unwrap();
    sample.in_step(99, "step.json", &json!({"title": "train of yesterday"}));
    // Names that no run makes are nobody's to remove.
    let own = ["steps/notes/README", "steps/.hidden", "mine.tmp", "best.tmp/file"];
    for name in own {
        let path = sample.run().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "mine").unwrap();
    }
    fs::write(sample.run().join(".record.json.4294967294.tmp"), "half").unwrap();
    let living = sample.run().join(format!(".record.json.{}.tmp", std::process::id()));
    fs::write(&living, "being written").unwrap();
    sample.lock(1, "nowhere 1 1");
    let old = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().append(true).open(sample.step(1).join("lock")).unwrap().set_modified(old).unwrap();

    let before = contents(&sample.run());
    let would = document(sample.at(), &["clean", "r", "--dry-run", "--format", "json"]);
    assert!(before == contents(&sample.run()), "a dry run removes nothing");
    let done = document(sample.at(), &["clean", "r", "--format", "json"]);
    assert_eq!(would["runs"], done["runs"]);
    let kinds: Vec<&str> =
        done["runs"][0]["items"].as_array().unwrap().iter().map(|i| i["what"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["state", "state", "leftover", "temporary", "lock"]);
    let mut after = contents(&sample.run());
    for name in own {
        assert!(after.remove(name).is_some(), "{name}");
    }
    assert!(after.remove(living.file_name().unwrap().to_str().unwrap()).is_some());
    assert!(after == needed, "{:?}", after.keys());
    assert!(says(sample.at(), &["clean", "r"]).contains("0 B freed"));
}

#[test]
fn clean_keeps_the_models_that_are_chosen_merged_or_still_needed() {
    let left = |sample: &Sample| -> Vec<(usize, usize)> {
        let all = TRAIN.iter().flat_map(|&train| [50, 100].map(|step| (train, step)));
        all.filter(|(train, step)| sample.step(*train).join(format!("checkpoint-{step:06}")).exists()).collect()
    };
    for (options, expected, merged) in [
        (&["--keep", "final"][..], &[(1, 100), (2, 50), (2, 100)][..], true),
        (&["--checkpoints"], &[(1, 100), (2, 50), (2, 100)], true),
        (&["--keep", "best"], &[(2, 50)], false),
        (&["--keep", "all-checkpoints"], &[(1, 50), (1, 100), (2, 50), (2, 100)], true),
    ] {
        let sample = Sample::finished();
        says(sample.at(), &[&["clean", "r"], options].concat());
        assert_eq!(left(&sample), expected, "{options:?}");
        assert_eq!(sample.step(MERGE).join("model").exists(), merged, "{options:?}");
        let run = RunFolder::open(&sample.run()).unwrap();
        assert_eq!(is_removed(&run, &id(1), "checkpoint-000050"), options[1..] != ["all-checkpoints"]);
        assert_eq!(document(sample.at(), &["status", "r", "--format", "json"])["steps"]["complete"], 13, "scores stay");
    }
    // The test side of t0 @50 is not scored, and the merge is not done: both trainings' results are awaited.
    let sample = Sample::finished();
    fs::remove_file(sample.step(score(1, 50, "test")).join("status.json")).unwrap();
    fs::remove_file(sample.step(MERGE).join("status.json")).unwrap();
    says(sample.at(), &["clean", "r", "--keep", "best"]);
    assert_eq!(left(&sample), [(1, 50), (1, 100), (2, 50), (2, 100)]);
    // A training that is not done may be taken up anywhere.
    let sample = Sample::finished();
    fs::remove_file(sample.step(1).join("status.json")).unwrap();
    fs::write(sample.step(1).join("checkpoint-000050/training_state.json"), "{}").unwrap();
    says(sample.at(), &["clean", "r", "--keep", "best"]);
    assert!(left(&sample).contains(&(1, 50)) && sample.step(1).join("checkpoint-000050/training_state.json").exists());
}

#[test]
fn a_run_that_somebody_works_on_is_left_alone() {
    let sample = Sample::finished();
    sample.in_step(99, "step.json", &json!({}));
    let held = RunFolder::open(&sample.run()).unwrap().lock(&id(2)).unwrap();
    let before = contents(&sample.run()).into_keys().collect::<Vec<_>>();
    fails(sample.at(), 1, &["works on this run", "train t1"], &["clean", "r", "--keep", "best"]);
    let told = says(sample.at(), &["clean", "--all", "--keep", "best"]);
    assert!(told.contains("left alone"), "{told}");
    assert_eq!(before, contents(&sample.run()).into_keys().collect::<Vec<_>>());
    drop(held);
    says(sample.at(), &["clean", "--all", "--older", "1d"]);
    assert!(sample.step(99).exists(), "it changed just now");
    says(sample.at(), &["clean", "--all"]);
    assert!(!sample.step(99).exists());
}

#[test]
fn the_embedding_cache_is_cleared_and_nothing_beside_it() {
    let sample = Sample::new();
    let folder = sample.at().join("cache/embeddings/v1").join("a".repeat(64));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{}.seg", "b".repeat(32))), [0; 700]).unwrap();
    fs::write(sample.at().join("cache/embeddings/v1/mine.txt"), "mine").unwrap();
    let would = document(sample.at(), &["clean", "--cache", "--dry-run", "--format", "json"]);
    assert_eq!(would["cache"], json!({"segments": 1, "bytes": 700}));
    assert!(folder.exists());
    assert!(says(sample.at(), &["clean", "--cache"]).contains("700 B freed (1 files removed)"));
    assert!(!folder.exists() && sample.at().join("cache/embeddings/v1/mine.txt").exists());
}

#[test]
fn over_the_budget_the_worst_checkpoints_on_the_way_go_first() {
    let sample = Sample::finished();
    let run = RunFolder::open(&sample.run()).unwrap();
    let rule = Rule { by: "T".into(), on: "dev".into() };
    let goes =
        |bytes: u64| -> Vec<String> { over_budget(&run, bytes, &rule).goes.into_iter().map(|m| m.label).collect() };
    assert!(goes(5000).is_empty());
    assert_eq!(over_budget(&run, 5000, &rule).used, 5000);
    assert_eq!(goes(4999), ["t0 @50"]);
    assert_eq!(goes(3500), ["t0 @50", "t1"]);
    // The best stays whatever the budget.
    assert_eq!(goes(0), ["t0 @50", "t1", "t0", "merge 1"]);
    assert_eq!(over_budget(&run, 0, &rule).left, 1000);
    // What a merge waits for does not go, nor what is to be scored.
    fs::remove_file(sample.step(MERGE).join("status.json")).unwrap();
    fs::remove_file(sample.step(score(1, 50, "test")).join("status.json")).unwrap();
    assert!(goes(0).is_empty());
    sample.scored(score(1, 50, "test"), 0.2);
    let budget = over_budget(&run, 0, &rule);
    assert_eq!(remove(&run, &budget.goes, "run.disk").unwrap(), 1000);
    assert!(is_removed(&run, &id(1), "checkpoint-000050") && !is_removed(&run, &id(1), "checkpoint-000100"));
    assert_eq!(removed(&run, &id(1)).by, "run.disk");
    // Made again, it is there and no marker says otherwise.
    sample.checkpoint(1, 50);
    assert!(!is_removed(&run, &id(1), "checkpoint-000050"));
    made_again(&run, &id(1)).unwrap();
    assert!(removed(&run, &id(1)).models.is_empty());
}

const SCRATCH: &str = "{scratch: {layers: 1, hidden: 32, heads: 2, vocabulary: 500, max_length: 24}}";

/// A sweep of seconds: a small base, six steps a trial.
fn sweep(folder: &Path, base: &str, adapter: &str) -> (Plan, RunFolder) {
    let path = folder.join("sweep.yaml");
    let tasks = root().join("tasks/everyday");
    let data = tasks.join("paraphrases-train.jsonl");
    let config = format!(
        "name: tiny\nbase: {base}\n\
         data: {{train: {data:?}, prompts: {{query: 'q: ', document: 'q: '}}}}\nadapter: {{kind: {adapter}}}\n\
         train: {{max_steps: 6, batch: 16, lr: 1e-2, schedule: constant, warmup: 0, dropout: 0}}\ngrid: {{objective: [symmetric, asymmetric]}}\n\
         merge: [{{slerp: {{first: {{objective: symmetric}}, second: {{objective: asymmetric}}, alpha: [0.25]}}}}]\n\
         score: {{tasks: [EverydaySTS], limit: 30, seeds: 1}}\nchoose: {{seeds: 1, by: mean_task}}\n"
    );
    fs::write(&path, config).unwrap();
    let document = Document::load(&path, &[]).unwrap();
    let trials = document.trials().unwrap();
    let axes = document.axes().unwrap();
    let axes = axes.into_iter().map(|(k, v)| (k, v.iter().map(|v| v.value.show()).collect())).collect();
    let specs = select(&["EverydaySTS".to_string()], &[root().join("tasks")]).unwrap().tasks;
    let plan = Plan::new(trials[0].config.clone(), axes, trials, specs).unwrap();
    (plan, RunFolder::open(&folder.join("run")).unwrap())
}

const TEXTS: [&str; 3] = ["a cat on a mat", "Кошка сидит на коврике", "q: how far"];

fn embeddings(embedder: &Embedder) -> Vec<f32> {
    embeval::encode::encode(embedder, &TEXTS, "", &|_| {}).unwrap().embeddings.data().to_vec()
}

fn embedder(folder: &Path) -> Embedder {
    Embedder::build(&ModelFiles::load(folder).unwrap(), &BuildOptions::default()).unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// The record's variant of a kind, made the choice.
fn chosen(record: &RunRecord, is_it: impl Fn(&VariantKind) -> bool) -> RunRecord {
    let variant = record.variants.iter().find(|v| is_it(&v.kind)).unwrap();
    let score = record.choice.as_ref().unwrap().score;
    let choice = Choice {
        id: variant.id.clone(),
        on: "dev".into(),
        by: "mean_task".into(),
        score,
        why: "it was asked for".into(),
        ..Choice::default()
    };
    RunRecord { choice: Some(choice), ..record.clone() }
}

/// What a file is named and holds, times aside.
fn bytes(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    contents(folder).into_iter().map(|(name, (content, _))| (name, content)).collect()
}

#[test]
fn the_choice_is_shipped_whole_whatever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, run) = sweep(folder.path(), SCRATCH, "full");
    let engine = Engine::new(&plan, run.clone(), Device::Cpu, &Silence);
    engine.work().unwrap();
    let record = engine.collect().unwrap();
    let best = run.root().join("best");
    let last = plan.trials[0].steps;
    let source = |model: &ModelRef, name: &str| run.step(plan.producer(model).unwrap()).join(name);
    let trained = source(&ModelRef::Checkpoint { trial: 0, step: last }, &format!("checkpoint-{last:06}"));
    let merged = source(&ModelRef::Merged(0), "model");
    let base = source(&ModelRef::Base, "model");
    for (record, from, words) in [
        (chosen(&record, |k| matches!(k, VariantKind::Trained { .. })), &trained, "fine-tuned"),
        (chosen(&record, |k| matches!(k, VariantKind::Merged { .. })), &merged, "at α = 0.2500, given"),
        (chosen(&record, |k| *k == VariantKind::Base), &base, "this is a copy of the base"),
    ] {
        assert_eq!(shipping::ship(&engine, &record).unwrap().as_deref(), Some(best.as_path()));
        assert_eq!(embeddings(&embedder(&best)), embeddings(&embedder(from)), "{words}");
        let card = fs::read_to_string(best.join("README.md")).unwrap();
        assert!(card.contains(words) && card.contains("EverydaySTS (at most 30 rows)"), "{card}");
        assert!(!card.contains(&*folder.path().to_string_lossy()), "a path of this machine");
        assert!(!best.join("trainer_state.json").exists());
        assert_eq!(card.contains("prompt=\"q: \""), words != "this is a copy of the base");
        // Again: not a byte and not a time is touched.
        let before = contents(&best);
        shipping::ship(&engine, &record).unwrap();
        assert!(before == contents(&best));
        // Damaged, it is made again as it was.
        fs::write(best.join("model.safetensors"), "damaged").unwrap();
        shipping::ship(&engine, &record).unwrap();
        let same = bytes(&best) == before.into_iter().map(|(name, (content, _))| (name, content)).collect();
        assert!(same, "{words}");
    }
    let nothing = RunRecord { choice: None, ..record.clone() };
    assert_eq!(shipping::ship(&engine, &nothing).unwrap(), None);
    // A choice that was removed is told of, with the way out.
    fs::write(trained.parent().unwrap().join("removed.json"), format!("{{\"models\": [\"checkpoint-{last:06}\"]}}"))
        .unwrap();
    fs::remove_dir_all(&trained).unwrap();
    let error = shipping::ship(&engine, &chosen(&record, |k| matches!(k, VariantKind::Trained { .. }))).unwrap_err();
    assert!(error.to_string().contains("removed on purpose"), "{error}");
    assert!(best.join("model.safetensors").exists(), "the last one stays");
}

#[test]
fn an_adapter_is_shipped_merged_and_beside() {
    let bert = root().join("tests/data/models/bert");
    for (kind, quantized) in [("lora, rank: 4", false), ("qlora, rank: 4", true)] {
        let folder = tempfile::tempdir().unwrap();
        let (plan, run) = sweep(folder.path(), &format!("{bert:?}"), kind);
        let engine = Engine::new(&plan, run.clone(), Device::Cpu, &Silence);
        engine.work().unwrap();
        let record = chosen(&engine.collect().unwrap(), |k| matches!(k, VariantKind::Trained { .. }));
        let best = shipping::ship(&engine, &record).unwrap().unwrap();
        let last = plan.trials[0].steps;
        let id = plan.producer(&ModelRef::Checkpoint { trial: 0, step: last }).unwrap();
        let from = run.step(id).join(format!("checkpoint-{last:06}"));
        let files = ModelFiles::load(&bert).unwrap();
        let adapter = peft::load(&from).unwrap();
        let options = BuildOptions { adapter: Some(&adapter), ..Default::default() };
        let unmerged = embeddings(&Embedder::build(&files, &options).unwrap());
        let base = embeddings(&Embedder::build(&files, &BuildOptions::default()).unwrap());
        let shipped = embeddings(&embedder(&best));
        assert!(distance(&shipped, &unmerged) < 1e-5, "{kind}: {}", distance(&shipped, &unmerged));
        assert!(distance(&shipped, &base) > 1e-3, "{kind}: the adapter changes something");
        let weights = "adapter_model.safetensors";
        assert_eq!(fs::read(best.join("adapter").join(weights)).unwrap(), fs::read(from.join(weights)).unwrap());
        let config: Value = read_json(&best.join("adapter/adapter_config.json")).unwrap();
        assert_eq!(config["base_model_name_or_path"], "bert");
        let card = fs::read_to_string(best.join("README.md")).unwrap();
        assert!(card.contains("base_model: bert\nbase_model_relation: finetune\n"), "{card}");
        assert!(!card.contains(&*root().to_string_lossy()), "a path of this machine");
        assert_eq!(card.contains("scores below are those of the quantised base"), quantized, "{card}");
    }
}
