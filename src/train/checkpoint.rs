//! Checkpoints, and the states that an interrupted run is taken up from.
//!
//! A checkpoint folder holds the model or the adapter as others read it. Beside it, in the newest alone, are
//! `training_state.safetensors` (moments, weights, averages, cross-batch memory) and `training_state.json` (step, best, history),
//! written last; between checkpoints a `resume-<step>` folder holds such a state. Order and draws are functions of seed and place,
//! so there is no generator to keep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::best::Best;
use super::log::History;
use crate::data::atomic;
use crate::loss::adaptive_margin;
use crate::model::weights;

const TENSORS: &str = "training_state.safetensors";
const STATE: &str = "training_state.json";
/// Layout of the two files; others are not taken up.
const VERSION: u32 = 1;

/// What a state holds beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Layout of the files.
    pub version: u32,
    /// Identity of settings, data and base: another run's state is not taken up.
    pub fingerprint: String,
    /// Optimizer steps made.
    pub step: usize,
    /// Tokens seen.
    pub tokens: usize,
    /// Seconds in training steps.
    pub seconds: f64,
    /// Texts cut at the limit, out of all.
    pub truncated: (usize, usize),
    /// The best evaluation so far.
    pub best: Best,
    /// ArcFace's margins.
    pub margins: Option<adaptive_margin::State>,
    /// Whether training had ended by its patience.
    pub stopped: bool,
    /// What was logged.
    pub history: History,
    /// SHA-256 of the tensors' file.
    pub digest: String,
}

/// A state with its tensors.
pub type Saved = (State, BTreeMap<String, Tensor>);

/// Name of a checkpoint's folder.
pub fn checkpoint_name(step: usize) -> String {
    format!("checkpoint-{step:06}")
}

fn resume_name(step: usize) -> String {
    format!("resume-{step:06}")
}

fn io(path: &Path, source: std::io::Error) -> TrainError {
    TrainError::Io { path: path.into(), source }
}

/// Folders of this prefix in `output`, by step, ascending.
fn folders(output: &Path, prefix: &str) -> Result<Vec<(usize, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(output) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(io(output, e)),
    };
    for entry in entries {
        let path = entry.map_err(|e| io(output, e))?.path();
        let step = path.file_name().and_then(|n| n.to_str()?.strip_prefix(prefix)?.parse().ok());
        if let (Some(step), true) = (step, path.is_dir()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Checkpoints in `output`, by step, ascending.
///
/// # Errors
/// The operating system's.
pub fn checkpoints(output: &Path) -> Result<Vec<(usize, PathBuf)>, TrainError> {
    folders(output, "checkpoint-")
}

/// Writes a state into `folder`; it counts when its last file is there.
///
/// # Errors
/// The operating system's.
pub fn write(folder: &Path, mut state: State, tensors: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
    let path = folder.join(TENSORS);
    weights::write_any(&path, tensors)?;
    state.version = VERSION;
    state.digest = crate::data::rows::fingerprint(&path)?;
    let path = folder.join(STATE);
    let text = serde_json::to_string(&state).map_err(|e| io(&path, e.into()))?;
    atomic::write(&path, text.as_bytes()).map_err(|e| io(&path, e))
}

/// Writes a state between checkpoints, and removes the older ones.
///
/// # Errors
/// The operating system's.
pub fn write_between(output: &Path, state: State, tensors: &BTreeMap<String, Tensor>) -> Result<(), TrainError> {
    let step = state.step;
    write(&output.join(resume_name(step)), state, tensors)?;
    forget(output, step)
}

/// Removes the states of steps before `step`, wherever they are: a newer one is complete.
///
/// # Errors
/// The operating system's.
pub fn forget(output: &Path, step: usize) -> Result<(), TrainError> {
    for (at, folder) in folders(output, "resume-")? {
        if at < step || (at == step && output.join(checkpoint_name(step)).join(STATE).is_file()) {
            std::fs::remove_dir_all(&folder).map_err(|e| io(&folder, e))?;
        }
    }
    for (_, folder) in checkpoints(output)?.into_iter().filter(|(at, _)| *at < step) {
        forget_state(&folder)?;
    }
    Ok(())
}

/// Removes the state in a checkpoint's folder; the checkpoint stays.
///
/// # Errors
/// The operating system's.
pub fn forget_state(folder: &Path) -> Result<(), TrainError> {
    for name in [STATE, TENSORS] {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&path, e)),
            _ => {}
        }
    }
    Ok(())
}

/// Removes whole checkpoints.
///
/// # Errors
/// The operating system's.
pub fn remove(folder: &Path) -> Result<(), TrainError> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(folder, e)),
        _ => Ok(()),
    }
}

/// The newest whole state of this run in `output`, with its tensors. A damaged one is passed over for the one before.
///
/// # Errors
/// Where the newest is of another run: its results would be overwritten.
pub fn latest(output: &Path, fingerprint: &str) -> Result<Option<Saved>, TrainError> {
    let mut all = folders(output, "resume-")?;
    all.extend(checkpoints(output)?);
    all.sort();
    for (_, folder) in all.into_iter().rev() {
        let path = folder.join(STATE);
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let state: State = match serde_json::from_str(&text) {
            Ok(state) => state,
            Err(e) => {
                tracing::warn!("{}: not a state that can be read ({e}); the one before is taken", path.display());
                continue;
            }
        };
        if state.version != VERSION || state.fingerprint != fingerprint {
            return Err(TrainError::Resume {
                path: folder,
                message:
                    "is of a run with other settings, data or base: give another --output, or --restart to begin anew \
                          (which removes it)"
                        .into(),
            });
        }
        let path = folder.join(TENSORS);
        let whole = crate::data::rows::fingerprint(&path).is_ok_and(|digest| digest == state.digest);
        match whole.then(|| candle_core::safetensors::load(&path, &candle_core::Device::Cpu)) {
            Some(Ok(tensors)) => return Ok(Some((state, tensors.into_iter().collect()))),
            _ => tracing::warn!("{}: is not whole; the state before it is taken", path.display()),
        }
    }
    Ok(None)
}

/// The optimizer step of the newest state in `output`, 0 where there is none; whether it is whole is not looked at.
pub fn newest_state(output: &Path) -> usize {
    let all = ["resume-", "checkpoint-"].into_iter().filter_map(|prefix| folders(output, prefix).ok()).flatten();
    all.filter(|(_, folder)| folder.join(STATE).is_file()).map(|(step, _)| step).max().unwrap_or(0)
}

/// Removes all that a run left in `output`.
///
/// # Errors
/// The operating system's.
pub fn clear(output: &Path) -> Result<(), TrainError> {
    for (_, folder) in folders(output, "resume-")?.into_iter().chain(checkpoints(output)?) {
        remove(&folder)?;
    }
    remove(&output.join("tensorboard"))?;
    for name in [FINAL, "log.jsonl", "trainer_state.json"] {
        let path = output.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(&path, e)),
            _ => {}
        }
    }
    Ok(())
}

/// Says which checkpoint is the run's result.
const FINAL: &str = "final.json";

/// What a finished run says of its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Final {
    /// Optimizer step of the checkpoint.
    pub step: usize,
    /// Optimizer steps made.
    pub steps: usize,
    /// The value that it is best by, where there was a choice.
    pub best: Option<(String, f64)>,
}

/// Writes which checkpoint is the result.
///
/// # Errors
/// The operating system's.
pub fn write_final(output: &Path, result: &Final) -> Result<(), TrainError> {
    let path = output.join(FINAL);
    let text = serde_json::to_string_pretty(result).map_err(|e| io(&path, e.into()))?;
    atomic::write(&path, text.as_bytes()).map_err(|e| io(&path, e))
}

/// The finished run's result; none where it has not finished (or was made before results were named).
pub fn read_final(output: &Path) -> Option<Final> {
    serde_json::from_str(&std::fs::read_to_string(output.join(FINAL)).ok()?).ok()
}

/// Bytes of the files in a folder.
pub fn size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Which checkpoints go: all but the best, the last, those of the plan, and the `last` newest; then the oldest of those until
/// the rest fits `bytes`.
pub fn superfluous(all: &[(usize, u64)], best: Option<usize>, last: Option<usize>, bytes: Option<u64>) -> Vec<usize> {
    let newest = all.last().map(|(step, _)| *step);
    let mut kept: Vec<(usize, u64)> = all.to_vec();
    let mut gone = Vec::new();
    let needed = |step: usize| Some(step) == best || Some(step) == newest;
    if let Some(last) = last {
        let from = kept.len().saturating_sub(last.max(1));
        let out: Vec<usize> = kept[..from].iter().map(|(step, _)| *step).filter(|step| !needed(*step)).collect();
        gone.extend(&out);
        kept.retain(|(step, _)| !out.contains(step));
    }
    if let Some(bytes) = bytes {
        while kept.iter().map(|(_, size)| size).sum::<u64>() > bytes {
            let Some(at) = kept.iter().position(|(step, _)| !needed(*step)) else { break };
            gone.push(kept.remove(at).0);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_and_the_last_stay_within_any_budget() {
        let all = [(10, 5), (20, 5), (30, 5), (40, 5), (50, 5)];
        assert!(superfluous(&all, None, None, None).is_empty());
        assert_eq!(superfluous(&all, Some(20), Some(2), None), [10, 30]);
        assert_eq!(superfluous(&all, Some(10), None, Some(16)), [20, 30]);
        assert_eq!(superfluous(&all, Some(10), None, Some(1)), [20, 30, 40]);
        assert_eq!(superfluous(&all, None, Some(1), None), [10, 20, 30, 40]);
    }

    fn state(step: usize) -> State {
        State {
            version: VERSION,
            fingerprint: "f".into(),
            step,
            tokens: 1,
            seconds: 0.5,
            truncated: (0, 1),
            best: Best::default(),
            margins: None,
            stopped: false,
            history: History::default(),
            digest: String::new(),
        }
    }

    #[test]
    fn a_damaged_state_is_passed_over_and_another_runs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path();
        assert!(latest(output, "f").unwrap().is_none());
        let tensor = Tensor::new(&[1f32, 2.0], &candle_core::Device::Cpu).unwrap();
        let tensors = BTreeMap::from([("first.w".to_string(), tensor)]);
        write(&output.join(checkpoint_name(5)), state(5), &tensors).unwrap();
        write(&output.join(resume_name(7)), state(7), &tensors).unwrap();
        assert_eq!(latest(output, "f").unwrap().unwrap().0.step, 7);
        let path = output.join(resume_name(7)).join(TENSORS);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let (found, values) = latest(output, "f").unwrap().unwrap();
        assert_eq!((found.step, values["first.w"].to_vec1::<f32>().unwrap()), (5, vec![1.0, 2.0]));
        let error = latest(output, "g").unwrap_err().to_string();
        assert!(error.contains("--restart"), "{error}");
        write_between(output, state(9), &tensors).unwrap();
        assert!(!output.join(resume_name(7)).exists() && output.join(checkpoint_name(5)).exists());
        assert_eq!(latest(output, "f").unwrap().unwrap().0.step, 9);
    }
}
