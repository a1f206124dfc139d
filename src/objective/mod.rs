//! Training objectives: a batch of rows in, a loss out.

pub mod contrastive;

/// How the two sides of a pair are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Both sides encoded alike, the loss in both directions.
    Symmetric,
    /// Queries and documents with their own prompts and lengths, the loss from query to document.
    Asymmetric,
}
