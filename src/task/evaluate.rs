//! A task's data, an encoder, scores: embeddings are made once and shared by all protocol seeds.

use std::collections::BTreeMap;

use super::clustering::{self, Set};
use super::label::Label;
use super::load::TaskData;
use super::protocol::{Protocol, ProtocolError, Scored, Similarity};
use super::spec::{Split, TaskError, TaskSpec};
use super::{classification, multilabel, sts};
use crate::data::matrix::Matrix;

/// What turns a task's texts into embeddings; implemented where models are known.
pub trait TextEncoder {
    /// Embeddings of the texts of `task`, `[texts, dim]`, with the prompt that the task asks for.
    ///
    /// # Errors
    /// Whatever stops the encoder.
    fn encode(&self, task: &TaskSpec, texts: &[&str]) -> Result<Matrix, Box<dyn std::error::Error + Send + Sync>>;

    /// The similarity that the model declares.
    fn similarity(&self) -> Similarity;
}

/// Scores of a task on one side.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Scores by protocol seed, the first one first; a single entry where the type draws nothing.
    pub seeds: Vec<(u32, Scored)>,
    /// Rows evaluated.
    pub rows: usize,
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
    let context = Context { spec, split, encoder };
    let seeds = match data {
        TaskData::Sts { first, second, gold } => {
            vec![(seeds.first().copied().unwrap_or(42), context.sts(first, second, gold)?)]
        }
        TaskData::Classification { train, eval } => {
            let draw = |seed| {
                classification::training_rows(
                    &train.1,
                    spec.settings.samples_per_label,
                    spec.settings.n_experiments,
                    seed,
                )
            };
            let experiments = context.draw(seeds, draw)?;
            let (rows, experiments) = union(experiments);
            let (train_matrix, eval_matrix) = context.both(&train.0, &rows, &eval.0)?;
            let labels: Vec<Label> = rows.iter().map(|&i| train.1[i].clone()).collect();
            context.scored(experiments, |e| classification::score(&train_matrix, &labels, e, &eval_matrix, &eval.1))?
        }
        TaskData::Multilabel { train, eval } => {
            let draw = |seed| {
                multilabel::training_rows(&train.1, spec.settings.samples_per_label, spec.settings.n_experiments, seed)
            };
            let experiments = context.draw(seeds, draw)?;
            let (rows, experiments) = union(experiments);
            let (train_matrix, eval_matrix) = context.both(&train.0, &rows, &eval.0)?;
            let labels: Vec<Vec<Label>> = rows.iter().map(|&i| train.1[i].clone()).collect();
            let k = spec.settings.k;
            context.scored(experiments, |e| multilabel::score(&train_matrix, &labels, e, &eval_matrix, &eval.1, k))?
        }
        TaskData::Clustering { texts, labels, max_documents } => {
            context.clustering(texts, labels, *max_documents, seeds, protocol)?
        }
        TaskData::ClusteringSets(sets) => context.sets(sets, seeds, protocol)?,
    };
    Ok(Evaluation { seeds, rows: data.rows() })
}

type Experiments = Vec<(u32, Vec<Vec<usize>>)>;

struct Context<'a> {
    spec: &'a TaskSpec,
    split: Split,
    encoder: &'a dyn TextEncoder,
}

impl Context<'_> {
    fn fail(&self, source: ProtocolError) -> TaskError {
        TaskError::Protocol { task: self.spec.name.clone(), split: self.split.name(), source }
    }

    fn encode(&self, texts: &[&str]) -> Result<Matrix, TaskError> {
        self.encoder
            .encode(self.spec, texts)
            .map_err(|source| TaskError::Encode { task: self.spec.name.clone(), source })
    }

    fn draw(
        &self,
        seeds: &[u32],
        f: impl Fn(u32) -> Result<Vec<Vec<usize>>, ProtocolError>,
    ) -> Result<Experiments, TaskError> {
        seeds.iter().map(|&seed| Ok((seed, f(seed).map_err(|e| self.fail(e))?))).collect()
    }

    fn scored(
        &self,
        experiments: Experiments,
        f: impl Fn(&[Vec<usize>]) -> Result<Scored, ProtocolError>,
    ) -> Result<Vec<(u32, Scored)>, TaskError> {
        experiments.into_iter().map(|(seed, e)| Ok((seed, f(&e).map_err(|e| self.fail(e))?))).collect()
    }

    fn sts(&self, first: &[String], second: &[String], gold: &[f64]) -> Result<Scored, TaskError> {
        let texts: Vec<&str> = first.iter().chain(second).map(String::as_str).collect();
        let all = self.encode(&texts)?;
        let n = first.len();
        let (a, b): (Vec<usize>, Vec<usize>) = ((0..n).collect(), (n..2 * n).collect());
        sts::score(&all.select(&a), &all.select(&b), gold, self.spec.settings.score_range, self.encoder.similarity())
            .map_err(|e| self.fail(e))
    }

    /// Embeddings of some training rows and of all evaluated rows, in one pass of the encoder.
    fn both(&self, train: &[String], rows: &[usize], eval: &[String]) -> Result<(Matrix, Matrix), TaskError> {
        let texts: Vec<&str> = rows.iter().map(|&i| train[i].as_str()).chain(eval.iter().map(String::as_str)).collect();
        let all = self.encode(&texts)?;
        let first: Vec<usize> = (0..rows.len()).collect();
        let second: Vec<usize> = (rows.len()..texts.len()).collect();
        Ok((all.select(&first), all.select(&second)))
    }

    fn clustering(
        &self,
        texts: &[String],
        labels: &[Label],
        max_documents: usize,
        seeds: &[u32],
        protocol: Protocol,
    ) -> Result<Vec<(u32, Scored)>, TaskError> {
        let documents: Vec<_> =
            seeds.iter().map(|&seed| (seed, clustering::document_rows(texts.len(), max_documents, seed))).collect();
        let mut place: BTreeMap<usize, usize> = BTreeMap::new();
        for row in documents.iter().flat_map(|(_, d)| &d.rows) {
            let next = place.len();
            place.entry(*row).or_insert(next);
        }
        let mut order = vec![0; place.len()];
        place.iter().for_each(|(&row, &at)| order[at] = row);
        let wanted: Vec<&str> = order.iter().map(|&i| texts[i].as_str()).collect();
        let all = self.encode(&wanted)?;
        let s = &self.spec.settings;
        documents
            .into_iter()
            .map(|(seed, mut documents)| {
                let rows: Vec<usize> = documents.rows.iter().filter_map(|row| place.get(row).copied()).collect();
                let labels: Vec<Label> = documents.rows.iter().map(|&row| labels[row].clone()).collect();
                let settings = clustering::Settings {
                    experiments: s.n_experiments,
                    sample_size: s.bootstrap_size,
                    batch_size: s.batch_size,
                    seed,
                };
                clustering::score(&all.select(&rows), &labels, &mut documents.random, &settings, protocol)
                    .map(|scored| (seed, scored))
                    .map_err(|e| self.fail(e))
            })
            .collect()
    }

    fn sets(
        &self,
        sets: &[(Vec<String>, Vec<Label>)],
        seeds: &[u32],
        protocol: Protocol,
    ) -> Result<Vec<(u32, Scored)>, TaskError> {
        let mut texts: Vec<&str> = Vec::new();
        let mut wanted = Vec::with_capacity(sets.len());
        for (sentences, labels) in sets {
            // A set with one label scores 1 without being encoded.
            let rows = if clustering::is_trivial(labels) {
                Vec::new()
            } else {
                texts.extend(sentences.iter().map(String::as_str));
                (texts.len() - sentences.len()..texts.len()).collect()
            };
            wanted.push(Set { rows, labels: labels.clone() });
        }
        let all = self.encode(&texts)?;
        seeds
            .iter()
            .map(|&seed| {
                clustering::score_sets(&all, &wanted, seed, protocol)
                    .map(|scored| (seed, scored))
                    .map_err(|e| self.fail(e))
            })
            .collect()
    }
}

/// The training rows that any experiment of any seed uses, ascending, and the experiments in terms of these.
fn union(experiments: Experiments) -> (Vec<usize>, Experiments) {
    let mut rows: Vec<usize> = experiments.iter().flat_map(|(_, e)| e.iter().flatten().copied()).collect();
    rows.sort_unstable();
    rows.dedup();
    let renumbered = experiments
        .into_iter()
        .map(|(seed, e)| {
            let e = e
                .into_iter()
                .map(|list| list.into_iter().filter_map(|row| rows.binary_search(&row).ok()).collect())
                .collect();
            (seed, e)
        })
        .collect();
    (rows, renumbered)
}
