//! From texts to embeddings: tokenizer, encoder, pooling and heads as one.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use super::ModelError;
use super::architecture::Architecture;
use super::bert::Bert;
use super::files::ModelFiles;
use super::layout::HeadSpec;
use super::parameters::{Parameters, Taken, Trainable};
use super::weights::Weights;
use crate::adapter::Adapter;
use crate::nn::PackedBatch;
use crate::nn::activation::Activation;
use crate::nn::linear::Linear;
use crate::nn::normalize::l2_normalize;
use crate::nn::pooling::pool;

/// Whether a forward pass draws dropout, and from which seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mode {
    dropout: Option<u64>,
}

impl Mode {
    /// No dropout.
    pub const INFERENCE: Self = Self { dropout: None };

    /// Dropout (of adapters) drawn from a seed; give every step another.
    pub fn training(seed: u64) -> Self {
        Self { dropout: Some(seed) }
    }

    pub(super) fn layer(self, index: usize) -> Self {
        Self { dropout: self.dropout.map(|s| s.wrapping_mul(1_000_003).wrapping_add(index as u64)) }
    }

    pub(super) fn seed(self, place: u64) -> Option<u64> {
        self.dropout.map(|s| s.wrapping_mul(31).wrapping_add(place).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// How a model is put together.
pub struct BuildOptions<'a> {
    /// Where its tensors live.
    pub device: Device,
    /// Which of its own weights are trained.
    pub trainable: Trainable<'a>,
    /// An adapter on top.
    pub adapter: Option<&'a Adapter>,
    /// Whether the adapter is trained.
    pub adapter_trainable: bool,
    /// Whether the weights are another embedder's variables, whose training changes them.
    pub changing: bool,
}

impl Default for BuildOptions<'_> {
    fn default() -> Self {
        Self { device: Device::Cpu, trainable: &|_| false, adapter: None, adapter_trainable: false, changing: false }
    }
}

#[derive(Debug, Clone)]
enum Head {
    Normalize,
    Dense(Linear, Activation),
}

/// A model that embeds.
pub struct Embedder {
    files: ModelFiles,
    encoder: Bert,
    heads: Vec<Head>,
    taken: Taken,
    adapter: Option<Adapter>,
    device: Device,
}

impl Embedder {
    /// Builds the layers.
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape than the config asks for, or the adapter does not fit.
    pub fn build(files: &ModelFiles, options: &BuildOptions<'_>) -> Result<Self, ModelError> {
        let parameters = Parameters::new(
            &files.weights,
            files.path.clone(),
            &options.device,
            options.trainable,
            options.adapter,
            options.adapter_trainable,
            options.changing,
        );
        let Architecture::Bert(config) = &files.architecture;
        let encoder = Bert::load(config, &parameters)?;
        let mut heads = Vec::new();
        for head in &files.layout.heads {
            heads.push(match head {
                HeadSpec::Normalize => Head::Normalize,
                HeadSpec::Dense { path, inputs, outputs, bias, activation } => {
                    let module = format!("{path}.linear");
                    let linear = if *bias {
                        parameters.linear(&module, *inputs, *outputs)?
                    } else {
                        parameters.linear_no_bias(&module, *inputs, *outputs)?
                    };
                    Head::Dense(linear, *activation)
                }
            });
        }
        Ok(Self {
            files: files.clone(),
            encoder,
            heads,
            taken: parameters.finish()?,
            adapter: options.adapter.cloned(),
            device: options.device.clone(),
        })
    }

    /// Token vectors after the last layer, `[tokens, hidden]`.
    ///
    /// # Errors
    /// Where the batch does not fit the model.
    pub fn token_states(&self, batch: &PackedBatch, mode: Mode) -> candle_core::Result<Tensor> {
        self.encoder.forward(batch, mode)
    }

    /// Embeddings, `[sequences, dim]`.
    ///
    /// # Errors
    /// Where the batch does not fit the model.
    pub fn forward(&self, batch: &PackedBatch, mode: Mode) -> candle_core::Result<Tensor> {
        let states = self.token_states(batch, mode)?;
        let mut pooled = Vec::with_capacity(1);
        for &kind in &self.files.layout.pooling {
            pooled.push(pool(&states, batch, kind)?);
        }
        let mut x = if pooled.len() == 1 { pooled.remove(0) } else { Tensor::cat(&pooled, 1)? };
        for (i, head) in self.heads.iter().enumerate() {
            x = match head {
                Head::Normalize => l2_normalize(&x)?,
                Head::Dense(linear, activation) => {
                    linear.forward_activated(&x, *activation, mode.layer(1_000 + i).seed(0))?
                }
            };
        }
        Ok(x)
    }

    /// What it was built from (the weights as they were then).
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Where its tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The trainable tensors by name.
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.taken.vars
    }

    /// Every tensor in use by name, adapters' among them.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.taken.used
    }

    /// The model's own weights as they are now; tensors that it does not use stay as they were.
    pub fn weights(&self) -> Weights {
        let mut weights = self.files.weights.clone();
        for (name, tensor) in &self.taken.used {
            if weights.contains_key(name) {
                weights.insert(name.clone(), tensor.detach());
            }
        }
        weights
    }

    /// The adapter as it is now.
    pub fn adapter(&self) -> Option<Adapter> {
        let adapter = self.adapter.as_ref()?;
        Some(adapter.with_tensors(|module| {
            let tensor = |part: &str| self.taken.used.get(&format!("{module}.{part}.weight")).map(Tensor::detach);
            Some((tensor("lora_A")?, tensor("lora_B")?))
        }))
    }

    /// The same model, sharing its tensors, with nothing recorded for a backward pass. It follows the training of the
    /// original, whose variables are updated in place.
    ///
    /// # Errors
    /// None that [`Self::build`] did not give before.
    pub fn detached(&self) -> Result<Self, ModelError> {
        let mut files = self.files.clone();
        files.weights = self.weights();
        let adapter = self.adapter();
        Self::build(
            &files,
            &BuildOptions {
                device: self.device.clone(),
                adapter: adapter.as_ref(),
                changing: true,
                ..Default::default()
            },
        )
    }
}
