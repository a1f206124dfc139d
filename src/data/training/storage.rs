//! Where the rows of a set are: in memory, in the file itself, or in a temporary file written row by row.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::TrainingRow;
use super::build::build;
use super::input::LONGEST_ROW;
use super::json;
use super::layout::{Layout, Names};
use crate::data::table::DataError;

/// Rows to be asked for by their number.
#[derive(Debug)]
pub(super) enum Storage {
    Memory(Vec<TrainingRow>),
    Lines(Lines),
}

/// A file of JSON lines with the place of each row.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) file: File,
    /// Where each row begins, and where the last one ends.
    pub(super) offsets: Vec<u64>,
    pub(super) names: Names,
}

impl Lines {
    /// A row, read from the file.
    ///
    /// # Errors
    /// What stands in its place.
    pub(super) fn row(&self, row: usize, layout: Layout) -> Result<TrainingRow, String> {
        let (Some(start), Some(end)) = (self.offsets.get(row), self.offsets.get(row + 1)) else {
            return Err("there is no such row".into());
        };
        // Between two rows there may be blank lines without end.
        let length = end.saturating_sub(*start).min(LONGEST_ROW as u64) as usize;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, *start).map_err(|e| e.to_string())?;
        let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_string())?;
        Ok(build(layout, json::object(line, &self.names, None)?, false)?.row)
    }
}

/// A row as JSON, in the names that are read by default.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pos: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    neg: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pos_scores: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    neg_scores: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sentence1: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sentence2: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

impl<'a> Written<'a> {
    fn new(row: &'a TrainingRow, layout: Layout) -> Self {
        // 64 bits hold every number of 32 and its decimal digits bring it back.
        let wide = |numbers: &[f32]| numbers.iter().map(|n| f64::from(*n)).collect();
        let query = Some(row.query.as_str());
        let pairs = layout == Layout::Pairs;
        Self {
            query: query.filter(|_| pairs),
            pos: if pairs { &row.positives } else { &[] },
            neg: &row.negatives,
            pos_scores: wide(&row.positive_scores),
            neg_scores: wide(&row.negative_scores),
            sentence1: query.filter(|_| layout == Layout::Scored),
            sentence2: row.positives.first().map(String::as_str).filter(|_| layout == Layout::Scored),
            score: row.score.map(f64::from),
            text: query.filter(|_| matches!(layout, Layout::Labelled | Layout::Texts)),
            label: row.label.as_deref(),
            prompt: row.prompt.as_deref(),
            kind: row.kind.as_deref(),
        }
    }
}

/// A temporary file of rows in the making. It has no name from the start: whatever becomes of the process, nothing is left.
pub(super) struct Spill {
    folder: PathBuf,
    file: BufWriter<File>,
    offsets: Vec<u64>,
    line: Vec<u8>,
}

/// Tells spill files of one process apart.
static NUMBER: AtomicU64 = AtomicU64::new(0);

impl Spill {
    /// Makes the file in a folder, which is made where it is missing.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn create(folder: &Path) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: folder.into(), source };
        fs::create_dir_all(folder).map_err(io)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".training-rows.{}.{number}.tmp", std::process::id()));
        // Left by a process of the same number that was killed between two instructions.
        let _ = fs::remove_file(&path);
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(io)?;
        fs::remove_file(&path).map_err(io)?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { folder: folder.into(), file, offsets: vec![0], line: Vec::new() })
    }

    fn failed(&self, error: &io::Error) -> DataError {
        let message =
            format!("rows cannot be written to a temporary file here ({error}): make room, or name another folder");
        DataError::content(&self.folder, message)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn push(&mut self, row: &TrainingRow, layout: Layout) -> Result<(), DataError> {
        self.line.clear();
        let written = serde_json::to_writer(&mut self.line, &Written::new(row, layout)).map_err(io::Error::from);
        self.line.push(b'\n');
        written.and_then(|()| self.file.write_all(&self.line)).map_err(|e| self.failed(&e))?;
        self.offsets.push(self.offsets.last().copied().unwrap_or(0) + self.line.len() as u64);
        Ok(())
    }

    /// The rows, to be read from now on.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn finish(mut self) -> Result<Lines, DataError> {
        self.file.flush().map_err(|e| self.failed(&e))?;
        let folder = self.folder.clone();
        let io = |source| DataError::Io { path: folder.clone(), source };
        let file = self.file.into_inner().map_err(|e| io(e.into_error()))?;
        self.offsets.shrink_to_fit();
        let names = Names::new(&BTreeMap::new()).map_err(|e| DataError::content(&self.folder, e))?;
        Ok(Lines { file, offsets: self.offsets, names })
    }
}
