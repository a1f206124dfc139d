//! Attention of one head over one sequence, in blocks of query rows, forward and backward.
//!
//! The scores of a block (`[ROWS, keys]`) are all that is kept at a time, so memory grows with the length, not its square.
//! The backward pass recomputes them.

use super::math::{exp_shifted, maximum};
use super::simd::{Arith, LANES, dot, multiversion};

/// Query rows of a block.
const ROWS: usize = 8;

/// One head of one sequence: `n` rows of `depth` values, `stride` apart, starting at `offset`.
#[derive(Clone, Copy)]
pub struct Head {
    /// Index of the first value.
    pub offset: usize,
    /// Tokens of the sequence.
    pub n: usize,
    /// Values between the starts of two rows (the hidden size).
    pub stride: usize,
    /// Values of a row (the head's dimension).
    pub depth: usize,
    /// Factor of the scores, 1/√depth.
    pub scale: f32,
}

impl Head {
    fn padded_n(&self) -> usize {
        self.n.next_multiple_of(LANES)
    }

    fn padded_depth(&self) -> usize {
        self.depth.next_multiple_of(LANES)
    }
}

/// Reused buffers of a worker.
#[derive(Default)]
pub struct Scratch {
    keys_t: Vec<f32>,
    values: Vec<f32>,
    keys: Vec<f32>,
    values_t: Vec<f32>,
    scores: Vec<f32>,
    gradient: Vec<f32>,
    block: Vec<f32>,
    block2: Vec<f32>,
    out: Vec<f32>,
    dkeys: Vec<f32>,
    dvalues: Vec<f32>,
}

#[inline(always)]
fn zeroed(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.clear();
    buffer.resize(len, 0.0);
    buffer
}

/// `[depth, padded n]` from rows.
#[inline(always)]
fn transpose_into(x: &[f32], head: Head, buffer: &mut Vec<f32>) {
    let width = head.padded_n();
    let out = zeroed(buffer, head.depth * width);
    for j in 0..head.n {
        let row = &x[head.offset + j * head.stride..][..head.depth];
        for (d, &value) in row.iter().enumerate() {
            out[d * width + j] = value;
        }
    }
}

/// `[n, padded depth]` from rows.
#[inline(always)]
fn rows_into(x: &[f32], head: Head, buffer: &mut Vec<f32>) {
    let width = head.padded_depth();
    let out = zeroed(buffer, head.n * width);
    for j in 0..head.n {
        out[j * width..][..head.depth].copy_from_slice(&x[head.offset + j * head.stride..][..head.depth]);
    }
}

/// Rows `first..first + ROWS` as `[ROWS, depth]`, zero past the end.
#[inline(always)]
fn block_into(x: &[f32], head: Head, first: usize, buffer: &mut Vec<f32>) {
    let out = zeroed(buffer, ROWS * head.depth);
    for r in 0..ROWS.min(head.n - first) {
        out[r * head.depth..][..head.depth]
            .copy_from_slice(&x[head.offset + (first + r) * head.stride..][..head.depth]);
    }
}

/// `out[r, j] = scale * sum_i a[r, i] b[i, j]`: `a` is `[ROWS, depth]` with rows `a_stride` apart, `b` `[depth, width]`,
/// `out` `[ROWS, width]`; `width` a multiple of `LANES`.
#[inline(always)]
fn product<A: Arith>(a: &[f32], a_stride: usize, b: &[f32], depth: usize, width: usize, scale: f32, out: &mut [f32]) {
    for j in (0..width).step_by(LANES) {
        let mut acc = [[0f32; LANES]; ROWS];
        for i in 0..depth {
            let b = &b[i * width + j..][..LANES];
            for r in 0..ROWS {
                let x = a[r * a_stride + i];
                for l in 0..LANES {
                    acc[r][l] = A::fma(x, b[l], acc[r][l]);
                }
            }
        }
        for r in 0..ROWS {
            for l in 0..LANES {
                out[r * width + j + l] = acc[r][l] * scale;
            }
        }
    }
}

/// `b[i, ·] += sum_r a[r, i] c[r, ·]`: `a` `[ROWS, n]` with rows `a_stride` apart, `c` `[ROWS, depth]`, `b` `[n, width]`.
#[inline(always)]
fn accumulate<A: Arith>(a: &[f32], a_stride: usize, c: &[f32], n: usize, depth: usize, width: usize, b: &mut [f32]) {
    for i in 0..n {
        let row = &mut b[i * width..][..depth];
        for r in 0..ROWS {
            let x = a[r * a_stride + i];
            let c = &c[r * depth..][..depth];
            for (o, v) in row.iter_mut().zip(c) {
                *o = A::fma(x, *v, *o);
            }
        }
    }
}

/// Softmax of the first `n` values of each row, zero beyond.
#[inline(always)]
fn softmax_rows<A: Arith>(scores: &mut [f32], n: usize, width: usize, rows: usize) {
    for row in scores.chunks_exact_mut(width).take(rows) {
        let shift = maximum(&row[..n]);
        let sum = exp_shifted::<A>(&mut row[..n], shift);
        let factor = 1.0 / sum;
        for value in &mut row[..n] {
            *value *= factor;
        }
        row[n..].fill(0.0);
    }
}

multiversion! {
    /// Forward: writes `softmax(scale q kᵀ) v` (`[n, depth]` rows) through `write(row, values)`.
    pub fn forward<A>(q: &[f32], k: &[f32], v: &[f32], head: Head, scratch: &mut Scratch, write: &mut dyn FnMut(usize, &[f32])) {
        let (width, depth_width) = (head.padded_n(), head.padded_depth());
        transpose_into(k, head, &mut scratch.keys_t);
        rows_into(v, head, &mut scratch.values);
        for first in (0..head.n).step_by(ROWS) {
            let rows = ROWS.min(head.n - first);
            block_into(q, head, first, &mut scratch.block);
            let scores = zeroed(&mut scratch.scores, ROWS * width);
            product::<A>(&scratch.block, head.depth, &scratch.keys_t, head.depth, width, head.scale, scores);
            softmax_rows::<A>(scores, head.n, width, rows);
            let out = zeroed(&mut scratch.out, ROWS * depth_width);
            product::<A>(scores, width, &scratch.values, head.n, depth_width, 1.0, out);
            for r in 0..rows {
                write(first + r, &out[r * depth_width..][..head.depth]);
            }
        }
    }
}

/// Which gradient a row belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// By the queries.
    Query,
    /// By the keys.
    Key,
    /// By the values.
    Value,
}

multiversion! {
    /// Backward: writes the gradients by q, k and v (`[n, depth]` rows each) through `write(part, row, values)`;
    /// `out` is the forward result, `dout` its gradient.
    pub fn backward<A>(q: &[f32], k: &[f32], v: &[f32], out: &[f32], dout: &[f32], head: Head, scratch: &mut Scratch, write: &mut dyn FnMut(Part, usize, &[f32])) {
        let (width, depth_width, depth) = (head.padded_n(), head.padded_depth(), head.depth);
        transpose_into(k, head, &mut scratch.keys_t);
        transpose_into(v, head, &mut scratch.values_t);
        rows_into(k, head, &mut scratch.keys);
        zeroed(&mut scratch.dkeys, head.n * depth_width);
        zeroed(&mut scratch.dvalues, head.n * depth_width);
        for first in (0..head.n).step_by(ROWS) {
            let rows = ROWS.min(head.n - first);
            block_into(q, head, first, &mut scratch.block);
            block_into(dout, head, first, &mut scratch.block2);
            let scores = zeroed(&mut scratch.scores, ROWS * width);
            product::<A>(&scratch.block, depth, &scratch.keys_t, depth, width, head.scale, scores);
            softmax_rows::<A>(scores, head.n, width, rows);
            // Rows past the end would add uniform weights: their probabilities must be zero.
            scores[rows * width..].fill(0.0);
            accumulate::<A>(scores, width, &scratch.block2, head.n, depth, depth_width, &mut scratch.dvalues);
            let gradient = zeroed(&mut scratch.gradient, ROWS * width);
            product::<A>(&scratch.block2, depth, &scratch.values_t, depth, width, 1.0, gradient);
            for r in 0..rows {
                let start = head.offset + (first + r) * head.stride;
                let shift = dot::<A>(&dout[start..][..depth], &out[start..][..depth]);
                let (p, g) = (&scores[r * width..][..width], &mut gradient[r * width..][..width]);
                for (g, p) in g.iter_mut().zip(p) {
                    *g = p * (*g - shift) * head.scale;
                }
            }
            gradient[rows * width..].fill(0.0);
            accumulate::<A>(gradient, width, &scratch.block, head.n, depth, depth_width, &mut scratch.dkeys);
            let dq = zeroed(&mut scratch.out, ROWS * depth_width);
            product::<A>(gradient, width, &scratch.keys, head.n, depth_width, 1.0, dq);
            for r in 0..rows {
                write(Part::Query, first + r, &dq[r * depth_width..][..depth]);
            }
        }
        for j in 0..head.n {
            write(Part::Key, j, &scratch.dkeys[j * depth_width..][..depth]);
            write(Part::Value, j, &scratch.dvalues[j * depth_width..][..depth]);
        }
    }
}
