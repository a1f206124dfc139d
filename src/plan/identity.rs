//! Ids of steps and fingerprints of model folders.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::PlanError;
use crate::data::rows::hex;

/// The id of a step: a hash of its kind, the kind's version and everything that decides its result, keys in a fixed order.
pub fn step_id(kind: &str, version: u32, settings: &Value) -> String {
    let whole = json!({"kind": kind, "version": version, "settings": settings});
    let mut text = String::new();
    canonical(&whole, &mut text);
    hex(&Sha256::digest(text.as_bytes())[..12])
}

/// As [`step_id`], of settings that are canonical already, by key.
pub(super) fn step_id_of(kind: &str, version: u32, settings: &[(&str, &str)]) -> String {
    let mut sorted = settings.to_vec();
    sorted.sort_unstable();
    let mut text = format!("{{\"kind\":{},\"settings\":{{", json!(kind));
    for (key, value) in sorted {
        text.push_str(&format!("\"{key}\":{value},"));
    }
    text.push_str(&format!("}},\"version\":{version},}}"));
    hex(&Sha256::digest(text.as_bytes())[..12])
}

/// JSON with sorted keys and no spaces.
pub(super) fn canonical_text(value: &impl serde::Serialize) -> String {
    let mut text = String::new();
    canonical(&json!(value), &mut text);
    text
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            out.push('{');
            for (key, value) in entries {
                quoted(key, out);
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Value::String(text) => quoted(text, out),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn quoted(text: &str, out: &mut String) {
    if text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&json!(text).to_string());
    }
}

/// A hash of a model folder's content: every file but the model card, by relative path.
///
/// # Errors
/// The operating system's.
pub fn folder_fingerprint(folder: &Path) -> Result<String, PlanError> {
    let mut files = Vec::new();
    collect(folder, folder, 0, &mut files)?;
    files.sort();
    let mut hasher = Sha256::new();
    for (name, path) in files {
        let content = std::fs::read(&path).map_err(|source| PlanError::Io { path: path.clone(), source })?;
        hasher.update(name.as_bytes());
        hasher.update(Sha256::digest(&content));
    }
    Ok(hex(&hasher.finalize()[..12]))
}

fn collect(
    root: &Path,
    folder: &Path,
    depth: usize,
    files: &mut Vec<(String, std::path::PathBuf)>,
) -> Result<(), PlanError> {
    let io = |source| PlanError::Io { path: folder.into(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if path.is_dir() {
            if depth < 3 && !name.starts_with('.') {
                collect(root, &path, depth + 1, files)?;
            }
        } else if !name.ends_with(".md") && !name.starts_with('.') {
            files.push((name, path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_content_not_on_the_order_of_keys() {
        let a = step_id("train", 1, &json!({"x": 1, "y": [1, 2]}));
        assert_eq!(a, step_id("train", 1, &json!({"y": [1, 2], "x": 1})));
        assert_ne!(a, step_id("train", 2, &json!({"x": 1, "y": [1, 2]})));
        assert_ne!(a, step_id("train", 1, &json!({"x": 1, "y": [2, 1]})));
        assert_eq!(a.len(), 24);
    }

    #[test]
    fn an_id_of_parts_is_that_of_the_whole() {
        let whole = json!({"b": {"y": [1.5, null, "ц\"\\"], "a": "plain"}, "a": 2, "ab": true});
        let parts: Vec<(String, String)> =
            whole.as_object().unwrap().iter().map(|(key, value)| (key.clone(), canonical_text(value))).collect();
        let parts: Vec<(&str, &str)> = parts.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(step_id_of("score", 3, &parts), step_id("score", 3, &whole));
    }
}
