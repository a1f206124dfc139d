//! AdamW on slices, in one pass over weights, gradients and moments.

use super::simd::{LANES, multiversion};

/// What a step's update is made with.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Decay rates of the two moments.
    pub betas: (f32, f32),
    /// 1 − β, rounded once: 1 − 0.999 in `f32` is off by 5e-5.
    pub rest: (f32, f32),
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Factor of the gradients (clipping).
    pub scale: f32,
    /// Root of the second moment's bias correction.
    pub root_correction: f32,
    /// Factor of the weights (decoupled decay).
    pub lr_decay: f32,
    /// Learning rate over the first moment's bias correction.
    pub step_size: f32,
}

multiversion! {
    /// Updates weights `p` and moments `m`, `v` by gradients `g`, all of one length.
    pub fn update<A>(rates: &Rates, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let Rates { betas: (beta1, beta2), rest: (rest1, rest2), eps, scale, root_correction, lr_decay, step_size } = *rates;
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * scale;
            *m = beta1 * *m + rest1 * g;
            *v = beta2 * *v + rest2 * g * g;
            let root = v.sqrt() / root_correction + eps;
            *p = *p * lr_decay - step_size * *m / root;
        }
    }
}

multiversion! {
    /// The sum of squares, in `f64`.
    pub fn sum_of_squares<A>(x: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*value) * f64::from(*value);
            }
        }
        let rest: f64 = chunks.remainder().iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        lanes.iter().sum::<f64>() + rest
    }
}
