//! From task records to the number that a choice is made by, and its sampling error.
//!
//! The tasks are taken as given, and so are the types: they are what the benchmark is. What is random is each task's
//! examples, and tasks share none. So a mean over tasks is resampled by resampling every task by itself (a stratified bootstrap,
//! the tasks being the strata: Davison and Hinkley 1997, section 3.2), and its variance is Σ w² v. It says how the mean would
//! move with other examples of these tasks, not with other tasks. Models that were scored on the same rows are
//! resampled alike, so the error of a difference is that of the pairs.

use std::borrow::Cow;

use super::record::TaskRecord;
use crate::metric::bootstrap;
use crate::metric::interval;
use crate::metric::moments::Moments;
use crate::metric::outcomes::Outcomes;

/// Replicates drawn everywhere.
pub const REPLICATES: usize = 1_000;

impl TaskRecord {
    /// Main scores at all protocol seeds, mteb's own first.
    pub fn by_seed(&self) -> Vec<f64> {
        std::iter::once(self.main_score).chain(self.seeds.iter().map(|s| s.1)).collect()
    }

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

impl TaskRecord {
    /// The 95 % interval of the score; `(NaN, NaN)` where it is undefined.
    pub fn interval(&self, seeds: Seeds) -> (f64, f64) {
        let scored = Scored::new(std::slice::from_ref(self), seeds);
        scored.mean(&self.name).map_or((f64::NAN, f64::NAN), |mean| mean.interval())
    }
}

/// The number that the rule `by` (`mean_task_type`, `mean_task` or a task's name) gives; `None` where a task is missing or its
/// score is not finite.
pub fn rule_score(records: &[TaskRecord], by: &str) -> Option<f64> {
    let tasks: Vec<(&str, &str)> = records.iter().map(|r| (r.name.as_str(), r.task_type.as_str())).collect();
    let value: f64 = used(&weights(&tasks, by)?).map(|(i, w)| w * records[i].mean_over_seeds()).sum();
    value.is_finite().then_some(value)
}

/// The rule's number for every replicate.
pub fn rule_replicates(records: &[TaskRecord], by: &str) -> Vec<f64> {
    Scored::new(records, Seeds::Mean).mean(by).map(|mean| mean.replicates).unwrap_or_default()
}

/// The weight of every task, given as (name, type), under a rule: `mean_task`, `mean_task_type`, `type:NAME` or a task's name. `None` where no
/// task has one.
pub fn weights(tasks: &[(&str, &str)], by: &str) -> Option<Vec<f64>> {
    let of_type = |kind: &str| tasks.iter().filter(|t| t.1 == kind).count() as f64;
    let weights: Vec<f64> = match by {
        "mean_task" => vec![1.0 / tasks.len() as f64; tasks.len()],
        "mean_task_type" => {
            let mut kinds: Vec<&str> = tasks.iter().map(|t| t.1).collect();
            kinds.sort_unstable();
            kinds.dedup();
            tasks.iter().map(|t| 1.0 / (of_type(t.1) * kinds.len() as f64)).collect()
        }
        by => match by.strip_prefix("type:") {
            Some(kind) => tasks.iter().map(|t| if t.1 == kind { 1.0 / of_type(kind) } else { 0.0 }).collect(),
            None => {
                let at = tasks.iter().position(|t| t.0 == by);
                (0..tasks.len()).map(|i| f64::from(u8::from(Some(i) == at))).collect()
            }
        },
    };
    weights.iter().any(|w| *w > 0.0).then_some(weights)
}

fn used(weights: &[f64]) -> impl Iterator<Item = (usize, f64)> {
    weights.iter().copied().enumerate().filter(|(_, weight)| *weight > 0.0)
}

/// Which score of a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seeds {
    /// That at mteb's seed, which others publish.
    Published,
    /// The mean over the protocol seeds, which choices are made by.
    Mean,
}

/// A model's scores on one side, with their replicates.
#[derive(Debug, Clone)]
pub struct Scored<'a> {
    tasks: Vec<ScoredTask<'a>>,
}

/// One task's.
#[derive(Debug, Clone)]
struct ScoredTask<'a> {
    name: &'a str,
    kind: &'a str,
    score: f64,
    outcomes: Cow<'a, Outcomes>,
    replicates: Vec<f64>,
    moments: Moments,
    by_seed: Vec<f64>,
    seeds: Seeds,
}

/// A mean over tasks, or a task's score.
#[derive(Debug, Clone)]
pub struct Mean {
    /// Its value.
    pub value: f64,
    /// Its bootstrap replicates.
    pub replicates: Vec<f64>,
    /// Its sampling error, of the examples alone.
    pub moments: Moments,
    /// Whether it is a mean of few values ([`bootstrap::FEW`]) on every task.
    few: bool,
}

impl Mean {
    /// The 95 % interval: BCa; Student's where all tasks have few values, which the replicates would only approach.
    pub fn interval(&self) -> (f64, f64) {
        if self.few {
            return interval::student(self.value, &self.moments, interval::LEVEL);
        }
        interval::bca(self.value, &self.replicates, &self.moments, interval::LEVEL)
    }
}

impl<'a> Scored<'a> {
    /// Draws the replicates of all tasks.
    pub fn new(records: &'a [TaskRecord], seeds: Seeds) -> Self {
        let tasks = records.iter().map(|record| {
            let score = if seeds == Seeds::Mean { record.mean_over_seeds() } else { record.main_score };
            let mut replicates = record.replicates();
            let shift = score - record.mean_over_seeds();
            replicates.iter_mut().for_each(|value| *value += shift);
            ScoredTask {
                name: &record.name,
                kind: &record.task_type,
                score,
                moments: Moments::of_score(&record.outcomes, &replicates),
                outcomes: Cow::Borrowed(&record.outcomes),
                replicates,
                by_seed: record.by_seed(),
                seeds,
            }
        });
        Self { tasks: tasks.collect() }
    }

    /// The mean of several models' scores on the same tasks and rows; `None` where those differ.
    pub fn average(models: &[&Self]) -> Option<Self> {
        let first = models.first()?;
        if models.len() == 1 {
            return Some((*first).clone());
        }
        let share = 1.0 / models.len() as f64;
        let tasks = first.tasks.iter().map(|task| {
            let own = models.iter().map(|m| m.tasks.iter().find(|t| t.name == task.name));
            let own: Vec<&ScoredTask> = own.collect::<Option<_>>()?;
            let outcomes = Outcomes::average(&own.iter().map(|t| t.outcomes.as_ref()).collect::<Vec<_>>())?;
            let mean = |values: &dyn Fn(&ScoredTask) -> Vec<f64>| {
                let mut sum = values(task);
                sum.iter_mut().for_each(|v| *v *= share);
                for other in &own[1..] {
                    sum.iter_mut().zip(values(other)).for_each(|(sum, value)| *sum += share * value);
                }
                sum
            };
            let replicates = mean(&|t| t.replicates.clone());
            Some(ScoredTask {
                name: task.name,
                kind: task.kind,
                score: own.iter().map(|t| share * t.score).sum(),
                moments: Moments::of_score(&outcomes, &replicates),
                outcomes: Cow::Owned(outcomes),
                replicates,
                by_seed: mean(&|t| t.by_seed.clone()),
                seeds: task.seeds,
            })
        });
        tasks.collect::<Option<_>>().map(|tasks| Self { tasks })
    }

    /// The tasks: name and type.
    pub fn tasks(&self) -> Vec<(&'a str, &'a str)> {
        self.tasks.iter().map(|t| (t.name, t.kind)).collect()
    }

    fn weighted(&self, by: &str) -> Option<Vec<(f64, &ScoredTask<'a>)>> {
        let weights = weights(&self.tasks(), by)?;
        Some(used(&weights).map(|(i, weight)| (weight, &self.tasks[i])).collect())
    }

    /// A mean by a rule; `None` where a score that it needs is missing or not finite.
    pub fn mean(&self, by: &str) -> Option<Mean> {
        let tasks = self.weighted(by)?;
        let value: f64 = tasks.iter().map(|(weight, t)| weight * t.score).sum();
        let mut replicates = vec![0.0; REPLICATES];
        for (weight, task) in &tasks {
            replicates.iter_mut().zip(&task.replicates).for_each(|(sum, drawn)| *sum += weight * drawn);
        }
        let moments = Moments::combine(tasks.iter().map(|(weight, t)| (*weight, t.moments)));
        let few = tasks.iter().all(|(_, t)| t.outcomes.is_few(bootstrap::FEW));
        value.is_finite().then_some(Mean { value, replicates, moments, few })
    }

    /// This model's score less another's by a rule, with the sampling error of the pairs; `None` where a score is missing.
    pub fn difference(&self, other: &Self, by: &str) -> Option<(f64, Moments)> {
        let mut value = 0.0;
        let mut parts = Vec::new();
        for (weight, task) in self.weighted(by)? {
            let theirs = other.tasks.iter().find(|t| t.name == task.name)?;
            value += weight * (task.score - theirs.score);
            let drawn = (task.replicates.as_slice(), theirs.replicates.as_slice());
            parts.push((weight, Moments::of_difference(&task.outcomes, &theirs.outcomes, drawn)));
        }
        value.is_finite().then(|| (value, Moments::combine(parts)))
    }

    /// The variance of the score that other protocol seeds would bring (other training samples, other mini-batches), by the
    /// spread over those that were scored: s² of a score at one seed, s²/S of the mean over S. `None` where no task of the rule was
    /// scored at two seeds.
    pub fn protocol(&self, by: &str) -> Option<Moments> {
        of_seeds(self.weighted(by)?.into_iter().map(|(weight, t)| (weight, t.by_seed.clone(), t.seeds)))
    }

    /// The variance over protocol seeds of the score at one of them, whichever score this side takes.
    pub fn protocol_at_one_seed(&self, by: &str) -> Option<f64> {
        let tasks = self.weighted(by)?.into_iter().map(|(weight, t)| (weight, t.by_seed.clone(), Seeds::Published));
        of_seeds(tasks).map(|moments| moments.variance)
    }

    /// [`Self::protocol`] of the difference to another model, seed by seed: what a draw does to both alike is no noise here.
    pub fn protocol_difference(&self, other: &Self, by: &str) -> Option<Moments> {
        let tasks = self.weighted(by)?.into_iter().filter_map(|(weight, t)| {
            let theirs = other.tasks.iter().find(|o| o.name == t.name)?;
            let pairs = t.by_seed.iter().zip(&theirs.by_seed);
            Some((weight, pairs.map(|(a, b)| a - b).collect(), t.seeds))
        });
        of_seeds(tasks)
    }

    /// Replicates of what other protocol seeds would add to the score, paired between models: those of a mean of few values
    /// ([`bootstrap::FEW`]), the seeds of every task being the values.
    pub fn protocol_replicates(&self, by: &str) -> Vec<f64> {
        let mut out = vec![0.0; REPLICATES];
        for (weight, task) in self.weighted(by).unwrap_or_default() {
            let seeds = task.by_seed.len() as f64;
            if task.by_seed.len() < 2 {
                continue;
            }
            let scale = if task.seeds == Seeds::Mean { 1.0 } else { seeds.sqrt() };
            let mean = task.by_seed.iter().sum::<f64>() / seeds;
            let seed = bootstrap::task_seed(task.name) ^ PROTOCOL;
            let drawn = bootstrap::replicates(&Outcomes::PerExperiment(task.by_seed.clone()), seed, REPLICATES);
            out.iter_mut().zip(drawn).for_each(|(sum, value)| *sum += weight * scale * (value - mean));
        }
        out
    }
}

/// Keeps the draws of protocol seeds apart from those of a task's examples.
const PROTOCOL: u64 = 0x70_726f_746f_636f;

fn of_seeds(tasks: impl Iterator<Item = (f64, Vec<f64>, Seeds)>) -> Option<Moments> {
    let parts: Vec<(f64, Moments)> = tasks
        .filter(|(_, values, _)| values.len() > 1)
        .map(|(weight, values, seeds)| {
            let (variance, n) = (variance(&values), values.len() as f64);
            let of = if seeds == Seeds::Mean { variance / n } else { variance };
            (weight, Moments::plain(of, n - 1.0))
        })
        .collect();
    (!parts.is_empty()).then(|| Moments::combine(parts))
}

/// The variance of a sample, with n−1.
pub fn variance(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_weigh_alike_under_the_mean_over_types() {
        let tasks = [("A", "STS"), ("B", "Clustering"), ("C", "STS")];
        assert_eq!(weights(&tasks, "mean_task_type"), Some(vec![0.25, 0.5, 0.25]));
        assert_eq!(weights(&tasks, "type:STS"), Some(vec![0.5, 0.0, 0.5]));
        assert_eq!(weights(&tasks, "B"), Some(vec![0.0, 1.0, 0.0]));
        assert_eq!(weights(&tasks, "D"), None);
        assert_eq!(weights(&[], "mean_task"), None);
    }
}
