//! Which models go when a run's models take more of the disk than they may.

use super::disk;
use super::folder::RunFolder;
use super::models::{Model, models};
use super::survey::{Rule, Survey};

/// How a run stands to its budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Bytes of models and states now.
    pub used: u64,
    /// Bytes when `goes` is gone: still above the budget where too much is needed.
    pub left: u64,
    /// What may go, in the order in which it should.
    pub goes: Vec<Model>,
}

/// What of a run's checkpoints and merged models goes so that models and states take no more than `bytes`: checkpoints on the
/// way first, then results of trainings, then merged models; among each, those without a score first, then the worst by the rule.
/// Never one that a step still needs, and never the choice, or the best so far.
pub fn over_budget(run: &RunFolder, bytes: u64, rule: &Rule) -> Budget {
    let usage = disk::usage(run.root());
    let used = usage.models + usage.states;
    let mut budget = Budget { used, left: used, goes: Vec::new() };
    if used <= bytes {
        return budget;
    }
    let mut all: Vec<Model> = models(&Survey::read(run.root()), rule);
    all.retain(|model| model.needed.is_none());
    let rank = |model: &Model| match (model.is_final, model.checkpoint) {
        (false, _) => 0,
        (true, Some(_)) => 1,
        (true, None) => 2,
    };
    let score = |model: &Model| model.score.unwrap_or(f64::NEG_INFINITY);
    all.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| score(a).total_cmp(&score(b))));
    for model in all {
        if budget.left <= bytes {
            break;
        }
        budget.left = budget.left.saturating_sub(model.bytes);
        budget.goes.push(model);
    }
    budget
}
