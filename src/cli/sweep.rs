//! `embeval sweep`.

use std::path::PathBuf;

use anyhow::{Context, bail};

use super::observer::Bars;
use super::{Misuse, inputs, print};
use crate::config::Document;
use crate::config::schema::Base;
use crate::data::size;
use crate::exec::Engine;
use crate::plan::{Plan, PlanError, tasks_identity};
use crate::store::folder::RunFolder;

/// Arguments of `sweep`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The config.
    config: PathBuf,
    /// Override a setting: `--set train.lr=1e-4` (the value is YAML).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print the trials and steps, run nothing.
    #[arg(long)]
    dry_run: bool,
    /// Folder of the run (default runs/NAME).
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Folder of the report (default reports/NAME).
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:N (default: the config's).
    #[arg(long)]
    device: Option<String>,
    /// Bytes that embeddings kept on the disk may take ($EMBEVAL_CACHE, else ~/.cache/embeval); 0 keeps none.
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = size::parse)]
    cache_size: u64,
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let document = Document::load(&args.config, &args.sets)?;
    let mut trials = document.trials()?;
    let axes: Vec<(String, Vec<String>)> = document
        .axes()?
        .into_iter()
        .map(|(key, values)| (key, values.iter().map(|v| v.value.show()).collect()))
        .collect();
    if !args.dry_run {
        let mut known: Vec<(String, PathBuf)> = Vec::new();
        for trial in &mut trials {
            let Base::Hub { id, folder } = &mut trial.config.base else { continue };
            let found = match known.iter().find(|(name, _)| *name == *id) {
                Some((_, folder)) => folder.clone(),
                None => {
                    let folder = inputs::source(id, None, quiet)?.folder;
                    known.push((id.clone(), folder.clone()));
                    folder
                }
            };
            *folder = Some(found);
        }
    }
    let Some(config) = trials.first().map(|t| t.config.clone()) else {
        bail!(Misuse(format!("{}: spans no trials", args.config.display())));
    };
    if config.score.tasks.is_empty() {
        bail!(Misuse(format!("{}: score.tasks: is missing: name at least one task", args.config.display())));
    }
    let tasks = inputs::tasks(&config.score.tasks, args.config.parent())?;
    for trial in &mut trials {
        if !trial.config.train.eval_tasks.is_empty() {
            let specs = inputs::tasks(&trial.config.train.eval_tasks, args.config.parent())?;
            trial.config.train.eval_print = Some(tasks_identity(&specs, &trial.config.score)?);
        }
    }
    let plan = Plan::new(config, axes, trials, tasks).map_err(|e| match e {
        PlanError::Config(message) => anyhow::Error::from(Misuse(message)),
        other => other.into(),
    })?;
    if args.dry_run {
        return print(&describe(&plan));
    }
    let name = plan.config.name.clone();
    let device = inputs::device(args.device.as_deref().unwrap_or(&plan.config.run.device))?;
    let root = args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(&name));
    let report = args.report.clone().unwrap_or_else(|| PathBuf::from("reports").join(&name));
    let folder = RunFolder::open(&root)?;
    // Found now rather than after hours of work.
    std::fs::create_dir_all(&report)
        .with_context(|| format!("{}: the report cannot be written there", report.display()))?;
    let write = |name: &str, content: &[u8]| {
        let path = root.join(name);
        crate::data::atomic::write(&path, content).with_context(|| format!("{}: cannot be written", path.display()))
    };
    write("config.yaml", document.text().as_bytes())?;
    write("plan.json", serde_json::to_string_pretty(&plan.steps)?.as_bytes())?;
    let observer = Bars::new(quiet);
    let mut engine = Engine::new(&plan, folder, device, &observer);
    engine.datasets = Box::new(inputs::datasets(quiet));
    engine.cache = inputs::cache(args.cache_size);
    let beside = args.config.parent().map(std::path::Path::to_path_buf);
    engine.select = Box::new(move |selectors| inputs::chosen(selectors, beside.as_deref()).map(|chosen| chosen.tasks));
    engine.run()?;
    let record = engine.collect()?;
    crate::report::write(&record, &report)?;
    let chosen = record.choice.as_ref().and_then(|c| record.variants.iter().find(|v| v.id == c.id));
    let chosen = chosen.map_or("nothing could be chosen", |v| v.label.as_str());
    print(&format!("chosen: {chosen}\nreport: {}", report.join("README.md").display()))
}

/// The trials and steps in words.
fn describe(plan: &Plan) -> String {
    let mut out = format!("{} trials\n", plan.trials.len());
    for t in &plan.trials {
        out.push_str(&format!(
            "  {}: {} steps, checkpoints at {}\n",
            t.trial.label,
            t.steps,
            t.checkpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    let tasks: Vec<&str> = plan.tasks.iter().map(|t| t.name.as_str()).collect();
    out.push_str(&format!("{} tasks: {}\n", tasks.len(), tasks.join(", ")));
    out.push_str(&format!("{} steps\n", plan.steps.len()));
    for step in &plan.steps {
        out.push_str(&format!("  {}  {}\n", step.id, step.title));
    }
    out
}
