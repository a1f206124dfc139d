//! InfoNCE (van den Oord et al. 2018) with in-batch and hard negatives, a memory of earlier batches (Wang et al. 2020,
//! "Cross-Batch Memory"), label smoothing (Szegedy et al. 2016) and false negatives left out (Moreira et al. 2024,
//! "NV-Retriever"); with cosine similarity it is sentence-transformers' `MultipleNegativesRankingLoss`
//! (scale = 1/temperature).

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::margin::Margin;
use super::math::{common_shape, shape_of_width};
use super::temperature::Temperature;
use crate::nn::cross_entropy::cross_entropy;
use crate::nn::linear::product_transposed;
use crate::nn::normalize::l2_normalize;

const NAME: &str = "info_nce";

/// Which documents must not count as negatives of a query.
#[derive(Debug, Clone, Default)]
pub struct Masks {
    /// `[queries * documents]`, row-major, true where document `d` says the same as query `q`'s positive; empty for none.
    pub documents: Arc<Vec<bool>>,
    /// `[queries * (queries + more queries)]`: row `d`, column `q`, true where query `q` is as good a match of positive `d`
    /// as its own; empty for none.
    pub queries: Arc<Vec<bool>>,
}

/// −mean log p(i | i) over queries i, where p(d | i) is the softmax of `cos(q_i, d) / T` over all documents d: document i is
/// the positive of query i, the rest are negatives.
#[derive(Debug, Clone)]
pub struct InfoNce {
    /// Temperature T.
    pub temperature: Temperature,
    /// ε from 0 to 1: the loss of a row is `(1 − ε)·(−log p(i | i))` and ε times the mean of `−log p(d | i)` over the
    /// documents that are not masked, as torch's `cross_entropy(label_smoothing)`.
    pub label_smoothing: f64,
    /// The mean of the loss and of the same the other way: each positive i against all queries.
    pub both_directions: bool,
    /// Leaves negatives out of a row's softmax that are too near to its anchor (the query, or in the other direction the
    /// document); never the positive. The choice has no gradient.
    pub false_negatives: Option<Margin>,
}

impl InfoNce {
    /// One direction at a fixed temperature, nothing else.
    pub fn with_temperature(temperature: f64) -> Self {
        Self {
            temperature: Temperature::Fixed(temperature),
            label_smoothing: 0.0,
            both_directions: false,
            false_negatives: None,
        }
    }

    /// A scalar. `queries` `[n, dim]`; `documents` `[m, dim]`, m ≥ n: the positive of each query, then hard negatives, then
    /// documents of a memory; `more_queries` `[k, dim]`: queries of a memory, negatives of a positive.
    ///
    /// # Errors
    /// Where shapes do not fit, a setting is out of its range, a mask hides a positive, or more queries are given while
    /// the loss goes one direction.
    pub fn loss(
        &self,
        queries: &Tensor,
        documents: &Tensor,
        more_queries: Option<&Tensor>,
        masks: &Masks,
    ) -> Result<Tensor> {
        let (n, width) = common_shape(NAME, &[("queries", queries)])?;
        let (m, _) = shape_of_width(NAME, "documents", documents, width)?;
        if m < n {
            bail!("{NAME}: {n} queries need at least as many documents, got {m}");
        }
        let (queries, documents) = (l2_normalize(queries)?, l2_normalize(documents)?);
        let forward = self.direction(&queries, &documents, &masks.documents)?;
        if !self.both_directions {
            if more_queries.is_some() {
                bail!("{NAME}: more queries are negatives of documents alone: they need both directions");
            }
            return Ok(forward);
        }
        let positives = documents.narrow(0, 0, n)?;
        let queries = match more_queries {
            None => queries,
            Some(more) => {
                shape_of_width(NAME, "more queries", more, width)?;
                Tensor::cat(&[&queries, &l2_normalize(more)?], 0)?
            }
        };
        let backward = self.direction(&positives, &queries, &masks.queries)?;
        (forward + backward)? * 0.5
    }

    /// Each of the `[n, dim]` anchors against all of the `[m, dim]` candidates, unit rows both.
    fn direction(&self, anchors: &Tensor, candidates: &Tensor, masked: &Arc<Vec<bool>>) -> Result<Tensor> {
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            bail!("{NAME}: label_smoothing = {}: must lie from 0 to 1", self.label_smoothing);
        }
        let cosines = product_transposed(anchors, candidates)?;
        let (n, m) = cosines.dims2()?;
        if !(masked.is_empty() || masked.len() == n * m) {
            bail!("{NAME}: {} mask values for {n} rows of {m} candidates", masked.len());
        }
        let masked = match self.false_negatives {
            None => masked.clone(),
            Some(margin) => Arc::new(without_false_negatives(&cosines, masked, margin)?),
        };
        let (logits, divisor) = self.temperature.logits(NAME, &cosines)?;
        let loss = cross_entropy(&logits, &diagonal(n), &masked, divisor)?;
        if self.label_smoothing == 0.0 {
            return Ok(loss);
        }
        let smoothing = smoothing_weights(n, m, &masked, self.label_smoothing / divisor);
        loss + (logits * Tensor::from_vec(smoothing, (n, m), cosines.device())?)?.sum_all()?
    }
}

/// Row i's target is class i.
pub(super) fn diagonal(n: usize) -> Arc<Vec<u32>> {
    Arc::new((0..n as u32).collect())
}

/// `masked` and, in each row, the candidates above the margin's limit; the diagonal holds the positives.
fn without_false_negatives(cosines: &Tensor, masked: &[bool], margin: Margin) -> Result<Vec<bool>> {
    margin.check(NAME)?;
    let (n, m) = cosines.dims2()?;
    let rows = cosines.detach().to_vec2::<f32>()?;
    let mut out = if masked.is_empty() { vec![false; n * m] } else { masked.to_vec() };
    for (i, (row, out)) in rows.iter().zip(out.chunks_exact_mut(m)).enumerate() {
        let limit = margin.limit(row[i]);
        for (j, (cosine, out)) in row.iter().zip(out).enumerate() {
            *out |= j != i && *cosine > limit;
        }
    }
    Ok(out)
}

/// What `Σ logits ∘ weights` must be for it to be what smoothing by ε adds to the cross entropy: the mean over rows of
/// `ε·(target's logit − mean of the logits kept)`.
fn smoothing_weights(n: usize, m: usize, masked: &[bool], epsilon: f64) -> Vec<f32> {
    let mut weights = Vec::with_capacity(n * m);
    for i in 0..n {
        let row = masked.get(i * m..(i + 1) * m);
        let kept = row.map_or(m, |row| row.iter().filter(|masked| !**masked).count());
        let uniform = 1.0 / kept.max(1) as f64;
        weights.extend((0..m).map(|j| {
            let target = if j == i { 1.0 } else { 0.0 };
            let mean = if row.is_some_and(|row| row[j]) { 0.0 } else { uniform };
            (epsilon / n as f64 * (target - mean)) as f32
        }));
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_direction(queries: &Tensor, documents: &Tensor, masks: &Masks, temperature: f64) -> Result<Tensor> {
        InfoNce::with_temperature(temperature).loss(queries, documents, None, masks)
    }
    use candle_core::Device;

    const Q: [f32; 6] = [1.0, 0.2, -0.5, 0.8, 0.3, 0.9];
    const D: [f32; 8] = [0.9, 0.1, -0.4, 1.0, 0.2, 0.7, 0.5, -0.6];

    fn rows(values: &[f32], n: usize) -> Tensor {
        Tensor::from_slice(values, (n, values.len() / n), &Device::Cpu).unwrap()
    }

    fn scalar(t: Result<Tensor>) -> f32 {
        t.unwrap().to_scalar().unwrap()
    }

    #[test]
    fn equals_the_formula_written_out() {
        let loss = scalar(one_direction(&rows(&Q, 3), &rows(&D, 4), &Masks::default(), 0.5));
        let unit = |v: &[f32]| {
            let n = (v[0] * v[0] + v[1] * v[1]).sqrt();
            [v[0] / n, v[1] / n]
        };
        let mut want = 0.0;
        for i in 0..3 {
            let q = unit(&Q[2 * i..]);
            let logits: Vec<f32> =
                (0..4).map(|j| unit(&D[2 * j..])).map(|d| (q[0] * d[0] + q[1] * d[1]) / 0.5).collect();
            want += logits.iter().map(|l| l.exp()).sum::<f32>().ln() - logits[i];
        }
        assert!((loss - want / 3.0).abs() < 1e-5, "{loss} {want}");
    }

    #[test]
    fn a_masked_document_is_no_negative() {
        let mut mask = vec![false; 12];
        mask[3] = true;
        mask[7] = true;
        mask[11] = true;
        let masks = Masks { documents: Arc::new(mask), queries: Arc::default() };
        let masked = scalar(one_direction(&rows(&Q, 3), &rows(&D, 4), &masks, 0.1));
        let without = scalar(one_direction(&rows(&Q, 3), &rows(&D[..6], 3), &Masks::default(), 0.1));
        assert!((masked - without).abs() < 1e-6);
    }

    #[test]
    fn a_wide_margin_leaves_the_positive_alone() {
        let settings = InfoNce { false_negatives: Some(Margin::Absolute(5.0)), ..InfoNce::with_temperature(0.1) };
        assert_eq!(scalar(settings.loss(&rows(&Q, 3), &rows(&D, 4), None, &Masks::default())), 0.0);
    }

    #[test]
    fn a_learned_temperature_stops_at_a_hundredth() {
        let at = |log_scale: f32| Temperature::Learned(Tensor::new(log_scale, &Device::Cpu).unwrap());
        assert!((at(2.0).value().unwrap() - (-2f64).exp()).abs() < 1e-7);
        assert!((at(7.0).value().unwrap() - 0.01).abs() < 1e-7);
        let loss = |temperature| {
            let settings = InfoNce { temperature, ..InfoNce::with_temperature(1.0) };
            scalar(settings.loss(&rows(&Q, 3), &rows(&D, 4), None, &Masks::default()))
        };
        assert!((loss(at(7.0)) - loss(Temperature::Fixed(0.01))).abs() < 1e-5);
        assert!((loss(at(2.0)) - loss(Temperature::Fixed((-2f64).exp()))).abs() < 1e-5);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let (q, d, none) = (rows(&Q, 3), rows(&D, 4), Masks::default());
        assert!(one_direction(&q, &rows(&D[..4], 2), &none, 0.1).is_err());
        assert!(one_direction(&q, &rows(&D, 2), &none, 0.1).is_err());
        for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(one_direction(&q, &d, &none, temperature).is_err());
        }
        let short = Masks { documents: Arc::new(vec![false; 5]), queries: Arc::default() };
        let plain = InfoNce::with_temperature(0.1);
        let filtered = InfoNce { false_negatives: Some(Margin::Absolute(0.1)), ..plain.clone() };
        assert!(plain.loss(&q, &d, None, &short).is_err() && filtered.loss(&q, &d, None, &short).is_err());
        let mut diagonal = vec![false; 12];
        diagonal[5] = true;
        let hides = Masks { documents: Arc::new(diagonal), queries: Arc::default() };
        assert!(plain.loss(&q, &d, None, &hides).is_err());
        assert!(plain.loss(&q, &d, Some(&q), &none).is_err());
        assert!(InfoNce { label_smoothing: 1.5, ..plain.clone() }.loss(&q, &d, None, &none).is_err());
        assert!(
            InfoNce { false_negatives: Some(Margin::Relative(f64::NAN)), ..plain.clone() }
                .loss(&q, &d, None, &none)
                .is_err()
        );
        let pair = Temperature::Learned(rows(&[1.0, 2.0], 1));
        assert!(InfoNce { temperature: pair, ..plain }.loss(&q, &d, None, &none).is_err());
    }
}
