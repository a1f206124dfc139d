//! Semantic textual similarity: how well the similarity of two texts' embeddings ranks human scores.

use serde_json::Map;

use super::protocol::{ProtocolError, Scored, Similarity, check_finite, check_lengths, number};
use crate::data::matrix::Matrix;
use crate::metric::correlation::{pearson, spearman};
use crate::metric::outcomes::Outcomes;

/// The similarities and (negated) distances of the pairs, `[rows]` each, rounded to `f32`.
#[derive(Debug, Clone, PartialEq)]
pub struct PairScores {
    /// 1 − ½·‖u/‖u‖ − v/‖v‖‖², a zero vector left as it is.
    pub cosine: Vec<f32>,
    /// −Σ|u − v|.
    pub manhattan: Vec<f32>,
    /// −‖u − v‖.
    pub euclidean: Vec<f32>,
    /// The model's own similarity.
    pub similarity: Vec<f32>,
    /// Σ u·v.
    pub dot: Vec<f32>,
}

/// The scores of row i of `first` with row i of `second`, both `[rows, dim]`, summed in `f64`.
///
/// # Errors
/// No rows, shapes that differ, or embeddings that are not finite.
pub fn pair_scores(first: &Matrix, second: &Matrix, similarity: Similarity) -> Result<PairScores, ProtocolError> {
    check_lengths("the split", "first and second sentences", first.rows(), second.rows())?;
    if first.cols() != second.cols() {
        let (left, right) = (first.cols(), second.cols());
        return Err(ProtocolError::DimensionMismatch { what: "first and second sentences", left, right });
    }
    check_finite("the first sentences", first)?;
    check_finite("the second sentences", second)?;
    let rows = first.rows();
    let mut scores = PairScores {
        cosine: Vec::with_capacity(rows),
        manhattan: Vec::with_capacity(rows),
        euclidean: Vec::with_capacity(rows),
        similarity: Vec::with_capacity(rows),
        dot: Vec::with_capacity(rows),
    };
    for row in 0..rows {
        let pairs = || first.row(row).iter().zip(second.row(row)).map(|(&u, &v)| (f64::from(u), f64::from(v)));
        let (mut uu, mut vv, mut uv, mut manhattan, mut squares) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (u, v) in pairs() {
            uu += u * u;
            vv += v * v;
            uv += u * v;
            manhattan += (u - v).abs();
            squares += (u - v) * (u - v);
        }
        let (u_norm, v_norm) = (f64::sqrt(uu), f64::sqrt(vv));
        let scale = |norm: f64| if norm == 0.0 { 1.0 } else { 1.0 / norm };
        let (u_scale, v_scale) = (scale(u_norm), scale(v_norm));
        let chord: f64 = pairs().map(|(u, v)| (u * u_scale - v * v_scale).powi(2)).sum();
        scores.cosine.push((1.0 - 0.5 * chord) as f32);
        scores.manhattan.push(-manhattan as f32);
        scores.euclidean.push(-f64::sqrt(squares) as f32);
        scores.dot.push(uv as f32);
        scores.similarity.push(match similarity {
            Similarity::Cosine => (uv / (u_norm.max(1e-12) * v_norm.max(1e-12))) as f32,
            Similarity::Dot => uv as f32,
        });
    }
    Ok(scores)
}

/// Correlates the pairs' scores with `gold` `[rows]`, which runs from `min_score` to `max_score`. The main score is `metric`,
/// one of the four Spearman correlations.
///
/// # Errors
/// Those of [`pair_scores`]; gold scores of another length or not finite; an empty range; gold or cosine scores that are all
/// equal, for which the main score is undefined.
pub fn score(
    first: &Matrix,
    second: &Matrix,
    gold: &[f64],
    (min_score, max_score): (f64, f64),
    similarity: Similarity,
    metric: &str,
) -> Result<Scored, ProtocolError> {
    check_lengths("the split", "sentence pairs and gold scores", first.rows(), gold.len())?;
    let range = max_score - min_score;
    if !(range > 0.0 && range.is_finite()) {
        return Err(ProtocolError::ScoreRange { min: min_score, max: max_score });
    }
    if let Some(row) = gold.iter().position(|value| !value.is_finite()) {
        return Err(ProtocolError::NotFiniteScore { row });
    }
    if gold.iter().all(|value| *value == gold[0]) {
        return Err(ProtocolError::ConstantGold);
    }
    let pairs = pair_scores(first, second, similarity)?;
    let gold: Vec<f64> = gold.iter().map(|value| (value - min_score) / range).collect();

    let mut scores = Map::new();
    let mut main_score = None;
    let lists = [
        ("pearson", "spearman", pairs.similarity),
        ("cosine_pearson", "cosine_spearman", pairs.cosine),
        ("manhattan_pearson", "manhattan_spearman", pairs.manhattan),
        ("euclidean_pearson", "euclidean_spearman", pairs.euclidean),
    ];
    let mut outcomes = Outcomes::Pairs(Vec::new());
    for (pearson_key, spearman_key, values) in lists {
        let wide: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        let rho = spearman(&wide, &gold);
        scores.insert(pearson_key.to_owned(), number(pearson(&wide, &gold).unwrap_or(f64::NAN)));
        scores.insert(spearman_key.to_owned(), number(rho.unwrap_or(f64::NAN)));
        if spearman_key == metric {
            main_score = Some(rho.ok_or(ProtocolError::ConstantScores)?);
            outcomes = Outcomes::Pairs(values.into_iter().zip(gold.iter().copied()).collect());
        }
    }
    let main_score = main_score.ok_or_else(|| ProtocolError::UnknownMetric { metric: metric.into() })?;
    scores.insert("main_score".to_owned(), number(main_score));
    Ok(Scored { main_score, metric: metric.into(), scores, outcomes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(values: &[f32]) -> Matrix {
        Matrix::new(values.len() / 2, 2, values.to_vec()).unwrap()
    }

    #[test]
    fn zero_vectors_and_equal_pairs() {
        let first = column(&[0.0, 0.0, 0.0, 0.0, 3.0, 4.0]);
        let second = column(&[0.0, 0.0, 1.0, 1.0, 3.0, 4.0]);
        let scores = pair_scores(&first, &second, Similarity::Cosine).unwrap();
        assert_eq!(scores.cosine, [1.0, 0.5, 1.0]);
        assert_eq!(scores.similarity, [0.0, 0.0, 1.0]);
        assert_eq!(scores.euclidean[2], 0.0);
    }

    #[test]
    fn what_is_undefined_is_an_error() {
        let (first, second) = (column(&[1.0, 0.0, 0.0, 1.0]), column(&[1.0, 0.5, 0.5, 1.0]));
        let score = |first: &Matrix, gold: &[f64]| {
            score(first, &second, gold, (0.0, 5.0), Similarity::Cosine, "cosine_spearman")
        };
        assert_eq!(score(&first, &[3.0, 3.0]), Err(ProtocolError::ConstantGold));
        assert_eq!(score(&first, &[3.0, f64::NAN]), Err(ProtocolError::NotFiniteScore { row: 1 }));
        assert_eq!(score(&second, &[1.0, 2.0]), Err(ProtocolError::ConstantScores));
        assert!(matches!(score(&first, &[1.0]), Err(ProtocolError::LengthMismatch { left: 2, right: 1, .. })));
        let broken = column(&[1.0, 0.0, f32::NAN, 1.0]);
        assert!(matches!(score(&broken, &[1.0, 2.0]), Err(ProtocolError::NotFiniteEmbedding { row: 1, .. })));
    }
}
