//! Training sets from files of every kind, in memory and streamed; rows of hostile files; batches against those of a run today.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embeval::data::training::{Form, OpenOptions, Subset, TrainingRow, TrainingSet, text_hash};
use embeval::train::sampler::{Mixing, Sampler, SamplerSettings, SetSize, Stop};
use polars::prelude::{DataFrame, IntoColumn, NamedFrom, ParquetWriter, Series};
use serde_json::{Value, json};

/// A folder with a file, and the options that open it in memory or streamed.
struct Case {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Case {
    fn new(name: &str, content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Self { folder, path }
    }

    fn options(&self, in_memory_bytes: usize) -> OpenOptions {
        OpenOptions { in_memory_bytes, spill: self.folder.path().join("spill"), ..Default::default() }
    }

    fn open(&self) -> TrainingSet {
        TrainingSet::open(&self.path, &self.options(1 << 20)).unwrap_or_else(|e| panic!("{e}"))
    }

    fn error(&self) -> String {
        TrainingSet::open(&self.path, &OpenOptions::default()).map(|_| ()).unwrap_err().to_string()
    }
}

fn rows(set: &TrainingSet) -> Vec<TrainingRow> {
    (0..set.len()).map(|row| set.row(row).unwrap()).collect()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(content).unwrap();
    gz.finish().unwrap()
}

/// A table with a separator: every field in quotes, lists as JSON.
fn separated(rows: &[Value], columns: &[&str], separator: &str) -> String {
    let field = |value: &Value| {
        let text = match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!("\"{}\"", text.replace('"', "\"\""))
    };
    let line = |row: &Value| columns.iter().map(|c| field(&row[*c])).collect::<Vec<_>>().join(separator);
    std::iter::once(columns.join(separator)).chain(rows.iter().map(line)).map(|line| line + "\n").collect()
}

fn series(rows: &[Value], column: &str) -> Series {
    let name = || column.into();
    let cells: Vec<&Value> = rows.iter().map(|row| &row[column]).collect();
    let first = cells.iter().find(|cell| !cell.is_null()).unwrap();
    if first.is_string() {
        return Series::new(name(), cells.iter().map(|cell| cell.as_str()).collect::<Vec<_>>());
    }
    if first.is_number() {
        return Series::new(name(), cells.iter().map(|cell| cell.as_f64()).collect::<Vec<_>>());
    }
    let numbers = cells.iter().any(|cell| cell[0].is_number());
    let list = |cell: &&Value| {
        let items = cell.as_array().unwrap();
        if numbers {
            Series::new("".into(), items.iter().map(|item| item.as_f64().unwrap()).collect::<Vec<_>>())
        } else {
            Series::new("".into(), items.iter().map(|item| item.as_str().unwrap()).collect::<Vec<_>>())
        }
    };
    Series::new(name(), cells.iter().map(list).collect::<Vec<_>>())
}

fn parquet(rows: &[Value], columns: &[&str], row_group: usize) -> Vec<u8> {
    let columns = columns.iter().map(|column| series(rows, column).into_column()).collect();
    let mut frame = DataFrame::new(rows.len(), columns).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).with_row_group_size(Some(row_group)).finish(&mut frame).unwrap();
    bytes
}

/// The same rows as a file of every kind.
fn every_kind(rows: &[Value], columns: &[&str]) -> Vec<(String, Vec<u8>)> {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut out = vec![
        ("a.jsonl".to_string(), lines.clone().into_bytes()),
        ("a.ndjson".into(), format!("\u{feff}{}", lines.replace('\n', "\r\n\r\n")).into_bytes()),
        ("lines.json".into(), lines.trim().to_string().into_bytes()),
        ("array.json".into(), serde_json::to_vec(rows).unwrap()),
        ("pretty.json".into(), format!("\u{feff}\n {} \n", serde_json::to_string_pretty(rows).unwrap()).into_bytes()),
        ("a.csv".into(), separated(rows, columns, ",").into_bytes()),
        ("a.tsv".into(), separated(rows, columns, "\t").into_bytes()),
    ];
    for (name, content) in out.clone() {
        out.push((format!("{name}.gz"), gzip(&content)));
        out.push((format!("{name}.zst"), zstd::encode_all(content.as_slice(), 1).unwrap()));
    }
    out.push(("a.parquet".into(), parquet(rows, columns, 2)));
    out
}

/// Opens the rows as every kind of file, in memory and streamed, and checks each against `expected`.
fn check_every_kind(rows_as_json: &[Value], columns: &[&str], form: Form, expected: &[TrainingRow]) {
    for (name, content) in every_kind(rows_as_json, columns) {
        let case = Case::new(&name, &content);
        let set = case.open();
        assert!(set.in_memory());
        assert_eq!((rows(&set).as_slice(), set.form()), (expected, form), "{name}");
        let streamed = TrainingSet::open(&case.path, &case.options(0)).unwrap();
        assert!(!streamed.in_memory());
        assert_eq!((rows(&streamed).as_slice(), streamed.form()), (expected, form), "{name} streamed");
        for (i, row) in expected.iter().enumerate() {
            let hashes: Vec<u64> = row.texts().map(text_hash).collect();
            assert_eq!((set.hashes(i), streamed.hashes(i)), (hashes.as_slice(), hashes.as_slice()), "{name}");
        }
        assert_eq!(set.stats(), streamed.stats());
        // All that is kept is out of sight, or in the file itself.
        let spill = std::fs::read_dir(case.folder.path().join("spill"));
        let direct = ["a.jsonl", "a.ndjson", "lines.json"].contains(&name.as_str());
        assert_eq!(spill.map(|files| files.count()).ok(), (!direct).then_some(0), "{name}");
    }
}

/// Texts that a careless reader or writer would change.
const TEXTS: [&str; 8] = [
    "a",
    " лапа\u{a0}",
    "x, \"y\"\tz",
    "one\ntwo\r\nthree\n\nfour\\n",
    "[1]",
    "2024",
    "null",
    "\u{1f600}\u{2028}{\"a\": 1}",
];

fn texts(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|i| format!("{}{}", TEXTS[i % TEXTS.len()], if i < 8 { "" } else { " again" })).collect()
}

#[test]
fn pairs_are_the_same_from_every_kind_of_file() {
    let expected: Vec<TrainingRow> = (0..7)
        .map(|i| TrainingRow {
            query: TEXTS[i].into(),
            positives: texts(i, 1 + i % 3),
            negatives: texts(i + 3, i % 4),
            positive_scores: (0..1 + i % 3).map(|k| 0.1 + k as f32).collect(),
            negative_scores: (0..i % 4).map(|k| -0.7 * k as f32).collect(),
            prompt: (i % 2 == 0).then(|| "find: ".into()),
            kind: Some("normal".into()),
            ..Default::default()
        })
        .collect();
    let as_json = |row: &TrainingRow| {
        let scores = |scores: &[f32]| scores.iter().map(|s| f64::from(*s)).collect::<Vec<f64>>();
        json!({"query": row.query, "pos": row.positives, "neg": row.negatives, "prompt": row.prompt, "type": row.kind,
               "pos_scores": scores(&row.positive_scores), "neg_scores": scores(&row.negative_scores), "id": row.query})
    };
    let columns = ["id", "query", "pos", "neg", "pos_scores", "neg_scores", "prompt", "type"];
    let as_json: Vec<Value> = expected.iter().map(as_json).collect();
    check_every_kind(&as_json, &columns, Form::Pairs { negatives: (0, 3), teacher: true }, &expected);
}

#[test]
fn columns_of_sentence_transformers_are_the_same_from_every_kind_of_file() {
    let pairs: Vec<TrainingRow> = (0..6)
        .map(|i| TrainingRow {
            query: TEXTS[i].into(),
            positives: texts(i + 1, 1),
            negatives: texts(i + 2, 1 + i % 3),
            ..Default::default()
        })
        .collect();
    let as_json = |row: &TrainingRow| {
        let n = |i: usize| row.negatives.get(i);
        json!({"anchor": row.query, "positive": row.positives[0], "negative_10": n(2), "negative": n(0), "negative_2": n(1)})
    };
    let as_json: Vec<Value> = pairs.iter().map(as_json).collect();
    let columns = ["anchor", "positive", "negative_10", "negative", "negative_2"];
    check_every_kind(&as_json, &columns, Form::Pairs { negatives: (1, 3), teacher: false }, &pairs);

    let scored = |i: usize| TrainingRow {
        query: TEXTS[i].into(),
        positives: texts(i + 1, 1),
        score: Some(i as f32 / 8.0 - 0.25),
        ..Default::default()
    };
    let scored: Vec<TrainingRow> = (0..6).map(scored).collect();
    for name in ["score", "label"] {
        let as_json = |r: &TrainingRow| json!({"sentence1": r.query, "sentence2": r.positives[0], name: r.score});
        let as_json: Vec<Value> = scored.iter().map(as_json).collect();
        check_every_kind(&as_json, &["sentence1", "sentence2", name], Form::Scored, &scored);
    }

    let labelled = |(i, label): (usize, &str)| TrainingRow {
        query: TEXTS[i].into(),
        label: Some(label.into()),
        ..Default::default()
    };
    let labelled: Vec<TrainingRow> = ["sport", "0", "01", "да"].into_iter().enumerate().map(labelled).collect();
    for name in ["text", "sentence"] {
        let as_json: Vec<Value> = labelled.iter().map(|r| json!({name: r.query, "label": r.label})).collect();
        check_every_kind(&as_json, &[name, "label"], Form::Labelled, &labelled);
    }
    let numbers: Vec<Value> = (0..3).map(|i| json!({"text": TEXTS[i], "label": i})).collect();
    let expected: Vec<TrainingRow> = (0..3)
        .map(|i| TrainingRow { query: TEXTS[i].into(), label: Some(i.to_string()), ..Default::default() })
        .collect();
    check_every_kind(&numbers, &["text", "label"], Form::Labelled, &expected);
}

#[test]
fn texts_are_the_same_from_every_kind_of_file() {
    let expected: Vec<TrainingRow> =
        TEXTS.iter().map(|text| TrainingRow { query: (*text).into(), ..Default::default() }).collect();
    for name in ["text", "sentence"] {
        let as_json: Vec<Value> = TEXTS.iter().map(|text| json!({name: text})).collect();
        check_every_kind(&as_json, &[name], Form::Texts, &expected);
    }
    let content = "\u{feff}one\r\n\r\n  two \r\n \t\nthree, \"3\"";
    for (name, content) in [("a.txt", content.as_bytes().to_vec()), ("a.txt.gz", gzip(content.as_bytes()))] {
        let case = Case::new(name, &content);
        for in_memory_bytes in [0, 1 << 20] {
            let set = TrainingSet::open(&case.path, &case.options(in_memory_bytes)).unwrap();
            let texts: Vec<String> = rows(&set).into_iter().map(|row| row.query).collect();
            assert_eq!((texts, set.form()), (vec!["one".into(), "  two ".into(), "three, \"3\"".into()], Form::Texts));
        }
    }
}

/// Files written by pandas, pyarrow and datasets (`tests/peers/training_files.py`).
#[test]
fn files_of_other_programs_give_their_rows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/training");
    let expected: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("expected.json")).unwrap()).unwrap();
    let files = expected["files"].as_object().unwrap();
    assert!(files.len() >= 8);
    for (name, kind) in files {
        let wanted = expected[kind.as_str().unwrap()].as_array().unwrap();
        for in_memory_bytes in [0, 1 << 20] {
            let spill = tempfile::tempdir().unwrap();
            let options = OpenOptions { in_memory_bytes, spill: spill.path().into(), ..Default::default() };
            let set = TrainingSet::open(&folder.join(name), &options).unwrap();
            assert_eq!(set.len(), wanted.len(), "{name}");
            for (row, wanted) in rows(&set).into_iter().zip(wanted) {
                let list =
                    |key: &str| -> Vec<String> { serde_json::from_value(wanted[key].clone()).unwrap_or_default() };
                assert_eq!(row.query, wanted["query"].as_str().unwrap(), "{name}");
                assert_eq!((row.positives, row.negatives), (list("pos"), list("neg")), "{name}");
                assert_eq!(row.score, wanted["score"].as_f64().map(|score| score as f32), "{name}");
                assert_eq!(row.label.as_deref(), wanted["label"].as_str(), "{name}");
            }
        }
    }
}

/// What `datasets.interleave_datasets` and sentence-transformers' RoundRobinBatchSampler do (`tests/peers/training_files.py`).
#[test]
fn turns_are_those_of_other_programs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/training/expected.json");
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for case in expected["turns"].as_array().unwrap() {
        let sizes: Vec<usize> = serde_json::from_value(case["sizes"].clone()).unwrap();
        let turns: Vec<usize> = serde_json::from_value(case["turns"].clone()).unwrap();
        let by_batch = case["by"] == "batch";
        let stop = if case["stop"] == "all_exhausted" { Stop::AllExhausted } else { Stop::FirstExhausted };
        let settings = SamplerSettings {
            mixing: Mixing::RoundRobin(stop),
            one_set_per_batch: by_batch,
            skip_lone: false,
            ..SamplerSettings::new(4)
        };
        let sets: Vec<SetSize> = sizes.iter().map(|rows| SetSize { rows: *rows, weight: 1.0 }).collect();
        let batches = Sampler::new(&sets, settings, 5).unwrap().epoch(0, &|_, _| &[]).batches;
        let found: Vec<usize> = if by_batch {
            batches.iter().map(|batch| batch[0].0).collect()
        } else {
            batches.concat().into_iter().map(|(set, _)| set).collect()
        };
        assert_eq!(found, turns, "{case}");
    }
}

#[test]
fn columns_can_be_named() {
    let content = "question\tanswer\twrong\ttype\nq\tp\tn\tx\nr\ts\t\ty\n";
    let case = Case::new("a.tsv", content.as_bytes());
    assert!(case.error().contains("columns: type, question, answer, wrong: expected `query`"), "{}", case.error());
    let open = |columns: &[(&str, &str)]| {
        let columns = columns.iter().map(|(ours, theirs)| (ours.to_string(), theirs.to_string())).collect();
        TrainingSet::open(&case.path, &OpenOptions { columns, ..case.options(0) })
    };
    let set = open(&[("query", "question"), ("positive", "answer"), ("neg", "wrong")]).unwrap();
    assert_eq!(set.form(), Form::Pairs { negatives: (0, 1), teacher: false });
    assert_eq!(set.row(0).unwrap().negatives, ["n"]);
    assert!(set.unused_columns().is_empty());
    // The same text on both sides, as for training on dropout's noise.
    let same = open(&[("query", "question"), ("positive", "question")]).unwrap();
    assert_eq!((same.row(1).unwrap().query.as_str(), same.row(1).unwrap().positives[0].as_str()), ("r", "r"));
    assert_eq!(same.unused_columns(), ["answer", "wrong"]);
    assert_eq!(open(&[("text", "answer")]).unwrap().form(), Form::Texts);
    for (columns, expected) in [
        (
            &[("query", "question"), ("pos", "anser")][..],
            "columns.pos: there is no column `anser`; did you mean `answer`?",
        ),
        (
            &[("query", "question"), ("pos", "answer"), ("neg", "wron")],
            "columns.neg: no row has `wron`; did you mean `wrong`?",
        ),
        (&[("quary", "question")], "columns.quary: no column of training data is called so; did you mean `query`?"),
        (&[("query", "question")], "a query needs `pos` or `positive`"),
    ] {
        let error = open(columns).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("a.tsv"), "{error}");
    }
    let case = Case::new("a.txt", b"a\n");
    let columns: BTreeMap<String, String> = [("text".to_string(), "a".to_string())].into();
    let error = TrainingSet::open(&case.path, &OpenOptions { columns, ..Default::default() }).unwrap_err().to_string();
    assert!(error.contains("columns: a txt file has none"), "{error}");
}

#[test]
fn a_limit_reads_no_further() {
    for (name, content) in [
        ("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\nbroken\n"),
        ("a.json", "[{\"text\": \"a\"}, {\"text\": \"b\"}, broken"),
        ("a.csv", "text,x\na,1\nb,2\nc,3,4\n"),
        ("a.txt", "a\nb\nc"),
    ] {
        let case = Case::new(name, content.as_bytes());
        for in_memory_bytes in [0, 1 << 20] {
            let options = OpenOptions { limit: Some(2), ..case.options(in_memory_bytes) };
            let set = TrainingSet::open(&case.path, &options).unwrap();
            assert_eq!(rows(&set).iter().map(|row| row.query.as_str()).collect::<Vec<_>>(), ["a", "b"], "{name}");
        }
    }
    let case = Case::new("a.txt", b"a\n");
    let error = TrainingSet::open(&case.path, &OpenOptions { limit: Some(0), ..case.options(0) }).unwrap_err();
    assert!(error.to_string().contains("limit: 0 rows"), "{error}");
}

#[test]
fn blank_and_missing_negatives_are_none() {
    let content = "{\"query\": \"q\", \"pos\": \"p\", \"neg\": null}\n\
                   {\"query\": \"q\", \"pos\": [\"p\"], \"neg\": [\" \", \"n\", null, \"q\"], \"neg_scores\": [1, 2, 3, 4]}\n\
                   {\"query\": 7, \"pos\": [\"p\"]}\n";
    let set = Case::new("a.jsonl", content.as_bytes()).open();
    let all = rows(&set);
    assert!(all[0].negatives.is_empty() && all[2].negatives.is_empty());
    assert_eq!(
        (all[1].negatives.as_slice(), all[1].negative_scores.as_slice()),
        (&["n".into(), "q".into()][..], &[2.0, 4.0][..])
    );
    assert_eq!((all[0].positives.as_slice(), all[2].query.as_str()), (&["p".to_string()][..], "7"));
    assert_eq!(set.form(), Form::Pairs { negatives: (0, 2), teacher: false });
    let stats = set.stats();
    assert_eq!((stats.rows, stats.texts, stats.blank_negatives, stats.without_negatives), (3, 8, 2, 2));
    assert_eq!((stats.duplicate_queries, stats.duplicate_positives, stats.shared_positives), (1, 2, 3));
    assert_eq!((stats.own_negatives, stats.negatives, stats.teacher_rows), (1, (0, 2.0 / 3.0, 2), 0));
}

#[test]
fn a_teacher_scores_all_or_the_set_has_none() {
    let row = |scores: &str| format!("{{\"query\": \"q\", \"pos\": [\"p\", \"r\"], \"neg\": [\"n\"]{scores}}}\n");
    let full = row(", \"pos_scores\": [1, 0.5], \"neg_scores\": [0]");
    let form = |content: String| Case::new("a.jsonl", content.as_bytes()).open();
    let taught = form(full.clone() + &full);
    assert_eq!((taught.form(), taught.stats().teacher_rows), (Form::Pairs { negatives: (1, 1), teacher: true }, 2));
    for missing in
        ["", ", \"pos_scores\": [1, 2]", ", \"neg_scores\": [1]", ", \"pos_scores\": null, \"neg_scores\": []"]
    {
        let set = form(full.clone() + &row(missing));
        assert_eq!((set.form(), set.stats().teacher_rows), (Form::Pairs { negatives: (1, 1), teacher: false }, 1));
    }
}

#[test]
fn hostile_files_are_refused_in_words() {
    let long = format!("{{\"text\": \"{}\"}}\n", "я".repeat(100_000));
    assert_eq!(Case::new("a.jsonl", long.as_bytes()).open().row(0).unwrap().query.chars().count(), 100_000);
    let good = "{\"query\": \"q\", \"pos\": [\"p\"]}\n";
    let after = |line: &str| format!("{good}\n{line}\n");
    let deep = after(&format!("{{\"query\": {}{}}}", "[".repeat(9_000), "]".repeat(9_000)));
    for (name, content, expected) in [
        ("a.jsonl", "".to_string(), "holds no rows"),
        ("a.jsonl", "\u{feff}\r\n \n".into(), "holds no rows"),
        ("a.json", "[]".into(), "holds no rows"),
        ("a.csv", "query,pos\n".into(), "holds no rows"),
        ("a.csv", "\u{feff}".into(), "holds no rows"),
        ("a.txt", "\n \n".into(), "holds no rows"),
        ("a.xlsx", "x".into(), "cannot tell what kind of file this is: jsonl, json, csv, tsv and txt are read"),
        ("a.parquet", "PAR1".into(), "not a parquet file"),
        ("a.parquet", "".into(), "not a parquet file"),
        ("a.jsonl.gz", good.into(), "cannot be unpacked"),
        ("a.jsonl.zst", good.into(), "cannot be unpacked"),
        (
            "a.jsonl",
            after("{\"query\": \"q\", \"pos\": "),
            "row 2 (line 3): not JSON: EOF while parsing a value (column 21)",
        ),
        ("a.jsonl", after("[1]"), "row 2 (line 3): must be one JSON object, such as {\"query\""),
        ("a.jsonl", after("nonsense"), "row 2 (line 3): not JSON: "),
        ("a.jsonl", after("{\"query\": \"q\", \"pos\": [\"p\"]} {}"), "row 2 (line 3): not JSON: trailing characters"),
        ("a.jsonl", after("{\"query\": \"\\ud83d\", \"pos\": [\"p\"]}"), "row 2 (line 3): not JSON: "),
        ("a.jsonl", deep, "row 2 (line 3): not JSON: recursion limit exceeded"),
        (
            "a.jsonl",
            after("{\"query\": \" \", \"pos\": [\"p\"]}"),
            "row 2 (line 3): `query` is missing or empty: fill it",
        ),
        ("a.jsonl", after("{\"query\": null, \"pos\": [\"p\"]}"), "`query` is missing or empty"),
        ("a.jsonl", after("{\"pos\": [\"p\"]}"), "`query` is missing or empty"),
        ("a.jsonl", after("{\"query\": [\"q\"], \"pos\": [\"p\"]}"), "`query` is a list, expected text"),
        ("a.jsonl", after("{\"query\": {}, \"pos\": [\"p\"]}"), "row 2 (line 3): `query` holds an object"),
        ("a.jsonl", after("{\"query\": true, \"pos\": [\"p\"]}"), "row 2 (line 3): `query` holds true or false"),
        (
            "a.jsonl",
            after("{\"query\": \"q\", \"pos\": []}"),
            "row 2 (line 3): `pos` holds no text: give the query a text",
        ),
        ("a.jsonl", after("{\"query\": \"q\"}"), "`pos` holds no text"),
        ("a.jsonl", after("{\"query\": \"q\", \"pos\": [\"p\", \"\"]}"), "`pos` holds an empty text"),
        ("a.jsonl", after("{\"query\": \"q\", \"pos\": [\"p\", null]}"), "`pos` holds an empty text"),
        ("a.jsonl", after("{\"query\": \"q\", \"pos\": [\"p\", 1]}"), "`pos` holds a number, expected a list of texts"),
        ("a.jsonl", after("{\"query\": \"q\", \"pos\": [{\"t\": \"p\"}]}"), "`pos` holds an object"),
        ("a.jsonl", after("{\"query\": \"q\", \"pos\": [[\"p\"]]}"), "`pos` holds a list, expected a list of texts"),
        (
            "a.jsonl",
            after("{\"query\": \"q\", \"query\": \"r\", \"pos\": [\"p\"]}"),
            "row 2 (line 3): `query` is there twice",
        ),
        (
            "a.jsonl",
            after("{\"query\": \"q\", \"pos\": [\"p\"], \"pos_scores\": [1, 2]}"),
            "row 2 (line 3): `pos_scores` holds 2 numbers, but `pos` 1 texts: give each text one score",
        ),
        (
            "a.jsonl",
            after("{\"query\": \"q\", \"pos\": [\"p\"], \"neg_scores\": [1]}"),
            "`neg_scores` holds 1 numbers, but `neg` 0 texts",
        ),
        (
            "a.jsonl",
            after("{\"query\": \"q\", \"pos\": [\"p\"], \"pos_scores\": [\"high\"]}"),
            "`pos_scores` is a list with more than that, expected a list of finite numbers",
        ),
        (
            "a.jsonl",
            after("{\"query\": \"q\", \"pos\": [\"p\"], \"pos_scores\": [1e60]}"),
            "expected a list of finite numbers",
        ),
        (
            "a.jsonl",
            after("{\"query\": \"q\", \"pos\": [\"p\"], \"prompt\": [\"p\"]}"),
            "`prompt` is a list, expected text",
        ),
        (
            "a.jsonl",
            "{\"text\": \"a\"}\n{\"text\": \"b\", \"label\": 1}\n".into(),
            "row 2 (line 2): is a text with a label, but the first row is a text alone",
        ),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\"}\n".into(), "row 2 (line 2): has no `label`"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": [1]}\n".into(), "`label` is a list, expected a label"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1.5}\n".into(), "`label` is a number, expected a label"),
        (
            "a.csv",
            "sentence1,sentence2,score\na,b,high\n".into(),
            "row 1 (line 2): `score` is text, expected a finite number",
        ),
        ("a.csv", "sentence1,sentence2,score\na,b,NaN\n".into(), "`score` is text, expected a finite number"),
        ("a.csv", "sentence1,sentence2,score\na,b,\n".into(), "row 1 (line 2): has no score"),
        ("a.csv", "sentence1,sentence2\na,b\n".into(), "two texts need `score` or `label`"),
        (
            "a.csv",
            "sentence_A,sentence_B,score\na,b,1\n".into(),
            "columns: score, sentence_A, sentence_B: expected `query`",
        ),
        ("a.csv", "pos,neg\na,b\n".into(), "pairs need `query` or `anchor`"),
        ("a.csv", "query,query\na,b\n".into(), "line 1: two columns are called `query`"),
        ("a.csv", "query,pos\n\"a\nb\",c\nd\n".into(), "row 2 (line 4): 1 fields, but the header has 2"),
        ("a.csv", "query,pos\na,b\nc,\"d\n".into(), "line 3: a quote opens here that is never closed"),
        ("a.json", "[{\"text\": \"a\"},\n{\"text\": \"b\"".into(), "the array ends in the middle"),
        ("a.json", "[{\"text\": \"a\"}\n{\"text\": \"b\"}]".into(), "line 2: not JSON: expected `,` or `]`"),
        ("a.json", "[{\"text\": \"a\"},\n\"b\"]".into(), "line 2: every row of the array must be a JSON object"),
        ("a.json", "[{\"text\": \"a\"},\n]".into(), "line 2: every row of the array must be a JSON object"),
        ("a.json", "[{\"text\": \"a\"}] x".into(), "line 1: not JSON: there is more behind the array"),
        ("a.json", "[{\"text\": \"a\"},\n\n{\"text\": 1 2}]".into(), "row 2 (line 3): not JSON: "),
        ("a.json", "[{\"text\": \"a\"]".into(), "row 1 (line 1): not JSON: "),
    ] {
        let error = Case::new(name, content.as_bytes()).error();
        assert!(error.contains(expected) && error.contains(name), "{expected}\n{error}");
    }
    for (content, expected) in [
        (&b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n"[..], "line 2: not UTF-8: save the file as UTF-8"),
        (b"{\"text\": \"a\"}\n{\"text\": \"b\", \"other\": \"\xff\"}\n", "line 2: not UTF-8"),
        (b"\xff\xfe{\0", "is written in UTF-16"),
    ] {
        let error = Case::new("a.jsonl", content).error();
        assert!(error.contains(expected), "{error}");
    }
    let missing = TrainingSet::open(Path::new("/nowhere/a.jsonl"), &OpenOptions::default()).unwrap_err().to_string();
    assert!(missing.contains("/nowhere/a.jsonl"), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("a.jsonl")).unwrap();
    assert!(TrainingSet::open(&folder.path().join("a.jsonl"), &OpenOptions::default()).is_err());
}

#[test]
fn a_row_is_not_held_without_bound() {
    // 65 MiB in one line, in one field and in one element: refused before they are read to their end.
    let text = "x".repeat(65 << 20);
    for (name, content, expected) in [
        (
            "a.jsonl",
            format!("{{\"text\": \"a\"}}\n{{\"text\": \"{text}\"}}\n"),
            "line 2: a row of more than 67108864 bytes",
        ),
        ("a.csv", format!("text\na\n\"{}\"\n", text.replace("xxxxxxxx", "xxxxxxx\n")), "line 3: a row of more than"),
        ("a.json", format!("[{{\"text\": \"a\"}},\n{{\"text\": \"{text}\"}}]"), "line 2: a row of more than"),
    ] {
        let error = Case::new(name, content.as_bytes()).error();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn files_cut_short_are_refused_at_every_length() {
    let rows: Vec<Value> = (0..40).map(|i| json!({"query": format!("q{i}"), "pos": [format!("p{}", i * i)]})).collect();
    for (name, content) in every_kind(&rows, &["query", "pos"]) {
        let packed = name.ends_with("gz") || name.ends_with("zst") || name.ends_with("parquet");
        if !packed && !name.starts_with("array") {
            continue;
        }
        for length in (1..content.len() - 1).step_by(5) {
            let case = Case::new(&name, &content[..length]);
            let error = case.error();
            assert!(error.contains(&name), "{name} {length}: {error}");
        }
    }
}

#[test]
fn rows_come_from_any_thread_in_any_order() {
    let lines: String = (0..500).map(|i| format!("{{\"query\": \"q{i}\", \"pos\": [\"p{i}\"]}}\n")).collect();
    for (name, content) in [("a.jsonl", lines.clone().into_bytes()), ("a.jsonl.gz", gzip(lines.as_bytes()))] {
        let case = Case::new(name, &content);
        let set = TrainingSet::open(&case.path, &case.options(1_000)).unwrap();
        assert!(!set.in_memory());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let set = &set;
                scope.spawn(move || {
                    for i in 0..2_000 {
                        let row = (i * 7 + thread * 131) % 500;
                        assert_eq!(set.row(row).unwrap().query, format!("q{row}"));
                    }
                });
            }
        });
        let error = set.row(500).unwrap_err().to_string();
        assert!(error.contains("row 501: there is no such row: the set has 500"), "{error}");
        assert!(set.row(usize::MAX).is_err() && set.hashes(500).is_empty());
    }
}

#[test]
fn a_file_that_changes_is_noticed() {
    let case = Case::new("a.jsonl", b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    let set = TrainingSet::open(&case.path, &case.options(0)).unwrap();
    for changed in [&b"{\"text\": \"one\"}\n{\"text\": \"TWO\"}\n"[..], b"{\"text\": \"one\"}\n{\"text\": \"t", b""] {
        // In place, as an editor does that does not rename.
        let mut file = std::fs::File::options().write(true).truncate(true).open(&case.path).unwrap();
        file.write_all(changed).unwrap();
        let error = set.row(1).unwrap_err().to_string();
        assert!(error.contains("row 2: the rows have changed since they were opened"), "{error}");
    }
    // Replaced by another file, the old one stays open.
    let set = TrainingSet::open(&Case::new("b.jsonl", b"{\"text\": \"one\"}\n").path, &case.options(0)).unwrap();
    assert_eq!(set.row(0).unwrap().query, "one");
}

#[test]
fn rows_with_the_same_query_stay_on_one_side() {
    let lines: String = (0..400).map(|i| format!("{{\"query\": \"q{}\", \"pos\": [\"p{i}\"]}}\n", i % 150)).collect();
    let set = Subset::all(Arc::new(Case::new("a.jsonl", lines.as_bytes()).open()));
    let (train, dev) = set.split(20, 3);
    assert_eq!((train.len(), dev.len()), (380, 20));
    let queries = |side: &Subset| (0..side.len()).map(|i| side.row(i).unwrap().query).collect::<HashSet<_>>();
    assert!(queries(&train).is_disjoint(&queries(&dev)));
    let (again, _) = set.split(20, 3);
    assert!((0..380).all(|i| again.place(i) == train.place(i)));
    assert_eq!(train.hashes(5), set.hashes(train.place(5)));
    // A split of a split is a part of it.
    let (rest, second) = train.split(20, 3);
    assert_eq!((rest.len(), second.len()), (360, 20));
    assert!(queries(&second).is_disjoint(&queries(&dev)) && queries(&second).is_disjoint(&queries(&rest)));
    assert!(train.row(380).is_err() && train.hashes(380).is_empty());
}

#[test]
fn batches_of_a_set_have_no_text_twice() {
    let lines: String = (0..300)
        .map(|i| {
            format!("{{\"query\": \"q{}\", \"pos\": [\"p{}\"], \"neg\": [\"p{}\"]}}\n", i % 90, i % 70, (i + 35) % 70)
        })
        .collect();
    let set = Case::new("a.jsonl", lines.as_bytes()).open();
    let settings = SamplerSettings { no_duplicates: true, ..SamplerSettings::new(16) };
    let sampler = Sampler::new(&[SetSize { rows: set.len(), weight: 1.0 }], settings, 1).unwrap();
    let epoch = sampler.epoch(0, &|_, row| set.hashes(row));
    assert_eq!(epoch.batches.len(), sampler.batches_per_epoch());
    for batch in &epoch.batches {
        let texts: Vec<String> = batch
            .iter()
            .flat_map(|(_, row)| set.row(*row).unwrap().texts().map(String::from).collect::<Vec<_>>())
            .collect();
        assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len());
    }
}

/// Peak memory of this process so far, in kB.
#[cfg(target_os = "linux")]
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "a part of `memory_does_not_grow_with_the_file`, which runs it in a process of its own"]
fn opens_a_large_file() {
    let Some(path) = std::env::var_os("TRAINING_FILE").map(PathBuf::from) else { return };
    let before = peak();
    let spill = path.parent().unwrap().join("spill");
    let set = TrainingSet::open(&path, &OpenOptions { in_memory_bytes: 1 << 20, spill, ..Default::default() }).unwrap();
    for row in (0..set.len()).step_by(101) {
        assert!(set.row(row).unwrap().query.starts_with(&format!("{row} ")));
    }
    println!("rows {} grown {}", set.len(), peak() - before);
}

/// 200 MB of rows are opened, and read in places, by a process that may hold 1 MiB of them.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_file() {
    const ROWS: usize = 200_000;
    // Words drawn by a linear congruential generator (Knuth's MMIX), so that nothing packs them to nothing.
    let row = |i: usize| {
        let mut state = i as u64;
        let mut text = || {
            let mut words = String::new();
            for _ in 0..24 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                words.push_str(&format!(" слово{}", (state >> 33) % 10_000));
            }
            words
        };
        (format!("{i}{}", text()), text(), text())
    };
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &mut dyn FnMut(&mut dyn Write)| {
        let path = folder.path().join(name);
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        content(&mut file);
        file.flush().unwrap();
        path
    };
    let lines = |out: &mut dyn Write| {
        for i in 0..ROWS {
            let (query, positive, negative) = row(i);
            writeln!(out, "{{\"query\": \"{query}\", \"pos\": [\"{positive}\"], \"neg\": [\"{negative}\"]}}").unwrap();
        }
    };
    let jsonl = write("a.jsonl", &mut |out| lines(out));
    assert!(std::fs::metadata(&jsonl).unwrap().len() > 190 << 20);
    let gz = write("a.jsonl.gz", &mut |out| {
        let mut gz = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
        lines(&mut gz);
        gz.finish().unwrap();
    });
    let csv = write("a.csv", &mut |out| {
        writeln!(out, "anchor,positive,negative").unwrap();
        (0..ROWS).map(row).for_each(|(q, p, n)| writeln!(out, "{q},\"{p}\",{n}").unwrap());
    });
    let json = write("a.json", &mut |out| {
        for i in 0..ROWS {
            let (query, positive, negative) = row(i);
            let before = if i == 0 { '[' } else { ',' };
            write!(out, "{before}{}", json!({"query": query, "pos": positive, "neg": negative})).unwrap();
        }
        write!(out, "]").unwrap();
    });
    let parquet = {
        let columns: Vec<(String, String, String)> = (0..ROWS).map(row).collect();
        let column = |name: &str, f: &dyn Fn(&(String, String, String)) -> String| {
            Series::new(name.into(), columns.iter().map(f).collect::<Vec<_>>()).into_column()
        };
        let columns = vec![
            column("anchor", &|r| r.0.clone()),
            column("positive", &|r| r.1.clone()),
            column("negative", &|r| r.2.clone()),
        ];
        let path = folder.path().join("a.parquet");
        let writer = ParquetWriter::new(std::fs::File::create(&path).unwrap()).with_row_group_size(Some(10_000));
        writer.finish(&mut DataFrame::new(ROWS, columns).unwrap()).unwrap();
        path
    };
    for path in [jsonl, gz, csv, json, parquet] {
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["opens_a_large_file", "--exact", "--ignored", "--nocapture"])
            .env("TRAINING_FILE", &path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{text}");
        let numbers = text.lines().find_map(|line| line.split_once("rows ")).unwrap().1;
        let numbers: Vec<usize> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        println!(
            "{}: {} MB on the disk, grown by {} kB",
            path.display(),
            path.metadata().unwrap().len() >> 20,
            numbers[1]
        );
        // 8 bytes a row and a text are 6 MB; the rest is buffers, and parquet's row groups.
        let bound = if path.extension().is_some_and(|e| e == "parquet") { 80_000 } else { 24_000 };
        assert_eq!(numbers[0], ROWS);
        assert!(numbers[1] < bound, "{}: {} kB", path.display(), numbers[1]);
    }
}

/// The batches and texts of runs that began before there was a sampler, by the rule that they had, written out: such a run
/// must be recognised, and go on the same.
#[test]
fn one_set_gives_the_batches_and_texts_that_runs_have_had() {
    use embeval::train::sampler::{draws, hard_negatives};
    use rand::SeedableRng;
    use rand::seq::{IndexedRandom, SliceRandom};

    let generator = |seed: u64, purpose: u64, place: u64| {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(purpose << 48).wrapping_add(place);
        rand_pcg::Pcg64::seed_from_u64(mixed)
    };
    let row = |i: usize| TrainingRow {
        query: format!("q{i}"),
        positives: (0..1 + i % 3).map(|k| format!("p{i} {k}")).collect(),
        negatives: (0..1 + i % 5).map(|k| format!("n{i} {k}")).collect(),
        ..Default::default()
    };
    for (count, batch, hard) in [(103, 8, 2), (97, 8, 0), (65, 16, 4), (1, 4, 1), (17, 16, 0)] {
        let training: Vec<TrainingRow> = (0..count).map(row).collect();
        let settings = SamplerSettings { skip_lone: hard == 0, ..SamplerSettings::new(batch) };
        for seed in [0, 1, 42, u64::MAX] {
            let sampler = Sampler::new(&[SetSize { rows: count, weight: 1.0 }], settings, seed).unwrap();
            for epoch in 0..3 {
                let batches = sampler.epoch(epoch, &|_, _| &[]).batches;
                let rows: Vec<Vec<usize>> = batches.iter().map(|b| b.iter().map(|(_, row)| *row).collect()).collect();
                let mut order: Vec<usize> = (0..count).collect();
                order.shuffle(&mut generator(seed, 1, epoch as u64));
                let mut expected: Vec<Vec<usize>> = order.chunks(batch).map(<[usize]>::to_vec).collect();
                if hard == 0 && expected.len() > 1 && count % batch == 1 {
                    expected.pop();
                }
                assert_eq!(rows, expected);
                assert_eq!(sampler.batches_per_epoch(), expected.len());
                for (number, rows) in rows.iter().enumerate() {
                    let place = ((epoch as u64) << 32) | number as u64;
                    let (mut old, mut new) = (generator(seed, 2, place), draws(seed, place));
                    for row in rows.iter().map(|row| &training[*row]) {
                        let drawn = hard_negatives(row, hard, &mut new).unwrap();
                        assert_eq!(row.positives.choose(&mut old).unwrap(), &row.positives[drawn.positive]);
                        let some = hard.min(row.negatives.len());
                        let negatives: Vec<&String> = row.negatives.sample(&mut old, some).collect();
                        let ours: Vec<&String> = drawn.negatives.iter().map(|n| &row.negatives[*n]).collect();
                        assert_eq!(negatives, ours);
                    }
                }
            }
        }
    }
}
