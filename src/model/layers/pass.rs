//! What the layers of a forward pass share.

use std::sync::Arc;

use candle_core::Tensor;

use super::Drops;
use crate::model::Mode;
use crate::model::architecture::ModelDropout;
use crate::nn::PackedBatch;
use crate::nn::checkpoint::{GradientSink, checkpoint};
use crate::nn::dropout::{TokenDropout, token_places};

/// A forward pass as a layer sees it.
#[derive(Debug, Clone)]
pub struct Pass {
    /// Bounds of the sequences, `[sequences + 1]`.
    pub cu_seqlens: Arc<Vec<usize>>,
    /// Position of each token in its sequence, `[tokens]`.
    pub positions: Arc<Vec<u32>>,
    /// Whether every layer is causal, whatever it is by itself.
    pub causal: bool,
    /// What all layers know of distances: a bias of their scores, `[heads, 2 n − 1]`, or vectors, `[distances, hidden]`.
    pub relative: Option<Tensor>,
    /// Probabilities, and the tokens' places in the masks.
    dropout: Option<(ModelDropout, Arc<Vec<u64>>)>,
    mode: Mode,
}

/// Places of a layer where dropout is drawn; those before are its linear layers' adapters'.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// Attention weights.
    Weights = 6,
    /// What attention adds to the residual.
    AttentionOutput,
    /// What the feed-forward layers add to it.
    Output,
    /// Weights of a decoder's attention to the sentence.
    CrossWeights,
    /// What that adds to the residual.
    CrossOutput,
    /// Between the feed-forward layers.
    Inner,
    /// Vectors by distance.
    Table,
}

/// Number, among the layers', under which the embeddings' dropout is drawn.
pub const EMBEDDINGS: usize = 999;
/// As [`EMBEDDINGS`], of what the last layer gives.
pub const LAST: usize = 998;

impl Pass {
    /// Over a batch; `dropout` is drawn where the mode has a seed.
    pub fn new(batch: &PackedBatch, mode: &Mode, dropout: Option<ModelDropout>, causal: bool) -> Self {
        let drawn = dropout.filter(|_| mode.seed(0).is_some());
        let dropout = drawn.map(|model| (model, token_places(&batch.cu_seqlens, mode.first_sequence())));
        Self {
            cu_seqlens: batch.cu_seqlens.clone(),
            positions: batch.positions.clone(),
            causal,
            relative: None,
            dropout,
            mode: mode.clone(),
        }
    }

    /// The pass as layer `index` sees it: with draws of its own.
    pub fn layer(&self, index: usize) -> Self {
        Self { mode: self.mode.layer(index), ..self.clone() }
    }

    /// Where the gradients of variables go that are not left to candle.
    pub fn gradients(&self) -> Option<&GradientSink> {
        self.mode.gradients()
    }

    /// Whether layers are run again in the backward pass.
    pub fn runs_again(&self) -> bool {
        self.mode.sink().is_some()
    }

    /// Seed of an adapter's dropout at a linear layer.
    pub fn adapter_seed(&self, place: u64) -> Option<u64> {
        self.mode.adapter_seed(place)
    }

    fn draw(&self, p: impl Fn(&ModelDropout) -> f32, place: Place) -> candle_core::Result<Option<TokenDropout>> {
        match (&self.dropout, self.mode.seed(place as u64)) {
            (Some((model, places)), Some(seed)) => TokenDropout::new(p(model), seed, places),
            _ => Ok(None),
        }
    }

    /// Dropout of token vectors.
    ///
    /// # Errors
    /// Where its probability is none.
    pub fn hidden(&self, place: Place) -> candle_core::Result<Option<TokenDropout>> {
        self.draw(|model| model.hidden, place)
    }

    /// Dropout of what is added to the residual.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn drops(&self, drops: Drops, place: Place) -> candle_core::Result<Option<TokenDropout>> {
        match drops {
            Drops::Never => Ok(None),
            Drops::AsHidden => self.hidden(place),
            Drops::AsWeights => self.weights(place),
        }
    }

    /// A table after dropout, by its rows.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn drop_table(&self, table: &Tensor, place: Place) -> candle_core::Result<Tensor> {
        let (Some((model, _)), Some(seed)) = (&self.dropout, self.mode.seed(place as u64)) else {
            return Ok(table.clone());
        };
        let rows = token_places(&[0, table.dim(0)?], 0);
        match TokenDropout::new(model.hidden, seed, &rows)? {
            Some(dropout) => dropout.forward(table),
            None => Ok(table.clone()),
        }
    }

    /// Token vectors after dropout.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn drop_hidden(&self, x: Tensor, place: Place) -> candle_core::Result<Tensor> {
        match self.hidden(place)? {
            Some(dropout) => dropout.forward(&x),
            None => Ok(x),
        }
    }

    /// Dropout of attention weights.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn weights(&self, place: Place) -> candle_core::Result<Option<TokenDropout>> {
        self.draw(|model| model.attention, place)
    }

    /// `f(x)`, kept for the backward pass or run again there as the mode says.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn run(
        &self,
        x: &Tensor,
        f: impl Fn(&Tensor, &Self) -> candle_core::Result<Tensor> + Send + Sync + 'static,
    ) -> candle_core::Result<Tensor> {
        let Some(sink) = self.mode.sink() else { return f(x, self) };
        let pass = self.clone();
        checkpoint(x, Arc::new(move |x| f(x, &pass)), sink)
    }
}
