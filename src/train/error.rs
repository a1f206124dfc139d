//! What stops a training run.

use crate::adapter::peft::PeftError;
use crate::model::ModelError;

/// A training run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A tensor that should be trained is not reached by the loss.
    #[error(
        "step {step}: `{name}` is trainable but gets no gradient: it is not on the path from the texts to the loss; \
         freeze it (train.freeze) or leave it out of adapter.targets"
    )]
    NoGradient {
        /// Optimizer step, from 1.
        step: usize,
        /// The tensor's name.
        name: String,
    },
    /// Gradient descent blew up.
    #[error(
        "step {step}: the gradient of `{name}` is not finite: lower train.lr, or raise loss.temperature or train.warmup"
    )]
    NonFiniteGradient {
        /// Optimizer step, from 1.
        step: usize,
        /// The tensor's name.
        name: String,
    },
    /// The loss is NaN or infinite.
    #[error("step {step}: the loss is {loss}: lower train.lr, or raise loss.temperature or train.warmup")]
    NonFiniteLoss {
        /// Optimizer step, from 1.
        step: usize,
        /// Its value.
        loss: f64,
    },
    /// A tensor that must stay as it is did not.
    #[error("`{name}` is frozen, but moved while training: the checkpoints cannot be trusted; please report this")]
    FrozenMoved {
        /// The tensor's name.
        name: String,
    },
    /// Training changed no embedding.
    #[error(
        "training changed no embedding at all: the learning rate was 0 throughout, or nothing that is trained is on the path          from the texts; look at train.lr, train.warmup and adapter.targets"
    )]
    NoEffect,
    /// A run cannot be taken up where it stopped.
    #[error("{}: {message}", path.display())]
    Resume {
        /// The state's file or folder.
        path: std::path::PathBuf,
        /// What is wrong, and what helps.
        message: String,
    },
    /// Dev tasks could not be scored.
    #[error("train.eval_tasks: {0}")]
    Tasks(String),
    /// The evaluation that decides whether a run goes on.
    #[error("{0}")]
    Hold(String),
    /// No batch can be made, or the data cannot be used.
    #[error("{0}")]
    Data(String),
    /// Training rows could not be read.
    #[error(transparent)]
    Rows(#[from] crate::data::table::DataError),
    /// A log could not be written.
    #[error(transparent)]
    Log(#[from] super::log::LogError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An adapter folder failed.
    #[error(transparent)]
    Adapter(#[from] PeftError),
    /// A file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
