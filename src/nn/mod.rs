//! Packed, differentiable building blocks of an encoder.
//!
//! Texts are never padded: a batch is one `[tokens, hidden]` tensor and a list of sequence bounds
//! ([`PackedBatch::cu_seqlens`]). Every operation here is a candle `CustomOp` with a forward and a backward pass on the
//! CPU (vectorised, on all cores of the current rayon pool), and kernels on NVIDIA GPUs (`cuda/`, with the feature `cuda`); elsewhere,
//! and in the tests, the same functions are composed of candle's own differentiable operations ([`composed`]; of [`disentangled`] the layer has
//! that form).

pub mod activation;
pub mod attention;
pub mod batch;
pub mod checkpoint;
pub mod composed;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod disentangled;
pub mod dora;
pub mod dropout;
pub mod embedding;
pub mod fused;
pub mod initial;
pub mod kernel;
pub mod layer_norm;
pub mod linear;
pub mod linear_cross_entropy;
pub mod normalize;
pub mod pooling;
pub mod quantized;
pub mod rms_norm;
pub mod rotary;
mod storage;

pub use batch::PackedBatch;

/// Activations as this thread's products want them: on a GPU in `bf16` where its precision is (`kernel/precision.rs`).
///
/// # Errors
/// Where memory is short.
pub(crate) fn activations(x: candle_core::Tensor) -> candle_core::Result<candle_core::Tensor> {
    if x.device().is_cuda() && kernel::precision::is_bf16() { x.to_dtype(candle_core::DType::BF16) } else { Ok(x) }
}

/// The instruction set that the CPU kernels run on; results differ in the last bits between them.
pub fn instructions() -> String {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if kernel::amx::available() {
        return "AMX".into();
    }
    format!("{:?}", kernel::simd::level())
}
