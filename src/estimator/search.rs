//! Exact search: for every query the documents with the highest inner products, by blocked matrix products on all cores.
//!
//! Documents come in blocks and are forgotten after each, so memory is that of the queries, one block and the best so far.

use std::cmp::Ordering;

use gemm::Parallelism;
use rayon::prelude::*;

use super::EstimatorError;
use crate::data::matrix::Matrix;

/// Queries that one thread multiplies at a time.
const QUERIES: usize = 128;
/// Documents of one product: with the queries and the scores they stay in the cache.
const DOCUMENTS: usize = 1024;

/// A document found: its number and score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Inner product with the query.
    pub score: f32,
    /// Number of the document.
    pub document: u32,
}

/// The best documents of every query so far.
pub struct Search<'a> {
    keep: usize,
    ranks: &'a [u32],
    best: Vec<Best>,
}

#[derive(Clone)]
struct Best {
    hits: Vec<Hit>,
    /// Nothing below can be among the best any more.
    threshold: f32,
}

impl<'a> Search<'a> {
    /// A search for the `keep` best documents of each of `queries` queries. `ranks` `[documents]` decides between equal
    /// scores: the larger one is better.
    pub fn new(queries: usize, keep: usize, ranks: &'a [u32]) -> Self {
        let best = vec![Best { hits: Vec::new(), threshold: f32::NEG_INFINITY }; queries];
        Self { keep: keep.max(1), ranks, best }
    }

    /// Scores `block` `[documents, dim]`, whose first row is document `first`, against `queries` `[queries, dim]`.
    ///
    /// # Errors
    /// Dimensions that differ, or more documents than there are ranks.
    pub fn add(&mut self, queries: &Matrix, block: &Matrix, first: usize) -> Result<(), EstimatorError> {
        let dim = queries.cols();
        if block.rows() > 0 && block.cols() != dim {
            return Err(EstimatorError::Dimensions { fitted: dim, given: block.cols() });
        }
        if queries.rows() != self.best.len() || first + block.rows() > self.ranks.len() {
            return Err(EstimatorError::Labels { rows: first + block.rows(), labels: self.ranks.len() });
        }
        let (keep, ranks) = (self.keep, self.ranks);
        // Few queries are still shared out among all threads.
        let size = self.best.len().div_ceil(rayon::current_num_threads()).clamp(1, QUERIES);
        self.best.par_chunks_mut(size).enumerate().for_each_init(Vec::new, |scores, (part, best)| {
            let rows = &queries.data()[part * size * dim..][..best.len() * dim];
            for (number, documents) in block.data().chunks(DOCUMENTS * dim.max(1)).enumerate() {
                let width = documents.len() / dim.max(1);
                product(rows, documents, dim, best.len(), width, scores);
                let start = first + number * DOCUMENTS;
                for (best, scores) in best.iter_mut().zip(scores.chunks_exact(width.max(1))) {
                    best.take(scores, start, keep, ranks);
                }
            }
        });
        Ok(())
    }

    /// The best of every query, best first.
    pub fn finish(self) -> Vec<Vec<Hit>> {
        let (keep, ranks) = (self.keep, self.ranks);
        self.best
            .into_par_iter()
            .map(|mut best| {
                best.hits.sort_unstable_by(|a, b| order(a, b, ranks));
                best.hits.truncate(keep);
                best.hits
            })
            .collect()
    }
}

/// Best first: by score, then by rank, both descending.
fn order(a: &Hit, b: &Hit, ranks: &[u32]) -> Ordering {
    b.score.total_cmp(&a.score).then_with(|| ranks[b.document as usize].cmp(&ranks[a.document as usize]))
}

impl Best {
    fn take(&mut self, scores: &[f32], first: usize, keep: usize, ranks: &[u32]) {
        // Sixteen at a time: nearly all are below the threshold.
        for (number, group) in scores.chunks(16).enumerate() {
            if !group.iter().fold(false, |any, score| any | (*score >= self.threshold)) {
                continue;
            }
            for (at, &score) in group.iter().enumerate() {
                if score >= self.threshold {
                    self.hits.push(Hit { score, document: (first + number * 16 + at) as u32 });
                    if self.hits.len() >= 2 * keep {
                        self.cut(keep, ranks);
                    }
                }
            }
        }
    }

    fn cut(&mut self, keep: usize, ranks: &[u32]) {
        self.hits.select_nth_unstable_by(keep - 1, |a, b| order(a, b, ranks));
        self.hits.truncate(keep);
        self.threshold = self.hits[keep - 1].score;
    }
}

/// `scores[i, j] = Σ_d queries[i, d]·documents[j, d]` on this thread.
fn product(queries: &[f32], documents: &[f32], dim: usize, m: usize, n: usize, scores: &mut Vec<f32>) {
    scores.clear();
    scores.resize(m * n, 0.0);
    if m == 0 || n == 0 || dim == 0 {
        return;
    }
    // SAFETY: `queries` is [m, dim] and `documents` [n, dim], both row-major, and `scores` was made [m, n] above; the strides
    // below say so.
    unsafe {
        gemm::gemm(
            m,
            n,
            dim,
            scores.as_mut_ptr(),
            1,
            n as isize,
            false,
            queries.as_ptr(),
            1,
            dim as isize,
            documents.as_ptr(),
            dim as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The rows of `matrix` divided by their length (at least 1e-12, as torch's `normalize`).
pub fn normalised(mut matrix: Matrix) -> Matrix {
    let dim = matrix.cols().max(1);
    matrix.data_mut().par_chunks_mut(dim).for_each(|row| {
        let norm = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt().max(1e-12);
        row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
    });
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, cols: usize, seed: usize) -> Matrix {
        let values = (0..rows * cols).map(|i| ((i * 37 + seed * 11) % 19) as f32 - 9.0).collect();
        Matrix::new(rows, cols, values).unwrap()
    }

    #[test]
    fn blocks_give_what_sorting_all_scores_gives() {
        // Small integers: many exactly equal scores.
        let (queries, documents) = (matrix(300, 5, 1), matrix(2_500, 5, 2));
        let ranks: Vec<u32> = (0..2_500).map(|i| (i * 7 % 2_500) as u32).collect();
        for keep in [1, 3, 100, 5_000] {
            let mut search = Search::new(300, keep, &ranks);
            for start in (0..2_500).step_by(700) {
                let rows: Vec<usize> = (start..(start + 700).min(2_500)).collect();
                search.add(&queries, &documents.select(&rows), start).unwrap();
            }
            for (query, hits) in search.finish().iter().enumerate() {
                let mut all: Vec<Hit> = (0..2_500)
                    .map(|d| {
                        let score = queries.row(query).iter().zip(documents.row(d)).map(|(a, b)| a * b).sum();
                        Hit { score, document: d as u32 }
                    })
                    .collect();
                all.sort_by(|a, b| order(a, b, &ranks));
                all.truncate(keep);
                assert_eq!(*hits, all, "query {query}, {keep} kept");
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let ranks = [0, 1];
        let mut search = Search::new(1, 1, &ranks);
        assert!(search.add(&matrix(1, 3, 0), &matrix(2, 4, 0), 0).is_err());
        assert!(search.add(&matrix(1, 3, 0), &matrix(2, 3, 0), 1).is_err());
        search.add(&matrix(1, 3, 0), &Matrix::zeros(0, 0), 0).unwrap();
        assert_eq!(search.finish(), [vec![]]);
    }

    #[test]
    fn a_zero_row_stays_zero() {
        let rows = normalised(Matrix::new(2, 2, vec![0.0, 0.0, 3.0, 4.0]).unwrap());
        assert_eq!(rows.data(), [0.0, 0.0, 0.6, 0.8]);
    }
}
