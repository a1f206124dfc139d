//! Queries, documents and judgements: corpora in the BEIR layout, and rows of a query with its positives and negatives.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::files::Origin;
use super::load::Texts;
use super::ranking::{Documents, Judged, RankingRows};
use super::spec::{TaskError, TaskSpec, TaskType};
use crate::data::corpus::{Corpus, id_column};
use crate::data::table::{DataError, Table};

/// Loads the rows of one split.
///
/// # Errors
/// Where a file or column is missing or wrong, ids repeat, or judgements name documents or queries that are not there.
pub(super) fn load(spec: &TaskSpec, origin: &Origin<'_>, split: &str) -> Result<RankingRows, TaskError> {
    let wrap = |source| TaskError::Data { task: spec.name.clone(), source };
    if let Some(corpus) = origin.part("corpus", split)? {
        if !spec.filter.is_empty() || spec.subsample.is_some() {
            return Err(spec.error(
                "rows of a corpus with queries are not filtered or sampled: leave data.filter and data.subsample out",
            ));
        }
        return load_corpus(spec, origin, split, corpus);
    }
    if spec.kind == TaskType::Retrieval {
        return Err(
            spec.error("needs data.files {corpus: …, queries: …, qrels: {test: …}}, or a hub dataset with these")
        );
    }
    let rows = origin.rows(split)?;
    let queries = rows.column(|t| t.texts(spec.column("query"))).map_err(wrap)?;
    let positives = rows.column(|t| t.text_lists(spec.column("positive"))).map_err(wrap)?;
    let negatives = rows.column(|t| t.text_lists(spec.column("negative"))).map_err(wrap)?;
    candidates(split, queries, positives, negatives).map_err(|(row, message)| wrap(rows.fault(row, &message)))
}

/// mteb's conversion: every candidate is a document of its own, positives are named so that they lose ties.
fn candidates(
    split: &str,
    queries: Vec<String>,
    positives: Vec<Vec<String>>,
    negatives: Vec<Vec<String>>,
) -> Result<RankingRows, (usize, String)> {
    let (mut ids, mut texts) = (Vec::new(), Vec::new());
    let (mut query_ids, mut grades, mut lists) = (Vec::new(), Vec::new(), Vec::new());
    for (row, (positives, negatives)) in positives.into_iter().zip(negatives).enumerate() {
        if positives.is_empty() && negatives.is_empty() {
            return Err((row, "the query has no candidates".into()));
        }
        let query = format!("{split}_query{row}");
        let (mut judged, mut list) = (Vec::new(), Vec::new());
        for (kind, grade, candidates) in [("apositive", 1, positives), ("negative", 0, negatives)] {
            for (number, text) in candidates.into_iter().enumerate() {
                let document = ids.len() as u32;
                ids.push(format!("{kind}_{query}_{number:05}"));
                texts.push(crate::data::corpus::document("", &text));
                judged.push((Some(document), grade));
                list.push(document);
            }
        }
        query_ids.push(query);
        grades.push(judged);
        lists.push(list);
    }
    let documents = Documents::Listed { ids, texts: Texts::new(split, Some("documents"), texts) };
    let queries = Texts::new(split, Some("queries"), queries);
    Ok(RankingRows { query_ids, queries, documents, judged: grades, candidates: Some(lists) })
}

fn load_corpus(
    spec: &TaskSpec,
    origin: &Origin<'_>,
    split: &str,
    corpus: Vec<PathBuf>,
) -> Result<RankingRows, TaskError> {
    let wrap = |source| TaskError::Data { task: spec.name.clone(), source };
    let part = |name: &str| {
        origin.part(name, split)?.ok_or_else(|| spec.error(format!("its data has no {name} for the split `{split}`")))
    };
    let (query_files, qrel_files) = (part("queries")?, part("qrels")?);
    let corpus = Corpus::open(corpus).map_err(wrap)?;
    let number: HashMap<&str, u32> = corpus.ids().iter().enumerate().map(|(i, id)| (id.as_str(), i as u32)).collect();
    let (ids, texts) = read_queries(&query_files).map_err(wrap)?;
    let judgements = read_judgements(&qrel_files).map_err(wrap)?;
    let place = qrel_files.first().map_or(Path::new("qrels"), PathBuf::as_path);

    let known: HashMap<&str, usize> = ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    let mut of_query: Vec<Option<Vec<Judged>>> = vec![None; ids.len()];
    let mut at: HashMap<(usize, &str), usize> = HashMap::new();
    let (mut missing, mut unknown_queries) = (Vec::new(), 0usize);
    for (query, document, grade) in &judgements {
        let Some(&row) = known.get(query.as_str()) else {
            unknown_queries += 1;
            continue;
        };
        let found = number.get(document.as_str()).copied();
        if found.is_none() {
            missing.push(document.as_str());
        }
        let list = of_query[row].get_or_insert_default();
        // A pair that is judged twice keeps its last grade.
        match at.get(&(row, document.as_str())) {
            Some(&place) => list[place] = (found, *grade),
            None => {
                at.insert((row, document), list.len());
                list.push((found, *grade));
            }
        }
    }
    if !missing.is_empty() && !spec.settings.allow_missing_documents {
        let shown: Vec<&str> = missing.iter().take(3).copied().collect();
        let message = format!(
            "{} judgements name documents that the corpus does not have (such as {}): mend the files, or set settings.allow_missing_documents: true to count them as not found",
            missing.len(),
            shown.join(", ")
        );
        return Err(wrap(DataError::content(place, message)));
    }
    if unknown_queries == judgements.len() {
        let message = "names no query that the queries' file has: check the query ids";
        return Err(wrap(DataError::content(place, message)));
    }
    let kept: Vec<usize> = (0..ids.len()).filter(|&row| of_query[row].is_some()).collect();
    let candidates = match origin.part("top_ranked", split)? {
        Some(files) => Some(read_candidates(&files, &number, &ids, &kept).map_err(wrap)?),
        None if spec.kind == TaskType::Reranking => {
            return Err(spec.error("a reranking over a corpus needs candidates: data.files.top_ranked"));
        }
        None => None,
    };
    let all = Texts::new(split, Some("queries"), texts);
    Ok(RankingRows {
        query_ids: kept.iter().map(|&row| ids[row].clone()).collect(),
        queries: all.pick(&kept),
        judged: kept.iter().map(|&row| of_query[row].take().unwrap_or_default()).collect(),
        candidates,
        documents: Documents::Streamed(corpus),
    })
}

fn tables(files: &[PathBuf]) -> impl Iterator<Item = Result<(&PathBuf, Table), DataError>> {
    files.iter().map(|file| Ok((file, Table::read(file)?)))
}

/// Ids and texts of the queries; with an `instruction` column it follows the text.
fn read_queries(files: &[PathBuf]) -> Result<(Vec<String>, Vec<String>), DataError> {
    let (mut ids, mut texts) = (Vec::new(), Vec::new());
    for table in tables(files) {
        let (_, table) = table?;
        ids.extend(table.texts(id_column(&table))?);
        let own = table.texts("text")?;
        if table.has("instruction") {
            let instructions = table.optional_texts("instruction")?;
            texts.extend(own.into_iter().zip(instructions).map(|(text, told)| format!("{text} {told}")));
        } else {
            texts.extend(own);
        }
    }
    let mut seen = HashMap::with_capacity(ids.len());
    for (row, id) in ids.iter().enumerate() {
        if let Some(earlier) = seen.insert(id.as_str(), row) {
            let path = files.first().map_or(Path::new("queries"), PathBuf::as_path);
            let message =
                format!("query id `{id}` is there twice (rows {} and {}): ids must differ", earlier + 1, row + 1);
            return Err(DataError::content(path, message));
        }
    }
    Ok((ids, texts))
}

/// (query, document, grade) in file order.
fn read_judgements(files: &[PathBuf]) -> Result<Vec<(String, String, i64)>, DataError> {
    let mut all = Vec::new();
    for table in tables(files) {
        let (_, table) = table?;
        let (queries, documents) = (table.texts("query-id")?, table.texts("corpus-id")?);
        let grades = table.numbers("score")?;
        all.extend(queries.into_iter().zip(documents).zip(grades).map(|((q, d), grade)| (q, d, grade as i64)));
    }
    Ok(all)
}

/// The candidates of each kept query; none for a query that the files leave out.
fn read_candidates(
    files: &[PathBuf],
    number: &HashMap<&str, u32>,
    ids: &[String],
    kept: &[usize],
) -> Result<Vec<Vec<u32>>, DataError> {
    let mut of_query: HashMap<String, Vec<u32>> = HashMap::new();
    for table in tables(files) {
        let (path, table) = table?;
        let lists = table.text_lists("corpus-ids")?;
        for (row, (query, list)) in table.texts("query-id")?.into_iter().zip(lists).enumerate() {
            let (mut found, mut seen) = (Vec::with_capacity(list.len()), HashSet::with_capacity(list.len()));
            for id in &list {
                let Some(&document) = number.get(id.as_str()) else {
                    let message = format!("row {}: candidate `{id}` of query `{query}` is not in the corpus", row + 1);
                    return Err(DataError::content(path, message));
                };
                if seen.insert(document) {
                    found.push(document);
                }
            }
            of_query.insert(query, found);
        }
    }
    Ok(kept.iter().map(|&row| of_query.remove(&ids[row]).unwrap_or_default()).collect())
}
