//! A retrieval corpus in files: its ids at once, its texts block by block, so that millions of documents need little memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::table::{DataError, Table};

/// Names of a corpus' columns in the BEIR layout; the first that is there counts.
const ID: [&str; 2] = ["id", "_id"];

/// Takes texts of a corpus, with the number of the first.
pub type Take<'a, E> = dyn FnMut(usize, &[String]) -> Result<(), E> + 'a;

/// Bytes of a line at the most: beyond, it is no text.
const LONGEST_LINE: u64 = 256 << 20;

/// A corpus of documents with an id, a text and perhaps a title.
#[derive(Debug, Clone, PartialEq)]
pub struct Corpus {
    files: Vec<PathBuf>,
    ids: Vec<String>,
}

impl Corpus {
    /// Reads the ids of all files (jsonl is streamed; of parquet the packed file is held and some rows are decoded at a time; csv, tsv
    /// and json are held a file at a time).
    ///
    /// # Errors
    /// Where a file cannot be read, a row has no id, or an id is there twice (both places are named).
    pub fn open(files: Vec<PathBuf>) -> Result<Self, DataError> {
        let mut ids: Vec<String> = Vec::new();
        for file in &files {
            if is_json_lines(file) {
                each_line(file, |number, line| {
                    let row: IdRow<'_> = parse(file, number, line)?;
                    let id = row.id.or(row.underscored).and_then(Id::into_text);
                    ids.push(id.ok_or_else(|| fault(file, number, "has no `_id` or `id`"))?);
                    Ok(true)
                })?;
            } else {
                let table = Table::read(file)?;
                ids.extend(table.texts(id_column(&table))?);
            }
        }
        if ids.is_empty() {
            let path = files.first().map_or(Path::new("corpus"), PathBuf::as_path);
            return Err(DataError::content(path, "holds no documents"));
        }
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(ids.len());
        for (row, id) in ids.iter().enumerate() {
            if let Some(earlier) = seen.insert(id, row) {
                let path = files.first().map_or(Path::new("corpus"), PathBuf::as_path);
                let message = format!("document id `{id}` is there twice (documents {} and {})", earlier + 1, row + 1);
                return Err(DataError::content(path, format!("{message}: ids must differ")));
            }
        }
        drop(seen);
        Ok(Self { files, ids })
    }

    /// The ids in file order.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Hands the texts to `take` in file order, at most `size` at a time, with the number of the first. A text is the
    /// stripped join of title and text, as mteb gives it to a model.
    ///
    /// # Errors
    /// Where a file has changed or a row has no text; or what `take` gives.
    pub fn blocks<E: From<DataError>>(&self, size: usize, take: &mut Take<'_, E>) -> Result<(), E> {
        let mut block = Block { texts: Vec::new(), first: 0, size: size.max(1), take };
        for file in &self.files {
            if is_json_lines(file) {
                let mut stopped = None;
                each_line(file, |number, line| {
                    let row: TextRow<'_> = parse(file, number, line)?;
                    let text = row.text.ok_or_else(|| fault(file, number, "has no `text`"))?;
                    stopped = block.push(document(row.title.as_deref().unwrap_or_default(), &text)).err();
                    Ok(stopped.is_none())
                })?;
                if let Some(error) = stopped {
                    return Err(error);
                }
            } else {
                let table = Table::read(file)?;
                let titled = table.has("title");
                for start in (0..table.rows()).step_by(size.max(1)) {
                    let rows = start..(start + size).min(table.rows());
                    let texts = table.texts_at("text", rows.clone())?;
                    let titles = if titled { table.optional_texts_at("title", rows)? } else { Vec::new() };
                    for (row, text) in texts.iter().enumerate() {
                        block.push(document(titles.get(row).map_or("", String::as_str), text))?;
                    }
                }
            }
        }
        block.flush()?;
        if block.first != self.ids.len() {
            let path = self.files.first().map_or(Path::new("corpus"), PathBuf::as_path);
            return Err(DataError::content(path, "changed while it was read").into());
        }
        Ok(())
    }
}

struct Block<'a, E> {
    texts: Vec<String>,
    first: usize,
    size: usize,
    take: &'a mut Take<'a, E>,
}

impl<E> Block<'_, E> {
    fn push(&mut self, text: String) -> Result<(), E> {
        self.texts.push(text);
        if self.texts.len() == self.size { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), E> {
        if !self.texts.is_empty() {
            (self.take)(self.first, &self.texts)?;
            self.first += self.texts.len();
            self.texts.clear();
        }
        Ok(())
    }
}

/// The text of a document that a model is given: title and text with one space between them, stripped.
pub fn document(title: &str, text: &str) -> String {
    if title.is_empty() { strip(text).to_string() } else { strip(&format!("{title} {text}")).to_string() }
}

/// Without the white space around it, as Python's `str.strip` counts white space.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// The id column of a table in the BEIR layout.
pub fn id_column(table: &Table) -> &'static str {
    ID.into_iter().find(|name| table.has(name)).unwrap_or("_id")
}

#[derive(Deserialize)]
struct IdRow<'a> {
    #[serde(borrow)]
    id: Option<Id<'a>>,
    #[serde(borrow, rename = "_id")]
    underscored: Option<Id<'a>>,
}

#[derive(Deserialize)]
struct TextRow<'a> {
    #[serde(borrow)]
    title: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    text: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id<'a> {
    Number(i64),
    #[serde(borrow)]
    Text(std::borrow::Cow<'a, str>),
}

impl Id<'_> {
    fn into_text(self) -> Option<String> {
        match self {
            Self::Number(number) => Some(number.to_string()),
            Self::Text(text) => (!text.is_empty()).then(|| text.into_owned()),
        }
    }
}

fn fault(file: &Path, number: usize, what: &str) -> DataError {
    DataError::content(file, format!("line {number}: {what}"))
}

fn parse<'a, T: Deserialize<'a>>(file: &Path, number: usize, line: &'a [u8]) -> Result<T, DataError> {
    serde_json::from_slice(line).map_err(|e| {
        let what = if e.is_data() {
            format!("{e}; a document has `_id`, `text` and perhaps `title`, each a text")
        } else {
            format!("not JSON: {e}")
        };
        fault(file, number, &what)
    })
}

fn is_json_lines(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let stem = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    stem.ends_with(".jsonl") || stem.ends_with(".ndjson")
}

/// Hands every line that is not blank to `take`, until it gives `false`.
fn each_line(path: &Path, mut take: impl FnMut(usize, &[u8]) -> Result<bool, DataError>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let file = BufReader::with_capacity(1 << 20, File::open(path).map_err(io)?);
    let name = path.to_string_lossy().to_lowercase();
    let packed = name.ends_with(".gz") || name.ends_with(".zst");
    let source: Box<dyn Read> = if name.ends_with(".gz") {
        Box::new(flate2::bufread::MultiGzDecoder::new(file))
    } else if name.ends_with(".zst") {
        Box::new(zstd::Decoder::with_buffer(file).map_err(io)?)
    } else {
        Box::new(file)
    };
    let mut lines = BufReader::with_capacity(1 << 18, source);
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let read = lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(|e| {
            if packed {
                let message = format!("cannot be unpacked ({e}): copy or download it again");
                return DataError::content(path, message);
            }
            io(e)
        })?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 == LONGEST_LINE {
            return Err(fault(path, number, "is longer than 256 MiB: not a document"));
        }
        let line = if number == 1 { line.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(&line) } else { &line };
        if !line.trim_ascii().is_empty() && !take(number, line)? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn corpus(name: &str, content: &[u8]) -> (tempfile::TempDir, Result<Corpus, DataError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let corpus = Corpus::open(vec![path]);
        (folder, corpus)
    }

    fn blocks(corpus: &Corpus, size: usize) -> Vec<(usize, Vec<String>)> {
        let mut out = Vec::new();
        corpus
            .blocks::<DataError>(size, &mut |first, texts| {
                out.push((first, texts.to_vec()));
                Ok(())
            })
            .unwrap();
        out
    }

    const LINES: &str = "{\"_id\": \"a\", \"title\": \"T\", \"text\": \" x \"}\n\n{\"_id\": 7, \"title\": \"\", \"text\": \"\\u00a0y\\u001f\"}\n{\"id\": \"c\", \"text\": \"\"}\n";

    #[test]
    fn every_format_gives_the_same_documents() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(LINES.as_bytes()).unwrap();
        let csv = "_id,title,text\na,T, x \n7,,\u{a0}y\u{1f}\nc,,\n".to_string();
        for (name, content) in [
            ("a.jsonl", LINES.as_bytes().to_vec()),
            ("a.jsonl.gz", gz.finish().unwrap()),
            ("a.jsonl.zst", zstd::encode_all(LINES.as_bytes(), 1).unwrap()),
            ("a.csv", csv.into_bytes()),
        ] {
            let (_folder, corpus) = corpus(name, &content);
            let corpus = corpus.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(corpus.ids(), ["a", "7", "c"], "{name}");
            let expected = [(0, vec!["T  x".to_string(), "y".into()]), (2, vec![String::new()])];
            assert_eq!(blocks(&corpus, 2), expected, "{name}");
        }
    }

    #[test]
    fn faults_name_the_place() {
        for (content, expected) in [
            (
                "{\"_id\": \"a\", \"text\": \"x\"}\n{\"_id\": \"a\", \"text\": \"y\"}\n",
                "`a` is there twice (documents 1 and 2)",
            ),
            ("{\"text\": \"x\"}\n", "line 1: has no `_id` or `id`"),
            ("{\"_id\": \"a\", \"text\"\n", "line 1: not JSON"),
            ("{\"_id\": [1], \"text\": \"x\"}\n", "line 1: "),
            ("\n", "holds no documents"),
        ] {
            let (_folder, corpus) = corpus("a.jsonl", content.as_bytes());
            let error = corpus.unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("a.jsonl"), "{error}");
        }
        let (folder, corpus) = corpus("a.jsonl", b"{\"_id\": \"a\"}\n");
        let corpus = corpus.unwrap();
        let error = corpus.blocks::<DataError>(2, &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("line 1: has no `text`"), "{error}");
        std::fs::write(
            folder.path().join("a.jsonl"),
            "{\"_id\": \"a\", \"text\": \"x\"}\n{\"_id\": \"b\", \"text\": \"x\"}\n",
        )
        .unwrap();
        let error = corpus.blocks::<DataError>(9, &mut |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("changed while it was read"), "{error}");
    }
}
