//! Hands checkpoint tensors to the layers: checks shapes, makes the trainable ones variables, attaches adapters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor, Var};

use super::ModelError;
use super::weights::Weights;
use crate::adapter::Adapter;
use crate::nn::layer_norm::LayerNorm;
use crate::nn::linear::Linear;

/// Which of a model's own weights are trained.
pub type Trainable<'a> = &'a dyn Fn(&str) -> bool;

/// Reads layers out of weights by their checkpoint path.
pub struct Parameters<'a> {
    weights: &'a Weights,
    path: PathBuf,
    device: &'a Device,
    trainable: Trainable<'a>,
    adapter: Option<&'a Adapter>,
    adapter_trainable: bool,
    changing: bool,
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
}

impl<'a> Parameters<'a> {
    /// `path` is named in errors; `changing` says that somebody else writes to the weights.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        weights: &'a Weights,
        path: PathBuf,
        device: &'a Device,
        trainable: Trainable<'a>,
        adapter: Option<&'a Adapter>,
        adapter_trainable: bool,
        changing: bool,
    ) -> Self {
        Self {
            weights,
            path,
            device,
            trainable,
            adapter,
            adapter_trainable,
            changing,
            used: RefCell::default(),
            vars: RefCell::default(),
            adapted: RefCell::default(),
        }
    }

    /// The tensor `name`, which must have this shape.
    ///
    /// # Errors
    /// Where it is missing or has another shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let Some(tensor) = self.weights.get(name) else {
            return Err(ModelError::MissingTensor {
                path: self.path.clone(),
                name: name.into(),
                expected: shape.to_vec(),
            });
        };
        if tensor.dims() != shape {
            return Err(ModelError::Shape {
                path: self.path.clone(),
                name: name.into(),
                expected: shape.to_vec(),
                found: tensor.dims().to_vec(),
            });
        }
        self.register(name, tensor, (self.trainable)(name))
    }

    fn register(&self, name: &str, tensor: &Tensor, trainable: bool) -> Result<Tensor, ModelError> {
        let tensor = tensor.to_device(self.device)?;
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

    /// A linear layer `module` with bias, and the adapter's part where it has one for it.
    ///
    /// # Errors
    /// As [`Self::tensor`]; an adapter that does not fit.
    pub fn linear(&self, module: &str, inputs: usize, outputs: usize) -> Result<Linear, ModelError> {
        let weight = self.tensor(&format!("{module}.weight"), &[outputs, inputs])?;
        let bias = self.tensor(&format!("{module}.bias"), &[outputs])?;
        self.finish_linear(module, weight, Some(bias))
    }

    /// A linear layer without bias.
    ///
    /// # Errors
    /// As [`Self::linear`].
    pub fn linear_no_bias(&self, module: &str, inputs: usize, outputs: usize) -> Result<Linear, ModelError> {
        let weight = self.tensor(&format!("{module}.weight"), &[outputs, inputs])?;
        self.finish_linear(module, weight, None)
    }

    fn finish_linear(&self, module: &str, weight: Tensor, bias: Option<Tensor>) -> Result<Linear, ModelError> {
        let mut lora = match self.adapter {
            Some(adapter) => adapter.low_rank(module),
            None => None,
        };
        if let Some(lora) = &mut lora {
            self.adapted.borrow_mut().push(module.into());
            lora.a = self.register(&format!("{module}.lora_A.weight"), &lora.a, self.adapter_trainable)?;
            lora.b = self.register(&format!("{module}.lora_B.weight"), &lora.b, self.adapter_trainable)?;
        }
        Linear::new(weight, bias, lora)
            .map(|linear| if self.changing { linear.changing() } else { linear })
            .map_err(|e| ModelError::file(&self.path, format!("the adapter of `{module}` does not fit the base: {e}")))
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

    /// Ends the reading.
    ///
    /// # Errors
    /// Where the adapter has modules that the model has not: it would be applied in part, silently.
    pub fn finish(self) -> Result<Taken, ModelError> {
        if let Some(adapter) = self.adapter {
            let adapted = self.adapted.into_inner();
            let missing: Vec<&str> =
                adapter.modules().filter(|module| !adapted.iter().any(|a| a == module)).take(3).collect();
            if !missing.is_empty() {
                return Err(ModelError::file(
                    &self.path,
                    format!("the adapter has weights for `{}`, which this model has not", missing.join("`, `")),
                ));
            }
        }
        Ok(Taken { used: self.used.into_inner(), vars: self.vars.into_inner() })
    }
}
