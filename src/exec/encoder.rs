//! A model as the tasks see it: prompts looked up, texts that tasks share encoded once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use crate::data::matrix::Matrix;
use crate::encode::cache::{CacheSettings, EmbeddingCache};
use crate::encode::{encode, identity, in_f32, is_rounded};
use crate::model::prompts::{self, Prompts};
use crate::model::{Embedder, ModelError};
use crate::task::evaluate::{EncodeError, Part, Side, TextEncoder};
use crate::task::protocol::Similarity;
use crate::task::spec::{TaskSpec, TaskType};

/// Embeddings kept at the most, in values: 400 MB.
const KEPT_VALUES: usize = 100_000_000;

/// Where a text's prompt comes from, before the task file's and the model's own.
#[derive(Debug, Clone, Default)]
pub struct PromptRules {
    /// A prompt for all texts; `{instruction}` stands for what the task tells an instruction model.
    pub fixed: Option<String>,
    /// The prompts that mteb registers for the model, instead of those of its own config.
    pub registered: Option<Prompts>,
}

impl PromptRules {
    /// The prompt of a text of `task` on a side.
    pub fn find(&self, own: &Prompts, task: &TaskSpec, side: Option<Side>) -> String {
        let name = side.map(|side| if side == Side::Query { "query" } else { "document" });
        let of_side = |map: &BTreeMap<String, String>| name.and_then(|n| map.get(n)).or(map.get("all")).cloned();
        if let Some(fixed) = &self.fixed {
            // The side that a task has no instruction for gets none.
            return match (fixed.contains("{instruction}"), of_side(&task.instruction)) {
                (true, Some(told)) => fixed.replace("{instruction}", &told),
                (true, None) if task.instruction.is_empty() => {
                    fixed.replace("{instruction}", prompts::default_instruction(task.kind.name()))
                }
                (true, None) => String::new(),
                (false, _) => fixed.clone(),
            };
        }
        if let Some(prompt) = of_side(&task.prompts) {
            return prompt;
        }
        let side = side.map(|side| if side == Side::Query { prompts::Side::Query } else { prompts::Side::Document });
        let dictionary = self.registered.as_ref().unwrap_or(own);
        let found = dictionary.looked_up(&task.name, task.kind.name(), side);
        found.unwrap_or_else(|| own.own_default(side)).to_string()
    }
}

/// What is remembered of one precision.
#[derive(Default)]
struct Kept {
    /// On the disk.
    cache: Option<EmbeddingCache>,
    /// By prompt and text.
    embeddings: RefCell<HashMap<(String, String), Vec<f32>>>,
}

/// An embedder that remembers what it encoded.
///
/// Clusterings are embedded in `f32` where products are in `bf16` on the CPU: k-means moves by more than anybody means by a score when
/// embeddings move by a rounding of `bf16` (reports/EXPERIMENTS.md), and other tasks do not.
pub struct ModelEncoder<'a> {
    embedder: &'a Embedder,
    progress: &'a (dyn Fn(usize, usize) + Sync),
    rules: PromptRules,
    kept: [Kept; 2],
    /// Values of an embedding that tasks see, the first ones.
    dim: Cell<Option<usize>>,
    /// Tokens that went through the model.
    pub tokens: Cell<usize>,
    /// Texts that were cut at the model's limit.
    pub truncated: Cell<usize>,
    /// The prompts used, by task and side.
    pub prompts: RefCell<BTreeMap<String, BTreeMap<&'static str, String>>>,
}

impl<'a> ModelEncoder<'a> {
    /// Wraps a model; `progress` is told (texts done, texts) of a call.
    pub fn new(embedder: &'a Embedder, progress: &'a (dyn Fn(usize, usize) + Sync)) -> Self {
        Self {
            embedder,
            progress,
            rules: PromptRules::default(),
            kept: Default::default(),
            dim: Cell::new(embedder.files().layout.truncate_dim),
            tokens: Cell::new(0),
            truncated: Cell::new(0),
            prompts: RefCell::default(),
        }
    }

    /// The similarity that the model declares, which must be one that is computed here.
    fn declared(&self) -> Result<Similarity, ModelError> {
        match self.embedder.files().layout.similarity.as_str() {
            "" | "cosine" => Ok(Similarity::Cosine),
            "dot" | "dot_product" => Ok(Similarity::Dot),
            other => {
                let path = self.embedder.files().path.join("config_sentence_transformers.json");
                let message =
                    format!("similarity_fn_name = {other}: models of cosine and dot are scored; set one of these");
                Err(ModelError::file(&path, message))
            }
        }
    }

    /// From now on tasks see the first `dim` values of an embedding (`truncate_dim` of sentence-transformers: not brought to unit
    /// length anew); none for as many as the model's folder says. What was encoded is not encoded again.
    pub fn truncate(&self, dim: Option<usize>) {
        self.dim.set(dim.or(self.embedder.files().layout.truncate_dim));
    }

    /// With these rules for prompts.
    pub fn with_rules(mut self, rules: PromptRules) -> Self {
        self.rules = rules;
        self
    }

    /// With embeddings kept on the disk; a cache that cannot be used is told and done without.
    pub fn with_cache(mut self, settings: &CacheSettings) -> Self {
        if settings.limit == 0 {
            return self;
        }
        let dim = self.embedder.files().embedding_size();
        let content = match identity::content(self.embedder) {
            Ok(content) => content,
            Err(e) => {
                tracing::warn!("no embedding cache: {e}");
                return self;
            }
        };
        let precisions = if is_rounded(self.embedder) { 2 } else { 1 };
        for (exact, kept) in [false, true].into_iter().zip(&mut self.kept).take(precisions) {
            let _precision = exact.then(in_f32);
            let identity = identity::identity_of(self.embedder, &content);
            match EmbeddingCache::open(settings, &identity, dim) {
                Ok(cache) => kept.cache = Some(cache),
                Err(e) => tracing::warn!("no embedding cache: {e}"),
            }
        }
        self
    }

    /// Embeddings found in the cache and not found.
    pub fn cache_hits(&self) -> (u64, u64) {
        let caches = self.kept.iter().filter_map(|kept| kept.cache.as_ref());
        caches.map(EmbeddingCache::stats).fold((0, 0), |(hits, misses), all| (hits + all.hits, misses + all.misses))
    }

    /// A warning where the model has prompts and none was used.
    pub fn unused_prompts(&self) -> Option<String> {
        let own = self.rules.registered.as_ref().unwrap_or(&self.embedder.files().layout.prompts);
        let names: Vec<&str> = own.named.iter().filter(|(_, text)| !text.is_empty()).map(|(n, _)| n.as_str()).collect();
        let used = self.prompts.borrow().values().flat_map(BTreeMap::values).any(|prompt| !prompt.is_empty());
        if names.is_empty() || used || self.prompts.borrow().is_empty() {
            return None;
        }
        let example = own.named.values().find(|text| !text.is_empty()).map_or("", String::as_str);
        Some(format!(
            "the model has prompts ({}), but none applies to these tasks by mteb's look-up, so texts were encoded bare; --prompt '{example}' would set one",
            names.join(", ")
        ))
    }

    fn encode_bare(&self, texts: &[&str], prompt: &str) -> Result<Matrix, EncodeError> {
        let all = texts.len();
        let encoded = encode(self.embedder, texts, prompt, &|done| (self.progress)(done, all))?;
        self.tokens.set(self.tokens.get() + encoded.tokens);
        self.truncated.set(self.truncated.get() + encoded.truncated);
        Ok(encoded.embeddings)
    }

    /// Those on the disk, the others encoded and put there.
    fn through_cache(&self, cache: &EmbeddingCache, texts: &[&str], prompt: &str) -> Result<Matrix, EncodeError> {
        let mut out = Matrix::zeros(texts.len(), self.embedder.files().embedding_size());
        let missing = cache.fetch(prompt, texts, out.data_mut());
        if !missing.is_empty() {
            let wanted: Vec<&str> = missing.iter().map(|&at| texts[at]).collect();
            let encoded = self.encode_bare(&wanted, prompt)?;
            if let Err(e) = cache.store(prompt, &wanted, encoded.data()) {
                tracing::warn!("the embedding cache cannot be written, so nothing more is kept: {e}");
            }
            for (&at, row) in missing.iter().zip(0..) {
                out.row_mut(at).copy_from_slice(encoded.row(row));
            }
        }
        cache.take_warnings().iter().for_each(|warning| tracing::warn!("embedding cache: {warning}"));
        Ok(out)
    }

    fn with_prompt(&self, kept: &Kept, texts: &[&str], prompt: &str, streamed: bool) -> Result<Matrix, EncodeError> {
        if let Some(cache) = &kept.cache {
            return self.through_cache(cache, texts, prompt);
        }
        if streamed {
            return self.encode_bare(texts, prompt);
        }
        let dim = self.embedder.files().embedding_size();
        let key = |text: &str| (prompt.to_string(), text.to_string());
        let missing: Vec<&str> = {
            let kept = kept.embeddings.borrow();
            texts.iter().copied().filter(|text| !kept.contains_key(&key(text))).collect()
        };
        if !missing.is_empty() {
            let encoded = self.encode_bare(&missing, prompt)?;
            let mut kept = kept.embeddings.borrow_mut();
            if (kept.len() + missing.len()) * dim > KEPT_VALUES {
                kept.clear();
                // What this call needs may have been among them.
                if missing.len() < texts.len() {
                    drop(kept);
                    return self.encode_bare(texts, prompt);
                }
            }
            for (i, text) in missing.iter().enumerate() {
                kept.insert(key(text), encoded.row(i).to_vec());
            }
        }
        let kept = kept.embeddings.borrow();
        let mut out = Matrix::zeros(texts.len(), dim);
        for (i, text) in texts.iter().enumerate() {
            if let Some(row) = kept.get(&key(text)) {
                out.row_mut(i).copy_from_slice(row);
            }
        }
        Ok(out)
    }
}

impl TextEncoder for ModelEncoder<'_> {
    fn encode(&self, task: &TaskSpec, parts: &[Part<'_>]) -> Result<Vec<Matrix>, EncodeError> {
        use TaskType::{Classification, Clustering, MultilabelClassification};
        if !matches!(task.kind, Classification | MultilabelClassification | Clustering) {
            self.declared()?;
        }
        let own = &self.embedder.files().layout.prompts;
        let prompts: Vec<String> = parts.iter().map(|part| self.rules.find(own, task, part.side)).collect();
        for (part, prompt) in parts.iter().zip(&prompts) {
            let side = part.side.map_or("all", |side| if side == Side::Query { "query" } else { "document" });
            self.prompts.borrow_mut().entry(task.name.clone()).or_default().insert(side, prompt.clone());
        }
        let exact = is_rounded(self.embedder) && task.kind == Clustering;
        let _precision = exact.then(in_f32);
        let kept = &self.kept[usize::from(exact)];
        // Parts with one prompt go through the model together: fuller batches.
        let mut out: Vec<Matrix> = vec![Matrix::default(); parts.len()];
        let mut done = vec![false; parts.len()];
        for first in 0..parts.len() {
            if done[first] {
                continue;
            }
            let same: Vec<usize> = (first..parts.len()).filter(|&i| prompts[i] == prompts[first]).collect();
            let texts: Vec<&str> = same.iter().flat_map(|&i| parts[i].texts.iter().copied()).collect();
            let streamed = same.iter().any(|&i| parts[i].streamed);
            let all = self.with_prompt(kept, &texts, &prompts[first], streamed)?;
            let mut start = 0;
            for i in same {
                let rows: Vec<usize> = (start..start + parts[i].texts.len()).collect();
                start += rows.len();
                out[i] = match self.dim.get() {
                    Some(dim) => all.select(&rows).columns(dim),
                    None => all.select(&rows),
                };
                done[i] = true;
            }
        }
        Ok(out)
    }

    fn similarity(&self) -> Similarity {
        // `encode` comes first and fails where there is none.
        self.declared().unwrap_or_default()
    }
}
