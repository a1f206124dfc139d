//! GISTEmbed (Solatorio 2024, "Guided In-sample Selection of Training Negatives"): InfoNCE in which a guide model says which
//! negatives are likely positives. sentence-transformers' `GISTEmbedLoss`.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::info_nce::{Masks, diagonal};
use super::margin::Margin;
use super::math::{check_above_zero, common_shape, shape_of_width};
use crate::nn::cross_entropy::cross_entropy;
use crate::nn::linear::product_transposed;
use crate::nn::normalize::l2_normalize;

const NAME: &str = "gist";

/// −mean log of the softmax of cosines over the temperature, at the positive; candidates of query i are all documents and,
/// where asked for, `cos(q_i, q_j)` and `cos(p_i, p_j)` with the other queries and positives. A candidate whose cosine by
/// the guide is above the margin's limit, counted from the guide's cosine of query i and its positive, is left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gist {
    /// Temperature T.
    pub temperature: f64,
    /// How far below the positive, by the guide, a negative must lie.
    pub margin: Margin,
    /// Queries are negatives of each other.
    pub contrast_anchors: bool,
    /// Positives are negatives of each other.
    pub contrast_positives: bool,
}

/// Embeddings by one model.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// `[n, width]`.
    pub queries: &'a Tensor,
    /// `[m, width]`, m ≥ n: the positive of each query, then negatives.
    pub documents: &'a Tensor,
}

impl Gist {
    /// A scalar. The guide's embeddings have their own width and get no gradient. `masks.documents` hides documents from
    /// queries and, its first n columns, positives from positives; `masks.queries`, `[n * n]`, hides queries from queries.
    /// A query and a positive are never negatives of themselves.
    ///
    /// # Errors
    /// Where shapes do not fit, the temperature is not above 0, the margin is no finite number, or a mask hides a positive.
    pub fn loss(&self, student: Side, guide: Side, masks: &Masks) -> Result<Tensor> {
        check_above_zero(NAME, "temperature", self.temperature)?;
        self.margin.check(NAME)?;
        let (n, m) = student.check()?;
        if guide.check()? != (n, m) {
            bail!("{NAME}: the guide's queries or documents are not as many as the {n} and {m} of the model");
        }
        for (name, mask, expected) in [("documents", &masks.documents, n * m), ("queries", &masks.queries, n * n)] {
            if !(mask.is_empty() || mask.len() == expected) {
                bail!("{NAME}: {} mask values of {name}, expected {expected}", mask.len());
            }
        }
        let guide = Side { queries: &guide.queries.detach(), documents: &guide.documents.detach() };
        let (student, guide) = (student.cosines(self, n)?, guide.cosines(self, n)?);
        let masked = self.masked(&guide.to_vec2()?, masks, m);
        cross_entropy(&student, &diagonal(n), &Arc::new(masked), self.temperature)
    }

    /// Which of the candidates of [`Side::cosines`] are left out, `[n * candidates]`.
    fn masked(&self, guide: &[Vec<f32>], masks: &Masks, m: usize) -> Vec<bool> {
        let n = guide.len();
        let given = |mask: &[bool], index: usize| mask.get(index).copied().unwrap_or(false);
        let mut out = Vec::with_capacity(guide.iter().map(Vec::len).sum());
        for (i, row) in guide.iter().enumerate() {
            let limit = self.margin.limit(row[i]);
            for (column, &cosine) in row.iter().enumerate() {
                let left_out = if column < m {
                    given(&masks.documents, i * m + column) || (column != i && cosine > limit)
                } else {
                    let j = (column - m) % n;
                    let among_queries = self.contrast_anchors && column < m + n;
                    let same = if among_queries {
                        given(&masks.queries, i * n + j)
                    } else {
                        given(&masks.documents, i * m + j)
                    };
                    j == i || same || cosine > limit
                };
                out.push(left_out);
            }
        }
        out
    }
}

impl Side<'_> {
    /// Queries and documents.
    fn check(&self) -> Result<(usize, usize)> {
        let (n, width) = common_shape(NAME, &[("queries", self.queries)])?;
        let (m, _) = shape_of_width(NAME, "documents", self.documents, width)?;
        if m < n {
            bail!("{NAME}: {n} queries need at least as many documents, got {m}");
        }
        Ok((n, m))
    }

    /// Cosines with the documents, then those among queries, then those among positives: `[n, m]` to `[n, m + 2n]`.
    fn cosines(&self, settings: &Gist, n: usize) -> Result<Tensor> {
        let (queries, documents) = (l2_normalize(self.queries)?, l2_normalize(self.documents)?);
        let mut blocks = vec![product_transposed(&queries, &documents)?];
        if settings.contrast_anchors {
            blocks.push(product_transposed(&queries, &queries)?);
        }
        if settings.contrast_positives {
            let positives = documents.narrow(0, 0, n)?;
            blocks.push(product_transposed(&positives, &positives)?);
        }
        Tensor::cat(&blocks, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn matrix(rows: usize, width: usize, seed: usize) -> Tensor {
        let values: Vec<f32> = (0..rows * width).map(|i| ((i * 37 + seed * 101) % 53) as f32 / 26.0 - 1.0).collect();
        Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
    }

    /// Hides what `hidden(row, column)` says of `columns` candidates.
    fn mask(columns: usize, hidden: impl Fn(usize, usize) -> bool) -> Arc<Vec<bool>> {
        Arc::new((0..3 * columns).map(|i| hidden(i / columns, i % columns)).collect())
    }

    #[test]
    fn masks_hide_what_they_say() {
        let (queries, documents) = (matrix(3, 6, 1), matrix(5, 6, 2));
        let (guide_queries, guide_documents) = (matrix(3, 4, 3), matrix(5, 4, 4));
        // A margin below −2 leaves nothing out by itself.
        let all =
            Gist { temperature: 0.2, margin: Margin::Absolute(-3.0), contrast_anchors: true, contrast_positives: true };
        let loss = |settings: Gist, documents_used: usize, masks: &Masks| -> f32 {
            let (documents, guide_documents) = (
                documents.narrow(0, 0, documents_used).unwrap(),
                guide_documents.narrow(0, 0, documents_used).unwrap(),
            );
            let student = Side { queries: &queries, documents: &documents };
            let guide = Side { queries: &guide_queries, documents: &guide_documents };
            settings.loss(student, guide, masks).unwrap().to_scalar().unwrap()
        };
        let same = |got: f32, want: f32| assert!((got - want).abs() < 1e-6, "{got} {want}");
        let none = Masks::default();
        let hard = Masks { documents: mask(5, |_, d| d > 2), queries: Arc::default() };
        same(loss(all, 5, &hard), loss(all, 3, &none));
        let queries_hidden = Masks { documents: Arc::default(), queries: mask(3, |q, other| q != other) };
        same(loss(all, 5, &queries_hidden), loss(Gist { contrast_anchors: false, ..all }, 5, &none));
        // Positives hidden from queries are hidden from positives.
        let positives = Masks { documents: mask(5, |q, d| d < 3 && d != q), queries: Arc::default() };
        same(loss(all, 5, &positives), loss(Gist { contrast_positives: false, ..all }, 5, &positives));
        let lone = Gist { contrast_anchors: false, ..all };
        same(loss(lone, 5, &positives), loss(Gist { contrast_positives: false, ..lone }, 5, &positives));
        assert!((loss(all, 5, &none) - loss(all, 5, &positives)).abs() > 1e-3);
    }
}
