//! Evaluation while training: the loss on dev rows, and how high each query ranks its own positive among all of them.

use std::collections::HashMap;

use candle_core::Tensor;

use super::TrainError;
use super::batches::Rows;
use crate::model::{Embedder, Mode};
use crate::nn::PackedBatch;
use crate::nn::linear::product_transposed;
use crate::nn::normalize::l2_normalize;
use crate::objective::contrastive::{Contrastive, Text};

/// Tokens of an evaluation batch.
const TOKENS: usize = 4_096;

/// What a dev evaluation gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DevResult {
    /// The training loss on dev batches.
    pub loss: f64,
    /// Mean reciprocal rank of a query's positive among the positives of all dev rows, 0 to 1.
    pub mrr: f64,
}

/// Evaluates `embedder` (detached) on the dev rows.
///
/// # Errors
/// Where a tensor operation fails.
pub fn evaluate(
    embedder: &Embedder,
    rows: &Rows,
    objective: &Contrastive,
    batch: usize,
    hard_negatives: usize,
) -> Result<DevResult, TrainError> {
    let (mut total, mut count) = (0f64, 0usize);
    for start in (0..rows.len()).step_by(batch) {
        let examples = rows.fixed(start..(start + batch).min(rows.len()), hard_negatives);
        if examples.len() < 2 && count > 0 {
            break;
        }
        let loss = objective.loss(embedder, &examples, Mode::INFERENCE)?.to_scalar::<f32>()?;
        total += f64::from(loss) * examples.len() as f64;
        count += examples.len();
    }
    let examples = rows.fixed(0..rows.len(), 0);
    let queries: Vec<&Text> = examples.iter().map(|e| &e.query).collect();
    // Equal positives count as one document, or they would outrank each other.
    let mut documents: Vec<&Text> = Vec::new();
    let mut column: HashMap<u64, usize> = HashMap::new();
    let own: Vec<usize> = examples
        .iter()
        .map(|e| {
            *column.entry(e.positive.identity).or_insert_with(|| {
                documents.push(&e.positive);
                documents.len() - 1
            })
        })
        .collect();
    let q = embed(embedder, &queries, objective.prompt_tokens.0)?;
    let d = embed(embedder, &documents, objective.prompt_tokens.1)?;
    let mut reciprocal = 0f64;
    for start in (0..queries.len()).step_by(512) {
        let n = 512.min(queries.len() - start);
        let scores = product_transposed(&q.narrow(0, start, n)?, &d)?.to_vec2::<f32>()?;
        for (row, scores) in scores.iter().enumerate() {
            let mine = scores[own[start + row]];
            let above = scores.iter().filter(|s| **s > mine).count();
            reciprocal += 1.0 / (above + 1) as f64;
        }
    }
    Ok(DevResult { loss: total / count.max(1) as f64, mrr: reciprocal / queries.len().max(1) as f64 })
}

fn embed(embedder: &Embedder, texts: &[&Text], prompt_tokens: usize) -> Result<Tensor, TrainError> {
    let mut parts = Vec::new();
    let mut start = 0;
    while start < texts.len() {
        let mut end = start;
        let mut tokens = 0;
        while end < texts.len() && (end == start || tokens + texts[end].ids.len() <= TOKENS) {
            tokens += texts[end].ids.len();
            end += 1;
        }
        let ids: Vec<&[u32]> = texts[start..end].iter().map(|t| t.ids.as_slice()).collect();
        let batch = PackedBatch::with_prompts(&ids, &vec![prompt_tokens; ids.len()]);
        parts.push(l2_normalize(&embedder.forward(&batch, Mode::INFERENCE)?)?);
        start = end;
    }
    Ok(Tensor::cat(&parts, 0)?)
}
