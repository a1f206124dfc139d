//! Qwen2 and Qwen3 as embedders (Yang et al. 2024, 2025; Zhang et al. 2025): RMSNorm before attention and feed-forward layers, gated SiLU, rotary
//! positions, fewer heads of keys and values. Qwen2 has biases on queries, keys and values; Qwen3 has none, but an RMSNorm of each
//! query and key head, and heads whose width is its own. Attention is causal unless the config says `"is_causal": false`, as gte-Qwen2
//! does. The language model's head, which no embedder uses, is not read.

use std::sync::Arc;

use super::fields::Fields;
use super::{ModelDropout, Spec};
use crate::model::ModelError;
use crate::model::layers::{
    Drops, Embeddings, Encoder, FeedForward, Inner, Layer, Norm, Order, Positions, Projections, SelfAttention,
};
use crate::model::parameters::Parameters;
use crate::nn::activation::Activation;
use crate::nn::attention::Heads;
use crate::nn::rotary::{QueryKey, Rotary};

/// Hyper-parameters of Qwen2 and Qwen3.
#[derive(Debug, Clone, PartialEq)]
pub struct QwenConfig {
    vocab_size: usize,
    hidden_size: usize,
    heads: usize,
    key_values: usize,
    /// Values of a head.
    depth: usize,
    inner: usize,
    max_tokens: usize,
    eps: f64,
    /// Biases of queries, keys and values; and of the output.
    biases: [bool; 2],
    /// RMSNorm of query and key heads.
    normed: bool,
    causal: bool,
    activation: Activation,
    /// Layers that see a window alone, and the farthest token in it.
    local: Vec<bool>,
    window: usize,
    rope: (f64, f64),
    dropout: ModelDropout,
}

impl QwenConfig {
    pub(super) fn parse(fields: &Fields<'_>, model_type: &str) -> Result<Self, ModelError> {
        let third = model_type == "qwen3";
        let (hidden_size, heads) =
            (fields.count("hidden_size", None, 1)?, fields.count("num_attention_heads", None, 1)?);
        let key_values = fields.count("num_key_value_heads", Some(heads), 1)?;
        let depth = match fields.config["head_dim"].is_null() {
            true if third => 128,
            true => fields.heads("hidden_size", "num_attention_heads").map(|(width, heads)| width / heads)?,
            false => fields.count("head_dim", None, 2)?,
        };
        if !heads.is_multiple_of(key_values) || !depth.is_multiple_of(2) {
            return Err(fields.fail(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {key_values}, or head_dim {depth} is odd"
            )));
        }
        let layers = fields.count("num_hidden_layers", None, 0)?;
        let from = match fields.flag("use_sliding_window", false)? && !fields.config["sliding_window"].is_null() {
            true => fields.count("max_window_layers", Some(28), 0)?,
            false => usize::MAX,
        };
        let attention_bias = third && fields.flag("attention_bias", false)?;
        let attention = fields.probability("attention_dropout", 0.0)?;
        Ok(Self {
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size,
            heads,
            key_values,
            depth,
            inner: fields.count("intermediate_size", None, 1)?,
            max_tokens: fields.count("max_position_embeddings", Some(32_768), 1)?,
            eps: fields.number("rms_norm_eps", 1e-6)?,
            biases: [!third || attention_bias, attention_bias],
            normed: third,
            causal: fields.flag("is_causal", true)?,
            activation: fields.activation("hidden_act", "silu")?,
            local: fields.windows(layers, |i| i >= from)?,
            window: fields.count("sliding_window", Some(4096), 1)? - 1,
            rope: fields.rope(None, "rope_theta", 10_000.0)?,
            dropout: ModelDropout { hidden: 0.0, attention },
        })
    }

    pub(super) fn spec(&self) -> Spec {
        Spec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_tokens: self.max_tokens,
            layers: self.local.len(),
            dropout: self.dropout,
        }
    }

    pub(super) fn load(&self, p: &Parameters<'_>) -> Result<Encoder, ModelError> {
        let rotary = Arc::new(Rotary::new(self.depth, self.rope.0, self.rope.1));
        let table = p.table("embed_tokens.weight", self.vocab_size, self.hidden_size)?;
        let layers = (0..self.local.len()).map(|i| self.layer(i, &rotary, p).map(Arc::new));
        Ok(Encoder {
            embeddings: Embeddings::Words(table, 1.0),
            embedding_norm: Norm::None,
            positions: Positions::Absolute,
            layers: layers.collect::<Result<_, _>>()?,
            norm: Norm::Rms(p.rms_norm("norm", self.hidden_size, self.eps, false)?),
            relative: None,
            drops_output: false,
            dropout: None,
        })
    }

    fn layer(&self, index: usize, rotary: &Arc<Rotary>, p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner, eps) = (self.hidden_size, self.inner, self.eps);
        let (queries, keys) = (self.heads * self.depth, self.key_values * self.depth);
        let at = |module: &str| format!("layers.{index}.{module}");
        let head_norm = |module: &str| p.rms_norm(&at(module), self.depth, eps, false);
        let norms = match self.normed {
            true => Some((head_norm("self_attn.q_norm")?, head_norm("self_attn.k_norm")?)),
            false => None,
        };
        let [biased, output_biased] = self.biases;
        let attention = SelfAttention {
            projections: Projections::separate(
                p.linear_with(&at("self_attn.q_proj"), hidden, queries, biased)?,
                p.linear_with(&at("self_attn.k_proj"), hidden, keys, biased)?,
                p.linear_with(&at("self_attn.v_proj"), hidden, keys, biased)?,
            )?,
            prepare: Some(QueryKey { heads: self.heads, key_values: self.key_values, norms, rotary: rotary.clone() }),
            heads: Heads {
                count: self.heads,
                key_values: self.key_values,
                causal: self.causal,
                window: self.local[index].then_some(self.window),
                ..Heads::default()
            },
            biased: false,
            output: p.linear_with(&at("self_attn.o_proj"), queries, hidden, output_biased)?,
        };
        let feed_forward = FeedForward {
            inner: Inner::gated(
                p.linear_with(&at("mlp.gate_proj"), hidden, inner, false)?,
                p.linear_with(&at("mlp.up_proj"), hidden, inner, false)?,
            )?,
            activation: self.activation,
            drops: false,
            output: p.linear_with(&at("mlp.down_proj"), inner, hidden, false)?,
        };
        let norm = |module: &str| p.rms_norm(&at(module), hidden, eps, false).map(Norm::Rms);
        let order = Order::Before([norm("input_layernorm")?, norm("post_attention_layernorm")?]);
        Ok(Layer { attention: attention.into(), feed_forward, order, drops: [Drops::Never; 2], relative: None })
    }
}
