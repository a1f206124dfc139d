//! Sixteen-entry look-ups, the inner loop of 4-bit dequantisation.

/// `out[2i] = table[codes[i] >> 4]`, `out[2i + 1] = table[codes[i] & 15]`; an odd last value takes a high half alone.
pub fn look_up(codes: &[u8], table: &[f32; 16], out: &mut [f32]) {
    assert_eq!(codes.len(), out.len().div_ceil(2), "codes of another number");
    #[cfg(target_arch = "x86_64")]
    {
        use crate::nn::kernel::simd::{Level, level};
        match level() {
            // SAFETY: `level` has seen that the processor has these instructions; the sizes fit by the assertion.
            Level::V4 => return unsafe { wide(codes, table, out) },
            // SAFETY: as above.
            Level::V3 => return unsafe { narrow(codes, table, out) },
            Level::Baseline => {}
        }
    }
    plain(codes, table, out);
}

fn plain(codes: &[u8], table: &[f32; 16], out: &mut [f32]) {
    for (pair, code) in out.chunks_mut(2).zip(codes) {
        for (to, nibble) in pair.iter_mut().zip([code >> 4, code & 15]) {
            *to = table[usize::from(nibble)];
        }
    }
}

/// Eight bytes at a time, one permutation each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn wide(codes: &[u8], table: &[f32; 16], out: &mut [f32]) {
    use std::arch::x86_64::{
        _mm_loadl_epi64, _mm512_and_epi64, _mm512_cvtepu8_epi64, _mm512_loadu_ps, _mm512_or_epi64,
        _mm512_permutexvar_ps, _mm512_set1_epi64, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_ps,
    };
    let whole = out.len() / 16;
    // SAFETY: `whole` times 8 codes and 16 values are within the slices.
    unsafe {
        let table = _mm512_loadu_ps(table.as_ptr());
        let low = _mm512_set1_epi64(15);
        for i in 0..whole {
            let bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(codes.as_ptr().add(8 * i).cast()));
            // Every byte as two indices of 32 bits, the high half first.
            let second = _mm512_slli_epi64::<32>(_mm512_and_epi64(bytes, low));
            let indices = _mm512_or_epi64(_mm512_srli_epi64::<4>(bytes), second);
            _mm512_storeu_ps(out.as_mut_ptr().add(16 * i), _mm512_permutexvar_ps(indices, table));
        }
    }
    plain(&codes[8 * whole..], table, &mut out[16 * whole..]);
}

/// Four bytes at a time: both halves of the table permuted, and chosen from by the highest bit.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn narrow(codes: &[u8], table: &[f32; 16], out: &mut [f32]) {
    use std::arch::x86_64::{
        _mm_cvtsi32_si128, _mm256_and_si256, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cvtepu8_epi64,
        _mm256_loadu_ps, _mm256_or_si256, _mm256_permutevar8x32_ps, _mm256_set1_epi64x, _mm256_slli_epi32,
        _mm256_slli_epi64, _mm256_srli_epi64, _mm256_storeu_ps,
    };
    let whole = out.len() / 8;
    // SAFETY: `whole` times 4 codes and 8 values are within the slices; the table has two halves of 8.
    unsafe {
        let (lower, upper) = (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8)));
        let low = _mm256_set1_epi64x(15);
        for i in 0..whole {
            let bytes = codes.as_ptr().add(4 * i).cast::<i32>().read_unaligned();
            let bytes = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(bytes));
            let second = _mm256_slli_epi64::<32>(_mm256_and_si256(bytes, low));
            let indices = _mm256_or_si256(_mm256_srli_epi64::<4>(bytes), second);
            let (a, b) = (_mm256_permutevar8x32_ps(lower, indices), _mm256_permutevar8x32_ps(upper, indices));
            let choice = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(indices));
            _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), _mm256_blendv_ps(a, b, choice));
        }
    }
    plain(&codes[4 * whole..], table, &mut out[8 * whole..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_looks_up_the_same() {
        let table: [f32; 16] = std::array::from_fn(|i| i as f32 * 1.5 - 7.0);
        for n in [0, 1, 2, 7, 8, 15, 16, 17, 33, 64] {
            let codes: Vec<u8> = (0..n).map(|i: usize| (i * 37 + 11) as u8).collect();
            for values in [2 * n, (2 * n).saturating_sub(1)] {
                let mut want = vec![f32::NAN; values];
                plain(&codes, &table, &mut want);
                for (i, value) in want.iter().enumerate() {
                    let nibble = if i % 2 == 0 { codes[i / 2] >> 4 } else { codes[i / 2] & 15 };
                    assert_eq!(*value, table[usize::from(nibble)]);
                }
                #[cfg(target_arch = "x86_64")]
                {
                    let mut got = vec![f32::NAN; values];
                    if is_x86_feature_detected!("avx512f") {
                        // SAFETY: the processor has it; the sizes fit.
                        unsafe { wide(&codes, &table, &mut got) };
                        assert_eq!(got, want);
                    }
                    got.fill(f32::NAN);
                    if is_x86_feature_detected!("avx2") {
                        // SAFETY: as above.
                        unsafe { narrow(&codes, &table, &mut got) };
                        assert_eq!(got, want);
                    }
                }
            }
        }
    }
}
