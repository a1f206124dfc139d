//! Matryoshka representation learning (Kusupati et al. 2022): the first columns of an embedding must serve as an embedding.
//! sentence-transformers' `MatryoshkaLoss`.

use candle_core::{Result, Tensor, bail};

use super::math::shape_of_width;

const NAME: &str = "matryoshka";

/// `Σ_k weights[k]·loss(embeddings cut to dims[k] columns)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matryoshka {
    /// Widths; the full one is trained only if it is among them.
    pub dims: Vec<usize>,
    /// A weight for each width; empty for 1 each.
    pub weights: Vec<f64>,
}

impl Matryoshka {
    /// A scalar. `embeddings` `[_, d]`: what `loss` takes, in its order, all of one width d. Cut embeddings are not
    /// normalised here, but by the losses that compare by cosine.
    ///
    /// # Errors
    /// Where there is no width, one is 0 or above d, the weights are not as many or no numbers, or `loss` fails.
    pub fn loss(&self, embeddings: &[&Tensor], loss: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Result<Tensor> {
        self.check(embeddings)?;
        let mut total: Option<Tensor> = None;
        for (k, &dim) in self.dims.iter().enumerate() {
            let cut = embeddings.iter().map(|e| e.narrow(1, 0, dim)?.contiguous()).collect::<Result<Vec<_>>>()?;
            let weighted = (loss(&cut)? * self.weights.get(k).copied().unwrap_or(1.0))?;
            total = Some(match total {
                None => weighted,
                Some(total) => (total + weighted)?,
            });
        }
        match total {
            Some(total) => Ok(total),
            None => bail!("{NAME}: no dims"),
        }
    }

    fn check(&self, embeddings: &[&Tensor]) -> Result<()> {
        let Some(first) = embeddings.first() else {
            bail!("{NAME}: no embeddings");
        };
        let width = first.dims().last().copied().unwrap_or(0);
        for tensor in embeddings {
            shape_of_width(NAME, "embeddings", tensor, width)?;
        }
        if let Some(dim) = self.dims.iter().find(|dim| **dim == 0 || **dim > width) {
            bail!("{NAME}: dim {dim}: must lie from 1 to the model's width {width}");
        }
        if !(self.weights.is_empty() || self.weights.len() == self.dims.len()) {
            bail!("{NAME}: {} weights for {} dims", self.weights.len(), self.dims.len());
        }
        if let Some(weight) = self.weights.iter().find(|weight| !weight.is_finite()) {
            bail!("{NAME}: weight {weight}: must be a finite number");
        }
        Ok(())
    }
}
