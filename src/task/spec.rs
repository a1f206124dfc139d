//! The task file: YAML → a checked task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::protocol::ProtocolError;
use crate::config::node::{self, Node, Origin, Value};
use crate::config::reader::{ConfigErrors, Faults, Reader};
use crate::data::suggest::did_you_mean;
use crate::data::table::DataError;

/// mteb's task types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskType {
    /// Logistic regression on a few examples a label.
    Classification,
    /// Nearest neighbours on a few examples a label.
    MultilabelClassification,
    /// Mini-batch k-means.
    Clustering,
    /// Rank correlation of similarities.
    Sts,
    /// Average precision of similarities.
    PairClassification,
    /// Ranking of a corpus.
    Retrieval,
    /// Ranking of given candidates.
    Reranking,
    /// Finding translations.
    BitextMining,
}

/// (type, mteb's name, main score, columns; a `?` marks those that may be absent).
const TYPES: [(TaskType, &str, &[&str], &[&str]); 8] = [
    (TaskType::Classification, "Classification", &["accuracy"], &["text", "label"]),
    (TaskType::MultilabelClassification, "MultilabelClassification", &["accuracy"], &["text", "labels"]),
    (TaskType::Clustering, "Clustering", &["v_measure"], &["sentences", "labels"]),
    (TaskType::Sts, "STS", &["cosine_spearman"], &["sentence1", "sentence2", "score"]),
    (TaskType::PairClassification, "PairClassification", &["max_ap"], &["sentence1", "sentence2", "labels"]),
    (TaskType::Retrieval, "Retrieval", &["ndcg_at_10"], &[]),
    (TaskType::Reranking, "Reranking", &["map", "map_at_1000", "ndcg_at_10"], &["query", "positive", "negative"]),
    (TaskType::BitextMining, "BitextMining", &["f1"], &["sentence1", "sentence2"]),
];

impl TaskType {
    fn row(self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        TYPES.iter().find(|t| t.0 == self).map_or(("", &[], &[]), |t| (t.1, t.2, t.3))
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|t| t.0)
    }

    /// mteb's name.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Whether this release scores it.
    pub fn available(self) -> bool {
        matches!(self, Self::Classification | Self::MultilabelClassification | Self::Clustering | Self::Sts)
    }
}

/// A split of a task by its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// For choices.
    Dev,
    /// For reports.
    Test,
}

impl Split {
    /// `dev` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// Where a task's rows come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Files by the split's own name.
    Files(BTreeMap<String, PathBuf>),
    /// A hub dataset.
    Hub {
        /// `org/name`.
        repo: String,
        /// Commit.
        revision: Option<String>,
        /// Its configuration, where it has several.
        config: Option<String>,
    },
}

/// Settings of the protocols, mteb's defaults for RuMTEB.
#[derive(Debug, Clone, PartialEq)]
pub struct Protocols {
    /// Training rows a label and experiment (8).
    pub samples_per_label: usize,
    /// Experiments (10).
    pub n_experiments: usize,
    /// Neighbours (5).
    pub k: usize,
    /// Most rows evaluated: multilabel 3000, clustering 2048.
    pub max_documents: usize,
    /// Most rows evaluated as a share of them, instead of `max_documents`.
    pub max_fraction: Option<f64>,
    /// Rows of a bootstrap sample (16384).
    pub bootstrap_size: usize,
    /// Rows of a k-means mini-batch (512).
    pub batch_size: usize,
    /// Range of the gold scores of STS.
    pub score_range: (f64, f64),
}

/// A checked task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: TaskType,
    /// Languages, such as `rus-Cyrl`.
    pub languages: Vec<String>,
    /// The main score.
    pub metric: String,
    /// Where its rows come from.
    pub source: Source,
    /// Names of the train, dev and test splits.
    pub splits: (Option<String>, Option<String>, Option<String>),
    /// Role of a column → its name.
    pub columns: BTreeMap<String, String>,
    /// Settings of its protocol.
    pub settings: Protocols,
    /// Prompt name (`query`, `document`, or `all`) → text; overrides the model's.
    pub prompts: BTreeMap<String, String>,
    /// The task file.
    pub path: PathBuf,
}

/// A task that cannot be read or scored.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The task file is wrong.
    #[error(transparent)]
    File(#[from] ConfigErrors),
    /// Its data is wrong.
    #[error("task {task}: {source}")]
    Data {
        /// The task.
        task: String,
        /// What is wrong.
        source: DataError,
    },
    /// Its protocol cannot be followed on this data.
    #[error("task {task} ({split}): {source}")]
    Protocol {
        /// The task.
        task: String,
        /// `dev` or `test`.
        split: &'static str,
        /// What is wrong.
        source: ProtocolError,
    },
    /// Anything else, in words.
    #[error("task {task}: {message}")]
    Other {
        /// The task.
        task: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The encoder failed.
    #[error("task {task}: {source}")]
    Encode {
        /// The task.
        task: String,
        /// What the encoder says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TaskSpec {
    /// Reads a task file.
    ///
    /// # Errors
    /// Every fault of the file, located.
    pub fn load(path: &Path) -> Result<Self, TaskError> {
        let faults = Faults::new(path.display().to_string());
        let root = match std::fs::read_to_string(path)
            .map_err(|e| (1, format!("cannot be read: {e}")))
            .and_then(|t| node::parse(&t))
        {
            Ok(root) => Some(root),
            Err((line, message)) => {
                faults.add(&Origin::Line(line), message);
                None
            }
        };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let spec = root.map(|root| read(&root, folder, path, &faults));
        let spec = faults.finish(spec)?;
        spec.ok_or_else(|| TaskError::Other {
            task: path.display().to_string(),
            message: "the task file is empty".into(),
        })
    }

    /// The name of the column with this role.
    pub fn column(&self, role: &str) -> &str {
        self.columns.get(role).map_or("", String::as_str)
    }
}

fn read(root: &Node, folder: &Path, path: &Path, faults: &Faults) -> TaskSpec {
    let r = Reader::new(Some(root), "", &root.origin, faults);
    let name = r.plain_name("name");
    if !r.has("type") {
        r.fault("type", "is missing");
    }
    let types: Vec<(&str, TaskType)> = TYPES.iter().map(|t| (t.1, t.0)).collect();
    let kind = r.choice("type", &types).unwrap_or(TaskType::Sts);
    let (_, metrics, roles) = kind.row();
    let metric = r.text("metric").unwrap_or_else(|| metrics.first().map_or(String::new(), ToString::to_string));
    if r.has("metric") && r.has("type") && !metrics.contains(&metric.as_str()) {
        let hint = did_you_mean(&metric, metrics.iter().copied());
        r.fault("metric", format!("a {} task can be ranked by {}{hint}", kind.name(), metrics.join(", ")));
    }
    let source = read_source(&r, folder);
    let s = r.section("splits");
    let splits = (s.text("train"), s.text("dev"), s.text("test"));
    // Retrieval files are named by what they hold (corpus, queries, qrels), not by split.
    if let (Source::Files(files), false) = (&source, kind == TaskType::Retrieval) {
        for (key, split) in [("train", &splits.0), ("dev", &splits.1), ("test", &splits.2)] {
            if let Some(split) = split
                && !files.contains_key(split)
            {
                s.fault(
                    key,
                    format!(
                        "data.files has no such split; it has {}",
                        files.keys().cloned().collect::<Vec<_>>().join(", ")
                    ),
                );
            }
        }
    }
    let rows_of = |split: &Option<String>| match (&source, split) {
        (Source::Files(files), Some(split)) => files.get(split).map(|file| file.display().to_string()),
        (Source::Hub { .. }, split) => split.clone(),
        _ => None,
    };
    if let (Some(dev), Some(test)) = (rows_of(&splits.1), rows_of(&splits.2))
        && dev == test
    {
        s.fault("dev", "has the rows of test: choices would be made on the rows that are reported; leave dev out");
    }
    if splits.1.is_none() && splits.2.is_none() && splits.0.is_none() {
        s.fault_here("names no split: give train, dev or test");
    }
    s.finish();
    let c = r.section("columns");
    let mut columns: BTreeMap<String, String> = BTreeMap::new();
    for role in roles {
        columns.insert((*role).into(), c.text(role).unwrap_or_else(|| (*role).into()));
    }
    c.finish();
    let settings = read_settings(&r, kind);
    let mut prompts = BTreeMap::new();
    if let Some(Value::Text(text)) = r.node("prompts").map(|n| &n.value) {
        prompts.insert("all".to_string(), text.clone());
    } else {
        let p = r.section("prompts");
        for key in ["query", "document", "all"] {
            if let Some(text) = p.text(key) {
                prompts.insert(key.to_string(), text);
            }
        }
        if prompts.contains_key("all") && prompts.len() > 1 {
            p.fault_here("give one prompt for all texts, or those of query and document");
        }
        p.finish();
    }
    let spec = TaskSpec {
        name,
        kind,
        languages: r.texts("languages").unwrap_or_default(),
        metric,
        source,
        splits,
        columns,
        settings,
        prompts,
        path: path.into(),
    };
    r.finish();
    spec
}

fn read_source(r: &Reader<'_>, folder: &Path) -> Source {
    let d = r.section("data");
    let hub = d.text("hub");
    let (revision, config) = (d.text("revision"), d.text("config"));
    let mut files = BTreeMap::new();
    match d.node("files").map(|n| &n.value) {
        None | Some(Value::Null) => {}
        Some(Value::Map(entries)) => read_files("", entries, folder, d.faults(), &mut files),
        Some(_) => d.fault("files", "must be a mapping of splits to files, such as {test: test.jsonl}"),
    }
    let given = d.has("files");
    let source = match hub {
        Some(repo) => {
            if given {
                d.fault("hub", "both hub and files are given: keep one");
            }
            Source::Hub { repo, revision, config }
        }
        None => {
            if !given {
                d.fault_here("give files: {split: file}, or hub: org/name");
            }
            for key in ["revision", "config"] {
                if d.has(key) {
                    d.fault(key, "is a setting of hub data, but files are given");
                }
            }
            Source::Files(files)
        }
    };
    d.finish();
    source
}

/// Files by split; those of retrieval may be grouped (`qrels: {test: …}` is `qrels.test`).
fn read_files(
    group: &str,
    entries: &[(String, Node)],
    folder: &Path,
    faults: &Faults,
    files: &mut BTreeMap<String, PathBuf>,
) {
    for (split, node) in entries {
        let name = format!("{group}{split}");
        match &node.value {
            Value::Text(file) if !file.trim().is_empty() => {
                files.insert(name, folder.join(file));
            }
            Value::Map(inner) if group.is_empty() => read_files(&format!("{split}."), inner, folder, faults, files),
            other => faults.add(&node.origin, format!("data.files.{name} = {}: must be a file", other.show())),
        }
    }
}

fn read_settings(r: &Reader<'_>, kind: TaskType) -> Protocols {
    let s = r.section("settings");
    let mut p = Protocols {
        samples_per_label: 8,
        n_experiments: 10,
        k: 5,
        max_documents: if kind == TaskType::Clustering { 2_048 } else { 3_000 },
        max_fraction: None,
        bootstrap_size: 16_384,
        batch_size: 512,
        score_range: (0.0, 5.0),
    };
    let whole = |key, default| s.whole(key, 1..=10_000_000, "from 1").unwrap_or(default);
    if matches!(kind, TaskType::Classification | TaskType::MultilabelClassification | TaskType::Clustering) {
        p.n_experiments = whole("n_experiments", p.n_experiments);
    }
    if matches!(kind, TaskType::Classification | TaskType::MultilabelClassification) {
        p.samples_per_label = whole("samples_per_label", p.samples_per_label);
    }
    if matches!(kind, TaskType::MultilabelClassification | TaskType::Clustering) {
        p.max_documents = whole("max_documents", p.max_documents);
    }
    match kind {
        TaskType::MultilabelClassification => p.k = whole("k", p.k),
        TaskType::Clustering => {
            p.bootstrap_size = whole("bootstrap_size", p.bootstrap_size);
            p.batch_size = whole("batch_size", p.batch_size);
            p.max_fraction = s.number("max_fraction", "above 0 to 1", |v| v > 0.0 && v <= 1.0);
        }
        TaskType::Sts => {
            let low = s.number("min_score", "a number", |_| true).unwrap_or(p.score_range.0);
            let high = s.number("max_score", "a number", |_| true).unwrap_or(p.score_range.1);
            if low >= high {
                s.fault_here(format!("min_score {low} is not below max_score {high}"));
            }
            p.score_range = (low, high);
        }
        TaskType::Retrieval | TaskType::Reranking => {
            s.flag("ignore_identical_ids");
        }
        _ => {}
    }
    s.finish();
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: &str =
        "name: A\ntype: STS\ndata: {files: {test: t.jsonl, dev: d.jsonl}}\nsplits: {test: test, dev: dev}\n";

    fn load(text: &str) -> Result<TaskSpec, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, text).unwrap();
        TaskSpec::load(&path).map_err(|e| e.to_string().replace(&path.display().to_string(), "a.yaml"))
    }

    #[test]
    fn what_is_left_out_is_the_protocols() {
        let spec = load(NEEDED).unwrap();
        assert_eq!(
            (spec.kind, spec.metric.as_str(), spec.column("score")),
            (TaskType::Sts, "cosine_spearman", "score")
        );
        assert_eq!((spec.splits.0.clone(), spec.settings.score_range, spec.prompts.len()), (None, (0.0, 5.0), 0));
        let text = "name: B\ntype: Clustering\nlanguages: rus-Cyrl\ndata: {hub: org/set, revision: abc, config: ru}\nsplits: {test: test}\n\
                    columns: {sentences: title}\nsettings: {max_documents: 100}\nprompts: 'cluster: '\n";
        let spec = load(text).unwrap();
        let (revision, config) = (Some("abc".to_string()), Some("ru".to_string()));
        assert_eq!(spec.source, Source::Hub { repo: "org/set".into(), revision, config });
        assert_eq!(
            (spec.column("sentences"), spec.column("labels"), spec.settings.max_documents),
            ("title", "labels", 100)
        );
        assert_eq!((spec.settings.batch_size, spec.prompts["all"].as_str()), (512, "cluster: "));
    }

    #[test]
    fn types_of_a_later_release_are_read() {
        for (kind, files) in [
            ("PairClassification", "{test: t.jsonl}"),
            ("Reranking", "{test: t.jsonl}"),
            ("BitextMining", "{test: t.jsonl}"),
            ("Retrieval", "{corpus: c.jsonl, queries: q.jsonl, qrels: {test: r.tsv, dev: e.tsv}}"),
        ] {
            let spec =
                load(&format!("name: A\ntype: {kind}\ndata: {{files: {files}}}\nsplits: {{test: test}}\n")).unwrap();
            assert!(!spec.kind.available() && spec.kind.name() == kind);
            let Source::Files(files) = spec.source else { panic!("{kind}") };
            assert_eq!(files.contains_key("qrels.dev"), kind == "Retrieval");
        }
    }

    #[test]
    fn each_fault_is_told_with_its_place() {
        let with = |added: &str| format!("{NEEDED}{added}");
        for (text, expected) in [
            (String::new(), "a.yaml:1: name: is missing"),
            (with("x: [1\n"), "a.yaml:6: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
            ("name: A\ndata: {files: {test: t}}\nsplits: {test: test}\n".into(), "a.yaml:1: type: is missing"),
            (NEEDED.replace("STS", "Clasification"), "did you mean `Classification`?"),
            (NEEDED.replace("name: A", "name: ../A"), "a.yaml:1: name = ../A: must be a plain name"),
            (
                with("metric: cosine_sperman\n"),
                "a.yaml:5: metric = cosine_sperman: a STS task can be ranked by cosine_spearman; did you mean `cosine_spearman`?",
            ),
            (with("columns: {sentense1: a}\n"), "a.yaml:5: unknown key `columns.sentense1`; did you mean `sentence1`?"),
            (
                with("columns: {label: a}\n"),
                "a.yaml:5: unknown key `columns.label`; known here: score, sentence1, sentence2",
            ),
            (
                with("settings: {n_experiments: 3}\n"),
                "a.yaml:5: unknown key `settings.n_experiments`; known here: max_score, min_score",
            ),
            (
                with("settings: {min_score: 5, max_score: 0}\n"),
                "a.yaml:5: settings: min_score 5 is not below max_score 0",
            ),
            (with("prompts: {qery: a}\n"), "a.yaml:5: unknown key `prompts.qery`; did you mean `query`?"),
            (with("prompts: {all: a, query: b}\n"), "a.yaml:5: prompts: give one prompt for all texts"),
            (
                NEEDED.replace("{test: test, dev: dev}", "{test: tset}"),
                "a.yaml:4: splits.test = tset: data.files has no such split; it has dev, test",
            ),
            (
                NEEDED.replace("{test: test, dev: dev}", "{}"),
                "a.yaml:4: splits: names no split: give train, dev or test",
            ),
            (NEEDED.replace("dev: dev", "dev: test"), "a.yaml:4: splits.dev = test: has the rows of test"),
            (NEEDED.replace("d.jsonl", "t.jsonl"), "a.yaml:4: splits.dev = dev: has the rows of test"),
            (NEEDED.replace("t.jsonl", "''"), "a.yaml:3: data.files.test = : must be a file"),
            (NEEDED.replace("t.jsonl", "5"), "a.yaml:3: data.files.test = 5: must be a file"),
            (
                NEEDED.replace("files: {test: t.jsonl, dev: d.jsonl}", "files: t.jsonl"),
                "a.yaml:3: data.files = t.jsonl: must be a mapping of splits to files",
            ),
            (NEEDED.replace("files:", "revision: a, files:"), "a.yaml:3: data.revision = a: is a setting of hub data"),
            (
                NEEDED.replace("files:", "hub: a/b, files:"),
                "a.yaml:3: data.hub = a/b: both hub and files are given: keep one",
            ),
            (
                NEEDED.replace("data: {files: {test: t.jsonl, dev: d.jsonl}}", "data: {}"),
                "a.yaml:3: data: give files: {split: file}, or hub: org/name",
            ),
        ] {
            let found = load(&text).unwrap_err();
            assert!(found.lines().any(|line| line.contains(expected)), "{text}\nexpected {expected}\nfound {found}");
        }
        // A file that is no YAML has that one fault, not a list of what is missing from it.
        assert_eq!(load("name: [\n").unwrap_err().lines().count(), 1);
    }
}
