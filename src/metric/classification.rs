//! Accuracy, precision, recall and F1 of single-label predictions, as scikit-learn averages them.

use super::average_precision::average_precision;

/// The scores of one set of predictions; "macro" averages weigh the classes equally, "weighted" ones by their true counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassificationScores {
    /// Share of right predictions.
    pub accuracy: f64,
    /// Macro F1.
    pub f1: f64,
    /// Weighted F1.
    pub f1_weighted: f64,
    /// Macro precision.
    pub precision: f64,
    /// Weighted precision.
    pub precision_weighted: f64,
    /// Macro recall.
    pub recall: f64,
    /// Weighted recall, which equals the accuracy.
    pub recall_weighted: f64,
    /// Average precision of the predicted class numbers as scores for the larger of exactly two true classes.
    pub average_precision: Option<f64>,
}

/// Scores of `predicted` against `truth`, class numbers below `classes` (others count as wrong and nothing else).
///
/// The averages run over the classes that occur in either list; an undefined ratio is 0; empty lists score 0.
pub fn classification_scores(truth: &[usize], predicted: &[usize], classes: usize) -> ClassificationScores {
    let (mut true_counts, mut predicted_counts, mut hits) = (vec![0; classes], vec![0; classes], vec![0; classes]);
    for (&truth, &predicted) in truth.iter().zip(predicted) {
        if let Some(count) = true_counts.get_mut(truth) {
            *count += 1;
        }
        if let Some(count) = predicted_counts.get_mut(predicted) {
            *count += 1;
        }
        if truth == predicted && truth < classes {
            hits[truth] += 1;
        }
    }
    let ratio = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let rows = truth.len().min(predicted.len());
    let (mut macro_sums, mut weighted_sums, mut occurring) = ([0.0; 3], [0.0; 3], 0usize);
    for class in (0..classes).filter(|&class| true_counts[class] + predicted_counts[class] > 0) {
        occurring += 1;
        let of_class = [
            ratio(2 * hits[class], true_counts[class] + predicted_counts[class]),
            ratio(hits[class], predicted_counts[class]),
            ratio(hits[class], true_counts[class]),
        ];
        for (i, value) in of_class.into_iter().enumerate() {
            macro_sums[i] += value;
            weighted_sums[i] += value * true_counts[class] as f64;
        }
    }
    let [f1, precision, recall] = macro_sums.map(|sum| if occurring == 0 { 0.0 } else { sum / occurring as f64 });
    let [f1_weighted, precision_weighted, recall_weighted] =
        weighted_sums.map(|sum| if rows == 0 { 0.0 } else { sum / rows as f64 });
    let true_classes: Vec<usize> = (0..classes).filter(|&class| true_counts[class] > 0).collect();
    let average_precision = match true_classes[..] {
        [_, larger] => {
            let positive: Vec<bool> = truth.iter().map(|&class| class == larger).collect();
            let scores: Vec<f64> = predicted.iter().map(|&class| class as f64).collect();
            Some(average_precision(&positive, &scores))
        }
        _ => None,
    };
    ClassificationScores {
        accuracy: ratio(hits.iter().sum(), rows),
        f1,
        f1_weighted,
        precision,
        precision_weighted,
        recall,
        recall_weighted,
        average_precision,
    }
}
