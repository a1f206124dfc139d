//! Training rows and a pool as numbers: distinct queries, distinct documents, and which belong together.

use std::collections::{HashMap, HashSet};

use super::MineError;
use super::lists::Lists;
use super::settings::Rule;
use crate::data::rows::PairRow;

/// Where the texts come from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The training rows.
    pub rows: &'a [PairRow],
    /// Texts that may become negatives beside the rows' own (by `hn_mine`'s rule: instead of them).
    pub pool: Option<&'a [String]>,
    /// Whose pool.
    pub rule: Rule,
    /// Whether the rows' negatives are candidates, too; by `hn_mine`'s rule they are where there is no pool.
    pub include_negatives: bool,
    /// Whether a row keeps its negatives, so that none of them is mined for its query once more.
    pub keep_negatives: bool,
    /// Whether the negatives kept are scored, and so must be embedded.
    pub score_negatives: bool,
}

/// What is mined over. Documents `0..candidates` may become negatives, those behind them are only scored.
#[derive(Debug)]
pub struct MiningSet<'a> {
    queries: Vec<&'a str>,
    documents: Vec<&'a str>,
    candidates: usize,
    row_queries: Vec<u32>,
    row_positives: Lists,
    row_negatives: Lists,
    query_positives: Lists,
    /// The same, ascending.
    sorted_positives: Lists,
    /// Candidates that are no negative of a query for another reason than being its positive; ascending.
    query_excluded: Lists,
    most_positives: usize,
}

/// Distinct texts in the order of their first appearance.
#[derive(Default)]
struct Distinct<'a> {
    numbers: HashMap<&'a str, u32>,
    texts: Vec<&'a str>,
}

impl<'a> Distinct<'a> {
    fn add(&mut self, text: &'a str) -> u32 {
        let next = self.texts.len() as u32;
        *self.numbers.entry(text).or_insert_with(|| {
            self.texts.push(text);
            next
        })
    }
}

impl<'a> MiningSet<'a> {
    /// Numbers the texts. A text of the pool that is there twice counts once, a blank one not at all. Candidates are, in this order,
    /// the pool, the positives, the negatives (as far as each takes part), as `mine_hard_negatives` lists them.
    ///
    /// # Errors
    /// More texts than 32 bits number.
    pub fn new(origin: &Origin<'a>) -> Result<Self, MineError> {
        let Origin { rows, pool, rule, .. } = *origin;
        let texts = pool.map_or(0, <[String]>::len)
            + rows.iter().map(|row| 1 + row.positives.len() + row.negatives.len()).sum::<usize>();
        if u32::try_from(texts).is_err() {
            return Err(MineError::TooMany(texts));
        }
        let alone = rule == Rule::HnMine && pool.is_some();
        let negatives = origin.include_negatives || (rule == Rule::HnMine && pool.is_none());
        let mut documents = Distinct::default();
        let mut candidate = |text: &'a String| {
            if !text.trim().is_empty() {
                documents.add(text);
            }
        };
        pool.unwrap_or_default().iter().for_each(&mut candidate);
        if !alone {
            rows.iter().flat_map(|row| &row.positives).for_each(&mut candidate);
        }
        if negatives {
            rows.iter().flat_map(|row| &row.negatives).for_each(&mut candidate);
        }
        let candidates = documents.texts.len();

        let mut queries = Distinct::default();
        let (mut row_queries, mut row_positives, mut row_negatives) = (Vec::new(), Lists::new(), Lists::new());
        for row in rows {
            row_queries.push(queries.add(&row.query));
            row_positives.push(row.positives.iter().map(|text| documents.add(text)));
            let scored = origin.keep_negatives && origin.score_negatives;
            row_negatives.push(row.negatives.iter().filter(|_| scored).map(|text| documents.add(text)));
        }
        let mut set = Self {
            queries: queries.texts,
            documents: documents.texts,
            candidates,
            row_queries,
            row_positives,
            row_negatives,
            query_positives: Lists::new(),
            sorted_positives: Lists::new(),
            query_excluded: Lists::new(),
            most_positives: 0,
        };
        set.gather(origin, &documents.numbers);
        Ok(set)
    }

    /// What the rows of each query say together.
    fn gather(&mut self, origin: &Origin<'_>, numbers: &HashMap<&str, u32>) {
        let mut order: Vec<usize> = (0..self.row_queries.len()).collect();
        order.sort_by_key(|&row| self.row_queries[row]);
        for rows in order.chunk_by(|&a, &b| self.row_queries[a] == self.row_queries[b]) {
            let all: Vec<u32> = rows.iter().flat_map(|&row| self.row_positives.get(row)).copied().collect();
            let mut known = HashSet::new();
            let positives: Vec<u32> = all.iter().copied().filter(|&document| known.insert(document)).collect();
            let query = rows.first().map(|&row| origin.rows[row].query.as_str());
            let kept = rows.iter().flat_map(|&row| &origin.rows[row].negatives).filter(|_| origin.keep_negatives);
            let excluded = query.into_iter().chain(kept.map(String::as_str)).filter_map(|text| numbers.get(text));
            let mut excluded: Vec<u32> = excluded.copied().filter(|&d| (d as usize) < self.candidates).collect();
            excluded.sort_unstable();
            excluded.dedup();
            excluded.retain(|document| !known.contains(document));
            let mut sorted = positives.clone();
            sorted.sort_unstable();
            self.most_positives = self.most_positives.max(all.len());
            self.query_positives.push(positives);
            self.sorted_positives.push(sorted);
            self.query_excluded.push(excluded);
        }
    }

    /// The distinct queries.
    pub fn queries(&self) -> &[&'a str] {
        &self.queries
    }

    /// The distinct documents: candidates first, then those that are only scored.
    pub fn documents(&self) -> &[&'a str] {
        &self.documents
    }

    /// Number of documents that may become negatives.
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// Number of training rows.
    pub fn rows(&self) -> usize {
        self.row_queries.len()
    }

    /// Positives of the query that has most, repeats counted, as sentence-transformers counts them.
    pub fn most_positives(&self) -> usize {
        self.most_positives
    }

    /// Candidates that a query excludes beside its positives, at the most.
    pub(super) fn most_excluded(&self) -> usize {
        self.query_excluded.longest()
    }

    /// The query of a row.
    pub(super) fn query_of_row(&self, row: usize) -> usize {
        self.row_queries.get(row).map_or(usize::MAX, |&query| query as usize)
    }

    /// The documents that are a row's positives.
    pub(super) fn positives_of_row(&self, row: usize) -> &[u32] {
        self.row_positives.get(row)
    }

    /// The documents that are a row's own negatives, where they are kept and scored.
    pub(super) fn negatives_of_row(&self, row: usize) -> &[u32] {
        self.row_negatives.get(row)
    }

    /// The distinct positives of all rows of a query.
    pub(super) fn positives(&self, query: usize) -> &[u32] {
        self.query_positives.get(query)
    }

    /// Whether a candidate is a positive of the query.
    pub(super) fn is_positive(&self, query: usize, document: u32) -> bool {
        self.sorted_positives.get(query).binary_search(&document).is_ok()
    }

    /// Whether a candidate is the query's own text, or a negative that it keeps.
    pub(super) fn is_excluded(&self, query: usize, document: u32) -> bool {
        self.query_excluded.get(query).binary_search(&document).is_ok()
    }

    /// The text of a document.
    pub fn text(&self, document: u32) -> &'a str {
        self.documents.get(document as usize).copied().unwrap_or_default()
    }
}
