//! Pair classification: how well a threshold on the similarity of two texts tells pairs that belong together.

use serde_json::Map;

use super::protocol::{ProtocolError, Scored, Similarity, check_lengths, number};
use super::sts::pair_scores;
use crate::data::matrix::Matrix;
use crate::metric::average_precision::average_precision;
use crate::metric::outcomes::Outcomes;
use crate::metric::thresholds::best_thresholds;

/// Scores the pairs `first[i]`, `second[i]`, both `[rows, dim]`; the main score is `metric`: average precision by one of the
/// five similarities, or the highest of the five (`max_ap`).
///
/// Outcomes: the pairs with the similarity that the main score is of.
///
/// # Errors
/// Those of [`pair_scores`]; labels of another length or of one kind only; a metric that is no average precision.
pub fn score(
    first: &Matrix,
    second: &Matrix,
    positive: &[bool],
    similarity: Similarity,
    metric: &str,
) -> Result<Scored, ProtocolError> {
    check_lengths("the split", "sentence pairs and labels", first.rows(), positive.len())?;
    if positive.iter().all(|label| *label == positive[0]) {
        let label = i64::from(positive[0]).into();
        return Err(ProtocolError::OneClass { what: "the split".to_owned(), label });
    }
    let pairs = pair_scores(first, second, similarity)?;
    let lists = [
        ("similarity", pairs.similarity),
        ("cosine", pairs.cosine),
        ("manhattan", pairs.manhattan),
        ("euclidean", pairs.euclidean),
        ("dot", pairs.dot),
    ];
    let mut scores = Map::new();
    let mut highest: Vec<(&str, f64)> = Vec::new();
    let mut main: Option<(f64, Vec<f32>)> = None;
    for (list, values) in lists {
        let wide: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        let best = best_thresholds(positive, &wide);
        let ap = average_precision(positive, &wide);
        let named = [
            ("accuracy", best.accuracy),
            ("f1", best.f1),
            ("precision", best.precision),
            ("recall", best.recall),
            ("ap", ap),
        ];
        for (name, value) in named {
            scores.insert(format!("{list}_{name}"), number(value));
            match highest.iter_mut().find(|(known, _)| *known == name) {
                Some((_, most)) => *most = most.max(value),
                None => highest.push((name, value)),
            }
        }
        if metric == format!("{list}_ap") || (metric == "max_ap" && main.as_ref().is_none_or(|(most, _)| ap > *most)) {
            main = Some((ap, values));
        }
    }
    for (name, value) in highest {
        scores.insert(format!("max_{name}"), number(value));
    }
    let (main_score, values) = main.ok_or_else(|| ProtocolError::UnknownMetric { metric: metric.into() })?;
    scores.insert("main_score".into(), number(main_score));
    let outcomes = Outcomes::Ranked(values.into_iter().zip(positive.iter().copied()).collect());
    Ok(Scored { main_score, metric: metric.into(), scores, outcomes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_one_kind_and_other_metrics_are_errors() {
        let rows = Matrix::new(2, 1, vec![1.0, -1.0]).unwrap();
        let run = |positive: &[bool], metric| score(&rows, &rows, positive, Similarity::Cosine, metric);
        assert!(matches!(run(&[true, true], "max_ap"), Err(ProtocolError::OneClass { .. })));
        assert!(matches!(run(&[true, false], "f1"), Err(ProtocolError::UnknownMetric { .. })));
        assert!(matches!(run(&[true], "max_ap"), Err(ProtocolError::LengthMismatch { .. })));
        let scored = run(&[true, false], "dot_ap").unwrap();
        assert_eq!((scored.main_score, scored.metric.as_str()), (0.5, "dot_ap"));
    }
}
