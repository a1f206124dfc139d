//! From texts to embeddings: tokenizer, encoder, pooling and heads as one.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use super::ModelError;
use super::architecture::ModelDropout;
use super::files::ModelFiles;
use super::layers::{Encoder, FusedLayers};
use super::layout::HeadSpec;
use super::parameters::{Held, Parameters, Source, Taken, Trainable};
use super::weights::Weights;
use crate::adapter::Adapter;
use crate::nn::PackedBatch;
use crate::nn::activation::Activation;
use crate::nn::checkpoint::GradientSink;
use crate::nn::linear::Linear;
use crate::nn::normalize::l2_normalize;
use crate::nn::pooling::pool;
use crate::nn::quantized::Quantization;

/// Whether a forward pass draws dropout, and from which seed, and what it keeps for the backward pass.
#[derive(Debug, Clone, Default)]
pub struct Mode {
    dropout: Option<u64>,
    first_sequence: usize,
    sink: Option<GradientSink>,
    gradients: Option<GradientSink>,
}

impl Mode {
    /// No dropout.
    pub const INFERENCE: Self = Self { dropout: None, first_sequence: 0, sink: None, gradients: None };

    /// Dropout (of adapters, and of the model if it was built with it) drawn from a seed; give every step another.
    pub fn training(seed: u64) -> Self {
        Self { dropout: Some(seed), ..Self::INFERENCE }
    }

    /// Each layer keeps its input alone and is run again in the backward pass; the gradients of the variables in it go to
    /// `sink`, whence they are to be added to those that `backward` returns.
    #[must_use]
    pub fn with_checkpointing(self, sink: &GradientSink) -> Self {
        Self { sink: Some(sink.clone()), ..self }
    }

    /// Layers that can be are differentiated by hand, as one operation each; the gradients of the variables in them go to `sink`,
    /// whence they are to be added to those that `backward` returns.
    #[must_use]
    pub fn with_gradients(self, sink: &GradientSink) -> Self {
        Self { gradients: Some(sink.clone()), ..self }
    }

    /// Counts the batch's sequences from `first` on in the model's dropout masks: a part of a larger batch that is run by
    /// itself then has the masks that it has in the whole.
    #[must_use]
    pub fn from_sequence(self, first: usize) -> Self {
        Self { first_sequence: first, ..self }
    }

    /// Whether it is [`Self::INFERENCE`].
    pub(super) fn is_inference(&self) -> bool {
        self.dropout.is_none() && self.sink.is_none() && self.gradients.is_none()
    }

    pub(super) fn gradients(&self) -> Option<&GradientSink> {
        self.gradients.as_ref()
    }

    pub(super) fn layer(&self, index: usize) -> Self {
        let dropout = self.dropout.map(|s| s.wrapping_mul(1_000_003).wrapping_add(index as u64));
        Self { dropout, ..self.clone() }
    }

    /// Other draws for a model that runs beside the encoder.
    pub(super) fn decoder(&self) -> Self {
        Self { dropout: self.dropout.map(|s| s ^ 0x6465_636f_6465_7221), ..self.clone() }
    }

    pub(super) fn seed(&self, place: u64) -> Option<u64> {
        self.dropout.map(|s| s.wrapping_mul(31).wrapping_add(place).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Of an adapter's dropout, whose masks go by the row of the packed batch: a part of a larger batch has others.
    pub(super) fn adapter_seed(&self, place: u64) -> Option<u64> {
        self.seed(place).map(|seed| seed ^ (self.first_sequence as u64).wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    pub(super) fn first_sequence(&self) -> usize {
        self.first_sequence
    }

    pub(super) fn sink(&self) -> Option<&GradientSink> {
        self.sink.as_ref()
    }
}

/// How a model is put together.
pub struct BuildOptions<'a> {
    /// Where its tensors live.
    pub device: Device,
    /// Whether frozen matrices, and so the activations, are in `bf16`; on a GPU alone. Vectors stay in `f32`.
    pub half: bool,
    /// Which of its own weights are trained.
    pub trainable: Trainable<'a>,
    /// An adapter on top.
    pub adapter: Option<&'a Adapter>,
    /// Whether the adapter is trained.
    pub adapter_trainable: bool,
    /// Whether the weights are another embedder's variables, whose training changes them.
    pub changing: bool,
    /// The model's own dropout in training ([`Mode::training`]): [`super::architecture::Architecture::dropout`] is what its config says.
    pub dropout: Option<ModelDropout>,
    /// How frozen weights are held in fewer bits; none holds them as they are.
    pub quantize: Option<&'a Quantization>,
}

impl Default for BuildOptions<'_> {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            half: false,
            trainable: &|_| false,
            adapter: None,
            adapter_trainable: false,
            changing: false,
            dropout: None,
            quantize: None,
        }
    }
}

#[derive(Debug, Clone)]
enum Head {
    Normalize,
    Dense(Linear, Activation),
}

/// What a model's weights take in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightBytes {
    /// As they are held: 4 bytes an `f32`, codes and statistics of those held quantised.
    pub held: usize,
    /// What they would take in `f32`.
    pub dense: usize,
}

/// A model that embeds.
pub struct Embedder {
    /// Without the tensors that are held quantised.
    files: ModelFiles,
    encoder: Encoder,
    fused: FusedLayers,
    heads: Vec<Head>,
    taken: Taken,
    adapter: Option<Adapter>,
    device: Device,
    half: bool,
    quantization: Option<Quantization>,
}

impl Embedder {
    /// Builds the layers.
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape than the config asks for, or the adapter does not fit.
    pub fn build(files: &ModelFiles, options: &BuildOptions<'_>) -> Result<Self, ModelError> {
        Self::build_with(files, &Held::default(), options)
    }

    /// As [`Self::build`], with weights that another embedder holds quantised and `files` may lack.
    fn build_with(files: &ModelFiles, held: &Held, options: &BuildOptions<'_>) -> Result<Self, ModelError> {
        let mut files = files.clone();
        let known: Vec<&str> = files.weights.keys().map(String::as_str).chain(held.names()).collect();
        let adapter = options.adapter.map(|adapter| adapter.for_model(&known)).transpose();
        let adapter = adapter.map_err(|message| ModelError::file(&files.path, message))?;
        for (name, tensor) in adapter.iter().flat_map(|adapter| &adapter.replaced().tensors) {
            files.weights.insert(name.clone(), tensor.clone());
        }
        let source = Source { weights: &files.weights, held, adapter: adapter.as_ref(), path: files.path.clone() };
        let parameters = Parameters::new(source, options);
        let encoder = Encoder { dropout: options.dropout, ..files.architecture.load(&parameters)? };
        let mut heads = Vec::new();
        for head in &files.layout.heads {
            heads.push(match head {
                HeadSpec::Normalize => Head::Normalize,
                HeadSpec::Dense { path, inputs, outputs, bias, activation } => {
                    Head::Dense(parameters.head(&format!("{path}.linear"), *inputs, *outputs, *bias)?, *activation)
                }
            });
        }
        let taken = parameters.finish()?;
        taken.held.names().for_each(|name| _ = files.weights.remove(name));
        // What was in half precision is in f32 now, and not kept twice.
        for (name, tensor) in &taken.used {
            if let Some(own) = files.weights.get_mut(name).filter(|own| own.dtype() != tensor.dtype()) {
                *own = tensor.detach();
            }
        }
        Ok(Self {
            files,
            encoder,
            fused: FusedLayers::default(),
            heads,
            taken,
            adapter,
            device: options.device.clone(),
            half: options.half && options.device.is_cuda(),
            quantization: options.quantize.copied(),
        })
    }

    /// Token vectors after the last layer, `[tokens, hidden]`.
    ///
    /// # Errors
    /// Where the batch does not fit the model.
    pub fn token_states(&self, batch: &PackedBatch, mode: Mode) -> candle_core::Result<Tensor> {
        self.encoder.forward(batch, &mode, &self.fused)
    }

    /// Sentence vectors before the heads (`Dense`, `Normalize`), `[sequences, pooled]`.
    ///
    /// # Errors
    /// Where the batch does not fit the model.
    pub fn pooled(&self, batch: &PackedBatch, mode: Mode) -> candle_core::Result<Tensor> {
        let states = self.token_states(batch, mode)?;
        let mut pooled = Vec::with_capacity(1);
        for &kind in &self.files.layout.pooling {
            pooled.push(pool(&states, batch, kind)?);
        }
        if pooled.len() == 1 { Ok(pooled.remove(0)) } else { Tensor::cat(&pooled, 1) }
    }

    /// Embeddings, `[sequences, dim]`.
    ///
    /// # Errors
    /// Where the batch does not fit the model.
    pub fn forward(&self, batch: &PackedBatch, mode: Mode) -> candle_core::Result<Tensor> {
        let mut x = self.pooled(batch, mode.clone())?;
        for (i, head) in self.heads.iter().enumerate() {
            x = match head {
                Head::Normalize => l2_normalize(&x)?,
                Head::Dense(linear, activation) => {
                    linear.forward_activated(&x, *activation, mode.layer(1_000 + i).adapter_seed(0))?
                }
            };
        }
        Ok(x)
    }

    /// Lays the layers out for inference in this thread's precision, on all threads of its pool, where that is not done yet.
    pub fn prepare(&self) {
        self.fused.of(&self.encoder);
    }

    pub(super) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// What it was built from (the weights as they were then); weights that are held quantised are not among them.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Where its tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether its matrices and activations are in `bf16`.
    pub fn half(&self) -> bool {
        self.half
    }

    /// The trainable tensors by name.
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.taken.vars
    }

    /// Every tensor in use by name, adapters' among them.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.taken.used
    }

    /// How its frozen weights are held.
    pub fn quantization(&self) -> Option<Quantization> {
        self.quantization
    }

    /// The weights that are held quantised.
    pub fn held(&self) -> &Held {
        &self.taken.held
    }

    /// What the weights in use take, the adapter's among them.
    pub fn weight_bytes(&self) -> WeightBytes {
        let Held { linears, tables } = &self.taken.held;
        let plain: usize = self.taken.used.values().map(|tensor| 4 * tensor.elem_count()).sum();
        let shapes = linears.values().map(|w| w.shape()).chain(tables.values().map(|t| t.shape()));
        let held =
            linears.values().map(|w| w.bytes()).sum::<usize>() + tables.values().map(|t| t.bytes()).sum::<usize>();
        WeightBytes {
            held: plain + held,
            dense: plain + 4 * shapes.map(|(rows, columns)| rows * columns).sum::<usize>(),
        }
    }

    /// The model's own weights as they are now, less those that are held quantised; tensors that it does not use stay as
    /// they were.
    pub fn weights(&self) -> Weights {
        let mut weights = self.files.weights.clone();
        for (name, tensor) in &self.taken.used {
            if weights.contains_key(name) {
                weights.insert(name.clone(), tensor.detach());
            }
        }
        weights
    }

    /// [`Self::weights`] and, dequantised into new tensors, those that are held quantised.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn dequantized(&self) -> Result<Weights, ModelError> {
        let mut weights = self.weights();
        for (name, weight) in &self.taken.held.linears {
            weights.insert(name.clone(), weight.to_tensor(&Device::Cpu)?);
        }
        for (name, table) in &self.taken.held.tables {
            weights.insert(name.clone(), table.to_tensor(&Device::Cpu)?);
        }
        Ok(weights)
    }

    /// The weights of a model as they are after quantisation and back: what an adapter that was trained on the quantised
    /// model belongs to.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn dequantized_weights(files: &ModelFiles, quantization: &Quantization) -> Result<Weights, ModelError> {
        Self::build(files, &BuildOptions { quantize: Some(quantization), ..Default::default() })?.dequantized()
    }

    /// The adapter as it is now, by this model's names.
    pub fn adapter(&self) -> Option<Adapter> {
        let adapter = self.adapter.as_ref()?;
        Some(adapter.with_tensors(|name| self.taken.used.get(name).map(Tensor::detach)))
    }

    /// The same model, sharing its tensors and the weights that are held quantised, with nothing recorded for a backward
    /// pass. It follows the training of the original, whose variables are updated in place.
    ///
    /// # Errors
    /// None that [`Self::build`] did not give before.
    pub fn detached(&self) -> Result<Self, ModelError> {
        let mut files = self.files.clone();
        files.weights = self.weights();
        let adapter = self.adapter();
        Self::build_with(
            &files,
            &self.taken.held,
            &BuildOptions {
                device: self.device.clone(),
                half: self.half,
                adapter: adapter.as_ref(),
                changing: true,
                quantize: self.quantization.as_ref(),
                ..Default::default()
            },
        )
    }
}
