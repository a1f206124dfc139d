//! Training objectives: a batch of tokenized rows and an embedder in, a loss and its gradients out.
//!
//! Whatever the loss, the texts of a batch are embedded into one matrix ([`batch::Layout`] says which row is what) and the loss is
//! a function of that matrix ([`criterion`]). So gradient caching ([`backward`]), the cross-batch memory ([`memory`]) and
//! Matryoshka truncation work with every loss. TSDAE ([`tsdae`]) alone reads tokens.

pub mod backward;
pub mod batch;
pub mod criterion;
pub mod masks;
pub mod memory;
pub mod tsdae;

pub use batch::{Example, Text};
pub use criterion::{Criterion, Kind, State};

/// How the two sides of a pair are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Both sides encoded alike, the loss in both directions.
    Symmetric,
    /// Queries and documents with their own prompts and lengths, the loss from query to document.
    Asymmetric,
}
