//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use serde_json::{Value, json};

use super::{Adapter, LoraSpec};
use crate::data::atomic;

const PREFIX: &str = "base_model.model.";

/// A fault of an adapter folder.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct PeftError {
    path: std::path::PathBuf,
    message: String,
}

fn fail(path: &Path, message: impl std::fmt::Display) -> PeftError {
    PeftError { path: path.into(), message: message.to_string() }
}

/// Writes the adapter so that PEFT loads it. `base` is what `base_model_name_or_path` will say.
///
/// # Errors
/// The operating system's.
pub fn save(adapter: &Adapter, base: &str, folder: &Path) -> Result<(), PeftError> {
    let spec = &adapter.spec;
    let mut config = json!({
        "peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": base, "revision": null,
        "r": spec.rank, "lora_alpha": spec.alpha, "lora_dropout": spec.dropout, "bias": "none",
        "fan_in_fan_out": false, "use_rslora": spec.rslora, "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
        "modules_to_save": null, "init_lora_weights": true, "inference_mode": true, "layers_to_transform": null,
        "layers_pattern": null,
    });
    // Full module names: they mean the same whatever pattern chose them.
    config["target_modules"] = json!(adapter.modules().collect::<Vec<_>>());
    // PEFT before 0.8 takes whole numbers only.
    if spec.alpha.fract() == 0.0 {
        config["lora_alpha"] = json!(spec.alpha as i64);
    }
    let mut tensors = BTreeMap::new();
    for (module, (a, b)) in adapter.tensors() {
        tensors.insert(format!("{PREFIX}{module}.lora_A.weight"), a.clone());
        tensors.insert(format!("{PREFIX}{module}.lora_B.weight"), b.clone());
    }
    let path = folder.join("adapter_config.json");
    atomic::write(&path, format!("{config:#}\n").as_bytes()).map_err(|e| fail(&path, e))?;
    let path = folder.join("adapter_model.safetensors");
    let bytes = serialize(&tensors).map_err(|e| fail(&path, e))?;
    atomic::write(&path, &bytes).map_err(|e| fail(&path, e))
}

fn serialize(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let values = tensor.to_device(&candle_core::Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        data.push((name, tensor.dims().to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()));
    }
    let mut views = Vec::new();
    for (name, shape, bytes) in &data {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes)?;
        views.push((name.as_str(), view));
    }
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// Reads an adapter folder.
///
/// # Errors
/// Where a file is missing or damaged, or the adapter is of a kind that cannot be applied (the key is named).
pub fn load(folder: &Path) -> Result<Adapter, PeftError> {
    let path = folder.join("adapter_config.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|e| fail(&path, format!("{e}: a LoRA adapter folder holds this file")))?;
    let config: Value = serde_json::from_str(&text).map_err(|e| fail(&path, format!("not JSON: {e}")))?;
    let spec = read_spec(&config).map_err(|message| fail(&path, message))?;
    let path = folder.join("adapter_model.safetensors");
    if !path.is_file() {
        return Err(fail(&path, "no such file: save the adapter with safetensors (adapter_model.bin is not read)"));
    }
    let tensors = crate_read(&path)?;
    let mut modules: BTreeMap<String, (Option<Tensor>, Option<Tensor>)> = BTreeMap::new();
    for (name, tensor) in tensors {
        let short = name.strip_prefix(PREFIX).unwrap_or(&name);
        if let Some(module) = short.strip_suffix(".lora_A.weight") {
            modules.entry(module.into()).or_default().0 = Some(tensor);
        } else if let Some(module) = short.strip_suffix(".lora_B.weight") {
            modules.entry(module.into()).or_default().1 = Some(tensor);
        } else {
            return Err(fail(&path, format!("tensor `{name}` is no LoRA matrix: only plain LoRA can be applied")));
        }
    }
    let mut pairs = BTreeMap::new();
    for (module, (a, b)) in modules {
        match (a, b) {
            (Some(a), Some(b)) if a.dims().first() == Some(&spec.rank) && b.dims().get(1) == Some(&spec.rank) => {
                pairs.insert(module, (a, b));
            }
            (Some(a), Some(b)) => {
                let message = format!(
                    "`{module}`: A {:?} and B {:?} are not of rank {} (adapter_config.json)",
                    a.dims(),
                    b.dims(),
                    spec.rank
                );
                return Err(fail(&path, message));
            }
            _ => return Err(fail(&path, format!("`{module}` has only one of lora_A and lora_B"))),
        }
    }
    if pairs.is_empty() {
        return Err(fail(&path, "holds no LoRA matrices"));
    }
    Ok(Adapter::new(spec, pairs))
}

fn crate_read(path: &Path) -> Result<BTreeMap<String, Tensor>, PeftError> {
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu)
        .map_err(|e| fail(path, format!("not a whole safetensors file ({e}): copy it again")))?;
    let mut out = BTreeMap::new();
    for (name, tensor) in tensors {
        let tensor = tensor.to_dtype(candle_core::DType::F32).map_err(|e| fail(path, e))?;
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(|e| fail(path, e))?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(fail(path, format!("tensor `{name}` holds a value that is not a finite number")));
        }
        if tensor.rank() != 2 {
            return Err(fail(path, format!("tensor `{name}` has shape {:?}, not two dimensions", tensor.dims())));
        }
        out.insert(name, tensor);
    }
    Ok(out)
}

fn read_spec(config: &Value) -> Result<LoraSpec, String> {
    if config["peft_type"].as_str() != Some("LORA") {
        return Err(format!("peft_type = {}: only LORA can be applied", config["peft_type"]));
    }
    if config["use_dora"].as_bool() == Some(true) {
        return Err("use_dora = true: DoRA is not available yet".into());
    }
    if config["fan_in_fan_out"].as_bool() == Some(true) {
        return Err("fan_in_fan_out = true: not for this architecture".into());
    }
    for key in ["rank_pattern", "alpha_pattern"] {
        if config[key].as_object().is_some_and(|map| !map.is_empty()) {
            return Err(format!("{key}: adapters with a rank or alpha of their own by module are not available yet"));
        }
    }
    if config["modules_to_save"].as_array().is_some_and(|list| !list.is_empty()) {
        return Err("modules_to_save: adapters that replace whole modules are not available yet".into());
    }
    if config["bias"].as_str().is_some_and(|bias| bias != "none") {
        return Err(format!("bias = {}: adapters with biases are not available yet", config["bias"]));
    }
    let rank = config["r"].as_u64().filter(|r| (1..=65_536).contains(r));
    let rank = rank.ok_or_else(|| format!("r = {}: must be a whole number from 1", config["r"]))? as usize;
    let alpha = config["lora_alpha"].as_f64();
    let alpha = alpha.ok_or_else(|| format!("lora_alpha = {}: must be a number", config["lora_alpha"]))?;
    Ok(LoraSpec {
        rank,
        alpha,
        dropout: config["lora_dropout"].as_f64().unwrap_or(0.0),
        rslora: config["use_rslora"].as_bool().unwrap_or(false),
    })
}
