//! `embeval train`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Format, Misuse, inputs, observer, peak_mb, print};
use crate::config::schema::Base;
use crate::config::{Config, Document};
use crate::exec::dev_tasks::DevTasks;
use crate::exec::settings;
use crate::exec::training::Training;
use crate::model::{ModelFiles, prompts};
use crate::plan::sets::TrainingSets;
use crate::plan::{folder_fingerprint, step_id, tasks_identity, training_identity};
use crate::task::protocol::Protocol;
use crate::train::checkpoint;
use crate::train::run::Output;

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The config (of a single trial: no grid).
    config: PathBuf,
    /// Override a setting: `--set train.lr=1e-4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Folder that gets checkpoints and logs (default runs/NAME). An interrupted run there is taken up where it stopped.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Begin anew: remove what an earlier run left in the output folder.
    #[arg(long)]
    restart: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let document = Document::load(&args.config, &args.sets)?;
    let mut trials = document.trials()?;
    if trials.is_empty() {
        anyhow::bail!(Misuse(format!("{}: has nothing to train: data.train is missing", args.config.display())));
    }
    let (Some(trial), true) = (trials.pop(), trials.is_empty()) else {
        anyhow::bail!(Misuse(format!("{}: spans several trials: use `embeval sweep`", args.config.display())));
    };
    let mut config = trial.config;
    if !config.train.eval_tasks.is_empty() {
        let specs = inputs::tasks(&config.train.eval_tasks, args.config.parent())?;
        config.train.eval_print = Some(tasks_identity(&specs, &config.score)?);
    }
    let device = inputs::device(&config.run.device)?;
    let sets = TrainingSets::default();
    let mut id = None;
    let (base, base_name, print_of_base) = match &config.base {
        Base::Folder(path) => (ModelFiles::load(path)?, path.display().to_string(), folder_fingerprint(path)?),
        Base::Hub { id: name, .. } => {
            let source = inputs::source(name, None, quiet)?;
            let fingerprint = folder_fingerprint(&source.folder)?;
            id.clone_from(&source.id);
            (ModelFiles::load(&source.folder)?, source.id.unwrap_or_else(|| name.clone()), fingerprint)
        }
        Base::Scratch(s) => {
            let fingerprint = step_id("scratch", 1, &json!(s));
            (settings::base_from_nothing(&config, s, &sets)?, "base".to_string(), fingerprint)
        }
    };
    let fingerprint = training_identity(&config, print_of_base)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(&config.name));
    let tasks = dev_tasks(&config, args.config.parent(), id.as_deref(), quiet)?;
    // What cannot be read is told before anything is removed.
    sets.sources(&config, &settings::own_prompts(&config, &base))?;
    if args.restart {
        checkpoint::clear(&output)?;
    } else if let Some(found) = finished(&output, &fingerprint)? {
        tracing::warn!("{}: this very run has finished before (--restart runs it again)", output.display());
        return print(&match args.format {
            Format::Json => serde_json::to_string(&found)?,
            _ => format!("{} steps, done before\n{}", found["steps"], found["output"].as_str().unwrap_or_default()),
        });
    }
    let bar = observer::bar(0, quiet);
    let training = Training {
        config: &config,
        label: &config.name,
        base: &base,
        base_name: &base_name,
        sets: &sets,
        tasks: tasks.as_ref(),
        device: &device,
        output: Some(&output),
        fingerprint: &fingerprint,
        progress: &|step, steps, loss| {
            bar.set_length(steps as u64);
            bar.set_position(step as u64);
            bar.set_message(format!("loss {loss:.4}"));
        },
        hold: None,
    };
    let (result, _) = training.run()?;
    bar.finish_and_clear();
    let folder = output.join(checkpoint::checkpoint_name(result.result));
    let summary = summary(&result, &folder, &fingerprint);
    let path = output.join(SUMMARY);
    crate::data::atomic::write(&path, format!("{summary:#}\n").as_bytes())
        .map_err(|e| anyhow::anyhow!("{}: cannot be written: {e}", path.display()))?;
    crate::report::write_curves(&[training.curve(&result)], &output)?;
    print(&match args.format {
        Format::Json => serde_json::to_string(&summary)?,
        _ => words(&result, &folder),
    })
}

/// What `train` said of a finished run, kept beside its checkpoints.
const SUMMARY: &str = "summary.json";

/// The summary of this very run, where it has finished in this folder.
fn finished(output: &Path, fingerprint: &str) -> anyhow::Result<Option<serde_json::Value>> {
    let Some(result) = checkpoint::read_final(output) else { return Ok(None) };
    let read = |text: String| serde_json::from_str::<serde_json::Value>(&text).ok();
    let found = std::fs::read_to_string(output.join(SUMMARY)).ok().and_then(read);
    match found {
        Some(found) if found["run"].as_str() == Some(fingerprint) => {
            let folder = output.join(checkpoint::checkpoint_name(result.step));
            Ok(folder.is_dir().then_some(found))
        }
        _ => Ok(None),
    }
}

/// The tasks that are scored while training.
fn dev_tasks(
    config: &Config,
    beside: Option<&Path>,
    id: Option<&str>,
    quiet: bool,
) -> anyhow::Result<Option<DevTasks>> {
    if config.train.eval_tasks.is_empty() {
        return Ok(None);
    }
    let specs = inputs::tasks(&config.train.eval_tasks, beside)?;
    let protocol: Protocol = config.score.protocol.parse().unwrap_or_default();
    let registered = id.and_then(prompts::registered);
    let limit = |task: &str| config.score.limit_of(task);
    Ok(Some(DevTasks::load(&specs, &limit, &inputs::datasets(quiet), protocol, registered)?))
}

fn rate(result: &Output) -> f64 {
    result.tokens as f64 / result.seconds.max(1e-9)
}

fn summary(result: &Output, folder: &Path, fingerprint: &str) -> serde_json::Value {
    json!({
        "run": fingerprint, "steps": result.steps, "tokens": result.tokens,
        "seconds": (result.seconds * 1e3).round() / 1e3, "tokens_per_second": rate(result).round(), "peak_mb": peak_mb(),
        "weight_mb": (result.weight_bytes.held as f64 / 1e5).round() / 10.0,
        "weight_mb_f32": (result.weight_bytes.dense as f64 / 1e5).round() / 10.0,
        "losses": result.losses, "dev": result.dev, "best": result.best, "result_step": result.result,
        "resumed_from": result.resumed, "truncated": result.truncated,
        "warnings": result.warnings.iter().map(|w| w.0.as_str()).collect::<Vec<_>>(), "output": folder.display().to_string(),
    })
}

fn words(result: &Output, folder: &Path) -> String {
    let mut out = format!(
        "{} steps, {} tokens, {:.1} s, {:.0} tokens/s, {} MB at the most, loss {:.4} to {:.4}\n",
        result.steps,
        result.tokens,
        result.seconds,
        rate(result),
        peak_mb(),
        result.losses.first().copied().unwrap_or(f64::NAN),
        result.losses.last().copied().unwrap_or(f64::NAN)
    );
    if let Some(point) = result.dev.last() {
        let figures = [("loss", point.loss), ("MRR", point.mrr)];
        let figures: Vec<String> = figures
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name} {:.4}", value?)))
            .chain(point.tasks.iter().map(|(name, score)| format!("{name} {score:.4}")))
            .collect();
        out.push_str(&format!("dev after the last step: {}\n", figures.join(", ")));
    }
    if let Some((metric, value)) = &result.best {
        out.push_str(&format!("best {metric} {value:.4}, the result is step {}\n", result.result));
    }
    out.push_str(&folder.display().to_string());
    out
}
