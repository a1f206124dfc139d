//! Losses: tensors in, a scalar out.

pub mod info_nce;
