//! What a batch is known by (bounds, positions, places) as tensors on the GPU: made for its first layer, kept for the others.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

/// Tensors that are kept: a few a batch, of the last batches.
const KEPT: usize = 32;

struct Kept {
    what: (&'static str, usize),
    /// Held, so that no other list can have its address.
    list: Arc<dyn Any + Send + Sync>,
    tensor: Tensor,
}

thread_local! {
    static TENSORS: RefCell<VecDeque<Kept>> = const { RefCell::new(VecDeque::new()) };
}

/// What `make` gives for `list`, or gave before: `what` tells what it is of the list.
///
/// # Errors
/// Those of `make`.
pub fn kept<V: Any + Send + Sync>(
    list: &Arc<V>,
    what: (&'static str, usize),
    device: &Device,
    make: impl FnOnce() -> Result<Tensor>,
) -> Result<Tensor> {
    let address = Arc::as_ptr(list).cast::<()>();
    let known = TENSORS.with_borrow(|tensors| {
        let fits = |kept: &&Kept| {
            kept.what == what
                && std::ptr::eq(Arc::as_ptr(&kept.list).cast::<()>(), address)
                && kept.tensor.device().same_device(device)
        };
        tensors.iter().find(fits).map(|kept| kept.tensor.clone())
    });
    if let Some(tensor) = known {
        return Ok(tensor);
    }
    let tensor = make()?;
    TENSORS.with_borrow_mut(|tensors| {
        tensors.truncate(KEPT - 1);
        tensors.push_front(Kept { what, list: list.clone(), tensor: tensor.clone() });
    });
    Ok(tensor)
}

/// Bounds of sequences, `[sequences + 1]`.
pub fn bounds(cu_seqlens: &Arc<Vec<usize>>, device: &Device) -> Result<Tensor> {
    kept(cu_seqlens, ("bounds", 0), device, || {
        let values: Vec<i32> = cu_seqlens.iter().map(|bound| *bound as i32).collect();
        Tensor::new(values, device)
    })
}

/// Every sequence cut into tiles of `rows` tokens: `[tiles, 2]`, the sequence and the tile's first token in it.
pub fn tiles(cu_seqlens: &Arc<Vec<usize>>, rows: usize, device: &Device) -> Result<Tensor> {
    kept(cu_seqlens, ("tiles", rows), device, || {
        let mut values: Vec<i32> = Vec::new();
        for (s, bounds) in cu_seqlens.windows(2).enumerate() {
            for first in (0..bounds[1] - bounds[0]).step_by(rows) {
                values.extend([s as i32, first as i32]);
            }
        }
        let tiles = values.len() / 2;
        Tensor::from_vec(values, (tiles, 2), device)
    })
}

/// Indices, `[tokens]`.
pub fn numbers(list: &Arc<Vec<u32>>, device: &Device) -> Result<Tensor> {
    kept(list, ("numbers", 0), device, || Tensor::new(list.as_slice(), device))
}

/// Places in masks, `[tokens]`, as the kernels' 64 bits without a sign.
pub fn places(list: &Arc<Vec<u64>>, device: &Device) -> Result<Tensor> {
    kept(list, ("places", 0), device, || {
        let values: Vec<i64> = list.iter().map(|place| *place as i64).collect();
        Tensor::new(values, device)
    })
}
