//! Hard negatives for contrastive training: for every query the nearest texts that do not answer it.
//!
//! Texts become numbers ([`MiningSet`]), embeddings are searched exactly, a block of queries at a time, and of each query's
//! nearest candidates [`Settings`] decide which are its negatives: by sentence-transformers' `mine_hard_negatives` (6.2) or by
//! FlagEmbedding's `hn_mine`. Scores are cosines in `f64` of the `f32` embeddings, so that what is chosen depends neither on the
//! size of a block nor on the number of threads.

mod choose;
mod embeddings;
mod keys;
mod lists;
mod nearest;
mod report;
mod set;
mod settings;
mod write;

use rayon::prelude::*;

pub use self::choose::{Mined, Reason};
pub use self::embeddings::Embeddings;
pub use self::keys::OtherKeys;
pub use self::nearest::Found;
pub use self::report::{Quantiles, QueryRecord, Report, Tally};
pub use self::set::{MiningSet, Origin};
pub use self::settings::{Rule, Sampling, Settings, SettingsError};
pub use self::write::{Format, Layout, Output, Parts, Written};

use self::choose::Choice;
use self::nearest::Nearest;
use crate::estimator::EstimatorError;

/// Bytes that the candidates of a block of queries may take, and as many again for every eight threads, which share the block.
const BLOCK_BYTES: usize = 4 << 20;
/// Queries of a block at the most.
const BLOCK_QUERIES: usize = 4096;

/// What keeps negatives from being mined.
#[derive(Debug, thiserror::Error)]
pub enum MineError {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is nothing to draw from.
    #[error("there are no candidates for negatives: the pool holds no texts")]
    NoCandidates,
    /// More texts than are numbered.
    #[error("{0} texts: at most {max} are mined at once; split the data", max = u32::MAX)]
    TooMany(usize),
    /// Embeddings that do not belong to the texts.
    #[error("{what}: [{rows}, {dim}] embeddings for {texts} texts of {expected} values")]
    Shape {
        /// Which embeddings.
        what: &'static str,
        /// Rows given.
        rows: usize,
        /// Values of a row.
        dim: usize,
        /// Texts that there are.
        texts: usize,
        /// Values that the queries have.
        expected: usize,
    },
    /// An embedding holds an infinity or a NaN.
    #[error("the embedding of {what} {row} (from 0) is not finite")]
    NotFinite {
        /// Query, candidate or document.
        what: &'static str,
        /// Its number.
        row: usize,
    },
    /// The search failed.
    #[error(transparent)]
    Search(#[from] EstimatorError),
}

/// Mines the negatives of every query of `set` and hands them to `take` in the order of the queries; `progress` is told how many
/// queries are done. Beside the embeddings the memory is that of one block's candidates (some MB) and 64 bytes a query.
///
/// # Errors
/// Settings that are wrong, no candidates, or what `take` gives.
pub fn mine<E: From<MineError>>(
    set: &MiningSet<'_>,
    embeddings: &Embeddings,
    settings: &Settings,
    progress: &dyn Fn(usize),
    take: &mut dyn FnMut(&Mined) -> Result<(), E>,
) -> Result<Report, E> {
    settings.check().map_err(MineError::from)?;
    if set.candidates() == 0 {
        return Err(MineError::NoCandidates.into());
    }
    embeddings.check(set)?;
    let range_max = settings.range_max(set.most_positives());
    let wanted = match settings.rule {
        Rule::SentenceTransformers => {
            range_max.saturating_add(set.most_positives()).saturating_add(set.most_excluded())
        }
        Rule::HnMine => range_max,
    };
    let nearest = Nearest::new(embeddings, wanted);
    let choice = Choice { set, embeddings, settings, range_max };
    let bytes = BLOCK_BYTES + BLOCK_BYTES / 8 * rayon::current_num_threads();
    let fitting = (bytes / nearest.bytes_per_query()).clamp(1, BLOCK_QUERIES);
    let block = settings.block.map_or(fitting, |asked| asked.clamp(1, fitting));
    let mut report = Report::new(set, settings, range_max);
    let queries = set.queries().len();
    for start in (0..queries).step_by(block) {
        let numbers = start..(start + block).min(queries);
        let found = nearest.search(numbers.clone()).map_err(MineError::from)?;
        let mined: Vec<Mined> =
            numbers.into_par_iter().zip(found).map(|(query, found)| choice.of_query(query, &found)).collect();
        for one in &mined {
            report.add(one);
            take(one)?;
        }
        progress(start + mined.len());
    }
    report.finish();
    Ok(report)
}
