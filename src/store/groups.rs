//! Variants that differ in the training seed alone, and what that seed does.

use std::collections::BTreeMap;

use super::record::{Variant, VariantKind};
use super::scoring::{REPLICATES, Scored, variance};
use crate::metric::bootstrap;
use crate::metric::moments::Moments;

/// The setting that makes training runs differ without being a choice.
pub const TRAINING_SEED: &str = "train.seed";

/// Variants with the same settings but for the training seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The settings that they share.
    pub settings: BTreeMap<String, String>,
    /// Their places among the variants, in order.
    pub members: Vec<usize>,
}

/// The groups of all variants, in the order of their first members; a variant that stands alone is a group of one.
///
/// Trained models are of one group at the same step (or both at their last); merges where the parts pair off into groups,
/// and α was found for both or is the same. The base is alone.
pub fn groups(variants: &[Variant]) -> Vec<Group> {
    let mut out: Vec<(Option<Key>, Group)> = Vec::new();
    for (at, variant) in variants.iter().enumerate() {
        let key = key(variant, variants);
        match out.iter_mut().find(|(known, _)| key.is_some() && *known == key) {
            Some((_, group)) => group.members.push(at),
            None => out.push((key, Group { settings: without_seed(variant), members: vec![at] })),
        }
    }
    out.into_iter().map(|(_, group)| group).collect()
}

fn without_seed(variant: &Variant) -> BTreeMap<String, String> {
    let mut settings = variant.settings.clone();
    settings.remove(TRAINING_SEED);
    settings
}

/// What members of a group have in common.
#[derive(PartialEq)]
struct Key {
    settings: BTreeMap<String, String>,
    kind: VariantKind,
}

/// `None` where the training seed is no setting of the variant.
fn key(variant: &Variant, all: &[Variant]) -> Option<Key> {
    variant.settings.get(TRAINING_SEED)?;
    let part = |label: &String| {
        let settings = all.iter().find(|v| v.label == *label).map(without_seed);
        settings.map_or_else(|| label.clone(), |settings| format!("{settings:?}"))
    };
    let kind = match &variant.kind {
        VariantKind::Base => VariantKind::Base,
        VariantKind::Trained { step, steps, .. } => {
            let at = if step == steps { 0 } else { *step };
            VariantKind::Trained { trial: String::new(), step: at, steps: 0 }
        }
        VariantKind::Merged { first, second, alpha, auto, layers } => VariantKind::Merged {
            first: part(first),
            second: part(second),
            alpha: if *auto { 0.0 } else { *alpha },
            auto: *auto,
            // Which values were found differs, that there are such does not.
            layers: if *auto { layers.as_ref().map(|_| Vec::new()) } else { layers.clone() },
        },
        VariantKind::Averaged { models, weights } => {
            VariantKind::Averaged { models: models.iter().map(part).collect(), weights: weights.clone() }
        }
    };
    Some(Key { settings: without_seed(variant), kind })
}

/// The variance that another training seed brings to a score, pooled over the groups with at least two: Σ (y − ȳ)² / Σ (k − 1), with
/// as many degrees of freedom (one-way analysis of variance, Fisher 1925). A group has too few seeds to know its own. `None` without such a group.
///
/// It holds what a draw of the protocol does to one model and not to the other, too.
pub fn training_variance(groups: &[Vec<f64>]) -> Option<Moments> {
    let several: Vec<&Vec<f64>> = groups.iter().filter(|scores| scores.len() > 1).collect();
    let freedom: f64 = several.iter().map(|scores| scores.len() as f64 - 1.0).sum();
    let squares: f64 = several.iter().map(|scores| variance(scores) * (scores.len() as f64 - 1.0)).sum();
    (freedom > 0.0).then(|| Moments::plain(squares / freedom, freedom))
}

/// A settings group as it competes with others: by the mean over its members.
#[derive(Debug, Clone)]
pub struct Contender<'a> {
    /// The mean of its members' scores.
    pub scored: Scored<'a>,
    /// How many training runs the mean is over; 0 of a model that was not trained.
    pub runs: usize,
}

impl<'a> Contender<'a> {
    /// Of a group; `None` where its members were scored on other tasks or rows than one another.
    pub fn new(group: &[usize], variants: &[Variant], scored: &[Scored<'a>]) -> Option<Self> {
        let members: Vec<&Scored<'a>> = group.iter().map(|&i| scored.get(i)).collect::<Option<_>>()?;
        let trained = group.first().and_then(|&i| variants.get(i)).is_some_and(|v| v.kind != VariantKind::Base);
        Some(Self { scored: Scored::average(&members)?, runs: if trained { group.len() } else { 0 } })
    }

    /// The variance that other training seeds would bring to its mean.
    pub fn training(&self, pooled: &Moments) -> Moments {
        let share = if self.runs == 0 { 0.0 } else { 1.0 / self.runs as f64 };
        Moments::plain(pooled.variance * share, pooled.freedom)
    }
}

/// For each contender the probability that it is the best by a rule.
///
/// It is the share of draws r in which θᵣ + πᵣ + τᵣ is the highest: θᵣ is a bootstrap replicate of the score (other examples), πᵣ
/// that of the protocol's seeds, both paired between contenders; τᵣ, where training seeds were varied, is normal with the
/// pooled variance over training seeds divided by the number of runs (Student's t, the variance being an estimate), drawn
/// for each contender but an untrained one. A share of bootstrap draws is about the probability that the flat prior gives
/// (Efron and Tibshirani 1998, "The problem of regions"). Models that score alike in every draw are one model (a merge at an α of 0
/// is its first part): each has the probability of that one. A contender without a score has 0.
pub fn best_shares(contenders: &[&Contender<'_>], by: &str, training: Option<&Moments>) -> Vec<f64> {
    // The distinct models: their draws, and the contenders that are this model.
    let mut models: Vec<(Vec<f64>, Vec<usize>)> = Vec::new();
    for (at, contender) in contenders.iter().enumerate() {
        let Some(mean) = contender.scored.mean(by) else { continue };
        let protocol = contender.scored.protocol_replicates(by);
        let drawn: Vec<f64> = mean.replicates.iter().zip(protocol).map(|(score, other)| score + other).collect();
        let is_same = |(known, of): &&mut (Vec<f64>, Vec<usize>)| {
            // Sums of equal parts may differ in their last bits.
            contenders[of[0]].runs == contender.runs && known.iter().zip(&drawn).all(|(a, b)| (a - b).abs() <= 1e-12)
        };
        match models.iter_mut().find(is_same) {
            Some((_, of)) => of.push(at),
            None => models.push((drawn, vec![at])),
        }
    }
    if let Some(pooled) = training {
        for (drawn, of) in &mut models {
            let own = contenders[of[0]].training(pooled);
            let errors = bootstrap::errors(own.variance, own.freedom as usize, TRAINING_DRAWS, of[0], REPLICATES);
            drawn.iter_mut().zip(errors).for_each(|(sum, error)| *sum += error);
        }
    }
    let mut shares = vec![0.0; models.len()];
    for r in 0..REPLICATES {
        let at = |(drawn, _): &(Vec<f64>, Vec<usize>)| Some(drawn[r]).filter(|value| value.is_finite());
        let top = models.iter().filter_map(at).fold(f64::NEG_INFINITY, f64::max);
        let best: Vec<usize> =
            (0..models.len()).filter(|&i| at(&models[i]).is_some_and(|v| top - v <= 1e-12)).collect();
        best.iter().for_each(|&i| shares[i] += 1.0 / best.len() as f64);
    }
    let mut out = vec![0.0; contenders.len()];
    for ((_, of), share) in models.iter().zip(shares) {
        of.iter().for_each(|&at| out[at] = share / REPLICATES as f64);
    }
    out
}

/// Keeps the draws of training noise apart from all others.
const TRAINING_DRAWS: u64 = 0x0074_7261_696e;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::Cost;

    fn variant(label: &str, kind: VariantKind, settings: &[(&str, &str)]) -> Variant {
        let settings = settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let (dev, test) = (Vec::new(), Vec::new());
        Variant { id: label.into(), label: label.into(), kind, settings, cost: Cost::default(), dev, test }
    }

    #[test]
    fn seeds_alone_make_a_group_and_merges_follow_their_parts() {
        let trained = |label: &str, rank: &str, seed: &str, step| {
            let kind = VariantKind::Trained { trial: label.into(), step, steps: 10 };
            variant(label, kind, &[("adapter.rank", rank), (TRAINING_SEED, seed)])
        };
        let merged = |label: &str, first: &str, second: &str, alpha, auto, seed: &str| {
            let (first, second) = (first.into(), second.into());
            let kind = VariantKind::Merged { first, second, alpha, auto, layers: None };
            variant(label, kind, &[(TRAINING_SEED, seed)])
        };
        let variants = [
            variant("base", VariantKind::Base, &[]),
            trained("r8 s1", "8", "1", 10),
            trained("r8 s2", "8", "2", 10),
            trained("r32 s1", "32", "1", 10),
            trained("r32 s2", "32", "2", 10),
            trained("r8 s1 @5", "8", "1", 5),
            merged("m1", "r8 s1", "r32 s1", 0.3, true, "1"),
            merged("m2", "r8 s2", "r32 s2", 0.7, true, "2"),
            merged("given", "r8 s1", "r32 s1", 0.5, false, "1"),
            merged("other way", "r32 s2", "r8 s2", 0.5, false, "2"),
        ];
        let members: Vec<Vec<usize>> = groups(&variants).into_iter().map(|group| group.members).collect();
        assert_eq!(members, [vec![0], vec![1, 2], vec![3, 4], vec![5], vec![6, 7], vec![8], vec![9]]);
        assert!(groups(&variants)[1].settings.keys().eq(["adapter.rank"]));
    }

    #[test]
    fn the_variance_is_pooled_over_groups() {
        let pooled = training_variance(&[vec![0.1, 0.3], vec![0.5], vec![0.2, 0.4, 0.6]]).unwrap();
        // Squares about the means: 0.02 and 0.08, with one and two degrees of freedom.
        assert!((pooled.variance - 0.1 / 3.0).abs() < 1e-12 && pooled.freedom == 3.0);
        assert_eq!(training_variance(&[vec![0.1], vec![0.2]]), None);
    }
}
