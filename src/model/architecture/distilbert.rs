//! DistilBERT (Sanh et al. 2019): BERT without token types, with names of its own; no dropout falls on what attention adds to the residual.

use std::sync::Arc;

use super::fields::Fields;
use super::{ModelDropout, Spec};
use crate::model::ModelError;
use crate::model::layers::{
    Drops, Embeddings, Encoder, FeedForward, Inner, Layer, Norm, Order, Positions, Projections, SelfAttention,
};
use crate::model::parameters::Parameters;
use crate::nn::activation::Activation;
use crate::nn::embedding::Embedding;

/// In transformers' code, not in the config.
const EPS: f64 = 1e-12;

/// Hyper-parameters of DistilBERT.
#[derive(Debug, Clone, PartialEq)]
pub struct DistilBertConfig {
    vocab_size: usize,
    hidden_size: usize,
    heads: usize,
    layers: usize,
    inner: usize,
    max_tokens: usize,
    activation: Activation,
    dropout: ModelDropout,
}

impl DistilBertConfig {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let (hidden_size, heads) = fields.heads("dim", "n_heads")?;
        Ok(Self {
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size,
            heads,
            layers: fields.count("n_layers", None, 0)?,
            inner: fields.count("hidden_dim", None, 1)?,
            max_tokens: fields.count("max_position_embeddings", None, 1)?,
            activation: fields.activation("activation", "gelu")?,
            dropout: fields.dropout("dropout", "attention_dropout", 0.1)?,
        })
    }

    pub(super) fn spec(&self) -> Spec {
        Spec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_tokens: self.max_tokens,
            layers: self.layers,
            dropout: self.dropout,
        }
    }

    pub(super) fn load(&self, p: &Parameters<'_>) -> Result<Encoder, ModelError> {
        let hidden = self.hidden_size;
        let tables = Embedding {
            word: p.table("embeddings.word_embeddings.weight", self.vocab_size, hidden)?,
            position: p.tensor("embeddings.position_embeddings.weight", &[self.max_tokens, hidden])?,
            token_type: None,
        };
        let layers = (0..self.layers).map(|i| self.layer(i, p).map(Arc::new));
        Ok(Encoder {
            embeddings: Embeddings::Absolute(tables),
            embedding_norm: Norm::Layer(p.layer_norm("embeddings.LayerNorm", hidden, EPS)?),
            positions: Positions::Absolute,
            layers: layers.collect::<Result<_, _>>()?,
            norm: Norm::None,
            relative: None,
            drops_output: false,
            dropout: None,
        })
    }

    fn layer(&self, index: usize, p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner) = (self.hidden_size, self.inner);
        let at = |module: &str| format!("transformer.layer.{index}.{module}");
        let square = |module: &str| p.linear(&at(module), hidden, hidden);
        let attention = SelfAttention {
            projections: Projections::separate(
                square("attention.q_lin")?,
                square("attention.k_lin")?,
                square("attention.v_lin")?,
            )?,
            prepare: None,
            heads: self.heads.into(),
            biased: false,
            output: square("attention.out_lin")?,
        };
        let norm = |module: &str| p.layer_norm(&at(module), hidden, EPS).map(Norm::Layer);
        let first = norm("sa_layer_norm")?;
        let feed_forward = FeedForward {
            inner: Inner::Plain(p.linear(&at("ffn.lin1"), hidden, inner)?),
            activation: self.activation,
            drops: false,
            output: p.linear(&at("ffn.lin2"), inner, hidden)?,
        };
        let order = Order::After([first, norm("output_layer_norm")?]);
        Ok(Layer {
            attention: attention.into(),
            feed_forward,
            order,
            drops: [Drops::Never, Drops::AsHidden],
            relative: None,
        })
    }
}
