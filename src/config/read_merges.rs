//! The section `merge`.

use super::node::Value;
use super::reader::Reader;
use super::schema::{Alpha, Merge, Slerp, SlerpMode};

pub(super) fn read_merges(r: &Reader<'_>) -> Vec<Merge> {
    let mut merges = Vec::new();
    for item in r.items("merge") {
        let outer = Reader::new(Some(item), "merge", &item.origin, r.faults());
        if !outer.has("slerp") {
            outer.fault_here("must be {slerp: {first: …, second: …, alpha: auto}}");
        }
        let m = outer.section("slerp");
        let selector = |key: &'static str| -> Vec<(String, String)> {
            match m.node(key).map(|n| &n.value) {
                Some(Value::Map(entries)) if !entries.is_empty() => {
                    entries.iter().map(|(k, n)| (k.clone(), n.value.show())).collect()
                }
                _ => {
                    m.fault(key, "must be a mapping of an axis to a value, such as {objective: symmetric}");
                    Vec::new()
                }
            }
        };
        let (first, second) = (selector("first"), selector("second"));
        let alpha = match m.node("alpha").map(|n| &n.value) {
            None => Alpha::Auto,
            Some(Value::Text(text)) if text == "auto" => Alpha::Auto,
            Some(_) => {
                let values: Vec<Option<f64>> = m
                    .items("alpha")
                    .iter()
                    .map(|n| match n.value {
                        Value::Float(f) => Some(f),
                        Value::Int(i) => Some(i as f64),
                        _ => None,
                    })
                    .collect();
                if values.is_empty() || values.iter().any(|v| !v.is_some_and(|v| (0.0..=1.0).contains(&v))) {
                    m.fault("alpha", "must be `auto`, or a number from 0 to 1, or a list of such");
                }
                Alpha::Values(values.into_iter().flatten().collect())
            }
        };
        let modes = [("tensor", SlerpMode::Tensor), ("whole", SlerpMode::Whole), ("delta", SlerpMode::Delta)];
        merges.push(Merge::Slerp(Slerp {
            first,
            second,
            alpha,
            mode: m.choice("mode", &modes).unwrap_or(SlerpMode::Tensor),
            tolerance: m.number("tolerance", "from 0.001 to 0.5", |v| (0.001..=0.5).contains(&v)).unwrap_or(0.05),
            budget: m.whole("budget", 5..=200, "from 5 to 200").unwrap_or(12),
        }));
        m.finish();
        outer.finish();
    }
    merges
}
