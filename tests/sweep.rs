//! A sweep from outside: shared by processes, killed, damaged, pruned; the same numbers come out.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The binary at the root of the project, with a cache of its own.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_embeval"));
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("EMBEVAL_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("sweep-cache"));
    command
}

/// A sweep small enough for a test: the bundled data, a tiny model.
fn tiny_sweep(run: &Path, report: &Path) -> Command {
    let mut command = command();
    command.args([
        "sweep",
        "configs/sweep.yaml",
        "--output",
        &text(run),
        "--report",
        &text(report),
        "--set",
        "base.scratch={layers: 1, hidden: 32, vocabulary: 600, max_length: 32}",
        "--set",
        "train={max_steps: 8, batch: 32, lr: 1e-3, eval_every: 4, save_every: 4}",
        "--set",
        "loss.hard_negatives=1",
        "--set",
        "score.seeds=2",
        "--set",
        "choose.seeds=1",
    ]);
    command
}

fn quiet(mut command: Command) -> Command {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// With further settings.
fn with(mut command: Command, sets: &[&str]) -> Command {
    for set in sets {
        command.args(["--set", set]);
    }
    command
}

/// Runs to the end; gives the exit code and what was told.
fn told(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).to_string();
    assert!(!error.contains("panicked"), "{error}");
    (output.status.code(), error)
}

/// Asserts that two reports are the same files with the same bytes.
fn same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert_eq!(a.iter().map(|f| &f.0).collect::<Vec<_>>(), b.iter().map(|f| &f.0).collect::<Vec<_>>());
    for ((name, x), (_, y)) in a.iter().zip(&b) {
        assert!(x == y, "{name} differs");
    }
}

/// The processes that a process started.
fn children(of: &Child) -> Vec<u32> {
    let path = format!("/proc/{0}/task/{0}/children", of.id());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Every file of a report, by name.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    let mut stack = vec![folder.to_path_buf()];
    while let Some(place) = stack.pop() {
        for entry in std::fs::read_dir(&place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path);
            } else {
                out.push((path.strip_prefix(folder).unwrap().display().to_string(), std::fs::read(&path).unwrap()));
            }
        }
    }
    out.sort();
    out
}

#[test]
fn a_sweep_killed_five_times_ends_like_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, whole_report) = (folder.path().join("a"), folder.path().join("ra"));
    let start = Instant::now();
    assert!(quiet(tiny_sweep(&whole, &whole_report)).status().unwrap().success());
    let full = start.elapsed();
    let (broken, broken_report) = (folder.path().join("b"), folder.path().join("rb"));
    // Instants spread over the run; where in a step they fall is chance.
    for part in [7, 23, 31, 13, 17] {
        let mut child = quiet(tiny_sweep(&broken, &broken_report)).spawn().unwrap();
        std::thread::sleep(full * part / 100);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(quiet(tiny_sweep(&broken, &broken_report)).status().unwrap().success());
    same(&whole_report, &broken_report);
    // Run once more, there is nothing to do.
    let before = std::fs::metadata(broken.join("steps")).unwrap().modified().unwrap();
    assert!(quiet(tiny_sweep(&broken, &broken_report)).status().unwrap().success());
    assert_eq!(before, std::fs::metadata(broken.join("steps")).unwrap().modified().unwrap());
}

#[test]
fn a_dry_run_lists_trials_and_steps_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output =
        command().args(["sweep", "configs/sweep.yaml", "--dry-run", "--output", &text(&run)]).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && out.contains("4 trials") && out.contains("searching for α"), "{out}");
    // Base, three checkpoints a trial, and two merges to score.
    assert!(out.contains("to train: 4 trainings, 1240 steps") && out.contains("to score: 15 models"), "{out}");
    assert!(!run.exists());
}

#[test]
fn workers_killed_at_any_instant_are_started_again_and_the_rest_is_not_done_twice() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let start = Instant::now();
    assert!(quiet(tiny_sweep(&at("a"), &at("ra"))).status().unwrap().success());
    let full = start.elapsed();
    // Two at a time: other processes, other order, the same numbers.
    let command = with(tiny_sweep(&at("b"), &at("rb")), &["run={jobs: 2, retries: 20}"]);
    let mut head = quiet(command).spawn().unwrap();
    let mut killed = 0;
    let mut part = 7;
    while head.try_wait().unwrap().is_none() && killed < 5 {
        std::thread::sleep(full * part / 100);
        part = part * 5 % 23;
        if let Some(pid) = children(&head).first() {
            killed += u32::from(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        }
    }
    assert!(head.wait().unwrap().success());
    assert!(killed > 0);
    same(&at("ra"), &at("rb"));
}

#[test]
fn two_processes_share_a_sweep_and_do_no_step_twice() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let start = |report: &str| {
        let mut command = tiny_sweep(&at("run"), &at(report));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start("a"), start("b")];
    let mut steps = Vec::new();
    for child in both {
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(output.status.success(), "{error}");
        steps.extend(error.lines().filter(|l| l.starts_with('[')).map(String::from));
    }
    let all = steps.len();
    steps.sort();
    steps.dedup();
    let planned: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(at("run").join("plan.json")).unwrap()).unwrap();
    assert_eq!((all, steps.len()), (planned.len(), planned.len()));
    same(&at("a"), &at("b"));
}

#[test]
fn another_plan_is_not_run_into_a_folder_where_one_is_at_work() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut first = quiet(tiny_sweep(&at("run"), &at("a"))).spawn().unwrap();
    let started = Instant::now();
    while !at("run").join("plan.json").exists() {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    let (code, error) = told(with(tiny_sweep(&at("run"), &at("b")), &["train.max_steps=6"]));
    assert!(code == Some(1) && error.contains("runs another plan"), "{error}");
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_trial_that_fails_is_told_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sets = ["grid={train.freeze: [[], [no.such.tensor]]}", "merge=[]"];
    let (code, error) = told(with(tiny_sweep(&at("run"), &at("report")), &sets));
    assert!(code == Some(1) && error.contains("1 of 13 steps failed"), "{error}");
    assert!(error.contains("`no.such.tensor` names no tensor of the model"), "{error}");
    let page = std::fs::read_to_string(at("report").join("README.md")).unwrap();
    assert!(page.contains("names no tensor of the model") && page.contains("**Chosen: "), "{page}");
    // What failed is tried again, what is complete is not.
    let (code, error) = told(with(tiny_sweep(&at("run"), &at("report")), &sets));
    assert_eq!((code, error.lines().filter(|l| l.starts_with('[')).count()), (Some(1), 1), "{error}");
}

#[test]
fn damaged_outputs_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(quiet(tiny_sweep(&at("run"), &at("a"))).status().unwrap().success());
    let steps: Vec<serde_json::Value> =
        serde_json::from_slice(&std::fs::read(at("run").join("plan.json")).unwrap()).unwrap();
    let find = |word: &str| {
        let step = steps.iter().find(|s| s["title"].as_str().unwrap().starts_with(word)).unwrap();
        at("run").join("steps").join(step["id"].as_str().unwrap())
    };
    // A file cut short, one with other bytes, one that is missing.
    let scores = find("score").join("scores.json");
    let whole = std::fs::read(&scores).unwrap();
    std::fs::write(&scores, &whole[..whole.len() / 2]).unwrap();
    let log = find("train").join("training.json");
    let bytes: Vec<u8> = std::fs::read(&log).unwrap().iter().map(|b| if *b == b'1' { b'2' } else { *b }).collect();
    std::fs::write(&log, bytes).unwrap();
    std::fs::remove_file(find("merge").join("model/model.safetensors")).unwrap();
    let (code, error) = told(tiny_sweep(&at("run"), &at("b")));
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(error.matches("it is done anew").count(), 3, "{error}");
    assert_eq!(error.lines().filter(|l| l.starts_with('[')).count(), 3, "{error}");
    same(&at("a"), &at("b"));
}

#[test]
fn halving_prunes_the_same_trials_in_any_order() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sets = [
        "grid={train.lr: [1e-3, 1e-5, 3e-3, 1e-6]}",
        "merge=[]",
        "train={max_steps: 8, batch: 32, eval_every: 2}",
        "prune={rule: successive_halving, min_steps: 2, factor: 2}",
    ];
    let (code, error) = told(with(tiny_sweep(&at("a"), &at("ra")), &sets));
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(error.lines().filter(|l| l.starts_with("pruned: ")).count(), 3, "{error}");
    let page = std::fs::read_to_string(at("ra").join("README.md")).unwrap();
    assert!(page.contains("number 4 of 4") && page.contains("number 2 of 2"), "{page}");
    let mut two = with(tiny_sweep(&at("b"), &at("rb")), &sets);
    two.args(["--jobs", "2"]);
    assert_eq!(told(two).0, Some(0));
    same(&at("ra"), &at("rb"));
    // Without pruning the trials that were stopped go on from there.
    let (code, error) = told(with(tiny_sweep(&at("a"), &at("ra")), &sets[..3]));
    assert_eq!(code, Some(0), "{error}");
    assert!(quiet(with(tiny_sweep(&at("c"), &at("rc")), &sets[..3])).status().unwrap().success());
    same(&at("ra"), &at("rc"));
}
