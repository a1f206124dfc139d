//! Biases of attention by distance, in buckets that widen with it (T5: Raffel et al. 2020, section 2.1; MPNet).

use candle_core::Tensor;

/// A table of biases.
#[derive(Debug, Clone)]
pub struct RelativeBias {
    /// By bucket and head, `[rows, heads]`; rows past the buckets are not used.
    pub table: Tensor,
    /// Buckets, a multiple of 4.
    pub buckets: usize,
    /// Distances from here on are all in the last bucket.
    pub max_distance: usize,
}

/// The bucket of a key `distance` tokens after the query (before it where negative), as transformers computes it: half of the buckets
/// are for each direction, half of those for a distance each, the rest logarithmic up to `max_distance`.
pub fn bucket(distance: i64, buckets: usize, max_distance: usize) -> usize {
    let half = buckets / 2;
    let side = if distance > 0 { half } else { 0 };
    let far = distance.unsigned_abs() as usize;
    let exact = half / 2;
    if far < exact {
        return side + far;
    }
    // In f32, as PyTorch does: a bucket's edge may hang on the last bit.
    let share = (far as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    let bucket = exact + (share * (half - exact) as f32) as usize;
    side + bucket.min(half - 1)
}

impl RelativeBias {
    /// What each head adds by distance in sequences of up to `longest` tokens, `[heads, 2 longest − 1]`; differentiable by
    /// the table.
    ///
    /// # Errors
    /// Where the table has fewer rows than there are buckets.
    pub fn by_distance(&self, longest: usize) -> candle_core::Result<Tensor> {
        let longest = longest.max(1) as i64;
        let indices: Vec<u32> =
            (1 - longest..longest).map(|d| bucket(d, self.buckets, self.max_distance) as u32).collect();
        self.table.index_select(&Tensor::new(indices, self.table.device())?, 0)?.t()?.contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    /// Values of transformers 5.23's `T5Attention._relative_position_bucket`, bidirectional.
    #[test]
    fn buckets_are_those_of_transformers() {
        let of =
            |distances: &[i64], buckets, most| distances.iter().map(|d| bucket(*d, buckets, most)).collect::<Vec<_>>();
        assert_eq!(
            of(&[-200, -128, -127, -64, -16, -9, -8, -7, -1, 0, 1, 7, 8, 11, 12, 64, 127, 128, 500], 32, 128),
            [15, 15, 15, 14, 10, 8, 8, 7, 1, 0, 17, 23, 24, 24, 25, 30, 31, 31, 31]
        );
        assert_eq!(
            of(&[-30, -20, -8, -3, -2, -1, 0, 1, 2, 3, 4, 9, 20], 8, 20),
            [3, 3, 3, 2, 2, 1, 0, 5, 6, 6, 6, 7, 7]
        );
    }
}
