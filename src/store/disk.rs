//! What a run takes on the disk.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Deeper folders are none of a run's.
const DEEPEST: usize = 16;

/// Bytes by use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Disk {
    /// Checkpoints and merged models.
    pub models: u64,
    /// What interrupted trainings are taken up from.
    pub states: u64,
    /// The shipped model, `best/`.
    pub best: u64,
    /// Scores, logs, records.
    pub other: u64,
}

impl Disk {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.models + self.states + self.best + self.other
    }
}

/// Whether a folder of a step holds a model: a checkpoint, or a merged one.
pub fn is_model(name: &str) -> bool {
    name == "model" || checkpoint_step(name).is_some()
}

/// The optimizer step of a checkpoint's folder.
pub fn checkpoint_step(name: &str) -> Option<usize> {
    name.strip_prefix("checkpoint-").filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// Whether a file or folder of a training holds a state to take it up from.
pub fn is_state(name: &str) -> bool {
    name.starts_with("training_state.")
        || name.strip_prefix("resume-").is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
}

/// Bytes of a file, or of all files below a folder; links are not followed.
pub fn size(path: &Path) -> u64 {
    let mut total = 0;
    each_file(path, 0, &mut |_, bytes| total += bytes);
    total
}

/// What the run in this folder takes; what goes away meanwhile is left out.
pub fn usage(root: &Path) -> Disk {
    let mut disk = Disk::default();
    each_file(root, 0, &mut |path, bytes| {
        let inside = path.strip_prefix(root).unwrap_or(path);
        let names: Vec<String> = inside.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        let place = match names.first().map(String::as_str) {
            Some("best") => &mut disk.best,
            Some("steps") if names.iter().skip(2).any(|name| is_state(name)) => &mut disk.states,
            Some("steps") if names.get(2).is_some_and(|name| is_model(name)) => &mut disk.models,
            _ => &mut disk.other,
        };
        *place += bytes;
    });
    disk
}

/// Calls `f` with every file below a path and its bytes.
pub(super) fn each_file(path: &Path, depth: usize, f: &mut dyn FnMut(&Path, u64)) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if !metadata.is_dir() {
        f(path, metadata.len());
        return;
    }
    if depth > DEEPEST {
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        each_file(&entry.path(), depth + 1, f);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_by_use() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (path, bytes) in [
            ("plan.json", 1),
            ("steps/a/scores.json", 2),
            ("steps/a/checkpoint-000005/model.safetensors", 10),
            ("steps/a/checkpoint-000005/training_state.json", 100),
            ("steps/a/resume-000007/training_state.safetensors", 1000),
            ("steps/b/model/1_Pooling/config.json", 20),
            ("best/model.safetensors", 5),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; bytes]).unwrap();
        }
        let disk = usage(root);
        assert_eq!(disk, Disk { models: 30, states: 1100, best: 5, other: 3 });
        assert_eq!((disk.total(), size(root)), (1138, 1138));
        assert_eq!(usage(&root.join("none")), Disk::default());
    }
}
