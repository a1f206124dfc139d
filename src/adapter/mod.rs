//! Low-rank adapters (LoRA, Hu et al. 2021): made, kept, merged; PEFT's files in and out.

pub mod peft;

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor};
use rand::SeedableRng;
use rand_distr::Distribution;

use crate::nn::linear::LowRank;

/// Hyper-parameters of a LoRA adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    /// Rank r of the update.
    pub rank: usize,
    /// Scale is α / r, or α / √r with `rslora`.
    pub alpha: f64,
    /// Probability that an input element is dropped in training.
    pub dropout: f64,
    /// Rank-stabilised scale (Kalajdzievski 2023).
    pub rslora: bool,
}

impl LoraSpec {
    /// Factor of `B A`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        if self.rslora { self.alpha / rank.sqrt() } else { self.alpha / rank }
    }
}

/// An adapter: a pair of matrices a module.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Its hyper-parameters.
    pub spec: LoraSpec,
    modules: BTreeMap<String, (Tensor, Tensor)>,
}

impl Adapter {
    /// Wraps tensors, module → (A `[rank, in]`, B `[out, rank]`).
    pub fn new(spec: LoraSpec, modules: BTreeMap<String, (Tensor, Tensor)>) -> Self {
        Self { spec, modules }
    }

    /// A fresh adapter for the linear layers of `weights` (name → `[out, in]`) that a target names: A uniform in
    /// ±1/√in (PyTorch's and PEFT's Kaiming initialisation with a = √5), B zero, so that it changes nothing yet.
    ///
    /// A target is a module's name or the end of one after a dot (`query`, `attention.self.query`), may hold `*`, or is
    /// `all-linear`.
    ///
    /// # Errors
    /// The target that matches no module, with those that there are.
    pub fn init(
        spec: LoraSpec,
        targets: &[String],
        linears: &BTreeMap<String, (usize, usize)>,
        seed: u64,
    ) -> std::result::Result<Self, String> {
        let mut modules = BTreeMap::new();
        for target in targets {
            if !linears.keys().any(|module| matches_target(module, target)) {
                let mut known: Vec<&str> = linears.keys().filter_map(|m| m.rsplit('.').next()).collect();
                known.sort_unstable();
                known.dedup();
                return Err(format!(
                    "adapter.targets: `{target}` names no linear layer of this model; their names end in {}",
                    known.join(", ")
                ));
            }
        }
        let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
        for (module, &(outputs, inputs)) in linears {
            if !targets.iter().any(|target| matches_target(module, target)) {
                continue;
            }
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut make = || -> Result<(Tensor, Tensor)> {
                let uniform = rand_distr::Uniform::new_inclusive(-bound, bound)
                    .map_err(|e| candle_core::Error::Msg(e.to_string()))?;
                let values: Vec<f32> = uniform.sample_iter(&mut rng).take(spec.rank * inputs).collect();
                Ok((
                    Tensor::from_vec(values, (spec.rank, inputs), &Device::Cpu)?,
                    Tensor::zeros((outputs, spec.rank), candle_core::DType::F32, &Device::Cpu)?,
                ))
            };
            modules.insert(module.clone(), make().map_err(|e| e.to_string())?);
        }
        Ok(Self { spec, modules })
    }

    /// Names of the adapted modules.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Tensors by module: (A, B).
    pub fn tensors(&self) -> &BTreeMap<String, (Tensor, Tensor)> {
        &self.modules
    }

    /// The part of one module, ready for its layer.
    pub fn low_rank(&self, module: &str) -> Option<LowRank> {
        let (a, b) = self.modules.get(module)?;
        Some(LowRank { a: a.clone(), b: b.clone(), scale: self.spec.scale(), dropout: self.spec.dropout as f32 })
    }

    /// The same adapter with other tensors; modules for which `f` gives none keep theirs.
    #[must_use]
    pub fn with_tensors(&self, f: impl Fn(&str) -> Option<(Tensor, Tensor)>) -> Self {
        let modules =
            self.modules.iter().map(|(name, old)| (name.clone(), f(name).unwrap_or_else(|| old.clone()))).collect();
        Self { spec: self.spec.clone(), modules }
    }

    /// Adds `scale B A` to the weights of the modules.
    ///
    /// # Errors
    /// Where a module is not among the weights or has another shape.
    pub fn merge_into(&self, weights: &mut BTreeMap<String, Tensor>) -> Result<()> {
        for (module, (a, b)) in &self.modules {
            let name = format!("{module}.weight");
            let Some(weight) = weights.get(&name) else {
                candle_core::bail!("the adapter has weights for `{module}`, which the base has not");
            };
            let delta = (b.matmul(a)? * self.spec.scale())?;
            if delta.dims() != weight.dims() {
                candle_core::bail!(
                    "the adapter's `{module}` gives {:?}, the base has {:?}",
                    delta.dims(),
                    weight.dims()
                );
            }
            let merged = (weight + delta)?;
            weights.insert(name, merged);
        }
        Ok(())
    }
}

/// Whether a target names a module: equal, the end of it after a dot, with `*` for anything, or `all-linear`.
pub fn matches_target(module: &str, target: &str) -> bool {
    if target == "all-linear" {
        return true;
    }
    let ends = |pattern: &str| {
        std::iter::once(module)
            .chain(module.match_indices('.').map(|(i, _)| &module[i + 1..]))
            .any(|tail| glob(pattern.as_bytes(), tail.as_bytes()))
    };
    ends(target)
}

/// Whether `text` matches `pattern`, where `*` stands for any run of characters.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            p += 1;
            t += 1;
        } else if let Some((star, from)) = retry {
            retry = Some((star, from + 1));
            p = star + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_match_as_in_peft() {
        let module = "encoder.layer.0.attention.self.query";
        for target in ["query", "self.query", "all-linear", "layer.*.query", "attention.*", module] {
            assert!(matches_target(module, target), "{target}");
        }
        for target in ["uery", "key", "layer.1.*", ""] {
            assert!(!matches_target(module, target), "{target}");
        }
    }

    #[test]
    fn an_unknown_target_lists_the_known() {
        let linears = BTreeMap::from([("a.query".to_string(), (4, 4)), ("b.dense".to_string(), (4, 4))]);
        let spec = LoraSpec { rank: 2, alpha: 4.0, dropout: 0.0, rslora: false };
        let error = Adapter::init(spec, &["q_proj".into()], &linears, 1).unwrap_err();
        assert!(error.contains("q_proj") && error.contains("dense, query"), "{error}");
    }
}
