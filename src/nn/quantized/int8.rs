//! 8 bits a value and one absolute maximum a row: how LLM.int8 (Dettmers et al. 2022) holds weights.

use candle_core::{Device, Result, Tensor};

use crate::nn::kernel::parallel;
use crate::nn::kernel::simd::multiversion;
use crate::nn::storage::with_values;

/// 1 / 127, as bitsandbytes writes it.
const STEP: f32 = 7.874_016e-3;

/// A matrix whose rows are held as `round(127 w / absmax)`, halves to even.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8 {
    codes: Vec<i8>,
    absmax: Vec<f32>,
    columns: usize,
}

multiversion! {
    /// Writes a row's codes and gives its absolute maximum.
    fn quantize_row<A>(row: &[f32], codes: &mut [i8]) -> f32 {
        let absmax = row.iter().fold(0f32, |max, v| max.max(v.abs()));
        // Not a division of 127: PyTorch makes it of the reciprocal, and the last bit shows where a value lies between codes.
        let scale = (1.0 / absmax) * 127.0;
        for (code, value) in codes.iter_mut().zip(row) {
            let scaled = (value * scale).round_ties_even();
            // A row of zeros, or of values below 4e-37, has no finite scale and is held as zeros.
            *code = if scaled.is_finite() { scaled as i8 } else { 0 };
        }
        absmax
    }
}

multiversion! {
    /// `out = codes · absmax / 127`.
    fn scale_row<A>(codes: &[i8], absmax: f32, out: &mut [f32]) {
        for (to, code) in out.iter_mut().zip(codes) {
            *to = f32::from(*code) * absmax * STEP;
        }
    }
}

impl Int8 {
    /// Quantises `[rows, columns]` finite values.
    ///
    /// # Panics
    /// Where `values` is of another size.
    pub fn new(values: &[f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "matrix of another size");
        let (mut codes, mut absmax) = (vec![0; values.len()], Vec::with_capacity(rows));
        for r in 0..rows {
            let range = r * columns..(r + 1) * columns;
            absmax.push(quantize_row(&values[range.clone()], &mut codes[range]));
        }
        Self { codes, absmax, columns }
    }

    /// Quantises a matrix of finite `f32` values.
    ///
    /// # Errors
    /// Where it is no matrix of `f32`.
    pub fn of(matrix: &Tensor) -> Result<Self> {
        let (rows, columns) = matrix.dims2()?;
        with_values("int8", [&matrix.to_device(&Device::Cpu)?], |[values]| Ok(Self::new(values, rows, columns)))
    }

    /// (rows, columns).
    pub fn shape(&self) -> (usize, usize) {
        (self.absmax.len(), self.columns)
    }

    /// `[rows, columns]`.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// `[rows]`.
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// Bytes that codes and statistics take.
    pub fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.absmax.len()
    }

    /// Writes the values of one row, `[columns]`, into `out`.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        scale_row(&self.codes[row * self.columns..(row + 1) * self.columns], self.absmax[row], out);
    }

    /// Rows as a tensor, `[rows, columns]`.
    ///
    /// # Errors
    /// The device's.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn rows(&self, rows: &[u32], device: &Device) -> Result<Tensor> {
        let mut out = vec![0.0; rows.len() * self.columns];
        for (row, to) in rows.iter().zip(out.chunks_exact_mut(self.columns.max(1))) {
            self.row_into(*row as usize, to);
        }
        Tensor::from_vec(out, (rows.len(), self.columns), device)
    }

    /// All values as a tensor.
    ///
    /// # Errors
    /// The device's.
    pub fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        let mut out = vec![0.0; self.codes.len()];
        self.dequantize_into(&mut out);
        Tensor::from_vec(out, self.shape(), device)
    }

    /// Writes all values into `out`.
    ///
    /// # Panics
    /// Where `out` is of another size.
    pub fn dequantize_into(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.codes.len(), "buffer of another size");
        parallel::over_rows(out, self.columns, |first, part| {
            for (i, row) in part.chunks_exact_mut(self.columns.max(1)).enumerate() {
                self.row_into(first + i, row);
            }
        });
    }
}
