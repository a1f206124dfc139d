//! CPU kernels on slices, compiled for several instruction sets and chosen at run time.

pub mod attention;
pub mod gemm;
pub mod layer_norm;
pub mod math;
pub mod parallel;
pub mod simd;
