//! Launching kernels on candle's storage.

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaView, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg, sys};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, WrapErr};
use candle_core::{DType, Device, Layout, Result, Shape, Storage, StorageRef, Tensor, bail};

use super::attention::Shape as Attended;
use super::compile::Module;

/// Shared memory that a block has without asking.
const SHARED: u32 = 48 << 10;
/// Threads of a block of an element-wise kernel.
pub const THREADS: u32 = 256;

/// An argument of a kernel.
pub enum Arg<'a> {
    /// The values of a contiguous tensor, from one of them on.
    In(&'a Tensor, usize),
    /// Storage from one of its values on, read or written.
    Raw(&'a CudaStorage, usize),
    /// A null pointer.
    Null,
    Int(usize),
    Long(usize),
    Unsigned(u32),
    Seed(u64),
    Float(f64),
    Attended(&'a Attended),
}

impl<'a> Arg<'a> {
    /// A contiguous tensor, or null.
    pub fn maybe(tensor: Option<&'a Tensor>) -> Self {
        tensor.map_or(Self::Null, |tensor| Self::In(tensor, 0))
    }

    /// Storage, or null.
    pub fn maybe_raw(storage: Option<&'a CudaStorage>) -> Self {
        storage.map_or(Self::Null, |storage| Self::Raw(storage, 0))
    }
}

/// A launch's blocks, threads of a block, and bytes of shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    pub blocks: (usize, usize),
    pub threads: u32,
    pub shared: u32,
}

impl Grid {
    /// Blocks and threads.
    pub fn new(blocks: (usize, usize), threads: u32) -> Self {
        Self { blocks, threads, shared: 0 }
    }

    /// A thread a value.
    pub fn elements(count: usize) -> Self {
        Self::new((count.div_ceil(THREADS as usize), 1), THREADS)
    }
}

/// An argument as the driver takes it.
enum Held<'a> {
    F32(CudaView<'a, f32>),
    F64(CudaView<'a, f64>),
    Bf16(CudaView<'a, half::bf16>),
    U32(CudaView<'a, u32>),
    I32(CudaView<'a, i32>),
    I64(CudaView<'a, i64>),
    Int(i32),
    Long(i64),
    Unsigned(u32),
    Seed(u64),
    Float(f32),
    Attended(Attended),
}

// SAFETY: plain numbers, laid out as C does.
unsafe impl DeviceRepr for Attended {}

impl<'a> Held<'a> {
    fn view(storage: &'a CudaStorage, from: usize) -> Result<Self> {
        Ok(match &storage.slice {
            CudaStorageSlice::F32(slice) => Self::F32(slice.slice(from..)),
            CudaStorageSlice::F64(slice) => Self::F64(slice.slice(from..)),
            CudaStorageSlice::BF16(slice) => Self::Bf16(slice.slice(from..)),
            CudaStorageSlice::U32(slice) => Self::U32(slice.slice(from..)),
            CudaStorageSlice::I32(slice) => Self::I32(slice.slice(from..)),
            CudaStorageSlice::I64(slice) => Self::I64(slice.slice(from..)),
            _ => bail!("kernels read no values of this type"),
        })
    }

    fn push<'b>(&'b self, builder: &mut LaunchArgs<'b>) {
        match self {
            Self::F32(view) => builder.arg(view),
            Self::F64(view) => builder.arg(view),
            Self::Bf16(view) => builder.arg(view),
            Self::U32(view) => builder.arg(view),
            Self::I32(view) => builder.arg(view),
            Self::I64(view) => builder.arg(view),
            Self::Int(value) => builder.arg(value),
            Self::Long(value) => builder.arg(value),
            Self::Unsigned(value) => builder.arg(value),
            Self::Seed(value) => builder.arg(value),
            Self::Float(value) => builder.arg(value),
            Self::Attended(value) => builder.arg(value),
        };
    }
}

/// Runs a kernel on the device's stream.
///
/// # Safety
/// The arguments are those of the kernel, in its order and types, and large enough; what it writes to nobody else reads or writes
/// meanwhile.
///
/// # Errors
/// Where a tensor is not contiguous or on another device; the compiler's and the driver's.
pub unsafe fn launch(device: &CudaDevice, module: &Module, function: &str, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
    if grid.blocks.0 == 0 || grid.blocks.1 == 0 {
        return Ok(());
    }
    let kernel = module.load(device, function)?;
    if grid.shared > SHARED {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        kernel.set_attribute(attribute, grid.shared as i32).w()?;
    }
    let guards: Vec<Option<(StorageRef<'_>, &Layout)>> = args
        .iter()
        .map(|arg| match arg {
            Arg::In(tensor, _) => Some(tensor.storage_and_layout()),
            _ => None,
        })
        .collect();
    let mut held = Vec::with_capacity(args.len());
    for (arg, guard) in args.iter().zip(&guards) {
        held.push(match (arg, guard) {
            (Arg::In(_, from), Some((storage, layout))) => {
                let Storage::Cuda(storage) = &**storage else { bail!("{function}: expects tensors on the GPU") };
                if !layout.is_contiguous() {
                    bail!("{function}: expects contiguous tensors, got {layout:?}");
                }
                Held::view(storage, layout.start_offset() + from)?
            }
            (Arg::Raw(storage, from), _) => Held::view(storage, *from)?,
            (Arg::Int(value), _) => Held::Int(i32::try_from(*value).map_err(candle_core::Error::wrap)?),
            (Arg::Long(value), _) => Held::Long(*value as i64),
            (Arg::Unsigned(value), _) => Held::Unsigned(*value),
            (Arg::Seed(value), _) => Held::Seed(*value),
            (Arg::Float(value), _) => Held::Float(*value as f32),
            (Arg::Attended(shape), _) => Held::Attended(**shape),
            (Arg::Null | Arg::In(..), _) => Held::Seed(0),
        });
    }
    let stream = device.cuda_stream();
    let mut builder = stream.launch_builder(&kernel);
    held.iter().for_each(|argument| argument.push(&mut builder));
    let config = LaunchConfig {
        grid_dim: (grid.blocks.0 as u32, grid.blocks.1 as u32, 1),
        block_dim: (grid.threads, 1, 1),
        shared_mem_bytes: grid.shared,
    };
    // SAFETY: by the caller's promise.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// The device of a tensor on a GPU.
///
/// # Errors
/// Where it is not on one.
pub fn device_of(x: &Tensor) -> Result<CudaDevice> {
    match x.device() {
        Device::Cuda(device) => Ok(device.clone()),
        _ => bail!("expects a tensor on the GPU"),
    }
}

/// Storage whose values are not set yet; the caller has a kernel write them all.
///
/// # Errors
/// Where memory is short.
pub fn unset(device: &CudaDevice, count: usize, dtype: DType) -> Result<CudaStorage> {
    // SAFETY: written before it is read, by the caller's promise.
    unsafe { device.alloc_uninit(&Shape::from(count), dtype) }
}

/// Storage of zeros.
///
/// # Errors
/// As [`unset`].
pub fn zeros(device: &CudaDevice, count: usize, dtype: DType) -> Result<CudaStorage> {
    device.zeros_impl(&Shape::from(count), dtype)
}

/// A tensor of what was computed, with nothing recorded.
pub fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, candle_core::op::BackpropOp::none(), false)
}
