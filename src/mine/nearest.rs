//! The nearest candidates of a block of queries, exactly: found by products in `f32`, ranked by products in `f64`.
//!
//! The last bits of a blocked product in `f32` may depend on the shape of the block. So more candidates than wanted are found, and
//! where the rounding error of those products could have hidden a candidate, the query is compared with all of them in `f64`.

use std::cmp::Ordering;
use std::ops::Range;

use rayon::prelude::*;

use super::Embeddings;
use crate::estimator::EstimatorError;
use crate::estimator::search::{Hit, Search};

/// A document and its cosine with a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Number of the document.
    pub document: u32,
    /// The cosine.
    pub score: f64,
}

/// Best first; of equal ones the first document.
pub(super) fn order(a: &Found, b: &Found) -> Ordering {
    b.score.total_cmp(&a.score).then(a.document.cmp(&b.document))
}

/// Candidates that an exhaustive comparison takes at a time.
const AT_A_TIME: usize = 4096;

pub(super) struct Nearest<'a> {
    embeddings: &'a Embeddings,
    /// The first of two candidates with one score comes first.
    ranks: Vec<u32>,
    wanted: usize,
    /// Candidates that the search in `f32` keeps.
    kept: usize,
}

impl<'a> Nearest<'a> {
    /// A search for the `wanted` nearest candidates.
    pub fn new(embeddings: &'a Embeddings, wanted: usize) -> Self {
        let candidates = embeddings.candidates().rows();
        let wanted = wanted.clamp(1, candidates.max(1));
        let kept = (wanted + wanted / 8 + 16).min(candidates);
        Self { embeddings, ranks: (0..candidates as u32).rev().collect(), wanted, kept }
    }

    /// Bytes that the candidates of a query take while it is searched: the search holds up to twice as many hits, in a vector that
    /// grows by doubling.
    pub fn bytes_per_query(&self) -> usize {
        let hits = 4 * size_of::<Hit>() + 2 * size_of::<Found>();
        self.kept.saturating_mul(hits).saturating_add(self.embeddings.dim() * size_of::<f32>()).max(1)
    }

    /// The nearest candidates of each of these queries, best first.
    ///
    /// # Errors
    /// Embeddings of different sizes.
    pub fn search(&self, queries: Range<usize>) -> Result<Vec<Vec<Found>>, EstimatorError> {
        let rows: Vec<usize> = queries.clone().collect();
        let block = self.embeddings.queries().select(&rows);
        let mut search = Search::new(rows.len(), self.kept, &self.ranks);
        search.add(&block, self.embeddings.candidates(), 0)?;
        let hits = search.finish();
        Ok(queries.into_par_iter().zip(hits).map(|(query, hits)| self.ranked(query, &hits)).collect())
    }

    fn ranked(&self, query: usize, hits: &[Hit]) -> Vec<Found> {
        let mut found = self.embeddings.cosines(query, hits.iter().map(|hit| hit.document));
        found.sort_unstable_by(order);
        if !self.complete(hits, &found) {
            return self.exhaustive(query);
        }
        found.truncate(self.wanted);
        found
    }

    /// Whether no candidate that the search left out can be among the wanted.
    fn complete(&self, hits: &[Hit], found: &[Found]) -> bool {
        if hits.len() == self.ranks.len() {
            return true;
        }
        match (hits.last(), found.get(self.wanted - 1)) {
            (Some(last), Some(wanted)) => f64::from(last.score) + rounding(self.embeddings.dim()) < wanted.score,
            _ => false,
        }
    }

    fn exhaustive(&self, query: usize) -> Vec<Found> {
        let candidates = self.ranks.len();
        let mut best: Vec<Found> = Vec::new();
        for start in (0..candidates).step_by(AT_A_TIME) {
            let numbers = start..(start + AT_A_TIME).min(candidates);
            best.extend(self.embeddings.cosines(query, numbers.map(|number| number as u32)));
            if best.len() > self.wanted {
                best.select_nth_unstable_by(self.wanted - 1, order);
                best.truncate(self.wanted);
            }
        }
        best.sort_unstable_by(order);
        best
    }
}

/// Most by which the product in `f32` of two vectors of length 1 is off, in whatever order it is summed: `n·u / (1 − n·u)` with `u =
/// 2⁻²⁴` (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and a little for lengths that are not quite 1.
fn rounding(dim: usize) -> f64 {
    let error = dim as f64 * f64::from(f32::EPSILON) / 2.0;
    if error < 0.5 { 1.01 * error / (1.0 - error) + 1e-12 } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::matrix::Matrix;

    fn matrix(rows: usize, dim: usize, seed: u64) -> Matrix {
        let mut state = seed;
        let values = (0..rows * dim).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 16_777_216.0 - 0.5
        });
        Matrix::new(rows, dim, values.collect()).unwrap()
    }

    #[test]
    fn the_search_ranks_as_all_products_in_f64_do() {
        for (candidates, equal) in [(700, 0), (700, 300), (5, 0), (40, 40)] {
            let mut documents = matrix(candidates, 24, 2);
            // Many candidates with one embedding: the boundary of the kept ones lies among equal scores.
            for row in 0..equal {
                documents.row_mut(candidates - 1 - row).copy_from_slice(matrix(1, 24, 9).row(0));
            }
            let embeddings = Embeddings::new(matrix(30, 24, 1), documents, Matrix::default());
            for wanted in [1, 3, 50, 10_000] {
                let nearest = Nearest::new(&embeddings, wanted);
                let found = nearest.search(0..30).unwrap();
                for (query, found) in found.iter().enumerate() {
                    let mut all = embeddings.cosines(query, 0..candidates as u32);
                    all.sort_by(order);
                    all.truncate(wanted);
                    assert_eq!(*found, all, "{candidates} candidates, {wanted} wanted, query {query}");
                    assert_eq!(nearest.exhaustive(query), all);
                }
            }
        }
    }
}
