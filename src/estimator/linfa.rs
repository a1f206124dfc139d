//! linfa's estimators beside our own, for comparison: none is the default, because mteb's numbers are scikit-learn's.
//!
//! On the golden data linfa's nearest neighbours give mteb's label sets exactly (ties may differ elsewhere); its logistic
//! regression goes on past the point where scikit-learn stops and predicts up to 0.13 % of a task's rows differently; its
//! k-means draws other numbers and finds other clusters. All are four to eight times slower than ours.
//!
//! Inputs that make linfa panic or run forever are refused before it sees them.

use linfa::traits::{Fit, FitWith, Predict};
use linfa::{DatasetBase, ParamGuard};
use linfa_clustering::{IncrKMeansError, KMeans};
use linfa_logistic::{LogisticRegression, MultiLogisticRegression};
use linfa_nn::distance::L2Dist;
use linfa_nn::{LinearSearch, NearestNeighbour};
use ndarray::{Array1, Array2};
use rand_xoshiro::Xoshiro256Plus;
use rand_xoshiro::rand_core::SeedableRng;

use super::EstimatorError;
use super::mini_batch_k_means::Stopping;
use crate::data::matrix::Matrix;
use crate::data::random::RandomState;

const LOGISTIC_REGRESSION: &str = "logistic regression";
const K_MEANS: &str = "k-means";
const K_NEAREST: &str = "k-nearest neighbours";

/// linfa adds α/2·‖W‖² to the sum of the losses, as scikit-learn does for C = 1/α.
const ALPHA: f64 = 1.0;
const ITERATIONS: u64 = 100;
const EPOCHS: usize = 100;
/// linfa's line search has run forever on rows of a length of 2e4 and more, and nothing interrupts it.
const LONGEST_ROW: f64 = 1000.0;
/// Rows widened and labelled at a time.
const BLOCK: usize = 1024;

/// The class number of each row of `queries` `[n, dim]` by linfa's logistic regression on `train` `[m, dim]` with `labels`
/// `[m]` below `classes`: binomial where two classes have rows, otherwise multinomial.
///
/// The objective is that of [`super::logistic_regression`], in `f64` with at most 100 iterations, but linfa stops at a
/// Euclidean norm of 1e-4 of the gradient of the sum of the losses instead of a largest component of 1e-4 of that of their
/// mean. So its decision values end about 1e-5 from the optimum and 1e-3 to 7e-2 from scikit-learn's, which stops short.
/// Measured on the golden data:
///
/// | case | rows predicted as by scikit-learn | accuracy, linfa | accuracy, mteb and ours |
/// |---|---|---|---|
/// | `cls_5class` | 20454 of 20480 | 0.611963 | 0.612256 |
/// | `cls_binary` | 14988 of 15000 | 0.743867 | 0.743867 |
/// | `cls_3class_seed7` | 8995 of 9000 | 0.641556 | 0.642111 |
/// | `cls_18class_two_splits` | 15999 of 16000 | 0.731381 | 0.731381 |
///
/// For three and more classes linfa takes the largest score of all rows out of the logarithm of the sum of exponentials and
/// cuts what is left at 1e-15, so rows whose scores are lower by 35 get a wrong loss: normalise long rows.
///
/// # Errors
/// Labels that do not fit the rows, fewer than two classes, dimensions that differ or are 0, values that are not finite, a
/// training row longer than 1000, or a fit that does not leave its start.
pub fn logistic_regression(
    train: &Matrix,
    labels: &[usize],
    classes: usize,
    queries: &Matrix,
) -> Result<Vec<usize>, EstimatorError> {
    if labels.is_empty() || labels.len() != train.rows() || labels.iter().any(|&label| label >= classes) {
        return Err(EstimatorError::Labels { rows: train.rows(), labels: labels.len() });
    }
    let mut present = labels.to_vec();
    present.sort_unstable();
    present.dedup();
    if present.len() < 2 {
        return Err(EstimatorError::TooFewClasses { classes: present.len() });
    }
    same_dimension(train, queries)?;
    let queries = table(queries, LOGISTIC_REGRESSION)?;
    let train = table(train, LOGISTIC_REGRESSION)?;
    if train.rows().into_iter().any(|row| row.dot(&row) > LONGEST_ROW * LONGEST_ROW) {
        return Err(linfa(LOGISTIC_REGRESSION, format!("a training row is longer than {LONGEST_ROW}")));
    }
    let train = DatasetBase::new(train, Array1::from(labels.to_vec()));
    let failed = |error| linfa(LOGISTIC_REGRESSION, error);
    let predicted: Array1<usize> = if present.len() == 2 {
        let settings = LogisticRegression::default().alpha(ALPHA).max_iterations(ITERATIONS);
        let model = settings.fit(&train).map_err(failed)?;
        usable(model.params().iter().chain([&model.intercept()]))?;
        model.predict(&queries)
    } else {
        let settings = MultiLogisticRegression::default().alpha(ALPHA).max_iterations(ITERATIONS);
        let model = settings.fit(&train).map_err(failed)?;
        usable(model.params().iter().chain(model.intercept()))?;
        model.predict(&queries)
    };
    Ok(predicted.to_vec())
}

/// A line search that fails at once leaves the start, all zeros, without an error; numbers that are none make linfa panic
/// later.
fn usable<'a>(mut parameters: impl Iterator<Item = &'a f64> + Clone) -> Result<(), EstimatorError> {
    if parameters.clone().any(|value| !value.is_finite()) {
        return Err(EstimatorError::NotFinite { estimator: LOGISTIC_REGRESSION });
    }
    if parameters.all(|&value| value == 0.0) {
        return Err(linfa(
            LOGISTIC_REGRESSION,
            "the fit did not leave its start: the rows do not tell the classes apart",
        ));
    }
    Ok(())
}

/// The cluster of each of the `rows` of `points` `[m, dim]`, repeats allowed, by linfa's incremental k-means: linfa's
/// k-means++ on the first batch, its mini-batch steps in `f64`, and scikit-learn's rule for when to stop, after 100 passes
/// over the rows at most.
///
/// Batches of `batch_size` rows are drawn with repeats by NumPy's `RandomState(seed)`, all rows where there are no more;
/// the first has at least three times as many rows as there are clusters. k-means++ draws from xoshiro256+ with the same
/// seed, so equal arguments give equal clusters.
///
/// Not the default because clusters are a matter of the draws: linfa tries one candidate a centre where scikit-learn tries
/// several, has another generator, never moves a centre that has seen almost nothing, and counts the rows of the first batch
/// like any other. V-measure on the golden data, the mean of ten samples:
///
/// | case | linfa | linfa, Lloyd's `fit` | mteb and ours | deviation of mteb's ten |
/// |---|---|---|---|---|
/// | `clu_10_full` | 0.6044 | 0.6634 | 0.6158 | 0.0275 |
/// | `clu_14_subsampled` | 0.4810 | 0.4903 | 0.4639 | 0.0416 |
/// | `clu_50_strings` | 0.5311 | 0.5685 | 0.5365 | 0.0176 |
/// | `clu_8_seed7` | 0.6119 | 0.6700 | 0.6486 | 0.0370 |
///
/// Lloyd's algorithm on all rows finds better clusters and so, in three of four cases, is further from mteb, in four to ten times the time of the
/// mini-batches.
///
/// # Errors
/// No cluster, an empty batch, fewer rows than clusters, a row number out of range, rows of dimension 0, or values that are
/// not finite.
pub fn k_means(
    points: &Matrix,
    rows: &[usize],
    clusters: usize,
    batch_size: usize,
    seed: u32,
) -> Result<Vec<usize>, EstimatorError> {
    let n = rows.len();
    if clusters == 0 || batch_size == 0 || n < clusters {
        return Err(EstimatorError::TooFewRows { estimator: K_MEANS, needed: clusters.max(1), rows: n });
    }
    if let Some(&row) = rows.iter().find(|&&row| row >= points.rows()) {
        return Err(EstimatorError::TooFewRows { estimator: K_MEANS, needed: row + 1, rows: points.rows() });
    }
    let settings = KMeans::params_with(clusters, Xoshiro256Plus::seed_from_u64(u64::from(seed)), L2Dist).n_runs(1);
    let settings = settings.check().map_err(|error| linfa(K_MEANS, error))?;
    let mut random = RandomState::new(seed);
    let batch_size = batch_size.min(n);
    let mut draw = |size: usize| -> Vec<usize> {
        if size < n { random.randint(n, size).into_iter().map(|at| rows[at]).collect() } else { rows.to_vec() }
    };
    // linfa starts from rows of the first batch, so this one has enough of them.
    let mut batch = draw(batch_size.max(clusters.saturating_mul(3)));
    let mut model = None;
    let mut stopping = Stopping::new(batch_size, n);
    for _ in 0..(EPOCHS.saturating_mul(n) / batch_size).max(1) {
        let records = DatasetBase::from(table(&points.select(&batch), K_MEANS)?);
        let next = match settings.fit_with(model.take(), &records) {
            Ok(converged) => {
                model = Some(converged);
                break;
            }
            Err(IncrKMeansError::NotConverged(next)) => next,
            Err(error) => return Err(linfa(K_MEANS, error)),
        };
        let stop = stopping.after_step(next.inertia());
        model = Some(next);
        if stop {
            break;
        }
        batch = draw(batch_size);
    }
    let model = model.ok_or_else(|| linfa(K_MEANS, "no batch was processed"))?;
    let mut labels = Vec::with_capacity(n);
    for block in rows.chunks(BLOCK) {
        let of_block: Array1<usize> = model.predict(&table(&points.select(block), K_MEANS)?);
        labels.extend(of_block);
    }
    Ok(labels)
}

/// The 0/1 labels of each row of `queries` `[n, dim]`, row-major `[n, columns]`: every column by majority of the `k` rows of
/// `rows` `[m, dim]` that linfa's linear search in `f64` finds nearest in Euclidean distance; an even split votes 0.
///
/// `labels` is row-major `[m, columns]` of 0 and 1. Equal to [`super::k_nearest::vote`] and to scikit-learn in every cell of
/// `ml_18label` and `ml_5label` (213000). Not the default because linfa leaves open which of equally distant rows is nearer,
/// where ours takes the earlier one (on integer grids full of ties 14 % of the cells differ), and because it computes every
/// distance by itself and sorts a heap of all rows for each query, four to eight times slower.
///
/// # Errors
/// Fewer than `k` rows, `k = 0`, labels that do not fit the rows, dimensions that differ or are 0, or values that are not
/// finite.
pub fn k_nearest_vote(
    rows: &Matrix,
    labels: &[u8],
    columns: usize,
    queries: &Matrix,
    k: usize,
) -> Result<Vec<u8>, EstimatorError> {
    let m = rows.rows();
    if k == 0 || m < k {
        return Err(EstimatorError::TooFewRows { estimator: K_NEAREST, needed: k.max(1), rows: m });
    }
    same_dimension(rows, queries)?;
    if Some(labels.len()) != m.checked_mul(columns) {
        return Err(EstimatorError::Labels { rows: m, labels: labels.len() });
    }
    let rows = table(rows, K_NEAREST)?;
    let queries = table(queries, K_NEAREST)?;
    let index = LinearSearch.from_batch(&rows, L2Dist).map_err(|error| linfa(K_NEAREST, error))?;
    let mut votes = vec![0usize; columns];
    let mut predicted = Vec::with_capacity(queries.nrows() * columns);
    for query in queries.rows() {
        votes.fill(0);
        for (_, row) in index.k_nearest(query, k).map_err(|error| linfa(K_NEAREST, error))? {
            for (vote, &label) in votes.iter_mut().zip(&labels[row * columns..(row + 1) * columns]) {
                *vote += usize::from(label != 0);
            }
        }
        predicted.extend(votes.iter().map(|&vote| u8::from(2 * vote > k)));
    }
    Ok(predicted)
}

fn same_dimension(fitted: &Matrix, given: &Matrix) -> Result<(), EstimatorError> {
    if fitted.cols() == given.cols() {
        return Ok(());
    }
    Err(EstimatorError::Dimensions { fitted: fitted.cols(), given: given.cols() })
}

/// The rows as linfa takes them; it panics on distances between rows of no dimension and on numbers that are none.
fn table(rows: &Matrix, estimator: &'static str) -> Result<Array2<f64>, EstimatorError> {
    if rows.cols() == 0 {
        return Err(linfa(estimator, "rows of dimension 0"));
    }
    if rows.data().iter().any(|value| !value.is_finite()) {
        return Err(EstimatorError::NotFinite { estimator });
    }
    let values = rows.data().iter().map(|&value| f64::from(value)).collect();
    Array2::from_shape_vec((rows.rows(), rows.cols()), values).map_err(|error| linfa(estimator, error))
}

fn linfa(estimator: &'static str, message: impl ToString) -> EstimatorError {
    EstimatorError::Linfa { estimator, message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::k_nearest;

    /// `per` rows around each centre on a line of `dim` axes, far apart.
    fn separable(clusters: usize, per: usize, dim: usize, seed: u32) -> (Matrix, Vec<usize>) {
        let mut random = RandomState::new(seed);
        let labels: Vec<usize> = (0..clusters * per).map(|row| row % clusters).collect();
        let mut rows = Matrix::zeros(labels.len(), dim);
        for (row, &label) in labels.iter().enumerate() {
            for (axis, value) in rows.row_mut(row).iter_mut().enumerate() {
                let centre = if axis == label % dim { 5.0 * (1 + label / dim) as f64 } else { 0.0 };
                *value = (centre + random.random_sample() - 0.5) as f32;
            }
        }
        (rows, labels)
    }

    fn uniform(rows: usize, cols: usize, random: &mut RandomState) -> Matrix {
        Matrix::new(rows, cols, (0..rows * cols).map(|_| random.random_sample() as f32).collect()).unwrap()
    }

    fn spoilt(rows: &Matrix, value: f32) -> Matrix {
        let mut spoilt = rows.clone();
        spoilt.row_mut(rows.rows() - 1)[0] = value;
        spoilt
    }

    #[test]
    fn separable_classes_are_told_apart() {
        for classes in [2, 3, 7] {
            let (train, labels) = separable(classes, 6, 4, 1);
            let (queries, expected) = separable(classes, 9, 4, 2);
            assert_eq!(logistic_regression(&train, &labels, classes, &queries).unwrap(), expected);
        }
        let (train, labels) = separable(2, 6, 4, 1);
        let swapped: Vec<usize> = labels.iter().map(|label| 1 - label).collect();
        assert_eq!(logistic_regression(&train, &swapped, 2, &train).unwrap(), swapped);
        assert_eq!(logistic_regression(&train, &labels, 2, &Matrix::zeros(0, 4)).unwrap(), [0usize; 0]);
    }

    #[test]
    fn separable_clusters_are_found() {
        let (points, gold) = separable(3, 100, 8, 3);
        let rows: Vec<usize> = (0..points.rows()).chain([5, 5, 0]).collect();
        let seeds = (0..20).filter(|&seed| {
            let found = k_means(&points, &rows, 3, 64, seed).unwrap();
            assert_eq!(found, k_means(&points, &rows, 3, 64, seed).unwrap());
            assert_eq!(found.len(), rows.len());
            let of_class = [found[0], found[1], found[2]];
            rows.iter().zip(&found).all(|(&row, &cluster)| of_class[gold[row]] == cluster)
        });
        // k-means++ may take two starts of one cluster, but hardly ever does where they are this far apart.
        assert!(seeds.count() >= 18);
        assert_eq!(k_means(&points, &[0, 1, 2], 3, 512, 1).unwrap().into_iter().sum::<usize>(), 3);
        assert_eq!(k_means(&points, &[0, 0, 0], 3, 2, 1).unwrap(), [0, 0, 0]);
        assert_eq!(k_means(&points, &rows, 1, 7, 1).unwrap(), vec![0; rows.len()]);
    }

    #[test]
    fn neighbours_vote_as_ours() {
        let rows = Matrix::new(4, 1, vec![0.0, 1.0, 2.0, 10.0]).unwrap();
        let queries = Matrix::new(2, 1, vec![0.4, 9.0]).unwrap();
        assert_eq!(k_nearest_vote(&rows, &[1, 0, 0, 0, 0, 1, 1, 1], 2, &queries, 3).unwrap(), [0, 0, 0, 1]);
        let mut random = RandomState::new(4);
        for k in [1, 2, 5, 40] {
            let (rows, queries) = (uniform(40, 12, &mut random), uniform(90, 12, &mut random));
            let labels: Vec<u8> = random.randint(2, 40 * 6).into_iter().map(|label| label as u8).collect();
            let ours = k_nearest::vote(&rows, &labels, 6, &queries, k).unwrap();
            assert_eq!(k_nearest_vote(&rows, &labels, 6, &queries, k).unwrap(), ours);
        }
    }

    #[test]
    fn unusable_training_rows_are_errors() {
        let (train, labels) = separable(3, 4, 4, 1);
        let fit = |train: &Matrix, labels: &[usize], classes| logistic_regression(train, labels, classes, train);
        assert!(fit(&train, &labels, 3).is_ok());
        assert!(matches!(fit(&train, &labels[1..], 3), Err(EstimatorError::Labels { rows: 12, labels: 11 })));
        assert!(matches!(fit(&train, &labels, 2), Err(EstimatorError::Labels { .. })));
        assert!(matches!(fit(&train, &[1; 12], 3), Err(EstimatorError::TooFewClasses { classes: 1 })));
        assert!(matches!(fit(&Matrix::zeros(0, 4), &[], 3), Err(EstimatorError::Labels { .. })));
        assert!(matches!(fit(&spoilt(&train, f32::NAN), &labels, 3), Err(EstimatorError::NotFinite { .. })));
        // linfa would run forever on some of these.
        for long in [1e4, 1e23, f32::MAX] {
            let error = fit(&spoilt(&train, long), &labels, 3).unwrap_err();
            assert!(error.to_string().ends_with("leave settings.estimator out for our own"), "{error}");
        }
        assert!(matches!(fit(&Matrix::zeros(12, 4), &labels, 3), Err(EstimatorError::Linfa { .. })));
        assert!(matches!(fit(&Matrix::zeros(12, 0), &labels, 3), Err(EstimatorError::Linfa { .. })));
        let queried = |queries: &Matrix| logistic_regression(&train, &labels, 3, queries);
        assert!(matches!(queried(&Matrix::zeros(2, 5)), Err(EstimatorError::Dimensions { fitted: 4, given: 5 })));
        assert!(matches!(queried(&spoilt(&train, f32::INFINITY)), Err(EstimatorError::NotFinite { .. })));
        assert!(queried(&spoilt(&train, f32::MAX)).is_ok());
    }

    #[test]
    fn unusable_points_are_errors() {
        let (points, _) = separable(2, 3, 4, 1);
        let fit = |points: &Matrix, rows: &[usize], clusters, batch| k_means(points, rows, clusters, batch, 1);
        assert!(fit(&points, &[0, 1, 2], 2, 2).is_ok());
        assert!(matches!(fit(&points, &[0, 1], 3, 2), Err(EstimatorError::TooFewRows { needed: 3, rows: 2, .. })));
        assert!(matches!(fit(&points, &[0, 1], 0, 2), Err(EstimatorError::TooFewRows { .. })));
        assert!(matches!(fit(&points, &[0, 1], 2, 0), Err(EstimatorError::TooFewRows { .. })));
        assert!(matches!(fit(&points, &[], 1, 2), Err(EstimatorError::TooFewRows { .. })));
        assert!(matches!(fit(&points, &[0, 6], 2, 2), Err(EstimatorError::TooFewRows { needed: 7, rows: 6, .. })));
        for value in [f32::NAN, f32::NEG_INFINITY] {
            let spoilt = spoilt(&points, value);
            assert!(matches!(fit(&spoilt, &[0, 1, 5], 2, 2), Err(EstimatorError::NotFinite { .. })));
        }
        assert!(matches!(fit(&Matrix::zeros(6, 0), &[0, 1], 2, 2), Err(EstimatorError::Linfa { .. })));
        assert!(fit(&spoilt(&points, f32::MAX), &[0, 1, 5], 2, 2).is_ok());
    }

    #[test]
    fn unusable_neighbours_are_errors() {
        let rows = Matrix::new(3, 1, vec![0.0, 1.0, 2.0]).unwrap();
        let vote = |rows: &Matrix, labels: &[u8], queries: &Matrix, k| k_nearest_vote(rows, labels, 1, queries, k);
        assert_eq!(vote(&rows, &[1, 1, 0], &rows, 3).unwrap(), [1, 1, 1]);
        assert!(matches!(vote(&rows, &[1, 1, 0], &rows, 4), Err(EstimatorError::TooFewRows { needed: 4, .. })));
        assert!(matches!(vote(&rows, &[1, 1, 0], &rows, 0), Err(EstimatorError::TooFewRows { .. })));
        assert!(matches!(vote(&rows, &[1, 1], &rows, 1), Err(EstimatorError::Labels { rows: 3, labels: 2 })));
        assert!(matches!(
            vote(&rows, &[1, 1, 0], &Matrix::zeros(1, 2), 1),
            Err(EstimatorError::Dimensions { fitted: 1, given: 2 })
        ));
        let nan = spoilt(&rows, f32::NAN);
        assert!(matches!(vote(&nan, &[1, 1, 0], &rows, 1), Err(EstimatorError::NotFinite { .. })));
        assert!(matches!(vote(&rows, &[1, 1, 0], &nan, 1), Err(EstimatorError::NotFinite { .. })));
        assert!(vote(&spoilt(&rows, f32::MAX), &[1, 1, 0], &spoilt(&rows, f32::MIN), 1).is_ok());
        let flat = Matrix::zeros(3, 0);
        assert!(matches!(vote(&flat, &[1, 1, 0], &flat, 1), Err(EstimatorError::Linfa { .. })));
    }
}
