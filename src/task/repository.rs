//! The files of a hub dataset, found as the `datasets` library finds them: by the `configs` of its README, else by names.

use std::path::PathBuf;

use crate::config::node::{self, Node, Value};

/// A hub dataset at one revision.
pub trait Repository {
    /// Names of its files.
    fn names(&self) -> &[String];

    /// Its commit.
    fn commit(&self) -> &str;

    /// The text of its README.md; empty where it has none.
    fn readme(&self) -> &str;

    /// A file on this machine.
    ///
    /// # Errors
    /// In words.
    fn fetch(&self, name: &str) -> Result<PathBuf, String>;
}

/// Splits that go by several names.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

impl dyn Repository + '_ {
    /// The files that match a pattern, by name.
    pub fn matching(&self, pattern: &str) -> Result<Vec<String>, String> {
        let found = self.named(&[pattern.to_string()]);
        if found.is_empty() { Err(self.without(&format!("file like `{pattern}`"))) } else { Ok(found) }
    }

    /// The files of a split of a configuration (the default one where none is named).
    pub fn split(&self, config: Option<&str>, split: &str) -> Result<Vec<String>, String> {
        let front = self.front()?;
        let configs = configs(&front);
        if !configs.is_empty() {
            let found = match config {
                Some(name) => configs.iter().find(|c| c.name == name),
                None if configs.len() == 1 => configs.first(),
                None => configs.iter().find(|c| c.name == "default" || c.default),
            };
            let Some(found) = found else {
                let names: Vec<&str> = configs.iter().map(|c| c.name.as_str()).collect();
                let config = config.unwrap_or("default");
                let names = names.join(", ");
                return Err(format!(
                    "the dataset has no configuration `{config}`; it has {names}: name one by data.config"
                ));
            };
            let files = self.of_config(found, split);
            return if files.is_empty() {
                Err(self.without(&format!("files of the split `{split}`")))
            } else {
                Ok(files)
            };
        }
        let files = self.by_name(config, split);
        if files.is_empty() { Err(self.without(&format!("files of the split `{split}`"))) } else { Ok(files) }
    }

    /// The files of a part of a retrieval dataset, whose configurations bear the part's name (after `prefix-`).
    pub fn part(&self, prefix: Option<&str>, part: &str, split: &str) -> Result<Option<Vec<String>>, String> {
        let names: &[&str] = match part {
            "queries" => &["query", "queries"],
            "qrels" if prefix.is_none() => &["default", "qrels"],
            _ => &[part],
        };
        let full = |name: &str| prefix.map_or_else(|| name.to_string(), |prefix| format!("{prefix}-{name}"));
        let front = self.front()?;
        let configs = configs(&front);
        if let Some(found) = names.iter().find_map(|name| configs.iter().find(|c| c.name == full(name))) {
            let files = self.of_config(found, split);
            // Its only split, whatever its name.
            let files = if files.is_empty() && found.files.len() == 1 { self.named(&found.files[0].1) } else { files };
            return Ok((!files.is_empty()).then_some(files));
        }
        if !configs.is_empty() {
            return Ok(None);
        }
        let names: &[&str] = if part == "qrels" { &["qrels"] } else { names };
        Ok(names.iter().find_map(|name| {
            let name = full(name);
            let inside: Vec<String> = self
                .data_files()
                .filter(|file| {
                    file.split('/').any(|piece| piece == name || piece.split(['.', '-']).next() == Some(name.as_str()))
                })
                .cloned()
                .collect();
            let of_split: Vec<String> = inside.iter().filter(|file| says(file, split)).cloned().collect();
            let files = if of_split.is_empty() { inside } else { of_split };
            (!files.is_empty()).then_some(files)
        }))
    }

    /// Whether the README says that a column holds numbers of a class list.
    pub fn class_labels(&self, column: &str) -> bool {
        let Ok(front) = self.front() else { return false };
        let Some(info) = front.as_ref().and_then(|front| front.get("dataset_info")) else { return false };
        let infos: Vec<&Node> = if let Value::List(items) = &info.value { items.iter().collect() } else { vec![info] };
        infos.iter().filter_map(|info| info.get("features")).any(|features| match &features.value {
            Value::List(features) => features.iter().any(|feature| {
                matches!(feature.get("name").map(|n| &n.value), Some(Value::Text(name)) if name == column)
                    && feature.at("dtype.class_label").is_some()
            }),
            _ => false,
        })
    }

    /// What the README says of the dataset, in the YAML at its head.
    fn front(&self) -> Result<Option<Node>, String> {
        // The first line is `---` and nothing else; so is the line that ends it.
        let text = self.readme().trim_start_matches('\u{feff}');
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return Ok(None);
        }
        let head: Vec<&str> = lines.by_ref().take_while(|line| line.trim_end() != "---").collect();
        if head.len() + 1 >= text.lines().count() {
            return Ok(None);
        }
        node::parse(&head.join("\n")).map(Some).map_err(|(line, message)| {
            format!("the dataset's README.md: line {}: {message}; data.files can name the files", line + 1)
        })
    }

    fn of_config(&self, config: &DataConfig, split: &str) -> Vec<String> {
        let of_split = config.files.iter().find(|(name, _)| name.as_deref().is_none_or(|name| name == split));
        match of_split {
            Some((Some(_), patterns)) => self.named(patterns),
            // Files without a split: by the names among them, or all are training rows.
            Some((None, patterns)) => {
                let all = self.named(patterns);
                let found: Vec<String> = all.iter().filter(|file| says(file, split)).cloned().collect();
                if found.is_empty() && split == "train" { all } else { found }
            }
            None if config.files.is_empty() => {
                let folder = config.folder.as_deref().map(|folder| format!("{}/", folder.trim_matches('/')));
                let inside =
                    self.data_files().filter(|file| folder.as_ref().is_none_or(|folder| file.starts_with(folder)));
                inside.filter(|file| says(file, split)).cloned().collect()
            }
            None => Vec::new(),
        }
    }

    fn by_name(&self, config: Option<&str>, split: &str) -> Vec<String> {
        let inside = |file: &&String| config.is_none_or(|config| file.split(['/', '.']).any(|piece| piece == config));
        let files: Vec<String> = self.data_files().filter(inside).filter(|file| says(file, split)).cloned().collect();
        if files.is_empty() && split == "train" {
            // A dataset of one file without a split in its name is its training split.
            let all: Vec<String> = self.data_files().filter(inside).cloned().collect();
            let named = SPLITS.iter().any(|(name, _)| all.iter().any(|file| says(file, name)));
            return if named { Vec::new() } else { all };
        }
        files
    }

    fn data_files(&self) -> impl Iterator<Item = &String> {
        self.names().iter().filter(|name| {
            let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
            [".parquet", ".jsonl", ".json", ".csv", ".tsv"].iter().any(|end| name.ends_with(end))
                && !name.split('/').any(|piece| piece.starts_with('.') || piece.starts_with("__"))
                && !["dataset_infos.json", "config.json"].contains(&name)
        })
    }

    /// The files that match, in the order of the patterns, by name where one matches several.
    fn named(&self, patterns: &[String]) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for pattern in patterns {
            let mut matching: Vec<&String> = self.names().iter().filter(|name| glob(pattern, name)).collect();
            matching.sort();
            matching.dedup();
            found.extend(matching.into_iter().filter(|name| !found.contains(name)).cloned().collect::<Vec<_>>());
        }
        found
    }

    fn without(&self, what: &str) -> String {
        let mut names: Vec<&str> = self.data_files().map(String::as_str).take(12).collect();
        names.sort_unstable();
        let names = if names.is_empty() { "no data files".into() } else { names.join(", ") };
        format!("the dataset has no {what}; it has {names}; data.files can name them")
    }
}

/// Whether a file's path names a split between separators.
fn says(file: &str, split: &str) -> bool {
    let words = SPLITS.iter().find(|(_, words)| words.contains(&split)).map_or(&[][..], |(_, words)| words);
    let mut pieces = file.split(|c: char| !c.is_ascii_alphanumeric());
    pieces.any(|piece| piece == split || words.contains(&piece))
        || file.rsplit('/').any(|piece| piece.split('.').next() == Some(split))
}

struct DataConfig {
    name: String,
    default: bool,
    folder: Option<String>,
    /// Split (none: not told) → patterns.
    files: Vec<(Option<String>, Vec<String>)>,
}

fn texts(node: &Node) -> Vec<String> {
    match &node.value {
        Value::List(items) => items.iter().flat_map(texts).collect(),
        Value::Text(text) => vec![text.clone()],
        _ => Vec::new(),
    }
}

fn configs(front: &Option<Node>) -> Vec<DataConfig> {
    let Some(Value::List(items)) = front.as_ref().and_then(|f| f.get("configs")).map(|n| &n.value) else {
        return Vec::new();
    };
    let text = |node: &Node, key: &str| node.get(key).map(|n| n.value.show());
    items
        .iter()
        .map(|item| {
            let files = match item.get("data_files") {
                None => Vec::new(),
                Some(node) => match &node.value {
                    Value::List(entries) if entries.iter().any(|e| e.get("path").is_some()) => {
                        entries.iter().filter_map(|e| Some((text(e, "split"), texts(e.get("path")?)))).collect()
                    }
                    Value::Map(splits) => {
                        splits.iter().map(|(split, path)| (Some(split.clone()), texts(path))).collect()
                    }
                    _ => vec![(None, texts(node))],
                },
            };
            DataConfig {
                name: text(item, "config_name").unwrap_or_else(|| "default".into()),
                default: matches!(item.get("default").map(|n| &n.value), Some(Value::Bool(true))),
                folder: text(item, "data_dir"),
                files,
            }
        })
        .collect()
}

/// `*` stands for anything but a slash, `**` for anything, `**/` for no folder too.
fn glob(pattern: &str, text: &str) -> bool {
    #[derive(PartialEq)]
    enum Piece {
        One(u8),
        Any { deep: bool },
    }
    let mut pieces = Vec::new();
    let mut rest = pattern.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'*' {
            pieces.push(Piece::One(*first));
            continue;
        }
        let deep = rest.first() == Some(&b'*');
        while let [b'*', after @ ..] = rest {
            rest = after;
        }
        if deep && rest.first() == Some(&b'/') {
            rest = &rest[1..];
        }
        pieces.push(Piece::Any { deep });
    }
    // Which beginnings of the pattern the text so far can be: a pattern of many stars costs their number, not its powers.
    let mut at = vec![false; pieces.len() + 1];
    at[0] = true;
    let skip = |at: &mut Vec<bool>| {
        for (i, piece) in pieces.iter().enumerate() {
            at[i + 1] |= at[i] && matches!(piece, Piece::Any { .. });
        }
    };
    skip(&mut at);
    for byte in text.bytes() {
        let mut next = vec![false; pieces.len() + 1];
        for (i, piece) in pieces.iter().enumerate().filter(|(i, _)| at[*i]) {
            match piece {
                Piece::One(one) => next[i + 1] |= *one == byte,
                Piece::Any { deep } => next[i] |= *deep || byte != b'/',
            }
        }
        skip(&mut next);
        at = next;
    }
    at[pieces.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(Vec<String>, &'static str);

    impl Repository for Fake {
        fn names(&self) -> &[String] {
            &self.0
        }

        fn readme(&self) -> &str {
            self.1
        }

        fn commit(&self) -> &str {
            "0"
        }

        fn fetch(&self, name: &str) -> Result<PathBuf, String> {
            Ok(name.into())
        }
    }

    fn fake(names: &[&str], readme: &'static str) -> Box<dyn Repository> {
        Box::new(Fake(names.iter().map(ToString::to_string).collect(), readme))
    }

    #[test]
    fn globs_stop_at_folders() {
        assert!(glob("data/test-*", "data/test-00000-of-00001.parquet") && glob("**/*.csv", "a/b/c.csv"));
        assert!(!glob(&"*a".repeat(500), &"a".repeat(400)) && glob(&"*a".repeat(400), &"a".repeat(400)));
        assert!(
            glob("*.csv", "a.csv") && !glob("*.csv", "b/a.csv") && glob("**", "b/a.csv") && glob("**/a.csv", "a.csv")
        );
    }

    #[test]
    fn splits_are_found_by_name() {
        let plain = fake(&["README.md", "train.jsonl", "test.jsonl", "dataset_infos.json"], "");
        assert_eq!(plain.split(None, "test").unwrap(), ["test.jsonl"]);
        assert!(plain.split(None, "validation").unwrap_err().contains("it has test.jsonl, train.jsonl"));
        let sharded =
            fake(&["data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet", "data/dev-0.parquet"], "");
        assert_eq!(sharded.split(None, "test").unwrap().len(), 2);
        assert_eq!(sharded.split(None, "validation").unwrap(), ["data/dev-0.parquet"]);
        let languages = fake(&["ru/test.csv", "en/test.csv"], "");
        assert_eq!(languages.split(Some("ru"), "test").unwrap(), ["ru/test.csv"]);
        assert_eq!(fake(&["all.csv"], "").split(None, "train").unwrap(), ["all.csv"]);
    }

    const README: &str = "---\nconfigs:\n- config_name: corpus\n  data_files:\n  - split: corpus\n    path: corpus/corpus-*\n- config_name: default\n  data_files:\n  - split: test\n    path: data/test-*\n- config_name: queries\n  data_files: [{split: queries, path: queries/queries-*}]\ndataset_info:\n- config_name: default\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names: {'0': a}\n---\n# Text\n";

    #[test]
    fn the_readme_says_which_files_are_a_configuration() {
        let names =
            ["corpus/corpus-0.parquet", "queries/queries-0.parquet", "data/test-0.parquet", "data/test-1.parquet"];
        let repository = fake(&names, README);
        assert_eq!(repository.split(None, "test").unwrap(), names[2..]);
        let part = |name: &str| repository.part(None, name, "test").unwrap();
        assert_eq!(part("corpus").unwrap(), names[..1]);
        assert_eq!(part("queries").unwrap(), names[1..2]);
        assert_eq!(part("qrels").unwrap(), names[2..]);
        assert_eq!(part("top_ranked"), None);
        let ambiguous =
            fake(&["ru.csv"], "---\nconfigs: [{config_name: ru, data_files: ru.csv}, {config_name: en}]\n---\n");
        assert!(ambiguous.split(None, "train").unwrap_err().contains("it has ru, en: name one by data.config"));
        assert!(fake(&["a.csv"], "---\na: [\n---\n").split(None, "train").unwrap_err().contains("README.md"));
        assert!(repository.split(Some("ru"), "test").unwrap_err().contains("no configuration `ru`"));
        assert!(repository.class_labels("label") && !repository.class_labels("text"));
    }

    #[test]
    fn beir_folders_need_no_readme() {
        let repository = fake(&["corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "qrels/dev.tsv"], "");
        assert_eq!(repository.part(None, "qrels", "dev").unwrap().unwrap(), ["qrels/dev.tsv"]);
        assert_eq!(repository.part(None, "corpus", "dev").unwrap().unwrap(), ["corpus.jsonl"]);
        let languages = fake(&["ru-corpus/dev-0.parquet", "ru-queries/dev-0.parquet", "en-corpus/dev-0.parquet"], "");
        let part = languages.part(Some("ru"), "corpus", "dev").unwrap();
        assert_eq!(part.unwrap(), ["ru-corpus/dev-0.parquet"]);
    }
}
