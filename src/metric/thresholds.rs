//! The best accuracy and F1 that a threshold on a similarity can give.

/// What the best thresholds give; accuracy and F1 each have their own.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BestThresholds {
    /// The highest accuracy.
    pub accuracy: f64,
    /// The highest F1.
    pub f1: f64,
    /// The precision where that F1 is first reached.
    pub precision: f64,
    /// The recall there.
    pub recall: f64,
}

/// The best thresholds on `scores` (higher: more similar) for telling `positive` pairs, as mteb finds them: a threshold never
/// splits equal scores, and "all positive" is not tried. The shorter list decides the length.
pub fn best_thresholds(positive: &[bool], scores: &[f64]) -> BestThresholds {
    let mut ranking: Vec<(f64, bool)> = scores.iter().copied().zip(positive.iter().copied()).collect();
    ranking.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = ranking.iter().filter(|(_, positive)| *positive).count();
    let mut best = BestThresholds::default();
    let mut hits = 0;
    for (at, pair) in ranking.windows(2).enumerate() {
        hits += usize::from(pair[0].1);
        if pair[0].0 == pair[1].0 {
            continue;
        }
        let seen = at + 1;
        let negatives_left = ranking.len() - seen - (positives - hits);
        let accuracy = (hits + negatives_left) as f64 / ranking.len() as f64;
        best.accuracy = best.accuracy.max(accuracy);
        if hits > 0 {
            let (precision, recall) = (hits as f64 / seen as f64, hits as f64 / positives as f64);
            let f1 = 2.0 * precision * recall / (precision + recall);
            if f1 > best.f1 {
                best = BestThresholds { f1, precision, recall, ..best };
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_stay_together() {
        let best = best_thresholds(&[true, false, true, false], &[0.9, 0.5, 0.5, 0.1]);
        assert_eq!((best.accuracy, best.recall), (0.75, 1.0));
        assert!((best.precision - 2.0 / 3.0).abs() < 1e-12 && (best.f1 - 0.8).abs() < 1e-12);
        assert_eq!(best_thresholds(&[true, false], &[0.5, 0.5]), BestThresholds::default());
        assert_eq!(best_thresholds(&[], &[]), BestThresholds::default());
    }
}
