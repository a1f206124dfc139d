//! Scores of predictions of label sets, given as 0/1 tables.

/// The scores of one table of predictions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MultilabelScores {
    /// Share of rows whose whole label set is right.
    pub accuracy: f64,
    /// Mean over labels of 2·tp/(predicted + true), 0 where neither occurs.
    pub f1: f64,
    /// Mean over rows of |true ∩ predicted| / |true ∪ predicted|, 1 where both are empty (a Jaccard score by its content).
    pub hamming: f64,
    /// Label ranking average precision with the predictions as scores.
    pub lrap: f64,
}

/// Scores of `predicted` against `truth`, both row-major `[rows, labels]` of 0 and 1. All 0 without rows or labels.
pub fn multilabel_scores(truth: &[u8], predicted: &[u8], labels: usize) -> MultilabelScores {
    let rows = truth.len().min(predicted.len()).checked_div(labels).unwrap_or(0);
    if rows == 0 {
        return MultilabelScores { accuracy: 0.0, f1: 0.0, hamming: 0.0, lrap: 0.0 };
    }
    let (mut right, mut jaccard) = (0usize, 0.0);
    let (mut both, mut either) = (vec![0usize; labels], vec![0usize; labels]);
    for (truth, predicted) in truth.chunks_exact(labels).zip(predicted.chunks_exact(labels)) {
        right += usize::from(truth == predicted);
        let (mut intersection, mut union) = (0usize, 0usize);
        for (label, (&truth, &predicted)) in truth.iter().zip(predicted).enumerate() {
            let (truth, predicted) = (usize::from(truth != 0), usize::from(predicted != 0));
            intersection += truth & predicted;
            union += truth | predicted;
            both[label] += truth & predicted;
            either[label] += truth + predicted;
        }
        jaccard += if union == 0 { 1.0 } else { intersection as f64 / union as f64 };
    }
    let f1: f64 = both
        .iter()
        .zip(&either)
        .map(|(&both, &either)| if either == 0 { 0.0 } else { 2.0 * both as f64 / either as f64 })
        .sum();
    let scores: Vec<f64> = predicted.iter().map(|&value| f64::from(value)).collect();
    MultilabelScores {
        accuracy: right as f64 / rows as f64,
        f1: f1 / labels as f64,
        hamming: jaccard / rows as f64,
        lrap: label_ranking_average_precision(truth, &scores, labels),
    }
}

/// Mean over rows of the mean over a row's true labels of #{true labels scored at least as high} / #{labels scored at least
/// as high}; 1 for a row with no or all labels true. `truth` and `scores` are row-major `[rows, labels]`; 0 without rows.
pub fn label_ranking_average_precision(truth: &[u8], scores: &[f64], labels: usize) -> f64 {
    let rows = truth.len().min(scores.len()).checked_div(labels).unwrap_or(0);
    if rows == 0 {
        return 0.0;
    }
    let mut sum = 0.0;
    for (truth, scores) in truth.chunks_exact(labels).zip(scores.chunks_exact(labels)) {
        let relevant: Vec<f64> =
            truth.iter().zip(scores).filter(|(truth, _)| **truth != 0).map(|(_, score)| *score).collect();
        if relevant.is_empty() || relevant.len() == labels {
            sum += 1.0;
            continue;
        }
        let precision: f64 = relevant
            .iter()
            .map(|score| {
                let at_least = |others: &[f64]| others.iter().filter(|other| *other >= score).count().max(1) as f64;
                at_least(&relevant) / at_least(scores)
            })
            .sum();
        sum += precision / relevant.len() as f64;
    }
    sum / rows as f64
}
