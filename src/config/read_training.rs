//! The sections that training reads: data, loss, adapter, train; and what of them contradicts what.

use std::collections::BTreeMap;
use std::path::Path;

use super::node::{Node, Value};
use super::read::resolve;
use super::reader::{Faults, Reader};
use super::schema::{
    Adapter, Base, Config, Data, Distance, Dropout, Group, Lora, Loss, LossKind, Margin, Matryoshka, Memory, Metric,
    Mining, Mixing, Objective, Quantization, Schedule, Train, TrainSet, Tsdae,
};

fn read_sets(r: &Reader<'_>, key: &'static str, folder: &Path) -> Vec<TrainSet> {
    let mut sets = Vec::new();
    for item in r.items(key) {
        let plain = |path| TrainSet { path, weight: 1.0, limit: None, prompts: (None, None), columns: BTreeMap::new() };
        if let Value::Text(path) = &item.value {
            sets.push(plain(resolve(path, &item.origin, folder)));
            continue;
        }
        let set = Reader::new(Some(item), &r.full(key), &item.origin, r.faults());
        let path = set.required_text("path");
        let origin = set.node("path").map_or(&item.origin, |n| &n.origin);
        sets.push(TrainSet {
            weight: set.number("weight", "above 0", |v| v > 0.0 && v <= 1e6).unwrap_or(1.0),
            limit: set.whole("limit", 1.., "from 1"),
            prompts: read_prompts(&set),
            columns: read_columns(&set),
            ..plain(resolve(&path, origin, folder))
        });
        set.finish();
    }
    sets
}

fn read_prompts(r: &Reader<'_>) -> (Option<String>, Option<String>) {
    let p = r.section("prompts");
    let prompts = (p.text("query"), p.text("document"));
    p.finish();
    prompts
}

/// Our names of columns.
const COLUMNS: [&str; 12] = [
    "query",
    "positive",
    "negative",
    "positive_scores",
    "negative_scores",
    "sentence1",
    "sentence2",
    "score",
    "text",
    "label",
    "prompt",
    "type",
];

fn read_columns(r: &Reader<'_>) -> BTreeMap<String, String> {
    let mut columns = BTreeMap::new();
    let c = r.section("columns");
    for key in COLUMNS {
        if let Some(theirs) = c.text(key) {
            columns.insert(key.to_string(), theirs);
        }
    }
    c.finish();
    columns
}

/// The section `data`; without training rows only where they are not `needed`.
pub(super) fn read_data(r: &Reader<'_>, folder: &Path, needed: bool) -> Data {
    let d = r.section("data");
    let train = read_sets(&d, "train", folder);
    if train.is_empty() && needed {
        d.fault("train", "is missing: give a file of training rows, or a list of them");
    }
    let (mut dev, mut dev_share) = (Vec::new(), None);
    if matches!(d.node("dev").map(|n| &n.value), Some(Value::Map(entries)) if entries.iter().any(|(k, _)| k == "split"))
    {
        let split = d.section("dev");
        dev_share = split.number("split", "a share from above 0 to 0.5", |v| v > 0.0 && v <= 0.5);
        split.finish();
    } else {
        dev = read_sets(&d, "dev", folder);
    }
    let prompts = read_prompts(&d);
    let mixing = read_mixing(&d);
    let data = Data {
        train,
        dev,
        prompts,
        dev_share,
        mixing,
        one_set_per_batch: d.flag("one_set_per_batch").unwrap_or(false),
        no_duplicates: d.flag("no_duplicates").unwrap_or(false),
        drop_last: d.flag("drop_last").unwrap_or(false),
    };
    if data.train.len() < 2 {
        for key in ["mixing", "one_set_per_batch"] {
            if d.node(key).is_some_and(|n| n.value != Value::Null && n.value != Value::Bool(false)) {
                d.fault(key, "says how several sets are mixed, but data.train is one");
            }
        }
    }
    d.finish();
    data
}

fn read_mixing(d: &Reader<'_>) -> Mixing {
    let stops = [("first_exhausted", false), ("all_exhausted", true)];
    if matches!(d.node("mixing").map(|n| &n.value), Some(Value::Map(_))) {
        let m = d.section("mixing");
        let mixing = if m.has("weighted") {
            let w = m.section("weighted");
            let alpha = w.number("alpha", "from 0 to 2", |v| (0.0..=2.0).contains(&v)).unwrap_or(1.0);
            let all = w.choice("stop", &stops).unwrap_or(true);
            w.finish();
            Mixing::Weighted { alpha, all }
        } else {
            let rr = m.section("round_robin");
            let all = rr.choice("stop", &stops).unwrap_or(false);
            rr.finish();
            Mixing::RoundRobin { all }
        };
        m.finish();
        return mixing;
    }
    let modes = [
        ("proportional", Mixing::Proportional),
        ("round_robin", Mixing::RoundRobin { all: false }),
        ("weighted", Mixing::Weighted { alpha: 1.0, all: true }),
    ];
    d.choice("mixing", &modes).unwrap_or_default()
}

const LOSSES: [&str; 11] = [
    "info_nce",
    "gist",
    "simcse",
    "distillation",
    "margin_mse",
    "triplet",
    "batch_hard_triplet",
    "cosent",
    "angle",
    "cosine_regression",
    "arcface",
];

/// All settings of losses.
const LOSS_SETTINGS: [&str; 18] = [
    "name",
    "temperature",
    "hard_negatives",
    "group_size",
    "memory",
    "matryoshka",
    "learn_temperature",
    "label_smoothing",
    "false_negatives",
    "guide",
    "teacher_temperature",
    "margin",
    "distance",
    "scale",
    "mining",
    "margin_warmup",
    "easing",
    "adaptive_margin",
];

pub(super) fn read_loss(r: &Reader<'_>, objective: Objective, folder: &Path) -> Loss {
    let l = r.section("loss");
    let names: Vec<(&str, &str)> = LOSSES.iter().map(|name| (*name, *name)).collect();
    let name = l.choice("name", &names).unwrap_or("info_nce");
    if objective == Objective::Tsdae {
        for key in LOSS_SETTINGS {
            if l.node(key).is_some_and(|n| n.value != Value::Null) {
                l.fault(
                    key,
                    "is of no use with objective tsdae, whose loss is the cross entropy over the text's tokens",
                );
            }
        }
    }
    let kind = read_kind(&l, name, folder);
    let group_size = l.whole("group_size", 2..=512, "from 2 to 512");
    if group_size.is_some() && l.node("hard_negatives").is_some_and(|n| n.value != Value::Null) {
        l.fault("group_size", "and loss.hard_negatives both say how many negatives a row has: give one");
    }
    let of_texts = matches!(kind, LossKind::Simcse | LossKind::BatchHardTriplet { .. } | LossKind::Arcface { .. });
    let of_scores = matches!(kind, LossKind::Cosent { .. } | LossKind::Angle { .. } | LossKind::CosineRegression);
    if of_texts || of_scores {
        for key in ["hard_negatives", "group_size"] {
            if l.node(key).is_some_and(|n| n.value != Value::Null && n.value != Value::Int(0)) {
                let what = if of_scores { "scored pairs" } else { "texts" };
                l.fault(key, format!("is of no use with {name}, which takes {what}"));
            }
        }
    }
    let default_negatives = match kind {
        LossKind::Distillation { .. } | LossKind::MarginMse => 7,
        _ if of_texts || of_scores => 0,
        _ => 1,
    };
    let has_temperature = matches!(
        kind,
        LossKind::InfoNce { .. } | LossKind::Gist { .. } | LossKind::Simcse | LossKind::Distillation { .. }
    );
    if !has_temperature && l.node("temperature").is_some_and(|n| n.value != Value::Null) {
        l.fault("temperature", format!("is of no use with {name}, which has none"));
    }
    let loss = Loss {
        temperature: l
            .number("temperature", "above 0 (0.02 to 0.1 is usual)", |v| v > 0.0 && v <= 100.0)
            .unwrap_or(0.05),
        hard_negatives: l.whole("hard_negatives", 0..=64, "from 0 to 64").unwrap_or(default_negatives),
        group_size,
        memory: read_memory(&l),
        matryoshka: read_matryoshka(&l),
        kind,
    };
    if loss.memory.is_some() && !matches!(loss.kind, LossKind::InfoNce { .. }) {
        l.fault("memory", format!("holds negatives for info_nce; {name} has no use for them"));
    }
    let needs_negatives =
        matches!(loss.kind, LossKind::Triplet { .. } | LossKind::Distillation { .. } | LossKind::MarginMse);
    if needs_negatives && loss.hard_negatives == 0 && group_size.is_none() {
        l.fault("hard_negatives", format!("{name} needs at least one negative a row"));
    }
    l.finish();
    loss
}

/// Refuses settings of other losses, which would be read and ignored.
fn only_of(l: &Reader<'_>, name: &str, key: &'static str, losses: &[&str]) -> bool {
    let mine = losses.contains(&name);
    if !mine && l.node(key).is_some_and(|n| n.value != Value::Null) {
        l.fault(key, format!("is a setting of {}, but loss.name is {name}", losses.join(", ")));
    }
    mine
}

fn read_kind(l: &Reader<'_>, name: &str, folder: &Path) -> LossKind {
    let not_negative = |v: f64| (0.0..=100.0).contains(&v);
    for (key, losses) in [
        ("learn_temperature", &["info_nce"][..]),
        ("label_smoothing", &["info_nce"]),
        ("false_negatives", &["info_nce", "gist"]),
        ("guide", &["gist"]),
        ("teacher_temperature", &["distillation"]),
        ("margin", &["triplet", "batch_hard_triplet", "arcface"]),
        ("distance", &["triplet", "batch_hard_triplet"]),
        ("scale", &["cosent", "angle", "arcface"]),
        ("mining", &["batch_hard_triplet"]),
        ("margin_warmup", &["arcface"]),
        ("easing", &["arcface"]),
        ("adaptive_margin", &["arcface"]),
    ] {
        only_of(l, name, key, losses);
    }
    let distances =
        [("cosine", Distance::Cosine), ("euclidean", Distance::Euclidean), ("manhattan", Distance::Manhattan)];
    let scale = |default| l.number("scale", "above 0", |v| v > 0.0 && v <= 1e4).unwrap_or(default);
    match name {
        "gist" => {
            let guide = l.text("guide").unwrap_or_else(|| "base".into());
            let path =
                (guide != "base").then(|| resolve(&guide, l.node("guide").map_or(l.origin(), |n| &n.origin), folder));
            if path.as_ref().is_some_and(|p| !p.is_dir()) {
                l.fault("guide", "no such model folder; `base` is the base model");
            }
            LossKind::Gist { guide, folder: path, margin: read_margin(l).unwrap_or(Margin::Absolute(0.0)) }
        }
        "simcse" => LossKind::Simcse,
        "distillation" => LossKind::Distillation {
            teacher_temperature: l.number("teacher_temperature", "above 0", |v| v > 0.0 && v <= 1e3).unwrap_or(1.0),
        },
        "margin_mse" => LossKind::MarginMse,
        "triplet" => {
            let distance = l.choice("distance", &distances).unwrap_or(Distance::Cosine);
            let usual = if distance == Distance::Cosine { 0.5 } else { 5.0 };
            LossKind::Triplet { margin: l.number("margin", "from 0", not_negative).unwrap_or(usual), distance }
        }
        "batch_hard_triplet" => {
            let distance = l.choice("distance", &distances).unwrap_or(Distance::Cosine);
            let soft = matches!(l.node("margin").map(|n| &n.value), Some(Value::Text(text)) if text == "soft");
            let usual = if distance == Distance::Cosine { 0.5 } else { 5.0 };
            let margin =
                if soft { None } else { Some(l.number("margin", "from 0, or soft", not_negative).unwrap_or(usual)) };
            let minings = [("hard", Mining::Hard), ("semi_hard", Mining::SemiHard), ("all", Mining::All)];
            let mining = l.choice("mining", &minings).unwrap_or(Mining::Hard);
            if soft && mining != Mining::Hard {
                l.fault("margin", "is of hard triplets: leave mining out, or give a number");
            }
            LossKind::BatchHardTriplet { mining, margin, distance }
        }
        "cosent" => LossKind::Cosent { scale: scale(20.0) },
        "angle" => LossKind::Angle { scale: scale(20.0) },
        "cosine_regression" => LossKind::CosineRegression,
        "arcface" => {
            let angle = |v: f64| v > 0.0 && v <= 1.5;
            let from_zero = |v: f64| (0.0..=1.5).contains(&v);
            let margin = match l.node("margin").map(|n| &n.value) {
                Some(Value::Map(_)) => {
                    let m = l.section("margin");
                    let ends = (
                        m.number("start", "from 0 to 1.5 (radians)", from_zero),
                        m.number("end", "above 0 to 1.5 (radians)", angle),
                    );
                    m.finish();
                    let (start, end) = (ends.0.unwrap_or(0.0), ends.1.unwrap_or(0.3));
                    if start > end {
                        l.fault("margin", "start must not be above end");
                    }
                    (start, end)
                }
                _ => {
                    let margin = l.number("margin", "above 0 to 1.5 (radians), or {start, end}", angle).unwrap_or(0.3);
                    (margin, margin)
                }
            };
            LossKind::Arcface {
                scale: scale(30.0),
                margin,
                margin_warmup: l.whole("margin_warmup", 0.., "from 0").unwrap_or(0),
                adaptive: l.flag("adaptive_margin").unwrap_or(false),
                easing: l.number("easing", "from 0 to 1", |v| (0.0..=1.0).contains(&v)).unwrap_or(0.0),
            }
        }
        _ => LossKind::InfoNce {
            learn_temperature: l.flag("learn_temperature").unwrap_or(false),
            label_smoothing: l
                .number("label_smoothing", "from 0 to below 1", |v| (0.0..1.0).contains(&v))
                .unwrap_or(0.0),
            false_negatives: read_margin(l),
        },
    }
}

fn read_margin(l: &Reader<'_>) -> Option<Margin> {
    l.node("false_negatives").filter(|n| n.value != Value::Null)?;
    let f = l.section("false_negatives");
    let share = |v: f64| (-1.0..=1.0).contains(&v);
    let absolute = f.number("absolute_margin", "from -1 to 1", share);
    let relative = f.number("relative_margin", "from -1 to 1", share);
    let margin = match (absolute, relative) {
        (Some(margin), None) => Some(Margin::Absolute(margin)),
        (None, Some(margin)) => Some(Margin::Relative(margin)),
        _ => {
            f.fault_here("must have one of absolute_margin, relative_margin (0.05 is usual)");
            None
        }
    };
    f.finish();
    margin
}

fn read_memory(l: &Reader<'_>) -> Option<Memory> {
    let size = match &l.node("memory")?.value {
        Value::Null => return None,
        Value::Map(_) => {
            let m = l.section("memory");
            let size = m.whole("size", 1..=10_000_000, "from 1");
            if size.is_none() {
                m.fault_here("size is missing: the number of pairs that are remembered");
            }
            let warmup = m.whole("warmup", 0.., "from 0 (batches)").unwrap_or(0);
            m.finish();
            return size.map(|size| Memory { size, warmup });
        }
        _ => l.whole("memory", 0..=10_000_000, "from 0, or {size, warmup}")?,
    };
    (size > 0).then_some(Memory { size, warmup: 0 })
}

fn numbers(r: &Reader<'_>, key: &'static str) -> Vec<f64> {
    let number = |n: &&Node| match n.value {
        Value::Float(f) => f,
        Value::Int(i) => i as f64,
        _ => f64::NAN,
    };
    r.items(key).iter().map(number).collect()
}

fn read_matryoshka(l: &Reader<'_>) -> Option<Matryoshka> {
    let node = l.node("matryoshka")?;
    let (dims, weights) = match &node.value {
        Value::Null => return None,
        Value::Map(_) => {
            let m = l.section("matryoshka");
            let both = (numbers(&m, "dims"), numbers(&m, "weights"));
            m.finish();
            both
        }
        _ => (numbers(l, "matryoshka"), Vec::new()),
    };
    let whole = dims.iter().all(|d| d.fract() == 0.0 && *d >= 1.0 && *d <= 65_536.0);
    if dims.is_empty() || !whole {
        l.fault("matryoshka", "must be a list of dimensions, such as [384, 192, 96], or {dims, weights}");
        return None;
    }
    if !(weights.is_empty() || weights.len() == dims.len()) || weights.iter().any(|w| !(*w > 0.0 && *w <= 1e6)) {
        l.fault("matryoshka", "weights must be as many as dims, each above 0");
        return None;
    }
    let weights = if weights.is_empty() { vec![1.0; dims.len()] } else { weights };
    Some(Matryoshka { dims: dims.into_iter().map(|d| d as usize).collect(), weights })
}

pub(super) fn read_tsdae(r: &Reader<'_>, objective: Objective) -> Tsdae {
    let t = r.section("tsdae");
    if objective != Objective::Tsdae && r.node("tsdae").is_some_and(|n| n.value != Value::Null) {
        r.fault("tsdae", format!("says how texts are damaged, but objective is {}", objective.name()));
    }
    let share = |v: f64| (0.0..1.0).contains(&v);
    let tsdae = Tsdae {
        deletion: t.number("deletion", "from 0 to below 1", share).unwrap_or(0.6),
        shuffle: t.whole("shuffle", 0..=100, "from 0 to 100 (places)").unwrap_or(0),
        masking: t.number("masking", "from 0 to below 1", share).unwrap_or(0.0),
    };
    t.finish();
    tsdae
}

/// Settings that a trial without an adapter drops where all trials share them.
pub(super) const LORA_SETTINGS: [&str; 8] =
    ["rank", "alpha", "dropout", "targets", "rslora", "dora", "rank_pattern", "alpha_pattern"];
/// Those of quantised weights.
pub(super) const QLORA_SETTINGS: [&str; 2] = ["quantization", "quantize_embeddings"];

pub(super) fn read_adapter(r: &Reader<'_>) -> Adapter {
    let a = r.section("adapter");
    let kind = a.choice("kind", &[("full", "full"), ("lora", "lora"), ("qlora", "qlora")]).unwrap_or("full");
    let refuse = |keys: &[&'static str], whose: &str| {
        for key in keys {
            if a.node(key).is_some_and(|n| n.value != Value::Null) {
                a.fault(key, format!("is a setting of {whose}, but adapter.kind is {kind}"));
            }
        }
    };
    if kind == "full" {
        refuse(&LORA_SETTINGS, "LoRA");
        refuse(&QLORA_SETTINGS, "QLoRA");
        a.finish();
        return Adapter::Full;
    }
    let rank = a.whole("rank", 1..=4_096, "from 1 to 4096").unwrap_or(8);
    let lora = Lora {
        rank,
        alpha: a.number("alpha", "above 0", |v| v > 0.0).unwrap_or(2.0 * rank as f64),
        dropout: a.number("dropout", "from 0 to below 1", |v| (0.0..1.0).contains(&v)).unwrap_or(0.0),
        targets: a.texts("targets").unwrap_or_default(),
        rslora: a.flag("rslora").unwrap_or(false),
        dora: a.flag("dora").unwrap_or(false),
        rank_pattern: read_pattern(&a, "rank_pattern", |v| v.fract() == 0.0 && (1.0..=4_096.0).contains(&v))
            .into_iter()
            .map(|(k, v)| (k, v as usize))
            .collect(),
        alpha_pattern: read_pattern(&a, "alpha_pattern", |v| v > 0.0 && v.is_finite()),
    };
    if lora.targets.is_empty() && a.node("targets").is_some_and(|n| n.value != Value::Null) {
        a.fault("targets", "must name at least one linear layer");
    }
    let adapter = if kind == "lora" {
        refuse(&QLORA_SETTINGS, "QLoRA");
        Adapter::Lora(lora)
    } else {
        let kinds = [("nf4", Quantization::Nf4), ("nf4-single", Quantization::Nf4Single), ("int8", Quantization::Int8)];
        Adapter::Qlora {
            lora,
            quantization: a.choice("quantization", &kinds).unwrap_or(Quantization::Nf4),
            quantize_embeddings: a.flag("quantize_embeddings").unwrap_or(true),
        }
    };
    a.finish();
    adapter
}

fn read_pattern(a: &Reader<'_>, key: &'static str, holds: impl Fn(f64) -> bool) -> Vec<(String, f64)> {
    let mut out = Vec::new();
    let Some(node) = a.node(key).filter(|n| n.value != Value::Null) else { return out };
    let Value::Map(entries) = &node.value else {
        a.fault(key, "must be a mapping of module patterns to numbers");
        return out;
    };
    for (pattern, value) in entries {
        let number = match value.value {
            Value::Int(i) => i as f64,
            Value::Float(f) => f,
            _ => f64::NAN,
        };
        if holds(number) {
            out.push((pattern.clone(), number));
        } else {
            let message =
                format!("adapter.{key}.{pattern} = {}: not a number that can be used here", value.value.show());
            a.faults().add(&value.origin, message);
        }
    }
    out
}

fn read_lengths(t: &Reader<'_>) -> (Option<usize>, Option<usize>) {
    let length = |reader: &Reader<'_>, key| reader.whole(key, 4..=65_536, "from 4");
    match t.node("max_length").map(|n| &n.value) {
        Some(Value::Map(_)) => {
            let m = t.section("max_length");
            let lengths = (length(&m, "query"), length(&m, "document"));
            m.finish();
            lengths
        }
        Some(_) => {
            let both = length(t, "max_length");
            (both, both)
        }
        None => (None, None),
    }
}

fn read_groups(t: &Reader<'_>) -> Vec<Group> {
    let mut groups = Vec::new();
    for item in t.items("groups") {
        let g = Reader::new(Some(item), &t.full("groups"), &item.origin, t.faults());
        groups.push(Group {
            pattern: g.required_text("pattern"),
            lr: g.number("lr", "a factor of train.lr, from 0", |v| (0.0..=1e4).contains(&v)).unwrap_or(1.0),
            weight_decay: g.number("weight_decay", "from 0 to 1", |v| (0.0..=1.0).contains(&v)),
        });
        g.finish();
    }
    groups
}

fn read_metric(t: &Reader<'_>) -> Option<Metric> {
    Some(match t.text("metric")?.as_str() {
        "loss" => Metric::Loss,
        "mrr" => Metric::Mrr,
        "tasks" => Metric::Tasks,
        task => Metric::Task(task.to_string()),
    })
}

/// `train.keep: {last: 2, disk: 10GB}`.
fn read_keep(t: &Reader<'_>) -> (Option<usize>, Option<u64>) {
    let k = t.section("keep");
    let last = k.whole("last", 1.., "from 1");
    let bytes = k.text("disk").and_then(|text| crate::data::size::parse(&text).map_err(|e| k.fault("disk", e)).ok());
    k.finish();
    (last, bytes)
}

pub(super) fn read_train(r: &Reader<'_>, folder: &Path) -> Train {
    let t = r.section("train");
    let count = |key, default| t.whole(key, 1..=1_000_000, "from 1").unwrap_or(default);
    let betas = numbers(&t, "betas");
    if t.node("betas").is_some_and(|n| n.value != Value::Null)
        && (betas.len() != 2 || betas.iter().any(|b| !(0.0..1.0).contains(b)))
    {
        t.fault("betas", "must be two numbers from 0 to below 1");
    }
    let clip = match t.node("clip").map(|n| &n.value) {
        Some(Value::Null) => None,
        Some(_) => t.number("clip", "above 0, or null for none", |v| v > 0.0),
        None => Some(1.0),
    };
    let dropout = match t.node("dropout").map(|n| &n.value) {
        None => Dropout::Config,
        Some(Value::Text(text)) if text == "config" => Dropout::Config,
        Some(_) => Dropout::Rate(
            t.number("dropout", "from 0 to below 1, or config", |v| (0.0..1.0).contains(&v)).unwrap_or(0.0),
        ),
    };
    let warmup = |v: f64| v >= 0.0 && (v < 1.0 || (v.fract() == 0.0 && v <= 1e9));
    let schedules = [("linear", Schedule::Linear), ("cosine", Schedule::Cosine), ("constant", Schedule::Constant)];
    let (keep_last, keep_bytes) = read_keep(&t);
    let eval_tasks = t.texts("eval_tasks").unwrap_or_default();
    let beside = |text: String| {
        let path = resolve(&text, t.node("eval_tasks").map_or(t.origin(), |n| &n.origin), folder);
        if path.exists() { path.display().to_string() } else { text }
    };
    let train = Train {
        epochs: count("epochs", 1),
        max_steps: t.whole("max_steps", 1.., "from 1"),
        batch: count("batch", 32),
        accumulate: count("accumulate", 1),
        lr: t.number("lr", "above 0", |v| v > 0.0 && v <= 10.0).unwrap_or(2e-5),
        schedule: t.choice("schedule", &schedules).unwrap_or(Schedule::Linear),
        warmup: t
            .number("warmup", "a share of the steps from 0 to below 1, or a whole number of steps", warmup)
            .unwrap_or(0.05),
        clip,
        weight_decay: t.number("weight_decay", "from 0 to 1", |v| (0.0..=1.0).contains(&v)).unwrap_or(0.01),
        betas: if betas.len() == 2 { (betas[0], betas[1]) } else { (0.9, 0.999) },
        eps: t.number("eps", "above 0", |v| v > 0.0).unwrap_or(1e-8),
        max_length: read_lengths(&t),
        seed: t.whole("seed", 0.., "from 0").unwrap_or(1) as u64,
        eval_every: t.whole("eval_every", 1.., "from 1"),
        save_every: t.whole("save_every", 1.., "from 1"),
        freeze: t.texts("freeze").unwrap_or_default(),
        dropout,
        layer_decay: t.number("layer_decay", "above 0 to 1", |v| v > 0.0 && v <= 1.0).unwrap_or(1.0),
        groups: read_groups(&t),
        no_decay: t.texts("no_decay"),
        ema: t.number("ema", "from 0 to below 1 (0.999 is usual)", |v| (0.0..1.0).contains(&v)),
        grad_cache: t.whole("grad_cache", 1.., "from 1 (texts of a chunk)"),
        checkpointing: t.flag("checkpointing").unwrap_or(false),
        eval_tasks: eval_tasks.into_iter().map(beside).collect(),
        eval_print: None,
        metric: read_metric(&t),
        patience: t.whole("patience", 1.., "from 1 (evaluations)"),
        min_delta: t.number("min_delta", "from 0", |v| v >= 0.0).unwrap_or(0.0),
        keep_last,
        keep_bytes,
        state_every: t.whole("state_every", 1.., "from 1"),
    };
    if train.batch < 2 {
        t.fault("batch", "must be at least 2: the other rows of a batch are its negatives");
    }
    t.finish();
    train
}

/// Settings that contradict each other; each fault is put at the setting that is to be changed.
pub(super) fn cross_check(config: &Config, root: &Node, faults: &Faults) {
    let fault = |key: &str, message: &str| {
        let origin = root.at(key).or_else(|| root.at("objective")).map_or(&root.origin, |n| &n.origin);
        faults.add(origin, format!("{key}: {message}"));
    };
    let (data, loss, train) = (&config.data, &config.loss, &config.train);
    if config.objective == Objective::Symmetric {
        let differ = |(query, document): &(Option<String>, Option<String>)| {
            query.clone().unwrap_or_default() != document.clone().unwrap_or_default()
        };
        if differ(&data.prompts) || data.train.iter().any(|set| differ(&set.prompts)) {
            fault(
                "data.prompts",
                "objective symmetric encodes both sides alike: make the prompts equal, or use asymmetric",
            );
        }
        if train.max_length.0 != train.max_length.1 {
            fault(
                "train.max_length",
                "objective symmetric encodes both sides alike: make the lengths equal, or use asymmetric",
            );
        }
    }
    if train.chooses_checkpoints() && root.at("score.checkpoints").is_some_and(|n| n.value == Value::Text("all".into()))
    {
        fault(
            "score.checkpoints",
            "all: train.metric, patience and keep leave it open which there will be; use last, which is the best then",
        );
    }
    let has_dev = !data.dev.is_empty() || data.dev_share.is_some();
    if train.eval_every.is_some() && !has_dev && train.eval_tasks.is_empty() {
        fault("train.eval_every", "needs something to evaluate: give data.dev, or train.eval_tasks");
    }
    if let Some(prune) = &config.prune {
        if train.eval_every.is_none() {
            fault("prune", "judges trials at dev evaluations: give train.eval_every");
        }
        if matches!(prune.metric, Metric::Tasks | Metric::Task(_)) && train.eval_tasks.is_empty() {
            fault("prune.metric", "is of dev tasks: name them in train.eval_tasks");
        }
        if config.objective == Objective::Tsdae && prune.metric == Metric::Mrr {
            fault("prune.metric", "mrr: objective tsdae ranks nothing; use loss, or tasks");
        }
    }
    if !train.eval_tasks.is_empty() && train.eval_every.is_none() {
        fault("train.eval_tasks", "are scored with every dev evaluation: give train.eval_every");
    }
    if train.patience.is_some() && train.eval_every.is_none() {
        fault("train.patience", "counts dev evaluations: give train.eval_every");
    }
    if let Some(metric) = &train.metric {
        match metric {
            _ if train.eval_every.is_none() => fault("train.metric", "is of dev evaluations: give train.eval_every"),
            Metric::Loss | Metric::Mrr if !has_dev => fault("train.metric", "is of dev rows: give data.dev"),
            Metric::Mrr if !has_ranking(config) => {
                fault("train.metric", "mrr needs pairs of query and positive; this loss has none: use loss or tasks");
            }
            Metric::Tasks | Metric::Task(_) if train.eval_tasks.is_empty() => {
                fault("train.metric", "must be loss or mrr, or `tasks` or a task's name with train.eval_tasks given");
            }
            _ => {}
        }
    }
    if config.objective == Objective::Tsdae {
        if train.grad_cache.is_some() {
            fault(
                "train.grad_cache",
                "caches a loss over embeddings; objective tsdae has a loss over tokens: leave it out",
            );
        }
        if data.prompts != (None, None) || data.train.iter().chain(&data.dev).any(|set| set.prompts != (None, None)) {
            fault("data.prompts", "objective tsdae reads plain texts without prompts");
        }
    }
    if loss.kind == LossKind::Simcse
        && train.dropout == Dropout::Rate(0.0)
        && config.adapter.lora().is_none_or(|l| l.dropout == 0.0)
    {
        fault("train.dropout", "simcse lives on dropout: with none, both passes are the same text");
    }
    if let (Adapter::Qlora { .. }, Base::Scratch(_)) = (&config.adapter, &config.base) {
        fault("adapter.kind", "qlora on a base made from nothing would train noise: use full");
    }
    if train.checkpointing && train.grad_cache.is_some_and(|c| c < 8) {
        fault("train.checkpointing", "with so small a train.grad_cache saves nothing: leave one of them out");
    }
    if loss.kind == LossKind::Simcse
        && train.eval_tasks.is_empty()
        && (train.metric.is_some() || train.patience.is_some())
    {
        fault(
            "train.metric",
            "simcse's loss says nothing without dropout, as dev rows are evaluated: give train.eval_tasks",
        );
    }
    if loss.memory.is_some() && data.one_set_per_batch {
        fault(
            "loss.memory",
            "holds documents of other sets, which data.one_set_per_batch keeps apart: leave one of them out",
        );
    }
    if train.min_delta > 0.0 && train.metric.is_none() && train.patience.is_none() {
        fault("train.min_delta", "says what counts as better: give train.metric or train.patience");
    }
    if let Some(memory) = &loss.memory
        && memory.size < train.batch
    {
        fault("loss.memory", "is smaller than a batch: make it larger than train.batch, or leave it out");
    }
}

/// Whether the rows have queries with positives to rank.
fn has_ranking(config: &Config) -> bool {
    let none = matches!(
        config.loss.kind,
        LossKind::Simcse
            | LossKind::BatchHardTriplet { .. }
            | LossKind::Arcface { .. }
            | LossKind::Cosent { .. }
            | LossKind::Angle { .. }
            | LossKind::CosineRegression
    );
    config.objective != Objective::Tsdae && !none
}
