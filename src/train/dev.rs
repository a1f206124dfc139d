//! Evaluation while training: the loss on dev rows, and how high each query ranks its own positive among all of them.

use std::collections::HashMap;

use candle_core::Tensor;

use super::TrainError;
use super::batches::Batches;
use super::trainer::Goal;
use crate::model::{Embedder, Mode};
use crate::nn::linear::product_transposed;
use crate::nn::normalize::l2_normalize;
use crate::objective::backward::{Passes, Step};
use crate::objective::batch::pack;
use crate::objective::criterion::Needs;
use crate::objective::{Example, State, Text, tsdae};

/// Tokens of an evaluation batch.
const TOKENS: usize = 4_096;
/// Texts that a dev batch's loss is computed over at a time.
const CHUNK: usize = 128;

/// What a dev evaluation gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DevResult {
    /// The training loss on dev batches.
    pub loss: f64,
    /// Mean reciprocal rank of a query's positive among the positives of all dev rows, 0 to 1; none where rows are no pairs.
    pub mrr: Option<f64>,
}

/// What dev rows are evaluated by.
pub struct Evaluation<'a> {
    /// The model, detached.
    pub embedder: &'a Embedder,
    /// A guide.
    pub guide: Option<&'a Embedder>,
    /// What is trained for.
    pub goal: &'a Goal,
    /// What the loss needs of a row.
    pub needs: Needs,
    /// Rows of a batch.
    pub batch: usize,
}

impl Evaluation<'_> {
    /// Evaluates the dev rows; `state` is what the loss has learned.
    ///
    /// # Errors
    /// Where a tensor operation fails, or no row can be used.
    pub fn run(&self, rows: &Batches<'_>, state: &mut State) -> Result<DevResult, TrainError> {
        let (mut total, mut count) = (0f64, 0usize);
        let mut pairs = Vec::new();
        // A loss on dev is of the rows alone.
        let memory = state.memory.take();
        for start in (0..rows.rows()).step_by(self.batch) {
            let mut examples = rows.fixed(start..(start + self.batch).min(rows.rows()))?;
            if self.needs == Needs::Labels {
                // Classes that training has not seen have no place in the loss.
                examples.retain(|e| e.label.is_some());
            }
            if examples.is_empty() || (examples.len() < 2 && count > 0) {
                continue;
            }
            total += self.loss(&examples, state)? * examples.len() as f64;
            count += examples.len();
            if matches!(self.needs, Needs::Pairs | Needs::Triplets | Needs::Teacher) {
                pairs.extend(examples);
            }
        }
        state.memory = memory;
        if count == 0 {
            return Err(TrainError::Data(
                "none of the dev rows can be used: their labels are not among training's".into(),
            ));
        }
        let mrr = if pairs.is_empty() { None } else { Some(self.reciprocal_rank(&pairs)?) };
        Ok(DevResult { loss: total / count as f64, mrr })
    }

    fn loss(&self, examples: &[Example], state: &mut State) -> Result<f64, TrainError> {
        match self.goal {
            Goal::Embeddings(criterion) => {
                let step = Step {
                    embedder: self.embedder,
                    criterion,
                    guide: self.guide,
                    passes: Passes::Cached(CHUNK),
                    mode: Mode::INFERENCE,
                    share: 1,
                };
                Ok(step.evaluate(examples, state)?)
            }
            Goal::Tsdae(decoder) => {
                let loss = tsdae::loss(self.embedder, decoder, examples, &Mode::INFERENCE)?;
                Ok(f64::from(loss.to_scalar::<f32>()?))
            }
        }
    }

    fn reciprocal_rank(&self, examples: &[Example]) -> Result<f64, TrainError> {
        let queries: Vec<&Text> = examples.iter().map(|e| &e.query).collect();
        // Equal positives count as one document, or they would outrank each other.
        let mut documents: Vec<&Text> = Vec::new();
        let mut column: HashMap<u64, usize> = HashMap::new();
        let mut own = Vec::with_capacity(examples.len());
        for example in examples {
            let Some(positive) = &example.positive else { continue };
            own.push(*column.entry(positive.identity).or_insert_with(|| {
                documents.push(positive);
                documents.len() - 1
            }));
        }
        let (q, d) = (self.embed(&queries)?, self.embed(&documents)?);
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
        Ok(reciprocal / queries.len().max(1) as f64)
    }

    fn embed(&self, texts: &[&Text]) -> Result<Tensor, TrainError> {
        let mut parts = Vec::new();
        let mut start = 0;
        while start < texts.len() {
            let mut end = start;
            let mut tokens = 0;
            while end < texts.len() && (end == start || tokens + texts[end].ids.len() <= TOKENS) {
                tokens += texts[end].ids.len();
                end += 1;
            }
            parts.push(l2_normalize(&self.embedder.forward(&pack(&texts[start..end]), Mode::INFERENCE)?)?);
            start = end;
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}
