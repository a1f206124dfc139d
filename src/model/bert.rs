//! The BERT encoder (Devlin et al. 2019) over packed batches, and its kin RoBERTa and XLM-R, which differ in how
//! positions are counted. The pooler of the original, which no embedder uses, is not run.

use std::sync::Arc;

use candle_core::Tensor;

use super::ModelError;
use super::architecture::{BertConfig, ModelDropout, Positions};
use super::embedder::Mode;
use super::parameters::Parameters;
use crate::nn::PackedBatch;
use crate::nn::activation::Activation;
use crate::nn::attention::{Heads, attention, joint_attention};
use crate::nn::checkpoint::checkpoint;
use crate::nn::dropout::{TokenDropout, token_places};
use crate::nn::embedding::Embedding;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::linear::{Joint, Linear};

/// A BERT-like encoder.
#[derive(Debug, Clone)]
pub struct Bert {
    embeddings: Embedding,
    norm: LayerNorm,
    layers: Vec<Arc<Layer>>,
    heads: usize,
    positions: Positions,
    dropout: Option<ModelDropout>,
}

/// What the layers of a forward pass share.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    cu_seqlens: Arc<Vec<usize>>,
    heads: usize,
    causal: bool,
    /// Probabilities, and the tokens' places in the masks.
    dropout: Option<(ModelDropout, Arc<Vec<u64>>)>,
    mode: Mode,
}

/// Places of a layer where dropout is drawn; those before are its linear layers' adapters'.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Weights = 6,
    AttentionOutput,
    Output,
    CrossWeights,
    CrossOutput,
}

/// Number, among the layers', under which the embeddings' dropout is drawn.
const EMBEDDINGS: usize = 999;

impl Pass {
    /// The pass as layer `index` sees it: with draws of its own.
    pub(super) fn layer(&self, index: usize) -> Self {
        Self { mode: self.mode.layer(index), ..self.clone() }
    }

    fn draw(&self, p: impl Fn(&ModelDropout) -> f32, place: Place) -> candle_core::Result<Option<TokenDropout>> {
        match (&self.dropout, self.mode.seed(place as u64)) {
            (Some((model, places)), Some(seed)) => TokenDropout::new(p(model), seed, places),
            _ => Ok(None),
        }
    }

    /// Dropout of token vectors.
    pub(super) fn hidden(&self, place: Place) -> candle_core::Result<Option<TokenDropout>> {
        self.draw(|model| model.hidden, place)
    }

    /// Dropout of attention weights.
    pub(super) fn weights(&self, place: Place) -> candle_core::Result<Option<TokenDropout>> {
        self.draw(|model| model.attention, place)
    }

    /// `f(x)`, kept for the backward pass or run again there as the mode says.
    pub(super) fn run(
        &self,
        x: &Tensor,
        f: impl Fn(&Tensor, &Self) -> candle_core::Result<Tensor> + Send + Sync + 'static,
    ) -> candle_core::Result<Tensor> {
        let Some(sink) = self.mode.sink() else { return f(x, self) };
        let pass = self.clone();
        checkpoint(x, Arc::new(move |x| f(x, &pass)), sink)
    }
}

/// A transformer layer.
#[derive(Debug)]
pub(super) struct Layer {
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
            word: p.table("embeddings.word_embeddings.weight", config.vocab_size, hidden)?,
            position: p.tensor("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?,
            token_type: p.tensor("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?,
        };
        let norm = p.layer_norm("embeddings.LayerNorm", hidden, config.layer_norm_eps)?;
        let layers = (0..config.num_hidden_layers).map(|i| Layer::load(config, i, p).map(Arc::new));
        let layers = layers.collect::<Result<_, _>>()?;
        let (heads, positions) = (config.num_attention_heads, config.positions);
        Ok(Self { embeddings, norm, layers, heads, positions, dropout: None })
    }

    /// The same encoder, which draws dropout in training.
    pub fn with_dropout(self, dropout: Option<ModelDropout>) -> Self {
        Self { dropout, ..self }
    }

    /// Token vectors after the last layer, `[tokens, hidden]`.
    ///
    /// # Errors
    /// Where an id or a position is outside its table.
    pub fn forward(&self, batch: &PackedBatch, mode: &Mode) -> candle_core::Result<Tensor> {
        let pass = self.pass(batch, mode, false);
        let mut x = self.embed(batch, &pass)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let layer = layer.clone();
            x = pass.layer(i).run(&x, move |x, pass| layer.feed_forward(&layer.attend(x, pass)?, pass))?;
        }
        Ok(x)
    }

    /// What the layers are told of a batch.
    pub(super) fn pass(&self, batch: &PackedBatch, mode: &Mode, causal: bool) -> Pass {
        let drawn = self.dropout.filter(|_| mode.seed(0).is_some());
        let dropout = drawn.map(|model| (model, token_places(&batch.cu_seqlens, mode.first_sequence())));
        Pass { cu_seqlens: batch.cu_seqlens.clone(), heads: self.heads, causal, dropout, mode: mode.clone() }
    }

    /// The first layer's input, `[tokens, hidden]`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub(super) fn embed(&self, batch: &PackedBatch, pass: &Pass) -> candle_core::Result<Tensor> {
        let x = self.norm.forward(&self.embeddings.forward(&batch.ids, &self.positions(batch))?)?;
        match pass.layer(EMBEDDINGS).hidden(Place::Output)? {
            Some(dropout) => dropout.forward(&x),
            None => Ok(x),
        }
    }

    pub(super) fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// The word table, `[vocabulary, hidden]`.
    pub(super) fn word_table(&self) -> candle_core::Result<Tensor> {
        self.embeddings.word.tensor()
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

    /// Self-attention with its residual and LayerNorm.
    pub(super) fn attend(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        let (mode, bounds) = (&pass.mode, &pass.cu_seqlens);
        let heads = Heads { count: pass.heads, causal: pass.causal, dropout: pass.weights(Place::Weights)? };
        let context = match self.joint.forward(x, &[&self.query, &self.key, &self.value])? {
            Some(qkv) => joint_attention(&qkv, bounds, heads)?,
            None => {
                let q = self.query.forward(x, mode.adapter_seed(0))?;
                let k = self.key.forward(x, mode.adapter_seed(1))?;
                let v = self.value.forward(x, mode.adapter_seed(2))?;
                attention(&q, &k, &v, bounds, heads)?
            }
        };
        let dropout = pass.hidden(Place::AttentionOutput)?;
        let context = self.attention_output.forward(&context, mode.adapter_seed(3))?;
        self.attention_norm.forward_residual(&context, x, dropout.as_ref())
    }

    /// The feed-forward layers with their residual and LayerNorm.
    pub(super) fn feed_forward(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        let inner = self.intermediate.forward_activated(x, self.activation, pass.mode.adapter_seed(4))?;
        let dropout = pass.hidden(Place::Output)?;
        self.output_norm.forward_residual(&self.output.forward(&inner, pass.mode.adapter_seed(5))?, x, dropout.as_ref())
    }
}
