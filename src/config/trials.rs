//! The trials of a config: the points that its grid spans, or the variants that it names.

use std::collections::HashSet;

use super::document::Document;
use super::node::{Node, Value};
use super::read;
use super::read_training::{LORA_SETTINGS, QLORA_SETTINGS};
use super::reader::{ConfigErrors, Faults, Reader};
use super::schema::Config;
use crate::data::suggest::did_you_mean;

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

/// Most trials of a sweep.
const MOST_TRIALS: usize = 10_000;

/// Sections that are the same for all trials of a sweep.
const SHARED: [&str; 8] = ["grid", "trials", "merge", "score", "choose", "run", "name", "base"];

/// A trial before it is checked.
struct Point {
    /// Its name, where it is one of `trials`.
    name: Option<String>,
    /// What it sets.
    set: Vec<(String, Node)>,
}

impl Document {
    /// The grid's axes: dotted key and values.
    ///
    /// # Errors
    /// Where the grid is no mapping of lists, an axis is empty or repeats a value, or two axes overlap.
    pub fn axes(&self) -> Result<Vec<(String, Vec<Node>)>, ConfigErrors> {
        let faults = Faults::new(&self.file);
        let axes = self.read_axes(&faults);
        faults.finish(axes)
    }

    /// Every trial of the grid, or of `trials`, in the config's order. A config without either is one trial, labelled by the
    /// config's name. An axis under `adapter` applies only where the trial has an adapter.
    ///
    /// # Errors
    /// Every fault of the grid, of every trial, and of what the merges select.
    pub fn trials(&self) -> Result<Vec<Trial>, ConfigErrors> {
        let faults = Faults::new(&self.file);
        let axes = self.read_axes(&faults);
        let named = self.read_named(&faults);
        if !axes.is_empty()
            && let (false, Some(node)) = (named.is_empty(), self.root.get("trials"))
        {
            faults.add(&node.origin, "trials: a config has either a grid or named trials: remove one of them");
        }
        let mut root = self.root.clone();
        root.remove("grid");
        root.remove("trials");
        let count = axes.iter().try_fold(1usize, |n, (_, values)| n.checked_mul(values.len())).unwrap_or(usize::MAX);
        if count.max(named.len()) > MOST_TRIALS {
            let place = self.root.get("grid").unwrap_or(&self.root);
            faults.add(&place.origin, format!("grid: spans more than {MOST_TRIALS} trials: give fewer values"));
        }
        if !faults.is_empty() {
            // What else is wrong is told in the same breath.
            read::config(&root, &self.folder, &faults);
            return faults.finish(Vec::new());
        }
        let points = if named.is_empty() { grid_points(&root, &axes) } else { named };
        for (key, values) in &axes {
            if !points.iter().any(|point| point.set.iter().any(|(k, _)| k == key))
                && let Some(value) = values.first()
            {
                faults
                    .add(&value.origin, format!("grid.{key}: applies to no trial: adapter.kind is full; make it lora"));
            }
        }
        let mut trials = Vec::with_capacity(points.len());
        let mut labels = HashSet::new();
        for point in points {
            let axes: Vec<(String, String)> = point.set.iter().map(|(k, v)| (k.clone(), v.value.show())).collect();
            let config = read::config(&with(&root, &point.set), &self.folder, &faults);
            let label = point.name.unwrap_or_else(|| label(&axes, &config.name));
            if !labels.insert(label.clone()) {
                faults.add(
                    &root.origin,
                    format!("grid: two trials would both be called `{label}`: name them under `trials`"),
                );
            }
            trials.push(Trial { label, axes, config });
        }
        self.check_merges(&trials, &faults);
        faults.finish(trials)
    }

    fn read_axes(&self, faults: &Faults) -> Vec<(String, Vec<Node>)> {
        let mut axes: Vec<(String, Vec<Node>)> = Vec::new();
        let Some(grid) = self.root.get("grid").filter(|g| g.value != Value::Null) else { return axes };
        let Value::Map(entries) = &grid.value else {
            faults.add(&grid.origin, "grid: must be a mapping of settings to lists of values");
            return axes;
        };
        for (key, node) in entries {
            let fault = |message: &str| faults.add(&node.origin, format!("grid.{key}: {message}"));
            if SHARED.contains(&key.split('.').next().unwrap_or_default()) {
                fault("cannot be an axis: it is the same for all trials of a sweep");
            }
            let within = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
            if let Some((other, _)) = axes.iter().find(|(other, _)| within(other, key) || within(key, other)) {
                fault(&format!("overlaps with grid.{other}: one of them would overwrite the other"));
            }
            match &node.value {
                Value::List(values) if !values.is_empty() => {
                    let mut seen = HashSet::new();
                    for value in values {
                        if !seen.insert(value.value.show()) {
                            let message = format!("grid.{key}: lists {} twice", value.value.show());
                            faults.add(&value.origin, message);
                        }
                    }
                    axes.push((key.clone(), values.clone()));
                }
                _ => fault("must be a list of at least one value"),
            }
        }
        axes
    }

    /// The variants of `trials`: name and settings.
    fn read_named(&self, faults: &Faults) -> Vec<Point> {
        let mut points: Vec<Point> = Vec::new();
        let mut names = HashSet::new();
        let root = Reader::new(Some(&self.root), "", &self.root.origin, faults);
        for item in root.items("trials") {
            let reader = Reader::new(Some(item), "trials", &item.origin, faults);
            let name = reader.required_text("name");
            if !names.insert(name.clone()) {
                reader.fault("name", "is taken by another trial");
            }
            let set = match reader.node("set").map(|n| &n.value) {
                Some(Value::Map(entries)) => entries.clone(),
                None | Some(Value::Null) => Vec::new(),
                Some(_) => {
                    reader.fault("set", "must be a mapping of settings to values, such as {train.lr: 1e-4}");
                    Vec::new()
                }
            };
            for (key, node) in &set {
                if SHARED.contains(&key.split('.').next().unwrap_or_default()) {
                    faults.add(&node.origin, format!("trials.set.{key}: is the same for all trials of a sweep"));
                }
            }
            points.push(Point { name: Some(name), set });
            reader.finish();
        }
        points
    }

    /// Selectors of merges must name axes and values that trials have.
    fn check_merges(&self, trials: &[Trial], faults: &Faults) {
        let mut axes: Vec<&str> = Vec::new();
        for (key, _) in trials.iter().flat_map(|t| &t.axes) {
            if !axes.contains(&key.as_str()) {
                axes.push(key);
            }
        }
        if trials.len() < 2 {
            return;
        }
        axes.push("name");
        let root = Reader::new(Some(&self.root), "", &self.root.origin, faults);
        for slerp in root.items("merge").into_iter().filter_map(|item| item.get("slerp")) {
            let sides = ["first", "second"].map(|side| (side, slerp.get(side)));
            for (side, selector) in sides {
                let Some(Node { value: Value::Map(entries), .. }) = selector else { continue };
                for (key, node) in entries {
                    let fault =
                        |message: String| faults.add(&node.origin, format!("merge.slerp.{side}.{key}{message}"));
                    if !axes.contains(&key.as_str()) {
                        let hint = did_you_mean(key, axes.iter().copied());
                        fault(format!(": no axis of this name; there are {}{hint}", axes.join(", ")));
                        continue;
                    }
                    let mut known: Vec<&str> = Vec::new();
                    for trial in trials {
                        let axis = trial.axes.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
                        let value = if key == "name" { Some(trial.label.as_str()) } else { axis };
                        known.extend(value.filter(|value| !known.contains(value)));
                    }
                    let wanted = node.value.show();
                    if !known.contains(&wanted.as_str()) {
                        let hint = did_you_mean(&wanted, known.iter().copied());
                        let shown: Vec<&str> = known.iter().copied().take(20).collect();
                        fault(format!(" = {wanted}: no trial has this; there are {}{hint}", shown.join(", ")));
                    }
                }
            }
            if let [(_, Some(first)), (_, Some(second))] = sides
                && first.value.show() == second.value.show()
            {
                faults.add(&slerp.origin, "merge.slerp: first and second select the same trials");
            }
        }
    }
}

/// Every combination of the axes' values, each once: axes that do not apply to a trial leave equal ones behind.
fn grid_points(root: &Node, axes: &[(String, Vec<Node>)]) -> Vec<Point> {
    let mut combinations: Vec<Vec<(String, Node)>> = vec![Vec::new()];
    for (key, values) in axes {
        let extended = combinations.iter().flat_map(|set| {
            values.iter().map(move |value| {
                let mut set = set.clone();
                set.push((key.clone(), value.clone()));
                set
            })
        });
        combinations = extended.collect();
    }
    let mut seen = HashSet::new();
    let mut points = Vec::new();
    for mut set in combinations {
        let kind =
            set.iter().find(|(key, _)| key == "adapter.kind").map(|(_, node)| node).or_else(|| root.at("adapter.kind"));
        let whole = set.iter().any(|(key, _)| key == "adapter");
        let kind =
            kind.filter(|node| node.value != Value::Null).map_or_else(|| "full".to_string(), |node| node.value.show());
        set.retain(|(key, _)| whole || applies(key, &kind));
        let identity: Vec<(String, String)> = set.iter().map(|(k, v)| (k.clone(), v.value.show())).collect();
        if seen.insert(identity) {
            points.push(Point { name: None, set });
        }
    }
    points
}

/// Whether an axis has a meaning for a kind of adapter.
fn applies(key: &str, kind: &str) -> bool {
    match key.strip_prefix("adapter.") {
        None | Some("kind") => true,
        Some(setting) if QLORA_SETTINGS.contains(&setting) => kind == "qlora",
        Some(_) => kind != "full",
    }
}

/// The tree with a trial's settings. A trial drops the adapter's settings that all trials share and its own kind has not.
fn with(root: &Node, set: &[(String, Node)]) -> Node {
    let mut tree = root.clone();
    if let Some((_, kind)) = set.iter().find(|(key, _)| key == "adapter.kind") {
        let kind = kind.value.show();
        for setting in LORA_SETTINGS.into_iter().chain(QLORA_SETTINGS) {
            if !applies(&format!("adapter.{setting}"), &kind) {
                tree.get_mut("adapter").and_then(|adapter| adapter.remove(setting));
            }
        }
    }
    for (key, node) in set {
        tree.set(&key.split('.').collect::<Vec<_>>(), node.clone());
    }
    tree
}

/// A trial's label from its axes' values alone; the config's name where there are none.
fn label(axes: &[(String, String)], name: &str) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    let parts: Vec<String> = axes
        .iter()
        .map(|(key, value)| match key.as_str() {
            "objective" | "adapter.kind" | "loss.name" => value.clone(),
            "adapter.rank" => format!("r{value}"),
            "loss.temperature" => format!("T{value}"),
            "train.seed" => format!("s{value}"),
            _ if axes.iter().filter(|(other, _)| last(other) == last(key)).count() > 1 => format!("{key}={value}"),
            _ => format!("{}={value}", last(key)),
        })
        .collect();
    if parts.is_empty() { name.to_string() } else { parts.join(" ") }
}
