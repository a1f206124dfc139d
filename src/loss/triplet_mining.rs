//! Triplets mined from a batch of labelled embeddings: sentence-transformers' `BatchHardTripletLoss`,
//! `BatchHardSoftMarginTripletLoss`, `BatchSemiHardTripletLoss` and `BatchAllTripletLoss`.
//!
//! Positives of an anchor are the other rows with its label, negatives the rows with other labels. What is mined is chosen
//! by distance and has no gradient; of equal distances the first is taken. A batch with one label alone, which has no
//! negatives, and one where all labels differ, which has no positives, give what sentence-transformers gives.

use candle_core::{Result, Tensor};

use super::distance::Distance;
use super::math::{check_labels, common_shape, hinge, softplus};
use super::triplet::check_margin;

const NAME: &str = "triplet mining";

/// Triplet loss over a batch of labelled embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TripletMining {
    /// The distance d.
    pub distance: Distance,
    /// Which triplets, and what is asked of them.
    pub mining: Mining,
}

/// Which triplets (a, p, n) of a batch count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mining {
    /// Hermans et al. 2017, "In Defense of the Triplet Loss": the farthest positive and the nearest negative of each
    /// anchor; the mean over anchors of `max(0, d(a, p) − d(a, n) + margin)`. Without a positive `d(a, p)` is 0.
    Hard {
        /// In the distance's unit.
        margin: f64,
    },
    /// The same triplets, with `ln(1 + exp(d(a, p) − d(a, n)))`.
    HardSoftMargin,
    /// Schroff et al. 2015, "FaceNet": for every anchor and positive the nearest negative beyond the positive or, where
    /// there is none, the farthest; the mean of the hinge over those pairs.
    SemiHard {
        /// In the distance's unit.
        margin: f64,
    },
    /// All triplets; the mean of the hinge over those where it is above 0.
    All {
        /// In the distance's unit.
        margin: f64,
    },
}

impl TripletMining {
    /// A scalar. `embeddings` `[n, d]`, one label a row. Memory grows with n², not with the number of triplets.
    ///
    /// # Errors
    /// Where shapes do not fit, or the margin is no finite number.
    pub fn loss(&self, embeddings: &Tensor, labels: &[u32]) -> Result<Tensor> {
        let (n, _) = common_shape(NAME, &[("embeddings", embeddings)])?;
        check_labels(NAME, labels, n)?;
        if let Mining::Hard { margin } | Mining::SemiHard { margin } | Mining::All { margin } = self.mining {
            check_margin(NAME, margin)?;
        }
        let distances = self.distance.matrix(embeddings)?;
        let batch = Batch { labels, distances: distances.detach().to_vec2()? };
        match self.mining {
            Mining::Hard { margin } => hinge(&(batch.hardest(&distances)? + margin)?)?.mean_all(),
            Mining::HardSoftMargin => softplus(&batch.hardest(&distances)?)?.mean_all(),
            Mining::SemiHard { margin } => batch.semi_hard(margin).loss(&distances),
            Mining::All { margin } => batch.all(margin).loss(&distances),
        }
    }
}

/// Labels and distances at hand.
struct Batch<'a> {
    labels: &'a [u32],
    distances: Vec<Vec<f32>>,
}

impl Batch<'_> {
    fn positives(&self, anchor: usize) -> impl Iterator<Item = usize> {
        (0..self.labels.len()).filter(move |&i| i != anchor && self.labels[i] == self.labels[anchor])
    }

    fn negatives(&self, anchor: usize) -> impl Iterator<Item = usize> {
        (0..self.labels.len()).filter(move |&i| self.labels[i] != self.labels[anchor])
    }

    /// `d(a, p) − d(a, n)` of each anchor's hardest positive and negative, `[n, 1]`.
    fn hardest(&self, distances: &Tensor) -> Result<Tensor> {
        let n = self.labels.len();
        let (mut farthest, mut nearest) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for (anchor, row) in self.distances.iter().enumerate() {
            // The first of equal ones, of maxima too.
            let maximum =
                |rows: &mut dyn Iterator<Item = usize>| rows.reduce(|a, b| if row[b] > row[a] { b } else { a });
            let positive = maximum(&mut self.positives(anchor)).unwrap_or(anchor);
            // Without negatives the farthest row stands in, which is the positive: no gradient.
            let negative = self.negatives(anchor).reduce(|a, b| if row[b] < row[a] { b } else { a });
            farthest.push(positive as u32);
            nearest.push(negative.unwrap_or(positive) as u32);
        }
        let pick = |columns: Vec<u32>| distances.gather(&Tensor::from_vec(columns, (n, 1), distances.device())?, 1);
        pick(farthest)? - pick(nearest)?
    }

    fn semi_hard(&self, margin: f64) -> Hinges {
        let mut hinges = Hinges::new(self.labels.len(), margin);
        for (anchor, row) in self.distances.iter().enumerate() {
            let mut negatives: Vec<usize> = self.negatives(anchor).collect();
            negatives.sort_by(|&a, &b| row[a].total_cmp(&row[b]));
            for positive in self.positives(anchor) {
                let beyond = negatives.partition_point(|&negative| row[negative] <= row[positive]);
                let negative = negatives.get(beyond).or(negatives.last()).copied().unwrap_or(anchor);
                hinges.add(row, anchor, positive, negative);
                hinges.counted += 1;
            }
        }
        hinges
    }

    fn all(&self, margin: f64) -> Hinges {
        let mut hinges = Hinges::new(self.labels.len(), margin);
        for (anchor, row) in self.distances.iter().enumerate() {
            for positive in self.positives(anchor) {
                for negative in self.negatives(anchor) {
                    hinges.add(row, anchor, positive, negative);
                }
            }
        }
        hinges.counted = hinges.active;
        hinges
    }
}

/// A sum of hinges, which is linear in the distances as long as the same ones are above 0: it needs one weight a distance,
/// however many triplets there are.
struct Hinges {
    margin: f64,
    /// `[n * n]`.
    weights: Vec<f32>,
    n: usize,
    /// Hinges above 0.
    active: usize,
    /// What the mean is over.
    counted: usize,
}

impl Hinges {
    fn new(n: usize, margin: f64) -> Self {
        Self { margin, weights: vec![0.0; n * n], n, active: 0, counted: 0 }
    }

    fn add(&mut self, distances: &[f32], anchor: usize, positive: usize, negative: usize) {
        let hinge = f64::from(distances[positive]) - f64::from(distances[negative]) + self.margin;
        if hinge > 0.0 {
            self.weights[anchor * self.n + positive] += 1.0;
            self.weights[anchor * self.n + negative] -= 1.0;
            self.active += 1;
        }
    }

    fn loss(self, distances: &Tensor) -> Result<Tensor> {
        let weights = Tensor::from_vec(self.weights, (self.n, self.n), distances.device())?;
        let sum = ((distances * weights)?.sum_all()? + self.margin * self.active as f64)?;
        sum / self.counted.max(1) as f64
    }
}
