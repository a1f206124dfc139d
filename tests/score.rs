//! `embeval score` from outside: every task type, what is printed and written, and one clear error for each kind of bad input.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn bert() -> String {
    text(&root().join("tests/data/models/bert"))
}

/// A folder with a cache of its own.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).unwrap();
        text(&self.path(name))
    }

    fn lines(&self, name: &str, rows: &[Value]) {
        self.write(name, &rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embeval"));
        command.args(args).current_dir(self.0.path()).env("EMBEVAL_CACHE", self.path("cache"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--format", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn fails(&self, code: i32, words: &[&str], args: &[&str]) {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).to_string();
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{error}");
        assert!(!error.contains("panicked"), "{error}");
        for word in words {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
    }

    /// A task of every type over a few rows.
    fn tasks(&self) {
        let sentence = |i: usize| ["кот спит", "собака лает", "дождь идёт", "the sun shines", "a train leaves"][i % 5];
        let labelled: Vec<Value> = (0..24)
            .map(|i| json!({"text": format!("{} {i}", sentence(i)), "label": i % 3, "labels": [i % 3]}))
            .collect();
        self.lines("labelled.jsonl", &labelled);
        let grouped: Vec<Value> = (0..24).map(|i| json!({"sentences": sentence(i), "labels": i % 5})).collect();
        self.lines("grouped.jsonl", &grouped);
        let pairs: Vec<Value> = (0..12)
            .map(|i| json!({"sentence1": sentence(i), "sentence2": sentence(i * i), "score": i % 5, "labels": i % 2}))
            .collect();
        self.lines("pairs.jsonl", &pairs);
        let ranked: Vec<Value> = (0..5)
            .map(|i| json!({"query": sentence(i), "positive": [sentence(i)], "negative": [sentence(i + 1), sentence(i + 2)]}))
            .collect();
        self.lines("ranked.jsonl", &ranked);
        self.lines(
            "corpus.jsonl",
            &(0..5).map(|i| json!({"_id": format!("d{i}"), "title": "", "text": sentence(i)})).collect::<Vec<_>>(),
        );
        self.lines(
            "queries.jsonl",
            &(0..5).map(|i| json!({"_id": format!("q{i}"), "text": sentence(i)})).collect::<Vec<_>>(),
        );
        self.write("qrels.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td1\t2\nq2\td3\t1\n");
        let file = |kind: &str, files: &str, splits: &str, more: &str| {
            let yaml = format!("name: {kind}\ntype: {kind}\ndata: {{files: {files}}}\nsplits: {splits}\n{more}");
            std::fs::create_dir_all(self.path("all")).unwrap();
            self.write(&format!("all/{kind}.yaml"), &yaml);
        };
        let beside = |name: &str| format!("{{train: ../{name}, test: ../{name}}}");
        let (with_train, test) = ("{train: train, test: test}", "{test: test}");
        file("Classification", &beside("labelled.jsonl"), with_train, "");
        file("MultilabelClassification", &beside("labelled.jsonl"), with_train, "settings: {k: 3}\n");
        file("Clustering", &beside("grouped.jsonl"), test, "settings: {bootstrap_size: 64, batch_size: 16}\n");
        file("STS", &beside("pairs.jsonl"), test, "");
        file("PairClassification", &beside("pairs.jsonl"), test, "");
        file("BitextMining", &beside("pairs.jsonl"), test, "");
        file("Reranking", &beside("ranked.jsonl"), test, "");
        let corpus = "{corpus: ../corpus.jsonl, queries: ../queries.jsonl, qrels: {test: ../qrels.tsv}}";
        file("Retrieval", corpus, test, "");
    }
}

#[test]
fn every_type_is_scored_printed_and_written() {
    let place = Place::new();
    place.tasks();
    let board = place.json(&["-q", "score", &bert(), "--tasks", "all", "--output", "results", "--seeds", "3"]);
    let tasks = board["tasks"].as_array().unwrap();
    assert_eq!((tasks.len(), board["failed"].as_array().unwrap().len()), (8, 0));
    for task in tasks {
        let name = task["name"].as_str().unwrap();
        let (low, high) = (task["ci95"][0].as_f64().unwrap(), task["ci95"][1].as_f64().unwrap());
        let main = task["main_score"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&main.abs()) && low <= main + 1e-5 && main <= high + 1e-5, "{task}");
        assert_eq!(task["scores"]["main_score"], task["main_score"], "{name}");
        // Types that draw nothing have no spread.
        let draws = ["Classification", "MultilabelClassification", "Clustering"].contains(&name);
        assert_eq!(task["seeds"]["values"].as_array().map(Vec::len), draws.then_some(3), "{name}");
    }
    let types: f64 = board["type_means"].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum();
    assert!((board["mean_task_type"].as_f64().unwrap() - types / 8.0).abs() < 1e-12);
    assert_eq!(board["protocol"], json!({"mteb": "2.26", "sklearn": "1.9"}));

    // The result files say the same, to six decimals, and `report` reads them.
    let model = std::fs::read_dir(place.path("results/local__bert")).unwrap().next().unwrap().unwrap().path();
    for task in tasks {
        let name = task["name"].as_str().unwrap();
        let file: Value = serde_json::from_slice(&std::fs::read(model.join(format!("{name}.json"))).unwrap()).unwrap();
        let main = file["scores"]["test"][0]["main_score"].as_f64().unwrap();
        assert!((main - task["main_score"].as_f64().unwrap()).abs() <= 5e-7, "{name}");
        assert_eq!(file["protocol"]["sklearn"], "1.9");
    }
    let report = place.run(&["report", "results"]);
    let table = String::from_utf8(report.stdout).unwrap();
    let mean = format!("{:.3}", board["mean_task"].as_f64().unwrap());
    let line = table.lines().find(|line| line.starts_with("| Mean (Task)")).unwrap();
    assert!(line.contains("8 tasks") && line.contains(&mean), "{table}");

    // A run that is not the published kind is kept apart.
    place.json(&["-q", "score", &bert(), "--tasks", "all/STS.yaml", "--output", "results", "--limit", "5"]);
    assert!(model.join("experiments/limit-5/STS.json").is_file());
    let untouched: Value = serde_json::from_slice(&std::fs::read(model.join("STS.json")).unwrap()).unwrap();
    assert_eq!((&untouched["limit"], &untouched["prompts"]), (&Value::Null, &json!({"all": ""})));

    // Embeddings were kept: the second time gives the same, and nothing is encoded.
    let again = place.run(&["-v", "score", &bert(), "--tasks", "all", "--seeds", "3", "--format", "json"]);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("found, 0 encoded"),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    for (a, b) in tasks.iter().zip(again["tasks"].as_array().unwrap()) {
        assert_eq!(a["scores"], b["scores"]);
    }
}

#[test]
fn the_cache_changes_no_score_and_may_be_out_of_order() {
    let place = Place::new();
    place.tasks();
    let args = ["-q", "score", &bert(), "--tasks", "all/STS.yaml", "all/Classification.yaml"];
    let cold = place.json(&args);
    assert!(place.path("cache/embeddings").is_dir());
    let without = place.json(&[&args[..], &["--cache-size", "0"]].concat());
    assert_eq!(cold["tasks"][0]["scores"], without["tasks"][0]["scores"]);
    assert_eq!(cold["tasks"][1]["scores"], without["tasks"][1]["scores"]);
    // A cache that cannot be made is told and done without.
    place.write("file", "");
    let output = place
        .command(&["score", &bert(), "--tasks", "all/STS.yaml", "--format", "json"])
        .env("EMBEVAL_CACHE", place.path("file"))
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no embedding cache"));
    let scores: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(scores["tasks"][0]["scores"], cold["tasks"][0]["scores"]);
}

#[test]
fn clusterings_are_embedded_in_f32_whatever_the_precision() {
    let place = Place::new();
    let tasks = text(&root().join("tasks/everyday"));
    let run = |dtype: &str, cache: &str| {
        let model = bert();
        let args =
            ["-q", "score", &model, "--tasks", &tasks, "--limit", "200", "--dtype", dtype, "--cache-size", cache];
        let board = place.json(&args);
        let main = |name: &str| {
            let task = board["tasks"].as_array().unwrap().iter().find(|task| task["name"] == name).unwrap();
            task["main_score"].as_f64().unwrap()
        };
        ([main("EverydayHeadlineClustering"), main("EverydaySTS")], board["notes"].to_string())
    };
    let (exact, silent) = run("f32", "0");
    assert!(!silent.contains("clusterings"), "{silent}");
    // With nothing kept, with a cache that is filled, and from it.
    for cache in ["0", "1GB", "1GB"] {
        let (rounded, told) = run("bf16", cache);
        assert_eq!(rounded[0], exact[0], "{cache}");
        assert!(rounded[1] != exact[1] && (rounded[1] - exact[1]).abs() < 0.02, "{rounded:?} {exact:?}");
        assert!(told.contains("clusterings are embedded in f32"), "{told}");
    }
}

#[test]
fn one_task_that_fails_loses_nothing_of_the_others() {
    let place = Place::new();
    place.tasks();
    place.write("all/STS.yaml", "name: STS\ntype: STS\ndata: {files: {test: gone.jsonl}}\nsplits: {test: test}\n");
    let output = place.run(&["-q", "score", &bert(), "--tasks", "all", "--output", "results", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let board: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((board["tasks"].as_array().unwrap().len(), &board["mean_task"]), (7, &Value::Null));
    assert_eq!(board["type_means"]["STS"], Value::Null);
    assert!(board["type_means"]["Retrieval"].is_f64());
    assert!(board["failed"][0]["error"].as_str().unwrap().contains("gone.jsonl"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 of 8 tasks could not be scored"));
    let table = String::from_utf8(place.run(&["-q", "score", &bert(), "--tasks", "all"]).stdout).unwrap();
    let mean = table.lines().find(|line| line.starts_with("Mean (Task)")).unwrap();
    assert!(mean.contains('–') && !table.contains("NaN"), "{table}");
}

#[test]
fn prompts_are_looked_up_set_and_missed() {
    let place = Place::new();
    place.tasks();
    let model = place.path("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(bert()).unwrap() {
        let path = entry.unwrap().path();
        let target = model.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&target).unwrap();
            for inner in std::fs::read_dir(&path).unwrap() {
                let inner = inner.unwrap().path();
                std::fs::copy(&inner, target.join(inner.file_name().unwrap())).unwrap();
            }
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
    let config = json!({"prompts": {"query": "query: ", "passage": "passage: "}, "similarity_fn_name": "cosine"});
    std::fs::write(model.join("config_sentence_transformers.json"), config.to_string()).unwrap();
    let model = text(&model);
    let score = |more: &[&str]| place.json(&[&["-q", "score", &model, "--tasks"], more].concat());
    let retrieval = score(&["all/Retrieval.yaml"]);
    assert_eq!(retrieval["tasks"][0]["prompts"], json!({"query": "query: ", "document": "passage: "}));
    let sts = score(&["all/STS.yaml"]);
    assert_eq!(sts["tasks"][0]["prompts"], json!({"all": ""}));
    assert!(sts["notes"][0].as_str().unwrap().contains("none applies to these tasks"), "{sts}");
    let set = score(&["all/STS.yaml", "--prompt", "query: "]);
    assert_eq!(set["notes"], json!([]));
    assert_ne!(set["tasks"][0]["main_score"], sts["tasks"][0]["main_score"]);
    // An instruction model is told the type's default where the task says nothing.
    let told = score(&["all/STS.yaml", "--prompt", "Instruct: {instruction}\nQuery: "]);
    let expected = "Instruct: Retrieve semantically similar text.\nQuery: ";
    assert_eq!(told["tasks"][0]["prompts"], json!({"all": expected}));
    // By the name of a model that mteb registers with prompts.
    let named = score(&["all/STS.yaml", "--model-name", "deepvk/USER2-small"]);
    assert_eq!(named["tasks"][0]["prompts"], json!({"all": "classification: "}));
}

#[test]
fn linfas_estimators_and_older_draws_are_chosen_by_name() {
    let place = Place::new();
    place.tasks();
    for kind in ["Classification", "MultilabelClassification", "Clustering"] {
        let own = std::fs::read_to_string(place.path(&format!("all/{kind}.yaml"))).unwrap();
        let settings = own.lines().find_map(|line| line.strip_prefix("settings: {")).unwrap_or("}").to_string();
        let rest: String =
            own.lines().filter(|line| !line.starts_with("settings")).map(|line| format!("{line}\n")).collect();
        let yaml = format!("{rest}settings: {{estimator: linfa, {settings}").replace(", }", "}");
        place.write(&format!("{kind}.yaml"), &yaml.replace("../", ""));
        let scores = place.json(&["-q", "score", &bert(), "--tasks", &format!("{kind}.yaml")]);
        let main = scores["tasks"][0]["main_score"].as_f64().unwrap();
        let own = place.json(&["-q", "score", &bert(), "--tasks", &format!("all/{kind}.yaml")]);
        let difference = main - own["tasks"][0]["main_score"].as_f64().unwrap();
        assert!(difference.abs() < 0.15, "{kind}: {difference}");
    }
    let args = ["-q", "score", &bert(), "--tasks", "all/Clustering.yaml"];
    let (new, old) = (place.json(&args), place.json(&[&args[..], &["--protocol", "sklearn-1.8"]].concat()));
    assert_eq!(old["protocol"]["sklearn"], "1.8");
    assert_ne!(new["tasks"][0]["scores"]["v_measures"], old["tasks"][0]["scores"]["v_measures"]);
    place.fails(2, &["sklearn-1.7", "sklearn-1.9"], &[&args[..], &["--protocol", "sklearn-1.7"]].concat());
}

#[test]
fn a_task_file_per_type_with_a_wrong_column() {
    let place = Place::new();
    place.tasks();
    for (kind, role) in [
        ("Classification", "label"),
        ("MultilabelClassification", "text"),
        ("Clustering", "sentences"),
        ("STS", "score"),
        ("PairClassification", "labels"),
        ("BitextMining", "sentence2"),
        ("Reranking", "positive"),
    ] {
        let yaml = std::fs::read_to_string(place.path(&format!("all/{kind}.yaml"))).unwrap();
        let path = place.write("bad.yaml", &format!("{}columns: {{{role}: {role}x}}\n", yaml.replace("../", "")));
        let words = [kind, ".jsonl", &format!("has no column `{role}x`"), &format!("did you mean `{role}`")];
        place.fails(1, &words, &["score", &bert(), "--tasks", &path]);
        place.fails(2, &words, &["tasks", "check", &path]);
    }
    place.lines("corpus.jsonl", &[json!({"_id": "d0", "body": "x"}), json!({"_id": "d1", "text": "y"})]);
    place.write("qrels.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t1\n");
    place.fails(
        1,
        &["Retrieval", "corpus.jsonl", "line 1: has no `text`"],
        &["score", &bert(), "--tasks", "all/Retrieval.yaml"],
    );
    place.write("qrels.tsv", "query\tdocument\tscore\nq0\td0\t1\n");
    let words = ["Retrieval", "qrels.tsv", "has no column `query-id`"];
    place.fails(1, &words, &["score", &bert(), "--tasks", "all/Retrieval.yaml"]);
}

#[test]
fn labels_ids_and_judgements_that_cannot_be() {
    let place = Place::new();
    place.tasks();
    let with = |kind: &str, added: &str| {
        let yaml = std::fs::read_to_string(place.path(&format!("all/{kind}.yaml"))).unwrap();
        place.write("bad.yaml", &format!("{}{added}", yaml.replace("../", "")))
    };
    // A label outside the task's list, in each type that has labels.
    for kind in ["Classification", "MultilabelClassification", "Clustering"] {
        let path = with(kind, "labels: [0, 1]\n");
        place.fails(1, &[kind, "row 3: the label `2` is none of 0, 1"], &["score", &bert(), "--tasks", &path]);
    }
    place.lines(
        "pairs.jsonl",
        &[
            json!({"sentence1": "a", "sentence2": "b", "labels": 1}),
            json!({"sentence1": "a", "sentence2": "b", "labels": 2}),
        ],
    );
    let words = ["PairClassification", "pairs.jsonl", "row 2: `labels` is 2, expected 1 (belongs together) or 0"];
    place.fails(1, &words, &["score", &bert(), "--tasks", "all/PairClassification.yaml"]);
    let score = ["score", &bert(), "--tasks", "all/Retrieval.yaml"];
    // Ids that are there twice, of documents and of queries.
    let document = |id: &str| json!({"_id": id, "text": "x"});
    place.lines("corpus.jsonl", &[document("d0"), document("d1"), document("d0")]);
    place.fails(1, &["corpus.jsonl", "`d0` is there twice (documents 1 and 3)"], &score);
    place.tasks();
    place.lines("queries.jsonl", &[document("q0"), document("q0")]);
    place.fails(1, &["queries.jsonl", "`q0` is there twice (rows 1 and 2)"], &score);
    // Judgements of documents and queries that are not there.
    place.tasks();
    place.write("qrels.tsv", "query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\tnowhere\t1\n");
    place.fails(1, &["qrels.tsv", "1 judgements name documents", "nowhere", "allow_missing_documents"], &score);
    let path = with("Retrieval", "settings: {allow_missing_documents: true}\n");
    assert!(place.json(&["-q", "score", &bert(), "--tasks", &path])["tasks"][0]["main_score"].as_f64().unwrap() < 1.0);
    place.write("qrels.tsv", "query-id\tcorpus-id\tscore\nnobody\td0\t1\n");
    place.fails(1, &["qrels.tsv", "names no query"], &score);
    place.write("qrels.tsv", "query-id\tcorpus-id\tscore\nq0\td0\tmuch\n");
    place.fails(1, &["qrels.tsv", "row 1: `score` is text, expected a finite number"], &score);
    // A corpus of empty texts.
    place.tasks();
    place.lines("corpus.jsonl", &(0..5).map(|i| json!({"_id": format!("d{i}"), "text": " "})).collect::<Vec<_>>());
    place.fails(1, &["Retrieval", "all 5 documents are empty texts"], &score);
}

#[test]
fn scores_that_are_all_equal_are_said_to_be() {
    let place = Place::new();
    place.tasks();
    let rows: Vec<Value> =
        (0..4).map(|i| json!({"sentence1": "a", "sentence2": "a", "score": i, "labels": 1})).collect();
    place.lines("pairs.jsonl", &rows);
    let words = ["STS", "all pairs have the same cosine score", "Spearman's correlation is undefined"];
    place.fails(1, &words, &["score", &bert(), "--tasks", "all/STS.yaml"]);
    place.fails(1, &["the split has only the label 1"], &["score", &bert(), "--tasks", "all/PairClassification.yaml"]);
    let rows: Vec<Value> =
        (0..4).map(|i| json!({"sentence1": "a", "sentence2": format!("b{i}"), "score": 2})).collect();
    place.lines("pairs.jsonl", &rows);
    place.fails(1, &["all gold scores are equal"], &["score", &bert(), "--tasks", "all/STS.yaml"]);
    let table = place.run(&["-q", "score", &bert(), "--tasks", "all"]);
    assert!(!String::from_utf8_lossy(&table.stdout).contains("NaN"));
}

#[test]
fn embeddings_made_elsewhere() {
    let place = Place::new();
    place.tasks();
    // The texts that are written out and embedded by `encode` give the model's own scores.
    let out = place.run(&["tasks", "texts", "all", "--output", "made"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    for entry in std::fs::read_dir(place.path("made")).unwrap() {
        for file in std::fs::read_dir(entry.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let npy = path.with_extension("npy");
            let out = place.run(&["-q", "encode", &bert(), "--input", &text(&path), "--output", &text(&npy)]);
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        }
    }
    let own = place.json(&["-q", "score", &bert(), "--tasks", "all"]);
    let made = place.json(&["-q", "score", "--embeddings", "made", "--tasks", "all"]);
    for (own, made) in own["tasks"].as_array().unwrap().iter().zip(made["tasks"].as_array().unwrap()) {
        assert_eq!((&own["name"], &own["scores"]), (&made["name"], &made["scores"]));
    }
    let score = ["score", "--embeddings", "made", "--tasks", "all/STS.yaml"];
    let npy = place.path("made/STS/test.sentence1.npy");
    let whole = std::fs::read(&npy).unwrap();
    std::fs::write(&npy, &whole[..whole.len() - 5]).unwrap();
    place.fails(1, &["test.sentence1.npy", "is cut short"], &score);
    std::fs::copy(place.path("made/Clustering/test.npy"), &npy).unwrap();
    place.fails(1, &["test.sentence1.npy", "has 24 rows, but the task has 12 sentence1"], &score);
    std::fs::remove_file(&npy).unwrap();
    place.fails(1, &["made/STS", "no embeddings here", "test.sentence1.npy or sentence1.npy"], &score);
    place.fails(2, &["cannot be used with"], &["score", &bert(), "--embeddings", "made"]);
}

#[test]
fn what_is_misused_is_told() {
    let place = Place::new();
    place.fails(2, &["no such model folder", "org/name"], &["score", "./nothing", "--tasks", "rumteb"]);
    place.fails(2, &["name tasks, such as --tasks rumteb"], &["score", &bert()]);
    place.fails(2, &["selects no task", "`rumteb`"], &["score", &bert(), "--tasks", "rumtab"]);
    place.fails(
        2,
        &["--revision is of a model of the hub"],
        &["score", &bert(), "--revision", "x", "--tasks", "rumteb"],
    );
    place.fails(2, &["is no size"], &["score", &bert(), "--cache-size", "much"]);
    place.write("results.json", "{}");
    place.fails(
        2,
        &["--model-name ../x: must be ORG/NAME"],
        &["score", &bert(), "--tasks", "rumteb", "--model-name", "../x"],
    );
    place.fails(1, &["holds neither a run (record.json) nor mteb's result files"], &["report", "."]);
}

/// Dimensions given, and a folder's own.
#[test]
fn the_first_values_of_embeddings_are_scored() {
    let place = Place::new();
    let task = root().join("tasks/everyday/EverydaySTS.yaml").display().to_string();
    let score = |model: &str, more: &[&str]| {
        let args = ["score", model, "--tasks", &task, "--limit", "40"];
        place.json(&[&args[..], more].concat())
    };
    let main = |board: &Value| board["tasks"][0]["main_score"].as_f64().unwrap();
    let boards = score(&bert(), &["--truncate-dim", "8,16,32"]);
    let [small, middle, whole] = [0, 1, 2].map(|i| &boards[i]);
    assert_eq!([&small["truncate_dim"], &middle["truncate_dim"]], [8, 16]);
    assert_eq!(main(whole), main(&score(&bert(), &[])));
    assert!(main(small) != main(middle) && main(middle) != main(whole));
    // A folder that says so itself.
    let own = place.path("own");
    for entry in ["config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "tokenizer.json"] {
        std::fs::create_dir_all(&own).unwrap();
        std::fs::copy(Path::new(&bert()).join(entry), own.join(entry)).unwrap();
    }
    std::fs::create_dir_all(own.join("1_Pooling")).unwrap();
    std::fs::copy(Path::new(&bert()).join("1_Pooling/config.json"), own.join("1_Pooling/config.json")).unwrap();
    std::fs::write(own.join("config_sentence_transformers.json"), r#"{"truncate_dim": 8}"#).unwrap();
    let own = own.display().to_string();
    assert_eq!(main(small), main(&score(&own, &[])));
    assert_eq!(main(middle), main(&score(&own, &["--truncate-dim", "16"])));
    // Embeddings, too.
    let texts = place.write("texts.txt", "один\ntwo\n三\n");
    let encode = |model: &str, more: &[&str]| {
        let out = place.path("out.npy").display().to_string();
        let args = ["encode", model, "--input", &texts, "--output", &out];
        assert!(place.run(&[&args[..], more].concat()).status.success());
        let bytes = std::fs::read(&out).unwrap();
        let header = 10 + u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        let values = bytes[header..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        values.collect::<Vec<f32>>()
    };
    let all = encode(&bert(), &[]);
    let first: Vec<f32> = all.chunks_exact(32).flat_map(|row| row[..8].to_vec()).collect();
    assert_eq!(encode(&bert(), &["--truncate-dim", "8"]), first);
    assert_eq!(encode(&own, &[]), first);
    place.fails(2, &["truncate_dim 33", "32 values"], &["score", &bert(), "--tasks", &task, "--truncate-dim", "33"]);
}
