//! What each kind of step does.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::dev_tasks::DevTasks;
use super::encoder::{ModelEncoder, PromptRules};
use super::training::Training;
use super::{Engine, ExecError, Outcome, settings};
use crate::adapter::peft;
use crate::config::schema::{Adapter, Base};
use crate::model::{BuildOptions, Embedder, ModelFiles, prompts};
use crate::plan::{ModelRef, Step};
use crate::store::folder::{read_json, write_json};
use crate::store::record::{TaskRecord, TrainingCurve};
use crate::task::evaluate::{Evaluation, evaluate, protocol_seeds};
use crate::task::spec::{Split, TaskSpec};
use crate::train::checkpoint;
use crate::train::run::Hold;

/// What a training step leaves beside its checkpoints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TrainLog {
    pub curve: TrainingCurve,
    pub tokens: usize,
    pub truncated: (usize, usize),
    /// Step of the checkpoint that is the result; absent in older runs, where it is the last.
    #[serde(default)]
    pub result: Option<usize>,
    /// What it is best by, and its value.
    #[serde(default)]
    pub best: Option<(String, f64)>,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Weights that were trained; 0 in older runs.
    #[serde(default)]
    pub trainable: u64,
}

/// Scores of a model on one side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ScoreLog {
    pub tasks: Vec<TaskRecord>,
    pub truncated: usize,
}

/// A task's scores as they are kept.
pub fn to_record(spec: &TaskSpec, evaluation: &Evaluation) -> Option<TaskRecord> {
    let first = evaluation.seeds.first()?;
    Some(TaskRecord {
        name: spec.name.clone(),
        task_type: spec.kind.name().into(),
        metric: spec.metric.clone(),
        main_score: first.main_score,
        seeds: evaluation.seeds[1..].iter().map(|s| (u64::from(s.seed), s.main_score)).collect(),
        rows: evaluation.rows,
        outcomes: first.outcomes.clone(),
    })
}

impl Engine<'_> {
    pub(super) fn make_base(&self, step: &Step) -> Result<(), ExecError> {
        let Base::Scratch(s) = &self.plan.config.base else {
            return Err(ExecError::Other("the base is not made from nothing".into()));
        };
        let files = settings::base_from_nothing(&self.plan.config, s, &self.plan.sets)?;
        files.save(&self.folder.step(&step.id).join("model"), "# A small encoder made from nothing by embeval\n")?;
        Ok(())
    }

    pub(super) fn train(&self, step: &Step, trial: usize) -> Result<Outcome, ExecError> {
        let plan = &self.plan.trials[trial];
        let config = &plan.trial.config;
        let base = self.base()?;
        let folder = self.folder.step(&step.id);
        let progress = |done: usize, all: usize, loss: f64| {
            self.advances(done, all, &format!("loss {loss:.4}"));
        };
        let hold = |at: usize, metrics: &BTreeMap<String, f64>| self.is_held(trial, at, metrics);
        let base_name = match (self.base_id(), &self.plan.config.base) {
            (Some(id), _) => id.to_string(),
            (None, Base::Folder(path)) => path.display().to_string(),
            _ => "base".to_string(),
        };
        let tasks = self.dev_tasks(config)?;
        let training = Training {
            config,
            label: &plan.trial.label,
            base: &base,
            base_name: &base_name,
            sets: &self.plan.sets,
            tasks: tasks.as_ref(),
            device: &self.device,
            output: Some(&folder),
            fingerprint: &step.id,
            progress: &progress,
            hold: config.prune.is_some().then_some(&hold as &Hold<'_>),
        };
        let (output, _) = training.run()?;
        if output.held {
            return Ok(Outcome::Held);
        }
        let log = TrainLog {
            curve: training.curve(&output),
            tokens: output.tokens,
            truncated: output.truncated,
            result: Some(output.result),
            best: output.best.clone(),
            trainable: output.trainable,
            warnings: output.warnings.iter().map(|w| w.0.clone()).collect(),
        };
        write_json(&folder.join("training.json"), &log)?;
        Ok(Outcome::Done)
    }

    /// Removes the states of a step that is complete: nothing will be taken up from there.
    pub(super) fn forget_states(&self, step: &Step) -> Result<(), ExecError> {
        let other = |e: crate::train::TrainError| ExecError::Other(e.to_string());
        for (_, folder) in checkpoint::checkpoints(&self.folder.step(&step.id)).map_err(other)? {
            checkpoint::forget_state(&folder).map_err(other)?;
        }
        Ok(())
    }

    /// The tasks that a trial scores while it trains.
    pub(super) fn dev_tasks(&self, config: &crate::config::Config) -> Result<Option<DevTasks>, ExecError> {
        if config.train.eval_tasks.is_empty() {
            return Ok(None);
        }
        let specs = (self.select)(&config.train.eval_tasks)?;
        let registered = self.base_id().and_then(prompts::registered);
        let limit = |task: &str| self.plan.config.score.limit_of(task);
        Ok(Some(DevTasks::load(&specs, &limit, self.datasets.as_ref(), self.protocol(), registered)?))
    }

    pub(super) fn load(&self, model: &ModelRef) -> Result<Loaded, ExecError> {
        let folder = self.plan.producer(model).map(|id| self.folder.step(id));
        match (model, folder) {
            (ModelRef::Base, _) => Ok(Loaded::Files((*self.base()?).clone())),
            (ModelRef::Checkpoint { trial, step }, Some(folder)) => {
                let planned = &self.plan.trials[*trial];
                let result =
                    if *step == planned.steps { checkpoint::read_final(&folder).map(|f| f.step) } else { None };
                let path = folder.join(checkpoint::checkpoint_name(result.unwrap_or(*step)));
                let adapter = &planned.trial.config.adapter;
                match adapter {
                    Adapter::Full => Ok(Loaded::Files(ModelFiles::load(&path)?)),
                    // As it was trained: on the quantised base, where it was one.
                    Adapter::Lora(_) | Adapter::Qlora { .. } => Ok(Loaded::Adapted(
                        (*self.base()?).clone(),
                        peft::load(&path)?,
                        settings::quantization(adapter),
                    )),
                }
            }
            (ModelRef::Merged(_), Some(folder)) => Ok(Loaded::Files(ModelFiles::load(&folder.join("model"))?)),
            (other, None) => Err(ExecError::Other(format!("{other:?} has no step that makes it"))),
        }
    }

    fn embedder(&self, loaded: &Loaded) -> Result<Embedder, ExecError> {
        let device = self.device.clone();
        let half = settings::encodes_in_half(&device, self.plan.config.run.dtype);
        Ok(match loaded {
            Loaded::Files(files) => Embedder::build(files, &BuildOptions { device, half, ..Default::default() })?,
            Loaded::Adapted(base, adapter, quantization) => {
                let quantize = quantization.as_ref();
                let options = BuildOptions { device, half, adapter: Some(adapter), quantize, ..Default::default() };
                Embedder::build(base, &options)?
            }
        })
    }

    pub(super) fn score(&self, step: &Step, model: &ModelRef, split: Split) -> Result<(), ExecError> {
        let embedder = self.embedder(&self.load(model)?)?;
        let seeds = match split {
            Split::Dev => self.plan.config.choose.seeds,
            Split::Test => self.plan.config.score.seeds,
        };
        let folder = self.folder.step(&step.id);
        let log = self.score_tasks(&embedder, split, seeds, Some(&folder))?;
        Ok(write_json(&folder.join("scores.json"), &log)?)
    }

    /// Scores all tasks; each task's result is kept in `folder` as soon as it is known.
    pub(super) fn score_tasks(
        &self,
        embedder: &Embedder,
        split: Split,
        seeds: usize,
        folder: Option<&Path>,
    ) -> Result<ScoreLog, ExecError> {
        // The prompts that mteb registers for the base are those of all that is made from it.
        let registered = self.base_id().and_then(prompts::registered);
        let mut encoder = ModelEncoder::new(embedder, &|_, _| {}).with_rules(PromptRules { fixed: None, registered });
        // A model that is looked at once, in a search, is not worth its place on the disk.
        if folder.is_some() {
            encoder = encoder.with_cache(&self.cache);
        }
        let mut log = ScoreLog { tasks: Vec::new(), truncated: 0 };
        let all = self.plan.tasks.len();
        for (number, spec) in self.plan.tasks.iter().enumerate() {
            let Some(data) = self.task_data(number, split)? else { continue };
            let kept = folder.map(|f| f.join(format!("task-{}.json", spec.name)));
            if let Some(record) = kept.as_deref().and_then(|path| read_json::<TaskRecord>(path).ok()) {
                log.tasks.push(record);
                continue;
            }
            let seeds = protocol_seeds(seeds, 42);
            let evaluation = evaluate(spec, split, &data, &encoder, &seeds, self.protocol())?;
            if let Some(record) = to_record(spec, &evaluation) {
                if let Some(path) = &kept {
                    write_json(path, &record)?;
                }
                log.tasks.push(record);
            }
            self.advances(number + 1, all, &spec.name);
        }
        log.truncated = encoder.truncated.get();
        Ok(log)
    }
}

pub(super) enum Loaded {
    Files(ModelFiles),
    Adapted(ModelFiles, crate::adapter::Adapter, Option<crate::adapter::Quantization>),
}
