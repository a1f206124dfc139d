//! The binary on models and data of a hub on this machine.

mod hub_server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use embeval::task::benchmark::{built_in_benchmarks, built_in_tasks};
use embeval::task::spec::Source;
use hub_server::stand_ins::{WORDS, lines, stand_in};
use hub_server::{Fault, Repo, Server, TOKEN};
use serde_json::{Value, json};

struct Place {
    folder: tempfile::TempDir,
    server: Server,
}

fn bert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/bert")
}

fn datasets() -> Vec<Repo> {
    let pair = |i: usize| json!({"sentence1": WORDS[i % 6], "sentence2": WORDS[i * i % 6], "score": i % 4});
    let row = |i: usize, lang: &str| json!({"text": format!("{} {i}", WORDS[i % 6]), "label": i % 3, "lang": lang});
    let both = |n: usize| (0..n).flat_map(move |i| [row(i, "ru"), row(i + 1, "en")]);
    let readme = "---\nconfigs:\n- config_name: ru-corpus\n  data_files: [{split: dev, path: ru-corpus/dev*}]\n\
                  - config_name: ru-queries\n  data_files: [{split: dev, path: ru-queries/dev*}]\n\
                  - config_name: ru-qrels\n  data_files: [{split: dev, path: ru-qrels/dev*}]\n---\n";
    let document = |i: usize, kind: &str| json!({"id": format!("{kind}{i}"), "title": "", "text": WORDS[i]});
    let judgement = |i: usize| json!({"query-id": format!("q{i}"), "corpus-id": format!("d{i}"), "score": 1});
    vec![
        Repo::model("org/bert").folder(&bert()),
        Repo::model("org/gone").file("config.json", "{}"),
        Repo::dataset("org/pairs").file("README.md", "# pairs").file("test.jsonl", lines((0..20).map(pair))),
        Repo::dataset("org/private").file("test.jsonl", lines((0..20).map(pair))).private(),
        Repo::dataset("org/labels")
            .file("data/train-00000-of-00001.jsonl", lines(both(30)))
            .file("data/validation-00000-of-00001.jsonl", lines(both(12)))
            .file("data/test-00000-of-00001.jsonl", lines(both(40))),
        Repo::dataset("org/search")
            .file("README.md", readme)
            .file("ru-corpus/dev-0.jsonl", lines((0..6).map(|i| document(i, "d"))))
            .file("ru-queries/dev-0.jsonl", lines((0..6).map(|i| document(i, "q"))))
            .file("ru-qrels/dev-0.jsonl", lines((0..6).map(judgement))),
    ]
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), server: Server::start(datasets()) };
        place.task("Pairs", "type: STS\ndata: {hub: org/pairs}\nsplits: {test: test}\n");
        place.task("Private", "type: STS\ndata: {hub: org/private}\nsplits: {test: test}\n");
        place.task(
            "Labels",
            "type: Classification\ndata: {hub: org/labels, filter: {lang: ru}, subsample: 30}\n\
             splits: {train: train, test: [validation, test]}\nsubset: ru\n",
        );
        place.task("Search", "type: Retrieval\ndata: {hub: org/search, config: ru}\nsplits: {test: dev}\nsubset: ru\n");
        place
    }

    fn task(&self, name: &str, rest: &str) {
        std::fs::write(self.folder.path().join(format!("{name}.yaml")), format!("name: {name}\n{rest}")).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embeval"));
        command.args(args).current_dir(self.folder.path());
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
        command
            .env("HF_ENDPOINT", &self.server.url)
            .env("HF_HOME", self.folder.path().join("hf"))
            .env("EMBEVAL_CACHE", self.folder.path().join("cache"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn fails(&self, words: &[&str], command: &mut Command) {
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).to_string();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(!error.contains("panicked"), "{error}");
        for word in words {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
    }
}

fn scores(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_model_and_its_tasks_by_id() {
    let place = Place::new();
    let args = [
        "score",
        "org/bert",
        "--tasks",
        "Pairs.yaml",
        "Labels.yaml",
        "Search.yaml",
        "--format",
        "json",
        "--output",
        "results",
    ];
    let output = place.run(&args);
    let board = scores(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains("downloading model.safetensors"));
    let rows: Vec<u64> = board["tasks"].as_array().unwrap().iter().map(|t| t["rows"].as_u64().unwrap()).collect();
    // 20 pairs; of 12 and 40 Russian rows a subsample of at most 30 each; six queries.
    assert_eq!(rows, [20, 12 + 30, 6]);
    let labels = &board["tasks"][1];
    let mean =
        ["validation", "test"].map(|s| labels["scores"][s]["main_score"].as_f64().unwrap()).iter().sum::<f64>() / 2.0;
    assert!((labels["main_score"].as_f64().unwrap() - mean).abs() < 1e-12);
    // The weights in another form are not fetched, and the model's commit names the results.
    let folder = std::fs::read_dir(place.folder.path().join("results/org__bert")).unwrap().next().unwrap().unwrap();
    assert_eq!(folder.file_name().len(), 40);
    let file: Value = serde_json::from_slice(&std::fs::read(folder.path().join("Search.json")).unwrap()).unwrap();
    assert_eq!(file["scores"]["dev"][0]["hf_subset"], "ru");
    // Without the network the same comes from the cache.
    let offline = place.command(&args).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(scores(&offline)["tasks"][1]["scores"], labels["scores"]);
    // A folder's scores are those of the same files by id.
    let own = scores(&place.run(&["score", bert().to_str().unwrap(), "--tasks", "Pairs.yaml", "--format", "json"]));
    assert_eq!(own["tasks"][0]["scores"], board["tasks"][0]["scores"]);
}

/// Every task of MTEB(rus, v1.1) from its own repository, split, columns and configuration, as its file names them.
#[test]
fn rumteb_whole_over_stand_ins() {
    let place = Place::new();
    let mut repos = BTreeMap::from([("org/bert".to_string(), Repo::model("org/bert").folder(&bert()))]);
    let benchmark = built_in_benchmarks().unwrap().into_iter().find(|b| b.name == "rumteb").unwrap();
    for task in built_in_tasks().unwrap().iter().filter(|task| benchmark.tasks.contains(&task.name)) {
        stand_in(task, &mut repos);
    }
    let server = Server::start(repos.into_values().collect());
    let mut command =
        place.command(&["-q", "score", "org/bert", "--tasks", "rumteb", "--output", "results", "--format", "json"]);
    let output = command.env("HF_ENDPOINT", &server.url).output().unwrap();
    let board = scores(&output);
    assert_eq!((board["tasks"].as_array().unwrap().len(), &board["failed"]), (23, &json!([])));
    assert_eq!((&board["set"], &board["tasks_in_set"]), (&json!("MTEB(rus, v1.1)"), &json!(23)));
    assert!(board["mean_task_type"].is_f64() && board["type_means"].as_object().unwrap().len() == 7);
    let folder =
        std::fs::read_dir(place.folder.path().join("results/org__bert")).unwrap().next().unwrap().unwrap().path();
    for task in built_in_tasks().unwrap().iter().filter(|task| benchmark.tasks.contains(&task.name)) {
        let file: Value =
            serde_json::from_slice(&std::fs::read(folder.join(format!("{}.json", task.name))).unwrap()).unwrap();
        let Source::Hub { revision, .. } = &task.source else { panic!() };
        assert_eq!(file["dataset_revision"].as_str(), revision.as_deref());
        for split in &task.splits.test {
            assert_eq!(file["scores"][split][0]["hf_subset"], task.subset.as_str(), "{}", task.name);
        }
    }
    // The published row stands beside it, over the tasks that both have.
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/published");
    let report = place.run(&["report", "results", published.to_str().unwrap(), "--tasks", "rumteb-14"]);
    let table = String::from_utf8(report.stdout).unwrap();
    let mean = table.lines().find(|line| line.starts_with("| Mean (Task)")).unwrap();
    assert!(mean.contains(" 0.549 |") && !mean.contains('–'), "{table}");
}

#[test]
fn what_the_hub_does_not_give() {
    let place = Place::new();
    let score = |model: &str, task: &str| place.command(&["score", model, "--tasks", task]);
    place.fails(&["org/nothing", "no such folder here"], &mut score("org/nothing", "Pairs.yaml"));
    place.fails(&["Private", "org/private", "HF_TOKEN"], &mut score(bert().to_str().unwrap(), "Private.yaml"));
    let opened = score(bert().to_str().unwrap(), "Private.yaml").env("HF_TOKEN", TOKEN).output().unwrap();
    assert!(opened.status.success());
    place.fails(&["models--org--gone", "config.json", "has no `model_type`"], &mut score("org/gone", "Pairs.yaml"));
    place.task("Nowhere", "type: STS\ndata: {hub: org/pairs, revision: v9}\nsplits: {test: test}\n");
    place.fails(&["Nowhere", "org/pairs", "v9"], &mut score(bert().to_str().unwrap(), "Nowhere.yaml"));
    place.task("Split", "type: STS\ndata: {hub: org/pairs}\nsplits: {test: validation}\n");
    let words = ["Split", "no files of the split `validation`", "it has test.jsonl", "data.files can name them"];
    place.fails(&words, &mut score(bert().to_str().unwrap(), "Split.yaml"));
    let mut offline = score("org/bert", "Pairs.yaml");
    place.fails(&["org/bert", "HF_HUB_OFFLINE"], offline.env("HF_HUB_OFFLINE", "1"));
    let mut unreachable = score("org/bert", "Pairs.yaml");
    place.fails(&["127.0.0.1:9", "HF_ENDPOINT"], unreachable.env("HF_ENDPOINT", "http://127.0.0.1:9"));
}

#[test]
fn a_broken_connection_is_taken_up_again_and_wrong_bytes_are_refused() {
    let place = Place::new();
    place.server.change("org/bert", |repo| repo.fault = Fault::Cut { at: 20_000, times: 2 });
    let args = ["score", "org/bert", "--tasks", "Pairs.yaml", "--format", "json"];
    let broken = scores(&place.run(&args));
    let own = scores(&place.run(&["score", bert().to_str().unwrap(), "--tasks", "Pairs.yaml", "--format", "json"]));
    assert_eq!(broken["tasks"][0]["scores"], own["tasks"][0]["scores"]);
    place.server.change("org/pairs", |repo| repo.fault = Fault::WrongContent);
    let home = place.folder.path().join("other");
    let mut command = place.command(&["score", bert().to_str().unwrap(), "--tasks", "Pairs.yaml"]);
    place.fails(&["Pairs", "of data set org/pairs is damaged", "run again"], command.env("HF_HOME", home));
}

#[test]
fn a_sweep_starts_from_a_model_of_the_hub() {
    let place = Place::new();
    let pairs = lines(
        (0..40).map(|i| json!({"query": WORDS[i % 6], "pos": [format!("{} {i}", WORDS[(i + 1) % 6])], "neg": []})),
    );
    std::fs::write(place.folder.path().join("pairs.jsonl"), pairs).unwrap();
    // A sweep keeps its scores, so its data must have a revision.
    let commit = datasets().into_iter().find(|repo| repo.id == "org/labels").unwrap().commit;
    let labels = std::fs::read_to_string(place.folder.path().join("Labels.yaml")).unwrap();
    let config = "name: hub\nbase: org/bert\ndata: {train: pairs.jsonl}\nadapter: {kind: lora}\n\
                  train: {max_steps: 2, batch: 8, lr: 1e-3}\nscore: {tasks: [Labels.yaml], seeds: 1, protocol: sklearn-1.8}\n\
                  choose: {by: Labels, seeds: 1}\n";
    std::fs::write(place.folder.path().join("sweep.yaml"), config).unwrap();
    let loose = place.run(&["sweep", "sweep.yaml", "--dry-run"]);
    assert_eq!(loose.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&loose.stderr).contains("data.revision is missing"));
    let pinned = labels.replace("hub: org/labels", &format!("hub: org/labels, revision: {commit}"));
    std::fs::write(place.folder.path().join("Labels.yaml"), pinned).unwrap();
    let dry = place
        .command(&["sweep", "sweep.yaml", "--dry-run", "--no-calibration"])
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    assert!(dry.status.success(), "{}", String::from_utf8_lossy(&dry.stderr));
    let output = place.run(&["-q", "sweep", "sweep.yaml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value =
        serde_json::from_slice(&std::fs::read(place.folder.path().join("runs/hub/record.json")).unwrap()).unwrap();
    assert_eq!((&record["base"], &record["protocol"]), (&json!("org/bert"), &json!("sklearn-1.8")));
    let adapter = std::fs::read_dir(place.folder.path().join("runs/hub/steps")).unwrap();
    let named = adapter.filter_map(|step| {
        let config = step.unwrap().path().join("checkpoint-000002/adapter_config.json");
        Some(serde_json::from_slice::<Value>(&std::fs::read(config).ok()?).unwrap())
    });
    let bases: Vec<Value> = named.map(|config| config["base_model_name_or_path"].clone()).collect();
    assert_eq!(bases, ["org/bert"]);
}
