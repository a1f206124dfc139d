//! Checked reading of `config.json`.

use std::path::Path;

use serde_json::Value;

use super::ModelDropout;
use crate::model::ModelError;
use crate::nn::activation::Activation;

/// The keys of a `config.json`; errors name the file, the key and the value.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub config: &'a Value,
    pub path: &'a Path,
}

impl Fields<'_> {
    pub fn fail(&self, message: impl Into<String>) -> ModelError {
        ModelError::file(self.path, message)
    }

    fn bad(&self, key: &str, must: &str) -> ModelError {
        self.fail(format!("{key} = {}: must be {must}", self.config[key]))
    }

    /// A whole number of at least `least`.
    pub fn count(&self, key: &str, default: Option<usize>, least: usize) -> Result<usize, ModelError> {
        match (&self.config[key], default) {
            (Value::Null, Some(default)) => Ok(default),
            (Value::Null, None) => Err(self.fail(format!("has no `{key}`"))),
            (value, _) => match value.as_u64().map(|v| v as usize) {
                Some(v) if (least..=1 << 28).contains(&v) => Ok(v),
                _ => Err(self.bad(key, &format!("a whole number from {least}"))),
            },
        }
    }

    /// A positive number.
    pub fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match &self.config[key] {
            Value::Null => Ok(default),
            value => {
                value.as_f64().filter(|v| *v > 0.0 && v.is_finite()).ok_or_else(|| self.bad(key, "a number above 0"))
            }
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match &self.config[key] {
            Value::Null => Ok(default),
            value => value.as_bool().ok_or_else(|| self.bad(key, "true or false")),
        }
    }

    /// A text, where there is one.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match &self.config[key] {
            Value::Null => Ok(None),
            value => value.as_str().map(Some).ok_or_else(|| self.bad(key, "a text")),
        }
    }

    /// Refuses a text that is none of those supported.
    pub fn only(&self, key: &str, supported: &[&str]) -> Result<(), ModelError> {
        match self.text(key)? {
            Some(value) if !supported.contains(&value) => {
                Err(self.fail(format!("{key} `{value}` is not supported, only {}", supported.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// Refuses `true`.
    pub fn refuse(&self, key: &str) -> Result<(), ModelError> {
        if self.flag(key, false)? { Err(self.fail(format!("{key} is not supported"))) } else { Ok(()) }
    }

    /// An activation by transformers' name.
    pub fn activation(&self, key: &str, default: &str) -> Result<Activation, ModelError> {
        let name = self.text(key)?.unwrap_or(default);
        Activation::by_name(name).ok_or_else(|| {
            let known = "gelu, gelu_new, gelu_pytorch_tanh, silu, relu, tanh";
            self.fail(format!("{key} `{name}` is not supported; those supported are {known}"))
        })
    }

    /// Width and number of heads, which divides it.
    pub fn heads(&self, width: &str, heads: &str) -> Result<(usize, usize), ModelError> {
        let (size, count) = (self.count(width, None, 1)?, self.count(heads, None, 1)?);
        match size.is_multiple_of(count) {
            true => Ok((size, count)),
            false => Err(self.fail(format!("{width} {size} is not a multiple of {heads} {count}"))),
        }
    }

    /// As [`Self::heads`], heads of an even width, which rotary positions need.
    pub fn even_heads(&self, width: &str, heads: &str) -> Result<(usize, usize), ModelError> {
        let (size, count) = self.heads(width, heads)?;
        match (size / count).is_multiple_of(2) {
            true => Ok((size, count)),
            false => Err(self.fail(format!("{width} {size} and {heads} {count} make heads of an odd width"))),
        }
    }

    /// A probability of dropout.
    pub fn probability(&self, key: &str, default: f32) -> Result<f32, ModelError> {
        match &self.config[key] {
            Value::Null => Ok(default),
            value => match value.as_f64() {
                Some(p) if (0.0..1.0).contains(&p) && (p as f32) < 1.0 => Ok(p as f32),
                _ => Err(self.bad(key, "a number from 0 to below 1")),
            },
        }
    }

    /// Dropout of token vectors and of attention weights.
    pub fn dropout(&self, hidden: &str, attention: &str, default: f32) -> Result<ModelDropout, ModelError> {
        Ok(ModelDropout {
            hidden: self.probability(hidden, default)?,
            attention: self.probability(attention, default)?,
        })
    }

    /// Which layers attend in a window: `layer_types`, else `default(index)`.
    pub fn windows(&self, layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<bool>, ModelError> {
        let Some(types) = self.config["layer_types"].as_array() else { return Ok((0..layers).map(default).collect()) };
        if types.len() != layers {
            return Err(self.fail(format!("layer_types has {} entries, num_hidden_layers is {layers}", types.len())));
        }
        types
            .iter()
            .map(|kind| match kind.as_str() {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                _ => Err(self.fail(format!("layer_types: {kind} is neither full_attention nor sliding_attention"))),
            })
            .collect()
    }

    /// Base and factor of rotary positions: of `rope_parameters` (of a kind of layers in it, where there are kinds), else of the key
    /// `old` and `rope_scaling`, as files of transformers before 5 have them.
    pub fn rope(&self, kind: Option<&str>, old: &str, default: f64) -> Result<(f64, f64), ModelError> {
        let new = match kind {
            Some(kind) if self.config["rope_parameters"][kind].is_object() => &self.config["rope_parameters"][kind],
            Some(_) => &Value::Null,
            None => &self.config["rope_parameters"],
        };
        // A local layer's positions are not scaled.
        let scaling = match kind {
            Some("sliding_attention") => &Value::Null,
            _ => &self.config["rope_scaling"],
        };
        let of = |map: &Value, key: &str| map.get(key).and_then(Value::as_f64).filter(|v| *v > 0.0);
        for map in [new, scaling] {
            let name = map.get("rope_type").or_else(|| map.get("type")).and_then(Value::as_str).unwrap_or("default");
            if !matches!(name, "default" | "linear") {
                return Err(self.fail(format!(
                    "rotary positions of type `{name}` are not supported, only default and linear; a text longer than \
                     the model was trained with needs it, so remove rope_scaling and lower max_seq_length"
                )));
            }
        }
        let base = of(new, "rope_theta").map_or_else(|| self.number(old, default), Ok)?;
        let factor = of(new, "factor").or_else(|| of(scaling, "factor")).unwrap_or(1.0);
        Ok((base, factor))
    }
}
