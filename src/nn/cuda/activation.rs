//! Activations, plain and gated.

use candle_core::{CudaStorage, Result, Tensor};

use super::compile::{Module, Source};
use super::launch::{Arg, Grid, device_of, launch, unset};
use super::ready::{record1, record2};
use crate::nn::activation::Activation;

/// The kernels with this activation.
pub(super) fn module(x: &Tensor, activation: Activation) -> Module {
    let kind = match activation {
        Activation::None => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Tanh => 4,
        Activation::Relu => 5,
    };
    Module::new(Source::Elements, x.dtype()).with("ACTIVATION", kind)
}

/// See [`Activation::forward`].
///
/// # Errors
/// The compiler's and the driver's.
pub fn activation(x: &Tensor, kind: Activation) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (device, count) = (device_of(&x)?, x.elem_count());
    let out = unset(&device, count, x.dtype())?;
    let args = [Arg::In(&x, 0), Arg::Raw(&out, 0), Arg::Long(count)];
    // SAFETY: the kernel's arguments; both have `count` values.
    unsafe { launch(&device, &module(&x, kind), "activation_forward", Grid::elements(count), &args)? };
    record1("activation", [&x], out, x.shape(), move |[x], _, dy| {
        let dx = unset(&device, count, x.dtype())?;
        let args = [Arg::In(&x, 0), Arg::In(dy, 0), Arg::Raw(&dx, 0), Arg::Long(count)];
        // SAFETY: as above.
        unsafe { launch(&device, &module(&x, kind), "activation_backward", Grid::elements(count), &args)? };
        Ok([Some(super::launch::tensor(dx, x.shape()))])
    })
}

/// `x = activation(x + bias)` in place, of rows as wide as the bias.
pub(super) fn add_bias(
    x: &CudaStorage,
    like: &Tensor,
    count: usize,
    bias: Option<&Tensor>,
    kind: Activation,
) -> Result<()> {
    if bias.is_none() && kind == Activation::None {
        return Ok(());
    }
    let bias = bias.map(super::parameter).transpose()?;
    let width = bias.as_ref().map_or(1, Tensor::elem_count);
    let args = [Arg::Raw(x, 0), Arg::maybe(bias.as_ref()), Arg::Long(count), Arg::Int(width)];
    // SAFETY: the kernel's arguments; the storage is the caller's alone.
    unsafe { launch(&x.device, &module(like, kind), "bias_activation", Grid::elements(count), &args) }
}

/// See [`crate::nn::activation::gated`].
///
/// # Errors
/// As [`activation`].
pub fn gated(gate: &Tensor, up: &Tensor, kind: Activation) -> Result<Tensor> {
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
    let ((_, inner), count, device) = (gate.dims2()?, gate.elem_count(), device_of(&gate)?);
    let out = unset(&device, count, gate.dtype())?;
    let sizes = move || [Arg::Long(count), Arg::Int(inner), Arg::Int(inner), Arg::Int(0)];
    let args: Vec<Arg<'_>> =
        [Arg::In(&gate, 0), Arg::In(&up, 0), Arg::Raw(&out, 0)].into_iter().chain(sizes()).collect();
    // SAFETY: the kernel's arguments; all have `count` values.
    unsafe { launch(&device, &module(&gate, kind), "gated_forward", Grid::elements(count), &args)? };
    record2("gated-linear-unit", [&gate, &up], out, gate.shape(), move |[gate, up], _, dy| {
        let (dgate, dup) = (unset(&device, count, gate.dtype())?, unset(&device, count, gate.dtype())?);
        let tensors = [Arg::In(&gate, 0), Arg::In(&up, 0), Arg::In(dy, 0), Arg::Raw(&dgate, 0), Arg::Raw(&dup, 0)];
        let args: Vec<Arg<'_>> = tensors.into_iter().chain(sizes()).collect();
        // SAFETY: as above.
        unsafe { launch(&device, &module(&gate, kind), "gated_backward", Grid::elements(count), &args)? };
        drop(args);
        Ok([dgate, dup].map(|d| Some(super::launch::tensor(d, gate.shape()))))
    })
}

/// See [`crate::nn::activation::joint_gated`].
///
/// # Errors
/// As [`activation`].
pub fn joint_gated(x: &Tensor, kind: Activation) -> Result<Tensor> {
    let x = x.contiguous()?;
    let ((rows, width), device) = (x.dims2()?, device_of(&x)?);
    let (inner, count) = (width / 2, x.elem_count() / 2);
    let out = unset(&device, count, x.dtype())?;
    let sizes = move || [Arg::Long(count), Arg::Int(inner), Arg::Int(width), Arg::Int(inner)];
    let args: Vec<Arg<'_>> = [Arg::In(&x, 0), Arg::In(&x, 0), Arg::Raw(&out, 0)].into_iter().chain(sizes()).collect();
    // SAFETY: the kernel's arguments; `out` has half of the values of `x`.
    unsafe { launch(&device, &module(&x, kind), "gated_forward", Grid::elements(count), &args)? };
    record1("gated-linear-unit", [&x], out, (rows, inner), move |[x], _, dy| {
        let dx = unset(&device, 2 * count, x.dtype())?;
        let tensors = [Arg::In(&x, 0), Arg::In(&x, 0), Arg::In(dy, 0), Arg::Raw(&dx, 0), Arg::Raw(&dx, 0)];
        let args: Vec<Arg<'_>> = tensors.into_iter().chain(sizes()).collect();
        // SAFETY: as above; gate and up are written to different columns.
        unsafe { launch(&device, &module(&x, kind), "gated_backward", Grid::elements(count), &args)? };
        drop(args);
        Ok([Some(super::launch::tensor(dx, x.shape()))])
    })
}
