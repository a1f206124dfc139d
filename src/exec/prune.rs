//! Which trials go on: successive halving, its asynchronous form, and median stopping, on scores of the dev side.
//!
//! The rules are pure functions of what the trials scored; what they scored and what was decided lies in the steps' folders,
//! so that a run that is taken up, and every process of it, decides alike.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::schema::{Metric, Prune, PruneRule};
use crate::store::folder::{StoreError, read_json, write_json};

/// What a trial scored when it came to a rung, higher is better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// Optimizer step.
    pub step: usize,
    /// Score.
    pub score: f64,
    /// Whether it was let go on from there.
    #[serde(default)]
    pub passed: bool,
}

/// How far a trial is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// The rungs that it came to, ascending.
    pub reached: Vec<Reached>,
    /// Its training is at an end: complete, pruned or failed.
    pub over: bool,
    /// It failed, and counts no longer.
    pub failed: bool,
}

/// What is to become of a trial that came to a rung.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It goes on.
    Go,
    /// It depends on trials that are not there yet.
    Wait,
    /// It ends here, and why.
    Stop(String),
}

/// The steps at which trials are judged: multiples of `eval_every` before the last step, each about `factor` times the one
/// before; for the median rule every evaluation from the first on.
pub fn rungs(prune: &Prune, eval_every: usize, steps: usize) -> Vec<usize> {
    let every = eval_every.max(1);
    let first =
        prune.min_steps.unwrap_or_else(|| (steps as f64 / (prune.factor * prune.factor)).ceil() as usize).max(1);
    let mut out: Vec<usize> = Vec::new();
    let mut wanted = first as f64;
    while wanted < steps as f64 {
        let at = (wanted / every as f64).ceil() as usize * every;
        if at < steps && out.last() != Some(&at) {
            out.push(at);
        }
        match prune.rule {
            PruneRule::Median => wanted = (at + every) as f64,
            PruneRule::SuccessiveHalving | PruneRule::Asha => wanted *= prune.factor,
        }
    }
    out
}

/// The score that a judgement looks at: higher is better.
pub fn score(metric: &Metric, values: &BTreeMap<String, f64>) -> Option<f64> {
    match metric {
        Metric::Loss => values.get("loss").map(|loss| -loss),
        Metric::Mrr => values.get("mrr").copied(),
        Metric::Tasks => values.get("tasks").copied(),
        Metric::Task(task) => values.get(task).copied(),
    }
}

/// Judges a trial at the last rung that it came to, among all trials of its sweep (itself included), which have the rungs
/// `rungs`. A trial is no worse than those that come after it in the sweep where scores are equal.
pub fn judge(prune: &Prune, rungs: &[usize], trials: &[Standing], trial: usize) -> Verdict {
    let Some(last) = trials.get(trial).and_then(|t| t.reached.last()).copied() else { return Verdict::Go };
    if last.passed || !rungs.contains(&last.step) {
        return Verdict::Go;
    }
    match prune.rule {
        PruneRule::Median => median(prune, trials, trial, last),
        PruneRule::SuccessiveHalving | PruneRule::Asha => halving(prune, trials, trial, last),
    }
}

fn at(standing: &Standing, step: usize) -> Option<f64> {
    standing.reached.iter().find(|r| r.step == step).map(|r| r.score)
}

/// One in `factor` of a rung goes on: of all that will come there (successive halving), or of those that came so far.
fn halving(prune: &Prune, trials: &[Standing], trial: usize, last: Reached) -> Verdict {
    let coming = trials.iter().filter(|t| !t.over && at(t, last.step).is_none()).count();
    let mut here: Vec<(usize, f64)> = trials
        .iter()
        .enumerate()
        .filter(|(_, t)| !t.failed)
        .filter_map(|(i, t)| Some((i, at(t, last.step)?)))
        .collect();
    here.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let place = here.iter().position(|(i, _)| *i == trial).unwrap_or(here.len());
    let asynchronous = prune.rule == PruneRule::Asha;
    // The best of a rung goes on in every case.
    let room = |n: usize| {
        if asynchronous { (n as f64 / prune.factor) as usize } else { (n as f64 / prune.factor).ceil() as usize }
    };
    if asynchronous && place < room(here.len()) {
        return Verdict::Go;
    }
    if coming > 0 {
        return Verdict::Wait;
    }
    if place < room(here.len()).max(1) {
        return Verdict::Go;
    }
    Verdict::Stop(format!(
        "step {}: {:.4} is number {} of {} there, and {} went on",
        last.step,
        last.score,
        place + 1,
        here.len(),
        room(here.len()).max(1)
    ))
}

/// Stops a trial whose best so far is below the median of the others' means up to the same step.
fn median(prune: &Prune, trials: &[Standing], trial: usize, last: Reached) -> Verdict {
    let best = trials[trial].reached.iter().map(|r| r.score).fold(f64::NEG_INFINITY, f64::max);
    let mut means: Vec<f64> = trials
        .iter()
        .enumerate()
        .filter(|(i, t)| *i != trial && !t.failed && t.reached.iter().any(|r| r.step >= last.step))
        .map(|(_, t)| {
            let so_far: Vec<f64> = t.reached.iter().filter(|r| r.step <= last.step).map(|r| r.score).collect();
            so_far.iter().sum::<f64>() / so_far.len().max(1) as f64
        })
        .collect();
    if means.len() < prune.min_trials {
        return Verdict::Go;
    }
    means.sort_by(f64::total_cmp);
    let middle = (means[(means.len() - 1) / 2] + means[means.len() / 2]) / 2.0;
    if best >= middle {
        return Verdict::Go;
    }
    Verdict::Stop(format!(
        "step {}: its best so far, {best:.4}, is below {middle:.4}, the median of {} trials up to there",
        last.step,
        means.len()
    ))
}

fn path(folder: &Path) -> std::path::PathBuf {
    folder.join("rungs.json")
}

/// The rungs that a training came to.
pub fn read(folder: &Path) -> Vec<Reached> {
    read_json(&path(folder)).unwrap_or_default()
}

/// Notes that a training came to a rung, or that it was let go on from there.
///
/// # Errors
/// Where the file cannot be written.
pub fn note(folder: &Path, reached: Reached) -> Result<(), StoreError> {
    let mut all = read(folder);
    all.retain(|r| r.step != reached.step);
    all.push(reached);
    all.sort_by_key(|r| r.step);
    write_json(&path(folder), &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prune(rule: PruneRule, factor: f64) -> Prune {
        Prune { rule, metric: Metric::Mrr, min_steps: Some(10), factor, min_trials: 3 }
    }

    fn standing(scores: &[(usize, f64)], over: bool) -> Standing {
        let reached = scores.iter().map(|&(step, score)| Reached { step, score, passed: false }).collect();
        Standing { reached, over, failed: false }
    }

    #[test]
    fn rungs_are_evaluations_each_a_factor_further() {
        assert_eq!(rungs(&prune(PruneRule::Asha, 3.0), 10, 100), [10, 30, 90]);
        assert_eq!(rungs(&prune(PruneRule::Asha, 2.0), 25, 100), [25, 50]);
        assert_eq!(rungs(&prune(PruneRule::Median, 3.0), 20, 100), [20, 40, 60, 80]);
        let whole = Prune { min_steps: None, ..prune(PruneRule::SuccessiveHalving, 3.0) };
        assert_eq!(rungs(&whole, 10, 90), [10, 30]);
        assert!(rungs(&whole, 100, 90).is_empty());
    }

    #[test]
    fn halving_waits_for_all_and_lets_the_best_part_go_on_whatever_the_order() {
        let prune = prune(PruneRule::SuccessiveHalving, 3.0);
        let mut trials: Vec<Standing> =
            [0.1, 0.5, 0.3, 0.5, 0.2, 0.4].iter().map(|s| standing(&[(10, *s)], false)).collect();
        let verdict = |trials: &[Standing], i| judge(&prune, &[10, 30], trials, i);
        let mut missing = trials.clone();
        missing[4] = standing(&[], false);
        assert!((0..6).filter(|i| *i != 4).all(|i| verdict(&missing, i) == Verdict::Wait));
        let gone: Vec<bool> = (0..6).map(|i| verdict(&trials, i) == Verdict::Go).collect();
        assert_eq!(gone, [false, true, false, true, false, false]);
        // A trial that failed is not waited for, and takes no place.
        trials[1] = Standing { over: true, failed: true, ..standing(&[(10, 0.5)], true) };
        assert_eq!(verdict(&trials, 5), Verdict::Go);
        assert!(matches!(verdict(&trials, 2), Verdict::Stop(why) if why.contains("number 3 of 5")));
    }

    #[test]
    fn the_second_rung_waits_for_those_that_the_first_let_go_alone() {
        let prune = prune(PruneRule::SuccessiveHalving, 2.0);
        let mut trials = vec![
            standing(&[(10, 0.5), (20, 0.6)], false),
            standing(&[(10, 0.4)], false),
            standing(&[(10, 0.3)], true),
            standing(&[(10, 0.2)], true),
        ];
        assert_eq!(judge(&prune, &[10, 20], &trials, 0), Verdict::Wait);
        trials[1] = standing(&[(10, 0.4), (20, 0.9)], false);
        assert!(matches!(judge(&prune, &[10, 20], &trials, 0), Verdict::Stop(_)));
        assert_eq!(judge(&prune, &[10, 20], &trials, 1), Verdict::Go);
    }

    #[test]
    fn asha_promotes_without_waiting_and_ends_what_nobody_can_promote() {
        let prune = prune(PruneRule::Asha, 2.0);
        let trials = [standing(&[(10, 0.5)], false), standing(&[(10, 0.4)], false), standing(&[], false)];
        assert_eq!(judge(&prune, &[10, 20], &trials, 0), Verdict::Go);
        assert_eq!(judge(&prune, &[10, 20], &trials, 1), Verdict::Wait);
        let all = [standing(&[(10, 0.5)], false), standing(&[(10, 0.4)], false), standing(&[(10, 0.3)], false)];
        assert!(matches!(judge(&prune, &[10, 20], &all, 1), Verdict::Stop(_)));
    }

    #[test]
    fn the_median_stops_what_is_below_it_once_enough_came_as_far() {
        let prune = prune(PruneRule::Median, 3.0);
        let mut trials = vec![
            standing(&[(10, 0.5), (20, 0.7)], true),
            standing(&[(10, 0.4), (20, 0.4)], true),
            standing(&[(10, 0.3), (20, 0.5)], false),
            standing(&[(10, 0.35)], false),
        ];
        // Means at step 10 of the others: 0.5, 0.4, 0.3.
        assert!(matches!(judge(&prune, &[10, 20], &trials, 3), Verdict::Stop(why) if why.contains("0.4000")));
        trials[3] = standing(&[(10, 0.4)], false);
        assert_eq!(judge(&prune, &[10, 20], &trials, 3), Verdict::Go);
        trials[2].reached.clear();
        trials[3] = standing(&[(10, 0.0)], false);
        assert_eq!(judge(&prune, &[10, 20], &trials, 3), Verdict::Go);
    }

    #[test]
    fn what_was_reached_is_kept_and_noted_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_empty());
        for (step, passed) in [(30, false), (10, false), (10, true)] {
            note(folder.path(), Reached { step, score: 0.5, passed }).unwrap();
        }
        let kept: Vec<(usize, bool)> = read(folder.path()).iter().map(|r| (r.step, r.passed)).collect();
        assert_eq!(kept, [(10, true), (30, false)]);
    }
}
