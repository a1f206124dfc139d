//! Gemma3's text model (Gemma Team 2025) as an embedder (EmbeddingGemma, Vera et al. 2025): RMSNorm around attention and feed-forward layers, its
//! scale 1 + weight, RMSNorm of query and key heads, gated GELU (by tanh), word vectors times √hidden. Most layers see a window, with
//! another base of their rotary positions. With `use_bidirectional_attention` tokens see those after them, too, and the window is
//! `sliding_window / 2` on either side; else it is `sliding_window − 1` before. transformers rounds √hidden to the weights' type; here it is
//! `f32`'s, as there for `f32` weights.

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

/// Hyper-parameters of Gemma3.
#[derive(Debug, Clone, PartialEq)]
pub struct GemmaConfig {
    vocab_size: usize,
    hidden_size: usize,
    heads: usize,
    key_values: usize,
    depth: usize,
    inner: usize,
    max_tokens: usize,
    eps: f64,
    bias: bool,
    bidirectional: bool,
    activation: Activation,
    local: Vec<bool>,
    window: usize,
    scale: f64,
    rope: [(f64, f64); 2],
    dropout: ModelDropout,
}

impl GemmaConfig {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let heads = fields.count("num_attention_heads", None, 1)?;
        let key_values = fields.count("num_key_value_heads", Some(4), 1)?;
        let depth = fields.count("head_dim", Some(256), 2)?;
        if !heads.is_multiple_of(key_values) || !depth.is_multiple_of(2) {
            return Err(fields.fail(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {key_values}, or head_dim {depth} is odd"
            )));
        }
        if !fields.config["attn_logit_softcapping"].is_null() {
            return Err(fields.fail("attn_logit_softcapping is not supported: only null, as in every Gemma3"));
        }
        let layers = fields.count("num_hidden_layers", None, 0)?;
        let every = fields.count("sliding_window_pattern", Some(6), 1)?;
        let bidirectional = fields.flag("use_bidirectional_attention", false)?;
        let window = fields.count("sliding_window", Some(4096), 1)?;
        Ok(Self {
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size: fields.count("hidden_size", None, 1)?,
            heads,
            key_values,
            depth,
            inner: fields.count("intermediate_size", None, 1)?,
            max_tokens: fields.count("max_position_embeddings", Some(131_072), 1)?,
            eps: fields.number("rms_norm_eps", 1e-6)?,
            bias: fields.flag("attention_bias", false)?,
            bidirectional,
            activation: fields.activation("hidden_activation", "gelu_pytorch_tanh")?,
            local: fields.windows(layers, |i| !(i + 1).is_multiple_of(every))?,
            window: if bidirectional { window / 2 } else { window - 1 },
            scale: fields.number("query_pre_attn_scalar", 256.0)?.powf(-0.5),
            rope: [
                fields.rope(Some("full_attention"), "rope_theta", 1_000_000.0)?,
                fields.rope(Some("sliding_attention"), "rope_local_base_freq", 10_000.0)?,
            ],
            dropout: ModelDropout { hidden: 0.0, attention: fields.probability("attention_dropout", 0.0)? },
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
        let rotary = self.rope.map(|(base, factor)| Arc::new(Rotary::new(self.depth, base, factor)));
        let table = p.table("embed_tokens.weight", self.vocab_size, self.hidden_size)?;
        let layers = (0..self.local.len()).map(|i| self.layer(i, &rotary, p).map(Arc::new));
        Ok(Encoder {
            embeddings: Embeddings::Words(table, f64::from((self.hidden_size as f64).sqrt() as f32)),
            embedding_norm: Norm::None,
            positions: Positions::Absolute,
            layers: layers.collect::<Result<_, _>>()?,
            norm: Norm::Rms(p.rms_norm("norm", self.hidden_size, self.eps, true)?),
            relative: None,
            drops_output: false,
            dropout: None,
        })
    }

    fn layer(&self, index: usize, rotary: &[Arc<Rotary>; 2], p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner, eps, bias, local) = (self.hidden_size, self.inner, self.eps, self.bias, self.local[index]);
        let (queries, keys) = (self.heads * self.depth, self.key_values * self.depth);
        let at = |module: &str| format!("layers.{index}.{module}");
        let head_norm = |module: &str| p.rms_norm(&at(module), self.depth, eps, true);
        let attention = SelfAttention {
            projections: Projections::separate(
                p.linear_with(&at("self_attn.q_proj"), hidden, queries, bias)?,
                p.linear_with(&at("self_attn.k_proj"), hidden, keys, bias)?,
                p.linear_with(&at("self_attn.v_proj"), hidden, keys, bias)?,
            )?,
            prepare: Some(QueryKey {
                heads: self.heads,
                key_values: self.key_values,
                norms: Some((head_norm("self_attn.q_norm")?, head_norm("self_attn.k_norm")?)),
                rotary: rotary[usize::from(local)].clone(),
            }),
            heads: Heads {
                count: self.heads,
                key_values: self.key_values,
                causal: !self.bidirectional,
                window: local.then_some(self.window),
                scale: Some(self.scale as f32),
                ..Heads::default()
            },
            biased: false,
            output: p.linear_with(&at("self_attn.o_proj"), queries, hidden, bias)?,
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
        let norm = |module: &str| p.rms_norm(&at(module), hidden, eps, true).map(Norm::Rms);
        let order = Order::Around([
            norm("input_layernorm")?,
            norm("post_attention_layernorm")?,
            norm("pre_feedforward_layernorm")?,
            norm("post_feedforward_layernorm")?,
        ]);
        Ok(Layer { attention: attention.into(), feed_forward, order, drops: [Drops::Never; 2], relative: None })
    }
}
