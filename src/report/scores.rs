//! Every score that the page and the plots show, estimated once, and the order of the variants.

use rayon::prelude::*;

use super::statistics::{CHOICE, Estimate, Statistics, is_final};
use crate::store::record::{RunRecord, TaskRecord, Variant, VariantKind};

/// What a column of scores is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// A mean over all tasks of the side.
    Mean,
    /// The mean over the tasks of a type.
    Type,
    /// One task.
    Task,
}

/// A column of scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// `mean_task`, `mean_task_type`, `type:NAME` or a task's name.
    pub rule: String,
    /// For people.
    pub title: String,
    /// What it is.
    pub group: Group,
    /// The type of a task; empty for means.
    pub task_type: String,
    /// Main score of a task; empty for means.
    pub metric: String,
    /// Rows evaluated: of a task the most that any variant has, of a mean their sum.
    pub rows: usize,
    /// Protocol seeds that the score is the mean over; those of a mean are its tasks' most.
    pub seeds: usize,
}

/// The scores on dev or on test.
pub struct Side {
    /// `dev` or `test`.
    pub on: &'static str,
    /// Means, then types (where there are several), then tasks by type.
    pub columns: Vec<Column>,
    /// `[variants][columns]`.
    pub cells: Vec<Vec<Option<Estimate>>>,
}

impl Side {
    fn new(on: &'static str, run: &RunRecord, statistics: &Statistics) -> Self {
        let columns = columns(on, run, statistics);
        let cells = (0..run.variants.len())
            .into_par_iter()
            .map(|variant| {
                let one = |column: &Column| match column.group {
                    Group::Task => statistics.task(on, variant, &column.rule),
                    _ => statistics.estimate(on, variant, &column.rule),
                };
                columns.iter().map(one).collect()
            })
            .collect();
        Self { on, columns, cells }
    }

    /// Where a rule's column is.
    pub fn column(&self, rule: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.rule == rule)
    }

    /// A variant's score under a rule.
    pub fn get(&self, variant: usize, rule: &str) -> Option<Estimate> {
        *self.cells.get(variant)?.get(self.column(rule)?)?
    }
}

/// The scores of a run.
pub struct Scores {
    /// On dev, means over the protocol seeds.
    pub dev: Side,
    /// On test, at mteb's seed.
    pub test: Side,
    /// The side that the choice was made on.
    pub on: &'static str,
    /// The rule of the choice.
    pub rule: String,
    /// What others are compared with: the base, where it was scored.
    pub base: Option<usize>,
    /// What that is called.
    pub reference: String,
    /// The chosen variant.
    pub chosen: Option<usize>,
    /// Variants that are no checkpoints on the way (but with the chosen), best by the rule first; those without a score last.
    pub order: Vec<usize>,
}

impl Scores {
    /// Estimates everything.
    pub fn new(run: &RunRecord, statistics: &Statistics) -> Self {
        let rule = run.choice.as_ref().map_or("mean_task_type", |c| c.by.as_str()).to_string();
        let chosen = run.choice.as_ref().and_then(|c| run.variants.iter().position(|v| v.id == c.id));
        let dev = Side::new("dev", run, statistics);
        let on = match &run.choice {
            Some(choice) if choice.on == "test" => "test",
            Some(_) => "dev",
            None if dev.columns.is_empty() => "test",
            None => "dev",
        };
        let test = Side::new("test", run, statistics);
        let shown = if on == "test" { &test } else { &dev };
        let by_rule = |&i: &usize| -> f64 {
            // A choice on test goes by means over the protocol seeds, which the table of test scores does not show.
            let score = if run.choice.is_some() {
                statistics.estimate(CHOICE, i, &rule).map(|e| e.score)
            } else {
                shown.get(i, &rule).map(|e| e.score)
            };
            score.filter(|s| s.is_finite()).unwrap_or(f64::NEG_INFINITY)
        };
        let finals: Vec<usize> =
            (0..run.variants.len()).filter(|&i| is_final(&run.variants[i]) || Some(i) == chosen).collect();
        let mut ranked: Vec<(usize, f64)> = finals.par_iter().map(|i| (*i, by_rule(i))).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let base = run.variants.iter().position(|v| v.kind == VariantKind::Base);
        let reference = "the base".to_string();
        Self { dev, test, on, rule, base, reference, chosen, order: ranked.into_iter().map(|(i, _)| i).collect() }
    }

    /// The scores of the side that the choice was made on.
    pub fn choice_side(&self) -> &Side {
        if self.on == "test" { &self.test } else { &self.dev }
    }

    /// At most `most` variants for a picture: the best by the rule, and always the base and the chosen; best first.
    pub fn best(&self, most: usize) -> Vec<usize> {
        let special = |i: &usize| Some(*i) == self.base || Some(*i) == self.chosen;
        let room = most.saturating_sub(self.order.iter().filter(|i| special(i)).count());
        let mut left = room;
        self.order
            .iter()
            .copied()
            .filter(|i| {
                let free = left > 0 && !special(i);
                left -= usize::from(free);
                free || special(i)
            })
            .collect()
    }
}

/// A rule as a heading says it.
pub fn title(rule: &str) -> &str {
    match rule {
        "mean_task" => "Mean (Task)",
        "mean_task_type" => "Mean (TaskType)",
        other => other.strip_prefix("type:").unwrap_or(other),
    }
}

fn tasks<'a>(on: &str, variant: &'a Variant) -> &'a [TaskRecord] {
    if on == "dev" { &variant.dev } else { &variant.test }
}

fn columns(on: &str, run: &RunRecord, statistics: &Statistics) -> Vec<Column> {
    let mut kinds: Vec<String> = Vec::new();
    let mut singles: Vec<Column> = Vec::new();
    for (name, kind) in statistics.tasks_on(on) {
        let records = || run.variants.iter().flat_map(|v| tasks(on, v)).filter(|t| t.name == name);
        singles.push(Column {
            rule: name.clone(),
            title: name.clone(),
            group: Group::Task,
            metric: records().next().map(|t| t.metric.clone()).unwrap_or_default(),
            rows: records().map(|t| t.rows).max().unwrap_or(0),
            // Test scores are those at mteb's seed alone.
            seeds: if on == "dev" { records().map(|t| t.seeds.len() + 1).max().unwrap_or(1) } else { 1 },
            task_type: kind.clone(),
        });
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if singles.is_empty() {
        return Vec::new();
    }
    singles.sort_by_key(|c| kinds.iter().position(|k| *k == c.task_type));
    let over = |rule: String, group: Group, keep: &dyn Fn(&Column) -> bool| {
        let own = || singles.iter().filter(|c| keep(c));
        Column {
            title: title(&rule).to_string(),
            group,
            task_type: String::new(),
            metric: String::new(),
            rows: own().map(|c| c.rows).sum(),
            seeds: own().map(|c| c.seeds).max().unwrap_or(1),
            rule,
        }
    };
    let mut all =
        vec![over("mean_task_type".into(), Group::Mean, &|_| true), over("mean_task".into(), Group::Mean, &|_| true)];
    if kinds.len() > 1 {
        all.extend(kinds.iter().map(|kind| over(format!("type:{kind}"), Group::Type, &|c| c.task_type == *kind)));
    }
    all.extend(singles);
    all
}
