//! CoSENT (Su 2022): pairs of texts are ranked by cosine as their scores rank them. sentence-transformers' `CoSENTLoss`,
//! whose scale is 20.

use candle_core::{Result, Tensor};

use super::math::{check_above_zero, check_scores, common_shape, log_one_plus_sum_exp, row_cosines};

const NAME: &str = "cosent";

/// `ln(1 + Σ exp(scale·(cos_j − cos_i)))` over all pairs of rows i, j where score i is above score j.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoSent {
    /// What cosines are multiplied by, 1/temperature.
    pub scale: f64,
}

impl CoSent {
    /// A scalar. `x`, `y` `[n, d]`: the two texts of each pair; `scores` `[n]`: of any range, only their order counts.
    ///
    /// # Errors
    /// Where shapes do not fit, a score is no number, or the scale is not above 0.
    pub fn loss(&self, x: &Tensor, y: &Tensor, scores: &[f32]) -> Result<Tensor> {
        let (n, _) = common_shape(NAME, &[("x", x), ("y", y)])?;
        check_scores(NAME, "scores", scores, n)?;
        check_above_zero(NAME, "scale", self.scale)?;
        ranking(&row_cosines(x, y)?, scores, self.scale)
    }
}

/// The loss of similarities `[n]` whose order should be that of the scores; n² values in memory.
pub(super) fn ranking(similarities: &Tensor, scores: &[f32], scale: f64) -> Result<Tensor> {
    let n = scores.len();
    let above = scores.iter().flat_map(|i| scores.iter().map(move |j| u8::from(i > j))).collect();
    let above = Tensor::from_vec(above, (n, n), similarities.device())?;
    let differences = similarities.unsqueeze(0)?.broadcast_sub(&similarities.unsqueeze(1)?)?;
    log_one_plus_sum_exp(&(differences * scale)?, &above)
}
