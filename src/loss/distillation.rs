//! Distillation of a teacher's scores of a query's documents: by Kullback-Leibler divergence, as FlagEmbedding's `kl_div` and
//! sentence-transformers' `DistillKLDivLoss`, and by score differences (Hofstätter et al. 2020, "MarginMSE"),
//! sentence-transformers' `MarginMSELoss`.

use candle_core::{Result, Tensor, bail};

use super::math::{
    check_above_zero, check_scores, common_shape, log_softmax, row_cosines, row_products, rows_at, shape_of_width,
};

/// What the student scores a pair by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Similarity {
    /// `cos(q, d)`.
    Cosine,
    /// `q · d`.
    Dot,
}

/// The documents of each query and what a teacher makes of them.
#[derive(Debug, Clone, Copy)]
pub struct Groups<'a> {
    /// `documents[i]`: rows of the documents of query i; any number, the positive first.
    pub documents: &'a [Vec<usize>],
    /// `teacher[i][j]`: the score of query i's document j.
    pub teacher: &'a [Vec<f32>],
}

/// Mean over queries of `Σ_j t_j·(ln t_j − ln s_j)`, where t and s are the softmax of the teacher's and the student's scores of
/// the query's documents, each over its temperature.
///
/// FlagEmbedding leaves out `Σ t_j ln t_j`, which has no gradient; sentence-transformers multiplies by the square of the
/// student's temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlDivergence {
    /// Of the student.
    pub similarity: Similarity,
    /// Temperature of the student's softmax.
    pub temperature: f64,
    /// Temperature of the teacher's softmax.
    pub teacher_temperature: f64,
}

impl KlDivergence {
    /// A scalar. `queries` `[n, d]`, `documents` `[m, d]`, one group a query.
    ///
    /// # Errors
    /// Where shapes do not fit, a group is empty or names no document, a teacher's score is no number, or a temperature is
    /// not above 0.
    pub fn loss(&self, queries: &Tensor, documents: &Tensor, groups: Groups) -> Result<Tensor> {
        const NAME: &str = "kl_divergence";
        check_above_zero(NAME, "temperature", self.temperature)?;
        check_above_zero(NAME, "teacher_temperature", self.teacher_temperature)?;
        let n = groups.check(NAME, queries, documents)?;
        if let Some(query) = groups.documents.iter().position(Vec::is_empty) {
            bail!("{NAME}: query {query} has no documents");
        }
        let width = groups.documents.iter().map(Vec::len).max().unwrap_or(1);
        let mut padded = Vec::with_capacity(n * width);
        let mut kept = Vec::with_capacity(n * width);
        let mut targets = Vec::with_capacity(n * width);
        let (mut start, mut negative_entropy) = (0, 0.0);
        for scores in groups.teacher {
            let soft = softmax(scores, self.teacher_temperature);
            negative_entropy += soft.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>();
            for j in 0..width {
                padded.push((start + if j < scores.len() { j } else { 0 }) as u32);
                kept.push(u8::from(j < scores.len()));
                targets.push(soft.get(j).map_or(0.0, |p| *p as f32));
            }
            start += scores.len();
        }
        let device = queries.device();
        let scores = groups.student_scores(NAME, queries, documents, self.similarity)?;
        let scores = scores.index_select(&Tensor::from_vec(padded, n * width, device)?, 0)?.reshape((n, width))?;
        let kept = Tensor::from_vec(kept, (n, width), device)?;
        let student = log_softmax(&(scores / self.temperature)?, &kept)?;
        let cross = (student * Tensor::from_vec(targets, (n, width), device)?)?.sum_all()?;
        cross.affine(-1.0 / n as f64, negative_entropy / n as f64)
    }
}

/// Mean over queries i and their documents j but the first of `((s_i0 − s_ij) − (t_i0 − t_ij))²`, a scalar; s and t are the
/// student's and the teacher's scores. `queries` `[n, d]`, `documents` `[m, d]`, one group a query.
///
/// # Errors
/// Where shapes do not fit, no group has a negative, a group names no document, or a teacher's score is no number.
pub fn margin_mse(queries: &Tensor, documents: &Tensor, groups: Groups, similarity: Similarity) -> Result<Tensor> {
    const NAME: &str = "margin_mse";
    groups.check(NAME, queries, documents)?;
    let (mut positives, mut negatives, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    let mut start = 0;
    for scores in groups.teacher {
        for (j, score) in scores.iter().enumerate().skip(1) {
            positives.push(start);
            negatives.push(start + j);
            targets.push(scores[0] - score);
        }
        start += scores.len();
    }
    if targets.is_empty() {
        bail!("{NAME}: no query has a second document");
    }
    let scores = groups.student_scores(NAME, queries, documents, similarity)?;
    let margins = (rows_at(NAME, &scores, positives)? - rows_at(NAME, &scores, negatives)?)?;
    let count = targets.len();
    (margins - Tensor::from_vec(targets, count, queries.device())?)?.sqr()?.mean_all()
}

impl Groups<'_> {
    /// Queries.
    fn check(&self, loss: &str, queries: &Tensor, documents: &Tensor) -> Result<usize> {
        let (n, width) = common_shape(loss, &[("queries", queries)])?;
        shape_of_width(loss, "documents", documents, width)?;
        if self.documents.len() != n || self.teacher.len() != n {
            bail!("{loss}: {} groups and {} rows of scores for {n} queries", self.documents.len(), self.teacher.len());
        }
        for (query, (group, scores)) in self.documents.iter().zip(self.teacher).enumerate() {
            check_scores(loss, &format!("scores of query {query}"), scores, group.len())?;
        }
        Ok(n)
    }

    /// The student's scores of all groups, one after the other: `[pairs]`.
    fn student_scores(
        &self,
        loss: &str,
        queries: &Tensor,
        documents: &Tensor,
        similarity: Similarity,
    ) -> Result<Tensor> {
        let owners = self.documents.iter().enumerate().flat_map(|(query, group)| vec![query; group.len()]);
        let queries = rows_at(loss, queries, owners)?;
        let documents = rows_at(loss, documents, self.documents.iter().flatten().copied())?;
        match similarity {
            Similarity::Cosine => row_cosines(&queries, &documents),
            Similarity::Dot => row_products(&queries, &documents),
        }
    }
}

fn softmax(scores: &[f32], temperature: f64) -> Vec<f64> {
    let shift = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> =
        scores.iter().map(|s| ((f64::from(*s) - f64::from(shift)) / temperature).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.into_iter().map(|e| e / sum).collect()
}
