//! A weight as a layer holds it.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::Quantized;
use crate::nn::storage::with_values;

/// A matrix that a layer multiplies with or looks rows up in.
#[derive(Debug, Clone)]
pub enum Weight {
    /// As a tensor; trainable if it is a variable.
    Dense(Tensor),
    /// Held in few bits; frozen.
    Quantized(Arc<Quantized>),
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl From<Arc<Quantized>> for Weight {
    fn from(quantized: Arc<Quantized>) -> Self {
        Self::Quantized(quantized)
    }
}

impl Weight {
    /// (rows, columns).
    ///
    /// # Errors
    /// Where a tensor has not two dimensions.
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(tensor) => tensor.dims2(),
            Self::Quantized(quantized) => Ok(quantized.shape()),
        }
    }

    /// Whether it is trained.
    pub fn track_op(&self) -> bool {
        matches!(self, Self::Dense(tensor) if tensor.track_op())
    }

    /// The tensor of a dense weight.
    pub fn dense(&self) -> Option<&Tensor> {
        match self {
            Self::Dense(tensor) => Some(tensor),
            Self::Quantized(_) => None,
        }
    }

    /// Whether the kernels of the CPU can read it.
    pub fn on_cpu(&self) -> bool {
        self.dense().is_none_or(|tensor| tensor.device().is_cpu() && tensor.dtype() == DType::F32)
    }

    /// The weight as a tensor on a device: itself, or dequantised for this once.
    ///
    /// # Errors
    /// The device's.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Quantized(quantized) => quantized.to_tensor(device),
        }
    }

    /// Runs `f` on the values, which are dequantised for this once where they must be.
    ///
    /// # Errors
    /// Where a tensor is not of `f32` on the CPU; those of `f`.
    pub fn with_values<T>(&self, op: &str, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
        match self {
            Self::Dense(tensor) => with_values(op, [tensor], |[values]| f(values)),
            Self::Quantized(quantized) => f(&quantized.dequantize()),
        }
    }
}
