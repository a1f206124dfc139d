//! A YAML tree that remembers where each value was written.

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of the file, from 1.
    Line(usize),
    /// An override given on the command line, as typed.
    Override(String),
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it was written.
    pub origin: Origin,
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written.
    Map(Vec<(String, Node)>),
}

impl Value {
    /// As shown in errors and labels.
    pub fn show(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Float(f) => show_number(*f),
            Self::Text(t) => t.clone(),
            Self::List(items) => {
                format!("[{}]", items.iter().map(|n| n.value.show()).collect::<Vec<_>>().join(", "))
            }
            Self::Map(entries) => {
                let inner: Vec<String> = entries.iter().map(|(k, n)| format!("{k}: {}", n.value.show())).collect();
                format!("{{{}}}", inner.join(", "))
            }
        }
    }
}

impl Node {
    /// The tree as YAML that reads back to the same values.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        self.write_yaml(&mut out, 0);
        out
    }

    fn write_yaml(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        match &self.value {
            Value::Map(entries) if !entries.is_empty() => {
                for (key, node) in entries {
                    let nested = matches!(&node.value, Value::Map(m) if !m.is_empty())
                        || matches!(&node.value, Value::List(l) if !l.is_empty());
                    out.push_str(&format!("{indent}{}:{}", scalar(key), if nested { "\n" } else { " " }));
                    node.write_yaml(out, depth + 1);
                }
            }
            Value::List(items) if !items.is_empty() => {
                for item in items {
                    out.push_str(&format!("{indent}- {}\n", item.value.flow()));
                }
            }
            value => out.push_str(&format!("{}\n", value.flow())),
        }
    }
}

impl Value {
    /// On one line.
    fn flow(&self) -> String {
        match self {
            Self::Text(text) => scalar(text),
            Self::List(items) => {
                format!("[{}]", items.iter().map(|n| n.value.flow()).collect::<Vec<_>>().join(", "))
            }
            Self::Map(entries) => {
                let inner = entries.iter().map(|(k, n)| format!("{}: {}", scalar(k), n.value.flow()));
                format!("{{{}}}", inner.collect::<Vec<_>>().join(", "))
            }
            Self::Float(f) if f.is_nan() => ".nan".into(),
            Self::Float(f) if f.is_infinite() => if *f > 0.0 { ".inf" } else { "-.inf" }.into(),
            Self::Float(f) if f.fract() == 0.0 && f.abs() < 1e15 => format!("{f:.1}"),
            // The exponent with a point before it: `1e-5` is a number in YAML 1.2 and text in 1.1.
            Self::Float(f) => {
                let shown = show_number(*f);
                match shown.split_once('e') {
                    Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0e{exponent}"),
                    _ => shown,
                }
            }
            other => other.show(),
        }
    }
}

/// Text as YAML: plain where it cannot be mistaken for anything else, else quoted (JSON's quotes are YAML's).
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_alphanumeric() || "_-./".contains(c))
        && parse(text).is_ok_and(|node| node.value == Value::Text(text.into()));
    if plain { text.into() } else { serde_json::Value::from(text).to_string() }
}

/// A number as people write it: `0.02`, `2e-5`.
pub fn show_number(value: f64) -> String {
    if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e6) { format!("{value:e}") } else { value.to_string() }
}

/// Nodes that a document may have: far above any config, far below what aliases of aliases can blow up to.
const LIMIT: usize = 200_000;

/// Deepest nesting by indentation or by `- - -`: each level costs stack. Flow collections are limited by the parser itself.
const DEEPEST: usize = 200;

/// Parses one YAML document.
///
/// # Errors
/// (line, message) of what is wrong: syntax, a repeated key, several documents, a key that is no text, too many nodes.
pub fn parse(text: &str) -> Result<Node, (usize, String)> {
    if text.len() > 4 << 20 {
        return Err((1, "is larger than 4 MiB: not a config".into()));
    }
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start_matches([' ', '\t', '-', '?', ':']);
        if line.len() - content.len() > DEEPEST && !line.trim().is_empty() {
            return Err((number + 1, "is nested too deep for a config".into()));
        }
    }
    let documents = MarkedYaml::load_from_str(text)
        .map_err(|e| (e.marker().line().max(1), format!("not valid YAML: {}", e.info())))?;
    match documents.as_slice() {
        [] => Ok(Node { value: Value::Map(Vec::new()), origin: Origin::Line(1) }),
        [one] => convert(one, &mut 0),
        [_, second, ..] => Err((second.span.start.line(), "holds more than one YAML document".into())),
    }
}

fn convert(yaml: &MarkedYaml<'_>, count: &mut usize) -> Result<Node, (usize, String)> {
    let line = yaml.span.start.line().max(1);
    *count += 1;
    if *count > LIMIT {
        return Err((line, "unfolds to too many values (aliases of aliases?)".into()));
    }
    let value = match &yaml.data {
        YamlData::Value(Scalar::Null) => Value::Null,
        YamlData::Value(Scalar::Boolean(b)) => Value::Bool(*b),
        YamlData::Value(Scalar::Integer(i)) => Value::Int(*i),
        YamlData::Value(Scalar::FloatingPoint(f)) => Value::Float(f.into_inner()),
        YamlData::Value(Scalar::String(s)) => Value::Text(s.to_string()),
        YamlData::Sequence(items) => {
            Value::List(items.iter().map(|item| convert(item, count)).collect::<Result<_, _>>()?)
        }
        YamlData::Mapping(map) => {
            let mut entries = Vec::with_capacity(map.len());
            for (key, value) in map {
                let place = key.span.start.line().max(1);
                let key = match convert(key, count)?.value {
                    Value::Text(key) => key,
                    scalar @ (Value::Int(_) | Value::Bool(_) | Value::Float(_)) => scalar.show(),
                    _ => return Err((line, "has a key that is no text".into())),
                };
                // The line of the key is where people look, also where the value begins below it.
                let mut node = convert(value, count)?;
                node.origin = Origin::Line(place);
                entries.push((key, node));
            }
            Value::Map(entries)
        }
        YamlData::Tagged(_, inner) => return convert(inner, count),
        YamlData::Alias(_) => return Err((line, "has an alias to an anchor that is not known".into())),
        YamlData::Representation(text, ..) => Value::Text(text.to_string()),
        YamlData::BadValue => return Err((line, "has a value that does not fit its tag".into())),
    };
    Ok(Node { value, origin: Origin::Line(line) })
}

impl Node {
    /// The entry `key` of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The entry at a dotted path.
    pub fn at(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(self, |node, key| node.get(key))
    }

    /// As [`Self::get`], to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|(k, _)| k == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Puts `node` at a path of keys (items of lists are found by position), making mappings on the way.
    pub fn set(&mut self, path: &[&str], node: Node) {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if let Value::List(items) = &mut self.value
            && let Some(item) = key.parse::<usize>().ok().and_then(|place| items.get_mut(place))
        {
            return item.set(rest, node);
        }
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut self.value else { return };
        let place = entries.iter().position(|(k, _)| k == key).unwrap_or(entries.len());
        if place == entries.len() {
            entries.push((key.to_string(), Node { value: Value::Null, origin: node.origin.clone() }));
        }
        entries[place].1.set(rest, node);
    }

    /// Takes an entry of a mapping out.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        let Value::Map(entries) = &mut self.value else { return None };
        let place = entries.iter().position(|(k, _)| k == key)?;
        Some(entries.remove(place).1)
    }

    /// The same value with every part written at `origin`.
    #[must_use]
    pub fn relocated(&self, origin: &Origin) -> Node {
        let value = match &self.value {
            Value::List(items) => Value::List(items.iter().map(|n| n.relocated(origin)).collect()),
            Value::Map(entries) => Value::Map(entries.iter().map(|(k, n)| (k.clone(), n.relocated(origin))).collect()),
            other => other.clone(),
        };
        Node { value, origin: origin.clone() }
    }
}
