//! What all protocols share: whose numbers are reproduced, what a score carries, and what can be wrong with the inputs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::label::Label;
use crate::data::matrix::Matrix;
use crate::estimator::EstimatorError;
use crate::estimator::mini_batch_k_means::BatchSampler;
use crate::metric::outcomes::Outcomes;

/// The library version whose numbers a clustering reproduces; the other task types do not differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// scikit-learn up to 1.8, with which nearly all published numbers were made.
    Sklearn18,
    /// scikit-learn from 1.9.
    #[default]
    Sklearn19,
}

impl Protocol {
    /// How mini-batches are drawn.
    pub fn batch_sampler(self) -> BatchSampler {
        match self {
            Self::Sklearn18 => BatchSampler::RandInt,
            Self::Sklearn19 => BatchSampler::Choice,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sklearn18 => "sklearn-1.8",
            Self::Sklearn19 => "sklearn-1.9",
        })
    }
}

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text {
            "sklearn-1.8" => Ok(Self::Sklearn18),
            "sklearn-1.9" => Ok(Self::Sklearn19),
            _ => Err(ProtocolError::UnknownProtocol { text: text.to_owned() }),
        }
    }
}

/// The similarity that a model declares for its embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Similarity {
    /// Inner product of the unit vectors; a zero vector has similarity 0 to all.
    #[default]
    Cosine,
    /// Inner product.
    Dot,
}

/// The scores of one split of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The main score, a fraction.
    pub main_score: f64,
    /// Which of the scores that is.
    pub metric: String,
    /// Everything that mteb writes for the split, under its keys; an undefined score is null.
    pub scores: Map<String, Value>,
    /// What the main score is the mean (or correlation) of.
    pub outcomes: Outcomes,
}

/// What keeps a task from being scored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProtocolError {
    /// Nothing to score or to train on.
    #[error("{what} is empty: check the task's split names and file paths")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// Rows and labels, or two sides, of different lengths.
    #[error("{what}: {left} against {right}; every row needs exactly one counterpart")]
    LengthMismatch {
        /// Which two lengths.
        what: &'static str,
        /// The first.
        left: usize,
        /// The second.
        right: usize,
    },
    /// Embeddings that cannot be compared.
    #[error("{what} have {left} and {right} dimensions: encode both with the same model and settings")]
    DimensionMismatch {
        /// Which two matrices.
        what: &'static str,
        /// Columns of the first.
        left: usize,
        /// Columns of the second.
        right: usize,
    },
    /// A row number outside the matrix.
    #[error("{what} names row {row}, but there are {rows} rows")]
    RowOutOfRange {
        /// What names the row.
        what: &'static str,
        /// The row.
        row: usize,
        /// Rows there are.
        rows: usize,
    },
    /// NaN or infinity in an embedding.
    #[error("the embedding of row {row} of {what} holds NaN or infinity: check that text, or run the model in f32")]
    NotFiniteEmbedding {
        /// Which matrix.
        what: &'static str,
        /// The first such row.
        row: usize,
    },
    /// NaN or infinity in a gold score.
    #[error("the gold score of row {row} is not a finite number: check the score column")]
    NotFiniteScore {
        /// The first such row.
        row: usize,
    },
    /// Labels of one kind only.
    #[error("{what} has only the label {label}: at least two are needed; check the label column and the split")]
    OneClass {
        /// Where.
        what: String,
        /// The label.
        label: Label,
    },
    /// A multilabel split without any label.
    #[error("no row of {what} has a label: check the label column")]
    NoLabels {
        /// Where.
        what: &'static str,
    },
    /// Gold scores that do not differ.
    #[error("all gold scores are equal, so Spearman's correlation is undefined: check the score column")]
    ConstantGold,
    /// Predictions that do not differ.
    #[error(
        "all pairs have the same cosine score, so Spearman's correlation is undefined: the model maps all texts alike"
    )]
    ConstantScores,
    /// A range of gold scores that holds nothing.
    #[error("the gold scores' range runs from {min} to {max}: min_score must be below max_score")]
    ScoreRange {
        /// Lower end.
        min: f64,
        /// Upper end.
        max: f64,
    },
    /// A score that the type does not have.
    #[error("`{metric}` is not among the scores of this task type: change the task's `metric`")]
    UnknownMetric {
        /// What was asked for.
        metric: String,
    },
    /// Embeddings whose products are no numbers.
    #[error("the embeddings are so large that their inner products overflow: normalise them")]
    TooLarge,
    /// Documents without any text.
    #[error("all {documents} documents are empty texts: check the corpus' text column")]
    EmptyTexts {
        /// How many there are.
        documents: usize,
    },
    /// A setting that must be positive is zero.
    #[error("{name} is 0: set it to at least 1")]
    ZeroSetting {
        /// The setting.
        name: &'static str,
    },
    /// Not a protocol's name.
    #[error("unknown protocol {text:?}: use \"sklearn-1.9\" or \"sklearn-1.8\"")]
    UnknownProtocol {
        /// What was given.
        text: String,
    },
    /// An estimator could not be fitted.
    #[error("{what}: {source}")]
    Estimator {
        /// In which experiment or set.
        what: String,
        /// Why.
        source: EstimatorError,
    },
}

/// Checks that every embedding is finite.
pub(super) fn check_finite(what: &'static str, matrix: &Matrix) -> Result<(), ProtocolError> {
    let cols = matrix.cols().max(1);
    match matrix.data().iter().position(|value| !value.is_finite()) {
        Some(at) => Err(ProtocolError::NotFiniteEmbedding { what, row: at / cols }),
        None => Ok(()),
    }
}

/// Checks that no inner product of a row of one with a row of the other can overflow `f32`.
pub(super) fn check_products(a: &Matrix, b: &Matrix) -> Result<(), ProtocolError> {
    let largest = |m: &Matrix| m.data().iter().fold(0f32, |most, v| most.max(v.abs()));
    let bound = f64::from(largest(a)) * f64::from(largest(b)) * a.cols() as f64;
    if bound > f64::from(f32::MAX) { Err(ProtocolError::TooLarge) } else { Ok(()) }
}

/// Checks that there are rows, and as many as labels.
pub(super) fn check_lengths(
    what: &'static str,
    lengths: &'static str,
    rows: usize,
    labels: usize,
) -> Result<(), ProtocolError> {
    if rows != labels {
        return Err(ProtocolError::LengthMismatch { what: lengths, left: rows, right: labels });
    }
    if rows == 0 {
        return Err(ProtocolError::Empty { what });
    }
    Ok(())
}

/// The distinct labels, ascending.
pub(super) fn distinct<'a>(labels: impl IntoIterator<Item = &'a Label>) -> Vec<Label> {
    labels.into_iter().collect::<BTreeSet<_>>().into_iter().cloned().collect()
}

/// The place of each label in the ascending list of classes; the number of classes for one that is not there.
pub(super) fn class_numbers(labels: &[Label], classes: &[Label]) -> Vec<usize> {
    labels.iter().map(|label| classes.binary_search(label).unwrap_or(classes.len())).collect()
}

/// A score for a result file: null where it is undefined.
pub(super) fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Population standard deviation.
pub(super) fn std_dev(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

/// `scored` with another of its scores as the main one; its outcomes are that score's values by experiment, where the
/// experiments have it.
pub(super) fn ranked_by(mut scored: Scored, metric: &str) -> Result<Scored, ProtocolError> {
    if scored.metric == metric {
        return Ok(scored);
    }
    let unknown = || ProtocolError::UnknownMetric { metric: metric.into() };
    let main_score = scored.scores.get(metric).and_then(Value::as_f64).ok_or_else(unknown)?;
    let experiments = scored.scores.get("scores_per_experiment").and_then(Value::as_array).ok_or_else(unknown)?;
    let values: Vec<f64> = experiments.iter().filter_map(|e| e.get(metric)?.as_f64()).collect();
    scored.outcomes = Outcomes::PerExperiment(values);
    scored.scores.insert("main_score".to_owned(), number(main_score));
    Ok(Scored { main_score, metric: metric.into(), ..scored })
}

/// One entry an experiment, each the named scores; then the mean of every score over the experiments that have it, and the
/// main score.
pub(super) fn averaged(
    experiments: &[Vec<(&'static str, Option<f64>)>],
    metric: &'static str,
) -> (f64, Map<String, Value>) {
    let mut scores = Map::new();
    let listed = experiments.iter().map(|experiment| {
        let entries = experiment.iter().map(|&(name, value)| (name.to_owned(), value.map_or(Value::Null, number)));
        Value::Object(entries.collect())
    });
    scores.insert("scores_per_experiment".to_owned(), Value::Array(listed.collect()));
    let mut main_score = f64::NAN;
    for (i, &(name, _)) in experiments.first().into_iter().flatten().enumerate() {
        let values: Vec<f64> = experiments.iter().filter_map(|experiment| experiment.get(i)?.1).collect();
        let average = mean(&values);
        if name == metric {
            main_score = average;
        }
        scores.insert(name.to_owned(), number(average));
    }
    scores.insert("main_score".to_owned(), number(main_score));
    (main_score, scores)
}
