//! LayerNorm (Ba, Kiros and Hinton 2016), fused with the residual that precedes it in a post-norm encoder.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::kernel::layer_norm as kernel;
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
        if !x.device().is_cpu() {
            return super::composed::layer_norm(x, &self.weight, &self.bias, self.eps);
        }
        let op = Normalise { eps: self.eps as f32, residual: false };
        x.contiguous()?.apply_op3(&self.packed()?, &self.weight.zeros_like()?.detach(), op)
    }

    /// `LayerNorm(x + residual)`, `[tokens, hidden]`.
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.checked(x)?;
        if x.dims() != residual.dims() {
            bail!("{NAME}: x {:?} and residual {:?} differ", x.dims(), residual.dims());
        }
        if !x.device().is_cpu() {
            return super::composed::layer_norm(&(x + residual)?, &self.weight, &self.bias, self.eps);
        }
        let op = Normalise { eps: self.eps as f32, residual: true };
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
}

impl Normalise {
    fn residual<'a>(&self, r: &'a [f32]) -> &'a [f32] {
        if self.residual { r } else { &[] }
    }
}

/// The rows of `x` that a block of `len` values from row `first` covers; empty stays empty.
fn part(x: &[f32], first: usize, width: usize, len: usize) -> &[f32] {
    if x.is_empty() { x } else { &x[first * width..first * width + len] }
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
        let residual = self.residual(values(NAME, s3, l3)?);
        let width = params.len() / 2;
        let (gamma, beta) = params.split_at(width);
        // SAFETY: the kernel writes every row.
        let mut out = unsafe { unset(x.len()) };
        parallel::over_rows(&mut out, width, |first, rows| {
            let len = rows.len();
            kernel::forward(
                part(x, first, width, len),
                part(residual, first, width, len),
                gamma,
                beta,
                self.eps,
                width,
                rows,
            );
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
        let (tracks_input, tracks_params) = (x.track_op() || (self.residual && residual.track_op()), params.track_op());
        with_values(NAME, [x, params, residual, dout], |[xs, ps, rs, dy]| {
            let rs = self.residual(rs);
            let dx = if tracks_input {
                // SAFETY: the kernel writes every row.
                let mut dx = unsafe { unset(xs.len()) };
                parallel::over_rows(&mut dx, width, |first, rows| {
                    let len = rows.len();
                    kernel::backward_input(
                        part(xs, first, width, len),
                        part(rs, first, width, len),
                        &ps[..width],
                        part(dy, first, width, len),
                        self.eps,
                        width,
                        rows,
                    );
                });
                Some(Tensor::from_vec(dx, x.shape(), x.device())?)
            } else {
                None
            };
            let dparams = if tracks_params {
                let rows = xs.len() / width.max(1);
                let sums = parallel::column_sums(rows, 2 * width, |range, sums| {
                    let len = range.len() * width;
                    kernel::backward_params(
                        part(xs, range.start, width, len),
                        part(rs, range.start, width, len),
                        part(dy, range.start, width, len),
                        self.eps,
                        width,
                        sums,
                    );
                });
                Some(Tensor::from_vec(sums, params.shape(), params.device())?)
            } else {
                None
            };
            let dresidual = if self.residual && residual.track_op() { dx.clone() } else { None };
            Ok((dx.filter(|_| x.track_op()), dparams, dresidual))
        })
    }
}
