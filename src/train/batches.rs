//! From rows to batches of token ids: tokenized once, shuffled anew each epoch by a seed.

use std::collections::HashMap;
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::TrainError;
use crate::data::rows::PairRow;
use crate::model::TextTokenizer;
use crate::objective::contrastive::{Example, Text};

/// How texts of the two sides are prepared.
pub struct Sides<'a> {
    /// Tokenizers with the limits of the sides.
    pub tokenizers: (&'a TextTokenizer, &'a TextTokenizer),
    /// Prompts of the sides.
    pub prompts: (&'a str, &'a str),
}

struct TokenRow {
    query: Text,
    positives: Vec<Text>,
    negatives: Vec<Text>,
}

/// Tokenized rows.
pub struct Rows {
    rows: Vec<TokenRow>,
    /// Texts that fill their side's limit, out of all.
    pub truncated: (usize, usize),
}

/// A generator for one purpose at one place of a run: other seeds, purposes and places give other streams.
fn generator(seed: u64, purpose: u64, place: u64) -> rand_pcg::Pcg64 {
    rand_pcg::Pcg64::seed_from_u64(
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(purpose << 48).wrapping_add(place),
    )
}

/// Batches that `rows` rows give. A last batch of one row is left out where rows may lack hard negatives (`lone`): it
/// could have no negatives at all.
pub fn batch_count(rows: usize, batch: usize, lone: bool) -> usize {
    let all = rows.div_ceil(batch);
    all - usize::from(all > 1 && rows % batch == 1 && lone)
}

impl Rows {
    /// Tokenizes every text once.
    ///
    /// # Errors
    /// Where the tokenizer fails, or there is no row.
    pub fn new(rows: &[PairRow], sides: &Sides<'_>) -> Result<Self, TrainError> {
        if rows.is_empty() {
            return Err(TrainError::Data("there are no training rows".into()));
        }
        let queries: Vec<&str> = rows.iter().map(|r| r.query.as_str()).collect();
        let documents: Vec<&str> =
            rows.iter().flat_map(|r| r.positives.iter().chain(&r.negatives)).map(String::as_str).collect();
        let mut identities: HashMap<&str, u64> = HashMap::new();
        let mut identity = |text| {
            let next = identities.len() as u64;
            *identities.entry(text).or_insert(next)
        };
        let mut truncated = 0;
        let mut side =
            |texts: &[&'_ str], tokenizer: &TextTokenizer, prompt: &str| -> Result<Vec<Arc<Vec<u32>>>, TrainError> {
                let ids = tokenizer.encode(texts, prompt)?;
                truncated += ids.iter().filter(|ids| ids.len() >= tokenizer.max_length()).count();
                Ok(ids.into_iter().map(Arc::new).collect())
            };
        let query_ids = side(&queries, sides.tokenizers.0, sides.prompts.0)?;
        let mut document_ids = side(&documents, sides.tokenizers.1, sides.prompts.1)?.into_iter();
        let mut out = Vec::with_capacity(rows.len());
        for (row, ids) in rows.iter().zip(query_ids) {
            let query = Text { ids, identity: identity(&row.query) };
            let mut take = |texts: &'_ [String]| -> Vec<(Arc<Vec<u32>>, usize)> {
                texts.iter().enumerate().filter_map(|(i, _)| Some((document_ids.next()?, i))).collect()
            };
            let (positives, negatives) = (take(&row.positives), take(&row.negatives));
            let positives =
                positives.into_iter().map(|(ids, i)| Text { ids, identity: identity(&row.positives[i]) }).collect();
            let negatives =
                negatives.into_iter().map(|(ids, i)| Text { ids, identity: identity(&row.negatives[i]) }).collect();
            out.push(TokenRow { query, positives, negatives });
        }
        Ok(Self { rows: out, truncated: (truncated, queries.len() + documents.len()) })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Batches of an epoch ([`batch_count`] of them): the rows in a seeded order, `batch` at a time.
    pub fn epoch(&self, epoch: usize, seed: u64, batch: usize, hard_negatives: usize) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.shuffle(&mut generator(seed, 1, epoch as u64));
        let mut batches: Vec<Vec<usize>> = order.chunks(batch).map(<[usize]>::to_vec).collect();
        batches.truncate(self.batches(batch, hard_negatives));
        batches
    }

    /// Number of batches of an epoch.
    pub fn batches(&self, batch: usize, hard_negatives: usize) -> usize {
        let lone = hard_negatives == 0 || self.rows.iter().any(|r| r.negatives.is_empty());
        batch_count(self.rows.len(), batch, lone)
    }

    /// The texts of a batch: for each row one of its positives and up to `hard_negatives` of its negatives, drawn by the
    /// seed and the place (epoch and number of the batch). Rows with fewer negatives contribute those they have.
    pub fn examples(&self, rows: &[usize], seed: u64, place: u64, hard_negatives: usize) -> Vec<Example> {
        let mut rng = generator(seed, 2, place);
        rows.iter()
            .filter_map(|&i| {
                let row = &self.rows[i];
                let positive = row.positives.choose(&mut rng)?.clone();
                let negatives =
                    row.negatives.sample(&mut rng, hard_negatives.min(row.negatives.len())).cloned().collect();
                Some(Example { query: row.query.clone(), positive, negatives })
            })
            .collect()
    }

    /// The texts of rows in order, always the first positive and the first negatives: for evaluation.
    pub fn fixed(&self, rows: std::ops::Range<usize>, hard_negatives: usize) -> Vec<Example> {
        self.rows[rows]
            .iter()
            .filter_map(|row| {
                Some(Example {
                    query: row.query.clone(),
                    positive: row.positives.first()?.clone(),
                    negatives: row.negatives.iter().take(hard_negatives).cloned().collect(),
                })
            })
            .collect()
    }
}
