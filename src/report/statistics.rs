//! Means, intervals and comparisons of variants.
//!
//! Intervals are percentile intervals of 1,000 bootstrap replicates (Efron 1979): over evaluated rows (classification, STS)
//! or over experiments or sets (clustering). Resamples are the same for all variants on a task, so differences are paired.
//! p-values are two-sided bootstrap p-values, corrected by Holm's method (1979).

use std::collections::BTreeMap;

use crate::metric::bootstrap::{self, interval};
use crate::store::record::{RunRecord, TaskRecord, Variant, VariantKind};
use crate::store::scoring::{REPLICATES, combine};

/// The side that a choice was made on, with the scores that it was made by: means over the protocol seeds.
pub const CHOICE: &str = "choice";

/// A score with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The score, a fraction.
    pub score: f64,
    /// Its interval.
    pub interval: (f64, f64),
}

impl Estimate {
    fn new(score: f64, replicates: &[f64]) -> Self {
        Self { score, interval: interval(replicates, 0.95) }
    }
}

/// A difference of two variants under the rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// First minus second.
    pub difference: f64,
    /// Its paired 95 % interval.
    pub interval: (f64, f64),
    /// Two-sided bootstrap p-value.
    pub p: f64,
}

/// One variant on one side.
struct Side {
    tasks: Vec<(String, String, f64, Vec<f64>)>,
}

/// Replicates of every variant, task and side, drawn once.
pub struct Statistics {
    dev: Vec<Side>,
    test: Vec<Side>,
    /// Test scores as a choice on test takes them; empty where there was none.
    chosen_on: Vec<Side>,
}

/// `drawn` gives a task's score and its replicates.
fn sides(
    variants: &[Variant],
    pick: impl Fn(&Variant) -> &Vec<TaskRecord> + Sync,
    drawn: impl Fn(&TaskRecord) -> (f64, Vec<f64>) + Sync,
) -> Vec<Side> {
    use rayon::prelude::*;
    variants
        .par_iter()
        .map(|v| Side {
            tasks: pick(v)
                .iter()
                .map(|t| {
                    let (score, replicates) = drawn(t);
                    (t.name.clone(), t.task_type.clone(), score, replicates)
                })
                .collect(),
        })
        .collect()
}

impl Statistics {
    /// Draws all replicates. Test scores are those at mteb's seed, which others publish; dev scores are means over the protocol
    /// seeds, as the choice takes them.
    pub fn new(run: &RunRecord) -> Self {
        let published = |t: &TaskRecord| {
            (t.main_score, bootstrap::replicates(&t.outcomes, bootstrap::task_seed(&t.name), REPLICATES))
        };
        Self {
            dev: sides(&run.variants, |v| &v.dev, |t| (t.mean_over_seeds(), t.replicates())),
            test: sides(&run.variants, |v| &v.test, published),
            chosen_on: if run.choice.as_ref().is_some_and(|c| c.on == "test") {
                sides(&run.variants, |v| &v.test, |t| (t.mean_over_seeds(), t.replicates()))
            } else {
                Vec::new()
            },
        }
    }

    fn side(&self, on: &str) -> &[Side] {
        match on {
            "dev" => &self.dev,
            CHOICE if !self.chosen_on.is_empty() => &self.chosen_on,
            CHOICE => &self.dev,
            _ => &self.test,
        }
    }

    /// The tasks of a side, over all variants.
    pub fn tasks_on(&self, on: &str) -> Vec<(String, String)> {
        let mut tasks = Vec::new();
        for (name, kind, ..) in self.side(on).iter().flat_map(|s| &s.tasks) {
            if !tasks.iter().any(|(n, _)| n == name) {
                tasks.push((name.clone(), kind.clone()));
            }
        }
        tasks
    }

    /// A task's score.
    pub fn task(&self, on: &str, variant: usize, task: &str) -> Option<Estimate> {
        let (_, _, score, drawn) = self.side(on).get(variant)?.tasks.iter().find(|t| t.0 == task)?;
        Some(Estimate::new(*score, drawn))
    }

    /// A mean by a rule (`mean_task`, `mean_task_type`, `type:NAME` or a task): value and replicates. None where the variant
    /// lacks a task that others have.
    fn mean(&self, on: &str, variant: usize, rule: &str) -> Option<(f64, Vec<f64>)> {
        let all = self.tasks_on(on);
        let side = self.side(on).get(variant)?;
        let chosen: Vec<_> =
            side.tasks.iter().filter(|t| rule.strip_prefix("type:").is_none_or(|kind| kind == t.1)).collect();
        let wanted = all.iter().filter(|t| rule.strip_prefix("type:").is_none_or(|kind| kind == t.1)).count();
        if chosen.is_empty() || chosen.len() != wanted {
            return None;
        }
        let rule = if rule.starts_with("type:") { "mean_task" } else { rule };
        let empty: Vec<TaskRecord> = chosen
            .iter()
            .map(|t| TaskRecord {
                name: t.0.clone(),
                task_type: t.1.clone(),
                metric: String::new(),
                main_score: t.2,
                seeds: Vec::new(),
                rows: 0,
                outcomes: crate::metric::outcomes::Outcomes::PerExample(Vec::new()),
            })
            .collect();
        let scores: Vec<f64> = chosen.iter().map(|t| t.2).collect();
        let value = combine(&empty, &scores, rule)?;
        let drawn = (0..REPLICATES)
            .map(|r| {
                let values: Vec<f64> = chosen.iter().map(|t| t.3[r]).collect();
                combine(&empty, &values, rule).unwrap_or(f64::NAN)
            })
            .collect();
        Some((value, drawn))
    }

    /// A mean with its interval.
    pub fn estimate(&self, on: &str, variant: usize, rule: &str) -> Option<Estimate> {
        self.mean(on, variant, rule).map(|(value, drawn)| Estimate::new(value, &drawn))
    }

    /// First minus second under a rule.
    pub fn difference(&self, on: &str, first: usize, second: usize, rule: &str) -> Option<Difference> {
        let ((a, ra), (b, rb)) = (self.mean(on, first, rule)?, self.mean(on, second, rule)?);
        let drawn: Vec<f64> = ra.iter().zip(&rb).map(|(x, y)| x - y).collect();
        Some(Difference { difference: a - b, interval: interval(&drawn, 0.95), p: bootstrap::paired_p_value(&ra, &rb) })
    }

    /// Share of the replicates in which each of the variants is the best under a rule.
    pub fn best_shares(&self, on: &str, variants: &[usize], rule: &str) -> BTreeMap<usize, f64> {
        let drawn: Vec<(usize, Vec<f64>)> =
            variants.iter().filter_map(|&v| Some((v, self.mean(on, v, rule)?.1))).collect();
        let mut shares: BTreeMap<usize, f64> = drawn.iter().map(|(v, _)| (*v, 0.0)).collect();
        for r in 0..REPLICATES {
            let top = drawn.iter().map(|(_, d)| d[r]).fold(f64::NEG_INFINITY, f64::max);
            // Equal models (an α of 0 or 1) are best together, each with its part.
            let best: Vec<usize> = drawn.iter().filter(|(_, d)| d[r] == top).map(|(v, _)| *v).collect();
            for v in &best {
                if let Some(share) = shares.get_mut(v) {
                    *share += 1.0 / (REPLICATES * best.len()) as f64;
                }
            }
        }
        shares
    }
}

/// Whether a variant stands in the main table: all but checkpoints on the way.
pub fn is_final(variant: &Variant) -> bool {
    !matches!(&variant.kind, VariantKind::Trained { step, steps, .. } if step != steps)
}
