//! What several subcommands read: model folders, task selectors.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use candle_core::Device;

use super::Misuse;
use crate::adapter::peft;
use crate::model::{BuildOptions, Embedder, ModelFiles};
use crate::task::select::select;
use crate::task::spec::{TaskError, TaskSpec};

/// Loads a model folder, with an adapter on top if one is given.
pub fn embedder(model: &Path, adapter: Option<&Path>, device: &Device) -> anyhow::Result<Embedder> {
    if !model.exists() {
        bail!(Misuse(format!(
            "{}: no such model folder (models of the hub are not available yet: give a folder)",
            model.display()
        )));
    }
    let files = ModelFiles::load(model)?;
    if files.layout.assumed {
        tracing::warn!("{}: no modules.json, so mean pooling without normalisation is assumed", model.display());
    }
    let adapter = adapter.map(peft::load).transpose()?;
    let options = BuildOptions { device: device.clone(), adapter: adapter.as_ref(), ..Default::default() };
    Ok(Embedder::build(&files, &options)?)
}

/// The device by name.
pub fn device(name: &str) -> anyhow::Result<Device> {
    crate::exec::settings::device(name).map_err(|e| anyhow::Error::new(Misuse(e)))
}

/// Folders in which tasks are looked up by name.
pub fn task_folders(beside: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("tasks")];
    if let Some(config) = beside {
        folders.push(config.join("tasks"));
        folders.push(config.join("../tasks"));
    }
    folders
}

/// The tasks that the selectors name.
pub fn tasks(selectors: &[String], beside: Option<&Path>) -> anyhow::Result<Vec<TaskSpec>> {
    let tasks = select(selectors, &task_folders(beside)).map_err(|error| match error {
        TaskError::Other { .. } => anyhow::Error::new(Misuse(error.to_string())),
        other => other.into(),
    })?;
    if tasks.is_empty() {
        bail!(Misuse("no tasks are selected".into()));
    }
    Ok(tasks)
}

/// Texts of a file: a text a line, or JSON lines with `text`, `query` or `sentence1`.
pub fn texts(path: &Path) -> anyhow::Result<Vec<String>> {
    let content = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let content = String::from_utf8(content)
        .map_err(|e| anyhow::anyhow!("{}: not UTF-8 from byte {}", path.display(), e.utf8_error().valid_up_to()))?;
    let mut texts = Vec::new();
    let json = path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson") || content.starts_with('{');
    for (number, line) in content.lines().enumerate() {
        if !json {
            texts.push(line.to_string());
            continue;
        }
        if line.trim().is_empty() {
            continue;
        }
        let value: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("{}: line {}: not JSON", path.display(), number + 1))?;
        let text = ["text", "query", "sentence1"].iter().find_map(|key| value[*key].as_str());
        match text {
            Some(text) => texts.push(text.to_string()),
            None => bail!("{}: line {}: has no `text`, `query` or `sentence1`", path.display(), number + 1),
        }
    }
    if texts.is_empty() {
        bail!("{}: holds no texts", path.display());
    }
    Ok(texts)
}
