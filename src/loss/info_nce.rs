//! InfoNCE (van den Oord et al. 2018) with in-batch and hard negatives; with cosine similarity it is
//! sentence-transformers' `MultipleNegativesRankingLoss` (scale = 1/temperature).

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::nn::cross_entropy::cross_entropy;
use crate::nn::linear::product_transposed;
use crate::nn::normalize::l2_normalize;

/// Which documents must not count as negatives of a query.
#[derive(Debug, Clone, Default)]
pub struct Masks {
    /// `[queries * documents]`, row-major, true where document `d` says the same as query `q`'s positive; empty for none.
    pub documents: Arc<Vec<bool>>,
    /// `[queries * queries]`: row `d`, column `q`, true where query `q` is as good a match of positive `d` as its own;
    /// empty for none.
    pub queries: Arc<Vec<bool>>,
}

/// −mean log softmax_d(cos(q_i, d) / T)\[i\] over all documents `d`: the positive of query `i` is document `i`, the rest
/// (other positives, then hard negatives) are negatives. `queries` `[n, dim]`, `documents` `[m, dim]`, m ≥ n → a scalar.
///
/// # Errors
/// Where shapes do not fit, or the temperature is not above 0.
pub fn one_direction(queries: &Tensor, documents: &Tensor, masks: &Masks, temperature: f64) -> Result<Tensor> {
    let (queries, documents) = (l2_normalize(queries)?, l2_normalize(documents)?);
    towards_documents(&queries, &documents, masks, temperature)
}

/// The mean of [`one_direction`] and of the loss the other way: each positive `i` against all queries.
///
/// # Errors
/// As [`one_direction`].
pub fn both_directions(queries: &Tensor, documents: &Tensor, masks: &Masks, temperature: f64) -> Result<Tensor> {
    let (queries, documents) = (l2_normalize(queries)?, l2_normalize(documents)?);
    let forward = towards_documents(&queries, &documents, masks, temperature)?;
    let n = queries.dims2()?.0;
    let backward = product_transposed(&documents.narrow(0, 0, n)?, &queries)?;
    let backward = cross_entropy(&backward, &targets(n), &masks.queries, temperature)?;
    (forward + backward)? * 0.5
}

fn towards_documents(queries: &Tensor, documents: &Tensor, masks: &Masks, temperature: f64) -> Result<Tensor> {
    let (n, m) = (queries.dims2()?.0, documents.dims2()?.0);
    if m < n || n == 0 {
        bail!("info_nce: {n} queries need at least as many documents, got {m}");
    }
    if temperature.is_nan() || temperature <= 0.0 {
        bail!("info_nce: temperature {temperature} must be above 0");
    }
    cross_entropy(&product_transposed(queries, documents)?, &targets(n), &masks.documents, temperature)
}

fn targets(n: usize) -> Arc<Vec<u32>> {
    Arc::new((0..n as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn rows(values: &[f32], n: usize) -> Var {
        Var::from_tensor(&Tensor::from_slice(values, (n, values.len() / n), &Device::Cpu).unwrap()).unwrap()
    }

    fn scalar(t: Tensor) -> f32 {
        t.to_scalar().unwrap()
    }

    const Q: [f32; 6] = [1.0, 0.2, -0.5, 0.8, 0.3, 0.9];
    const D: [f32; 8] = [0.9, 0.1, -0.4, 1.0, 0.2, 0.7, 0.5, -0.6];

    #[test]
    fn equals_the_formula_written_out() {
        let loss = scalar(one_direction(&rows(&Q, 3), &rows(&D, 4), &Masks::default(), 0.5).unwrap());
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
    fn gradients_agree_with_finite_differences() {
        for symmetric in [false, true] {
            let f = |q: &[f32], d: &[f32]| {
                let (q, d) = (rows(q, 3), rows(d, 4));
                let masks = Masks::default();
                let loss = if symmetric { both_directions } else { one_direction };
                (loss(&q, &d, &masks, 0.3).unwrap(), q, d)
            };
            let (loss, q, d) = f(&Q, &D);
            let gradients = loss.backward().unwrap();
            for (var, base) in [(&q, &Q[..]), (&d, &D[..])] {
                let analytic: Vec<f32> = gradients.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                for i in 0..base.len() {
                    let at = |h: f32| {
                        let mut moved = base.to_vec();
                        moved[i] += h;
                        let (q, d) = if base.len() == 6 { (&moved[..], &D[..]) } else { (&Q[..], &moved[..]) };
                        scalar(f(q, d).0)
                    };
                    let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
                    assert!((numeric - analytic[i]).abs() < 3e-3, "{numeric} {}", analytic[i]);
                }
            }
        }
    }

    #[test]
    fn does_not_depend_on_lengths_or_on_the_order_of_negatives() {
        let base = scalar(one_direction(&rows(&Q, 3), &rows(&D, 4), &Masks::default(), 0.1).unwrap());
        let long: Vec<f32> = Q.iter().map(|v| v * 7.0).collect();
        let scaled = scalar(one_direction(&rows(&long, 3), &rows(&D, 4), &Masks::default(), 0.1).unwrap());
        assert!((base - scaled).abs() < 1e-5);
        // Two rows exchanged on both sides.
        let (q, d) = ([Q[2], Q[3], Q[0], Q[1], Q[4], Q[5]], [D[2], D[3], D[0], D[1], D[4], D[5], D[6], D[7]]);
        let swapped = scalar(one_direction(&rows(&q, 3), &rows(&d, 4), &Masks::default(), 0.1).unwrap());
        assert!((base - swapped).abs() < 1e-5);
    }

    #[test]
    fn a_masked_document_is_no_negative() {
        let mut mask = vec![false; 12];
        mask[3] = true;
        mask[7] = true;
        mask[11] = true;
        let masks = Masks { documents: Arc::new(mask), queries: Arc::default() };
        let masked = scalar(one_direction(&rows(&Q, 3), &rows(&D, 4), &masks, 0.1).unwrap());
        let without = scalar(one_direction(&rows(&Q, 3), &rows(&D[..6], 3), &Masks::default(), 0.1).unwrap());
        assert!((masked - without).abs() < 1e-6);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        assert!(one_direction(&rows(&Q, 3), &rows(&D[..4], 2), &Masks::default(), 0.1).is_err());
        assert!(one_direction(&rows(&Q, 3), &rows(&D, 4), &Masks::default(), 0.0).is_err());
    }
}
