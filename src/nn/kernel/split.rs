//! Splits `f32` matrices into `bf16` parts, laid out as the tiles that [`super::amx`] multiplies.

use std::arch::x86_64::*;

use super::amx::{DEPTH, GROUP, PARTS, SIDE, Tile};
use super::gemm::Operand;

/// Side of a product that a matrix is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Tiles hold rows of the matrix.
    Left,
    /// Tiles hold columns of the matrix, in pairs along the inner dimension.
    Right,
}

/// Splits `SIDE` lines of `x` from line `first`, zero beyond the last, times `scale`, between `from` and the end of `out` of
/// the inner dimension: `[steps][part][half]` tiles. A line is a row of a left matrix (`x` `[lines, inner]`), or a column of
/// a right one, whose transpose `x` then is.
///
/// # Safety
/// The processor must have AVX-512 F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn split(x: Operand<'_>, place: Place, first: usize, from: usize, scale: f32, out: &mut [Tile]) {
    let (lines, inner) = x.shape();
    let factor = _mm512_set1_ps(scale);
    for (step, group) in out.chunks_exact_mut(GROUP).enumerate() {
        let start = from + step * DEPTH;
        for half in 0..2 {
            let line = first + half * SIDE / 2;
            let (lines, inner) = (lines.saturating_sub(line), inner.saturating_sub(start));
            // Vector i of a part: 16 pairs, of line i along the inner dimension, or of pair i along the lines.
            let mut parts = [[_mm512_setzero_si512(); 16]; PARTS];
            for i in 0..16 {
                let (a, b) = if x.is_transposed() {
                    let row = |j: usize| load(x, (j < inner).then_some((start + j, line)), lines);
                    (row(2 * i), row(2 * i + 1))
                } else {
                    let row = |j: usize| load(x, (i < lines).then_some((line + i, start + j)), inner.saturating_sub(j));
                    (row(0), row(16))
                };
                let (mut a, mut b) = (_mm512_mul_ps(a, factor), _mm512_mul_ps(b, factor));
                for part in &mut parts {
                    let (high_a, high_b) = (round(a), round(b));
                    part[i] = if x.is_transposed() {
                        _mm512_or_si512(high_a, _mm512_slli_epi32::<16>(high_b))
                    } else {
                        _mm512_inserti64x4::<1>(
                            _mm512_castsi256_si512(_mm512_cvtepi32_epi16(high_a)),
                            _mm512_cvtepi32_epi16(high_b),
                        )
                    };
                    a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high_a)));
                    b = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high_b)));
                }
            }
            for (part, vectors) in parts.iter_mut().enumerate() {
                if x.is_transposed() == (place == Place::Left) {
                    transpose(vectors);
                }
                for (row, vector) in group[2 * part + half].0.chunks_exact_mut(16).zip(vectors) {
                    // SAFETY: 16 values of 4 bytes.
                    unsafe { _mm512_storeu_si512(row.as_mut_ptr().cast(), *vector) };
                }
            }
        }
    }
}

/// Up to 16 values of the stored matrix from (row, column) on, `left` of them before its edge; zero beyond.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn load(x: Operand<'_>, place: Option<(usize, usize)>, left: usize) -> __m512 {
    let Some((row, column)) = place else { return _mm512_setzero_ps() };
    let mask = if left >= 16 { u16::MAX } else { (1 << left) - 1 };
    // SAFETY: the mask keeps to values before the edge; masked lanes are not read, wherever they point.
    unsafe { _mm512_maskz_loadu_ps(mask, x.values().as_ptr().wrapping_add(row * x.width() + column)) }
}

/// The nearest `bf16`, in the low half of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn round(x: __m512) -> __m512i {
    // SAFETY: both types are 256 bits without invalid values.
    _mm512_cvtepu16_epi32(unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) })
}

/// Transposes 16 vectors of 16.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(v: &mut [__m512i; 16]) {
    let mut t = *v;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    for i in 0..4 {
        v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for i in 0..4 {
        t[i] = _mm512_shuffle_i32x4::<0x88>(v[i], v[i + 4]);
        t[i + 4] = _mm512_shuffle_i32x4::<0xdd>(v[i], v[i + 4]);
        t[i + 8] = _mm512_shuffle_i32x4::<0x88>(v[i + 8], v[i + 12]);
        t[i + 12] = _mm512_shuffle_i32x4::<0xdd>(v[i + 8], v[i + 12]);
    }
    for i in 0..8 {
        v[i] = _mm512_shuffle_i32x4::<0x88>(t[i], t[i + 8]);
        v[i + 8] = _mm512_shuffle_i32x4::<0xdd>(t[i], t[i + 8]);
    }
}
