//! Runs a plan's steps: in worker processes that share them out by locks, started here or on a cluster.

pub mod collect;
mod cost;
pub mod datasets;
pub mod dev_tasks;
pub mod encoder;
mod estimate;
pub mod event;
pub mod heads;
pub mod jobs;
pub mod local;
mod merging;
pub mod precomputed;
pub mod prune;
pub mod settings;
pub mod shipping;
pub mod slurm;
mod steps;
pub mod training;
pub mod work;

pub use estimate::Estimate;
pub use steps::to_record;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::Device;

use crate::encode::cache::CacheSettings;
use crate::model::ModelFiles;
use crate::plan::{ModelRef, Plan, PlanError, Step, Work};
use crate::store::folder::{RunFolder, StoreError};
use crate::task::files::{Datasets, NoDatasets};
use crate::task::load::TaskData;
use crate::task::protocol::Protocol;
use crate::task::spec::{Split, TaskError, TaskSpec};
pub use event::Observer;

/// What stops a run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The run's folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A model.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// An adapter.
    #[error(transparent)]
    Adapter(#[from] crate::adapter::peft::PeftError),
    /// Training.
    #[error("{trial}: {source}")]
    Train {
        /// The trial.
        trial: String,
        /// What stopped it.
        source: crate::train::TrainError,
    },
    /// A task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Planning or data.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// Rows of tasks (by position) on a side, none where the task has no such side.
type Loaded = BTreeMap<(usize, Split), Option<Rc<TaskData>>>;

/// Finds the tasks that selectors name.
pub type Select = dyn Fn(&[String]) -> Result<Vec<TaskSpec>, TaskError>;

/// How far a step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// To its end.
    Done,
    /// To an evaluation where others are waited for, or where it was stopped.
    Held,
}

/// A run.
pub struct Engine<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The run's folder.
    pub folder: RunFolder,
    /// Where to compute.
    pub device: Device,
    /// Told what happens.
    pub observer: &'a dyn Observer,
    /// Opens the hub datasets of tasks.
    pub datasets: Box<dyn Datasets>,
    /// Where embeddings are kept.
    pub cache: CacheSettings,
    /// Finds the tasks that selectors name.
    pub select: Box<Select>,
    data: RefCell<Loaded>,
    base: RefCell<Option<Rc<ModelFiles>>>,
}

impl<'a> Engine<'a> {
    /// A run of `plan` in `folder`.
    pub fn new(plan: &'a Plan, folder: RunFolder, device: Device, observer: &'a dyn Observer) -> Self {
        Self {
            plan,
            folder,
            device,
            observer,
            datasets: Box::new(NoDatasets),
            cache: CacheSettings { folder: std::path::PathBuf::new(), limit: 0 },
            select: Box::new(|_| Ok(Vec::new())),
            data: RefCell::default(),
            base: RefCell::default(),
        }
    }

    /// The base's id on the hub, if it is from there.
    pub(crate) fn base_id(&self) -> Option<&str> {
        match &self.plan.config.base {
            crate::config::schema::Base::Hub { id, .. } => Some(id.split('@').next().unwrap_or(id)),
            _ => None,
        }
    }

    /// Whose draws the protocols make.
    pub(crate) fn protocol(&self) -> Protocol {
        self.plan.config.score.protocol.parse().unwrap_or_default()
    }

    /// Reads the rows of all tasks: one that cannot be scored is found before hours of training, not after.
    ///
    /// # Errors
    /// The first task that cannot be read.
    pub fn check_tasks(&self) -> Result<(), ExecError> {
        for (number, task) in self.plan.tasks.iter().enumerate() {
            for &split in self.plan.sides() {
                let data = self.task_data(number, split)?;
                tracing::debug!(task = task.name, split = split.name(), rows = data.map(|d| d.rows()));
            }
        }
        let mut known: Vec<&[String]> = Vec::new();
        for trial in &self.plan.trials {
            let selectors = trial.trial.config.train.eval_tasks.as_slice();
            if !known.contains(&selectors) {
                self.dev_tasks(&trial.trial.config)?;
                known.push(selectors);
            }
        }
        Ok(())
    }

    /// Does a step; a training may be held on its way.
    fn run_step(&self, step: &Step) -> Result<Outcome, ExecError> {
        crate::store::folder::write_json(&self.folder.step(&step.id).join("step.json"), step)?;
        match &step.work {
            Work::Base => self.make_base(step)?,
            Work::Train { trial } => return self.train(step, *trial),
            Work::Merge { merge } => self.merge(step, *merge)?,
            Work::Score { model, split } => {
                self.score(step, model, if *split == "dev" { Split::Dev } else { Split::Test })?;
            }
        }
        Ok(Outcome::Done)
    }

    /// The rows of a task on a side, loaded once.
    pub(crate) fn task_data(&self, task: usize, split: Split) -> Result<Option<Rc<TaskData>>, ExecError> {
        if let Some(data) = self.data.borrow().get(&(task, split)) {
            return Ok(data.clone());
        }
        let spec = &self.plan.tasks[task];
        let data =
            TaskData::load_from(spec, split, self.plan.config.score.limit_of(&spec.name), self.datasets.as_ref())?
                .map(Rc::new);
        self.data.borrow_mut().insert((task, split), data.clone());
        Ok(data)
    }

    /// The base model.
    pub(crate) fn base(&self) -> Result<Rc<ModelFiles>, ExecError> {
        if let Some(base) = &*self.base.borrow() {
            return Ok(base.clone());
        }
        let folder = match self.plan.producer(&ModelRef::Base) {
            Some(id) => self.folder.step(id).join("model"),
            None => match &self.plan.config.base {
                crate::config::schema::Base::Folder(path) => path.clone(),
                crate::config::schema::Base::Hub { folder: Some(path), .. } => path.clone(),
                other => return Err(ExecError::Other(format!("base {other:?} is not a folder"))),
            },
        };
        let files = Rc::new(ModelFiles::load(&folder)?);
        *self.base.borrow_mut() = Some(files.clone());
        Ok(files)
    }
}
