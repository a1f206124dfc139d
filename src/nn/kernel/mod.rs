//! CPU kernels on slices, compiled for several instruction sets and chosen at run time.

pub mod adamw;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod amx;
pub mod attention;
pub mod disentangled;
pub mod gemm;
pub mod layer_norm;
pub mod mask;
pub mod math;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod outer;
pub mod packed;
pub mod parallel;
pub mod precision;
pub mod rms_norm;
pub mod simd;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod split;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod tile_attention;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod vectors;
