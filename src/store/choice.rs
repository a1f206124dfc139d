//! The choice among the variants.

use rayon::prelude::*;

use super::groups::{Contender, Group, best_shares, groups, training_variance};
use super::record::{Choice, Variant, VariantKind};
use super::scoring::{Scored, Seeds};
use crate::metric::moments::Moments;

/// What the config asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule<'a> {
    /// On test instead of dev.
    pub on_test: bool,
    /// `mean_task_type`, `mean_task` or a task's name.
    pub by: &'a str,
    /// The simplest within one standard error of the best, instead of the best.
    pub one_standard_error: bool,
    /// Protocol seeds on dev.
    pub seeds: usize,
}

/// A settings group in the running.
struct Candidate<'a> {
    members: Vec<usize>,
    contender: Contender<'a>,
    score: f64,
}

/// Chooses among the variants by their dev scores (by test scores where the rule says so), means over the protocol seeds. `None` where none
/// has a score.
///
/// Variants that differ in the training seed alone are judged by their mean, so that the luckiest seed of many does not win; of the best
/// such group the member with the highest score is taken. Merges are grouped as their parts are. Without a training seed
/// among the axes every variant stands for itself. Ties go to the first in order.
///
/// The rule of one standard error (Breiman et al. 1984, section 3.4.3) takes the simplest whose score is at most one standard error
/// below the best: unmerged before merged, then by fewer trained weights, fewer training FLOPs, and the order of the plan. The error is that of the
/// paired difference to the best, which is what the comparison turns on (models that are right and wrong on the same rows can be told apart
/// more finely than either score is known): √(examples + protocol seeds + training seeds), as far as each was varied.
pub fn choose(variants: &[Variant], rule: &Rule<'_>) -> Option<Choice> {
    let scored: Vec<Scored> =
        variants.par_iter().map(|v| Scored::new(if rule.on_test { &v.test } else { &v.dev }, Seeds::Mean)).collect();
    let scores: Vec<Option<f64>> = scored.iter().map(|s| s.mean(rule.by).map(|mean| mean.value)).collect();
    let candidates: Vec<Candidate> =
        groups(variants).into_iter().flat_map(|group| running(group, variants, &scored, &scores, rule.by)).collect();
    let of_seeds: Vec<Vec<f64>> =
        candidates.iter().map(|c| c.members.iter().filter_map(|&i| scores[i]).collect()).collect();
    let training = training_variance(&of_seeds);
    let best = highest((0..candidates.len()).map(|i| (i, candidates[i].score)))?;
    let mut taken = best;
    let mut error = None;
    if rule.one_standard_error {
        let within: Vec<(usize, f64)> = (0..candidates.len())
            .filter_map(|i| {
                let (difference, error) = behind(&candidates[best], &candidates[i], rule.by, training.as_ref())?;
                (difference <= error).then_some((i, error))
            })
            .collect();
        let simplest = within.iter().min_by(|a, b| simplicity(&candidates[a.0], &candidates[b.0], variants));
        if let Some(&(simplest, distance)) = simplest {
            (taken, error) = (simplest, (simplest != best).then_some(distance));
        }
    }
    let chosen = &candidates[taken];
    let id = highest(chosen.members.iter().filter_map(|&i| Some((i, scores[i]?))))?;
    let second = candidates.iter().enumerate().filter(|(i, other)| *i != taken && !is_same(other, id, variants));
    let runner_up = highest(second.map(|(i, other)| (i, other.score)))
        .and_then(|i| highest(candidates[i].members.iter().filter_map(|&m| Some((m, scores[m]?)))));
    let contenders: Vec<&Contender> = candidates.iter().map(|c| &c.contender).collect();
    let shares = best_shares(&contenders, rule.by, training.as_ref());
    Some(Choice {
        id: variants[id].id.clone(),
        on: if rule.on_test { "test" } else { "dev" }.into(),
        by: rule.by.into(),
        score: scores[id]?,
        why: why(rule, &candidates, (best, taken), error, variants),
        select: if rule.one_standard_error { "one_standard_error" } else { "best" }.into(),
        group: if chosen.members.len() > 1 {
            chosen.members.iter().map(|&i| variants[i].label.clone()).collect()
        } else {
            Vec::new()
        },
        group_score: (chosen.members.len() > 1).then_some(chosen.score),
        se: error,
        runner_up: runner_up.map(|i| variants[i].label.clone()),
        probability: shares.get(taken).copied(),
    })
}

/// The candidates of a group: one, or where its members cannot be averaged (other tasks, other rows) each by itself.
fn running<'a>(
    group: Group,
    variants: &[Variant],
    scored: &[Scored<'a>],
    scores: &[Option<f64>],
    by: &str,
) -> Vec<Candidate<'a>> {
    let members: Vec<usize> = group.members.into_iter().filter(|&i| scores[i].is_some()).collect();
    let candidate = |members: Vec<usize>| {
        let contender = Contender::new(&members, variants, scored)?;
        let score = contender.scored.mean(by)?.value;
        Some(Candidate { members, contender, score })
    };
    match candidate(members.clone()) {
        Some(whole) => vec![whole],
        None => members.into_iter().filter_map(|i| candidate(vec![i])).collect(),
    }
}

/// The first of the highest.
fn highest(scores: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    scores.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|best| best.0)
}

/// How far a candidate is behind the best, and the standard error of that.
fn behind(best: &Candidate, other: &Candidate, by: &str, training: Option<&Moments>) -> Option<(f64, f64)> {
    let (best, other) = (&best.contender, &other.contender);
    let (difference, examples) = best.scored.difference(&other.scored, by)?;
    let mut parts = vec![(1.0, examples)];
    parts.extend(best.scored.protocol_difference(&other.scored, by).map(|protocol| (1.0, protocol)));
    if let Some(pooled) = training.filter(|_| difference != 0.0) {
        parts.extend([(1.0, best.training(pooled)), (1.0, other.training(pooled))]);
    }
    let error = Moments::combine(parts).error();
    // An error that is not known (one experiment) makes nothing as good as the best but itself and its equals.
    Some((difference, if error.is_finite() { error } else { 0.0 }))
}

fn simplicity(a: &Candidate, b: &Candidate, variants: &[Variant]) -> std::cmp::Ordering {
    let of = |candidate: &Candidate| {
        let variant = &variants[candidate.members[0]];
        let merged = matches!(variant.kind, VariantKind::Merged { .. } | VariantKind::Averaged { .. });
        (merged, variant.cost.trainable, variant.cost.flops, candidate.members[0])
    };
    let (a, b) = (of(a), of(b));
    a.0.cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
}

/// Whether a candidate is the chosen model under another name: a merge at α = 0 or 1 is one of its parts.
fn is_same(other: &Candidate, chosen: usize, variants: &[Variant]) -> bool {
    other.members.iter().any(|&i| same_model(&variants[i], &variants[chosen]))
}

/// Whether one of two variants is a merge with nothing of its other part: the same model.
pub fn same_model(a: &Variant, b: &Variant) -> bool {
    let is_merge_of = |merge: &Variant, part: &Variant| match &merge.kind {
        VariantKind::Merged { first, second, alpha, layers: None, .. } => {
            (*alpha == 0.0 && *first == part.label) || (*alpha == 1.0 && *second == part.label)
        }
        _ => false,
    };
    is_merge_of(a, b) || is_merge_of(b, a)
}

/// One sentence.
fn why(
    rule: &Rule<'_>,
    candidates: &[Candidate],
    (best, taken): (usize, usize),
    error: Option<f64>,
    variants: &[Variant],
) -> String {
    let (on, by) = (if rule.on_test { "test" } else { "dev" }, rule.by);
    let models: usize = candidates.iter().map(|c| c.members.len()).sum();
    let seeds = if rule.seeds == 1 { "1 protocol seed".into() } else { format!("{} protocol seeds", rule.seeds) };
    let several = candidates.len() < models;
    let among = if several {
        format!("{} groups of settings ({models} scored models, {seeds} each)", candidates.len())
    } else {
        format!("{models} scored models, {seeds} each")
    };
    let over = |candidate: &Candidate| match candidate.members.len() {
        1 => String::new(),
        n => format!(", mean over {n} training seeds"),
    };
    let of_group = if candidates[taken].members.len() > 1 { "; of those seeds the best" } else { "" };
    match error {
        None => format!("highest {by} on {on} among {among}{}{of_group}", over(&candidates[taken])),
        Some(error) => {
            let (taken, best) = (&candidates[taken], &candidates[best]);
            let label = &variants[best.members[0]].label;
            format!(
                "simplest within one standard error of the highest {by} on {on} among {among}: {:.1} points behind {label}{}, paired standard error {:.1}{of_group}",
                100.0 * (best.score - taken.score),
                over(best),
                100.0 * error
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::outcomes::Outcomes;
    use crate::store::record::{Cost, TaskRecord};

    /// A model that gets the first `right` of 100 rows right, on dev; on test the others.
    fn variant(label: &str, right: usize, seed: Option<u64>, trainable: u64) -> Variant {
        let task = |right: usize| {
            let outcomes = Outcomes::PerExample((0..100).map(|i| f64::from(u8::from(i < right))).collect());
            TaskRecord {
                name: "A".into(),
                task_type: "Classification".into(),
                metric: "accuracy".into(),
                main_score: right as f64 / 100.0,
                seeds: Vec::new(),
                rows: 100,
                outcomes,
            }
        };
        let settings = label.split(' ').next().map(|own| ("x".to_string(), own.to_string()));
        let seed = seed.map(|seed| ("train.seed".to_string(), seed.to_string()));
        Variant {
            id: label.into(),
            label: label.into(),
            kind: VariantKind::Trained { trial: label.into(), step: 5, steps: 5 },
            settings: settings.into_iter().chain(seed).collect(),
            cost: Cost { trainable, ..Cost::default() },
            dev: vec![task(right)],
            test: vec![task(100 - right)],
        }
    }

    fn merged(label: &str, right: usize, first: &str, alpha: f64) -> Variant {
        let kind = VariantKind::Merged { first: first.into(), second: "other".into(), alpha, auto: true, layers: None };
        Variant { kind, ..variant(label, right, None, 0) }
    }

    const BEST: Rule<'_> = Rule { on_test: false, by: "mean_task", one_standard_error: false, seeds: 1 };
    const SIMPLEST: Rule<'_> = Rule { one_standard_error: true, ..BEST };

    #[test]
    fn the_highest_on_dev_wins_and_test_is_not_seen() {
        let variants = [variant("a", 60, None, 1), variant("b", 70, None, 1), variant("c", 70, None, 1)];
        let choice = choose(&variants, &BEST).unwrap();
        assert_eq!((choice.id.as_str(), choice.on.as_str(), choice.score), ("b", "dev", 0.7));
        assert_eq!(choice.runner_up.as_deref(), Some("c"));
        assert!(choice.group.is_empty() && choice.group_score.is_none() && choice.se.is_none());
        let mut blind = variants.clone();
        blind.iter_mut().for_each(|v| v.test.clear());
        assert_eq!(choose(&blind, &BEST), Some(choice));
        let on_test = choose(&variants, &Rule { on_test: true, ..BEST }).unwrap();
        assert_eq!((on_test.id.as_str(), on_test.on.as_str()), ("a", "test"));
        assert_eq!(choose(&[], &BEST), None);
        assert_eq!(choose(&variants, &Rule { by: "No such task", ..BEST }), None);
    }

    #[test]
    fn the_luckiest_seed_does_not_win() {
        let variants = [
            variant("a", 62, Some(1), 1),
            variant("a 2", 70, Some(2), 1),
            variant("b", 68, Some(1), 1),
            variant("b 2", 67, Some(2), 1),
        ];
        let choice = choose(&variants, &BEST).unwrap();
        assert_eq!((choice.id.as_str(), choice.score), ("b", 0.68));
        assert_eq!(choice.group, ["b", "b 2"]);
        assert!((choice.group_score.unwrap() - 0.675).abs() < 1e-12);
        assert_eq!(choice.runner_up.as_deref(), Some("a 2"));
        // Two seeds that are eight points apart: far from sure.
        let probability = choice.probability.unwrap();
        assert!((0.4..0.8).contains(&probability), "{probability}");
        assert!(choice.why.contains("2 groups of settings (4 scored models"), "{}", choice.why);
    }

    #[test]
    fn one_standard_error_takes_the_simplest_and_the_error_is_the_pairs() {
        // One row apart: √(0.01 · 0.99 / 99 · (1 + 2) / 1) is 1.7 points, and the score's own error is 4.6.
        let near = |own| [variant("big", 70, None, 100), variant("small", own, None, 10), merged("m", 70, "x", 0.5)];
        let choice = choose(&near(69), &SIMPLEST).unwrap();
        assert_eq!((choice.id.as_str(), choice.select.as_str()), ("small", "one_standard_error"));
        assert!((choice.se.unwrap() - 0.0173).abs() < 1e-4, "{:?}", choice.se);
        assert!(choice.why.contains("1.0 points behind big"), "{}", choice.why);
        // Three rows are more than their own error (2.2), and less than the score's.
        let choice = choose(&near(67), &SIMPLEST).unwrap();
        assert_eq!((choice.id.as_str(), choice.se), ("big", None));
        assert_eq!(choose(&near(69), &BEST).unwrap().id, "big");
    }

    #[test]
    fn a_merge_with_nothing_of_its_other_part_is_no_runner_up() {
        let variants = [variant("a", 70, None, 1), merged("a again", 70, "a", 0.0), variant("b", 50, None, 1)];
        let choice = choose(&variants, &BEST).unwrap();
        assert_eq!((choice.id.as_str(), choice.runner_up.as_deref()), ("a", Some("b")));
        assert!(choice.probability.unwrap() > 0.99);
    }
}
