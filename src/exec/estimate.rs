//! What a sweep will take, before it starts: steps and tokens counted, times from a short calibration on this machine.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;

use super::training::Training;
use super::{Engine, ExecError, settings};
use crate::config::Config;
use crate::config::schema::{Adapter, Base};
use crate::data::matrix::Matrix;
use crate::encode::encode;
use crate::model::{BuildOptions, Embedder, ModelFiles};
use crate::plan::{ModelRef, Work};
use crate::task::evaluate::{EncodeError, Part, TextEncoder, evaluate};
use crate::task::protocol::Similarity;
use crate::task::spec::{Split, TaskSpec};

/// Optimizer steps of a calibration.
const STEPS: usize = 3;
/// Kinds of training that are tried at most; the others take the time of the one most like them.
const KINDS: usize = 6;
/// Texts that are encoded to know the speed.
const TEXTS: usize = 256;

/// What a sweep will take.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Trainings that are to be done (trials that share one counted once).
    pub trainings: usize,
    /// Optimizer steps of them.
    pub train_steps: usize,
    /// Tokens of them.
    pub train_tokens: f64,
    /// Seconds of them, one after the other.
    pub train_seconds: f64,
    /// Models to score, on dev and test.
    pub scorings: usize,
    /// Models that searches for α may score besides.
    pub search_scorings: usize,
    /// Tokens of a model's dev and test texts.
    pub tokens_a_model: (f64, f64),
    /// Seconds of all scoring, one model after the other: encoding alone.
    pub score_seconds: f64,
    /// Bytes of the checkpoints and merged models that stay.
    pub disk: u64,
    /// Bytes that a training may need besides while it runs.
    pub disk_while_training: u64,
}

/// Takes what a task would encode, and encodes nothing.
struct Counter {
    seen: RefCell<(f64, Vec<String>)>,
}

impl TextEncoder for Counter {
    fn encode(&self, _: &TaskSpec, parts: &[Part<'_>]) -> Result<Vec<Matrix>, EncodeError> {
        let mut seen = self.seen.borrow_mut();
        for part in parts {
            let distinct: BTreeSet<&str> = part.texts.iter().copied().collect();
            // A corpus comes in pieces.
            let pieces = if part.streamed { part.total as f64 / part.rows.len().max(1) as f64 } else { 1.0 };
            seen.0 += distinct.len() as f64 * pieces;
            let every = (distinct.len() / TEXTS).max(1);
            seen.1.extend(distinct.into_iter().step_by(every).map(String::from));
        }
        Err("counted".into())
    }

    fn similarity(&self) -> Similarity {
        Similarity::Cosine
    }
}

/// What tells trainings of different speed apart.
fn kind(config: &Config) -> String {
    let adapter = match &config.adapter {
        Adapter::Full => "full".to_string(),
        Adapter::Lora(lora) => format!("lora {}", lora.targets.join(",")),
        Adapter::Qlora { lora, quantization, .. } => format!("qlora {quantization:?} {}", lora.targets.join(",")),
    };
    let t = &config.train;
    format!(
        "{adapter} {:?} {} {} {:?} {} {} {:?}",
        config.objective,
        config.loss.kind.name(),
        t.batch,
        t.grad_cache,
        t.checkpointing,
        t.accumulate,
        t.max_length
    )
}

impl Engine<'_> {
    /// Counts what is to be done (what is complete in the run's folder is not), and tries a few steps of every kind of training
    /// and the encoding of a few texts to say how long it will take here, one thing after the other. Merges count as scorings.
    ///
    /// # Errors
    /// Where data, tasks or the base cannot be read, or the training fails at once.
    pub fn estimate(&self) -> Result<Estimate, ExecError> {
        let mut out = self.count();
        let base = match (self.plan.producer(&ModelRef::Base), &self.plan.config.base) {
            (Some(_), Base::Scratch(scratch)) => {
                settings::base_from_nothing(&self.plan.config, scratch, &self.plan.sets)?
            }
            _ => (*self.base()?).clone(),
        };
        let mut speeds: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for step in self.plan.steps.iter().filter(|step| !self.folder.is_complete(&step.id)) {
            match &step.work {
                Work::Train { trial } => {
                    let planned = &self.plan.trials[*trial];
                    let config = &planned.trial.config;
                    let kind = kind(config);
                    if !speeds.contains_key(&kind) {
                        let speed = match speeds.values().next() {
                            Some(known) if speeds.len() >= KINDS => *known,
                            _ => self.try_training(config, &planned.trial.label, &base)?,
                        };
                        speeds.insert(kind.clone(), speed);
                    }
                    let (tokens, seconds) = speeds[&kind];
                    out.train_tokens += tokens * planned.steps as f64;
                    out.train_seconds += seconds * planned.steps as f64;
                    let (stays, passing) = checkpoint_bytes(config, &base);
                    out.disk += stays * planned.checkpoints.len() as u64;
                    out.disk_while_training = out.disk_while_training.max(passing);
                }
                Work::Merge { .. } => {
                    out.disk += weight_bytes(&base);
                }
                _ => {}
            }
        }
        if out.scorings + out.search_scorings > 0 {
            let speed = self.try_encoding(&base, &mut out)?;
            let (dev, test) = out.tokens_a_model;
            out.score_seconds =
                (out.scorings as f64 * (dev + test) + out.search_scorings as f64 * dev) / speed.max(1e-9);
        }
        Ok(out)
    }

    /// What is to be done, counted: no time, no tokens, no bytes.
    pub fn count(&self) -> Estimate {
        let mut out = Estimate::default();
        for step in self.plan.steps.iter().filter(|step| !self.folder.is_complete(&step.id)) {
            match &step.work {
                Work::Train { trial } => {
                    out.trainings += 1;
                    out.train_steps += self.plan.trials[*trial].steps;
                }
                Work::Merge { merge } => out.search_scorings += self.plan.search_budget(*merge),
                Work::Score { split, .. } => out.scorings += usize::from(*split == "test"),
                Work::Base => {}
            }
        }
        out
    }

    /// Tokens and seconds of an optimizer step.
    fn try_training(&self, config: &Config, label: &str, base: &ModelFiles) -> Result<(f64, f64), ExecError> {
        let mut short = config.clone();
        let planned = short.train.max_steps.unwrap_or(usize::MAX).min(STEPS);
        (short.train.max_steps, short.train.eval_every, short.train.save_every) = (Some(planned), None, None);
        (short.train.eval_tasks, short.data.dev, short.data.dev_share) = (Vec::new(), Vec::new(), None);
        short.prune = None;
        let nothing = |_: usize, _: usize, _: f64| {};
        let training = Training {
            config: &short,
            label,
            base,
            base_name: "base",
            sets: &self.plan.sets,
            tasks: None,
            device: &self.device,
            output: None,
            fingerprint: "estimate",
            progress: &nothing,
            hold: None,
        };
        let (output, _) = training.run()?;
        let steps = output.steps.max(1) as f64;
        Ok((output.tokens as f64 / steps, output.seconds / steps))
    }

    /// Tokens a second; fills in the tokens of a model's texts.
    fn try_encoding(&self, base: &ModelFiles, out: &mut Estimate) -> Result<f64, ExecError> {
        let half = settings::encodes_in_half(&self.device, self.plan.config.run.dtype);
        let embedder =
            Embedder::build(base, &BuildOptions { device: self.device.clone(), half, ..Default::default() })?;
        let mut sample: Vec<String> = Vec::new();
        let mut counts: Vec<(Split, f64, usize, usize)> = Vec::new();
        for (number, spec) in self.plan.tasks.iter().enumerate() {
            for &split in self.plan.sides() {
                let Some(data) = self.task_data(number, split)? else { continue };
                let counter = Counter { seen: RefCell::default() };
                // It ends with the encoder's refusal.
                let _ = evaluate(spec, split, &data, &counter, &[42], self.protocol());
                let (texts, some) = counter.seen.into_inner();
                let from = sample.len();
                sample.extend(some.into_iter().take(TEXTS));
                counts.push((split, texts, from, sample.len()));
            }
        }
        let lengths = |from: usize, to: usize| -> Result<f64, ExecError> {
            let texts: Vec<&str> = sample[from..to].iter().map(String::as_str).collect();
            let tokens = base.tokenizer().encode(&texts, "")?.iter().map(Vec::len).sum::<usize>();
            Ok(tokens as f64 / texts.len().max(1) as f64)
        };
        for &(split, texts, from, to) in &counts {
            let tokens = texts * lengths(from, to)?;
            match split {
                Split::Dev => out.tokens_a_model.0 += tokens,
                Split::Test => out.tokens_a_model.1 += tokens,
            }
        }
        let every = (sample.len() / TEXTS).max(1);
        let texts: Vec<&str> = sample.iter().step_by(every).map(String::as_str).collect();
        // Once to warm up.
        encode(&embedder, &texts[..texts.len().min(32)], "", &|_| {})?;
        let start = Instant::now();
        let encoded = encode(&embedder, &texts, "", &|_| {})?;
        Ok(encoded.tokens as f64 / start.elapsed().as_secs_f64().max(1e-9))
    }
}

fn weight_bytes(base: &ModelFiles) -> u64 {
    base.weights.values().map(|tensor| 4 * tensor.elem_count() as u64).sum()
}

/// Bytes of a checkpoint, and of the state beside it while the training runs: two moments, and the weights themselves.
fn checkpoint_bytes(config: &Config, base: &ModelFiles) -> (u64, u64) {
    let trained = match config.adapter.lora() {
        None => weight_bytes(base),
        Some(lora) => {
            let layers = crate::train::run::linear_layers(base);
            let targets = crate::train::run::adapter_targets(base, &lora.targets);
            let on = |module: &str| targets.iter().any(|target| crate::adapter::matches_target(module, target));
            let sides: usize =
                layers.iter().filter(|(m, _)| on(m)).map(|(_, (outputs, inputs))| outputs + inputs).sum();
            4 * (sides * lora.rank) as u64
        }
    };
    (trained, 3 * trained)
}
