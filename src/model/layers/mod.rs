//! What transformer encoders are made of, over packed batches. An architecture ([`super::architecture`]) says which parts it has, with
//! which tensors; nothing here knows a model's name.

pub mod attention;
pub mod disentangled;
pub mod feed_forward;
pub mod fused;
pub mod norm;
pub mod pass;
pub mod relative;

use std::sync::Arc;

use candle_core::Tensor;

pub use attention::{Projections, SelfAttention};
pub use disentangled::Disentangled;
pub use feed_forward::{FeedForward, Inner};
pub use fused::FusedLayers;
pub use norm::Norm;
pub use pass::{Pass, Place};
pub use relative::RelativeBias;

use super::Mode;
use super::architecture::ModelDropout;
use crate::nn::PackedBatch;
use crate::nn::embedding::{Embedding, Table, look_up};

/// What the first layer's input is made of.
#[derive(Debug, Clone)]
pub enum Embeddings {
    /// Word, position and token-type rows.
    Absolute(Embedding),
    /// Word rows, times a factor.
    Words(Table, f64),
    /// Word rows, and the first row of the token types.
    Typed(Table, Tensor),
}

/// How a token's row of the position table is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// From 0 (BERT).
    Absolute,
    /// From `pad + 1`, padding tokens not counted (RoBERTa, XLM-R).
    AfterPadding(u32),
}

/// Where a layer's norms are.
#[derive(Debug, Clone)]
pub enum Order {
    /// After the residual is added, of attention and of the feed-forward layers (BERT).
    After([Norm; 2]),
    /// Before attention and before the feed-forward layers.
    Before([Norm; 2]),
    /// Before and after each: before attention, after it, before the feed-forward layers, after them (Gemma3).
    Around([Norm; 4]),
}

/// A layer's attention.
#[derive(Debug)]
pub enum Attention {
    /// Of content alone, positions in it or in a bias.
    Plain(Box<SelfAttention>),
    /// DeBERTa's.
    Disentangled(Box<Disentangled>),
}

impl From<SelfAttention> for Attention {
    fn from(attention: SelfAttention) -> Self {
        Self::Plain(Box::new(attention))
    }
}

/// What all layers know of distances.
#[derive(Debug, Clone)]
pub enum Relative {
    /// A bias of the scores.
    Bias(RelativeBias),
    /// Vectors that queries and keys are compared with.
    Distances(Distances),
}

/// A table of vectors by distance.
#[derive(Debug, Clone)]
pub struct Distances {
    /// `[distances, hidden]`.
    pub table: Tensor,
    /// Before the layers use it.
    pub norm: Norm,
}

/// Which of a model's probabilities drops something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drops {
    /// None.
    Never,
    /// That of token vectors.
    AsHidden,
    /// That of attention weights.
    AsWeights,
}

/// A transformer layer.
#[derive(Debug)]
pub struct Layer {
    /// Its attention.
    pub attention: Attention,
    /// What follows.
    pub feed_forward: FeedForward,
    /// Its norms.
    pub order: Order,
    /// Dropout of what attention and the feed-forward layers add to the residual.
    pub drops: [Drops; 2],
    /// A bias of its own for its attention, instead of one for all layers.
    pub relative: Option<RelativeBias>,
}

impl Layer {
    /// Self-attention with its residual and norms.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn attend(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        let attend = |x: &Tensor| match (&self.attention, &self.relative) {
            (Attention::Plain(attention), Some(relative)) => {
                let bias = relative.by_distance(longest(&pass.cu_seqlens))?;
                attention.forward_biased(x, pass, Some(&bias))
            }
            (Attention::Plain(attention), None) => attention.forward(x, pass),
            (Attention::Disentangled(attention), _) => attention.forward(x, pass, pass.relative.as_ref()),
        };
        let dropout = pass.drops(self.drops[0], Place::AttentionOutput)?;
        match &self.order {
            Order::After([norm, _]) => norm.forward_residual(&attend(x)?, x, dropout.as_ref()),
            Order::Before([norm, _]) => add(x, attend(&norm.forward(x)?)?, dropout.as_ref()),
            Order::Around([before, after, ..]) => {
                add(x, after.forward(&attend(&before.forward(x)?)?)?, dropout.as_ref())
            }
        }
    }

    /// The feed-forward layers with their residual and norms.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn feed_forward(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        let dropout = pass.drops(self.drops[1], Place::Output)?;
        let run = |x: &Tensor| self.feed_forward.forward(x, pass);
        match &self.order {
            Order::After([_, norm]) => norm.forward_residual(&run(x)?, x, dropout.as_ref()),
            Order::Before([_, norm]) => add(x, run(&norm.forward(x)?)?, dropout.as_ref()),
            Order::Around([.., before, after]) => add(x, after.forward(&run(&before.forward(x)?)?)?, dropout.as_ref()),
        }
    }
}

/// `x + dropout(y)`.
fn add(x: &Tensor, y: Tensor, dropout: Option<&crate::nn::dropout::TokenDropout>) -> candle_core::Result<Tensor> {
    x + match dropout {
        Some(dropout) => dropout.forward(&y)?,
        None => y,
    }
}

/// Tokens of the longest sequence.
fn longest(cu_seqlens: &[usize]) -> usize {
    cu_seqlens.windows(2).map(|bounds| bounds[1] - bounds[0]).max().unwrap_or(0)
}

/// A transformer encoder.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// Tables.
    pub embeddings: Embeddings,
    /// After them.
    pub embedding_norm: Norm,
    /// How rows of the position table are found.
    pub positions: Positions,
    /// Layers.
    pub layers: Vec<Arc<Layer>>,
    /// After the last layer.
    pub norm: Norm,
    /// What all layers know of distances.
    pub relative: Option<Relative>,
    /// Whether dropout falls on what comes out of it.
    pub drops_output: bool,
    /// The model's own dropout in training.
    pub dropout: Option<ModelDropout>,
}

impl Encoder {
    /// Token vectors after the last layer, `[tokens, hidden]`; by `fused`, which is this encoder's, where it can.
    ///
    /// # Errors
    /// Where an id or a position is outside its table.
    pub fn forward(&self, batch: &PackedBatch, mode: &Mode, fused: &FusedLayers) -> candle_core::Result<Tensor> {
        let pass = self.pass(batch, mode, false)?;
        let mut x = self.embed(batch, &pass)?;
        if mode.is_inference()
            && !x.track_op()
            && x.device().is_cpu()
            && let Some(layers) = fused.of(self)
        {
            return self.norm.forward(&self.run_fused(&x, batch, &pass, layers)?);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let layer = layer.clone();
            if let Some(result) = layer.run_trained(&x, &pass.layer(i))? {
                x = result;
                continue;
            }
            x = pass.layer(i).run(&x, move |x, pass| layer.feed_forward(&layer.attend(x, pass)?, pass))?;
        }
        let x = self.norm.forward(&x)?;
        if self.drops_output { pass.layer(pass::LAST).drop_hidden(x, Place::Output) } else { Ok(x) }
    }

    /// What the layers are told of a batch.
    ///
    /// # Errors
    /// Those of what layers know of distances.
    pub fn pass(&self, batch: &PackedBatch, mode: &Mode, causal: bool) -> candle_core::Result<Pass> {
        let mut pass = Pass::new(batch, mode, self.dropout, causal);
        pass.relative = match &self.relative {
            Some(Relative::Bias(bias)) => Some(bias.by_distance(longest(&batch.cu_seqlens))?),
            Some(Relative::Distances(distances)) => Some(distances.norm.forward(&distances.table)?),
            None => None,
        };
        Ok(pass)
    }

    /// The first layer's input, `[tokens, hidden]`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn embed(&self, batch: &PackedBatch, pass: &Pass) -> candle_core::Result<Tensor> {
        let x = match &self.embeddings {
            Embeddings::Absolute(tables) => tables.forward_to(&batch.ids, &self.positions(batch), pass.gradients())?,
            Embeddings::Words(table, factor) => {
                let x = look_up(table, &batch.ids)?;
                if *factor == 1.0 { x } else { (x * *factor)? }
            }
            Embeddings::Typed(table, kinds) => look_up(table, &batch.ids)?.broadcast_add(&kinds.narrow(0, 0, 1)?)?,
        };
        let x = crate::nn::activations(self.embedding_norm.forward(&x)?)?;
        pass.layer(pass::EMBEDDINGS).drop_hidden(x, Place::Output)
    }

    /// The word table, `[vocabulary, hidden]`.
    ///
    /// # Errors
    /// Those of memory.
    pub fn word_table(&self) -> candle_core::Result<Tensor> {
        match &self.embeddings {
            Embeddings::Absolute(tables) => tables.word.tensor(),
            Embeddings::Words(table, _) | Embeddings::Typed(table, _) => table.tensor(),
        }
    }

    fn positions(&self, batch: &PackedBatch) -> Arc<Vec<u32>> {
        match self.positions {
            Positions::Absolute => batch.positions.clone(),
            Positions::AfterPadding(pad) => {
                let mut out = Vec::with_capacity(batch.tokens());
                for bounds in batch.cu_seqlens.windows(2) {
                    let mut next = pad;
                    for &id in &batch.ids[bounds[0]..bounds[1]] {
                        if id == pad {
                            out.push(pad);
                        } else {
                            next += 1;
                            out.push(next);
                        }
                    }
                }
                Arc::new(out)
            }
        }
    }
}
