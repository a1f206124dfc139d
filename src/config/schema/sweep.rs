//! What a sweep adds to a training: merges, scores, the choice, pruning, and where it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// A merge of trials.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// Of pairs, along the arc between them.
    Slerp(Slerp),
    /// Of any number, as a weighted mean.
    Linear(Linear),
}

/// What a merge selects: axes (or `name`) and their values, as text. `name: base` is the base model.
pub type Selector = Vec<(String, String)>;

/// SLERP of pairs of trials.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slerp {
    /// Which pairs.
    pub pairs: Pairs,
    /// Weight of the second.
    pub alpha: Alpha,
    /// Tensor by tensor, the whole model as one vector, or the changes from the base.
    pub mode: SlerpMode,
    /// The search stops when α is known this closely (default 0.05).
    pub tolerance: f64,
    /// Most evaluations of a search (default 12).
    pub budget: usize,
}

/// Which pairs of models are merged.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairs {
    /// One of each side; the axes that neither names are matched.
    Sides {
        /// The first of a pair (α = 0).
        first: Selector,
        /// The second (α = 1).
        second: Selector,
    },
    /// Trials that differ in this axis alone.
    Over(String),
    /// Every two trials.
    All,
}

/// Weight of the second model of a merge.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// Found on dev.
    Auto,
    /// Given; a merge each.
    Values(Vec<f64>),
    /// Given for layers: values along the depth, interpolated between; a merge.
    Layers(Vec<f64>),
    /// Found on dev, with one value for the first layer and one for the last, interpolated between.
    AutoLayers,
}

/// Weighted means of trials (model soups, Wortsman et al. 2022).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Linear {
    /// Axes that each of the models has; the axes that none names are matched.
    pub models: Vec<Selector>,
    /// An axis over all of whose values the mean goes, instead of `models`.
    pub over: Option<String>,
    /// Weights.
    pub weights: Weights,
}

/// Weights of a mean.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// All alike.
    Equal,
    /// Given, in the models' order; they sum to 1.
    Given(Vec<f64>),
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

/// Which of the grid's points are trials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Search {
    /// Points drawn at random; all of them without it.
    pub sample: Option<usize>,
    /// Seed of the draws (default 1).
    pub seed: u32,
    /// Most trials (default, and at most, 10 000).
    pub limit: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self { sample: None, seed: 1, limit: crate::config::trials::MOST_TRIALS }
    }
}

/// Tasks and how they are scored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Selectors: benchmarks, task files, folders, names, globs, `type=…`, `lang=…`.
    pub tasks: Vec<String>,
    /// Score every checkpoint, or the final one of each trial alone.
    pub all_checkpoints: bool,
    /// Most rows of a split (training splits of tasks are not cut).
    pub limit: Option<usize>,
    /// The same for single tasks, by name, instead of `limit`.
    pub limits: BTreeMap<String, usize>,
    /// Protocol seeds on test, 42 the first (default 3).
    pub seeds: usize,
    /// Whose draws: `sklearn-1.9` (default) or `sklearn-1.8`.
    pub protocol: String,
    /// Folders of published results, as mteb writes them, whose models stand beside ours in the report.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PathBuf>,
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
    /// The best itself, or the simplest that is about as good (default the best).
    #[serde(skip_serializing_if = "super::is_default")]
    pub select: Select,
}

/// Which of the models is chosen, given their scores by the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The highest score.
    #[default]
    Best,
    /// The simplest within one standard error of the highest (Breiman et al. 1984).
    OneStandardError,
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

/// Trials that are stopped early, judged by a dev score while they train.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prune {
    /// How they are judged.
    pub rule: PruneRule,
    /// By which evaluation: `mrr` (default), `loss`, `tasks` or a task of `train.eval_tasks`.
    pub metric: super::Metric,
    /// Optimizer steps before the first judgement (default a ninth of the training).
    pub min_steps: Option<usize>,
    /// One in so many goes on at each rung, and each rung is so many times as far (halvings; default 3).
    pub factor: f64,
    /// Trials that must have come as far before one is stopped (median; default 4).
    pub min_trials: usize,
}

/// How trials are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PruneRule {
    /// All trials wait at a rung, the best part goes on: the same whatever the order (Jamieson and Talwalkar 2016).
    SuccessiveHalving,
    /// A trial goes on as soon as it is in the best part of those that came as far: no waiting, but the order of the
    /// trials matters (ASHA, Li et al. 2020).
    Asha,
    /// A trial stops when its best so far is worse than the median of the others' means up to there (Golovin et al. 2017).
    Median,
}

/// Where it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Type of the operands of matrix products in training; on a GPU, of weights and activations, in encoding, too.
    pub dtype: Dtype,
    /// Here, or on a cluster.
    pub executor: Executor,
    /// Steps at a time: processes, each with a share of the cores, or a GPU each (default 1); elements of an array that run at a
    /// time on a cluster (default as many as there is room for).
    pub jobs: Option<usize>,
    /// Times that a step is tried again after its process died (default 2).
    pub retries: usize,
    /// Bytes that the checkpoints of a run may take together.
    pub disk: Option<u64>,
    /// What Slurm is asked for.
    pub slurm: SlurmSettings,
}

/// Who runs the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    /// Processes on this machine.
    #[default]
    Local,
    /// Jobs of Slurm.
    Slurm,
}

/// What Slurm is asked for, a job (`sbatch` has the meaning of each); what is not given is Slurm's default.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct SlurmSettings {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--time`.
    pub time: Option<String>,
    /// `--gres`, such as `gpu:1`.
    pub gres: Option<String>,
    /// `--cpus-per-task`.
    pub cpus_per_task: Option<usize>,
    /// `--mem`.
    pub mem: Option<String>,
    /// `--constraint`.
    pub constraint: Option<String>,
    /// Lines of shell before a step, such as `module load cuda`.
    pub setup: Vec<String>,
    /// Further options of `sbatch`, as written.
    pub options: Vec<String>,
    /// Seconds between looks at the queue (default 10).
    pub poll: Option<f64>,
}

/// Types of the operands of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// In training 16 significant bits on a CPU with a matrix unit (PyTorch's `high`), 32 bit elsewhere; in encoding bfloat16 on a GPU, 32
    /// bit elsewhere.
    Auto,
    /// 32 bit.
    F32,
    /// bfloat16, sums in f32; weights and optimizer stay in f32.
    Bf16,
}
