//! LayerNorm (Ba, Kiros and Hinton 2016), fused with the residual that precedes it in a post-norm encoder.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::dropout::TokenDropout;
use super::kernel::layer_norm::{self as kernel, Rows};
use super::kernel::parallel;
use super::storage::{output, unset, values, with_values};

const NAME: &str = "layer-norm";

/// A LayerNorm's parameters.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    /// Scale, `[hidden]`.
    pub weight: Tensor,
    /// Shift, `[hidden]`.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// `LayerNorm(x)`, `[tokens, hidden]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.checked(x)?;
        #[cfg(feature = "cuda")]
        if super::cuda::norm::covers(x) {
            return super::cuda::norm::layer_norm(self, x, None, None);
        }
        if !x.device().is_cpu() {
            return super::composed::layer_norm(x, &self.weight, &self.bias, self.eps);
        }
        let op = Normalise { eps: self.eps as f32, residual: false, dropout: None };
        x.contiguous()?.apply_op3(&self.packed()?, &self.weight.zeros_like()?.detach(), op)
    }

    /// `LayerNorm(dropout(x) + residual)`, `[tokens, hidden]`.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor, dropout: Option<&TokenDropout>) -> Result<Tensor> {
        self.checked(x)?;
        if x.dims() != residual.dims() {
            bail!("{NAME}: x {:?} and residual {:?} differ", x.dims(), residual.dims());
        }
        if let Some(dropout) = dropout {
            dropout.check(x.dims2()?.0)?;
        }
        #[cfg(feature = "cuda")]
        if super::cuda::norm::covers(x) {
            return super::cuda::norm::layer_norm(self, x, Some(residual), dropout);
        }
        if !x.device().is_cpu() {
            let x = dropout.map_or_else(|| Ok(x.clone()), |dropout| dropout.forward(x))?;
            return super::composed::layer_norm(&(x + residual)?, &self.weight, &self.bias, self.eps);
        }
        let op = Normalise { eps: self.eps as f32, residual: true, dropout: dropout.cloned() };
        x.contiguous()?.apply_op3(&self.packed()?, &residual.contiguous()?, op)
    }

    fn checked(&self, x: &Tensor) -> Result<()> {
        let (_, hidden) = x.dims2()?;
        if self.weight.dims() != [hidden] || self.bias.dims() != [hidden] {
            bail!(
                "{NAME}: weight {:?} and bias {:?} do not fit x {:?}",
                self.weight.dims(),
                self.bias.dims(),
                x.dims()
            );
        }
        Ok(())
    }

    /// `[2, hidden]`: an op has three operands at the most, so scale and shift travel as one.
    fn packed(&self) -> Result<Tensor> {
        Tensor::stack(&[&self.weight, &self.bias], 0)
    }
}

struct Normalise {
    eps: f32,
    residual: bool,
    dropout: Option<TokenDropout>,
}

impl Normalise {
    fn rows<'a>(&'a self, x: &'a [f32], residual: &'a [f32], width: usize) -> Rows<'a> {
        let residual = if self.residual { residual } else { &[] };
        Rows { x, residual, dropout: self.dropout.as_ref().map(TokenDropout::parts), width, eps: self.eps }
    }
}

impl CustomOp3 for Normalise {
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
        let (x, params) = (values(NAME, s1, l1)?, values(NAME, s2, l2)?);
        let width = params.len() / 2;
        let rows = self.rows(x, values(NAME, s3, l3)?, width);
        let (gamma, beta) = params.split_at(width);
        // SAFETY: the kernel writes every row.
        let mut out = unsafe { unset(x.len()) };
        parallel::over_rows(&mut out, width, |first, out| {
            kernel::forward(rows.part(first, out.len() / width), gamma, beta, out);
        });
        Ok(output(out, l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        params: &Tensor,
        residual: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let width = params.dims()[1];
        let tracks_residual = self.residual && residual.track_op();
        with_values(NAME, [x, params, residual, dout], |[xs, ps, rs, dy]| {
            let rows = self.rows(xs, rs, width);
            let dsum = if x.track_op() || tracks_residual {
                // SAFETY: the kernel writes every row.
                let mut dsum = unsafe { unset(xs.len()) };
                parallel::over_rows(&mut dsum, width, |first, out| {
                    let dy = &dy[first * width..first * width + out.len()];
                    kernel::backward_input(rows.part(first, out.len() / width), &ps[..width], dy, out);
                });
                Some(Tensor::from_vec(dsum, x.shape(), x.device())?)
            } else {
                None
            };
            let dparams = if params.track_op() {
                let sums = parallel::column_sums(xs.len() / width.max(1), 2 * width, |range, sums| {
                    let dy = &dy[range.start * width..range.end * width];
                    kernel::backward_params(rows.part(range.start, range.len()), dy, sums);
                });
                Some(Tensor::from_vec(sums, params.shape(), params.device())?)
            } else {
                None
            };
            let dresidual = if tracks_residual { dsum.clone() } else { None };
            let dx = match (dsum.filter(|_| x.track_op()), &self.dropout) {
                (Some(dsum), Some(dropout)) => Some(dropout.forward(&dsum)?),
                (dsum, _) => dsum,
            };
            Ok((dx, dparams, dresidual))
        })
    }
}
