//! The temperature of a softmax over cosines: a number, or a variable that is trained with the model.

use candle_core::{Result, Tensor, bail};

use super::math::check_above_zero;

/// The largest `1/T` that a learned temperature comes to (Radford et al. 2021, "CLIP", section 2.5).
pub const LARGEST_SCALE: f64 = 100.0;

/// Temperature T; cosines are divided by it.
#[derive(Debug, Clone)]
pub enum Temperature {
    /// T itself.
    Fixed(f64),
    /// A tensor of one value, `ln(1/T)`, as CLIP's `logit_scale`. `1/T` is never above [`LARGEST_SCALE`]; the gradient
    /// flows past that bound as if there were none, so that a variable beyond it can come back. Whoever trains it sets it
    /// to `min(variable, ln 100)` after a step, as CLIP does, lest it drift away.
    Learned(Tensor),
}

impl Temperature {
    /// Logits, and what they are still to be divided by: `[n, m]` → `[n, m]`.
    ///
    /// # Errors
    /// Where a fixed temperature is not above 0, or a learned one is not one value.
    pub(super) fn logits(&self, loss: &str, cosines: &Tensor) -> Result<(Tensor, f64)> {
        match self {
            Self::Fixed(temperature) => {
                check_above_zero(loss, "temperature", *temperature)?;
                Ok((cosines.clone(), *temperature))
            }
            Self::Learned(log_scale) => Ok((cosines.broadcast_mul(&scale(loss, log_scale)?)?, 1.0)),
        }
    }

    /// T as a number, for reports.
    ///
    /// # Errors
    /// As a loss with this temperature.
    pub fn value(&self) -> Result<f64> {
        match self {
            Self::Fixed(temperature) => Ok(*temperature),
            Self::Learned(log_scale) => {
                let scale: f32 = scale("temperature", &log_scale.detach())?.reshape(())?.to_scalar()?;
                Ok(1.0 / f64::from(scale))
            }
        }
    }
}

/// `min(exp(log_scale), 100)`, `[1, 1]`.
fn scale(loss: &str, log_scale: &Tensor) -> Result<Tensor> {
    if log_scale.elem_count() != 1 {
        bail!("{loss}: the learned temperature must be one value, got shape {:?}", log_scale.dims());
    }
    let free = log_scale.reshape((1, 1))?;
    let excess = (free.detach() - LARGEST_SCALE.ln())?.relu()?;
    (free - excess)?.exp()
}
