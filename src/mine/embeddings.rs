//! The embeddings of a mining set, and cosines of them.

use super::set::MiningSet;
use super::{Found, MineError};
use crate::data::matrix::Matrix;
use crate::estimator::product::inner_products;
use crate::estimator::search::normalised;

/// Values of documents that are widened to `f64` at a time: 64 kB.
const WIDENED: usize = 1 << 13;

/// Embeddings, normalised.
#[derive(Debug)]
pub struct Embeddings {
    queries: Matrix,
    candidates: Matrix,
    others: Matrix,
}

impl Embeddings {
    /// Takes the embeddings of the queries, of the documents that are candidates, and of the other documents, each `[texts, dim]` in
    /// the order of the set, and divides every row by its length.
    pub fn new(queries: Matrix, candidates: Matrix, others: Matrix) -> Self {
        let [queries, candidates, others] = [queries, candidates, others].map(normalised);
        Self { queries, candidates, others }
    }

    /// That there is one finite embedding a text.
    pub(super) fn check(&self, set: &MiningSet<'_>) -> Result<(), MineError> {
        let (candidates, expected) = (set.candidates(), self.queries.cols());
        for (what, matrix, texts) in [
            ("query", &self.queries, set.queries().len()),
            ("candidate", &self.candidates, candidates),
            ("document", &self.others, set.documents().len() - candidates),
        ] {
            let fits = matrix.rows() == texts && (matrix.cols() == expected || texts == 0);
            if !fits || (expected == 0 && texts > 0) {
                let (rows, dim) = (matrix.rows(), matrix.cols());
                return Err(MineError::Shape { what, rows, dim, texts, expected });
            }
            if let Some(row) = (0..texts).find(|&row| matrix.row(row).iter().any(|value| !value.is_finite())) {
                return Err(MineError::NotFinite { what, row });
            }
        }
        Ok(())
    }

    pub(super) fn queries(&self) -> &Matrix {
        &self.queries
    }

    pub(super) fn candidates(&self) -> &Matrix {
        &self.candidates
    }

    /// Values of an embedding.
    pub fn dim(&self) -> usize {
        self.queries.cols()
    }

    fn document(&self, document: u32) -> &[f32] {
        let number = document as usize;
        match number.checked_sub(self.candidates.rows()) {
            None => self.candidates.row(number),
            Some(other) => self.others.row(other),
        }
    }

    /// Cosines of a query with documents, in `f64`: the values do not depend on which documents are asked for together.
    ///
    /// # Panics
    /// Where a number is none of the set's.
    pub fn cosines(&self, query: usize, documents: impl Iterator<Item = u32>) -> Vec<Found> {
        let dim = self.dim().max(1);
        let left: Vec<f64> = self.queries.row(query).iter().map(|&value| f64::from(value)).collect();
        let at_a_time = (WIDENED / dim).max(1);
        let mut out = Vec::with_capacity(documents.size_hint().0);
        let (mut numbers, mut right) = (Vec::with_capacity(at_a_time), Vec::with_capacity(at_a_time * dim));
        let mut flush = |numbers: &mut Vec<u32>, right: &mut Vec<f64>| {
            let mut scores = vec![0.0; numbers.len()];
            inner_products(&left, right, dim, &mut scores);
            // The length of a row is 1 to within `f32`.
            let scores = scores.into_iter().map(|score: f64| score.clamp(-1.0, 1.0));
            out.extend(numbers.drain(..).zip(scores).map(|(document, score)| Found { document, score }));
            right.clear();
        };
        for document in documents {
            numbers.push(document);
            right.extend(self.document(document).iter().map(|&value| f64::from(value)));
            if numbers.len() == at_a_time {
                flush(&mut numbers, &mut right);
            }
        }
        flush(&mut numbers, &mut right);
        out
    }

    /// The cosine of a query with one document.
    ///
    /// # Panics
    /// As [`Self::cosines`].
    pub fn cosine(&self, query: usize, document: u32) -> f64 {
        self.cosines(query, std::iter::once(document)).first().map_or(0.0, |found| found.score)
    }
}
