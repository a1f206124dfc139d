//! Weight-decomposed low-rank adaptation (DoRA, Liu et al. 2024): the direction of a weight's rows is trained by a low-rank
//! adapter, their lengths by a vector of magnitudes.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::kernel::gemm::{Operand, multiply};
use super::kernel::parallel;
use super::kernel::simd::{dot, multiversion};
use super::linear::LowRank;
use super::quantized::Weight;
use super::storage::{output, unset, values, with_values};

const NAME: &str = "dora";

/// Lengths of the rows of `W + scale B A`, `[out]`, apart from any gradient: what magnitudes start from and are divided by.
/// A row of zeros has the smallest positive length, so that its quotient is zero, where PEFT has NaN.
///
/// # Errors
/// Where the shapes do not fit.
pub fn norms(weight: &Weight, lora: &LowRank) -> Result<Tensor> {
    let ((outputs, inputs), rank) = (weight.shape()?, lora.a.dims2()?.0);
    if lora.a.dims() != [rank, inputs] || lora.b.dims() != [outputs, rank] {
        bail!("{NAME}: adapter {:?}, {:?} does not fit weight {:?}", lora.a.dims(), lora.b.dims(), [outputs, inputs]);
    }
    let device = lora.a.device();
    if !device.is_cpu() {
        let weight = weight.tensor(device)?.detach().to_dtype(lora.b.dtype())?;
        let whole = (weight + (lora.b.detach().matmul(&lora.a.detach())? * lora.scale)?)?;
        return whole.sqr()?.sum(1)?.sqrt()?.maximum(f64::from(f32::MIN_POSITIVE));
    }
    let mut whole = match weight {
        Weight::Dense(tensor) => with_values(NAME, [tensor], |[values]| Ok(values.to_vec()))?,
        Weight::Quantized(quantized) => quantized.dequantize(),
    };
    with_values(NAME, [&lora.a, &lora.b], |[a, b]| {
        let (a, b) = (Operand::new(a, rank, inputs), Operand::new(b, outputs, rank));
        multiply(&mut whole, true, lora.scale as f32, b, a);
        Ok(())
    })?;
    let mut norms = vec![0.0; outputs];
    let shared = parallel::Disjoint::new(&mut norms);
    parallel::over(outputs.div_ceil(ROWS), |task| {
        let (from, to) = (task * ROWS, ((task + 1) * ROWS).min(outputs));
        // SAFETY: tasks write to different rows.
        lengths(&whole[from * inputs..to * inputs], unsafe { shared.range(from, to - from) });
    });
    Tensor::from_vec(norms, outputs, device)
}

/// Rows that a task takes.
const ROWS: usize = 64;

multiversion! {
    /// Lengths of as many rows as `out` has values.
    fn lengths<A>(rows: &[f32], out: &mut [f32]) {
        let width = rows.len() / out.len().max(1);
        for (r, length) in out.iter_mut().enumerate() {
            let row = &rows[r * width..(r + 1) * width];
            *length = dot::<A>(row, row).sqrt().max(f32::MIN_POSITIVE);
        }
    }
}

/// `y = x ⊙ factor + bias`: rows `[tokens, out]`, one row `[out]` and a frozen one; differentiable by the first two.
pub(super) struct Scaled {
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Scaled {
    fn apply(x: &[f32], factor: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        let width = factor.len().max(1);
        // SAFETY: every value is written below: `x` has whole rows.
        let mut out = unsafe { unset(x.len()) };
        parallel::over_rows(&mut out, width, |first, rows| {
            for (to, from) in rows.chunks_mut(width).zip(x[first * width..].chunks(width)) {
                for ((to, x), factor) in to.iter_mut().zip(from).zip(factor) {
                    *to = x * factor;
                }
                if let Some(bias) = bias {
                    to.iter_mut().zip(bias).for_each(|(to, b)| *to += b);
                }
            }
        });
        out
    }
}

impl CustomOp2 for Scaled {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, factor) = (values(NAME, s1, l1)?, values(NAME, s2, l2)?);
        let out = match &self.bias {
            Some(bias) => with_values(NAME, [bias], |[bias]| Ok(Self::apply(x, factor, Some(bias))))?,
            None => Self::apply(x, factor, None),
        };
        Ok(output(out, l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, f: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = f.elem_count();
        with_values(NAME, [x, f, dout], |[xs, factor, dy]| {
            let dx = x.track_op().then(|| Self::apply(dy, factor, None));
            let sums = |rows: std::ops::Range<usize>, sums: &mut [f32]| {
                let range = rows.start * width..rows.end * width;
                for (x, dy) in xs[range.clone()].chunks_exact(width).zip(dy[range].chunks_exact(width)) {
                    for ((sum, x), dy) in sums.iter_mut().zip(x).zip(dy) {
                        *sum += x * dy;
                    }
                }
            };
            let df = f.track_op().then(|| parallel::column_sums(dy.len() / width.max(1), width, sums));
            Ok((
                dx.map(|d| Tensor::from_vec(d, x.shape(), x.device())).transpose()?,
                df.map(|d| Tensor::from_vec(d, width, f.device())).transpose()?,
            ))
        })
    }
}
