//! What a score is made of, so that it can be resampled: per-example values, per-experiment values, scored
//! pairs, or those of several splits.

use serde::{Deserialize, Serialize};

/// The parts of one main score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "values", rename_all = "snake_case")]
pub enum Outcomes {
    /// One value per evaluated row (classification: share of experiments that got the row right). The main score is their mean.
    PerExample(Vec<f64>),
    /// One value per experiment or per set (clustering). The main score is their mean.
    PerExperiment(Vec<f64>),
    /// (predicted similarity, gold score) per row; the main score is their Spearman correlation.
    Pairs(Vec<(f32, f64)>),
    /// (predicted similarity, whether the pair is a positive) per row; the main score is their average precision.
    Ranked(Vec<(f32, bool)>),
    /// Those of several splits, whose scores' mean is the main score.
    Splits(Vec<Outcomes>),
}
