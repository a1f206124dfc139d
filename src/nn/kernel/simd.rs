//! One source, several instruction sets: `multiversion!` compiles a function for AVX-512, AVX2 and the baseline, and
//! calls the widest that this processor has.

use std::sync::OnceLock;

/// Instruction sets that a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the target has.
    Baseline,
    /// AVX2 and FMA.
    V3,
    /// AVX-512 F, BW, DQ and VL.
    V4,
}

/// The widest instruction set of this processor; `EMBEVAL_SIMD=baseline|v3` narrows it (to test the other paths).
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let found = detect();
        match std::env::var("EMBEVAL_SIMD").as_deref() {
            Ok("baseline") => Level::Baseline,
            Ok("v3") => found.min(Level::V3),
            _ => found,
        }
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        Level::V4
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        Level::V3
    } else {
        Level::Baseline
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Baseline
}

/// Arithmetic of an instruction set.
pub trait Arith {
    /// [`LANES`] values in registers. Inner loops of products name them, as the compiler's own choice among the loops of an
    /// array of arrays is erratic.
    type Vector: Copy;

    /// `a * b + c`, fused where the instruction set has it (elsewhere `f32::mul_add` would be a slow library call).
    fn fma(a: f32, b: f32, c: f32) -> f32;

    /// [`LANES`] times `x`.
    ///
    /// # Safety
    /// The processor has the instruction set; the same holds for the functions below.
    unsafe fn splat(x: f32) -> Self::Vector;

    /// Reads [`LANES`] values.
    ///
    /// # Safety
    /// They are there.
    unsafe fn load(from: *const f32) -> Self::Vector;

    /// Writes [`LANES`] values.
    ///
    /// # Safety
    /// Nothing else touches them.
    unsafe fn store(to: *mut f32, x: Self::Vector);

    /// `a * b + c` in every lane.
    ///
    /// # Safety
    /// As [`Arith::splat`].
    unsafe fn fma_vector(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;

    /// `a * b` in every lane.
    ///
    /// # Safety
    /// As [`Arith::splat`].
    unsafe fn mul_vector(a: Self::Vector, b: Self::Vector) -> Self::Vector;
}

/// `a * b + c` in one rounding, AVX-512.
#[cfg(target_arch = "x86_64")]
pub struct Wide;
/// `a * b + c` in one rounding, AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
pub struct Fused;
/// `a * b + c` in two roundings.
pub struct Plain;

#[cfg(target_arch = "x86_64")]
impl Arith for Wide {
    type Vector = std::arch::x86_64::__m512;

    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::Vector {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Vector {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::Vector) {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm512_storeu_ps(to, x) }
    }

    #[inline(always)]
    unsafe fn fma_vector(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul_vector(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: the caller's promise.
        unsafe { std::arch::x86_64::_mm512_mul_ps(a, b) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Arith for Fused {
    type Vector = [std::arch::x86_64::__m256; 2];

    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::Vector {
        // SAFETY: the caller's promise.
        unsafe { [std::arch::x86_64::_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Vector {
        // SAFETY: the caller's promise.
        unsafe { [std::arch::x86_64::_mm256_loadu_ps(from), std::arch::x86_64::_mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::Vector) {
        // SAFETY: the caller's promise.
        unsafe {
            std::arch::x86_64::_mm256_storeu_ps(to, x[0]);
            std::arch::x86_64::_mm256_storeu_ps(to.add(8), x[1]);
        }
    }

    #[inline(always)]
    unsafe fn fma_vector(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        use std::arch::x86_64::_mm256_fmadd_ps;
        // SAFETY: the caller's promise.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    unsafe fn mul_vector(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        use std::arch::x86_64::_mm256_mul_ps;
        // SAFETY: the caller's promise.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
}

impl Arith for Plain {
    type Vector = [f32; LANES];

    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::Vector {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Vector {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::Vector>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::Vector) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::Vector>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn fma_vector(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|l| a[l] * b[l] + c[l])
    }

    #[inline(always)]
    unsafe fn mul_vector(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|l| a[l] * b[l])
    }
}

/// Lanes of the accumulators that reductions are split into; one AVX-512 register.
pub const LANES: usize = 16;

/// Defines `fn name(args) -> ret` that runs `body` (generic over an [`Arith`] type parameter named by the caller) compiled
/// for the widest instruction set of the processor.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$arith:ident>($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, clippy::extra_unused_type_parameters)]
            fn generic<$arith: $crate::nn::kernel::simd::Arith>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::nn::kernel::simd::{Fused, Level, Wide, level};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v4($($arg: $ty),*) $(-> $ret)? {
                    generic::<Wide>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn v3($($arg: $ty),*) $(-> $ret)? {
                    generic::<Fused>($($arg),*)
                }
                match level() {
                    // SAFETY: `level` has seen that the processor has these instructions.
                    Level::V4 => return unsafe { v4($($arg),*) },
                    // SAFETY: as above.
                    Level::V3 => return unsafe { v3($($arg),*) },
                    Level::Baseline => {}
                }
            }
            generic::<$crate::nn::kernel::simd::Plain>($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// Sum of `LANES` partial sums, pairwise.
#[inline(always)]
pub fn reduce(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `sum_i f(x_i)` with independent lanes; the order of additions depends on the length alone.
#[inline(always)]
pub fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(value);
    }
    reduce(lanes)
}

/// `sum_i x_i y_i` with independent lanes.
#[inline(always)]
pub fn dot<A: Arith>(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let (xr, yr) = (xs.remainder(), ys.remainder());
    for (a, b) in xs.zip(ys) {
        for l in 0..LANES {
            lanes[l] = A::fma(a[l], b[l], lanes[l]);
        }
    }
    for (l, (a, b)) in xr.iter().zip(yr).enumerate() {
        lanes[l] = A::fma(*a, *b, lanes[l]);
    }
    reduce(lanes)
}
