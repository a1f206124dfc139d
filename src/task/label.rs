//! Class labels as data sets hold them.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// A class label. Integers sort by value and before texts; texts sort by code point.
///
/// In JSON a number or a string; a bool is read as 0 or 1, a float without a fraction as an integer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(untagged)]
pub enum Label {
    /// A number.
    Int(i64),
    /// A name.
    Text(String),
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl From<i64> for Label {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LabelVisitor)
    }
}

struct LabelVisitor;

impl Visitor<'_> for LabelVisitor {
    type Value = Label;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a label: an integer, a string, a bool or a float without a fraction")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Label, E> {
        Ok(Label::Int(i64::from(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Label, E> {
        Ok(Label::Int(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Label, E> {
        i64::try_from(value).map(Label::Int).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Label, E> {
        if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            return Ok(Label::Int(value as i64));
        }
        Err(E::invalid_value(de::Unexpected::Float(value), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Label, E> {
        Ok(Label::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Label, E> {
        Ok(Label::Text(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_data_sets_hold() {
        let labels: Vec<Label> = serde_json::from_str(r#"[3, -1, "б", true, 2.0, "10", "9"]"#).unwrap();
        let mut sorted = labels.clone();
        sorted.sort();
        let expected =
            [Label::Int(-1), Label::Int(1), Label::Int(2), Label::Int(3), "10".into(), "9".into(), "б".into()];
        assert_eq!(sorted, expected);
        assert!(serde_json::from_str::<Label>("2.5").is_err());
        assert!(serde_json::from_str::<Label>("null").is_err());
        assert_eq!(serde_json::to_string(&labels[..3]).unwrap(), r#"[3,-1,"б"]"#);
    }
}
