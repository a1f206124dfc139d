//! Rows to unit length.

use candle_core::{Result, Tensor};

use super::compile::{Module, Source};
use super::launch::{Arg, Grid, device_of, launch, tensor, unset};
use super::ready::record1;

/// Rows, a warp each, of a block.
const WARPS: usize = 4;

/// See [`crate::nn::normalize::l2_normalize`].
///
/// # Errors
/// The compiler's and the driver's.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let ((rows, width), device) = (x.dims2()?, device_of(&x)?);
    let grid = Grid::new((rows.div_ceil(WARPS), 1), 32 * WARPS as u32);
    let module = Module::new(Source::Rows, x.dtype());
    let out = unset(&device, rows * width, x.dtype())?;
    let args = [Arg::In(&x, 0), Arg::Raw(&out, 0), Arg::Int(rows), Arg::Int(width)];
    // SAFETY: the kernel's arguments and sizes.
    unsafe { launch(&device, &module, "normalize_forward", grid, &args)? };
    record1("l2-normalize", [&x], out, x.shape(), move |[x], _, dy| {
        let dx = unset(&device, rows * width, x.dtype())?;
        let args = [Arg::In(&x, 0), Arg::In(dy, 0), Arg::Raw(&dx, 0), Arg::Int(rows), Arg::Int(width)];
        // SAFETY: as above.
        unsafe { launch(&device, &module, "normalize_backward", grid, &args)? };
        Ok([Some(tensor(dx, x.shape()))])
    })
}
