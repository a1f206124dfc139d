//! AnglE (Li & Li 2023, "AnglE-optimized Text Embeddings"): CoSENT's ranking with angles in complex space, whose gradient
//! does not vanish where cosines saturate. sentence-transformers' `AnglELoss`, whose scale is 20.
//!
//! The halves of an embedding are real and imaginary parts. For unit rows x, y the similarity is
//! `|Σ x·y + Σ (x_imaginary·y_real − x_real·y_imaginary)|`: the real and the imaginary part of the quotient, summed.

use candle_core::{Result, Tensor};

use super::cosent::ranking;
use super::math::{check_above_zero, check_scores, common_shape, magnitude, row_products};
use crate::nn::normalize::l2_normalize;

const NAME: &str = "angle";

/// `ln(1 + Σ exp(scale·(s_j − s_i)))` over all pairs of rows i, j where score i is above score j; s is the similarity above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnglE {
    /// What similarities are multiplied by, 1/temperature.
    pub scale: f64,
}

impl AnglE {
    /// A scalar. `x`, `y` `[n, d]`: the two texts of each pair, an odd d gets a column of zeros; `scores` `[n]`: of any
    /// range, only their order counts.
    ///
    /// # Errors
    /// Where shapes do not fit, a score is no number, or the scale is not above 0.
    pub fn loss(&self, x: &Tensor, y: &Tensor, scores: &[f32]) -> Result<Tensor> {
        let (n, _) = common_shape(NAME, &[("x", x), ("y", y)])?;
        check_scores(NAME, "scores", scores, n)?;
        check_above_zero(NAME, "scale", self.scale)?;
        ranking(&similarities(&even_unit_rows(x)?, &even_unit_rows(y)?)?, scores, self.scale)
    }
}

fn similarities(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let half = x.dim(1)? / 2;
    let parts = |t: &Tensor| Ok::<_, candle_core::Error>((t.narrow(1, 0, half)?, t.narrow(1, half, half)?));
    let ((x_real, x_imaginary), (y_real, y_imaginary)) = (parts(x)?, parts(y)?);
    let sines = (row_products(&x_imaginary, &y_real)? - row_products(&x_real, &y_imaginary)?)?;
    magnitude(&(row_products(x, y)? + sines)?)
}

fn even_unit_rows(x: &Tensor) -> Result<Tensor> {
    let x = l2_normalize(x)?;
    if x.dim(1)? % 2 == 0 { Ok(x) } else { x.pad_with_zeros(1, 0, 1) }
}
