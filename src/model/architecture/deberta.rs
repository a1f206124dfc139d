//! DeBERTa (He et al. 2021; USER-base) and DeBERTa v2 and v3: BERT whose attention knows positions by a table of distances. v1 projects queries, keys and
//! values by one layer, by head; v2 by three, puts distances into buckets, may normalise the table and share projections with it. The
//! enhanced mask decoder of the paper is no part of the encoder, and the convolution of v2-xlarge is not supported.

use std::sync::Arc;

use super::fields::Fields;
use super::{ModelDropout, Spec};
use crate::model::ModelError;
use crate::model::layers::disentangled::{Content, Disentangled, PositionProjection, Rows};
use crate::model::layers::{
    Attention, Distances, Drops, Embeddings, Encoder, FeedForward, Inner, Layer, Norm, Order, Positions, Relative,
};
use crate::model::parameters::Parameters;
use crate::nn::activation::Activation;
use crate::nn::embedding::Embedding;

/// Hyper-parameters of DeBERTa.
#[derive(Debug, Clone, PartialEq)]
pub struct DebertaConfig {
    second: bool,
    vocab_size: usize,
    hidden_size: usize,
    heads: usize,
    layers: usize,
    inner: usize,
    positions: usize,
    kinds: usize,
    /// Whether there is a table of absolute positions.
    absolute: bool,
    eps: f64,
    activation: Activation,
    relative: bool,
    content_to_position: bool,
    position_to_content: bool,
    shared: bool,
    normed: bool,
    rows: Rows,
    dropout: ModelDropout,
}

impl DebertaConfig {
    pub(super) fn parse(fields: &Fields<'_>, model_type: &str) -> Result<Self, ModelError> {
        let second = model_type == "deberta-v2";
        let (hidden_size, heads) = fields.heads("hidden_size", "num_attention_heads")?;
        for (key, only) in [("embedding_size", hidden_size), ("attention_head_size", hidden_size / heads)] {
            if fields.count(key, Some(only), 1)? != only {
                return Err(fields.fail(format!("{key} {} is not supported, only {only}", fields.config[key])));
            }
        }
        if fields.count("conv_kernel_size", Some(0), 0)? > 0 {
            return Err(fields.fail("conv_kernel_size is not supported: only models without a convolution"));
        }
        fields.refuse("talking_head")?;
        let listed: Vec<&str> = match &fields.config["pos_att_type"] {
            serde_json::Value::String(text) => text.split('|').collect(),
            serde_json::Value::Array(list) => list.iter().filter_map(|v| v.as_str()).collect(),
            _ => Vec::new(),
        };
        if let Some(other) = listed.iter().find(|kind| !matches!(**kind, "c2p" | "p2c" | "c2c" | "")) {
            return Err(fields.fail(format!("pos_att_type `{other}` is not supported; those supported are c2p, p2c")));
        }
        let positions = fields.count("max_position_embeddings", Some(512), 1)?;
        let relative = fields.flag("relative_attention", false)?;
        let farthest = match fields.config["max_relative_positions"].as_i64() {
            Some(most) if most >= 1 => fields.count("max_relative_positions", None, 1)?,
            _ => positions,
        };
        let buckets = match fields.config["position_buckets"].as_i64() {
            Some(buckets) if second && buckets > 0 => fields.count("position_buckets", None, 4)?,
            _ => 0,
        };
        if buckets > 0 && farthest <= buckets / 2 + 1 {
            return Err(fields.fail(format!(
                "position_buckets {buckets}: their half must be less than max_relative_positions {farthest} by more than 1"
            )));
        }
        let rows = match buckets {
            0 => Rows { half: farthest, buckets: None },
            half => Rows { half, buckets: Some(farthest) },
        };
        Ok(Self {
            second,
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size,
            heads,
            layers: fields.count("num_hidden_layers", None, 0)?,
            inner: fields.count("intermediate_size", None, 1)?,
            positions,
            kinds: fields.count("type_vocab_size", Some(0), 0)?,
            absolute: fields.flag("position_biased_input", true)?,
            eps: fields.number("layer_norm_eps", 1e-7)?,
            activation: fields.activation("hidden_act", "gelu")?,
            relative,
            content_to_position: relative && listed.contains(&"c2p"),
            position_to_content: relative && listed.contains(&"p2c"),
            shared: second && fields.flag("share_att_key", false)?,
            normed: second
                && fields.text("norm_rel_ebd")?.is_some_and(|norm| norm.split('|').any(|n| n == "layer_norm")),
            rows,
            dropout: fields.dropout("hidden_dropout_prob", "attention_probs_dropout_prob", 0.1)?,
        })
    }

    pub(super) fn lora_targets(&self) -> &'static [&'static str] {
        if self.second { &["query_proj", "value_proj"] } else { &["in_proj"] }
    }

    pub(super) fn spec(&self) -> Spec {
        Spec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_tokens: self.positions,
            layers: self.layers,
            dropout: self.dropout,
        }
    }

    pub(super) fn load(&self, p: &Parameters<'_>) -> Result<Encoder, ModelError> {
        let hidden = self.hidden_size;
        let word = p.table("embeddings.word_embeddings.weight", self.vocab_size, hidden)?;
        let kinds = match self.kinds {
            0 => None,
            kinds => Some(p.tensor("embeddings.token_type_embeddings.weight", &[kinds, hidden])?),
        };
        let embeddings = match (self.absolute, kinds) {
            (true, token_type) => {
                let position = p.tensor("embeddings.position_embeddings.weight", &[self.positions, hidden])?;
                Embeddings::Absolute(Embedding { word, position, token_type })
            }
            (false, Some(kinds)) => Embeddings::Typed(word, kinds),
            (false, None) => Embeddings::Words(word, 1.0),
        };
        let relative = match self.relative {
            true => Some(Relative::Distances(Distances {
                table: p.tensor("encoder.rel_embeddings.weight", &[2 * self.rows.half, hidden])?,
                norm: match self.normed {
                    true => Norm::Layer(p.layer_norm("encoder.LayerNorm", hidden, self.eps)?),
                    false => Norm::None,
                },
            })),
            false => None,
        };
        let layers = (0..self.layers).map(|i| self.layer(i, p).map(Arc::new));
        Ok(Encoder {
            embeddings,
            embedding_norm: Norm::Layer(p.layer_norm("embeddings.LayerNorm", hidden, self.eps)?),
            positions: Positions::Absolute,
            layers: layers.collect::<Result<_, _>>()?,
            norm: Norm::None,
            relative,
            drops_output: false,
            dropout: None,
        })
    }

    fn layer(&self, index: usize, p: &Parameters<'_>) -> Result<Layer, ModelError> {
        let (hidden, inner) = (self.hidden_size, self.inner);
        let at = |module: &str| format!("encoder.layer.{index}.{module}");
        let square = |module: &str| p.linear(&at(module), hidden, hidden);
        let content = match self.second {
            true => Content::Separate {
                query: square("attention.self.query_proj")?,
                key: square("attention.self.key_proj")?,
                value: square("attention.self.value_proj")?,
            },
            false => Content::ByHead {
                joint: p.linear_with(&at("attention.self.in_proj"), hidden, 3 * hidden, false)?,
                query_bias: p.tensor(&at("attention.self.q_bias"), &[hidden])?,
                value_bias: p.tensor(&at("attention.self.v_bias"), &[hidden])?,
            },
        };
        let position_key = match (self.content_to_position, self.shared, self.second) {
            (false, ..) => PositionProjection::None,
            (true, true, _) => PositionProjection::Shared,
            (true, false, true) => PositionProjection::Own(square("attention.self.pos_key_proj")?),
            (true, false, false) => {
                PositionProjection::Own(p.linear_with(&at("attention.self.pos_proj"), hidden, hidden, false)?)
            }
        };
        let position_query = match (self.position_to_content, self.shared, self.second) {
            (false, ..) => PositionProjection::None,
            (true, true, _) => PositionProjection::Shared,
            (true, false, true) => PositionProjection::Own(square("attention.self.pos_query_proj")?),
            (true, false, false) => PositionProjection::Own(square("attention.self.pos_q_proj")?),
        };
        let attention = Disentangled {
            content,
            position_key,
            position_query,
            heads: self.heads,
            rows: self.rows,
            output: square("attention.output.dense")?,
        };
        let norm = |module: &str| p.layer_norm(&at(module), hidden, self.eps).map(Norm::Layer);
        let first = norm("attention.output.LayerNorm")?;
        let feed_forward = FeedForward {
            inner: Inner::Plain(p.linear(&at("intermediate.dense"), hidden, inner)?),
            activation: self.activation,
            drops: false,
            output: p.linear(&at("output.dense"), inner, hidden)?,
        };
        let order = Order::After([first, norm("output.LayerNorm")?]);
        Ok(Layer {
            attention: Attention::Disentangled(Box::new(attention)),
            feed_forward,
            order,
            drops: [Drops::AsHidden; 2],
            relative: None,
        })
    }
}
