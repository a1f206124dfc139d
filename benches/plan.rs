//! How long a plan of ten thousand trials takes, and how much memory: `cargo bench --profile dev --bench plan`.
//!
//! Axes of 10, 10, 10, 5 and 2 values over a bundled file, pairs merged over the last axis. Prints the seconds of each stage
//! and the most memory that the process had.

use std::path::Path;
use std::time::Instant;

use embeval::config::Document;
use embeval::plan::Plan;

const CONFIG: &str = "
name: plan
base: {scratch: {layers: 2, hidden: 128, vocabulary: 2000, max_length: 64, seed: 1}}
data: {train: ../tasks/everyday/pairs-train.jsonl, dev: ../tasks/everyday/pairs-dev.jsonl}
loss: {name: info_nce, hard_negatives: 2}
adapter: {kind: lora}
train: {epochs: 3, batch: 32}
grid:
  train.lr: {from: 1e-5, to: 1e-3, count: 10, scale: log}
  loss.temperature: {from: 0.01, to: 0.1, step: 0.01}
  train.seed: {from: 1, to: 10, step: 1}
  adapter.rank: [4, 8, 16, 32, 64]
  objective: [symmetric, asymmetric]
merge:
  - slerp: {first: {objective: symmetric}, second: {objective: asymmetric}, alpha: auto}
  - linear: {over: train.seed}
score: {tasks: [../tasks/everyday], checkpoints: last}
";

/// The most memory so far, in MB (Linux).
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let before = peak();
    let start = Instant::now();
    let document = Document::parse(CONFIG, "plan.yaml", &folder, &[]).expect("the config is right");
    let trials = document.trials().expect("the grid is right");
    let axes = document.axes().expect("the grid is right");
    let axes = axes.into_iter().map(|(key, values)| (key, values.iter().map(|v| v.value.show()).collect())).collect();
    let spanned = start.elapsed();
    let config = trials[0].config.clone();
    let tasks = embeval::task::select::select(&config.score.tasks, &[]).expect("the tasks are bundled").tasks;
    let plan = Plan::new(config, axes, trials, tasks).expect("the plan is right");
    println!(
        "{} trials, {} merges, {} steps: {:.2} s ({:.2} s of it the trials), {:.0} MB at most ({before:.0} MB at the start)",
        plan.trials.len(),
        plan.merges.len(),
        plan.steps.len(),
        start.elapsed().as_secs_f64(),
        spanned.as_secs_f64(),
        peak()
    );
}
