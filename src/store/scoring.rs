//! From task records to the number that a choice is made by, and its bootstrap.

use super::record::TaskRecord;
use crate::metric::aggregate;
use crate::metric::bootstrap;

/// Replicates drawn everywhere.
pub const REPLICATES: usize = 1_000;

impl TaskRecord {
    /// Mean of the main score over protocol seeds, mteb's own among them.
    pub fn mean_over_seeds(&self) -> f64 {
        let others: f64 = self.seeds.iter().map(|s| s.1).sum();
        (self.main_score + others) / (self.seeds.len() + 1) as f64
    }

    /// Bootstrap replicates of [`Self::mean_over_seeds`]: those of the outcomes at mteb's seed, moved to that mean. They are
    /// paired between models on the same rows.
    pub fn replicates(&self) -> Vec<f64> {
        let shift = self.mean_over_seeds() - self.main_score;
        let mut out = bootstrap::replicates(&self.outcomes, bootstrap::task_seed(&self.name), REPLICATES);
        out.iter_mut().for_each(|v| *v += shift);
        out
    }
}

/// The number that the rule `by` (`mean_task_type`, `mean_task` or a task's name) gives; `None` where a task is missing.
pub fn rule_score(records: &[TaskRecord], by: &str) -> Option<f64> {
    let values: Vec<f64> = records.iter().map(TaskRecord::mean_over_seeds).collect();
    combine(records, &values, by)
}

/// The rule's number for every replicate.
pub fn rule_replicates(records: &[TaskRecord], by: &str) -> Vec<f64> {
    let drawn: Vec<Vec<f64>> = records.iter().map(TaskRecord::replicates).collect();
    (0..REPLICATES)
        .filter_map(|r| {
            let values: Vec<f64> = drawn.iter().map(|d| d[r]).collect();
            combine(records, &values, by)
        })
        .collect()
}

/// The rule's number out of one value a task.
pub fn combine(records: &[TaskRecord], values: &[f64], by: &str) -> Option<f64> {
    if records.is_empty() {
        return None;
    }
    let scores: Vec<Option<f64>> = values.iter().copied().map(Some).collect();
    match by {
        "mean_task" => aggregate::mean_task(&scores),
        "mean_task_type" => {
            let typed: Vec<(&str, Option<f64>)> = records.iter().map(|r| r.task_type.as_str()).zip(scores).collect();
            aggregate::mean_task_type(&typed)
        }
        task => records.iter().position(|r| r.name == task).map(|i| values[i]),
    }
}
