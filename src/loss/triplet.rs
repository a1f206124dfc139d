//! Triplet loss (Schroff et al. 2015, "FaceNet"): the positive must be nearer to the anchor than the negative by a margin.
//! sentence-transformers' `TripletLoss`.

use candle_core::{Result, Tensor, bail};

use super::distance::Distance;
use super::math::{common_shape, hinge, rows_at, shape_of_width};

const NAME: &str = "triplet";

/// Mean over triplets of `max(0, d(anchor, positive) − d(anchor, negative) + margin)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Triplet {
    /// By how much the negative must be farther away, in the distance's unit.
    pub margin: f64,
    /// The distance d.
    pub distance: Distance,
}

impl Triplet {
    /// A scalar. `anchors`, `positives` `[n, d]`; `negatives` `[k, d]`, where `owners[j]` below n is the anchor of negative
    /// j. The mean is over the k triplets; an anchor may have any number of them.
    ///
    /// # Errors
    /// Where shapes do not fit, there is no negative, an owner is no anchor, or the margin is no finite number.
    pub fn loss(&self, anchors: &Tensor, positives: &Tensor, negatives: &Tensor, owners: &[usize]) -> Result<Tensor> {
        check_margin(NAME, self.margin)?;
        let (_, width) = common_shape(NAME, &[("anchors", anchors), ("positives", positives)])?;
        let (k, _) = shape_of_width(NAME, "negatives", negatives, width)?;
        if owners.len() != k {
            bail!("{NAME}: {} owners for {k} negatives", owners.len());
        }
        let owned = |rows: &Tensor| rows_at(NAME, rows, owners.iter().copied());
        let near = owned(&self.distance.rows(anchors, positives)?)?;
        let far = self.distance.rows(&owned(anchors)?, negatives)?;
        hinge(&((near - far)? + self.margin)?)?.mean_all()
    }
}

/// Refuses a margin that is no number.
pub(super) fn check_margin(loss: &str, margin: f64) -> Result<()> {
    if !margin.is_finite() {
        bail!("{loss}: margin = {margin}: must be a finite number");
    }
    Ok(())
}
