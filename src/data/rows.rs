//! Rows of training data.

/// A query with the texts that answer it and texts that do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRow {
    /// The query (or anchor).
    pub query: String,
    /// Texts that match it; at least one.
    pub positives: Vec<String>,
    /// Hard negatives; any number.
    pub negatives: Vec<String>,
}
