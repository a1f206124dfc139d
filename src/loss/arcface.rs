//! ArcFace (Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition"): classes are directions,
//! and an example must be nearer to its own by an angle. Margins may differ by class
//! ([`AdaptiveMargin`](super::adaptive_margin::AdaptiveMargin)).

use std::f64::consts::PI;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::math::{check_above_zero, check_labels, common_shape, row_products, rows_at, shape_of_width};
use crate::nn::cross_entropy::cross_entropy;
use crate::nn::linear::product_transposed;
use crate::nn::normalize::l2_normalize;

const NAME: &str = "arcface";
/// Added under the root of the sine: where an embedding lies on its class the gradient is finite.
const EPS: f64 = 1e-12;

/// Cross entropy of `scale·cos θ_c` over classes c, where the example's own class y has `scale·cos(θ_y + m_y)` instead; where
/// `θ_y + m_y` passes π, `scale·(cos θ_y − m_y sin m_y)`, which goes on falling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ArcFace {
    /// What cosines are multiplied by; 30 to 64 in the paper and its descendants.
    pub scale: f64,
}

impl ArcFace {
    /// A scalar, the mean over rows. `embeddings` `[n, d]`, `classes` `[classes, d]`: the directions, trained along;
    /// `labels[i]`: the class of row i; `margins[c]`: the margin of class c in radians, 0 to π.
    ///
    /// # Errors
    /// Where shapes do not fit, a label is no class, a margin is out of range, or the scale is not above 0.
    pub fn loss(&self, embeddings: &Tensor, classes: &Tensor, labels: &[u32], margins: &[f64]) -> Result<Tensor> {
        check_above_zero(NAME, "scale", self.scale)?;
        let (n, count) = check(embeddings, classes, labels)?;
        if margins.len() != count {
            bail!("{NAME}: {} margins for {count} classes", margins.len());
        }
        if let Some(class) = margins.iter().position(|m| !(0.0..=PI).contains(m)) {
            bail!("{NAME}: margin {} of class {class}: must lie from 0 to π", margins[class]);
        }
        let (embeddings, classes) = (l2_normalize(embeddings)?, l2_normalize(classes)?);
        let own = rows_at(NAME, &classes, labels.iter().map(|&label| label as usize))?;
        let margins: Vec<f64> = labels.iter().map(|&label| margins[label as usize]).collect();
        let penalty = penalty(&embeddings, &own, &margins)?;
        let own: Vec<f32> = labels
            .iter()
            .flat_map(|&label| (0..count).map(move |c| if c == label as usize { 1.0 } else { 0.0 }))
            .collect();
        let own = Tensor::from_vec(own, (n, count), embeddings.device())?;
        let cosines = product_transposed(&embeddings, &classes)?;
        let logits = (cosines + own.broadcast_mul(&penalty.unsqueeze(1)?)?)?;
        cross_entropy(&logits, &Arc::new(labels.to_vec()), &Arc::default(), 1.0 / self.scale)
    }
}

/// The cosine of each row with its own class, without gradient: what an adaptive margin follows.
///
/// # Errors
/// Where shapes do not fit, or a label is no class.
pub fn own_cosines(embeddings: &Tensor, classes: &Tensor, labels: &[u32]) -> Result<Vec<f32>> {
    check(embeddings, classes, labels)?;
    let own = rows_at(NAME, &l2_normalize(&classes.detach())?, labels.iter().map(|&label| label as usize))?;
    row_products(&l2_normalize(&embeddings.detach())?, &own)?.to_vec1()
}

/// Rows and classes.
fn check(embeddings: &Tensor, classes: &Tensor, labels: &[u32]) -> Result<(usize, usize)> {
    let (n, width) = common_shape(NAME, &[("embeddings", embeddings)])?;
    let (count, _) = shape_of_width(NAME, "classes", classes, width)?;
    check_labels(NAME, labels, n)?;
    if let Some(row) = labels.iter().position(|&label| label as usize >= count) {
        bail!("{NAME}: label {} of row {row} is outside the {count} classes", labels[row]);
    }
    Ok((n, count))
}

/// What the margin adds to each row's cosine with its own class: unit rows `[n, d]`, `[n, d]` → `[n]`.
fn penalty(x: &Tensor, own: &Tensor, margins: &[f64]) -> Result<Tensor> {
    let n = margins.len();
    let vector = |values: Vec<f32>| Tensor::from_vec(values, n, x.device());
    let of_margin = |f: fn(f64) -> f64| vector(margins.iter().map(|&m| f(m) as f32).collect());
    let cosine = row_products(x, own)?;
    // The sine as the length of what of the class is orthogonal to the embedding: √(1 − cos²) has no digits left near ±1,
    // where an unbounded gradient would multiply their rounding.
    let orthogonal = (own - x.broadcast_mul(&cosine.unsqueeze(1)?)?)?;
    let sine = (orthogonal.sqr()?.sum(1)? + EPS)?.sqrt()?;
    let within = (&cosine * of_margin(|m| m.cos() - 1.0)?)?.sub(&(sine * of_margin(f64::sin)?)?)?;
    let beyond = of_margin(|m| -m * m.sin())?;
    let angles = cosine.detach().to_vec1::<f32>()?;
    let passes = angles.iter().zip(margins).map(|(&c, m)| u8::from(f64::from(c) <= -m.cos())).collect();
    Tensor::from_vec(passes, n, x.device())?.where_cond(&beyond, &within)
}
