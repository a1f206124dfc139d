//! NomicBERT (Nussbaum et al. 2024): BERT with rotary positions instead of a table, gated SiLU and no biases. Files have the hub's names (`Wqkv`,
//! `fc11`, `fc12`, `fc2` …), also those that transformers 5 writes, whose modules (and adapters) have names of their own (`q_proj`, `up_proj` …).
//! Here names are those of the modules; both are read, and the hub's are written. A config may have the hub's keys (`n_embd` …) or
//! transformers' (`hidden_size` …).

use std::sync::Arc;

use candle_core::Tensor;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{ModelDropout, Spec};
use crate::model::ModelError;
use crate::model::layers::{
    Drops, Embeddings, Encoder, FeedForward, Inner, Layer, Norm, Order, Positions, Projections, SelfAttention,
};
use crate::model::parameters::Parameters;
use crate::model::weights::{self, Weights};
use crate::nn::activation::Activation;
use crate::nn::rotary::{QueryKey, Rotary};

/// Hyper-parameters of NomicBERT.
#[derive(Debug, Clone, PartialEq)]
pub struct NomicBertConfig {
    vocab_size: usize,
    kinds: usize,
    hidden_size: usize,
    heads: usize,
    layers: usize,
    inner: usize,
    max_tokens: usize,
    eps: f64,
    activation: Activation,
    rope: (f64, f64),
    dropout: ModelDropout,
}

impl NomicBertConfig {
    pub(super) fn parse(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let vocab_size = fields.count("vocab_size", None, 1)?;
        let kinds = fields.count("type_vocab_size", Some(2), 1)?;
        if fields.config["n_embd"].is_null() {
            let (hidden_size, heads) = fields.even_heads("hidden_size", "num_attention_heads")?;
            return Ok(Self {
                vocab_size,
                kinds,
                hidden_size,
                heads,
                layers: fields.count("num_hidden_layers", None, 0)?,
                inner: fields.count("intermediate_size", None, 1)?,
                max_tokens: fields.count("max_position_embeddings", Some(2048), 1)?,
                eps: fields.number("layer_norm_eps", 1e-12)?,
                activation: fields.activation("hidden_act", "silu")?,
                rope: fields.rope(None, "rope_theta", 1000.0)?,
                dropout: fields.dropout("hidden_dropout_prob", "attention_probs_dropout_prob", 0.0)?,
            });
        }
        for key in [
            "prenorm",
            "parallel_block",
            "use_rms_norm",
            "qkv_proj_bias",
            "mlp_fc1_bias",
            "mlp_fc2_bias",
            "rotary_emb_interleaved",
            "causal",
        ] {
            fields.refuse(key)?;
        }
        let share = fields.number("rotary_emb_fraction", 1.0)?;
        if share != 1.0 || !fields.config["rotary_emb_scale_base"].is_null() {
            return Err(fields.fail("only rotary_emb_fraction 1.0 with rotary_emb_scale_base null is supported"));
        }
        fields.only("activation_function", &["swiglu"])?;
        let (hidden_size, heads) = fields.even_heads("n_embd", "n_head")?;
        Ok(Self {
            vocab_size,
            kinds,
            hidden_size,
            heads,
            layers: fields.count("n_layer", None, 0)?,
            inner: fields.count("n_inner", None, 1)?,
            max_tokens: Self::trained(fields)?,
            eps: fields.number("layer_norm_epsilon", 1e-12)?,
            activation: Activation::Silu,
            rope: (fields.number("rotary_emb_base", 1000.0)?, 1.0),
            dropout: fields.dropout("resid_pdrop", "attn_pdrop", 0.0)?,
        })
    }

    /// With transformers' keys, without which transformers 5 takes its own sizes.
    pub(super) fn stored_config(&self, config: &Value) -> Value {
        let mut config = config.clone();
        if let Some(map) = config.as_object_mut() {
            for (key, value) in [
                ("hidden_size", json!(self.hidden_size)),
                ("num_hidden_layers", json!(self.layers)),
                ("num_attention_heads", json!(self.heads)),
                ("intermediate_size", json!(self.inner)),
                ("max_position_embeddings", json!(self.max_tokens)),
                ("layer_norm_eps", json!(self.eps)),
                ("hidden_act", json!("silu")),
                ("rope_parameters", json!({"rope_type": "default", "rope_theta": self.rope.0})),
            ] {
                map.entry(key).or_insert(value);
            }
        }
        config
    }

    /// Longer texts would have other positions (dynamic scaling), which is not supported.
    fn trained(fields: &Fields<'_>) -> Result<usize, ModelError> {
        let positions = fields.count("n_positions", Some(2048), 1)?;
        match fields.config["rotary_scaling_factor"].is_null() {
            true => Ok(positions),
            false => Ok(positions.min(fields.count("max_trained_positions", Some(2048), 1)?)),
        }
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
        let rotary = Arc::new(Rotary::new(hidden / self.heads, self.rope.0, self.rope.1));
        let words = p.table("embeddings.word_embeddings.weight", self.vocab_size, hidden)?;
        let kinds = p.tensor("embeddings.token_type_embeddings.weight", &[self.kinds, hidden])?;
        let layers = (0..self.layers).map(|i| self.layer(i, &rotary, p).map(Arc::new));
        Ok(Encoder {
            embeddings: Embeddings::Typed(words, kinds),
            embedding_norm: Norm::Layer(p.layer_norm("embeddings.LayerNorm", hidden, self.eps)?),
            positions: Positions::Absolute,
            layers: layers.collect::<Result<_, _>>()?,
            norm: Norm::None,
            relative: None,
            drops_output: false,
            dropout: None,
        })
    }

    fn layer(&self, index: usize, rotary: &Arc<Rotary>, p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner) = (self.hidden_size, self.inner);
        let at = |module: &str| format!("layers.{index}.{module}");
        let linear = |module: &str, from, to| p.linear_with(&at(module), from, to, false);
        let square = |module: &str| linear(module, hidden, hidden);
        let attention = SelfAttention {
            projections: Projections::separate(
                square("self_attn.q_proj")?,
                square("self_attn.k_proj")?,
                square("self_attn.v_proj")?,
            )?,
            prepare: Some(QueryKey { heads: self.heads, key_values: self.heads, norms: None, rotary: rotary.clone() }),
            heads: self.heads.into(),
            biased: false,
            output: square("self_attn.o_proj")?,
        };
        let feed_forward = FeedForward {
            inner: Inner::gated(linear("mlp.gate_proj", hidden, inner)?, linear("mlp.up_proj", hidden, inner)?)?,
            activation: self.activation,
            drops: false,
            output: linear("mlp.down_proj", inner, hidden)?,
        };
        let norm = |module: &str| p.layer_norm(&at(module), hidden, self.eps).map(Norm::Layer);
        let order = Order::After([norm("post_attention_layernorm")?, norm("post_mlp_layernorm")?]);
        Ok(Layer { attention: attention.into(), feed_forward, order, drops: [Drops::AsHidden; 2], relative: None })
    }
}

/// A module in transformers, and in files.
const NAMES: [(&str, &str); 6] = [
    ("self_attn.o_proj", "attn.out_proj"),
    ("mlp.up_proj", "mlp.fc11"),
    ("mlp.gate_proj", "mlp.fc12"),
    ("mlp.down_proj", "mlp.fc2"),
    ("post_attention_layernorm", "norm1"),
    ("post_mlp_layernorm", "norm2"),
];
const QKV: [&str; 3] = ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"];

/// From the hub's names to those of transformers' modules; queries, keys and values apart.
pub(super) fn canonical(weights: Weights) -> Result<Weights, ModelError> {
    let mut out = Weights::new();
    for (name, tensor) in weights::canonical(weights, "embeddings.word_embeddings.weight") {
        let Some((layer, rest)) = name.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.')) else {
            out.insert(name.replacen("emb_ln.", "embeddings.LayerNorm.", 1), tensor);
            continue;
        };
        if rest == "attn.Wqkv.weight" && tensor.dim(0)?.is_multiple_of(3) {
            for (part, name) in tensor.chunk(3, 0)?.into_iter().zip(QKV) {
                out.insert(format!("layers.{layer}.{name}"), part.contiguous()?);
            }
            continue;
        }
        let module = NAMES.iter().find_map(|(to, from)| Some((to, rest.strip_prefix(from)?.strip_prefix('.')?)));
        let name = match module {
            Some((module, part)) => format!("layers.{layer}.{module}.{part}"),
            None => format!("layers.{layer}.{rest}"),
        };
        out.insert(name, tensor);
    }
    Ok(out)
}

/// The way back.
pub(super) fn stored(weights: Weights) -> Result<Weights, ModelError> {
    let mut out = Weights::new();
    for (name, tensor) in &weights {
        let Some((layer, rest)) = name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
            out.insert(name.replacen("embeddings.LayerNorm.", "emb_ln.", 1), tensor.clone());
            continue;
        };
        if QKV.contains(&rest) {
            let parts: Vec<&Tensor> =
                QKV.iter().filter_map(|part| weights.get(&format!("layers.{layer}.{part}"))).collect();
            out.insert(format!("encoder.layers.{layer}.attn.Wqkv.weight"), Tensor::cat(&parts, 0)?);
            continue;
        }
        let module = NAMES.iter().find_map(|(from, to)| Some((to, rest.strip_prefix(from)?.strip_prefix('.')?)));
        let name = match module {
            Some((module, part)) => format!("encoder.layers.{layer}.{module}.{part}"),
            None => format!("encoder.layers.{layer}.{rest}"),
        };
        out.insert(name, tensor.clone());
    }
    Ok(out)
}
