//! What merges select must be there.

use std::collections::{BTreeMap, HashSet};

use super::super::node::{Node, Value};
use super::super::reader::{Faults, Reader};
use super::{BASE, Trial};
use crate::data::suggest::did_you_mean;

/// The values that trials have, by axis, and their labels as `name`; in the trials' order.
struct Known<'a> {
    axes: Vec<&'a str>,
    values: BTreeMap<&'a str, Vec<&'a str>>,
}

/// Selectors of merges must name axes and values that trials have.
pub(super) fn check(root: &Node, trials: &[Trial], faults: &Faults) {
    // One trial is what is left of a sweep when `train` is asked for one of them.
    if trials.len() < 2 || root.get("merge").is_none() {
        return;
    }
    let mut known = Known { axes: Vec::new(), values: BTreeMap::new() };
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for (key, value) in trials.iter().flat_map(|t| &t.axes) {
        if seen.insert((key, value)) {
            let values = known.values.entry(key).or_default();
            if values.is_empty() {
                known.axes.push(key);
            }
            values.push(value);
        }
    }
    known.axes.push("name");
    known.values.insert("name", trials.iter().map(|t| t.label.as_str()).chain([BASE]).collect());
    let r = Reader::new(Some(root), "", &root.origin, faults);
    for item in r.items("merge") {
        if let Some(slerp) = item.get("slerp") {
            let sides = ["first", "second"].map(|side| (side, slerp.get(side)));
            for (side, selector) in sides {
                known.check(selector, &format!("merge.slerp.{side}"), faults);
            }
            if let [(_, Some(first)), (_, Some(second))] = sides
                && first.value.show() == second.value.show()
            {
                faults.add(&slerp.origin, "merge.slerp: first and second select the same trials");
            }
            known.check_axis(slerp.get("over"), "merge.slerp.over", faults);
        }
        if let Some(linear) = item.get("linear") {
            let selectors = match linear.get("models").map(|n| &n.value) {
                Some(Value::List(selectors)) => selectors.as_slice(),
                _ => &[],
            };
            let mut seen = HashSet::new();
            for selector in selectors {
                known.check(Some(selector), "merge.linear.models", faults);
                if !seen.insert(selector.value.show()) {
                    let message = format!("merge.linear.models: {} is there twice", selector.value.show());
                    faults.add(&selector.origin, message);
                }
            }
            known.check_axis(linear.get("over"), "merge.linear.over", faults);
        }
    }
}

impl Known<'_> {
    fn check(&self, selector: Option<&Node>, path: &str, faults: &Faults) {
        let Some(Node { value: Value::Map(entries), .. }) = selector else { return };
        for (key, node) in entries {
            let fault = |message: String| faults.add(&node.origin, format!("{path}.{key}{message}"));
            let Some(known) = self.values.get(key.as_str()) else {
                let hint = did_you_mean(key, self.axes.iter().copied());
                fault(format!(": no axis of this name; there are {}{hint}", self.axes.join(", ")));
                continue;
            };
            let wanted = node.value.show();
            if !known.contains(&wanted.as_str()) {
                // A number is no misspelling of another.
                let hint = match wanted.parse::<f64>() {
                    Ok(_) => String::new(),
                    Err(_) => did_you_mean(&wanted, known.iter().copied()),
                };
                let shown: Vec<&str> = known.iter().copied().take(20).collect();
                fault(format!(" = {wanted}: no trial has this; there are {}{hint}", shown.join(", ")));
            }
            if wanted == BASE && key == "name" && entries.len() > 1 {
                fault(" = base: is the base model, which has no axes: name it alone".into());
            }
        }
    }

    fn check_axis(&self, axis: Option<&Node>, path: &str, faults: &Faults) {
        let Some(node @ Node { value: Value::Text(axis), .. }) = axis else { return };
        let axes = &self.axes[..self.axes.len() - 1];
        if !axes.contains(&axis.as_str()) {
            let hint = did_you_mean(axis, axes.iter().copied());
            faults.add(
                &node.origin,
                format!("{path} = {axis}: no axis of this name; there are {}{hint}", axes.join(", ")),
            );
        }
    }
}
