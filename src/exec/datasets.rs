//! Data and models of the hub: where a name is an id there, its files on this machine.

use std::path::PathBuf;

use crate::hub::{Hub, HubError, Progress, Repo, RepoKind};
use crate::task::files::Datasets;
use crate::task::repository::Repository;

/// Opens datasets of a hub; files are fetched when they are read.
pub struct HubDatasets {
    hub: std::sync::Arc<Hub>,
    progress: std::sync::Arc<dyn Progress + Send>,
}

impl HubDatasets {
    /// Of this hub, reporting downloads to `progress`.
    pub fn new(hub: std::sync::Arc<Hub>, progress: std::sync::Arc<dyn Progress + Send>) -> Self {
        Self { hub, progress }
    }
}

impl Datasets for HubDatasets {
    fn open(&self, repo: &str, revision: Option<&str>) -> Result<Box<dyn Repository>, String> {
        let repo = Repo { kind: RepoKind::Dataset, id: repo.into(), revision: revision.map(String::from) };
        let listing = self.hub.listing(&repo).map_err(|e| e.to_string())?;
        let mut dataset = HubDataset {
            hub: self.hub.clone(),
            progress: self.progress.clone(),
            repo,
            commit: listing.commit,
            names: listing.files,
            readme: String::new(),
        };
        if dataset.names.iter().any(|name| name == "README.md") {
            let path = dataset.fetch("README.md")?;
            dataset.readme = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(Box::new(dataset))
    }
}

struct HubDataset {
    hub: std::sync::Arc<Hub>,
    progress: std::sync::Arc<dyn Progress + Send>,
    repo: Repo,
    commit: String,
    names: Vec<String>,
    readme: String,
}

impl Repository for HubDataset {
    fn names(&self) -> &[String] {
        &self.names
    }

    fn readme(&self) -> &str {
        &self.readme
    }

    fn commit(&self) -> &str {
        &self.commit
    }

    fn fetch(&self, name: &str) -> Result<PathBuf, String> {
        self.hub.file(&self.repo, &self.commit, name, self.progress.as_ref()).map_err(|e| e.to_string())
    }
}

/// A model of the hub on this machine: its folder and its commit. Weights in other formats than those read are left there.
///
/// # Errors
/// Where the repository cannot be had.
pub fn fetch_model(
    hub: &Hub,
    id: &str,
    revision: Option<&str>,
    progress: &dyn Progress,
) -> Result<(PathBuf, String), HubError> {
    let repo = Repo { kind: RepoKind::Model, id: id.into(), revision: revision.map(String::from) };
    let listing = hub.listing(&repo)?;
    let snapshot = hub.snapshot(&repo, &|name| is_wanted(name, &listing.files), progress)?;
    Ok((snapshot.folder, snapshot.commit))
}

/// The model's own files and those of its modules; of a folder's weights the safetensors, where there are any.
fn is_wanted(name: &str, files: &[String]) -> bool {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    // Modules are `1_Pooling` and the like; `onnx`, `openvino`, checkpoints and so on are not read.
    let module = folder.is_empty() || folder.starts_with(|c: char| c.is_ascii_digit());
    let safe = || {
        files.iter().any(|f| {
            let (place, name) = f.rsplit_once('/').unwrap_or(("", f.as_str()));
            place == folder && ["model.safetensors", "model.safetensors.index.json"].contains(&name)
        })
    };
    let weights = file.ends_with(".safetensors") || (file.ends_with(".bin") && !safe());
    let text = [".json", ".txt", ".model", ".md"].iter().any(|end| file.ends_with(end));
    module && (weights || text) && !file.starts_with("training_args")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fetched_of_a_model() {
        let files: Vec<String> = ["model.safetensors", "onnx/model.onnx"].map(String::from).to_vec();
        for name in
            ["config.json", "model.safetensors", "1_Pooling/config.json", "2_Dense/model.safetensors", "vocab.txt"]
        {
            assert!(is_wanted(name, &files), "{name}");
        }
        for name in
            ["pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "tf_model.h5", "a.png", "training_args.bin"]
        {
            assert!(!is_wanted(name, &files), "{name}");
        }
        // Weights of a module in another form than the model's own.
        assert!(is_wanted("2_Dense/pytorch_model.bin", &files));
    }
}
