//! A model as the tasks see it: prompts looked up, texts that tasks share encoded once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::data::matrix::Matrix;
use crate::encode::encode;
use crate::model::Embedder;
use crate::task::evaluate::TextEncoder;
use crate::task::protocol::Similarity;
use crate::task::spec::TaskSpec;

/// Embeddings kept at the most, in values: 400 MB.
const KEPT_VALUES: usize = 100_000_000;

/// An embedder that remembers what it encoded.
pub struct ModelEncoder<'a> {
    embedder: &'a Embedder,
    progress: &'a (dyn Fn(usize, usize) + Sync),
    kept: RefCell<HashMap<(String, String), Vec<f32>>>,
    /// Tokens that went through the model.
    pub tokens: Cell<usize>,
    /// Texts that were cut at the model's limit.
    pub truncated: Cell<usize>,
}

impl<'a> ModelEncoder<'a> {
    /// Wraps a model; `progress` is told (texts done, texts) of a call.
    pub fn new(embedder: &'a Embedder, progress: &'a (dyn Fn(usize, usize) + Sync)) -> Self {
        Self { embedder, progress, kept: RefCell::default(), tokens: Cell::new(0), truncated: Cell::new(0) }
    }

    fn prompt(&self, task: &TaskSpec) -> String {
        match task.prompts.get("all") {
            Some(prompt) => prompt.clone(),
            None => self.embedder.files().layout.prompts.find(&task.name, task.kind.name(), None).to_string(),
        }
    }
}

impl TextEncoder for ModelEncoder<'_> {
    fn encode(&self, task: &TaskSpec, texts: &[&str]) -> Result<Matrix, Box<dyn std::error::Error + Send + Sync>> {
        let prompt = self.prompt(task);
        let dim = self.embedder.files().embedding_size();
        let key = |text: &str| (prompt.clone(), text.to_string());
        let missing: Vec<&str> = {
            let kept = self.kept.borrow();
            texts.iter().copied().filter(|text| !kept.contains_key(&key(text))).collect()
        };
        if !missing.is_empty() {
            let all = missing.len();
            let encoded = encode(self.embedder, &missing, &prompt, &|done| (self.progress)(done, all))?;
            self.tokens.set(self.tokens.get() + encoded.tokens);
            self.truncated.set(self.truncated.get() + encoded.truncated);
            let mut kept = self.kept.borrow_mut();
            if (kept.len() + missing.len()) * dim > KEPT_VALUES {
                kept.clear();
                // What this call needs may have been among them.
                if missing.len() < texts.len() {
                    drop(kept);
                    return Ok(encode(self.embedder, texts, &prompt, &|done| (self.progress)(done, all))?.embeddings);
                }
            }
            for (i, text) in missing.iter().enumerate() {
                kept.insert(key(text), encoded.embeddings.row(i).to_vec());
            }
        }
        let kept = self.kept.borrow();
        let mut out = Matrix::zeros(texts.len(), dim);
        for (i, text) in texts.iter().enumerate() {
            if let Some(row) = kept.get(&key(text)) {
                out.row_mut(i).copy_from_slice(row);
            }
        }
        Ok(out)
    }

    fn similarity(&self) -> Similarity {
        if self.embedder.files().layout.similarity.starts_with("dot") { Similarity::Dot } else { Similarity::Cosine }
    }
}
