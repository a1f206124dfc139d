//! Either norm, or none.

use candle_core::Tensor;

use crate::nn::dropout::TokenDropout;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::rms_norm::RmsNorm;

/// A norm over token vectors.
#[derive(Debug, Clone)]
pub enum Norm {
    /// As they are.
    None,
    /// LayerNorm.
    Layer(LayerNorm),
    /// RMSNorm.
    Rms(RmsNorm),
}

impl Norm {
    /// `[tokens, hidden]` → the same.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }

    /// The norm of `dropout(x) + residual`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_residual(
        &self,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<&TokenDropout>,
    ) -> candle_core::Result<Tensor> {
        match self {
            Self::Layer(norm) => norm.forward_residual(x, residual, dropout),
            _ => {
                let x = dropout.map_or_else(|| Ok(x.clone()), |dropout| dropout.forward(x))?;
                self.forward(&(x + residual)?)
            }
        }
    }
}
