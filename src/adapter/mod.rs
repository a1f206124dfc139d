//! Low-rank adapters (LoRA, Hu et al. 2021; DoRA, Liu et al. 2024): made, kept, merged; PEFT's files in and out.

mod merge;
mod names;
mod pattern;
pub mod peft;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use rand::SeedableRng;
use rand_distr::Distribution;

use crate::nn::linear::LowRank;
pub use crate::nn::quantized::{QuantKind, Quantization};

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
    /// Weight decomposition (DoRA, Liu et al. 2024): the lengths of a weight's rows are trained apart.
    pub dora: bool,
    /// Ranks of modules that have their own: the first pattern counts whose regular expression a module's name, or the end
    /// of it after a dot, matches (PEFT's `rank_pattern`).
    pub rank_pattern: Vec<(String, usize)>,
    /// Likewise α.
    pub alpha_pattern: Vec<(String, f64)>,
}

impl Default for LoraSpec {
    /// PEFT's.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            rslora: false,
            dora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
        }
    }
}

impl LoraSpec {
    /// Factor of `B A` for a rank and an α.
    pub fn scale(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        if self.rslora { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// (rank, α) of a module.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn of(&self, module: &str) -> std::result::Result<(usize, f64), String> {
        let rank = pattern::value_of(&self.rank_pattern, module)?.copied().unwrap_or(self.rank);
        let alpha = pattern::value_of(&self.alpha_pattern, module)?.copied().unwrap_or(self.alpha);
        Ok((rank, alpha))
    }
}

/// What an adapter has for one linear layer `[out, in]`.
#[derive(Debug, Clone)]
pub struct AdapterModule {
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
    /// `[out]`, of DoRA; none until the adapter is put on a model, whose rows' lengths it then starts from.
    pub magnitude: Option<Tensor>,
    /// α.
    pub alpha: f64,
}

/// Tensors of the base that an adapter brings its own of.
#[derive(Debug, Clone, Default)]
pub struct Replaced {
    /// Which biases were trained, in PEFT's words: `none`, `lora_only` or `all`.
    pub bias: String,
    /// Modules that were trained as a whole.
    pub modules_to_save: Vec<String>,
    /// Name → tensor.
    pub tensors: BTreeMap<String, Tensor>,
}

/// An adapter: a pair of matrices a module.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Its hyper-parameters.
    pub spec: LoraSpec,
    modules: BTreeMap<String, AdapterModule>,
    replaced: Replaced,
}

const PARTS: [&str; 3] = ["lora_A", "lora_B", "lora_magnitude_vector"];

impl Adapter {
    /// Wraps tensors by module.
    pub fn new(spec: LoraSpec, modules: BTreeMap<String, AdapterModule>) -> Self {
        Self { spec, modules, replaced: Replaced { bias: "none".into(), ..Replaced::default() } }
    }

    /// With tensors that replace some of the base's.
    #[must_use]
    pub fn with_replaced(self, replaced: Replaced) -> Self {
        Self { replaced, ..self }
    }

    /// A fresh adapter for the linear layers of `weights` (name → `[out, in]`) that a target names: A uniform in
    /// ±1/√in (PyTorch's and PEFT's Kaiming initialisation with a = √5), B zero, so that it changes nothing yet.
    ///
    /// A target is a module's name or the end of one after a dot (`query`, `attention.self.query`), may hold `*`, or is
    /// `all-linear`.
    ///
    /// # Errors
    /// The target that matches no module, with those that there are; a pattern that is no regular expression, or matches no
    /// module that the targets name.
    pub fn init(
        spec: LoraSpec,
        targets: &[String],
        linears: &BTreeMap<String, (usize, usize)>,
        seed: u64,
    ) -> std::result::Result<Self, String> {
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
        let chosen = linears.iter().filter(|(module, _)| targets.iter().any(|target| matches_target(module, target)));
        let chosen: BTreeMap<&String, &(usize, usize)> = chosen.collect();
        for pattern in spec.rank_pattern.iter().map(|p| &p.0).chain(spec.alpha_pattern.iter().map(|p| &p.0)) {
            let one = [(pattern.clone(), ())];
            let mut found = false;
            for module in chosen.keys() {
                found |= pattern::value_of(&one, module)?.is_some();
            }
            if !found {
                return Err(format!("adapter: the pattern `{pattern}` matches no module that the targets name"));
            }
        }
        let mut rng = rand_pcg::Pcg64::seed_from_u64(seed);
        let mut modules = BTreeMap::new();
        for (module, &(outputs, inputs)) in chosen {
            let (rank, alpha) = spec.of(module)?;
            let bound = 1.0 / (inputs as f32).sqrt();
            let mut make = || -> Result<AdapterModule> {
                let uniform = rand_distr::Uniform::new_inclusive(-bound, bound)
                    .map_err(|e| candle_core::Error::Msg(e.to_string()))?;
                let values: Vec<f32> = uniform.sample_iter(&mut rng).take(rank * inputs).collect();
                Ok(AdapterModule {
                    a: Tensor::from_vec(values, (rank, inputs), &Device::Cpu)?,
                    b: Tensor::zeros((outputs, rank), DType::F32, &Device::Cpu)?,
                    magnitude: None,
                    alpha,
                })
            };
            modules.insert(module.clone(), make().map_err(|e| e.to_string())?);
        }
        Ok(Self::new(spec, modules))
    }

    /// The same adapter with the names of a model whose tensors are `known`: an adapter's own may have a prefix or lack one.
    ///
    /// # Errors
    /// A name that the model has not, or more than once.
    pub fn for_model(&self, known: &[&str]) -> std::result::Result<Self, String> {
        let layers: Vec<&str> = known.iter().filter_map(|name| name.strip_suffix(".weight")).collect();
        let modules = names::resolve(self.modules(), &layers)?;
        let tensors = names::resolve(self.replaced.tensors.keys().map(String::as_str), known)?;
        let renamed = |(name, to): (&str, String)| Some((to, self.modules.get(name)?.clone()));
        let replaced = |(name, to): (&str, String)| Some((to, self.replaced.tensors.get(name)?.clone()));
        Ok(Self {
            spec: self.spec.clone(),
            modules: modules.into_iter().filter_map(renamed).collect(),
            replaced: Replaced { tensors: tensors.into_iter().filter_map(replaced).collect(), ..self.replaced.clone() },
        })
    }

    /// Names of the adapted modules.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// What it has for a module.
    pub fn module(&self, module: &str) -> Option<&AdapterModule> {
        self.modules.get(module)
    }

    /// What replaces tensors of the base.
    pub fn replaced(&self) -> &Replaced {
        &self.replaced
    }

    /// Every tensor by name: `<module>.lora_A.weight`, `.lora_B.weight`, `.lora_magnitude_vector.weight`, and those that
    /// replace some of the base's by their names there.
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        let mut tensors = self.replaced.tensors.clone();
        for (module, AdapterModule { a, b, magnitude, .. }) in &self.modules {
            for (part, tensor) in PARTS.iter().zip([Some(a), Some(b), magnitude.as_ref()]) {
                if let Some(tensor) = tensor {
                    tensors.insert(format!("{module}.{part}.weight"), tensor.clone());
                }
            }
        }
        tensors
    }

    /// The low-rank part of one module, ready for its layer.
    pub fn low_rank(&self, module: &str) -> Option<LowRank> {
        let AdapterModule { a, b, alpha, .. } = self.modules.get(module)?;
        let scale = self.scale(a, *alpha);
        Some(LowRank { a: a.clone(), b: b.clone(), scale, dropout: self.spec.dropout as f32 })
    }

    fn scale(&self, a: &Tensor, alpha: f64) -> f64 {
        self.spec.scale(a.dims().first().copied().unwrap_or(1), alpha)
    }

    /// The same adapter with other tensors of its modules, by the names of [`Self::tensors`]; those for which `f` gives none
    /// stay.
    #[must_use]
    pub fn with_tensors(&self, f: impl Fn(&str) -> Option<Tensor>) -> Self {
        let modules = self.modules.iter().map(|(name, old)| {
            let [a, b, magnitude] = PARTS.map(|part| f(&format!("{name}.{part}.weight")));
            let new = AdapterModule {
                a: a.unwrap_or_else(|| old.a.clone()),
                b: b.unwrap_or_else(|| old.b.clone()),
                magnitude: magnitude.or_else(|| old.magnitude.clone()),
                alpha: old.alpha,
            };
            (name.clone(), new)
        });
        Self { spec: self.spec.clone(), modules: modules.collect(), replaced: self.replaced.clone() }
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
        let spec = LoraSpec { rank: 2, alpha: 4.0, ..LoraSpec::default() };
        let error = Adapter::init(spec, &["q_proj".into()], &linears, 1).unwrap_err();
        assert!(error.contains("q_proj") && error.contains("dense, query"), "{error}");
    }

    #[test]
    fn modules_may_have_ranks_and_alphas_of_their_own() {
        let linears = BTreeMap::from([("a.query".to_string(), (4, 4)), ("b.dense".to_string(), (4, 4))]);
        let spec = LoraSpec {
            rank: 2,
            alpha: 4.0,
            rank_pattern: vec![("query".into(), 3)],
            alpha_pattern: vec![("dense".into(), 1.0)],
            ..LoraSpec::default()
        };
        let all = ["all-linear".to_string()];
        let adapter = Adapter::init(spec.clone(), &all, &linears, 1).unwrap();
        let of = |module: &str| (adapter.module(module).unwrap().a.dims()[0], adapter.low_rank(module).unwrap().scale);
        assert_eq!((of("a.query"), of("b.dense")), ((3, 4.0 / 3.0), (2, 0.5)));
        let spec = LoraSpec { rank_pattern: vec![("que".into(), 3)], ..spec };
        assert!(Adapter::init(spec, &all, &linears, 1).unwrap_err().contains("`que`"));
    }
}
