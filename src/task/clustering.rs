//! Clustering: mini-batch k-means with the true number of clusters, against the gold labels.

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::label::Label;
use super::protocol::{
    Protocol, ProtocolError, Scored, check_finite, check_lengths, class_numbers, distinct, mean, number, std_dev,
};
use super::spec::Estimator;
use crate::data::matrix::Matrix;
use crate::data::random::PythonRandom;
use crate::estimator::mini_batch_k_means::{self, Settings as KMeans};
use crate::estimator::{EstimatorError, linfa};
use crate::metric::clustering::{adjusted_mutual_information, v_measure};
use crate::metric::outcomes::Outcomes;

const MAIN: &str = "v_measure";
const EPOCHS: usize = 100;
/// Batch size of mteb's class for sets.
const SET_BATCH: usize = 500;

/// The settings of a flat clustering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bootstrap samples clustered.
    pub experiments: usize,
    /// Rows of a bootstrap sample.
    pub sample_size: usize,
    /// Rows of a mini-batch.
    pub batch_size: usize,
    /// Seed of every k-means fit.
    pub seed: u32,
    /// Whose k-means.
    pub estimator: Estimator,
}

impl Default for Settings {
    /// mteb's settings for RuMTEB.
    fn default() -> Self {
        Self { experiments: 10, sample_size: 16384, batch_size: 512, seed: 42, estimator: Estimator::Own }
    }
}

/// Rows of a split in the order in which they are encoded: `max_documents` of `n`, or all of them permuted where there are
/// not more. `random` goes on to draw the bootstrap samples, and the documents of a next split.
pub fn document_rows(n: usize, max_documents: usize, random: &mut PythonRandom) -> Vec<usize> {
    random.sample(n, max_documents)
}

/// Which rows each experiment clusters, and the cluster of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Rows of the embeddings, with repeats.
    pub rows: Vec<usize>,
    /// The cluster of each of `rows`.
    pub clusters: Vec<usize>,
}

/// Clusters a bootstrap sample of `embeddings` `[documents, dim]` for every experiment, experiments in parallel; `labels`
/// are those of the documents, whose distinct number is the number of clusters.
///
/// # Errors
/// Empty or unequal inputs, embeddings that are not finite, one label only, a setting of 0, or more labels than rows of a
/// sample.
pub fn assign(
    embeddings: &Matrix,
    labels: &[Label],
    random: &mut PythonRandom,
    settings: &Settings,
    protocol: Protocol,
) -> Result<Vec<Assignment>, ProtocolError> {
    check_lengths("the split", "documents and their labels", embeddings.rows(), labels.len())?;
    check_finite("the documents", embeddings)?;
    let sizes = [
        ("n_experiments", settings.experiments),
        ("bootstrap_size", settings.sample_size),
        ("batch_size", settings.batch_size),
    ];
    if let Some(&(name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
        return Err(ProtocolError::ZeroSetting { name });
    }
    let classes = distinct(labels);
    if let [only] = &classes[..] {
        return Err(ProtocolError::OneClass { what: "the split".to_owned(), label: only.clone() });
    }
    let k_means = KMeans {
        clusters: classes.len(),
        batch_size: settings.batch_size,
        max_epochs: EPOCHS,
        sampler: protocol.batch_sampler(),
        seed: settings.seed,
    };
    let samples: Vec<Vec<usize>> =
        (0..settings.experiments).map(|_| random.choices(embeddings.rows(), settings.sample_size)).collect();
    samples
        .into_par_iter()
        .enumerate()
        .map(|(number, rows)| match fit(embeddings, &rows, &k_means, settings.estimator) {
            Ok(clusters) => Ok(Assignment { rows, clusters }),
            Err(source) => Err(ProtocolError::Estimator { what: format!("experiment {number}"), source }),
        })
        .collect()
}

fn fit(points: &Matrix, rows: &[usize], k_means: &KMeans, estimator: Estimator) -> Result<Vec<usize>, EstimatorError> {
    match estimator {
        Estimator::Own => Ok(mini_batch_k_means::fit(points, rows, k_means)?.labels),
        Estimator::Linfa => linfa::k_means(points, rows, k_means.clusters, k_means.batch_size, k_means.seed),
    }
}

/// Scores all experiments of a flat clustering; the main score is the mean V-measure. `embeddings` and `labels` are in the
/// order of [`document_rows`], whose generator `random` goes on here.
///
/// Outcomes: the V-measure of every experiment.
///
/// # Errors
/// Those of [`assign`].
pub fn score(
    embeddings: &Matrix,
    labels: &[Label],
    random: &mut PythonRandom,
    settings: &Settings,
    protocol: Protocol,
) -> Result<Scored, ProtocolError> {
    let assignments = assign(embeddings, labels, random, settings, protocol)?;
    let classes = class_numbers(labels, &distinct(labels));
    let agreements: Vec<(f64, f64)> = assignments
        .par_iter()
        .map(|assignment| {
            let gold: Vec<usize> = assignment.rows.iter().map(|&row| classes[row]).collect();
            let clusters = &assignment.clusters;
            (v_measure(&gold, clusters).v_measure, adjusted_mutual_information(&gold, clusters))
        })
        .collect();
    let (v_measures, amis): (Vec<f64>, Vec<f64>) = agreements.into_iter().unzip();
    let main_score = mean(&v_measures);
    let mut scores = Map::new();
    scores.insert("v_measures".to_owned(), json!({ "Level 0": v_measures }));
    scores.insert(MAIN.to_owned(), number(main_score));
    scores.insert("v_measure_std".to_owned(), number(std_dev(&v_measures)));
    scores.insert("ami_scores".to_owned(), json!({ "Level 0": amis }));
    scores.insert("ami".to_owned(), number(mean(&amis)));
    scores.insert("ami_std".to_owned(), number(std_dev(&amis)));
    scores.insert("main_score".to_owned(), number(main_score));
    Ok(Scored { main_score, metric: MAIN.into(), scores, outcomes: Outcomes::PerExperiment(v_measures) })
}

/// One set of sentences that is clustered by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// Rows of the embeddings, one a label; not looked at where [`is_trivial`] holds.
    pub rows: Vec<usize>,
    /// The gold labels.
    pub labels: Vec<Label>,
}

/// True for a set with fewer than two distinct labels: it scores 1 and need not be encoded.
pub fn is_trivial(labels: &[Label]) -> bool {
    labels.iter().all(|label| *label == labels[0])
}

/// Scores a clustering of sets: each is clustered into as many clusters as it has labels; the main score is the mean
/// V-measure of the sets. `embeddings` `[sentences, dim]` holds the sentences of all sets.
///
/// Outcomes: the V-measure of every set, as examples.
///
/// # Errors
/// No sets, a set whose rows and labels differ in number, row numbers out of range, or embeddings that are not finite.
pub fn score_sets(
    embeddings: &Matrix,
    sets: &[Set],
    seed: u32,
    protocol: Protocol,
    estimator: Estimator,
) -> Result<Scored, ProtocolError> {
    if sets.is_empty() {
        return Err(ProtocolError::Empty { what: "the split" });
    }
    check_finite("the sentences", embeddings)?;
    let k_means =
        KMeans { clusters: 0, batch_size: SET_BATCH, max_epochs: EPOCHS, sampler: protocol.batch_sampler(), seed };
    let of_set = |(number, set)| score_set(number, set, embeddings, &k_means, estimator);
    let v_measures: Result<Vec<f64>, ProtocolError> = sets.par_iter().enumerate().map(of_set).collect();
    let v_measures = v_measures?;
    let main_score = mean(&v_measures);
    let mut scores = Map::new();
    scores.insert(MAIN.to_owned(), number(main_score));
    scores.insert("v_measure_std".to_owned(), number(std_dev(&v_measures)));
    scores.insert("v_measures".to_owned(), Value::from(v_measures.clone()));
    scores.insert("main_score".to_owned(), number(main_score));
    Ok(Scored { main_score, metric: MAIN.into(), scores, outcomes: Outcomes::PerExample(v_measures) })
}

fn score_set(
    number: usize,
    set: &Set,
    embeddings: &Matrix,
    k_means: &KMeans,
    estimator: Estimator,
) -> Result<f64, ProtocolError> {
    if is_trivial(&set.labels) {
        return Ok(1.0);
    }
    check_lengths("a set", "a set's sentences and their labels", set.rows.len(), set.labels.len())?;
    if let Some(&row) = set.rows.iter().find(|&&row| row >= embeddings.rows()) {
        return Err(ProtocolError::RowOutOfRange { what: "a set", row, rows: embeddings.rows() });
    }
    let classes = distinct(&set.labels);
    let settings = KMeans { clusters: classes.len(), ..*k_means };
    let points = embeddings.select(&set.rows);
    let all: Vec<usize> = (0..points.rows()).collect();
    let clusters = fit(&points, &all, &settings, estimator)
        .map_err(|source| ProtocolError::Estimator { what: format!("set {number}"), source })?;
    Ok(v_measure(&class_numbers(&set.labels, &classes), &clusters).v_measure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[i64]) -> Vec<Label> {
        values.iter().map(|&value| value.into()).collect()
    }

    #[test]
    fn sets_with_one_label_score_one_and_clear_sets_are_found() {
        let embeddings = Matrix::new(6, 1, vec![0.0, 0.1, 0.2, 9.0, 9.1, 9.2]).unwrap();
        let sets = [
            Set { rows: (0..6).collect(), labels: labels(&[4, 4, 4, 2, 2, 2]) },
            Set { rows: vec![], labels: labels(&[1, 1]) },
            Set { rows: vec![0, 3], labels: labels(&[1, 2]) },
            Set { rows: vec![], labels: vec![] },
        ];
        let scored = score_sets(&embeddings, &sets, 42, Protocol::Sklearn19, Estimator::Own).unwrap();
        let Outcomes::PerExample(v_measures) = scored.outcomes else { panic!("sets are examples") };
        assert_eq!(v_measures.len(), 4);
        assert!(v_measures.iter().all(|v_measure| (v_measure - 1.0).abs() < 1e-12));
    }

    #[test]
    fn what_cannot_be_scored_is_named() {
        let embeddings = Matrix::new(2, 1, vec![0.0, 1.0]).unwrap();
        let run = |embeddings: &Matrix, labels: &[Label], settings: Settings| {
            score(embeddings, labels, &mut PythonRandom::new(42), &settings, Protocol::Sklearn19)
        };
        let settings = Settings { sample_size: 16, ..Settings::default() };
        assert!(run(&embeddings, &labels(&[0, 1]), settings).is_ok());
        assert!(matches!(run(&embeddings, &labels(&[1, 1]), settings), Err(ProtocolError::OneClass { .. })));
        assert!(matches!(run(&embeddings, &labels(&[1]), settings), Err(ProtocolError::LengthMismatch { .. })));
        let tiny = Settings { sample_size: 1, ..settings };
        assert!(matches!(run(&embeddings, &labels(&[0, 1]), tiny), Err(ProtocolError::Estimator { .. })));
        let broken = Matrix::new(2, 1, vec![0.0, f32::NAN]).unwrap();
        let result = run(&broken, &labels(&[0, 1]), settings);
        assert!(matches!(result, Err(ProtocolError::NotFiniteEmbedding { row: 1, .. })));
        let set = Set { rows: vec![0], labels: labels(&[0, 1]) };
        let result = score_sets(&embeddings, &[set], 42, Protocol::Sklearn19, Estimator::Own);
        assert!(matches!(result, Err(ProtocolError::LengthMismatch { .. })));
    }
}
