//! The training loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use serde::Serialize;

use super::TrainError;
use super::batches::{Rows, Sides};
use super::dev::{self, DevResult};
use super::optimizer::{AdamW, Optimizer};
use super::schedule::{Schedule, Shape};
use crate::adapter::{Adapter, LoraSpec, glob, peft};
use crate::data::rows::PairRow;
use crate::model::{BuildOptions, Embedder, Mode, ModelFiles};
use crate::objective::Direction;
use crate::objective::contrastive::Contrastive;

/// Everything that decides a training run's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// One direction or both.
    pub direction: Direction,
    /// Temperature of InfoNCE.
    pub temperature: f64,
    /// Hard negatives a row, at most.
    pub hard_negatives: usize,
    /// Prompts put before queries and documents.
    pub prompts: (String, String),
    /// Most tokens of queries and documents.
    pub max_length: (usize, usize),
    /// The adapter to train; none trains the model's own weights.
    pub adapter: Option<(LoraSpec, Vec<String>)>,
    /// Tensors that stay as they are in full training, by glob.
    pub freeze: Vec<String>,
    /// Passes over the rows.
    pub epochs: usize,
    /// Optimizer steps, if fewer than the epochs give.
    pub max_steps: Option<usize>,
    /// Rows a batch.
    pub batch: usize,
    /// Batches an optimizer step.
    pub accumulate: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Shape of the schedule.
    pub schedule: Shape,
    /// Share of the steps, or steps, of warm-up.
    pub warmup: f64,
    /// The optimizer.
    pub optimizer: AdamW,
    /// Seed of order, draws and initial adapters.
    pub seed: u64,
    /// Steps between dev evaluations; none evaluates at the end only.
    pub eval_every: Option<usize>,
    /// Steps between checkpoints; the last step is always saved.
    pub save_every: Option<usize>,
}

/// A dev evaluation in the log.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DevPoint {
    /// Optimizer steps made.
    pub step: usize,
    /// Loss on the dev rows.
    pub loss: f64,
    /// Mean reciprocal rank on the dev rows.
    pub mrr: f64,
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
    /// Checkpoints by step, ascending; the last is the final one.
    pub checkpoints: Vec<(usize, PathBuf)>,
    /// Texts that fill their limit, out of all.
    pub truncated: (usize, usize),
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

/// Name of a checkpoint's folder.
pub fn checkpoint_name(step: usize) -> String {
    format!("checkpoint-{step:06}")
}

/// The linear layers of a model, module → (outputs, inputs): those that an adapter can be put on.
pub fn linear_layers(files: &ModelFiles) -> BTreeMap<String, (usize, usize)> {
    files
        .weights
        .iter()
        .filter_map(|(name, tensor)| {
            let module = name.strip_suffix(".weight")?;
            let (outputs, inputs) = tensor.dims2().ok()?;
            // Embedding tables are no linear layers, and the pooler is never run.
            (!module.contains("embeddings") && !module.starts_with("pooler"))
                .then(|| (module.into(), (outputs, inputs)))
        })
        .collect()
}

/// Builds the model to train: an adapter on frozen weights, or the weights themselves.
fn build(
    files: &ModelFiles,
    settings: &Settings,
    device: &Device,
    start: Option<Adapter>,
) -> Result<Embedder, TrainError> {
    let Some((spec, targets)) = &settings.adapter else {
        let trainable = |name: &str| {
            !name.starts_with("pooler") && !settings.freeze.iter().any(|p| glob(p.as_bytes(), name.as_bytes()))
        };
        let options = BuildOptions { device: device.clone(), trainable: &trainable, ..Default::default() };
        return Ok(Embedder::build(files, &options)?);
    };
    let adapter = match start {
        Some(adapter) => adapter,
        None => Adapter::init(spec.clone(), targets, &linear_layers(files), settings.seed).map_err(TrainError::Data)?,
    };
    let options =
        BuildOptions { device: device.clone(), adapter: Some(&adapter), adapter_trainable: true, ..Default::default() };
    Ok(Embedder::build(files, &options)?)
}

/// A run in the making.
pub struct Run<'a> {
    /// The model to start from.
    pub base: &'a ModelFiles,
    /// What `adapter_config.json` says of it.
    pub base_name: &'a str,
    /// An adapter to start from instead of a fresh one.
    pub start: Option<Adapter>,
    /// Settings.
    pub settings: &'a Settings,
    /// Training rows.
    pub rows: &'a [PairRow],
    /// Dev rows; may be empty.
    pub dev: &'a [PairRow],
    /// Where to compute.
    pub device: &'a Device,
    /// Folder that gets the checkpoints; none saves nothing.
    pub output: Option<&'a Path>,
    /// Told (step, steps, loss) after every step.
    pub progress: &'a dyn Fn(usize, usize, f64),
    /// Batches to train on instead of the shuffled ones (row numbers); for comparisons with other trainers.
    pub fixed_batches: Option<&'a [Vec<usize>]>,
}

/// Trains, and saves the checkpoints. On the CPU a run repeats to the bit.
///
/// # Errors
/// Where a row, a gradient or the loss is unusable, or a file cannot be written.
pub fn run(run: &Run<'_>) -> Result<(Output, Embedder), TrainError> {
    let settings = run.settings;
    let embedder = build(run.base, settings, run.device, run.start.clone())?;
    let evaluator = embedder.detached()?;
    let tokenizer = run.base.tokenizer();
    let tokenizers =
        (tokenizer.with_max_length(settings.max_length.0)?, tokenizer.with_max_length(settings.max_length.1)?);
    let prompts = (settings.prompts.0.as_str(), settings.prompts.1.as_str());
    let sides = Sides { tokenizers: (&tokenizers.0, &tokenizers.1), prompts };
    let rows = Rows::new(run.rows, &sides)?;
    let dev = if run.dev.is_empty() { None } else { Some(Rows::new(run.dev, &sides)?) };
    let prompt_tokens = if run.base.layout.include_prompt {
        (0, 0)
    } else {
        (tokenizer.prompt_tokens(prompts.0)?, tokenizer.prompt_tokens(prompts.1)?)
    };
    let objective = Contrastive { direction: settings.direction, temperature: settings.temperature, prompt_tokens };
    let batches = run.fixed_batches.map_or_else(|| rows.batches(settings.batch, settings.hard_negatives), <[_]>::len);
    let steps = steps_of(batches, settings.accumulate, settings.epochs, settings.max_steps);
    let saves = checkpoint_steps(settings.save_every, steps);
    let schedule = Schedule::new(settings.schedule, settings.warmup, steps);
    let mut optimizer = Optimizer::new(settings.optimizer.clone(), embedder.vars());
    let mut out = Output {
        steps,
        tokens: 0,
        seconds: 0.0,
        losses: Vec::with_capacity(steps),
        norms: Vec::with_capacity(steps),
        dev: Vec::new(),
        checkpoints: Vec::new(),
        truncated: rows.truncated,
    };
    let evaluate = || -> Result<Option<DevResult>, TrainError> {
        dev.as_ref()
            .map(|dev| dev::evaluate(&evaluator, dev, &objective, settings.batch, settings.hard_negatives))
            .transpose()
    };
    if let (Some(_), Some(result)) = (settings.eval_every, evaluate()?) {
        out.dev.push(DevPoint { step: 0, loss: result.loss, mrr: result.mrr });
    }
    'epochs: for epoch in 0.. {
        let order = match run.fixed_batches {
            Some(batches) => batches.to_vec(),
            None => rows.epoch(epoch, settings.seed, settings.batch, settings.hard_negatives),
        };
        for (group, parts) in order.chunks(settings.accumulate).enumerate() {
            let step = optimizer.steps();
            let start = Instant::now();
            let mut loss_sum = 0f64;
            for (part, part_rows) in parts.iter().enumerate() {
                let place = ((epoch as u64) << 32) | (group * settings.accumulate + part) as u64;
                let examples = rows.examples(part_rows, settings.seed, place, settings.hard_negatives);
                let mode = Mode::training(settings.seed ^ place.wrapping_mul(0x2545_f491_4f6c_dd1d));
                let loss = objective.loss(&embedder, &examples, mode)?;
                let value = f64::from(loss.to_scalar::<f32>()?);
                if !value.is_finite() {
                    return Err(TrainError::NonFiniteLoss { step: step + 1, loss: value });
                }
                loss_sum += value;
                optimizer.accumulate(&(loss / parts.len() as f64)?)?;
                out.tokens += examples
                    .iter()
                    .map(|e| {
                        e.query.ids.len()
                            + e.positive.ids.len()
                            + e.negatives.iter().map(|n| n.ids.len()).sum::<usize>()
                    })
                    .sum::<usize>();
            }
            out.norms.push(optimizer.step(settings.lr * schedule.factor(step))?);
            let loss = loss_sum / parts.len() as f64;
            out.losses.push(loss);
            out.seconds += start.elapsed().as_secs_f64();
            let step = optimizer.steps();
            (run.progress)(step, steps, loss);
            let due = settings.eval_every.is_some_and(|every| step.is_multiple_of(every.max(1))) || step == steps;
            if let (true, Some(result)) = (due, if due { evaluate()? } else { None }) {
                out.dev.push(DevPoint { step, loss: result.loss, mrr: result.mrr });
            }
            if let (Some(folder), true) = (run.output, saves.contains(&step)) {
                let path = folder.join(checkpoint_name(step));
                save(run, &embedder, &path, step)?;
                out.checkpoints.push((step, path));
            }
            if step >= steps {
                break 'epochs;
            }
        }
        if order.is_empty() {
            return Err(TrainError::Data("no batch can be made of the training rows".into()));
        }
    }
    Ok((out, embedder))
}

fn save(run: &Run<'_>, embedder: &Embedder, folder: &Path, step: usize) -> Result<(), TrainError> {
    match embedder.adapter() {
        Some(adapter) => Ok(peft::save(&adapter, run.base_name, folder)?),
        None => {
            let files = run.base.with_weights(&embedder.weights());
            let card = format!(
                "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n\n\
                 # Checkpoint\n\n`{}` after {step} steps of contrastive training with embeval.\n",
                run.base_name
            );
            Ok(files.save(folder, &card)?)
        }
    }
}
