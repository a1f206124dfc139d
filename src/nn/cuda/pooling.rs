//! Pooling of packed sequences.

use candle_core::{DType, Result, Tensor};

use super::compile::{Module, Source};
use super::indices;
use super::launch::{Arg, Grid, device_of, launch, tensor, unset};
use super::ready::record1;
use crate::nn::PackedBatch;
use crate::nn::pooling::PoolingMode;

/// See [`crate::nn::pooling::pool`]; the result is of `f32` whatever the token vectors are.
///
/// # Errors
/// The compiler's and the driver's.
pub fn pool(hidden: &Tensor, batch: &PackedBatch, mode: PoolingMode) -> Result<Tensor> {
    let x = hidden.contiguous()?;
    let ((tokens, width), sequences, device) = (x.dims2()?, batch.sequences(), device_of(&x)?);
    let kind = match mode {
        PoolingMode::Cls => 0,
        PoolingMode::Max => 1,
        PoolingMode::Mean => 2,
        PoolingMode::MeanSqrtLen => 3,
        PoolingMode::WeightedMean => 4,
        PoolingMode::LastToken => 5,
    };
    let module = Module::new(Source::Pooling, x.dtype()).with("MODE", kind);
    // Kept by what changes with the prompt, of batches that share their bounds.
    let ranges = indices::kept(&batch.pool_from, ("ranges", tokens), x.device(), || {
        let range = |s: usize| {
            let (start, range) = (batch.cu_seqlens[s], batch.pooled_range(s));
            [start, range.start, range.end, range.start - start].map(|value| value as i32)
        };
        Tensor::from_vec((0..sequences).flat_map(range).collect::<Vec<i32>>(), (sequences, 4), x.device())
    })?;
    let grid = Grid::new((sequences, width.div_ceil(128)), 128);
    let out = unset(&device, sequences * width, DType::F32)?;
    let args = [Arg::In(&x, 0), Arg::In(&ranges, 0), Arg::Raw(&out, 0), Arg::Int(width)];
    // SAFETY: the kernel's arguments; the ranges are of the batch's tokens.
    unsafe { launch(&device, &module, "pool_forward", grid, &args)? };
    record1("pooling", [&x], out, (sequences, width), move |[x], _, dy| {
        let dx = unset(&device, tokens * width, x.dtype())?;
        let args = [Arg::In(&x, 0), Arg::In(&ranges, 0), Arg::In(dy, 0), Arg::Raw(&dx, 0), Arg::Int(width)];
        // SAFETY: as above; the sequences cover every token.
        unsafe { launch(&device, &module, "pool_backward", grid, &args)? };
        Ok([Some(tensor(dx, x.shape()))])
    })
}
