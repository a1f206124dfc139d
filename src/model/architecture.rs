//! `config.json` → a checked architecture, chosen by `model_type`.

use std::path::Path;

use serde_json::Value;

use super::ModelError;
use crate::nn::activation::Activation;

/// Architectures that are ours: trainable, packed.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// BERT, RoBERTa and XLM-R: one encoder, three ways to count positions.
    Bert(BertConfig),
}

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

/// Probabilities of dropout in training, in `[0, 1)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelDropout {
    /// On token vectors: after the embeddings' LayerNorm, and on what is added to a residual (`hidden_dropout_prob`).
    pub hidden: f32,
    /// On attention weights (`attention_probs_dropout_prob`).
    pub attention: f32,
}

/// How a token's row of the position table is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// From 0 (BERT).
    Absolute,
    /// From `pad + 1`, padding tokens not counted (RoBERTa, XLM-R).
    AfterPadding(u32),
}

impl BertConfig {
    /// Tokens that the position table has room for.
    pub fn max_tokens(&self) -> usize {
        match self.positions {
            Positions::Absolute => self.max_position_embeddings,
            Positions::AfterPadding(pad) => self.max_position_embeddings.saturating_sub(pad as usize + 1),
        }
    }
}

/// Model types that can be read.
pub const KNOWN: [&str; 4] = ["bert", "roberta", "xlm-roberta", "camembert"];

impl Architecture {
    /// Reads `config.json`'s value; `path` is named in errors.
    ///
    /// # Errors
    /// An unknown `model_type` (the known are listed), a missing or impossible value (the key is named).
    pub fn parse(config: &Value, path: &Path) -> Result<Self, ModelError> {
        let fail = |message: String| ModelError::file(path, message);
        let model_type = config["model_type"]
            .as_str()
            .ok_or_else(|| fail("has no `model_type`: not a transformers config".into()))?;
        let fields = Fields { config, path };
        let positions = match model_type {
            "bert" => Positions::Absolute,
            "roberta" | "xlm-roberta" | "camembert" => {
                Positions::AfterPadding(fields.count("pad_token_id", Some(1), 0)? as u32)
            }
            other => {
                let known = KNOWN.join(", ");
                return Err(fail(format!("model_type `{other}` is not supported; those supported are {known}")));
            }
        };
        if let Some(kind) = config["position_embedding_type"].as_str()
            && kind != "absolute"
        {
            return Err(fail(format!("position_embedding_type `{kind}` is not supported, only `absolute`")));
        }
        let hidden_act = match config["hidden_act"].as_str().unwrap_or("gelu") {
            "gelu" => Activation::Gelu,
            "relu" => Activation::Relu,
            other => {
                return Err(fail(format!("hidden_act `{other}` is not supported; those supported are gelu, relu")));
            }
        };
        let bert = BertConfig {
            vocab_size: fields.count("vocab_size", None, 1)?,
            hidden_size: fields.count("hidden_size", None, 1)?,
            num_hidden_layers: fields.count("num_hidden_layers", None, 0)?,
            num_attention_heads: fields.count("num_attention_heads", None, 1)?,
            intermediate_size: fields.count("intermediate_size", None, 1)?,
            max_position_embeddings: fields.count("max_position_embeddings", None, 1)?,
            type_vocab_size: fields.count("type_vocab_size", Some(1), 1)?,
            layer_norm_eps: config["layer_norm_eps"].as_f64().unwrap_or(1e-12),
            hidden_act,
            positions,
            dropout: ModelDropout {
                hidden: fields.probability("hidden_dropout_prob")?,
                attention: fields.probability("attention_probs_dropout_prob")?,
            },
        };
        if !bert.hidden_size.is_multiple_of(bert.num_attention_heads) {
            return Err(fail(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                bert.hidden_size, bert.num_attention_heads
            )));
        }
        if bert.max_tokens() < 2 {
            return Err(fail(format!(
                "max_position_embeddings {} leaves no room for text",
                bert.max_position_embeddings
            )));
        }
        Ok(Self::Bert(bert))
    }

    /// Width of the token vectors.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Bert(config) => config.hidden_size,
        }
    }

    /// Tokens that the position table has room for.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Bert(config) => config.max_tokens(),
        }
    }

    /// Transformer layers.
    pub fn layers(&self) -> usize {
        match self {
            Self::Bert(config) => config.num_hidden_layers,
        }
    }

    /// Dropout that the model was made to be trained with.
    pub fn dropout(&self) -> ModelDropout {
        match self {
            Self::Bert(config) => config.dropout,
        }
    }
}

struct Fields<'a> {
    config: &'a Value,
    path: &'a Path,
}

impl Fields<'_> {
    /// A probability of dropout; transformers' default for these model types is 0.1.
    fn probability(&self, key: &str) -> Result<f32, ModelError> {
        match &self.config[key] {
            Value::Null => Ok(0.1),
            value => match value.as_f64() {
                Some(p) if (0.0..1.0).contains(&p) && (p as f32) < 1.0 => Ok(p as f32),
                _ => Err(ModelError::file(self.path, format!("{key} = {value}: must be a number from 0 to below 1"))),
            },
        }
    }

    fn count(&self, key: &str, default: Option<usize>, least: usize) -> Result<usize, ModelError> {
        match (&self.config[key], default) {
            (Value::Null, Some(default)) => Ok(default),
            (Value::Null, None) => Err(ModelError::file(self.path, format!("has no `{key}`"))),
            (value, _) => match value.as_u64().map(|v| v as usize) {
                Some(v) if (least..=1 << 28).contains(&v) => Ok(v),
                _ => Err(ModelError::file(self.path, format!("{key} = {value}: must be a whole number from {least}"))),
            },
        }
    }
}
