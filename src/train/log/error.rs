//! What keeps a run from being logged.

use std::io;
use std::path::{Path, PathBuf};

/// A log file or folder that cannot be read or written: a full disk, no permission, a file where a folder should be.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: {source}; the training log cannot be kept: make room or choose another output folder, then resume from the last \
     checkpoint",
    path.display()
)]
pub struct LogError {
    /// The file or folder.
    pub path: PathBuf,
    /// The operating system's reason.
    pub source: io::Error,
}

impl LogError {
    /// A closure for `map_err` that names `path`.
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self { path: path.into(), source }
    }
}
