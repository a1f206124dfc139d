//! A config file with its overrides, and the trials that its grid spans.

use std::path::{Path, PathBuf};

use super::node::{self, Node, Origin, Value};
use super::reader::{ConfigError, ConfigErrors, Faults, Reader};
use super::schema::{self, Config};

/// A config as written, overrides applied, not yet checked.
#[derive(Debug, Clone)]
pub struct Document {
    root: Node,
    file: String,
    folder: PathBuf,
    text: String,
}

/// One point of the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Unique and short: `symmetric r8 T0.02`.
    pub label: String,
    /// The axes' values, dotted key → value as text; an axis that does not apply is absent.
    pub axes: Vec<(String, String)>,
    /// The whole config of this trial.
    pub config: Config,
}

/// Settings that a trial changes: dotted key and value.
type Overrides = Vec<(String, Node)>;

/// Most trials of a sweep.
const MOST_TRIALS: usize = 10_000;

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
                    root.set(key.trim(), node.relocated(&origin));
                }
                Err((_, message)) => faults.add(&origin, message),
            }
        }
        let document = Self { root, file: file.into(), folder: folder.into(), text: text.into() };
        faults.finish(document)
    }

    /// The file's text as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Checks the config, the grid aside.
    ///
    /// # Errors
    /// Every fault.
    pub fn check(&self) -> Result<Config, ConfigErrors> {
        self.check_tree(&self.root)
    }

    fn check_tree(&self, root: &Node) -> Result<Config, ConfigErrors> {
        let faults = Faults::new(&self.file);
        let config = schema::read(root, &self.folder, &faults);
        faults.finish(config)
    }

    /// The grid's axes: dotted key and values.
    ///
    /// # Errors
    /// Where the grid is no mapping of lists, or empty.
    pub fn axes(&self) -> Result<Vec<(String, Vec<Node>)>, ConfigErrors> {
        let faults = Faults::new(&self.file);
        let mut axes = Vec::new();
        if let Some(grid) = self.root.get("grid").filter(|g| g.value != Value::Null) {
            match &grid.value {
                Value::Map(entries) => {
                    for (key, node) in entries {
                        match &node.value {
                            Value::List(values) if !values.is_empty() => axes.push((key.clone(), values.clone())),
                            _ => faults.add(&node.origin, format!("grid.{key}: must be a list of at least one value")),
                        }
                        let section = key.split('.').next().unwrap_or_default();
                        if ["grid", "trials", "merge", "score", "choose", "run", "name", "base"].contains(&section) {
                            faults.add(
                                &node.origin,
                                format!("grid.{key}: cannot be an axis: it is the same for all trials of a sweep"),
                            );
                        }
                    }
                }
                _ => faults.add(&grid.origin, "grid: must be a mapping of settings to lists of values"),
            }
        }
        faults.finish(axes)
    }

    /// Every trial of the grid, or of `trials`, in the config's order.
    ///
    /// # Errors
    /// Every fault of every trial.
    pub fn trials(&self) -> Result<Vec<Trial>, ConfigErrors> {
        let axes = self.axes()?;
        let named = self.named()?;
        let mut root = self.root.clone();
        root.remove("grid");
        root.remove("trials");
        let faults = Faults::new(&self.file);
        let total = axes.iter().try_fold(1usize, |n, (_, values)| n.checked_mul(values.len()));
        match total {
            Some(total) if total <= MOST_TRIALS => {}
            _ => {
                faults.add(&Origin::Line(1), format!("grid: spans more than {MOST_TRIALS} trials"));
                return faults.finish(Vec::new());
            }
        }
        let mut points: Vec<(Option<String>, Overrides)> = vec![(None, Vec::new())];
        if !named.is_empty() {
            points = named.into_iter().map(|(name, set)| (Some(name), set)).collect();
        }
        for (key, values) in &axes {
            points = points
                .into_iter()
                .flat_map(|(name, set)| {
                    values.iter().map(move |value| {
                        let mut set = set.clone();
                        set.push((key.clone(), value.clone()));
                        (name.clone(), set)
                    })
                })
                .collect();
        }
        let mut trials: Vec<Trial> = Vec::new();
        let mut errors: Vec<ConfigError> = Vec::new();
        for (name, set) in points {
            let set = applicable(&root, set);
            let mut tree = root.clone();
            for (key, value) in &set {
                tree.set(key, value.clone());
            }
            let axes: Vec<(String, String)> = set.iter().map(|(k, v)| (k.clone(), v.value.show())).collect();
            match self.check_tree(&tree) {
                Ok(config) => {
                    let label = name.unwrap_or_else(|| label(&axes, &config.name));
                    // Axes that do not apply leave equal trials behind.
                    if !trials.iter().any(|t| t.label == label) {
                        trials.push(Trial { label, axes, config });
                    }
                }
                Err(found) => {
                    for error in found.0 {
                        if !errors.contains(&error) {
                            errors.push(error);
                        }
                    }
                }
            }
        }
        if errors.is_empty() { Ok(trials) } else { Err(ConfigErrors(errors)) }
    }

    /// The variants of `trials`: name and settings.
    fn named(&self) -> Result<Vec<(String, Overrides)>, ConfigErrors> {
        let faults = Faults::new(&self.file);
        let mut out: Vec<(String, Overrides)> = Vec::new();
        let root = Reader::new(Some(&self.root), "", &self.root.origin, &faults);
        for item in root.items("trials") {
            let reader = Reader::new(Some(item), "trials", &item.origin, &faults);
            let name = reader.required_text("name");
            if out.iter().any(|(other, _)| *other == name) {
                reader.fault("name", "is taken by another trial");
            }
            let set = match reader.node("set").map(|n| &n.value) {
                Some(Value::Map(entries)) => entries.clone(),
                None | Some(Value::Null) => Vec::new(),
                Some(_) => {
                    reader.fault("set", "must be a mapping of settings to values");
                    Vec::new()
                }
            };
            out.push((name, set));
            reader.finish();
        }
        faults.finish(out)
    }
}

/// Leaves out settings of an adapter where the trial trains the whole model.
fn applicable(root: &Node, set: Vec<(String, Node)>) -> Vec<(String, Node)> {
    let kind = set
        .iter()
        .rev()
        .find(|(key, _)| key == "adapter.kind")
        .map(|(_, node)| node)
        .or_else(|| root.at("adapter.kind"));
    let lora = kind.is_some_and(|node| matches!(&node.value, Value::Text(kind) if kind != "full"));
    set.into_iter().filter(|(key, _)| lora || !key.starts_with("adapter.") || key == "adapter.kind").collect()
}

fn label(axes: &[(String, String)], name: &str) -> String {
    let parts: Vec<String> = axes
        .iter()
        .map(|(key, value)| match key.as_str() {
            "objective" | "adapter.kind" | "loss.name" => value.clone(),
            "adapter.rank" => format!("r{value}"),
            "loss.temperature" => format!("T{value}"),
            "train.seed" => format!("s{value}"),
            _ => format!("{}={value}", key.rsplit('.').next().unwrap_or(key)),
        })
        .collect();
    if parts.is_empty() { name.to_string() } else { parts.join(" ") }
}
