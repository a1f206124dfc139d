//! Tables written as text: csv, tsv and JSON lines. Every fault names its line.
//!
//! polars reads these too, but not as such files are met: on JSON lines it panics on numbers past 64 bits and on a long last
//! line, and guesses one type for a column; its csv reader refuses a lone quote inside a field and takes blank lines for rows.

use std::collections::HashMap;
use std::path::Path;

use super::cell::Cell;
use super::table::DataError;

/// Columns in the file's order; a column may end early, what is missing then counts as no value.
pub(super) type Columns = Vec<(String, Vec<Cell>)>;

/// Most columns: keys that are themselves data would otherwise take rows × rows of memory.
const MOST_COLUMNS: usize = 1_000;

/// Reads JSON lines, at most `limit` of them; gives the columns and the number of rows.
///
/// # Errors
/// Where a line is no JSON object; the line is named.
pub(super) fn json_lines(path: &Path, text: &str, limit: usize) -> Result<(Columns, usize), DataError> {
    let mut columns: Columns = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut rows = 0;
    for (number, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        if rows == limit {
            break;
        }
        let fault = |message: String| DataError::content(path, format!("line {}: {message}", number + 1));
        let value: serde_json::Value = serde_json::from_str(line).map_err(|e| {
            // serde_json counts lines from the start of what it was given, which is always 1 here.
            let reason = e.to_string();
            fault(format!("not JSON: {} (column {})", reason.split(" at line ").next().unwrap_or_default(), e.column()))
        })?;
        let serde_json::Value::Object(object) = value else {
            return Err(fault("must be one JSON object, such as {\"text\": \"…\"}".into()));
        };
        for (key, value) in object {
            let place = match places.get(&key) {
                Some(place) => *place,
                None if columns.len() == MOST_COLUMNS => {
                    return Err(fault(format!("more than {MOST_COLUMNS} different keys: keys are names of columns")));
                }
                None => {
                    columns.push((key.clone(), Vec::new()));
                    places.insert(key, columns.len() - 1);
                    columns.len() - 1
                }
            };
            let cells = &mut columns[place].1;
            cells.resize(rows, Cell::Null);
            cells.push(Cell::from_json(value));
        }
        rows += 1;
    }
    Ok((columns, rows))
}

/// Reads a JSON file: an array of objects, or JSON lines.
///
/// # Errors
/// Where it is neither; the place is named.
pub(super) fn json(path: &Path, text: &str, limit: usize) -> Result<(Columns, usize), DataError> {
    if !text.trim_start().starts_with('[') {
        return json_lines(path, text, limit);
    }
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(text).map_err(|e| DataError::content(path, format!("not JSON: {e}")))?;
    // One row a line, so that the rows are read as those of JSON lines are.
    let lines: String = rows.iter().take(limit).map(|row| format!("{row}\n")).collect();
    json_lines(path, &lines, limit)
}

/// Reads csv (RFC 4180, and like Python's `csv` lenient to quotes inside fields), at most `limit` rows below the header; blank
/// lines are no rows, an empty field is no value. Gives the columns and the number of rows.
///
/// # Errors
/// Where a record has more or fewer fields than the header, a quote is never closed, or two columns have one name.
pub(super) fn separated(path: &Path, text: &str, separator: u8, limit: usize) -> Result<(Columns, usize), DataError> {
    let fault = |line: usize, message: String| DataError::content(path, format!("line {line}: {message}"));
    let mut records = Records { rest: text, line: 1, separator };
    let mut columns: Columns = Vec::new();
    let mut rows = 0;
    loop {
        let start = records.line;
        let Some(record) = records.next().map_err(|line| {
            fault(
                line,
                "a quote opens here that is never closed: close it, or double the quotes inside the field".into(),
            )
        })?
        else {
            return Ok((columns, rows));
        };
        if matches!(record.as_slice(), [only] if only.is_empty()) {
            continue;
        }
        if columns.is_empty() {
            for name in record {
                if columns.iter().any(|(other, _)| *other == name) {
                    return Err(fault(start, format!("two columns are called `{name}`: rename one")));
                }
                columns.push((name, Vec::new()));
            }
            continue;
        }
        if rows == limit {
            return Ok((columns, rows));
        }
        if record.len() != columns.len() {
            let (found, wanted) = (record.len(), columns.len());
            let message =
                format!("{found} fields, but the header has {wanted}: put fields that hold separators in quotes");
            return Err(fault(start, message));
        }
        for ((_, cells), field) in columns.iter_mut().zip(record) {
            cells.push(if field.is_empty() { Cell::Null } else { Cell::Text(field) });
        }
        rows += 1;
    }
}

struct Records<'a> {
    rest: &'a str,
    line: usize,
    separator: u8,
}

impl Records<'_> {
    /// The fields of the next record; none at the end.
    ///
    /// # Errors
    /// The line of a quote that is never closed.
    fn next(&mut self) -> Result<Option<Vec<String>>, usize> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut fields = Vec::new();
        loop {
            let mut field = String::new();
            if self.rest.starts_with('"') {
                self.quoted(&mut field)?;
            }
            let bytes = self.rest.as_bytes();
            let end = bytes.iter().position(|b| *b == self.separator || *b == b'\n').unwrap_or(bytes.len());
            let stop = bytes.get(end).copied();
            let unquoted = &self.rest[..end];
            field.push_str(if stop == Some(self.separator) {
                unquoted
            } else {
                unquoted.strip_suffix('\r').unwrap_or(unquoted)
            });
            fields.push(field);
            self.rest = self.rest.get(end + 1..).unwrap_or("");
            if stop != Some(self.separator) {
                self.line += 1;
                return Ok(Some(fields));
            }
        }
    }

    /// Takes a quoted stretch, doubled quotes undone.
    fn quoted(&mut self, field: &mut String) -> Result<(), usize> {
        let opened = self.line;
        self.rest = &self.rest[1..];
        loop {
            let Some(end) = self.rest.find('"') else { return Err(opened) };
            let inside = &self.rest[..end];
            self.line += inside.bytes().filter(|b| *b == b'\n').count();
            field.push_str(inside);
            self.rest = &self.rest[end + 1..];
            match self.rest.strip_prefix('"') {
                Some(rest) => {
                    field.push('"');
                    self.rest = rest;
                }
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(text: &str) -> Result<Vec<Vec<String>>, String> {
        let (columns, rows) = separated(Path::new("a.csv"), text, b',', usize::MAX).map_err(|e| e.to_string())?;
        assert!(columns.iter().all(|(_, cells)| cells.len() == rows));
        let show = |cell: &Cell| if let Cell::Text(text) = cell { text.clone() } else { "∅".into() };
        Ok((0..rows).map(|row| columns.iter().map(|(_, cells)| show(&cells[row])).collect()).collect())
    }

    // Expected values: Python 3.11, `list(csv.reader(io.StringIO(text, newline="")))` without blank records.
    #[test]
    fn fields_as_pythons_csv_reads_them() {
        for (text, expected) in [
            ("a,b\n1,2\n", vec![vec!["1", "2"]]),
            ("a,b\r\n1,2\r\n3,4", vec![vec!["1", "2"], vec!["3", "4"]]),
            ("a,b\n\n1,2\n\n\n", vec![vec!["1", "2"]]),
            ("a,b\n5\" pipe,1\nx,2\n", vec![vec!["5\" pipe", "1"], vec!["x", "2"]]),
            ("a,b\n\"x\"\"y\",\"p,q\nr\"\n", vec![vec!["x\"y", "p,q\nr"]]),
            ("a,b\n\"x\" y,2\n", vec![vec!["x y", "2"]]),
            ("a,b\n,\"\"\n", vec![vec!["∅", "∅"]]),
            ("a,b\n1,\n", vec![vec!["1", "∅"]]),
            ("a\nя\n", vec![vec!["я"]]),
        ] {
            assert_eq!(csv(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn faults_name_the_line_of_the_record() {
        for (text, expected) in [
            ("a,b\n\"x\ny\",1\nz\n", "line 4: 1 fields, but the header has 2"),
            ("a,b\n1,2,3\n", "line 2: 3 fields, but the header has 2"),
            ("a,b\n1,2\nx,\"y\n3,4\n", "line 3: a quote opens here that is never closed"),
            ("a,a\n1,2\n", "line 1: two columns are called `a`"),
        ] {
            let error = csv(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn json_lines_keep_each_value_as_written() {
        let text = "{\"a\": 1}\r\n\n{\"b\": [\"x\", 2], \"a\": \"1\"}\n{\"a\": 18446744073709551615}\n{\"a\": 1.5, \"b\": null}";
        let (columns, rows) = json_lines(Path::new("a.jsonl"), text, usize::MAX).unwrap();
        assert_eq!(rows, 4);
        let text = |t: &str| Cell::Text(t.into());
        assert_eq!(columns[0].1, [Cell::Int(1), text("1"), text("18446744073709551615"), Cell::Float(1.5)]);
        assert_eq!(columns[1].1, [Cell::Null, Cell::List(vec![text("x"), Cell::Int(2)]), Cell::Null, Cell::Null]);
    }

    #[test]
    fn hostile_lines_are_named() {
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let wide: String = (0..2_000).map(|i| format!("{{\"k{i}\": 1}}\n")).collect();
        for (text, expected) in [
            ("{\"a\": 1}\n{\"a\": \n", "line 2: not JSON: EOF while parsing a value"),
            ("{\"a\": 1}\n\n[1]\n", "line 3: must be one JSON object"),
            ("{\"a\": 1} {\"a\": 2}\n", "line 1: not JSON: trailing characters (column 10)"),
            ("{\"a\": \"\\ud83d\"}\n", "line 1: not JSON: "),
            (deep.as_str(), "line 1: not JSON: recursion limit exceeded"),
            (wide.as_str(), "line 1001: more than 1000 different keys"),
        ] {
            let error = json_lines(Path::new("a.jsonl"), text, usize::MAX).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
