//! Hands checkpoint tensors to the layers: checks shapes, makes the trainable ones variables, quantises frozen ones where
//! that is asked for, attaches adapters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Tensor, Var};

use super::ModelError;
use super::embedder::BuildOptions;
use super::weights::Weights;
use crate::adapter::Adapter;
use crate::nn::dora;
use crate::nn::embedding::Table;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::linear::{Linear, LowRank};
use crate::nn::quantized::{Int8, Quantized, Weight};
use crate::nn::rms_norm::RmsNorm;

/// Which of a model's own weights are trained.
pub type Trainable<'a> = &'a dyn Fn(&str) -> bool;

/// Weights that are held quantised, by name.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// Those of linear layers.
    pub linears: BTreeMap<String, Arc<Quantized>>,
    /// Those whose rows are looked up.
    pub tables: BTreeMap<String, Arc<Int8>>,
}

impl Held {
    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.linears.keys().chain(self.tables.keys()).map(String::as_str)
    }
}

/// Where layers read their tensors from.
pub struct Source<'a> {
    /// All tensors, but for those in `held`.
    pub weights: &'a Weights,
    /// Tensors that another embedder of this model holds quantised.
    pub held: &'a Held,
    /// The adapter, by the names of `weights`.
    pub adapter: Option<&'a Adapter>,
    /// Named in errors.
    pub path: PathBuf,
}

/// Reads layers out of weights by their checkpoint path.
pub struct Parameters<'a> {
    source: Source<'a>,
    options: &'a BuildOptions<'a>,
    held: RefCell<Held>,
    used: RefCell<BTreeMap<String, Tensor>>,
    vars: RefCell<BTreeMap<String, Var>>,
    adapted: RefCell<Vec<String>>,
}

/// What the layers took.
pub struct Taken {
    /// Every tensor handed out, by name, adapters' (`<module>.lora_A.weight`) among them.
    pub used: BTreeMap<String, Tensor>,
    /// The trainable ones.
    pub vars: BTreeMap<String, Var>,
    /// The weights that are held quantised, which are not among `used`.
    pub held: Held,
}

impl<'a> Parameters<'a> {
    /// Layers of `source`, put together as `options` say.
    pub fn new(source: Source<'a>, options: &'a BuildOptions<'a>) -> Self {
        Self {
            source,
            options,
            held: RefCell::default(),
            used: RefCell::default(),
            vars: RefCell::default(),
            adapted: RefCell::default(),
        }
    }

    /// The tensor in `f32`.
    fn checked(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let Some(tensor) = self.source.weights.get(name) else {
            return Err(ModelError::MissingTensor {
                path: self.source.path.clone(),
                name: name.into(),
                expected: shape.to_vec(),
            });
        };
        if tensor.dims() != shape {
            return Err(ModelError::Shape {
                path: self.source.path.clone(),
                name: name.into(),
                expected: shape.to_vec(),
                found: tensor.dims().to_vec(),
            });
        }
        Ok(tensor.to_dtype(DType::F32)?)
    }

    /// The tensor `name`, which must have this shape.
    ///
    /// # Errors
    /// Where it is missing or has another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let (tensor, trainable) = (self.checked(name, shape)?, (self.options.trainable)(name));
        let half = self.options.half && self.options.device.is_cuda() && !trainable && shape.len() > 1;
        let tensor = if half { tensor.to_device(&self.options.device)?.to_dtype(DType::BF16)? } else { tensor };
        self.register(name, &tensor, trainable)
    }

    /// A table `[rows, columns]` whose rows are looked up: in 8 bits where embeddings are quantised and it is not trained.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn table(&self, name: &str, rows: usize, columns: usize) -> Result<Table, ModelError> {
        let quantized = self.options.quantize.is_some_and(|q| q.embeddings) && !(self.options.trainable)(name);
        if !quantized {
            return self.tensor(name, &[rows, columns]).map(Table::Dense);
        }
        let table = match self.source.held.tables.get(name) {
            Some(table) => table.clone(),
            None => Arc::new(Int8::of(&self.checked(name, &[rows, columns])?)?),
        };
        self.held.borrow_mut().tables.insert(name.into(), table.clone());
        Ok(Table::Int8(table))
    }

    /// The weight of a linear layer, quantised where that is asked for and it is not trained.
    fn weight(&self, name: &str, outputs: usize, inputs: usize) -> Result<Weight, ModelError> {
        let Some(quantization) = self.options.quantize.filter(|_| !(self.options.trainable)(name)) else {
            return self.tensor(name, &[outputs, inputs]).map(Weight::Dense);
        };
        let weight = match self.source.held.linears.get(name) {
            Some(weight) => weight.clone(),
            None => Arc::new(Quantized::new(quantization.kind, &self.checked(name, &[outputs, inputs])?)?),
        };
        self.held.borrow_mut().linears.insert(name.into(), weight.clone());
        Ok(Weight::Quantized(weight))
    }

    fn register(&self, name: &str, tensor: &Tensor, trainable: bool) -> Result<Tensor, ModelError> {
        let tensor = tensor.to_device(&self.options.device)?;
        let tensor = if trainable {
            // A copy: training must not write into the checkpoint that it started from.
            let var = Var::from_tensor(&tensor.copy()?)?;
            let tensor = var.as_tensor().clone();
            self.vars.borrow_mut().insert(name.into(), var);
            tensor
        } else {
            tensor
        };
        self.used.borrow_mut().insert(name.into(), tensor.clone());
        Ok(tensor)
    }

    /// A linear layer `module` of the encoder with bias, and the adapter's part where it has one for it.
    ///
    /// # Errors
    /// As [`Self::tensor`]; an adapter that does not fit.
    pub fn linear(&self, module: &str, inputs: usize, outputs: usize) -> Result<Linear, ModelError> {
        let weight = self.weight(&format!("{module}.weight"), outputs, inputs)?;
        let bias = self.tensor(&format!("{module}.bias"), &[outputs])?;
        self.finish_linear(module, weight, Some(bias))
    }

    /// A linear layer of the encoder, with bias or without.
    ///
    /// # Errors
    /// As [`Self::linear`].
    pub fn linear_with(&self, module: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear, ModelError> {
        if bias {
            return self.linear(module, inputs, outputs);
        }
        let weight = self.weight(&format!("{module}.weight"), outputs, inputs)?;
        self.finish_linear(module, weight, None)
    }

    /// A linear layer after the pooling, which is never quantised.
    ///
    /// # Errors
    /// As [`Self::linear`].
    pub fn head(&self, module: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear, ModelError> {
        let weight = self.tensor(&format!("{module}.weight"), &[outputs, inputs])?;
        let bias = if bias { Some(self.tensor(&format!("{module}.bias"), &[outputs])?) } else { None };
        self.finish_linear(module, Weight::Dense(weight), bias)
    }

    /// What the adapter has for a module, if it fits the weight.
    fn fitting(&self, module: &str, weight: &Weight) -> Result<Option<LowRank>, ModelError> {
        let Some((lora, part)) = self.source.adapter.and_then(|a| a.low_rank(module).zip(a.module(module))) else {
            return Ok(None);
        };
        let (outputs, inputs) = weight.shape()?;
        let (a, b, rank) = (lora.a.dims(), lora.b.dims(), lora.a.dims().first().copied().unwrap_or(0));
        let magnitude = part.magnitude.as_ref().is_none_or(|m| m.dims() == [outputs]);
        if a != [rank, inputs] || b != [outputs, rank] || !magnitude {
            return Err(ModelError::file(
                &self.source.path,
                format!(
                    "the adapter of `{module}`, A {a:?} and B {b:?}, does not fit the base's {:?}",
                    [outputs, inputs]
                ),
            ));
        }
        Ok(Some(lora))
    }

    fn finish_linear(&self, module: &str, weight: Weight, bias: Option<Tensor>) -> Result<Linear, ModelError> {
        let mut lora = self.fitting(module, &weight)?;
        if let Some(lora) = &mut lora {
            self.adapted.borrow_mut().push(module.into());
            lora.a = self.register(&format!("{module}.lora_A.weight"), &lora.a, self.options.adapter_trainable)?;
            lora.b = self.register(&format!("{module}.lora_B.weight"), &lora.b, self.options.adapter_trainable)?;
        }
        let mut linear = Linear::new(weight, bias, lora)?;
        if let (Some(adapter), Some(lora)) = (self.source.adapter.filter(|a| a.spec.dora), &linear.lora) {
            let magnitude = match adapter.module(module).and_then(|part| part.magnitude.clone()) {
                Some(magnitude) => magnitude,
                None => dora::norms(&linear.weight, lora)?,
            };
            let name = format!("{module}.lora_magnitude_vector.weight");
            let magnitude = self.register(&name, &magnitude, self.options.adapter_trainable)?;
            linear = linear.with_magnitude(magnitude)?;
        }
        Ok(if self.options.changing { linear.changing() } else { linear })
    }

    /// A LayerNorm `module` over `hidden` values.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn layer_norm(&self, module: &str, hidden: usize, eps: f64) -> Result<LayerNorm, ModelError> {
        Ok(LayerNorm {
            weight: self.tensor(&format!("{module}.weight"), &[hidden])?,
            bias: self.tensor(&format!("{module}.bias"), &[hidden])?,
            eps,
        })
    }

    /// As [`Self::layer_norm`], with a bias or without.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn layer_norm_with(&self, module: &str, hidden: usize, eps: f64, bias: bool) -> Result<LayerNorm, ModelError> {
        if bias {
            return self.layer_norm(module, hidden, eps);
        }
        let weight = self.tensor(&format!("{module}.weight"), &[hidden])?;
        let bias = weight.zeros_like()?.detach();
        Ok(LayerNorm { weight, bias, eps })
    }

    /// An RMSNorm `module` over `hidden` values, whose scale is its weight or 1 more.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn rms_norm(&self, module: &str, hidden: usize, eps: f64, plus_one: bool) -> Result<RmsNorm, ModelError> {
        Ok(RmsNorm { weight: self.tensor(&format!("{module}.weight"), &[hidden])?, eps, plus_one })
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Where the adapter has modules that the model does not run: it would be applied in part, silently. The pooler of
    /// the original, which no embedder runs, is none of these.
    pub fn finish(self) -> Result<Taken, ModelError> {
        if let Some(adapter) = self.source.adapter {
            let adapted = self.adapted.into_inner();
            let missing: Vec<&str> = adapter
                .modules()
                .filter(|module| !module.starts_with("pooler.") && !adapted.iter().any(|a| a == module))
                .take(3)
                .collect();
            if !missing.is_empty() {
                return Err(ModelError::file(
                    &self.source.path,
                    format!("the adapter has weights for `{}`, which this model has not", missing.join("`, `")),
                ));
            }
        }
        Ok(Taken { used: self.used.into_inner(), vars: self.vars.into_inner(), held: self.held.into_inner() })
    }
}
