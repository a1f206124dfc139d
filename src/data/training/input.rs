//! A file of text read piece by piece: unpacked on the way, its lines bounded, its encoding checked.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::data::table::DataError;

/// Most bytes of a row: what is longer is no row of texts, and would be held whole.
pub(super) const LONGEST_ROW: usize = 64 << 20;

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An object a line.
    JsonLines,
    /// An array of objects, or an object a line.
    Json,
    /// Fields with this between them.
    Separated(u8),
    /// A text a line.
    Text,
    Parquet,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstandard,
}

/// What a file is, by its name.
///
/// # Errors
/// Where its extension is not known.
pub(super) fn kind(path: &Path) -> Result<(Kind, Packing), DataError> {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let (stem, packing) = match name.rsplit_once('.') {
        Some((stem, "gz")) => (stem, Packing::Gzip),
        Some((stem, "zst")) => (stem, Packing::Zstandard),
        _ => (name.as_str(), Packing::None),
    };
    let kind = match stem.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "jsonl" | "ndjson" => Kind::JsonLines,
        "json" => Kind::Json,
        "csv" => Kind::Separated(b','),
        "tsv" => Kind::Separated(b'\t'),
        "txt" => Kind::Text,
        "parquet" if packing == Packing::None => Kind::Parquet,
        "parquet" => return Err(DataError::content(path, "a packed parquet file: unpack it, it is packed inside")),
        _ => {
            let message = "cannot tell what kind of file this is: jsonl, json, csv, tsv and txt are read (plain, .gz or \
                           .zst), and parquet";
            return Err(DataError::content(path, message));
        }
    };
    Ok((kind, packing))
}

/// A line with its ending.
pub(super) struct Line<'a> {
    /// Number in the file, from 1.
    pub(super) number: usize,
    /// Where it begins, bytes from the start of the unpacked file.
    pub(super) offset: u64,
    pub(super) text: &'a str,
}

/// An open file of text.
pub(super) struct Input {
    path: PathBuf,
    source: Box<dyn BufRead>,
    packed: bool,
    longest: usize,
    /// Bytes taken so far.
    pub(super) offset: u64,
    /// Number of the line at the place of reading, from 1.
    pub(super) line: usize,
    buffer: Vec<u8>,
}

impl Input {
    /// Opens a file whose rows have at most `longest` bytes; a byte order mark is passed over.
    ///
    /// # Errors
    /// The operating system's, or where the file is written in UTF-16.
    pub(super) fn open(path: &Path, packing: Packing, longest: usize) -> Result<Self, DataError> {
        let io = |source| DataError::Io { path: path.into(), source };
        let file = BufReader::with_capacity(1 << 18, File::open(path).map_err(io)?);
        let mut source: Box<dyn BufRead> = match packing {
            Packing::None => Box::new(file),
            Packing::Gzip => Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(file))),
            Packing::Zstandard => {
                Box::new(BufReader::with_capacity(1 << 18, zstd::Decoder::with_buffer(file).map_err(io)?))
            }
        };
        let mut head = Vec::new();
        let read = source.by_ref().take(3).read_to_end(&mut head);
        let mut out = Self {
            path: path.into(),
            source,
            packed: packing != Packing::None,
            longest,
            offset: 0,
            line: 1,
            buffer: Vec::new(),
        };
        read.map_err(|e| out.failed(e))?;
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            return Err(DataError::content(path, "is written in UTF-16: save it as UTF-8"));
        }
        if head == [0xef, 0xbb, 0xbf] {
            out.offset = 3;
        } else {
            out.source = Box::new(Cursor::new(head).chain(out.source));
        }
        Ok(out)
    }

    fn failed(&self, error: std::io::Error) -> DataError {
        if self.packed {
            let message = format!("cannot be unpacked ({error}): copy or download it again");
            return DataError::content(&self.path, message);
        }
        DataError::Io { path: self.path.clone(), source: error }
    }

    /// An error at a line.
    pub(super) fn fault(&self, line: usize, message: &str) -> DataError {
        DataError::content(&self.path, format!("line {line}: {message}"))
    }

    /// An error where a row is longer than the bound. `line` is the one it begins on.
    pub(super) fn too_long(&self, line: usize) -> DataError {
        let message =
            format!("a row of more than {} bytes begins here: split its texts, or leave it out", self.longest);
        self.fault(line, &message)
    }

    /// Most bytes of a row.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// What can be seen of the file from here on; nothing at its end.
    ///
    /// # Errors
    /// Where the file cannot be read or unpacked.
    pub(super) fn look(&mut self) -> Result<&[u8], DataError> {
        loop {
            match self.source.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
        // A second look, for the borrow of the first one would outlive the errors above; it reads nothing.
        match self.source.fill_buf() {
            Ok(seen) => Ok(seen),
            Err(source) => Err(DataError::Io { path: self.path.clone(), source }),
        }
    }

    /// Goes on by `bytes` of what was seen, with `breaks` line breaks among them.
    pub(super) fn pass(&mut self, bytes: usize, breaks: usize) {
        self.source.consume(bytes);
        self.offset += bytes as u64;
        self.line += breaks;
    }

    /// Passes white space over; the byte behind it, or none at the end.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub(super) fn first_byte(&mut self) -> Result<Option<u8>, DataError> {
        loop {
            let seen = self.look()?;
            if seen.is_empty() {
                return Ok(None);
            }
            let blank = seen.iter().take_while(|b| b.is_ascii_whitespace()).count();
            let breaks = seen[..blank].iter().filter(|b| **b == b'\n').count();
            let found = seen.get(blank).copied();
            self.pass(blank, breaks);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// The next line; none at the end.
    ///
    /// # Errors
    /// Where the file cannot be read, or the line is too long or not UTF-8.
    pub(super) fn next_line(&mut self) -> Result<Option<Line<'_>>, DataError> {
        self.buffer.clear();
        let (number, offset) = (self.line, self.offset);
        let most = self.longest as u64 + 1;
        let read = self.source.by_ref().take(most).read_until(b'\n', &mut self.buffer).map_err(|e| self.failed(e))?;
        if read == 0 {
            return Ok(None);
        }
        if read > self.longest {
            return Err(self.too_long(number));
        }
        self.offset += read as u64;
        self.line += 1;
        if std::str::from_utf8(&self.buffer).is_err() {
            return Err(self.fault(number, "not UTF-8: save the file as UTF-8"));
        }
        Ok(Some(Line { number, offset, text: std::str::from_utf8(&self.buffer).unwrap_or_default() }))
    }
}

/// A line without its ending.
pub(super) fn without_ending(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(content: &[u8], longest: usize) -> (tempfile::TempDir, Result<Input, DataError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, content).unwrap();
        let input = Input::open(&path, Packing::None, longest);
        (folder, input)
    }

    #[test]
    fn lines_with_their_places() {
        let (_folder, input) = input("\u{feff}a\r\n\nяя".as_bytes(), 4);
        let mut input = input.unwrap();
        let mut seen = Vec::new();
        while let Some(line) = input.next_line().unwrap() {
            seen.push((line.number, line.offset, without_ending(line.text).to_string()));
        }
        assert_eq!(seen, [(1, 3, "a".to_string()), (2, 6, String::new()), (3, 7, "яя".into())]);
    }

    #[test]
    fn a_line_is_bounded_whatever_its_content() {
        let (_folder, input) = input(b"ab\nabcd\nabcde", 5);
        let mut input = input.unwrap();
        assert!(input.next_line().unwrap().is_some() && input.next_line().unwrap().is_some());
        assert!(input.next_line().unwrap().is_some(), "five bytes are allowed");
        let (_folder, input) = self::input(b"ab\nabcdef\n", 5);
        let mut input = input.unwrap();
        assert!(input.next_line().unwrap().is_some());
        let error = input.next_line().err().unwrap().to_string();
        assert!(error.contains("line 2: a row of more than 5 bytes begins here"), "{error}");
    }

    #[test]
    fn a_file_is_known_by_its_name() {
        for (name, expected) in [
            ("a.jsonl", (Kind::JsonLines, Packing::None)),
            ("A.JSONL.GZ", (Kind::JsonLines, Packing::Gzip)),
            ("a.b.tsv.zst", (Kind::Separated(b'\t'), Packing::Zstandard)),
            ("a.txt.gz", (Kind::Text, Packing::Gzip)),
            ("a.parquet", (Kind::Parquet, Packing::None)),
        ] {
            assert_eq!(kind(Path::new(name)).unwrap(), expected, "{name}");
        }
        for name in ["a", "a.gz", "a.xlsx", "jsonl"] {
            assert!(kind(Path::new(name)).unwrap_err().to_string().contains("cannot tell what kind"), "{name}");
        }
        assert!(kind(Path::new("a.parquet.gz")).unwrap_err().to_string().contains("unpack it"));
    }

    #[test]
    fn other_encodings_are_told() {
        let (_folder, input) = input(b"a\n\xff\n", 9);
        let mut input = input.unwrap();
        assert!(input.next_line().unwrap().is_some());
        assert!(input.next_line().err().unwrap().to_string().contains("line 2: not UTF-8"));
        let (_folder, input) = self::input(b"\xff\xfea\0", 9);
        assert!(input.err().unwrap().to_string().contains("is written in UTF-16"));
    }
}
