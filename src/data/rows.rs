//! Rows of training data: FlagEmbedding's JSON lines, sentence-transformers' columns, or the same as csv, tsv, parquet.

use std::io::Read;
use std::path::Path;

use sha2::Digest;

use super::table::{DataError, Table};

/// A query with the texts that answer it and texts that do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRow {
    /// The query (or anchor).
    pub query: String,
    /// Texts that match it; at least one.
    pub positives: Vec<String>,
    /// Hard negatives; any number.
    pub negatives: Vec<String>,
}

/// Reads `query`, `pos`, `neg` (FlagEmbedding) or `anchor`, `positive`, `negative`, `negative_1` … (sentence-transformers),
/// at most `limit` rows from the start. A blank negative is none.
///
/// # Errors
/// Where a column is missing, or a row has no query or no positive (the row is named).
pub fn read_pairs(path: &Path, limit: Option<usize>) -> Result<Vec<PairRow>, DataError> {
    let table = Table::head(path, limit)?;
    let anchored = table.has("anchor") && !table.has("query");
    let queries = table.texts(if anchored { "anchor" } else { "query" })?;
    let positive = if table.has("pos") {
        "pos"
    } else if anchored || table.has("positive") {
        "positive"
    } else {
        "pos"
    };
    let positives = table.text_lists(positive)?;
    let mut negatives = vec![Vec::new(); queries.len()];
    for column in table.columns() {
        if column == "neg" || column == "negative" || column.strip_prefix("negative_").is_some_and(is_number) {
            for (all, more) in negatives.iter_mut().zip(table.text_lists(&column)?) {
                all.extend(more.into_iter().filter(|text| !text.trim().is_empty()));
            }
        }
    }
    let rows = queries.into_iter().zip(positives).zip(negatives).take(limit.unwrap_or(usize::MAX));
    rows.enumerate()
        .map(|(i, ((query, positives), negatives))| {
            let fault = |what: &str| DataError::content(path, format!("row {}: {what}", i + 1));
            if query.trim().is_empty() {
                return Err(fault("the query is empty"));
            }
            if positives.is_empty() || positives.iter().any(|p| p.trim().is_empty()) {
                return Err(fault("has no positive, or an empty one"));
            }
            Ok(PairRow { query, positives, negatives })
        })
        .collect()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// SHA-256 of a file's bytes, in hexadecimal: the identity of data in a step.
///
/// # Errors
/// The operating system's.
pub fn fingerprint(path: &Path) -> Result<String, DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut hash = sha2::Sha256::new();
    // In pieces: the files of a sweep may be larger than memory.
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hex(&hash.finalize())),
            Ok(length) => hash.update(&piece[..length]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
}

/// SHA-256 of bytes, in hexadecimal.
pub fn fingerprint_of(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &str) -> Result<Vec<PairRow>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        read_pairs(&path, None)
    }

    #[test]
    fn both_layouts_give_the_same_rows() {
        let flag = "{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"n\", \"m\"], \"class\": 1}\n";
        let st = "anchor,positive,negative_1,negative_2\nq,p,n,m\n";
        assert_eq!(read("a.jsonl", flag).unwrap(), read("a.csv", st).unwrap());
        let none = "{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": []}\n";
        assert!(read("a.jsonl", none).unwrap()[0].negatives.is_empty());
        let missing = "{\"query\": \"q\", \"pos\": \"p\", \"neg\": null}\n{\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\"\", \"n\"]}\n";
        let rows = read("a.jsonl", missing).unwrap();
        assert_eq!((rows[0].positives.len(), rows[0].negatives.len(), rows[1].negatives.len()), (1, 0, 1));
        let numbers = read("a.csv", "query,positive,negative_1,negative_2\n[1],2024,,n\n").unwrap();
        assert_eq!((numbers[0].query.as_str(), numbers[0].positives[0].as_str()), ("[1]", "2024"));
        assert_eq!(numbers[0].negatives, ["n"]);
    }

    #[test]
    fn a_fingerprint_is_the_sha_256_of_the_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint(&path).unwrap(), expected);
        std::fs::write(&path, vec![b'x'; (1 << 20) + 1]).unwrap();
        assert_eq!(fingerprint(&path).unwrap(), hex(&sha2::Sha256::digest(std::fs::read(&path).unwrap())));
    }

    #[test]
    fn an_empty_side_is_named() {
        let error = read("a.jsonl", "{\"query\": \"q\", \"pos\": [\"p\"]}\n{\"query\": \" \", \"pos\": [\"p\"]}\n")
            .unwrap_err();
        assert!(error.to_string().contains("row 2: the query is empty"), "{error}");
        let error = read("a.jsonl", "{\"query\": \"q\", \"pos\": []}\n").unwrap_err();
        assert!(error.to_string().contains("row 1: has no positive"), "{error}");
    }
}
