//! Unsupervised SimCSE (Gao et al. 2021): a text's positive is the text itself under another dropout mask, the other texts of
//! the batch are negatives.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::info_nce::{InfoNce, Masks};
use super::math::common_shape;
use super::temperature::Temperature;

const NAME: &str = "simcse";

/// [`InfoNce`] of one dropout pass against the other; the paper's temperature is 0.05.
#[derive(Debug, Clone)]
pub struct SimCse {
    /// Temperature T.
    pub temperature: Temperature,
}

impl SimCse {
    /// A scalar. `a`, `b` `[n, d]`: the same texts, encoded twice; `identities[i]`: equal for equal texts, which are no
    /// negatives of each other; empty where all differ.
    ///
    /// # Errors
    /// Where shapes do not fit, or the temperature is out of its range.
    pub fn loss(&self, a: &Tensor, b: &Tensor, identities: &[u64]) -> Result<Tensor> {
        let (n, _) = common_shape(NAME, &[("a", a), ("b", b)])?;
        if !(identities.is_empty() || identities.len() == n) {
            bail!("{NAME}: {} identities for {n} texts", identities.len());
        }
        let same = |i: usize, j: usize| i != j && identities[i] == identities[j];
        let rows = 0..identities.len();
        let documents = rows.clone().flat_map(|i| rows.clone().map(move |j| same(i, j))).collect();
        let masks = Masks { documents: Arc::new(documents), queries: Arc::default() };
        InfoNce { temperature: self.temperature.clone(), ..InfoNce::with_temperature(1.0) }.loss(a, b, None, &masks)
    }
}
