//! A tokenized batch, and where its texts stand in the matrix of embeddings.

use std::sync::Arc;

use crate::nn::PackedBatch;

/// Token ids with their prompt, and the identity of the text they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Token ids, special tokens among them.
    pub ids: Arc<Vec<u32>>,
    /// Equal for equal texts.
    pub identity: u64,
    /// Prompt tokens that pooling leaves out.
    pub prompt_tokens: usize,
    /// Token ids of a guide's own tokenizer, where there is a guide.
    pub guide: Option<Arc<Vec<u32>>>,
}

/// A tokenized row of a batch. What a loss needs of it depends on the loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The query, the first sentence, or the text.
    pub query: Text,
    /// The positive chosen for this step, or the second sentence.
    pub positive: Option<Text>,
    /// Hard negatives chosen for this step; any number.
    pub negatives: Vec<Text>,
    /// Identities of all the row's positives: none of them is a negative.
    pub known: Vec<u64>,
    /// A teacher's scores of the positive and the negatives, in their order; empty without a teacher.
    pub teacher: Vec<f32>,
    /// Similarity of the two sentences.
    pub score: Option<f32>,
    /// Class of the text.
    pub label: Option<u32>,
    /// Whether the documents of other rows are no negatives of this one (FlagEmbedding's `symmetric_…` types).
    pub alone: bool,
}

impl Example {
    /// A row of a query, a positive and negatives.
    pub fn pair(query: Text, positive: Text, negatives: Vec<Text>) -> Self {
        Self {
            known: vec![positive.identity],
            query,
            positive: Some(positive),
            negatives,
            teacher: Vec::new(),
            score: None,
            label: None,
            alone: false,
        }
    }

    /// Its texts: query, positive, negatives.
    pub fn texts(&self) -> impl Iterator<Item = &Text> {
        std::iter::once(&self.query).chain(&self.positive).chain(&self.negatives)
    }

    /// Tokens of its texts.
    pub fn tokens(&self) -> usize {
        self.texts().map(|t| t.ids.len()).sum()
    }
}

/// The rows of a batch's matrix of embeddings: queries, then positives (or the queries once more), then negatives by row.
#[derive(Debug)]
pub struct Layout<'a> {
    /// The texts in the matrix' order.
    pub texts: Vec<&'a Text>,
    /// Number of queries.
    pub queries: usize,
    /// Number of positives: that of the queries, or 0.
    pub positives: usize,
    /// For each negative, the row that it belongs to.
    pub owners: Vec<usize>,
}

impl<'a> Layout<'a> {
    /// Of a batch; `twice` puts the queries where the positives would be (SimCSE).
    pub fn new(batch: &'a [Example], twice: bool) -> Self {
        let mut texts: Vec<&Text> = batch.iter().map(|e| &e.query).collect();
        if twice {
            texts.extend_from_within(..);
            return Self { texts, queries: batch.len(), positives: batch.len(), owners: Vec::new() };
        }
        texts.extend(batch.iter().filter_map(|e| e.positive.as_ref()));
        let positives = texts.len() - batch.len();
        let mut owners = Vec::new();
        for (row, example) in batch.iter().enumerate() {
            texts.extend(&example.negatives);
            owners.resize(owners.len() + example.negatives.len(), row);
        }
        Self { texts, queries: batch.len(), positives, owners }
    }

    /// The texts from `range` end to end.
    pub fn packed(&self, range: std::ops::Range<usize>) -> PackedBatch {
        pack(&self.texts[range])
    }
}

/// Texts end to end.
pub fn pack(texts: &[&Text]) -> PackedBatch {
    let ids: Vec<&[u32]> = texts.iter().map(|t| t.ids.as_slice()).collect();
    let prompts: Vec<usize> = texts.iter().map(|t| t.prompt_tokens).collect();
    PackedBatch::with_prompts(&ids, &prompts)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn text(identity: u64) -> Text {
        Text { ids: Arc::new(vec![1]), identity, prompt_tokens: 0, guide: None }
    }

    pub fn example(query: u64, positive: u64, negatives: &[u64]) -> Example {
        Example::pair(text(query), text(positive), negatives.iter().map(|&n| text(n)).collect())
    }

    #[test]
    fn negatives_follow_their_rows() {
        let batch = [example(1, 10, &[20, 21]), example(2, 11, &[]), example(3, 12, &[22])];
        let layout = Layout::new(&batch, false);
        let identities: Vec<u64> = layout.texts.iter().map(|t| t.identity).collect();
        assert_eq!(identities, [1, 2, 3, 10, 11, 12, 20, 21, 22]);
        assert_eq!((layout.queries, layout.positives, layout.owners.clone()), (3, 3, vec![0, 0, 2]));
        let twice = Layout::new(&batch, true);
        let identities: Vec<u64> = twice.texts.iter().map(|t| t.identity).collect();
        assert_eq!(identities, [1, 2, 3, 1, 2, 3]);
    }
}
