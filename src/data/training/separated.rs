//! Records of csv and tsv, one at a time.
//!
//! The rules are those of tables (RFC 4180, lenient to quotes inside fields as Python's `csv` is; blank lines are no rows, an
//! empty field is no value), which need the whole file in memory.

use std::path::Path;
use std::sync::Arc;

use super::input::Input;
use super::layout::{Field, Meaning, Names};
use super::{Place, Record, Take};
use crate::data::cell::Cell;
use crate::data::table::DataError;

/// Fields of the next record with the line on which it begins; none at the end.
///
/// # Errors
/// Where a quote is never closed, or the record is longer than the bound.
fn next_record(input: &mut Input, separator: u8) -> Result<Option<(usize, Vec<String>)>, DataError> {
    let mut fields: Vec<String> = Vec::new();
    let mut scanner = Scanner { separator, state: State::Start, field: String::new(), unquoted: 0 };
    let (begins, start) = (input.line, input.offset);
    let longest = input.longest() as u64;
    let mut quote = begins;
    loop {
        let Some(line) = input.next_line()? else {
            if input.offset == start {
                return Ok(None);
            }
            // Only a quoted field goes on past the end of a line.
            let message = "a quote opens here that is never closed: close it, or double the quotes inside the field";
            return Err(input.fault(quote, message));
        };
        let number = line.number;
        let ended = scanner.line(line.text, &mut fields, &mut || quote = number);
        if ended {
            return Ok(Some((begins, fields)));
        }
        if input.offset - start > longest {
            return Err(input.too_long(quote));
        }
    }
}

enum State {
    /// Before a field's first character.
    Start,
    Plain,
    Quoted,
    /// Behind a quote in a quoted stretch: its end, or the first of two.
    Quote,
}

struct Scanner {
    separator: u8,
    state: State,
    field: String,
    /// Where the part behind the quotes begins in the field.
    unquoted: usize,
}

impl Scanner {
    /// Takes a line with its ending; whether the record ends with it. `opened` is told of opening quotes.
    fn line(&mut self, line: &str, fields: &mut Vec<String>, opened: &mut dyn FnMut()) -> bool {
        let mut rest = line;
        loop {
            match self.state {
                State::Start => {
                    self.unquoted = 0;
                    self.state = match rest.strip_prefix('"') {
                        Some(behind) => {
                            rest = behind;
                            opened();
                            State::Quoted
                        }
                        None => State::Plain,
                    };
                }
                State::Quoted => {
                    let Some(end) = rest.find('"') else {
                        self.field.push_str(rest);
                        return false;
                    };
                    self.field.push_str(&rest[..end]);
                    rest = &rest[end + 1..];
                    self.state = State::Quote;
                }
                State::Quote => {
                    if let Some(behind) = rest.strip_prefix('"') {
                        self.field.push('"');
                        rest = behind;
                        self.state = State::Quoted;
                    } else {
                        self.unquoted = self.field.len();
                        self.state = State::Plain;
                    }
                }
                State::Plain => {
                    let end = rest.bytes().position(|b| b == self.separator || b == b'\n');
                    let stop = end.and_then(|end| rest.as_bytes().get(end).copied());
                    let end = end.unwrap_or(rest.len());
                    self.field.push_str(&rest[..end]);
                    rest = rest.get(end + 1..).unwrap_or_default();
                    let ended = stop != Some(self.separator);
                    if ended && self.field.len() > self.unquoted && self.field.ends_with('\r') {
                        self.field.pop();
                    }
                    fields.push(std::mem::take(&mut self.field));
                    self.state = State::Start;
                    if ended {
                        return true;
                    }
                }
            }
        }
    }
}

/// Reads csv or tsv; `take` says where to stop.
///
/// # Errors
/// Where a record has more or fewer fields than the header, two columns have one name, or `take` fails.
pub(super) fn read(
    path: &Path,
    input: &mut Input,
    separator: u8,
    names: &Names,
    take: &mut Take<'_>,
) -> Result<(), DataError> {
    let blank = |record: &[String]| matches!(record, [only] if only.is_empty());
    let mut header: Option<Vec<(Arc<str>, Vec<Meaning>)>> = None;
    let mut row = 0;
    while let Some((line, record)) = next_record(input, separator)? {
        if blank(&record) {
            continue;
        }
        let Some(columns) = &header else {
            let mut columns: Vec<(Arc<str>, Vec<Meaning>)> = Vec::with_capacity(record.len());
            for name in record {
                if columns.iter().any(|(other, _)| **other == name) {
                    return Err(input.fault(line, &format!("two columns are called `{name}`: rename one")));
                }
                let meanings = names.meanings(&name).to_vec();
                columns.push((name.into(), meanings));
            }
            header = Some(columns);
            continue;
        };
        row += 1;
        let place = Place { row, line: Some(line), offset: 0 };
        if record.len() != columns.len() {
            let (found, wanted) = (record.len(), columns.len());
            let message =
                format!("{found} fields, but the header has {wanted}: put fields that hold separators in quotes");
            return Err(place.fault(path, &message));
        }
        let mut fields = Vec::new();
        for ((name, meanings), text) in columns.iter().zip(record) {
            let cell = if text.is_empty() { Cell::Null } else { Cell::Text(text) };
            Field::spread(name, meanings, cell, &mut fields);
        }
        let unused = columns.iter().filter(|(_, meanings)| meanings.is_empty()).map(|(name, _)| name.clone());
        let unused = if row == 1 { unused.collect() } else { Vec::new() };
        if !take(Record { place, fields, unused, textual: true })? {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::input::{LONGEST_ROW, Packing};
    use super::*;
    use crate::data::table::Table;

    fn records(content: &[u8], longest: usize) -> Result<Vec<Vec<String>>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, content).unwrap();
        let mut input = Input::open(&path, Packing::None, longest).map_err(|e| e.to_string())?;
        let mut out = Vec::new();
        while let Some((_, record)) = next_record(&mut input, b',').map_err(|e| e.to_string())? {
            out.push(record);
        }
        Ok(out)
    }

    // Expected values: Python 3.11, `list(csv.reader(io.StringIO(text, newline="")))`, a blank record being [""] here.
    #[test]
    fn records_as_pythons_csv_reads_them() {
        for (text, expected) in [
            ("a,b\n1,2\n", vec![vec!["a", "b"], vec!["1", "2"]]),
            ("a,b\r\n1,2\r\n3,4", vec![vec!["a", "b"], vec!["1", "2"], vec!["3", "4"]]),
            ("a,b\n\n1,2", vec![vec!["a", "b"], vec![""], vec!["1", "2"]]),
            ("5\" pipe,1\n", vec![vec!["5\" pipe", "1"]]),
            ("\"x\"\"y\",\"p,q\nr\"\n", vec![vec!["x\"y", "p,q\nr"]]),
            ("\"x\r\n\ny\"\r\nz\r\n", vec![vec!["x\r\n\ny"], vec!["z"]]),
            ("\"x\" y,2\n", vec![vec!["x y", "2"]]),
            (",\"\"\n", vec![vec!["", ""]]),
            ("1,", vec![vec!["1", ""]]),
            ("\"я\"", vec![vec!["я"]]),
            ("\"\"\"\"\n", vec![vec!["\""]]),
        ] {
            assert_eq!(records(text.as_bytes(), LONGEST_ROW).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_quote_that_is_never_closed_does_not_eat_the_file() {
        let error = records(b"a,b\n1,\"x\n3,4\n", LONGEST_ROW).unwrap_err();
        assert!(error.contains("line 2: a quote opens here that is never closed"), "{error}");
        let mut long = b"a,b\n1,\"x\n".to_vec();
        long.extend(b"3,4\n".repeat(1_000));
        let error = records(&long, 100).unwrap_err();
        assert!(error.contains("line 2: a row of more than 100 bytes begins here"), "{error}");
    }

    /// Pieces in all orders that quotes, separators and line ends can come in: every file that a table reads gives the same
    /// rows here, and every file that it refuses is refused.
    #[test]
    fn any_text_reads_as_a_table_reads_it() {
        let pieces = ["\"", ",", "\n", "\r\n", "x", "\r"];
        let names = Names::new(&BTreeMap::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut read_rows = 0;
        for code in 0..pieces.len().pow(5) {
            let mut text = "query,pos\n".to_string();
            let mut code = code;
            for _ in 0..5 {
                text.push_str(pieces[code % pieces.len()]);
                code /= pieces.len();
            }
            std::fs::write(&path, &text).unwrap();
            let expected = Table::read(&path).and_then(|table| {
                let cells = |column: &str| -> Result<Vec<String>, DataError> { table.optional_texts(column) };
                Ok(cells("query")?.into_iter().zip(cells("pos")?).collect::<Vec<_>>())
            });
            let mut found = Vec::new();
            let mut input = Input::open(&path, Packing::None, LONGEST_ROW).unwrap();
            let result = read(&path, &mut input, b',', &names, &mut |record| {
                let text = |i: usize| match &record.fields[i].cell {
                    Cell::Text(text) => text.clone(),
                    _ => String::new(),
                };
                found.push((text(0), text(1)));
                Ok(true)
            });
            read_rows += found.len();
            match expected {
                Ok(expected) => assert!(result.is_ok() && found == expected, "{text:?}: {found:?} {expected:?}"),
                Err(e) if e.to_string().contains("holds no rows") => assert!(result.is_ok() && found.is_empty()),
                Err(e) => assert!(result.is_err(), "{text:?}: {e}"),
            }
        }
        assert!(read_rows > 1_000, "{read_rows}");
    }
}
