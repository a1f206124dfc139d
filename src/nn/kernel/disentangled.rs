//! DeBERTa's attention (He et al. 2021) of one head over one sequence, in blocks of query rows, forward and backward: scores are content
//! to content, content to position and position to content.
//!
//! The positions' vectors come by distance ([`Table`]), so what a block of rows needs of them are neighbours: of 8 queries and n keys
//! n + 7 distances, whose products are added to the scores a place further to the left in each row. The scores of a block are all
//! that is kept at a time; the backward pass recomputes them.

use super::attention::{ROWS, accumulate, exp_rows, product, sized};
use super::mask::Mask;
use super::simd::{Arith, LANES, dot, multiversion};

/// Query rows whose scores are kept at a time.
const BLOCK: usize = 64;

/// Vectors of one head by distance, each at `center + key − query`; zero where no sequence has that distance.
#[derive(Default)]
pub struct Table {
    /// `[depth, width]`.
    columns: Vec<f32>,
    /// `[width, padded depth]`; empty where the backward pass is not wanted.
    rows: Vec<f32>,
}

/// Places of a [`Table`].
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// That of distance 0.
    pub center: usize,
    /// All.
    pub width: usize,
}

impl Places {
    /// For sequences of `longest` tokens at the most.
    pub fn new(longest: usize) -> Self {
        // A block's last rows may be past a text's end, its columns past the last distance.
        Self { center: longest + ROWS, width: (2 * longest + ROWS + 2 * LANES).next_multiple_of(LANES) }
    }
}

impl Table {
    /// From `vector(key − query)` for the distances of `longest` tokens; `back` where the backward pass reads it, too.
    pub fn new<'a>(
        places: Places,
        longest: usize,
        depth: usize,
        back: bool,
        vector: impl Fn(isize) -> &'a [f32],
    ) -> Self {
        let padded = depth.next_multiple_of(LANES);
        let mut columns = vec![0f32; depth * places.width];
        let mut rows = vec![0f32; if back { places.width * padded } else { 0 }];
        for step in 0..(2 * longest).saturating_sub(1) {
            let distance = step as isize - (longest as isize - 1);
            let place = places.center.wrapping_add_signed(distance);
            let values = &vector(distance)[..depth];
            if back {
                rows[place * padded..][..depth].copy_from_slice(values);
            }
            values.iter().enumerate().for_each(|(d, value)| columns[d * places.width + place] = *value);
        }
        Self { columns, rows }
    }
}

/// A head of a sequence.
pub struct Sequence<'a> {
    /// Tokens.
    pub n: usize,
    /// Values of a row of a head.
    pub depth: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Of the tables.
    pub places: Places,
    /// By distance, for content to position.
    pub keys: Option<&'a Table>,
    /// By distance, for position to content.
    pub queries: Option<&'a Table>,
    /// The head's mask of weights, and the place of each query in it.
    pub dropout: Option<(Mask, &'a [u64])>,
}

impl Sequence<'_> {
    fn padded_depth(&self) -> usize {
        self.depth.next_multiple_of(LANES)
    }

    fn padded_n(&self) -> usize {
        self.n.next_multiple_of(LANES)
    }

    /// Place of the least distance of a block of [`ROWS`] queries from `first` on.
    fn of_queries(&self, first: usize) -> usize {
        self.places.center - (first + ROWS - 1)
    }

    /// That of `rows` queries from `first` on and keys from `key` on.
    fn of_keys(&self, first: usize, rows: usize, key: usize) -> usize {
        self.places.center + key - (first + rows - 1)
    }
}

/// Rows of a head, `[n, depth]`.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Where they are.
    pub values: &'a [f32],
    /// Index of the first value.
    pub offset: usize,
    /// Values between the starts of two rows.
    pub stride: usize,
    /// Added to each row, `[depth]`, or empty.
    pub bias: &'a [f32],
}

impl Rows<'_> {
    /// `[n, padded depth]`, and zeros up to a whole block of rows.
    fn gather(&self, n: usize, depth: usize, out: &mut Vec<f32>) {
        let padded = depth.next_multiple_of(LANES);
        let len = n.next_multiple_of(ROWS) * padded;
        let out = sized(out, len);
        for (j, row) in out.chunks_exact_mut(padded).enumerate() {
            let (own, rest) = row.split_at_mut(depth);
            rest.fill(0.0);
            if j >= n {
                own.fill(0.0);
                continue;
            }
            own.copy_from_slice(&self.values[self.offset + j * self.stride..][..depth]);
            own.iter_mut().zip(self.bias).for_each(|(value, bias)| *value += bias);
        }
    }
}

/// Sums over sequences in the backward pass, of a head.
pub struct Sums<'a> {
    /// By the vectors for content to position, `[width, padded depth]`; empty where there are none, or it is not wanted.
    pub keys: &'a mut [f32],
    /// By those for position to content.
    pub queries: &'a mut [f32],
    /// By the biases of queries and of values, `[depth]` each.
    pub biases: [&'a mut [f32]; 2],
}

/// Reused buffers of a worker.
#[derive(Default)]
pub struct Scratch {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
    keys_t: Vec<f32>,
    values_t: Vec<f32>,
    scores: Vec<f32>,
    gradient: Vec<f32>,
    dropped: Vec<f32>,
    band: Vec<f32>,
    out: Vec<f32>,
    part: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// `[depth, padded n]` of `[n, padded depth]`, zero past the end.
#[inline(always)]
fn turn(x: &[f32], s: &Sequence<'_>, out: &mut Vec<f32>) {
    let (width, padded) = (s.padded_n(), s.padded_depth());
    let out = sized(out, s.depth * width);
    for (j, row) in x.chunks_exact(padded).enumerate().take(s.n) {
        row[..s.depth].iter().enumerate().for_each(|(d, value)| out[d * width + j] = *value);
    }
    out.chunks_exact_mut(width).for_each(|row| row[s.n..].fill(0.0));
}

/// Scores of the queries `first..first + rows` (`rows` a multiple of [`ROWS`]), `[rows, padded n]`.
#[inline(always)]
fn score<A: Arith>(
    s: &Sequence<'_>,
    (q, k, keys_t): (&[f32], &[f32], &[f32]),
    (first, rows): (usize, usize),
    band: &mut Vec<f32>,
    scores: &mut [f32],
) {
    let (n, width, padded) = (s.n, s.padded_n(), s.padded_depth());
    for block in (0..rows).step_by(ROWS) {
        let queries = (&q[(first + block) * padded..], padded);
        let scores = &mut scores[block * width..(block + ROWS) * width];
        product::<A>(queries, (keys_t, width), s.depth, width, s.scale, scores);
        if let Some(table) = s.keys {
            let wide = (n + ROWS - 1).next_multiple_of(LANES);
            let band = sized(band, ROWS * wide);
            let columns = &table.columns[s.of_queries(first + block)..];
            product::<A>(queries, (columns, s.places.width), s.depth, wide, s.scale, band);
            for (r, (row, band)) in scores.chunks_exact_mut(width).zip(band.chunks_exact(wide)).enumerate() {
                row[..n].iter_mut().zip(&band[ROWS - 1 - r..]).for_each(|(score, more)| *score += more);
            }
        }
    }
    let Some(table) = s.queries else { return };
    let wide = (rows + ROWS - 1).next_multiple_of(LANES);
    for key in (0..n).step_by(ROWS) {
        let band = sized(band, ROWS * wide);
        let columns = &table.columns[s.of_keys(first, rows, key)..];
        product::<A>((&k[key * padded..], padded), (columns, s.places.width), s.depth, wide, s.scale, band);
        let count = ROWS.min(n - key);
        for (i, row) in scores.chunks_exact_mut(width).enumerate().take(rows) {
            for (c, score) in row[key..key + count].iter_mut().enumerate() {
                *score += band[c * wide + c + rows - 1 - i];
            }
        }
    }
}

multiversion! {
    /// Forward: writes `dropout(softmax(scores)) v` (`[n, depth]` rows) through `write(row, values)`.
    pub fn forward<A>(s: &Sequence<'_>, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>, scratch: &mut Scratch, write: &mut dyn FnMut(usize, &[f32])) {
        if s.n == 0 || s.depth == 0 {
            return;
        }
        let (n, depth, width, padded) = (s.n, s.depth, s.padded_n(), s.padded_depth());
        q.gather(n, depth, &mut scratch.q);
        k.gather(n, depth, &mut scratch.k);
        v.gather(n, depth, &mut scratch.v);
        turn(&scratch.k, s, &mut scratch.keys_t);
        for first in (0..n).step_by(BLOCK) {
            let rows = BLOCK.min(n - first).next_multiple_of(ROWS);
            let scores = sized(&mut scratch.scores, rows * width);
            score::<A>(s, (&scratch.q, &scratch.k, &scratch.keys_t), (first, rows), &mut scratch.band, scores);
            for (block, scores) in scores.chunks_exact_mut(ROWS * width).enumerate() {
                let first = first + block * ROWS;
                let rows = ROWS.min(n - first);
                let factors = exp_rows::<A>(scores, width, rows, |_| 0..n);
                if let Some((mask, places)) = s.dropout {
                    for (row, place) in scores.chunks_exact_mut(width).zip(&places[first..first + rows]) {
                        mask.row(*place).apply_to(row);
                    }
                }
                let out = sized(&mut scratch.out, ROWS * padded);
                product::<A>((scores, width), (&scratch.v, padded), n, padded, 1.0, out);
                for r in 0..rows {
                    let out = &mut out[r * padded..][..depth];
                    out.iter_mut().for_each(|value| *value *= factors[r]);
                    write(first + r, out);
                }
            }
        }
    }
}

/// Takes a row of the gradient by q (0), k (1) or v (2): which, which row, its values.
pub type WriteGradient<'a> = dyn FnMut(usize, usize, &[f32]) + 'a;

multiversion! {
    /// Backward: writes the gradients by q, k and v (`[n, depth]` rows each) through `write`, and adds those by tables and biases to
    /// `sums`; `dout` has the gradient by the forward result.
    pub fn backward<A>(s: &Sequence<'_>, qkv: [Rows<'_>; 3], dout: Rows<'_>, scratch: &mut Scratch, sums: &mut Sums<'_>, write: &mut WriteGradient<'_>) {
        if s.n == 0 || s.depth == 0 {
            return;
        }
        let (n, depth, width, padded) = (s.n, s.depth, s.padded_n(), s.padded_depth());
        let Scratch { q, k, v, dout: douts, keys_t, values_t, scores, gradient, dropped, band, out, part, dk, dv } = scratch;
        for (rows, to) in qkv.into_iter().chain([dout]).zip([&mut *q, &mut *k, &mut *v, &mut *douts]) {
            rows.gather(n, depth, to);
        }
        turn(k, s, keys_t);
        turn(v, s, values_t);
        let all = n.next_multiple_of(ROWS) * padded;
        let [dk, dv] = [dk, dv].map(|sums| {
            let sums = sized(sums, all);
            sums.fill(0.0);
            sums
        });
        for first in (0..n).step_by(BLOCK) {
            let rows = BLOCK.min(n - first).next_multiple_of(ROWS);
            let weights = sized(scores, rows * width);
            score::<A>(s, (q, k, keys_t), (first, rows), band, weights);
            let gradient = sized(gradient, rows * width);
            for block in (0..rows).step_by(ROWS) {
                let at = first + block;
                let count = ROWS.min(n - at);
                let span = block * width..(block + ROWS) * width;
                let (weights, gradient) = (&mut weights[span.clone()], &mut gradient[span]);
                let factors = exp_rows::<A>(weights, width, count, |_| 0..n);
                for (row, factor) in weights.chunks_exact_mut(width).zip(factors).take(count) {
                    row.iter_mut().for_each(|weight| *weight *= factor);
                }
                // Rows past the end would add uniform weights.
                weights[count * width..].fill(0.0);
                let dropped = sized(dropped, ROWS * width);
                dropped.copy_from_slice(weights);
                if let Some((mask, places)) = s.dropout {
                    for (row, place) in dropped.chunks_exact_mut(width).zip(&places[at..at + count]) {
                        mask.row(*place).apply_to(row);
                    }
                }
                let (queries, douts) = ((&q[at * padded..], padded), (&douts[at * padded..], padded));
                product::<A>(douts, (values_t, width), depth, width, 1.0, gradient);
                accumulate::<A>((dropped, width), douts, n, padded, dv);
                for r in 0..ROWS {
                    let row = r * width..(r + 1) * width;
                    let (weights, dropped, gradient) = (&weights[row.clone()], &dropped[row.clone()], &mut gradient[row]);
                    let shift = dot::<A>(dropped, gradient);
                    for ((g, p), d) in gradient.iter_mut().zip(weights).zip(dropped) {
                        *g = (d * *g - p * shift) * s.scale;
                    }
                }
                accumulate::<A>((gradient, width), queries, n, padded, dk);
                let out = sized(out, ROWS * padded);
                product::<A>((gradient, width), (k, padded), n, padded, 1.0, out);
                if let Some(table) = s.keys {
                    let (seen, from) = (n + ROWS - 1, s.of_queries(at) * padded);
                    let wide = seen.next_multiple_of(LANES);
                    let band = sized(band, ROWS * wide);
                    band.fill(0.0);
                    for (r, (band, row)) in band.chunks_exact_mut(wide).zip(gradient.chunks_exact(width)).enumerate() {
                        band[ROWS - 1 - r..][..n].copy_from_slice(&row[..n]);
                    }
                    let part = sized(part, ROWS * padded);
                    product::<A>((band, wide), (&table.rows[from..], padded), seen, padded, 1.0, part);
                    out.iter_mut().zip(part).for_each(|(sum, value)| *sum += *value);
                    if !sums.keys.is_empty() {
                        accumulate::<A>((band, wide), queries, seen, padded, &mut sums.keys[from..]);
                    }
                }
                for (r, row) in out.chunks_exact(padded).enumerate().take(count) {
                    sums.biases[0].iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                    write(0, at + r, &row[..depth]);
                }
            }
            let Some(table) = s.queries else { continue };
            let seen = rows + ROWS - 1;
            let wide = seen.next_multiple_of(LANES);
            for key in (0..n).step_by(ROWS) {
                let band = sized(band, ROWS * wide);
                band.fill(0.0);
                let count = ROWS.min(n - key);
                for (i, row) in gradient.chunks_exact(width).enumerate().take(rows) {
                    for (c, g) in row[key..key + count].iter().enumerate() {
                        band[c * wide + c + rows - 1 - i] = *g;
                    }
                }
                let from = s.of_keys(first, rows, key) * padded;
                let part = sized(part, ROWS * padded);
                product::<A>((band, wide), (&table.rows[from..], padded), seen, padded, 1.0, part);
                dk[key * padded..].iter_mut().zip(part).for_each(|(sum, value)| *sum += *value);
                if !sums.queries.is_empty() {
                    accumulate::<A>((band, wide), (&k[key * padded..], padded), seen, padded, &mut sums.queries[from..]);
                }
            }
        }
        for (j, (dk, dv)) in dk.chunks_exact(padded).zip(dv.chunks_exact(padded)).enumerate().take(n) {
            sums.biases[1].iter_mut().zip(dv).for_each(|(sum, value)| *sum += value);
            write(1, j, &dk[..depth]);
            write(2, j, &dv[..depth]);
        }
    }
}
