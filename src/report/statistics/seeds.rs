//! Settings over training seeds, and what each source of noise adds.

use std::collections::BTreeMap;

use super::Statistics;
use crate::metric::interval::{self, LEVEL};
use crate::metric::moments::Moments;
use crate::store::groups::Group;
use crate::store::scoring::{Scored, variance};

/// Standard deviations of a score by source, as fractions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Other examples of the same tasks: the bootstrap's standard error of the group's mean.
    pub examples: f64,
    /// Another training seed: between the members, with n−1. `None` where there is one member: it was not measured.
    pub training: Option<f64>,
    /// Another protocol seed (training samples, mini-batches): within a member, over its protocol seeds, of the score at one seed. `None` where
    /// no task of the rule was scored at two.
    pub protocol: Option<f64>,
}

/// Variants that differ in the training seed alone.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedGroup {
    /// The settings that they share; empty for the base.
    pub settings: BTreeMap<String, String>,
    /// Their places among the variants.
    pub members: Vec<usize>,
    /// Mean of their scores.
    pub mean: f64,
    /// Standard deviation between them, with n−1; `None` for one.
    pub sd: Option<f64>,
    /// Student's 95 % interval of the mean over training seeds on these very examples, mean ∓ t(k−1) sd/√k; `None` for one.
    pub interval: Option<(f64, f64)>,
    /// Where the score of one more training run with these settings lies, over all possible examples and protocol seeds: see
    /// [`Statistics::groups`]. `None` for one member.
    pub total_interval: Option<(f64, f64)>,
    /// How much each source adds.
    pub noise: Noise,
}

impl Statistics<'_> {
    /// The settings groups of a side under a rule, in the order of the variants, groups of one included; those without a score are left out.
    ///
    /// The sources are independent, and their variances add (a random-effects model: Searle, Casella and McCulloch 1992, chapter 3). The mean of k
    /// members misses the score of a new run by the seeds' part of the mean, s²/k, and the new run's own, s²; by the examples' part v, which the
    /// members share; and by the protocol's part u, which is counted as shared, too (at worst it is). So
    /// `total_interval` = mean ∓ t(ν) · √(s²(1 + 1/k) + v + u), a prediction interval, with ν by Satterthwaite (1946) over the three variances:
    /// s² has k−1 degrees of freedom, u those of the protocol seeds, v those of the rows. s² is measured on the same examples and holds what of the
    /// protocol's noise the members do not share, which makes the interval wider, not narrower.
    pub fn groups(&self, on: &str, rule: &str) -> Vec<SeedGroup> {
        self.groups.iter().filter_map(|group| self.group(on, rule, group)).collect()
    }

    /// Whether any settings were trained with two seeds or more.
    pub fn has_seeds(&self) -> bool {
        self.groups.iter().any(|group| group.members.len() > 1)
    }

    fn group(&self, on: &str, rule: &str, group: &Group) -> Option<SeedGroup> {
        let members: Vec<usize> =
            group.members.iter().copied().filter(|&i| self.score(on, i, rule).is_some()).collect();
        let scores: Vec<f64> = members.iter().filter_map(|&i| self.score(on, i, rule)).collect();
        let scored: Vec<&Scored> = members.iter().filter_map(|&i| self.scored(on, i, rule)).collect();
        let averaged = Scored::average(&scored)?.mean(rule)?;
        let k = members.len() as f64;
        let between = (members.len() > 1).then(|| Moments::plain(variance(&scores), k - 1.0));
        let protocol = within(&scored, rule);
        // What the protocol adds to the score as it is taken on this side: at one seed, or as a mean over them.
        let taken = of_side(&scored, rule);
        let total = between.map(|training| {
            let parts = [(1.0, averaged.moments), (1.0, taken.unwrap_or(Moments::NONE))];
            Moments::combine(parts.into_iter().chain([((1.0 + 1.0 / k).sqrt(), training)]))
        });
        let of_mean = between.map(|training| Moments::combine([((1.0 / k).sqrt(), training)]));
        Some(SeedGroup {
            settings: group.settings.clone(),
            members,
            mean: averaged.value,
            sd: between.map(|b| b.error()),
            interval: of_mean.map(|m| interval::student(averaged.value, &m, LEVEL)),
            total_interval: total.map(|m| interval::student(averaged.value, &m, LEVEL)),
            noise: Noise {
                examples: averaged.moments.error(),
                training: between.map(|b| b.error()),
                protocol: protocol.map(f64::sqrt),
            },
        })
    }
}

/// The variance over protocol seeds of the score at one seed, the mean over the members.
fn within(members: &[&Scored<'_>], rule: &str) -> Option<f64> {
    let of: Vec<f64> = members.iter().filter_map(|m| m.protocol_at_one_seed(rule)).collect();
    (!of.is_empty()).then(|| of.iter().sum::<f64>() / of.len() as f64)
}

/// The same of the score that this side takes, with the degrees of freedom of one member's seeds: members share the draws.
fn of_side(members: &[&Scored<'_>], rule: &str) -> Option<Moments> {
    let of: Vec<Moments> = members.iter().filter_map(|m| m.protocol(rule)).collect();
    let freedom = of.iter().map(|m| m.freedom).fold(f64::INFINITY, f64::min);
    let variance = of.iter().map(|m| m.variance).sum::<f64>() / of.len() as f64;
    (!of.is_empty()).then(|| Moments::plain(variance, freedom))
}
