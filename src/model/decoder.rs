//! The decoder of TSDAE (Wang, Reimers and Gurevych 2021): the encoder's own layers, now causal, with a cross-attention to
//! the sentence vector in each, write the original text again. As sentence-transformers' `DenoisingAutoEncoderLoss` with
//! `tie_encoder_decoder=True` and transformers' `BertLMHeadModel` compute it.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var, bail};
use rand::SeedableRng;
use rand_distr::Distribution;

use super::architecture::{Architecture, BertConfig};
use super::layers::{Encoder, Pass, Place, Positions};
use super::weights::Weights;
use super::{Embedder, Mode, ModelError};
use crate::nn::PackedBatch;
use crate::nn::activation::Activation;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::linear::Linear;
use crate::nn::linear_cross_entropy::linear_cross_entropy;

/// What the decoder has beside the encoder's tensors. All of it is trained.
pub struct Decoder {
    cross: Vec<CrossAttention>,
    transform: Linear,
    activation: Activation,
    norm: LayerNorm,
    bias: Tensor,
    padding: u32,
    vars: BTreeMap<String, Var>,
}

/// Attention of every token to the one vector of its sentence. The softmax over a single key is 1, so queries and keys
/// have no part in it.
struct CrossAttention {
    value: Linear,
    output: Linear,
    norm: LayerNorm,
    depth: usize,
}

/// The language model's head in transformers' BERT, and the same in its RoBERTa.
const HEADS: [(&str, &str); 3] = [
    ("cls.predictions.transform.dense.", "lm_head.dense."),
    ("cls.predictions.transform.LayerNorm.", "lm_head.layer_norm."),
    ("cls.predictions.bias", "lm_head.bias"),
];
/// `initializer_range` of transformers' configs.
const INITIAL_STD: f64 = 0.02;

impl Decoder {
    /// A decoder for the embedder's encoder. Tensors that `weights` has by their transformers names (before which anything
    /// may stand: `bert.`, `decoder.`) are taken; the others are drawn as transformers does: matrices from a normal
    /// distribution of the config's `initializer_range`, biases 0, LayerNorm 1 and 0.
    ///
    /// # Errors
    /// Where a tensor of `weights` has another shape.
    pub fn new(embedder: &Embedder, weights: Option<&Weights>, seed: u64) -> Result<Self, ModelError> {
        let files = embedder.files();
        let Architecture::Bert(config) = &files.architecture else {
            return Err(ModelError::file(
                &files.path,
                format!(
                    "TSDAE needs a decoder of the encoder's layers, which bert, roberta, xlm-roberta and camembert have, and {} has \
                     not: use a contrastive objective (SimCSE, say, which needs texts alone)",
                    files.config["model_type"]
                ),
            ));
        };
        let std = files.config["initializer_range"].as_f64().filter(|std| *std >= 0.0).unwrap_or(INITIAL_STD);
        let normal = rand_distr::Normal::new(0.0, std as f32).map_err(|e| {
            ModelError::file(&files.path, format!("initializer_range {std} of its config cannot be drawn from: {e}"))
        })?;
        let mut fresh =
            Fresh { weights, embedder, normal, rng: rand_pcg::Pcg64::seed_from_u64(seed), vars: BTreeMap::new() };
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps);
        let cross = (0..config.num_hidden_layers).map(|i| {
            let module = format!("encoder.layer.{i}.crossattention");
            Ok(CrossAttention {
                value: fresh.linear(&format!("{module}.self.value"), hidden)?,
                output: fresh.linear(&format!("{module}.output.dense"), hidden)?,
                norm: fresh.layer_norm(&format!("{module}.output.LayerNorm"), hidden, eps)?,
                depth: hidden / config.num_attention_heads,
            })
        });
        Ok(Self {
            cross: cross.collect::<Result<_, ModelError>>()?,
            transform: fresh.linear("cls.predictions.transform.dense", hidden)?,
            activation: head_activation(config),
            norm: fresh.layer_norm("cls.predictions.transform.LayerNorm", hidden, eps)?,
            bias: fresh.tensor("cls.predictions.bias", &[config.vocab_size], Start::Value(0.0))?,
            padding: padding(config, &files.config),
            vars: fresh.vars,
        })
    }

    /// The decoder's own tensors, `decoder.<transformers name>`; those that it shares are the embedder's.
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// Mean cross entropy of every token of the original texts given those before it and the sentence's vector. Dropout and
    /// checkpointing are the mode's.
    ///
    /// `embedder` is the one that the decoder was made for, `sentences` `[sequences, hidden]` what [`Embedder::pooled`]
    /// gives of the damaged texts, and `targets` the token ids of the original ones, special tokens among them.
    ///
    /// # Errors
    /// Where the sentences are not as many or as wide as they should be, no text has two tokens, or an id or a position is
    /// outside its table.
    pub fn loss(
        &self,
        embedder: &Embedder,
        sentences: &Tensor,
        targets: &PackedBatch,
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        let encoder = embedder.encoder();
        let (n, width) = sentences.dims2()?;
        let table = encoder.word_table()?;
        let hidden = table.dims2()?.1;
        if n != targets.sequences() || width != hidden || encoder.layers.len() != self.cross.len() {
            bail!(
                "decoder of {} layers: {n} sentence vectors of {width} values for {} texts and an encoder of {} layers of \
                 {hidden} values; pooling must give the width of the token vectors, as every single pooling mode does",
                self.cross.len(),
                targets.sequences(),
                encoder.layers.len(),
            );
        }
        let shifted = Shifted::new(targets);
        if shifted.labels.is_empty() {
            bail!("decoder: none of {n} texts has two tokens, so there is nothing to predict");
        }
        let x = self.transformed(encoder, sentences, &shifted, mode)?;
        linear_cross_entropy(&x, &table, &self.bias, &shifted.labels, Some(self.padding))
    }

    /// What the word table is multiplied with, `[tokens, hidden]`.
    fn transformed(
        &self,
        encoder: &Encoder,
        sentences: &Tensor,
        shifted: &Shifted,
        mode: &Mode,
    ) -> candle_core::Result<Tensor> {
        let pass = encoder.pass(&shifted.inputs, &mode.decoder(), true)?;
        let owners = Tensor::new(shifted.owners.as_slice(), sentences.device())?;
        let mut x = encoder.embed(&shifted.inputs, &pass)?;
        for (i, (layer, cross)) in encoder.layers.iter().zip(&self.cross).enumerate() {
            let pass = pass.layer(i);
            // In two parts, as the sentence vector that comes between them needs a gradient, too.
            let part = layer.clone();
            x = pass.run(&x, move |x, pass| part.attend(x, pass))?;
            x = cross.forward(&x, sentences, &owners, &pass)?;
            let part = layer.clone();
            x = pass.run(&x, move |x, pass| part.feed_forward(x, pass))?;
        }
        self.norm.forward(&self.transform.forward_activated(&x, self.activation, None)?)
    }
}

/// RoBERTa's head has a GELU of its own, whatever the config's activation.
fn head_activation(config: &BertConfig) -> Activation {
    match config.positions {
        Positions::Absolute => config.hidden_act,
        Positions::AfterPadding(_) => Activation::Gelu,
    }
}

/// The token that is no label.
fn padding(config: &BertConfig, json: &serde_json::Value) -> u32 {
    match config.positions {
        Positions::Absolute => json["pad_token_id"].as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or(0),
        Positions::AfterPadding(padding) => padding,
    }
}

/// Texts without their last token, and what comes after each token.
struct Shifted {
    inputs: PackedBatch,
    labels: Vec<u32>,
    /// The sequence of each token, `[tokens]`.
    owners: Vec<u32>,
}

impl Shifted {
    fn new(targets: &PackedBatch) -> Self {
        let (mut inputs, mut labels, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for (bounds, owner) in targets.cu_seqlens.windows(2).zip(0..) {
            let ids = &targets.ids[bounds[0]..bounds[1]];
            inputs.push(&ids[..ids.len().saturating_sub(1)]);
            labels.extend(ids.iter().skip(1));
            owners.resize(labels.len(), owner);
        }
        Self { inputs: PackedBatch::new(&inputs), labels, owners }
    }
}

impl CrossAttention {
    /// `x` `[tokens, hidden]`; token `t` attends to row `owners[t]` of `sentences`.
    fn forward(&self, x: &Tensor, sentences: &Tensor, owners: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        let value = self.value.forward(sentences, None)?;
        let context = match pass.weights(Place::CrossWeights)? {
            // The same for every token of a sentence: as many rows as sentences.
            None => self.output.forward(&value, None)?.index_select(owners, 0)?,
            // A token's only weight may be dropped in a head.
            Some(dropout) => {
                let values = dropout.forward_groups(&value.index_select(owners, 0)?, self.depth)?;
                self.output.forward(&values, None)?
            }
        };
        self.norm.forward_residual(&context, x, pass.hidden(Place::CrossOutput)?.as_ref())
    }
}

/// How a tensor starts that is not given.
#[derive(Clone, Copy)]
enum Start {
    Normal,
    Value(f32),
}

/// Makes the decoder's tensors: taken or drawn, and variables all.
struct Fresh<'a> {
    weights: Option<&'a Weights>,
    embedder: &'a Embedder,
    normal: rand_distr::Normal<f32>,
    rng: rand_pcg::Pcg64,
    vars: BTreeMap<String, Var>,
}

impl Fresh<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize], start: Start) -> Result<Tensor, ModelError> {
        // Drawn in any case: what is given does not change what the others get.
        let drawn = match start {
            Start::Value(value) => Tensor::full(value, shape, &Device::Cpu)?,
            Start::Normal => {
                let values: Vec<f32> = self.normal.sample_iter(&mut self.rng).take(shape.iter().product()).collect();
                Tensor::from_vec(values, shape, &Device::Cpu)?
            }
        };
        let tensor = match self.weights.and_then(|weights| find(weights, name)) {
            Some((found, tensor)) if tensor.dims() != shape => {
                return Err(ModelError::Shape {
                    path: self.embedder.files().path.clone(),
                    name: found.into(),
                    expected: shape.to_vec(),
                    found: tensor.dims().to_vec(),
                });
            }
            Some((_, tensor)) => tensor.to_dtype(DType::F32)?.detach(),
            None => drawn,
        };
        let var = Var::from_tensor(&tensor.to_device(self.embedder.device())?)?;
        let tensor = var.as_tensor().clone();
        self.vars.insert(format!("decoder.{name}"), var);
        Ok(tensor)
    }

    fn linear(&mut self, module: &str, hidden: usize) -> Result<Linear, ModelError> {
        let weight = self.tensor(&format!("{module}.weight"), &[hidden, hidden], Start::Normal)?;
        let bias = self.tensor(&format!("{module}.bias"), &[hidden], Start::Value(0.0))?;
        Ok(Linear::new(weight, Some(bias), None)?)
    }

    fn layer_norm(&mut self, module: &str, hidden: usize, eps: f64) -> Result<LayerNorm, ModelError> {
        Ok(LayerNorm {
            weight: self.tensor(&format!("{module}.weight"), &[hidden], Start::Value(1.0))?,
            bias: self.tensor(&format!("{module}.bias"), &[hidden], Start::Value(0.0))?,
            eps,
        })
    }
}

/// The tensor of this name, or of the same in RoBERTa, with anything before it.
fn find<'a>(weights: &'a Weights, name: &str) -> Option<(&'a str, &'a Tensor)> {
    let alias = HEADS.iter().find_map(|(bert, roberta)| Some(format!("{roberta}{}", name.strip_prefix(bert)?)));
    let names = [Some(name), alias.as_deref()];
    weights.iter().find_map(|(key, tensor)| {
        let matches = names.iter().flatten().any(|name| match key.strip_suffix(name) {
            Some(before) => before.is_empty() || before.ends_with('.'),
            None => false,
        });
        matches.then_some((key.as_str(), tensor))
    })
}
