//! 4-bit NormalFloat (Dettmers et al. 2023): quantiles of a normal distribution, scaled by the largest of 64 values.

use super::{dynamic, kernel, sum};
use crate::nn::kernel::parallel;

/// Values that share an absolute maximum.
pub const BLOCK: usize = 64;
/// The smallest absolute maximum that is divided by.
const SMALLEST: f32 = 1e-38;

/// The values of the 16 codes, bitsandbytes' to the bit.
pub const CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A matrix in NF4. Blocks run over its values row by row and may begin in one row and end in the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Nf4 {
    /// Two values a byte, the first in the high half.
    codes: Vec<u8>,
    statistics: Statistics,
    shape: (usize, usize),
}

/// Absolute maxima of the blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Statistics {
    /// As they are.
    Plain(Vec<f32>),
    /// Less their mean in the dynamic 8-bit type: double quantisation.
    Nested {
        /// A code a block.
        codes: Vec<u8>,
        /// Absolute maximum of every 256 of them.
        absmax: Vec<f32>,
        /// The mean.
        offset: f32,
    },
}

impl Statistics {
    fn nested(absmax: &[f32]) -> Self {
        let offset = sum::mean(absmax);
        let centred: Vec<f32> = absmax.iter().map(|value| value - offset).collect();
        let (codes, absmax) = dynamic::quantize(&centred);
        Self::Nested { codes, absmax, offset }
    }

    fn of(&self, block: usize) -> f32 {
        match self {
            Self::Plain(absmax) => absmax[block],
            Self::Nested { codes, absmax, offset } => {
                dynamic::dequantize(codes[block], absmax[block / dynamic::BLOCK]) + offset
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Plain(absmax) => 4 * absmax.len(),
            Self::Nested { codes, absmax, .. } => codes.len() + 4 * absmax.len() + 4,
        }
    }
}

/// The code of the nearest value; where two are equally near, the lower.
fn code(scaled: f32, middles: &[f32; 15]) -> u8 {
    middles.iter().map(|middle| u8::from(*middle < scaled)).sum()
}

impl Nf4 {
    /// Quantises `[rows, columns]` finite values; `double` quantises the statistics, too.
    ///
    /// # Panics
    /// Where `values` is of another size.
    pub fn new(values: &[f32], rows: usize, columns: usize, double: bool) -> Self {
        assert_eq!(values.len(), rows * columns, "matrix of another size");
        let middles: [f32; 15] = std::array::from_fn(|i| (CODES[i] + CODES[i + 1]) / 2.0);
        let mut absmax = Vec::with_capacity(values.len().div_ceil(BLOCK));
        let mut codes = Vec::with_capacity(values.len().div_ceil(2));
        for block in values.chunks(BLOCK) {
            let max = block.iter().fold(0f32, |max, v| max.max(v.abs()));
            let mut nibbles = [0u8; BLOCK];
            if block.len() == BLOCK {
                absmax.push(max);
                let inverse = 1.0 / max.max(SMALLEST);
                for (to, value) in nibbles.iter_mut().zip(block) {
                    *to = code((value * inverse).clamp(-1.0, 1.0), &middles);
                }
            } else {
                // bitsandbytes takes the last, shorter block differently: a floor for its maximum, and a division.
                absmax.push(max.max(SMALLEST));
                for (to, value) in nibbles.iter_mut().zip(block) {
                    *to = code((value / max.max(SMALLEST)).clamp(-1.0, 1.0), &middles);
                }
                if let Some(padding) = nibbles.get_mut(block.len()) {
                    *padding = code(0.0, &middles);
                }
            }
            codes.extend(nibbles.chunks_exact(2).take(block.len().div_ceil(2)).map(|pair| pair[0] << 4 | pair[1]));
        }
        let statistics = if double { Statistics::nested(&absmax) } else { Statistics::Plain(absmax) };
        Self { codes, statistics, shape: (rows, columns) }
    }

    /// (rows, columns).
    pub fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// Two codes a byte, the first in the high half.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Absolute maxima of the blocks of 64 values.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Bytes that codes and statistics take.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.statistics.bytes()
    }

    /// Writes all values into `out`.
    ///
    /// # Panics
    /// Where `out` is of another size.
    pub fn dequantize_into(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.shape.0 * self.shape.1, "buffer of another size");
        parallel::over_rows(out, BLOCK, |first, part| {
            for (i, block) in part.chunks_mut(BLOCK).enumerate() {
                let at = first + i;
                let scale = self.statistics.of(at);
                let codes = &self.codes[at * (BLOCK / 2)..][..block.len().div_ceil(2)];
                kernel::look_up(codes, &CODES.map(|value| value * scale), block);
            }
        });
    }
}
