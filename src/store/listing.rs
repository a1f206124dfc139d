//! The runs in a folder, a line each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde_json::Value;

use super::disk;
use super::folder::read_json;
use super::status::{best, state};
use super::survey::{Best, Kind, Rule, Survey, is_run};

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its folder's name.
    pub name: String,
    /// `running`, `complete`, `failed`, `stopped` or `unreadable`.
    pub state: &'static str,
    /// Trainings.
    pub trials: usize,
    /// Steps done.
    pub done: usize,
    /// All steps.
    pub steps: usize,
    /// The choice, or the best so far.
    pub best: Option<Best>,
    /// Whether that is the finished run's choice.
    pub chosen: bool,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When it last changed, seconds since 1970.
    pub changed: Option<u64>,
    /// Its report, where there is one.
    pub report: Option<PathBuf>,
}

/// The folders of runs in `folder`, by name; a folder that is a run itself is the only one.
///
/// # Errors
/// Where the folder cannot be read.
pub fn folders(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    if is_run(folder) {
        return Ok(vec![folder.into()]);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_run(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A run's line. `rule` is that of its config.
pub fn row(root: &Path, rule: &Rule) -> Row {
    let survey = Survey::read(root);
    let (best, chosen) = best(&survey, rule);
    let changed = survey.changed().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Row {
        name: root.file_name().map_or_else(|| ".".into(), |name| name.to_string_lossy().into_owned()),
        state: state(&survey),
        trials: survey.steps.iter().filter(|step| step.kind == Kind::Train).count(),
        done: survey.steps.iter().filter(|step| step.state.is_over()).count(),
        steps: survey.steps.len(),
        best,
        chosen,
        bytes: disk::size(root),
        changed: changed.map(|d| d.as_secs()),
        report: report(root),
    }
}

/// The report that the run says, else `reports/NAME` as sweeps write it beside `runs/`.
fn report(root: &Path) -> Option<PathBuf> {
    let run: Value = read_json(&root.join("run.json")).unwrap_or_default();
    let said = run["report"].as_str().map(|report| Path::new(run["folder"].as_str().unwrap_or_default()).join(report));
    let beside = root.parent()?.parent().map(|above| above.join("reports").join(root.file_name().unwrap_or_default()));
    [said, beside].into_iter().flatten().map(|folder| folder.join("README.md")).find(|page| page.is_file())
}
