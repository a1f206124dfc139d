//! Frozen weights held in 4 or 8 bits, to the bit as bitsandbytes (0.50, on the CPU) holds them.
//!
//! Nothing here keeps an `f32` copy: a weight is dequantised into the caller's buffer whenever it is needed.

mod dynamic;
mod int8;
mod kernel;
mod nf4;
mod sum;
mod weight;

use candle_core::{Device, Result, Tensor};
use serde::Serialize;

pub use int8::Int8;
pub use nf4::{Nf4, Statistics};
pub use weight::Weight;

use super::storage::{unset, with_values};

const NAME: &str = "quantized";

/// How a weight is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantKind {
    /// 4-bit NormalFloat in blocks of 64 values (Dettmers et al. 2023, QLoRA).
    Nf4 {
        /// Whether the blocks' statistics are quantised, too (0.127 bits a value instead of 0.5).
        double: bool,
    },
    /// 8 bits with one absolute maximum a row (Dettmers et al. 2022, LLM.int8).
    Int8,
}

impl QuantKind {
    /// `nf4`, `nf4-single` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nf4 { double: true } => "nf4",
            Self::Nf4 { double: false } => "nf4-single",
            Self::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for QuantKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which weights of a model are held quantised: those of its encoder's frozen linear layers always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Quantization {
    /// How the linear layers' are held.
    pub kind: QuantKind,
    /// Whether the word embeddings are held, too, always as [`Int8`] (a row is read by itself).
    pub embeddings: bool,
}

impl Quantization {
    /// Bits of a value.
    pub fn bits(&self) -> u32 {
        match self.kind {
            QuantKind::Nf4 { .. } => 4,
            QuantKind::Int8 => 8,
        }
    }
}

/// A matrix `[rows, columns]` held in few bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Quantized {
    /// 4 bits a value.
    Nf4(Nf4),
    /// 8 bits a value.
    Int8(Int8),
}

impl Quantized {
    /// Quantises a matrix of finite values.
    ///
    /// # Errors
    /// Where it is no matrix of `f32`.
    pub fn new(kind: QuantKind, matrix: &Tensor) -> Result<Self> {
        let (rows, columns) = matrix.dims2()?;
        match kind {
            QuantKind::Nf4 { double } => with_values(NAME, [&matrix.to_device(&Device::Cpu)?], |[values]| {
                Ok(Self::Nf4(Nf4::new(values, rows, columns, double)))
            }),
            QuantKind::Int8 => Int8::of(matrix).map(Self::Int8),
        }
    }

    /// (rows, columns).
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Nf4(nf4) => nf4.shape(),
            Self::Int8(int8) => int8.shape(),
        }
    }

    /// Bytes that codes and statistics take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Nf4(nf4) => nf4.bytes(),
            Self::Int8(int8) => int8.bytes(),
        }
    }

    /// Writes all values, `[rows, columns]`, into `out`, on the threads of the current pool.
    ///
    /// # Panics
    /// Where `out` is of another size.
    pub fn dequantize_into(&self, out: &mut [f32]) {
        match self {
            Self::Nf4(nf4) => nf4.dequantize_into(out),
            Self::Int8(int8) => int8.dequantize_into(out),
        }
    }

    /// All values in a new buffer.
    pub fn dequantize(&self) -> Vec<f32> {
        let (rows, columns) = self.shape();
        // SAFETY: every value is written below.
        let mut out = unsafe { unset(rows * columns) };
        self.dequantize_into(&mut out);
        out
    }

    /// All values as a tensor.
    ///
    /// # Errors
    /// The device's.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        Tensor::from_vec(self.dequantize(), self.shape(), device)
    }
}
