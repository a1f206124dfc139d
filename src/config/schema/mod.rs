//! The checked config: its sections and their defaults.

mod sweep;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

pub use sweep::{
    Alpha, Choose, Dtype, Executor, Linear, Merge, Pairs, Prune, PruneRule, Rule, Run, Score, Search, Select, Selector,
    Slerp, SlerpMode, SlurmSettings, Weights,
};

/// A checked config: only this can run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Names the run's and the report's folders.
    pub name: String,
    /// The model to start from.
    pub base: Base,
    /// Training data.
    pub data: Data,
    /// What a batch's loss looks at.
    pub objective: Objective,
    /// The loss.
    pub loss: Loss,
    /// What is trained.
    pub adapter: Adapter,
    /// How TSDAE damages texts.
    #[serde(skip_serializing_if = "is_default")]
    pub tsdae: Tsdae,
    /// Optimization.
    pub train: Train,
    /// Which of the grid's points are trials.
    #[serde(skip_serializing_if = "is_default")]
    pub search: Search,
    /// Merges of trained variants.
    pub merge: Vec<Merge>,
    /// Which trials are stopped early for the sake of others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune: Option<Prune>,
    /// Tasks and how they are scored.
    pub score: Score,
    /// How the best is chosen.
    pub choose: Choose,
    /// Where it runs.
    pub run: Run,
}

/// The model to start from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// A model folder.
    Folder(PathBuf),
    /// A model of the hub.
    Hub {
        /// `org/name`, perhaps with `@revision`.
        id: String,
        /// Where it lies on this machine, once it does.
        folder: Option<PathBuf>,
    },
    /// Made from nothing.
    Scratch(Scratch),
}

/// Sizes of a model made from nothing; its tokenizer is trained on the training data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scratch {
    /// Transformer layers (default 2).
    pub layers: usize,
    /// Width of the token vectors (default 128).
    pub hidden: usize,
    /// Attention heads (default hidden / 32).
    pub heads: usize,
    /// Width of the feed-forward layers (default 4 hidden).
    pub intermediate: usize,
    /// Most entries of the vocabulary (default 8000).
    pub vocabulary: usize,
    /// Most tokens of a text (default 128).
    pub max_length: usize,
    /// Whether texts are lower-cased (default true).
    pub lower_case: bool,
    /// Seed of the weights (default 1).
    pub seed: u64,
}

/// Training data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Data {
    /// Training sets; none where the base alone is scored.
    pub train: Vec<TrainSet>,
    /// Dev sets: loss and ranking while training.
    pub dev: Vec<TrainSet>,
    /// Prompts before queries and documents; the model's own if none is given.
    pub prompts: (Option<String>, Option<String>),
    /// Share of the training rows that is kept for dev instead of dev sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_share: Option<f64>,
    /// How several sets are mixed.
    #[serde(skip_serializing_if = "is_default")]
    pub mixing: Mixing,
    /// Whether a batch is of one set.
    #[serde(skip_serializing_if = "is_default")]
    pub one_set_per_batch: bool,
    /// Whether no text occurs twice in a batch.
    #[serde(skip_serializing_if = "is_default")]
    pub no_duplicates: bool,
    /// Whether a last batch that is not full is left out.
    #[serde(skip_serializing_if = "is_default")]
    pub drop_last: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How several sets are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mixing {
    /// All rows together.
    #[default]
    Proportional,
    /// The sets take turns until the first is exhausted, or all are.
    RoundRobin {
        /// Whether the smaller ones start again.
        all: bool,
    },
    /// Sets have shares in proportion to `weight^alpha`.
    Weighted {
        /// 0: all alike; 1: by weight.
        alpha: f64,
        /// Whether it goes on until all are exhausted (the default here), or ends with the first.
        all: bool,
    },
}

/// A file of training rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSet {
    /// The file.
    pub path: PathBuf,
    /// Rows used per epoch, as a multiple of those there are (default 1).
    pub weight: f64,
    /// Most rows read, from the start.
    pub limit: Option<usize>,
    /// Prompts of this set instead of `data.prompts`.
    #[serde(skip_serializing_if = "is_default")]
    pub prompts: (Option<String>, Option<String>),
    /// Our names of columns → the file's.
    #[serde(skip_serializing_if = "is_default")]
    pub columns: BTreeMap<String, String>,
}

/// What a batch's loss looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Both sides alike, both directions.
    Symmetric,
    /// Query to document, with their prompts and lengths.
    Asymmetric,
    /// A damaged text is read back from its embedding.
    Tsdae,
}

impl Objective {
    /// As written in the config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Asymmetric => "asymmetric",
            Self::Tsdae => "tsdae",
        }
    }
}

/// The loss, and what goes around it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Loss {
    /// Temperature (default 0.05).
    pub temperature: f64,
    /// Hard negatives a row, at most (default 1).
    pub hard_negatives: usize,
    /// Texts of a row beside its query: a positive and negatives, repeated where there are too few (FlagEmbedding's
    /// `train_group_size`), instead of `hard_negatives`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<usize>,
    /// Which loss (default InfoNCE).
    #[serde(skip_serializing_if = "is_default")]
    pub kind: LossKind,
    /// Cross-batch memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Matryoshka dimensions and weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matryoshka: Option<Matryoshka>,
}

/// Earlier batches' pairs as further negatives.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Pairs kept.
    pub size: usize,
    /// Batches before it is used (default 0).
    pub warmup: usize,
}

/// Losses of the first dimensions beside that of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matryoshka {
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Weights (default 1 each).
    pub weights: Vec<f64>,
}

/// Which loss, with its own settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum LossKind {
    /// In-batch and hard negatives.
    InfoNce {
        /// Whether the temperature is learned.
        learn_temperature: bool,
        /// Share of probability spread over the negatives (default 0).
        label_smoothing: f64,
        /// Negatives this near to the positive are masked.
        false_negatives: Option<Margin>,
    },
    /// InfoNCE with a guide model that finds false negatives.
    Gist {
        /// The guide: `base`, or a model folder.
        guide: String,
        /// Where it lies; none for the base.
        folder: Option<PathBuf>,
        /// Negatives that the guide places this near to the positive are masked.
        margin: Margin,
    },
    /// Two dropout passes.
    Simcse,
    /// KL divergence from a teacher's scores.
    Distillation {
        /// Temperature of the teacher's scores (default 1).
        teacher_temperature: f64,
    },
    /// Squared error of score differences to a teacher's.
    MarginMse,
    /// Triplets.
    Triplet {
        /// Least difference of distances (default 0.5 for cosine, 5 otherwise).
        margin: f64,
        /// Distance (default cosine).
        distance: Distance,
    },
    /// The hardest positive and negative of a label.
    BatchHardTriplet {
        /// Which triplets of a batch count (default hard).
        mining: Mining,
        /// Least difference of distances; none is the soft margin, of hard triplets.
        margin: Option<f64>,
        /// Distance (default cosine).
        distance: Distance,
    },
    /// Pairs in the order of their scores.
    Cosent {
        /// Factor of the cosines (default 20).
        scale: f64,
    },
    /// As CoSENT, on angles.
    Angle {
        /// Factor (default 20).
        scale: f64,
    },
    /// Cosine = score.
    CosineRegression,
    /// Angular margins between classes.
    Arcface {
        /// Factor of the cosines (default 30).
        scale: f64,
        /// Margin in radians, at the start and from the end of its warm-up (default 0.3).
        margin: (f64, f64),
        /// Batches in which the margin rises from the first to the second.
        margin_warmup: usize,
        /// Whether rare classes have wider margins.
        adaptive: bool,
        /// How much of its margin a class that is not learned yet is spared, 0 to 1 (default 0).
        easing: f64,
    },
}

impl Default for LossKind {
    fn default() -> Self {
        Self::InfoNce { learn_temperature: false, label_smoothing: 0.0, false_negatives: None }
    }
}

impl LossKind {
    /// As written in the config.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InfoNce { .. } => "info_nce",
            Self::Gist { .. } => "gist",
            Self::Simcse => "simcse",
            Self::Distillation { .. } => "distillation",
            Self::MarginMse => "margin_mse",
            Self::Triplet { .. } => "triplet",
            Self::BatchHardTriplet { .. } => "batch_hard_triplet",
            Self::Cosent { .. } => "cosent",
            Self::Angle { .. } => "angle",
            Self::CosineRegression => "cosine_regression",
            Self::Arcface { .. } => "arcface",
        }
    }
}

/// How near to the positive a negative must be to count as false.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Margin {
    /// Similarity above the positive's less this.
    Absolute(f64),
    /// Similarity above the positive's times one less this.
    Relative(f64),
}

/// Which triplets of a batch of labelled texts count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mining {
    /// The farthest positive and the nearest negative of each text.
    Hard,
    /// The nearest negative beyond each positive.
    SemiHard,
    /// All.
    All,
}

/// Distances of triplets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// 1 − cosine.
    Cosine,
    /// L2.
    Euclidean,
    /// L1.
    Manhattan,
}

/// How TSDAE damages texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Tsdae {
    /// Probability that a word is deleted (default 0.6).
    pub deletion: f64,
    /// Places that a word can move by (default 0).
    pub shuffle: usize,
    /// Probability that a word is masked (default 0).
    pub masking: f64,
}

impl Default for Tsdae {
    fn default() -> Self {
        Self { deletion: 0.6, shuffle: 0, masking: 0.0 }
    }
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Adapter {
    /// All of the model's weights.
    Full,
    /// A low-rank adapter on frozen weights.
    Lora(Lora),
    /// A low-rank adapter on frozen weights kept in 4 or 8 bit.
    Qlora {
        /// The adapter.
        #[serde(flatten)]
        lora: Lora,
        /// How the weights are kept (default NF4, double quantisation).
        quantization: Quantization,
        /// Whether the word embeddings are kept in 8 bit as well (default true).
        quantize_embeddings: bool,
    },
}

impl Adapter {
    /// The low-rank adapter, where there is one.
    pub fn lora(&self) -> Option<&Lora> {
        match self {
            Self::Full => None,
            Self::Lora(lora) | Self::Qlora { lora, .. } => Some(lora),
        }
    }
}

/// A low-rank adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lora {
    /// Rank (default 8).
    pub rank: usize,
    /// Scale is alpha / rank (default 2 rank).
    pub alpha: f64,
    /// Dropout before the adapter (default 0).
    pub dropout: f64,
    /// Linear layers, by name, end of name, glob, or `all-linear`; empty for the architecture's own (PEFT's default: `query` and
    /// `value` for BERT, `q_proj` and `v_proj` for Qwen …).
    pub targets: Vec<String>,
    /// Scale is alpha / √rank.
    #[serde(skip_serializing_if = "is_default")]
    pub rslora: bool,
    /// Direction and magnitude apart (DoRA).
    #[serde(skip_serializing_if = "is_default")]
    pub dora: bool,
    /// Ranks of single modules, by pattern.
    #[serde(skip_serializing_if = "is_default")]
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas of single modules, by pattern.
    #[serde(skip_serializing_if = "is_default")]
    pub alpha_pattern: Vec<(String, f64)>,
}

/// How frozen weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// 4 bit NormalFloat, its scales quantised once more.
    Nf4,
    /// 4 bit NormalFloat with f32 scales.
    Nf4Single,
    /// 8 bit by row.
    Int8,
}

/// Optimization.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Train {
    /// Passes over the rows (default 1).
    pub epochs: usize,
    /// Optimizer steps, if fewer.
    pub max_steps: Option<usize>,
    /// Rows a batch (default 32).
    pub batch: usize,
    /// Batches an optimizer step (default 1).
    pub accumulate: usize,
    /// Highest learning rate (default 2e-5).
    pub lr: f64,
    /// Shape after warm-up (default linear).
    pub schedule: Schedule,
    /// Warm-up: a share of the steps below 1, steps otherwise (default 0.05).
    pub warmup: f64,
    /// Largest gradient norm; null for none (default 1).
    pub clip: Option<f64>,
    /// Decoupled weight decay (default 0.01).
    pub weight_decay: f64,
    /// Decay rates of AdamW's moments (default 0.9, 0.999).
    pub betas: (f64, f64),
    /// AdamW's epsilon (default 1e-8).
    pub eps: f64,
    /// Most tokens of queries and documents (default the model's own).
    pub max_length: (Option<usize>, Option<usize>),
    /// Seed of order, draws and initial adapters (default 1).
    pub seed: u64,
    /// Steps between dev evaluations.
    pub eval_every: Option<usize>,
    /// Steps between checkpoints; the last step is always saved.
    pub save_every: Option<usize>,
    /// Tensors that stay as they are, by glob.
    pub freeze: Vec<String>,
    /// Dropout of the model (default as its config says).
    #[serde(skip_serializing_if = "Dropout::is_off")]
    pub dropout: Dropout,
    /// Factor of the learning rate from a layer to the one below (default 1).
    #[serde(skip_serializing_if = "is_one")]
    pub layer_decay: f64,
    /// Tensors with rates of their own.
    #[serde(skip_serializing_if = "is_default")]
    pub groups: Vec<Group>,
    /// Tensors without weight decay (default biases and norms).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_decay: Option<Vec<String>>,
    /// Decay rate of an average of the weights, which is then what is evaluated and saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Texts of a chunk of cached contrastive training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_cache: Option<usize>,
    /// Whether activations are computed again in the backward pass.
    #[serde(skip_serializing_if = "is_default")]
    pub checkpointing: bool,
    /// Tasks whose dev side is scored with every dev evaluation.
    #[serde(skip_serializing_if = "is_default")]
    pub eval_tasks: Vec<String>,
    /// Identity of those tasks' files and limits, where they decide the result; set when they are found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_print: Option<String>,
    /// What the best checkpoint is best by, and stopping early looks at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Evaluations without improvement after which training stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Least change that counts as an improvement.
    #[serde(skip_serializing_if = "is_default")]
    pub min_delta: f64,
    /// Checkpoints kept beside the best and the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<usize>,
    /// Bytes that checkpoints may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_bytes: Option<u64>,
    /// Steps between states that an interrupted run is taken up from (default: with every evaluation and checkpoint, and every
    /// ten minutes).
    #[serde(skip)]
    pub state_every: Option<usize>,
}

impl Train {
    /// Whether the run itself decides which checkpoints stay and which is its result.
    pub fn chooses_checkpoints(&self) -> bool {
        self.metric.is_some() || self.patience.is_some() || self.keep_last.is_some() || self.keep_bytes.is_some()
    }
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// Dropout of the model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dropout {
    /// As its config says.
    Config,
    /// This probability, everywhere that the config has one.
    Rate(f64),
}

impl Dropout {
    fn is_off(&self) -> bool {
        *self == Self::Rate(0.0)
    }
}

/// Tensors with rates of their own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Names, by glob.
    pub pattern: String,
    /// Factor of the learning rate (default 1).
    pub lr: f64,
    /// Weight decay instead of `train.weight_decay`.
    pub weight_decay: Option<f64>,
}

/// What a dev evaluation gives one number of.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Loss on the dev rows; smaller is better.
    Loss,
    /// Mean reciprocal rank on the dev rows.
    Mrr,
    /// Mean of `train.eval_tasks` by `choose.by`'s rule of types.
    Tasks,
    /// One of `train.eval_tasks`.
    Task(String),
}

/// Learning-rate schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Falls linearly to 0.
    Linear,
    /// Half a cosine.
    Cosine,
    /// Stays.
    Constant,
}
