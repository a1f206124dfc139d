//! Sums of columns.

use candle_core::{CudaStorage, DType, Result, Tensor};

use super::compile::{Module, Source};
use super::launch::{Arg, Grid, device_of, launch, tensor, unset};

/// Parts that rows are summed in, at the most; fixed, so that sums have the same order on every GPU.
const PARTS: usize = 256;

/// Rows of a part, and parts.
pub fn parts(rows: usize) -> (usize, usize) {
    let share = rows.div_ceil(PARTS).max(1);
    (share, rows.div_ceil(share))
}

/// Sums of the columns of `x` `[rows, width]`, in `f32`: `[width]`.
pub fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let device = device_of(x)?;
    let (share, parts) = parts(rows);
    let partials = unset(&device, parts * width, DType::F32)?;
    let grid = Grid::new((parts, width.div_ceil(128)), 128);
    let args = [Arg::In(x, 0), Arg::Raw(&partials, 0), Arg::Int(rows), Arg::Int(width), Arg::Int(share)];
    // SAFETY: the kernel's arguments; `partials` has a row for each part.
    unsafe { launch(&device, &Module::new(Source::Rows, x.dtype()), "column_partials", grid, &args)? };
    total(&partials, parts, width)
}

/// Sums over the parts, in their order: `[parts, width]` → `[width]`.
pub fn total(partials: &CudaStorage, parts: usize, width: usize) -> Result<Tensor> {
    let device = &partials.device;
    let sums = unset(device, width, DType::F32)?;
    let args = [Arg::Raw(partials, 0), Arg::Raw(&sums, 0), Arg::Int(parts), Arg::Int(width)];
    // SAFETY: the kernel's arguments and sizes.
    unsafe { launch(device, &Module::new(Source::Rows, DType::F32), "column_sums", Grid::elements(width), &args)? };
    Ok(tensor(sums, width))
}
