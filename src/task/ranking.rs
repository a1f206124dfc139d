//! Retrieval and reranking: how high the judged documents rank among all, or among a query's candidates.

use std::collections::HashMap;

use rayon::prelude::*;
use serde_json::Map;

use super::load::Texts;
use super::protocol::{ProtocolError, Scored, Similarity, check_finite, check_products, mean, number};
use crate::data::corpus::{Corpus, Take};
use crate::data::matrix::Matrix;
use crate::data::table::DataError;
use crate::estimator::search::{Hit, Search, normalised};
use crate::metric::outcomes::Outcomes;
use crate::metric::ranking::{AtCuts, CUTS, QueryScores, confidences, normalised_abstention, query_scores, rounded};

/// Documents kept of each query's ranking.
const KEPT: usize = 1000;

/// Documents to rank.
#[derive(Debug, Clone, PartialEq)]
pub enum Documents {
    /// In memory.
    Listed {
        /// Their ids.
        ids: Vec<String>,
        /// Their texts.
        texts: Texts,
    },
    /// In files, read block by block.
    Streamed(Corpus),
}

impl Documents {
    /// Their ids.
    pub fn ids(&self) -> &[String] {
        match self {
            Self::Listed { ids, .. } => ids,
            Self::Streamed(corpus) => corpus.ids(),
        }
    }

    /// Hands the texts to `take`, at most `size` at a time, with the number of the first.
    ///
    /// # Errors
    /// Those of [`Corpus::blocks`].
    pub fn blocks<E: From<DataError>>(&self, size: usize, take: &mut Take<'_, E>) -> Result<(), E> {
        match self {
            Self::Listed { texts, .. } => {
                texts.texts.chunks(size).enumerate().try_for_each(|(i, block)| take(i * size, block))
            }
            Self::Streamed(corpus) => corpus.blocks(size, take),
        }
    }
}

/// A judged document (none: not in the corpus) and its grade.
pub type Judged = (Option<u32>, i64);

/// The queries of a split, the documents, and what is known of them.
#[derive(Debug, Clone, PartialEq)]
pub struct RankingRows {
    /// Ids of the queries.
    pub query_ids: Vec<String>,
    /// Their texts.
    pub queries: Texts,
    /// The documents.
    pub documents: Documents,
    /// Per query what is judged.
    pub judged: Vec<Vec<Judged>>,
    /// Per query the documents that are ranked; all where there are none given.
    pub candidates: Option<Vec<Vec<u32>>>,
}

impl RankingRows {
    /// Some of the queries.
    pub(super) fn limited(&self, chosen: &[usize]) -> Self {
        Self {
            query_ids: chosen.iter().map(|&at| self.query_ids[at].clone()).collect(),
            queries: self.queries.pick(chosen),
            documents: self.documents.clone(),
            judged: chosen.iter().map(|&at| self.judged[at].clone()).collect(),
            candidates: self.candidates.as_ref().map(|all| chosen.iter().map(|&at| all[at].clone()).collect()),
        }
    }
}

/// Takes the documents' embeddings block by block and ends with every query's ranking.
pub struct Ranker<'a> {
    rows: &'a RankingRows,
    queries: Matrix,
    similarity: Similarity,
    work: Work<'a>,
}

enum Work<'a> {
    All(Search<'a>),
    /// Per document the queries it is a candidate of, and the scores so far.
    Candidates {
        of_document: HashMap<u32, Vec<u32>>,
        hits: Vec<Vec<Hit>>,
    },
}

/// The places of the documents in the order of their ids: of equal scores the larger id ranks first.
pub fn id_ranks(ids: &[String]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.par_sort_unstable_by(|&a, &b| ids[a as usize].as_bytes().cmp(ids[b as usize].as_bytes()));
    let mut ranks = vec![0; ids.len()];
    for (rank, &document) in order.iter().enumerate() {
        ranks[document as usize] = rank as u32;
    }
    ranks
}

impl<'a> Ranker<'a> {
    /// Starts with the queries' embeddings `[queries, dim]`; `ranks` are those of [`id_ranks`].
    ///
    /// # Errors
    /// No queries, or embeddings that are not finite.
    pub fn new(
        rows: &'a RankingRows,
        queries: Matrix,
        similarity: Similarity,
        ranks: &'a [u32],
    ) -> Result<Self, ProtocolError> {
        if queries.rows() == 0 {
            return Err(ProtocolError::Empty { what: "the list of queries" });
        }
        check_finite("the queries", &queries)?;
        let queries = if similarity == Similarity::Cosine { normalised(queries) } else { queries };
        let work = match &rows.candidates {
            None => Work::All(Search::new(queries.rows(), KEPT, ranks)),
            Some(candidates) => {
                let mut of_document: HashMap<u32, Vec<u32>> = HashMap::new();
                for (query, list) in candidates.iter().enumerate() {
                    list.iter().for_each(|&document| of_document.entry(document).or_default().push(query as u32));
                }
                Work::Candidates { of_document, hits: vec![Vec::new(); candidates.len()] }
            }
        };
        Ok(Self { rows, queries, similarity, work })
    }

    /// Whether a document's embedding is needed.
    pub fn wants(&self, document: usize) -> bool {
        match &self.work {
            Work::All(_) => true,
            Work::Candidates { of_document, .. } => of_document.contains_key(&(document as u32)),
        }
    }

    /// Takes the embeddings of some documents `[documents.len(), dim]`. Where all documents are ranked, they must follow
    /// each other.
    ///
    /// # Errors
    /// Embeddings that are not finite or of another dimension than the queries'.
    pub fn add(&mut self, documents: &[usize], embeddings: Matrix) -> Result<(), ProtocolError> {
        check_finite("the documents", &embeddings)?;
        if embeddings.rows() > 0 && embeddings.cols() != self.queries.cols() {
            let (left, right) = (self.queries.cols(), embeddings.cols());
            return Err(ProtocolError::DimensionMismatch { what: "queries and documents", left, right });
        }
        let embeddings = if self.similarity == Similarity::Cosine { normalised(embeddings) } else { embeddings };
        let queries = &self.queries;
        check_products(queries, &embeddings)?;
        match &mut self.work {
            Work::All(search) => search
                .add(queries, &embeddings, documents.first().copied().unwrap_or_default())
                .map_err(|source| ProtocolError::Estimator { what: "the search".into(), source }),
            Work::Candidates { of_document, hits } => {
                for (at, &document) in documents.iter().enumerate() {
                    for &query in of_document.get(&(document as u32)).into_iter().flatten() {
                        let pairs = queries.row(query as usize).iter().zip(embeddings.row(at));
                        let score = pairs.map(|(&q, &d)| f64::from(q) * f64::from(d)).sum::<f64>() as f32;
                        hits[query as usize].push(Hit { score, document: document as u32 });
                    }
                }
                Ok(())
            }
        }
    }

    /// Every query's ranking, best first; of equal scores the larger id.
    pub fn finish(self, ranks: &[u32], ignore_identical_ids: bool) -> Vec<Vec<Hit>> {
        let mut all = match self.work {
            Work::All(search) => search.finish(),
            Work::Candidates { mut hits, .. } => {
                let rank = |hit: &Hit| ranks[hit.document as usize];
                for list in &mut hits {
                    list.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then_with(|| rank(b).cmp(&rank(a))));
                    list.truncate(KEPT);
                }
                hits
            }
        };
        if ignore_identical_ids {
            let ids = self.rows.documents.ids();
            for (list, query) in all.iter_mut().zip(&self.rows.query_ids) {
                list.retain(|hit| ids[hit.document as usize] != *query);
            }
        }
        all
    }
}

/// Scores rankings (best first) against the judgements of `rows`; the main score is `metric` (`ndcg_at_10`, …).
///
/// Outcomes: the metric of every query.
///
/// # Errors
/// A metric that is none of those computed.
pub fn score(rows: &RankingRows, rankings: &[Vec<Hit>], metric: &str) -> Result<Scored, ProtocolError> {
    let per_query: Vec<QueryScores> = rankings
        .par_iter()
        .zip(&rows.judged)
        .map(|(ranking, judged)| {
            let known: HashMap<u32, i64> =
                judged.iter().filter_map(|(document, grade)| Some(((*document)?, *grade))).collect();
            let grades: Vec<i64> = ranking.iter().map(|hit| known.get(&hit.document).copied().unwrap_or(0)).collect();
            let all: Vec<i64> = judged.iter().map(|(_, grade)| *grade).collect();
            query_scores(&grades, &all)
        })
        .collect();
    let confidence: Vec<[f64; 3]> = rankings
        .par_iter()
        .map(|ranking| confidences(&ranking.iter().map(|hit| f64::from(hit.score)).collect::<Vec<_>>()))
        .collect();
    let stems: Vec<&'static str> = QueryScores::default().named().iter().map(|(stem, _)| *stem).collect();
    let column =
        |stem: usize, cut: usize| -> Vec<f64> { per_query.iter().map(|scores| at(scores, stem)[cut]).collect() };
    let mut scores = Map::new();
    let mut main = None;
    for (stem, name) in stems.iter().enumerate() {
        for (cut, k) in CUTS.iter().enumerate() {
            let values = column(stem, cut);
            // mteb rounds all of these but the reciprocal ranks.
            let value = if *name == "mrr" { mean(&values) } else { rounded(mean(&values)) };
            let key = format!("{name}_at_{k}");
            scores.insert(key.clone(), number(value));
            if key == metric {
                main = Some((value, values));
            }
        }
    }
    scores.insert("accuracy".into(), scores.get("recall_at_1").cloned().unwrap_or_default());
    let curves: Vec<(String, f64)> = stems
        .par_iter()
        .enumerate()
        .filter(|(_, name)| **name != "hit_rate")
        .flat_map_iter(|(stem, name)| {
            let confidence = &confidence;
            (0..CUTS.len()).flat_map(move |cut| {
                let values = column(stem, cut);
                ["max", "std", "diff1"].into_iter().enumerate().map(move |(kind, word)| {
                    let by: Vec<f64> = confidence.iter().map(|c| c[kind]).collect();
                    let value = normalised_abstention(&by, &values).unwrap_or(f64::NAN);
                    (format!("nauc_{name}_at_{}_{word}", CUTS[cut]), value)
                })
            })
        })
        .collect();
    scores.extend(curves.into_iter().map(|(key, value)| (key, number(value))));
    let (main_score, values) = main.ok_or_else(|| ProtocolError::UnknownMetric { metric: metric.into() })?;
    scores.insert("main_score".into(), number(main_score));
    Ok(Scored { main_score, metric: metric.into(), scores, outcomes: Outcomes::PerExample(values) })
}

fn at(scores: &QueryScores, stem: usize) -> &AtCuts {
    match stem {
        0 => &scores.ndcg,
        1 => &scores.map,
        2 => &scores.recall,
        3 => &scores.precision,
        4 => &scores.mrr,
        _ => &scores.hit_rate,
    }
}
