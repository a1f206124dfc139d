//! A model's scores on tasks, as a table or JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::metric::aggregate;
use crate::store::record::TaskRecord;
use crate::store::scoring::Seeds;
use crate::task::evaluate::Evaluation;
use crate::task::protocol::Protocol;
use crate::task::spec::{Split, TaskType};

/// A task's scores.
pub struct Scores {
    /// As records keep them.
    pub record: TaskRecord,
    /// Everything that mteb gives.
    pub evaluation: Evaluation,
}

/// What `score` prints.
pub struct Scoreboard {
    /// The model as it was named.
    pub model: String,
    /// The side.
    pub split: Split,
    /// Rows at the most.
    pub limit: Option<u32>,
    /// Values of an embedding that were scored, the first ones; none for all.
    pub dim: Option<usize>,
    /// Whose draws.
    pub protocol: Protocol,
    /// The set of tasks that the means are over.
    pub set: String,
    /// Its tasks.
    pub tasks: Vec<(String, TaskType)>,
    /// Those that were scored.
    pub scores: Vec<Scores>,
    /// Those that failed, and why.
    pub failed: Vec<(String, String)>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Prompts used, by task and side.
    pub prompts: BTreeMap<String, BTreeMap<&'static str, String>>,
}

/// Means over a set of tasks; none where a score is missing.
struct Means {
    over_tasks: Option<f64>,
    of_types: Vec<(TaskType, Option<f64>)>,
    over_types: Option<f64>,
}

impl Default for Scoreboard {
    fn default() -> Self {
        Self {
            model: String::new(),
            split: Split::Test,
            limit: None,
            dim: None,
            protocol: Protocol::default(),
            set: String::new(),
            tasks: Vec::new(),
            scores: Vec::new(),
            failed: Vec::new(),
            notes: Vec::new(),
            prompts: BTreeMap::new(),
        }
    }
}

/// The versions whose numbers are given.
pub fn protocol(protocol: Protocol) -> Value {
    let sklearn = protocol.to_string();
    json!({"mteb": "2.26", "sklearn": sklearn.strip_prefix("sklearn-").unwrap_or(&sklearn)})
}

/// Main scores by protocol seed and their spread; none of a single seed.
pub fn spread(evaluation: &Evaluation) -> Option<Value> {
    let values: Vec<f64> = evaluation.seeds.iter().map(|s| s.main_score).collect();
    if values.len() < 2 {
        return None;
    }
    let (mean, std) = mean_and_std(&values);
    let by_seed: Vec<Value> = evaluation.seeds.iter().map(|s| json!([s.seed, s.main_score])).collect();
    let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    Some(json!({"values": by_seed, "mean": mean, "std": std, "min": min, "max": max}))
}

/// Mean and sample standard deviation.
fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
}

impl Scoreboard {
    fn score_of(&self, task: &str) -> Option<f64> {
        self.scores.iter().find(|s| s.record.name == task).map(|s| s.record.main_score)
    }

    fn means(&self) -> Means {
        let typed: Vec<(TaskType, Option<f64>)> =
            self.tasks.iter().map(|(name, kind)| (*kind, self.score_of(name))).collect();
        let all: Vec<Option<f64>> = typed.iter().map(|(_, score)| *score).collect();
        Means {
            over_tasks: aggregate::mean_task(&all),
            of_types: aggregate::type_means(&typed),
            over_types: aggregate::mean_task_type(&typed),
        }
    }

    /// One JSON document.
    pub fn as_json(&self) -> Value {
        let Means { over_tasks: mean_task, of_types: by_type, over_types: mean_task_type } = self.means();
        let tasks: Vec<Value> = self.scores.iter().map(|s| self.task_json(s)).collect();
        let types: Map<String, Value> = by_type.iter().map(|(kind, mean)| (kind.name().into(), json!(mean))).collect();
        let failed: Vec<Value> =
            self.failed.iter().map(|(name, error)| json!({"name": name, "error": error})).collect();
        let mut document = json!({
            "model": self.model, "tasks": tasks, "failed": failed, "set": self.set, "tasks_in_set": self.tasks.len(),
            "mean_task": mean_task, "mean_task_type": mean_task_type, "type_means": types, "limit": self.limit,
            "protocol": protocol(self.protocol), "notes": self.notes, "peak_mb": super::peak_mb(),
        });
        if let (Some(dim), Some(map)) = (self.dim, document.as_object_mut()) {
            map.insert("truncate_dim".into(), json!(dim));
        }
        document
    }

    fn task_json(&self, s: &Scores) -> Value {
        let (low, high) = s.record.interval(Seeds::Published);
        let splits = &s.evaluation.seeds[0].splits;
        let scores = match &splits[..] {
            [(_, only)] => Value::Object(only.scores.clone()),
            several => {
                several.iter().map(|(name, scored)| (name.clone(), Value::Object(scored.scores.clone()))).collect()
            }
        };
        let (encoding, rest) = s.evaluation.seconds;
        let round = |v: f64| (v * 1e4).round() / 1e4;
        let mut task = json!({
            "name": s.record.name, "type": s.record.task_type, "split": self.split.name(),
            "main_score": s.record.main_score, "metric": s.record.metric, "scores": scores, "ci95": [low, high],
            "rows": s.record.rows, "seconds": {"encode": round(encoding), "rest": round(rest)},
        });
        if let Some(map) = task.as_object_mut() {
            map.extend(spread(&s.evaluation).map(|spread| ("seeds".to_string(), spread)));
            map.extend(self.prompts.get(&s.record.name).map(|prompts| ("prompts".to_string(), json!(prompts))));
        }
        task
    }

    /// A table for people.
    pub fn as_table(&self, markdown: bool) -> String {
        let several = self.scores.iter().any(|s| s.evaluation.seeds.len() > 1);
        let mut rows: Vec<Vec<String>> = vec![["Task", "Type", "Metric", "Score", "95 %"].map(String::from).to_vec()];
        if several {
            rows[0].push("Protocol seeds".into());
        }
        for (name, kind) in &self.tasks {
            let Some(s) = self.scores.iter().find(|s| s.record.name == *name) else {
                rows.push(vec![name.clone(), kind.name().into(), String::new(), "–".into(), "failed".into()]);
                continue;
            };
            let (low, high) = s.record.interval(Seeds::Published);
            let interval = if low.is_finite() { format!("{low:.4} to {high:.4}") } else { "–".into() };
            let mut row = vec![
                name.clone(),
                kind.name().into(),
                s.record.metric.clone(),
                format!("{:.4}", s.record.main_score),
                interval,
            ];
            if several {
                let values: Vec<f64> = s.evaluation.seeds.iter().map(|s| s.main_score).collect();
                row.push(if values.len() < 2 {
                    "draws nothing".into()
                } else {
                    let (mean, std) = mean_and_std(&values);
                    format!("{mean:.4} ± {std:.4} ({})", values.len())
                });
            }
            rows.push(row);
        }
        let Means { over_tasks: mean_task, of_types: by_type, over_types: mean_task_type } = self.means();
        let mut mean_row = |name: String, over: String, mean: Option<f64>| {
            rows.push(vec![name, over, String::new(), mean.map_or_else(|| "–".into(), |m| format!("{m:.4}"))]);
        };
        if by_type.len() > 1 && by_type.len() < self.tasks.len() {
            for (kind, mean) in &by_type {
                let count = self.tasks.iter().filter(|(_, k)| k == kind).count();
                mean_row(format!("Mean ({})", kind.name()), tasks(count), *mean);
            }
        }
        mean_row("Mean (Task)".into(), tasks(self.tasks.len()), mean_task);
        mean_row("Mean (TaskType)".into(), types(by_type.len()), mean_task_type);
        let mut out = aligned(&rows, markdown, &[3]);
        let limited = self.limit.map_or(String::new(), |n| format!("; at most {n} rows a split"));
        out.push_str(&format!(
            "\nMeans over {} ({}), {} side, mteb 2.26 with {}{limited}.\n",
            self.set,
            tasks(self.tasks.len()),
            self.split.name(),
            self.protocol
        ));
        self.notes.iter().for_each(|note| out.push_str(&format!("Note: {note}.\n")));
        out
    }
}

/// The main scores of one model at several dimensions, a column each.
pub fn by_dimension(boards: &[Scoreboard], markdown: bool) -> String {
    let Some(first) = boards.first() else { return String::new() };
    let text = |score: Option<f64>| score.map_or_else(|| "–".into(), |score| format!("{score:.4}"));
    let dims = boards.iter().map(|board| board.dim.map_or_else(|| "all".into(), |dim| dim.to_string()));
    let mut rows = vec![["Task", "Type"].map(String::from).into_iter().chain(dims).collect::<Vec<String>>()];
    let mut row = |name: &str, kind: String, score: &dyn Fn(&Scoreboard) -> Option<f64>| {
        rows.push([name.to_string(), kind].into_iter().chain(boards.iter().map(|board| text(score(board)))).collect());
    };
    for (name, kind) in &first.tasks {
        row(name, kind.name().into(), &|board| board.score_of(name));
    }
    row("Mean (Task)", tasks(first.tasks.len()), &|board| board.means().over_tasks);
    row("Mean (TaskType)", types(first.means().of_types.len()), &|board| board.means().over_types);
    let numbers: Vec<usize> = (2..2 + boards.len()).collect();
    let mut out = aligned(&rows, markdown, &numbers);
    let limited = first.limit.map_or(String::new(), |n| format!("; at most {n} rows a split"));
    out.push_str(&format!(
        "\nMain scores of the first values of each embedding. Means over {} ({}), {} side, mteb 2.26 with {}{limited}.\n",
        first.set,
        tasks(first.tasks.len()),
        first.split.name(),
        first.protocol
    ));
    first.notes.iter().for_each(|note| out.push_str(&format!("Note: {note}.\n")));
    out
}

/// A number of tasks in words.
pub fn tasks(n: usize) -> String {
    if n == 1 { "1 task".into() } else { format!("{n} tasks") }
}

/// A number of types in words.
pub fn types(n: usize) -> String {
    if n == 1 { "1 type".into() } else { format!("{n} types") }
}

/// Rows as aligned text or Markdown, the first being the header; `right` names columns of numbers.
pub fn aligned(rows: &[Vec<String>], markdown: bool, right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, c: usize| row.get(c).cloned().unwrap_or_default();
    let widths: Vec<usize> =
        (0..columns).map(|c| rows.iter().map(|r| cell(r, c).chars().count()).max().unwrap_or(0).max(3)).collect();
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = widths
            .iter()
            .enumerate()
            .map(
                |(c, &w)| {
                    if right.contains(&c) { format!("{:>w$}", cell(row, c)) } else { format!("{:<w$}", cell(row, c)) }
                },
            )
            .collect();
        if !markdown {
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
            continue;
        }
        out.push_str(&format!("| {} |\n", cells.join(" | ")));
        if i == 0 {
            let rule = |c: usize| {
                if right.contains(&c) { format!("{}:", "-".repeat(widths[c] - 1)) } else { "-".repeat(widths[c]) }
            };
            let rules: Vec<String> = (0..columns).map(rule).collect();
            out.push_str(&format!("| {} |\n", rules.join(" | ")));
        }
    }
    out
}
