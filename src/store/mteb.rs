//! Result files as mteb writes and reads them: `<root>/<org>__<model>/<revision>/<Task>.json` beside `model_meta.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::folder::{StoreError, write_json};

/// The mteb whose protocol and file layout are followed.
pub const MTEB_VERSION: &str = "2.26.24";

/// One task's results.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// The task.
    pub task: String,
    /// Revision of its data.
    pub revision: String,
    /// Split → its scores.
    pub splits: Vec<(String, Map<String, Value>)>,
    /// mteb's name of the subset.
    pub subset: String,
    /// Languages, such as `rus-Cyrl`.
    pub languages: Vec<String>,
    /// Seconds it took.
    pub seconds: f64,
    /// More that is kept beside what mteb knows: protocol, seeds, prompts.
    pub more: Map<String, Value>,
}

impl TaskResult {
    /// Writes the file into a model's folder.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, StoreError> {
        let mut splits = Map::new();
        for (split, scores) in &self.splits {
            let mut entry: Map<String, Value> = scores.iter().map(|(k, v)| (k.clone(), rounded(v))).collect();
            entry.insert("hf_subset".into(), json!(self.subset));
            entry.insert("languages".into(), json!(self.languages));
            entry.insert("mteb_version".into(), json!(MTEB_VERSION));
            splits.insert(split.clone(), json!([entry]));
        }
        let date = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let mut file = json!({
            "dataset_revision": self.revision, "task_name": self.task, "mteb_version": MTEB_VERSION, "scores": splits,
            "evaluation_time": (self.seconds * 1e3).round() / 1e3, "kg_co2_emissions": null, "date": date.round(),
        });
        if let Some(map) = file.as_object_mut() {
            map.extend(self.more.clone());
        }
        let path = folder.join(format!("{}.json", self.task));
        write_json(&path, &file)?;
        Ok(path)
    }
}

/// Floats to six decimals, as mteb writes them.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(n) if n.is_f64() => {
            let six = n.as_f64().map(|v| format!("{v:.6}")).and_then(|text| text.parse().ok());
            six.and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number)
        }
        Value::Array(items) => items.iter().map(rounded).collect(),
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), rounded(v))).collect()),
        other => other.clone(),
    }
}

/// What `model_meta.json` says of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMeta {
    /// `org/model`.
    pub name: String,
    /// Commit, or a hash of the weights.
    pub revision: String,
}

impl ModelMeta {
    /// The model's folder below a root of results.
    pub fn folder(&self, root: &Path) -> PathBuf {
        root.join(self.name.replace('/', "__").replace(' ', "_")).join(&self.revision)
    }

    /// Writes `model_meta.json`; `facts` are fields of mteb's record that are known.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write(&self, folder: &Path, facts: &Map<String, Value>) -> Result<(), StoreError> {
        let mut meta = json!({
            "loader_kwargs": {}, "name": self.name, "revision": self.revision, "release_date": null, "languages": null,
            "n_parameters": null, "n_active_parameters_override": null, "n_embedding_parameters": null,
            "memory_usage_mb": null, "max_tokens": null, "embed_dim": null, "license": null, "open_weights": null,
            "public_training_code": null, "public_training_data": null, "framework": [], "reference": null,
            "similarity_fn_name": "cosine", "use_instructions": null, "training_datasets": null, "adapted_from": null,
            "superseded_by": null, "modalities": ["text"], "model_type": ["dense"], "citation": null, "contacts": null,
            "experiment_kwargs": null, "output_dtypes": null, "extra_requirements_groups": null, "loader": null,
            "is_cross_encoder": null,
        });
        if let Some(map) = meta.as_object_mut() {
            map.extend(facts.clone());
        }
        write_json(&folder.join("model_meta.json"), &meta)
    }
}

/// A model's results as they were published.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelResults {
    /// The model.
    pub model: ModelMeta,
    /// Task → main score, the mean over the splits and subsets that count.
    pub tasks: BTreeMap<String, f64>,
    /// Task → type, where the file says it.
    pub types: BTreeMap<String, String>,
}

/// The (split, subset) pairs that a task's score is the mean over; none where the task is not known.
pub type Expected<'a> = dyn Fn(&str) -> Option<Vec<(String, String)>> + 'a;

/// Reads every model's results in a folder: one of a model's revision, or a root of such. Files may hold more splits than a
/// benchmark reports, and fewer: a task that lacks one of those `expected`, or has an undefined score there, is left out.
///
/// # Errors
/// Where a file cannot be read or is no result file, or the folder holds none.
pub fn read(folder: &Path, expected: &Expected<'_>) -> Result<Vec<ModelResults>, StoreError> {
    let mut found = Vec::new();
    collect(folder, 0, expected, &mut found)?;
    if found.is_empty() {
        let message = "holds neither a run (record.json) nor mteb's result files (<Task>.json beside model_meta.json)";
        return Err(StoreError::Results { path: folder.into(), message: message.into() });
    }
    Ok(found)
}

fn collect(
    folder: &Path,
    depth: usize,
    expected: &Expected<'_>,
    found: &mut Vec<ModelResults>,
) -> Result<(), StoreError> {
    let io = |source| StoreError::Io { path: folder.into(), source };
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(io)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(io)?;
    entries.sort();
    let mut results = ModelResults { model: named_by(folder), tasks: BTreeMap::new(), types: BTreeMap::new() };
    for path in &entries {
        if path.is_dir() {
            if depth < 3 && path.file_name().is_some_and(|name| name != "experiments") {
                collect(path, depth + 1, expected, found)?;
            }
            continue;
        }
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let fault = |message: String| StoreError::Results { path: path.clone(), message };
        let text = std::fs::read_to_string(path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        let file: Value = serde_json::from_str(&without_nan(&text)).map_err(|e| fault(format!("not JSON: {e}")))?;
        if path.file_name().is_some_and(|name| name == "model_meta.json") {
            if let (Some(name), Some(revision)) = (file["name"].as_str(), file["revision"].as_str()) {
                results.model = ModelMeta { name: name.into(), revision: revision.into() };
            }
            continue;
        }
        let Some(task) = file["task_name"].as_str() else { continue };
        if let Some(score) = score_of(&file, expected(task)) {
            results.tasks.insert(task.into(), score);
            results.types.extend(file["task_type"].as_str().map(|kind| (task.to_string(), kind.to_string())));
        }
    }
    if !results.tasks.is_empty() {
        found.push(results);
    }
    Ok(())
}

/// A task's score: the mean over the entries expected, or over all; none where one is missing or undefined.
fn score_of(file: &Value, expected: Option<Vec<(String, String)>>) -> Option<f64> {
    let mut entries: Vec<(String, String, Option<f64>)> = Vec::new();
    for (split, list) in file["scores"].as_object().into_iter().flatten() {
        for entry in list.as_array().into_iter().flatten() {
            let subset = entry["hf_subset"].as_str().unwrap_or("default");
            entries.push((split.clone(), subset.into(), entry["main_score"].as_f64()));
        }
    }
    let scores: Option<Vec<f64>> = match expected {
        Some(expected) => expected
            .iter()
            .map(|(split, subset)| entries.iter().find(|(s, sub, _)| s == split && sub == subset)?.2)
            .collect(),
        None => entries.iter().map(|(_, _, score)| *score).collect(),
    };
    let scores = scores.filter(|scores| !scores.is_empty())?;
    Some(scores.iter().sum::<f64>() / scores.len() as f64)
}

/// The model by the names of its folders.
fn named_by(folder: &Path) -> ModelMeta {
    let name = |path: Option<&Path>| path.and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
    ModelMeta {
        name: name(folder.parent()).unwrap_or_else(|| "model".into()).replacen("__", "/", 1),
        revision: name(Some(folder)).unwrap_or_default(),
    }
}

/// mteb writes undefined numbers as bare `NaN`, which JSON does not have.
fn without_nan(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if !inside {
            let bare = ["NaN", "-Infinity", "Infinity"].iter().find(|word| rest.starts_with(**word));
            if let Some(word) = bare {
                out.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let model = ModelMeta { name: "org/model".into(), revision: "abc".into() };
        let place = model.folder(folder.path());
        assert!(place.ends_with("org__model/abc"));
        let mut scores = Map::new();
        scores.insert("main_score".into(), json!(0.123_456_789));
        scores.insert("list".into(), json!({"Level 0": [0.1, null]}));
        let result = TaskResult {
            task: "T".into(),
            revision: "r".into(),
            splits: vec![("validation".into(), scores.clone()), ("test".into(), scores)],
            subset: "ru".into(),
            languages: vec!["rus-Cyrl".into()],
            seconds: 1.0,
            more: Map::from_iter([("task_type".to_string(), json!("STS"))]),
        };
        let path = result.write(&place).unwrap();
        model.write(&place, &Map::new()).unwrap();
        let written: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(written["scores"]["test"][0]["main_score"], json!(0.123_457));
        assert_eq!(written["scores"]["test"][0]["hf_subset"], json!("ru"));
        let only_test = |_: &str| Some(vec![("test".to_string(), "ru".to_string())]);
        for place in [folder.path(), &place] {
            let read = read(place, &only_test).unwrap();
            assert_eq!((read.len(), &read[0].model, read[0].tasks["T"]), (1, &model, 0.123_457));
            assert_eq!(read[0].types["T"], "STS");
        }
        // A split that is missing leaves the task without a score.
        let more = |_: &str| Some(vec![("test".to_string(), "ru".to_string()), ("dev".to_string(), "ru".to_string())]);
        let error = read(folder.path(), &more).unwrap_err().to_string();
        assert!(error.contains("holds neither") && !error.contains("step"), "{error}");
        assert_eq!(read(folder.path(), &|_| None).unwrap()[0].tasks["T"], 0.123_457);
    }

    #[test]
    fn bare_nan_is_null() {
        assert_eq!(without_nan(r#"{"a": NaN, "NaN \" NaN": -Infinity}"#), r#"{"a": null, "NaN \" NaN": null}"#);
    }
}
