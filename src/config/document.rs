//! A config file with its overrides.

use std::path::{Path, PathBuf};

use super::node::{self, Node, Origin, Value};
use super::read;
use super::reader::{ConfigError, ConfigErrors, Faults};
use super::schema::Config;

/// A config as written, overrides applied, not yet checked.
#[derive(Debug, Clone)]
pub struct Document {
    pub(super) root: Node,
    pub(super) file: String,
    pub(super) folder: PathBuf,
    text: String,
    sets: Vec<String>,
}

impl Document {
    /// Reads a file and applies `KEY=VALUE` overrides (values are YAML).
    ///
    /// # Errors
    /// Where the file cannot be read, is not YAML, or an override is not of that form.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self, ConfigErrors> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            ConfigErrors(vec![ConfigError {
                place: path.display().to_string(),
                message: format!("cannot be read: {e}"),
            }])
        })?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        Self::parse(&text, &path.display().to_string(), &folder, sets)
    }

    /// As [`Self::load`], from text; relative paths are resolved against `folder`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, file: &str, folder: &Path, sets: &[String]) -> Result<Self, ConfigErrors> {
        let faults = Faults::new(file);
        let mut root = match node::parse(text) {
            Ok(root) => root,
            Err((line, message)) => {
                faults.add(&Origin::Line(line), message);
                Node { value: Value::Map(Vec::new()), origin: Origin::Line(1) }
            }
        };
        if !matches!(root.value, Value::Map(_)) {
            faults.add(&root.origin, "must be a mapping of settings");
        }
        for set in sets {
            let origin = Origin::Override(set.clone());
            let Some((key, value)) = set.split_once('=') else {
                faults.add(&origin, "must be KEY=VALUE, such as train.lr=2e-5");
                continue;
            };
            if key.trim().is_empty() || key.split('.').any(|part| part.trim().is_empty()) {
                faults.add(&origin, "has an empty key");
                continue;
            }
            match node::parse(value) {
                Ok(mut node) => {
                    if value.trim().is_empty() {
                        node.value = Value::Text(String::new());
                    }
                    let node = node.relocated(&origin);
                    root.set(&path_of(key.trim()), node);
                }
                Err((_, message)) => faults.add(&origin, message),
            }
        }
        let document = Self { root, file: file.into(), folder: folder.into(), text: text.into(), sets: sets.to_vec() };
        faults.finish(document)
    }

    /// The config in force: the file's text as written, or, where there are overrides, all settings with them.
    pub fn text(&self) -> String {
        if self.sets.is_empty() {
            return self.text.clone();
        }
        let sets: String =
            self.sets.iter().map(|set| format!("#   --set {}\n", set.replace(['\n', '\r'], " "))).collect();
        format!("# {} with\n{sets}{}", self.file.replace(['\n', '\r'], " "), self.root.to_yaml())
    }

    /// The file's text as written, the name and folder that it was read by, and the overrides: what [`Self::parse`] makes the
    /// same document of.
    pub fn source(&self) -> (&str, &str, &Path, &[String]) {
        (&self.text, &self.file, &self.folder, &self.sets)
    }

    /// Checks the config, the grid aside.
    ///
    /// # Errors
    /// Every fault.
    pub fn check(&self) -> Result<Config, ConfigErrors> {
        let faults = Faults::new(&self.file);
        let config = read::config(&self.root, &self.folder, &faults);
        faults.finish(config)
    }
}

/// The keys on the way to a setting. The axes of a grid, and what trials set and merges select, have dotted keys themselves.
fn path_of(key: &str) -> Vec<&str> {
    let parts: Vec<&str> = key.split('.').collect();
    let outer = match parts.as_slice() {
        ["grid", _, ..] => 1,
        ["trials", _, "set", _, ..] => 3,
        ["merge", _, "slerp", "first" | "second", _, ..] => 4,
        ["merge", _, "linear", "models", _, _, ..] => 5,
        _ => return parts,
    };
    key.splitn(outer + 1, '.').collect()
}
