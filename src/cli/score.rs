//! `embeval score`.

use std::path::PathBuf;

use serde_json::json;

use super::{Format, inputs, observer, print};
use crate::exec::encoder::ModelEncoder;
use crate::exec::to_record;
use crate::metric::{aggregate, bootstrap};
use crate::store::record::TaskRecord;
use crate::task::evaluate::{Evaluation, evaluate, protocol_seeds};
use crate::task::load::TaskData;
use crate::task::protocol::Protocol;
use crate::task::spec::Split;

/// Arguments of `score`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model's folder (sentence-transformers or plain transformers).
    model: PathBuf,
    /// Tasks: a task file, a folder of them, a name, a glob, `type=STS`, `lang=rus` (default: all in tasks/).
    #[arg(long, value_name = "SELECTOR", num_args = 1..)]
    tasks: Vec<String>,
    /// The side to score.
    #[arg(long, value_enum, default_value = "test")]
    split: Side,
    /// A LoRA adapter on top (PEFT's folder).
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Most rows of a split.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Seed of the protocol's draws (mteb's is 42).
    #[arg(long, default_value_t = 42)]
    seed: u32,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    Dev,
    Test,
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let selectors = if args.tasks.is_empty() { vec!["*".to_string()] } else { args.tasks.clone() };
    let mut tasks = inputs::tasks(&selectors, None)?;
    let skipped: Vec<String> =
        tasks.iter().filter(|t| !t.kind.available()).map(|t| format!("{} ({})", t.name, t.kind.name())).collect();
    if !skipped.is_empty() && skipped.len() < tasks.len() {
        tracing::warn!("not available yet, left out: {}", skipped.join(", "));
        tasks.retain(|t| t.kind.available());
    }
    let device = inputs::device(&args.device)?;
    let embedder = inputs::embedder(&args.model, args.adapter.as_deref(), &device)?;
    let bar = observer::bar(0, quiet);
    let progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let encoder = ModelEncoder::new(&embedder, &progress);
    let split = if args.split == Side::Dev { Split::Dev } else { Split::Test };
    let mut results = Vec::new();
    for task in &tasks {
        bar.set_message(task.name.clone());
        let Some(data) = TaskData::load(task, split, args.limit)? else {
            tracing::warn!("{} has no dev side, left out", task.name);
            continue;
        };
        let evaluation = evaluate(task, split, &data, &encoder, &protocol_seeds(1, args.seed), Protocol::default())?;
        tracing::info!("{}: {:.4}", task.name, evaluation.seeds.first().map_or(f64::NAN, |s| s.1.main_score));
        if let Some(record) = to_record(task, &evaluation) {
            results.push((record, evaluation));
        }
    }
    bar.finish_and_clear();
    if encoder.truncated.get() > 0 {
        tracing::info!("{} texts were cut at the model's limit", encoder.truncated.get());
    }
    let model = args.model.display().to_string();
    print(&match args.format {
        Format::Json => as_json(&model, split, args.limit, &results)?,
        Format::Table => as_table(&results, false),
        Format::Markdown => as_table(&results, true),
    })
}

/// (mean over tasks, mean over task types).
fn means(results: &[(TaskRecord, Evaluation)]) -> (Option<f64>, Option<f64>) {
    let scores: Vec<Option<f64>> = results.iter().map(|(r, _)| Some(r.main_score)).collect();
    let typed: Vec<(&str, Option<f64>)> =
        results.iter().map(|(r, _)| (r.task_type.as_str(), Some(r.main_score))).collect();
    (aggregate::mean_task(&scores), aggregate::mean_task_type(&typed))
}

fn as_json(
    model: &str,
    split: Split,
    limit: Option<usize>,
    results: &[(TaskRecord, Evaluation)],
) -> anyhow::Result<String> {
    let (mean_task, mean_task_type) = means(results);
    let tasks: Vec<serde_json::Value> = results
        .iter()
        .map(|(record, evaluation)| {
            let (low, high) = bootstrap::interval(&record.replicates(), 0.95);
            json!({
                "name": record.name, "type": record.task_type, "split": split.name(), "main_score": record.main_score,
                "metric": record.metric, "scores": evaluation.seeds[0].1.scores, "ci95": [low, high], "rows": record.rows,
            })
        })
        .collect();
    let document = json!({
        "model": model, "tasks": tasks, "mean_task": mean_task, "mean_task_type": mean_task_type, "limit": limit,
        "protocol": {"mteb": "2.26", "sklearn": "1.9"},
    });
    Ok(serde_json::to_string_pretty(&document)?)
}

fn as_table(results: &[(TaskRecord, Evaluation)], markdown: bool) -> String {
    let mut rows: Vec<[String; 5]> =
        vec![["Task".into(), "Type".into(), "Metric".into(), "Score".into(), "95 %".into()]];
    for (record, _) in results {
        let (low, high) = bootstrap::interval(&record.replicates(), 0.95);
        rows.push([
            record.name.clone(),
            record.task_type.clone(),
            record.metric.clone(),
            format!("{:.4}", record.main_score),
            format!("{low:.4} to {high:.4}"),
        ]);
    }
    let (mean_task, mean_task_type) = means(results);
    for (name, mean) in [("Mean (Task)", mean_task), ("Mean (TaskType)", mean_task_type)] {
        let mean = mean.map_or_else(|| "–".into(), |m| format!("{m:.4}"));
        rows.push([name.into(), String::new(), format!("{} tasks", results.len()), mean, String::new()]);
    }
    let widths: Vec<usize> = (0..5).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        if markdown {
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
            if i == 0 {
                out.push_str("|---|---|---|---:|---|\n");
            }
        } else {
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
    }
    out
}
