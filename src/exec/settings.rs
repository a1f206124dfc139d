//! From the checked config to the settings of training and merging.

use super::ExecError;
use crate::adapter::LoraSpec;
use crate::config::Config;
use crate::config::schema::{Adapter, Objective, Schedule, Scratch, SlerpMode};
use crate::merge::slerp;
use crate::model::ModelFiles;
use crate::model::prompts::Side;
use crate::model::scratch::{self, ScratchSpec};
use crate::objective::Direction;
use crate::plan::{PlanError, load_rows};
use crate::train::Settings;
use crate::train::optimizer::AdamW;
use crate::train::schedule::Shape;

/// The base that the config makes from nothing; its vocabulary is learnt from the training texts, whatever a trial's seed.
///
/// # Errors
/// Where the texts cannot be read, or the sizes do not make a model.
pub fn base_from_nothing(config: &Config, base: &Scratch) -> Result<ModelFiles, ExecError> {
    let rows = load_rows(&config.data.train, 0).map_err(PlanError::from)?;
    let texts: Vec<&str> = rows
        .iter()
        .flat_map(|r| std::iter::once(&r.query).chain(&r.positives).chain(&r.negatives))
        .map(String::as_str)
        .collect();
    let spec = ScratchSpec {
        layers: base.layers,
        hidden: base.hidden,
        heads: base.heads,
        intermediate: base.intermediate,
        vocabulary: base.vocabulary,
        max_length: base.max_length,
        lower_case: base.lower_case,
        seed: base.seed,
    };
    Ok(scratch::create(&spec, &texts)?)
}

/// Training settings of a trial on this base: prompts and lengths that the config leaves out are the model's.
pub fn training(config: &Config, base: &ModelFiles) -> Settings {
    let t = &config.train;
    let direction = match config.objective {
        Objective::Symmetric => Direction::Symmetric,
        Objective::Asymmetric => Direction::Asymmetric,
    };
    let own = |side: Side| match direction {
        // Both sides alike: the prompt of symmetric tasks.
        Direction::Symmetric => base.layout.prompts.find("", "STS", None).to_string(),
        Direction::Asymmetric => base.layout.prompts.of_side(side).to_string(),
    };
    let (query, document) = &config.data.prompts;
    let prompts =
        (query.clone().unwrap_or_else(|| own(Side::Query)), document.clone().unwrap_or_else(|| own(Side::Document)));
    let limit = |given: Option<usize>| given.unwrap_or(base.max_seq_length).min(base.architecture.max_tokens());
    Settings {
        direction,
        temperature: config.loss.temperature,
        hard_negatives: config.loss.hard_negatives,
        prompts,
        max_length: (limit(t.max_length.0), limit(t.max_length.1)),
        adapter: match &config.adapter {
            Adapter::Full => None,
            Adapter::Lora { rank, alpha, dropout, targets } => {
                let spec = LoraSpec { rank: *rank, alpha: *alpha, dropout: *dropout, rslora: false };
                Some((spec, targets.clone()))
            }
        },
        freeze: t.freeze.clone(),
        epochs: t.epochs,
        max_steps: t.max_steps,
        batch: t.batch,
        accumulate: t.accumulate,
        lr: t.lr,
        schedule: match t.schedule {
            Schedule::Linear => Shape::Linear,
            Schedule::Cosine => Shape::Cosine,
            Schedule::Constant => Shape::Constant,
        },
        warmup: t.warmup,
        optimizer: AdamW { betas: t.betas, eps: t.eps, weight_decay: t.weight_decay, clip: t.clip },
        seed: t.seed,
        eval_every: t.eval_every,
        save_every: t.save_every,
    }
}

/// The mode of SLERP.
pub fn slerp_mode(mode: SlerpMode) -> slerp::Mode {
    match mode {
        SlerpMode::Tensor => slerp::Mode::Tensor,
        SlerpMode::Whole => slerp::Mode::Whole,
        SlerpMode::Delta => slerp::Mode::Delta,
    }
}

/// The device that `run.device` names: `auto` is the first GPU of a build that has one, the CPU otherwise.
///
/// # Errors
/// Where the device is not there.
pub fn device(name: &str) -> Result<candle_core::Device, String> {
    let gpu = |index: usize| {
        candle_core::Device::new_cuda(index)
            .map_err(|e| format!("device {name}: {e} (is this a build with --features cuda, on a machine with a GPU?)"))
    };
    match name {
        "cpu" => Ok(candle_core::Device::Cpu),
        "auto" => candle_core::Device::cuda_if_available(0).map_err(|e| format!("device auto: {e}")),
        "cuda" => gpu(0),
        other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(index) => gpu(index),
            None => Err(format!("device {other}: must be auto, cpu, cuda or cuda:N")),
        },
    }
}
