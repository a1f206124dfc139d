//! Merges from outside: the commands, and a sweep that merges in every way.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn embeval(args: &[&str]) -> Output {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("merge-cache");
    Command::new(env!("CARGO_BIN_EXE_embeval"))
        .current_dir(root())
        .env("EMBEVAL_CACHE", cache)
        .args(args)
        .output()
        .unwrap()
}

fn succeeds(args: &[&str]) -> String {
    let output = embeval(args);
    assert!(output.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).to_string()
}

/// Merges with these arguments into a new folder; the bytes of the weights, and the card.
fn merged(folder: &Path, args: &[&str]) -> (Vec<u8>, String) {
    let output = folder.join("merged").display().to_string();
    let mut all = vec!["merge"];
    all.extend(args);
    all.extend(["--output", &output]);
    succeeds(&all);
    let read = |name: &str| std::fs::read(PathBuf::from(&output).join(name)).unwrap();
    let found = (read("model.safetensors"), String::from_utf8(read("README.md")).unwrap());
    std::fs::remove_dir_all(&output).unwrap();
    found
}

const BERT: &str = "tests/data/models/bert";

#[test]
fn models_are_merged_by_layer_and_as_means() {
    let folder = tempfile::tempdir().unwrap();
    let adapted = folder.path().join("adapted").display().to_string();
    let lora = format!("{BERT}/lora_trained");
    succeeds(&["merge", "adapter", BERT, &lora, "--output", &adapted]);
    let plain = merged(folder.path(), &["slerp", BERT, &adapted, "--alpha", "0.3"]).0;
    let ends = merged(folder.path(), &["slerp", BERT, &adapted, "--alpha-layers", "0.3,0.3"]).0;
    let (layers, card) = merged(folder.path(), &["slerp", BERT, &adapted, "--alpha-layers", "0,0.3,1"]);
    assert!(plain == ends && plain != layers);
    assert!(card.contains("= 0, 0.3, 1 from the first layer to the last"), "{card}");
    let first = merged(folder.path(), &["slerp", BERT, &adapted, "--alpha", "0"]).0;
    let itself = merged(folder.path(), &["linear", BERT, BERT, BERT]).0;
    let (mean, card) = merged(folder.path(), &["linear", BERT, &adapted, "--weights", "1,0"]);
    assert!(first == itself && first == mean);
    assert!(card.contains(&format!("| `{BERT}` | 1.0000 |")), "{card}");
    assert!(merged(folder.path(), &["linear", BERT, &adapted]).0 != first);
}

#[test]
fn misused_merges_say_what_is_wrong() {
    for (args, expected) in [
        (vec!["linear", BERT, BERT, "--weights", "0.5,0.6"], "sum to 1.1: they must sum to 1"),
        (vec!["linear", BERT, BERT, "--weights", "1"], "1 weights for 2 models: give one each"),
        (vec!["linear", BERT, BERT, "--weights", "1.5,0"], "1.5 must be from 0 to 1"),
        (vec!["linear", BERT], "2 values required"),
        (vec!["slerp", BERT, BERT], "--alpha"),
        (vec!["slerp", BERT, BERT, "--alpha", "0.5", "--alpha-layers", "0,1"], "cannot be used with"),
        (vec!["slerp", BERT, BERT, "--alpha-layers", "0.5"], "give two or more values"),
    ] {
        let mut all = vec!["merge"];
        all.extend(args);
        all.extend(["--output", "unused"]);
        let output = embeval(&all);
        let error = String::from_utf8_lossy(&output.stderr).to_string();
        assert_eq!(output.status.code(), Some(2), "{all:?}\n{error}");
        assert!(error.contains(expected), "{all:?}: {expected} is missing in {error}");
    }
    assert!(!root().join("unused").exists());
}

/// A sweep of two seeds of a tiny model, trained for two steps.
const SWEEP: &str = "
name: merges
base: {scratch: {layers: 3, hidden: 32, heads: 2, vocabulary: 600, max_length: 32}}
data: {train: TASKS/pairs-train.jsonl}
train: {batch: 16, max_steps: 2, lr: 1e-2}
grid: {train.seed: [1, 2], objective: [symmetric]}
merge:
  - slerp: {over: train.seed, alpha: {layers: auto}, tolerance: 0.2, budget: 8}
  - slerp: {first: {name: base}, second: {train.seed: 2}, alpha: 0.25}
  - slerp: {pairs: all, alpha: {layers: [0, 0.5, 1]}, mode: delta}
  - linear: {over: train.seed}
  - linear: {models: [{train.seed: 1}, {train.seed: 2}, {name: base}], weights: [0.5, 0.25, 0.25]}
score: {tasks: [TASKS/EverydaySTS.yaml], limit: 40, seeds: 1}
choose: {seeds: 1}
";

#[test]
fn a_sweep_merges_in_every_way_and_takes_up_where_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let tasks = root().join("tasks/everyday").display().to_string();
    std::fs::write(path("c.yaml"), SWEEP.replace("TASKS", &tasks)).unwrap();
    let run = || {
        succeeds(&[
            "sweep",
            &path("c.yaml"),
            "--output",
            &path("run"),
            "--report",
            &path("report"),
            "--cache-size",
            "0",
        ]);
        std::fs::read_to_string(path("run/record.json")).unwrap()
    };
    let text = run();
    let record: Value = serde_json::from_str(&text).unwrap();
    let variants = record["variants"].as_array().unwrap();
    let kind =
        |label: &str| &variants.iter().find(|v| v["label"] == label).unwrap_or_else(|| panic!("{label}"))["kind"];
    let base = kind("slerp(base, s2 symmetric) α=0.250");
    assert_eq!((&base["first"], &base["auto"], base.get("layers")), (&"base".into(), &false.into(), None));
    let layers = kind("slerp(s1 symmetric, s2 symmetric) α=0.000→0.500→1.000");
    assert_eq!((&layers["alpha"], &layers["layers"]), (&0.5.into(), &serde_json::json!([0.0, 0.5, 1.0])));
    let mean = kind("mean(symmetric, over train.seed)");
    assert_eq!((&mean["kind"], &mean["weights"]), (&"averaged".into(), &serde_json::json!([0.5, 0.5])));
    assert_eq!(
        kind("mean(s1 symmetric, s2 symmetric, base) w=0.500:0.250:0.250")["models"],
        serde_json::json!(["s1 symmetric", "s2 symmetric", "base"])
    );
    let search = &record["searches"][0];
    assert_eq!(search["evaluations"], 8);
    let (singles, ends) = (search["points"].as_array().unwrap(), search["end_points"].as_array().unwrap());
    assert_eq!((singles.len() + ends.len(), singles.len()), (8, 5));
    // What was chosen is the best of all that was evaluated.
    let score = |point: &Value| point["score"].as_f64().unwrap();
    let best = singles.iter().chain(ends).map(score).fold(f64::MIN, f64::max);
    let chosen: Vec<&Value> = singles.iter().chain(ends).filter(|p| score(p) == best).collect();
    let at = |p: &Value| {
        if p["alpha"].is_null() {
            (p["first"].clone(), p["last"].clone())
        } else {
            (p["alpha"].clone(), p["alpha"].clone())
        }
    };
    let found = (search["ends"][0].clone(), search["ends"][1].clone());
    assert!(chosen.iter().any(|p| at(p) == found), "{search}");
    assert!(search["chosen_interval"].is_array() && search["ends_intervals"][0].is_array());
    // The merge step forgets its end, as after a kill: its points are read again, and all is as it was.
    let plan: Value = serde_json::from_str(&std::fs::read_to_string(path("run/plan.json")).unwrap()).unwrap();
    let step = plan.as_array().unwrap().iter().find(|step| step["work"]["merge"]["merge"] == 0).unwrap();
    let merge = folder.path().join("run/steps").join(step["id"].as_str().unwrap());
    let points = |extension: &str| {
        let named = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().to_string();
        std::fs::read_dir(&merge)
            .unwrap()
            .map(|e| named(&e.unwrap()))
            .filter(|n| n.starts_with("alpha-") && n.ends_with(extension))
            .count()
    };
    assert_eq!(points(".json"), 8);
    for name in ["status.json", "merge.json", "alpha-0.500000.json"] {
        std::fs::remove_file(merge.join(name)).unwrap();
    }
    assert_eq!(run(), text);
    assert_eq!(points(".json"), 8);
}
