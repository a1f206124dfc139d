//! LayerNorm over rows, with an optional residual added first; forward and backward.

use super::mask::Mask;
use super::simd::{multiversion, sum_by};

/// The rows `s = x + residual` that are normalised, where dropout may fall on `x` first.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// `[rows, width]`.
    pub x: &'a [f32],
    /// `[rows, width]`, or empty for none.
    pub residual: &'a [f32],
    /// Dropout on `x`, and each row's place in the mask.
    pub dropout: Option<(Mask, &'a [u64])>,
    /// Values of a row.
    pub width: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl<'a> Rows<'a> {
    /// The rows `first..first + count`.
    pub fn part(&self, first: usize, count: usize) -> Self {
        let values = |x: &'a [f32]| if x.is_empty() { x } else { &x[first * self.width..(first + count) * self.width] };
        Self {
            x: values(self.x),
            residual: values(self.residual),
            dropout: self.dropout.map(|(mask, places)| (mask, &places[first..first + count])),
            ..*self
        }
    }

    /// Writes the sum of row `r`.
    #[inline(always)]
    fn sum(&self, r: usize, out: &mut [f32]) {
        let row = r * self.width..(r + 1) * self.width;
        let x = &self.x[row.clone()];
        match (self.dropout, self.residual.is_empty()) {
            (None, true) => out.copy_from_slice(x),
            (None, false) => {
                for ((o, a), b) in out.iter_mut().zip(x).zip(&self.residual[row]) {
                    *o = a + b;
                }
            }
            (Some((mask, places)), empty) => {
                out.copy_from_slice(x);
                mask.row(places[r]).apply_to(out);
                if !empty {
                    out.iter_mut().zip(&self.residual[row]).for_each(|(o, b)| *o += b);
                }
            }
        }
    }

    /// Writes `(s − mean) * rstd` of row `r` and gives `rstd`.
    #[inline(always)]
    fn normalised(&self, r: usize, out: &mut [f32]) -> f32 {
        self.sum(r, out);
        let (mean, rstd) = moments(out, self.eps);
        for o in out.iter_mut() {
            *o = (*o - mean) * rstd;
        }
        rstd
    }
}

multiversion! {
    /// `out_r = (s_r − mean) / sqrt(var + eps) * gamma + beta`.
    pub fn forward<A>(rows: Rows<'_>, gamma: &[f32], beta: &[f32], out: &mut [f32]) {
        for (r, out) in out.chunks_exact_mut(rows.width).enumerate() {
            rows.sum(r, out);
            let (mean, rstd) = moments(out, rows.eps);
            for ((o, g), b) in out.iter_mut().zip(gamma).zip(beta) {
                *o = A::fma((*o - mean) * rstd, *g, *b);
            }
        }
    }
}

#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum_by(row, |v| v) / n;
    let variance = sum_by(row, |v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

multiversion! {
    /// Gradient by the sum `s`, rows of `width`: with `h = dy * gamma` and the normalised `n`,
    /// `ds = rstd (h − mean(h) − n mean(h n))`.
    pub fn backward_input<A>(rows: Rows<'_>, gamma: &[f32], dy: &[f32], out: &mut [f32]) {
        let width = rows.width;
        let mut normal = vec![0f32; width];
        for (r, out) in out.chunks_exact_mut(width).enumerate() {
            let rstd = rows.normalised(r, &mut normal);
            for ((o, d), g) in out.iter_mut().zip(&dy[r * width..(r + 1) * width]).zip(gamma) {
                *o = d * g;
            }
            let mean_h = sum_by(out, |v| v) / width as f32;
            let mean_hn = super::simd::dot::<A>(out, &normal) / width as f32;
            for (o, n) in out.iter_mut().zip(&normal) {
                *o = rstd * (*o - mean_h - n * mean_hn);
            }
        }
    }
}

multiversion! {
    /// Adds the gradients by gamma and beta of the rows given to `sums` (`[2 * width]`: gamma's, then beta's).
    pub fn backward_params<A>(rows: Rows<'_>, dy: &[f32], sums: &mut [f32]) {
        let width = rows.width;
        let mut normal = vec![0f32; width];
        let (dgamma, dbeta) = sums.split_at_mut(width);
        for r in 0..dy.len() / width.max(1) {
            rows.normalised(r, &mut normal);
            for i in 0..width {
                let d = dy[r * width + i];
                dgamma[i] = A::fma(d, normal[i], dgamma[i]);
                dbeta[i] += d;
            }
        }
    }
}
