//! Training sets of any size: every row is checked when a set is opened, and what does not fit into memory is read row by row.

mod build;
mod hash;
mod input;
mod json;
mod layout;
mod opening;
mod parquet;
mod separated;
mod stats;
mod storage;
mod subset;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use hash::text_hash;
pub use stats::Stats;
pub use subset::{Subset, split};

use super::table::DataError;
use hash::Hashes;
use layout::{Field, Layout};
use storage::Storage;

/// A row of training data. What a set's [`Form`] does not have is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TrainingRow {
    /// The query, the first of two texts, or the only text.
    pub query: String,
    /// Texts that match the query; of two texts with a score, the second one.
    pub positives: Vec<String>,
    /// Hard negatives; any number.
    pub negatives: Vec<String>,
    /// A teacher's scores of the positives: one each, or none at all.
    pub positive_scores: Vec<f32>,
    /// A teacher's scores of the negatives: one each, or none at all.
    pub negative_scores: Vec<f32>,
    /// How much two texts match.
    pub score: Option<f32>,
    /// A text's class.
    pub label: Option<String>,
    /// What FlagEmbedding puts before this row's query.
    pub prompt: Option<String>,
    /// What FlagEmbedding calls the row's `type`.
    pub kind: Option<String>,
}

impl TrainingRow {
    /// Query, positives, negatives.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.query).chain(&self.positives).chain(&self.negatives).map(String::as_str)
    }

    /// Whether a teacher scored every positive and negative.
    fn taught(&self) -> bool {
        self.positive_scores.len() == self.positives.len() && self.negative_scores.len() == self.negatives.len()
    }

    /// Bytes of the row in memory, about.
    fn bytes(&self) -> usize {
        let texts: usize = self.texts().map(|text| text.len() + size_of::<String>()).sum();
        let others = [&self.label, &self.prompt, &self.kind].into_iter().flatten().map(String::len).sum::<usize>();
        size_of::<Self>() + texts + others + 4 * (self.positive_scores.len() + self.negative_scores.len())
    }
}

/// What the rows of a set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Queries with texts that match and texts that do not.
    Pairs {
        /// Fewest and most negatives of a row.
        negatives: (usize, usize),
        /// Whether every row has a teacher's scores.
        teacher: bool,
    },
    /// Two texts and a score.
    Scored,
    /// A text and its class.
    Labelled,
    /// Texts alone.
    Texts,
}

/// How a set is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Most rows, from the start; what lies beyond is not looked at.
    pub limit: Option<usize>,
    /// Names of columns, ours → theirs. Ours are FlagEmbedding's keys or sentence-transformers' columns.
    pub columns: BTreeMap<String, String>,
    /// Bytes of rows that are held; a set of more is read row by row.
    pub in_memory_bytes: usize,
    /// Folder of the temporary file that rows are put in where they can neither be held nor be found in the file itself.
    pub spill: PathBuf,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { limit: None, columns: BTreeMap::new(), in_memory_bytes: 256 << 20, spill: std::env::temp_dir() }
    }
}

/// A training set: rows by their number, from any thread.
#[derive(Debug)]
pub struct TrainingSet {
    path: PathBuf,
    layout: Layout,
    form: Form,
    storage: Storage,
    hashes: Hashes,
    blank_negatives: usize,
    teacher_rows: usize,
    unused: Vec<String>,
}

impl TrainingSet {
    /// Opens a file of rows: `.jsonl`, `.json`, `.csv`, `.tsv`, `.txt` (plain, `.gz` or `.zst`) or `.parquet`. The columns of
    /// the first row decide the set's form, and every row is read and checked.
    ///
    /// Columns are FlagEmbedding's (`query`, `pos`, `neg`, `pos_scores`, `neg_scores`, `prompt`, `type`) or those of
    /// sentence-transformers (`anchor`, `positive`, `negative`, `negative_1` …; `sentence1`, `sentence2` and `score` or `label`;
    /// `text` or `sentence` with `label`); a `text` or `sentence` alone, or a line of a `.txt`, is a text. Blank lines are no
    /// rows, and a blank negative is none.
    ///
    /// Beyond `in_memory_bytes`, 8 bytes a row and 8 a text (and 12 more a row) stay in memory: where each row lies, and its
    /// hashes.
    ///
    /// # Errors
    /// Where the file cannot be read, holds no rows, or a row is unusable: the row, its line and the way out are named.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, DataError> {
        opening::open(path, options, input::LONGEST_ROW)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows; at least one.
    pub fn len(&self) -> usize {
        self.hashes.rows()
    }

    /// Whether there are none: never.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the rows are.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Whether the rows are held in memory.
    pub fn in_memory(&self) -> bool {
        matches!(self.storage, Storage::Memory(_))
    }

    /// Columns (of JSON: keys of the first row) that mean nothing here.
    pub fn unused_columns(&self) -> &[String] {
        &self.unused
    }

    /// A row, from 0.
    ///
    /// # Errors
    /// Where there is no such row, or the file has changed since it was opened.
    pub fn row(&self, row: usize) -> Result<TrainingRow, DataError> {
        let fault =
            |message: String| DataError::content(&self.path, format!("row {}: {message}", row.saturating_add(1)));
        if row >= self.len() {
            return Err(fault(format!("there is no such row: the set has {}", self.len())));
        }
        match &self.storage {
            Storage::Memory(rows) => rows.get(row).cloned().ok_or_else(|| fault("there is no such row".into())),
            Storage::Lines(lines) => {
                let changed = "the rows have changed since they were opened: leave the file alone while it is in use";
                let read = lines.row(row, self.layout).map_err(|e| fault(format!("{changed} ({e})")))?;
                let same = read.texts().map(text_hash).eq(self.hashes(row).iter().copied());
                if same { Ok(read) } else { Err(fault(changed.into())) }
            }
        }
    }

    /// Hashes of a row's texts ([`text_hash`]): query, positives, negatives. Empty where there is no such row.
    pub fn hashes(&self, row: usize) -> &[u64] {
        self.hashes.row(row)
    }

    /// Counts over the rows; takes a moment, and 24 bytes a positive meanwhile.
    pub fn stats(&self) -> Stats {
        Stats { blank_negatives: self.blank_negatives, teacher_rows: self.teacher_rows, ..stats::count(&self.hashes) }
    }
}

/// Where a record stands in its file.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Number of the row, from 1.
    row: usize,
    /// Number of the line on which it begins, from 1.
    line: Option<usize>,
    /// Bytes before it; only of files of lines.
    offset: u64,
}

impl Place {
    /// An error of this row.
    fn fault(&self, path: &Path, message: &str) -> DataError {
        let row = self.row;
        match self.line {
            Some(line) => DataError::content(path, format!("row {row} (line {line}): {message}")),
            None => DataError::content(path, format!("row {row}: {message}")),
        }
    }
}

/// A row as the file has it.
struct Record {
    place: Place,
    fields: Vec<Field>,
    /// Names of columns that mean nothing; with the first record only.
    unused: Vec<Arc<str>>,
    /// Whether lists and numbers are written as text.
    textual: bool,
}

/// Takes the records of a file one by one; false where no more are wanted.
type Take<'a> = dyn FnMut(Record) -> Result<bool, DataError> + 'a;
