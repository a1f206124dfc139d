//! `adapter_config.json`.

use serde_json::{Map, Value, json};

use crate::adapter::{Adapter, LoraSpec, Replaced, pattern};

/// What the file says, as far as it decides what the adapter does.
pub struct Config {
    /// Hyper-parameters.
    pub spec: LoraSpec,
    /// Which modules it says that it adapts.
    pub targets: Targets,
    /// Which tensors of the base it brings its own of; the tensors themselves are not here.
    pub replaced: Replaced,
}

/// Names of modules: a list, in which an end of a name after a dot counts, or one regular expression.
enum Names {
    List(Vec<String>),
    Expression(String),
}

impl Names {
    fn hold(&self, module: &str) -> Result<bool, String> {
        match self {
            Self::List(names) => Ok(names.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })),
            Self::Expression(pattern) => pattern::matches_whole(pattern, module),
        }
    }

    /// A list, or a string; none where there is nothing.
    fn read(config: &Value, key: &str) -> Result<Option<Self>, String> {
        match &config[key] {
            Value::String(pattern) => Ok(Some(Self::Expression(pattern.clone()))),
            _ => Ok(Some(strings(config, key)?).filter(|list| !list.is_empty()).map(Self::List)),
        }
    }
}

/// Which modules a config chooses.
pub struct Targets {
    modules: Option<Names>,
    excluded: Option<Names>,
    layers: Vec<u64>,
    layers_pattern: Vec<String>,
}

impl Targets {
    /// Whether a module is chosen.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn name(&self, module: &str) -> Result<bool, String> {
        if let Some(excluded) = &self.excluded
            && excluded.hold(module)?
        {
            return Ok(false);
        }
        let Some(modules) = &self.modules else { return Ok(true) };
        // Layers are chosen beside a list alone, as in PEFT.
        if self.layers.is_empty() || matches!(modules, Names::Expression(_)) {
            return modules.hold(module);
        }
        let layer = pattern::layer_of(&self.layers_pattern, module)?;
        Ok(modules.hold(module)? && layer.is_some_and(|layer| self.layers.contains(&layer)))
    }

    fn read(config: &Value) -> Result<Self, String> {
        let modules = Names::read(config, "target_modules")?;
        let all = matches!(&modules, Some(Names::Expression(word)) if word.eq_ignore_ascii_case("all-linear"));
        let number = |value: &Value| {
            value.as_u64().ok_or_else(|| format!("layers_to_transform holds {value}: must be whole numbers"))
        };
        Ok(Self {
            modules: modules.filter(|_| !all),
            excluded: Names::read(config, "exclude_modules")?,
            layers: match &config["layers_to_transform"] {
                Value::Null => Vec::new(),
                Value::Array(list) => list.iter().map(number).collect::<Result<_, _>>()?,
                one => vec![number(one)?],
            },
            layers_pattern: match &config["layers_pattern"] {
                Value::String(one) if !one.is_empty() => vec![one.clone()],
                Value::String(_) => Vec::new(),
                _ => strings(config, "layers_pattern")?,
            },
        })
    }
}

/// Kinds of LoRA that change what a layer computes in ways that are not known here, by the key that asks for them.
const OTHER_KINDS: [&str; 11] = [
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

/// Initialisations that leave the base as it is; with any other the adapter belongs to a base that was changed.
const PLAIN_INITIALISATIONS: [&str; 4] = ["true", "gaussian", "eva", "orthogonal"];

impl Config {
    /// Checks the file's content.
    ///
    /// # Errors
    /// The key that is missing, or asks for what cannot be applied.
    pub fn read(config: &Value) -> Result<Self, String> {
        if config["peft_type"].as_str() != Some("LORA") {
            return Err(format!("peft_type = {}: only LORA can be applied", config["peft_type"]));
        }
        if is_set(&config["fan_in_fan_out"]) {
            return Err("fan_in_fan_out = true: not for this architecture".into());
        }
        if let Some(key) = OTHER_KINDS.into_iter().find(|key| is_set(&config[*key])) {
            return Err(format!("{key} = {}: this kind of LoRA cannot be applied", config[key]));
        }
        if let Value::String(word) = &config["init_lora_weights"]
            && !PLAIN_INITIALISATIONS.contains(&word.to_ascii_lowercase().as_str())
        {
            return Err(format!(
                "init_lora_weights = \"{word}\": such adapters belong to a base that was changed; save it by PEFT's \
                 path_initial_model_for_weight_conversion as plain LoRA"
            ));
        }
        Ok(Self {
            spec: read_spec(config)?,
            targets: Targets::read(config)?,
            replaced: Replaced {
                bias: match &config["bias"] {
                    Value::Null => "none".into(),
                    Value::String(word) if ["none", "all", "lora_only"].contains(&word.as_str()) => word.clone(),
                    other => return Err(format!("bias = {other}: must be none, all or lora_only")),
                },
                modules_to_save: strings(config, "modules_to_save")?,
                ..Replaced::default()
            },
        })
    }

    /// Whether the config has a reason for a tensor of the base to be among the adapter's.
    pub fn announces(&self, tensor: &str) -> bool {
        let module = tensor.rsplit_once('.').map_or("", |(module, _)| module);
        let parts: Vec<&str> = module.split('.').collect();
        // A module counts whose name, or that of one around it, ends so.
        let saved = |name: &String| (1..=parts.len()).any(|n| parts[..n].join(".").ends_with(name.as_str()));
        (self.replaced.bias != "none" && (tensor == "bias" || tensor.ends_with(".bias")))
            || self.replaced.modules_to_save.iter().any(saved)
            // PEFT saves tables whose vocabulary was changed, without a word in the config.
            || module.ends_with("word_embeddings")
    }
}

/// Whether a value asks for something.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

fn strings(config: &Value, key: &str) -> Result<Vec<String>, String> {
    let fail = || format!("{key} = {}: must be a list of names", config[key]);
    match &config[key] {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(String::from).ok_or_else(fail)).collect(),
        _ => Err(fail()),
    }
}

fn rank(value: &Value) -> Option<usize> {
    value.as_u64().filter(|r| (1..=65_536).contains(r)).map(|r| r as usize)
}

fn patterns<T>(
    config: &Value,
    key: &str,
    read: impl Fn(&Value) -> Option<T>,
    kind: &str,
) -> Result<Vec<(String, T)>, String> {
    match &config[key] {
        Value::Null => Ok(Vec::new()),
        Value::Object(map) => map
            .iter()
            .map(|(pattern, value)| {
                let value = read(value).ok_or_else(|| format!("{key}: `{pattern}` = {value}: must be {kind}"))?;
                Ok((pattern.clone(), value))
            })
            .collect(),
        other => Err(format!("{key} = {other}: must be a map of patterns")),
    }
}

fn read_spec(config: &Value) -> Result<LoraSpec, String> {
    let whole = "a whole number from 1";
    let switch = |key: &str| match &config[key] {
        Value::Null => Ok(false),
        Value::Bool(value) => Ok(*value),
        other => Err(format!("{key} = {other}: must be true or false")),
    };
    let dropout = match &config["lora_dropout"] {
        Value::Null => 0.0,
        value => value
            .as_f64()
            .filter(|p| (0.0..1.0).contains(p))
            .ok_or_else(|| format!("lora_dropout = {value}: must be from 0 to below 1"))?,
    };
    Ok(LoraSpec {
        rank: rank(&config["r"]).ok_or_else(|| format!("r = {}: must be {whole}", config["r"]))?,
        alpha: config["lora_alpha"]
            .as_f64()
            .ok_or_else(|| format!("lora_alpha = {}: must be a number", config["lora_alpha"]))?,
        dropout,
        rslora: switch("use_rslora")?,
        dora: switch("use_dora")?,
        rank_pattern: patterns(config, "rank_pattern", rank, whole)?,
        alpha_pattern: patterns(config, "alpha_pattern", Value::as_f64, "a number")?,
    })
}

/// A number as PEFT before 0.8 takes it, too, which knows whole ones only.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The file's content for an adapter.
///
/// # Errors
/// A pattern that is no regular expression.
pub fn write(adapter: &Adapter, base: &str) -> Result<Value, String> {
    let spec = &adapter.spec;
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    let mut as_said = true;
    for (module, part) in &adapter.modules {
        let rank = part.a.dims().first().copied().unwrap_or(spec.rank);
        as_said &= spec.of(module)? == (rank, part.alpha);
        if rank != spec.rank {
            ranks.insert(pattern::exactly(module), json!(rank));
        }
        if part.alpha != spec.alpha {
            alphas.insert(pattern::exactly(module), number(part.alpha));
        }
    }
    // The patterns may be of names that the modules had on another model: then every module is named.
    if as_said {
        ranks = spec.rank_pattern.iter().map(|(pattern, rank)| (pattern.clone(), json!(rank))).collect();
        alphas = spec.alpha_pattern.iter().map(|(pattern, alpha)| (pattern.clone(), number(*alpha))).collect();
    }
    let saved = &adapter.replaced.modules_to_save;
    Ok(json!({
        "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": base, "revision": null,
        "r": spec.rank, "lora_alpha": number(spec.alpha), "lora_dropout": spec.dropout, "bias": adapter.replaced.bias,
        "fan_in_fan_out": false, "use_rslora": spec.rslora, "use_dora": spec.dora, "rank_pattern": ranks,
        "alpha_pattern": alphas, "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "init_lora_weights": true, "inference_mode": true, "layers_to_transform": null, "layers_pattern": null,
        // Full module names: they mean the same whatever pattern chose them.
        "target_modules": adapter.modules().collect::<Vec<_>>(),
    }))
}
