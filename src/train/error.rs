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
    /// No batch can be made.
    #[error("{0}")]
    Data(String),
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
