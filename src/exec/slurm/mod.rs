//! Runs the steps of a sweep as job arrays of a Slurm cluster.
//!
//! The process that calls [`run()`] is the head: it submits everything at once, with dependencies between the arrays, and then only looks.
//! So the chain goes on when the head dies. What was submitted stands in `slurm/jobs.json` of the run's folder; a new head finds the
//! jobs that still wait or run, by id and by a name that has the run's token in it, and submits what is missing alone. The truth of
//! what is done are the steps' folders: Slurm's word for a job's end only explains why a step is not.
//!
//! | file in `slurm/` | what is there |
//! |---|---|
//! | `jobs.json` | what was submitted, and what became of it |
//! | `N.sh`, `N.steps` | the batch script of submission N; line k is what element k runs |
//! | `logs/A_K.log` | what element K of array A printed, over all its attempts |
//!
//! A run has one head at a time: the caller holds a lock.

mod batches;
mod commands;
mod error;
mod event;
mod head;
mod job;
mod ledger;
mod queue;
mod refusal;
mod script;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicUsize;

pub use commands::{Commands, Reply, SlurmCommands};
pub use error::SlurmError;
pub use event::Event;
pub use job::{Blocked, Cluster, Failure, Job, StepState, Summary};

/// Runs jobs on a cluster until each is complete, failed for good, or blocked by one that did. `state` tells what a step's folder
/// says; `observer` is told what happens.
///
/// `interrupts` is how often the user asked for an end: at 1 the run's jobs are cancelled and their end is waited for, at 2 this
/// returns at once. Either way the run can be taken up again.
///
/// A step whose process is lost is submitted again: `retries` times where it crashed, ran out of memory, was cancelled from outside
/// or reached the time limit without having saved anything; without counting where it reached the limit and had, where a node failed, or
/// where it was preempted.
///
/// # Errors
/// Where Slurm's commands are missing, the controller stays away, `sbatch` refuses a job, the jobs contradict each other, or the
/// run's folder cannot be written. What was submitted before stays in the queue.
pub fn run(
    cluster: &Cluster<'_>,
    jobs: &[Job],
    state: &dyn Fn(&str) -> StepState,
    observer: &mut dyn FnMut(Event),
    interrupts: &AtomicUsize,
) -> Result<Summary, SlurmError> {
    head::Head::new(cluster, jobs, state, observer, interrupts)?.run()
}
