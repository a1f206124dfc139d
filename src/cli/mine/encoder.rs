//! A model as the miner sees it.

use crate::data::matrix::Matrix;
use crate::encode::cache::{CacheSettings, EmbeddingCache};
use crate::encode::{encode, identity};
use crate::model::Embedder;

/// Texts that are encoded, and put into the cache, at a time.
const PIECE: usize = 4096;

/// Encodes piece by piece through the cache on the disk, so that nothing is encoded twice by a run that is begun again.
pub struct Encoder<'a> {
    embedder: &'a Embedder,
    cache: EmbeddingCache,
    bar: &'a indicatif::ProgressBar,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Texts that were cut at the model's limit.
    pub truncated: usize,
}

impl<'a> Encoder<'a> {
    /// An encoder that keeps what it encodes in the cache; one that cannot be used is told and done without.
    pub fn new(embedder: &'a Embedder, settings: &CacheSettings, bar: &'a indicatif::ProgressBar) -> Self {
        let dim = embedder.files().embedding_size();
        let opened = match settings.limit {
            0 => Ok(EmbeddingCache::disabled()),
            _ => identity::identity(embedder)
                .map_err(|e| e.to_string())
                .and_then(|identity| EmbeddingCache::open(settings, &identity, dim).map_err(|e| e.to_string())),
        };
        let cache = opened.unwrap_or_else(|e| {
            tracing::warn!("no embedding cache: {e}");
            EmbeddingCache::disabled()
        });
        Self { embedder, cache, bar, tokens: 0, truncated: 0 }
    }

    /// The embeddings of `prompt + text` for every text, `[texts, dim]`.
    pub fn all(&mut self, texts: &[&str], prompt: &str) -> anyhow::Result<Matrix> {
        let mut out = Matrix::zeros(texts.len(), self.embedder.files().embedding_size());
        let width = out.cols();
        for (number, piece) in texts.chunks(PIECE).enumerate() {
            let start = number * PIECE;
            let before = self.bar.position();
            let values = &mut out.data_mut()[start * width..(start + piece.len()) * width];
            let missing = self.cache.fetch(prompt, piece, values);
            let wanted: Vec<&str> = missing.iter().map(|&at| piece[at]).collect();
            let found = (piece.len() - wanted.len()) as u64;
            let progress = |done: usize| self.bar.set_position(before + found + done as u64);
            let encoded = encode(self.embedder, &wanted, prompt, &progress)?;
            if let Err(e) = self.cache.store(prompt, &wanted, encoded.embeddings.data()) {
                tracing::warn!("the embedding cache cannot be written: {e}");
            }
            for (row, &at) in missing.iter().enumerate() {
                out.row_mut(start + at).copy_from_slice(encoded.embeddings.row(row));
            }
            self.bar.set_position(before + piece.len() as u64);
            self.tokens += encoded.tokens;
            self.truncated += encoded.truncated;
        }
        self.cache.take_warnings().iter().for_each(|warning| tracing::warn!("embedding cache: {warning}"));
        Ok(match self.embedder.files().layout.truncate_dim {
            Some(dim) => out.columns(dim),
            None => out,
        })
    }
}
