//! The trials of a config: the points that its grid spans or that are drawn from it, or the variants that it names.

mod axes;
mod merges;
mod numbers;
mod overlay;
mod sample;
mod search;
mod space;

use std::collections::{BTreeMap, HashSet};

use super::document::Document;
use super::node::{Node, Value};
use super::read;
use super::reader::{ConfigErrors, Faults, Reader};
use super::schema::{Config, Search};
use axes::{Axis, Values};
use overlay::Overlay;
use space::{Count, Space};

pub(super) use search::read_search;

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

/// Most trials of a sweep, whatever `search.limit` says.
pub const MOST_TRIALS: usize = 10_000;

/// Grids of up to so many points are drawn from by number, each point as likely as any other; from larger ones each axis is
/// drawn by itself.
const MOST_LISTED: u64 = 100_000;

/// Sections that are the same for all trials of a sweep.
const SHARED: [&str; 10] = ["grid", "trials", "merge", "score", "choose", "run", "name", "base", "prune", "search"];

/// A trial before it is checked.
struct Point {
    /// Its name, where it is one of `trials`.
    name: Option<String>,
    /// What it sets.
    set: Vec<(String, Node)>,
}

impl Document {
    /// The grid's axes: dotted key and values; of an axis that is drawn from a distribution the values drawn, in ascending
    /// order.
    ///
    /// # Errors
    /// Where the grid is no mapping of lists or ranges, an axis is empty or repeats a value, or two axes overlap.
    pub fn axes(&self) -> Result<Vec<(String, Vec<Node>)>, ConfigErrors> {
        let faults = Faults::new(&self.file);
        let axes = axes::read(&self.root, &faults);
        let mut out: Vec<(String, Vec<Node>)> =
            axes.iter().map(|axis| (axis.key.clone(), axis.values().to_vec())).collect();
        let is_drawn = |axis: &Axis| matches!(axis.values, Values::Drawn(_));
        if faults.is_empty() && axes.iter().any(is_drawn) {
            let mut drawn: BTreeMap<String, Vec<Node>> = BTreeMap::new();
            for (key, value) in self.grid_points(&axes, &faults).into_iter().flat_map(|point| point.set) {
                drawn.entry(key).or_default().push(value);
            }
            for (_, (key, values)) in axes.iter().zip(&mut out).filter(|(axis, _)| is_drawn(axis)) {
                let number = |node: &Node| numbers::of(node).unwrap_or(f64::NAN);
                *values = drawn.remove(key).unwrap_or_default();
                values.sort_by(|a, b| number(a).total_cmp(&number(b)));
                values.dedup_by(|a, b| a.value == b.value);
            }
        }
        faults.finish(out)
    }

    /// Every trial of the grid, of its sample, or of `trials`, in the config's order (a sample's in the order drawn). A config
    /// without either is one trial, labelled by the config's name, or none where it has nothing to train (the base alone is
    /// scored). An axis under `adapter` applies only where the trial has an
    /// adapter, and an axis with `when` only where that holds; trials that are equal without it count once.
    ///
    /// # Errors
    /// Every fault of the grid, of every trial, and of what the merges select.
    pub fn trials(&self) -> Result<Vec<Trial>, ConfigErrors> {
        let faults = Faults::new(&self.file);
        let axes = axes::read(&self.root, &faults);
        let named = self.read_named(&faults);
        if !axes.is_empty()
            && let (false, Some(node)) = (named.is_empty(), self.root.get("trials"))
        {
            faults.add(&node.origin, "trials: a config has either a grid or named trials: remove one of them");
        }
        let mut root = self.root.clone();
        root.remove("grid");
        root.remove("trials");
        let points = match (faults.is_empty(), named.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => self.grid_points(&axes, &faults),
            (true, false) => self.within_limits(named, &faults),
        };
        if !faults.is_empty() {
            // What else is wrong is told in the same breath.
            read::config(&root, &self.folder, &faults);
            return faults.finish(Vec::new());
        }
        let mut trials = Vec::with_capacity(points.len());
        let mut labels = HashSet::with_capacity(points.len());
        let place = root.origin.clone();
        let mut overlay = Overlay::new(root);
        for point in points {
            let axes: Vec<(String, String)> = point.set.iter().map(|(k, v)| (k.clone(), v.value.show())).collect();
            let config = overlay.with(&point.set, |tree| read::config(tree, &self.folder, &faults));
            if config.data.train.is_empty() && faults.is_empty() {
                match point.name {
                    None if axes.is_empty() => continue,
                    _ => faults
                        .add(&place, "data.train: is missing: trials need a file of training rows, or a list of them"),
                }
            }
            let label = point.name.unwrap_or_else(|| label(&axes, &config.name));
            if !labels.insert(label.clone()) {
                faults
                    .add(&place, format!("grid: two trials would both be called `{label}`: name them under `trials`"));
            }
            trials.push(Trial { label, axes, config });
        }
        merges::check(&self.root, &trials, &faults);
        faults.finish(trials)
    }

    /// The settings of the search.
    fn search(&self, faults: &Faults) -> Search {
        read_search(&Reader::new(Some(&self.root), "", &self.root.origin, faults))
    }

    /// The points of the grid, or of the sample; none where it has a fault. Without axes it is one point that sets nothing.
    fn grid_points(&self, axes: &[Axis], faults: &Faults) -> Vec<Point> {
        let search = self.search(faults);
        let place = self.root.get("grid").unwrap_or(&self.root);
        if axes.is_empty()
            && search.sample.is_some()
            && let Some(node) = self.root.get("search")
        {
            faults
                .add(&node.origin, "search.sample: draws from a grid, and there is none: give `grid`, or leave it out");
        }
        if let (Some(axis), None) = (axes.iter().find(|axis| axis.needs_sample), search.sample) {
            faults.add(
                &axis.origin,
                format!(
                    "grid.{}: is a distribution: say how many points are drawn, such as search: {{sample: 20}}, or give a \
                     list or a range",
                    axis.key
                ),
            );
        }
        let Some(space) = Space::new(&self.root, axes, faults) else { return Vec::new() };
        if !faults.is_empty() {
            return Vec::new();
        }
        let points = match (search.sample, space.count()) {
            // A sample of all there is, is the grid.
            (Some(wanted), Count::Exactly(all)) if all <= wanted as u64 => space.points(),
            (Some(wanted), count) => match sample::draw(&space, wanted, search.seed, count) {
                Ok(points) => points,
                Err(found) => {
                    faults.add(
                        &place.origin,
                        format!(
                            "grid: {found} different points were found where search.sample asks for {wanted}: draw fewer, or \
                             widen the distributions"
                        ),
                    );
                    return Vec::new();
                }
            },
            (None, Count::Exactly(all)) if all <= search.limit as u64 => space.points(),
            (None, count) => {
                let than = if search.limit < MOST_TRIALS { "search.limit " } else { "" };
                faults.add(
                    &place.origin,
                    format!(
                        "grid: spans {count} trials, more than {than}{}: give fewer values, tie axes to settings with `when`, \
                         or draw some points at random (search: {{sample: {}}})",
                        search.limit,
                        search.limit.min(100)
                    ),
                );
                return Vec::new();
            }
        };
        if search.sample.is_none() {
            space.check_all_apply(&points, faults);
        }
        points.iter().map(|cells| Point { name: None, set: space.settings(cells) }).collect()
    }

    fn within_limits(&self, named: Vec<Point>, faults: &Faults) -> Vec<Point> {
        let search = self.search(faults);
        let place = self.root.get("trials").unwrap_or(&self.root);
        if search.sample.is_some()
            && let Some(node) = self.root.get("search")
        {
            faults
                .add(&node.origin, "search.sample: draws from a grid, but this config names its trials: leave it out");
        }
        if named.len() > search.limit {
            faults.add(
                &place.origin,
                format!("trials: names {} trials, more than search.limit {}: name fewer", named.len(), search.limit),
            );
        }
        named
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
            if name == BASE {
                reader.fault("name", "is what merges call the base model: choose another");
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
}

/// The base model's name in the selectors of merges.
pub const BASE: &str = "base";

/// A label from axes' values alone: `symmetric r8 T0.02`; `name` where there are none.
pub fn label(axes: &[(String, String)], name: &str) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_string();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (key, _) in axes {
        *counts.entry(last(key)).or_default() += 1;
    }
    let parts: Vec<String> = axes
        .iter()
        .map(|(key, value)| match key.as_str() {
            "objective" | "adapter.kind" | "loss.name" => value.clone(),
            "adapter.rank" => format!("r{value}"),
            "loss.temperature" => format!("T{value}"),
            "train.seed" => format!("s{value}"),
            _ if counts.get(&last(key)).is_some_and(|&n| n > 1) => format!("{key}={value}"),
            _ => format!("{}={value}", last(key)),
        })
        .collect();
    if parts.is_empty() { name.to_string() } else { parts.join(" ") }
}
