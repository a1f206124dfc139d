//! Reads typed values out of a YAML tree, gathering every error instead of stopping at the first.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeBounds;

use super::node::{Node, Origin, Value};
use crate::data::suggest::did_you_mean;

/// One fault, located.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// `configs/sweep.yaml:14` or `--set a.b=c`.
    pub place: String,
    /// `train.temperature = 0: must be above 0`.
    pub message: String,
}

/// All faults of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {}", error.place, error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The faults found so far, shared by the readers of one file.
pub struct Faults {
    file: String,
    /// Each with its line, for the order; overrides have none.
    found: RefCell<Vec<(usize, ConfigError)>>,
}

impl Faults {
    /// No faults yet in `file`.
    pub fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), found: RefCell::default() }
    }

    /// Adds a fault at a place.
    pub fn add(&self, origin: &Origin, message: impl Into<String>) {
        let (line, place) = match origin {
            Origin::Line(line) => (*line, format!("{}:{line}", self.file)),
            Origin::Override(text) => (usize::MAX, format!("--set {text}")),
        };
        let fault = (line, ConfigError { place, message: message.into() });
        let mut found = self.found.borrow_mut();
        if !found.contains(&fault) {
            found.push(fault);
        }
    }

    /// Whether none was found so far.
    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// `value` if there are no faults.
    ///
    /// # Errors
    /// All faults, in the file's order, those of overrides last.
    pub fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(line, _)| *line);
        let errors: Vec<ConfigError> = found.into_iter().map(|(_, error)| error).collect();
        if errors.is_empty() { Ok(value) } else { Err(ConfigErrors(errors)) }
    }
}

/// A mapping being read: every key must be asked for, and unknown ones are faults.
pub struct Reader<'a> {
    node: Option<&'a Node>,
    origin: Origin,
    path: String,
    faults: &'a Faults,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Reader<'a> {
    /// Reads the mapping `node` (absent or null counts as empty) at `path` in the file.
    pub fn new(node: Option<&'a Node>, path: &str, parent: &Origin, faults: &'a Faults) -> Self {
        let origin = node.map_or_else(|| parent.clone(), |n| n.origin.clone());
        let node = node.filter(|n| n.value != Value::Null);
        let node = match node {
            Some(n) if !matches!(n.value, Value::Map(_)) => {
                faults.add(&n.origin, format!("{path} = {}: must be a mapping", n.value.show()));
                None
            }
            other => other,
        };
        Self { node, origin, path: path.into(), faults, known: RefCell::default() }
    }

    /// A mapping inside this one.
    pub fn section(&self, key: &'static str) -> Reader<'a> {
        Reader::new(self.node(key), &self.full(key), &self.origin, self.faults)
    }

    /// The raw value of a key.
    pub fn node(&self, key: &'static str) -> Option<&'a Node> {
        self.known.borrow_mut().push(key);
        self.node.and_then(|n| n.get(key))
    }

    /// Whether the key is there.
    pub fn has(&self, key: &'static str) -> bool {
        self.node(key).is_some()
    }

    /// The dotted path of a key.
    pub fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// A fault of a key's value.
    pub fn fault(&self, key: &'static str, message: impl fmt::Display) {
        match self.node(key) {
            Some(node) => {
                self.faults.add(&node.origin, format!("{} = {}: {message}", self.full(key), node.value.show()));
            }
            None => self.faults.add(&self.origin, format!("{}: {message}", self.full(key))),
        }
    }

    /// A fault of the mapping as a whole.
    pub fn fault_here(&self, message: impl fmt::Display) {
        let message = if self.path.is_empty() { message.to_string() } else { format!("{}: {message}", self.path) };
        self.faults.add(&self.origin, message);
    }

    /// A text; none if absent or null.
    pub fn text(&self, key: &'static str) -> Option<String> {
        match &self.node(key)?.value {
            Value::Null => None,
            Value::Text(text) => Some(text.clone()),
            Value::Int(i) => Some(i.to_string()),
            _ => {
                self.fault(key, "must be text; put it in quotes");
                None
            }
        }
    }

    /// A text that must be there and say something.
    pub fn required_text(&self, key: &'static str) -> String {
        match self.node(key).map(|n| &n.value) {
            None => self.fault(key, "is missing"),
            Some(Value::Null) => self.fault(key, "must not be empty"),
            Some(Value::Text(text)) if text.trim().is_empty() => self.fault(key, "must not be empty"),
            Some(_) => {}
        }
        self.text(key).unwrap_or_default()
    }

    /// A text that must be there and can be the name of a file or folder.
    pub fn plain_name(&self, key: &'static str) -> String {
        let name = self.required_text(key);
        let odd = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
        if !name.trim().is_empty() && (name.starts_with('.') || name.contains(odd) || name.len() > 200) {
            self.fault(
                key,
                "must be a plain name (no / \\ : * ? \" < > |, no dot in front): it names files and folders",
            );
        }
        name
    }

    /// A number; none if absent or null. `allowed` says in words what `holds` checks.
    pub fn number(&self, key: &'static str, allowed: &str, holds: impl Fn(f64) -> bool) -> Option<f64> {
        let value = match &self.node(key)?.value {
            Value::Null => return None,
            Value::Int(i) => *i as f64,
            Value::Float(f) => *f,
            Value::Text(text) => text.parse().unwrap_or(f64::NAN),
            _ => f64::NAN,
        };
        if value.is_finite() && holds(value) {
            Some(value)
        } else {
            self.fault(key, format!("must be {allowed}"));
            None
        }
    }

    /// A whole number within bounds; none if absent or null.
    pub fn whole(&self, key: &'static str, allowed: impl RangeBounds<i64>, words: &str) -> Option<usize> {
        match &self.node(key)?.value {
            Value::Null => None,
            Value::Int(i) if *i >= 0 && allowed.contains(i) => Some(*i as usize),
            _ => {
                self.fault(key, format!("must be a whole number {words}"));
                None
            }
        }
    }

    /// true or false.
    pub fn flag(&self, key: &'static str) -> Option<bool> {
        match &self.node(key)?.value {
            Value::Null => None,
            Value::Bool(b) => Some(*b),
            _ => {
                self.fault(key, "must be true or false");
                None
            }
        }
    }

    /// One of the given names; an unknown one is a fault that lists them.
    pub fn choice<T: Clone>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(value.clone());
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.fault(key, format!("must be one of {}{}", names.join(", "), did_you_mean(&text, names.iter().copied())));
        None
    }

    /// A list of texts; a single text is a list of one.
    pub fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        match &self.node(key)?.value {
            Value::Null => None,
            Value::Text(text) => Some(vec![text.clone()]),
            Value::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for item in items {
                    match &item.value {
                        Value::Text(text) => out.push(text.clone()),
                        Value::Int(i) => out.push(i.to_string()),
                        other => {
                            self.faults.add(&item.origin, format!("{}: {} must be text", self.full(key), other.show()))
                        }
                    }
                }
                Some(out)
            }
            _ => {
                self.fault(key, "must be text or a list of texts");
                None
            }
        }
    }

    /// The items of a list; a single value is a list of one.
    pub fn items(&self, key: &'static str) -> Vec<&'a Node> {
        match self.node(key) {
            None => Vec::new(),
            Some(node) => match &node.value {
                Value::Null => Vec::new(),
                Value::List(items) => items.iter().collect(),
                _ => vec![node],
            },
        }
    }

    /// Where the mapping was written.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The faults that this reader adds to.
    pub fn faults(&self) -> &'a Faults {
        self.faults
    }

    /// Ends the reading: keys that nobody asked for are faults, with a suggestion.
    pub fn finish(self) {
        let Some(Node { value: Value::Map(entries), .. }) = self.node else { return };
        let known = self.known.borrow();
        for (key, node) in entries {
            if !known.contains(&key.as_str()) {
                let hint = did_you_mean(key, known.iter().copied());
                let mut all: Vec<&str> = known.clone();
                all.sort_unstable();
                all.dedup();
                let hint = if hint.is_empty() { format!("; known here: {}", all.join(", ")) } else { hint };
                self.faults.add(&node.origin, format!("unknown key `{}`{hint}", self.full(key)));
            }
        }
    }
}
