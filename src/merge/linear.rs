//! Weighted means of models (model soups, Wortsman et al. 2022).

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::check;
use crate::model::weights::Weights;
use crate::model::{ModelError, ModelFiles};

/// A mean being taken, a model at a time: one model and the sums are in memory, however many there are.
pub struct Mean {
    /// The first, whose config, tokenizer and layout the mean has.
    first: ModelFiles,
    sums: BTreeMap<String, Vec<f64>>,
    total: f64,
}

impl Mean {
    /// A mean that begins with this model.
    ///
    /// # Errors
    /// Where the weight is no number from 0.
    pub fn new(first: ModelFiles, weight: f64) -> Result<Self, ModelError> {
        let mut mean = Self { first: first.clone(), sums: BTreeMap::new(), total: 0.0 };
        mean.add(&first, weight)?;
        Ok(mean)
    }

    /// Adds a model.
    ///
    /// # Errors
    /// Where it cannot be merged with the first ([`check`]), or the weight is no number from 0.
    pub fn add(&mut self, model: &ModelFiles, weight: f64) -> Result<(), ModelError> {
        check(&self.first, model)?;
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(ModelError::file(&model.path, format!("weight {weight}: must be a number from 0")));
        }
        if weight == 0.0 {
            return Ok(());
        }
        self.total += weight;
        for (name, tensor) in &model.weights {
            let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            let values = values.into_iter().map(|value| weight * f64::from(value));
            match self.sums.get_mut(name) {
                Some(sums) => sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
                // Not added to zero, which would take the sign of a negative zero.
                None => drop(self.sums.insert(name.clone(), values.collect())),
            }
        }
        Ok(())
    }

    /// The mean `Σ wᵢ xᵢ / Σ wᵢ` of each tensor, summed in `f64` and rounded once. The mean of equal models is that model, to the
    /// bit.
    ///
    /// # Errors
    /// Where all weights are 0.
    pub fn finish(self) -> Result<ModelFiles, ModelError> {
        if self.total == 0.0 {
            return Err(ModelError::file(&self.first.path, "all weights are 0: there is nothing to average"));
        }
        let mut mean = Weights::new();
        for (name, sums) in self.sums {
            let Some(shape) = self.first.weights.get(&name) else { continue };
            let values: Vec<f32> = sums.into_iter().map(|sum| (sum / self.total) as f32).collect();
            mean.insert(name, Tensor::from_vec(values, shape.dims(), &Device::Cpu)?);
        }
        Ok(self.first.with_weights(&mean))
    }
}
