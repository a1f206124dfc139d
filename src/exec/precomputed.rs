//! Embeddings made elsewhere in the place of a model: an API's, or those of a model whose code runs only in Python.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::data::embedding_file::{EXTENSIONS, EmbeddingFile};
use crate::data::matrix::Matrix;
use crate::task::evaluate::{EncodeError, Part, TextEncoder};
use crate::task::protocol::Similarity;
use crate::task::spec::TaskSpec;

/// A folder of embeddings: `<Task>/<split>.npy` for types with one text a row, `<Task>/<split>.<column>.npy` (or `<column>`
/// alone) for the others, `<Task>/queries.npy` and `<Task>/documents.npy` for rankings; also `.safetensors` and `.parquet`, and
/// `<Task>.safetensors` with tensors of these names.
pub struct Precomputed {
    folder: PathBuf,
    similarity: Similarity,
    open: RefCell<HashMap<PathBuf, Rc<EmbeddingFile>>>,
}

/// The names under which a part's embeddings are looked for, the fullest first.
pub fn stems(split: &str, column: Option<&str>) -> Vec<String> {
    match column {
        None => vec![split.to_string()],
        Some("documents") => vec![format!("{split}.documents"), "documents".into(), "docs".into(), "corpus".into()],
        Some(column) => vec![format!("{split}.{column}"), column.to_string()],
    }
}

impl Precomputed {
    /// Reads from `folder`; `similarity` is that of the model that made the embeddings.
    pub fn new(folder: &Path, similarity: Similarity) -> Self {
        Self { folder: folder.into(), similarity, open: RefCell::default() }
    }

    /// Whether there is anything of a task.
    pub fn has(&self, task: &str) -> bool {
        self.folder.join(task).is_dir() || self.folder.join(format!("{task}.safetensors")).is_file()
    }

    fn file(&self, task: &TaskSpec, part: &Part<'_>) -> Result<Rc<EmbeddingFile>, EncodeError> {
        let stems = stems(part.split, part.column);
        for stem in &stems {
            for extension in EXTENSIONS {
                let path = self.folder.join(&task.name).join(format!("{stem}.{extension}"));
                if path.is_file() {
                    return self.opened(&path, None);
                }
            }
        }
        let together = self.folder.join(format!("{}.safetensors", task.name));
        if !together.is_file() {
            let named = stems.join(".npy or ");
            let place = self.folder.join(&task.name);
            return Err(format!(
                "{}: no embeddings here: expected {named}.npy (or .safetensors, .parquet)",
                place.display()
            )
            .into());
        }
        let found = stems.iter().map(|stem| self.opened(&together, Some(stem)));
        let mut error = None;
        for result in found {
            match result {
                Ok(file) => return Ok(file),
                Err(e) => error = error.or(Some(e)),
            }
        }
        Err(error.unwrap_or_else(|| format!("{}: has no such tensor", together.display()).into()))
    }

    fn opened(&self, path: &Path, tensor: Option<&str>) -> Result<Rc<EmbeddingFile>, EncodeError> {
        let key = path.join(tensor.unwrap_or_default());
        if let Some(file) = self.open.borrow().get(&key) {
            return Ok(file.clone());
        }
        let file = Rc::new(EmbeddingFile::open(path, tensor)?);
        self.open.borrow_mut().insert(key, file.clone());
        Ok(file)
    }
}

impl TextEncoder for Precomputed {
    fn encode(&self, task: &TaskSpec, parts: &[Part<'_>]) -> Result<Vec<Matrix>, EncodeError> {
        let mut out = Vec::with_capacity(parts.len());
        for part in parts {
            let file = self.file(task, part)?;
            if file.rows() != part.total {
                let what = part.column.unwrap_or("texts");
                return Err(format!(
                    "{}: has {} rows, but the task has {} {what} in its split `{}`: embed all of them, in order (`embeval tasks texts` writes them)",
                    file.path().display(),
                    file.rows(),
                    part.total,
                    part.split
                )
                .into());
            }
            let matrix = file.read(&part.rows)?;
            let dim = matrix.cols().max(1);
            if let Some(at) = matrix.data().iter().position(|value| !value.is_finite()) {
                let row = part.rows.get(at / dim).map_or(0, |row| row + 1);
                return Err(format!("{}: row {row} holds NaN or infinity", file.path().display()).into());
            }
            out.push(matrix);
        }
        Ok(out)
    }

    fn similarity(&self) -> Similarity {
        self.similarity
    }

    fn needs_texts(&self) -> bool {
        false
    }
}
