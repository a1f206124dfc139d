//! The fused operations on NVIDIA GPUs.
//!
//! Kernels are CUDA C++ (`kernels/*.cu`), compiled by NVRTC when first used, for the element type (`f32`, or `bf16` with sums
//! in `f32`) and the sizes at hand. Parameters of norms and biases are `f32` whatever the activations are. Matrix products
//! are cuBLAS's, through candle. What no kernel covers takes the path of [`super::composed`], which is also what the kernels
//! are tested against (`tests/cuda.rs`).

pub mod activation;
pub mod attention;
pub mod compile;
pub mod dropout;
pub mod embedding;
mod indices;
mod launch;
pub mod linear;
pub mod norm;
pub mod normalize;
pub mod optimizer;
pub mod pooling;
mod ready;
pub mod rotary;
mod rows;

use candle_core::{DType, Result, Tensor};

/// Whether kernels take this tensor: on a GPU, not empty, of `f32` or `bf16`.
pub fn covers(x: &Tensor) -> bool {
    x.device().is_cuda() && x.elem_count() > 0 && matches!(x.dtype(), DType::F32 | DType::BF16)
}

/// `x` as kernels read parameters: in `f32`, contiguous.
fn parameter(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.contiguous()
}

/// `f(x)` composed of candle's operations in `f32`, given back in the type of `x`.
///
/// # Errors
/// Those of `f`.
pub fn in_f32(x: &Tensor, f: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    f(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())
}
