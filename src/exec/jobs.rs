//! A plan as the jobs of a cluster.

use std::collections::BTreeMap;

use super::slurm::{Job, StepState};
use crate::plan::{ModelRef, Plan, Work};
use crate::store::folder::{self, RunFolder};
use crate::train::checkpoint;

/// The jobs of a plan: a training or a merge by itself, the scores of what it made together.
pub fn jobs(plan: &Plan) -> Vec<Job> {
    let mut out: Vec<Job> = Vec::new();
    let mut scores: BTreeMap<(usize, &[String]), usize> = BTreeMap::new();
    for step in &plan.steps {
        let stage = match &step.work {
            Work::Base => 0,
            Work::Train { .. } => 1,
            Work::Merge { .. } => 2,
            Work::Score { model: ModelRef::Merged(_), .. } => 4,
            Work::Score { .. } => 3,
        };
        // A base that is a folder is scored by itself.
        let together = matches!(step.work, Work::Score { .. }).then_some((stage, step.inputs.as_slice()));
        match together.and_then(|key| scores.get(&key)) {
            Some(&at) => out[at].steps.push(step.id.clone()),
            None => {
                if let Some(key) = together {
                    scores.insert(key, out.len());
                }
                out.push(Job {
                    steps: vec![step.id.clone()],
                    title: step.title.clone(),
                    stage,
                    after: step.inputs.clone(),
                });
            }
        }
    }
    out
}

/// What a step's folder says, as a cluster's head asks.
pub fn state(folder: &RunFolder, id: &str) -> StepState {
    match folder.state(id) {
        folder::StepState::Complete | folder::StepState::Pruned(_) => StepState::Complete,
        folder::StepState::Failed(why) => StepState::Failed(why),
        folder::StepState::Open => {
            let path = folder.step(id);
            // Scores are kept a task at a time, the search for α a point at a time.
            let kept = std::fs::read_dir(&path).into_iter().flatten().flatten().filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.ends_with(".json") && (name.starts_with("task-") || name.starts_with("alpha-"))
            });
            StepState::Open { progress: (checkpoint::newest_state(&path) + kept.count()) as u64 }
        }
    }
}
