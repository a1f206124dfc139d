//! Hard negatives: the same as sentence-transformers' and `hn_mine`'s, the same in blocks of any size and on any number of threads,
//! in bounded memory; and the command from outside.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use embeval::data::matrix::Matrix;
use embeval::data::rows::{PairRow, read_pairs};
use embeval::mine::{
    Embeddings, Format, Layout, MineError, Mined, MiningSet, Origin, OtherKeys, Output, Parts, Report, Rule, Sampling,
    Settings, Written, mine,
};
use serde_json::Value;

/// Embeddings by text.
struct Table(HashMap<String, Vec<f32>>);

impl Table {
    fn matrix(&self, texts: &[&str], side: &str) -> Matrix {
        let rows: Vec<&Vec<f32>> = texts.iter().map(|text| &self.0[&format!("{side} {text}")]).collect();
        let dim = rows.first().map_or(0, |row| row.len());
        Matrix::new(rows.len(), dim, rows.into_iter().flatten().copied().collect()).unwrap()
    }

    fn embeddings(&self, set: &MiningSet<'_>) -> Embeddings {
        let (candidates, others) = set.documents().split_at(set.candidates());
        Embeddings::new(
            self.matrix(set.queries(), "queries"),
            self.matrix(candidates, "documents"),
            self.matrix(others, "documents"),
        )
    }
}

/// Made by `tests/peers/check_mining.py golden` with sentence-transformers 6.2.
struct Golden {
    json: Value,
    rows: Vec<PairRow>,
    pool: Vec<String>,
    table: Table,
}

fn row(query: &str, positives: &[&str], negatives: &[&str]) -> PairRow {
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    PairRow { query: query.into(), positives: owned(positives), negatives: owned(negatives) }
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mining.json");
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let rows = json["pairs"].as_array().unwrap().iter().map(|pair| row(&text(&pair[0]), &[&text(&pair[1])], &[]));
    let mut table = HashMap::new();
    for (side, group) in [("queries", "queries"), ("documents", "documents"), ("documents", "pool")] {
        for (name, values) in json[group].as_object().unwrap() {
            let values = values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32);
            table.insert(format!("{side} {name}"), values.collect());
        }
    }
    // As the script hands it over: the first three texts twice.
    let mut pool: Vec<String> = json["pool"].as_object().unwrap().keys().cloned().collect();
    pool.extend_from_within(..3);
    Golden { rows: rows.collect(), pool, table: Table(table), json }
}

fn origin<'a>(rows: &'a [PairRow], pool: Option<&'a [String]>, rule: Rule) -> Origin<'a> {
    Origin { rows, pool, rule, include_negatives: false, keep_negatives: true, score_negatives: false }
}

fn all(set: &MiningSet<'_>, embeddings: &Embeddings, settings: &Settings) -> (Vec<Mined>, Report) {
    let mut out = Vec::new();
    let report = mine::<MineError>(set, embeddings, settings, &|_| {}, &mut |one| {
        out.push(one.clone());
        Ok(())
    });
    (out, report.unwrap())
}

fn texts<'a>(set: &MiningSet<'a>, mined: &Mined) -> Vec<&'a str> {
    mined.negatives.iter().map(|found| set.text(found.document)).collect()
}

/// What is written, a value a line.
fn written(parts: Parts<'_>, format: Format, settings: &Settings) -> (Vec<Value>, Written) {
    let mut bytes = Vec::new();
    let mut output = Output::new(&mut bytes, format, parts);
    mine::<anyhow::Error>(parts.set, parts.embeddings, settings, &|_| {}, &mut |one| Ok(output.take(one)?)).unwrap();
    let written = output.finish().unwrap();
    let lines = String::from_utf8(bytes).unwrap();
    (lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), written)
}

#[test]
fn negatives_are_those_of_sentence_transformers() {
    let golden = golden();
    let cases = golden.json["cases"].as_array().unwrap();
    assert!(cases.len() > 25);
    for case in cases {
        let given = &case["settings"];
        let count = |key: &str| given[key].as_u64().map(|value| value as usize);
        let usual = Settings::new(Rule::SentenceTransformers);
        let settings = Settings {
            num_negatives: count("num_negatives").unwrap_or(usual.num_negatives),
            range_min: count("range_min").unwrap_or(0),
            range_max: count("range_max"),
            max_score: given["max_score"].as_f64(),
            min_score: given["min_score"].as_f64(),
            absolute_margin: given["absolute_margin"].as_f64(),
            relative_margin: given["relative_margin"].as_f64(),
            ..usual
        };
        let pool = case["pool"].as_bool().unwrap().then_some(golden.pool.as_slice());
        let set = MiningSet::new(&origin(&golden.rows, pool, Rule::SentenceTransformers)).unwrap();
        let embeddings = golden.table.embeddings(&set);
        let parts = Parts { set: &set, embeddings: &embeddings, rows: &golden.rows, keys: &OtherKeys::default() };
        let layout = if case["layout"] == "triplet" { Layout::Triplet } else { Layout::NTuple };
        let num_negatives = settings.num_negatives;
        let format = Format { layout, scores: true, keep_negatives: false, num_negatives };
        let (lines, _) = written(parts, format, &settings);
        let expected = case["rows"].as_array().unwrap();
        assert_eq!(lines.len(), expected.len(), "{given} {}", case["layout"]);
        for (line, expected) in lines.iter().zip(expected) {
            let values: Vec<&Value> = line.as_object().unwrap().values().collect();
            let (scores, columns) = values.split_last().unwrap();
            let expected = expected.as_array().unwrap();
            let (expected_scores, expected) = expected.split_last().unwrap();
            assert!(columns.iter().copied().eq(expected), "{given}: {columns:?}, expected {expected:?}");
            let number = |value: &Value| value.as_f64().unwrap();
            for (score, expected) in scores.as_array().unwrap().iter().zip(expected_scores.as_array().unwrap()) {
                assert!((number(score) - number(expected)).abs() < 1.1e-5, "{given}: {line}");
            }
        }
    }
}

#[test]
fn draws_are_from_what_hn_mine_draws_from() {
    let golden = golden();
    let corpus: HashSet<&str> = golden.rows.iter().flat_map(|row| &row.positives).map(String::as_str).collect();
    for case in golden.json["hn_mine"].as_array().unwrap() {
        let pool = case["pool"].as_bool().unwrap().then_some(golden.pool.as_slice());
        let set = MiningSet::new(&origin(&golden.rows, pool, Rule::HnMine)).unwrap();
        assert_eq!(set.candidates(), pool.map_or(corpus.len(), |pool| pool.len() - 3));
        let embeddings = golden.table.embeddings(&set);
        let rank = |at: usize| case["range"][at].as_u64().unwrap() as usize;
        let settings = Settings {
            range_min: rank(0),
            range_max: Some(rank(1)),
            num_negatives: 4,
            top_up: false,
            ..Settings::new(Rule::HnMine)
        };
        let (random, _) = all(&set, &embeddings, &settings);
        let (top, _) = all(&set, &embeddings, &Settings { sampling: Sampling::Top, ..settings.clone() });
        let (full, report) = all(&set, &embeddings, &Settings { num_negatives: 8, top_up: true, ..settings });
        let mut drawn_from_deep = false;
        for ((((query, in_range), random), top), full) in
            (0..).zip(case["in_range"].as_array().unwrap()).zip(&random).zip(&top).zip(&full)
        {
            let allowed: Vec<&str> = in_range.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
            let expected: Vec<&str> = allowed.iter().copied().take(4).collect();
            assert_eq!(texts(&set, top), expected, "query {query}");
            let drawn = texts(&set, random);
            assert_eq!(drawn.len(), allowed.len().min(4));
            let places: Vec<_> = drawn.iter().map(|text| allowed.iter().position(|a| a == text).unwrap()).collect();
            assert!(places.is_sorted_by(|a, b| a < b), "best first, none twice");
            drawn_from_deep |= places.last().is_some_and(|&last| last >= 4);
            // Filled up: all of the range that was drawn comes first; then others, none a positive and none twice.
            let filled = texts(&set, full);
            assert_eq!(filled.len(), 8);
            assert_eq!(filled.iter().collect::<HashSet<_>>().len(), 8);
            assert_eq!(full.topped_up, 8usize.saturating_sub(allowed.len()));
            assert!(filled[..8 - full.topped_up].iter().all(|text| allowed.contains(text)));
            let positives = golden.rows.iter().filter(|row| row.query == set.queries()[query]);
            let positives: HashSet<&str> = positives.flat_map(|row| &row.positives).map(String::as_str).collect();
            assert!(filled.iter().all(|text| !positives.contains(text)));
        }
        assert!(drawn_from_deep || rank(1) == 6);
        let filled = full.iter().filter(|one| one.topped_up > 0).count();
        assert_eq!((report.topped_up.queries, report.short), (filled, 0));
    }
}

/// `count` texts with embeddings that are drawn around some centres, so that near neighbours abound.
fn clustered(count: usize, dim: usize, seed: u64) -> Matrix {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    let values = (0..count * dim).map(|at| {
        let centre = (at / dim) % 17;
        ((centre * 31 + at % dim * 7) % 13) as f32 / 13.0 - 0.5 + next()
    });
    Matrix::new(count, dim, values.collect()).unwrap()
}

/// Rows with one to three positives each, negatives of their own, and queries that come again.
fn many_rows(count: usize) -> Vec<PairRow> {
    (0..count)
        .map(|i| {
            let positives: Vec<String> = (0..1 + i % 3).map(|j| format!("d{}", (i * 3 + j) % (2 * count))).collect();
            let positives: Vec<&str> = positives.iter().map(String::as_str).collect();
            let negative = format!("d{}", i * 5 % (2 * count));
            row(&format!("q{}", i % (count * 2 / 3)), &positives, &[&negative])
        })
        .collect()
}

fn random_embeddings(set: &MiningSet<'_>, dim: usize) -> Embeddings {
    let candidates = set.candidates();
    Embeddings::new(
        clustered(set.queries().len(), dim, 1),
        clustered(candidates, dim, 2),
        clustered(set.documents().len() - candidates, dim, 3),
    )
}

/// As [`random_embeddings`], with every query near the positives of its rows.
fn near_embeddings(set: &MiningSet<'_>, rows: &[PairRow], dim: usize) -> Embeddings {
    let documents = clustered(set.documents().len(), dim, 2);
    let mut queries = clustered(set.queries().len(), dim, 1);
    for (number, query) in set.queries().iter().enumerate() {
        for text in rows.iter().filter(|row| row.query == *query).flat_map(|row| &row.positives) {
            let document = set.documents().iter().position(|document| document == text).unwrap();
            let (from, to) = (documents.row(document), queries.row_mut(number));
            to.iter_mut().zip(from).for_each(|(to, from)| *to += 2.0 * from);
        }
    }
    assert_eq!(set.candidates(), set.documents().len());
    Embeddings::new(queries, documents, Matrix::default())
}

#[test]
fn blocks_and_threads_change_nothing() {
    let rows = many_rows(300);
    for (rule, sampling) in [(Rule::SentenceTransformers, Sampling::Random), (Rule::HnMine, Sampling::Top)] {
        let set = MiningSet::new(&origin(&rows, None, rule)).unwrap();
        let embeddings = random_embeddings(&set, 19);
        let base = Settings {
            sampling,
            range_min: 2,
            range_max: Some(30),
            num_negatives: 6,
            relative_margin: Some(0.3),
            top_up: true,
            ..Settings::new(rule)
        };
        let (expected, _) = all(&set, &embeddings, &base);
        assert!(expected.iter().any(|one| one.topped_up > 0) && expected.iter().any(|one| one.topped_up == 0));
        for (block, threads) in [(Some(1), 2), (Some(7), 1), (Some(64), 3), (None, 5)] {
            let settings = Settings { block, ..base.clone() };
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(threads.install(|| all(&set, &embeddings, &settings).0) == expected, "{block:?}");
        }
        let (other, _) = all(&set, &embeddings, &Settings { seed: 7, ..base.clone() });
        assert!(other != expected, "another seed draws others");
    }
}

#[test]
fn margins_and_bounds_hold_for_every_negative() {
    let rows = many_rows(200);
    let set = MiningSet::new(&origin(&rows, None, Rule::SentenceTransformers)).unwrap();
    let embeddings = near_embeddings(&set, &rows, 12);
    let base = Settings { num_negatives: 5, sampling: Sampling::Random, ..Settings::new(Rule::SentenceTransformers) };
    type Holds = fn(f64, f64) -> bool;
    let cases: [(Settings, Holds); 5] = [
        (Settings { semi_hard: true, ..base.clone() }, |p, n| n < p),
        (Settings { absolute_margin: Some(0.2), ..base.clone() }, |p, n| n + 0.2 <= p),
        (Settings { relative_margin: Some(0.2), ..base.clone() }, |p, n| n <= p - 0.2 * p.abs()),
        (Settings { max_score: Some(0.3), ..base.clone() }, |_, n| n <= 0.3),
        (Settings { absolute_margin: Some(0.2), top_up: true, min_score: Some(0.1), ..base }, |p, n| n + 0.2 <= p),
    ];
    for (settings, holds) in cases {
        let (mined, report) = all(&set, &embeddings, &settings);
        for one in &mined {
            // The lowest of the positives of all rows of the query, summed here in another order.
            let positives = rows.iter().filter(|row| row.query == set.queries()[one.query]);
            let numbers: Vec<u32> = positives
                .flat_map(|row| &row.positives)
                .map(|text| set.documents().iter().position(|document| document == text).unwrap() as u32)
                .collect();
            let lowest = numbers.iter().map(|&d| embeddings.cosine(one.query, d)).fold(f64::INFINITY, f64::min);
            assert_eq!(one.positive, lowest);
            for found in &one.negatives {
                assert!(holds(lowest, found.score), "{settings:?}: {found:?} beside {lowest}");
                assert!(!numbers.contains(&found.document));
                assert_eq!(found.score, embeddings.cosine(one.query, found.document));
            }
        }
        assert!(report.negatives > 100, "{settings:?}");
    }
}

#[test]
fn a_text_that_is_an_answer_is_never_a_negative() {
    // `q` is a candidate itself, as questions in a forum's pool are; its second answer is in another row; `n` is kept.
    let rows = [row("q", &["a"], &["n"]), row("r", &["q"], &[]), row("q", &["b", "a"], &[]), row("s", &["n"], &[])];
    let pool: Vec<String> = ["x", " ", "a", "x", ""].map(String::from).to_vec();
    for rule in [Rule::SentenceTransformers, Rule::HnMine] {
        for top_up in [false, true] {
            let with_pool = rule == Rule::SentenceTransformers;
            let set = MiningSet::new(&origin(&rows, with_pool.then_some(&pool[..]), rule)).unwrap();
            let expected: &[&str] = if with_pool { &["x", "a", "q", "b", "n"] } else { &["a", "q", "b", "n"] };
            assert_eq!(set.documents(), expected);
            let embeddings = random_embeddings(&set, 4);
            let settings = Settings { range_min: 0, num_negatives: 4, top_up, ..Settings::new(rule) };
            let (mined, report) = all(&set, &embeddings, &settings);
            let of_q: HashSet<&str> = texts(&set, &mined[0]).into_iter().collect();
            assert_eq!(of_q, if with_pool { HashSet::from(["x"]) } else { HashSet::new() });
            // `r` may have all but its positive `q`; `s` all but `n`.
            assert_eq!(mined[1].negatives.len(), set.candidates() - 1);
            assert_eq!(mined[2].negatives.len(), set.candidates() - 1);
            assert_eq!(report.short, if with_pool { 1 } else { 3 });
            assert_eq!(report.without, usize::from(!with_pool));
        }
    }
    // Numbers without a bound ask for all that there is.
    let set = MiningSet::new(&origin(&rows, Some(&pool), Rule::SentenceTransformers)).unwrap();
    let embeddings = random_embeddings(&set, 4);
    let settings = Settings {
        num_negatives: usize::MAX,
        top_up: true,
        range_max: Some(usize::MAX),
        ..Settings::new(Rule::SentenceTransformers)
    };
    let (mined, report) = all(&set, &embeddings, &settings);
    assert_eq!(mined.iter().map(|one| one.negatives.len()).collect::<Vec<_>>(), [1, 4, 4]);
    assert!(report.as_table().contains("missing"));
    // A negative that is not kept may be mined again.
    let set = MiningSet::new(&Origin {
        keep_negatives: false,
        include_negatives: true,
        ..origin(&rows, None, Rule::SentenceTransformers)
    });
    let set = set.unwrap();
    let embeddings = random_embeddings(&set, 4);
    let (mined, _) = all(&set, &embeddings, &Settings::new(Rule::SentenceTransformers));
    assert_eq!(texts(&set, &mined[0]), ["n"]);
}

#[test]
fn the_report_counts_what_a_full_comparison_counts() {
    let rows = many_rows(150);
    let set = MiningSet::new(&origin(&rows, None, Rule::SentenceTransformers)).unwrap();
    let embeddings = near_embeddings(&set, &rows, 8);
    let settings = Settings {
        range_min: 1,
        range_max: Some(20),
        num_negatives: 3,
        absolute_margin: Some(0.1),
        ..Settings::new(Rule::SentenceTransformers)
    };
    let (mined, report) = all(&set, &embeddings, &settings);
    let (mut above, mut with_above, mut above_95, mut above_margin, mut short) = (0, 0, 0, 0, 0);
    for (query, text) in set.queries().iter().enumerate() {
        let of_query: Vec<&PairRow> = rows.iter().filter(|row| row.query == *text).collect();
        let has = |list: fn(&PairRow) -> &Vec<String>, document: &str| {
            of_query.iter().any(|row| list(row).iter().any(|text| text == document))
        };
        let score = |number: usize| embeddings.cosine(query, number as u32);
        let documents = 0..set.documents().len();
        let (positives, others): (Vec<usize>, Vec<usize>) =
            documents.partition(|&number| has(|row| &row.positives, set.documents()[number]));
        let positive = positives.iter().map(|&number| score(number)).fold(f64::INFINITY, f64::min);
        let others = others.into_iter().filter(|&number| !has(|row| &row.negatives, set.documents()[number]));
        let mut scores: Vec<f64> = others.map(score).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let in_range = &scores[1..20];
        let count = |least: f64| in_range.iter().filter(|&&score| score > least).count();
        above += count(positive);
        with_above += usize::from(count(positive) > 0);
        above_95 += count(positive - 0.05 * positive.abs());
        above_margin += in_range.iter().filter(|&&score| score + 0.1 > positive).count();
        short += usize::from(mined[query].negatives.len() < 3);
        assert_eq!(report.queries[query].positive, positive);
        assert_eq!(report.queries[query].best_negative, mined[query].negatives.first().map(|found| found.score));
    }
    assert_eq!((report.above_positive.candidates, report.above_positive.queries), (above, with_above));
    assert_eq!(report.above_95.candidates, above_95);
    assert_eq!(report.above_margin.unwrap().candidates, above_margin);
    assert_eq!((report.in_range, report.short), (19 * set.queries().len(), short));
    assert!(above > 0 && short > 0 && above_95 > above, "{above} {short} {above_95}");

    let mut bytes = Vec::new();
    report.write(&serde_json::Map::new(), &set, &mut bytes).unwrap();
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(json["above_positive"]["candidates"], above);
    let per_query = json["per_query"].as_array().unwrap();
    assert_eq!(per_query.len(), set.queries().len());
    let sum: u64 = per_query.iter().map(|query| query["above_positive"].as_u64().unwrap()).sum();
    assert_eq!(sum, above as u64);
    assert!(report.as_table().contains("above the positive"));
}

#[test]
fn every_layout_is_read_as_training_rows() {
    let mut rows = many_rows(60);
    rows[5].query = "«кавычки» \"q\"\n\u{1f600}".into();
    let set = MiningSet::new(&Origin { score_negatives: true, ..origin(&rows, None, Rule::SentenceTransformers) });
    let set = set.unwrap();
    let embeddings = random_embeddings(&set, 8);
    let settings =
        Settings { num_negatives: 4, relative_margin: Some(0.3), ..Settings::new(Rule::SentenceTransformers) };
    let (mined, report) = all(&set, &embeddings, &settings);
    assert!(report.short > 0 && report.short < mined.len());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let read = |lines: &[Value]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        read_pairs(&path, None).unwrap()
    };
    let parts = Parts { set: &set, embeddings: &embeddings, rows: &rows, keys: &OtherKeys::default() };
    let format = |layout, keep_negatives| Format { layout, scores: true, keep_negatives, num_negatives: 4 };
    let of_row = |row: &PairRow| set.queries().iter().position(|query| *query == row.query).unwrap();

    for keep in [true, false] {
        let (lines, counts) = written(parts, format(Layout::Flag, keep), &settings);
        assert_eq!(counts, Written { lines: 60, left_out: 0 });
        for ((line, back), row) in lines.iter().zip(read(&lines)).zip(&rows) {
            let mut negatives = if keep { row.negatives.clone() } else { Vec::new() };
            negatives.extend(texts(&set, &mined[of_row(row)]).into_iter().map(String::from));
            assert_eq!(back, PairRow { negatives, ..row.clone() });
            assert_eq!(line["pos_scores"].as_array().unwrap().len(), row.positives.len());
            if keep {
                assert_eq!(line["neg_scores"].as_array().unwrap().len(), back.negatives.len());
            }
        }
    }
    let (lines, _) = written(parts, format(Layout::Triplet, false), &settings);
    let triplets = read(&lines);
    assert!(triplets.iter().all(|row| row.positives.len() == 1 && row.negatives.len() == 1));
    let (lines, counts) = written(parts, format(Layout::NTuple, false), &settings);
    let tuples = read(&lines);
    assert!(tuples.iter().all(|row| row.positives.len() == 1 && row.negatives.len() == 4));
    assert!(counts.left_out > 0 && counts.lines == tuples.len());
    let pairs: HashSet<(&str, &String)> =
        rows.iter().flat_map(|row| row.positives.iter().map(|positive| (row.query.as_str(), positive))).collect();
    assert_eq!(counts.lines + counts.left_out, pairs.len());
}

#[test]
fn other_keys_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let lines = "{\"query\": \"q\", \"pos\": [\"a\"], \"prompt\": \"p: \", \"id\": 7, \"neg_scores\": [1], \"negative_2\": \"n\"}\n{\"query\": \"r\", \"pos\": [\"b\"], \"tags\": [\"x\", 1]}\n";
    std::fs::write(&path, lines).unwrap();
    let rows = read_pairs(&path, None).unwrap();
    let keys = OtherKeys::read(&path, None).unwrap();
    assert!(keys.had_scores);
    let set = MiningSet::new(&origin(&rows, None, Rule::SentenceTransformers)).unwrap();
    let embeddings = random_embeddings(&set, 4);
    let parts = Parts { set: &set, embeddings: &embeddings, rows: &rows, keys: &keys };
    let format = Format { layout: Layout::Flag, scores: false, keep_negatives: true, num_negatives: 3 };
    let (lines, _) = written(parts, format, &Settings::new(Rule::SentenceTransformers));
    let expected = [
        serde_json::json!({"query": "q", "pos": ["a"], "neg": ["n", "b"], "prompt": "p: ", "id": 7}),
        serde_json::json!({"query": "r", "pos": ["b"], "neg": ["a"], "tags": ["x", 1]}),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn embeddings_that_do_not_fit_are_errors() {
    let rows = many_rows(4);
    let set = MiningSet::new(&origin(&rows, None, Rule::SentenceTransformers)).unwrap();
    let (queries, documents) = (set.queries().len(), set.documents().len());
    let fails = |set: &MiningSet<'_>, queries: Matrix, candidates: Matrix, expected: &str| {
        let embeddings = Embeddings::new(queries, candidates, Matrix::default());
        let settings = Settings::new(Rule::SentenceTransformers);
        let error = mine::<MineError>(set, &embeddings, &settings, &|_| {}, &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let texts = format!("for {documents} texts of 4 values");
    fails(&set, clustered(queries, 4, 1), clustered(documents, 5, 2), &texts);
    fails(&set, clustered(queries, 4, 1), clustered(documents - 1, 4, 2), "embeddings for");
    fails(&set, Matrix::zeros(queries, 0), Matrix::zeros(documents, 0), "embeddings for");
    for bad in [f32::NAN, f32::INFINITY] {
        let mut spoiled = clustered(documents, 4, 2);
        spoiled.row_mut(1)[2] = bad;
        fails(&set, clustered(queries, 4, 1), spoiled, "candidate 1 (from 0) is not finite");
    }
    let blank = [" ".to_string()];
    let none = MiningSet::new(&origin(&rows, Some(&blank), Rule::HnMine)).unwrap();
    fails(&none, clustered(queries, 4, 1), Matrix::default(), "no candidates");
    // Nothing to normalise, and numbers that are too large for their squares in f32.
    let embeddings = Embeddings::new(Matrix::zeros(queries, 4), Matrix::zeros(documents, 4), Matrix::default());
    let (mined, _) = all(&set, &embeddings, &Settings::new(Rule::SentenceTransformers));
    assert!(mined.iter().flat_map(|one| &one.negatives).all(|found| found.score == 0.0));
    let large = Matrix::new(documents, 4, vec![f32::MAX; documents * 4]).unwrap();
    let embeddings = Embeddings::new(clustered(queries, 4, 1), large, Matrix::default());
    let (mined, _) = all(&set, &embeddings, &Settings::new(Rule::SentenceTransformers));
    assert!(mined.iter().flat_map(|one| &one.negatives).all(|found| found.score.abs() <= 1.000001));
}

const CHILD: &str = "EMBEVAL_TEST_MINING_MEMORY";

/// A line of `/proc/self/status` in kB.
fn status(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

/// Run by `memory_is_bounded` in a process of its own.
#[test]
fn memory_child() {
    let Ok(case) = std::env::var(CHILD) else { return };
    let rows: Vec<PairRow> = (0..7_700).map(|i| row(&format!("q{i}"), &[&format!("d{i}")], &[])).collect();
    let pool: Vec<String> = (0..11_000).map(|i| format!("d{i}")).collect();
    let settings = match case.as_str() {
        "st" => {
            Settings { relative_margin: Some(0.05), num_negatives: 15, ..Settings::new(Rule::SentenceTransformers) }
        }
        "hn" => Settings::new(Rule::HnMine),
        // Every candidate of every query is looked at.
        _ => Settings {
            range_max: Some(11_000),
            num_negatives: 8,
            max_score: Some(-0.2),
            ..Settings::new(Rule::SentenceTransformers)
        },
    };
    let rows = if case == "whole" { &rows[..900] } else { &rows[..] };
    let set = MiningSet::new(&origin(rows, Some(&pool), settings.rule)).unwrap();
    assert_eq!(set.candidates(), 11_000);
    let embeddings = random_embeddings(&set, 384);
    let before = status("VmRSS:").unwrap();
    let peak_before = status("VmHWM:").unwrap();
    let parts = Parts { set: &set, embeddings: &embeddings, rows, keys: &OtherKeys::default() };
    let format = Format { layout: Layout::Flag, scores: true, keep_negatives: true, num_negatives: 15 };
    let mut output = Output::new(std::io::sink(), format, parts);
    let report = mine::<anyhow::Error>(&set, &embeddings, &settings, &|_| {}, &mut |one| Ok(output.take(one)?));
    let (report, written) = (report.unwrap(), output.finish().unwrap());
    assert_eq!(written.lines, rows.len());
    assert!(report.negatives > 0);
    let grown = status("VmHWM:").unwrap().saturating_sub(before);
    println!("grown {grown} kB (peak before: {})", peak_before - before);
}

#[test]
fn memory_is_bounded() {
    if status("VmHWM:").is_none() {
        return;
    }
    for case in ["st", "hn", "whole"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory_child", "--nocapture"])
            // Every thread has its own buffers for products.
            .env(CHILD, case)
            .env("RAYON_NUM_THREADS", "2")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let grown = text.split("grown ").nth(1).unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
        println!("{case}: {grown} kB");
        assert!(grown < 64 << 10, "{case}: {grown} kB above the embeddings");
    }
}

/// The binary from outside.
mod command {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use embeval::data::rows::read_pairs;
    use serde_json::Value;

    const ROWS: &str = "{\"query\": \"where is the bread\", \"pos\": [\"the bakery sells bread\"], \"neg\": [\"a red car\"], \"id\": 1}
{\"query\": \"кто поёт\", \"pos\": [\"певица поёт песню\", \"a singer sings\"], \"neg\": []}
{\"query\": \"how warm is it\", \"pos\": [\"it is twenty degrees\"]}
{\"query\": \"where is the bread\", \"pos\": [\"bread is on the table\"]}
";

    fn text(path: &Path) -> String {
        path.display().to_string()
    }

    fn bert() -> String {
        text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/bert"))
    }

    fn embeval(args: &[&str]) -> Output {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        Command::new(env!("CARGO_BIN_EXE_embeval")).env("EMBEVAL_CACHE", cache).args(args).output().unwrap()
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            std::fs::write(folder.path("rows.jsonl"), ROWS).unwrap();
            std::fs::write(
                folder.path("pool.jsonl"),
                "{\"text\": \"snow\"}\n{\"text\": \"snow\"}\n{\"text\": \"rain\"}\n",
            )
            .unwrap();
            folder
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn mine(&self, more: &[&str]) -> Output {
            let (input, output) = (text(&self.path("rows.jsonl")), text(&self.path("mined.jsonl")));
            let mut args = vec!["mine".to_string(), bert()];
            for (option, value) in [("--input", input), ("--output", output)] {
                if !more.contains(&option) {
                    args.extend([option.to_string(), value]);
                }
            }
            args.extend(more.iter().map(ToString::to_string));
            embeval(&args.iter().map(String::as_str).collect::<Vec<_>>())
        }

        fn fails(&self, code: i32, words: &[&str], more: &[&str]) {
            let output = self.mine(more);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{more:?}\n{error}");
            assert!(!error.contains("panicked") && output.stdout.is_empty(), "{error}");
            for word in words {
                assert!(error.contains(word), "{more:?}: `{word}` is missing in: {error}");
            }
            assert!(!self.path("mined.jsonl").exists(), "a failure leaves no file");
        }
    }

    #[test]
    fn mined_rows_are_trained_on() {
        let folder = Folder::new();
        let report = text(&folder.path("report.json"));
        let output = folder.mine(&["--scores", "--report", &report, "--format", "json", "--num-negatives", "2"]);
        let error = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(output.status.success(), "{error}");
        assert!(error.contains("above the positive"), "{error}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((json["queries"].as_u64(), json["lines"].as_u64()), (Some(3), Some(4)));
        let mined = folder.path("mined.jsonl");
        let rows = read_pairs(&mined, None).unwrap();
        assert_eq!(rows[0].negatives[0], "a red car");
        assert_eq!((rows[0].negatives.len(), rows[1].negatives.len()), (3, 2));
        assert!(!rows[0].negatives.contains(&"bread is on the table".to_string()), "an answer of another row");
        let first: Value =
            serde_json::from_str(std::fs::read_to_string(&mined).unwrap().lines().next().unwrap()).unwrap();
        assert_eq!((first["id"].as_u64(), first["neg_scores"].as_array().unwrap().len()), (Some(1), 3));
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert_eq!(report["per_query"].as_array().unwrap().len(), 3);
        assert_eq!(report["above_positive"], json["above_positive"]);

        // The same again from the cache; and the file is one that `train` takes.
        let before = std::fs::read(&mined).unwrap();
        let again = folder.mine(&["--scores", "--num-negatives", "2", "--search-batch-size", "1", "-q"]);
        assert!(again.status.success() && again.stderr.is_empty());
        assert!(std::fs::read(&mined).unwrap() == before);
        let config = folder.path("train.yaml");
        let yaml = format!(
            "name: mined\nbase: {}\ndata: {{train: [{}]}}\nloss: {{hard_negatives: 2}}\ntrain: {{epochs: 1, batch: 2, lr: 1e-4}}\n",
            bert(),
            text(&mined)
        );
        std::fs::write(&config, yaml).unwrap();
        let trained = embeval(&["train", &text(&config), "--output", &text(&folder.path("run"))]);
        assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    }

    #[test]
    fn options_of_both_libraries_are_known() {
        let folder = Folder::new();
        let pool = text(&folder.path("pool.jsonl"));
        let plan = |more: &[&str]| -> Value {
            let output = folder.mine(&[more, &["--dry-run", "--format", "json"]].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(!folder.path("mined.jsonl").exists());
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let flag = plan(&["--range_for_sampling", "1-200", "--negative_number", "5", "--candidate_pool", &pool]);
        assert_eq!((flag["candidates"].as_u64(), flag["settings"]["rule"].as_str()), (Some(2), Some("hn-mine")));
        let (settings, number) = (&flag["settings"], |key: &str| flag["settings"][key].as_u64().unwrap());
        assert_eq!((number("range_min"), number("range_max"), number("num_negatives")), (1, 200, 5));
        assert_eq!((settings["sampling"].as_str(), settings["top_up"].as_bool()), (Some("random"), Some(true)));
        let st = plan(&["--sampling-strategy", "random", "--relative_margin", "0.05", "--candidate-pool", &pool]);
        assert_eq!((st["candidates"].as_u64(), st["settings"]["range_max"].as_u64()), (Some(7), Some(32)));
        assert_eq!(plan(&["--rule", "hn-mine", "--top-up=false"])["settings"]["top_up"], false);
        assert_eq!(plan(&["--limit", "1"])["rows"], 1);
        assert!(
            String::from_utf8_lossy(&folder.mine(&["--dry-run"]).stdout).contains("4 rows, 3 queries, 5 candidates")
        );
    }

    #[test]
    fn other_layouts() {
        let folder = Folder::new();
        folder.fails(2, &["has negatives", "--replace"], &["--output-format", "triplet"]);
        let output = folder.mine(&["--output-format", "n-tuple", "--replace", "--num-negatives", "2", "--scores"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = std::fs::read_to_string(folder.path("mined.jsonl")).unwrap();
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let keys: Vec<&String> = first.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["anchor", "positive", "negative_1", "negative_2", "scores"]);
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn every_bad_option_is_one_clear_error() {
        let folder = Folder::new();
        for (words, more) in [
            (&["--num-negatives = 0: must be at least 1"][..], &["--num-negatives", "0"][..]),
            (&["--range-min = 9: must be below range_max, which is 9"], &["--range-for-sampling", "9-9"]),
            (&["must be two ranks, such as 10-210"], &["--range-for-sampling", "10"]),
            (&["cannot be used with"], &["--range-for-sampling", "1-9", "--range-min", "1"]),
            (&["--relative-margin = 5: must be 0 to 1"], &["--relative-margin", "5"]),
            (&["--max-score = NaN"], &["--max-score", "nan"]),
            (&["invalid value 'x'"], &["--min-score", "x"]),
            (&["--num-negatives = 3: only 2 candidates"], &["--range-max", "2"]),
            (&["let the name end with .jsonl"], &["--output", "mined.jsonl.gz"]),
            (&["--device"], &["--device"]),
            (&["gpu7"], &["--device", "gpu7"]),
        ] {
            folder.fails(2, words, more);
        }
        let (rows, pool) = (text(&folder.path("rows.jsonl")), text(&folder.path("pool.jsonl")));
        folder.fails(2, &["rows.jsonl: is read as well"], &["--output", &rows]);
        folder.fails(2, &["pool.jsonl: is read as well"], &["--candidate-pool", &pool, "--report", &pool]);
        let mined = text(&folder.path("mined.jsonl"));
        folder.fails(2, &["is --output, too"], &["--report", &mined]);
        std::fs::create_dir(folder.path("folder.jsonl")).unwrap();
        folder.fails(2, &["is a folder"], &["--output", &text(&folder.path("folder.jsonl"))]);
        folder.fails(1, &["nowhere.jsonl"], &["--candidate-pool", &text(&folder.path("nowhere.jsonl"))]);
        std::fs::write(folder.path("file"), "").unwrap();
        folder.fails(1, &["cannot be written"], &["--output", &text(&folder.path("file/mined.jsonl"))]);
        for (content, words) in [
            ("{\"query\": \"q\", \"pos\": []}\n", "row 1: has no positive"),
            ("{\"query\": \"q\", \"pos\": [\"p\"]}\n{\"query\"\n", "line 2: not JSON"),
            ("{\"text\": \"q\"}\n", "has no column `query`"),
            ("", "holds no rows"),
        ] {
            std::fs::write(folder.path("bad.jsonl"), content).unwrap();
            folder.fails(1, &["bad.jsonl", words], &["--input", &text(&folder.path("bad.jsonl"))]);
        }
        for (content, words) in [
            ("{\"text\": \"q\"}\n{\"title\": \"q\"}\n", "row 2: `text` is nothing"),
            ("{\"passage\": \"q\"}\n", "has no column `text`"),
        ] {
            std::fs::write(folder.path("bad.jsonl"), content).unwrap();
            folder.fails(1, &["bad.jsonl", words], &["--candidate-pool", &text(&folder.path("bad.jsonl"))]);
        }
        std::fs::write(folder.path("bad.jsonl"), "{\"text\": \" \"}\n").unwrap();
        let bad = text(&folder.path("bad.jsonl"));
        folder.fails(1, &["no candidates"], &["--rule", "hn-mine", "--candidate-pool", &bad]);
    }
}
