//! What a training run writes beside its checkpoints, so that the tools people have read it.
//!
//! | file | what | when |
//! |---|---|---|
//! | `log.jsonl` | a line a record: `"type": "step"` or `"type": "eval"`, and the record's fields | every record |
//! | `tensorboard/events.out.tfevents.…` | `train/loss`, `train/learning_rate`, `train/grad_norm`, `train/epoch`, `train/<further figure>`, `eval/<metric>`, `config/text_summary` | every record, with a short delay |
//! | `trainer_state.json` | transformers' state of the trainer | the end; with every checkpoint, in its folder |
//! | `detailed_training_logs.json`, `training_losses.json`, `training_summary_report.json` | EmbedRAG's logs | the end, and when asked |
//!
//! A resumed run goes on from the [`History`] of its checkpoint: what was logged after it is dropped, so that the logs of a
//! resumed run and of an uninterrupted one differ in times only.

mod crc32c;
mod embedrag;
mod error;
mod event;
mod facts;
mod lines;
mod record;
pub mod tensorboard;
#[cfg(test)]
mod tests;
mod time;
pub mod trainer_state;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use error::LogError;
pub use facts::{BestMetric, RunFacts, RunSummary};
pub use record::{EvalRecord, History, Record, StepRecord};

use crate::data::atomic;
use lines::Lines;
use tensorboard::{EventWriter, now};

/// The logs of a run in a folder.
#[derive(Debug)]
pub struct RunLog {
    folder: PathBuf,
    facts: RunFacts,
    history: History,
    lines: Lines,
    events: EventWriter,
}

impl RunLog {
    /// Starts the logs of a new run in `folder`, or goes on with those of the run that `resumed` is the history of. A new
    /// run's log replaces one that is there; TensorBoard's files stay, and what they say is superseded. A run that is resumed
    /// in another folder, or from another history than the one logged there, gets the whole history into its logs.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub fn open(folder: &Path, facts: RunFacts, resumed: Option<History>) -> Result<Self, LogError> {
        let history = resumed.unwrap_or_default();
        let curves = folder.join("tensorboard");
        let (lines, complete) = Lines::open(&folder.join("log.jsonl"), &history)?;
        let resumed_at = if complete && tensorboard::has_events(&curves)? { history.last_step() } else { None };
        let mut events = EventWriter::create(&curves, resumed_at)?;
        if resumed_at.is_none() {
            for record in history.records() {
                write_curves(&mut events, record)?;
            }
        }
        events.text("config/text_summary", &config_text(&facts))?;
        events.flush()?;
        Ok(Self { folder: folder.into(), facts, history, lines, events })
    }

    /// Logs an optimizer step.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn step(&mut self, mut record: StepRecord) -> Result<(), LogError> {
        record.time.get_or_insert_with(now);
        self.write(Record::Step(&record))?;
        self.history.steps.push(record);
        Ok(())
    }

    /// Logs an evaluation; its place is after the step with its number.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn eval(&mut self, mut record: EvalRecord) -> Result<(), LogError> {
        record.time.get_or_insert_with(now);
        self.write(Record::Eval(&record))?;
        self.events.flush()?;
        self.history.evals.push(record);
        Ok(())
    }

    fn write(&mut self, record: Record<'_>) -> Result<(), LogError> {
        self.lines.append(record)?;
        write_curves(&mut self.events, record)
    }

    /// All records so far: what a checkpoint keeps for [`RunLog::open`].
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Writes `trainer_state.json` into a checkpoint's folder, and hands TensorBoard's events to the disk. The best
    /// evaluation's checkpoint is looked for beside that folder and in the run's, by its name: `checkpoint-<step>`.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn write_state(&mut self, folder: &Path) -> Result<(), LogError> {
        self.events.flush()?;
        self.write_trainer_state(folder, None)
    }

    /// Writes EmbedRAG's three files into the run's folder as the run stands; [`RunLog::finish`] writes them for good.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn write_reports(&self) -> Result<(), LogError> {
        self.write_embedrag(None)
    }

    /// Ends the logs: EmbedRAG's files and `trainer_state.json` in the run's folder.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn finish(&mut self, summary: &RunSummary) -> Result<(), LogError> {
        self.events.flush()?;
        self.write_embedrag(Some(summary))?;
        let folder = self.folder.clone();
        self.write_trainer_state(&folder, Some(summary))
    }

    fn write_trainer_state(&self, folder: &Path, end: Option<&RunSummary>) -> Result<(), LogError> {
        let best = self.facts.best.as_ref().and_then(|metric| trainer_state::best(&self.history, metric));
        let best = best.and_then(|(step, _)| find_checkpoint(step, folder, &self.folder));
        let state = trainer_state::trainer_state(&self.facts, &self.history, best.as_deref(), end);
        write_json(&folder.join(trainer_state::FILE_NAME), &state)
    }

    fn write_embedrag(&self, end: Option<&RunSummary>) -> Result<(), LogError> {
        for (name, content) in embedrag::files(&self.facts, &self.history, now(), end) {
            write_json(&self.folder.join(name), &content)?;
        }
        Ok(())
    }
}

fn write_curves(events: &mut EventWriter, record: Record<'_>) -> Result<(), LogError> {
    let (time, curves): (_, Vec<(String, f64)>) = match record {
        Record::Step(record) => {
            (record.time, record.curves().into_iter().map(|(name, value)| (format!("train/{name}"), value)).collect())
        }
        Record::Eval(record) => {
            (record.time, record.metrics.iter().map(|(name, value)| (format!("eval/{name}"), *value)).collect())
        }
    };
    events.scalars(record.place().0, time.unwrap_or_else(now), &curves)
}

/// The run's facts in Markdown. The settings are a code block by indentation, which no text in them can end.
fn config_text(facts: &RunFacts) -> String {
    let settings = format!("{:#}", facts.settings);
    let settings: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "base: {}  \nmethod: {}  \ntrainable parameters: {} of {}\n\n{settings}",
        facts.base, facts.method, facts.trainable_parameters, facts.total_parameters
    )
}

/// The folder `checkpoint-<step>`, zeros before the number allowed: `folder` itself, one beside it, or one in `run`.
fn find_checkpoint(step: u64, folder: &Path, run: &Path) -> Option<PathBuf> {
    let is_it = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.and_then(|name| name.strip_prefix("checkpoint-")?.parse::<u64>().ok()) == Some(step) && path.is_dir()
    };
    let parent = folder.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    let listed = [parent, Some(run)].into_iter().flatten().filter_map(|folder| std::fs::read_dir(folder).ok());
    let paths = listed.flatten().flatten().map(|entry| entry.path());
    [folder.to_path_buf()].into_iter().chain(paths).find(|path| is_it(path))
}

fn write_json(path: &Path, content: &Value) -> Result<(), LogError> {
    atomic::write(path, format!("{content:#}\n").as_bytes()).map_err(LogError::at(path))
}
