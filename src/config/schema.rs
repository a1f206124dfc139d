//! The checked config: its sections and their defaults.

use std::path::PathBuf;

use serde::Serialize;

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
    /// Optimization.
    pub train: Train,
    /// Merges of trained variants.
    pub merge: Vec<Slerp>,
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
    /// Training sets.
    pub train: Vec<TrainSet>,
    /// Dev sets: loss and ranking while training.
    pub dev: Vec<TrainSet>,
    /// Prompts before queries and documents; the model's own if none is given.
    pub prompts: (Option<String>, Option<String>),
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
}

/// What a batch's loss looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Both sides alike, both directions.
    Symmetric,
    /// Query to document, with their prompts and lengths.
    Asymmetric,
}

/// InfoNCE.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Loss {
    /// Temperature (default 0.05).
    pub temperature: f64,
    /// Hard negatives a row, at most (default 1).
    pub hard_negatives: usize,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Adapter {
    /// All of the model's weights.
    Full,
    /// A low-rank adapter on frozen weights.
    Lora {
        /// Rank (default 8).
        rank: usize,
        /// Scale is alpha / rank (default 2 rank).
        alpha: f64,
        /// Dropout before the adapter (default 0).
        dropout: f64,
        /// Linear layers, by name, end of name, glob, or `all-linear` (default query, value).
        targets: Vec<String>,
    },
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

/// SLERP of pairs of trials.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slerp {
    /// Axes that the first of a pair has (α = 0).
    pub first: Vec<(String, String)>,
    /// Axes that the second has (α = 1).
    pub second: Vec<(String, String)>,
    /// Weight of the second.
    pub alpha: Alpha,
    /// Tensor by tensor, the whole model as one vector, or the changes from the base.
    pub mode: SlerpMode,
    /// The search stops when α is known this closely (default 0.05).
    pub tolerance: f64,
    /// Most evaluations of a search (default 12).
    pub budget: usize,
}

/// Weight of the second model of a merge.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// Found on dev.
    Auto,
    /// Given; a merge each.
    Values(Vec<f64>),
}

/// What is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlerpMode {
    /// Each tensor by itself.
    Tensor,
    /// All weights as one vector.
    Whole,
    /// Each tensor's change from the base.
    Delta,
}

/// Tasks and how they are scored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Selectors: benchmarks, task files, folders, names, globs, `type=…`, `lang=…`.
    pub tasks: Vec<String>,
    /// Score every checkpoint, or the last of each trial alone.
    pub all_checkpoints: bool,
    /// Most rows of a split (training splits of tasks are not cut).
    pub limit: Option<usize>,
    /// The same for single tasks, by name, instead of `limit`.
    pub limits: std::collections::BTreeMap<String, usize>,
    /// Protocol seeds on test, 42 the first (default 3).
    pub seeds: usize,
    /// Whose draws: `sklearn-1.9` (default) or `sklearn-1.8`.
    pub protocol: String,
}

impl Score {
    /// Most rows of a split of this task.
    pub fn limit_of(&self, task: &str) -> Option<usize> {
        self.limits.get(task).copied().or(self.limit)
    }
}

/// How the best is chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choose {
    /// Chosen on test instead of dev: the report says so in its first line.
    pub on_test: bool,
    /// The rule.
    pub by: Rule,
    /// Protocol seeds on dev, 42 the first (default 3).
    pub seeds: usize,
}

/// What the best is best by.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Mean over task types of the mean over their tasks.
    MeanTaskType,
    /// Mean over tasks.
    MeanTask,
    /// One task.
    Task(String),
}

impl Rule {
    /// As written in the config.
    pub fn name(&self) -> &str {
        match self {
            Self::MeanTaskType => "mean_task_type",
            Self::MeanTask => "mean_task",
            Self::Task(name) => name,
        }
    }
}

/// Where it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
}
