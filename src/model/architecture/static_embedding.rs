//! Static embeddings: a vector for each token, and a text is their mean (sentence-transformers' `StaticEmbedding`; Model2Vec, Tulkens and van Dongen
//! 2024). No special tokens, no limit; a text without tokens is the zero vector. Model2Vec itself leaves out unknown tokens and what
//! follows the first 512; sentence-transformers, whose embeddings these are, does neither.

use std::path::Path;

use candle_core::Tensor;
use serde_json::{Value, json};

use super::{Architecture, ModelDropout, Spec, UNLIMITED};
use crate::model::ModelError;
use crate::model::layers::{Embeddings, Encoder, Norm, Positions};
use crate::model::parameters::Parameters;
use crate::model::weights::{self, Weights};

/// The table's name.
const TABLE: &str = "embedding.weight";

/// Sizes of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticConfig {
    vocab_size: usize,
    hidden_size: usize,
}

impl StaticConfig {
    pub(super) fn spec(&self) -> Spec {
        Spec {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            max_tokens: UNLIMITED,
            layers: 0,
            dropout: ModelDropout { hidden: 0.0, attention: 0.0 },
        }
    }

    pub(super) fn load(&self, p: &Parameters<'_>) -> Result<Encoder, ModelError> {
        Ok(Encoder {
            embeddings: Embeddings::Words(p.table(TABLE, self.vocab_size, self.hidden_size)?, 1.0),
            embedding_norm: Norm::None,
            positions: Positions::Absolute,
            layers: Vec::new(),
            norm: Norm::None,
            relative: None,
            drops_output: false,
            dropout: None,
        })
    }
}

/// Reads the table of a folder, which has no config.json, or Model2Vec's: `embedding.weight`, or `embeddings` with `mapping` (from token to row) and
/// `weights` (a factor a token).
///
/// # Errors
/// Where there is no table, or what belongs to it does not fit.
pub(in crate::model) fn read(folder: &Path) -> Result<(Value, Architecture, Weights), ModelError> {
    let path = weights::find(folder)?;
    let (mut found, mapping) = weights::read_table(&path, "mapping")?;
    let Some(mut table) = found.remove(TABLE).or_else(|| found.remove("embeddings")) else {
        return Err(ModelError::file(&path, format!("no tensor `{TABLE}` (nor `embeddings`): not static embeddings")));
    };
    let Ok((rows, _)) = table.dims2() else {
        return Err(ModelError::file(
            &path,
            format!("the table has shape {:?}: must be [tokens, width]", table.dims()),
        ));
    };
    if let Some(mapping) = mapping {
        let Some(indices) = mapping.iter().map(|i| u32::try_from(*i).ok().filter(|i| (*i as usize) < rows)).collect()
        else {
            return Err(ModelError::file(&path, format!("`mapping` has an entry outside the table's {rows} rows")));
        };
        let indices: Vec<u32> = indices;
        table = table.index_select(&Tensor::new(indices, table.device())?, 0)?;
    }
    if let Some(factors) = found.remove("weights") {
        let tokens = table.dim(0)?;
        if factors.dims() != [tokens] {
            return Err(ModelError::file(
                &path,
                format!("`weights` {:?} are not one for each of {tokens} tokens", factors.dims()),
            ));
        }
        table = table.broadcast_mul(&factors.unsqueeze(1)?)?;
    }
    let (vocab_size, hidden_size) = table.dims2()?;
    if vocab_size == 0 || hidden_size == 0 {
        return Err(ModelError::file(&path, "the table is empty"));
    }
    let config = json!({"model_type": "static", "vocab_size": vocab_size, "hidden_size": hidden_size});
    let architecture = Architecture::Static(StaticConfig { vocab_size, hidden_size });
    Ok((config, architecture, Weights::from([(TABLE.to_string(), table)])))
}
