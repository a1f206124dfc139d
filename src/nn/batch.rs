//! A batch of token sequences laid end to end.

use std::sync::Arc;

/// Token sequences end to end, with no padding.
#[derive(Debug, Clone)]
pub struct PackedBatch {
    /// Vocabulary ids, `[tokens]`.
    pub ids: Arc<Vec<u32>>,
    /// Position of each token within its sequence, from 0, `[tokens]`.
    pub positions: Arc<Vec<u32>>,
    /// Sequence `s` is tokens `cu_seqlens[s]..cu_seqlens[s + 1]`; `[sequences + 1]`, the first 0.
    pub cu_seqlens: Arc<Vec<usize>>,
    /// First token of each sequence that pooling may see (after an excluded prompt), relative to the sequence; `[sequences]`.
    pub pool_from: Arc<Vec<usize>>,
}

impl PackedBatch {
    /// Packs the sequences in the order given.
    pub fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Self {
        Self::with_prompts(sequences, &vec![0; sequences.len()])
    }

    /// Packs the sequences; the first `prompt_tokens[s]` tokens of sequence `s` are left out of pooling.
    pub fn with_prompts<S: AsRef<[u32]>>(sequences: &[S], prompt_tokens: &[usize]) -> Self {
        let total = sequences.iter().map(|s| s.as_ref().len()).sum();
        let mut ids = Vec::with_capacity(total);
        let mut positions = Vec::with_capacity(total);
        let mut cu_seqlens = Vec::with_capacity(sequences.len() + 1);
        cu_seqlens.push(0);
        for sequence in sequences {
            ids.extend_from_slice(sequence.as_ref());
            positions.extend(0..sequence.as_ref().len() as u32);
            cu_seqlens.push(ids.len());
        }
        Self {
            ids: Arc::new(ids),
            positions: Arc::new(positions),
            cu_seqlens: Arc::new(cu_seqlens),
            pool_from: Arc::new(prompt_tokens.to_vec()),
        }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Tokens of sequence `s` that pooling sees; never empty unless the sequence is.
    pub fn pooled_range(&self, s: usize) -> std::ops::Range<usize> {
        let (start, end) = (self.cu_seqlens[s], self.cu_seqlens[s + 1]);
        let from = start + self.pool_from.get(s).copied().unwrap_or(0);
        if from < end { from..end } else { start..end }
    }
}
