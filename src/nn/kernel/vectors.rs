//! Products of blocks by AVX-512, on the layout of [`super::amx`], for processors without its unit.
//!
//! A row of the right block is two vectors; a value of the left one is broadcast to all lanes. Eight rows are summed at a time, so that
//! their 16 sums, in registers, hide how long a multiplication takes, and the right block is read four times. Where the result goes is
//! asked for one run of rows ahead: else each waits for its lines to come from the second-level cache or further.

use std::arch::asm;
use std::arch::x86_64::*;

use super::amx::{SIDE, Tile, ahead, group};

/// Rows that are summed at a time.
const ROWS: usize = 8;
/// Lanes of a vector.
const LANES: usize = SIDE / 2;

macro_rules! product {
    ($(#[$doc:meta])* $name:ident, $rows:ident, $features:literal, $parts:expr, $op:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As there; the processor must have the instructions.
        #[target_feature(enable = $features)]
        pub unsafe fn $name(
            a: *const Tile,
            b: *const Tile,
            steps: usize,
            (c, stride): (*mut f32, usize),
            (from, line): (*const f32, usize),
            next: *const u8,
        ) {
            const DEEP: usize = group($parts) * size_of::<Tile>() / (SIDE * size_of::<f32>());
            const AHEAD: usize = ahead($parts) * ROWS / SIDE;
            let a = a.cast::<f32>();
            for run in 0..SIDE / ROWS {
                let first = run * ROWS;
                let next = next.wrapping_add(run * steps * AHEAD);
                // SAFETY: the caller's promise, for rows from `first` on.
                unsafe {
                    let c = c.add(first * stride);
                    $rows(a.add(first * DEEP), b, steps, (c, stride), (from.wrapping_add(first * line), line), next);
                }
            }
        }

        /// [`ROWS`] rows of the block; asks for its share of the bytes from `next` on, and for where the rows after these go.
        ///
        /// # Safety
        /// As the whole block's.
        #[target_feature(enable = $features)]
        unsafe fn $rows(
            a: *const f32,
            b: *const Tile,
            steps: usize,
            (c, stride): (*mut f32, usize),
            (from, line): (*const f32, usize),
            next: *const u8,
        ) {
            const WORDS: usize = group($parts) * size_of::<Tile>() / size_of::<f32>();
            // Vectors of a half of the right block.
            const DEEP: usize = WORDS / SIDE;
            const AHEAD: usize = ahead($parts) * ROWS / SIDE;
            let b = b.cast::<f32>();
            // SAFETY: the caller's promise.
            unsafe {
                let start = |r: usize| from.wrapping_add(r * line);
                let mut sums: [[__m512; 2]; ROWS] =
                    std::array::from_fn(|r| [_mm512_loadu_ps(start(r)), _mm512_loadu_ps(start(r).wrapping_add(LANES))]);
                for r in 0..ROWS {
                    let rows_after = c.wrapping_add((ROWS + r) * stride);
                    asm!("prefetchw [{0}]", "prefetchw [{0} + 64]", in(reg) rows_after, options(nostack, readonly, preserves_flags));
                }
                for step in 0..steps {
                    let (a, b) = (a.add(step * WORDS), b.add(step * WORDS));
                    for line in 0..AHEAD / 64 {
                        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(step * AHEAD + line * 64).cast());
                    }
                    for k in 0..DEEP {
                        let right = [_mm512_loadu_ps(b.add(k * LANES)), _mm512_loadu_ps(b.add((DEEP + k) * LANES))];
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let left = _mm512_set1_ps(*a.add(r * DEEP + k));
                            sums[0] = $op(sums[0], left, right[0]);
                            sums[1] = $op(sums[1], left, right[1]);
                        }
                    }
                }
                for (r, sums) in sums.iter().enumerate() {
                    _mm512_storeu_ps(c.add(r * stride), sums[0]);
                    _mm512_storeu_ps(c.add(r * stride + LANES), sums[1]);
                }
            }
        }
    };
}

product!(
    /// [`super::amx::Tiles::block_product`] of values as they are.
    whole,
    whole_rows,
    "avx512f",
    super::amx::WHOLE,
    |sum, a, b| _mm512_fmadd_ps(a, b, sum)
);

product!(
    /// [`super::amx::Tiles::block_product`] of values in one part, two products at a time.
    pairs,
    pair_rows,
    "avx512f,avx512bf16",
    1,
    |sum, a, b| _mm512_dpbf16_ps(sum, of_pairs(a), of_pairs(b))
);

/// Lanes as pairs of `bf16`.
#[inline(always)]
fn of_pairs(lanes: __m512) -> __m512bh {
    // SAFETY: any bits are vectors of `bf16`.
    unsafe { std::mem::transmute::<__m512, __m512bh>(lanes) }
}
