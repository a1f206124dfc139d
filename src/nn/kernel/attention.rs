//! Attention of one head over one sequence, in blocks of query rows, forward and backward.
//!
//! The scores of a block (`[ROWS, keys]`) are all that is kept at a time, so memory grows with the length, not its square.
//! The backward pass recomputes them.

use std::ops::Range;

use super::mask::Mask;
use super::math::{exp_shifted, maximum};
use super::simd::{Arith, LANES, dot, multiversion};

/// Query rows of a block.
pub(super) const ROWS: usize = 8;

/// One head of one sequence: `n` rows of `depth` values, `stride` apart, starting at `offset`.
#[derive(Clone, Copy)]
pub struct Head {
    /// Index of the first value.
    pub offset: usize,
    /// Tokens of the sequence.
    pub n: usize,
    /// Values between the starts of two rows: the hidden size, or three times that where q, k and v stand side by side.
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

/// Which keys a query sees, what is added to their scores, and what becomes of the weights that it gives them.
#[derive(Clone, Copy)]
pub struct Rule<'a> {
    /// Keys before the query that it sees, at the most.
    pub before: usize,
    /// Keys after it.
    pub after: usize,
    /// Added to the scores by distance.
    pub bias: Option<Bias<'a>>,
    /// Dropout on the weights: the head's mask, and the place of each query in it.
    pub dropout: Option<(Mask, &'a [u64])>,
}

/// What a head adds to a score by the distance of the key from the query.
#[derive(Clone, Copy)]
pub struct Bias<'a> {
    /// By distance, from the farthest key before the query to the farthest after it.
    pub values: &'a [f32],
    /// Index of distance 0; at least the length of the sequence less one.
    pub zero: usize,
}

impl Bias<'_> {
    /// Indices of what query `row` adds for the keys from `first` on, `count` of them.
    #[inline(always)]
    fn range(&self, row: usize, first: usize, count: usize) -> Range<usize> {
        let start = self.zero + first - row;
        start..start + count
    }
}

impl Rule<'_> {
    /// Keys that query `row` of `n` sees; itself among them.
    #[inline(always)]
    pub(super) fn visible(&self, row: usize, n: usize) -> Range<usize> {
        row.saturating_sub(self.before)..row.saturating_add(self.after).saturating_add(1).min(n)
    }

    /// What the queries `first..first + rows` see, from a register's boundary on; and the same filled up to registers.
    #[inline(always)]
    fn seen(&self, first: usize, rows: usize, n: usize) -> (usize, usize, usize) {
        let from = self.visible(first, n).start / LANES * LANES;
        let keys = self.visible(first + rows - 1, n).end - from;
        (from, keys, keys.next_multiple_of(LANES))
    }

    /// Adds the bias to the block's first `rows` rows, query `first` and those after it, for `keys` keys from `from` on.
    #[inline(always)]
    pub(super) fn add(&self, first: usize, rows: usize, from: usize, keys: usize, width: usize, scores: &mut [f32]) {
        if let Some(bias) = self.bias {
            for (r, row) in scores.chunks_exact_mut(width).take(rows).enumerate() {
                let values = &bias.values[bias.range(first + r, from, keys)];
                row.iter_mut().zip(values).for_each(|(score, value)| *score += value);
            }
        }
    }

    /// Drops weights of the block's first `rows` rows, query `first` and those after it, for the keys from `from` on.
    #[inline(always)]
    pub(super) fn drop(&self, first: usize, rows: usize, from: usize, width: usize, weights: &mut [f32]) {
        if let Some((mask, places)) = self.dropout {
            for (row, place) in weights.chunks_exact_mut(width).zip(&places[first..first + rows]) {
                mask.row(*place).apply_from(from as u32, row);
            }
        }
    }
}

/// A head's queries in the backward pass.
pub struct Query<'a> {
    /// Where their rows are.
    pub head: Head,
    /// Where the result's rows are, and its gradient's.
    pub result: Head,
    /// What they see.
    pub rule: Rule<'a>,
    /// Where the gradient by the bias is added, as [`Bias::values`].
    pub bias_gradient: Option<&'a mut [f32]>,
}

impl Query<'_> {
    /// Adds what the block's first `rows` rows, query `first` and those after it, give to the gradient by the bias, for `keys` keys from
    /// `from` on.
    #[inline(always)]
    pub(super) fn add_bias_gradient(
        &mut self,
        first: usize,
        rows: usize,
        from: usize,
        keys: usize,
        width: usize,
        gradient: &[f32],
    ) {
        if let (Some(target), Some(bias)) = (self.bias_gradient.as_deref_mut(), self.rule.bias) {
            // The bias is added after the scale.
            let factor = 1.0 / self.head.scale;
            for (r, row) in gradient.chunks_exact(width).take(rows).enumerate() {
                let target = &mut target[bias.range(first + r, from, keys)];
                target.iter_mut().zip(row).for_each(|(t, g)| *t += g * factor);
            }
        }
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
    dropped: Vec<f32>,
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

/// `len` values that the caller overwrites.
#[inline(always)]
pub(super) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// `[depth, padded n]` from rows, zero past the end.
#[inline(always)]
fn transpose_into(x: &[f32], head: Head, buffer: &mut Vec<f32>) {
    let width = head.padded_n();
    let out = sized(buffer, head.depth * width);
    for j in 0..head.n {
        let row = &x[head.offset + j * head.stride..][..head.depth];
        for (d, &value) in row.iter().enumerate() {
            out[d * width + j] = value;
        }
    }
    for row in out.chunks_exact_mut(width) {
        row[head.n..].fill(0.0);
    }
}

/// The head's rows and the values between their starts: in place where they fill registers, else as `[n, padded depth]`.
#[inline(always)]
fn rows_of<'a>(x: &'a [f32], head: Head, buffer: &'a mut Vec<f32>) -> (&'a [f32], usize) {
    let width = head.padded_depth();
    if width == head.depth {
        return (&x[head.offset..], head.stride);
    }
    let out = zeroed(buffer, head.n * width);
    for j in 0..head.n {
        out[j * width..][..head.depth].copy_from_slice(&x[head.offset + j * head.stride..][..head.depth]);
    }
    (out, width)
}

/// Rows `first..first + ROWS`, `[ROWS, padded depth]`, zero past the end, and the values between their starts.
#[inline(always)]
fn block_of<'a>(x: &'a [f32], head: Head, first: usize, buffer: &'a mut Vec<f32>) -> (&'a [f32], usize) {
    let width = head.padded_depth();
    if width == head.depth && first + ROWS <= head.n {
        return (&x[head.offset + first * head.stride..], head.stride);
    }
    let out = zeroed(buffer, ROWS * width);
    for r in 0..ROWS.min(head.n - first) {
        out[r * width..][..head.depth].copy_from_slice(&x[head.offset + (first + r) * head.stride..][..head.depth]);
    }
    (out, width)
}

/// `out[r, j] = scale * sum_i a[r, i] b[i, j]`: `a` is `[ROWS, depth]` and `b` `[depth, width]`, each with the values between
/// the starts of its rows, `out` `[ROWS, width]`; `width` a multiple of `LANES`.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub(super) fn product<A: Arith>(
    (a, a_stride): (&[f32], usize),
    (b, b_stride): (&[f32], usize),
    depth: usize,
    width: usize,
    scale: f32,
    out: &mut [f32],
) {
    assert!(width.is_multiple_of(LANES) && depth > 0 && out.len() >= ROWS * width);
    assert!(a.len() >= (ROWS - 1) * a_stride + depth && b.len() >= (depth - 1) * b_stride + width);
    // SAFETY: the accesses are within the slices by the assertions; A is the caller's instruction set.
    unsafe {
        let scale = A::splat(scale);
        let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
        let pairs = width - width % (2 * LANES);
        // Two registers of columns at a time: enough independent sums to keep the multipliers busy.
        for j in (0..pairs).step_by(2 * LANES) {
            let (mut low, mut high) = ([A::splat(0.0); ROWS], [A::splat(0.0); ROWS]);
            for i in 0..depth {
                let (b, c) = (A::load(b.add(i * b_stride + j)), A::load(b.add(i * b_stride + j + LANES)));
                for r in 0..ROWS {
                    let x = A::splat(*a.add(r * a_stride + i));
                    low[r] = A::fma_vector(x, b, low[r]);
                    high[r] = A::fma_vector(x, c, high[r]);
                }
            }
            for r in 0..ROWS {
                A::store(out.add(r * width + j), A::mul_vector(low[r], scale));
                A::store(out.add(r * width + j + LANES), A::mul_vector(high[r], scale));
            }
        }
        if pairs < width {
            let mut sums = [A::splat(0.0); ROWS];
            for i in 0..depth {
                let b = A::load(b.add(i * b_stride + pairs));
                for r in 0..ROWS {
                    sums[r] = A::fma_vector(A::splat(*a.add(r * a_stride + i)), b, sums[r]);
                }
            }
            for r in 0..ROWS {
                A::store(out.add(r * width + pairs), A::mul_vector(sums[r], scale));
            }
        }
    }
}

/// `b[i, ·] += sum_r a[r, i] c[r, ·]`: `a` `[ROWS, n]` and `c` `[ROWS, width]`, each with the values between the starts of its
/// rows, `b` `[n, width]`; `width` a multiple of `LANES`.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub(super) fn accumulate<A: Arith>(
    (a, a_stride): (&[f32], usize),
    (c, c_stride): (&[f32], usize),
    n: usize,
    width: usize,
    b: &mut [f32],
) {
    assert!(width.is_multiple_of(LANES) && b.len() >= n * width);
    assert!(c.len() >= (ROWS - 1) * c_stride + width && a.len() >= (ROWS - 1) * a_stride + n);
    // SAFETY: the accesses are within the slices by the assertions; A is the caller's instruction set.
    unsafe {
        let (a, b, c) = (a.as_ptr(), b.as_mut_ptr(), c.as_ptr());
        let pairs = width - width % (2 * LANES);
        for j in (0..pairs).step_by(2 * LANES) {
            let (mut low, mut high) = ([A::splat(0.0); ROWS], [A::splat(0.0); ROWS]);
            for r in 0..ROWS {
                (low[r], high[r]) = (A::load(c.add(r * c_stride + j)), A::load(c.add(r * c_stride + j + LANES)));
            }
            for i in 0..n {
                let (to, next) = (b.add(i * width + j), b.add(i * width + j + LANES));
                let (mut y, mut z) = (A::load(to), A::load(next));
                for r in 0..ROWS {
                    let x = A::splat(*a.add(r * a_stride + i));
                    y = A::fma_vector(x, low[r], y);
                    z = A::fma_vector(x, high[r], z);
                }
                A::store(to, y);
                A::store(next, z);
            }
        }
        if pairs < width {
            for i in 0..n {
                let to = b.add(i * width + pairs);
                let mut y = A::load(to);
                for r in 0..ROWS {
                    y = A::fma_vector(A::splat(*a.add(r * a_stride + i)), A::load(c.add(r * c_stride + pairs)), y);
                }
                A::store(to, y);
            }
        }
    }
}

/// `exp(x - max)` of the values `visible(r)` of each row, zero elsewhere, and 1 / their sum for each row.
#[inline(always)]
pub(super) fn exp_rows<A: Arith>(
    scores: &mut [f32],
    width: usize,
    rows: usize,
    visible: impl Fn(usize) -> Range<usize>,
) -> [f32; ROWS] {
    let mut factors = [0f32; ROWS];
    for (r, (row, factor)) in scores.chunks_exact_mut(width).zip(&mut factors).take(rows).enumerate() {
        let seen = visible(r);
        // Whole registers: what is beyond adds less than 2e-37 to a sum of at least 1.
        row[..seen.start].fill(f32::NEG_INFINITY);
        row[seen.end..].fill(f32::NEG_INFINITY);
        let shift = maximum(row);
        *factor = 1.0 / exp_shifted::<A>(row, shift);
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
    }
    factors
}

/// The keys that row `r` of a block sees, counted from the block's first.
#[inline(always)]
pub(super) fn within(rule: &Rule<'_>, row: usize, n: usize, from: usize) -> Range<usize> {
    let seen = rule.visible(row, n);
    seen.start - from..seen.end - from
}

multiversion! {
    /// Forward: writes `dropout(softmax(scale q kᵀ + bias)) v` (`[n, depth]` rows) through `write(row, values)`; `head` has the
    /// rows of the queries, `keys` those of keys and values.
    pub fn forward<A>(q: &[f32], k: &[f32], v: &[f32], head: Head, keys: Head, rule: Rule<'_>, scratch: &mut Scratch, write: &mut dyn FnMut(usize, &[f32])) {
        if head.n == 0 || head.depth == 0 {
            return;
        }
        let (n, width, depth_width) = (head.n, head.padded_n(), head.padded_depth());
        transpose_into(k, keys, &mut scratch.keys_t);
        let (values, value_stride) = rows_of(v, keys, &mut scratch.values);
        for first in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - first);
            let (from, count, seen) = rule.seen(first, rows, n);
            let queries = block_of(q, head, first, &mut scratch.block);
            let scores = sized(&mut scratch.scores, ROWS * seen);
            product::<A>(queries, (&scratch.keys_t[from..], width), head.depth, seen, head.scale, scores);
            rule.add(first, rows, from, count, seen, scores);
            let factors = exp_rows::<A>(scores, seen, rows, |r| within(&rule, first + r, n, from));
            rule.drop(first, rows, from, seen, scores);
            let out = sized(&mut scratch.out, ROWS * depth_width);
            product::<A>((scores, seen), (&values[from * value_stride..], value_stride), count, depth_width, 1.0, out);
            for r in 0..rows {
                let out = &mut out[r * depth_width..][..head.depth];
                out.iter_mut().for_each(|v| *v *= factors[r]);
                write(first + r, out);
            }
        }
    }
}

/// Takes a row of a gradient: which, of what query head of the group, which row, its values.
pub type WriteGradient<'a> = dyn FnMut(Part, usize, usize, &[f32]) + 'a;

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
    /// Backward: writes the gradients by q, k and v (`[n, depth]` rows each) through `write(part, query, row, values)`; `keys`
    /// has the rows of keys and values, `queries` the heads that attend to them, `dout` is the gradient by the forward
    /// result.
    pub fn backward<A>(q: &[f32], k: &[f32], v: &[f32], keys: Head, queries: &mut [Query<'_>], dout: &[f32], scratch: &mut Scratch, write: &mut WriteGradient<'_>) {
        if keys.n == 0 || keys.depth == 0 {
            return;
        }
        let (n, width, depth_width, depth) = (keys.n, keys.padded_n(), keys.padded_depth(), keys.depth);
        transpose_into(k, keys, &mut scratch.keys_t);
        transpose_into(v, keys, &mut scratch.values_t);
        let (key_rows, key_stride) = rows_of(k, keys, &mut scratch.keys);
        zeroed(&mut scratch.dkeys, n * depth_width);
        zeroed(&mut scratch.dvalues, n * depth_width);
        for (g, query) in queries.iter_mut().enumerate() {
            let (head, result, rule) = (query.head, query.result, query.rule);
            for first in (0..n).step_by(ROWS) {
                let rows = ROWS.min(n - first);
                let (from, count, seen) = rule.seen(first, rows, n);
                let queries = block_of(q, head, first, &mut scratch.block);
                let douts = block_of(dout, result, first, &mut scratch.block2);
                let weights = sized(&mut scratch.scores, ROWS * seen);
                product::<A>(queries, (&scratch.keys_t[from..], width), depth, seen, head.scale, weights);
                rule.add(first, rows, from, count, seen, weights);
                let factors = exp_rows::<A>(weights, seen, rows, |r| within(&rule, first + r, n, from));
                for (row, factor) in weights.chunks_exact_mut(seen).zip(factors).take(rows) {
                    row.iter_mut().for_each(|v| *v *= factor);
                }
                // Rows past the end would add uniform weights: their probabilities must be zero.
                weights[rows * seen..].fill(0.0);
                let gradient = sized(&mut scratch.gradient, ROWS * seen);
                product::<A>(douts, (&scratch.values_t[from..], width), depth, seen, 1.0, gradient);
                let dvalues = &mut scratch.dvalues[from * depth_width..];
                if rule.dropout.is_none() {
                    accumulate::<A>((weights, seen), douts, count, depth_width, dvalues);
                    for r in 0..rows {
                        let (p, g) = (&weights[r * seen..][..seen], &mut gradient[r * seen..][..seen]);
                        let shift = dot::<A>(p, g);
                        for (g, p) in g.iter_mut().zip(p) {
                            *g = p * (*g - shift) * head.scale;
                        }
                    }
                } else {
                    let dropped = sized(&mut scratch.dropped, ROWS * seen);
                    dropped.copy_from_slice(weights);
                    rule.drop(first, rows, from, seen, dropped);
                    accumulate::<A>((dropped, seen), douts, count, depth_width, dvalues);
                    for r in 0..rows {
                        let row = r * seen..(r + 1) * seen;
                        let shift = dot::<A>(&dropped[row.clone()], &gradient[row.clone()]);
                        for ((g, p), d) in gradient[row.clone()].iter_mut().zip(&weights[row.clone()]).zip(&dropped[row]) {
                            *g = (d * *g - p * shift) * head.scale;
                        }
                    }
                }
                gradient[rows * seen..].fill(0.0);
                query.add_bias_gradient(first, rows, from, count, seen, gradient);
                accumulate::<A>((gradient, seen), queries, count, depth_width, &mut scratch.dkeys[from * depth_width..]);
                let dq = sized(&mut scratch.out, ROWS * depth_width);
                product::<A>((gradient, seen), (&key_rows[from * key_stride..], key_stride), count, depth_width, 1.0, dq);
                for r in 0..rows {
                    write(Part::Query, g, first + r, &dq[r * depth_width..][..depth]);
                }
            }
        }
        for j in 0..n {
            write(Part::Key, 0, j, &scratch.dkeys[j * depth_width..][..depth]);
            write(Part::Value, 0, j, &scratch.dvalues[j * depth_width..][..depth]);
        }
    }
}
