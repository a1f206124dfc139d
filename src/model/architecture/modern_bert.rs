//! ModernBERT (Warner et al. 2024): RoModernBERT, USER2. Norms before attention and feed-forward layers (none before the first attention, whose
//! input is normed), gated GELU, rotary positions; two layers of three see `local_attention / 2` tokens on either side, with another
//! base of their positions. Different from the paper: dropout of the embeddings is drawn as often as that between the feed-forward
//! layers (`mlp_dropout`); both are 0 in every model published.

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

/// Hyper-parameters of ModernBERT.
#[derive(Debug, Clone, PartialEq)]
pub struct ModernBertConfig {
    vocab_size: usize,
    hidden_size: usize,
    heads: usize,
    inner: usize,
    max_tokens: usize,
    eps: f64,
    norm_bias: bool,
    attention_bias: bool,
    mlp_bias: bool,
    activation: Activation,
    /// Layers that see a window alone.
    local: Vec<bool>,
    /// Tokens on either side in those.
    window: usize,
    /// Base and factor of rotary positions, of global and of local layers.
    rope: [(f64, f64); 2],
    dropout: ModelDropout,
}

impl ModernBertConfig {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let (hidden_size, heads) = fields.even_heads("hidden_size", "num_attention_heads")?;
        let layers = fields.count("num_hidden_layers", None, 0)?;
        let every = fields.count("global_attn_every_n_layers", Some(3), 1)?;
        Ok(Self {
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size,
            heads,
            inner: fields.count("intermediate_size", None, 1)?,
            max_tokens: fields.count("max_position_embeddings", Some(8192), 1)?,
            eps: fields.number("norm_eps", 1e-5)?,
            norm_bias: fields.flag("norm_bias", false)?,
            attention_bias: fields.flag("attention_bias", false)?,
            mlp_bias: fields.flag("mlp_bias", false)?,
            activation: fields.activation("hidden_activation", "gelu")?,
            local: fields.windows(layers, |i| !i.is_multiple_of(every))?,
            window: fields.count("local_attention", Some(128), 1)? / 2,
            rope: [
                fields.rope(Some("full_attention"), "global_rope_theta", 160_000.0)?,
                fields.rope(Some("sliding_attention"), "local_rope_theta", 10_000.0)?,
            ],
            dropout: fields.dropout("mlp_dropout", "attention_dropout", 0.0)?,
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
        let hidden = self.hidden_size;
        let rotary = self.rope.map(|(base, factor)| Arc::new(Rotary::new(hidden / self.heads, base, factor)));
        let table = p.table("embeddings.tok_embeddings.weight", self.vocab_size, hidden)?;
        let layers = (0..self.local.len()).map(|i| self.layer(i, &rotary, p).map(Arc::new));
        Ok(Encoder {
            embeddings: Embeddings::Words(table, 1.0),
            embedding_norm: self.norm("embeddings.norm", p)?,
            positions: Positions::Absolute,
            layers: layers.collect::<Result<_, _>>()?,
            norm: self.norm("final_norm", p)?,
            relative: None,
            drops_output: false,
            dropout: None,
        })
    }

    fn norm(&self, module: &str, p: &Parameters<'_>) -> Result<Norm, ModelError> {
        p.layer_norm_with(module, self.hidden_size, self.eps, self.norm_bias).map(Norm::Layer)
    }

    fn layer(&self, index: usize, rotary: &[Arc<Rotary>; 2], p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner, local) = (self.hidden_size, self.inner, self.local[index]);
        let at = |module: &str| format!("layers.{index}.{module}");
        let prepare = QueryKey {
            heads: self.heads,
            key_values: self.heads,
            norms: None,
            rotary: rotary[usize::from(local)].clone(),
        };
        let attention = SelfAttention {
            projections: Projections::Fused(p.linear_with(
                &at("attn.Wqkv"),
                hidden,
                3 * hidden,
                self.attention_bias,
            )?),
            prepare: Some(prepare),
            heads: Heads { count: self.heads, window: local.then_some(self.window), ..Heads::default() },
            biased: false,
            output: p.linear_with(&at("attn.Wo"), hidden, hidden, self.attention_bias)?,
        };
        let feed_forward = FeedForward {
            inner: Inner::FusedGated(p.linear_with(&at("mlp.Wi"), hidden, 2 * inner, self.mlp_bias)?),
            activation: self.activation,
            drops: true,
            output: p.linear_with(&at("mlp.Wo"), inner, hidden, self.mlp_bias)?,
        };
        let first = if index == 0 { Norm::None } else { self.norm(&at("attn_norm"), p)? };
        let order = Order::Before([first, self.norm(&at("mlp_norm"), p)?]);
        Ok(Layer {
            attention: attention.into(),
            feed_forward,
            order,
            drops: [Drops::AsWeights, Drops::Never],
            relative: None,
        })
    }
}
