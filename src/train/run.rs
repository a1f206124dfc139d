//! What a training run is given and what it leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Device;
use serde::Serialize;

use super::TrainError;
use super::batches::{Draw, Source};
use super::best::Rule;
use super::groups::Groups;
use super::guard::Warning;
use super::optimizer::AdamW;
use super::sampler::SamplerSettings;
use super::schedule::Shape;
use super::trainer::Trainer;
use crate::adapter::{Adapter, LoraSpec, Quantization};
use crate::model::embedder::WeightBytes;
use crate::model::{Embedder, ModelDropout, ModelFiles, names};
use crate::nn::kernel::precision;
use crate::objective::Criterion;
use crate::objective::tsdae::Noise;

pub use super::checkpoint::checkpoint_name;

/// What is trained for.
#[derive(Debug, Clone, PartialEq)]
pub enum Objective {
    /// A loss over the embeddings of a batch.
    Embeddings(Criterion),
    /// Reading damaged texts back.
    Tsdae(Noise),
}

/// The adapter to train.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterSettings {
    /// Its hyper-parameters.
    pub spec: LoraSpec,
    /// The linear layers that it is put on.
    pub targets: Vec<String>,
    /// How the frozen weights are kept; none as they are.
    pub quantization: Option<Quantization>,
}

/// Everything that decides a training run's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What is trained for.
    pub objective: Objective,
    /// Its name in messages.
    pub loss_name: String,
    /// How many negatives a row has.
    pub draw: Draw,
    /// How sets make batches.
    pub mix: SamplerSettings,
    /// Most tokens of queries and documents.
    pub max_length: (usize, usize),
    /// The adapter to train; none trains the model's own weights.
    pub adapter: Option<AdapterSettings>,
    /// Tensors that stay as they are in full training, by glob.
    pub freeze: Vec<String>,
    /// Dropout of the model; none draws none.
    pub dropout: Option<ModelDropout>,
    /// Passes over the rows.
    pub epochs: usize,
    /// Optimizer steps, if fewer than the epochs give.
    pub max_steps: Option<usize>,
    /// Rows a batch.
    pub batch: usize,
    /// Batches an optimizer step.
    pub accumulate: usize,
    /// Texts of a chunk of cached contrastive training; none takes a batch as a whole.
    pub grad_cache: Option<usize>,
    /// Whether activations are computed again in the backward pass.
    pub checkpointing: bool,
    /// Of the steps' matrix products.
    pub precision: Precision,
    /// Highest learning rate.
    pub lr: f64,
    /// Shape of the schedule.
    pub schedule: Shape,
    /// Share of the steps, or steps, of warm-up.
    pub warmup: f64,
    /// The optimizer.
    pub optimizer: AdamW,
    /// Rates of single tensors.
    pub groups: Groups,
    /// Seed of order, draws and initial adapters.
    pub seed: u64,
    /// Steps between dev evaluations; none evaluates at the end only.
    pub eval_every: Option<usize>,
    /// What the best checkpoint is best by; none takes the last.
    pub best: Option<Rule>,
    /// Steps between checkpoints; the last step is always saved.
    pub save_every: Option<usize>,
    /// Checkpoints kept beside the best and the last, and bytes that they may take.
    pub keep: (Option<usize>, Option<u64>),
    /// Steps between states to take up from.
    pub state_every: Option<usize>,
}

/// A dev evaluation in the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DevPoint {
    /// Optimizer steps made.
    pub step: usize,
    /// Loss on the dev rows.
    pub loss: Option<f64>,
    /// Mean reciprocal rank on the dev rows.
    pub mrr: Option<f64>,
    /// Main scores of the dev tasks.
    pub tasks: BTreeMap<String, f64>,
}

impl DevPoint {
    /// The number of this name: `loss`, `mrr`, or a task's.
    pub fn value(&self, metric: &str) -> Option<f64> {
        match metric {
            "loss" => self.loss,
            "mrr" => self.mrr,
            task => self.tasks.get(task).copied(),
        }
    }

    /// All of it by name.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut all = self.tasks.clone();
        all.extend(self.loss.map(|v| ("loss".to_string(), v)));
        all.extend(self.mrr.map(|v| ("mrr".to_string(), v)));
        all
    }
}

/// What a run leaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Optimizer steps made.
    pub steps: usize,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Seconds in training steps, evaluation and saving aside.
    pub seconds: f64,
    /// Training loss of every optimizer step.
    pub losses: Vec<f64>,
    /// Gradient norm of every optimizer step before clipping.
    pub norms: Vec<f64>,
    /// Dev evaluations.
    pub dev: Vec<DevPoint>,
    /// Checkpoints on the disk by step, ascending.
    pub checkpoints: Vec<(usize, PathBuf)>,
    /// The step of the checkpoint that is the result.
    pub result: usize,
    /// The value that the result is best by, where there was a choice.
    pub best: Option<(String, f64)>,
    /// The step that the run was taken up from.
    pub resumed: Option<usize>,
    /// Texts that fill their limit, out of all.
    pub truncated: (usize, usize),
    /// What the weights take while training.
    pub weight_bytes: WeightBytes,
    /// What a reader must know.
    pub warnings: Vec<Warning>,
    /// Weights that are trained.
    pub trainable: u64,
    /// Whether the run was held at an evaluation, and is not at its end.
    pub held: bool,
}

/// Optimizer steps that `batches` batches an epoch give; `max_steps` may end the run sooner.
pub fn steps_of(batches: usize, accumulate: usize, epochs: usize, max_steps: Option<usize>) -> usize {
    let steps = batches.div_ceil(accumulate).max(1) * epochs.max(1);
    max_steps.map_or(steps, |most| most.min(steps))
}

/// The steps after which a checkpoint is saved, the last among them.
pub fn checkpoint_steps(save_every: Option<usize>, steps: usize) -> Vec<usize> {
    let mut out: Vec<usize> = match save_every {
        Some(every) if every > 0 => (every..=steps).step_by(every).collect(),
        _ => Vec::new(),
    };
    if out.last() != Some(&steps) {
        out.push(steps);
    }
    out
}

/// Precision of matrix products; sums are in `f32`. Without a matrix unit `High` is `F32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// 24 significant bits.
    F32,
    /// Operands of 16 significant bits: the sum of two bfloat16 numbers, PyTorch's `high` (`torch.set_float32_matmul_precision`).
    #[default]
    High,
    /// Operands of bfloat16.
    Bf16,
}

impl Precision {
    /// Parts of bfloat16 that an operand is split into on a matrix unit.
    pub fn parts(self) -> usize {
        match self {
            Self::F32 => precision::F32,
            Self::High => precision::HIGH,
            Self::Bf16 => precision::BF16,
        }
    }
}

/// The linear layers of a model, module → (outputs, inputs): those that an adapter can be put on.
pub fn linear_layers(files: &ModelFiles) -> BTreeMap<String, (usize, usize)> {
    files
        .weights
        .iter()
        .filter_map(|(name, tensor)| {
            let module = name.strip_suffix(".weight")?;
            let (outputs, inputs) = tensor.dims2().ok()?;
            // Tables are no linear layers, and the pooler is never run.
            (!names::is_table(module) && !module.starts_with("pooler")).then(|| (module.into(), (outputs, inputs)))
        })
        .collect()
}

/// The modules that get an adapter: those named, or the architecture's own where none are.
pub fn adapter_targets(files: &ModelFiles, named: &[String]) -> Vec<String> {
    match named {
        [] => files.architecture.lora_targets().iter().map(ToString::to_string).collect(),
        named => named.to_vec(),
    }
}

/// Scores dev tasks with a model: main scores by task.
pub type DevTasks<'a> = &'a dyn Fn(&Embedder) -> Result<BTreeMap<String, f64>, String>;

/// (step, metrics) → whether to end there for now.
pub type Hold<'a> = dyn Fn(usize, &BTreeMap<String, f64>) -> Result<bool, String> + 'a;

/// A run in the making.
pub struct Run<'a> {
    /// The model to start from.
    pub base: &'a ModelFiles,
    /// What `adapter_config.json` says of it.
    pub base_name: &'a str,
    /// An adapter to start from instead of a fresh one.
    pub start: Option<Adapter>,
    /// A guide model, for losses that ask one.
    pub guide: Option<&'a ModelFiles>,
    /// Settings.
    pub settings: &'a Settings,
    /// Training rows.
    pub train: &'a [Source],
    /// Dev rows; may be empty.
    pub dev: &'a [Source],
    /// Scores tasks with every dev evaluation.
    pub tasks: Option<DevTasks<'a>>,
    /// Where to compute.
    pub device: &'a Device,
    /// Folder that gets the checkpoints and logs, and where an interrupted run is taken up; none saves nothing.
    pub output: Option<&'a Path>,
    /// Identity of settings, data and base: an interrupted run is taken up only if it is the same.
    pub fingerprint: &'a str,
    /// The settings as the logs show them.
    pub facts: serde_json::Value,
    /// Told (step, steps, loss) after every step.
    pub progress: &'a dyn Fn(usize, usize, f64),
    /// Batches to train on instead of the shuffled ones (row numbers of the first set); for comparisons with other trainers.
    pub fixed_batches: Option<&'a [Vec<usize>]>,
    /// Ends the run after this many steps as if it were killed; for tests of taking it up.
    pub stop_after: Option<usize>,
    /// Told (step, metrics) after an evaluation whose state is saved, also when a run is taken up there; `true` ends the run as
    /// if it were killed.
    pub hold: Option<&'a Hold<'a>>,
}

/// Trains, evaluates, and saves the checkpoints; takes an interrupted run up where its last state was saved. On the CPU a run
/// repeats to the bit, resumed or not.
///
/// # Errors
/// Where a row, a gradient or the loss is unusable, a frozen tensor moved, nothing changed, or a file cannot be written.
pub fn run(run: &Run<'_>) -> Result<(Output, Embedder), TrainError> {
    Trainer::new(run)?.run()
}
