//! Means, intervals and comparisons of variants.
//!
//! - The interval of a score is the BCa interval (Efron 1987) of 1,000 bootstrap replicates over its rows; of up to 30 experiments or sets
//!   (clustering) it is Student's. Means over tasks resample every task by itself ([`crate::store::scoring`]).
//! - Resamples are the same for all variants on a task, so differences are paired. The interval and the p-value of a difference are
//!   Student's, with the paired standard error and Satterthwaite's degrees of freedom ([`crate::metric::moments`]): resampled shares
//!   cannot be smaller than 1/1,000, too coarse once they are corrected for many comparisons.
//! - p-values of a family of comparisons are corrected by Holm's method (1979).
//! - `tests/statistics.rs` holds all this against simulations.

mod seeds;

use std::collections::BTreeMap;

use rayon::prelude::*;

pub use seeds::{Noise, SeedGroup};

use crate::metric::interval::{self, LEVEL};
use crate::store::groups::{self, Contender, Group};
use crate::store::record::{RunRecord, TaskRecord, Variant, VariantKind};
use crate::store::scoring::{Mean, Scored, Seeds};

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
    fn of(mean: &Mean) -> Self {
        Self { score: mean.value, interval: mean.interval() }
    }
}

/// A difference of two variants under the rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// First minus second.
    pub difference: f64,
    /// Its paired 95 % interval.
    pub interval: (f64, f64),
    /// Two-sided p-value of "there is none".
    pub p: f64,
}

/// Two variants of a family of comparisons.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// One.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// Score of the first minus that of the second.
    pub difference: f64,
    /// Its paired 95 % interval, of this difference alone.
    pub interval: (f64, f64),
    /// Two-sided p-value of "there is none".
    pub p: f64,
    /// The same after Holm's correction over the family.
    pub p_holm: f64,
}

/// Scores of every variant, task and side with their replicates, drawn once.
pub struct Statistics<'a> {
    variants: &'a [Variant],
    groups: Vec<Group>,
    dev: Side<'a>,
    test: Side<'a>,
    /// Test scores as a choice on test takes them, where there was one.
    chosen_on: Option<Side<'a>>,
}

/// All variants on one side.
struct Side<'a> {
    scored: Vec<Scored<'a>>,
    /// Name and type of all tasks that any variant has.
    tasks: Vec<(&'a str, &'a str)>,
}

impl<'a> Side<'a> {
    fn new(variants: &'a [Variant], pick: fn(&Variant) -> &Vec<TaskRecord>, seeds: Seeds) -> Self {
        let scored: Vec<Scored<'a>> = variants.par_iter().map(|v| Scored::new(pick(v), seeds)).collect();
        let mut tasks: Vec<(&str, &str)> = Vec::new();
        for task in scored.iter().flat_map(Scored::tasks) {
            if !tasks.iter().any(|(name, _)| *name == task.0) {
                tasks.push(task);
            }
        }
        Self { scored, tasks }
    }
}

impl<'a> Statistics<'a> {
    /// Draws all replicates. Test scores are those at mteb's seed, which others publish; dev scores are means over the protocol
    /// seeds, as the choice takes them.
    pub fn new(run: &'a RunRecord) -> Self {
        let on_test = run.choice.as_ref().is_some_and(|c| c.on == "test");
        Self {
            variants: &run.variants,
            groups: groups::groups(&run.variants),
            dev: Side::new(&run.variants, |v| &v.dev, Seeds::Mean),
            test: Side::new(&run.variants, |v| &v.test, Seeds::Published),
            chosen_on: on_test.then(|| Side::new(&run.variants, |v| &v.test, Seeds::Mean)),
        }
    }

    fn side(&self, on: &str) -> &Side<'a> {
        match on {
            "dev" => &self.dev,
            CHOICE => self.chosen_on.as_ref().unwrap_or(&self.dev),
            _ => &self.test,
        }
    }

    /// The tasks of a side, over all variants: name and type.
    pub fn tasks_on(&self, on: &str) -> Vec<(String, String)> {
        self.side(on).tasks.iter().map(|(name, kind)| (name.to_string(), kind.to_string())).collect()
    }

    /// A variant on a side; `None` where it lacks a task that others have and the rule takes.
    fn scored(&self, on: &str, variant: usize, rule: &str) -> Option<&Scored<'a>> {
        let side = self.side(on);
        let scored = side.scored.get(variant)?;
        let own = scored.tasks();
        let takes = |name: &str, kind: &str| match rule {
            "mean_task" | "mean_task_type" => true,
            rule => rule.strip_prefix("type:").map_or(rule == name, |wanted| wanted == kind),
        };
        let mut wanted = side.tasks.iter().filter(|(name, kind)| takes(name, kind));
        wanted.all(|(name, _)| own.iter().any(|(known, _)| known == name)).then_some(scored)
    }

    /// A task's score.
    pub fn task(&self, on: &str, variant: usize, task: &str) -> Option<Estimate> {
        self.estimate(on, variant, task)
    }

    /// A mean by a rule (`mean_task`, `mean_task_type`, `type:NAME` or a task's name) with its interval. `None` where the variant lacks a
    /// task that others have.
    pub fn estimate(&self, on: &str, variant: usize, rule: &str) -> Option<Estimate> {
        self.scored(on, variant, rule)?.mean(rule).map(|mean| Estimate::of(&mean))
    }

    /// The score alone of [`Self::estimate`].
    pub fn score(&self, on: &str, variant: usize, rule: &str) -> Option<f64> {
        self.scored(on, variant, rule)?.mean(rule).map(|mean| mean.value)
    }

    /// First minus second under a rule.
    pub fn difference(&self, on: &str, first: usize, second: usize, rule: &str) -> Option<Difference> {
        let (first, second) = (self.scored(on, first, rule)?, self.scored(on, second, rule)?);
        let (difference, moments) = first.difference(second, rule)?;
        let interval = interval::student(difference, &moments, LEVEL);
        Some(Difference { difference, interval, p: interval::p_value(difference, &moments) })
    }

    /// Every two of the variants, in the order given, with Holm's correction over all those pairs: the chance that any of the differences
    /// that have `p_holm` at most 0.05 is none is at most 5 %. Pairs of which one has no score are left out.
    pub fn pairwise(&self, on: &str, rule: &str, variants: &[usize]) -> Vec<Pair> {
        let all: Vec<(usize, usize)> = variants
            .iter()
            .enumerate()
            .flat_map(|(at, &first)| variants[at + 1..].iter().map(move |&second| (first, second)))
            .collect();
        let mut pairs: Vec<Pair> = all
            .into_par_iter()
            .filter_map(|(first, second)| {
                let Difference { difference, interval, p } = self.difference(on, first, second, rule)?;
                Some(Pair { first, second, difference, interval, p, p_holm: p })
            })
            .collect();
        let adjusted = interval::holm(&pairs.iter().map(|pair| pair.p).collect::<Vec<_>>());
        pairs.iter_mut().zip(adjusted).for_each(|(pair, p)| pair.p_holm = p);
        pairs
    }

    /// The probability of each of the variants to be the best of them under a rule: see [`groups::best_shares`]. Where training seeds were
    /// varied it is that of its settings group, and stands at every member.
    pub fn best_shares(&self, on: &str, variants: &[usize], rule: &str) -> BTreeMap<usize, f64> {
        let of_seeds: Vec<Vec<usize>> = self
            .groups
            .iter()
            .map(|group| group.members.iter().copied().filter(|i| variants.contains(i)).collect::<Vec<_>>())
            .filter(|members| !members.is_empty())
            .collect();
        let score = |i: &usize| self.score(on, *i, rule);
        let scores: Vec<Vec<f64>> = of_seeds.iter().map(|members| members.iter().filter_map(score).collect()).collect();
        let training = groups::training_variance(&scores);
        let contenders: Vec<(&Vec<usize>, Contender)> = of_seeds
            .iter()
            .filter(|members| members.iter().all(|i| score(i).is_some()))
            .filter_map(|members| Some((members, Contender::new(members, self.variants, &self.side(on).scored)?)))
            .collect();
        let running: Vec<&Contender> = contenders.iter().map(|(_, contender)| contender).collect();
        let shares = groups::best_shares(&running, rule, training.as_ref());
        contenders
            .iter()
            .zip(shares)
            .flat_map(|((members, _), share)| members.iter().map(move |&i| (i, share)))
            .collect()
    }
}

/// Whether a variant stands in the main table: all but checkpoints on the way.
pub fn is_final(variant: &Variant) -> bool {
    !matches!(&variant.kind, VariantKind::Trained { step, steps, .. } if step != steps)
}
