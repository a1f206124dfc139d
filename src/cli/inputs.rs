//! What several subcommands read: model folders, task selectors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use candle_core::Device;

use super::{Misuse, observer};
use crate::adapter::peft;
use crate::encode::cache::CacheSettings;
use crate::exec::datasets::{HubDatasets, fetch_model};
use crate::hub::{Hub, Settings};
use crate::model::{BuildOptions, Embedder, ModelFiles};
use crate::nn::kernel::precision;
use crate::task::select::{Selection, select};
use crate::task::spec::{TaskError, TaskSpec};

/// A model that was asked for: a folder, or an id of the hub.
pub struct Source {
    /// Its folder on this machine.
    pub folder: PathBuf,
    /// `org/name`, where it is of the hub.
    pub id: Option<String>,
    /// Its commit there.
    pub commit: Option<String>,
}

/// Finds a model: a folder as it is, anything else is an id of the hub (`org/name`, or `org/name@revision`).
pub fn source(model: &str, revision: Option<&str>, quiet: bool) -> anyhow::Result<Source> {
    let folder = PathBuf::from(model);
    let (model, revision) = match model.split_once('@') {
        Some((id, named)) if revision.is_none() && !folder.exists() => (id, Some(named)),
        _ => (model, revision),
    };
    if folder.exists() {
        if revision.is_some() {
            bail!(Misuse(format!("--revision is of a model of the hub, but {model} is a folder here")));
        }
        return Ok(Source { folder, id: None, commit: None });
    }
    if !is_id(model) {
        bail!(Misuse(format!("{model}: no such model folder (and no id of the hub, which is org/name)")));
    }
    let (folder, commit) = fetch_model(&hub(), model, revision, &observer::Downloads::new(quiet))
        .with_context(|| format!("{model}: no such folder here, so it is taken for a model of the hub"))?;
    Ok(Source { folder, id: Some(model.into()), commit: Some(commit) })
}

/// Whether a name can be an id of the hub.
pub fn is_id(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 2 && parts.iter().all(|part| plain(part))
}

/// The hub by the environment (`HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` …).
pub fn hub() -> Hub {
    Hub::new(Settings::from_env())
}

/// The hub's datasets, by the environment.
pub fn datasets(quiet: bool) -> HubDatasets {
    HubDatasets::new(Arc::new(hub()), Arc::new(observer::Downloads::new(quiet)))
}

/// Where embeddings are kept: `$EMBEVAL_CACHE`, else `$XDG_CACHE_HOME/embeval`, else `~/.cache/embeval`.
pub fn cache(limit: u64) -> CacheSettings {
    let named = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = named("EMBEVAL_CACHE")
        .or_else(|| Some(named("XDG_CACHE_HOME")?.join("embeval")))
        .or_else(|| Some(named("HOME")?.join(".cache/embeval")));
    match folder {
        Some(folder) => CacheSettings { folder: folder.join("embeddings"), limit },
        None => CacheSettings { folder: PathBuf::new(), limit: 0 },
    }
}

/// This thread's products on the CPU are of a precision until what is given goes.
pub fn precision(precision: Option<Precision>, device: &Device) -> precision::Scope {
    precision::scope(device.is_cpu() && precision == Some(Precision::Bf16))
}

/// What operands of products are in; on a GPU weights and activations, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bit.
    F32,
    /// bfloat16, sums in f32.
    Bf16,
}

/// Loads a model folder, with an adapter on top if one is given; in bf16 on a GPU where no precision is asked for.
pub fn embedder(
    model: &Path,
    adapter: Option<&Path>,
    device: &Device,
    precision: Option<Precision>,
) -> anyhow::Result<Embedder> {
    let files = ModelFiles::load(model)?;
    if files.layout.assumed {
        tracing::warn!("{}: no modules.json, so mean pooling without normalisation is assumed", model.display());
    }
    let adapter = match adapter {
        Some(folder) => {
            let adapter = peft::load(folder)?;
            if adapter.is_identity_on(&files.weights).unwrap_or(false) {
                tracing::warn!("{}: changes nothing: all of its B matrices are zero", folder.display());
            }
            Some(adapter)
        }
        None => None,
    };
    let half = device.is_cuda() && precision != Some(Precision::F32);
    let options = BuildOptions { device: device.clone(), half, adapter: adapter.as_ref(), ..Default::default() };
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
    Ok(selection(selectors, beside)?.tasks)
}

/// The tasks that the selectors name, and the benchmark if they name one.
pub fn selection(selectors: &[String], beside: Option<&Path>) -> anyhow::Result<Selection> {
    let chosen = chosen(selectors, beside).map_err(|error| match error {
        TaskError::Other { .. } => anyhow::Error::new(Misuse(error.to_string())),
        other => other.into(),
    })?;
    if chosen.tasks.is_empty() {
        bail!(Misuse("no tasks are selected".into()));
    }
    Ok(chosen)
}

/// As [`selection`], of any number of tasks.
pub fn chosen(selectors: &[String], beside: Option<&Path>) -> Result<Selection, TaskError> {
    select(selectors, &task_folders(beside))
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

/// Whether an embedding of the model has `dim` values.
///
/// # Errors
/// Where it has fewer.
pub fn check_dim(files: &ModelFiles, dim: Option<usize>) -> anyhow::Result<()> {
    let has = files.embedding_size();
    match dim {
        Some(dim) if dim > has => {
            anyhow::bail!(super::Misuse(format!("truncate_dim {dim}: {} embeds to {has} values", files.path.display())))
        }
        _ => Ok(()),
    }
}
