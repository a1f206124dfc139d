//! Multilabel classification: nearest neighbours among a few embedded training rows vote on every label, ten times over.

use std::collections::HashMap;

use rayon::prelude::*;

use super::label::Label;
use super::protocol::{ProtocolError, Scored, averaged, check_finite, check_lengths, distinct};
use super::spec::Estimator;
use crate::data::matrix::Matrix;
use crate::data::random::Generator;
use crate::data::stratify::iterative_stratification;
use crate::estimator::k_nearest;
use crate::estimator::linfa;
use crate::metric::multilabel::multilabel_scores;
use crate::metric::outcomes::Outcomes;

const MAIN: &str = "accuracy";

/// The training rows of every experiment: a row is taken while any of its labels has been taken fewer than
/// `samples_per_label` times.
///
/// One generator runs through all experiments, and through all evaluated splits of a task.
///
/// # Errors
/// No rows, no labels at all, or a setting of 0.
pub fn training_rows(
    labels: &[Vec<Label>],
    samples_per_label: usize,
    experiments: usize,
    random: &mut Generator,
) -> Result<Vec<Vec<usize>>, ProtocolError> {
    for (name, value) in [("samples_per_label", samples_per_label), ("n_experiments", experiments)] {
        if value == 0 {
            return Err(ProtocolError::ZeroSetting { name });
        }
    }
    if labels.is_empty() {
        return Err(ProtocolError::Empty { what: "the training split" });
    }
    if labels.iter().all(Vec::is_empty) {
        return Err(ProtocolError::NoLabels { what: "the training split" });
    }
    let drawn = (0..experiments).map(|_| {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        random.shuffle(&mut order);
        let mut counts: HashMap<&Label, usize> = HashMap::new();
        order.retain(|&row| {
            let wanted = labels[row].iter().any(|label| counts.get(label).copied().unwrap_or(0) < samples_per_label);
            if wanted {
                for label in &labels[row] {
                    *counts.entry(label).or_default() += 1;
                }
            }
            wanted
        });
        order
    });
    Ok(drawn.collect())
}

/// The rows of a split that are evaluated, ascending: all up to `max_documents`, else about so many with the label
/// combinations in proportion.
pub fn evaluated_rows(labels: &[Vec<Label>], max_documents: usize, seed: u32) -> Vec<usize> {
    let classes = distinct(labels.iter().flatten());
    let columns: Vec<Vec<usize>> = labels.iter().map(|labels| columns(labels, &classes)).collect();
    iterative_stratification(&columns, max_documents, seed)
}

/// The places of a row's labels in the ascending list of classes, ascending; labels that are not there are left out.
fn columns(labels: &[Label], classes: &[Label]) -> Vec<usize> {
    let mut columns: Vec<usize> = labels.iter().filter_map(|label| classes.binary_search(label).ok()).collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// The label sets as a row-major table `[rows, classes]` of 0 and 1.
fn binarised(labels: &[Vec<Label>], classes: &[Label]) -> Vec<u8> {
    let mut table = vec![0; labels.len() * classes.len()];
    for (row, labels) in labels.iter().enumerate() {
        for column in columns(labels, classes) {
            table[row * classes.len() + column] = 1;
        }
    }
    table
}

/// What every experiment predicted.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// The labels of the evaluated rows, ascending.
    pub classes: Vec<Label>,
    /// The true label sets, row-major `[rows, classes]` of 0 and 1.
    pub truth: Vec<u8>,
    /// Per experiment the predicted label sets, likewise.
    pub experiments: Vec<Vec<u8>>,
}

/// Lets the `k` nearest (as the estimator finds them) of every experiment's rows of `train` `[rows, dim]` vote on the labels of `eval` `[eval rows, dim]`,
/// experiments in parallel.
///
/// # Errors
/// Empty or unequal inputs, row numbers out of range, embeddings that are not finite, an evaluated split without labels, or
/// an experiment with fewer than `k` rows.
pub fn predict(
    train: &Matrix,
    train_labels: &[Vec<Label>],
    experiments: &[Vec<usize>],
    eval: &Matrix,
    eval_labels: &[Vec<Label>],
    (k, estimator): (usize, Estimator),
) -> Result<Predictions, ProtocolError> {
    check_lengths("the training split", "training rows and their labels", train.rows(), train_labels.len())?;
    check_lengths("the evaluated split", "evaluated rows and their labels", eval.rows(), eval_labels.len())?;
    for (name, value) in [("n_experiments", experiments.len()), ("k", k)] {
        if value == 0 {
            return Err(ProtocolError::ZeroSetting { name });
        }
    }
    if train.cols() != eval.cols() {
        let (left, right) = (train.cols(), eval.cols());
        return Err(ProtocolError::DimensionMismatch { what: "training and evaluated rows", left, right });
    }
    check_finite("the training split", train)?;
    check_finite("the evaluated split", eval)?;
    let classes = distinct(eval_labels.iter().flatten());
    if classes.is_empty() {
        return Err(ProtocolError::NoLabels { what: "the evaluated split" });
    }
    let known = binarised(train_labels, &classes);
    let one_experiment = |(number, rows): (usize, &Vec<usize>)| {
        if let Some(&row) = rows.iter().find(|&&row| row >= train.rows()) {
            return Err(ProtocolError::RowOutOfRange { what: "an experiment", row, rows: train.rows() });
        }
        let width = classes.len();
        let labels: Vec<u8> = rows.iter().flat_map(|&row| &known[row * width..(row + 1) * width]).copied().collect();
        let vote = if estimator == Estimator::Own { k_nearest::vote } else { linfa::k_nearest_vote };
        vote(&train.select(rows), &labels, width, eval, k)
            .map_err(|source| ProtocolError::Estimator { what: format!("experiment {number}"), source })
    };
    let experiments: Result<Vec<_>, _> = experiments.par_iter().enumerate().map(one_experiment).collect();
    Ok(Predictions { truth: binarised(eval_labels, &classes), classes, experiments: experiments? })
}

/// Scores all experiments; the main score is the mean share of rows whose whole label set is right.
///
/// Outcomes: per evaluated row the share of experiments that got it right.
///
/// # Errors
/// Those of [`predict`].
pub fn score(
    train: &Matrix,
    train_labels: &[Vec<Label>],
    experiments: &[Vec<usize>],
    eval: &Matrix,
    eval_labels: &[Vec<Label>],
    voting: (usize, Estimator),
) -> Result<Scored, ProtocolError> {
    let predictions = predict(train, train_labels, experiments, eval, eval_labels, voting)?;
    let width = predictions.classes.len();
    let mut right = vec![0.0; eval.rows()];
    let mut listed = Vec::with_capacity(experiments.len());
    for predicted in &predictions.experiments {
        let scores = multilabel_scores(&predictions.truth, predicted, width);
        listed.push(vec![
            (MAIN, Some(scores.accuracy)),
            ("lrap", Some(scores.lrap)),
            ("f1", Some(scores.f1)),
            ("hamming", Some(scores.hamming)),
        ]);
        let rows = predictions.truth.chunks_exact(width).zip(predicted.chunks_exact(width));
        for (right, (truth, predicted)) in right.iter_mut().zip(rows) {
            *right += f64::from(u8::from(truth == predicted));
        }
    }
    for right in &mut right {
        *right /= experiments.len() as f64;
    }
    let (main_score, scores) = averaged(&listed, MAIN);
    Ok(Scored { main_score, metric: MAIN.into(), scores, outcomes: Outcomes::PerExample(right) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(rows: &[&[i64]]) -> Vec<Vec<Label>> {
        rows.iter().map(|row| row.iter().map(|&label| label.into()).collect()).collect()
    }

    #[test]
    fn labels_that_only_training_rows_have_are_ignored() {
        let train = Matrix::new(3, 1, vec![0.0, 1.0, 5.0]).unwrap();
        let eval = Matrix::new(2, 1, vec![0.1, 4.9]).unwrap();
        let (known, truth) = (labels(&[&[1, 9], &[1], &[2, 2]]), labels(&[&[1], &[2]]));
        let scored = score(&train, &known, &[vec![0, 1, 2]], &eval, &truth, (1, Estimator::Own)).unwrap();
        assert_eq!(scored.main_score, 1.0);
    }

    #[test]
    fn what_cannot_be_scored_is_named() {
        let empty = labels(&[&[], &[]]);
        assert!(matches!(training_rows(&empty, 8, 10, &mut Generator::new(42)), Err(ProtocolError::NoLabels { .. })));
        let two = Matrix::new(2, 1, vec![0.0, 1.0]).unwrap();
        let known = labels(&[&[0], &[1]]);
        let run = |truth: &[Vec<Label>], k| score(&two, &known, &[vec![0, 1]], &two, truth, (k, Estimator::Own));
        assert!(matches!(run(&empty, 1), Err(ProtocolError::NoLabels { .. })));
        assert!(matches!(run(&known, 5), Err(ProtocolError::Estimator { .. })));
        assert!(matches!(run(&known, 0), Err(ProtocolError::ZeroSetting { name: "k" })));
    }
}
