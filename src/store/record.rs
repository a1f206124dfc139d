//! What a run leaves behind, as the report reads it: variants, their scores, the searches for α and the choice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metric::outcomes::Outcomes;

/// A finished (or partly finished) sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The config's `name`.
    pub name: String,
    /// Base model as the config names it.
    pub base: String,
    /// Settings shared by all trials, dotted key → value as text, for the report's settings section.
    pub settings: BTreeMap<String, String>,
    /// Training sets: path (file name only) and rows used.
    pub data: Vec<(String, usize)>,
    /// The grid's axes in the config's order: key and values as text.
    pub axes: Vec<(String, Vec<String>)>,
    /// Base first, then trained variants in plan order, then merged ones.
    pub variants: Vec<Variant>,
    /// Loss and dev curves, one a training run.
    pub curves: Vec<TrainingCurve>,
    /// Searches for α, one a pair.
    pub searches: Vec<AlphaSearch>,
    /// What was chosen, where a choice could be made.
    pub choice: Option<Choice>,
    /// Trials that were not trained to their end.
    #[serde(default)]
    pub unfinished: Vec<Unfinished>,
    /// Row limit per task and split, if scoring was limited.
    pub limit: Option<usize>,
    /// The same for single tasks, by name, instead of `limit`.
    #[serde(default)]
    pub limits: BTreeMap<String, usize>,
    /// Which version of scikit-learn's draws was reproduced ("1.9").
    pub protocol: String,
    /// Results that others published, to stand beside ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// Things a reader must know (a task without dev split, a truncated share, nearly parallel tensors …).
    pub notes: Vec<String>,
}

impl RunRecord {
    /// Whether nothing was to be trained: then nothing is chosen, and dev was not scored.
    pub fn is_of_the_base_alone(&self) -> bool {
        self.unfinished.is_empty()
            && matches!(self.variants.as_slice(), [one] if one.kind == VariantKind::Base && one.dev.is_empty())
    }
}

/// A model with published results: scores alone, no outcomes of single rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The model's name there.
    pub name: String,
    /// Task → main score, of the tasks that this run has.
    pub scores: BTreeMap<String, f64>,
}

/// One model that was scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Unique and stable (content hash).
    pub id: String,
    /// Short, for tables: `symmetric r8 T0.02`, `base`, `slerp(symmetric r8 T0.02, asymmetric r8 T0.02) α=0.62`.
    pub label: String,
    /// How it came to be.
    pub kind: VariantKind,
    /// The axes' values of this variant (trained and merged alike; for merged those the pair shares).
    pub settings: BTreeMap<String, String>,
    /// What it took to make it.
    #[serde(default)]
    pub cost: Cost,
    /// Scores on the dev side, in task order. A task without dev side is absent.
    pub dev: Vec<TaskRecord>,
    /// Scores on the test side, in task order.
    pub test: Vec<TaskRecord>,
}

/// What a variant took, in numbers that do not depend on the machine. Those of a merge are the sums of its parts'.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Tokens trained on.
    pub tokens: u64,
    /// Weights that were trained.
    pub trainable: u64,
    /// Weights of the whole model, as it is used.
    pub parameters: u64,
    /// Floating-point operations of training: 6 a token and weight of the layers, 4 where the weights are frozen (Kaplan
    /// et al. 2020, appendix; no activation is computed twice).
    pub flops: f64,
}

/// A trial that has no scores, or not those of its last step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Label of the trial (or merge).
    pub label: String,
    /// The axes' values.
    pub settings: BTreeMap<String, String>,
    /// `pruned` or `failed`.
    pub state: String,
    /// Optimizer step that it came to.
    pub step: Option<usize>,
    /// What it was judged by there (a dev score, higher is better).
    pub score: Option<f64>,
    /// One sentence.
    pub reason: String,
}

/// How a variant came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum VariantKind {
    /// The untouched base.
    Base,
    /// A checkpoint of a training run.
    Trained {
        /// Label of the trial, the same for all its checkpoints.
        trial: String,
        /// Optimizer step of this checkpoint.
        step: usize,
        /// Optimizer steps of the whole run; equal to `step` for the final checkpoint.
        steps: usize,
    },
    /// A merge of two variants.
    Merged {
        /// Label of the first (α = 0).
        first: String,
        /// Label of the second (α = 1).
        second: String,
        /// Weight of the second.
        alpha: f64,
        /// Whether α was found by the search.
        auto: bool,
        /// α by layer, where it differs: `alpha` is their mean then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layers: Option<Vec<f64>>,
    },
    /// A weighted mean of variants.
    Averaged {
        /// Labels.
        models: Vec<String>,
        /// Their weights, which sum to 1.
        weights: Vec<f64>,
    },
}

/// One task's result for one model on one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Task name.
    pub name: String,
    /// mteb's name of the task type: `STS`, `Classification`, `MultilabelClassification`, `Clustering`.
    pub task_type: String,
    /// Name of the main score.
    pub metric: String,
    /// Main score at mteb's seed 42, a fraction.
    pub main_score: f64,
    /// Main score at other protocol seeds (seed, score); empty where the type draws nothing.
    pub seeds: Vec<(u64, f64)>,
    /// Rows evaluated.
    pub rows: usize,
    /// What the bootstrap resamples.
    pub outcomes: Outcomes,
}

/// What a training run logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingCurve {
    /// Label of the trial.
    pub trial: String,
    /// (optimizer step, training loss).
    pub train_loss: Vec<(usize, f64)>,
    /// (optimizer step, dev loss).
    pub dev_loss: Vec<(usize, f64)>,
    /// (optimizer step, dev score: mean reciprocal rank of the positive, 0 to 1).
    pub dev_score: Vec<(usize, f64)>,
}

/// A search for α between two models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlphaSearch {
    /// Label of the first (α = 0).
    pub first: String,
    /// Label of the second (α = 1).
    pub second: String,
    /// Every point evaluated, by ascending α.
    pub points: Vec<AlphaPoint>,
    /// The α chosen on dev; where `ends` is there, the best that holds for all layers.
    pub chosen: f64,
    /// How surely `chosen` is known: the middle 95 % of the α, of those evaluated, that win in the bootstrap replicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_interval: Option<(f64, f64)>,
    /// α of the first layer and of the last, where they were searched for: what the merge was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<(f64, f64)>,
    /// Their intervals, as `chosen_interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_intervals: Option<((f64, f64), (f64, f64))>,
    /// Every point with different α at the ends that was evaluated, in the order evaluated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub end_points: Vec<EndPoint>,
    /// Evaluations spent.
    pub evaluations: usize,
    /// Share of tensors so nearly parallel that SLERP fell back to linear, 0 to 1.
    pub linear_share: f64,
}

/// One pair of α, of the first layer and the last, evaluated on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndPoint {
    /// Weight of the second model in the first layer.
    pub first: f64,
    /// In the last.
    pub last: f64,
    /// The rule's score on dev (mean over protocol seeds).
    pub score: f64,
    /// 95 % bootstrap interval of `score`.
    pub interval: (f64, f64),
}

/// One α evaluated on dev.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlphaPoint {
    /// Weight of the second model.
    pub alpha: f64,
    /// The rule's score on dev (mean over protocol seeds).
    pub score: f64,
    /// 95 % bootstrap interval of `score`.
    pub interval: (f64, f64),
}

/// The variant chosen and why.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Choice {
    /// `Variant::id`.
    pub id: String,
    /// `dev` or `test`.
    pub on: String,
    /// The rule: `mean_task_type`, `mean_task` or a task's name.
    pub by: String,
    /// Score of the chosen under the rule.
    pub score: f64,
    /// One sentence for the report.
    pub why: String,
    /// `best` or `one_standard_error`; empty in records of before there was a choice of it.
    #[serde(default)]
    pub select: String,
    /// Labels of the variants that differ from the chosen in the training seed alone, itself among them; empty where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group: Vec<String>,
    /// The group's mean under the rule, which it was chosen by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_score: Option<f64>,
    /// Standard error of the paired difference to the best, where a simpler one was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub se: Option<f64>,
    /// Label of the next best, another model than the chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner_up: Option<String>,
    /// Probability that the chosen (or its group) is the best by the rule on the side that it was chosen on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
}
