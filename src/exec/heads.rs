//! The heads of a run: the processes that were told to run it. Several may, if they mean the same steps.

use sha2::{Digest, Sha256};

use super::ExecError;
use crate::data::rows::hex;
use crate::plan::{ModelRef, Plan, Step, Work};
use crate::store::folder::{RunFolder, StepState, StoreError};
use crate::store::lock::{self, Lock};
use crate::store::models;
use crate::train::checkpoint;

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
    // The name says what the head is about to run: plan.json may still be that of an earlier one.
    let print = hex(&Sha256::digest(plan)[..8]);
    let own = heads.join(format!("{}-{}-{print}.lock", lock::machine(), std::process::id()));
    // Of two that come at once, each sees the other.
    let held = Lock::take(&own)?;
    let mut others = Vec::new();
    for entry in std::fs::read_dir(&heads).map_err(fault)?.flatten() {
        let path = entry.path();
        if path == own || path.extension().is_none_or(|end| end != "lock") {
            continue;
        }
        match lock::holder(&path) {
            Some(holder) if !holder.gone => {
                let same = path.to_string_lossy().ends_with(&format!("-{print}.lock"));
                others.push((holder, same));
            }
            _ => {
                // Of a process that is gone.
                let _ = std::fs::remove_file(&path);
            }
        }
    }
    if let Some((other, _)) = others.iter().find(|(_, same)| !same) {
        return Err(ExecError::Other(format!(
            "{}: process {} on {} runs another plan in this folder: wait for it, stop it, or give --output",
            folder.root().display(),
            other.pid,
            other.host
        )));
    }
    Ok(Head { _lock: held, alone: others.is_empty() })
}

/// Prepares a run's steps for being taken up: those that failed get another try, those that were pruned by other rules go on,
/// and those whose outputs are damaged are done anew, as those whose models were removed and are needed again.
///
/// # Errors
/// The operating system's.
pub fn open_again(folder: &RunFolder, plan: &Plan, same_rules: bool) -> Result<(), ExecError> {
    for step in &plan.steps {
        let (id, title) = (step.id.as_str(), &step.title);
        match folder.state(id) {
            StepState::Failed(_) => folder.reopen(id)?,
            StepState::Pruned(_) if !same_rules => folder.reopen(id)?,
            StepState::Complete => {
                let removed = models::removed(folder, id).models;
                let is_removed = |name: &str| removed.iter().any(|gone| name.starts_with(&format!("{gone}/")));
                if let Some(damage) = folder.damage(id, &is_removed) {
                    tracing::warn!("{title}: {damage}: it is done anew");
                    folder.reset(id)?;
                }
            }
            StepState::Open | StepState::Pruned(_) => {}
        }
    }
    for step in &plan.steps {
        if folder.state(&step.id).is_over() {
            continue;
        }
        for (producer, model) in needs(folder, plan, step) {
            if models::is_removed(folder, &producer, &model) {
                tracing::warn!("{}: needs a model that was removed to save space: it is made again", step.title);
                models::made_again(folder, &producer)?;
                folder.reset(&producer)?;
            }
        }
    }
    Ok(())
}

/// The models that a step reads: the step that makes each, and its name in that step's folder.
fn needs(folder: &RunFolder, plan: &Plan, step: &Step) -> Vec<(String, String)> {
    let wanted: Vec<ModelRef> = match &step.work {
        Work::Score { model, .. } => vec![model.clone()],
        Work::Merge { merge } => plan
            .merges
            .get(*merge)
            .map(|merge| merge.models.iter().map(|model| plan.final_model(*model)).collect())
            .unwrap_or_default(),
        Work::Base | Work::Train { .. } => Vec::new(),
    };
    let of = |model: ModelRef| {
        let producer = plan.producer(&model)?.to_string();
        let name = match model {
            ModelRef::Checkpoint { trial, step } => {
                let last = plan.trials.get(trial).is_some_and(|planned| planned.steps == step);
                let result = checkpoint::read_final(&folder.step(&producer)).filter(|_| last).map(|f| f.step);
                checkpoint::checkpoint_name(result.unwrap_or(step))
            }
            ModelRef::Base | ModelRef::Merged(_) => "model".into(),
        };
        Some((producer, name))
    };
    wanted.into_iter().filter_map(of).collect()
}
