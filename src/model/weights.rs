//! Tensors of a checkpoint: safetensors (one file or shards) and PyTorch's pickles in, safetensors out. Half precision stays as it is in
//! memory, and becomes `f32` where it is used; what is written is `f32`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::ModelError;
use crate::data::atomic;

/// Tensors by name, on the CPU, in `f32`, `f16` or `bf16`.
pub type Weights = BTreeMap<String, Tensor>;

/// The weights' file of a folder: `model.safetensors`, its index, or `pytorch_model.bin`.
pub fn find(folder: &Path) -> Result<PathBuf, ModelError> {
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
        .into_iter()
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            ModelError::file(
                folder,
                "no weights here: expected model.safetensors, its .index.json, or pytorch_model.bin",
            )
        })
}

/// Reads every tensor of the file; integer buffers (`position_ids`) are left out.
///
/// # Errors
/// Where the file is damaged, a tensor has a type that is no float, or a value is not finite.
pub fn read(path: &Path) -> Result<Weights, ModelError> {
    let weights = match path.file_name().and_then(|n| n.to_str()) {
        Some(name) if name.ends_with(".index.json") => read_shards(path)?,
        Some(name) if name.ends_with(".bin") => read_pickle(path)?,
        _ => read_safetensors(path)?,
    };
    check_finite(path, &weights)?;
    Ok(weights)
}

fn parse<'b>(path: &Path, bytes: &'b [u8]) -> Result<SafeTensors<'b>, ModelError> {
    SafeTensors::deserialize(bytes)
        .map_err(|e| ModelError::file(path, format!("not a whole safetensors file ({e}): copy or download it again")))
}

/// Buffers of whole numbers, which are no weights.
fn is_integer(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::I64 | Dtype::I32 | Dtype::U8 | Dtype::BOOL)
}

fn read_safetensors(path: &Path) -> Result<Weights, ModelError> {
    let file = std::fs::File::open(path).map_err(|e| ModelError::io(path, e))?;
    // SAFETY: the map is read once, here; a file changed by others meanwhile gives other values, checked below.
    let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| ModelError::io(path, e))?;
    let parsed = parse(path, &bytes)?;
    let mut weights = Weights::new();
    for (name, view) in parsed.tensors() {
        if is_integer(view.dtype()) {
            continue;
        }
        weights.insert(name.clone(), to_tensor(path, &name, &view)?);
    }
    Ok(weights)
}

/// As [`read`], of a table whose values may be whole numbers of 8 bits (Model2Vec's smallest files; their scale goes with the unit length), and of its
/// `mapping`, where the file has one.
///
/// # Errors
/// As [`read`].
pub fn read_table(path: &Path, name: &str) -> Result<(Weights, Option<Vec<i64>>), ModelError> {
    if path.extension().is_none_or(|e| e != "safetensors") {
        return Ok((read(path)?, None));
    }
    let bytes = std::fs::read(path).map_err(|e| ModelError::io(path, e))?;
    let parsed = parse(path, &bytes)?;
    let mut weights = Weights::new();
    for (key, view) in parsed.tensors() {
        if view.dtype() == Dtype::I8 {
            let values: Vec<f32> = view.data().iter().map(|b| f32::from(*b as i8)).collect();
            weights.insert(key, Tensor::from_vec(values, view.shape(), &Device::Cpu)?);
        } else if key != name && !is_integer(view.dtype()) {
            weights.insert(key.clone(), to_tensor(path, &key, &view)?);
        }
    }
    check_finite(path, &weights)?;
    Ok((weights, integers(path, &parsed, name)?))
}

/// Whole numbers of a tensor, where the file has it.
fn integers(path: &Path, parsed: &SafeTensors<'_>, name: &str) -> Result<Option<Vec<i64>>, ModelError> {
    let Ok(view) = parsed.tensor(name) else { return Ok(None) };
    let data = view.data();
    let values = match view.dtype() {
        Dtype::I64 => {
            data.chunks_exact(8).map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).collect()
        }
        Dtype::I32 => data.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
        other => {
            return Err(ModelError::file(path, format!("tensor `{name}` is of type {other:?}: must be i32 or i64")));
        }
    };
    Ok(Some(values))
}

fn to_tensor(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Tensor, ModelError> {
    let data = view.data();
    let half = |dtype| Ok(Tensor::from_raw_buffer(data, dtype, view.shape(), &Device::Cpu)?);
    let values: Vec<f32> = match view.dtype() {
        Dtype::F16 => return half(DType::F16),
        Dtype::BF16 => return half(DType::BF16),
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F64 => data
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32)
            .collect(),
        other => {
            let message = format!("tensor `{name}` is of type {other:?}; f32, f16, bf16 and f64 can be read");
            return Err(ModelError::file(path, message));
        }
    };
    Ok(Tensor::from_vec(values, view.shape(), &Device::Cpu)?)
}

fn read_shards(index: &Path) -> Result<Weights, ModelError> {
    let text = std::fs::read_to_string(index).map_err(|e| ModelError::io(index, e))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| ModelError::file(index, format!("not JSON: {e}")))?;
    let map = json["weight_map"].as_object().ok_or_else(|| ModelError::file(index, "has no `weight_map`"))?;
    let mut shards: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
    shards.sort_unstable();
    shards.dedup();
    let folder = index.parent().unwrap_or(Path::new("."));
    let mut weights = Weights::new();
    for shard in shards {
        if shard.contains(['/', '\\']) {
            return Err(ModelError::file(index, format!("shard `{shard}` is not a plain file name")));
        }
        weights.extend(read_safetensors(&folder.join(shard))?);
    }
    Ok(weights)
}

fn read_pickle(path: &Path) -> Result<Weights, ModelError> {
    if !path.is_file() {
        return Err(ModelError::file(path, "no such file"));
    }
    let tensors = candle_core::pickle::read_all(path).map_err(|e| {
        ModelError::file(path, format!("not a PyTorch checkpoint ({e}): save it as model.safetensors instead"))
    })?;
    let mut weights = Weights::new();
    for (name, tensor) in tensors {
        if tensor.dtype().is_float() {
            weights.insert(name, tensor.to_dtype(DType::F32)?.contiguous()?);
        }
    }
    Ok(weights)
}

fn check_finite(path: &Path, weights: &Weights) -> Result<(), ModelError> {
    for (name, tensor) in weights {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        if let Some(&value) = values.iter().find(|v| !v.is_finite()) {
            return Err(ModelError::NonFinite { path: path.into(), name: name.clone(), value });
        }
    }
    Ok(())
}

/// Writes the tensors as one safetensors file, marked as PyTorch's (`format: pt`), whole or not at all.
///
/// # Errors
/// The operating system's.
pub fn write(path: &Path, weights: &Weights) -> Result<(), ModelError> {
    let mut data: Vec<(&String, Vec<usize>, Vec<u8>)> = Vec::with_capacity(weights.len());
    for (name, tensor) in weights {
        let values = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let mut bytes = Vec::with_capacity(values.len() * 4);
        values.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
        data.push((name, tensor.dims().to_vec(), bytes));
    }
    let fail = |e: safetensors::SafeTensorError| ModelError::file(path, format!("cannot be written: {e}"));
    let mut views = Vec::with_capacity(data.len());
    for (name, shape, bytes) in &data {
        views.push((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(fail)?));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(fail)?;
    atomic::write(path, &bytes).map_err(|e| ModelError::io(path, e))
}

/// Writes tensors of any type as one safetensors file, whole or not at all.
///
/// # Errors
/// The operating system's.
pub fn write_any(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), ModelError> {
    let bytes =
        safetensors::serialize(tensors, None).map_err(|e| ModelError::file(path, format!("cannot be written: {e}")))?;
    atomic::write(path, &bytes).map_err(|e| ModelError::io(path, e))
}

/// Brings a checkpoint's names to those of the bare encoder, by the word table's name there: strips what stands before it (`bert.`, `model.` …),
/// leaves out what has another beginning, and renames the `gamma` and `beta` of old TensorFlow conversions.
pub fn canonical(weights: Weights, word_table: &str) -> Weights {
    let prefix = weights.keys().find_map(|name| name.strip_suffix(word_table).map(str::to_string)).unwrap_or_default();
    weights
        .into_iter()
        .filter_map(|(name, tensor)| {
            // Heads of other objectives (`cls.`, `lm_head.`) are no part of the encoder.
            let name = name.strip_prefix(&prefix).filter(|name| !name.starts_with("lm_head."))?;
            let name = match name.rsplit_once('.') {
                Some((module, "gamma")) => format!("{module}.weight"),
                Some((module, "beta")) => format!("{module}.bias"),
                _ => name.to_string(),
            };
            Some((name, tensor))
        })
        .collect()
}
