//! The gradients of a batch: in one pass, or cached.
//!
//! Gradient caching (GradCache, Gao et al. 2021): the texts are embedded a chunk at a time without a graph; the loss over all
//! embeddings gives the gradient by each; then every chunk is embedded once more with its graph, from which Σ embedding ·
//! gradient is differentiated. The gradients are those of the whole batch, the memory that of a chunk. A chunk's dropout masks
//! are a function of its seed, so both passes draw the same.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use super::batch::{Example, Layout, pack};
use super::criterion::{Criterion, State};
use crate::model::{Embedder, Mode};

/// How a batch goes through the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    /// All texts at once.
    Whole,
    /// This many texts at a time, twice.
    Cached(usize),
}

/// Everything that a batch's gradients depend on beside the batch.
pub struct Step<'a> {
    /// The model.
    pub embedder: &'a Embedder,
    /// The loss.
    pub criterion: &'a Criterion,
    /// A guide model, for losses that ask one.
    pub guide: Option<&'a Embedder>,
    /// How the batch goes through the model.
    pub passes: Passes,
    /// Dropout and checkpointing.
    pub mode: Mode,
    /// Batches of an optimizer step, by which the loss is divided.
    pub share: usize,
}

impl Step<'_> {
    /// The loss of a batch; its gradients go to `take`, in several parts where the batch is cached. Then the batch is
    /// remembered, where there is a memory.
    ///
    /// # Errors
    /// Where a tensor operation fails. A loss that is not finite gives no gradients.
    pub fn run(
        &self,
        batch: &[Example],
        state: &mut State,
        take: &mut dyn FnMut(GradStore) -> Result<()>,
    ) -> Result<f64> {
        let layout = self.criterion.layout(batch);
        let guide = self.guide.map(|guide| guided(guide, &layout)).transpose()?;
        let chunk = match self.passes {
            Passes::Cached(chunk) if chunk < layout.texts.len() => chunk.max(1),
            _ => {
                let embeddings = self.embedder.forward(&layout.packed(0..layout.texts.len()), self.mode.clone())?;
                let loss = self.criterion.loss(&embeddings, &layout, batch, state, guide.as_ref())?;
                let value = f64::from(loss.to_scalar::<f32>()?);
                if value.is_finite() {
                    take((loss / self.share as f64)?.backward()?)?;
                }
                self.criterion.remember(&embeddings.detach(), &layout, batch, state)?;
                return Ok(value);
            }
        };
        let ranges: Vec<_> =
            (0..layout.texts.len()).step_by(chunk).map(|s| s..(s + chunk).min(layout.texts.len())).collect();
        let mut parts = Vec::with_capacity(ranges.len());
        for range in &ranges {
            // The model's masks are those that the texts have in the whole batch.
            let mode = self.mode.clone().from_sequence(range.start);
            parts.push(self.embedder.forward(&layout.packed(range.clone()), mode)?.detach());
        }
        let embeddings = Var::from_tensor(&Tensor::cat(&parts, 0)?)?;
        drop(parts);
        let loss = self.criterion.loss(embeddings.as_tensor(), &layout, batch, state, guide.as_ref())?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if value.is_finite() {
            let mut gradients = (loss / self.share as f64)?.backward()?;
            let by_embedding = gradients.remove(&embeddings);
            // What the loss itself learns.
            take(gradients)?;
            if let Some(by_embedding) = by_embedding {
                for range in ranges {
                    let gradient = by_embedding.narrow(0, range.start, range.len())?;
                    let mode = self.mode.clone().from_sequence(range.start);
                    let part = self.embedder.forward(&layout.packed(range), mode)?;
                    take((part * gradient)?.sum_all()?.backward()?)?;
                }
            }
        }
        self.criterion.remember(&embeddings.as_tensor().detach(), &layout, batch, state)?;
        Ok(value)
    }

    /// The loss alone, of the model as it is.
    ///
    /// # Errors
    /// Where a tensor operation fails.
    pub fn evaluate(&self, batch: &[Example], state: &mut State) -> Result<f64> {
        let layout = self.criterion.layout(batch);
        let guide = self.guide.map(|guide| guided(guide, &layout)).transpose()?;
        let chunk = match self.passes {
            Passes::Cached(chunk) => chunk.max(1),
            Passes::Whole => layout.texts.len().max(1),
        };
        let mut parts = Vec::new();
        for start in (0..layout.texts.len()).step_by(chunk) {
            let range = start..(start + chunk).min(layout.texts.len());
            parts.push(self.embedder.forward(&layout.packed(range), self.mode.clone())?.detach());
        }
        let loss = self.criterion.loss(&Tensor::cat(&parts, 0)?, &layout, batch, state, guide.as_ref())?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }
}

/// Embeddings by the guide, in the layout's order.
fn guided(guide: &Embedder, layout: &Layout<'_>) -> Result<Tensor> {
    let mut parts = Vec::new();
    for texts in layout.texts.chunks(64) {
        let own: Vec<super::Text> = texts
            .iter()
            .map(|text| super::Text {
                ids: text.guide.clone().unwrap_or_else(|| text.ids.clone()),
                prompt_tokens: 0,
                ..(*text).clone()
            })
            .collect();
        let batch = pack(&own.iter().collect::<Vec<_>>());
        parts.push(guide.forward(&batch, Mode::INFERENCE)?.detach());
    }
    Tensor::cat(&parts, 0)
}
