//! Tensors of a checkpoint: safetensors (one file or shards) and PyTorch's pickles in, safetensors out. Half precision stays as it is in
//! memory, and becomes `f32` where it is used; what is written is `f32`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorInfo, TensorView, View};

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
    let tensors = weights.iter().map(|(name, tensor)| (name.as_str(), tensor, DType::F32)).collect();
    stream(path, tensors, Some(serde_json::json!({"format": "pt"})))
}

/// Writes tensors of any type as one safetensors file, whole or not at all.
///
/// # Errors
/// The operating system's.
pub fn write_any(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), ModelError> {
    stream(path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor, tensor.dtype())).collect(), None)
}

/// Writes name, tensor and its type in the file, one tensor after the other, so that no more than one is copied at a time. As the safetensors
/// crate's `serialize`, byte for byte; its own `serialize_to_file` makes files that their owner alone may read.
fn stream(
    path: &Path,
    mut tensors: Vec<(&str, &Tensor, DType)>,
    metadata: Option<serde_json::Value>,
) -> Result<(), ModelError> {
    tensors.sort_by(|a, b| Dtype::from(b.2).cmp(&Dtype::from(a.2)).then(a.0.cmp(b.0)));
    let fail = |e: serde_json::Error| ModelError::file(path, format!("cannot be written: {e}"));
    let mut parts = Vec::with_capacity(tensors.len() + 1);
    if let Some(metadata) = metadata {
        parts.push(format!("\"__metadata__\":{metadata}"));
    }
    let mut end = 0;
    for (name, tensor, dtype) in &tensors {
        let start = end;
        end += tensor.elem_count() * dtype.size_in_bytes();
        let name = serde_json::to_string(name).map_err(fail)?;
        let info = TensorInfo { dtype: Dtype::from(*dtype), shape: tensor.dims().to_vec(), data_offsets: (start, end) };
        parts.push(format!("{name}:{}", serde_json::to_string(&info).map_err(fail)?));
    }
    let mut header = format!("{{{}}}", parts.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic::write_with(path, |file| {
        let mut file = std::io::BufWriter::with_capacity(1 << 20, file);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, tensor, dtype) in &tensors {
            let values =
                tensor.to_dtype(*dtype).and_then(|t| t.to_device(&Device::Cpu)).map_err(std::io::Error::other)?;
            file.write_all(&values.data())?;
        }
        file.flush()
    })
    .map_err(|e| ModelError::io(path, e))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_those_of_the_safetensors_crate() {
        let folder = tempfile::tempdir().unwrap();
        let tensor = |shape: (usize, usize), dtype| {
            Tensor::arange(0f32, (shape.0 * shape.1) as f32, &Device::Cpu)
                .unwrap()
                .reshape(shape)
                .unwrap()
                .to_dtype(dtype)
                .unwrap()
        };
        let tensors: BTreeMap<String, Tensor> = [
            ("b.\"weight\"", tensor((3, 5), DType::F32)),
            ("a", tensor((2, 2), DType::BF16)),
            ("c", tensor((0, 4), DType::F32)),
            ("d", tensor((2, 1), DType::I64)),
            ("e", tensor((4, 3), DType::F32).t().unwrap()),
        ]
        .into_iter()
        .map(|(name, tensor)| (name.to_string(), tensor))
        .collect();
        let path = folder.path().join("t.safetensors");
        write_any(&path, &tensors).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), safetensors::serialize(&tensors, None).unwrap());
        let floats: Weights = tensors.into_iter().filter(|(_, tensor)| tensor.dtype().is_float()).collect();
        write(&path, &floats).unwrap();
        let wide: Weights =
            floats.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::F32).unwrap())).collect();
        let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
        assert_eq!(std::fs::read(&path).unwrap(), safetensors::serialize(&wide, Some(metadata)).unwrap());
    }
}
