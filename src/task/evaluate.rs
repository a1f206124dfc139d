//! A task's data, an encoder, scores: embeddings are made once and shared by all protocol seeds.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

use super::bitext_mining::{self, Miner};
use super::clustering::{self, Set};
use super::label::Label;
use super::load::{Labelled, SplitRows, TaskData, Texts};
use super::protocol::{Protocol, ProtocolError, Scored, Similarity, ranked_by};
use super::ranking::{self, Documents, Ranker, RankingRows};
use super::spec::{Split, TaskError, TaskSpec};
use super::{classification, multilabel, pair_classification, sts};
use crate::data::matrix::Matrix;
use crate::data::random::{Generator, PythonRandom};
use crate::data::table::DataError;
use crate::metric::outcomes::Outcomes;

/// The side of an asymmetric task that a text is on (mteb's `prompt_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A query.
    Query,
    /// A document.
    Document,
}

/// Texts to be encoded, and where they stand in the task's data.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// The split.
    pub split: &'a str,
    /// The role of the column where a row has several texts; `queries` and `documents` of a ranking.
    pub column: Option<&'static str>,
    /// The side, where the task has sides.
    pub side: Option<Side>,
    /// Rows that the split (or the corpus) has.
    pub total: usize,
    /// Rows of the texts among these.
    pub rows: Vec<usize>,
    /// The texts; empty where the encoder needs none.
    pub texts: Vec<&'a str>,
    /// Whether the texts pass by once and need not be kept in memory.
    pub streamed: bool,
}

impl<'a> Part<'a> {
    fn of(texts: &'a Texts, side: Option<Side>) -> Self {
        Self {
            split: &texts.split,
            column: texts.column,
            side,
            total: texts.total,
            rows: texts.rows.clone(),
            texts: texts.texts.iter().map(String::as_str).collect(),
            streamed: false,
        }
    }

    fn some(texts: &'a Texts, chosen: &[usize]) -> Self {
        Self {
            split: &texts.split,
            column: texts.column,
            side: None,
            total: texts.total,
            rows: chosen.iter().map(|&at| texts.rows[at]).collect(),
            texts: chosen.iter().map(|&at| texts.texts[at].as_str()).collect(),
            streamed: false,
        }
    }
}

/// What encoders fail with.
pub type EncodeError = Box<dyn std::error::Error + Send + Sync>;

/// What turns a task's texts into embeddings; implemented where models are known.
pub trait TextEncoder {
    /// Embeddings of each part's texts, `[texts, dim]`, with the prompts that the task and the sides ask for.
    ///
    /// # Errors
    /// Whatever stops the encoder.
    fn encode(&self, task: &TaskSpec, parts: &[Part<'_>]) -> Result<Vec<Matrix>, EncodeError>;

    /// The similarity that the model declares.
    fn similarity(&self) -> Similarity;

    /// Whether the texts of a corpus must be read; not for embeddings made elsewhere.
    fn needs_texts(&self) -> bool {
        true
    }
}

/// A task's scores by one protocol seed.
#[derive(Debug, Clone)]
pub struct SeedScores {
    /// The seed.
    pub seed: u32,
    /// The main score: the mean over the splits.
    pub main_score: f64,
    /// What the main score is made of.
    pub outcomes: Outcomes,
    /// The scores of each split.
    pub splits: Vec<(String, Scored)>,
}

/// Scores of a task on one side.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Scores by protocol seed, the first one first; a single entry where the type draws nothing.
    pub seeds: Vec<SeedScores>,
    /// Rows evaluated.
    pub rows: usize,
    /// Seconds in the encoder, and in all else.
    pub seconds: (f64, f64),
}

/// mteb's seed, then 0, 1, 2 …: the seeds that `golden/noise_floor.json` uses.
pub fn protocol_seeds(n: usize, first: u32) -> Vec<u32> {
    std::iter::once(first).chain((0..).filter(|s| *s != first)).take(n.max(1)).collect()
}

/// Scores `data`, the rows of `spec` on one side.
///
/// # Errors
/// Where the encoder fails or the protocol cannot be followed on this data.
pub fn evaluate(
    spec: &TaskSpec,
    split: Split,
    data: &TaskData,
    encoder: &dyn TextEncoder,
    seeds: &[u32],
    protocol: Protocol,
) -> Result<Evaluation, TaskError> {
    let start = Instant::now();
    let context = Context { spec, split, encoder, protocol, encoding: Cell::new(0.0) };
    let mut draws: Vec<Draws> = seeds.iter().map(|&seed| Draws::new(seed)).collect();
    let mut by_split: Vec<(String, Vec<Scored>)> = Vec::with_capacity(data.splits.len());
    for (name, rows) in &data.splits {
        by_split.push((name.clone(), context.split(rows, &mut draws)?));
    }
    let entries = by_split.iter().map(|(_, scored)| scored.len()).min().unwrap_or(0);
    let all = (0..entries).map(|at| {
        let splits: Vec<(String, Scored)> =
            by_split.iter().map(|(name, scored)| (name.clone(), scored[at].clone())).collect();
        let main_score = splits.iter().map(|(_, s)| s.main_score).sum::<f64>() / splits.len() as f64;
        let outcomes = match &splits[..] {
            [(_, only)] => only.outcomes.clone(),
            several => Outcomes::Splits(several.iter().map(|(_, s)| s.outcomes.clone()).collect()),
        };
        SeedScores { seed: seeds[at], main_score, outcomes, splits }
    });
    let seeds = all.collect();
    let encoding = context.encoding.get();
    let rest = (start.elapsed().as_secs_f64() - encoding).max(0.0);
    Ok(Evaluation { seeds, rows: data.rows(), seconds: (encoding, rest) })
}

/// The generators of a task object, which go on from split to split.
struct Draws {
    seed: u32,
    multilabel: Generator,
    clustering: PythonRandom,
}

impl Draws {
    fn new(seed: u32) -> Self {
        Self { seed, multilabel: Generator::new(seed), clustering: PythonRandom::new(seed) }
    }
}

type Experiments = Vec<Vec<Vec<usize>>>;

/// Documents read and encoded at a time.
const BLOCK: usize = 32_768;

struct Context<'a> {
    spec: &'a TaskSpec,
    split: Split,
    encoder: &'a dyn TextEncoder,
    protocol: Protocol,
    encoding: Cell<f64>,
}

/// What stops the stream of a corpus.
struct Stop(TaskError);

impl Context<'_> {
    fn fail(&self, source: ProtocolError) -> TaskError {
        TaskError::Protocol { task: self.spec.name.clone(), split: self.split.name(), source }
    }

    fn encode<const N: usize>(&self, parts: [Part<'_>; N]) -> Result<[Matrix; N], TaskError> {
        let start = Instant::now();
        let wrap = |source| TaskError::Encode { task: self.spec.name.clone(), source };
        let matrices = self.encoder.encode(self.spec, &parts).map_err(wrap)?;
        self.encoding.set(self.encoding.get() + start.elapsed().as_secs_f64());
        matrices.try_into().map_err(|_| self.spec.error("the encoder gave another number of matrices than asked for"))
    }

    /// Scores of a split by every seed; one entry where nothing is drawn.
    fn split(&self, rows: &SplitRows, draws: &mut [Draws]) -> Result<Vec<Scored>, TaskError> {
        let s = &self.spec.settings;
        let metric = self.spec.metric.as_str();
        let similarity = self.encoder.similarity();
        match rows {
            SplitRows::Sts { first, second, gold } => {
                let [a, b] = self.encode([Part::of(first, None), Part::of(second, None)])?;
                Ok(vec![sts::score(&a, &b, gold, s.score_range, similarity, metric).map_err(|e| self.fail(e))?])
            }
            SplitRows::Pairs { first, second, positive } => {
                let [a, b] = self.encode([Part::of(first, None), Part::of(second, None)])?;
                let scored = pair_classification::score(&a, &b, positive, similarity, metric);
                Ok(vec![scored.map_err(|e| self.fail(e))?])
            }
            SplitRows::Bitext { first, second } => Ok(vec![self.bitext(first, second)?]),
            SplitRows::Classification { train, eval } => {
                let draw = |d: &mut Draws| {
                    classification::training_rows(&train.labels, s.samples_per_label, s.n_experiments, d.seed)
                };
                self.classifier(train, eval, draws, draw, |train, labels, e, eval, truth| {
                    classification::score(train, labels, e, eval, truth, s.estimator)
                })
            }
            SplitRows::Multilabel { train, eval } => {
                let draw = |d: &mut Draws| {
                    multilabel::training_rows(&train.labels, s.samples_per_label, s.n_experiments, &mut d.multilabel)
                };
                self.classifier(train, eval, draws, draw, |train, labels, e, eval, truth| {
                    multilabel::score(train, labels, e, eval, truth, (s.k, s.estimator))
                })
            }
            SplitRows::Clustering { eval, max_documents } => self.clustering(eval, *max_documents, draws),
            SplitRows::ClusteringSets { texts, sets } => self.sets(texts, sets, draws),
            SplitRows::Ranking(rows) => Ok(vec![self.ranking(rows)?]),
        }
    }

    /// Draws every seed's experiments, encodes the training rows that any of them uses and the evaluated rows, and scores.
    fn classifier<L: Clone>(
        &self,
        train: &Labelled<L>,
        eval: &Labelled<L>,
        draws: &mut [Draws],
        draw: impl Fn(&mut Draws) -> Result<Vec<Vec<usize>>, ProtocolError>,
        score: impl Fn(&Matrix, &[L], &[Vec<usize>], &Matrix, &[L]) -> Result<Scored, ProtocolError>,
    ) -> Result<Vec<Scored>, TaskError> {
        let experiments: Result<Experiments, _> = draws.iter_mut().map(draw).collect();
        let (rows, experiments) = union(experiments.map_err(|e| self.fail(e))?);
        let [train_matrix, eval_matrix] =
            self.encode([Part::some(&train.texts, &rows), Part::of(&eval.texts, None)])?;
        let labels: Vec<L> = rows.iter().map(|&i| train.labels[i].clone()).collect();
        experiments
            .iter()
            .map(|e| {
                score(&train_matrix, &labels, e, &eval_matrix, &eval.labels)
                    .and_then(|scored| ranked_by(scored, &self.spec.metric))
                    .map_err(|e| self.fail(e))
            })
            .collect()
    }

    fn clustering(
        &self,
        eval: &Labelled<Label>,
        max_documents: usize,
        draws: &mut [Draws],
    ) -> Result<Vec<Scored>, TaskError> {
        let n = eval.labels.len();
        let documents: Vec<Vec<usize>> =
            draws.iter_mut().map(|d| clustering::document_rows(n, max_documents, &mut d.clustering)).collect();
        let mut place: BTreeMap<usize, usize> = BTreeMap::new();
        let mut order = Vec::new();
        for &row in documents.iter().flatten() {
            place.entry(row).or_insert_with(|| {
                order.push(row);
                order.len() - 1
            });
        }
        let [all] = self.encode([Part::some(&eval.texts, &order)])?;
        let s = &self.spec.settings;
        documents
            .iter()
            .zip(draws)
            .map(|(documents, draws)| {
                let rows: Vec<usize> = documents.iter().filter_map(|row| place.get(row).copied()).collect();
                let labels: Vec<Label> = documents.iter().map(|&row| eval.labels[row].clone()).collect();
                let settings = clustering::Settings {
                    experiments: s.n_experiments,
                    sample_size: s.bootstrap_size,
                    batch_size: s.batch_size,
                    seed: draws.seed,
                    estimator: s.estimator,
                };
                clustering::score(&all.select(&rows), &labels, &mut draws.clustering, &settings, self.protocol)
                    .map_err(|e| self.fail(e))
            })
            .collect()
    }

    fn sets(&self, texts: &Texts, sets: &[Vec<Label>], draws: &[Draws]) -> Result<Vec<Scored>, TaskError> {
        let (mut chosen, mut wanted, mut start) = (Vec::new(), Vec::with_capacity(sets.len()), 0);
        for labels in sets {
            // A set with one label scores 1 without being encoded.
            let rows = if clustering::is_trivial(labels) {
                Vec::new()
            } else {
                chosen.extend(start..start + labels.len());
                (chosen.len() - labels.len()..chosen.len()).collect()
            };
            start += labels.len();
            wanted.push(Set { rows, labels: labels.clone() });
        }
        let [all] = self.encode([Part::some(texts, &chosen)])?;
        let estimator = self.spec.settings.estimator;
        draws
            .iter()
            .map(|d| clustering::score_sets(&all, &wanted, d.seed, self.protocol, estimator).map_err(|e| self.fail(e)))
            .collect()
    }

    fn bitext(&self, first: &Texts, second: &Texts) -> Result<Scored, TaskError> {
        let similarity = self.encoder.similarity();
        let [sentences] = self.encode([Part::of(first, None)])?;
        let order = bitext_mining::order(second.len());
        let mut miner = Miner::new(sentences, similarity, &order).map_err(|e| self.fail(e))?;
        let all: Vec<usize> = (0..second.len()).collect();
        for chosen in all.chunks(BLOCK) {
            let part = Part { streamed: second.len() > BLOCK, ..Part::some(second, chosen) };
            let [block] = self.encode([part])?;
            miner.add(chosen[0], block).map_err(|e| self.fail(e))?;
        }
        bitext_mining::score(&miner.finish(), &self.spec.metric).map_err(|e| self.fail(e))
    }

    fn ranking(&self, rows: &RankingRows) -> Result<Scored, TaskError> {
        let [queries] = self.encode([Part::of(&rows.queries, Some(Side::Query))])?;
        let ids = rows.documents.ids();
        let ranks = ranking::id_ranks(ids);
        let mut ranker = Ranker::new(rows, queries, self.encoder.similarity(), &ranks).map_err(|e| self.fail(e))?;
        let mut filled = !self.encoder.needs_texts();
        let mut take = |first: usize, count: usize, texts: &[String]| -> Result<(), TaskError> {
            let documents: Vec<usize> = (first..first + count).filter(|&d| ranker.wants(d)).collect();
            filled |= texts.iter().any(|text| !text.is_empty());
            let part = Part {
                split: &rows.queries.split,
                column: Some("documents"),
                side: Some(Side::Document),
                total: ids.len(),
                texts: documents.iter().filter_map(|d| texts.get(d - first)).map(String::as_str).collect(),
                rows: documents,
                streamed: ids.len() > BLOCK,
            };
            let documents = part.rows.clone();
            let [block] = self.encode([part])?;
            ranker.add(&documents, block).map_err(|e| self.fail(e))
        };
        if self.encoder.needs_texts() || matches!(rows.documents, Documents::Listed { .. }) {
            let mut texts = |first: usize, texts: &[String]| take(first, texts.len(), texts).map_err(Stop);
            rows.documents.blocks(BLOCK, &mut texts).map_err(|stop: Stop| match stop.0 {
                TaskError::Data { source, .. } => TaskError::Data { task: self.spec.name.clone(), source },
                other => other,
            })?;
        } else {
            for first in (0..ids.len()).step_by(BLOCK) {
                take(first, BLOCK.min(ids.len() - first), &[])?;
            }
        }
        if !filled {
            return Err(self.fail(ProtocolError::EmptyTexts { documents: ids.len() }));
        }
        let rankings = ranker.finish(&ranks, self.spec.settings.ignore_identical_ids);
        ranking::score(rows, &rankings, &self.spec.metric).map_err(|e| self.fail(e))
    }
}

impl From<DataError> for Stop {
    fn from(source: DataError) -> Self {
        Self(TaskError::Data { task: String::new(), source })
    }
}

/// The training rows that any experiment of any seed uses, ascending, and the experiments in terms of these.
fn union(experiments: Experiments) -> (Vec<usize>, Experiments) {
    let mut rows: Vec<usize> = experiments.iter().flatten().flatten().copied().collect();
    rows.sort_unstable();
    rows.dedup();
    let place = |list: Vec<usize>| list.into_iter().filter_map(|row| rows.binary_search(&row).ok()).collect();
    let renumbered = experiments.into_iter().map(|of_seed| of_seed.into_iter().map(place).collect()).collect();
    (rows, renumbered)
}
