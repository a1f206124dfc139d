//! RMSNorm over rows, forward and backward.

use super::simd::{dot, multiversion, sum_by};

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn reciprocal(row: &[f32], eps: f32) -> f32 {
    1.0 / (sum_by(row, |v| v * v) / row.len() as f32 + eps).sqrt()
}

multiversion! {
    /// `out_r = x_r / rms(x_r) * weight`, rows as wide as the weight.
    pub fn forward<A>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
            let factor = reciprocal(x, eps);
            for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
                *o = x * factor * w;
            }
        }
    }
}

multiversion! {
    /// Gradient by the rows of `x`: with `h = dy * weight` and the normalised `n`, `dx = (h − n mean(h n)) / rms(x)`.
    pub fn backward_input<A>(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], out: &mut [f32]) {
        let width = weight.len();
        for ((x, dy), out) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(out.chunks_exact_mut(width)) {
            let factor = reciprocal(x, eps);
            for ((o, d), w) in out.iter_mut().zip(dy).zip(weight) {
                *o = d * w;
            }
            let mean = dot::<A>(out, x) * factor / width as f32;
            for (o, x) in out.iter_mut().zip(x) {
                *o = factor * (*o - x * factor * mean);
            }
        }
    }
}

multiversion! {
    /// Adds the gradient by the weight of the rows given to `sums`.
    pub fn backward_weight<A>(x: &[f32], eps: f32, dy: &[f32], sums: &mut [f32]) {
        let width = sums.len();
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
            let factor = reciprocal(x, eps);
            for ((s, x), d) in sums.iter_mut().zip(x).zip(dy) {
                *s = A::fma(d * factor, *x, *s);
            }
        }
    }
}
