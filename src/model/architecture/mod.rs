//! `config.json` → a checked architecture, chosen by `model_type`; one file an architecture, which says what its config means and what
//! its tensors are called. All of them run, and are trained, on the packed layers of [`super::layers`].

pub mod bert;
pub mod deberta;
pub mod distilbert;
mod fields;
pub mod gemma;
pub mod modern_bert;
pub mod mpnet;
pub mod nomic_bert;
pub mod qwen;
pub mod static_embedding;
pub mod t5;

use std::path::Path;

use serde_json::Value;

pub use bert::BertConfig;
pub use deberta::DebertaConfig;
pub use distilbert::DistilBertConfig;
use fields::Fields;
pub use gemma::GemmaConfig;
pub use modern_bert::ModernBertConfig;
pub use mpnet::MpnetConfig;
pub use nomic_bert::NomicBertConfig;
pub use qwen::QwenConfig;
pub use static_embedding::StaticConfig;
pub use t5::T5Config;

use super::ModelError;
use super::layers::Encoder;
use super::parameters::Parameters;
use super::weights::{self, Weights};

/// An architecture with its hyper-parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// BERT, RoBERTa, XLM-R and CamemBERT: one encoder, two ways to count positions.
    Bert(BertConfig),
    /// DeBERTa, v1 and v2.
    Deberta(DebertaConfig),
    /// DistilBERT.
    DistilBert(DistilBertConfig),
    /// Gemma3, causal or not.
    Gemma(GemmaConfig),
    /// ModernBERT.
    ModernBert(ModernBertConfig),
    /// MPNet.
    Mpnet(MpnetConfig),
    /// NomicBERT.
    NomicBert(NomicBertConfig),
    /// Qwen2 and Qwen3.
    Qwen(QwenConfig),
    /// A table of word vectors.
    Static(StaticConfig),
    /// The encoder of T5, mT5 and umT5.
    T5(T5Config),
}

/// Sizes that every architecture has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// Rows of the word table.
    pub vocab_size: usize,
    /// Width of the token vectors.
    pub hidden_size: usize,
    /// Most tokens of a text.
    pub max_tokens: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Dropout that the model was made to be trained with.
    pub dropout: ModelDropout,
}

/// Probabilities of dropout in training, in `[0, 1)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelDropout {
    /// On token vectors: after the embeddings' norm, and on what is added to a residual (`hidden_dropout_prob`).
    pub hidden: f32,
    /// On attention weights (`attention_probs_dropout_prob`).
    pub attention: f32,
}

/// Model types that can be read.
pub const KNOWN: [&str; 16] = [
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "mpnet",
    "modernbert",
    "nomic_bert",
    "qwen2",
    "qwen3",
    "gemma3_text",
    "t5",
    "mt5",
    "umt5",
];

/// No architecture's own limit.
const UNLIMITED: usize = 1 << 20;

impl Architecture {
    /// Reads `config.json`'s value; `path` is named in errors.
    ///
    /// # Errors
    /// An unknown `model_type` (the known are listed), a missing or impossible value (the key is named).
    pub fn parse(config: &Value, path: &Path) -> Result<Self, ModelError> {
        let fields = Fields { config, path };
        let model_type = config["model_type"]
            .as_str()
            .ok_or_else(|| fields.fail("has no `model_type`: not a transformers config"))?;
        if !config["quantization_config"].is_null() {
            return Err(fields.fail(
                "quantization_config: weights that are stored quantised are not read: take the model that they were made of \
                 (adapter.kind qlora quantises it here)",
            ));
        }
        let architecture = match model_type {
            "bert" | "roberta" | "xlm-roberta" | "camembert" => Self::Bert(BertConfig::parse(&fields, model_type)?),
            "deberta" | "deberta-v2" => Self::Deberta(DebertaConfig::parse(&fields, model_type)?),
            "distilbert" => Self::DistilBert(DistilBertConfig::parse(&fields)?),
            "gemma3_text" => Self::Gemma(GemmaConfig::parse(&fields)?),
            "modernbert" => Self::ModernBert(ModernBertConfig::parse(&fields)?),
            "mpnet" => Self::Mpnet(MpnetConfig::parse(&fields)?),
            "nomic_bert" => Self::NomicBert(NomicBertConfig::parse(&fields)?),
            "qwen2" | "qwen3" => Self::Qwen(QwenConfig::parse(&fields, model_type)?),
            "t5" | "mt5" | "umt5" => Self::T5(T5Config::parse(&fields, model_type)?),
            other => {
                let known = KNOWN.join(", ");
                return Err(fields.fail(format!("model_type `{other}` is not supported; those supported are {known}")));
            }
        };
        if architecture.max_tokens() < 2 {
            return Err(fields.fail(format!(
                "max_position_embeddings {} leaves no room for text",
                config["max_position_embeddings"]
            )));
        }
        Ok(architecture)
    }

    /// Its sizes.
    pub fn spec(&self) -> Spec {
        match self {
            Self::Bert(config) => config.spec(),
            Self::Deberta(config) => config.spec(),
            Self::DistilBert(config) => config.spec(),
            Self::Gemma(config) => config.spec(),
            Self::ModernBert(config) => config.spec(),
            Self::Mpnet(config) => config.spec(),
            Self::NomicBert(config) => config.spec(),
            Self::Qwen(config) => config.spec(),
            Self::Static(config) => config.spec(),
            Self::T5(config) => config.spec(),
        }
    }

    /// Width of the token vectors.
    pub fn hidden_size(&self) -> usize {
        self.spec().hidden_size
    }

    /// Most tokens of a text.
    pub fn max_tokens(&self) -> usize {
        self.spec().max_tokens
    }

    /// Transformer layers.
    pub fn layers(&self) -> usize {
        self.spec().layers
    }

    /// Dropout that the model was made to be trained with.
    pub fn dropout(&self) -> ModelDropout {
        self.spec().dropout
    }

    /// The encoder, with the tensors that `p` has.
    pub(super) fn load(&self, p: &Parameters<'_>) -> Result<Encoder, ModelError> {
        match self {
            Self::Bert(config) => config.load(p),
            Self::Deberta(config) => config.load(p),
            Self::DistilBert(config) => config.load(p),
            Self::Gemma(config) => config.load(p),
            Self::ModernBert(config) => config.load(p),
            Self::Mpnet(config) => config.load(p),
            Self::NomicBert(config) => config.load(p),
            Self::Qwen(config) => config.load(p),
            Self::Static(config) => config.load(p),
            Self::T5(config) => config.load(p),
        }
    }

    /// Brings a checkpoint's names to those of the bare encoder: what a head or a wrapper put before them goes, and with it what is not
    /// the encoder's.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub(super) fn canonical(&self, weights: Weights) -> Result<Weights, ModelError> {
        Ok(match self {
            Self::T5(_) => t5::canonical(weights),
            Self::ModernBert(_) => weights::canonical(weights, "embeddings.tok_embeddings.weight"),
            Self::NomicBert(_) => nomic_bert::canonical(weights)?,
            Self::Qwen(_) | Self::Gemma(_) => weights::canonical(weights, "embed_tokens.weight"),
            _ => weights::canonical(weights, "embeddings.word_embeddings.weight"),
        })
    }

    /// The encoder's tensors by the names that files of the architecture have.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub(super) fn stored(&self, weights: Weights) -> Result<Weights, ModelError> {
        match self {
            Self::NomicBert(_) => nomic_bert::stored(weights),
            _ => Ok(weights),
        }
    }

    /// The config as it is written: with transformers' keys beside others that mean the same.
    pub(super) fn stored_config(&self, config: &Value) -> Value {
        match self {
            Self::NomicBert(own) => own.stored_config(config),
            _ => config.clone(),
        }
    }

    /// transformers' class for the bare encoder, by the config's `model_type`.
    pub fn class(model_type: &str) -> &'static str {
        match model_type {
            "roberta" => "RobertaModel",
            "xlm-roberta" => "XLMRobertaModel",
            "camembert" => "CamembertModel",
            "deberta" => "DebertaModel",
            "deberta-v2" => "DebertaV2Model",
            "distilbert" => "DistilBertModel",
            "mpnet" => "MPNetModel",
            "modernbert" => "ModernBertModel",
            "nomic_bert" => "NomicBertModel",
            "qwen2" => "Qwen2Model",
            "qwen3" => "Qwen3Model",
            "gemma3_text" => "Gemma3TextModel",
            "t5" => "T5EncoderModel",
            "mt5" => "MT5EncoderModel",
            "umt5" => "UMT5EncoderModel",
            _ => "BertModel",
        }
    }

    /// Modules that get an adapter where none are named: PEFT's own choice where it has one, else queries and values.
    pub fn lora_targets(&self) -> &'static [&'static str] {
        match self {
            Self::Bert(_) => &["query", "value"],
            Self::Deberta(config) => config.lora_targets(),
            Self::DistilBert(_) => &["q_lin", "v_lin"],
            Self::Gemma(_) | Self::NomicBert(_) | Self::Qwen(_) => &["q_proj", "v_proj"],
            Self::ModernBert(_) => &["Wqkv"],
            Self::Mpnet(_) => &["attn.q", "attn.v"],
            Self::Static(_) => &[],
            Self::T5(_) => &["q", "v"],
        }
    }
}
