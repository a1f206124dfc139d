//! Tables from files: csv, tsv, jsonl and parquet, plain or compressed (`.gz`, `.zst`).

use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use polars::prelude::{ParquetReader, SerReader};

pub use super::cell::Cell;
use super::suggest::did_you_mean;
use super::text_tables::{self, Columns};

/// A fault of a data file. Every message names the file and the way out.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file's content is unusable.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
}

impl DataError {
    /// A content error in words.
    pub fn content(path: &Path, message: impl Into<String>) -> Self {
        Self::Content { path: path.into(), message: message.into() }
    }
}

/// Most bytes that a compressed file may unpack to: a table is held in memory.
const UNPACKED_LIMIT: u64 = 8 << 30;

/// A table in memory.
pub struct Table {
    path: PathBuf,
    rows: usize,
    content: Content,
}

enum Content {
    /// Fields of a csv: all text.
    Fields(Columns),
    /// Values of JSON lines.
    Values(Columns),
    /// A parquet file; its columns are decoded when they are asked for.
    Parquet { bytes: Vec<u8>, names: Vec<String> },
}

impl Table {
    /// Reads a file by its extension.
    ///
    /// # Errors
    /// Where the file is missing, damaged, of an unknown kind, or holds no rows. A broken line is named.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        Self::head(path, None)
    }

    /// As [`Self::read`], at most `limit` rows from the start; what lies beyond is not looked at.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn head(path: &Path, limit: Option<usize>) -> Result<Self, DataError> {
        let most = limit.unwrap_or(usize::MAX);
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let (stem, packed) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem.to_string(), Some(Packing::Gzip)),
            Some((stem, "zst")) => (stem.to_string(), Some(Packing::Zstandard)),
            _ => (name, None),
        };
        let extension = stem.rsplit_once('.').map_or("", |(_, e)| e);
        if !["csv", "tsv", "jsonl", "ndjson", "json", "parquet"].contains(&extension) {
            let message =
                "cannot tell what kind of file this is: csv, tsv, jsonl, json and parquet are read, plain, .gz or .zst";
            return Err(DataError::content(path, message));
        }
        let raw = std::fs::read(path).map_err(|source| DataError::Io { path: path.into(), source })?;
        let bytes = match packed {
            Some(packing) => unpack(path, &raw, packing, UNPACKED_LIMIT)?,
            None => raw,
        };
        let (content, rows) = match extension {
            "csv" | "tsv" => {
                let separator = if extension == "csv" { b',' } else { b'\t' };
                let (columns, rows) = text_tables::separated(path, utf8(path, &bytes)?, separator, most)?;
                (Content::Fields(columns), rows)
            }
            "parquet" => {
                let (names, rows) = parquet_shape(path, &bytes)?;
                (Content::Parquet { bytes, names }, rows.min(most))
            }
            "json" => {
                let (columns, rows) = text_tables::json(path, utf8(path, &bytes)?, most)?;
                (Content::Values(columns), rows)
            }
            _ => {
                let (columns, rows) = text_tables::json_lines(path, utf8(path, &bytes)?, most)?;
                (Content::Values(columns), rows)
            }
        };
        if rows == 0 {
            return Err(DataError::content(path, "holds no rows"));
        }
        Ok(Self { path: path.into(), rows, content })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether there is a column of this name.
    pub fn has(&self, column: &str) -> bool {
        self.columns().iter().any(|name| name == column)
    }

    /// Names of the columns.
    pub fn columns(&self) -> Vec<String> {
        match &self.content {
            Content::Fields(columns) | Content::Values(columns) => {
                columns.iter().map(|(name, _)| name.clone()).collect()
            }
            Content::Parquet { names, .. } => names.clone(),
        }
    }

    fn textual(&self) -> bool {
        matches!(self.content, Content::Fields(_))
    }

    /// Some values of a column as they were written; they may end early.
    fn written(&self, column: &str, rows: &Range<usize>) -> Result<Cow<'_, [Cell]>, DataError> {
        let found = match &self.content {
            Content::Fields(columns) | Content::Values(columns) => {
                let cells = columns.iter().find(|(name, _)| name == column).map(|(_, cells)| cells.as_slice());
                cells.map(|cells| Cow::Borrowed(&cells[rows.start.min(cells.len())..rows.end.min(cells.len())]))
            }
            Content::Parquet { bytes, names } if names.iter().any(|name| name == column) => {
                Some(Cow::Owned(parquet_column(&self.path, bytes, column, rows)?))
            }
            Content::Parquet { .. } => None,
        };
        found.ok_or_else(|| {
            let known = self.columns();
            let hint = did_you_mean(column, known.iter().map(String::as_str));
            let hint = if hint.is_empty() { "." } else { &hint };
            DataError::content(
                &self.path,
                format!("has no column `{column}`{hint} Its columns are {}", known.join(", ")),
            )
        })
    }

    /// A column's values, each turned by `f`, which hands back what it cannot take.
    fn typed<T>(&self, column: &str, what: &str, f: impl Fn(Cell) -> Result<T, Cell>) -> Result<Vec<T>, DataError> {
        self.typed_at(column, 0..self.rows, what, f)
    }

    fn typed_at<T>(
        &self,
        column: &str,
        rows: Range<usize>,
        what: &str,
        f: impl Fn(Cell) -> Result<T, Cell>,
    ) -> Result<Vec<T>, DataError> {
        let rows = rows.start.min(self.rows)..rows.end.min(self.rows);
        let written = self.written(column, &rows)?;
        (0..rows.len())
            .map(|row| {
                f(written.get(row).cloned().unwrap_or(Cell::Null)).map_err(|cell| {
                    let row = rows.start + row + 1;
                    let message = format!("row {row}: `{column}` is {}, expected {what}", cell.kind());
                    DataError::content(&self.path, message)
                })
            })
            .collect()
    }

    /// The values of a column. In csv and tsv, where all is text, a field that is written as a JSON list or a whole number is
    /// one.
    ///
    /// # Errors
    /// Where there is no such column: those that there are are named.
    pub fn cells(&self, column: &str) -> Result<Vec<Cell>, DataError> {
        let textual = self.textual();
        self.typed(column, "a value", |cell| Ok(if textual { cell.into_parsed() } else { cell }))
    }

    /// A column of texts; an empty text is one, a missing value is not (an empty field of a csv is an empty text).
    ///
    /// # Errors
    /// Where the column is missing or a value is no text (the row is named).
    pub fn texts(&self, column: &str) -> Result<Vec<String>, DataError> {
        self.texts_at(column, 0..self.rows)
    }

    /// Some rows of [`Self::texts`]; of a parquet file no more is decoded.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn texts_at(&self, column: &str, rows: Range<usize>) -> Result<Vec<String>, DataError> {
        let textual = self.textual();
        self.typed_at(column, rows, "text", |cell| match cell {
            Cell::Text(text) => Ok(text),
            Cell::Int(i) => Ok(i.to_string()),
            Cell::Float(f) => Ok(f.to_string()),
            Cell::Null if textual => Ok(String::new()),
            other => Err(other),
        })
    }

    /// As [`Self::texts`], a missing value being an empty text.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn optional_texts(&self, column: &str) -> Result<Vec<String>, DataError> {
        self.optional_texts_at(column, 0..self.rows)
    }

    /// Some rows of [`Self::optional_texts`]; of a parquet file no more is decoded.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn optional_texts_at(&self, column: &str, rows: Range<usize>) -> Result<Vec<String>, DataError> {
        self.typed_at(column, rows, "text", |cell| match cell {
            Cell::Text(text) => Ok(text),
            Cell::Int(i) => Ok(i.to_string()),
            Cell::Float(f) => Ok(f.to_string()),
            Cell::Null => Ok(String::new()),
            other => Err(other),
        })
    }

    /// A column of finite numbers.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn numbers(&self, column: &str) -> Result<Vec<f64>, DataError> {
        self.typed(column, "a finite number", |cell| match cell {
            Cell::Int(i) => Ok(i as f64),
            Cell::Float(f) if f.is_finite() => Ok(f),
            Cell::Text(text) => text.trim().parse().ok().filter(|v: &f64| v.is_finite()).ok_or(Cell::Text(text)),
            other => Err(other),
        })
    }

    /// A column of labels: whole numbers or texts.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn labels(&self, column: &str) -> Result<Vec<Cell>, DataError> {
        let textual = self.textual();
        self.typed(column, "a label (a whole number or text)", |cell| {
            if textual { cell.into_parsed().into_label() } else { cell.into_label() }
        })
    }

    /// A column of lists of labels.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn label_lists(&self, column: &str) -> Result<Vec<Vec<Cell>>, DataError> {
        let textual = self.textual();
        self.typed(column, "a list of labels", |cell| match if textual { cell.into_parsed() } else { cell } {
            Cell::List(items) => items.into_iter().map(Cell::into_label).collect(),
            other => Err(other),
        })
    }

    /// A column of lists of texts; a single text is a list of one, a missing value an empty list.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn text_lists(&self, column: &str) -> Result<Vec<Vec<String>>, DataError> {
        let textual = self.textual();
        self.typed(column, "a list of texts", |cell| match cell {
            Cell::Null => Ok(Vec::new()),
            Cell::Text(text) if textual => Ok(Cell::texts_of_field(text)),
            Cell::Text(text) => Ok(vec![text]),
            Cell::List(items) => items
                .into_iter()
                .map(|item| match item {
                    Cell::Text(text) => Ok(text),
                    other => Err(other),
                })
                .collect(),
            other => Err(other),
        })
    }

    /// Whether a column holds lists (in its first row that holds anything).
    ///
    /// # Errors
    /// Where there is no such column.
    pub fn holds_lists(&self, column: &str) -> Result<bool, DataError> {
        Ok(self.cells(column)?.iter().find(|c| **c != Cell::Null).is_some_and(|c| matches!(c, Cell::List(_))))
    }
}

#[derive(Clone, Copy)]
enum Packing {
    Gzip,
    Zstandard,
}

fn unpack(path: &Path, raw: &[u8], packing: Packing, limit: u64) -> Result<Vec<u8>, DataError> {
    let mut out = Vec::new();
    let most = limit.saturating_add(1);
    let read = match packing {
        Packing::Gzip => flate2::read::MultiGzDecoder::new(raw).take(most).read_to_end(&mut out),
        Packing::Zstandard => zstd::Decoder::new(raw).and_then(|decoder| decoder.take(most).read_to_end(&mut out)),
    };
    read.map_err(|e| DataError::content(path, format!("cannot be unpacked ({e}): copy or download it again")))?;
    if out.len() as u64 > limit {
        return Err(DataError::content(
            path,
            format!("unpacks to more than {limit} bytes: split it into several files"),
        ));
    }
    Ok(out)
}

/// The bytes as text, without a byte order mark.
fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(DataError::content(path, "is written in UTF-16: save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|e| {
        let line = bytes.iter().take(e.valid_up_to()).filter(|b| **b == b'\n').count() + 1;
        DataError::content(path, format!("line {line}: not UTF-8: save the file as UTF-8"))
    })
}

/// Runs polars on what may be damaged: a panic of its is an error here. `what` begins the message.
fn guarded<T>(
    path: &Path,
    what: &str,
    f: impl FnOnce() -> Result<T, polars::error::PolarsError>,
) -> Result<T, DataError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| DataError::content(path, format!("{what}: {e}"))),
        Err(_) => Err(DataError::content(path, what)),
    }
}

/// Names of the columns, and number of rows.
fn parquet_shape(path: &Path, bytes: &[u8]) -> Result<(Vec<String>, usize), DataError> {
    guarded(path, "not a parquet file that can be read", || {
        let mut reader = ParquetReader::new(Cursor::new(bytes));
        let names = reader.schema()?.iter_names().map(ToString::to_string).collect();
        Ok((names, reader.num_rows()?))
    })
}

fn parquet_column(path: &Path, bytes: &[u8], column: &str, rows: &Range<usize>) -> Result<Vec<Cell>, DataError> {
    let what =
        format!("column `{column}` is damaged or of a type that is not read (store it as text, int64, float or lists)");
    let cells: Option<Vec<Cell>> = guarded(path, &what, || {
        let reader = ParquetReader::new(Cursor::new(bytes));
        let frame =
            reader.with_columns(Some(vec![column.to_string()])).with_slice(Some((rows.start, rows.len()))).finish()?;
        let series = frame.column(column)?.as_materialized_series();
        Ok(series.iter().map(|value| Cell::from_any(&value)).collect())
    })?;
    cells.ok_or_else(|| DataError::content(path, what))
}

/// The rows of a parquet column of lists of numbers: the column named, else `embedding` or `embeddings`, else the only one
/// of lists.
pub(super) fn float_lists(path: &Path, column: Option<&str>) -> Result<Vec<Vec<f32>>, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let (names, _) = parquet_shape(path, &bytes)?;
    let lists: Vec<&String> = match column {
        Some(wanted) => names.iter().filter(|name| *name == wanted).collect(),
        None => {
            let usual = names.iter().filter(|name| ["embedding", "embeddings"].contains(&name.as_str()));
            let usual: Vec<&String> = usual.collect();
            if usual.is_empty() { names.iter().collect() } else { usual }
        }
    };
    for name in &lists {
        let found = guarded(path, "cannot be read", || {
            let reader = ParquetReader::new(Cursor::new(&bytes)).with_columns(Some(vec![name.to_string()]));
            let frame = reader.finish()?;
            let series = frame.column(name)?.as_materialized_series().clone();
            let Ok(lists) = series.list() else { return Ok(None) };
            let mut rows = Vec::with_capacity(lists.len());
            for row in lists.amortized_iter() {
                let Some(row) = row else { return Ok(None) };
                let values = row.as_ref().cast(&polars::prelude::DataType::Float32)?;
                rows.push(values.f32()?.iter().map(|v| v.unwrap_or(f32::NAN)).collect::<Vec<f32>>());
            }
            Ok(Some(rows))
        })?;
        if let Some(rows) = found {
            return Ok(rows);
        }
    }
    Err(DataError::content(path, format!("has no column of lists of numbers; its columns are {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    const JSONL: &str =
        "{\"text\": \"а\", \"label\": 1, \"labels\": [0, 2]}\n\n{\"text\": \"b\\nc\", \"label\": 0, \"labels\": []}\n";

    #[test]
    fn the_same_rows_from_every_format() {
        let csv = "text,label,labels\nа,1,\"[0, 2]\"\n\"b\nc\",0,[]\n";
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(JSONL.as_bytes()).unwrap();
        let zst = zstd::encode_all(csv.as_bytes(), 1).unwrap();
        for (name, content) in [
            ("a.jsonl", JSONL.as_bytes().to_vec()),
            ("a.jsonl.gz", gz.finish().unwrap()),
            ("a.json", JSONL.as_bytes().to_vec()),
            ("b.json", format!("[{}]", JSONL.trim().replace("\n\n", ",")).into_bytes()),
            ("a.csv", csv.as_bytes().to_vec()),
            ("a.csv.zst", zst),
            ("a.tsv", "text\tlabel\tlabels\nа\t1\t[0, 2]\n\"b\nc\"\t0\t[]\n".as_bytes().to_vec()),
        ] {
            let (_folder, path) = file(name, &content);
            let table = Table::read(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(table.texts("text").unwrap(), ["а", "b\nc"], "{name}");
            assert_eq!(table.labels("label").unwrap(), [Cell::Int(1), Cell::Int(0)], "{name}");
            let lists = table.label_lists("labels").unwrap();
            assert_eq!(lists, [vec![Cell::Int(0), Cell::Int(2)], vec![]], "{name}");
        }
    }

    #[test]
    fn parquet_gives_the_same_rows() {
        use polars::prelude::{DataFrame, IntoColumn, NamedFrom, ParquetWriter, Series};
        let lists = [Series::new("".into(), [0i64, 2]), Series::new("".into(), [0i64; 0])];
        let columns = vec![
            Series::new("text".into(), ["а", "b\nc"]).into_column(),
            Series::new("label".into(), [1i64, 0]).into_column(),
            Series::new("labels".into(), lists).into_column(),
            Series::new("gap".into(), [Some("x"), None]).into_column(),
        ];
        let mut frame = DataFrame::new(2, columns).unwrap();
        let mut bytes = Vec::new();
        ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
        let (_folder, path) = file("a.parquet", &bytes);
        let table = Table::read(&path).unwrap();
        assert_eq!((table.rows(), table.columns().len()), (2, 4));
        assert_eq!(table.texts("text").unwrap(), ["а", "b\nc"]);
        assert_eq!(table.labels("label").unwrap(), [Cell::Int(1), Cell::Int(0)]);
        assert_eq!(table.label_lists("labels").unwrap(), [vec![Cell::Int(0), Cell::Int(2)], vec![]]);
        assert!(table.texts("gap").unwrap_err().to_string().contains("row 2: `gap` is nothing"));
        assert_eq!(Table::head(&path, Some(1)).unwrap().texts("gap").unwrap(), ["x"]);
        // Cut short at every length: an error, never a panic.
        for length in (0..bytes.len()).step_by(7) {
            let (_folder, path) = file("a.parquet", &bytes[..length]);
            assert!(Table::read(&path).is_err());
        }
    }

    #[test]
    fn a_field_is_text_where_text_is_asked_for() {
        let (_folder, path) = file("a.csv", "\u{feff}text,label\r\n[1],[1]\r\n 12 , 7\r\n2024,01\r\n".as_bytes());
        let table = Table::read(&path).unwrap();
        assert_eq!(table.texts("text").unwrap(), ["[1]", " 12 ", "2024"]);
        assert_eq!(table.text_lists("text").unwrap(), [["[1]"], [" 12 "], ["2024"]]);
        assert_eq!(table.numbers("label").unwrap_err().to_string().split(": ").nth(1), Some("row 1"));
        let label = |text: &str| Cell::Text(text.into());
        assert_eq!(table.cells("label").unwrap(), [Cell::List(vec![Cell::Int(1)]), Cell::Int(7), label("01")]);
    }

    #[test]
    fn a_limit_reads_no_further() {
        for (name, content) in [("a.jsonl", "{\"a\": 1}\n{\"a\": 2}\nbroken\n"), ("a.csv", "a\n1\n2\n3,4\n")] {
            let (_folder, path) = file(name, content.as_bytes());
            assert!(Table::read(&path).is_err(), "{name}");
            assert_eq!(Table::head(&path, Some(2)).unwrap().numbers("a").unwrap(), [1.0, 2.0], "{name}");
        }
    }

    #[test]
    fn what_unpacks_without_end_is_refused() {
        let packed = zstd::encode_all(&[0u8; 5_000][..], 1).unwrap();
        let unpack = |limit| unpack(Path::new("a.zst"), &packed, Packing::Zstandard, limit);
        assert_eq!(unpack(5_000).unwrap().len(), 5_000);
        assert!(unpack(4_999).unwrap_err().to_string().contains("more than 4999 bytes"));
    }

    #[test]
    fn late_types_and_long_lines_are_read_whole() {
        let long = "я".repeat(100_000);
        let mut lines = String::new();
        for i in 0..2_000 {
            lines.push_str(&format!("{{\"score\": {i}, \"text\": \"x\"}}\n"));
        }
        lines.push_str(&format!("{{\"score\": 0.5, \"text\": \"{long}\", \"late\": \"y\"}}\n"));
        let (_folder, path) = file("a.jsonl", lines.as_bytes());
        let table = Table::read(&path).unwrap();
        assert_eq!(table.numbers("score").unwrap()[2_000], 0.5);
        assert_eq!(table.texts("text").unwrap()[2_000].chars().count(), 100_000);
        assert!(table.texts("late").unwrap_err().to_string().contains("row 1: `late` is nothing"));
    }

    #[test]
    fn faults_name_the_file_and_the_place() {
        for (name, content, expected) in [
            ("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \n", "line 2: not JSON"),
            ("a.jsonl", "\n", "holds no rows"),
            ("a.csv", "text,label\n", "holds no rows"),
            ("a.jsonl", "", "holds no rows"),
            ("a.csv", "", "holds no rows"),
            ("a.csv", "text\na\nb,c\n", "line 3: 2 fields, but the header has 1"),
            ("a.parquet", "no", "not a parquet file"),
            ("a.jsonl.gz", "no", "cannot be unpacked"),
            ("a.txt", "no", "cannot tell what kind"),
        ] {
            let (_folder, path) = file(name, content.as_bytes());
            let error = Table::read(&path).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
        }
        for (content, expected) in
            [(&b"text\na\n\xff\n"[..], "line 3: not UTF-8"), (&b"\xff\xfet\0"[..], "is written in UTF-16")]
        {
            let (_folder, path) = file("a.csv", content);
            assert!(Table::read(&path).err().unwrap().to_string().contains(expected));
        }
        let (_folder, path) = file("a.jsonl", JSONL.as_bytes());
        let error = Table::read(&path).unwrap().texts("texts").unwrap_err().to_string();
        assert!(error.contains("did you mean `text`") && error.contains("label"), "{error}");
    }
}
