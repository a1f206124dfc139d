//! The section `merge`.

use super::node::{Node, Value};
use super::reader::Reader;
use super::schema::{Alpha, Linear, Merge, Pairs, Selector, Slerp, SlerpMode, Weights};

pub(super) fn read_merges(r: &Reader<'_>) -> Vec<Merge> {
    let mut merges = Vec::new();
    for item in r.items("merge") {
        let outer = Reader::new(Some(item), "merge", &item.origin, r.faults());
        match (outer.has("slerp"), outer.has("linear")) {
            (true, false) => merges.push(Merge::Slerp(read_slerp(outer.section("slerp")))),
            (false, true) => merges.push(Merge::Linear(read_linear(outer.section("linear")))),
            _ => outer.fault_here(
                "must be {slerp: {first: …, second: …, alpha: auto}} or {linear: {models: […], weights: equal}}",
            ),
        }
        outer.finish();
    }
    merges
}

fn read_slerp(m: Reader<'_>) -> Slerp {
    let modes = [("tensor", SlerpMode::Tensor), ("whole", SlerpMode::Whole), ("delta", SlerpMode::Delta)];
    let slerp = Slerp {
        pairs: read_pairs(&m),
        alpha: read_alpha(&m),
        mode: m.choice("mode", &modes).unwrap_or(SlerpMode::Tensor),
        tolerance: m.number("tolerance", "from 0.001 to 0.5", |v| (0.001..=0.5).contains(&v)).unwrap_or(0.05),
        budget: m.whole("budget", 5..=200, "from 5 to 200").unwrap_or(12),
    };
    m.finish();
    slerp
}

fn read_pairs(m: &Reader<'_>) -> Pairs {
    let ways = [m.has("first") || m.has("second"), m.has("over"), m.has("pairs")];
    if ways.iter().filter(|&&given| given).count() > 1 {
        m.fault_here("selects its pairs twice: give first and second, or over, or pairs: all");
    }
    if m.has("over") {
        return Pairs::Over(m.required_text("over"));
    }
    if m.choice("pairs", &[("all", ())]).is_some() {
        return Pairs::All;
    }
    let side = |key: &'static str| {
        m.node(key).and_then(selector).unwrap_or_else(|| {
            m.fault(key, "must be a mapping of an axis to a value, such as {objective: symmetric}");
            Vec::new()
        })
    };
    Pairs::Sides { first: side("first"), second: side("second") }
}

fn selector(node: &Node) -> Option<Selector> {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            Some(entries.iter().map(|(key, value)| (key.clone(), value.value.show())).collect())
        }
        _ => None,
    }
}

/// Numbers from 0 to 1; none where one is not.
fn shares(items: &[&Node]) -> Option<Vec<f64>> {
    let share = |node: &&Node| match node.value {
        Value::Float(f) => Some(f),
        Value::Int(i) => Some(i as f64),
        _ => None,
    };
    let values: Option<Vec<f64>> = items.iter().map(share).collect();
    values.filter(|values| !values.is_empty() && values.iter().all(|value| (0.0..=1.0).contains(value)))
}

fn read_alpha(m: &Reader<'_>) -> Alpha {
    match m.node("alpha").map(|n| &n.value) {
        None => Alpha::Auto,
        Some(Value::Text(text)) if text == "auto" => Alpha::Auto,
        Some(Value::Map(_)) => {
            let layers = m.section("alpha");
            let alpha = match layers.node("layers").map(|n| &n.value) {
                Some(Value::Text(text)) if text == "auto" => Alpha::AutoLayers,
                _ => match shares(&layers.items("layers")) {
                    Some(values) if values.len() >= 2 => Alpha::Layers(values),
                    _ => {
                        layers.fault(
                            "layers",
                            "must be `auto`, or two or more numbers from 0 to 1, from the first layer to the last",
                        );
                        Alpha::AutoLayers
                    }
                },
            };
            layers.finish();
            alpha
        }
        Some(_) => Alpha::Values(shares(&m.items("alpha")).unwrap_or_else(|| {
            m.fault(
                "alpha",
                "must be `auto`, a number from 0 to 1, a list of such, or {layers: auto} or {layers: [0, 1]}",
            );
            Vec::new()
        })),
    }
}

fn read_linear(m: Reader<'_>) -> Linear {
    let over = if m.has("over") { Some(m.required_text("over")) } else { None };
    let items = m.items("models");
    let mut models = Vec::with_capacity(items.len());
    for item in &items {
        match selector(item) {
            Some(selector) => models.push(selector),
            None => m.faults().add(
                &item.origin,
                format!(
                    "merge.linear.models: {} must be a mapping of an axis to a value, such as {{train.seed: 1}}",
                    item.value.show()
                ),
            ),
        }
    }
    match &over {
        Some(_) if m.has("models") => m.fault_here("selects its models twice: give models, or over"),
        None if items.len() < 2 => {
            m.fault(
                "models",
                "must list two or more models, such as [{train.seed: 1}, {train.seed: 2}], or give over: AXIS",
            );
        }
        _ => {}
    }
    let weights = read_weights(&m, over.is_none().then_some(items.len()));
    m.finish();
    Linear { models, over, weights }
}

/// How near to 1 the weights must sum: thirds are written with a few digits.
const SUM_TOLERANCE: f64 = 1e-3;

fn read_weights(m: &Reader<'_>, models: Option<usize>) -> Weights {
    match m.node("weights").map(|n| &n.value) {
        None => return Weights::Equal,
        Some(Value::Text(text)) if text == "equal" => return Weights::Equal,
        Some(_) => {}
    }
    let Some(values) = shares(&m.items("weights")) else {
        m.fault("weights", "must be `equal`, or a list of numbers from 0 to 1, one a model");
        return Weights::Equal;
    };
    let sum: f64 = values.iter().sum();
    if let Some(models) = models.filter(|&models| models != values.len()) {
        m.fault("weights", format!("{} weights for {models} models: give one each", values.len()));
    } else if (sum - 1.0).abs() > SUM_TOLERANCE {
        m.fault("weights", format!("sum to {}: they must sum to 1", (sum * 1e6).round() / 1e6));
    }
    Weights::Given(values)
}
