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
/// It is the share of draws r in which θᵣ + πᵣ + τᵣ is the highest: θᵣ is a bootstrap replicate of the score (other examples), πᵣ that of the
/// protocol's seeds, both paired between contenders; τᵣ, where training seeds were varied, is normal with the pooled variance over training seeds
/// divided by the number of runs (Student's t, the variance being an estimate), drawn for each contender but an untrained one. A share of
/// bootstrap draws is about the probability that the flat prior gives (Efron and Tibshirani 1998, "The problem of
/// regions"). Equal ones share a draw. A contender without a score has 0.
pub fn best_shares(contenders: &[&Contender<'_>], by: &str, training: Option<&Moments>) -> Vec<f64> {
    let drawn: Vec<Option<Vec<f64>>> = contenders
        .iter()
        .enumerate()
        .map(|(owner, contender)| {
            let mut sum = contender.scored.mean(by)?.replicates;
            let mut add = |values: Vec<f64>| sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            add(contender.scored.protocol_replicates(by));
            if let Some(pooled) = training {
                let own = contender.training(pooled);
                add(bootstrap::errors(own.variance, own.freedom as usize, TRAINING_DRAWS, owner, REPLICATES));
            }
            Some(sum)
        })
        .collect();
    let mut shares = vec![0.0; contenders.len()];
    let mut counted = 0.0;
    for r in 0..REPLICATES {
        let at = |i: usize| drawn[i].as_ref().map(|d| d[r]).filter(|value| value.is_finite());
        let top = (0..drawn.len()).filter_map(at).fold(f64::NEG_INFINITY, f64::max);
        // Equal models (an α of 0 or 1) are best together, each with its part; sums differ in their last bits.
        let best: Vec<usize> = (0..drawn.len()).filter(|&i| at(i).is_some_and(|v| top - v <= 1e-12)).collect();
        if !best.is_empty() {
            counted += 1.0;
        }
        best.iter().for_each(|&i| shares[i] += 1.0 / best.len() as f64);
    }
    shares.iter_mut().for_each(|share| *share /= f64::max(counted, 1.0));
    shares
}

/// Keeps the draws of training noise apart from all others.
const TRAINING_DRAWS: u64 = 0x7472_6169_6e;
