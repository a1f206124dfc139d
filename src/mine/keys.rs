//! Keys of the rows beside query, positives and negatives, which a mined row keeps.

use std::path::Path;

use serde_json::{Map, Value};

use crate::data::table::{Cell, DataError, Table};

/// Columns that a mined row writes anew, or that would be read as negatives beside the mined ones.
fn is_own(column: &str) -> bool {
    let own = ["query", "anchor", "pos", "positive", "neg", "negative", "pos_scores", "neg_scores", "scores"];
    let numbered = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    own.contains(&column) || column.strip_prefix("negative_").is_some_and(numbered)
}

/// Other columns of the training rows (`prompt`, `type`, `id` …).
#[derive(Debug, Default)]
pub struct OtherKeys {
    columns: Vec<(String, Vec<Cell>)>,
    /// Whether the rows had scores of positives or negatives, which do not fit what is mined.
    pub had_scores: bool,
    /// Columns of a type that is not read.
    pub unread: Vec<String>,
}

impl OtherKeys {
    /// Reads them, of at most `limit` rows.
    ///
    /// # Errors
    /// Those of [`Table::head`].
    pub fn read(path: &Path, limit: Option<usize>) -> Result<Self, DataError> {
        let table = Table::head(path, limit)?;
        let mut keys = Self::default();
        for name in table.columns() {
            keys.had_scores |= name == "pos_scores" || name == "neg_scores";
            if is_own(&name) {
                continue;
            }
            match table.cells(&name) {
                Ok(cells) => keys.columns.push((name, cells)),
                Err(_) => keys.unread.push(name),
            }
        }
        Ok(keys)
    }

    /// Those of a row; a key without a value is left out.
    pub(super) fn of_row(&self, row: usize) -> Map<String, Value> {
        let cells = self.columns.iter().filter_map(|(name, cells)| Some((name, cells.get(row)?)));
        cells.filter(|(_, cell)| **cell != Cell::Null).map(|(name, cell)| (name.clone(), json(cell))).collect()
    }
}

fn json(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Int(i) => (*i).into(),
        Cell::Float(f) => (*f).into(),
        Cell::Text(text) => text.clone().into(),
        Cell::List(items) => items.iter().map(json).collect(),
    }
}
