//! From a checked config to a graph of content-addressed steps: a step's id is a hash of its settings, of what it reads, and
//! of the data's content, so equal work is done once and a sweep resumes by being run again.

mod build;
mod identity;
mod merges;
pub mod sets;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use crate::config::schema::Rule;
use crate::config::{Config, Trial, trials};
use crate::data::suggest::did_you_mean;
use crate::data::table::DataError;
use crate::task::spec::{Split, TaskSpec};
use crate::train::run::{checkpoint_steps, steps_of};

use build::{Builder, is_absent, shown_alpha};
pub use identity::{folder_fingerprint, step_id};
pub use merges::{AlphaPlan, MergePlan, Method, ModelIndex};
use sets::TrainingSets;

/// A fault found while planning.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Training data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A model folder or task file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The config asks for what cannot be planned.
    #[error("{0}")]
    Config(String),
}

/// A model that a step reads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelRef {
    /// The base.
    Base,
    /// A checkpoint of a trial.
    Checkpoint {
        /// Position among the trials.
        trial: usize,
        /// Optimizer step.
        step: usize,
    },
    /// A merged model, by position among the merges.
    Merged(usize),
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Makes the base from nothing.
    Base,
    /// Trains a trial.
    Train {
        /// Position among the trials.
        trial: usize,
    },
    /// Merges models, searching for α if it is to be found.
    Merge {
        /// Position among the merges.
        merge: usize,
    },
    /// Scores a model on one side of all tasks.
    Score {
        /// The model.
        model: ModelRef,
        /// `dev` or `test`.
        split: &'static str,
    },
}

/// A unit of work.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Hash of everything that decides its result.
    pub id: String,
    /// For people.
    pub title: String,
    /// What it does.
    pub work: Work,
    /// Steps that it reads.
    pub inputs: Vec<String>,
}

/// A trial with what planning found out about it.
#[derive(Debug, Clone)]
pub struct TrialPlan {
    /// The trial.
    pub trial: Trial,
    /// Optimizer steps; 0 in a sketch whose training data is not there.
    pub steps: usize,
    /// Steps with a checkpoint, the last is the final one.
    pub checkpoints: Vec<usize>,
}

impl TrialPlan {
    /// The name of a checkpoint: the trial's label, with the step where it is not the last.
    pub fn label_at(&self, step: usize) -> String {
        if step == self.steps { self.trial.label.clone() } else { format!("{} @{step}", self.trial.label) }
    }
}

/// A whole sweep, planned.
pub struct Plan {
    /// The config, the grid aside.
    pub config: Config,
    /// The grid's axes, as text.
    pub axes: Vec<(String, Vec<String>)>,
    /// Trials in order.
    pub trials: Vec<TrialPlan>,
    /// Merges in order.
    pub merges: Vec<MergePlan>,
    /// Tasks in order.
    pub tasks: Vec<TaskSpec>,
    /// Steps in an order in which they can run, each once.
    pub steps: Vec<Step>,
    /// Rows of each training set used, by file name.
    pub rows: Vec<(String, usize)>,
    /// The training sets, open.
    pub sets: TrainingSets,
    /// Training files that are not there; only a sketch has such.
    pub absent: Vec<PathBuf>,
    base: Option<String>,
    trained: Vec<String>,
    merged: Vec<String>,
    index: HashMap<String, usize>,
    dependants: Vec<Vec<usize>>,
    trials_of: Vec<Vec<usize>>,
    scorers: HashMap<ModelRef, [Option<usize>; 2]>,
}

/// That the tasks which settings name are among those scored: told now, not after hours of work.
fn named_tasks(config: &Config, tasks: &[TaskSpec]) -> Result<(), PlanError> {
    let rule = match &config.choose.by {
        Rule::Task(task) => Some(("choose.by".to_string(), task)),
        Rule::MeanTask | Rule::MeanTaskType => None,
    };
    let limits = config.score.limits.keys().map(|task| (format!("score.limits.{task}"), task));
    for (key, task) in rule.into_iter().chain(limits) {
        if !tasks.iter().any(|t| t.name == *task) {
            let hint = did_you_mean(task, tasks.iter().map(|t| t.name.as_str()));
            let names: Vec<&str> = tasks.iter().map(|t| t.name.as_str()).collect();
            return Err(PlanError::Config(format!(
                "{key}: `{task}` is none of the tasks scored ({}){hint}",
                names.join(", ")
            )));
        }
    }
    Ok(())
}

/// Identity of the tasks that a training run is evaluated by: their files' content, limits and protocol.
///
/// # Errors
/// Where a file cannot be read.
pub fn tasks_identity(tasks: &[TaskSpec], score: &crate::config::schema::Score) -> Result<String, PlanError> {
    let mut builder = Builder::empty(String::new());
    let mut all = Vec::new();
    for task in tasks {
        all.push(json!([builder.task(task)?, score.limit_of(&task.name)]));
    }
    Ok(step_id("eval", 1, &json!({"tasks": all, "protocol": score.protocol})))
}

/// Identity of the training run of a config whose base has this fingerprint: equal runs have equal ones.
///
/// # Errors
/// Where data cannot be read.
pub fn training_identity(config: &Config, base: String) -> Result<String, PlanError> {
    Builder::empty(base).training(config)
}

impl Plan {
    /// Plans a sweep.
    ///
    /// # Errors
    /// Where data, tasks or the base cannot be read, or a merge selects no pair.
    pub fn new(
        config: Config,
        axes: Vec<(String, Vec<String>)>,
        trials: Vec<Trial>,
        tasks: Vec<TaskSpec>,
    ) -> Result<Self, PlanError> {
        Self::make(config, axes, trials, tasks, false)
    }

    /// As [`Self::new`], to be shown and not to be run: training files may be absent, and then the steps of what they train
    /// are not known and the ids are not those of the run.
    ///
    /// # Errors
    /// As [`Self::new`], but for training files that are not there.
    pub fn sketch(
        config: Config,
        axes: Vec<(String, Vec<String>)>,
        trials: Vec<Trial>,
        tasks: Vec<TaskSpec>,
    ) -> Result<Self, PlanError> {
        Self::make(config, axes, trials, tasks, true)
    }

    fn make(
        config: Config,
        axes: Vec<(String, Vec<String>)>,
        trials: Vec<Trial>,
        tasks: Vec<TaskSpec>,
        sketch: bool,
    ) -> Result<Self, PlanError> {
        named_tasks(&config, &tasks)?;
        let mut builder = Builder::new(&config, &tasks, sketch)?;
        let mut planned = Vec::with_capacity(trials.len());
        let mut rows = Vec::new();
        let sets = TrainingSets::default();
        // Trials mostly share their sets.
        let mut counted = Vec::new();
        for trial in trials {
            let c = &trial.config;
            let mut files = c.data.train.iter().chain(&c.data.dev);
            if sketch && files.any(|set| is_absent(&set.path)) {
                planned.push(TrialPlan { trial, steps: 0, checkpoints: vec![0] });
                continue;
            }
            for set in c.data.train.iter().filter(|_| c.data.train != counted) {
                let count = (sets.open(set)?.len() as f64 * set.weight).round().max(1.0) as usize;
                let row = (sets::name(set), count);
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
            counted.clone_from(&c.data.train);
            let steps = steps_of(sets.batches(c)?, c.train.accumulate, c.train.epochs, c.train.max_steps);
            // Which checkpoints there will be is known only where none is chosen or removed on the way.
            let every = if c.train.chooses_checkpoints() { None } else { c.train.save_every };
            let checkpoints = checkpoint_steps(every, steps);
            planned.push(TrialPlan { trial, steps, checkpoints });
        }
        let merges = merges::merges(&config, &planned)?;
        builder.add_trials(&planned)?;
        builder.add_merges(&config, &merges, &planned);
        builder.add_scores(&config, &planned, merges.len());
        let base = builder.base_input().pop();
        let Builder { steps, trained, merged, index, trials_of, scorers, absent, .. } = builder;
        let mut dependants = vec![Vec::new(); steps.len()];
        for (number, step) in steps.iter().enumerate() {
            for input in step.inputs.iter().filter_map(|id| index.get(id)) {
                let known: &mut Vec<usize> = &mut dependants[*input];
                if known.last() != Some(&number) {
                    known.push(number);
                }
            }
        }
        Ok(Self {
            axes,
            trials: planned,
            merges,
            steps,
            rows,
            tasks,
            config,
            base,
            trained,
            merged,
            sets,
            absent: absent.into_iter().flatten().collect(),
            index,
            dependants,
            trials_of,
            scorers,
        })
    }

    /// Id of the step that makes a model; `None` for a base that is a folder.
    pub fn producer(&self, model: &ModelRef) -> Option<&str> {
        match model {
            ModelRef::Base => self.base.as_deref(),
            ModelRef::Checkpoint { trial, .. } => self.training_step(*trial),
            ModelRef::Merged(merge) => self.merged.get(*merge).map(String::as_str),
        }
    }

    /// A step by its id.
    pub fn step(&self, id: &str) -> Option<&Step> {
        self.steps.get(self.step_index(id)?)
    }

    /// Most models that a merge's search for α scores.
    pub fn search_budget(&self, merge: usize) -> usize {
        self.merges.get(merge).map_or(0, MergePlan::search_budget)
    }

    /// The step that scores a model on a side.
    pub fn scorer(&self, wanted: &ModelRef, side: Split) -> Option<&Step> {
        let [dev, test] = *self.scorers.get(wanted)?;
        self.steps.get(match side {
            Split::Dev => dev,
            Split::Test => test,
        }?)
    }

    /// The sides that models are scored on: test alone where there is nothing to choose from.
    pub fn sides(&self) -> &'static [Split] {
        if self.trials.is_empty() { &[Split::Test] } else { &[Split::Dev, Split::Test] }
    }

    /// Position of the step of an id.
    pub fn step_index(&self, id: &str) -> Option<usize> {
        self.index.get(id).copied()
    }

    /// Positions of the steps that read a step's output, in order.
    pub fn dependants(&self, step: usize) -> &[usize] {
        self.dependants.get(step).map_or(&[], Vec::as_slice)
    }

    /// Id of the step that trains a trial; equal trials share it.
    pub fn training_step(&self, trial: usize) -> Option<&str> {
        self.trained.get(trial).map(String::as_str)
    }

    /// Positions of the trials that a step is for: those that a training makes, a merge takes, a score is of. Of the base's
    /// steps none.
    pub fn trials_of(&self, step: usize) -> &[usize] {
        self.trials_of.get(step).map_or(&[], Vec::as_slice)
    }

    /// The model that is merged.
    pub fn final_model(&self, model: ModelIndex) -> ModelRef {
        match model {
            ModelIndex::Base => ModelRef::Base,
            ModelIndex::Trial(trial) => {
                ModelRef::Checkpoint { trial, step: self.trials.get(trial).map_or(0, |plan| plan.steps) }
            }
        }
    }

    /// The name of a model that is merged.
    pub fn part_label(&self, model: ModelIndex) -> &str {
        merges::label_of(&self.trials, model)
    }

    /// All models: the base, checkpoints by trial, merges.
    pub fn models(&self) -> Vec<ModelRef> {
        let mut models = vec![ModelRef::Base];
        for (trial, plan) in self.trials.iter().enumerate() {
            models.extend(plan.checkpoints.iter().map(|&step| ModelRef::Checkpoint { trial, step }));
        }
        models.extend((0..self.merges.len()).map(ModelRef::Merged));
        models
    }

    /// A model's name in tables; of a merge with its α (one value, or those along the depth) where it is known.
    pub fn label(&self, model: &ModelRef, alpha: Option<&[f64]>) -> String {
        match model {
            ModelRef::Base => trials::BASE.into(),
            ModelRef::Checkpoint { trial, step } => self.trials[*trial].label_at(*step),
            ModelRef::Merged(merge) => {
                let plan = &self.merges[*merge];
                let labels: Vec<&str> = plan.models.iter().map(|&model| self.part_label(model)).collect();
                match &plan.method {
                    Method::Slerp { .. } => {
                        let alpha = alpha
                            .or(plan.given_alpha())
                            .map_or_else(|| "auto".to_string(), |a| shown_alpha(a, |a| format!("{a:.3}")));
                        format!("slerp({}) α={alpha}", labels.join(", "))
                    }
                    Method::Linear { weights, over } => {
                        let models = match over {
                            Some(axis) => {
                                let shared = trials::label(&plan.shared, "all");
                                format!("{shared}, over {axis}")
                            }
                            None => labels.join(", "),
                        };
                        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
                        let weights: Vec<String> = weights.iter().map(|weight| format!("{weight:.3}")).collect();
                        if equal {
                            format!("mean({models})")
                        } else {
                            format!("mean({models}) w={}", weights.join(":"))
                        }
                    }
                }
            }
        }
    }
}
