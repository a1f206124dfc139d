//! Linear layers: cuBLAS's products with no gradient of what is frozen, and bias and activation in one pass after them.

use candle_core::backend::BackendStorage;
use candle_core::{CudaStorage, Result, Storage, Tensor, bail};

use super::launch::tensor;
use super::ready::{record1, record2, record3};
use super::rows;
use crate::nn::activation::Activation;
use crate::nn::linear::{Linear, LowRank};
use crate::nn::quantized::Weight;

/// `a b`, where either may be a transposed view.
fn product(a: &Tensor, b: &Tensor) -> Result<CudaStorage> {
    let ((m, k), (_, n)) = (a.dims2()?, b.dims2()?);
    let ((a, a_layout), (b, b_layout)) = (a.storage_and_layout(), b.storage_and_layout());
    match (&*a, &*b) {
        (Storage::Cuda(a), Storage::Cuda(b)) => a.matmul(b, (1, m, n, k), a_layout, b_layout),
        _ => bail!("linear: expects tensors on the GPU"),
    }
}

/// `x Wᵀ + b`; only what is differentiated gets a gradient. A weight of another type is rounded to that of `x` for the product.
fn affine(x: &Tensor, layer: &Weight, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, layer.tensor(x.device())?.contiguous()?);
    let (rows, outputs) = (x.dim(0)?, weight.dim(0)?);
    let out = product(&x, &weight.detach().to_dtype(x.dtype())?.t()?)?;
    super::activation::add_bias(&out, &x, rows * outputs, bias, activation)?;
    let by_x = |weight: &Tensor, dy: &Tensor| -> Result<Tensor> {
        let weight = weight.to_dtype(dy.dtype())?;
        Ok(tensor(product(dy, &weight)?, (dy.dim(0)?, weight.dim(1)?)))
    };
    let by_weight = |x: &Tensor, weight: &Tensor, dy: &Tensor| -> Result<Tensor> {
        tensor(product(&dy.t()?, x)?, weight.shape()).to_dtype(weight.dtype())
    };
    let by_bias = |bias: &Tensor, dy: &Tensor| -> Result<Tensor> { rows::column_sums(dy)?.to_dtype(bias.dtype()) };
    let shape = (rows, outputs);
    let wanted = [x.track_op(), weight.track_op(), bias.is_some_and(Tensor::track_op)];
    match bias {
        // Frozen: no operand of the op. One that is held quantised is dequantised again.
        _ if !wanted[1] && !wanted[2] => {
            let frozen = layer.clone();
            record1("linear", [&x], out, shape, move |[_], _, dy| {
                Ok([Some(by_x(&frozen.tensor(dy.device())?.detach().contiguous()?, dy)?)])
            })
        }
        Some(bias) if wanted[2] => {
            record3("linear", [&x, &weight, bias], out, shape, move |[x, weight, bias], _, dy| {
                let dx = wanted[0].then(|| by_x(&weight, dy)).transpose()?;
                let dweight = wanted[1].then(|| by_weight(&x, &weight, dy)).transpose()?;
                Ok([dx, dweight, Some(by_bias(&bias, dy)?)])
            })
        }
        _ => record2("linear", [&x, &weight], out, shape, move |[x, weight], _, dy| {
            let dx = wanted[0].then(|| by_x(&weight, dy)).transpose()?;
            Ok([dx, Some(by_weight(&x, &weight, dy)?)])
        }),
    }
}

/// `scale (x Aᵀ) Bᵀ`, with dropout on `x`.
fn low_rank(x: &Tensor, lora: &LowRank, dropout_seed: Option<u64>) -> Result<Tensor> {
    let dropped = match dropout_seed {
        Some(seed) => crate::nn::dropout::dropout(x, lora.dropout, seed)?,
        None => x.clone(),
    };
    let inner = affine(&dropped, &lora.a.clone().into(), None, Activation::None)?;
    affine(&inner, &lora.b.clone().into(), None, Activation::None)? * lora.scale
}

/// Whether this path computes the layer: all but the magnitudes of DoRA.
pub fn covers(x: &Tensor, layer: &Linear) -> bool {
    super::covers(x) && layer.magnitude.is_none()
}

/// See [`Linear::forward`] and [`Linear::forward_activated`].
///
/// # Errors
/// The compiler's and the driver's.
pub fn linear(x: &Tensor, layer: &Linear, activation: Activation, dropout_seed: Option<u64>) -> Result<Tensor> {
    let (weight, bias) = (&layer.weight, layer.bias.as_ref());
    let tracked = x.track_op() || weight.track_op() || bias.is_some_and(Tensor::track_op);
    let Some(lora) = &layer.lora else {
        // What comes before an activation is needed to differentiate it.
        let fused = if tracked { Activation::None } else { activation };
        let y = affine(x, weight, bias, fused)?;
        return if tracked { activation.forward(&y) } else { Ok(y) };
    };
    let base = affine(x, weight, bias, Activation::None)?;
    activation.forward(&(base + low_rank(x, lora, dropout_seed)?)?)
}
