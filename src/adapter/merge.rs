//! An adapter as part of its base's weights, and whether it changes them at all.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, bail};

use super::{Adapter, AdapterModule};
use crate::nn::dora;
use crate::nn::quantized::Weight;

/// The largest relative difference at which a magnitude is taken for the length that it started from.
const SAME: f32 = 1e-6;

impl Adapter {
    /// Puts the adapter into the weights: `W + scale B A`, for DoRA with its rows brought to the magnitudes; tensors that
    /// it brings its own of are replaced. Names are found as in [`Self::for_model`].
    ///
    /// # Errors
    /// Where a module is not among the weights or has another shape.
    pub fn merge_into(&self, weights: &mut BTreeMap<String, Tensor>) -> Result<()> {
        let known: Vec<&str> = weights.keys().map(String::as_str).collect();
        let adapter = self.for_model(&known).map_err(candle_core::Error::Msg)?;
        for (module, part) in &adapter.modules {
            let name = format!("{module}.weight");
            let Some(weight) = weights.get(&name) else {
                bail!("the adapter has weights for `{module}`, which the base has not");
            };
            let merged = adapter.merged(module, part, weight)?;
            weights.insert(name, merged);
        }
        for (name, tensor) in &adapter.replaced.tensors {
            match weights.get(name) {
                Some(old) if old.dims() == tensor.dims() => weights.insert(name.clone(), tensor.clone()),
                Some(old) => bail!("the adapter's `{name}` is {:?}, the base has {:?}", tensor.dims(), old.dims()),
                None => bail!("the adapter has `{name}`, which the base has not"),
            };
        }
        Ok(())
    }

    fn merged(&self, module: &str, part: &AdapterModule, weight: &Tensor) -> Result<Tensor> {
        let Some(low_rank) = self.low_rank(module) else { return Ok(weight.clone()) };
        let delta = (part.b.matmul(&part.a)? * low_rank.scale)?;
        if delta.dims() != weight.dims() {
            bail!("the adapter's `{module}` gives {:?}, the base has {:?}", delta.dims(), weight.dims());
        }
        let weight = &weight.to_dtype(candle_core::DType::F32)?;
        let whole = (weight + delta)?;
        match &part.magnitude {
            Some(magnitude) => {
                let norms = dora::norms(&Weight::Dense(weight.clone()), &low_rank)?;
                whole.broadcast_mul(&(magnitude / norms)?.unsqueeze(1)?)
            }
            None => Ok(whole),
        }
    }

    /// Whether it changes nothing whatever the base: every B is zero, as before the first step of training. An adapter with
    /// magnitudes, whose base must be seen for that, is none; see [`Self::is_identity_on`].
    ///
    /// # Errors
    /// Where a tensor cannot be read.
    pub fn is_identity(&self) -> Result<bool> {
        let magnitudes = self.modules.values().any(|part| part.magnitude.is_some());
        Ok(self.replaced.tensors.is_empty() && !magnitudes && self.has_no_delta()?)
    }

    /// Whether it changes nothing of this base: every B is zero, and magnitudes are the lengths of the base's rows.
    ///
    /// # Errors
    /// As [`Self::merge_into`].
    pub fn is_identity_on(&self, weights: &BTreeMap<String, Tensor>) -> Result<bool> {
        if !self.replaced.tensors.is_empty() || !self.has_no_delta()? {
            return Ok(false);
        }
        let known: Vec<&str> = weights.keys().map(String::as_str).collect();
        let adapter = self.for_model(&known).map_err(candle_core::Error::Msg)?;
        for (module, part) in &adapter.modules {
            let (Some(magnitude), Some(low_rank)) = (&part.magnitude, adapter.low_rank(module)) else { continue };
            let Some(weight) = weights.get(&format!("{module}.weight")) else { continue };
            let norms = dora::norms(&Weight::Dense(weight.to_dtype(candle_core::DType::F32)?), &low_rank)?;
            let (norms, magnitude) = (norms.to_vec1::<f32>()?, magnitude.to_vec1::<f32>()?);
            if norms.len() != magnitude.len() || norms.iter().zip(&magnitude).any(|(n, m)| (n - m).abs() > SAME * n) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_no_delta(&self) -> Result<bool> {
        for part in self.modules.values() {
            let zero = |t: &Tensor| -> Result<bool> {
                Ok(t.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?.iter().all(|v| *v == 0.0))
            };
            if part.alpha != 0.0 && !zero(&part.b)? && !zero(&part.a)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
