//! Logistic regression with an L2 penalty, as scikit-learn's `LogisticRegression(solver="lbfgs")` fits it in `f64`.

use super::EstimatorError;
use super::lbfgs::{self, Iteration};
use super::product::inner_products;
use crate::data::matrix::Matrix;

const NAME: &str = "logistic regression";
/// Rows scored at a time: small enough to stay in the cache as `f64`.
const BLOCK: usize = 64;

/// The settings of the fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Inverse strength of the penalty, scikit-learn's `C`.
    pub inverse_penalty: f64,
    /// When the solver stops.
    pub solver: lbfgs::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self { inverse_penalty: 1.0, solver: lbfgs::Settings::default() }
    }
}

/// A fitted model: one weight row for two classes, otherwise one a class.
#[derive(Debug, Clone, PartialEq)]
pub struct LogisticRegression {
    classes: usize,
    dim: usize,
    /// `[outputs, dim]`, row-major.
    weights: Vec<f64>,
    intercepts: Vec<f64>,
    iterations: Vec<Iteration>,
}

impl LogisticRegression {
    /// Fits rows `[n, dim]` with class numbers below `classes`.
    ///
    /// Minimises mean(−ln p(y|x)) + ‖W‖²/(2·C·n), the intercepts free of penalty: the logistic loss for two classes, the
    /// over-parametrised softmax for more. Starts at zero and stops where scikit-learn stops, short of the optimum.
    ///
    /// # Errors
    /// Fewer than two classes, labels that do not fit the rows, or values too large for `f64`.
    pub fn fit(rows: &Matrix, labels: &[usize], classes: usize, settings: &Settings) -> Result<Self, EstimatorError> {
        if classes < 2 {
            return Err(EstimatorError::TooFewClasses { classes });
        }
        if labels.is_empty() || labels.len() != rows.rows() || labels.iter().any(|&label| label >= classes) {
            return Err(EstimatorError::Labels { rows: rows.rows(), labels: labels.len() });
        }
        let dim = rows.cols();
        let outputs = if classes == 2 { 1 } else { classes };
        let mut problem = Problem::new(rows, labels, outputs, settings.inverse_penalty);
        let minimum = lbfgs::minimise(
            |point, gradient| problem.evaluate(point, gradient),
            vec![0.0; outputs * (dim + 1)],
            &settings.solver,
        );
        let stalled = minimum.iterations.is_empty() && minimum.evaluations > 1;
        if stalled || minimum.point.iter().any(|value| !value.is_finite()) {
            return Err(EstimatorError::NotFinite { estimator: NAME });
        }
        let mut weights = minimum.point;
        let intercepts = weights.split_off(outputs * dim);
        Ok(Self { classes, dim, weights, intercepts, iterations: minimum.iterations })
    }

    /// The weights, row-major `[outputs, dim]`, with one output for two classes.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The intercepts, `[outputs]`.
    pub fn intercepts(&self) -> &[f64] {
        &self.intercepts
    }

    /// What the solver did.
    pub fn iterations(&self) -> &[Iteration] {
        &self.iterations
    }

    /// The decision values of rows `[n, dim]`: row-major `[n, outputs]`.
    ///
    /// # Errors
    /// Rows of another dimension than the fitted ones.
    pub fn decision(&self, rows: &Matrix) -> Result<Vec<f64>, EstimatorError> {
        let outputs = self.intercepts.len();
        let mut values = Vec::with_capacity(rows.rows() * outputs);
        self.for_each_row(rows, |_, scores| values.extend_from_slice(scores))?;
        Ok(values)
    }

    /// The class number of each row of `[n, dim]`: the second of two where its decision value is above 0, otherwise the
    /// first of the largest.
    ///
    /// # Errors
    /// Rows of another dimension than the fitted ones.
    pub fn predict(&self, rows: &Matrix) -> Result<Vec<usize>, EstimatorError> {
        let mut predicted = Vec::with_capacity(rows.rows());
        self.for_each_row(rows, |_, scores| {
            predicted.push(if self.classes == 2 { usize::from(scores[0] > 0.0) } else { first_largest(scores) });
        })?;
        Ok(predicted)
    }

    fn for_each_row(&self, rows: &Matrix, mut take: impl FnMut(usize, &[f64])) -> Result<(), EstimatorError> {
        if rows.cols() != self.dim {
            return Err(EstimatorError::Dimensions { fitted: self.dim, given: rows.cols() });
        }
        let outputs = self.intercepts.len();
        let mut block = Vec::with_capacity(BLOCK * self.dim);
        let mut scores = vec![0.0; BLOCK * outputs];
        for start in (0..rows.rows()).step_by(BLOCK) {
            let end = (start + BLOCK).min(rows.rows());
            block.clear();
            block.extend(rows.data()[start * self.dim..end * self.dim].iter().map(|&value| f64::from(value)));
            inner_products(&block, &self.weights, self.dim, &mut scores[..(end - start) * outputs]);
            for (row, scores) in scores.chunks_exact_mut(outputs).take(end - start).enumerate() {
                for (score, intercept) in scores.iter_mut().zip(&self.intercepts) {
                    *score += intercept;
                }
                take(start + row, scores);
            }
        }
        Ok(())
    }
}

fn first_largest(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// The training rows in both orders, and room for one evaluation.
struct Problem<'a> {
    labels: &'a [usize],
    outputs: usize,
    dim: usize,
    penalty: f64,
    /// `[n, dim]`.
    rows: Vec<f64>,
    /// `[dim, n]`.
    columns: Vec<f64>,
    /// `[outputs, n]`: decision values, then the derivative of the mean loss by them.
    scores: Vec<f64>,
    /// `[n]`: the largest score of a row, then the sum of its exponentials.
    largest: Vec<f64>,
    sums: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn new(rows: &Matrix, labels: &'a [usize], outputs: usize, inverse_penalty: f64) -> Self {
        let (n, dim) = (rows.rows(), rows.cols());
        let values: Vec<f64> = rows.data().iter().map(|&value| f64::from(value)).collect();
        let mut columns = vec![0.0; n * dim];
        for i in 0..n {
            for d in 0..dim {
                columns[d * n + i] = values[i * dim + d];
            }
        }
        Self {
            labels,
            outputs,
            dim,
            penalty: 1.0 / (inverse_penalty * n as f64),
            rows: values,
            columns,
            scores: vec![0.0; outputs * n],
            largest: vec![0.0; n],
            sums: vec![0.0; n],
        }
    }

    fn evaluate(&mut self, point: &[f64], gradient: &mut [f64]) -> f64 {
        let n = self.labels.len();
        let (weights, intercepts) = point.split_at(self.outputs * self.dim);
        inner_products(weights, &self.rows, self.dim, &mut self.scores);
        for (scores, intercept) in self.scores.chunks_exact_mut(n).zip(intercepts) {
            for score in scores {
                *score += intercept;
            }
        }
        let loss = if self.outputs == 1 { self.logistic() } else { self.softmax() };

        let (weight_gradient, intercept_gradient) = gradient.split_at_mut(self.outputs * self.dim);
        inner_products(&self.scores, &self.columns, n, weight_gradient);
        let mut squares = 0.0;
        for (gradient, weight) in weight_gradient.iter_mut().zip(weights) {
            *gradient += self.penalty * weight;
            squares += weight * weight;
        }
        for (gradient, scores) in intercept_gradient.iter_mut().zip(self.scores.chunks_exact(n)) {
            *gradient = scores.iter().sum();
        }
        loss / n as f64 + 0.5 * self.penalty * squares
    }

    /// Σ ln(1 + e^z) − y·z; leaves (σ(z) − y)/n in `scores`.
    fn logistic(&mut self) -> f64 {
        let share = 1.0 / self.labels.len() as f64;
        let mut loss = 0.0;
        for (z, &label) in self.scores.iter_mut().zip(self.labels) {
            let small = (-z.abs()).exp();
            let target = label as f64;
            loss += z.max(0.0) + small.ln_1p() - target * *z;
            let probability = if *z >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) };
            *z = (probability - target) * share;
        }
        loss
    }

    /// Σ logsumexp(z) − z_y; leaves (softmax(z) − onehot(y))/n in `scores`.
    fn softmax(&mut self) -> f64 {
        let n = self.labels.len();
        let share = 1.0 / n as f64;
        self.largest.fill(f64::NEG_INFINITY);
        for scores in self.scores.chunks_exact(n) {
            for (largest, &score) in self.largest.iter_mut().zip(scores) {
                *largest = if score > *largest { score } else { *largest };
            }
        }
        let mut loss = 0.0;
        for (i, (&label, &largest)) in self.labels.iter().zip(&self.largest).enumerate() {
            loss += largest - self.scores[label * n + i];
        }
        self.sums.fill(0.0);
        for scores in self.scores.chunks_exact_mut(n) {
            for ((score, &largest), sum) in scores.iter_mut().zip(&self.largest).zip(&mut self.sums) {
                *score = (*score - largest).exp();
                *sum += *score;
            }
        }
        for sum in &mut self.sums {
            loss += sum.ln();
            *sum = share / *sum;
        }
        for scores in self.scores.chunks_exact_mut(n) {
            for (score, factor) in scores.iter_mut().zip(&self.sums) {
                *score *= factor;
            }
        }
        for (i, &label) in self.labels.iter().enumerate() {
            self.scores[label * n + i] -= share;
        }
        loss
    }
}
