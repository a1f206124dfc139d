//! What stops the executor.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What stops the executor. Jobs that were submitted before stay in the queue; running the sweep again goes on with them.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// One of Slurm's commands is not installed.
    #[error(
        "{program}: not found; run this on a machine of the cluster that has Slurm's commands, or set run.executor: local"
    )]
    Missing {
        /// The command.
        program: String,
    },
    /// A command could not be started.
    #[error("{program} could not be run: {source}")]
    Command {
        /// The command.
        program: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A command failed for a reason that waiting does not mend.
    #[error("{program} failed: {message}")]
    Failed {
        /// The command.
        program: String,
        /// What it said.
        message: String,
    },
    /// The controller did not answer for so long.
    #[error(
        "Slurm's controller did not answer for {} s ({message}); jobs stay in the queue: run the sweep again when it does",
        waited.as_secs()
    )]
    Unreachable {
        /// What the command said.
        message: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// `sbatch` does not take the job.
    #[error("{setting}: sbatch refuses the job: {message}")]
    Refused {
        /// The setting of the config with its value, such as `run.slurm.partition = gpu`.
        setting: String,
        /// What it said, and what there is.
        message: String,
    },
    /// A setting that cannot be passed on.
    #[error("run.slurm.{key} = {value}: {message}")]
    Setting {
        /// The key below `run.slurm`.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        message: &'static str,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The record of submitted jobs is not what was written there.
    #[error(
        "{}: {message}; cancel this run's jobs (`scancel` those of `squeue --me` named embeval-…), remove the file and run again",
        path.display()
    )]
    Ledger {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The jobs contradict each other.
    #[error("{0}")]
    Graph(String),
}

impl SlurmError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}
