//! `exp`, `erf` and activations on `f32`, written so that they vectorise, with errors near rounding.

use super::simd::{Arith, LANES};

/// e^x: Cody-Waite reduction and a degree-6 polynomial (Cephes `expf`); relative error below 2e-7, 1.2e-38 below −87.3.
#[inline(always)]
pub fn exp<A: Arith>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let x = x.clamp(-87.336_54, 88.722_83);
    let shifted = A::fma(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = A::fma(n, -0.693_359_4, x);
    let r = A::fma(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = A::fma(p, r, 1.398_199_9e-3);
    p = A::fma(p, r, 8.333_452e-3);
    p = A::fma(p, r, 4.166_579_6e-2);
    p = A::fma(p, r, 0.166_666_65);
    p = A::fma(p, r, 0.5);
    let y = A::fma(p, r * r, r) + 1.0;
    // The integer n sits in the low bits of `shifted`; moved into the exponent it is 2^n (in two steps: n may be 128).
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = n >> 1;
    let a = f32::from_bits(((half + 127) << 23) as u32);
    let b = f32::from_bits(((n - half + 127) << 23) as u32);
    y * a * b
}

/// erf(x): rational minimax approximation on [−4, 4] (the one of Eigen and XLA), absolute error below 3e-7.
#[inline(always)]
pub fn erf<A: Arith>(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let mut p = -2.726_142_3e-10;
    p = A::fma(p, s, 2.770_681_5e-8);
    p = A::fma(p, s, -2.101_024e-6);
    p = A::fma(p, s, -5.692_506_4e-5);
    p = A::fma(p, s, -7.349_906_4e-4);
    p = A::fma(p, s, -2.954_600_1e-3);
    p = A::fma(p, s, -1.609_603_4e-2);
    let mut q = -1.456_607_2e-5;
    q = A::fma(q, s, -2.133_740_6e-4);
    q = A::fma(q, s, -1.682_827e-3);
    q = A::fma(q, s, -7.373_329e-3);
    q = A::fma(q, s, -1.426_473_9e-2);
    x * p / q
}

/// GELU(x) = x Φ(x), exact form (Hendrycks and Gimpel 2016).
#[inline(always)]
pub fn gelu<A: Arith>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<A>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// GELU'(x) = Φ(x) + x φ(x).
#[inline(always)]
pub fn gelu_derivative<A: Arith>(x: f32) -> f32 {
    let cdf = 0.5 * (1.0 + erf::<A>(x * std::f32::consts::FRAC_1_SQRT_2));
    let pdf = 0.398_942_3 * exp::<A>(-0.5 * x * x);
    A::fma(x, pdf, cdf)
}

/// 1 / (1 + e^−x).
#[inline(always)]
pub fn sigmoid<A: Arith>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<A>(-x))
}

/// SiLU(x) = x σ(x) (Elfwing et al. 2018).
#[inline(always)]
pub fn silu<A: Arith>(x: f32) -> f32 {
    x * sigmoid::<A>(x)
}

/// SiLU'(x) = σ(x) (1 + x (1 − σ(x))).
#[inline(always)]
pub fn silu_derivative<A: Arith>(x: f32) -> f32 {
    let s = sigmoid::<A>(x);
    s * A::fma(x, 1.0 - s, 1.0)
}

/// 2 √(2/π), the factor of [`gelu_tanh`]'s argument.
const GELU_SCALE: f32 = 1.595_769;
const GELU_CUBIC: f32 = 0.044_715;

/// GELU by tanh, x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))) (Hendrycks and Gimpel 2016), as x σ(2 √(2/π) (x + 0.044715 x³)).
#[inline(always)]
pub fn gelu_tanh<A: Arith>(x: f32) -> f32 {
    x * sigmoid::<A>(GELU_SCALE * A::fma(GELU_CUBIC * x * x, x, x))
}

/// The derivative of [`gelu_tanh`].
#[inline(always)]
pub fn gelu_tanh_derivative<A: Arith>(x: f32) -> f32 {
    let s = sigmoid::<A>(GELU_SCALE * A::fma(GELU_CUBIC * x * x, x, x));
    let slope = GELU_SCALE * A::fma(3.0 * GELU_CUBIC * x, x, 1.0);
    A::fma(x * s * (1.0 - s), slope, s)
}

/// `x_i = exp(x_i - shift)`, and their sum.
#[inline(always)]
pub fn exp_shifted<A: Arith>(x: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for l in 0..LANES {
            let e = exp::<A>(chunk[l] - shift);
            chunk[l] = e;
            lanes[l] += e;
        }
    }
    for (l, value) in chunks.into_remainder().iter_mut().enumerate() {
        let e = exp::<A>(*value - shift);
        *value = e;
        lanes[l] += e;
    }
    super::simd::reduce(lanes)
}

/// The largest value; −∞ for none.
#[inline(always)]
pub fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = if chunk[l] > lanes[l] { chunk[l] } else { lanes[l] };
        }
    }
    for (l, &value) in rest.iter().enumerate() {
        lanes[l] = if value > lanes[l] { value } else { lanes[l] };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    use super::super::simd::Fused;
    use super::super::simd::Plain;
    #[cfg(not(target_arch = "x86_64"))]
    use super::super::simd::Plain as Fused;
    use super::*;

    #[test]
    fn exp_is_close_to_std_over_its_range() {
        for i in -8_700..8_700 {
            let x = i as f32 * 0.01;
            let want = (x as f64).exp();
            for got in [exp::<Fused>(x), exp::<Plain>(x)] {
                assert!(((got as f64 - want) / want).abs() < 3e-7, "exp({x}) = {got}, not {want}");
            }
        }
        assert!(exp::<Fused>(-1e4) < 1.3e-38);
        assert!(exp::<Fused>(88.7).is_finite());
    }

    #[test]
    fn erf_is_close_to_statrs() {
        for i in -600..600 {
            let x = i as f32 * 0.01;
            let want = statrs::function::erf::erf(x as f64);
            assert!((erf::<Fused>(x) as f64 - want).abs() < 4e-7, "erf({x})");
        }
    }

    #[test]
    fn sigmoids_equal_std_and_their_derivatives_are_slopes() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let silu_of = |x: f64| x * sigmoid(x);
        let tanh_of =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
        let slope = |f: &dyn Fn(f64) -> f64, x: f64| (f(x + 1e-5) - f(x - 1e-5)) / 2e-5;
        for i in -2_000..2_000 {
            let x = i as f64 * 0.01;
            let near = |got: f32, want: f64| (f64::from(got) - want).abs() < 1e-6 * want.abs().max(1.0);
            assert!(near(silu::<Fused>(x as f32), silu_of(x)), "silu({x})");
            assert!(near(gelu_tanh::<Fused>(x as f32), tanh_of(x)), "gelu_tanh({x})");
            assert!(near(silu_derivative::<Fused>(x as f32), slope(&silu_of, x)), "silu'({x})");
            assert!(
                (f64::from(gelu_tanh_derivative::<Fused>(x as f32)) - slope(&tanh_of, x)).abs() < 4e-6,
                "gelu_tanh'({x})"
            );
        }
        for x in [-1e4f32, -200.0, 200.0, 1e4] {
            for value in
                [silu::<Fused>(x), gelu_tanh::<Fused>(x), silu_derivative::<Fused>(x), gelu_tanh_derivative::<Fused>(x)]
            {
                assert!(value.is_finite(), "at {x}");
            }
        }
    }

    #[test]
    fn gelu_derivative_is_the_slope_of_gelu() {
        for i in -50..50 {
            let x = i as f64 * 0.1;
            let cdf = |x: f64| 0.5 * (1.0 + statrs::function::erf::erf(x / 2f64.sqrt()));
            let slope = ((x + 1e-5) * cdf(x + 1e-5) - (x - 1e-5) * cdf(x - 1e-5)) / 2e-5;
            assert!((gelu_derivative::<Fused>(x as f32) as f64 - slope).abs() < 2e-6, "at {x}");
        }
    }
}
