//! Rows written as JSON: an object a line, or an array of objects that is never held whole.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, Visitor};

use super::input::Input;
use super::layout::{Field, Meaning, Names, Role};
use super::{Place, Record, Take};
use crate::data::cell::Cell;
use crate::data::table::DataError;

/// Most keys of a row.
const MOST_KEYS: usize = 1_000;

/// Reads the object of one row. `unused` gets the names that mean nothing, where they are wanted.
///
/// # Errors
/// What is wrong with it and what to do.
pub(super) fn object(text: &str, names: &Names, unused: Option<&mut Vec<Arc<str>>>) -> Result<Vec<Field>, String> {
    if !text.trim_start().starts_with('{') {
        let _: IgnoredAny = serde_json::from_str(text).map_err(|e| syntax(&e))?;
        return Err("must be one JSON object, such as {\"query\": \"…\", \"pos\": [\"…\"]}".into());
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let fields = Object { names, unused }.deserialize(&mut deserializer).map_err(|e| syntax(&e))?;
    deserializer.end().map_err(|e| syntax(&e))?;
    Ok(fields)
}

fn syntax(error: &serde_json::Error) -> String {
    // serde_json counts lines from the start of what it was given, which is one row here.
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    if error.is_data() { reason.into() } else { format!("not JSON: {reason} (column {})", error.column()) }
}

struct Object<'a> {
    names: &'a Names,
    unused: Option<&'a mut Vec<Arc<str>>>,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Vec<Field>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Vec<Field>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields: Vec<Field> = Vec::new();
        let mut seen: HashSet<Arc<str>> = HashSet::new();
        let mut unused = self.unused;
        while let Some(key) = map.next_key::<String>()? {
            let meanings = self.names.meanings(&key);
            let name: Arc<str> = key.into();
            if meanings.is_empty() {
                map.next_value::<IgnoredAny>()?;
                if let Some(unused) = unused.as_mut().filter(|unused| unused.len() < MOST_KEYS) {
                    unused.push(name);
                }
                continue;
            }
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("`{name}` is there twice: keep one")));
            }
            if seen.len() > MOST_KEYS {
                return Err(A::Error::custom(format!("more than {MOST_KEYS} keys: put negatives in one list, `neg`")));
            }
            let value: serde_json::Value = map.next_value()?;
            if let Some(found) = unusable(&value, &meanings) {
                return Err(A::Error::custom(format!("`{name}` holds {found}: give it text or a list of texts")));
            }
            Field::spread(&name, &meanings, Cell::from_json(value), &mut fields);
        }
        Ok(fields)
    }
}

/// What no column may hold; only a label may be true or false.
fn unusable(value: &serde_json::Value, meanings: &[Meaning]) -> Option<&'static str> {
    match value {
        serde_json::Value::Bool(_) if meanings.iter().any(|m| m.role != Role::Label) => Some("true or false"),
        serde_json::Value::Object(_) => Some("an object"),
        serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_boolean) => Some("true or false"),
        serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => Some("an object"),
        _ => None,
    }
}

/// Reads JSON lines; `take` says where to stop.
///
/// # Errors
/// Where a line is no object, or `take` fails.
pub(super) fn lines(path: &Path, input: &mut Input, names: &Names, take: &mut Take<'_>) -> Result<(), DataError> {
    let mut row = 0;
    while let Some(line) = input.next_line()? {
        if line.text.trim().is_empty() {
            continue;
        }
        row += 1;
        let place = Place { row, line: Some(line.number), offset: line.offset };
        let mut unused = Vec::new();
        let fields = object(line.text.trim_end(), names, (row == 1).then_some(&mut unused))
            .map_err(|e| place.fault(path, &e))?;
        if !take(Record { place, fields, unused, textual: false })? {
            return Ok(());
        }
    }
    Ok(())
}

/// Where the reading of an array stands.
enum State {
    /// Before `[`.
    Start,
    /// Before a row, or `]` where there was none yet.
    Before { first: bool },
    /// In a row.
    Inside { depth: usize, string: bool, escaped: bool },
    /// Behind a row.
    Behind,
    /// Behind `]`.
    End,
}

/// Reads an array of objects, one after another.
///
/// # Errors
/// Where it is none, or `take` fails.
pub(super) fn array(path: &Path, input: &mut Input, names: &Names, take: &mut Take<'_>) -> Result<(), DataError> {
    let mut state = State::Start;
    let (mut text, mut begins, mut row) = (Vec::new(), 1, 0);
    loop {
        let line = input.line;
        let longest = input.longest();
        let seen = input.look()?;
        if seen.is_empty() {
            return match state {
                State::End => Ok(()),
                _ => Err(input.fault(line, "the array ends in the middle: copy or download the file again")),
            };
        }
        let (mut passed, mut breaks, mut complete, mut fault) = (0, 0, false, None);
        for &byte in seen {
            passed += 1;
            breaks += usize::from(byte == b'\n');
            match &mut state {
                State::Inside { depth, string, escaped } => {
                    text.push(byte);
                    match byte {
                        _ if *escaped => *escaped = false,
                        b'\\' if *string => *escaped = true,
                        b'"' => *string = !*string,
                        b'{' | b'[' if !*string => *depth += 1,
                        b'}' | b']' if !*string => *depth -= 1,
                        _ => {}
                    }
                    if *depth == 0 {
                        complete = true;
                        state = State::Behind;
                        break;
                    }
                }
                _ if byte.is_ascii_whitespace() => {}
                State::Start if byte == b'[' => state = State::Before { first: true },
                State::Before { .. } if byte == b'{' => {
                    begins = line + breaks;
                    text.push(byte);
                    state = State::Inside { depth: 1, string: false, escaped: false };
                }
                State::Before { first: true } if byte == b']' => state = State::End,
                State::Behind if byte == b',' => state = State::Before { first: false },
                State::Behind if byte == b']' => state = State::End,
                State::Start | State::Before { .. } => {
                    fault = Some("every row of the array must be a JSON object, such as {\"query\": \"…\"}");
                }
                State::Behind => fault = Some("not JSON: expected `,` or `]` between rows"),
                State::End => fault = Some("not JSON: there is more behind the array"),
            }
            if fault.is_some() || text.len() > longest {
                break;
            }
        }
        input.pass(passed, breaks);
        if let Some(fault) = fault {
            return Err(input.fault(line + breaks, fault));
        }
        if text.len() > longest {
            return Err(input.too_long(begins));
        }
        if !complete {
            continue;
        }
        row += 1;
        let place = Place { row, line: Some(begins), offset: 0 };
        let object_text =
            std::str::from_utf8(&text).map_err(|_| place.fault(path, "not UTF-8: save the file as UTF-8"))?;
        let mut unused = Vec::new();
        let fields =
            object(object_text, names, (row == 1).then_some(&mut unused)).map_err(|e| place.fault(path, &e))?;
        text.clear();
        if !take(Record { place, fields, unused, textual: false })? {
            return Ok(());
        }
    }
}
