//! Attention of one head over one sequence on the matrix unit, in blocks of 32 query rows, forward.
//!
//! As in [`super::attention`] the scores of a block are all that is kept at a time. A query's result depends on its own
//! sequence alone.

use super::amx::{SIDE, Tile, Tiles, group};
use super::attention::{Head, ROWS, Rule, exp_rows, sized, within};
use super::gemm::Operand;
use super::packed::{grow, split_in};
use super::simd::Wide;
use super::split::Place;

/// Tokens from which a sequence is worth the tiles.
pub const WORTH: usize = 24;

/// Reused buffers of a worker.
#[derive(Default)]
pub struct Scratch {
    keys: Vec<Tile>,
    values: Vec<Tile>,
    queries: Vec<Tile>,
    weights: Vec<Tile>,
    scores: Vec<f32>,
    out: Vec<f32>,
}

/// Writes `dropout(softmax(scale q kᵀ + bias)) v` (`[n, depth]` rows) through `write(row, values)`, with operands of `parts`
/// parts; `head` has the rows of the queries, `keys` those of keys and values. `false`, and nothing done, where there is no
/// matrix unit.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    parts: usize,
    [q, k, v]: [&[f32]; 3],
    head: Head,
    keys: Head,
    rule: Rule<'_>,
    scratch: &mut Scratch,
    write: &mut dyn FnMut(usize, &[f32]),
) -> bool {
    let Some(registers) = Tiles::new(parts) else { return false };
    if head.n > 0 && head.depth > 0 {
        // SAFETY: `Tiles::new` has seen that the processor has these instructions.
        unsafe {
            match parts {
                1 => run::<1>(&registers, [q, k, v], head, keys, rule, scratch, write),
                2 => run::<2>(&registers, [q, k, v], head, keys, rule, scratch, write),
                _ => run::<3>(&registers, [q, k, v], head, keys, rule, scratch, write),
            }
        }
    }
    true
}

fn rows_of(x: &[f32], head: Head) -> Operand<'_> {
    Operand::strided(&x[head.offset..], head.n, head.depth, head.stride)
}

/// # Safety
/// The processor must have AVX-512 F, BW, DQ, VL and BF16.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn run<const PARTS: usize>(
    registers: &Tiles,
    [q, k, v]: [&[f32]; 3],
    head: Head,
    keys: Head,
    rule: Rule<'_>,
    scratch: &mut Scratch,
    write: &mut dyn FnMut(usize, &[f32]),
) {
    let (n, depth, size) = (head.n, head.depth, group(PARTS));
    let (panels, deep) = (n.div_ceil(SIDE), depth.div_ceil(SIDE));
    let key_tiles = grow(&mut scratch.keys, panels * deep * size);
    for (i, tiles) in key_tiles.chunks_exact_mut(deep * size).enumerate() {
        // SAFETY: the caller's promise; so below.
        unsafe { split_in(PARTS, rows_of(k, keys), Place::Right, i * SIDE, 0, 1.0, tiles) };
    }
    let value_tiles = grow(&mut scratch.values, deep * panels * size);
    for (i, tiles) in value_tiles.chunks_exact_mut(panels * size).enumerate() {
        unsafe { split_in(PARTS, rows_of(v, keys).t(), Place::Right, i * SIDE, 0, 1.0, tiles) };
    }
    let query_tiles = grow(&mut scratch.queries, deep * size);
    let zeros = [0f32; SIDE];
    for first in (0..n).step_by(SIDE) {
        let rows = SIDE.min(n - first);
        let from = rule.visible(first, n).start / SIDE;
        let to = rule.visible(first + rows - 1, n).end.div_ceil(SIDE);
        let (steps, width) = (to - from, (to - from) * SIDE);
        unsafe { split_in(PARTS, rows_of(q, head), Place::Left, first, 0, head.scale, query_tiles) };
        let scores = sized(&mut scratch.scores, SIDE * width);
        for panel in from..to {
            let b = key_tiles[panel * deep * size..][..deep * size].as_ptr();
            let c = scores[(panel - from) * SIDE..].as_mut_ptr();
            // SAFETY: both have `deep` groups; the scores have 32 rows, `width` apart.
            unsafe {
                registers.block_product::<PARTS>(
                    query_tiles.as_ptr(),
                    b,
                    deep,
                    (c, width),
                    (zeros.as_ptr(), 0),
                    b.cast(),
                );
            }
        }
        let mut factors = [0f32; SIDE];
        let seen = (to * SIDE).min(n) - from * SIDE;
        for block in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - block);
            let scores = &mut scores[block * width..(block + ROWS) * width];
            rule.add(first + block, count, from * SIDE, seen, width, scores);
            let visible = |r| within(&rule, first + block + r, n, from * SIDE);
            factors[block..][..ROWS].copy_from_slice(&exp_rows::<Wide>(scores, width, count, visible));
            rule.drop(first + block, count, from * SIDE, width, scores);
        }
        let weight_tiles = grow(&mut scratch.weights, steps * size);
        let weights = Operand::strided(scores, rows, width, width);
        unsafe { split_in(PARTS, weights, Place::Left, 0, 0, 1.0, weight_tiles) };
        let out = sized(&mut scratch.out, SIDE * deep * SIDE);
        for (i, values) in value_tiles.chunks_exact(panels * size).enumerate() {
            let b = values[from * size..][..steps * size].as_ptr();
            let c = out[i * SIDE..].as_mut_ptr();
            // SAFETY: both have `steps` groups; the result has 32 rows, `deep * SIDE` apart.
            unsafe {
                let to = (c, deep * SIDE);
                registers.block_product::<PARTS>(weight_tiles.as_ptr(), b, steps, to, (zeros.as_ptr(), 0), b.cast());
            }
        }
        for (r, row) in out.chunks_exact_mut(deep * SIDE).enumerate().take(rows) {
            let row = &mut row[..depth];
            row.iter_mut().for_each(|v| *v *= factors[r]);
            write(first + r, row);
        }
    }
}
