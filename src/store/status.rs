//! How far a run is: what is done, who works on what, what failed, and how long the rest may take.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::disk::{self, Disk};
use super::survey::{Best, Kind, Rule, State, Step, Survey};

/// Steps of a training's log that its rate is taken from.
const RATE_STEPS: usize = 20;
/// Bytes of a log's end that are read for them.
const LOG_END: u64 = 64 << 10;

/// Counts of steps by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// All of them.
    pub all: usize,
    /// Done.
    pub complete: usize,
    /// At work.
    pub running: usize,
    /// To be done.
    pub waiting: usize,
    /// Could not be done.
    pub failed: usize,
    /// Stopped for the sake of others.
    pub pruned: usize,
}

impl Counts {
    fn add(&mut self, state: &State) {
        self.all += 1;
        *match state {
            State::Waiting => &mut self.waiting,
            State::Running(_) => &mut self.running,
            State::Complete(_) => &mut self.complete,
            State::Failed { .. } => &mut self.failed,
            State::Pruned(_) => &mut self.pruned,
        } += 1;
    }
}

/// The steps of a kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfKind {
    /// `train`, `merge`, `score`, `base`.
    pub kind: Kind,
    /// Their states.
    #[serde(flatten)]
    pub counts: Counts,
    /// Seconds spent on those that are complete.
    pub seconds: f64,
    /// Median seconds of those that are complete.
    pub median_seconds: Option<f64>,
}

/// How far a step at work is, as far as it tells.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Progress {
    /// Units done: optimizer steps, tasks, values of α.
    pub done: usize,
    /// All units, where known.
    pub all: Option<usize>,
    /// What is counted.
    pub unit: &'static str,
    /// Training loss of the last step.
    pub loss: Option<f64>,
    /// Tokens a second, over the last steps.
    pub tokens_per_second: Option<f64>,
    /// Seconds a unit, over the last.
    #[serde(skip)]
    seconds_a_unit: Option<f64>,
}

/// A step at work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Working {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// What it does.
    pub kind: Kind,
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
    /// Seconds since it was last begun.
    pub seconds: Option<f64>,
    /// How far it is.
    pub progress: Option<Progress>,
}

/// A step that is to be done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waiting {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// How far an interrupted one came.
    pub progress: Option<Progress>,
}

/// A step that failed, or was stopped.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ended {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Why.
    pub message: String,
    /// Times that it was tried.
    pub attempts: u64,
    /// Where more is said.
    pub log: Option<PathBuf>,
}

/// An estimate of the time that is left.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Left {
    /// Seconds.
    pub seconds: f64,
    /// Whether there are steps of which nothing is known yet.
    pub at_least: bool,
    /// What it rests on, in words.
    pub based_on: String,
}

/// A lock that nobody holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StaleLock {
    /// The file.
    pub path: PathBuf,
    /// The step's title.
    pub title: String,
    /// The machine that it names.
    pub host: String,
    /// The process that it names.
    pub pid: u32,
}

/// A run's state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Its folder's name.
    pub run: String,
    /// `running`, `complete`, `failed`, `stopped` or `unreadable`.
    pub state: &'static str,
    /// All steps.
    pub steps: Counts,
    /// Share of the steps that is done, 0 to 1.
    pub share: f64,
    /// Seconds spent on complete steps.
    pub seconds: f64,
    /// The rest.
    pub left: Option<Left>,
    /// By kind.
    pub kinds: Vec<OfKind>,
    /// At work.
    pub running: Vec<Working>,
    /// To be done, in order.
    pub waiting: Vec<Waiting>,
    /// Failed.
    pub failed: Vec<Ended>,
    /// Stopped.
    pub pruned: Vec<Ended>,
    /// Locks that nobody holds.
    pub stale_locks: Vec<StaleLock>,
    /// The best so far, or the choice.
    pub best: Option<Best>,
    /// Whether that is the finished run's choice.
    pub chosen: bool,
    /// Bytes.
    pub disk: Disk,
    /// What could not be read.
    pub faults: Vec<String>,
}

/// `running`, `complete`, `failed`, `stopped` or `unreadable`.
pub fn state(survey: &Survey) -> &'static str {
    let any = |f: fn(&State) -> bool| survey.steps.iter().any(|step| f(&step.state));
    if survey.steps.is_empty() {
        return "unreadable";
    }
    if any(|s| matches!(s, State::Running(_))) {
        return "running";
    }
    if any(|s| matches!(s, State::Failed { .. })) {
        return "failed";
    }
    if any(|s| !s.is_over()) || !survey.root.join("record.json").is_file() { "stopped" } else { "complete" }
}

/// The choice of a finished run, else the best so far; and whether it is the choice.
pub fn best(survey: &Survey, rule: &Rule) -> (Option<Best>, bool) {
    let record = survey.record();
    let chosen = record.as_ref().and_then(|record| {
        let choice = record.choice.as_ref()?;
        // A record of an earlier config says nothing of this plan.
        survey.step(&choice.id)?;
        let variant = record.variants.iter().find(|v| v.id == choice.id)?;
        let (id, label) = (variant.id.clone(), variant.label.clone());
        let (on, by, score, all) = (choice.on.clone(), choice.by.clone(), choice.score, record.variants.len());
        Some(Best { id, label, on, by, score, scored: all, all })
    });
    match chosen {
        Some(chosen) if state(survey) == "complete" => (Some(chosen), true),
        _ => (survey.best(rule), false),
    }
}

/// The state of the run that was read.
pub fn status(survey: &Survey, rule: &Rule) -> Status {
    let mut steps = Counts::default();
    survey.steps.iter().for_each(|step| steps.add(&step.state));
    let kinds = kinds(survey);
    let mut out = Status {
        run: survey.root.file_name().map_or_else(|| ".".into(), |name| name.to_string_lossy().into_owned()),
        state: state(survey),
        share: (steps.complete + steps.pruned) as f64 / steps.all.max(1) as f64,
        steps,
        seconds: kinds.iter().map(|kind| kind.seconds).fold(0.0, |a, b| a + b),
        left: None,
        kinds,
        running: Vec::new(),
        waiting: Vec::new(),
        failed: Vec::new(),
        pruned: Vec::new(),
        stale_locks: Vec::new(),
        best: None,
        chosen: false,
        disk: disk::usage(&survey.root),
        faults: survey.faults.clone(),
    };
    (out.best, out.chosen) = best(survey, rule);
    for step in &survey.steps {
        let folder = survey.folder(&step.id);
        let (id, title) = (step.id.clone(), step.title.clone());
        match &step.state {
            State::Complete(_) => {}
            State::Running(held) => out.running.push(Working {
                id,
                title,
                kind: step.kind,
                host: held.host.clone(),
                pid: held.pid,
                seconds: survey.working(&step.id).map(|d| d.as_secs_f64()),
                progress: progress(survey, step),
            }),
            State::Waiting => out.waiting.push(Waiting { id, title, progress: progress(survey, step) }),
            State::Failed { message, attempts } => {
                let (message, attempts) = (message.clone(), *attempts);
                out.failed.push(Ended { id, title, message, attempts, log: log_of(&folder) });
            }
            State::Pruned(message) => {
                let message = message.clone();
                out.pruned.push(Ended { id, title, message, attempts: 1, log: log_of(&folder) });
            }
        }
        if let Some(held) = &step.stale {
            let (path, title) = (folder.join("lock"), step.title.clone());
            out.stale_locks.push(StaleLock { path, title, host: held.host.clone(), pid: held.pid });
        }
    }
    out.left = left(survey, &out);
    out
}

fn kinds(survey: &Survey) -> Vec<OfKind> {
    let mut out = Vec::new();
    for kind in [Kind::Base, Kind::Train, Kind::Merge, Kind::Score, Kind::Other] {
        let mut counts = Counts::default();
        let of_kind = || survey.steps.iter().filter(move |step| step.kind == kind);
        of_kind().for_each(|step| counts.add(&step.state));
        if counts.all == 0 {
            continue;
        }
        let mut seconds: Vec<f64> = of_kind()
            .filter_map(|s| if let State::Complete(seconds) = s.state { Some(seconds) } else { None })
            .collect();
        let spent = seconds.iter().fold(0.0, |a, b| a + b);
        out.push(OfKind { kind, counts, seconds: spent, median_seconds: median(&mut seconds) });
    }
    out
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (below, above) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((below + above) / 2.0)
}

/// The time that is left: for each step that is to be done the median of its kind, for a training at work what its own rate
/// gives, shared among the processes at work.
fn left(survey: &Survey, status: &Status) -> Option<Left> {
    let medians: Vec<(Kind, f64, usize)> =
        status.kinds.iter().filter_map(|k| Some((k.kind, k.median_seconds?, k.counts.complete))).collect();
    let median = |kind: Kind| medians.iter().find(|(k, ..)| *k == kind).map(|(_, seconds, _)| *seconds);
    let mut seconds = 0.0;
    let (mut unknown, mut used) = (Vec::new(), Vec::new());
    let mut rates = 0;
    for step in survey.steps.iter().filter(|step| matches!(step.state, State::Waiting | State::Running(_))) {
        let at_work = status.running.iter().find(|working| working.id == step.id);
        let rated = at_work.and_then(|working| {
            let progress = working.progress.as_ref()?;
            Some(progress.all?.saturating_sub(progress.done) as f64 * progress.seconds_a_unit?)
        });
        match (rated, median(step.kind)) {
            (Some(rest), _) => {
                seconds += rest;
                rates += 1;
            }
            (None, Some(whole)) => {
                seconds += (whole - at_work.and_then(|w| w.seconds).unwrap_or(0.0)).max(0.0);
                used.push(step.kind);
            }
            (None, None) => unknown.push(step.kind),
        }
    }
    if status.steps.waiting + status.steps.running == 0 || used.len() + rates == 0 {
        return None;
    }
    let processes = status.running.len().max(1);
    let mut basis: Vec<String> = Vec::new();
    if rates > 0 {
        basis.push("the rate of the training at work".into());
    }
    for (kind, median, count) in medians.iter().filter(|(kind, ..)| used.contains(kind)) {
        basis.push(format!(
            "the median of {count} {} step{} ({median:.1} s)",
            kind.name(),
            if *count == 1 { "" } else { "s" }
        ));
    }
    let mut based_on = basis.join(", ");
    if processes > 1 {
        based_on.push_str(&format!("; {processes} steps at a time"));
    }
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        let names: Vec<&str> = unknown.iter().map(|kind| kind.name()).collect();
        based_on.push_str(&format!("; {} not counted: none has finished yet", names.join(", ")));
    }
    Some(Left { seconds: seconds / processes as f64, at_least: !unknown.is_empty(), based_on })
}

/// How far a step that is not done came, by what lies in its folder.
fn progress(survey: &Survey, step: &Step) -> Option<Progress> {
    let folder = survey.folder(&step.id);
    match step.kind {
        Kind::Train => training(&folder, survey.planned_steps(&step.id)),
        Kind::Score => {
            let split = |s: &Step| s.scored.as_ref().map(|scored| scored.split.clone());
            let like = survey.steps.iter().find(|s| matches!(s.state, State::Complete(_)) && split(s) == split(step));
            let all = like.map(|like| count(&survey.folder(&like.id), "task-")).filter(|all| *all > 0);
            counted(count(&folder, "task-"), all, "tasks")
        }
        Kind::Merge => counted(count(&folder, "alpha-"), None, "values of α"),
        Kind::Base | Kind::Other => None,
    }
}

fn counted(done: usize, all: Option<usize>, unit: &'static str) -> Option<Progress> {
    (done > 0).then(|| Progress { done, all, unit, ..Progress::default() })
}

fn count(folder: &Path, prefix: &str) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(prefix) && name.to_string_lossy().ends_with(".json")).count()
}

/// A training's progress by the end of its `log.jsonl`; a line that is half written is passed over.
fn training(folder: &Path, all: Option<usize>) -> Option<Progress> {
    let mut file = fs::File::open(folder.join("log.jsonl")).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_END).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let steps: Vec<Value> = lines.filter(|line| line["type"] == "step" && line["step"].is_u64()).collect();
    let last = steps.last()?;
    let first = &steps[steps.len().saturating_sub(RATE_STEPS + 1)];
    let between = |key: &str| Some(last[key].as_f64()? - first[key].as_f64()?).filter(|d| *d > 0.0);
    let rate = |key: &str| Some(between(key)? / between("seconds")?);
    Some(Progress {
        done: last["step"].as_u64()? as usize,
        all,
        unit: "steps",
        loss: last["loss"].as_f64(),
        tokens_per_second: rate("tokens"),
        seconds_a_unit: rate("step").map(|steps| 1.0 / steps),
    })
}

/// Where a step's process wrote: its own log, else that of its training.
fn log_of(folder: &Path) -> Option<PathBuf> {
    let mut logs: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "log" || e == "err" || e == "out"))
        .collect();
    logs.sort();
    logs.pop().or_else(|| Some(folder.join("log.jsonl")).filter(|path| path.is_file()))
}
