//! A value of a table, whatever the file's format.

use polars::prelude::AnyValue;

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
    /// The kind of value, as errors name it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
        }
    }

    /// From JSON: a bool is 0 or 1, an object is its text; a whole number past 64 signed bits is text, so that no digit is lost.
    pub(super) fn from_json(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Int(i64::from(b)),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Self::Int(i),
                (None, Some(large)) => Self::Text(large.to_string()),
                (None, None) => Self::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(s) => Self::Text(s),
            serde_json::Value::Array(items) => Self::List(items.into_iter().map(Self::from_json).collect()),
            object @ serde_json::Value::Object(_) => Self::Text(object.to_string()),
        }
    }

    /// From a value of polars; none for what is neither a number nor text nor a list of such.
    pub(super) fn from_any(value: &AnyValue<'_>) -> Option<Self> {
        Some(match value {
            AnyValue::Null => Self::Null,
            AnyValue::Boolean(b) => Self::Int(i64::from(*b)),
            AnyValue::List(series) => Self::List(series.iter().map(|v| Self::from_any(&v)).collect::<Option<_>>()?),
            AnyValue::Float32(v) => Self::Float(f64::from(*v)),
            AnyValue::Float64(v) => Self::Float(*v),
            other => match (other.get_str(), other.is_integer(), other.extract::<i64>()) {
                (Some(text), ..) => Self::Text(text.to_string()),
                (None, true, Some(i)) => Self::Int(i),
                (None, true, None) => Self::Text(other.to_string()),
                _ => return None,
            },
        })
    }

    /// What a field of a csv says: a JSON list or a whole number if it is written like one, text otherwise.
    pub(super) fn into_parsed(self) -> Self {
        let Self::Text(text) = &self else { return self };
        let trimmed = text.trim();
        if trimmed.starts_with('[')
            && let Ok(list @ serde_json::Value::Array(_)) = serde_json::from_str(trimmed)
        {
            return Self::from_json(list);
        }
        match trimmed.parse::<i64>() {
            Ok(i) if i.to_string() == trimmed => Self::Int(i),
            _ => self,
        }
    }

    /// The texts of a csv field that holds a JSON list of nothing else; the field itself otherwise, a list of one.
    pub(super) fn texts_of_field(text: String) -> Vec<String> {
        let list = if text.trim_start().starts_with('[') { serde_json::from_str(text.trim()).ok() } else { None };
        list.unwrap_or_else(|| vec![text])
    }

    /// A label: a whole number (also one written 2.0) or text.
    ///
    /// # Errors
    /// The cell, where it is neither.
    pub(super) fn into_label(self) -> Result<Self, Self> {
        match self {
            Self::Int(_) | Self::Text(_) => Ok(self),
            Self::Float(f) if f.fract() == 0.0 && f.abs() < 9e15 => Ok(Self::Int(f as i64)),
            other => Err(other),
        }
    }
}
