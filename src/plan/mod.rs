//! From a checked config to a graph of content-addressed steps: a step's id is a hash of its settings, of what it reads, and
//! of the data's content, so equal work is done once and a sweep resumes by being run again.

mod identity;
pub mod sets;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::schema::{
    Adapter, Alpha, Base, Dtype, LossKind, Merge, Objective, Rule, Slerp, SlerpMode, TrainSet,
};
use crate::config::{Config, Trial};
use crate::data::rows;
use crate::data::suggest::did_you_mean;
use crate::data::table::DataError;
use crate::task::spec::{Source, Split, TaskSpec};
use crate::train::run::{checkpoint_steps, steps_of};

pub use identity::{folder_fingerprint, step_id};
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
    /// Merges a pair, searching for α if it is to be found.
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

/// A merge of two trials' last checkpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct MergePlan {
    /// Positions among the trials.
    pub pair: (usize, usize),
    /// Settings.
    pub slerp: Slerp,
    /// α, if given; searched otherwise.
    pub alpha: Option<f64>,
    /// Axes that both trials share.
    pub shared: Vec<(String, String)>,
}

/// A trial with what planning found out about it.
#[derive(Debug, Clone)]
pub struct TrialPlan {
    /// The trial.
    pub trial: Trial,
    /// Optimizer steps.
    pub steps: usize,
    /// Steps with a checkpoint, the last is the final one.
    pub checkpoints: Vec<usize>,
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
    /// Steps in an order in which they can run.
    pub steps: Vec<Step>,
    /// Rows of each training set used, by file name.
    pub rows: Vec<(String, usize)>,
    /// The training sets, open.
    pub sets: TrainingSets,
    base: Option<String>,
    trained: Vec<String>,
    merged: Vec<String>,
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
        named_tasks(&config, &tasks)?;
        let mut builder = Builder::new(&config, &tasks)?;
        let mut planned = Vec::with_capacity(trials.len());
        let mut rows = Vec::new();
        let sets = TrainingSets::default();
        for trial in trials {
            let c = &trial.config;
            if rows.is_empty() {
                for set in &c.data.train {
                    let count = (sets.open(set)?.len() as f64 * set.weight).round().max(1.0) as usize;
                    rows.push((sets::name(set), count));
                }
            }
            let steps = steps_of(sets.batches(c)?, c.train.accumulate, c.train.epochs, c.train.max_steps);
            // Which checkpoints there will be is known only where none is chosen or removed on the way.
            let every = if c.train.chooses_checkpoints() { None } else { c.train.save_every };
            let checkpoints = checkpoint_steps(every, steps);
            planned.push(TrialPlan { trial, steps, checkpoints });
        }
        let merges = pair_up(&config, &planned)?;
        builder.add_trials(&planned)?;
        builder.add_merges(&merges, &planned);
        builder.add_scores(&config, &planned, &merges);
        let base = builder.base_input().pop();
        let Builder { steps, trained, merged, .. } = builder;
        Ok(Self { axes, trials: planned, merges, steps, rows, tasks, config, base, trained, merged, sets })
    }

    /// Id of the step that makes a model; `None` for a base that is a folder.
    pub fn producer(&self, model: &ModelRef) -> Option<&str> {
        match model {
            ModelRef::Base => self.base.as_deref(),
            ModelRef::Checkpoint { trial, .. } => self.trained.get(*trial).map(String::as_str),
            ModelRef::Merged(merge) => self.merged.get(*merge).map(String::as_str),
        }
    }

    /// A step by its id.
    pub fn step(&self, id: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == id)
    }

    /// Most models that a merge's search for α scores.
    pub fn search_budget(&self, merge: usize) -> usize {
        self.merges.get(merge).filter(|plan| plan.alpha.is_none()).map_or(0, |plan| plan.slerp.budget)
    }

    /// Id of the step that trains a trial.
    pub fn training_step(&self, trial: usize) -> Option<&str> {
        self.trained.get(trial).map(String::as_str)
    }

    /// The step that scores a model on a side.
    pub fn scorer(&self, wanted: &ModelRef, side: Split) -> Option<&Step> {
        self.steps
            .iter()
            .find(|step| matches!(&step.work, Work::Score { model, split } if model == wanted && *split == side.name()))
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

    /// A model's name in tables; a merge's α where it is known.
    pub fn label(&self, model: &ModelRef, alpha: Option<f64>) -> String {
        match model {
            ModelRef::Base => "base".into(),
            ModelRef::Checkpoint { trial, step } => {
                let plan = &self.trials[*trial];
                if *step == plan.steps { plan.trial.label.clone() } else { format!("{} @{step}", plan.trial.label) }
            }
            ModelRef::Merged(merge) => {
                let plan = &self.merges[*merge];
                let (a, b) = (&self.trials[plan.pair.0].trial.label, &self.trials[plan.pair.1].trial.label);
                let alpha = alpha.or(plan.alpha).map_or_else(|| "auto".to_string(), |a| format!("{a:.3}"));
                format!("slerp({a}, {b}) α={alpha}")
            }
        }
    }
}

/// Finds the pairs of a merge: every trial with the first's axes and the one that differs from it by the second's alone.
fn pair_up(config: &Config, trials: &[TrialPlan]) -> Result<Vec<MergePlan>, PlanError> {
    let mut merges = Vec::new();
    for merge in &config.merge {
        let Merge::Slerp(slerp) = merge else { continue };
        let has = |trial: &TrialPlan, wanted: &[(String, String)]| {
            wanted.iter().all(|(k, v)| {
                trial.trial.axes.iter().any(|(key, value)| key == k && value == v)
                    || (k == "name" && *v == trial.trial.label)
            })
        };
        let free = |trial: &TrialPlan| -> Vec<(String, String)> {
            let named = |key: &String| slerp.first.iter().chain(&slerp.second).any(|(k, _)| k == key);
            trial.trial.axes.iter().filter(|(k, _)| !named(k)).cloned().collect()
        };
        let before = merges.len();
        for (a, first) in trials.iter().enumerate().filter(|(_, t)| has(t, &slerp.first)) {
            for (b, second) in trials.iter().enumerate().filter(|(_, t)| has(t, &slerp.second)) {
                if a == b || free(first) != free(second) {
                    continue;
                }
                let alphas: Vec<Option<f64>> = match &slerp.alpha {
                    Alpha::Auto => vec![None],
                    Alpha::Values(values) => values.iter().copied().map(Some).collect(),
                    Alpha::Layers(_) | Alpha::AutoLayers => Vec::new(),
                };
                for alpha in alphas {
                    let plan = MergePlan { pair: (a, b), slerp: slerp.clone(), alpha, shared: free(first) };
                    merges.push(plan);
                }
            }
        }
        if merges.len() == before {
            let axes: Vec<String> =
                trials.first().map(|t| t.trial.axes.iter().map(|(k, _)| k.clone()).collect()).unwrap_or_default();
            return Err(PlanError::Config(format!(
                "merge.slerp: no pair of trials has first {:?} and second {:?}; the axes are {}",
                slerp.first,
                slerp.second,
                axes.join(", ")
            )));
        }
    }
    Ok(merges)
}

/// What of the scoring settings tells one step from another, beside those that always do; defaults are left out, so that
/// runs made before a setting was there are found again.
fn add_scoring(settings: &mut Value, score: &crate::config::schema::Score) {
    if !score.limits.is_empty() {
        settings["limits"] = json!(score.limits);
    }
    if score.protocol != "sklearn-1.9" {
        settings["protocol"] = json!(score.protocol);
    }
}

struct Builder {
    steps: Vec<Step>,
    base: String,
    prints: BTreeMap<PathBuf, String>,
    tasks: BTreeMap<&'static str, Value>,
    trained: Vec<String>,
    merged: Vec<String>,
}

impl Builder {
    fn empty(base: String) -> Self {
        Self {
            steps: Vec::new(),
            base,
            prints: BTreeMap::new(),
            tasks: BTreeMap::new(),
            trained: Vec::new(),
            merged: Vec::new(),
        }
    }

    fn new(config: &Config, tasks: &[TaskSpec]) -> Result<Self, PlanError> {
        let mut builder = Self::empty(String::new());
        match &config.base {
            Base::Folder(path) => builder.base = folder_fingerprint(path)?,
            // Not fetched: a plan that is only shown.
            Base::Hub { id, folder: None } => builder.base = step_id("hub", 1, &json!({"id": id})),
            // The id counts beside the content: prompts may be registered for it.
            Base::Hub { id, folder: Some(path) } => {
                builder.base = step_id("hub", 1, &json!({"id": id, "content": folder_fingerprint(path)?}));
            }
            Base::Scratch(scratch) => {
                let data = builder.sets(&config.data.train)?;
                builder.base = step_id("base", 1, &json!({"scratch": scratch, "data": data}));
                let step = Step {
                    id: builder.base.clone(),
                    title: "make the base from nothing".into(),
                    work: Work::Base,
                    inputs: Vec::new(),
                };
                builder.steps.push(step);
            }
        }
        for split in [Split::Dev, Split::Test] {
            let mut all = Vec::new();
            for task in tasks {
                all.push(builder.task(task)?);
            }
            builder.tasks.insert(split.name(), json!(all));
        }
        Ok(builder)
    }

    fn print(&mut self, path: &PathBuf) -> Result<String, PlanError> {
        if let Some(print) = self.prints.get(path) {
            return Ok(print.clone());
        }
        let print = rows::fingerprint(path)?;
        self.prints.insert(path.clone(), print.clone());
        Ok(print)
    }

    fn sets(&mut self, sets: &[TrainSet]) -> Result<Value, PlanError> {
        let mut out = Vec::new();
        for set in sets {
            let mut entry = json!({"data": self.print(&set.path)?, "weight": set.weight, "limit": set.limit});
            // Left out where they are not given, so that runs made before they were there are found again.
            if set.prompts != (None, None) {
                entry["prompts"] = json!(set.prompts);
            }
            if !set.columns.is_empty() {
                entry["columns"] = json!(set.columns);
            }
            out.push(entry);
        }
        Ok(json!(out))
    }

    fn task(&mut self, task: &TaskSpec) -> Result<Value, PlanError> {
        let mut files = Vec::new();
        if let Source::Hub { repo, revision: None, .. } = &task.source {
            return Err(PlanError::Config(format!(
                "{}: data.revision is missing: a sweep keeps its scores, so the data ({repo}) must not move under them",
                task.path.display()
            )));
        }
        if let Source::Files(map) = &task.source {
            for (split, path) in map {
                files.push(json!([split, self.print(path)?]));
            }
        }
        Ok(json!({"spec": task.fingerprint, "files": files}))
    }

    /// Identity of a training run. Settings at their defaults are left out where they came later than the first runs.
    fn training(&mut self, c: &Config) -> Result<String, PlanError> {
        let mut settings = json!({
            "base": self.base, "train_data": self.sets(&c.data.train)?, "dev_data": self.sets(&c.data.dev)?,
            "prompts": c.data.prompts, "objective": c.objective, "loss": c.loss, "adapter": c.adapter, "train": c.train,
        });
        let data = serde_json::to_value(&c.data).unwrap_or_default();
        for key in ["dev_share", "mixing", "one_set_per_batch", "no_duplicates", "drop_last"] {
            if let Some(value) = data.get(key) {
                settings[key] = value.clone();
            }
        }
        if c.data.train.iter().any(|set| set.weight != 1.0) {
            settings["sampling"] = json!(2);
        }
        if c.objective == Objective::Tsdae {
            settings["tsdae"] = json!(c.tsdae);
        }
        if c.run.dtype != Dtype::F32 {
            settings["dtype"] = json!(c.run.dtype);
        }
        if let LossKind::Gist { folder: Some(folder), .. } = &c.loss.kind {
            settings["guide"] = json!(folder_fingerprint(folder)?);
        }
        // 2: positives that were not drawn are no negatives, and rows' own prompts and types count.
        Ok(step_id("train", 2, &settings))
    }

    fn add_trials(&mut self, trials: &[TrialPlan]) -> Result<(), PlanError> {
        for (number, plan) in trials.iter().enumerate() {
            let c = &plan.trial.config;
            let id = self.training(c)?;
            let kind = match &c.adapter {
                Adapter::Full => "full".to_string(),
                Adapter::Lora(lora) => format!("LoRA r{}", lora.rank),
                Adapter::Qlora { lora, .. } => format!("QLoRA r{}", lora.rank),
            };
            let title = format!("train {} ({kind}, {} steps)", plan.trial.label, plan.steps);
            if !self.steps.iter().any(|s| s.id == id) {
                let inputs = self.base_input();
                self.steps.push(Step { id: id.clone(), title, work: Work::Train { trial: number }, inputs });
            }
            self.trained.push(id);
        }
        Ok(())
    }

    fn base_input(&self) -> Vec<String> {
        self.steps.iter().filter(|s| s.work == Work::Base).map(|s| s.id.clone()).collect()
    }

    fn add_merges(&mut self, merges: &[MergePlan], trials: &[TrialPlan]) {
        for (number, plan) in merges.iter().enumerate() {
            let c = &trials[plan.pair.0].trial.config;
            let inputs = vec![self.trained[plan.pair.0].clone(), self.trained[plan.pair.1].clone()];
            let mode = match plan.slerp.mode {
                SlerpMode::Tensor => "tensor",
                SlerpMode::Whole => "whole",
                SlerpMode::Delta => "delta",
            };
            let mut settings = json!({"pair": inputs, "mode": mode, "base": self.base, "alpha": plan.alpha});
            if plan.alpha.is_none() {
                settings["search"] = json!({
                    "tolerance": plan.slerp.tolerance, "budget": plan.slerp.budget, "choose": c.choose,
                    "limit": c.score.limit, "tasks": self.tasks,
                });
                add_scoring(&mut settings["search"], &c.score);
            }
            let id = step_id("merge", 1, &settings);
            let (a, b) = (&trials[plan.pair.0].trial.label, &trials[plan.pair.1].trial.label);
            let title = match plan.alpha {
                Some(alpha) => format!("merge {a} with {b} at α = {alpha}"),
                None => format!("merge {a} with {b}, searching for α"),
            };
            self.steps.push(Step { id: id.clone(), title, work: Work::Merge { merge: number }, inputs });
            self.merged.push(id);
        }
    }

    fn add_scores(&mut self, config: &Config, trials: &[TrialPlan], merges: &[MergePlan]) {
        let mut models = vec![(ModelRef::Base, self.base.clone(), "base".to_string())];
        for (trial, plan) in trials.iter().enumerate() {
            for &step in &plan.checkpoints {
                if step == plan.steps || config.score.all_checkpoints {
                    let title = if step == plan.steps {
                        plan.trial.label.clone()
                    } else {
                        format!("{} @{step}", plan.trial.label)
                    };
                    models.push((
                        ModelRef::Checkpoint { trial, step },
                        format!("{}#{step}", self.trained[trial]),
                        title,
                    ));
                }
            }
        }
        for number in 0..merges.len() {
            let title = format!("merge {}", number + 1);
            models.push((ModelRef::Merged(number), self.merged[number].clone(), title));
        }
        for (model, identity, title) in models {
            for (split, seeds) in [(Split::Dev, config.choose.seeds), (Split::Test, config.score.seeds)] {
                let mut settings = json!({
                    "model": identity, "split": split.name(), "tasks": self.tasks[split.name()],
                    "limit": config.score.limit, "seeds": seeds,
                });
                add_scoring(&mut settings, &config.score);
                let inputs: Vec<String> = match &model {
                    ModelRef::Base => self.base_input(),
                    ModelRef::Checkpoint { trial, .. } => vec![self.trained[*trial].clone()],
                    ModelRef::Merged(number) => vec![self.merged[*number].clone()],
                };
                self.steps.push(Step {
                    id: step_id("score", 1, &settings),
                    title: format!("score {title} on {}", split.name()),
                    work: Work::Score { model: model.clone(), split: split.name() },
                    inputs,
                });
            }
        }
    }
}
