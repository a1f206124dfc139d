//! Mini-batch k-means (Sculley 2010) as scikit-learn's `MiniBatchKMeans` with one k-means++ start runs it.
//!
//! Centres are `f32` and updated in scikit-learn's order of operations, because their rounding decides which row goes to
//! which cluster in the end; distances are `f64`.

use super::EstimatorError;
use super::product::{inner_product, inner_products};
use crate::data::matrix::Matrix;
use crate::data::random::RandomState;
use crate::data::random::numpy_legacy::Distribution;

const NAME: &str = "mini-batch k-means";
const REASSIGNMENT_RATIO: f32 = 0.01;
const MAX_NO_IMPROVEMENT: usize = 10;
/// Rows labelled at a time at the end.
const BLOCK: usize = 256;

/// How a mini-batch is drawn, which decides the clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSampler {
    /// `choice` with equal probabilities: scikit-learn from 1.9.
    Choice,
    /// `randint`: scikit-learn up to 1.8.
    RandInt,
}

/// The settings of one fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Number of clusters.
    pub clusters: usize,
    /// Rows in a batch; never more than there are.
    pub batch_size: usize,
    /// Passes over the rows at most.
    pub max_epochs: usize,
    /// How a batch is drawn.
    pub sampler: BatchSampler,
    /// Seed of NumPy's `RandomState`.
    pub seed: u32,
}

/// A fitted clustering.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// The cluster of every sampled row, in the order of `sample`.
    pub labels: Vec<usize>,
    /// The centres, `[clusters, dim]`.
    pub centres: Matrix,
    /// Batches processed.
    pub steps: usize,
    /// Sum of squared distances of the sampled rows to their centres.
    pub inertia: f64,
}

/// Clusters the rows of `points` `[m, dim]` named by `sample`, repeats allowed, each entry a row of its own.
///
/// # Errors
/// No cluster, fewer sampled rows than clusters, a row number out of range, or values too large for `f32` sums.
pub fn fit(points: &Matrix, sample: &[usize], settings: &Settings) -> Result<Clusters, EstimatorError> {
    let n = sample.len();
    if settings.clusters == 0 || settings.batch_size == 0 || n < settings.clusters {
        let needed = settings.clusters.max(1);
        return Err(EstimatorError::TooFewRows { estimator: NAME, needed, rows: n });
    }
    if let Some(&row) = sample.iter().find(|&&row| row >= points.rows()) {
        return Err(EstimatorError::TooFewRows { estimator: NAME, needed: row + 1, rows: points.rows() });
    }
    let batch_size = settings.batch_size.min(n);
    let mut random = RandomState::new(settings.seed);
    let centres = initial_centres(points, sample, settings.clusters, batch_size, &mut random);

    let mut state = State::new(points, centres, batch_size);
    let uniform = match settings.sampler {
        BatchSampler::Choice => Some(Distribution::uniform_f32(n)),
        BatchSampler::RandInt => None,
    };
    let mut stopping = Stopping::new(batch_size, n);
    let mut since_reassignment = 0;
    let mut steps = 0;
    let max_steps = settings.max_epochs.saturating_mul(n) / batch_size;
    while steps < max_steps {
        let mut batch = match &uniform {
            Some(uniform) => random.choice(uniform, batch_size),
            None => random.randint(n, batch_size),
        };
        for row in &mut batch {
            *row = sample[*row];
        }
        since_reassignment += batch_size;
        let reassign = state.weights.contains(&0.0) || since_reassignment >= 10 * settings.clusters;
        if reassign {
            since_reassignment = 0;
        }
        let inertia = state.update(&batch);
        if reassign {
            state.reassign(&batch, &mut random);
        }
        steps += 1;
        if stopping.after_step(inertia / batch_size as f64) {
            break;
        }
    }
    let (labels, inertia) = state.label(sample);
    if !inertia.is_finite() || state.centres.data().iter().any(|value| !value.is_finite()) {
        return Err(EstimatorError::NotFinite { estimator: NAME });
    }
    Ok(Clusters { labels, centres: state.centres, steps, inertia })
}

/// k-means++ (Arthur and Vassilvitskii 2007) on a subset of the sample, with scikit-learn's greedy trials.
fn initial_centres(
    points: &Matrix,
    sample: &[usize],
    clusters: usize,
    batch_size: usize,
    random: &mut RandomState,
) -> Matrix {
    let n = sample.len();
    let wanted = if 3 * batch_size < clusters { 3 * clusters } else { 3 * batch_size };
    let size = wanted.min(n);
    // These rows would compare several starts; with one start only the draws matter.
    random.randint(n, size);
    let subset: Vec<usize> =
        if size < n { random.randint(n, size).into_iter().map(|at| sample[at]).collect() } else { sample.to_vec() };

    let dim = points.cols();
    let rows = gather(points, &subset);
    let norms = norms(&rows, dim, subset.len());
    let trials = 2 + (clusters as f64).ln() as usize;
    let mut chosen = random.choice(&Distribution::uniform_f32(size), 1);
    let mut products = vec![0.0; trials * size];
    let mut candidates = Vec::with_capacity(trials * dim);
    let mut distances = vec![f32::INFINITY; size];
    let mut potential = nearer(&rows, &norms, dim, &chosen, &mut products, &mut candidates, &mut distances).1;
    let mut cumulative = vec![0.0f32; size];
    while chosen.len() < clusters {
        let mut sum = 0.0f32;
        for (total, distance) in cumulative.iter_mut().zip(&distances) {
            sum += distance;
            *total = sum;
        }
        let drawn: Vec<usize> = (0..trials)
            .map(|_| {
                let target = random.random_sample() * f64::from(potential);
                cumulative.partition_point(|&total| f64::from(total) < target).min(size - 1)
            })
            .collect();
        let (best, total) = nearer(&rows, &norms, dim, &drawn, &mut products, &mut candidates, &mut distances);
        potential = total;
        chosen.push(drawn[best]);
    }
    points.select(&chosen.iter().map(|&at| subset[at]).collect::<Vec<_>>())
}

/// Of the candidate rows the first that leaves the smallest sum of distances; lowers `distances` by it. Returns its place
/// among the candidates and the sum.
fn nearer(
    rows: &[f64],
    norms: &[f64],
    dim: usize,
    drawn: &[usize],
    products: &mut [f64],
    candidates: &mut Vec<f64>,
    distances: &mut [f32],
) -> (usize, f32) {
    let n = norms.len();
    candidates.clear();
    for &at in drawn {
        candidates.extend_from_slice(&rows[at * dim..(at + 1) * dim]);
    }
    inner_products(candidates, rows, dim, &mut products[..drawn.len() * n]);
    let lowered = |candidate: usize, row: usize, distance: f32| {
        let to_candidate = norms[drawn[candidate]] - 2.0 * products[candidate * n + row] + norms[row];
        // scikit-learn sets the distance of a row to itself to exactly 0 only by clipping, as here.
        distance.min(to_candidate.max(0.0) as f32)
    };
    let mut best = (0, f64::INFINITY);
    for candidate in 0..drawn.len() {
        let sum: f64 =
            distances.iter().enumerate().map(|(row, &distance)| f64::from(lowered(candidate, row, distance))).sum();
        if sum < best.1 {
            best = (candidate, sum);
        }
    }
    for (row, distance) in distances.iter_mut().enumerate() {
        *distance = lowered(best.0, row, *distance);
    }
    (best.0, best.1 as f32)
}

/// The exponential average of the batch inertia, and how long it has not improved.
pub(super) struct Stopping {
    step: usize,
    weight: f64,
    average: Option<f64>,
    smallest: Option<f64>,
    without_improvement: usize,
}

impl Stopping {
    pub(super) fn new(batch_size: usize, n: usize) -> Self {
        let weight = (2.0 * batch_size as f64 / (n + 1) as f64).min(1.0);
        Self { step: 0, weight, average: None, smallest: None, without_improvement: 0 }
    }

    /// Takes a batch's inertia per row; true where the fit is over.
    pub(super) fn after_step(&mut self, inertia: f64) -> bool {
        self.step += 1;
        // The first batch is measured against the start and says nothing.
        if self.step == 1 {
            return false;
        }
        let average = self.average.map_or(inertia, |old| old * (1.0 - self.weight) + inertia * self.weight);
        self.average = Some(average);
        if self.smallest.is_none_or(|smallest| average < smallest) {
            self.smallest = Some(average);
            self.without_improvement = 0;
        } else {
            self.without_improvement += 1;
        }
        self.without_improvement >= MAX_NO_IMPROVEMENT
    }
}

struct State<'a> {
    points: &'a Matrix,
    centres: Matrix,
    /// Rows that each centre has seen.
    weights: Vec<f32>,
    wide_centres: Vec<f64>,
    centre_norms: Vec<f64>,
    block: Vec<f64>,
    products: Vec<f64>,
}

impl<'a> State<'a> {
    fn new(points: &'a Matrix, centres: Matrix, batch_size: usize) -> Self {
        let clusters = centres.rows();
        Self {
            points,
            weights: vec![0.0; clusters],
            wide_centres: Vec::with_capacity(centres.data().len()),
            centre_norms: Vec::with_capacity(clusters),
            block: Vec::new(),
            products: vec![0.0; batch_size.max(BLOCK) * clusters],
            centres,
        }
    }

    fn widen_centres(&mut self) {
        self.wide_centres.clear();
        self.wide_centres.extend(self.centres.data().iter().map(|&value| f64::from(value)));
        self.centre_norms = norms(&self.wide_centres, self.centres.cols(), self.centres.rows());
    }

    /// The nearest centre of every row, the first of equal ones, with its squared distance.
    fn nearest(&mut self, rows: &[usize]) -> Vec<(usize, f64)> {
        let (dim, clusters) = (self.points.cols(), self.centres.rows());
        self.block.clear();
        for &row in rows {
            self.block.extend(self.points.row(row).iter().map(|&value| f64::from(value)));
        }
        let products = &mut self.products[..rows.len() * clusters];
        inner_products(&self.block, &self.wide_centres, dim, products);
        products
            .chunks_exact(clusters)
            .enumerate()
            .map(|(at, products)| {
                let mut best = (0, f64::INFINITY);
                for (cluster, (product, norm)) in products.iter().zip(&self.centre_norms).enumerate() {
                    let distance = norm - 2.0 * product;
                    if distance < best.1 {
                        best = (cluster, distance);
                    }
                }
                let row = &self.block[at * dim..(at + 1) * dim];
                (best.0, (best.1 + inner_product(row, row)).max(0.0))
            })
            .collect()
    }

    /// One mini-batch step; returns the inertia of the batch under the centres before it.
    fn update(&mut self, batch: &[usize]) -> f64 {
        self.widen_centres();
        let nearest = self.nearest(batch);
        let mut members = vec![Vec::new(); self.weights.len()];
        for (&row, &(cluster, _)) in batch.iter().zip(&nearest) {
            members[cluster].push(row);
        }
        for (cluster, members) in members.iter().enumerate().filter(|(_, members)| !members.is_empty()) {
            let weight = self.weights[cluster];
            let centre = self.centres.row_mut(cluster);
            for value in centre.iter_mut() {
                *value *= weight;
            }
            for &row in members {
                for (value, x) in centre.iter_mut().zip(self.points.row(row)) {
                    *value += x;
                }
            }
            let weight = weight + members.len() as f32;
            let share = 1.0 / weight;
            for value in centre.iter_mut() {
                *value *= share;
            }
            self.weights[cluster] = weight;
        }
        nearest.iter().map(|(_, distance)| distance).sum()
    }

    /// Moves the centres that have seen almost nothing to rows of the batch.
    fn reassign(&mut self, batch: &[usize], random: &mut RandomState) {
        let most = self.weights.iter().copied().fold(0.0f32, f32::max);
        let mut light: Vec<usize> =
            (0..self.weights.len()).filter(|&cluster| self.weights[cluster] < REASSIGNMENT_RATIO * most).collect();
        let limit = batch.len() / 2;
        if 2 * light.len() > batch.len() {
            light.sort_by(|&a, &b| self.weights[a].total_cmp(&self.weights[b]));
            light.truncate(limit);
            light.sort_unstable();
        }
        if light.is_empty() {
            return;
        }
        let rows = random.choice_without_replacement(batch.len(), light.len());
        for (&cluster, at) in light.iter().zip(rows) {
            self.centres.row_mut(cluster).copy_from_slice(self.points.row(batch[at]));
        }
        let heavy = (0..self.weights.len()).filter(|cluster| light.binary_search(cluster).is_err());
        let least = heavy.map(|cluster| self.weights[cluster]).fold(f32::INFINITY, f32::min);
        for cluster in light {
            self.weights[cluster] = least;
        }
    }

    /// The clusters of the sampled rows under the last centres, and the inertia. Every point is labelled once, however
    /// often it was sampled.
    fn label(&mut self, sample: &[usize]) -> (Vec<usize>, f64) {
        self.widen_centres();
        let mut used = vec![false; self.points.rows()];
        for &row in sample {
            used[row] = true;
        }
        let distinct: Vec<usize> = (0..used.len()).filter(|&row| used[row]).collect();
        let mut of_point = vec![(0, 0.0); used.len()];
        for block in distinct.chunks(BLOCK) {
            for (&row, nearest) in block.iter().zip(self.nearest(block)) {
                of_point[row] = nearest;
            }
        }
        let inertia = sample.iter().map(|&row| of_point[row].1).sum();
        (sample.iter().map(|&row| of_point[row].0).collect(), inertia)
    }
}

fn gather(points: &Matrix, rows: &[usize]) -> Vec<f64> {
    rows.iter().flat_map(|&row| points.row(row)).map(|&value| f64::from(value)).collect()
}

fn norms(rows: &[f64], dim: usize, n: usize) -> Vec<f64> {
    (0..n).map(|i| &rows[i * dim..(i + 1) * dim]).map(|row| inner_product(row, row)).collect()
}
