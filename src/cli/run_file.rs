//! `run.json`: what a run was started with, so that worker processes do the same.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::inputs;
use crate::config::Document;
use crate::config::schema::Base;
use crate::exec::Engine;
use crate::exec::event::Observer;
use crate::hub::HubError;
use crate::plan::{Plan, PlanError, tasks_identity};
use crate::store::folder::{RunFolder, read_json, write_json};

/// What a run was started with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// The config as it was named.
    pub config: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its text.
    pub text: String,
    /// Overrides.
    pub sets: Vec<String>,
    /// The folder that paths in overrides are relative to.
    pub directory: PathBuf,
    /// Where to compute.
    pub device: String,
    /// Bytes that embeddings kept on the disk may take.
    pub cache_size: u64,
    /// Folder of the report.
    pub report: PathBuf,
    /// How trials are pruned: those that were by other rules are taken up again.
    pub prune: Option<serde_json::Value>,
}

/// Name of the file.
const NAME: &str = "run.json";

impl RunFile {
    /// Reads a run's file.
    ///
    /// # Errors
    /// Where it is missing or damaged.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        Ok(read_json(&root.join(NAME))?)
    }

    /// Writes it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write(&self, root: &Path) -> anyhow::Result<()> {
        Ok(write_json(&root.join(NAME), self)?)
    }

    /// The config again.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn document(&self) -> anyhow::Result<Document> {
        Ok(Document::parse(&self.text, &self.config, &self.folder, &self.sets)?)
    }
}

/// Makes the plan of a config, the base fetched from the hub where it is there.
///
/// # Errors
/// Every fault of the config; data, tasks or models that cannot be read.
pub fn plan(document: &Document, quiet: bool) -> anyhow::Result<Plan> {
    made(document, false, &mut |id| Ok(Some(inputs::source(id, None, quiet)?.folder)))
}

/// Makes a plan that is only shown: training files may be absent, and so may the base be, where it is not fetched or the hub is
/// out of reach.
///
/// # Errors
/// As [`plan`], but for what may be absent.
pub fn sketch(document: &Document, fetch: bool, quiet: bool) -> anyhow::Result<Plan> {
    let is_out_of_reach = |e: &anyhow::Error| e.downcast_ref().is_some_and(HubError::is_out_of_reach);
    made(document, true, &mut |id| match fetch.then(|| inputs::source(id, None, quiet)) {
        Some(Err(e)) if is_out_of_reach(&e) => Ok(None),
        Some(found) => Ok(Some(found?.folder)),
        None => Ok(None),
    })
}

/// A base's folder by its id on the hub.
type Fetch<'a> = dyn FnMut(&str) -> anyhow::Result<Option<PathBuf>> + 'a;

fn made(document: &Document, sketch: bool, fetch: &mut Fetch<'_>) -> anyhow::Result<Plan> {
    let (_, file, folder, _) = document.source();
    let mut trials = document.trials()?;
    let axes: Vec<(String, Vec<String>)> = document
        .axes()?
        .into_iter()
        .map(|(key, values)| (key, values.iter().map(|v| v.value.show()).collect()))
        .collect();
    let mut alone = if trials.is_empty() { Some(document.check()?) } else { None };
    let mut known: Vec<(String, Option<PathBuf>)> = Vec::new();
    for config in trials.iter_mut().map(|trial| &mut trial.config).chain(&mut alone) {
        let Base::Hub { id, folder } = &mut config.base else { continue };
        let found = match known.iter().find(|(name, _)| *name == *id) {
            Some((_, folder)) => folder.clone(),
            None => {
                let folder = fetch(id)?;
                known.push((id.clone(), folder.clone()));
                folder
            }
        };
        *folder = found;
    }
    let misuse = |message: String| anyhow::Error::from(super::Misuse(message));
    let Some(config) = trials.first().map(|t| t.config.clone()).or(alone) else {
        return Err(misuse(format!("{file}: spans no trials")));
    };
    if config.score.tasks.is_empty() {
        return Err(misuse(format!("{file}: score.tasks: is missing: name at least one task")));
    }
    let tasks = inputs::tasks(&config.score.tasks, Some(folder))?;
    let mut prints: Vec<(Vec<String>, String)> = Vec::new();
    for trial in &mut trials {
        let selectors = &trial.config.train.eval_tasks;
        if selectors.is_empty() {
            continue;
        }
        let print = match prints.iter().find(|(known, _)| known == selectors) {
            Some((_, print)) => print.clone(),
            None => {
                let print = tasks_identity(&inputs::tasks(selectors, Some(folder))?, &trial.config.score)?;
                prints.push((selectors.clone(), print.clone()));
                print
            }
        };
        trial.config.train.eval_print = Some(print);
    }
    let plan = if sketch { Plan::sketch } else { Plan::new };
    plan(config, axes, trials, tasks).map_err(|e| match e {
        PlanError::Config(message) => misuse(message),
        other => other.into(),
    })
}

/// A run's steps as `plan.json` has them.
///
/// # Errors
/// None that is known.
pub fn steps_text(plan: &Plan) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(&plan.steps)?)
}

/// An engine for a plan, with all that it reads from.
///
/// # Errors
/// Where the device is not there.
pub fn engine<'a>(
    plan: &'a Plan,
    run: &RunFile,
    root: &Path,
    observer: &'a dyn Observer,
    quiet: bool,
) -> anyhow::Result<Engine<'a>> {
    let folder = RunFolder::open(root)?;
    let mut engine = Engine::new(plan, folder, inputs::device(&run.device)?, observer);
    engine.datasets = Box::new(inputs::datasets(quiet));
    engine.cache = inputs::cache(run.cache_size);
    let beside = run.folder.clone();
    engine.select = Box::new(move |selectors| inputs::chosen(selectors, Some(&beside)).map(|chosen| chosen.tasks));
    Ok(engine)
}

/// A path that stays what it is in another working folder.
///
/// # Errors
/// The operating system's.
pub fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{}: cannot be resolved", path.display()))
}
