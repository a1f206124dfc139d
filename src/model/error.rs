//! What can be wrong with a model.

use std::path::{Path, PathBuf};

/// A model that cannot be read, built or written. Every message names the file and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file's content is not what its name promises.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A tensor that the architecture needs is not in the weights.
    #[error(
        "{}: no tensor `{name}` (shape {expected:?} by config.json): the weights are not those of this config",
        path.display()
    )]
    MissingTensor {
        /// The weights' file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape that the config asks for.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the config asks for.
    #[error("{}: tensor `{name}` has shape {found:?}, config.json asks for {expected:?}", path.display())]
    Shape {
        /// The weights' file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The shape that the config asks for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    #[error(
        "{}: tensor `{name}` holds a value that is not a finite number ({value}): the checkpoint is damaged or its \
         training diverged",
        path.display()
    )]
    NonFinite {
        /// The weights' file.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// The first such value.
        value: f32,
    },
    /// Tokenization failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A tensor operation failed.
    #[error("{0}")]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// An I/O error at a path.
    pub fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// A file's fault in words.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.into(), message: message.into() }
    }
}
