//! Embeddings made elsewhere: `.npy`, `.safetensors` and `.parquet` files, read by rows.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::matrix::Matrix;
use super::table::{self, DataError};

/// Extensions that are read.
pub const EXTENSIONS: [&str; 3] = ["npy", "safetensors", "parquet"];

/// Embeddings in a file, `[rows, dim]`.
#[derive(Debug)]
pub struct EmbeddingFile {
    path: PathBuf,
    rows: usize,
    dim: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Row-major values in the file from a byte on.
    Values {
        file: File,
        start: u64,
        kind: Kind,
    },
    Memory(Matrix),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F16,
    Bf16,
    F32,
    F64,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// Headers are small; a larger one is no header.
const HEADER_LIMIT: u64 = 64 << 20;

impl EmbeddingFile {
    /// Opens a file by its extension. `tensor` names what is wanted of a safetensors file with several tensors, or the
    /// column of a parquet file; without it there must be one only (or one named `embedding` or `embeddings`).
    ///
    /// # Errors
    /// Where the file is damaged, of another kind or shape, or shorter than its header says.
    pub fn open(path: &Path, tensor: Option<&str>) -> Result<Self, DataError> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => npy(path),
            Some("safetensors") => safetensors(path, tensor),
            Some("parquet") => {
                let values = table::float_lists(path, tensor)?;
                let dim = values.first().map_or(0, Vec::len);
                if let Some(row) = values.iter().position(|row| row.len() != dim || dim == 0) {
                    let message = format!("row {}: {} values, expected {dim}", row + 1, values[row].len());
                    return Err(DataError::content(path, message));
                }
                let matrix = Matrix::new(values.len(), dim, values.concat()).unwrap_or_default();
                Ok(Self { path: path.into(), rows: matrix.rows(), dim, content: Content::Memory(matrix) })
            }
            _ => Err(DataError::content(path, "embeddings are read from .npy, .safetensors and .parquet")),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rows named, in that order, `[rows.len(), dim]`; read from the disk anew each time, so a corpus needs no memory.
    ///
    /// # Errors
    /// Where the file cannot be read, or there is no such row.
    pub fn read(&self, rows: &[usize]) -> Result<Matrix, DataError> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.rows) {
            return Err(DataError::content(
                &self.path,
                format!("has {} rows, but row {} is asked for", self.rows, row + 1),
            ));
        }
        let (file, start, kind) = match &self.content {
            Content::Memory(matrix) => return Ok(matrix.select(rows)),
            Content::Values { file, start, kind } => (file, *start, *kind),
        };
        let width = self.dim * kind.size();
        let mut out = Matrix::zeros(rows.len(), self.dim);
        // Rows that follow each other are read together.
        let mut runs: Vec<(usize, usize, &mut [f32])> = Vec::new();
        let mut rest = out.data_mut();
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            for piece in run.chunks((1 << 20) / width.max(1) + 1) {
                let (values, after) = rest.split_at_mut(piece.len() * self.dim);
                runs.push((piece[0], piece.len(), values));
                rest = after;
            }
        }
        runs.into_par_iter()
            .try_for_each_init(Vec::new, |bytes, (first, count, values)| {
                bytes.resize(count * width, 0);
                file.read_exact_at(bytes, start + (first * width) as u64)?;
                convert(kind, bytes, values);
                Ok(())
            })
            .map_err(|source| DataError::Io { path: self.path.clone(), source })?;
        Ok(out)
    }

    fn values(path: &Path, file: File, start: u64, (rows, dim): (usize, usize), kind: Kind) -> Result<Self, DataError> {
        let length = file.metadata().map_err(|source| DataError::Io { path: path.into(), source })?.len();
        let needed =
            rows.checked_mul(dim).and_then(|n| n.checked_mul(kind.size())).and_then(|n| start.checked_add(n as u64));
        if needed.is_none_or(|needed| needed > length) {
            let message = format!("is cut short: [{rows}, {dim}] values do not fit into its {length} bytes");
            return Err(DataError::content(path, message));
        }
        if rows == 0 || dim == 0 {
            return Err(DataError::content(path, format!("holds no embeddings: its shape is [{rows}, {dim}]")));
        }
        Ok(Self { path: path.into(), rows, dim, content: Content::Values { file, start, kind } })
    }
}

fn convert(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    match kind {
        Kind::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, b)| *o = f32::from_le_bytes(*b)),
        Kind::F64 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, b)| *o = f64::from_le_bytes(*b) as f32),
        Kind::F16 => {
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, b)| *o = half::f16::from_le_bytes(*b).to_f32())
        }
        Kind::Bf16 => {
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(o, b)| *o = half::bf16::from_le_bytes(*b).to_f32())
        }
    }
}

fn open(path: &Path) -> Result<File, DataError> {
    File::open(path).map_err(|source| DataError::Io { path: path.into(), source })
}

/// NumPy's format, versions 1 to 3 (numpy.lib.format).
fn npy(path: &Path) -> Result<EmbeddingFile, DataError> {
    let mut file = open(path)?;
    let broken = |what: &str| DataError::content(path, format!("not a .npy file of embeddings: {what}"));
    let mut start = [0u8; 8];
    file.read_exact(&mut start).map_err(|_| broken("it is too short"))?;
    if &start[..6] != b"\x93NUMPY" {
        return Err(broken("it does not begin as one"));
    }
    let (length, before) = if start[6] == 1 {
        let mut bytes = [0u8; 2];
        file.read_exact(&mut bytes).map_err(|_| broken("it is too short"))?;
        (u64::from(u16::from_le_bytes(bytes)), 10)
    } else {
        let mut bytes = [0u8; 4];
        file.read_exact(&mut bytes).map_err(|_| broken("it is too short"))?;
        (u64::from(u32::from_le_bytes(bytes)), 12)
    };
    if length > HEADER_LIMIT {
        return Err(broken("its header is damaged"));
    }
    let mut header = String::new();
    file.by_ref().take(length).read_to_string(&mut header).map_err(|_| broken("its header is damaged"))?;
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ']));
    let kind = match after("'descr'").and_then(|rest| rest.split('\'').nth(1)) {
        Some("<f4" | "|f4") => Kind::F32,
        Some("<f8") => Kind::F64,
        Some("<f2") => Kind::F16,
        Some(other) => return Err(broken(&format!("its values are of type {other}; write them as float32"))),
        None => return Err(broken("its header names no type")),
    };
    if after("'fortran_order'").is_some_and(|rest| rest.starts_with("True")) {
        return Err(broken("its order is Fortran's; write numpy.ascontiguousarray of it"));
    }
    let shape: Option<Vec<usize>> = after("'shape'").and_then(|rest| {
        let inner = rest.strip_prefix('(')?.split_once(')')?.0;
        inner.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect()
    });
    match shape.as_deref() {
        Some(&[rows, dim]) => EmbeddingFile::values(path, file, before + length, (rows, dim), kind),
        Some(other) => Err(broken(&format!("its shape is {other:?}, expected [texts, dim]"))),
        None => Err(broken("its header names no shape")),
    }
}

fn safetensors(path: &Path, wanted: Option<&str>) -> Result<EmbeddingFile, DataError> {
    let mut file = open(path)?;
    let broken = |what: String| DataError::content(path, format!("not a safetensors file of embeddings: {what}"));
    let mut bytes = [0u8; 8];
    file.read_exact(&mut bytes).map_err(|_| broken("it is too short".into()))?;
    let length = u64::from_le_bytes(bytes);
    if length > HEADER_LIMIT {
        return Err(broken("its header is damaged".into()));
    }
    let mut header = Vec::new();
    file.by_ref().take(length).read_to_end(&mut header).map_err(|_| broken("its header is damaged".into()))?;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&header).map_err(|_| broken("its header is damaged".into()))?;
    let names: Vec<&String> = header.keys().filter(|name| *name != "__metadata__").collect();
    let name = match wanted {
        Some(wanted) => names.iter().find(|name| ***name == wanted),
        None if names.len() == 1 => names.first(),
        None => names.iter().find(|name| ["embeddings", "embedding"].contains(&name.as_str())),
    };
    let Some(name) = name else {
        let known: Vec<&str> = names.iter().map(|n| n.as_str()).take(20).collect();
        return Err(broken(format!(
            "it has no tensor `{}`; it has {}",
            wanted.unwrap_or("embeddings"),
            known.join(", ")
        )));
    };
    let tensor = &header[name.as_str()];
    let kind = match tensor["dtype"].as_str() {
        Some("F32") => Kind::F32,
        Some("F64") => Kind::F64,
        Some("F16") => Kind::F16,
        Some("BF16") => Kind::Bf16,
        other => return Err(broken(format!("`{name}` is of type {}; write it as F32", other.unwrap_or("nothing")))),
    };
    let numbers =
        |key: &str| -> Option<Vec<u64>> { tensor[key].as_array()?.iter().map(serde_json::Value::as_u64).collect() };
    match (numbers("shape").as_deref(), numbers("data_offsets").as_deref()) {
        (Some(&[rows, dim]), Some(&[from, to])) => {
            let bytes = rows.checked_mul(dim).and_then(|n| n.checked_mul(kind.size() as u64));
            if to.checked_sub(from) != bytes {
                return Err(broken(format!("`{name}` has other bytes than its shape [{rows}, {dim}] says")));
            }
            EmbeddingFile::values(path, file, (8 + length).saturating_add(from), (rows as usize, dim as usize), kind)
        }
        (Some(shape), _) => Err(broken(format!("`{name}` has the shape {shape:?}, expected [texts, dim]"))),
        _ => Err(broken(format!("`{name}` is not described"))),
    }
}

/// NumPy's format, version 1.0: `f32`, C order.
pub fn to_npy(matrix: &Matrix) -> Vec<u8> {
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", matrix.rows(), matrix.cols());
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    matrix.data().iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Matrix {
        Matrix::new(4, 3, (0..12).map(|i| i as f32 / 4.0).collect()).unwrap()
    }

    fn with(name: &str, content: &[u8], check: impl FnOnce(Result<EmbeddingFile, DataError>)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        check(EmbeddingFile::open(&path, None));
    }

    fn tensors(entries: &[(&str, safetensors::Dtype, Vec<u8>)]) -> Vec<u8> {
        let views = entries.iter().map(|(name, dtype, bytes)| {
            (*name, safetensors::tensor::TensorView::new(*dtype, vec![4, 3], bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn every_format_gives_the_rows() {
        use polars::prelude::{DataFrame, IntoColumn, NamedFrom, ParquetWriter, Series};
        let values = matrix();
        let wide: Vec<u8> = values.data().iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
        let halves: Vec<u8> = values.data().iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        let lists: Vec<Series> = (0..4).map(|i| Series::new("".into(), values.row(i))).collect();
        let columns = vec![
            Series::new("text".into(), ["a", "b", "c", "d"]).into_column(),
            Series::new("vector".into(), lists).into_column(),
        ];
        let mut parquet = Vec::new();
        ParquetWriter::new(&mut parquet).finish(&mut DataFrame::new(4, columns).unwrap()).unwrap();
        for (name, content) in [
            ("a.npy", to_npy(&values)),
            ("a.safetensors", tensors(&[("x", safetensors::Dtype::F64, wide.clone())])),
            (
                "b.safetensors",
                tensors(&[("embeddings", safetensors::Dtype::F16, halves), ("y", safetensors::Dtype::F64, wide)]),
            ),
            ("a.parquet", parquet),
        ] {
            with(name, &content, |file| {
                let file = file.unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!((file.rows(), file.dim()), (4, 3), "{name}");
                assert_eq!(file.read(&[2, 3, 0, 0]).unwrap(), values.select(&[2, 3, 0, 0]), "{name}");
                assert!(file.read(&[4]).unwrap_err().to_string().contains("has 4 rows"), "{name}");
            });
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for (name, content) in
            [("a.npy", to_npy(&matrix())), ("a.safetensors", tensors(&[("x", safetensors::Dtype::F64, vec![0; 96])]))]
        {
            for length in 0..content.len() {
                with(name, &content[..length], |file| assert!(file.is_err(), "{name} of {length} bytes"));
            }
            for at in 0..content.len() - 96 {
                let mut flipped = content.clone();
                flipped[at] ^= 0x15;
                with(name, &flipped, |file| drop(file.map(|f| f.read(&[0]))));
            }
        }
        let flat = String::from_utf8_lossy(&to_npy(&matrix())[..128]).replace("(4, 3)", "(12, )").into_bytes();
        let header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8', 'fortran_order': False, 'shape': (4, 3), }";
        for (content, expected) in [(flat, "not a .npy file"), (header.to_vec(), "type <i8; write them as float32")] {
            with("a.npy", &content, |file| {
                let error = file.unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            });
        }
    }
}
