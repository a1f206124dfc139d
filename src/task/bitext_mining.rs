//! Bitext mining: whether a sentence's nearest among all translations is its own.

use serde_json::Map;

use super::protocol::{ProtocolError, Scored, Similarity, check_finite, check_products, mean, number};
use crate::data::matrix::Matrix;
use crate::estimator::search::{Search, normalised};
use crate::metric::outcomes::Outcomes;

/// Takes the translations' embeddings block by block.
pub struct Miner<'a> {
    sentences: Matrix,
    similarity: Similarity,
    search: Search<'a>,
}

/// What decides between equal scores: the earlier translation is taken.
pub fn order(translations: usize) -> Vec<u32> {
    (0..translations as u32).rev().collect()
}

impl<'a> Miner<'a> {
    /// Starts with the sentences' embeddings `[rows, dim]`; `order` is that of [`order`].
    ///
    /// # Errors
    /// No rows, or embeddings that are not finite.
    pub fn new(sentences: Matrix, similarity: Similarity, order: &'a [u32]) -> Result<Self, ProtocolError> {
        if sentences.rows() == 0 {
            return Err(ProtocolError::Empty { what: "the split" });
        }
        check_finite("the sentences", &sentences)?;
        let sentences = if similarity == Similarity::Cosine { normalised(sentences) } else { sentences };
        let search = Search::new(sentences.rows(), 1, order);
        Ok(Self { sentences, similarity, search })
    }

    /// Takes the translations from `first` on, `[translations, dim]`.
    ///
    /// # Errors
    /// Embeddings that are not finite or of another dimension.
    pub fn add(&mut self, first: usize, translations: Matrix) -> Result<(), ProtocolError> {
        check_finite("the translations", &translations)?;
        let block = if self.similarity == Similarity::Cosine { normalised(translations) } else { translations };
        check_products(&self.sentences, &block)?;
        self.search
            .add(&self.sentences, &block, first)
            .map_err(|source| ProtocolError::Estimator { what: "the search".into(), source })
    }

    /// The nearest translation of every sentence.
    pub fn finish(self) -> Vec<usize> {
        self.search.finish().iter().map(|hits| hits.first().map_or(0, |hit| hit.document as usize)).collect()
    }
}

/// Scores `found`, the translation taken for each row, whose own has its number; `metric` is `f1` or `accuracy`.
///
/// Every row is a label of its own, so the weighted averages are means over the rows. Outcomes: those of every row.
///
/// # Errors
/// No rows, or another metric.
pub fn score(found: &[usize], metric: &str) -> Result<Scored, ProtocolError> {
    if found.is_empty() {
        return Err(ProtocolError::Empty { what: "the split" });
    }
    let mut taken = vec![0usize; found.len()];
    for &translation in found {
        if let Some(count) = taken.get_mut(translation) {
            *count += 1;
        }
    }
    let right: Vec<f64> = found.iter().enumerate().map(|(row, &at)| f64::from(u8::from(row == at))).collect();
    let precision: Vec<f64> =
        right.iter().zip(&taken).map(|(hit, &n)| if n == 0 { 0.0 } else { hit / n as f64 }).collect();
    let f1: Vec<f64> = right.iter().zip(&taken).map(|(hit, &n)| 2.0 * hit / (n as f64 + 1.0)).collect();
    let mut scores = Map::new();
    for (name, values) in [("precision", &precision), ("recall", &right), ("f1", &f1), ("accuracy", &right)] {
        scores.insert(name.into(), number(mean(values)));
    }
    let outcomes = match metric {
        "f1" => f1,
        "accuracy" => right,
        _ => return Err(ProtocolError::UnknownMetric { metric: metric.into() }),
    };
    let main_score = mean(&outcomes);
    scores.insert("main_score".into(), number(main_score));
    Ok(Scored { main_score, metric: metric.into(), scores, outcomes: Outcomes::PerExample(outcomes) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::classification::classification_scores;

    #[test]
    fn the_averages_are_scikit_learns_weighted_ones() {
        let found = [0, 0, 2, 1, 2];
        let scored = score(&found, "f1").unwrap();
        let expected = classification_scores(&[0, 1, 2, 3, 4], &found, 5);
        for (key, value) in [
            ("f1", expected.f1_weighted),
            ("precision", expected.precision_weighted),
            ("recall", expected.recall_weighted),
            ("accuracy", expected.accuracy),
        ] {
            assert!((scored.scores[key].as_f64().unwrap() - value).abs() < 1e-12, "{key}");
        }
        assert!(score(&[], "f1").is_err() && score(&found, "recall").is_err());
    }

    #[test]
    fn of_equal_translations_the_first_is_taken() {
        let rows = Matrix::new(3, 2, vec![1.0, 0.0, 2.0, 0.0, 0.0, 1.0]).unwrap();
        let order = order(3);
        let mut miner = Miner::new(rows.clone(), Similarity::Cosine, &order).unwrap();
        miner.add(0, rows.select(&[0, 1])).unwrap();
        miner.add(2, rows.select(&[2])).unwrap();
        assert_eq!(miner.finish(), [0, 0, 2]);
    }
}
