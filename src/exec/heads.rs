//! The heads of a run: the processes that were told to run it. Several may, if they mean the same steps.

use crate::store::folder::{RunFolder, StepState, StoreError};
use crate::store::lock::{self, Lock};

use super::ExecError;

/// A head's place among those of its run, until it is dropped.
pub struct Head {
    _lock: Lock,
    /// Whether no other head is at work.
    pub alone: bool,
}

/// Takes a place for this process, whose plan is `plan`.
///
/// # Errors
/// Where a head at work has another plan: it would leave steps that this one removes, and the other way round.
pub fn enter(folder: &RunFolder, plan: &[u8]) -> Result<Head, ExecError> {
    let heads = folder.root().join("heads");
    let fault = |source: std::io::Error| ExecError::Store(StoreError::Io { path: heads.clone(), source });
    std::fs::create_dir_all(&heads).map_err(fault)?;
    let mut others = Vec::new();
    for entry in std::fs::read_dir(&heads).map_err(fault)?.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|end| end != "lock") {
            continue;
        }
        match lock::holder(&path) {
            Some(holder) if !holder.gone => others.push(holder),
            _ => {
                // Of a process that is gone.
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    let known = std::fs::read(folder.root().join("plan.json")).unwrap_or_default();
    if let Some(other) = others.first().filter(|_| known != plan) {
        return Err(ExecError::Other(format!(
            "{}: process {} on {} runs another plan in this folder: wait for it, stop it, or give --output",
            folder.root().display(),
            other.pid,
            other.host
        )));
    }
    let own = heads.join(format!("{}-{}.lock", crate::store::lock::machine(), std::process::id()));
    Ok(Head { _lock: Lock::take(&own)?, alone: others.is_empty() })
}

/// Prepares a run's steps for being taken up: those that failed get another try, those that were pruned by other rules go on,
/// and those whose outputs are damaged are done anew.
///
/// # Errors
/// The operating system's.
pub fn open_again<'a>(
    folder: &RunFolder,
    steps: impl Iterator<Item = (&'a str, &'a str)>,
    same_rules: bool,
) -> Result<(), ExecError> {
    for (id, title) in steps {
        match folder.state(id) {
            StepState::Failed(_) => folder.reopen(id)?,
            StepState::Pruned(_) if !same_rules => folder.reopen(id)?,
            StepState::Complete => {
                let removed = folder.removed(id);
                if let Some(damage) = folder.damage(id, &|name| removed.iter().any(|r| r == name)) {
                    tracing::warn!("{title}: {damage}: it is done anew");
                    folder.reset(id)?;
                }
            }
            StepState::Open | StepState::Pruned(_) => {}
        }
    }
    Ok(())
}
