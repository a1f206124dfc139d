//! The BERT encoder (Devlin et al. 2019), and its kin RoBERTa, XLM-R and CamemBERT, which differ in how positions are counted. The
//! pooler of the original, which no embedder uses, is not run.

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

/// Hyper-parameters of a BERT-like encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of the token vectors.
    pub hidden_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the token-type table.
    pub type_vocab_size: usize,
    /// Added to the variance in LayerNorm.
    pub layer_norm_eps: f64,
    /// Feed-forward activation.
    pub hidden_act: Activation,
    /// How positions are counted.
    pub positions: Positions,
    /// Dropout that the model was made to be trained with.
    pub dropout: ModelDropout,
}

impl BertConfig {
    pub(super) fn parse(fields: &Fields<'_>, model_type: &str) -> Result<Self, ModelError> {
        let positions = match model_type {
            "bert" => Positions::Absolute,
            _ => Positions::AfterPadding(fields.count("pad_token_id", Some(1), 0)? as u32),
        };
        fields.only("position_embedding_type", &["absolute"])?;
        let (hidden_size, num_attention_heads) = fields.heads("hidden_size", "num_attention_heads")?;
        Ok(Self {
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size,
            num_hidden_layers: fields.count("num_hidden_layers", None, 0)?,
            num_attention_heads,
            intermediate_size: fields.count("intermediate_size", None, 1)?,
            max_position_embeddings: fields.count("max_position_embeddings", None, 1)?,
            type_vocab_size: fields.count("type_vocab_size", Some(1), 1)?,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-12)?,
            hidden_act: fields.activation("hidden_act", "gelu")?,
            positions,
            dropout: fields.dropout("hidden_dropout_prob", "attention_probs_dropout_prob", 0.1)?,
        })
    }

    /// Tokens that the position table has room for.
    pub fn max_tokens(&self) -> usize {
        match self.positions {
            Positions::Absolute => self.max_position_embeddings,
            Positions::AfterPadding(pad) => self.max_position_embeddings.saturating_sub(pad as usize + 1),
        }
    }

    pub(super) fn spec(&self) -> Spec {
        Spec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_tokens: self.max_tokens(),
            layers: self.num_hidden_layers,
            dropout: self.dropout,
        }
    }

    /// Takes its tensors by their names in a transformers state dict (`embeddings.word_embeddings.weight` …).
    pub(super) fn load(&self, p: &Parameters<'_>) -> Result<Encoder, ModelError> {
        let (hidden, eps) = (self.hidden_size, self.layer_norm_eps);
        let tables = Embedding {
            word: p.table("embeddings.word_embeddings.weight", self.vocab_size, hidden)?,
            position: p.tensor("embeddings.position_embeddings.weight", &[self.max_position_embeddings, hidden])?,
            token_type: Some(p.tensor("embeddings.token_type_embeddings.weight", &[self.type_vocab_size, hidden])?),
        };
        let layers = (0..self.num_hidden_layers).map(|i| self.layer(i, p).map(Arc::new));
        Ok(Encoder {
            embeddings: Embeddings::Absolute(tables),
            embedding_norm: Norm::Layer(p.layer_norm("embeddings.LayerNorm", hidden, eps)?),
            positions: self.positions,
            layers: layers.collect::<Result<_, _>>()?,
            norm: Norm::None,
            relative: None,
            drops_output: false,
            dropout: None,
        })
    }

    fn layer(&self, index: usize, p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner, eps) = (self.hidden_size, self.intermediate_size, self.layer_norm_eps);
        let at = |module: &str| format!("encoder.layer.{index}.{module}");
        let attention = SelfAttention {
            projections: Projections::separate(
                p.linear(&at("attention.self.query"), hidden, hidden)?,
                p.linear(&at("attention.self.key"), hidden, hidden)?,
                p.linear(&at("attention.self.value"), hidden, hidden)?,
            )?,
            prepare: None,
            heads: self.num_attention_heads.into(),
            biased: false,
            output: p.linear(&at("attention.output.dense"), hidden, hidden)?,
        };
        let attention_norm = p.layer_norm(&at("attention.output.LayerNorm"), hidden, eps)?;
        let feed_forward = FeedForward {
            inner: Inner::Plain(p.linear(&at("intermediate.dense"), hidden, inner)?),
            activation: self.hidden_act,
            drops: false,
            output: p.linear(&at("output.dense"), inner, hidden)?,
        };
        let norms = [Norm::Layer(attention_norm), Norm::Layer(p.layer_norm(&at("output.LayerNorm"), hidden, eps)?)];
        Ok(Layer {
            attention: attention.into(),
            feed_forward,
            order: Order::After(norms),
            drops: [Drops::AsHidden; 2],
            relative: None,
        })
    }
}
