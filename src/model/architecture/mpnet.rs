//! MPNet (Song et al. 2020): BERT without token types, positions counted as RoBERTa does, and a bias by distance that all layers share.

use std::sync::Arc;

use super::fields::Fields;
use super::{ModelDropout, Spec};
use crate::model::ModelError;
use crate::model::layers::{
    Drops, Embeddings, Encoder, FeedForward, Inner, Layer, Norm, Order, Positions, Projections, Relative, RelativeBias,
    SelfAttention,
};
use crate::model::parameters::Parameters;
use crate::nn::activation::Activation;
use crate::nn::embedding::Embedding;

/// In transformers' code, whatever the config says.
const PADDING: u32 = 1;
const BUCKETS: usize = 32;
const MAX_DISTANCE: usize = 128;

/// Hyper-parameters of MPNet.
#[derive(Debug, Clone, PartialEq)]
pub struct MpnetConfig {
    vocab_size: usize,
    hidden_size: usize,
    heads: usize,
    layers: usize,
    inner: usize,
    positions: usize,
    /// Rows of the table of biases.
    rows: usize,
    eps: f64,
    activation: Activation,
    dropout: ModelDropout,
}

impl MpnetConfig {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let (hidden_size, heads) = fields.heads("hidden_size", "num_attention_heads")?;
        let rows = fields.count("relative_attention_num_buckets", Some(BUCKETS), BUCKETS)?;
        Ok(Self {
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size,
            heads,
            layers: fields.count("num_hidden_layers", None, 0)?,
            inner: fields.count("intermediate_size", None, 1)?,
            positions: fields.count("max_position_embeddings", None, 1)?,
            rows,
            eps: fields.number("layer_norm_eps", 1e-12)?,
            activation: fields.activation("hidden_act", "gelu")?,
            dropout: fields.dropout("hidden_dropout_prob", "attention_probs_dropout_prob", 0.1)?,
        })
    }

    pub(super) fn spec(&self) -> Spec {
        Spec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_tokens: self.positions.saturating_sub(PADDING as usize + 1),
            layers: self.layers,
            dropout: self.dropout,
        }
    }

    pub(super) fn load(&self, p: &Parameters<'_>) -> Result<Encoder, ModelError> {
        let hidden = self.hidden_size;
        let tables = Embedding {
            word: p.table("embeddings.word_embeddings.weight", self.vocab_size, hidden)?,
            position: p.tensor("embeddings.position_embeddings.weight", &[self.positions, hidden])?,
            token_type: None,
        };
        let table = p.tensor("encoder.relative_attention_bias.weight", &[self.rows, self.heads])?;
        let layers = (0..self.layers).map(|i| self.layer(i, p).map(Arc::new));
        Ok(Encoder {
            embeddings: Embeddings::Absolute(tables),
            embedding_norm: Norm::Layer(p.layer_norm("embeddings.LayerNorm", hidden, self.eps)?),
            positions: Positions::AfterPadding(PADDING),
            layers: layers.collect::<Result<_, _>>()?,
            norm: Norm::None,
            relative: Some(Relative::Bias(RelativeBias { table, buckets: BUCKETS, max_distance: MAX_DISTANCE })),
            drops_output: false,
            dropout: None,
        })
    }

    fn layer(&self, index: usize, p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner) = (self.hidden_size, self.inner);
        let at = |module: &str| format!("encoder.layer.{index}.{module}");
        let square = |module: &str| p.linear(&at(module), hidden, hidden);
        let attention = SelfAttention {
            projections: Projections::separate(
                square("attention.attn.q")?,
                square("attention.attn.k")?,
                square("attention.attn.v")?,
            )?,
            prepare: None,
            heads: self.heads.into(),
            biased: true,
            output: square("attention.attn.o")?,
        };
        let norm = |module: &str| p.layer_norm(&at(module), hidden, self.eps).map(Norm::Layer);
        let first = norm("attention.LayerNorm")?;
        let feed_forward = FeedForward {
            inner: Inner::Plain(p.linear(&at("intermediate.dense"), hidden, inner)?),
            activation: self.activation,
            drops: false,
            output: p.linear(&at("output.dense"), inner, hidden)?,
        };
        let order = Order::After([first, norm("output.LayerNorm")?]);
        Ok(Layer { attention: attention.into(), feed_forward, order, drops: [Drops::AsHidden; 2], relative: None })
    }
}
