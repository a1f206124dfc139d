//! A training run of a config: what `train` and a sweep's step do alike.

use std::path::Path;

use candle_core::Device;

use super::dev_tasks::DevTasks;
use super::{ExecError, settings};
use crate::config::Config;
use crate::config::schema::{LossKind, Objective};
use crate::model::{Embedder, ModelFiles};
use crate::plan::PlanError;
use crate::plan::sets::TrainingSets;
use crate::store::record::TrainingCurve;
use crate::train::TrainError;
use crate::train::run::{self, Hold, Output, Run};

/// What a config's training run needs beside the config.
pub struct Training<'a> {
    /// The config of one trial.
    pub config: &'a Config,
    /// The trial's name in errors.
    pub label: &'a str,
    /// The base.
    pub base: &'a ModelFiles,
    /// What an adapter says of it.
    pub base_name: &'a str,
    /// Open training sets.
    pub sets: &'a TrainingSets,
    /// Tasks scored with every dev evaluation.
    pub tasks: Option<&'a DevTasks>,
    /// Where to compute.
    pub device: &'a Device,
    /// Folder of checkpoints and logs; none saves nothing.
    pub output: Option<&'a Path>,
    /// Identity of the run.
    pub fingerprint: &'a str,
    /// Told (step, steps, loss) after every step.
    pub progress: &'a dyn Fn(usize, usize, f64),
    /// Says after an evaluation whether the run is to be held there.
    pub hold: Option<&'a Hold<'a>>,
}

impl Training<'_> {
    /// Trains, or goes on where an interrupted run of the same settings stopped.
    ///
    /// # Errors
    /// As [`run::run`]; where data or a guide cannot be read.
    pub fn run(&self) -> Result<(Output, Embedder), ExecError> {
        let own = settings::own_prompts(self.config, self.base);
        let (train, dev) = self.sets.sources(self.config, &own).map_err(PlanError::from)?;
        let settings = settings::training(self.config, self.base, &train);
        let guide = match (&self.config.loss.kind, self.config.objective) {
            (_, Objective::Tsdae) => None,
            (LossKind::Gist { folder: Some(folder), .. }, _) => Some(ModelFiles::load(folder)?),
            (LossKind::Gist { folder: None, .. }, _) => Some(self.base.clone()),
            _ => None,
        };
        let tasks = |embedder: &Embedder| match self.tasks {
            Some(tasks) => tasks.score(embedder),
            None => Ok(Default::default()),
        };
        let run = Run {
            base: self.base,
            base_name: self.base_name,
            start: None,
            guide: guide.as_ref(),
            settings: &settings,
            train: &train,
            dev: &dev,
            tasks: self.tasks.map(|_| &tasks as run::DevTasks<'_>),
            device: self.device,
            output: self.output,
            fingerprint: self.fingerprint,
            facts: serde_json::to_value(self.config).unwrap_or_default(),
            progress: self.progress,
            fixed_batches: None,
            stop_after: None,
            hold: self.hold,
        };
        run::run(&run).map_err(|source| self.failed(source))
    }

    /// What the run logged, for plots.
    pub fn curve(&self, output: &Output) -> TrainingCurve {
        TrainingCurve {
            trial: self.label.to_string(),
            train_loss: output.losses.iter().enumerate().map(|(i, v)| (i + 1, *v)).collect(),
            dev_loss: output.dev.iter().filter_map(|p| Some((p.step, p.loss?))).collect(),
            dev_score: output.dev.iter().filter_map(|p| Some((p.step, p.mrr?))).collect(),
        }
    }

    fn failed(&self, source: TrainError) -> ExecError {
        ExecError::Train { trial: self.label.to_string(), source }
    }
}
