//! What goes wrong silently elsewhere: frozen tensors that move, adapters that change nothing, prompts that are not the base's.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::TrainError;
use super::batches::Source;
use crate::model::prompts::Side;
use crate::model::{Embedder, Mode, ModelFiles};
use crate::nn::PackedBatch;
use crate::objective::Direction;

/// Something that the reader of a run must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning(pub String);

/// Share of texts cut at the limit from which a warning is due.
const TRUNCATED: f64 = 0.05;
/// Share of rows with a positive that another row has too.
const DUPLICATES: f64 = 0.05;
/// A change of embeddings below this is rounding.
const NO_EFFECT: f32 = 1e-6;

/// Sums over the bits of the tensors that must not move.
pub struct Frozen(BTreeMap<String, u64>);

impl Frozen {
    /// Of all tensors that are not trained.
    ///
    /// # Errors
    /// Where a tensor cannot be read.
    pub fn of(embedder: &Embedder) -> Result<Self, TrainError> {
        let mut sums = BTreeMap::new();
        for (name, tensor) in embedder.tensors() {
            if !embedder.vars().contains_key(name) {
                sums.insert(name.clone(), digest(tensor)?);
            }
        }
        Ok(Self(sums))
    }

    /// # Errors
    /// The tensor that has moved since.
    pub fn check(&self, embedder: &Embedder) -> Result<(), TrainError> {
        let now = Self::of(embedder)?;
        match self.0.iter().find(|(name, sum)| now.0.get(*name) != Some(sum)) {
            None => Ok(()),
            Some((name, _)) => Err(TrainError::FrozenMoved { name: name.clone() }),
        }
    }
}

fn digest(tensor: &Tensor) -> Result<u64, TrainError> {
    let values = tensor.to_device(&candle_core::Device::Cpu)?.flatten_all()?;
    let values = match values.dtype() {
        candle_core::DType::F32 => values.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect(),
        candle_core::DType::U8 => values.to_vec1::<u8>()?.into_iter().map(u32::from).collect(),
        _ => values
            .to_dtype(candle_core::DType::F32)?
            .to_vec1::<f32>()?
            .into_iter()
            .map(f32::to_bits)
            .collect::<Vec<u32>>(),
    };
    // FNV-1a over words: any change of one shows.
    Ok(values.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, v| (h ^ u64::from(*v)).wrapping_mul(0x0100_0000_01b3)))
}

/// Embeddings of a few texts, to see whether training changed them.
pub struct Effect {
    texts: PackedBatch,
    before: Tensor,
}

impl Effect {
    /// The embeddings before training.
    ///
    /// # Errors
    /// Where the model fails.
    pub fn of(embedder: &Embedder, texts: PackedBatch) -> Result<Self, TrainError> {
        let before = embedder.forward(&texts, Mode::INFERENCE)?.detach();
        Ok(Self { texts, before })
    }

    /// Compares with the embeddings now.
    ///
    /// # Errors
    /// Where no embedding changed: training had no effect.
    pub fn check(&self, embedder: &Embedder) -> Result<Option<Warning>, TrainError> {
        let after = embedder.forward(&self.texts, Mode::INFERENCE)?;
        let change = (after.detach() - &self.before)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        if change == 0.0 {
            return Err(TrainError::NoEffect);
        }
        let small = || {
            Warning(format!("training changed the embeddings by {change:.1e} at the most: raise train.lr or the steps"))
        };
        Ok((change < NO_EFFECT).then(small))
    }
}

/// Warnings on the data of a run.
pub fn on_data(sources: &[Source]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for source in sources {
        let stats = source.rows.set().stats();
        let share = stats.share_of_shared_positives();
        if share > DUPLICATES {
            warnings.push(Warning(format!(
                "{}: {:.1} % of the rows have a positive that another row has too; they are masked within a batch \
                 (data.no_duplicates keeps them apart)",
                source.name,
                100.0 * share
            )));
        }
        if stats.own_negatives > 0 {
            warnings.push(Warning(format!(
                "{}: {} rows have a negative that equals their query or positive",
                source.name, stats.own_negatives
            )));
        }
    }
    warnings
}

/// Warns of texts that are cut.
pub fn on_truncation((cut, all): (usize, usize), max_length: (usize, usize)) -> Option<Warning> {
    let share = cut as f64 / all.max(1) as f64;
    let (query, document) = max_length;
    (share > TRUNCATED).then(|| {
        Warning(format!(
            "{:.1} % of the texts were cut at the length limit (train.max_length: query {query}, document {document})",
            100.0 * share
        ))
    })
}

/// Warns of prompts that are not the base's own: what is trained with one prompt and used with another loses.
pub fn on_prompts(base: &ModelFiles, sources: &[Source], direction: Direction) -> Vec<Warning> {
    let own = |side: Side| match direction {
        Direction::Symmetric => base.layout.prompts.find("", "STS", None),
        Direction::Asymmetric => base.layout.prompts.of_side(side),
    };
    // A model may name them otherwise than by the side, as USER2 does: `search_query`, `search_document`.
    let is_known = |side: Side, given: &String| {
        let named = |name: &str| direction == Direction::Symmetric || name.ends_with(side.name());
        !given.is_empty() && base.layout.prompts.named.iter().any(|(name, text)| text == given && named(name))
    };
    let mut warnings = Vec::new();
    for source in sources {
        for (what, side, given) in
            [("queries", Side::Query, &source.prompts.0), ("documents", Side::Document, &source.prompts.1)]
        {
            let own = own(side);
            if given != own && !is_known(side, given) {
                let warning = Warning(format!(
                    "{}: {what} are trained with the prompt `{given}`, but the base's own is `{own}`: use the model with the same",
                    source.name
                ));
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
    }
    if base.layout.assumed {
        warnings.push(Warning("the base has no modules.json: mean pooling without normalisation was assumed".into()));
    }
    warnings
}

/// Looks at what was saved as a user would load it.
///
/// # Errors
/// Where pooling, heads or prompts are not the base's.
pub fn on_saved(base: &ModelFiles, folder: &std::path::Path) -> Result<(), TrainError> {
    let saved = ModelFiles::load(folder)?;
    let (a, b) = (&base.layout, &saved.layout);
    if a.pooling != b.pooling || a.heads != b.heads || a.prompts != b.prompts || a.include_prompt != b.include_prompt {
        return Err(TrainError::Data(format!(
            "{}: the saved model has another pooling, head or prompt than its base",
            folder.display()
        )));
    }
    Ok(())
}
