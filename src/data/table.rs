//! Tables from files, read through polars: csv, tsv, jsonl and parquet, plain or compressed (`.gz`, `.zst`).

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use polars::prelude::{AnyValue, CsvParseOptions, CsvReadOptions, DataFrame, JsonReader, ParquetReader, SerReader};

use super::suggest::did_you_mean;

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

/// Most bytes that a compressed file may unpack to.
const UNPACKED_LIMIT: u64 = 16 << 30;

/// A value of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Cell>),
}

impl Cell {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
        }
    }

    fn from_json(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Int(i64::from(*b)),
            serde_json::Value::Number(n) => match n.as_i64() {
                Some(i) => Self::Int(i),
                None => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Self::Text(s.clone()),
            serde_json::Value::Array(items) => Self::List(items.iter().map(Self::from_json).collect()),
            object @ serde_json::Value::Object(_) => Self::Text(object.to_string()),
        }
    }

    fn from_any(value: &AnyValue<'_>) -> Self {
        match value {
            AnyValue::Null => Self::Null,
            AnyValue::Boolean(b) => Self::Int(i64::from(*b)),
            AnyValue::String(s) => Self::Text((*s).to_string()),
            AnyValue::StringOwned(s) => Self::Text(s.to_string()),
            AnyValue::List(series) => Self::List(series.iter().map(|v| Self::from_any(&v)).collect()),
            AnyValue::Float32(v) => whole(f64::from(*v), false),
            AnyValue::Float64(v) => whole(*v, false),
            other => match (other.is_integer(), other.extract::<i64>()) {
                (true, Some(i)) => Self::Int(i),
                _ => Self::Text(other.to_string()),
            },
        }
    }
}

fn whole(value: f64, integers: bool) -> Cell {
    if integers && value.fract() == 0.0 && value.abs() < 9e15 { Cell::Int(value as i64) } else { Cell::Float(value) }
}

/// A table in memory.
pub struct Table {
    path: PathBuf,
    frame: DataFrame,
    textual: bool,
}

impl Table {
    /// Reads a file by its extension.
    ///
    /// # Errors
    /// Where the file is missing, damaged, of an unknown kind, or holds no rows.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let (stem, packed) = match name.rsplit_once('.') {
            Some((stem, "gz")) => (stem.to_string(), Some("gz")),
            Some((stem, "zst")) => (stem.to_string(), Some("zst")),
            _ => (name, None),
        };
        let bytes = unpack(path, packed)?;
        let extension = stem.rsplit_once('.').map_or("", |(_, e)| e);
        let (frame, textual) = match extension {
            "csv" => (read_csv(path, bytes, b',')?, true),
            "tsv" => (read_csv(path, bytes, b'\t')?, true),
            "jsonl" | "ndjson" => (read_jsonl(path, bytes)?, false),
            "parquet" => (read_parquet(path, bytes)?, false),
            _ => {
                let message =
                    "cannot tell what kind of file this is: csv, tsv, jsonl and parquet are read, plain, .gz or .zst";
                return Err(DataError::content(path, message));
            }
        };
        if frame.height() == 0 {
            return Err(DataError::content(path, "holds no rows"));
        }
        Ok(Self { path: path.into(), frame, textual })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.frame.height()
    }

    /// Whether there is a column of this name.
    pub fn has(&self, column: &str) -> bool {
        self.frame.column(column).is_ok()
    }

    /// Names of the columns.
    pub fn columns(&self) -> Vec<String> {
        self.frame.get_column_names().iter().map(ToString::to_string).collect()
    }

    /// The values of a column. In csv and tsv, where all is text, a cell that is a JSON list is one.
    ///
    /// # Errors
    /// Where there is no such column: those that there are are named.
    pub fn cells(&self, column: &str) -> Result<Vec<Cell>, DataError> {
        let Ok(values) = self.frame.column(column) else {
            let known = self.columns();
            let hint = did_you_mean(column, known.iter().map(String::as_str));
            return Err(DataError::content(
                &self.path,
                format!("has no column `{column}`{hint} Its columns are {}", known.join(", ")),
            ));
        };
        let series = values.as_materialized_series();
        let cells = series.iter().map(|v| Cell::from_any(&v));
        Ok(if self.textual { cells.map(from_text).collect() } else { cells.collect() })
    }

    fn typed<T>(&self, column: &str, what: &str, f: impl Fn(Cell) -> Result<T, Cell>) -> Result<Vec<T>, DataError> {
        self.cells(column)?
            .into_iter()
            .enumerate()
            .map(|(row, cell)| {
                f(cell).map_err(|cell| {
                    let message = format!("row {}: `{column}` is {}, expected {what}", row + 1, cell.kind());
                    DataError::content(&self.path, message)
                })
            })
            .collect()
    }

    /// A column of texts; an empty text is one, a missing value is not.
    ///
    /// # Errors
    /// Where the column is missing or a value is no text (the row is named).
    pub fn texts(&self, column: &str) -> Result<Vec<String>, DataError> {
        self.typed(column, "text", |cell| match cell {
            Cell::Text(text) => Ok(text),
            Cell::Int(i) => Ok(i.to_string()),
            Cell::Float(f) => Ok(f.to_string()),
            // polars reads an empty field of a csv as missing.
            Cell::Null if self.textual => Ok(String::new()),
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
        self.typed(column, "a label (a whole number or text)", label)
    }

    /// A column of lists of labels.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn label_lists(&self, column: &str) -> Result<Vec<Vec<Cell>>, DataError> {
        self.typed(column, "a list of labels", |cell| match cell {
            Cell::List(items) => items.into_iter().map(label).collect(),
            other => Err(other),
        })
    }

    /// A column of lists of texts; a single text is a list of one, a missing value an empty list.
    ///
    /// # Errors
    /// As [`Self::texts`].
    pub fn text_lists(&self, column: &str) -> Result<Vec<Vec<String>>, DataError> {
        self.typed(column, "a list of texts", |cell| match cell {
            Cell::Null => Ok(Vec::new()),
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

fn label(cell: Cell) -> Result<Cell, Cell> {
    match cell {
        Cell::Int(_) | Cell::Text(_) => Ok(cell),
        Cell::Float(f) => match whole(f, true) {
            Cell::Int(i) => Ok(Cell::Int(i)),
            other => Err(other),
        },
        other => Err(other),
    }
}

/// A csv cell: a JSON list or a whole number if it is written like one.
fn from_text(cell: Cell) -> Cell {
    let Cell::Text(text) = &cell else { return cell };
    let trimmed = text.trim();
    if trimmed.starts_with('[')
        && let Ok(list @ serde_json::Value::Array(_)) = serde_json::from_str(trimmed)
    {
        return Cell::from_json(&list);
    }
    match trimmed.parse::<i64>() {
        Ok(i) if i.to_string() == trimmed => Cell::Int(i),
        _ => cell,
    }
}

fn unpack(path: &Path, packed: Option<&str>) -> Result<Vec<u8>, DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let raw = std::fs::read(path).map_err(io)?;
    let Some(kind) = packed else { return Ok(raw) };
    let mut out = Vec::new();
    let read = match kind {
        "gz" => flate2::read::MultiGzDecoder::new(&raw[..]).take(UNPACKED_LIMIT).read_to_end(&mut out),
        _ => zstd::Decoder::new(&raw[..]).and_then(|decoder| decoder.take(UNPACKED_LIMIT).read_to_end(&mut out)),
    };
    read.map_err(|e| DataError::content(path, format!("cannot be unpacked ({e}): copy or download it again")))?;
    Ok(out)
}

fn read_csv(path: &Path, bytes: Vec<u8>, separator: u8) -> Result<DataFrame, DataError> {
    CsvReadOptions::default()
        .with_has_header(true)
        .with_infer_schema_length(Some(0))
        .with_parse_options(CsvParseOptions::default().with_separator(separator))
        .into_reader_with_file_handle(Cursor::new(bytes))
        .finish()
        .map_err(|e| DataError::content(path, format!("not a table that can be read: {e}")))
}

fn read_parquet(path: &Path, bytes: Vec<u8>) -> Result<DataFrame, DataError> {
    ParquetReader::new(Cursor::new(bytes))
        .finish()
        .map_err(|e| DataError::content(path, format!("not a parquet file that can be read: {e}")))
}

fn read_jsonl(path: &Path, mut bytes: Vec<u8>) -> Result<DataFrame, DataError> {
    if bytes.starts_with(&[0xef, 0xbb, 0xbf]) {
        bytes.drain(..3);
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(DataError::content(path, "holds no rows"));
    }
    // A broken line is named here; polars would skip it or give no number.
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(line) {
            return Err(DataError::content(path, format!("line {}: not JSON: {e}", number + 1)));
        }
    }
    JsonReader::new(Cursor::new(bytes))
        .with_json_format(polars::prelude::JsonFormat::JsonLines)
        .infer_schema_len(None)
        .finish()
        .map_err(|e| DataError::content(path, format!("its lines do not fit one table: {e}")))
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
            ("a.parquet", "no", "not a parquet file"),
            ("a.jsonl.gz", "no", "cannot be unpacked"),
            ("a.txt", "no", "cannot tell what kind"),
        ] {
            let (_folder, path) = file(name, content.as_bytes());
            let error = Table::read(&path).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(expected) && error.contains(name), "{name}: {error}");
        }
        let (_folder, path) = file("a.jsonl", JSONL.as_bytes());
        let error = Table::read(&path).unwrap().texts("texts").unwrap_err().to_string();
        assert!(error.contains("did you mean `text`") && error.contains("label"), "{error}");
    }
}
