//! LayerNorm and RMSNorm of `dropout(x) + residual`.

use candle_core::{CudaStorage, DType, Result, Tensor};

use super::compile::{Module, Source};
use super::launch::{Arg, Grid, device_of, launch, tensor, unset};
use super::ready::{record2, record3};
use super::{indices, rows};
use crate::nn::dropout::TokenDropout;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::rms_norm::RmsNorm;

/// The widest rows that the kernels take: a thread holds its share of one in registers.
pub const WIDEST: usize = 8192;

/// The kernels for rows of `width` values, and threads of a block.
pub(super) fn module(dtype: DType, width: usize, rms: bool) -> (Module, u32) {
    let threads = width.div_ceil(4).next_multiple_of(32).clamp(32, 256);
    let module = Module::new(Source::Norm, dtype).with("WIDTH", width).with("THREADS", threads);
    (module.with("RMS", rms.into()), threads as u32)
}

/// What the kernels are told beside tensors.
#[derive(Clone)]
struct Norm {
    eps: f64,
    /// Added to the scale.
    plus: f64,
    rms: bool,
    dropout: Option<TokenDropout>,
}

/// Gradients by the sum that is normalised, by `x`, and by scale and shift `[2, width]`.
type Gradients = (Option<CudaStorage>, Option<CudaStorage>, Option<Tensor>);

impl Norm {
    fn places(&self, x: &Tensor) -> Result<Option<Tensor>> {
        self.dropout.as_ref().map(|dropout| indices::places(dropout.places(), x.device())).transpose()
    }

    /// Seed, threshold and factor of the mask, eps, and what is added to the scale.
    fn numbers(&self) -> [Arg<'static>; 5] {
        let (seed, threshold, kept) = self.dropout.as_ref().map_or((0, 0, 1.0), |dropout| dropout.parts().0.parts());
        [
            Arg::Seed(seed),
            Arg::Unsigned(threshold),
            Arg::Float(kept.into()),
            Arg::Float(self.eps),
            Arg::Float(self.plus),
        ]
    }

    fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> Result<CudaStorage> {
        let ((rows, width), device, places) = (x.dims2()?, device_of(x)?, self.places(x)?);
        let (module, threads) = module(x.dtype(), width, self.rms);
        let out = unset(&device, rows * width, x.dtype())?;
        let mut args = vec![
            Arg::In(x, 0),
            Arg::maybe(residual),
            Arg::In(weight, 0),
            Arg::maybe(bias),
            Arg::maybe(places.as_ref()),
            Arg::Raw(&out, 0),
        ];
        args.extend(self.numbers());
        // SAFETY: the kernel's arguments; all rows have `width` values.
        unsafe { launch(&device, &module, "norm_forward", Grid::new((rows, 1), threads), &args)? };
        drop(args);
        Ok(out)
    }

    /// `wanted`: by the sum, by `x` apart from that, by the parameters.
    fn backward(
        &self,
        [x, weight, dy]: [&Tensor; 3],
        residual: Option<&Tensor>,
        wanted: [bool; 3],
    ) -> Result<Gradients> {
        let ((rows, width), device, places) = (x.dims2()?, device_of(x)?, self.places(x)?);
        let (module, threads) = module(x.dtype(), width, self.rms);
        let (share, parts) = rows::parts(rows);
        let new = |wanted: bool| wanted.then(|| unset(&device, rows * width, x.dtype())).transpose();
        let (dsum, dx) = (new(wanted[0])?, new(wanted[1])?);
        let partials = wanted[2].then(|| unset(&device, parts * 2 * width, DType::F32)).transpose()?;
        let mut args = vec![
            Arg::In(x, 0),
            Arg::maybe(residual),
            Arg::In(weight, 0),
            Arg::maybe(places.as_ref()),
            Arg::In(dy, 0),
            Arg::maybe_raw(dsum.as_ref()),
            Arg::maybe_raw(dx.as_ref()),
            Arg::maybe_raw(partials.as_ref()),
        ];
        args.extend(self.numbers());
        args.extend([Arg::Int(rows), Arg::Int(share)]);
        // SAFETY: the kernel's arguments; all rows have `width` values, `partials` two rows for each part.
        unsafe { launch(&device, &module, "norm_backward", Grid::new((parts, 1), threads), &args)? };
        drop(args);
        let parameters = partials.map(|partials| rows::total(&partials, parts, 2 * width)?.reshape((2, width)));
        Ok((dsum, dx, parameters.transpose()?))
    }
}

/// Whether the kernels take rows of this width.
pub fn covers(x: &Tensor) -> bool {
    super::covers(x) && x.dims().last().is_some_and(|width| *width <= WIDEST)
}

/// See [`LayerNorm::forward_residual`]; without a residual, [`LayerNorm::forward`].
///
/// # Errors
/// The compiler's and the driver's.
pub fn layer_norm(
    layer: &LayerNorm,
    x: &Tensor,
    residual: Option<&Tensor>,
    dropout: Option<&TokenDropout>,
) -> Result<Tensor> {
    let norm = Norm { eps: layer.eps, plus: 0.0, rms: false, dropout: dropout.cloned() };
    let x = x.contiguous()?;
    let residual = residual.map(|residual| residual.to_dtype(x.dtype())?.contiguous()).transpose()?;
    let (weight, bias) = (super::parameter(&layer.weight)?, super::parameter(&layer.bias)?);
    let out = norm.forward(&x, residual.as_ref(), &weight, Some(&bias))?;
    let trained = weight.track_op() || bias.track_op();
    // Scale and shift travel as one: an op has three operands at the most.
    let packed = if trained { Tensor::stack(&[&weight, &bias], 0)? } else { weight.clone() };
    let shape = x.shape().clone();
    let tracked = [x.track_op(), residual.as_ref().is_some_and(Tensor::track_op)];
    let drops = dropout.is_some();
    let run = move |x: &Tensor, residual: Option<&Tensor>, packed: &Tensor, dy: &Tensor| {
        let weight = if trained { packed.get(0)?.contiguous()? } else { packed.clone() };
        let by_sum = tracked[1] || (tracked[0] && !drops);
        let (dsum, dx, parameters) =
            norm.backward([x, &weight, dy], residual, [by_sum, tracked[0] && drops, trained])?;
        let dsum = dsum.map(|dsum| tensor(dsum, x.shape()));
        let dx = if drops { dx.map(|dx| tensor(dx, x.shape())) } else { dsum.clone() };
        Ok::<_, candle_core::Error>((dx, parameters, dsum))
    };
    match residual {
        Some(residual) => {
            record3("layer-norm", [&x, &packed, &residual], out, &shape, move |[x, packed, residual], _, dy| {
                let (dx, parameters, dsum) = run(&x, Some(&residual), &packed, dy)?;
                Ok([dx, parameters, dsum])
            })
        }
        None => record2("layer-norm", [&x, &packed], out, &shape, move |[x, packed], _, dy| {
            let (dx, parameters, _) = run(&x, None, &packed, dy)?;
            Ok([dx, parameters])
        }),
    }
}

/// See [`RmsNorm::forward`].
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(layer: &RmsNorm, x: &Tensor) -> Result<Tensor> {
    let norm = Norm { eps: layer.eps, plus: if layer.plus_one { 1.0 } else { 0.0 }, rms: true, dropout: None };
    let (x, weight) = (x.contiguous()?, super::parameter(&layer.weight)?);
    let out = norm.forward(&x, None, &weight, None)?;
    let (shape, tracked) = (x.shape().clone(), [x.track_op(), false, weight.track_op()]);
    record2("rms-norm", [&x, &weight], out, &shape, move |[x, weight], _, dy| {
        let (dx, _, parameters) = norm.backward([&x, &weight, dy], None, tracked)?;
        let dweight = parameters.map(|both| both.get(0)).transpose()?;
        Ok([dx.map(|dx| tensor(dx, x.shape())), dweight])
    })
}
