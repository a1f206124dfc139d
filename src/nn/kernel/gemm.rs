//! Matrix products on row-major `f32` slices on the current rayon pool: by blocks where the processor has AMX or
//! AVX-512 (see [`super::packed`] for the precision), else by the `gemm` crate.

use gemm::Parallelism;

/// A row-major matrix, possibly read as its transpose.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
    transposed: bool,
}

impl<'a> Operand<'a> {
    /// `[rows, cols]`, row-major.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(data.len(), rows * cols, "matrix of another size");
        Self { data, rows, cols, stride: cols, transposed: false }
    }

    /// `[rows, cols]`, the starts of rows `stride` values apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(stride >= cols && (rows == 0 || data.len() >= (rows - 1) * stride + cols), "matrix of another size");
        Self { data, rows, cols, stride, transposed: false }
    }

    /// The same values read as `[cols, rows]`.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// (rows, columns) as read.
    pub fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// The values as stored.
    pub fn values(&self) -> &'a [f32] {
        self.data
    }

    /// Values between the starts of two stored rows.
    pub fn width(&self) -> usize {
        self.stride
    }

    /// Whether it is read as the transpose of what is stored.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }

    /// (row stride, column stride).
    fn strides(&self) -> (isize, isize) {
        let width = self.stride as isize;
        if self.transposed { (1, width) } else { (width, 1) }
    }
}

/// Whether a right matrix `[inner, columns]` is worth its tiles: below this the padding to whole tiles costs more than they save. Not by
/// the number of rows, so that a row's result does not depend on how many there are.
pub fn fills_tiles(inner: usize, columns: usize) -> bool {
    inner >= 8 && columns >= 8 && inner * columns >= 1 << 11
}

/// `out = scale * a b` (`accumulate` false) or `out += scale * a b`; `out` is row-major.
pub fn multiply(out: &mut [f32], accumulate: bool, scale: f32, a: Operand<'_>, b: Operand<'_>) {
    let ((m, k), (kb, n)) = (a.shape(), b.shape());
    assert_eq!(k, kb, "inner dimensions differ");
    assert_eq!(out.len(), m * n, "result of another size");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(0.0);
        }
        return;
    }
    if fills_tiles(k, n) && super::packed::multiply(out, accumulate, scale, a, b) {
        return;
    }
    if super::precision::is_bf16() && fills_tiles(k, n) {
        let (x, y) = (super::precision::rounded(a.data), super::precision::rounded(b.data));
        return by_gemm(out, accumulate, scale, Operand { data: &x, ..a }, Operand { data: &y, ..b });
    }
    // `gemm` sums in another order where the result is a single row or has few values; rows of zeros keep it from that.
    let padded = (FEW_VALUES / n + 1).max(2);
    if !a.transposed && a.stride == a.cols && m < padded {
        let mut rows = vec![0.0; padded * k];
        rows[..m * k].copy_from_slice(a.data);
        let mut result = vec![0.0; padded * n];
        if accumulate {
            result[..m * n].copy_from_slice(out);
        }
        by_gemm(&mut result, accumulate, scale, Operand::new(&rows, padded, k), b);
        out.copy_from_slice(&result[..m * n]);
    } else {
        by_gemm(out, accumulate, scale, a, b);
    }
}

/// `out = scale * a b` in `f32` on this thread, for products too narrow for tiles; `out` is row-major.
pub fn multiply_here(out: &mut [f32], scale: f32, a: Operand<'_>, b: Operand<'_>) {
    let ((m, k), (kb, n)) = (a.shape(), b.shape());
    assert_eq!(k, kb, "inner dimensions differ");
    assert_eq!(out.len(), m * n, "result of another size");
    if k == 0 {
        out.fill(0.0);
    }
    if m > 0 && n > 0 && k > 0 {
        by_gemm_on(out, false, scale, a, b, Parallelism::None);
    }
}

/// Values of a result up to which the `gemm` crate takes inner products one by one (`H_M`, `H_N` in its source).
const FEW_VALUES: usize = 16 * 16;
/// Inner dimension that the `gemm` crate takes at once, whatever the other sizes.
const DEPTH: usize = 512;

fn by_gemm(out: &mut [f32], accumulate: bool, scale: f32, a: Operand<'_>, b: Operand<'_>) {
    let ((m, k), (_, n)) = (a.shape(), b.shape());
    let parallelism = if super::parallel::threads() > 1 && m * n * k > 1 << 17 {
        Parallelism::Rayon(super::parallel::threads())
    } else {
        Parallelism::None
    };
    by_gemm_on(out, accumulate, scale, a, b, parallelism);
}

fn by_gemm_on(out: &mut [f32], accumulate: bool, scale: f32, a: Operand<'_>, b: Operand<'_>, parallelism: Parallelism) {
    let ((m, k), (_, n)) = (a.shape(), b.shape());
    let ((a_rs, a_cs), (b_rs, b_cs)) = (a.strides(), b.strides());
    // For narrow results `gemm` would cut a long inner dimension by the number of rows: it is cut here.
    let depth = if n <= 64 { DEPTH } else { k };
    for start in (0..k).step_by(depth) {
        // SAFETY: the assertions of `multiply` hold the three slices to the shapes and strides that are passed; `start` is below
        // the inner dimension.
        unsafe {
            gemm::gemm(
                m,
                n,
                depth.min(k - start),
                out.as_mut_ptr(),
                1,
                n as isize,
                accumulate || start > 0,
                a.data.as_ptr().offset(start as isize * a_cs),
                a_cs,
                a_rs,
                b.data.as_ptr().offset(start as isize * b_rs),
                b_cs,
                b_rs,
                1.0,
                scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 8.0 - 1.3).collect()
    }

    #[test]
    fn long_narrow_and_few_rows_are_right_and_do_not_depend_on_each_other() {
        for k in [1, 2, 511, 512, 513, 1025] {
            for n in [1, 8, 64, 65] {
                let (left, right) = (values(70 * k, 1), values(k * n, 2));
                let mut whole = vec![0.5; 70 * n];
                multiply(&mut whole, true, 0.5, Operand::new(&left, 70, k), Operand::new(&right, k, n));
                for m in [1, 2, 31, 70] {
                    let mut out = vec![0.5; m * n];
                    multiply(&mut out, true, 0.5, Operand::new(&left[..m * k], m, k), Operand::new(&right, k, n));
                    for (i, value) in out.iter().enumerate() {
                        let (row, column) = (i / n, i % n);
                        let sum: f64 =
                            (0..k).map(|d| f64::from(left[row * k + d]) * f64::from(right[d * n + column])).sum();
                        let expected = 0.5 + 0.5 * sum;
                        let near = (f64::from(*value) - expected).abs() < 1e-4 * expected.abs().max(k as f64);
                        assert!(near, "{m} {n} {k}: {value} {expected}");
                        // A single column is summed otherwise; no layer has one.
                        assert!(n == 1 || value.to_bits() == whole[i].to_bits(), "{m} {n} {k}: row {row}");
                    }
                    // The same values, stored the other way round.
                    let stored: Vec<f32> = (0..n * k).map(|i| right[i % k * n + i / k]).collect();
                    let mut turned = vec![0.0; m * n];
                    multiply(
                        &mut turned,
                        false,
                        1.0,
                        Operand::new(&left[..m * k], m, k),
                        Operand::new(&stored, n, k).t(),
                    );
                    for (a, b) in turned.iter().zip(&out) {
                        assert!((a - (b - 0.5) * 2.0).abs() < 1e-4 * k as f32, "{m} {n} {k}");
                    }
                }
            }
        }
    }
}
