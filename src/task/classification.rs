//! Classification: logistic regression on a few embedded rows of each class, ten times over.

use std::collections::HashMap;

use rayon::prelude::*;

use super::label::Label;
use super::protocol::{ProtocolError, Scored, averaged, check_finite, check_lengths, class_numbers, distinct};
use super::spec::Estimator;
use crate::data::matrix::Matrix;
use crate::data::random::RandomState;
use crate::estimator::linfa;
use crate::estimator::logistic_regression::{LogisticRegression, Settings};
use crate::metric::classification::classification_scores;
use crate::metric::outcomes::Outcomes;

const MAIN: &str = "accuracy";

/// The training rows of every experiment, in training order: up to `samples_per_label` of each label.
///
/// The row list is shuffled anew by a fresh `RandomState(seed)` and kept from experiment to experiment. Encode the union of
/// these rows and hand the experiments to [`score`] renumbered.
///
/// # Errors
/// No rows, fewer than two labels, or a setting of 0.
pub fn training_rows(
    labels: &[Label],
    samples_per_label: usize,
    experiments: usize,
    seed: u32,
) -> Result<Vec<Vec<usize>>, ProtocolError> {
    for (name, value) in [("samples_per_label", samples_per_label), ("n_experiments", experiments)] {
        if value == 0 {
            return Err(ProtocolError::ZeroSetting { name });
        }
    }
    let first = labels.first().ok_or(ProtocolError::Empty { what: "the training split" })?;
    if labels.iter().all(|label| label == first) {
        let what = "the training split".to_owned();
        return Err(ProtocolError::OneClass { what, label: first.clone() });
    }
    let mut order: Vec<usize> = (0..labels.len()).collect();
    let drawn = (0..experiments).map(|_| {
        RandomState::new(seed).shuffle(&mut order);
        let mut counts: HashMap<&Label, usize> = HashMap::new();
        let take = |row: &&usize| {
            let count = counts.entry(&labels[**row]).or_default();
            *count += 1;
            *count <= samples_per_label
        };
        order.iter().filter(take).copied().collect()
    });
    Ok(drawn.collect())
}

/// What every experiment predicted.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// The labels of the training and the evaluated rows, ascending.
    pub classes: Vec<Label>,
    /// Per experiment the class number of each evaluated row.
    pub experiments: Vec<Vec<usize>>,
}

/// Fits every experiment's rows of `train` `[rows, dim]` and predicts `eval` `[eval rows, dim]`, experiments in parallel.
///
/// # Errors
/// Empty or unequal inputs, row numbers out of range, embeddings that are not finite, an experiment with one label only, or
/// a fit that fails.
pub fn predict(
    train: &Matrix,
    train_labels: &[Label],
    experiments: &[Vec<usize>],
    eval: &Matrix,
    eval_labels: &[Label],
    estimator: Estimator,
) -> Result<Predictions, ProtocolError> {
    check_lengths("the training split", "training rows and their labels", train.rows(), train_labels.len())?;
    check_lengths("the evaluated split", "evaluated rows and their labels", eval.rows(), eval_labels.len())?;
    if experiments.is_empty() {
        return Err(ProtocolError::ZeroSetting { name: "n_experiments" });
    }
    if train.cols() != eval.cols() {
        let (left, right) = (train.cols(), eval.cols());
        return Err(ProtocolError::DimensionMismatch { what: "training and evaluated rows", left, right });
    }
    check_finite("the training split", train)?;
    check_finite("the evaluated split", eval)?;
    let classes = distinct(train_labels.iter().chain(eval_labels));
    let numbers = class_numbers(train_labels, &classes);
    let data = Data { train, train_classes: &numbers, classes: &classes, eval, estimator };
    let experiments: Result<Vec<_>, _> =
        experiments.par_iter().enumerate().map(|(number, rows)| one_experiment(number, rows, &data)).collect();
    Ok(Predictions { classes, experiments: experiments? })
}

struct Data<'a> {
    train: &'a Matrix,
    train_classes: &'a [usize],
    classes: &'a [Label],
    eval: &'a Matrix,
    estimator: Estimator,
}

fn one_experiment(number: usize, rows: &[usize], data: &Data<'_>) -> Result<Vec<usize>, ProtocolError> {
    let Data { train, train_classes, classes, eval, estimator } = *data;
    if rows.is_empty() {
        return Err(ProtocolError::Empty { what: "an experiment's training sample" });
    }
    if let Some(&row) = rows.iter().find(|&&row| row >= train.rows()) {
        return Err(ProtocolError::RowOutOfRange { what: "an experiment", row, rows: train.rows() });
    }
    // The fit sees only the classes of its sample: a class without rows would still get weights and change the path.
    let mut present: Vec<usize> = rows.iter().map(|&row| train_classes[row]).collect();
    present.sort_unstable();
    present.dedup();
    if let [only] = present[..] {
        let what = format!("the training sample of experiment {number}");
        return Err(ProtocolError::OneClass { what, label: classes[only].clone() });
    }
    let mut place = vec![0; classes.len()];
    for (i, &class) in present.iter().enumerate() {
        place[class] = i;
    }
    let labels: Vec<usize> = rows.iter().map(|&row| place[train_classes[row]]).collect();
    let failed = |source| ProtocolError::Estimator { what: format!("experiment {number}"), source };
    let sample = train.select(rows);
    let predicted = match estimator {
        Estimator::Own => LogisticRegression::fit(&sample, &labels, present.len(), &Settings::default())
            .and_then(|model| model.predict(eval)),
        Estimator::Linfa => linfa::logistic_regression(&sample, &labels, present.len(), eval),
    }
    .map_err(failed)?;
    Ok(predicted.into_iter().map(|class| present[class]).collect())
}

/// Scores all experiments; the main score is the mean accuracy. `experiments` has row numbers into `train`.
///
/// Outcomes: per evaluated row the share of experiments that got it right.
///
/// # Errors
/// Those of [`predict`].
pub fn score(
    train: &Matrix,
    train_labels: &[Label],
    experiments: &[Vec<usize>],
    eval: &Matrix,
    eval_labels: &[Label],
    estimator: Estimator,
) -> Result<Scored, ProtocolError> {
    let predictions = predict(train, train_labels, experiments, eval, eval_labels, estimator)?;
    let truth = class_numbers(eval_labels, &predictions.classes);
    let mut right = vec![0.0; truth.len()];
    let mut listed = Vec::with_capacity(experiments.len());
    for predicted in &predictions.experiments {
        let scores = classification_scores(&truth, predicted, predictions.classes.len());
        listed.push(vec![
            (MAIN, Some(scores.accuracy)),
            ("f1", Some(scores.f1)),
            ("f1_weighted", Some(scores.f1_weighted)),
            ("precision", Some(scores.precision)),
            ("precision_weighted", Some(scores.precision_weighted)),
            ("recall", Some(scores.recall)),
            ("recall_weighted", Some(scores.recall_weighted)),
            ("ap", scores.average_precision),
            ("ap_weighted", scores.average_precision),
        ]);
        for (right, (truth, predicted)) in right.iter_mut().zip(truth.iter().zip(predicted)) {
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

    fn labels(values: &[i64]) -> Vec<Label> {
        values.iter().map(|&value| value.into()).collect()
    }

    #[test]
    fn classes_that_only_one_side_knows_are_scored() {
        let train = Matrix::new(4, 1, vec![-3.0, -2.0, 2.0, 3.0]).unwrap();
        let eval = Matrix::new(3, 1, vec![-2.5, 2.5, 2.6]).unwrap();
        let train_labels = labels(&[5, 5, 7, 7]);
        let rows = training_rows(&train_labels, 8, 2, 42).unwrap();
        let scored = score(&train, &train_labels, &rows, &eval, &labels(&[5, 7, 6]), Estimator::Own).unwrap();
        assert!((scored.main_score - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(scored.outcomes, Outcomes::PerExample(vec![1.0, 1.0, 0.0]));
    }

    #[test]
    fn what_cannot_be_scored_is_named() {
        assert!(matches!(training_rows(&labels(&[1, 1]), 8, 10, 42), Err(ProtocolError::OneClass { .. })));
        assert!(matches!(training_rows(&[], 8, 10, 42), Err(ProtocolError::Empty { .. })));
        assert!(matches!(training_rows(&labels(&[1, 2]), 0, 10, 42), Err(ProtocolError::ZeroSetting { .. })));
        let two = Matrix::new(2, 1, vec![0.0, 1.0]).unwrap();
        let both = labels(&[0, 1]);
        let run = |train: &Matrix, rows: &[usize], eval_labels: &[Label]| {
            score(train, &both, &[rows.to_vec()], &two, eval_labels, Estimator::Own)
        };
        assert!(run(&two, &[0, 1], &both).is_ok());
        assert!(matches!(run(&two, &[0, 2], &both), Err(ProtocolError::RowOutOfRange { row: 2, rows: 2, .. })));
        assert!(matches!(run(&two, &[0, 0], &both), Err(ProtocolError::OneClass { .. })));
        assert!(matches!(run(&two, &[0, 1], &both[..1]), Err(ProtocolError::LengthMismatch { .. })));
        let broken = Matrix::new(2, 1, vec![0.0, f32::INFINITY]).unwrap();
        assert!(matches!(run(&broken, &[0, 1], &both), Err(ProtocolError::NotFiniteEmbedding { row: 1, .. })));
    }
}
