//! Mined rows as JSON lines, written as they come.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use super::choose::Mined;
use super::embeddings::Embeddings;
use super::keys::OtherKeys;
use super::nearest::Found;
use super::set::MiningSet;
use crate::data::rows::PairRow;

/// Whose columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// FlagEmbedding's `query`, `pos`, `neg`: a line a training row, with as many negatives as there are.
    Flag,
    /// sentence-transformers' `anchor`, `positive`, `negative`: a line for each negative of each positive of a query.
    Triplet,
    /// sentence-transformers' `anchor`, `positive`, `negative_1` … `negative_n`: a line for each positive of a query; queries with
    /// fewer than `n` negatives are left out.
    NTuple,
}

impl Layout {
    /// `flag`, `triplet` or `n-tuple`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Triplet => "triplet",
            Self::NTuple => "n-tuple",
        }
    }
}

/// How lines look.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Whose columns.
    pub layout: Layout,
    /// Whether cosines are written, too: `pos_scores` and `neg_scores`, or `scores` (the positive's, then the negatives').
    pub scores: bool,
    /// Whether a row's own negatives come before those mined; [`Layout::Flag`] alone knows them.
    pub keep_negatives: bool,
    /// Negatives that a line of [`Layout::NTuple`] has.
    pub num_negatives: usize,
}

/// What lines are made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The set that is mined.
    pub set: &'a MiningSet<'a>,
    /// Its embeddings.
    pub embeddings: &'a Embeddings,
    /// The training rows that the set was made of.
    pub rows: &'a [PairRow],
    /// Their other keys, which [`Layout::Flag`] keeps.
    pub keys: &'a OtherKeys,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Lines.
    pub lines: usize,
    /// Pairs of query and positive that have no line, for want of negatives.
    pub left_out: usize,
}

/// Writes what is mined.
pub struct Output<'a, W> {
    out: W,
    format: Format,
    parts: Parts<'a>,
    /// Negatives of queries that have rows left to be written.
    waiting: HashMap<usize, Vec<Found>>,
    rows_left: Vec<u32>,
    next_row: usize,
    written: Written,
}

#[derive(Serialize)]
struct FlagRow<'a> {
    query: &'a str,
    pos: &'a [String],
    neg: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pos_scores: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    neg_scores: Option<Vec<f32>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl<'a, W: Write> Output<'a, W> {
    /// An output to `out`.
    pub fn new(out: W, format: Format, parts: Parts<'a>) -> Self {
        let mut rows_left = vec![0; if format.layout == Layout::Flag { parts.set.queries().len() } else { 0 }];
        for row in 0..parts.set.rows() {
            if let Some(left) = rows_left.get_mut(parts.set.query_of_row(row)) {
                *left += 1;
            }
        }
        let (waiting, written) = (HashMap::new(), Written::default());
        Self { out, format, parts, waiting, rows_left, next_row: 0, written }
    }

    /// Writes the lines that can be written now that this query, and every one before it, is mined.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn take(&mut self, mined: &Mined) -> io::Result<()> {
        match self.format.layout {
            Layout::Flag => {
                self.waiting.insert(mined.query, mined.negatives.clone());
                while self.next_row < self.parts.set.rows() && self.parts.set.query_of_row(self.next_row) <= mined.query
                {
                    self.flag_row(self.next_row)?;
                    self.next_row += 1;
                }
                Ok(())
            }
            Layout::Triplet => self.columns(mined, 1),
            Layout::NTuple => self.columns(mined, self.format.num_negatives),
        }
    }

    /// Flushes, and says what was written.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(mut self) -> io::Result<Written> {
        self.out.flush()?;
        Ok(self.written)
    }

    fn flag_row(&mut self, row: usize) -> io::Result<()> {
        let Parts { set, embeddings, rows, keys } = self.parts;
        let query = set.query_of_row(row);
        let Some(texts) = rows.get(row) else { return Ok(()) };
        let mined = self.waiting.get(&query).map_or(&[][..], Vec::as_slice);
        let kept = texts.negatives.iter().filter(|_| self.format.keep_negatives).map(String::as_str);
        let neg = kept.chain(mined.iter().map(|found| set.text(found.document))).collect();
        let scored = |documents: &[u32]| -> Vec<f32> {
            embeddings.cosines(query, documents.iter().copied()).iter().map(|found| found.score as f32).collect()
        };
        let pos_scores = self.format.scores.then(|| scored(set.positives_of_row(row)));
        let neg_scores = self.format.scores.then(|| {
            let mut scores = scored(set.negatives_of_row(row));
            scores.extend(mined.iter().map(|found| found.score as f32));
            scores
        });
        let (query_text, pos, others) = (texts.query.as_str(), texts.positives.as_slice(), keys.of_row(row));
        let line = FlagRow { query: query_text, pos, neg, pos_scores, neg_scores, others };
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")?;
        self.written.lines += 1;
        if let Some(left) = self.rows_left.get_mut(query) {
            *left -= 1;
            if *left == 0 {
                self.waiting.remove(&query);
            }
        }
        Ok(())
    }

    /// Lines of `width` negatives each, for every positive of the query.
    fn columns(&mut self, mined: &Mined, width: usize) -> io::Result<()> {
        let Parts { set, embeddings, .. } = self.parts;
        let Some(query) = set.queries().get(mined.query) else { return Ok(()) };
        for positive in embeddings.cosines(mined.query, set.positives(mined.query).iter().copied()) {
            let lines = mined.negatives.chunks_exact(width.max(1));
            self.written.left_out += usize::from(lines.len() == 0);
            for negatives in lines {
                let mut line = Map::new();
                line.insert("anchor".into(), (*query).into());
                line.insert("positive".into(), set.text(positive.document).into());
                for (number, found) in negatives.iter().enumerate() {
                    let single = self.format.layout == Layout::Triplet;
                    let key = if single { "negative".into() } else { format!("negative_{}", number + 1) };
                    line.insert(key, set.text(found.document).into());
                }
                if self.format.scores {
                    let scores = std::iter::once(&positive).chain(negatives).map(|found| found.score as f32);
                    line.insert("scores".into(), scores.map(Value::from).collect());
                }
                serde_json::to_writer(&mut self.out, &line)?;
                self.out.write_all(b"\n")?;
                self.written.lines += 1;
            }
        }
        Ok(())
    }
}
