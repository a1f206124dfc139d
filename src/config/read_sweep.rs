//! The sections that a sweep adds: score, choose, prune, run.

use std::path::{Path, PathBuf};

use super::node::Value;
use super::read::resolve;
use super::reader::Reader;
use super::schema::{Choose, Dtype, Executor, Metric, Prune, PruneRule, Rule, Run, Score, Select, SlurmSettings};
use crate::data::suggest::did_you_mean;

pub(super) fn read_score(r: &Reader<'_>, folder: &Path) -> Score {
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
        published: read_published(&s, folder),
    };
    s.finish();
    score
}

/// `score.published`: folders of results, relative to the config.
fn read_published(s: &Reader<'_>, folder: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for item in s.items("published") {
        let path = match &item.value {
            Value::Text(text) => resolve(text, &item.origin, folder),
            _ => PathBuf::new(),
        };
        if path.is_dir() {
            folders.push(path);
        } else {
            let message =
                format!("score.published: {}: no such folder of results as mteb writes them", item.value.show());
            s.faults().add(&item.origin, message);
        }
    }
    folders
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

pub(super) fn read_choose(r: &Reader<'_>) -> Choose {
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
        select: c
            .choice("select", &[("best", Select::Best), ("one_standard_error", Select::OneStandardError)])
            .unwrap_or_default(),
    };
    c.finish();
    choose
}

pub(super) fn read_prune(r: &Reader<'_>) -> Option<Prune> {
    if !r.has("prune") {
        return None;
    }
    let p = r.section("prune");
    let rules = [
        ("successive_halving", PruneRule::SuccessiveHalving),
        ("asha", PruneRule::Asha),
        ("median", PruneRule::Median),
    ];
    let rule = p.choice("rule", &rules);
    if rule.is_none() && !p.has("rule") {
        p.fault_here("rule is missing: successive_halving, asha or median");
    }
    let metric = match p.text("metric").as_deref() {
        None | Some("mrr") => Metric::Mrr,
        Some("loss") => Metric::Loss,
        Some("tasks") => Metric::Tasks,
        Some(task) => Metric::Task(task.to_string()),
    };
    let prune = Prune {
        rule: rule.unwrap_or(PruneRule::SuccessiveHalving),
        metric,
        min_steps: p.whole("min_steps", 1.., "from 1"),
        factor: p.number("factor", "from 1.5 to 10", |v| (1.5..=10.0).contains(&v)).unwrap_or(3.0),
        min_trials: p.whole("min_trials", 2..=1_000, "from 2 to 1000").unwrap_or(4),
    };
    p.finish();
    Some(prune)
}

pub(super) fn read_run(r: &Reader<'_>) -> Run {
    let s = r.section("run");
    let device = s.text("device").unwrap_or_else(|| "auto".into());
    let cuda = device
        .strip_prefix("cuda")
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(|n| n.parse::<usize>().is_ok()));
    if !(cuda || device == "auto" || device == "cpu") {
        s.fault("device", "must be auto, cpu, cuda or cuda:N");
    }
    let disk = s.text("disk").and_then(|text| match crate::data::size::parse(&text) {
        Ok(bytes) => Some(bytes),
        Err(message) => {
            s.fault("disk", message);
            None
        }
    });
    let run = Run {
        device,
        dtype: s
            .choice("dtype", &[("auto", Dtype::Auto), ("f32", Dtype::F32), ("bf16", Dtype::Bf16)])
            .unwrap_or(Dtype::Auto),
        executor: s.choice("executor", &[("local", Executor::Local), ("slurm", Executor::Slurm)]).unwrap_or_default(),
        jobs: s.whole("jobs", 1..=1_024, "from 1 to 1024"),
        retries: s.whole("retries", 0..=100, "from 0 to 100").unwrap_or(2),
        disk,
        slurm: read_slurm(&s),
    };
    s.finish();
    run
}

fn read_slurm(r: &Reader<'_>) -> SlurmSettings {
    let s = r.section("slurm");
    let lines = |key: &'static str| -> Vec<String> { s.items(key).iter().map(|item| item.value.show()).collect() };
    let settings = SlurmSettings {
        partition: s.text("partition"),
        account: s.text("account"),
        qos: s.text("qos"),
        time: s.text("time"),
        gres: s.text("gres"),
        cpus_per_task: s.whole("cpus_per_task", 1..=1_024, "from 1 to 1024"),
        mem: s.text("mem"),
        constraint: s.text("constraint"),
        setup: lines("setup"),
        options: lines("options"),
        poll: s.number("poll", "from 0.2 to 3600", |v| (0.2..=3_600.0).contains(&v)),
    };
    s.finish();
    settings
}
