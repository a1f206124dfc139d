//! Models of several runs, and published results, side by side.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

pub use super::html::Rows;
use super::html::{self, Extra};
use super::scores::{Column, Group, Scores};
use super::statistics::{Difference, Estimate, Statistics};
use super::{ReportError, csv, plot, save};
use crate::store::record::{Cost, RunRecord, TaskRecord, Variant, VariantKind};

/// A model that is compared.
#[derive(Debug, Clone)]
pub struct Model {
    /// Unique among those compared.
    pub name: String,
    /// Where its scores come from, in a word or two.
    pub from: String,
    /// Its test scores. Those without outcomes, as published results are, have no intervals.
    pub tasks: Vec<TaskRecord>,
    /// By what its rows were drawn; none where that is not known.
    pub rows: Option<Rows>,
    /// The axes' values.
    pub settings: BTreeMap<String, String>,
    /// What it took to make it.
    pub cost: Cost,
}

/// Which tasks are compared.
#[derive(Debug, Clone, Default)]
pub struct TaskSet {
    /// What the set is called.
    pub title: String,
    /// Tasks and their types, in the order of the table. A task that nobody has blanks the means.
    pub tasks: Vec<(String, String)>,
    /// Tasks that some models have, but that are not compared, and those models.
    pub left_out: Vec<(String, Vec<String>)>,
}

/// Models over one set of tasks. The first is what the others are compared with.
pub struct Comparison {
    record: RunRecord,
    extra: Extra,
    set: TaskSet,
    scores: Scores,
    /// `[models][columns]`: the paired difference to the first, where there is one.
    to_first: Vec<Vec<Option<Difference>>>,
    notes: Vec<String>,
}

impl Comparison {
    /// Estimates everything.
    pub fn new(models: Vec<Model>, set: TaskSet) -> Self {
        let notes = notes(&models, &set);
        let extra = Extra {
            sources: models.iter().map(|m| m.from.clone()).collect(),
            rows: models.iter().map(|m| m.rows.clone().unwrap_or_default()).collect(),
        };
        let names: Vec<&str> = models.iter().map(|m| m.name.as_str()).collect();
        let record = RunRecord {
            name: if names.len() == 1 { names[0].to_string() } else { format!("{} models side by side", names.len()) },
            base: String::new(),
            settings: BTreeMap::new(),
            data: Vec::new(),
            axes: Vec::new(),
            variants: models.iter().enumerate().map(|(i, m)| variant(i, m, &set)).collect(),
            curves: Vec::new(),
            searches: Vec::new(),
            choice: None,
            unfinished: Vec::new(),
            limit: None,
            limits: BTreeMap::new(),
            protocol: String::new(),
            published: Vec::new(),
            notes: notes.clone(),
        };
        let statistics = Statistics::new(&record);
        let mut scores = Scores::new(&record, &statistics);
        if let Some(first) = names.first() {
            scores.reference = first.to_string();
        }
        let paired = |model: usize, column: &Column| {
            let is_paired = model > 0 && extra.is_paired(&record, &scores.test, column, (model, 0));
            let found = is_paired.then(|| statistics.difference("test", model, 0, &column.rule)).flatten();
            found.filter(|d| d.interval.0.is_finite())
        };
        let to_first =
            (0..models.len()).map(|model| scores.test.columns.iter().map(|c| paired(model, c)).collect()).collect();
        drop(statistics);
        Self { record, extra, set, scores, to_first, notes }
    }

    /// What a reader must know, a sentence each: what was left out, how protocols and limits differ.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Models compared.
    pub fn names(&self) -> Vec<&str> {
        self.record.variants.iter().map(|v| v.label.as_str()).collect()
    }

    /// A score; means only where every task that they are over has a score somewhere.
    fn estimate(&self, model: usize, column: &Column) -> Option<Estimate> {
        let wanted = |kind: &str| column.group == Group::Mean || column.title == kind;
        let is_whole = column.group == Group::Task
            || self.set.tasks.iter().all(|(task, kind)| !wanted(kind) || self.scores.test.column(task).is_some());
        self.scores.test.get(model, &column.rule).filter(|_| is_whole)
    }

    /// The difference of a model to the first under a column, paired where it can be; none where one has no score.
    fn difference(&self, model: usize, column: &Column) -> Option<(f64, Option<Difference>)> {
        let (a, b) = (self.estimate(model, column)?, self.estimate(0, column)?);
        let place = self.scores.test.column(&column.rule)?;
        let paired = self.to_first.get(model).and_then(|columns| *columns.get(place)?);
        Some((a.score - b.score, paired))
    }

    /// Means after the tasks, as the tables show them: what it is, over what, its column.
    fn lines(&self) -> Vec<(String, String, Option<&Column>)> {
        let columns = &self.scores.test.columns;
        let find = |rule: &str| columns.iter().find(|c| c.rule == rule);
        let mut lines: Vec<(String, String, Option<&Column>)> =
            self.set.tasks.iter().map(|(task, kind)| (task.clone(), kind.clone(), find(task))).collect();
        let mut kinds: Vec<&str> = self.set.tasks.iter().map(|(_, kind)| kind.as_str()).collect();
        kinds.dedup();
        if kinds.len() > 1 {
            for kind in &kinds {
                let own = self.set.tasks.iter().filter(|(_, k)| k == kind).count();
                lines.push((format!("Mean ({kind})"), count(own, "task"), find(&format!("type:{kind}"))));
            }
        }
        lines.push(("Mean (Task)".into(), count(self.set.tasks.len(), "task"), find("mean_task")));
        lines.push(("Mean (TaskType)".into(), count(kinds.len(), "type"), find("mean_task_type")));
        lines
    }

    /// The table of scores, its heading first: tasks by type, then means; `words` writes names down.
    pub fn score_rows(&self, words: &dyn Fn(&str) -> String) -> Vec<Vec<String>> {
        let mut heading = vec!["Task".to_string(), "Type".into()];
        heading.extend(self.names().into_iter().map(words));
        let mut rows = vec![heading];
        for (name, over, column) in self.lines() {
            let shown = |model: usize| match column.and_then(|c| self.estimate(model, c)) {
                None => "–".to_string(),
                Some(e) if e.interval.0.is_finite() => {
                    format!("{:.3} ± {:.3}", e.score, (e.interval.1 - e.interval.0) / 2.0)
                }
                Some(e) => format!("{:.3}", e.score),
            };
            let mut row = vec![words(&name), words(&over)];
            row.extend((0..self.record.variants.len()).map(shown));
            rows.push(row);
        }
        rows
    }

    /// The table of differences to the first, its heading first; none of a single model.
    pub fn difference_rows(&self, words: &dyn Fn(&str) -> String) -> Option<Vec<Vec<String>>> {
        let names = self.names();
        if names.len() < 2 {
            return None;
        }
        let mut heading = vec![format!("Minus {}", words(names[0]))];
        heading.extend(names[1..].iter().map(|name| words(name)));
        let mut rows = vec![heading];
        for (name, _, column) in self.lines() {
            let shown = |model: usize| match column.and_then(|c| self.difference(model, c)) {
                None => "–".to_string(),
                Some((_, Some(d))) => {
                    format!("{:+.3} ({:+.3} to {:+.3})", d.difference, d.interval.0, d.interval.1)
                }
                Some((plain, None)) => format!("{plain:+.3} (not paired)"),
            };
            let mut row = vec![words(&name)];
            row.extend((1..names.len()).map(shown));
            rows.push(row);
        }
        Some(rows)
    }

    /// Everything as one JSON value.
    pub fn as_json(&self) -> Value {
        let known = |v: f64| v.is_finite().then_some(v);
        let models: Vec<Value> = self
            .record
            .variants
            .iter()
            .enumerate()
            .map(|(i, v)| json!({"name": v.label, "from": self.extra.sources[i], "settings": v.settings}))
            .collect();
        let rows: Vec<Value> = self
            .lines()
            .into_iter()
            .map(|(name, over, column)| {
                let score = |i: usize| {
                    let found = column.and_then(|c| self.estimate(i, c));
                    found.map(|e| json!({"score": e.score, "low": known(e.interval.0), "high": known(e.interval.1)}))
                };
                let difference = |i: usize| {
                    let (plain, paired) = column.and_then(|c| self.difference(i, c))?;
                    let ends = paired.map(|d| (d.interval.0, d.interval.1, d.p));
                    Some(json!({
                        "difference": plain, "low": ends.map(|e| e.0), "high": ends.map(|e| e.1), "p": ends.map(|e| e.2),
                    }))
                };
                let all = 0..self.record.variants.len();
                json!({
                    "name": name, "over": over, "scores": all.clone().map(score).collect::<Vec<_>>(),
                    "to_first": all.map(|i| (i > 0).then(|| difference(i)).flatten()).collect::<Vec<_>>(),
                })
            })
            .collect();
        let left_out: Vec<Value> =
            self.set.left_out.iter().map(|(task, whose)| json!({"task": task, "models": whose})).collect();
        json!({
            "set": self.set.title, "tasks_in_set": self.set.tasks.len(), "models": models, "rows": rows,
            "left_out": left_out, "notes": self.notes,
        })
    }

    /// Writes `README.md` with the Markdown given, `index.html`, `tables/scores.csv` and `plots/` into a folder.
    ///
    /// # Errors
    /// Where a file cannot be written or a plot cannot be drawn.
    pub fn write(&self, markdown: &str, folder: &Path) -> Result<(), ReportError> {
        for plot in plot::draw_all(&self.record, &self.scores)? {
            save(&folder.join("plots").join(format!("{}.svg", plot.name)), plot.svg.as_bytes())?;
            save(&folder.join("plots").join(format!("{}.png", plot.name)), &plot.png)?;
        }
        for (name, content) in csv::tables(&self.record, &self.scores) {
            if name == "scores.csv" {
                save(&folder.join("tables").join(name), content.as_bytes())?;
            }
        }
        let statistics = Statistics::new(&self.record);
        let page = html::page(&self.record, &statistics, &self.scores, &self.extra);
        save(&folder.join("index.html"), page.as_bytes())?;
        save(&folder.join("README.md"), markdown.as_bytes())
    }
}

fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

fn variant(place: usize, model: &Model, set: &TaskSet) -> Variant {
    let find = |(task, kind): &(String, String)| {
        let found = model.tasks.iter().find(|t| t.name == *task)?;
        // A type that the result file does not say is known of the task.
        Some(TaskRecord { task_type: kind.clone(), ..found.clone() })
    };
    let kind = match place {
        0 => VariantKind::Base,
        _ => VariantKind::Trained { trial: model.name.clone(), step: 0, steps: 0 },
    };
    Variant {
        id: place.to_string(),
        label: model.name.clone(),
        kind,
        settings: model.settings.clone(),
        cost: model.cost,
        dev: Vec::new(),
        test: set.tasks.iter().filter_map(find).collect(),
    }
}

fn notes(models: &[Model], set: &TaskSet) -> Vec<String> {
    let mut notes = Vec::new();
    for (task, whose) in &set.left_out {
        notes.push(format!("{task} is left out: not all of the models have it, only {}", whose.join("; ")));
    }
    let differ = models.iter().any(|m| m.rows != models[0].rows);
    // Models whose rows were drawn alike share a sentence.
    let mut ways: Vec<(&Option<Rows>, Vec<&str>)> = Vec::new();
    for model in models {
        match ways.iter_mut().find(|(rows, _)| **rows == model.rows) {
            Some((_, names)) => names.push(&model.name),
            None => ways.push((&model.rows, vec![&model.name])),
        }
    }
    let is_plain = |rows: &Rows| rows.limit.is_none() && rows.limits.is_empty();
    for (rows, names) in ways {
        let names = names.join("; ");
        match rows {
            Some(rows) if differ || !is_plain(rows) => notes.push(format!("{names}: {rows}")),
            None if differ => {
                notes.push(format!("{names}: results as published, which do not say their rows or draws"))
            }
            _ => {}
        }
    }
    if differ {
        notes.push("Where rows, limits or draws differ, scores differ by more than the models; such differences are not paired".into());
    }
    notes
}
