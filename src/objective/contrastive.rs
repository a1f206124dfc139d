//! Contrastive training on (query, positive, hard negatives): all texts of a batch go through the encoder in one packed
//! pass.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use super::Direction;
use crate::loss::info_nce::{self, Masks};
use crate::model::{Embedder, Mode, ModelError};
use crate::nn::PackedBatch;

/// A tokenized row of a batch.
#[derive(Debug, Clone)]
pub struct Example {
    /// The query.
    pub query: Text,
    /// The positive chosen for this step.
    pub positive: Text,
    /// Hard negatives chosen for this step; any number.
    pub negatives: Vec<Text>,
}

/// Token ids with their prompt, and the identity of the text they came from.
#[derive(Debug, Clone)]
pub struct Text {
    /// Token ids, special tokens among them.
    pub ids: Arc<Vec<u32>>,
    /// Equal for equal texts.
    pub identity: u64,
}

/// Contrastive settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrastive {
    /// One direction or both.
    pub direction: Direction,
    /// Temperature T of the softmax.
    pub temperature: f64,
    /// Prompt tokens left out of pooling, query side and document side.
    pub prompt_tokens: (usize, usize),
}

impl Contrastive {
    /// The loss of a batch, a scalar with its graph.
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub fn loss(&self, embedder: &Embedder, batch: &[Example], mode: Mode) -> Result<Tensor, ModelError> {
        let documents: Vec<&Text> =
            batch.iter().map(|e| &e.positive).chain(batch.iter().flat_map(|e| &e.negatives)).collect();
        let sequences: Vec<&[u32]> = batch
            .iter()
            .map(|e| e.query.ids.as_slice())
            .chain(documents.iter().map(|text| text.ids.as_slice()))
            .collect();
        let mut prompt_tokens = vec![self.prompt_tokens.0; batch.len()];
        prompt_tokens.resize(sequences.len(), self.prompt_tokens.1);
        let embeddings = embedder.forward(&PackedBatch::with_prompts(&sequences, &prompt_tokens), mode)?;
        let queries = embeddings.narrow(0, 0, batch.len())?;
        let others = embeddings.narrow(0, batch.len(), documents.len())?;
        let masks = masks(batch, &documents);
        Ok(match self.direction {
            Direction::Asymmetric => info_nce::one_direction(&queries, &others, &masks, self.temperature)?,
            Direction::Symmetric => info_nce::both_directions(&queries, &others, &masks, self.temperature)?,
        })
    }
}

/// Masks documents with the text of a row's positive, and positives of other rows with the same query; the other way,
/// queries with the text of a row's query, and queries whose positive has the same text.
fn masks(batch: &[Example], documents: &[&Text]) -> Masks {
    let n = batch.len();
    let mut by_positive: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut by_query: HashMap<u64, Vec<usize>> = HashMap::new();
    for (i, example) in batch.iter().enumerate() {
        by_positive.entry(example.positive.identity).or_default().push(i);
        by_query.entry(example.query.identity).or_default().push(i);
    }
    let mut out = Masks::default();
    let repeated = by_positive.values().chain(by_query.values()).any(|rows| rows.len() > 1)
        || documents[n..].iter().any(|d| by_positive.contains_key(&d.identity));
    if !repeated {
        return out;
    }
    let mut towards_documents = vec![false; n * documents.len()];
    for (d, document) in documents.iter().enumerate() {
        for &row in by_positive.get(&document.identity).into_iter().flatten() {
            towards_documents[row * documents.len() + d] = d != row;
        }
    }
    let mut towards_queries = vec![false; n * n];
    for rows in by_query.values().chain(by_positive.values()) {
        for &a in rows {
            for &b in rows.iter().filter(|&&b| b != a) {
                towards_documents[a * documents.len() + b] = true;
                towards_queries[a * n + b] = true;
            }
        }
    }
    out.documents = Arc::new(towards_documents);
    out.queries = Arc::new(towards_queries);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(identity: u64) -> Text {
        Text { ids: Arc::new(vec![1]), identity }
    }

    fn example(query: u64, positive: u64, negatives: &[u64]) -> Example {
        Example {
            query: text(query),
            positive: text(positive),
            negatives: negatives.iter().map(|&n| text(n)).collect(),
        }
    }

    #[test]
    fn repeated_texts_are_no_negatives_of_each_other() {
        // Rows 0 and 1 share the query, row 2's hard negative is row 0's positive.
        let batch = [example(1, 10, &[]), example(1, 11, &[]), example(2, 12, &[10])];
        let documents: Vec<&Text> =
            batch.iter().map(|e| &e.positive).chain(batch.iter().flat_map(|e| &e.negatives)).collect();
        let m = masks(&batch, &documents);
        let masked: Vec<(usize, usize)> = (0..12).filter(|i| m.documents[*i]).map(|i| (i / 4, i % 4)).collect();
        assert_eq!(masked, [(0, 1), (0, 3), (1, 0)]);
        let masked: Vec<(usize, usize)> = (0..9).filter(|i| m.queries[*i]).map(|i| (i / 3, i % 3)).collect();
        assert_eq!(masked, [(0, 1), (1, 0)]);
    }

    #[test]
    fn distinct_texts_need_no_mask() {
        let batch = [example(1, 10, &[20]), example(2, 11, &[21])];
        let documents: Vec<&Text> =
            batch.iter().map(|e| &e.positive).chain(batch.iter().flat_map(|e| &e.negatives)).collect();
        assert!(masks(&batch, &documents).documents.is_empty());
    }
}
