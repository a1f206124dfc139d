//! What the user is told while a run is on a cluster.

use std::fmt;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An array was submitted.
    Submitted {
        /// Slurm's id of the array.
        array: u64,
        /// Its elements.
        elements: usize,
        /// Title of the first job.
        title: String,
    },
    /// An array that an earlier process submitted is still in the queue, and is waited for.
    Found {
        /// Slurm's id of the array.
        array: u64,
        /// Elements that wait or run.
        elements: usize,
    },
    /// A job runs.
    Started {
        /// The job's title.
        title: String,
        /// Slurm's id, such as `41_3`.
        id: String,
        /// The node.
        node: String,
    },
    /// A job is done.
    Ended {
        /// The job's title.
        title: String,
        /// Slurm's id.
        id: String,
    },
    /// Slurm took a job off its node and put it into the queue again.
    Requeued {
        /// The job's title.
        title: String,
        /// Slurm's id.
        id: String,
        /// Slurm's reason, if it gives one.
        reason: String,
    },
    /// A job ended without completing, and is submitted again.
    Again {
        /// The job's title.
        title: String,
        /// What happened.
        reason: String,
        /// Crashes that counted, and how many are borne; none where this end does not count.
        crashes: Option<(usize, usize)>,
    },
    /// A job failed for good.
    Failed {
        /// The job's title.
        title: String,
        /// Why.
        reason: String,
    },
    /// Why jobs wait.
    Waiting {
        /// Slurm's reason.
        reason: String,
        /// Jobs that wait for it.
        elements: usize,
        /// What it means, or what to do.
        advice: String,
    },
    /// An array of this run that nobody waits for was cancelled: an earlier process sent it, and it arrived late.
    Duplicate {
        /// Slurm's id of the array.
        array: u64,
    },
    /// The controller does not answer; it is asked again.
    Unreachable {
        /// What the command said.
        message: String,
    },
    /// The controller answers again.
    Reachable,
    /// The run's jobs are cancelled.
    Cancelling {
        /// Arrays in the queue.
        arrays: usize,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submitted { array, elements: 1, title } => write!(f, "submitted {array}: {title}"),
            Self::Submitted { array, elements, title } => {
                write!(f, "submitted {array}: {title} and {} more", elements - 1)
            }
            Self::Found { array, elements } => {
                write!(f, "{array} is in the queue from before, with {}", counted(*elements))
            }
            Self::Started { title, id, node } => write!(f, "{title}: runs as {id} on {node}"),
            Self::Ended { title, id } => write!(f, "{title}: done ({id})"),
            Self::Requeued { title, id, reason } if reason.is_empty() => {
                write!(f, "{title}: Slurm queued {id} again")
            }
            Self::Requeued { title, id, reason } => write!(f, "{title}: Slurm queued {id} again ({reason})"),
            Self::Again { title, reason, crashes: Some((count, most)) } => {
                write!(f, "{title}: {reason}; submitted again ({count} of {most})")
            }
            Self::Again { title, reason, crashes: None } => write!(f, "{title}: {reason}; submitted again"),
            Self::Failed { title, reason } => write!(f, "{title}: failed: {reason}"),
            Self::Waiting { reason, elements, advice } => {
                write!(f, "waiting: {} for {reason}", counted(*elements))?;
                if advice.is_empty() { Ok(()) } else { write!(f, ": {advice}") }
            }
            Self::Duplicate { array } => write!(f, "{array} was submitted twice; the second was cancelled"),
            Self::Unreachable { message } => write!(f, "Slurm's controller does not answer, trying on: {message}"),
            Self::Reachable => write!(f, "Slurm's controller answers again"),
            Self::Cancelling { arrays } => {
                let what = if *arrays == 1 { "array" } else { "arrays" };
                write!(f, "cancelling {arrays} {what} of jobs; interrupt again to leave at once")
            }
        }
    }
}

fn counted(elements: usize) -> String {
    if elements == 1 { "1 job".into() } else { format!("{elements} jobs") }
}
