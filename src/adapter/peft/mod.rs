//! PEFT's adapter folder: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod keys;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{Adapter, AdapterModule};
use crate::data::atomic;
use config::Config;
use keys::{Key, Place};

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
/// The operating system's; a DoRA adapter that was never put on a model and has no magnitudes yet.
pub fn save(adapter: &Adapter, base: &str, folder: &Path) -> Result<(), PeftError> {
    let path = folder.join("adapter_config.json");
    let config = config::write(adapter, base).map_err(|e| fail(&path, e))?;
    atomic::write(&path, format!("{config:#}\n").as_bytes()).map_err(|e| fail(&path, e))?;
    let path = folder.join("adapter_model.safetensors");
    let mut tensors = BTreeMap::new();
    for (module, part) in &adapter.modules {
        let mut put = |place, tensor: &Tensor| tensors.insert(keys::write(module, place), tensor.clone());
        put(Place::A, &part.a);
        put(Place::B, &part.b);
        match &part.magnitude {
            Some(magnitude) => _ = put(Place::Magnitude, magnitude),
            None if adapter.spec.dora => {
                return Err(fail(
                    &path,
                    format!("`{module}` has no magnitudes yet: put the adapter on its base first"),
                ));
            }
            None => {}
        }
    }
    for (name, tensor) in &adapter.replaced.tensors {
        let inside = name.rsplit_once('.').is_some_and(|(module, _)| adapter.modules.contains_key(module));
        tensors.insert(keys::write(name, if inside { Place::Inside } else { Place::Plain }), tensor.clone());
    }
    let bytes = serialize(&tensors).map_err(|e| fail(&path, e))?;
    atomic::write(&path, &bytes).map_err(|e| fail(&path, e))
}

fn serialize(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let values = tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
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

/// Reads an adapter folder. Names stay as they are there; [`Adapter::for_model`] finds a model's.
///
/// # Errors
/// Where a file is missing or damaged, or the adapter is of a kind that cannot be applied (the key is named).
pub fn load(folder: &Path) -> Result<Adapter, PeftError> {
    let path = folder.join("adapter_config.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|e| fail(&path, format!("{e}: a LoRA adapter folder holds this file")))?;
    let config: Value = serde_json::from_str(&text).map_err(|e| fail(&path, format!("not JSON: {e}")))?;
    let config = Config::read(&config).map_err(|message| fail(&path, message))?;
    let path = folder.join("adapter_model.safetensors");
    if !path.is_file() {
        return Err(fail(&path, "no such file: save the adapter with safetensors (adapter_model.bin is not read)"));
    }
    let tensors = read_tensors(&path)?;
    assemble(&config, tensors).map_err(|message| fail(&path, message))
}

/// Tensors of one module, as far as they were met.
#[derive(Default)]
struct Parts {
    a: Option<Tensor>,
    b: Option<Tensor>,
    magnitude: Option<Tensor>,
}

fn assemble(config: &Config, tensors: BTreeMap<String, Tensor>) -> Result<Adapter, String> {
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    let mut replaced = config.replaced.clone();
    let mut adapter: Option<String> = None;
    for (key, tensor) in tensors {
        let Key { name, place, adapter: of } = keys::read(&key)?;
        if let Some(of) = of {
            match &adapter {
                Some(other) if *other != of => {
                    return Err(format!("holds two adapters, `{other}` and `{of}`: save one alone"));
                }
                _ => adapter = Some(of),
            }
        }
        let slot = match place {
            Place::A => &mut parts.entry(name).or_default().a,
            Place::B => &mut parts.entry(name).or_default().b,
            Place::Magnitude => &mut parts.entry(name).or_default().magnitude,
            Place::Plain | Place::Inside => {
                if !config.announces(&name) {
                    return Err(format!(
                        "tensor `{key}` is no LoRA matrix, and neither `bias` nor `modules_to_save` of \
                         adapter_config.json announces it"
                    ));
                }
                if replaced.tensors.insert(name, tensor).is_some() {
                    return Err(format!("tensor `{key}` is there twice"));
                }
                continue;
            }
        };
        if slot.replace(tensor).is_some() {
            return Err(format!("tensor `{key}` is there twice"));
        }
    }
    let mut modules = BTreeMap::new();
    for (name, parts) in parts {
        let module = module(config, &name, parts)?;
        modules.insert(name, module);
    }
    if modules.is_empty() {
        return Err("holds no LoRA matrices".into());
    }
    Ok(Adapter::new(config.spec.clone(), modules).with_replaced(replaced))
}

fn module(config: &Config, name: &str, parts: Parts) -> Result<AdapterModule, String> {
    let (Some(a), Some(b)) = (parts.a, parts.b) else {
        return Err(format!("`{name}` has not both of lora_A and lora_B"));
    };
    let (rank, alpha) = config.spec.of(name)?;
    if a.rank() != 2 || b.rank() != 2 || a.dims()[0] != rank || b.dims()[1] != rank {
        return Err(format!(
            "`{name}`: A {:?} and B {:?} are not of rank {rank} (r and rank_pattern of adapter_config.json)",
            a.dims(),
            b.dims()
        ));
    }
    match &parts.magnitude {
        Some(m) if !config.spec.dora => {
            return Err(format!("`{name}` has a lora_magnitude_vector {:?}, but use_dora is not true", m.dims()));
        }
        Some(m) if m.dims() != [b.dims()[0]] => {
            return Err(format!("`{name}`: lora_magnitude_vector {:?} does not fit B {:?}", m.dims(), b.dims()));
        }
        None if config.spec.dora => {
            return Err(format!("`{name}` has no lora_magnitude_vector, but use_dora is true"));
        }
        _ => {}
    }
    if !config.targets.name(name)? {
        return Err(format!(
            "`{name}` has weights, but target_modules, exclude_modules and layers_to_transform of adapter_config.json do \
             not choose it: PEFT would leave it out"
        ));
    }
    Ok(AdapterModule { a, b, magnitude: parts.magnitude, alpha })
}

fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>, PeftError> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| {
        // candle may add a backtrace.
        let reason = e.to_string().lines().next().unwrap_or_default().to_string();
        fail(path, format!("not a whole safetensors file ({reason}): copy it again"))
    })?;
    let mut out = BTreeMap::new();
    for (name, tensor) in tensors {
        if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            return Err(fail(
                path,
                format!("tensor `{name}` is of type {:?}: f32, f16, bf16 and f64 can be read", tensor.dtype()),
            ));
        }
        let tensor = tensor.to_dtype(DType::F32).map_err(|e| fail(path, e))?;
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(|e| fail(path, e))?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(fail(path, format!("tensor `{name}` holds a value that is not a finite number")));
        }
        out.insert(name, tensor);
    }
    Ok(out)
}
