//! Tiny stand-ins of what lies on the hub: the data sets of tasks, made of a few words, by what their task files say.

use std::collections::BTreeMap;

use embeval::task::spec::{Source, TaskSpec, TaskType};
use serde_json::{Value, json};

use super::Repo;

/// What all texts are made of.
pub const WORDS: [&str; 6] = ["кот спит", "собака лает", "дождь идёт", "the sun shines", "a train leaves", "snow"];

/// Rows as JSON lines.
pub fn lines(rows: impl IntoIterator<Item = Value>) -> String {
    rows.into_iter().map(|row| format!("{row}\n")).collect()
}

/// Stand-ins of a task's data in its repository: the splits, columns and configurations that its file names.
pub fn stand_in(task: &TaskSpec, repos: &mut BTreeMap<String, Repo>) {
    let Source::Hub { repo: id, revision, config, .. } = &task.source else { panic!("{}: not of the hub", task.name) };
    let mut repo = repos.remove(id).unwrap_or_else(|| Repo::dataset(id));
    repo.commit = revision.clone().unwrap();
    let text = |i: usize| format!("{} {}", WORDS[i % 6], WORDS[(i / 6) % 6]);
    if task.kind.ranks() {
        let prefix = config.as_ref().map_or(String::new(), |config| format!("{config}-"));
        let split = &task.splits.test[0];
        let documents = lines((0..12).map(|i| json!({"_id": format!("d{i}"), "title": WORDS[i % 6], "text": text(i)})));
        let queries = lines((0..6).map(|i| json!({"_id": format!("q{i}"), "text": text(i)})));
        let grades =
            lines((0..6).map(|i| json!({"query-id": format!("q{i}"), "corpus-id": format!("d{i}"), "score": 1})));
        let lists =
            lines((0..6).map(|i| json!({"query-id": format!("q{i}"), "corpus-ids": [format!("d{i}"), "d7", "d8"]})));
        // The default configuration of a repository without a prefix is that of its judgements.
        let judged = if prefix.is_empty() { "default".to_string() } else { format!("{prefix}qrels") };
        let mut readme = "---\nconfigs:\n".to_string();
        for (name, content) in [
            (format!("{prefix}corpus"), documents),
            (format!("{prefix}queries"), queries),
            (judged, grades),
            (format!("{prefix}top_ranked"), lists),
        ] {
            readme +=
                &format!("- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}/{split}-*\n");
            repo = repo.file(&format!("{name}/{split}-00000-of-00001.jsonl"), content);
        }
        repos.insert(id.clone(), repo.file("README.md", readme + "---\n"));
        return;
    }
    for split in task.splits.train.iter().chain(&task.splits.dev).chain(&task.splits.test) {
        let row = |i: usize| {
            let mut row = serde_json::Map::new();
            for (role, column) in &task.columns {
                let value = match (role.as_str(), task.kind) {
                    // One column may be the classes of a classification and the clusters of a clustering.
                    ("label", _) | ("labels", TaskType::Clustering) => json!(i % 3),
                    ("labels", TaskType::MultilabelClassification) => json!([i % 3, 3]),
                    ("labels", TaskType::PairClassification) => json!(i % 2),
                    ("score", _) => json!((i % 3).to_string()),
                    (role, _) => json!(text(i * (1 + usize::from(role.ends_with('2'))))),
                };
                row.insert(column.clone(), value);
            }
            for (column, value) in &task.filter {
                row.insert(column.clone(), json!(if i.is_multiple_of(5) { "en" } else { value.as_str() }));
            }
            Value::Object(row)
        };
        repo = repo.file(&format!("data/{split}-00000-of-00001.jsonl"), lines((0..60).map(row)));
    }
    repos.insert(id.clone(), repo);
}
