//! Multi-head attention over packed sequences (Vaswani et al. 2017): with fewer heads of keys and values (Ainslie et al. 2023), causal or
//! not, in a window (Beltagy et al. 2020), with a bias by distance (Raffel et al. 2020).

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::dropout::TokenDropout;
use super::kernel::attention::{self as kernel, Bias, Head, Part, Query, Rule, Scratch};
use super::kernel::parallel::{self, Disjoint};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::kernel::tile_attention;
use super::storage::{output, unset, values, with_values, zeros};

const NAME: &str = "packed-attention";

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
thread_local! {
    static TILES: RefCell<tile_attention::Scratch> = RefCell::default();
}

/// How a layer attends. A plain number stands for that many heads that see all tokens, without dropout.
#[derive(Debug, Clone, Default)]
pub struct Heads {
    /// Their number.
    pub count: usize,
    /// Heads of keys and values, which divides `count`; 0 for as many as there are of queries.
    pub key_values: usize,
    /// Whether a token sees itself and those before it alone.
    pub causal: bool,
    /// The farthest token that one sees, before and after it; none sees all.
    pub window: Option<usize>,
    /// Factor of the scores; by default 1/√depth.
    pub scale: Option<f32>,
    /// Dropout on the attention weights.
    pub dropout: Option<TokenDropout>,
}

impl From<usize> for Heads {
    fn from(count: usize) -> Self {
        Self { count, ..Self::default() }
    }
}

impl Heads {
    /// Heads of keys and values.
    pub fn key_values(&self) -> usize {
        if self.key_values == 0 { self.count } else { self.key_values }
    }

    /// Factor of the scores for heads of `depth` values.
    pub fn scale(&self, depth: usize) -> f32 {
        self.scale.unwrap_or(1.0 / (depth as f32).sqrt())
    }

    /// The farthest tokens that one sees, before it and after it.
    pub fn reach(&self) -> (usize, usize) {
        let window = self.window.unwrap_or(usize::MAX);
        (window, if self.causal { 0 } else { window })
    }
}

/// Attention of every sequence over itself: `dropout(softmax(q kᵀ / √d)) v` per head; q, k, v and the result
/// `[tokens, hidden]`.
///
/// # Errors
/// Where the shapes differ, or `hidden` is not a multiple of the number of heads.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &Arc<Vec<usize>>,
    heads: impl Into<Heads>,
) -> Result<Tensor> {
    let heads = heads.into();
    let (tokens, hidden) = q.dims2()?;
    if k.dims() != v.dims() || k.dims2()?.0 != tokens {
        bail!("{NAME}: q {:?}, k {:?} and v {:?} differ", q.dims(), k.dims(), v.dims());
    }
    if k.dims() != q.dims() {
        return joint_attention(&Tensor::cat(&[q, k, v], 1)?, cu_seqlens, heads, None);
    }
    let op = Packed::new(cu_seqlens, tokens, heads, 3 * hidden, None)?;
    #[cfg(feature = "cuda")]
    if super::cuda::attention::covers(q, op.depth) {
        return super::cuda::attention::apart([q, k, v], cu_seqlens, op.heads, op.depth);
    }
    if !q.device().is_cpu() {
        return super::composed::attention(q, k, v, cu_seqlens, op.heads, None);
    }
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// As [`attention`], with q, k and v side by side in one tensor, `[tokens, (count + 2 key_values) depth]`, and what is added to the scores
/// by the distance of the key from the query, `[count, 2 n − 1]`: column `n − 1` is that of the token itself, those before it
/// are of keys before it; no sequence may be longer than `n`. The result is `[tokens, count depth]`.
///
/// # Errors
/// As [`attention`]; where a sequence is longer than the bias allows.
pub fn joint_attention(
    qkv: &Tensor,
    cu_seqlens: &Arc<Vec<usize>>,
    heads: impl Into<Heads>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let heads = heads.into();
    let (tokens, width) = qkv.dims2()?;
    let op = Packed::new(cu_seqlens, tokens, heads, width, bias)?;
    #[cfg(feature = "cuda")]
    if super::cuda::attention::covers(qkv, op.depth) {
        return super::cuda::attention::joint(qkv, cu_seqlens, op.heads, op.depth, bias);
    }
    if !qkv.device().is_cpu() {
        let (queries, keys) = (op.heads.count * op.depth, op.heads.key_values() * op.depth);
        let part = |from: usize, width: usize| qkv.narrow(1, from, width)?.contiguous();
        let (q, k, v) = (part(0, queries)?, part(queries, keys)?, part(queries + keys, keys)?);
        return super::composed::attention(&q, &k, &v, cu_seqlens, op.heads, bias);
    }
    match bias {
        Some(bias) => qkv.contiguous()?.apply_op2(&bias.contiguous()?, op),
        None => qkv.contiguous()?.apply_op1(op),
    }
}

/// Attention as an operation.
pub(super) struct Packed {
    cu_seqlens: Arc<Vec<usize>>,
    heads: Heads,
    depth: usize,
    /// Sequence lengths that the bias is for, 0 without one.
    reach: usize,
}

/// Where the rows of q, k and v are in the slices given, and the values between them.
#[derive(Clone, Copy)]
struct Rows {
    strides: [usize; 2],
}

impl Packed {
    /// `width` values a token: q, k and v together.
    pub(super) fn new(
        cu_seqlens: &Arc<Vec<usize>>,
        tokens: usize,
        heads: Heads,
        width: usize,
        bias: Option<&Tensor>,
    ) -> Result<Self> {
        let bounds = cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&tokens) && cu_seqlens.is_sorted();
        let (count, key_values) = (heads.count, heads.key_values());
        let parts = count + 2 * key_values;
        if count == 0 || !width.is_multiple_of(parts) || !count.is_multiple_of(key_values) || !bounds {
            bail!(
                "{NAME}: {tokens} tokens of {width} values do not fit {count} + 2 x {key_values} heads and the bounds"
            );
        }
        if let Some(dropout) = &heads.dropout {
            dropout.check(tokens)?;
        }
        let longest = cu_seqlens.windows(2).map(|b| b[1] - b[0]).max().unwrap_or(0);
        let reach = match bias {
            Some(bias) => match bias.dims() {
                [rows, columns] if *rows == count && columns % 2 == 1 && columns.div_ceil(2) >= longest => {
                    columns.div_ceil(2)
                }
                dims => bail!("{NAME}: bias {dims:?} does not fit {count} heads and sequences of {longest} tokens"),
            },
            None => 0,
        };
        Ok(Self { cu_seqlens: cu_seqlens.clone(), heads, depth: width / parts, reach })
    }

    /// The result, `[tokens, count depth]`, of queries, keys and values side by side, `width` values a token.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(super) fn over(
        qkv: &[f32],
        cu_seqlens: &Arc<Vec<usize>>,
        heads: &Heads,
        width: usize,
        bias: Option<&[f32]>,
    ) -> Result<Vec<f32>> {
        let count = heads.count;
        let bias = bias.map(|b| Tensor::from_slice(b, (count, b.len() / count.max(1)), &candle_core::Device::Cpu));
        let bias = bias.transpose()?;
        let op = Self::new(cu_seqlens, qkv.len().checked_div(width).unwrap_or(0), heads.clone(), width, bias.as_ref())?;
        match &bias {
            Some(bias) => with_values(NAME, [bias], |[bias]| Ok(op.forward(op.parts(qkv), op.joint(), bias))),
            None => Ok(op.forward(op.parts(qkv), op.joint(), &[])),
        }
    }

    /// The result of queries, keys and values side by side.
    pub(super) fn joint_forward(&self, qkv: &[f32]) -> Vec<f32> {
        self.forward(self.parts(qkv), self.joint(), &[])
    }

    /// The gradients by queries, keys and values, from that by the result.
    fn apart_backward(&self, qkv: [&[f32]; 3], dout: &[f32]) -> [Vec<f32>; 3] {
        // SAFETY: the units cover every token and every head.
        let mut gradients = qkv.map(|x| unsafe { unset(x.len()) });
        let targets = gradients.each_mut().map(|d| (Disjoint::new(d), 0));
        self.backward(qkv, dout, self.apart(), targets, &[], false);
        gradients
    }

    /// Rows of head `h` of sequence `s`, `stride` values apart.
    fn head(&self, s: usize, h: usize, stride: usize) -> Head {
        let (start, end) = (self.cu_seqlens[s], self.cu_seqlens[s + 1]);
        let (depth, scale) = (self.depth, self.heads.scale(self.depth));
        Head { offset: start * stride + h * depth, n: end - start, stride, depth, scale }
    }

    /// What the queries of a head of a sequence see, and their dropout.
    fn rule<'a>(&'a self, s: usize, h: usize, bias: &'a [f32]) -> Rule<'a> {
        let dropout = self.heads.dropout.as_ref().map(|dropout| {
            let (mask, places) = dropout.parts();
            (mask.stream(h), &places[self.cu_seqlens[s]..self.cu_seqlens[s + 1]])
        });
        let (before, after) = self.heads.reach();
        let columns = self.columns();
        let bias =
            (self.reach > 0).then(|| Bias { values: &bias[h * columns..(h + 1) * columns], zero: self.reach - 1 });
        Rule { before, after, bias, dropout }
    }

    /// Columns of the bias.
    fn columns(&self) -> usize {
        (2 * self.reach).saturating_sub(1)
    }

    fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    fn hidden(&self) -> usize {
        self.heads.count * self.depth
    }

    /// Query heads of a head of keys.
    fn group(&self) -> usize {
        self.heads.count / self.heads.key_values()
    }

    /// q, k and v in tensors of their own.
    fn apart(&self) -> Rows {
        Rows { strides: [self.hidden(), self.heads.key_values() * self.depth] }
    }

    /// q, k and v side by side.
    fn joint(&self) -> Rows {
        let width = (self.heads.count + 2 * self.heads.key_values()) * self.depth;
        Rows { strides: [width, width] }
    }

    /// The three inputs of rows side by side; the last rows end before the slices do.
    fn parts<'a>(&self, qkv: &'a [f32]) -> [&'a [f32]; 3] {
        self.columns_of().map(|column| qkv.get(column..).unwrap_or_default())
    }

    /// First columns of q, k and v side by side.
    fn columns_of(&self) -> [usize; 3] {
        let keys = self.heads.key_values() * self.depth;
        [0, self.hidden(), self.hidden() + keys]
    }

    /// The result, `[tokens, hidden]`.
    fn forward(&self, [q, k, v]: [&[f32]; 3], rows: Rows, bias: &[f32]) -> Vec<f32> {
        let (tokens, hidden, count) =
            (self.cu_seqlens.last().copied().unwrap_or_default(), self.hidden(), self.heads.count);
        // SAFETY: the units cover every token (`cu_seqlens` runs from 0 to their number) and every head.
        let mut out = unsafe { unset(tokens * hidden) };
        let shared = Disjoint::new(&mut out);
        let group = self.group();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        let layout = super::kernel::precision::layout();
        parallel::over(self.sequences() * count, |unit| {
            let (s, h) = (unit / count, unit % count);
            let [head, keys] = [self.head(s, h, rows.strides[0]), self.head(s, h / group, rows.strides[1])];
            let (to, rule) = (self.head(s, h, hidden), self.rule(s, h, bias));
            let mut write = |row: usize, values: &[f32]| {
                // SAFETY: rows and heads of different units do not overlap.
                unsafe { shared.range(to.offset + row * to.stride, to.depth) }.copy_from_slice(values);
            };
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            if let Some(parts) = layout.filter(|_| head.n >= tile_attention::WORTH) {
                let run = |scratch: &mut tile_attention::Scratch| {
                    tile_attention::forward(parts, [q, k, v], head, keys, rule, scratch, &mut write)
                };
                if TILES.with_borrow_mut(run) {
                    return;
                }
            }
            SCRATCH.with_borrow_mut(|scratch| kernel::forward(q, k, v, head, keys, rule, scratch, &mut write));
        });
        out
    }

    /// Writes the gradients by q, k and v to where `targets` has their rows, laid out as the inputs', from the columns given
    /// on; gives that by the bias if it is asked for.
    fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        dout: &[f32],
        rows: Rows,
        targets: [(Disjoint<'_>, usize); 3],
        bias: &[f32],
        bias_gradient: bool,
    ) -> Vec<f32> {
        let (group, key_values, hidden) = (self.group(), self.heads.key_values(), self.hidden());
        let columns = if bias_gradient { self.columns() } else { 0 };
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        let layout = super::kernel::precision::layout();
        // A sum for each sequence and head; added up in their order, so that the result does not depend on the threads.
        let mut sums = zeros(self.sequences() * self.heads.count * columns);
        let shared = Disjoint::new(&mut sums);
        parallel::over(self.sequences() * key_values, |unit| {
            let (s, kv) = (unit / key_values, unit % key_values);
            let keys = self.head(s, kv, rows.strides[1]);
            let mut queries: Vec<Query<'_>> = (kv * group..(kv + 1) * group)
                .map(|h| Query {
                    head: self.head(s, h, rows.strides[0]),
                    result: self.head(s, h, hidden),
                    rule: self.rule(s, h, bias),
                    // SAFETY: a range for each sequence and head.
                    bias_gradient: (columns > 0)
                        .then(|| unsafe { shared.range((s * self.heads.count + h) * columns, columns) }),
                })
                .collect();
            let offsets: Vec<usize> = queries.iter().map(|query| query.head.offset).collect();
            let mut write = |part, g: usize, row: usize, values: &[f32]| {
                let (target, column) = targets[part as usize];
                let start = match part {
                    Part::Query => offsets[g] + row * rows.strides[0],
                    Part::Key | Part::Value => keys.offset + row * rows.strides[1],
                };
                // SAFETY: rows and heads of different units do not overlap.
                unsafe { target.range(column + start, self.depth) }.copy_from_slice(values);
            };
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            if let Some(parts) = layout.filter(|_| keys.n >= tile_attention::WORTH_BACKWARD) {
                let run = |scratch: &mut tile_attention::Scratch| {
                    tile_attention::backward(parts, [q, k, v, dout], keys, &mut queries, scratch, &mut write)
                };
                if TILES.with_borrow_mut(run) {
                    return;
                }
            }
            SCRATCH.with_borrow_mut(|scratch| {
                kernel::backward(q, k, v, keys, &mut queries, dout, scratch, &mut write);
            });
        });
        let mut total = zeros(self.heads.count * columns);
        for part in sums.chunks_exact((self.heads.count * columns).max(1)) {
            total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
        }
        total
    }

    /// The gradient by q, k and v side by side, and that by the bias if it is asked for.
    pub(super) fn joint_backward(&self, [qkv, dout, bias]: [&[f32]; 3], bias_gradient: bool) -> (Vec<f32>, Vec<f32>) {
        // SAFETY: the units cover every token and every head of all three.
        let mut gradient = unsafe { unset(qkv.len()) };
        let shared = Disjoint::new(&mut gradient);
        let targets = self.columns_of().map(|column| (shared, column));
        let sums = self.backward(self.parts(qkv), dout, self.joint(), targets, bias, bias_gradient);
        (gradient, sums)
    }
}

impl CustomOp3 for Packed {
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
        let qkv = [values(NAME, s1, l1)?, values(NAME, s2, l2)?, values(NAME, s3, l3)?];
        Ok(output(self.forward(qkv, self.apart(), &[]), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        with_values(NAME, [q, k, v, dout], |[qs, ks, vs, douts]| {
            let [dq, dk, dv] = self.apart_backward([qs, ks, vs], douts);
            let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device()).map(Some);
            Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
        })
    }
}

impl CustomOp1 for Packed {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = self.parts(values(NAME, storage, layout)?);
        Ok(output(self.forward(qkv, self.joint(), &[]), (layout.shape().dims()[0], self.hidden())))
    }

    fn bwd(&self, qkv: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values(NAME, [qkv, dout], |[inputs, douts]| {
            let (gradient, _) = self.joint_backward([inputs, douts, &[]], false);
            Tensor::from_vec(gradient, qkv.shape(), qkv.device()).map(Some)
        })
    }
}

impl CustomOp2 for Packed {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = self.parts(values(NAME, s1, l1)?);
        let out = self.forward(qkv, self.joint(), values(NAME, s2, l2)?);
        Ok(output(out, (l1.shape().dims()[0], self.hidden())))
    }

    fn bwd(
        &self,
        qkv: &Tensor,
        bias: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_values(NAME, [qkv, dout, bias], |inputs| {
            let (gradient, sums) = self.joint_backward(inputs, bias.track_op());
            let dbias = if bias.track_op() { Some(Tensor::from_vec(sums, bias.shape(), bias.device())?) } else { None };
            Ok((Some(Tensor::from_vec(gradient, qkv.shape(), qkv.device())?), dbias))
        })
    }
}
