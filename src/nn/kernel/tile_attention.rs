//! Attention of one head over one sequence on tiles, in blocks of 32 query rows, forward and backward.
//!
//! As in [`super::attention`] the scores of a block are all that is kept at a time (forward, those with some hundred keys: the softmax is
//! taken as they come), and the backward pass recomputes them. A query's result depends on its own sequence alone.

use super::amx::{SIDE, Tile, Tiles, WHOLE, group};
use super::attention::{Head, Part, Query, ROWS, Rule, WriteGradient, exp_rows, sized, within};
use super::gemm::Operand;
use super::math::{exp, exp_shifted, maximum};
use super::packed::{grow, split_in};
use super::simd::{Wide, dot};
use super::split::Place;

/// Tokens from which a sequence is worth the tiles.
pub const WORTH: usize = 24;
/// Panels of keys that a block's scores are taken with at a time, so that they and their tiles stay in the second-level cache.
const AT_ONCE: usize = 24;
/// As [`WORTH`], in the backward pass.
pub const WORTH_BACKWARD: usize = 64;

/// Reused buffers of a worker.
#[derive(Default)]
pub struct Scratch {
    keys: Vec<Tile>,
    values: Vec<Tile>,
    queries: Vec<Tile>,
    weights: Vec<Tile>,
    scores: Vec<f32>,
    out: Vec<f32>,
    backward: Backward,
}

/// Those of the backward pass alone.
#[derive(Default)]
struct Backward {
    key_rows: Vec<Tile>,
    douts: Vec<Tile>,
    columns: Vec<Tile>,
    turned: Vec<Tile>,
    gradient: Vec<f32>,
    dropped: Vec<f32>,
    dkeys: Vec<f32>,
    dvalues: Vec<f32>,
}

/// Writes `dropout(softmax(scale q kᵀ + bias)) v` (`[n, depth]` rows) through `write(row, values)`, with operands of `parts`
/// parts; `head` has the rows of the queries, `keys` those of keys and values. `false`, and nothing done, where
/// products are not by blocks.
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
                WHOLE => run::<WHOLE>(&registers, [q, k, v], head, keys, rule, scratch, write),
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
/// The processor must have AVX-512 F, BW, DQ and VL, AVX2 and FMA.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
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
        unsafe { split_in(PARTS, rows_of(q, head), Place::Left, first, 0, head.scale, query_tiles) };
        let out = sized(&mut scratch.out, SIDE * deep * SIDE);
        // Each query's largest score so far, and the sum of its weights.
        let mut highest = [f32::NEG_INFINITY; SIDE];
        let mut sums = [0f32; SIDE];
        for start in (from..to).step_by(AT_ONCE) {
            let steps = AT_ONCE.min(to - start);
            let (width, key) = (steps * SIDE, start * SIDE);
            let scores = sized(&mut scratch.scores, SIDE * width);
            for (panel, keys) in key_tiles[start * deep * size..].chunks_exact(deep * size).enumerate().take(steps) {
                let (b, c) = (keys.as_ptr(), scores[panel * SIDE..].as_mut_ptr());
                // SAFETY: both have `deep` groups; the scores have 32 rows, `width` apart.
                unsafe {
                    let from = (zeros.as_ptr(), 0);
                    registers.block_product(query_tiles.as_ptr(), b, deep, (c, width), from, b.cast());
                }
            }
            rule.add(first, rows, key, width.min(n - key), width, scores);
            for (r, row) in scores.chunks_exact_mut(width).enumerate().take(rows) {
                let visible = rule.visible(first + r, n);
                let seen = visible.start.saturating_sub(key).min(width)..visible.end.saturating_sub(key).min(width);
                if seen.is_empty() {
                    row.fill(0.0);
                    continue;
                }
                row[..seen.start].fill(f32::NEG_INFINITY);
                row[seen.end..].fill(f32::NEG_INFINITY);
                let shift = maximum(row).max(highest[r]);
                if highest[r] > f32::NEG_INFINITY {
                    // What was summed is as much smaller as the largest score has grown (Milakov and Gimelshein 2018).
                    let factor = exp::<Wide>(highest[r] - shift);
                    sums[r] *= factor;
                    out[r * deep * SIDE..][..deep * SIDE].iter_mut().for_each(|v| *v *= factor);
                }
                highest[r] = shift;
                sums[r] += exp_shifted::<Wide>(row, shift);
                row[..seen.start].fill(0.0);
                row[seen.end..].fill(0.0);
            }
            rule.drop(first, rows, key, width, scores);
            let weight_tiles = grow(&mut scratch.weights, steps * size);
            let weights = Operand::strided(scores, rows, width, width);
            unsafe { split_in(PARTS, weights, Place::Left, 0, 0, 1.0, weight_tiles) };
            for (i, values) in value_tiles.chunks_exact(panels * size).enumerate() {
                let b = values[start * size..][..steps * size].as_ptr();
                let c = out[i * SIDE..].as_mut_ptr();
                let from = if start > from { (c.cast_const(), deep * SIDE) } else { (zeros.as_ptr(), 0) };
                // SAFETY: both have `steps` groups; the result has 32 rows, `deep * SIDE` apart.
                unsafe {
                    let to = (c, deep * SIDE);
                    registers.block_product(weight_tiles.as_ptr(), b, steps, to, from, b.cast());
                }
            }
        }
        for (r, row) in out.chunks_exact_mut(deep * SIDE).enumerate().take(rows) {
            let (row, factor) = (&mut row[..depth], 1.0 / sums[r]);
            row.iter_mut().for_each(|v| *v *= factor);
            write(first + r, row);
        }
    }
}

/// Backward: writes the gradients by q, k and v (`[n, depth]` rows each) through `write(part, query, row, values)`, with operands of
/// `parts` parts; `keys` has the rows of keys and values, `queries` the heads that attend to them, `dout` is the gradient by the forward
/// result. `false`, and nothing done, where products are not by blocks.
pub fn backward(
    parts: usize,
    [q, k, v, dout]: [&[f32]; 4],
    keys: Head,
    queries: &mut [Query<'_>],
    scratch: &mut Scratch,
    write: &mut WriteGradient<'_>,
) -> bool {
    let Some(registers) = Tiles::new(parts) else { return false };
    if keys.n > 0 && keys.depth > 0 {
        // SAFETY: `Tiles::new` has seen that the processor has these instructions.
        unsafe {
            match parts {
                1 => run_back::<1>(&registers, [q, k, v, dout], keys, queries, scratch, write),
                2 => run_back::<2>(&registers, [q, k, v, dout], keys, queries, scratch, write),
                WHOLE => run_back::<WHOLE>(&registers, [q, k, v, dout], keys, queries, scratch, write),
                _ => run_back::<3>(&registers, [q, k, v, dout], keys, queries, scratch, write),
            }
        }
    }
    true
}

/// # Safety
/// The processor must have AVX-512 F, BW, DQ and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn run_back<const PARTS: usize>(
    registers: &Tiles,
    [q, k, v, dout]: [&[f32]; 4],
    keys: Head,
    queries: &mut [Query<'_>],
    scratch: &mut Scratch,
    write: &mut WriteGradient<'_>,
) {
    let (n, depth, size) = (keys.n, keys.depth, group(PARTS));
    let (panels, deep) = (n.div_ceil(SIDE), depth.div_ceil(SIDE));
    let line = deep * SIDE;
    let zeros = [0f32; SIDE];
    let Scratch {
        keys: key_tiles,
        values: value_tiles,
        queries: query_tiles,
        weights: weight_tiles,
        scores,
        out,
        backward,
    } = scratch;
    let Backward { key_rows, douts, columns, turned, gradient, dropped, dkeys, dvalues } = backward;
    // Split along the depth, for scores; by keys, for what is summed over them.
    for (x, tiles) in [(k, &mut *key_tiles), (v, &mut *value_tiles)] {
        for (i, tiles) in grow(tiles, panels * deep * size).chunks_exact_mut(deep * size).enumerate() {
            // SAFETY: the caller's promise; so below.
            unsafe { split_in(PARTS, rows_of(x, keys), Place::Right, i * SIDE, 0, 1.0, tiles) };
        }
    }
    for (i, tiles) in grow(key_rows, deep * panels * size).chunks_exact_mut(panels * size).enumerate() {
        unsafe { split_in(PARTS, rows_of(k, keys).t(), Place::Right, i * SIDE, 0, 1.0, tiles) };
    }
    let [dkeys, dvalues] = [dkeys, dvalues].map(|sums| {
        let sums = sized(sums, panels * SIDE * line);
        sums.fill(0.0);
        sums
    });
    let query_tiles = grow(query_tiles, deep * size);
    let dout_tiles = grow(douts, deep * size);
    let columns = grow(columns, deep * size);
    let turned = grow(turned, size);
    for (g, query) in queries.iter_mut().enumerate() {
        let (head, result, rule) = (query.head, query.result, query.rule);
        for first in (0..n).step_by(SIDE) {
            let rows = SIDE.min(n - first);
            let from = rule.visible(first, n).start / SIDE;
            let to = rule.visible(first + rows - 1, n).end.div_ceil(SIDE);
            let (steps, width) = (to - from, (to - from) * SIDE);
            let (q_rows, dout_rows) = (rows_of(q, head), rows_of(dout, result));
            unsafe {
                split_in(PARTS, q_rows, Place::Left, first, 0, head.scale, query_tiles);
                split_in(PARTS, dout_rows, Place::Left, first, 0, 1.0, dout_tiles);
            }
            let scores = sized(scores, SIDE * width);
            let gradient = sized(gradient, SIDE * width);
            for panel in from..to {
                for (left, right, target) in
                    [(&*query_tiles, &*key_tiles, &mut *scores), (&*dout_tiles, &*value_tiles, &mut *gradient)]
                {
                    let b = right[panel * deep * size..][..deep * size].as_ptr();
                    let c = target[(panel - from) * SIDE..].as_mut_ptr();
                    // SAFETY: both have `deep` groups; the target has 32 rows, `width` apart.
                    unsafe {
                        registers.block_product(left.as_ptr(), b, deep, (c, width), (zeros.as_ptr(), 0), b.cast())
                    };
                }
            }
            let seen = (to * SIDE).min(n) - from * SIDE;
            for block in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - block);
                let scores = &mut scores[block * width..(block + ROWS) * width];
                rule.add(first + block, count, from * SIDE, seen, width, scores);
                let visible = |r| within(&rule, first + block + r, n, from * SIDE);
                let factors = exp_rows::<Wide>(scores, width, count, visible);
                for (row, factor) in scores.chunks_exact_mut(width).zip(factors).take(count) {
                    row.iter_mut().for_each(|weight| *weight *= factor);
                }
            }
            // Rows past the end would add uniform weights.
            scores[rows * width..].fill(0.0);
            gradient[rows * width..].fill(0.0);
            let kept: &[f32] = match rule.dropout {
                None => scores,
                Some(_) => {
                    let dropped = sized(dropped, SIDE * width);
                    dropped.copy_from_slice(scores);
                    rule.drop(first, rows, from * SIDE, width, dropped);
                    dropped
                }
            };
            for r in 0..rows {
                let row = r * width..(r + 1) * width;
                let (weights, kept, gradient) = (&scores[row.clone()], &kept[row.clone()], &mut gradient[row]);
                let shift = dot::<Wide>(kept, gradient);
                for ((g, p), d) in gradient.iter_mut().zip(weights).zip(kept) {
                    *g = (d * *g - p * shift) * head.scale;
                }
            }
            query.add_bias_gradient(first, rows, from * SIDE, seen, width, gradient);
            // By keys: of a panel's weights and gradients, turned, with the block's rows.
            for (x, rows_of_block, sums) in [(kept, dout_rows, &mut *dvalues), (&*gradient, q_rows, &mut *dkeys)] {
                for (i, tiles) in columns.chunks_exact_mut(size).enumerate() {
                    unsafe { split_in(PARTS, rows_of_block.t(), Place::Right, i * SIDE, first, 1.0, tiles) };
                }
                let x = Operand::new(&x[..SIDE * width], SIDE, width).t();
                for panel in from..to {
                    unsafe { split_in(PARTS, x, Place::Left, (panel - from) * SIDE, 0, 1.0, turned) };
                    for (i, b) in columns.chunks_exact(size).enumerate() {
                        let c = sums[panel * SIDE * line + i * SIDE..].as_mut_ptr();
                        // SAFETY: a group each; the sums have 32 rows from this panel's first on, `line` apart.
                        unsafe {
                            let b = b.as_ptr();
                            registers.block_product(turned.as_ptr(), b, 1, (c, line), (c.cast_const(), line), b.cast());
                        }
                    }
                }
            }
            // By queries.
            let weight_tiles = grow(weight_tiles, steps * size);
            let x = Operand::new(&gradient[..SIDE * width], SIDE, width);
            unsafe { split_in(PARTS, x, Place::Left, 0, 0, 1.0, weight_tiles) };
            let out = sized(out, SIDE * line);
            for (i, tiles) in key_rows[..deep * panels * size].chunks_exact(panels * size).enumerate() {
                let b = tiles[from * size..][..steps * size].as_ptr();
                let c = out[i * SIDE..].as_mut_ptr();
                // SAFETY: both have `steps` groups; the result has 32 rows, `line` apart.
                unsafe {
                    registers.block_product(weight_tiles.as_ptr(), b, steps, (c, line), (zeros.as_ptr(), 0), b.cast());
                }
            }
            for (r, row) in out.chunks_exact(line).enumerate().take(rows) {
                write(Part::Query, g, first + r, &row[..depth]);
            }
        }
    }
    for (j, (dk, dv)) in dkeys.chunks_exact(line).zip(dvalues.chunks_exact(line)).enumerate().take(n) {
        write(Part::Key, 0, j, &dk[..depth]);
        write(Part::Value, 0, j, &dv[..depth]);
    }
}
