//! LayerNorm over rows, with an optional residual added first; forward and backward.

use super::simd::{multiversion, sum_by};

multiversion! {
    /// `out_r = (s_r − mean) / sqrt(var + eps) * gamma + beta`, `s = x + residual` (`residual` may be empty); rows of `width`.
    pub fn forward<A>(x: &[f32], residual: &[f32], gamma: &[f32], beta: &[f32], eps: f32, width: usize, out: &mut [f32]) {
        for (r, out) in out.chunks_exact_mut(width).enumerate() {
            let row = r * width..(r + 1) * width;
            if residual.is_empty() {
                out.copy_from_slice(&x[row]);
            } else {
                for ((o, a), b) in out.iter_mut().zip(&x[row.clone()]).zip(&residual[row]) {
                    *o = a + b;
                }
            }
            let (mean, rstd) = moments(out, eps);
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
    /// Gradient by the sum `s = x + residual`, rows of `width`: with `h = dy * gamma` and the normalised `n`,
    /// `ds = rstd (h − mean(h) − n mean(h n))`.
    pub fn backward_input<A>(x: &[f32], residual: &[f32], gamma: &[f32], dy: &[f32], eps: f32, width: usize, out: &mut [f32]) {
        let mut normal = vec![0f32; width];
        for (r, out) in out.chunks_exact_mut(width).enumerate() {
            let row = r * width..(r + 1) * width;
            let rstd = normalised(&x[row.clone()], if residual.is_empty() { residual } else { &residual[row.clone()] }, eps, &mut normal);
            for ((o, d), g) in out.iter_mut().zip(&dy[row]).zip(gamma) {
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
    pub fn backward_params<A>(x: &[f32], residual: &[f32], dy: &[f32], eps: f32, width: usize, sums: &mut [f32]) {
        let mut normal = vec![0f32; width];
        let (dgamma, dbeta) = sums.split_at_mut(width);
        for r in 0..dy.len() / width.max(1) {
            let row = r * width..(r + 1) * width;
            normalised(&x[row.clone()], if residual.is_empty() { residual } else { &residual[row.clone()] }, eps, &mut normal);
            for i in 0..width {
                let d = dy[r * width + i];
                dgamma[i] = A::fma(d, normal[i], dgamma[i]);
                dbeta[i] += d;
            }
        }
    }
}

/// Writes `(s − mean) * rstd` and gives `rstd`.
#[inline(always)]
fn normalised(x: &[f32], residual: &[f32], eps: f32, out: &mut [f32]) -> f32 {
    if residual.is_empty() {
        out.copy_from_slice(x);
    } else {
        for ((o, a), b) in out.iter_mut().zip(x).zip(residual) {
            *o = a + b;
        }
    }
    let (mean, rstd) = moments(out, eps);
    for o in out.iter_mut() {
        *o = (*o - mean) * rstd;
    }
    rstd
}
