//! The task file: YAML → a checked task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::spec::{Estimator, Protocols, Source, Splits, TaskError, TaskSpec, TaskType};
use crate::config::node::{self, Node, Origin, Value};
use crate::config::reader::{Faults, Reader};
use crate::data::rows;
use crate::data::suggest::did_you_mean;

impl TaskSpec {
    /// Reads a task file.
    ///
    /// # Errors
    /// Every fault of the file, located.
    pub fn load(path: &Path) -> Result<Self, TaskError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(e) => {
                let faults = Faults::new(path.display().to_string());
                faults.add(&Origin::Line(1), format!("cannot be read: {e}"));
                Err(faults.finish(()).map_or_else(TaskError::from, |()| empty(path)))
            }
        }
    }

    /// As [`Self::load`], of a file with this content.
    ///
    /// # Errors
    /// Every fault of the file, located.
    pub fn parse(path: &Path, text: &str) -> Result<Self, TaskError> {
        let faults = Faults::new(path.display().to_string());
        let root = match node::parse(text) {
            Ok(root) => Some(root),
            Err((line, message)) => {
                faults.add(&Origin::Line(line), message);
                None
            }
        };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let spec = root.map(|root| read(&root, folder, path, &faults));
        let mut spec = faults.finish(spec)?.ok_or_else(|| empty(path))?;
        spec.fingerprint = rows::fingerprint_of(text.as_bytes());
        Ok(spec)
    }
}

fn empty(path: &Path) -> TaskError {
    TaskError::Other { task: path.display().to_string(), message: "the task file is empty".into() }
}

fn read(root: &Node, folder: &Path, path: &Path, faults: &Faults) -> TaskSpec {
    let r = Reader::new(Some(root), "", &root.origin, faults);
    let name = r.plain_name("name");
    if name == "model_meta" {
        r.fault("name", "is the name of another file beside the results: take another");
    }
    if !r.has("type") {
        r.fault("type", "is missing");
    }
    let types: Vec<(&str, TaskType)> = TaskType::all().map(|kind| (kind.name(), kind)).collect();
    let kind = r.choice("type", &types).unwrap_or(TaskType::Sts);
    let metrics = kind.metrics();
    let metric = match r.text("metric") {
        Some(name) if name == "map" && kind.ranks() => "map_at_1000".into(),
        Some(name) => name,
        None => metrics.first().cloned().unwrap_or_default(),
    };
    if r.has("metric") && r.has("type") && !metrics.contains(&metric) {
        let hint = did_you_mean(&metric, metrics.iter().map(String::as_str));
        r.fault("metric", format!("a {} task can be ranked by {}{hint}", kind.name(), metrics.join(", ")));
    }
    let d = r.section("data");
    let source = read_source(&d, folder);
    let filter = read_filter(&d);
    let subsample = d.whole("subsample", 1..=10_000_000, "from 1");
    if is_corpus(&source) || (kind == TaskType::Retrieval && matches!(source, Source::Hub { .. })) {
        for (key, given) in [("filter", !filter.is_empty()), ("subsample", subsample.is_some())] {
            if given {
                d.fault(key, "rows of a corpus with queries are not filtered or sampled: leave it out");
            }
        }
    }
    d.finish();
    let s = r.section("splits");
    let splits = Splits { train: s.text("train"), dev: s.text("dev"), test: s.texts("test").unwrap_or_default() };
    // Retrieval files are named by what they hold (corpus, queries, qrels), not by split.
    if let (Source::Files(files), false) = (&source, kind.ranks() && is_corpus(&source)) {
        let known = || files.keys().cloned().collect::<Vec<_>>().join(", ");
        let tests = splits.test.iter().map(|split| ("test", split));
        let others =
            [("train", &splits.train), ("dev", &splits.dev)].into_iter().filter_map(|(k, s)| Some((k, s.as_ref()?)));
        for (key, split) in others.chain(tests) {
            if !files.contains_key(split) {
                s.fault(key, format!("data.files has no such split; it has {}", known()));
            }
        }
    }
    let rows_of = |split: &String| match &source {
        Source::Files(files) if is_corpus(&source) => {
            let file = files.get(&format!("qrels.{split}")).or_else(|| files.get("qrels"));
            file.map(|file| file.display().to_string())
        }
        Source::Files(files) => files.get(split).map(|file| file.display().to_string()),
        Source::Hub { .. } => Some(split.clone()),
    };
    if let Some(dev) = splits.dev.as_ref().and_then(rows_of)
        && splits.test.iter().filter_map(rows_of).any(|test| test == dev)
    {
        s.fault("dev", "has the rows of test: choices would be made on the rows that are reported; leave dev out");
    }
    for (at, split) in splits.test.iter().enumerate() {
        if splits.test[..at].contains(split) {
            s.fault("test", format!("names `{split}` twice"));
        }
    }
    let classifies = matches!(kind, TaskType::Classification | TaskType::MultilabelClassification);
    if classifies && splits.train.as_ref().is_some_and(|train| splits.test.contains(train)) {
        s.fault("train", "has the rows of test: a classifier would be scored on what it learnt from");
    }
    let names = splits.train.iter().map(|n| ("train", n)).chain(splits.dev.iter().map(|n| ("dev", n)));
    for (key, name) in names.chain(splits.test.iter().map(|n| ("test", n))) {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            s.fault(key, "must be a plain name: it names files");
        }
    }
    if splits == Splits::default() {
        s.fault_here("names no split: give train, dev or test");
    }
    s.finish();
    let c = r.section("columns");
    let mut columns: BTreeMap<String, String> = BTreeMap::new();
    for role in kind.roles() {
        columns.insert((*role).into(), c.text(role).unwrap_or_else(|| (*role).into()));
    }
    c.finish();
    let settings = read_settings(&r, kind);
    let (prompts, instruction) = (read_sides(&r, "prompts"), read_sides(&r, "instruction"));
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
        instruction,
        filter,
        subsample,
        subset: r.text("subset").unwrap_or_else(|| "default".into()),
        labels: r.texts("labels").unwrap_or_default(),
        path: path.into(),
        fingerprint: String::new(),
    };
    r.finish();
    spec
}

/// A prompt for all texts, or one of each side.
fn read_sides(r: &Reader<'_>, key: &'static str) -> BTreeMap<String, String> {
    let mut sides = BTreeMap::new();
    if let Some(Value::Text(text)) = r.node(key).map(|n| &n.value) {
        sides.insert("all".to_string(), text.clone());
        return sides;
    }
    let p = r.section(key);
    for side in ["query", "document", "all"] {
        if let Some(text) = p.text(side) {
            sides.insert(side.to_string(), text);
        }
    }
    if sides.contains_key("all") && sides.len() > 1 {
        p.fault_here("give one prompt for all texts, or those of query and document");
    }
    p.finish();
    sides
}

/// Whether the files are a corpus with queries and judgements.
fn is_corpus(source: &Source) -> bool {
    matches!(source, Source::Files(files) if files.contains_key("corpus"))
}

fn read_filter(d: &Reader<'_>) -> Vec<(String, String)> {
    match d.node("filter").map(|n| &n.value) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Map(entries)) => {
            entries.iter().map(|(column, value)| (column.clone(), value.value.show())).collect()
        }
        Some(_) => {
            d.fault("filter", "must be a mapping of columns to the value that is kept, such as {lang: ru}");
            Vec::new()
        }
    }
}

fn read_source(d: &Reader<'_>, folder: &Path) -> Source {
    let hub = d.text("hub");
    let (revision, config) = (d.text("revision"), d.text("config"));
    let mut files = BTreeMap::new();
    let beside = if hub.is_some() { Path::new("") } else { folder };
    match d.node("files").map(|n| &n.value) {
        None | Some(Value::Null) => {}
        Some(Value::Map(entries)) => read_files("", entries, beside, d.faults(), &mut files),
        Some(_) => d.fault("files", "must be a mapping of splits to files, such as {test: test.jsonl}"),
    }
    match hub {
        Some(repo) => {
            let files = files.into_iter().map(|(split, path)| (split, path.to_string_lossy().into_owned())).collect();
            Source::Hub { repo, revision, config, files }
        }
        None => {
            if !d.has("files") {
                d.fault_here("give files: {split: file}, or hub: org/name");
            }
            for key in ["revision", "config"] {
                if d.has(key) {
                    d.fault(key, "is a setting of hub data, but files are given");
                }
            }
            Source::Files(files)
        }
    }
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
        estimator: Estimator::Own,
        ignore_identical_ids: false,
        allow_missing_documents: false,
    };
    let whole = |key, default| s.whole(key, 1..=10_000_000, "from 1").unwrap_or(default);
    if matches!(kind, TaskType::Classification | TaskType::MultilabelClassification | TaskType::Clustering) {
        p.n_experiments = whole("n_experiments", p.n_experiments);
        p.estimator =
            s.choice("estimator", &[("own", Estimator::Own), ("linfa", Estimator::Linfa)]).unwrap_or_default();
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
            p.ignore_identical_ids = s.flag("ignore_identical_ids").unwrap_or_default();
            p.allow_missing_documents = s.flag("allow_missing_documents").unwrap_or_default();
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
        assert_eq!((spec.splits.train.clone(), spec.settings.score_range, spec.prompts.len()), (None, (0.0, 5.0), 0));
        let text = "name: B\ntype: Clustering\nlanguages: rus-Cyrl\ndata: {hub: org/set, revision: abc, config: ru}\nsplits: {test: test}\n\
                    columns: {sentences: title}\nsettings: {max_documents: 100}\nprompts: 'cluster: '\n";
        let spec = load(text).unwrap();
        let (revision, config) = (Some("abc".to_string()), Some("ru".to_string()));
        assert_eq!(spec.source, Source::Hub { repo: "org/set".into(), revision, config, files: BTreeMap::new() });
        assert_eq!(
            (spec.column("sentences"), spec.column("labels"), spec.settings.max_documents),
            ("title", "labels", 100)
        );
        assert_eq!((spec.settings.batch_size, spec.prompts["all"].as_str()), (512, "cluster: "));
    }

    #[test]
    fn every_type_is_read() {
        for (kind, files) in [
            ("PairClassification", "{test: t.jsonl}"),
            ("Reranking", "{test: t.jsonl}"),
            ("BitextMining", "{test: t.jsonl}"),
            ("Retrieval", "{corpus: c.jsonl, queries: q.jsonl, qrels: {test: r.tsv, dev: e.tsv}}"),
        ] {
            let spec =
                load(&format!("name: A\ntype: {kind}\ndata: {{files: {files}}}\nsplits: {{test: test}}\n")).unwrap();
            assert_eq!((spec.kind.name(), spec.splits.test.as_slice()), (kind, ["test".to_string()].as_slice()));
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
                "a.yaml:5: metric = cosine_sperman: a STS task can be ranked by cosine_spearman, spearman, manhattan_spearman, euclidean_spearman; did you mean `cosine_spearman`?",
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
            (with("subsample: 5\n"), "a.yaml:5: unknown key `subsample`"),
            (
                NEEDED.replace("files:", "filter: ru, files:"),
                "a.yaml:3: data.filter = ru: must be a mapping of columns",
            ),
            (
                NEEDED.replace("test: test", "test: [test, more]"),
                "a.yaml:4: splits.test = [test, more]: data.files has no such split; it has dev, test",
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
