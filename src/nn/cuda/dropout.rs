//! Dropout with the masks of [`crate::nn::dropout`], bit for bit.

use candle_core::{CudaStorage, Result, Tensor};

use super::compile::Module;
use super::indices;
use super::launch::{Arg, Grid, device_of, launch, tensor, unset};
use super::ready::record1;
use crate::nn::activation::Activation;
use crate::nn::dropout::TokenDropout;

fn module(x: &Tensor) -> Module {
    super::activation::module(x, Activation::None)
}

fn by_token(x: &Tensor, dropout: &TokenDropout, group: usize) -> Result<CudaStorage> {
    let ((_, width), count, device) = (x.dims2()?, x.elem_count(), device_of(x)?);
    let (seed, threshold, kept) = dropout.parts().0.parts();
    let places = indices::places(dropout.places(), x.device())?;
    let out = unset(&device, count, x.dtype())?;
    let args = [
        Arg::In(x, 0),
        Arg::In(&places, 0),
        Arg::Raw(&out, 0),
        Arg::Long(count),
        Arg::Int(width),
        Arg::Int(group),
        Arg::Seed(seed),
        Arg::Unsigned(threshold),
        Arg::Float(kept.into()),
    ];
    // SAFETY: the kernel's arguments; there is a place for each row.
    unsafe { launch(&device, &module(x), "token_dropout", Grid::elements(count), &args)? };
    Ok(out)
}

/// See [`TokenDropout::forward_groups`].
///
/// # Errors
/// The compiler's and the driver's.
pub fn tokens(x: &Tensor, dropout: &TokenDropout, group: usize) -> Result<Tensor> {
    let (x, dropout, group) = (x.contiguous()?, dropout.clone(), group.max(1));
    let out = by_token(&x, &dropout, group)?;
    record1("dropout", [&x], out, x.shape(), move |_, _, dy| {
        Ok([Some(tensor(by_token(dy, &dropout, group)?, dy.shape()))])
    })
}

fn by_number(x: &Tensor, p: f32, seed: u64) -> Result<CudaStorage> {
    let (count, device) = (x.elem_count(), device_of(x)?);
    let out = unset(&device, count, x.dtype())?;
    let threshold = (f64::from(p) * (1u64 << 32) as f64) as u64;
    let args = [
        Arg::In(x, 0),
        Arg::Raw(&out, 0),
        Arg::Long(count),
        Arg::Seed(seed),
        Arg::Seed(threshold),
        Arg::Float((1.0 / (1.0 - p)).into()),
    ];
    // SAFETY: the kernel's arguments; both have `count` values.
    unsafe { launch(&device, &module(x), "element_dropout", Grid::elements(count), &args)? };
    Ok(out)
}

/// See [`crate::nn::dropout::dropout`].
///
/// # Errors
/// As [`tokens`].
pub fn elements(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    let x = x.contiguous()?;
    let out = by_number(&x, p, seed)?;
    record1("dropout", [&x], out, x.shape(), move |_, _, dy| Ok([Some(tensor(by_number(dy, p, seed)?, dy.shape()))]))
}
