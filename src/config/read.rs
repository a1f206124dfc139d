//! From the tree to the checked config: bounds, defaults and cross-checks.

use std::path::{Path, PathBuf};

use super::node::{Node, Origin, Value};
use super::read_training::{cross_check, read_adapter, read_data, read_loss, read_train, read_tsdae};
use super::reader::{Faults, Reader};
use super::schema::{Alpha, Base, Choose, Config, Dtype, Objective, Rule, Run, Score, Scratch, Slerp, SlerpMode};
use crate::data::suggest::did_you_mean;

/// Reads the tree; faults go to `faults`, and the result counts only if there are none.
pub(super) fn config(root: &Node, folder: &Path, faults: &Faults) -> Config {
    let r = Reader::new(Some(root), "", &root.origin, faults);
    for key in ["grid", "trials"] {
        r.has(key);
    }
    let name = r.plain_name("name");
    let objectives =
        [("symmetric", Objective::Symmetric), ("asymmetric", Objective::Asymmetric), ("tsdae", Objective::Tsdae)];
    let objective = r.choice("objective", &objectives).unwrap_or(Objective::Asymmetric);
    let config = Config {
        name,
        base: read_base(&r, folder),
        data: read_data(&r, folder),
        objective,
        loss: read_loss(&r, objective, folder),
        adapter: read_adapter(&r),
        tsdae: read_tsdae(&r, objective),
        train: read_train(&r, folder),
        merge: read_merges(&r),
        score: read_score(&r, folder),
        choose: read_choose(&r),
        run: read_run(&r),
    };
    cross_check(&config, root, faults);
    r.finish();
    config
}

pub(super) fn resolve(path: &str, origin: &Origin, folder: &Path) -> PathBuf {
    let given = PathBuf::from(path);
    match origin {
        Origin::Line(_) if given.is_relative() => folder.join(given),
        _ => given,
    }
}

fn read_base(r: &Reader<'_>, folder: &Path) -> Base {
    let Some(node) = r.node("base") else {
        r.fault("base", "is missing: give a model folder, or {scratch: {…}}");
        return Base::Hub { id: String::new(), folder: None };
    };
    if let Value::Text(text) = &node.value {
        let beside = resolve(text, &node.origin, folder);
        for path in [beside.clone(), PathBuf::from(text)] {
            if path.is_dir() {
                return Base::Folder(path);
            }
        }
        let looks_like_path = text.starts_with(['.', '/', '~']) || text.matches('/').count() != 1;
        if looks_like_path || text.is_empty() {
            r.fault("base", "no such model folder (relative to the config, or to the current folder)");
        }
        return if looks_like_path { Base::Folder(beside) } else { Base::Hub { id: text.clone(), folder: None } };
    }
    let outer = Reader::new(Some(node), "base", &node.origin, r.faults());
    if !outer.has("scratch") {
        outer.fault_here("must be a model folder, a hub id, or {scratch: {…}}");
    }
    let s = outer.section("scratch");
    s.choice("tokenizer", &[("wordpiece", ())]);
    let size = |key, default| s.whole(key, 1..=65_536, "from 1 to 65536").unwrap_or(default);
    let hidden = size("hidden", 128);
    let heads = size("heads", (hidden / 32).max(1));
    if hidden % heads != 0 {
        s.fault_here(format!("hidden {hidden} is not a multiple of heads {heads}"));
    }
    let scratch = Scratch {
        layers: s.whole("layers", 0..=96, "from 0 to 96").unwrap_or(2),
        hidden,
        heads,
        intermediate: size("intermediate", 4 * hidden),
        vocabulary: s.whole("vocabulary", 100..=1_000_000, "from 100").unwrap_or(8_000),
        max_length: s.whole("max_length", 4..=8_192, "from 4 to 8192").unwrap_or(128),
        lower_case: s.flag("lower_case").unwrap_or(true),
        seed: s.whole("seed", 0.., "from 0").unwrap_or(1) as u64,
    };
    s.finish();
    outer.finish();
    Base::Scratch(scratch)
}

fn read_merges(r: &Reader<'_>) -> Vec<Slerp> {
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
        merges.push(Slerp {
            first,
            second,
            alpha,
            mode: m.choice("mode", &modes).unwrap_or(SlerpMode::Tensor),
            tolerance: m.number("tolerance", "from 0.001 to 0.5", |v| (0.001..=0.5).contains(&v)).unwrap_or(0.05),
            budget: m.whole("budget", 5..=200, "from 5 to 200").unwrap_or(12),
        });
        m.finish();
        outer.finish();
    }
    merges
}

fn read_score(r: &Reader<'_>, folder: &Path) -> Score {
    let s = r.section("score");
    let mut tasks = Vec::new();
    for item in s.items("tasks") {
        let Value::Text(text) = &item.value else {
            s.faults().add(&item.origin, format!("score.tasks: {} must be text", item.value.show()));
            continue;
        };
        let beside = resolve(text, &item.origin, folder);
        tasks.push(if beside.exists() { beside.display().to_string() } else { text.clone() });
    }
    let score = Score {
        tasks,
        all_checkpoints: s.choice("checkpoints", &[("all", true), ("last", false)]).unwrap_or(true),
        limit: s.whole("limit", 20.., "from 20"),
        limits: read_limits(&s),
        seeds: s.whole("seeds", 1..=100, "from 1 to 100").unwrap_or(3),
        protocol: s
            .choice("protocol", &[("sklearn-1.9", "sklearn-1.9"), ("sklearn-1.8", "sklearn-1.8")])
            .unwrap_or("sklearn-1.9")
            .into(),
    };
    s.finish();
    score
}

/// `score.limits`: a task's name → rows.
fn read_limits(s: &Reader<'_>) -> std::collections::BTreeMap<String, usize> {
    let mut limits = std::collections::BTreeMap::new();
    let Some(node) = s.node("limits") else { return limits };
    let Value::Map(entries) = &node.value else {
        s.fault("limits", "must be a mapping of task names to rows");
        return limits;
    };
    for (task, rows) in entries {
        match rows.value {
            Value::Int(rows @ 20..) => {
                limits.insert(task.clone(), usize::try_from(rows).unwrap_or(usize::MAX));
            }
            _ => s.faults().add(
                &rows.origin,
                format!("score.limits.{task} = {} must be a whole number from 20", rows.value.show()),
            ),
        }
    }
    limits
}

fn read_choose(r: &Reader<'_>) -> Choose {
    let c = r.section("choose");
    let by = match c.text("by").as_deref() {
        None | Some("mean_task_type") => Rule::MeanTaskType,
        Some("mean_task") => Rule::MeanTask,
        Some(task) => {
            let hint = did_you_mean(task, ["mean_task_type", "mean_task"]);
            if !hint.is_empty() {
                c.fault("by", format!("must be mean_task_type, mean_task or a task's name{hint}"));
            }
            Rule::Task(task.to_string())
        }
    };
    let choose = Choose {
        on_test: c.choice("on", &[("dev", false), ("test", true)]).unwrap_or(false),
        by,
        seeds: c.whole("seeds", 1..=100, "from 1 to 100").unwrap_or(3),
    };
    c.finish();
    choose
}

fn read_run(r: &Reader<'_>) -> Run {
    let s = r.section("run");
    let later = |key: &'static str, available: &[&str]| {
        if let Some(text) = s.text(key)
            && !available.contains(&text.as_str())
        {
            s.fault(key, format!("is not available yet; {} is", available.join(", ")));
        }
    };
    later("executor", &["local"]);
    later("jobs", &["1"]);
    let device = s.text("device").unwrap_or_else(|| "auto".into());
    let cuda = device
        .strip_prefix("cuda")
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(|n| n.parse::<usize>().is_ok()));
    if !(cuda || device == "auto" || device == "cpu") {
        s.fault("device", "must be auto, cpu, cuda or cuda:N");
    }
    let dtype = s.choice("dtype", &[("f32", Dtype::F32), ("bf16", Dtype::Bf16)]).unwrap_or(Dtype::F32);
    s.finish();
    Run { device, dtype }
}
