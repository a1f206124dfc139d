//! The axes of a grid: lists, ranges and distributions, and where they apply.
//!
//! | as written | values |
//! |---|---|
//! | `[0.02, 0.05]` | these |
//! | `{values: [8, 32], when: {adapter.kind: [lora, qlora]}}` | these, where `when` holds |
//! | `{from: 1e-5, to: 1e-3, count: 5, scale: log}` | five with equal ratios (`linear`, the default: equal differences) |
//! | `{from: 1, to: 10, step: 3}` | 1, 4, 7, 10 |
//! | `{uniform: [0, 0.3]}`, `{log_uniform: [1e-5, 1e-3]}`, `{whole: [4, 64]}` | drawn, with `search.sample` |
//!
//! Every form but the plain list may have `when`. Numbers of ranges and distributions have three significant digits, or as many
//! as keep them apart.

use std::collections::HashSet;

use super::super::node::{Node, Origin, Value};
use super::super::reader::{Faults, Reader};
use super::numbers::{self, Spacing};
use super::overlay::kinds_of;
use super::{MOST_TRIALS, SHARED};

/// An axis of the grid.
pub(super) struct Axis {
    pub key: String,
    pub origin: Origin,
    pub values: Values,
    /// Where it applies; everywhere without any.
    pub when: Vec<Condition>,
    /// Whether it makes sense in a sample alone.
    pub needs_sample: bool,
}

/// What an axis ranges over.
pub(super) enum Values {
    List(Vec<Node>),
    Drawn(Distribution),
}

impl Axis {
    /// The values in order; none of a distribution.
    pub fn values(&self) -> &[Node] {
        match &self.values {
            Values::List(values) => values,
            Values::Drawn(_) => &[],
        }
    }
}

/// What values are drawn from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Distribution {
    pub law: Law,
    pub from: f64,
    pub to: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Law {
    /// Every number alike.
    Uniform,
    /// Every order of magnitude alike.
    LogUniform,
    /// Every whole number alike, the ends among them.
    Whole,
}

/// A setting that must have one of these values.
pub(super) struct Condition {
    pub key: String,
    pub values: Vec<String>,
    pub origin: Origin,
    /// Whether it is not written, but follows from what the axis is.
    pub automatic: bool,
}

/// Most axes of a grid.
const MOST_AXES: usize = 64;

/// Reads the section `grid`.
pub(super) fn read(root: &Node, faults: &Faults) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    let Some(grid) = root.get("grid").filter(|g| g.value != Value::Null) else { return axes };
    let Value::Map(entries) = &grid.value else {
        faults.add(&grid.origin, "grid: must be a mapping of settings to lists of values");
        return axes;
    };
    if entries.len() > MOST_AXES {
        faults.add(
            &grid.origin,
            format!("grid: has {} axes, more than {MOST_AXES}: set what is the same for all trials", entries.len()),
        );
        return axes;
    }
    for (key, node) in entries {
        let fault = |message: &str| faults.add(&node.origin, format!("grid.{key}: {message}"));
        if SHARED.contains(&key.split('.').next().unwrap_or_default()) {
            fault("cannot be an axis: it is the same for all trials of a sweep");
        }
        if let Some(other) = axes.iter().find(|other| within(&other.key, key) || within(key, &other.key)) {
            fault(&format!("overlaps with grid.{}: one of them would overwrite the other", other.key));
        }
        if let Some(axis) = read_axis(key, node, faults) {
            axes.push(axis);
        }
    }
    axes
}

/// Whether a dotted key lies inside another.
pub(super) fn within(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'))
}

fn read_axis(key: &str, node: &Node, faults: &Faults) -> Option<Axis> {
    let mut axis = Axis {
        key: key.to_string(),
        origin: node.origin.clone(),
        values: Values::List(Vec::new()),
        when: automatic(key, &node.origin),
        needs_sample: false,
    };
    match &node.value {
        Value::List(values) => axis.values = list(key, node, values, faults)?,
        Value::Map(entries) if !entries.is_empty() => {
            let path = format!("grid.{key}");
            let reader = Reader::new(Some(node), &path, &node.origin, faults);
            axis.when.extend(read_when(&reader));
            axis.needs_sample = DISTRIBUTIONS.iter().any(|(name, _)| reader.has(name));
            let values = read_values(key, &reader);
            reader.finish();
            axis.values = values?;
        }
        _ => {
            faults.add(&node.origin, format!("grid.{key}: must be a list of at least one value"));
            return None;
        }
    }
    Some(axis)
}

/// Settings of the adapter apply where the trial has one of a kind that knows them.
fn automatic(key: &str, origin: &Origin) -> Vec<Condition> {
    let Some(setting) = key.strip_prefix("adapter.").filter(|setting| *setting != "kind") else { return Vec::new() };
    let setting = setting.split('.').next().unwrap_or_default();
    let values = kinds_of(setting).iter().map(ToString::to_string).collect();
    vec![Condition { key: "adapter.kind".into(), values, origin: origin.clone(), automatic: true }]
}

fn list(key: &str, node: &Node, values: &[Node], faults: &Faults) -> Option<Values> {
    if values.is_empty() {
        faults.add(&node.origin, format!("grid.{key}: must be a list of at least one value"));
        return None;
    }
    let mut seen = HashSet::new();
    for value in values {
        if !seen.insert(value.value.show()) {
            faults.add(&value.origin, format!("grid.{key}: lists {} twice", value.value.show()));
        }
    }
    Some(Values::List(values.to_vec()))
}

const DISTRIBUTIONS: [(&str, Law); 3] =
    [("uniform", Law::Uniform), ("log_uniform", Law::LogUniform), ("whole", Law::Whole)];

/// The ways to give values in a mapping.
const FORMS: &str = "{values: […]}, {from, to, count, scale: linear|log}, {from, to, step}, {uniform: [a, b]}, \
                     {log_uniform: [a, b]} or {whole: [a, b]}";

fn read_values(key: &str, r: &Reader<'_>) -> Option<Values> {
    let laws: Vec<(&'static str, Law)> = DISTRIBUTIONS.into_iter().filter(|(name, _)| r.has(name)).collect();
    let range = ["from", "to", "count", "step", "scale"].into_iter().filter(|name| r.has(name)).count() > 0;
    match (r.node("values"), range, laws.as_slice()) {
        (Some(values), false, []) => match &values.value {
            Value::List(items) => list(key, values, items, r.faults()),
            _ => {
                r.fault("values", "must be a list of at least one value");
                None
            }
        },
        (None, true, []) => read_range(r),
        (None, false, [(name, law)]) => read_distribution(r, name, *law),
        (None, false, []) => {
            r.fault_here(format!("says of no values: give one of {FORMS}"));
            None
        }
        _ => {
            r.fault_here(format!("gives its values twice: give one of {FORMS}"));
            None
        }
    }
}

fn read_range(r: &Reader<'_>) -> Option<Values> {
    let end = |name: &'static str| {
        if !r.has(name) {
            r.fault(name, "is missing: a range has from and to, and count or step");
        }
        r.number(name, "a number", |_| true)
    };
    let (from, to) = (end("from"), end("to"));
    let log = r.choice("scale", &[("linear", false), ("log", true)]);
    let count = r.whole("count", 2..=MOST_TRIALS as i64, "from 2 to 10000");
    let step = r.number("step", "above 0", |v| v > 0.0);
    let (from, to) = (from?, to?);
    if from >= to {
        r.fault("to", format!("must be above from ({})", Value::Float(from).show()));
        return None;
    }
    if log == Some(true) && from <= 0.0 {
        r.fault("from", "must be above 0 for scale log");
        return None;
    }
    let spacing = match (count, step) {
        (Some(count), None) if log == Some(true) => Spacing::Log(count),
        (Some(count), None) => Spacing::Linear(count),
        (None, Some(step)) => {
            if r.has("scale") {
                r.fault("scale", "has no meaning with step, which adds: give count instead of step");
                return None;
            }
            if (to - from) / step >= MOST_TRIALS as f64 {
                r.fault("step", format!("gives more than {MOST_TRIALS} values: make it larger"));
                return None;
            }
            Spacing::Step(step)
        }
        _ if r.has("count") != r.has("step") => return None,
        _ => {
            r.fault_here("a range needs one of count (how many values) and step (how far apart)");
            return None;
        }
    };
    let whole = |name: &'static str| matches!(r.node(name).map(|n| &n.value), Some(Value::Int(_)));
    let whole = whole("from") && whole("to");
    let values = numbers::range(from, to, spacing).into_iter().map(|value| node(value, whole, r.origin())).collect();
    Some(Values::List(values))
}

fn read_distribution(r: &Reader<'_>, name: &'static str, law: Law) -> Option<Values> {
    let ends: Vec<f64> = r.items(name).into_iter().filter_map(numbers::of).collect();
    let [from, to] = ends[..] else {
        r.fault(name, "must be two numbers, the lower first, such as [1e-5, 1e-3]");
        return None;
    };
    if r.items(name).len() != 2 || from >= to {
        r.fault(name, "must be two numbers, the lower first, such as [1e-5, 1e-3]");
        return None;
    }
    match law {
        Law::LogUniform if from <= 0.0 => {
            r.fault(name, "must be above 0: zero has no order of magnitude");
            None
        }
        Law::Whole if from.fract() != 0.0 || to.fract() != 0.0 || from.abs().max(to.abs()) > 1e15 => {
            r.fault(name, "must be two whole numbers, such as [4, 64]");
            None
        }
        // Few enough to be a list: how many points there are is known then.
        Law::Whole if to - from < MOST_TRIALS as f64 => {
            let all =
                (from as i64..=to as i64).map(|value| Node { value: Value::Int(value), origin: r.origin().clone() });
            Some(Values::List(all.collect()))
        }
        _ => Some(Values::Drawn(Distribution { law, from, to })),
    }
}

/// A number as a value of the tree: whole numbers between whole ends are written without a point.
pub(super) fn node(value: f64, whole: bool, origin: &Origin) -> Node {
    let value = if whole && value.fract() == 0.0 && value.abs() < 1e15 {
        Value::Int(value as i64)
    } else {
        Value::Float(value)
    };
    Node { value, origin: origin.clone() }
}

fn read_when(r: &Reader<'_>) -> Vec<Condition> {
    let Some(node) = r.node("when") else { return Vec::new() };
    let Value::Map(entries) = &node.value else {
        r.fault("when", "must be a mapping of a setting to its values, such as {adapter.kind: [lora, qlora]}");
        return Vec::new();
    };
    let condition = |(key, node): &(String, Node)| {
        let values = match &node.value {
            Value::List(items) => items.iter().map(|item| item.value.show()).collect(),
            value => vec![value.show()],
        };
        Condition { key: key.clone(), values, origin: node.origin.clone(), automatic: false }
    };
    entries.iter().map(condition).collect()
}
