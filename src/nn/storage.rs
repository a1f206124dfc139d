//! Reading candle's CPU storage as contiguous `f32`.

use candle_core::{CpuStorage, Layout, Result, Shape, Tensor, bail};

/// The values of a contiguous `f32` operand.
pub(super) fn values<'a>(op: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else {
        bail!("{op}: expects f32 values on the CPU, got {:?}", storage_dtype(storage));
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("{op}: expects a contiguous tensor, got {layout:?}"),
    }
}

fn storage_dtype(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// An `f32` result.
pub(super) fn output(data: Vec<f32>, shape: impl Into<Shape>) -> (CpuStorage, Shape) {
    (CpuStorage::F32(data), shape.into())
}

/// Runs `f` on the contiguous `f32` values of CPU tensors.
pub(super) fn with_values<const N: usize, T>(
    op: &str,
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    let contiguous: Vec<Tensor> = tensors.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(|t| t.storage_and_layout()).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slot, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let candle_core::Storage::Cpu(storage) = &**storage else {
            bail!("{op}: expects tensors on the CPU");
        };
        *slot = values(op, storage, layout)?;
    }
    f(slices)
}

/// A buffer of zeros.
pub(super) fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

/// A buffer for a result whose values are not set yet: zeroing it first costs a tenth of an encoder's time.
///
/// # Safety
/// The caller writes every value before it, or anybody else, reads one.
#[allow(clippy::uninit_vec)]
pub(super) unsafe fn unset(len: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: within the capacity; the values are written before they are read, by the caller's promise.
    unsafe { values.set_len(len) };
    values
}
