//! Splits `f32` matrices into `bf16` parts, or takes them whole, laid out as the tiles that [`super::amx`] multiplies.

use std::arch::x86_64::*;

use super::amx::{DEPTH, SIDE, Tile, WHOLE, group};
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
/// the inner dimension: `[steps][part][half]` tiles, of [`group`] each step. A line is a row of a left matrix (`x` `[lines, inner]`), or a column of
/// a right one, whose transpose `x` then is.
///
/// # Safety
/// The processor must have AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn split<const PARTS: usize>(
    x: Operand<'_>,
    place: Place,
    first: usize,
    from: usize,
    scale: f32,
    out: &mut [Tile],
) {
    let (lines, inner) = x.shape();
    let factor = _mm512_set1_ps(scale);
    let transposing = x.is_transposed() == (place == Place::Left);
    // Vectors of a transposed half: what the last one left is overwritten.
    let mut vectors = [[_mm512_setzero_si512(); 16]; PARTS];
    for (step, tiles) in out.chunks_exact_mut(group(PARTS)).enumerate() {
        let start = from + step * DEPTH;
        for half in 0..2 {
            let line = first + half * SIDE / 2;
            let (lines, inner) = (lines.saturating_sub(line), inner.saturating_sub(start));
            // Vector i of a part: 16 pairs, of line i along the inner dimension, or of pair i along the lines.
            for i in 0..16 {
                let (a, b) = if x.is_transposed() {
                    let row = |j: usize| load(x, (j < inner).then_some((start + j, line)), lines);
                    (row(2 * i), row(2 * i + 1))
                } else {
                    let row = |j: usize| load(x, (i < lines).then_some((line + i, start + j)), inner.saturating_sub(j));
                    (row(0), row(16))
                };
                let (mut a, mut b) = (_mm512_mul_ps(a, factor), _mm512_mul_ps(b, factor));
                for (part, vectors) in vectors.iter_mut().enumerate() {
                    let (high_a, high_b) = (round(a), round(b));
                    let pairs =
                        if x.is_transposed() { interleaved(high_a, high_b) } else { neighbours(high_a, high_b) };
                    if transposing {
                        vectors[i] = pairs;
                    } else {
                        store(&mut tiles[2 * part + half], i, pairs);
                    }
                    if part + 1 < PARTS {
                        a = _mm512_sub_ps(a, _mm512_castsi512_ps(high_a));
                        b = _mm512_sub_ps(b, _mm512_castsi512_ps(high_b));
                    }
                }
            }
            if transposing {
                for (part, vectors) in vectors.iter_mut().enumerate() {
                    transpose(vectors);
                    for (i, vector) in vectors.iter().enumerate() {
                        store(&mut tiles[2 * part + half], i, *vector);
                    }
                }
            }
        }
    }
}

/// As [`split`], values as they are ([`super::amx::WHOLE`]).
///
/// # Safety
/// The processor must have AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub unsafe fn copy(x: Operand<'_>, place: Place, first: usize, from: usize, scale: f32, out: &mut [Tile]) {
    const HALF: usize = SIDE / 2;
    let (lines, inner) = x.shape();
    let factor = _mm512_set1_ps(scale);
    // A step is 64 vectors: of a left matrix two for each line, of a right one two halves, each a vector for each place along the inner dimension.
    for (step, tiles) in out.chunks_exact_mut(group(WHOLE)).enumerate() {
        let start = from + step * DEPTH;
        for (half, deep) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (line, start) = (first + half * HALF, start + deep * HALF);
            let (lines, inner) = (lines.saturating_sub(line), inner.saturating_sub(start));
            let value = |i: usize| {
                let values = if x.is_transposed() {
                    load(x, (i < inner).then_some((start + i, line)), lines)
                } else {
                    load(x, (i < lines).then_some((line + i, start)), inner)
                };
                _mm512_castps_si512(_mm512_mul_ps(values, factor))
            };
            let at = |i: usize| match place {
                Place::Left => 2 * (half * HALF + i) + deep,
                Place::Right => half * SIDE + deep * HALF + i,
            };
            let mut put = |i: usize, vector: __m512i| store(&mut tiles[at(i) / HALF], at(i) % HALF, vector);
            if x.is_transposed() == (place == Place::Left) {
                let mut vectors: [__m512i; HALF] = std::array::from_fn(value);
                transpose(&mut vectors);
                vectors.into_iter().enumerate().for_each(|(i, vector)| put(i, vector));
            } else {
                (0..HALF).for_each(|i| put(i, value(i)));
            }
        }
    }
}

/// Writes row `i` of a tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn store(tile: &mut Tile, i: usize, row: __m512i) {
    let target = &mut tile.0[16 * i..16 * i + 16];
    // SAFETY: 16 values of 4 bytes.
    unsafe { _mm512_storeu_si512(target.as_mut_ptr().cast(), row) };
}

/// Up to 16 values of the stored matrix from (row, column) on, `left` of them before its edge; zero beyond.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load(x: Operand<'_>, place: Option<(usize, usize)>, left: usize) -> __m512 {
    let Some((row, column)) = place else { return _mm512_setzero_ps() };
    let mask = if left >= 16 { u16::MAX } else { (1 << left) - 1 };
    // SAFETY: the mask keeps to values before the edge; masked lanes are not read, wherever they point.
    unsafe { _mm512_maskz_loadu_ps(mask, x.values().as_ptr().wrapping_add(row * x.width() + column)) }
}

/// The nearest `bf16` (the one farther from zero of two), in the high half of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn round(x: __m512) -> __m512i {
    // Not the conversion of AVX512-BF16, which is slower than this and ends in the wrong half.
    let up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    _mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()))
}

/// The high halves of `a`'s lanes, then those of `b`'s.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn neighbours(a: __m512i, b: __m512i) -> __m512i {
    const ODD: [u16; 32] = {
        let mut words = [0; 32];
        let mut i = 0;
        while i < 32 {
            words[i] = 2 * i as u16 + 1;
            i += 1;
        }
        words
    };
    // SAFETY: 32 values of 2 bytes.
    let odd = unsafe { _mm512_loadu_si512(ODD.as_ptr().cast()) };
    _mm512_permutex2var_epi16(a, odd, b)
}

/// In each lane the high half of `a`'s below that of `b`'s.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn interleaved(a: __m512i, b: __m512i) -> __m512i {
    _mm512_or_si512(_mm512_srli_epi32::<16>(a), b)
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
