//! From the fields of a record to a training row, every fault told.

use super::TrainingRow;
use super::layout::{Field, Layout, Role};
use crate::data::cell::Cell;

/// A row and what was left out of it.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) row: TrainingRow,
    /// Negatives that were blank.
    pub(super) blanks: usize,
}

/// Makes a row. In `textual` files (csv, tsv) a list is text that is written as one.
///
/// # Errors
/// What is wrong with the row and what to do.
pub(super) fn build(layout: Layout, fields: Vec<Field>, textual: bool) -> Result<Built, String> {
    let mut fields = Fields { fields, textual };
    let mut row =
        TrainingRow { prompt: fields.text(Role::Prompt)?, kind: fields.text(Role::Kind)?, ..Default::default() };
    let mut blanks = 0;
    match layout {
        Layout::Pairs => {
            row.query = fields.needed(Role::Query, "query")?;
            row.positives = fields.positives()?;
            row.positive_scores = fields.numbers(Role::PositiveScores)?;
            matches("pos_scores", row.positive_scores.len(), "pos", row.positives.len())?;
            let negatives = fields.negatives()?;
            let scores = fields.numbers(Role::NegativeScores)?;
            matches("neg_scores", scores.len(), "neg", negatives.len())?;
            for (i, negative) in negatives.into_iter().enumerate() {
                if negative.trim().is_empty() {
                    blanks += 1;
                    continue;
                }
                row.negatives.push(negative);
                row.negative_scores.extend(scores.get(i));
            }
        }
        Layout::Scored => {
            row.query = fields.needed(Role::First, "sentence1")?;
            row.positives = vec![fields.needed(Role::Second, "sentence2")?];
            let scored = fields.fields.iter().any(|field| field.meaning.role == Role::Score);
            let field = fields.take(if scored { Role::Score } else { Role::Label });
            let field = field.ok_or("has no score: give every row a number")?;
            row.score = Some(number(&field.cell, textual).ok_or_else(|| wrong(&field, "a finite number"))?);
        }
        Layout::Labelled => {
            row.query = fields.needed(Role::Text, "text")?;
            row.label = Some(fields.label()?);
        }
        Layout::Texts => row.query = fields.needed(Role::Text, "text")?,
    }
    Ok(Built { row, blanks })
}

fn wrong(field: &Field, expected: &str) -> String {
    format!("`{}` is {}, expected {expected}", field.name, field.cell.kind())
}

fn matches(scores: &str, given: usize, texts: &str, wanted: usize) -> Result<(), String> {
    if given == 0 || given == wanted {
        return Ok(());
    }
    Err(format!("`{scores}` holds {given} numbers, but `{texts}` {wanted} texts: give each text one score"))
}

/// A finite number of 32 bits.
fn number(cell: &Cell, textual: bool) -> Option<f32> {
    let number = match cell {
        Cell::Int(i) => *i as f32,
        Cell::Float(f) => *f as f32,
        Cell::Text(text) if textual => text.trim().parse::<f64>().ok()? as f32,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

struct Fields {
    fields: Vec<Field>,
    textual: bool,
}

impl Fields {
    /// The field of a role that holds anything, of several names the first in rank.
    fn take(&mut self, role: Role) -> Option<Field> {
        let of_role = self.fields.iter().enumerate().filter(|(_, f)| f.meaning.role == role && f.cell != Cell::Null);
        let (place, _) = of_role.min_by_key(|(_, f)| f.meaning.rank)?;
        Some(self.fields.swap_remove(place))
    }

    fn text(&mut self, role: Role) -> Result<Option<String>, String> {
        let Some(field) = self.take(role) else { return Ok(None) };
        match field.cell {
            Cell::Text(text) => Ok(Some(text)),
            Cell::Int(i) => Ok(Some(i.to_string())),
            Cell::Float(f) => Ok(Some(f.to_string())),
            _ => Err(wrong(&field, "text")),
        }
    }

    /// A text that is not blank.
    fn needed(&mut self, role: Role, name: &str) -> Result<String, String> {
        let name = self.fields.iter().find(|f| f.meaning.role == role).map_or(name, |f| &*f.name).to_string();
        let text = self.text(role)?.filter(|text| !text.trim().is_empty());
        text.ok_or_else(|| format!("`{name}` is missing or empty: fill it, or leave the row out"))
    }

    /// The texts of a column: a single one is a list of one, nothing in a list is an empty text.
    fn texts_of(&self, field: Field) -> Result<Vec<String>, String> {
        match field.cell {
            Cell::Text(text) if self.textual => Ok(Cell::texts_of_field(text)),
            Cell::Text(text) => Ok(vec![text]),
            Cell::Int(i) => Ok(vec![i.to_string()]),
            Cell::Float(f) => Ok(vec![f.to_string()]),
            Cell::List(items) => {
                let text = |item: Cell| match item {
                    Cell::Text(text) => Ok(text),
                    Cell::Null => Ok(String::new()),
                    other => Err(format!("`{}` holds {}, expected a list of texts", field.name, other.kind())),
                };
                items.into_iter().map(text).collect()
            }
            Cell::Null => Ok(Vec::new()),
        }
    }

    fn positives(&mut self) -> Result<Vec<String>, String> {
        let named = self.fields.iter().find(|f| f.meaning.role == Role::Positives);
        let name = named.map_or_else(|| "pos".into(), |f| f.name.to_string());
        let texts = match self.take(Role::Positives) {
            Some(field) => self.texts_of(field)?,
            None => Vec::new(),
        };
        if texts.is_empty() {
            return Err(format!("`{name}` holds no text: give the query a text that matches it, or leave the row out"));
        }
        if texts.iter().any(|text| text.trim().is_empty()) {
            return Err(format!("`{name}` holds an empty text: fill it, or leave it out"));
        }
        Ok(texts)
    }

    /// The negatives of all their columns, in the order of their names.
    fn negatives(&mut self) -> Result<Vec<String>, String> {
        let mut columns = Vec::new();
        while let Some(place) = self.fields.iter().position(|f| matches!(f.meaning.role, Role::Negatives(_))) {
            columns.push(self.fields.swap_remove(place));
        }
        columns.sort_by(|a, b| {
            let order = |f: &Field| if let Role::Negatives(order) = f.meaning.role { order } else { 0 };
            (order(a), &a.name).cmp(&(order(b), &b.name))
        });
        let mut texts = Vec::new();
        for field in columns {
            texts.extend(self.texts_of(field)?);
        }
        Ok(texts)
    }

    fn numbers(&mut self, role: Role) -> Result<Vec<f32>, String> {
        let Some(field) = self.take(role) else { return Ok(Vec::new()) };
        let parsed = if self.textual { field.cell.clone().into_parsed() } else { field.cell.clone() };
        let numbers: Option<Vec<f32>> = match &parsed {
            Cell::List(items) => items.iter().map(|item| number(item, false)).collect(),
            single => number(single, self.textual).map(|number| vec![number]),
        };
        numbers.ok_or_else(|| {
            let kind = if matches!(parsed, Cell::List(_)) { "a list with more than that" } else { parsed.kind() };
            format!("`{}` is {kind}, expected a list of finite numbers", field.name)
        })
    }

    /// A class: a whole number or a text.
    fn label(&mut self) -> Result<String, String> {
        let field = self.take(Role::Label).ok_or("has no `label`: give it one, or leave the row out")?;
        let cell = if self.textual { field.cell.clone().into_parsed() } else { field.cell.clone() };
        match cell.into_label() {
            Ok(Cell::Int(i)) => Ok(i.to_string()),
            Ok(Cell::Text(text)) if !text.trim().is_empty() => Ok(text),
            Ok(_) => Err("`label` is empty: give it one, or leave the row out".into()),
            Err(_) => Err(wrong(&field, "a label (a whole number or text)")),
        }
    }
}
