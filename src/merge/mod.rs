//! Merging models: SLERP of two checkpoints, and the search for its α.

pub mod search;
pub mod slerp;
