//! What of a run's folder can go, and taking it away.
//!
//! Only names that a run makes itself are ever touched. Each step's lock is held while something in its folder is removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::disk::{checkpoint_step, is_state, size};
use super::folder::{RunFolder, StoreError, read_json};
use super::lock::lives;
use super::models::{Model, models, remove};
use super::survey::{Kind, Rule, State, Survey, is_run};

/// A temporary file of another machine's process, or of a number that was given anew, is left over after this.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// Which models stay; the choice, and what is not done with, always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// All.
    #[default]
    All,
    /// Results of trainings, and merged models; checkpoints on the way go.
    Final,
    /// What merges are made of, and merged models.
    Merges,
    /// The choice.
    Best,
}

/// What something that goes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A state of a training that has ended.
    State,
    /// A step that the plan has no more.
    Leftover,
    /// A temporary file that a process left.
    Temporary,
    /// A lock that nobody holds.
    Lock,
    /// A checkpoint or merged model.
    Model,
}

impl What {
    /// For tables, singular and plural.
    pub fn name(self) -> [&'static str; 2] {
        match self {
            Self::State => ["state of a finished training", "states of finished trainings"],
            Self::Leftover => ["step that the plan has no more", "steps that the plan has no more"],
            Self::Temporary => ["temporary file", "temporary files"],
            Self::Lock => ["lock that nobody holds", "locks that nobody holds"],
            Self::Model => ["model", "models"],
        }
    }
}

/// Something that goes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Item {
    /// What it is.
    pub what: What,
    /// The file or folder.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Its name in tables, or why it goes.
    pub word: String,
    /// The step in whose folder it is.
    #[serde(skip)]
    step: Option<String>,
    #[serde(skip)]
    model: Option<Model>,
}

/// Why a run is not cleaned.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The folder is none of a run.
    #[error("{}: is no run of a sweep (it has no plan.json and steps/): nothing is removed there", .0.display())]
    NoRun(PathBuf),
    /// Its plan cannot be read, so that what belongs to it is not known.
    #[error(
        "{0}: what belongs to the run is not known, so nothing is removed; run the sweep again, which writes it anew"
    )]
    NoPlan(String),
    /// Somebody works on it.
    #[error("{}: process {pid} on {host} works on this run ({title}): nothing is removed; wait for it, or stop it", root.display())]
    Living {
        /// The run.
        root: PathBuf,
        /// The machine.
        host: String,
        /// The process.
        pid: u32,
        /// The step.
        title: String,
    },
    /// Its folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What can go of the run in this folder.
///
/// # Errors
/// Where it is no run, its plan cannot be read, or a living process works on it.
pub fn plan(root: &Path, keep: Keep, rule: &Rule) -> Result<Vec<Item>, CleanError> {
    if !is_run(root) {
        return Err(CleanError::NoRun(root.into()));
    }
    let survey = Survey::read(root);
    if survey.steps.is_empty() {
        let fault = survey.faults.first().cloned();
        let fault = fault.unwrap_or_else(|| format!("{}: has no steps", root.join("plan.json").display()));
        return Err(CleanError::NoPlan(fault));
    }
    refuse_living(&survey)?;
    let mut items = Vec::new();
    leftovers(&survey, &mut items);
    for step in survey.steps.iter().filter(|step| step.kind == Kind::Train) {
        if matches!(step.state, State::Complete(_)) {
            states(&survey.folder(&step.id), &step.id, &step.title, &mut items);
        }
    }
    for step in survey.steps.iter().filter(|step| step.stale.is_some()) {
        let path = survey.folder(&step.id).join("lock");
        items.push(item(What::Lock, path, step.title.clone(), Some(&step.id)));
    }
    if keep != Keep::All {
        for model in models(&survey, rule).into_iter().filter(|model| goes(model, keep)) {
            // What lies within it is not named twice.
            items.retain(|item| !item.path.starts_with(&model.folder));
            let step = Some(model.step.clone());
            let (path, bytes, word) = (model.folder.clone(), model.bytes, model.label.clone());
            items.push(Item { what: What::Model, path, bytes, word, step, model: Some(model) });
        }
    }
    temporary(root, 0, &mut items);
    items.sort_by(|a, b| a.what.cmp(&b.what).then_with(|| a.path.cmp(&b.path)));
    Ok(items)
}

fn goes(model: &Model, keep: Keep) -> bool {
    let spare = match keep {
        Keep::All => false,
        Keep::Final => !model.is_final,
        Keep::Merges => !(model.merged_from || model.checkpoint.is_none()),
        Keep::Best => true,
    };
    spare && model.needed.is_none()
}

fn item(what: What, path: PathBuf, word: String, step: Option<&str>) -> Item {
    Item { what, bytes: size(&path), path, word, step: step.map(String::from), model: None }
}

/// Every lock in the run's folder counts, also one of a step that the plan has no more.
fn refuse_living(survey: &Survey) -> Result<(), CleanError> {
    let entries = |name: &str| fs::read_dir(survey.root.join(name)).into_iter().flatten().flatten().map(|e| e.path());
    let heads = entries("heads").filter(|path| path.extension().is_some_and(|end| end == "lock"));
    let locks = entries("steps").map(|folder| folder.join("lock")).chain([survey.root.join("lock")]).chain(heads);
    for lock in locks {
        let Some(held) = super::lock::holder(&lock).filter(|held| !held.gone) else { continue };
        let folder = lock.parent().unwrap_or(&lock);
        let id = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let title = survey.step(&id).map_or(id, |step| step.title.clone());
        return Err(CleanError::Living { root: survey.root.clone(), host: held.host, pid: held.pid, title });
    }
    Ok(())
}

/// Folders of steps that neither the plan nor the record's variants come from.
fn leftovers(survey: &Survey, items: &mut Vec<Item>) {
    let mut known: BTreeSet<String> = survey.steps.iter().map(|step| step.id.clone()).collect();
    let mut open: Vec<String> =
        survey.record().map(|r| r.variants.into_iter().map(|v| v.id).collect()).unwrap_or_default();
    while let Some(id) = open.pop() {
        if !is_id(&id) || !known.insert(id.clone()) {
            continue;
        }
        let step: serde_json::Value = read_json(&survey.folder(&id).join("step.json")).unwrap_or_default();
        open.extend(step["inputs"].as_array().into_iter().flatten().filter_map(|v| Some(v.as_str()?.to_string())));
    }
    for entry in fs::read_dir(survey.root.join("steps")).into_iter().flatten().flatten() {
        let Ok(id) = entry.file_name().into_string() else { continue };
        if is_id(&id) && !known.contains(&id) && entry.file_type().is_ok_and(|t| t.is_dir()) {
            let step: serde_json::Value = read_json(&entry.path().join("step.json")).unwrap_or_default();
            let title = step["title"].as_str().unwrap_or("a step of an earlier config").to_string();
            items.push(item(What::Leftover, entry.path(), title, Some(&id)));
        }
    }
}

/// Whether a name is a step's id as the plan makes them: no other folder is ever removed.
fn is_id(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// States in a training's folder.
fn states(folder: &Path, id: &str, title: &str, items: &mut Vec<Item>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        if is_dir && is_state(&name) {
            items.push(item(What::State, entry.path(), title.into(), Some(id)));
        } else if is_dir && checkpoint_step(&name).is_some() {
            for inner in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let is_file = inner.file_type().is_ok_and(|t| t.is_file());
                if is_file && is_state(&inner.file_name().to_string_lossy()) {
                    items.push(item(What::State, inner.path(), title.into(), Some(id)));
                }
            }
        }
    }
}

/// The process that a temporary file's name ends in, as `data::atomic` and the locks make them.
fn writer(name: &str) -> Option<u32> {
    let stem = name.strip_suffix(".tmp")?;
    let ours = name.starts_with('.') || name.starts_with("lock.");
    stem.rsplit_once('.').filter(|_| ours)?.1.parse().ok()
}

/// Temporary files, and temporary folders of `best/`, whose process is gone.
fn temporary(folder: &Path, depth: usize, items: &mut Vec<Item>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if items.iter().any(|item| path.starts_with(&item.path)) {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        match writer(&name) {
            Some(pid) => {
                let age = entry.metadata().and_then(|m| m.modified()).ok();
                let age = age.and_then(|t| SystemTime::now().duration_since(t).ok()).unwrap_or_default();
                if !lives(pid) || age > LEFT_OVER {
                    items.push(item(What::Temporary, path, name, None));
                }
            }
            None if is_dir && depth < 4 => temporary(&path, depth + 1, items),
            None => {}
        }
    }
}

/// Takes away what [`plan`] named. Gives the bytes that were freed.
///
/// # Errors
/// Where a step was taken to work on meanwhile; the operating system's. What comes after it stays.
pub fn carry_out(root: &Path, items: &[Item]) -> Result<u64, CleanError> {
    let run = RunFolder::open(root)?;
    let mut freed = 0;
    for item in items {
        if let Some(id) = &item.step {
            let path = run.step(id).join("lock");
            super::lock::remove_gone(&path).map_err(|source| StoreError::Io { path, source })?;
        }
        let _lock = item.step.as_deref().map(|id| run.lock(id)).transpose()?;
        if let Some(model) = &item.model {
            freed += remove(&run, std::slice::from_ref(model), "embeval clean")?;
            continue;
        }
        if item.what != What::Lock {
            take_away(&item.path)?;
        }
        freed += item.bytes;
    }
    Ok(freed)
}

fn take_away(path: &Path) -> Result<(), StoreError> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let gone = if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match gone {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Io { path: path.into(), source: e }),
        _ => Ok(()),
    }
}
