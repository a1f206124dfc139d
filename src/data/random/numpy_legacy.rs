//! NumPy's legacy `RandomState`, the methods that scikit-learn and mteb call.

use super::mt19937::Mt19937;

/// `numpy.random.RandomState(seed)`.
#[derive(Debug, Clone)]
pub struct RandomState {
    source: Mt19937,
}

impl RandomState {
    /// A fresh state.
    pub fn new(seed: u32) -> Self {
        Self { source: Mt19937::from_seed(seed) }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.source.next_u32()
    }

    /// An integer in `0..=max` by masked rejection; nothing is drawn for `max = 0`.
    pub fn bounded(&mut self, max: u64) -> u64 {
        let Some(mask) = u64::MAX.checked_shr(max.leading_zeros()).filter(|_| max > 0) else {
            return 0;
        };
        loop {
            let bits = if mask <= u64::from(u32::MAX) {
                u64::from(self.next_u32())
            } else {
                u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
            };
            if bits & mask <= max {
                return bits & mask;
            }
        }
    }

    /// `shuffle(x)` of a list or a 1-D array, in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.bounded(i as u64) as usize);
        }
    }

    /// `permutation(n)`: the numbers `0..n` shuffled.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// `randint(0, n, size)`: independent integers below `n`; empty for `n = 0`.
    pub fn randint(&mut self, n: usize, size: usize) -> Vec<usize> {
        let size = if n == 0 { 0 } else { size };
        (0..size).map(|_| self.bounded(n as u64 - 1) as usize).collect()
    }

    /// `random_sample()`: a double in [0, 1).
    pub fn random_sample(&mut self) -> f64 {
        self.source.next_f64()
    }

    /// `choice(n, size, p, replace=True)` for the probabilities that `distribution` was made of.
    pub fn choice(&mut self, distribution: &Distribution, size: usize) -> Vec<usize> {
        (0..size).map(|_| distribution.find(self.random_sample())).collect()
    }

    /// `choice(n, size, replace=False)` without probabilities: the first `size` of a permutation.
    pub fn choice_without_replacement(&mut self, n: usize, size: usize) -> Vec<usize> {
        let mut order = self.permutation(n);
        order.truncate(size);
        order
    }
}

/// The cumulative sums by which `choice` turns a double into an index.
#[derive(Debug, Clone)]
pub struct Distribution {
    cumulative: Vec<f64>,
}

impl Distribution {
    /// Equal `f32` probabilities of `n` outcomes, as scikit-learn makes them of unit sample weights: 1/n rounded to
    /// `f32`, widened, added up from the left and divided by the total.
    pub fn uniform_f32(n: usize) -> Self {
        let share = f64::from(1.0 / n as f32);
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = (0..n)
            .map(|_| {
                sum += share;
                sum
            })
            .collect();
        for value in &mut cumulative {
            *value /= sum;
        }
        Self { cumulative }
    }

    /// How many cumulative probabilities are at most `u`, in [0, 1).
    fn find(&self, u: f64) -> usize {
        let n = self.cumulative.len();
        // The cumulative sums of equal shares are within rounding of a straight line, so the answer is a step away.
        let mut at = ((u * n as f64) as usize).min(n);
        while at > 0 && self.cumulative[at - 1] > u {
            at -= 1;
        }
        while at < n && self.cumulative[at] <= u {
            at += 1;
        }
        at.min(n.saturating_sub(1))
    }
}
