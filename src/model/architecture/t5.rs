//! The encoder of T5 (Raffel et al. 2020; FRIDA, sentence-t5), mT5 (Xue et al. 2021) and umT5 (Chung et al. 2023): RMSNorm before attention and
//! feed-forward layers, no biases, scores that are not scaled but have a bias by distance: one for all layers, held by the first (umT5:
//! one a layer). The feed-forward layers are plain with ReLU (T5 1.0) or gated with GELU by tanh (1.1). The decoder, which no embedder
//! uses, is not read.

use std::sync::Arc;

use super::fields::Fields;
use super::{ModelDropout, Spec, UNLIMITED};
use crate::model::ModelError;
use crate::model::layers::{
    Drops, Embeddings, Encoder, FeedForward, Inner, Layer, Norm, Order, Positions, Projections, Relative, RelativeBias,
    SelfAttention,
};
use crate::model::parameters::Parameters;
use crate::model::weights::Weights;
use crate::nn::activation::Activation;
use crate::nn::attention::Heads;

/// Hyper-parameters of T5's encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct T5Config {
    vocab_size: usize,
    hidden_size: usize,
    layers: usize,
    heads: usize,
    /// Values of a head.
    depth: usize,
    inner: usize,
    eps: f64,
    gated: bool,
    activation: Activation,
    buckets: usize,
    max_distance: usize,
    /// A bias a layer (umT5).
    own_bias: bool,
    dropout: ModelDropout,
}

impl T5Config {
    pub(super) fn parse(fields: &Fields<'_>, model_type: &str) -> Result<Self, ModelError> {
        let default = if model_type == "t5" { "relu" } else { "gated-gelu" };
        let kind = fields.text("feed_forward_proj")?.unwrap_or(default);
        let (gated, name) = match kind.strip_prefix("gated-") {
            // As transformers has it: the gated form means GELU by tanh.
            Some("gelu") => (true, "gelu_new"),
            Some(name) => (true, name),
            None => (false, kind),
        };
        let activation = Activation::by_name(name).ok_or_else(|| {
            fields.fail(format!("feed_forward_proj `{kind}` is not supported; those supported are relu, gated-gelu"))
        })?;
        let buckets = fields.count("relative_attention_num_buckets", Some(32), 4)?;
        let max_distance = fields.count("relative_attention_max_distance", Some(128), 1)?;
        if !buckets.is_multiple_of(4) || max_distance <= buckets / 4 {
            return Err(fields.fail(format!(
                "relative_attention_num_buckets {buckets} is not a multiple of 4, or relative_attention_max_distance \
                 {max_distance} is not above a quarter of it"
            )));
        }
        let dropout = fields.probability("dropout_rate", 0.1)?;
        Ok(Self {
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size: fields.count("d_model", None, 1)?,
            layers: fields.count("num_layers", None, 0)?,
            heads: fields.count("num_heads", None, 1)?,
            depth: fields.count("d_kv", Some(64), 1)?,
            inner: fields.count("d_ff", None, 1)?,
            eps: fields.number("layer_norm_epsilon", 1e-6)?,
            gated,
            activation,
            buckets,
            max_distance,
            own_bias: model_type == "umt5",
            dropout: ModelDropout { hidden: dropout, attention: dropout },
        })
    }

    pub(super) fn spec(&self) -> Spec {
        Spec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_tokens: UNLIMITED,
            layers: self.layers,
            dropout: self.dropout,
        }
    }

    pub(super) fn load(&self, p: &Parameters<'_>) -> Result<Encoder, ModelError> {
        let table = p.table("shared.weight", self.vocab_size, self.hidden_size)?;
        let relative = if self.own_bias || self.layers == 0 { None } else { Some(Relative::Bias(self.bias(0, p)?)) };
        let layers = (0..self.layers).map(|i| self.layer(i, p).map(Arc::new));
        Ok(Encoder {
            embeddings: Embeddings::Words(table, 1.0),
            embedding_norm: Norm::None,
            positions: Positions::Absolute,
            layers: layers.collect::<Result<_, _>>()?,
            norm: Norm::Rms(p.rms_norm("encoder.final_layer_norm", self.hidden_size, self.eps, false)?),
            relative,
            drops_output: true,
            dropout: None,
        })
    }

    fn bias(&self, layer: usize, p: &Parameters<'_>) -> Result<RelativeBias, ModelError> {
        let name = format!("encoder.block.{layer}.layer.0.SelfAttention.relative_attention_bias.weight");
        let table = p.tensor(&name, &[self.buckets, self.heads])?;
        Ok(RelativeBias { table, buckets: self.buckets, max_distance: self.max_distance })
    }

    fn layer(&self, index: usize, p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner, width) = (self.hidden_size, self.inner, self.heads * self.depth);
        let at = |module: &str| format!("encoder.block.{index}.layer.{module}");
        let linear = |module: &str, from: usize, to: usize| p.linear_with(&at(module), from, to, false);
        let attention = SelfAttention {
            projections: Projections::separate(
                linear("0.SelfAttention.q", hidden, width)?,
                linear("0.SelfAttention.k", hidden, width)?,
                linear("0.SelfAttention.v", hidden, width)?,
            )?,
            prepare: None,
            heads: Heads { count: self.heads, scale: Some(1.0), ..Heads::default() },
            biased: true,
            output: linear("0.SelfAttention.o", width, hidden)?,
        };
        let up = |module: &str| linear(&format!("1.DenseReluDense.{module}"), hidden, inner);
        let feed_forward = FeedForward {
            inner: if self.gated { Inner::gated(up("wi_0")?, up("wi_1")?)? } else { Inner::Plain(up("wi")?) },
            activation: self.activation,
            drops: true,
            output: linear("1.DenseReluDense.wo", inner, hidden)?,
        };
        let norm = |module: &str| p.rms_norm(&at(module), hidden, self.eps, false).map(Norm::Rms);
        let order = Order::Before([norm("0.layer_norm")?, norm("1.layer_norm")?]);
        let relative = if self.own_bias { Some(self.bias(index, p)?) } else { None };
        Ok(Layer { attention: attention.into(), feed_forward, order, drops: [Drops::AsHidden; 2], relative })
    }
}

/// The encoder's tensors and the word table, which older files call `encoder.embed_tokens.weight`, too.
pub(super) fn canonical(weights: Weights) -> Weights {
    const ANCHOR: &str = "encoder.final_layer_norm.weight";
    let prefix = weights.keys().find_map(|name| name.strip_suffix(ANCHOR).map(str::to_string)).unwrap_or_default();
    let mut kept = Weights::new();
    let mut words = None;
    for (name, tensor) in weights {
        match name.strip_prefix(&prefix) {
            Some("encoder.embed_tokens.weight") => words = Some(tensor),
            Some(name) if name == "shared.weight" || name.starts_with("encoder.") => {
                kept.insert(name.to_string(), tensor);
            }
            _ => {}
        }
    }
    if let Some(words) = words {
        kept.entry("shared.weight".into()).or_insert(words);
    }
    kept
}
