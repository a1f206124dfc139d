//! Bidirectional multi-head attention over packed sequences (Vaswani et al. 2017).

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::kernel::attention::{self as kernel, Head, Part, Scratch};
use super::kernel::parallel::{self, Disjoint};
use super::storage::{output, unset, values, with_values};

const NAME: &str = "packed-attention";

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Attention of every sequence over itself: `softmax(q kᵀ / √d) v` per head; q, k, v and the result `[tokens, hidden]`.
///
/// # Errors
/// Where the shapes differ, or `hidden` is not a multiple of `heads`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, cu_seqlens: &Arc<Vec<usize>>, heads: usize) -> Result<Tensor> {
    let (tokens, hidden) = q.dims2()?;
    if k.dims() != q.dims() || v.dims() != q.dims() {
        bail!("{NAME}: q {:?}, k {:?} and v {:?} differ", q.dims(), k.dims(), v.dims());
    }
    let bounds = cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&tokens) && cu_seqlens.is_sorted();
    if heads == 0 || hidden % heads != 0 || !bounds {
        bail!("{NAME}: {tokens} tokens of {hidden} values do not fit {heads} heads and the sequence bounds");
    }
    if !q.device().is_cpu() {
        return super::composed::attention(q, k, v, cu_seqlens, heads);
    }
    let op = PackedAttention { cu_seqlens: cu_seqlens.clone(), heads, hidden };
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

struct PackedAttention {
    cu_seqlens: Arc<Vec<usize>>,
    heads: usize,
    hidden: usize,
}

impl PackedAttention {
    /// Every (sequence, head), in order.
    fn head(&self, unit: usize) -> Head {
        let (s, h) = (unit / self.heads, unit % self.heads);
        let (start, end) = (self.cu_seqlens[s], self.cu_seqlens[s + 1]);
        let depth = self.hidden / self.heads;
        Head {
            offset: start * self.hidden + h * depth,
            n: end - start,
            stride: self.hidden,
            depth,
            scale: 1.0 / (depth as f32).sqrt(),
        }
    }

    fn units(&self) -> usize {
        (self.cu_seqlens.len() - 1) * self.heads
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
        let (q, k, v) = (values(NAME, s1, l1)?, values(NAME, s2, l2)?, values(NAME, s3, l3)?);
        // SAFETY: the units cover every token (`cu_seqlens` runs from 0 to their number) and every head.
        let mut out = unsafe { unset(q.len()) };
        let shared = Disjoint::new(&mut out);
        parallel::over(self.units(), |unit| {
            let head = self.head(unit);
            SCRATCH.with_borrow_mut(|scratch| {
                kernel::forward(q, k, v, head, scratch, &mut |row, values| {
                    // SAFETY: rows and heads of different units do not overlap.
                    unsafe { shared.range(head.offset + row * head.stride, head.depth) }.copy_from_slice(values);
                });
            });
        });
        Ok(output(out, l1.shape().clone()))
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
            // SAFETY: as in `cpu_fwd`.
            let (mut dq, mut dk, mut dv) = unsafe { (unset(qs.len()), unset(qs.len()), unset(qs.len())) };
            {
                let (dq, dk, dv) = (Disjoint::new(&mut dq), Disjoint::new(&mut dk), Disjoint::new(&mut dv));
                parallel::over(self.units(), |unit| {
                    let head = self.head(unit);
                    SCRATCH.with_borrow_mut(|scratch| {
                        kernel::backward(qs, ks, vs, outs, douts, head, scratch, &mut |part, row, values| {
                            let target = match part {
                                Part::Query => dq,
                                Part::Key => dk,
                                Part::Value => dv,
                            };
                            // SAFETY: rows and heads of different units do not overlap.
                            unsafe { target.range(head.offset + row * head.stride, head.depth) }
                                .copy_from_slice(values);
                        });
                    });
                });
            }
            let tensor = |data| Tensor::from_vec(data, q.shape(), q.device()).map(Some);
            Ok((tensor(dq)?, tensor(dk)?, tensor(dv)?))
        })
    }
}
