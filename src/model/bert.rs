//! The BERT encoder (Devlin et al. 2019) over packed batches, and its kin RoBERTa and XLM-R, which differ in how
//! positions are counted. The pooler of the original, which no embedder uses, is not run.

use std::sync::Arc;

use candle_core::Tensor;

use super::ModelError;
use super::architecture::{BertConfig, Positions};
use super::embedder::Mode;
use super::parameters::Parameters;
use crate::nn::PackedBatch;
use crate::nn::activation::Activation;
use crate::nn::attention::{attention, joint_attention};
use crate::nn::embedding::Embedding;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::linear::{Joint, Linear};

/// A BERT-like encoder.
#[derive(Debug, Clone)]
pub struct Bert {
    embeddings: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: usize,
    positions: Positions,
}

#[derive(Debug, Clone)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    joint: Joint,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    activation: Activation,
}

impl Bert {
    /// Takes its tensors by their names in a transformers state dict (`embeddings.word_embeddings.weight` …).
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape.
    pub fn load(config: &BertConfig, p: &Parameters<'_>) -> Result<Self, ModelError> {
        let hidden = config.hidden_size;
        let embeddings = Embedding {
            word: p.tensor("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?,
            position: p.tensor("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?,
            token_type: p.tensor("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?,
        };
        let norm = p.layer_norm("embeddings.LayerNorm", hidden, config.layer_norm_eps)?;
        let layers = (0..config.num_hidden_layers).map(|i| Layer::load(config, i, p)).collect::<Result<_, _>>()?;
        Ok(Self { embeddings, norm, layers, heads: config.num_attention_heads, positions: config.positions })
    }

    /// Token vectors after the last layer, `[tokens, hidden]`.
    ///
    /// # Errors
    /// Where an id or a position is outside its table.
    pub fn forward(&self, batch: &PackedBatch, mode: Mode) -> candle_core::Result<Tensor> {
        let positions = self.positions(batch);
        let mut x = self.norm.forward(&self.embeddings.forward(&batch.ids, &positions)?)?;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, batch, self.heads, mode.layer(i))?;
        }
        Ok(x)
    }

    fn positions(&self, batch: &PackedBatch) -> Arc<Vec<u32>> {
        match self.positions {
            Positions::Absolute => batch.positions.clone(),
            Positions::AfterPadding(pad) => {
                let mut out = Vec::with_capacity(batch.tokens());
                for bounds in batch.cu_seqlens.windows(2) {
                    let mut next = pad;
                    for &id in &batch.ids[bounds[0]..bounds[1]] {
                        if id == pad {
                            out.push(pad);
                        } else {
                            next += 1;
                            out.push(next);
                        }
                    }
                }
                Arc::new(out)
            }
        }
    }
}

impl Layer {
    fn load(config: &BertConfig, index: usize, p: &Parameters<'_>) -> Result<Self, ModelError> {
        let (hidden, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let at = |module: &str| format!("encoder.layer.{index}.{module}");
        let query = p.linear(&at("attention.self.query"), hidden, hidden)?;
        let key = p.linear(&at("attention.self.key"), hidden, hidden)?;
        let value = p.linear(&at("attention.self.value"), hidden, hidden)?;
        Ok(Self {
            joint: Joint::new(&[&query, &key, &value])?,
            query,
            key,
            value,
            attention_output: p.linear(&at("attention.output.dense"), hidden, hidden)?,
            attention_norm: p.layer_norm(&at("attention.output.LayerNorm"), hidden, eps)?,
            intermediate: p.linear(&at("intermediate.dense"), hidden, inner)?,
            output: p.linear(&at("output.dense"), inner, hidden)?,
            output_norm: p.layer_norm(&at("output.LayerNorm"), hidden, eps)?,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor, batch: &PackedBatch, heads: usize, mode: Mode) -> candle_core::Result<Tensor> {
        let context = match self.joint.forward(x, &[&self.query, &self.key, &self.value])? {
            Some(qkv) => joint_attention(&qkv, &batch.cu_seqlens, heads)?,
            None => {
                let q = self.query.forward(x, mode.seed(0))?;
                let k = self.key.forward(x, mode.seed(1))?;
                let v = self.value.forward(x, mode.seed(2))?;
                attention(&q, &k, &v, &batch.cu_seqlens, heads)?
            }
        };
        let x = self.attention_norm.forward_residual(&self.attention_output.forward(&context, mode.seed(3))?, x)?;
        let inner = self.intermediate.forward_activated(&x, self.activation, mode.seed(4))?;
        self.output_norm.forward_residual(&self.output.forward(&inner, mode.seed(5))?, &x)
    }
}
