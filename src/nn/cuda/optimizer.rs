//! AdamW where the parameters are.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, DType, Device, Result, Storage, Tensor, Var, bail};

use super::compile::{Module, Source};
use super::launch::{Arg, Grid, device_of, launch, tensor, unset};

/// Both moments of a parameter, `f32`.
pub struct Moments {
    first: Tensor,
    second: Tensor,
}

impl Moments {
    /// From their values.
    ///
    /// # Errors
    /// Where memory is short.
    pub fn new(first: &[f32], second: &[f32], device: &Device) -> Result<Self> {
        Ok(Self { first: Tensor::new(first, device)?, second: Tensor::new(second, device)? })
    }

    /// Their values.
    ///
    /// # Errors
    /// The driver's.
    pub fn values(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        Ok((self.first.to_vec1()?, self.second.to_vec1()?))
    }
}

/// The numbers of one update; `train/optimizer.rs` says what they are.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    pub betas: (f32, f32),
    pub rest: (f32, f32),
    pub scale: f32,
    pub lr_decay: f32,
    pub step_size: f32,
    pub root_correction: f32,
    pub eps: f32,
}

/// One update of a variable of `f32`, in place.
///
/// # Errors
/// Where sizes differ; the compiler's and the driver's.
pub fn adamw(var: &Var, gradient: &Tensor, moments: &mut Moments, numbers: &Numbers) -> Result<()> {
    let gradient = gradient.to_dtype(DType::F32)?.contiguous()?;
    let count = var.elem_count();
    if gradient.elem_count() != count || moments.first.elem_count() != count || var.dtype() != DType::F32 {
        bail!("adamw: parameter of {count} values of {:?}, gradient of {}", var.dtype(), gradient.elem_count());
    }
    let Numbers { betas, rest, scale, lr_decay, step_size, root_correction, eps } = *numbers;
    let mut args = vec![
        Arg::In(var.as_tensor(), 0),
        Arg::In(&gradient, 0),
        Arg::In(&moments.first, 0),
        Arg::In(&moments.second, 0),
        Arg::Long(count),
    ];
    let floats = [betas.0, betas.1, rest.0, rest.1, scale, lr_decay, step_size, root_correction, eps];
    args.extend(floats.map(|value| Arg::Float(value.into())));
    // SAFETY: the kernel's arguments; the moments are this parameter's alone, and nothing reads the variable meanwhile.
    unsafe {
        launch(
            &device_of(&gradient)?,
            &Module::new(Source::Optimizer, DType::F32),
            "adamw",
            Grid::elements(count),
            &args,
        )
    }
}

/// Values of a part of a sum of squares; fixed, so that the order is the same on every GPU.
const SHARE: usize = 1 << 16;

fn partials(x: &Tensor) -> Result<(CudaStorage, usize)> {
    let (device, count) = (device_of(x)?, x.elem_count());
    let parts = count.div_ceil(SHARE);
    let out = unset(&device, parts, DType::F64)?;
    let args = [Arg::In(x, 0), Arg::Raw(&out, 0), Arg::Long(count), Arg::Long(SHARE)];
    // SAFETY: the kernel's arguments; `out` has a value for each part.
    unsafe {
        launch(
            &device,
            &Module::new(Source::Optimizer, DType::F32),
            "square_partials",
            Grid::new((parts, 1), 256),
            &args,
        )?;
    }
    Ok((out, parts))
}

/// The sum of squares of each tensor; all are read back at once.
///
/// # Errors
/// Where one is not on a GPU; the compiler's and the driver's.
pub fn sums_of_squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    let mut parts = Vec::with_capacity(tensors.len());
    for x in tensors {
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        let (storage, count) = partials(&x)?;
        parts.push(tensor(storage, count));
    }
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let counts: Vec<usize> = parts.iter().map(Tensor::elem_count).collect();
    let all = Tensor::cat(&parts, 0)?;
    let (storage, _) = all.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("sums of squares: expects tensors on the GPU") };
    let CpuStorage::F64(values) = storage.to_cpu_storage()? else { bail!("sums of squares: not f64") };
    let mut rest = values.as_slice();
    Ok(counts
        .into_iter()
        .map(|count| {
            let (own, others) = rest.split_at(count);
            rest = others;
            own.iter().sum()
        })
        .collect())
}
