//! RMSNorm (Zhang and Sennrich 2019).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::kernel::{parallel, rms_norm as kernel};
use super::storage::{output, unset, values, with_values};

const NAME: &str = "rms-norm";

/// `x / sqrt(mean(x²) + eps) * weight` over rows.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// Scale, `[hidden]`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f64,
    /// Whether the scale is 1 more than the weight (Gemma).
    pub plus_one: bool,
}

impl RmsNorm {
    /// The scale, `[hidden]`.
    pub(crate) fn scale(&self) -> Result<Tensor> {
        if self.plus_one { self.weight.affine(1.0, 1.0) } else { Ok(self.weight.clone()) }
    }

    /// `[tokens, hidden]` → the same.
    ///
    /// # Errors
    /// Where the weight does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, hidden) = x.dims2()?;
        if self.weight.dims() != [hidden] {
            bail!("{NAME}: weight {:?} does not fit x {:?}", self.weight.dims(), x.dims());
        }
        #[cfg(feature = "cuda")]
        if super::cuda::norm::covers(x) {
            return super::cuda::norm::rms_norm(self, x);
        }
        let scale = self.scale()?;
        if !x.device().is_cpu() {
            return super::composed::rms_norm(x, &scale, self.eps);
        }
        x.contiguous()?.apply_op2(&scale.contiguous()?, Normalise { eps: self.eps as f32 })
    }
}

struct Normalise {
    eps: f32,
}

impl CustomOp2 for Normalise {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (values(NAME, s1, l1)?, values(NAME, s2, l2)?);
        let width = weight.len();
        // SAFETY: the kernel writes every row.
        let mut out = unsafe { unset(x.len()) };
        parallel::over_rows(&mut out, width, |first, out| {
            kernel::forward(&x[first * width..][..out.len()], weight, self.eps, out);
        });
        Ok(output(out, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_values(NAME, [x, weight, dout], |[xs, ws, dy]| {
            let width = ws.len();
            let dx = if x.track_op() {
                // SAFETY: the kernel writes every row.
                let mut dx = unsafe { unset(xs.len()) };
                parallel::over_rows(&mut dx, width, |first, out| {
                    let rows = first * width..first * width + out.len();
                    kernel::backward_input(&xs[rows.clone()], ws, self.eps, &dy[rows], out);
                });
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            } else {
                None
            };
            let dweight = if weight.track_op() {
                let sums = parallel::column_sums(xs.len() / width.max(1), width, |rows, sums| {
                    let rows = rows.start * width..rows.end * width;
                    kernel::backward_weight(&xs[rows.clone()], self.eps, &dy[rows], sums);
                });
                Some(Tensor::from_vec(sums, weight.shape(), weight.device())?)
            } else {
                None
            };
            Ok((dx, dweight))
        })
    }
}
