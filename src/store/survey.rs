//! A run as it is found on the disk, by whoever made it and however far it came: read, never written. What is missing or
//! damaged is told among the faults.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;

use super::folder::read_json;
use super::lock::{Holder, holder};
use super::record::{RunRecord, TaskRecord};
use super::scoring::rule_score;

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Makes the base.
    Base,
    /// Trains.
    Train,
    /// Merges.
    Merge,
    /// Scores.
    Score,
    /// Something that this version does not know.
    Other,
}

impl Kind {
    /// As in `plan.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Train => "train",
            Self::Merge => "merge",
            Self::Score => "score",
            Self::Other => "other",
        }
    }
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// To be done, or begun and left.
    Waiting,
    /// A living process works on it.
    Running(Holder),
    /// Done, in so many seconds.
    Complete(f64),
    /// It could not be done.
    Failed {
        /// Why.
        message: String,
        /// Times that it was tried.
        attempts: u64,
    },
    /// Stopped for the sake of others, and why.
    Pruned(String),
}

impl State {
    /// `waiting`, `running` and so on.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running(_) => "running",
            Self::Complete(_) => "complete",
            Self::Failed { .. } => "failed",
            Self::Pruned(_) => "pruned",
        }
    }

    /// Whether nothing more is to be done on it.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Complete(_) | Self::Pruned(_))
    }
}

/// The model that a step scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scored {
    /// The step that makes it; none for a base that is a folder.
    pub producer: Option<String>,
    /// Optimizer step, of a checkpoint.
    pub checkpoint: Option<usize>,
    /// `dev` or `test`.
    pub split: String,
}

/// A step of the plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its id, which is its folder's name.
    pub id: String,
    /// For people.
    pub title: String,
    /// What it does.
    pub kind: Kind,
    /// Steps that it reads.
    pub inputs: Vec<String>,
    /// What it scores.
    pub scored: Option<Scored>,
    /// What became of it.
    pub state: State,
    /// A lock that nobody holds.
    pub stale: Option<Holder>,
}

impl Step {
    /// The name of the model that it scores.
    pub fn label(&self) -> &str {
        let title = self.title.strip_prefix("score ").unwrap_or(&self.title);
        let split = self.scored.as_ref().map_or("", |s| s.split.as_str());
        title.strip_suffix(split).and_then(|t| t.strip_suffix(" on ")).unwrap_or(title)
    }
}

/// What the best is best by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `mean_task_type`, `mean_task` or a task's name.
    pub by: String,
    /// `dev` or `test`.
    pub on: String,
}

impl Default for Rule {
    fn default() -> Self {
        Self { by: "mean_task_type".into(), on: "dev".into() }
    }
}

/// The best so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Best {
    /// The step that scored it.
    pub id: String,
    /// Its name.
    pub label: String,
    /// The side.
    pub on: String,
    /// The rule.
    pub by: String,
    /// Its score.
    pub score: f64,
    /// Models scored so far.
    pub scored: usize,
    /// Models to score.
    pub all: usize,
}

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    /// Its folder.
    pub root: PathBuf,
    /// The plan's steps, in order.
    pub steps: Vec<Step>,
    /// What could not be read, in words.
    pub faults: Vec<String>,
}

/// Whether a folder is a run's: it has a plan, or a record, beside its steps.
pub fn is_run(root: &Path) -> bool {
    root.join("steps").is_dir() && (root.join("plan.json").is_file() || root.join("record.json").is_file())
}

/// Finds a run: a folder, or the name of one in `runs`.
///
/// # Errors
/// Where there is none, in words.
pub fn find(name: &Path) -> Result<PathBuf, String> {
    let named = Path::new("runs").join(name);
    for root in [name, &named] {
        if is_run(root) {
            return Ok(root.into());
        }
    }
    match (name.exists(), named.exists()) {
        (false, false) => Err(format!("{}: no such run, here or in runs/ (embeval runs lists them)", name.display())),
        (here, _) => {
            let place = if here { name } else { &named };
            Err(format!("{}: is no run of a sweep: it has no plan.json and steps/", place.display()))
        }
    }
}

/// A JSON file; none where it is missing, a fault where it cannot be read.
fn document(path: &Path, faults: &mut Vec<String>) -> Option<Value> {
    let text = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => {
            faults.push(format!("{}: {e}", path.display()));
            return None;
        }
    };
    serde_json::from_slice(&text).map_err(|e| faults.push(format!("{}: is damaged ({e})", path.display()))).ok()
}

/// Whether a step's id can be a folder's name, and no path out of the run.
fn is_plain(id: &str) -> bool {
    !id.is_empty() && !id.starts_with('.') && !id.contains(['/', '\\', '\0'])
}

impl Survey {
    /// Reads the run in this folder.
    pub fn read(root: &Path) -> Self {
        let mut faults = Vec::new();
        let plan = document(&root.join("plan.json"), &mut faults);
        if plan.is_none() && faults.is_empty() {
            faults.push(format!("{}: has no plan.json", root.display()));
        }
        let mut steps: Vec<Step> = Vec::new();
        let listed = plan.as_ref().and_then(Value::as_array);
        if plan.is_some() && listed.is_none() {
            faults.push(format!("{}: is no list of steps", root.join("plan.json").display()));
        }
        for (number, value) in listed.into_iter().flatten().enumerate() {
            match planned(value) {
                Some(step) if steps.iter().any(|s| s.id == step.id) => {}
                Some(step) => steps.push(step),
                None => faults.push(format!(
                    "{}: step {} (from 0) has no id that names a folder",
                    root.join("plan.json").display(),
                    number
                )),
            }
        }
        for step in &mut steps {
            let folder = root.join("steps").join(&step.id);
            let held = holder(&folder.join("lock"));
            step.state = match (state(&folder, &mut faults), &held) {
                (over, _) if over.is_over() => over,
                (_, Some(held)) if !held.gone => State::Running(held.clone()),
                (other, _) => other,
            };
            step.stale = held.filter(|held| held.gone);
        }
        skip_what_reads_pruned(&mut steps);
        Self { root: root.into(), steps, faults }
    }

    /// The folder of a step.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.root.join("steps").join(id)
    }

    /// The step of this id.
    pub fn step(&self, id: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == id)
    }

    /// The finished run's record.
    pub fn record(&self) -> Option<RunRecord> {
        read_json(&self.root.join("record.json")).ok()
    }

    /// Optimizer steps that a training is planned to have: those of its last checkpoint that is scored, else what its
    /// title says.
    pub fn planned_steps(&self, train: &str) -> Option<usize> {
        let of = |step: &Step| step.scored.clone().filter(|s| s.producer.as_deref() == Some(train))?.checkpoint;
        self.steps.iter().filter_map(of).max().or_else(|| {
            let words = self.step(train)?.title.strip_suffix(" steps)")?;
            words.rsplit(' ').next()?.parse().ok()
        })
    }

    /// A scoring step's number by the rule; none where it is not finished, or a task is missing.
    pub fn score(&self, step: &Step, by: &str) -> Option<f64> {
        #[derive(serde::Deserialize)]
        struct Scores {
            tasks: Vec<TaskRecord>,
        }
        if !matches!(step.state, State::Complete(_)) {
            return None;
        }
        let scores: Scores = read_json(&self.folder(&step.id).join("scores.json")).ok()?;
        rule_score(&scores.tasks, by).filter(|score| score.is_finite())
    }

    /// The best of the models that are scored so far; the first in order on a tie.
    pub fn best(&self, rule: &Rule) -> Option<Best> {
        let on_side = |step: &&Step| step.scored.as_ref().is_some_and(|s| s.split == rule.on);
        let scored: Vec<(&Step, f64)> =
            self.steps.iter().filter(on_side).filter_map(|step| Some((step, self.score(step, &rule.by)?))).collect();
        let all = self.steps.iter().filter(on_side).count();
        let &(step, score) = scored.iter().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        Some(Best {
            id: step.id.clone(),
            label: step.label().to_string(),
            on: rule.on.clone(),
            by: rule.by.clone(),
            score,
            scored: scored.len(),
            all,
        })
    }

    /// When anything last changed: a step began or ended, a record was written, a training logged.
    pub fn changed(&self) -> Option<SystemTime> {
        let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
        let own = ["plan.json", "record.json", "run.json"].map(|name| self.root.join(name));
        let of_steps = self.steps.iter().flat_map(|step| {
            let folder = self.folder(&step.id);
            ["status.json", "step.json", "log.jsonl", "lock"].map(|name| folder.join(name)).into_iter().chain([folder])
        });
        own.into_iter().chain(of_steps).filter_map(|path| time(&path)).max()
    }

    /// How long a step has been at work since it was last begun.
    pub fn working(&self, id: &str) -> Option<Duration> {
        fs::metadata(self.folder(id).join("step.json")).and_then(|m| m.modified()).ok()?.elapsed().ok()
    }
}

/// A step that reads a training that was stopped is not to be done either.
fn skip_what_reads_pruned(steps: &mut [Step]) {
    let mut pruned: Vec<String> = Vec::new();
    for step in steps {
        if step.state == State::Waiting && step.inputs.iter().any(|input| pruned.contains(input)) {
            step.state = State::Pruned("the training that it reads was stopped".into());
        }
        if matches!(step.state, State::Pruned(_)) {
            pruned.push(step.id.clone());
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

/// A step of the plan as it is written there.
fn planned(value: &Value) -> Option<Step> {
    let id = value["id"].as_str().filter(|id| is_plain(id))?.to_string();
    let work = &value["work"];
    let word = work.as_str().or_else(|| Some(work.as_object()?.keys().next()?.as_str())).unwrap_or_default();
    let kind = match word {
        "base" => Kind::Base,
        "train" => Kind::Train,
        "score" => Kind::Score,
        word if word.contains("merge") => Kind::Merge,
        _ => Kind::Other,
    };
    let inputs: Vec<String> = value["inputs"].as_array().into_iter().flatten().map(text).collect();
    let scored = (kind == Kind::Score).then(|| Scored {
        producer: inputs.first().cloned(),
        checkpoint: work["score"]["model"]["checkpoint"]["step"].as_u64().map(|step| step as usize),
        split: text(&work["score"]["split"]),
    });
    let title = value["title"].as_str().map_or_else(|| id.clone(), String::from);
    Some(Step { id, title, kind, inputs, scored, state: State::Waiting, stale: None })
}

/// What `status.json` says of a step; one that cannot be read says nothing, and the step is done again.
fn state(folder: &Path, faults: &mut Vec<String>) -> State {
    let Some(status) = document(&folder.join("status.json"), faults) else { return State::Waiting };
    let message = text(&status["message"]);
    match status["state"].as_str() {
        Some("complete") => State::Complete(status["seconds"].as_f64().unwrap_or(0.0).max(0.0)),
        Some("failed") => State::Failed { message, attempts: status["attempts"].as_u64().unwrap_or(1) },
        Some("pruned") => State::Pruned(message),
        _ => {
            faults.push(format!("{}: says no state that is known", folder.join("status.json").display()));
            State::Waiting
        }
    }
}
