//! Regression of the cosine to a score (Reimers & Gurevych 2019, "Sentence-BERT"). sentence-transformers'
//! `CosineSimilarityLoss`.

use candle_core::{Result, Tensor};

use super::math::{check_scores, common_shape, row_cosines};

const NAME: &str = "cosine regression";

/// Mean of `(cos(x_i, y_i) − score_i)²`, a scalar; `x`, `y` `[n, d]`, `scores` `[n]`.
///
/// # Errors
/// Where shapes do not fit, or a score is no number.
pub fn cosine_regression(x: &Tensor, y: &Tensor, scores: &[f32]) -> Result<Tensor> {
    let (n, _) = common_shape(NAME, &[("x", x), ("y", y)])?;
    check_scores(NAME, "scores", scores, n)?;
    (row_cosines(x, y)? - Tensor::from_slice(scores, n, x.device())?)?.sqr()?.mean_all()
}
