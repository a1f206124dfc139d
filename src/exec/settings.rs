//! From the checked config to the settings of training and merging.

use super::ExecError;
use crate::adapter::{LoraSpec, QuantKind, Quantization};
use crate::config::Config;
use crate::config::schema::{self, Adapter, Dropout, LossKind, Objective, Schedule, Scratch, SlerpMode};
use crate::loss::adaptive_margin;
use crate::loss::distance::Distance;
use crate::loss::margin::Margin;
use crate::loss::matryoshka::Matryoshka;
use crate::loss::triplet_mining::{Mining, TripletMining};
use crate::merge::slerp;
use crate::model::prompts::Side;
use crate::model::scratch::{self, ScratchSpec};
use crate::model::{ModelDropout, ModelFiles};
use crate::objective::tsdae::Noise;
use crate::objective::{Criterion, Direction, Kind};
use crate::plan::PlanError;
use crate::plan::sets::{Prompts, TrainingSets, mix};
use crate::train::Settings;
use crate::train::batches::{Draw, Source};
use crate::train::best::Rule;
use crate::train::groups::{self, Group, Groups};
use crate::train::optimizer::AdamW;
use crate::train::run::{self, AdapterSettings, Precision};
use crate::train::schedule::Shape;

/// The base that the config makes from nothing; its vocabulary is learnt from the training texts, whatever a trial's seed.
///
/// # Errors
/// Where the texts cannot be read, or the sizes do not make a model.
pub fn base_from_nothing(config: &Config, base: &Scratch, sets: &TrainingSets) -> Result<ModelFiles, ExecError> {
    let mut texts = Vec::new();
    for set in &config.data.train {
        let set = sets.open(set).map_err(PlanError::from)?;
        for row in 0..set.len() {
            let row = set.row(row).map_err(PlanError::from)?;
            texts.push(row.query);
            texts.extend(row.positives);
            texts.extend(row.negatives);
        }
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
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

fn direction(config: &Config) -> Direction {
    match config.objective {
        Objective::Asymmetric => Direction::Asymmetric,
        Objective::Symmetric | Objective::Tsdae => Direction::Symmetric,
    }
}

/// The base's own prompts of queries and documents, for a config that gives none.
pub fn own_prompts(config: &Config, base: &ModelFiles) -> Prompts {
    let prompts = &base.layout.prompts;
    match (config.objective, direction(config)) {
        // What is read back is the text as it is.
        (Objective::Tsdae, _) => Prompts::default(),
        // Both sides alike: the prompt of symmetric tasks.
        (_, Direction::Symmetric) => {
            let both = prompts.find("", "STS", None).to_string();
            (both.clone(), both)
        }
        (_, Direction::Asymmetric) => {
            (prompts.of_side(Side::Query).to_string(), prompts.of_side(Side::Document).to_string())
        }
    }
}

/// Training settings of a trial on this base: lengths that the config leaves out are the model's.
pub fn training(config: &Config, base: &ModelFiles, train: &[Source]) -> Settings {
    let t = &config.train;
    let limit = |given: Option<usize>| given.unwrap_or(base.max_seq_length).min(base.architecture.max_tokens());
    Settings {
        objective: objective(config),
        loss_name: match config.objective {
            Objective::Tsdae => "objective tsdae".into(),
            _ => format!("loss.name {}", config.loss.kind.name()),
        },
        draw: config.loss.group_size.map_or(Draw::HardNegatives(config.loss.hard_negatives), Draw::Group),
        mix: mix(config, train),
        max_length: (limit(t.max_length.0), limit(t.max_length.1)),
        adapter: adapter(&config.adapter),
        freeze: t.freeze.clone(),
        dropout: match t.dropout {
            Dropout::Config => Some(base.architecture.dropout()),
            Dropout::Rate(0.0) => None,
            Dropout::Rate(rate) => Some(ModelDropout { hidden: rate as f32, attention: rate as f32 }),
        },
        epochs: t.epochs,
        max_steps: t.max_steps,
        batch: t.batch,
        accumulate: t.accumulate,
        grad_cache: t.grad_cache,
        checkpointing: t.checkpointing,
        precision: match config.run.dtype {
            schema::Dtype::Auto => Precision::High,
            schema::Dtype::F32 => Precision::F32,
            schema::Dtype::Bf16 => Precision::Bf16,
        },
        lr: t.lr,
        schedule: match t.schedule {
            Schedule::Linear => Shape::Linear,
            Schedule::Cosine => Shape::Cosine,
            Schedule::Constant => Shape::Constant,
        },
        warmup: t.warmup,
        optimizer: AdamW { betas: t.betas, eps: t.eps, weight_decay: t.weight_decay, clip: t.clip, ema: t.ema },
        groups: Groups {
            groups: t
                .groups
                .iter()
                .map(|g| Group { pattern: g.pattern.clone(), lr: g.lr, weight_decay: g.weight_decay })
                .chain(learned(config))
                .collect(),
            layer_decay: t.layer_decay,
            layers: base.architecture.layers(),
            no_decay: t.no_decay.clone().unwrap_or_else(groups::default_no_decay),
        },
        seed: t.seed,
        eval_every: t.eval_every,
        best: best(config),
        save_every: t.save_every,
        keep: (t.keep_last, t.keep_bytes),
        state_every: t.state_every,
    }
}

/// Learning rate of what a loss learns beside the model: it starts from a guess, not from a trained value.
const LEARNED: f64 = 1e-3;

/// The group of what the loss learns, after the config's own groups.
fn learned(config: &Config) -> Option<Group> {
    let learns =
        matches!(config.loss.kind, LossKind::Arcface { .. } | LossKind::InfoNce { learn_temperature: true, .. })
            && config.objective != Objective::Tsdae;
    let lr = (LEARNED / config.train.lr).max(1.0);
    learns.then(|| Group { pattern: "loss.*".into(), lr, weight_decay: None })
}

/// What the best checkpoint is best by: what the config says, or where it stops early, what its evaluations give.
fn best(config: &Config) -> Option<Rule> {
    let t = &config.train;
    let metric = match &t.metric {
        Some(schema::Metric::Loss) => "loss".to_string(),
        Some(schema::Metric::Mrr) => "mrr".into(),
        Some(schema::Metric::Tasks) => "tasks".into(),
        Some(schema::Metric::Task(task)) => task.clone(),
        None if t.patience.is_none() => return None,
        None if !t.eval_tasks.is_empty() => "tasks".into(),
        None => "loss".into(),
    };
    Some(Rule { metric, min_delta: t.min_delta, patience: t.patience })
}

fn margin(margin: schema::Margin) -> Margin {
    match margin {
        schema::Margin::Absolute(margin) => Margin::Absolute(margin),
        schema::Margin::Relative(margin) => Margin::Relative(margin),
    }
}

fn distance(distance: schema::Distance) -> Distance {
    match distance {
        schema::Distance::Cosine => Distance::Cosine,
        schema::Distance::Euclidean => Distance::Euclidean,
        schema::Distance::Manhattan => Distance::Manhattan,
    }
}

fn objective(config: &Config) -> run::Objective {
    if config.objective == Objective::Tsdae {
        let schema::Tsdae { deletion, shuffle, masking } = config.tsdae;
        return run::Objective::Tsdae(Noise { deletion, shuffle, masking });
    }
    let loss = &config.loss;
    let mut margins = None;
    let kind = match &loss.kind {
        LossKind::InfoNce { learn_temperature, label_smoothing, false_negatives } => Kind::InfoNce {
            learn_temperature: *learn_temperature,
            label_smoothing: *label_smoothing,
            false_negatives: false_negatives.map(margin),
        },
        LossKind::Gist { margin: m, .. } => Kind::Gist { margin: margin(*m) },
        LossKind::Simcse => Kind::SimCse,
        LossKind::Distillation { teacher_temperature } => {
            Kind::Distillation { teacher_temperature: *teacher_temperature }
        }
        LossKind::MarginMse => Kind::MarginMse,
        LossKind::Triplet { margin, distance: d } => Kind::Triplet { margin: *margin, distance: distance(*d) },
        LossKind::BatchHardTriplet { mining, margin, distance: d } => Kind::BatchTriplets(TripletMining {
            distance: distance(*d),
            mining: match (mining, *margin) {
                (_, None) => Mining::HardSoftMargin,
                (schema::Mining::Hard, Some(margin)) => Mining::Hard { margin },
                (schema::Mining::SemiHard, Some(margin)) => Mining::SemiHard { margin },
                (schema::Mining::All, Some(margin)) => Mining::All { margin },
            },
        }),
        LossKind::Cosent { scale } => Kind::CoSent { scale: *scale },
        LossKind::Angle { scale } => Kind::Angle { scale: *scale },
        LossKind::CosineRegression => Kind::Regression,
        LossKind::Arcface { scale, margin: (start, end), margin_warmup, adaptive, easing } => {
            let adaptive = *adaptive;
            margins = Some(adaptive_margin::Settings {
                start: *start,
                end: *end,
                warm_up: *margin_warmup as u64,
                smallest: if adaptive { end / 2.0 } else { *end },
                largest: if adaptive { (2.0 * end).min(std::f64::consts::FRAC_PI_2) } else { *end },
                // Ha et al. 2020.
                power: if adaptive { 0.25 } else { 0.0 },
                easing: *easing,
                momentum: 0.99,
            });
            Kind::ArcFace { scale: *scale }
        }
    };
    run::Objective::Embeddings(Criterion {
        kind,
        direction: direction(config),
        temperature: loss.temperature,
        matryoshka: loss.matryoshka.as_ref().map(|m| Matryoshka { dims: m.dims.clone(), weights: m.weights.clone() }),
        memory: loss.memory.map(|m| (m.size, m.warmup)),
        margins,
    })
}

fn adapter(adapter: &Adapter) -> Option<AdapterSettings> {
    let lora = adapter.lora()?;
    Some(AdapterSettings {
        spec: LoraSpec {
            rank: lora.rank,
            alpha: lora.alpha,
            dropout: lora.dropout,
            rslora: lora.rslora,
            dora: lora.dora,
            rank_pattern: lora.rank_pattern.clone(),
            alpha_pattern: lora.alpha_pattern.clone(),
        },
        targets: lora.targets.clone(),
        quantization: quantization(adapter),
    })
}

/// How an adapter's frozen weights are kept.
pub fn quantization(adapter: &Adapter) -> Option<Quantization> {
    let Adapter::Qlora { quantization, quantize_embeddings, .. } = adapter else { return None };
    let kind = match quantization {
        schema::Quantization::Nf4 => QuantKind::Nf4 { double: true },
        schema::Quantization::Nf4Single => QuantKind::Nf4 { double: false },
        schema::Quantization::Int8 => QuantKind::Int8,
    };
    Some(Quantization { kind, embeddings: *quantize_embeddings })
}

/// The mode of SLERP.
pub fn slerp_mode(mode: SlerpMode) -> slerp::Mode {
    match mode {
        SlerpMode::Tensor => slerp::Mode::Tensor,
        SlerpMode::Whole => slerp::Mode::Whole,
        SlerpMode::Delta => slerp::Mode::Delta,
    }
}

/// Whether models encode with weights and activations in `bf16`: on a GPU, unless `run.dtype` is f32.
pub fn encodes_in_half(device: &candle_core::Device, dtype: schema::Dtype) -> bool {
    device.is_cuda() && dtype != schema::Dtype::F32
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
