//! Multi-head attention over packed sequences (Vaswani et al. 2017).

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::dropout::TokenDropout;
use super::kernel::attention::{self as kernel, Head, Rule, Scratch};
use super::kernel::parallel::{self, Disjoint};
use super::storage::{output, unset, values, with_values};

const NAME: &str = "packed-attention";

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How a layer attends. A plain number stands for that many heads that see all tokens, without dropout.
#[derive(Debug, Clone, Default)]
pub struct Heads {
    /// Their number; divides the hidden size.
    pub count: usize,
    /// Whether a token sees itself and those before it alone.
    pub causal: bool,
    /// Dropout on the attention weights.
    pub dropout: Option<TokenDropout>,
}

impl From<usize> for Heads {
    fn from(count: usize) -> Self {
        Self { count, ..Self::default() }
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
    let (tokens, hidden) = q.dims2()?;
    if k.dims() != q.dims() || v.dims() != q.dims() {
        bail!("{NAME}: q {:?}, k {:?} and v {:?} differ", q.dims(), k.dims(), v.dims());
    }
    let op = PackedAttention::new(cu_seqlens, tokens, heads.into(), hidden)?;
    if !q.device().is_cpu() {
        return super::composed::attention(q, k, v, cu_seqlens, op.heads);
    }
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

/// As [`attention`], with q, k and v side by side in one tensor, `[tokens, 3 * hidden]`.
///
/// # Errors
/// As [`attention`].
pub fn joint_attention(qkv: &Tensor, cu_seqlens: &Arc<Vec<usize>>, heads: impl Into<Heads>) -> Result<Tensor> {
    let (tokens, width) = qkv.dims2()?;
    let hidden = width / 3;
    if !width.is_multiple_of(3) {
        bail!("{NAME}: {width} columns are not q, k and v");
    }
    let op = PackedAttention::new(cu_seqlens, tokens, heads.into(), hidden)?;
    if !qkv.device().is_cpu() {
        let part = |i: usize| qkv.narrow(1, i * hidden, hidden)?.contiguous();
        return super::composed::attention(&part(0)?, &part(1)?, &part(2)?, cu_seqlens, op.heads);
    }
    qkv.contiguous()?.apply_op1(op)
}

struct PackedAttention {
    cu_seqlens: Arc<Vec<usize>>,
    heads: Heads,
    hidden: usize,
}

impl PackedAttention {
    fn new(cu_seqlens: &Arc<Vec<usize>>, tokens: usize, heads: Heads, hidden: usize) -> Result<Self> {
        let bounds = cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&tokens) && cu_seqlens.is_sorted();
        if heads.count == 0 || !hidden.is_multiple_of(heads.count) || !bounds {
            let count = heads.count;
            bail!("{NAME}: {tokens} tokens of {hidden} values do not fit {count} heads and the sequence bounds");
        }
        if let Some(dropout) = &heads.dropout {
            dropout.check(tokens)?;
        }
        Ok(Self { cu_seqlens: cu_seqlens.clone(), heads, hidden })
    }

    /// Every (sequence, head), in order, in tensors whose rows are `stride` values apart.
    fn head(&self, unit: usize, stride: usize) -> Head {
        let (s, h) = (unit / self.heads.count, unit % self.heads.count);
        let (start, end) = (self.cu_seqlens[s], self.cu_seqlens[s + 1]);
        let depth = self.hidden / self.heads.count;
        Head { offset: start * stride + h * depth, n: end - start, stride, depth, scale: 1.0 / (depth as f32).sqrt() }
    }

    /// What the queries of a (sequence, head) see, and their dropout.
    fn rule(&self, unit: usize) -> Rule<'_> {
        let (s, h) = (unit / self.heads.count, unit % self.heads.count);
        let dropout = self.heads.dropout.as_ref().map(|dropout| {
            let (mask, places) = dropout.parts();
            (mask.stream(h), &places[self.cu_seqlens[s]..self.cu_seqlens[s + 1]])
        });
        Rule { causal: self.heads.causal, dropout }
    }

    fn units(&self) -> usize {
        (self.cu_seqlens.len() - 1) * self.heads.count
    }
}

impl PackedAttention {
    /// q, k and v have rows `stride` values apart; the result is `[tokens, hidden]`.
    fn forward(&self, [q, k, v]: [&[f32]; 3], stride: usize) -> Vec<f32> {
        let tokens = self.cu_seqlens.last().copied().unwrap_or_default();
        // SAFETY: the units cover every token (`cu_seqlens` runs from 0 to their number) and every head.
        let mut out = unsafe { unset(tokens * self.hidden) };
        let shared = Disjoint::new(&mut out);
        parallel::over(self.units(), |unit| {
            let (head, to, rule) = (self.head(unit, stride), self.head(unit, self.hidden), self.rule(unit));
            SCRATCH.with_borrow_mut(|scratch| {
                kernel::forward(q, k, v, head, rule, scratch, &mut |row, values| {
                    // SAFETY: rows and heads of different units do not overlap.
                    unsafe { shared.range(to.offset + row * to.stride, to.depth) }.copy_from_slice(values);
                });
            });
        });
        out
    }

    /// Writes the gradients by q, k and v to where `targets` has their rows, `stride` values apart as the inputs'.
    fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        out: &[f32],
        dout: &[f32],
        stride: usize,
        targets: [(Disjoint<'_>, usize); 3],
    ) {
        parallel::over(self.units(), |unit| {
            let (head, result, rule) = (self.head(unit, stride), self.head(unit, self.hidden), self.rule(unit));
            SCRATCH.with_borrow_mut(|scratch| {
                kernel::backward(q, k, v, head, rule, out, dout, result, scratch, &mut |part, row, values| {
                    let (target, column) = targets[part as usize];
                    // SAFETY: rows and heads of different units do not overlap.
                    unsafe { target.range(column + head.offset + row * head.stride, head.depth) }
                        .copy_from_slice(values);
                });
            });
        });
    }
}

impl CustomOp3 for PackedAttention {
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
        Ok(output(self.forward(qkv, self.hidden), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        with_values(NAME, [q, k, v, out, dout], |[qs, ks, vs, outs, douts]| {
            // SAFETY: the units cover every token and every head.
            let (mut dq, mut dk, mut dv) = unsafe { (unset(qs.len()), unset(qs.len()), unset(qs.len())) };
            let targets = [&mut dq, &mut dk, &mut dv].map(|d| (Disjoint::new(d), 0));
            self.backward([qs, ks, vs], outs, douts, self.hidden, targets);
            let tensor = |data| Tensor::from_vec(data, q.shape(), q.device()).map(Some);
            Ok((tensor(dq)?, tensor(dk)?, tensor(dv)?))
        })
    }
}

/// The three inputs that stand side by side in rows of `3 * hidden`; the last rows end before the slices do.
fn side_by_side(qkv: &[f32], hidden: usize) -> [&[f32]; 3] {
    [0, 1, 2].map(|i| qkv.get(i * hidden..).unwrap_or_default())
}

impl CustomOp1 for PackedAttention {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let qkv = side_by_side(values(NAME, storage, layout)?, self.hidden);
        Ok(output(self.forward(qkv, 3 * self.hidden), (layout.shape().dims()[0], self.hidden)))
    }

    fn bwd(&self, qkv: &Tensor, out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values(NAME, [qkv, out, dout], |[inputs, outs, douts]| {
            // SAFETY: the units cover every token and every head of all three.
            let mut gradient = unsafe { unset(inputs.len()) };
            let shared = Disjoint::new(&mut gradient);
            let targets = [0, 1, 2].map(|i| (shared, i * self.hidden));
            self.backward(side_by_side(inputs, self.hidden), outs, douts, 3 * self.hidden, targets);
            Tensor::from_vec(gradient, qkv.shape(), qkv.device()).map(Some)
        })
    }
}
