//! A run's folder on the disk: one folder a step, complete when its `status.json` says so, guarded by a lock.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lock::Lock;
use crate::data::atomic;
use crate::data::rows::hex;

/// A fault of the run's folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file's content is not what was written there.
    #[error("{}: {message}; remove the step's folder and run again: it is made anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A folder or file of results that is none.
    #[error("{}: {message}", path.display())]
    Results {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Another process works on the step.
    #[error("{}: {holder} works on this; wait for it, or stop it", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Who holds it.
        holder: String,
    },
}

impl StoreError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum StepState {
    /// Not finished.
    Open,
    /// Its outputs are on the disk.
    Complete,
    /// A training that was stopped for the sake of others, and why.
    Pruned(String),
    /// It cannot be done, and why.
    Failed(String),
}

impl StepState {
    /// Whether nothing more will be done on it.
    pub fn is_over(&self) -> bool {
        *self != Self::Open
    }
}

/// What `status.json` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Status {
    state: String,
    #[serde(default)]
    seconds: f64,
    /// Why, of a step that is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Outputs, to tell damage from what was written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    files: BTreeMap<String, Output>,
}

/// An output as it was when its step was completed.
#[derive(Debug, Serialize, Deserialize)]
struct Output {
    bytes: u64,
    /// SHA-256, of files of at most [`HASHED`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// Larger outputs are known by their size alone: a look at all of a sweep's models would take minutes.
const HASHED: u64 = 4 << 20;

impl RunFolder {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let steps = root.join("steps");
        fs::create_dir_all(&steps).map_err(|e| StoreError::io(&steps, e))?;
        Ok(Self { root: root.into() })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a step.
    pub fn step(&self, id: &str) -> PathBuf {
        self.root.join("steps").join(id)
    }

    /// What became of a step. A status that cannot be read is none: the step is done again.
    pub fn state(&self, id: &str) -> StepState {
        let Ok(status) = read_json::<Status>(&self.step(id).join("status.json")) else { return StepState::Open };
        let message = status.message.unwrap_or_default();
        match status.state.as_str() {
            "complete" => StepState::Complete,
            "pruned" => StepState::Pruned(message),
            "failed" => StepState::Failed(message),
            _ => StepState::Open,
        }
    }

    /// Whether a step is complete.
    pub fn is_complete(&self, id: &str) -> bool {
        self.state(id) == StepState::Complete
    }

    /// Marks a step complete; its outputs are to be on the disk.
    ///
    /// # Errors
    /// The operating system's.
    pub fn complete(&self, id: &str, seconds: f64) -> Result<(), StoreError> {
        let folder = self.step(id);
        let mut files = BTreeMap::new();
        outputs(&folder, &folder, &mut files).map_err(|e| StoreError::io(&folder, e))?;
        write_json(&folder.join("status.json"), &Status { state: "complete".into(), seconds, message: None, files })
    }

    /// Marks a step as one that will not be completed.
    ///
    /// # Errors
    /// The operating system's.
    pub fn give_up(&self, id: &str, state: &StepState) -> Result<(), StoreError> {
        let (state, message) = match state {
            StepState::Pruned(message) => ("pruned", message),
            StepState::Failed(message) => ("failed", message),
            StepState::Open | StepState::Complete => return Ok(()),
        };
        let status = Status { state: state.into(), message: Some(message.clone()), ..Status::default() };
        write_json(&self.step(id).join("status.json"), &status)
    }

    /// Opens a step again; what it left is kept for it to go on from.
    ///
    /// # Errors
    /// The operating system's.
    pub fn reopen(&self, id: &str) -> Result<(), StoreError> {
        let path = self.step(id).join("status.json");
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io(&path, e)),
            _ => Ok(()),
        }
    }

    /// The first output of a complete step that is not as it was left; none of those that `is_removed` names.
    pub fn damage(&self, id: &str, is_removed: &dyn Fn(&str) -> bool) -> Option<String> {
        let folder = self.step(id);
        let status = read_json::<Status>(&folder.join("status.json")).ok()?;
        status.files.iter().filter(|(name, _)| !is_removed(name)).find_map(|(name, output)| {
            let path = folder.join(name);
            match describe(&path) {
                Ok(now) if now.bytes != output.bytes => {
                    Some(format!("{} has {} bytes instead of {}", path.display(), now.bytes, output.bytes))
                }
                Ok(now) if now.sha256 != output.sha256 => Some(format!("{} is not what was written", path.display())),
                Ok(_) => None,
                Err(e) => Some(format!("{}: {e}", path.display())),
            }
        })
    }

    /// Empties a step's folder, so that it is done anew.
    ///
    /// # Errors
    /// The operating system's.
    pub fn reset(&self, id: &str) -> Result<(), StoreError> {
        let folder = self.step(id);
        // The status goes first: a step half removed is not taken for a complete one.
        self.reopen(id)?;
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io(&folder, e)),
            _ => Ok(()),
        }
    }

    /// Takes the step's lock; it is let go when the guard is dropped.
    ///
    /// # Errors
    /// Where another living process holds it.
    pub fn lock(&self, id: &str) -> Result<Lock, StoreError> {
        let folder = self.step(id);
        fs::create_dir_all(&folder).map_err(|e| StoreError::io(&folder, e))?;
        Lock::take(&folder.join("lock"))
    }
}

/// The files below a step's folder that are its outputs, by their path there: all but what a process on its way keeps.
fn outputs(root: &Path, folder: &Path, into: &mut BTreeMap<String, Output>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().to_string();
        let file = entry_name(&path);
        let passing =
            file == "lock" || file == "status.json" || file.ends_with(".tmp") || file.starts_with("training_state.");
        if path.is_dir() {
            outputs(root, &path, into)?;
        } else if !passing {
            into.insert(name, describe(&path)?);
        }
    }
    Ok(())
}

fn entry_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().to_string()).unwrap_or_default()
}

fn describe(path: &Path) -> io::Result<Output> {
    let bytes = fs::metadata(path)?.len();
    let sha256 = if bytes <= HASHED { Some(hex(&Sha256::digest(fs::read(path)?))) } else { None };
    Ok(Output { bytes, sha256 })
}

/// Reads a JSON file.
///
/// # Errors
/// Where it is missing or not of this form.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let text = fs::read_to_string(path).map_err(|e| StoreError::io(path, e))?;
    serde_json::from_str(&text).map_err(|e| StoreError::Content { path: path.into(), message: e.to_string() })
}

/// Writes a JSON file, whole or not at all.
///
/// # Errors
/// The operating system's.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| StoreError::Content { path: path.into(), message: e.to_string() })?;
    atomic::write(path, (text + "\n").as_bytes()).map_err(|e| StoreError::io(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_complete_when_its_status_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        assert!(!run.is_complete("a"));
        fs::create_dir_all(run.step("a")).unwrap();
        run.complete("a", 1.0).unwrap();
        assert!(run.is_complete("a"));
        std::fs::write(run.step("a").join("status.json"), "{\"state\"").unwrap();
        assert!(!run.is_complete("a"));
    }
}
