//! Disentangled attention over packed sequences (DeBERTa, He et al. 2021).

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::dropout::TokenDropout;
use super::kernel::disentangled::{self as kernel, Places, Rows, Scratch, Sequence, Sums, Table};
use super::kernel::parallel::{self, Disjoint};
use super::kernel::simd::LANES;
use super::storage::{output, unset, values, with_values, zeros};

const NAME: &str = "disentangled-attention";
/// Groups of sequences whose gradients by the positions are summed apart, so that their order does not depend on the threads.
const GROUPS: usize = 8;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How queries, keys and values stand side by side in a token's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// Query, key and value of head 0, then those of head 1 ….
    ByHead,
    /// All queries, all keys, all values.
    ByKind,
}

/// How a layer attends.
#[derive(Debug, Clone)]
pub struct Heads {
    /// Their number.
    pub count: usize,
    /// How queries, keys and values stand.
    pub columns: Columns,
    /// Whether there are vectors for content to position.
    pub keys: bool,
    /// Whether there are vectors for position to content.
    pub queries: bool,
    /// Dropout on the attention weights.
    pub dropout: Option<TokenDropout>,
}

/// `dropout(softmax(scores)) v` of every sequence over itself, `[tokens, hidden]`, of `qkv` `[tokens, 3 hidden]`. A score of query i and
/// key j is `(q kᵀ + q Kᵀ[d] + k Qᵀ[d]) / √(kinds · depth)`: `positions` `[rows, hidden or 2 hidden]` has K and Q side by side, or the one there is
/// (or `[rows, 0]`), and `rows` the row d of each distance `j − i`, from `1 − n` to `n − 1` for sequences of at most n tokens. `biases`
/// `[2, hidden]` are added to queries and to values.
///
/// # Errors
/// Where the shapes do not fit, or a tensor is not on the CPU.
pub fn attention(
    qkv: &Tensor,
    positions: &Tensor,
    biases: &Tensor,
    rows: Arc<Vec<u32>>,
    cu_seqlens: &Arc<Vec<usize>>,
    heads: Heads,
) -> Result<Tensor> {
    let (tokens, width) = qkv.dims2()?;
    let hidden = width / 3;
    let bounds = cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&tokens) && cu_seqlens.is_sorted();
    let kinds = usize::from(heads.keys) + usize::from(heads.queries);
    if heads.count == 0 || width % 3 != 0 || !hidden.is_multiple_of(heads.count) || !bounds {
        bail!("{NAME}: {tokens} tokens of {width} values do not fit {} heads and the bounds", heads.count);
    }
    let (table, wide) = positions.dims2()?;
    if wide != kinds * hidden || biases.dims() != [2, hidden] {
        bail!("{NAME}: positions {:?} and biases {:?} do not fit {hidden} values", positions.dims(), biases.dims());
    }
    let longest = cu_seqlens.windows(2).map(|b| b[1] - b[0]).max().unwrap_or(0);
    let known = rows.len() % 2 == 1 && rows.len().div_ceil(2) >= longest;
    if kinds > 0 && longest > 0 && (!known || rows.iter().any(|row| *row as usize >= table)) {
        bail!("{NAME}: {} distances of {table} rows do not fit sequences of {longest} tokens", rows.len());
    }
    if let Some(dropout) = &heads.dropout {
        dropout.check(tokens)?;
    }
    let op = Op { cu_seqlens: cu_seqlens.clone(), heads, rows, hidden, longest };
    qkv.contiguous()?.apply_op3(&positions.contiguous()?, &biases.contiguous()?, op)
}

struct Op {
    cu_seqlens: Arc<Vec<usize>>,
    heads: Heads,
    rows: Arc<Vec<u32>>,
    hidden: usize,
    /// Tokens of the longest sequence.
    longest: usize,
}

/// Vectors of a head by distance: for content to position, and for position to content.
type Tables = [Option<Table>; 2];

impl Op {
    fn depth(&self) -> usize {
        self.hidden / self.heads.count
    }

    fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    fn kinds(&self) -> [bool; 2] {
        [self.heads.keys, self.heads.queries]
    }

    /// Columns of a row of the positions, and the first one of a head's vectors of a kind.
    fn place(&self, kind: usize, head: usize) -> (usize, usize) {
        let before = usize::from(kind == 1 && self.heads.keys);
        let kinds = self.kinds().into_iter().filter(|kind| *kind).count();
        (kinds * self.hidden, before * self.hidden + head * self.depth())
    }

    /// The row of a distance from query to key.
    fn row(&self, distance: isize) -> usize {
        self.rows[(self.rows.len() / 2).wrapping_add_signed(distance)] as usize
    }

    fn tables(&self, places: Places, positions: &[f32], back: bool) -> Vec<Tables> {
        parallel::map(self.heads.count, |head| {
            [0, 1].map(|kind| {
                let (width, column) = self.place(kind, head);
                self.kinds()[kind].then(|| {
                    Table::new(places, self.longest, self.depth(), back, |distance| {
                        &positions[self.row(distance) * width + column..]
                    })
                })
            })
        })
    }

    fn sequence<'a>(&'a self, s: usize, h: usize, places: Places, [keys, queries]: &'a Tables) -> Sequence<'a> {
        let (start, end) = (self.cu_seqlens[s], self.cu_seqlens[s + 1]);
        let kinds = 1 + self.kinds().into_iter().filter(|kind| *kind).count();
        let dropout = self.heads.dropout.as_ref().map(|dropout| {
            let (mask, places) = dropout.parts();
            (mask.stream(h), &places[start..end])
        });
        let scale = 1.0 / ((self.depth() * kinds) as f32).sqrt();
        let (n, depth) = (end - start, self.depth());
        Sequence { n, depth, scale, places, keys: keys.as_ref(), queries: queries.as_ref(), dropout }
    }

    /// Where the first value of a head's rows is in a token's row: of q, k and v.
    fn columns(&self, h: usize) -> [usize; 3] {
        let depth = self.depth();
        [0, 1, 2].map(|i| match self.heads.columns {
            Columns::ByHead => (3 * h + i) * depth,
            Columns::ByKind => i * self.hidden + h * depth,
        })
    }

    fn parts<'a>(&self, s: usize, h: usize, qkv: &'a [f32], biases: &'a [f32]) -> [Rows<'a>; 3] {
        let (depth, stride) = (self.depth(), 3 * self.hidden);
        let bias = |kind: usize| &biases[kind * self.hidden + h * depth..][..depth];
        let biases = [bias(0), &[], bias(1)];
        let columns = self.columns(h);
        [0, 1, 2].map(|i| Rows {
            values: qkv,
            offset: self.cu_seqlens[s] * stride + columns[i],
            stride,
            bias: biases[i],
        })
    }

    fn forward(&self, [qkv, positions, biases]: [&[f32]; 3]) -> Vec<f32> {
        let (hidden, depth, count) = (self.hidden, self.depth(), self.heads.count);
        let places = Places::new(self.longest);
        let tables = self.tables(places, positions, false);
        // SAFETY: the units cover every token (`cu_seqlens` runs from 0 to their number) and every head.
        let mut out = unsafe { unset(qkv.len() / 3) };
        let shared = Disjoint::new(&mut out);
        parallel::over(self.sequences() * count, |unit| {
            let (s, h) = (unit / count, unit % count);
            let [q, k, v] = self.parts(s, h, qkv, biases);
            let start = self.cu_seqlens[s] * hidden + h * depth;
            let mut write = |row: usize, values: &[f32]| {
                // SAFETY: rows and heads of different units do not overlap.
                unsafe { shared.range(start + row * hidden, depth) }.copy_from_slice(values);
            };
            let sequence = self.sequence(s, h, places, &tables[h]);
            SCRATCH.with_borrow_mut(|scratch| kernel::forward(&sequence, q, k, v, scratch, &mut write));
        });
        out
    }

    /// The gradients by qkv, positions (zero where not `wanted`) and biases.
    fn backward(&self, [qkv, positions, biases, dout]: [&[f32]; 4], wanted: bool) -> [Vec<f32>; 3] {
        let (hidden, depth, count) = (self.hidden, self.depth(), self.heads.count);
        let places = Places::new(self.longest);
        let tables = self.tables(places, positions, true);
        let (groups, padded) = (GROUPS.min(self.sequences()), depth.next_multiple_of(LANES));
        // Of each group and head: by the vectors of both kinds, by both biases.
        let lens = self.kinds().map(|kind| if kind && wanted { places.width * padded } else { 0 });
        let len = lens[0] + lens[1] + 2 * depth;
        let mut sums = zeros(groups * count * len);
        // SAFETY: the units cover every token and every head.
        let mut dqkv = unsafe { unset(qkv.len()) };
        let (to_sums, to_dqkv) = (Disjoint::new(&mut sums), Disjoint::new(&mut dqkv));
        parallel::over(groups * count, |unit| {
            let (group, h) = (unit / count, unit % count);
            // SAFETY: a range for each unit.
            let own = unsafe { to_sums.range(unit * len, len) };
            let (keys, rest) = own.split_at_mut(lens[0]);
            let (queries, rest) = rest.split_at_mut(lens[1]);
            let (first, second) = rest.split_at_mut(depth);
            let mut sums = Sums { keys, queries, biases: [first, second] };
            let columns = self.columns(h);
            for s in group * self.sequences() / groups..(group + 1) * self.sequences() / groups {
                let start = self.cu_seqlens[s];
                let dout = Rows { values: dout, offset: start * hidden + h * depth, stride: hidden, bias: &[] };
                let mut write = |kind: usize, row: usize, values: &[f32]| {
                    let at = (start + row) * 3 * hidden + columns[kind];
                    // SAFETY: rows and heads of different units do not overlap.
                    unsafe { to_dqkv.range(at, depth) }.copy_from_slice(values);
                };
                let (sequence, parts) = (self.sequence(s, h, places, &tables[h]), self.parts(s, h, qkv, biases));
                SCRATCH.with_borrow_mut(|scratch| {
                    kernel::backward(&sequence, parts, dout, scratch, &mut sums, &mut write);
                });
            }
        });
        let (mut dpositions, mut dbiases) = (zeros(positions.len()), zeros(biases.len()));
        for (unit, own) in sums.chunks_exact(len.max(1)).enumerate() {
            let h = unit % count;
            for (kind, from) in [0, lens[0]].into_iter().enumerate().filter(|(kind, _)| lens[*kind] > 0) {
                let (width, column) = self.place(kind, h);
                for step in 0..(2 * self.longest).saturating_sub(1) {
                    let distance = step as isize - (self.longest as isize - 1);
                    let place = places.center.wrapping_add_signed(distance);
                    let to = &mut dpositions[self.row(distance) * width + column..][..depth];
                    to.iter_mut().zip(&own[from + place * padded..]).for_each(|(sum, value)| *sum += value);
                }
            }
            for (kind, own) in own[lens[0] + lens[1]..].chunks_exact(depth.max(1)).enumerate() {
                let to = &mut dbiases[kind * hidden + h * depth..][..depth];
                to.iter_mut().zip(own).for_each(|(sum, value)| *sum += value);
            }
        }
        [dqkv, dpositions, dbiases]
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = [values(NAME, s1, l1)?, values(NAME, s2, l2)?, values(NAME, s3, l3)?];
        Ok(output(self.forward(inputs), (l1.shape().dims()[0], self.hidden)))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        positions: &Tensor,
        biases: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        with_values(NAME, [qkv, positions, biases, dout], |inputs| {
            let [dqkv, dpositions, dbiases] = self.backward(inputs, positions.track_op());
            let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
            let wanted = |data, like: &Tensor| like.track_op().then(|| tensor(data, like)).transpose();
            Ok((wanted(dqkv, qkv)?, wanted(dpositions, positions)?, wanted(dbiases, biases)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::super::dropout::token_places;
    use super::*;

    fn draws(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2_003) as f32 / 1_001.0 - 1.0).collect()
    }

    struct Case {
        cu_seqlens: Arc<Vec<usize>>,
        rows: Arc<Vec<u32>>,
        heads: Heads,
        depth: usize,
    }

    impl Case {
        /// The formula, value by value in f64: the sum of the result times `factors`.
        fn weighted(&self, [qkv, positions, biases]: [&[f64]; 3], factors: &[f32], out: &mut Vec<f64>) -> f64 {
            let (count, depth) = (self.heads.count, self.depth);
            let hidden = count * depth;
            let [keys, queries] = [self.heads.keys, self.heads.queries];
            let kinds = usize::from(keys) + usize::from(queries);
            out.clear();
            out.resize(qkv.len() / 3, 0.0);
            for bounds in self.cu_seqlens.windows(2) {
                let (start, n) = (bounds[0], bounds[1] - bounds[0]);
                let masks = self.heads.dropout.as_ref().map(|dropout| {
                    let like = Tensor::zeros((1,), candle_core::DType::F32, &Device::Cpu).unwrap();
                    dropout
                        .head_factors(start, n, count, &like)
                        .unwrap()
                        .flatten_all()
                        .unwrap()
                        .to_vec1::<f32>()
                        .unwrap()
                });
                for h in 0..count {
                    let at = |token: usize, part: usize, d: usize| {
                        let column = match self.heads.columns {
                            Columns::ByHead => (3 * h + part) * depth + d,
                            Columns::ByKind => part * hidden + h * depth + d,
                        };
                        let bias = match part {
                            0 => biases[h * depth + d],
                            2 => biases[hidden + h * depth + d],
                            _ => 0.0,
                        };
                        qkv[(start + token) * 3 * hidden + column] + bias
                    };
                    for i in 0..n {
                        let score = |j: usize| {
                            let row = self.rows[self.rows.len() / 2 + j - i] as usize * kinds * hidden + h * depth;
                            let value = |d: usize| {
                                let (q, k) = (at(i, 0, d), at(j, 1, d));
                                let by_key = if keys { q * positions[row + d] } else { 0.0 };
                                let from = if keys { hidden } else { 0 };
                                let by_query = if queries { k * positions[row + from + d] } else { 0.0 };
                                q * k + by_key + by_query
                            };
                            (0..depth).map(value).sum::<f64>() / ((depth * (1 + kinds)) as f64).sqrt()
                        };
                        let scores: Vec<f64> = (0..n).map(score).collect();
                        let sum: f64 = scores.iter().map(|score| score.exp()).sum();
                        for (j, score) in scores.iter().enumerate() {
                            let mask = masks.as_ref().map_or(1.0, |m| f64::from(m[(h * n + i) * n + j]));
                            for d in 0..depth {
                                out[(start + i) * hidden + h * depth + d] += score.exp() / sum * mask * at(j, 2, d);
                            }
                        }
                    }
                }
            }
            out.iter().zip(factors).map(|(value, factor)| value * f64::from(*factor)).sum()
        }
    }

    fn case(lengths: &[usize], depth: usize, columns: Columns, [keys, queries]: [bool; 2], p: f32) -> Case {
        let cu_seqlens: Vec<usize> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |sum, n| {
                *sum += n;
                Some(*sum)
            }))
            .collect();
        // Far distances share a row, as in buckets.
        let longest = lengths.iter().max().copied().unwrap_or(0) as i64;
        let rows = (1 - longest..longest).map(|d| (d.signum() * (d.abs().min(9) + d.abs() / 20) + 20) as u32).collect();
        let dropout = TokenDropout::new(p, 5, &token_places(&cu_seqlens, 0)).unwrap();
        let heads = Heads { count: 2, columns, keys, queries, dropout };
        Case { cu_seqlens: Arc::new(cu_seqlens), rows: Arc::new(rows), heads, depth }
    }

    #[test]
    fn results_and_gradients_are_those_of_the_formula() {
        for (lengths, depth, columns, kinds, p) in [
            (&[1, 70, 0, 7][..], 5, Columns::ByHead, [true, true], 0.0),
            (&[9, 131], 16, Columns::ByKind, [true, true], 0.3),
            (&[64, 8, 3], 4, Columns::ByKind, [false, true], 0.0),
            (&[17, 65], 20, Columns::ByHead, [true, false], 0.2),
            (&[12], 3, Columns::ByHead, [false, false], 0.0),
        ] {
            let case = case(lengths, depth, columns, kinds, p);
            let (tokens, hidden) = (lengths.iter().sum::<usize>(), 2 * depth);
            let wide = kinds.into_iter().filter(|kind| *kind).count() * hidden;
            let shapes = [(tokens, 3 * hidden), (41, wide), (2, hidden)];
            let inputs: Vec<Vec<f32>> = shapes.iter().enumerate().map(|(i, (r, c))| draws(r * c, i + 1)).collect();
            let factors = draws(tokens * hidden, 9);
            let vars: Vec<Var> = shapes
                .iter()
                .zip(&inputs)
                .map(|(shape, values)| {
                    Var::from_tensor(&Tensor::from_slice(values, *shape, &Device::Cpu).unwrap()).unwrap()
                })
                .collect();
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let heads = case.heads.clone();
                    let out =
                        attention(&vars[0], &vars[1], &vars[2], case.rows.clone(), &case.cu_seqlens, heads).unwrap();
                    let factors = Tensor::from_slice(&factors, (tokens, hidden), &Device::Cpu).unwrap();
                    let gradients = (&out * factors).unwrap().sum_all().unwrap().backward().unwrap();
                    let all = vars.iter().map(|var| gradients.get(var).unwrap().flatten_all().unwrap());
                    (
                        out.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                        all.map(|g| g.to_vec1::<f32>().unwrap()).collect::<Vec<_>>(),
                    )
                })
            };
            let (out, gradients) = run(1);
            assert_eq!((&out, &gradients), (&run(3).0, &run(3).1), "on another number of threads");
            let mut values: Vec<Vec<f64>> = inputs.iter().map(|x| x.iter().copied().map(f64::from).collect()).collect();
            let mut want = Vec::new();
            let weighted = |values: &[Vec<f64>], want: &mut Vec<f64>| {
                case.weighted([&values[0], &values[1], &values[2]], &factors, want)
            };
            weighted(&values, &mut want);
            for (i, (got, want)) in out.iter().zip(&want).enumerate() {
                assert!((f64::from(*got) - want).abs() < 2e-6, "{lengths:?}, value {i}: {got}, not {want}");
            }
            let mut scratch = Vec::new();
            for input in 0..3 {
                let most = gradients[input].iter().fold(1f32, |most, g| most.max(g.abs()));
                for i in (0..gradients[input].len()).step_by((gradients[input].len() / 60).max(1)) {
                    let at = values[input][i];
                    let mut moved = |by: f64| {
                        values[input][i] = at + by;
                        weighted(&values, &mut scratch)
                    };
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    values[input][i] = at;
                    let got = f64::from(gradients[input][i]);
                    assert!(
                        (got - slope).abs() < 3e-6 * f64::from(most),
                        "{lengths:?}, input {input}, {i}: {got}, not {slope}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let case = case(&[5, 3], 4, Columns::ByKind, [true, false], 0.0);
        let zeros = |shape: (usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        let run = |qkv: (usize, usize), positions: (usize, usize), rows: &[u32]| {
            let (qkv, positions, biases) = (zeros(qkv), zeros(positions), zeros((2, 8)));
            attention(&qkv, &positions, &biases, Arc::new(rows.to_vec()), &case.cu_seqlens, case.heads.clone())
        };
        assert!(run((8, 24), (41, 8), &case.rows).is_ok());
        for (qkv, positions, rows) in [
            ((7, 24), (41, 8), &case.rows[..]),
            ((8, 25), (41, 8), &case.rows),
            ((8, 24), (41, 16), &case.rows),
            ((8, 24), (12, 8), &case.rows),
            ((8, 24), (41, 8), &case.rows[..7]),
        ] {
            assert!(run(qkv, positions, rows).is_err(), "{qkv:?}, {positions:?}, {} distances", rows.len());
        }
    }
}
