//! What the executor is given and what it gives back.

use std::path::Path;
use std::time::Duration;

use super::commands::Commands;
use crate::config::schema::SlurmSettings;

/// What one element of a job array does: steps, one after the other, in one process.
///
/// Steps belong together where they are short and read the same model: both sides of a checkpoint's scoring, or the scoring of all
/// checkpoints of a trial. A training is an element of its own: a time limit then has to cover it alone, scoring begins as soon as
/// a training ends, and one that is run again does not wait behind another's.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Ids of the steps, in the order that they run in; all of a job depend on what is in `after`, or on each other.
    pub steps: Vec<String>,
    /// For people.
    pub title: String,
    /// Jobs of a stage go into one array where their dependencies allow it.
    pub stage: usize,
    /// Ids of the steps, of other jobs, that must be complete before.
    pub after: Vec<String>,
}

/// What a step's folder says.
#[derive(Debug, Clone, PartialEq)]
pub enum StepState {
    /// Neither complete nor failed.
    Open {
        /// Grows when work that a next process takes up is saved (such as the optimizer step of the last state); 0 where there
        /// is none.
        progress: u64,
    },
    /// Done, or not needed any more.
    Complete,
    /// The worker says that it fails, and why: it is not tried again.
    Failed(String),
}

/// A cluster, and how a run uses it.
pub struct Cluster<'a> {
    /// `run.slurm` of the config.
    pub settings: &'a SlurmSettings,
    /// The run's folder; the nodes see it under the same path.
    pub folder: &'a Path,
    /// The program whose `worker` subcommand runs steps; the nodes see it under the same path.
    pub program: &'a Path,
    /// Arguments for the worker after the folder.
    pub worker_args: Vec<String>,
    /// Most elements of an array that run at a time; 0: as many as there is room for. Arrays of different stages overlap.
    pub jobs_at_once: usize,
    /// Times that a step is submitted again after a crash.
    pub retries: usize,
    /// How long a controller that does not answer is waited for.
    pub patience: Duration,
    /// Runs Slurm's commands.
    pub commands: &'a dyn Commands,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Jobs whose steps are all complete.
    pub complete: usize,
    /// Jobs that failed for good.
    pub failed: Vec<Failure>,
    /// Jobs that were not run because one before them failed.
    pub blocked: Vec<Blocked>,
    /// Jobs that are neither, because the run was cancelled.
    pub open: usize,
    /// Whether the run was cancelled.
    pub cancelled: bool,
}

/// A job that failed for good.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The step that failed.
    pub step: String,
    /// The job's title.
    pub title: String,
    /// Why: the worker's message, or Slurm's state with the log's last lines.
    pub reason: String,
}

/// A job that was not run because one before it failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocked {
    /// Its steps.
    pub steps: Vec<String>,
    /// Its title.
    pub title: String,
    /// Title of the job before it.
    pub by: String,
}
