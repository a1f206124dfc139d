//! Masks of dropout as a pure function of seed, row and column, cheap enough to be drawn again in every pass that needs them.

use super::simd::multiversion;

/// Which elements are dropped: independent draws by (row, column).
#[derive(Debug, Clone, Copy)]
pub struct Mask {
    seed: u64,
    /// Draws below it are dropped, of 2³².
    threshold: u32,
    /// 1/(1 − p).
    scale: f32,
}

/// The draws of one row.
#[derive(Clone, Copy)]
pub struct Row {
    keys: (u32, u32),
    threshold: u32,
    scale: f32,
}

/// SplitMix64's output function (Steele et al. 2014).
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Mask {
    /// Drops with probability `p`, which is in [0, 1).
    pub fn new(p: f32, seed: u64) -> Self {
        Self { seed: mix(seed), threshold: (f64::from(p) * (1u64 << 32) as f64) as u32, scale: 1.0 / (1.0 - p) }
    }

    /// Seed, the draw (of 2³²) below which a value is dropped, and 1/(1 − p): what a GPU draws the same mask from.
    #[cfg(feature = "cuda")]
    pub fn parts(self) -> (u64, u32, f32) {
        (self.seed, self.threshold, self.scale)
    }

    /// Other draws of the same probability: one mask a head.
    pub fn stream(self, index: usize) -> Self {
        Self { seed: mix(self.seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)), ..self }
    }

    /// The draws of a row.
    pub fn row(&self, row: u64) -> Row {
        let key = mix(self.seed.wrapping_add(row.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Row { keys: ((key >> 32) as u32, key as u32), threshold: self.threshold, scale: self.scale }
    }
}

impl Row {
    /// The value scaled by 1/(1 − p), or zero where the column is dropped.
    ///
    /// The draw is a 32-bit integer hash of the column with the multipliers of Wellons' `lowbias32`, keyed before either
    /// product; its last step, which changes low bits alone, is left out.
    #[inline(always)]
    pub fn apply(self, column: u32, value: f32) -> f32 {
        let x = column ^ self.keys.0;
        let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d) ^ self.keys.1;
        let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        if x < self.threshold { 0.0 } else { value * self.scale }
    }

    /// [`Self::apply`] to the values of columns 0, 1, ….
    #[inline(always)]
    pub fn apply_to(self, values: &mut [f32]) {
        self.apply_from(0, values);
    }

    /// [`Self::apply`] to the values of column `first` and those after it.
    #[inline(always)]
    pub fn apply_from(self, first: u32, values: &mut [f32]) {
        for (column, value) in values.iter_mut().enumerate() {
            *value = self.apply(first + column as u32, *value);
        }
    }
}

multiversion! {
    /// `x = dropout(x) + residual` for rows of `width` values: `dropout` has the mask and the rows' places in it, `residual` may be empty.
    #[allow(clippy::extra_unused_type_parameters)]
    pub fn add_dropped<A>(x: &mut [f32], dropout: Option<(Mask, &[u64])>, residual: &[f32], width: usize) {
        for (r, row) in x.chunks_exact_mut(width).enumerate() {
            if let Some((mask, places)) = dropout {
                mask.row(places[r]).apply_to(row);
            }
            if !residual.is_empty() {
                row.iter_mut().zip(&residual[r * width..(r + 1) * width]).for_each(|(x, y)| *x += y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 512;

    /// 1 where dropped.
    fn draw(mask: Mask, first: u64) -> Vec<f64> {
        let draws = |r: u64| {
            let row = mask.row(first + r);
            (0..SIDE as u32).map(move |c| f64::from(u8::from(row.apply(c, 1.0) == 0.0)))
        };
        (0..SIDE as u64).flat_map(draws).collect()
    }

    fn correlation(a: &[f64], b: &[f64], p: f64) -> f64 {
        let sum: f64 = a.iter().zip(b).map(|(a, b)| (a - p) * (b - p)).sum();
        sum / (a.len() as f64 * p * (1.0 - p))
    }

    /// All bounds are five standard deviations of independent draws.
    #[test]
    fn draws_have_their_rate_and_do_not_know_each_other() {
        let near = 5.0 / SIDE as f64;
        for p in [0.1f32, 0.5] {
            let (mask, p) = (Mask::new(p, 7), f64::from(p));
            let a = draw(mask, 0);
            let deviation = (p * (1.0 - p)).sqrt();
            let rate = a.iter().sum::<f64>() / a.len() as f64;
            assert!((rate - p).abs() < near * deviation, "{rate}");
            let bound = 5.0 * deviation / (SIDE as f64).sqrt();
            for i in 0..SIDE {
                let row = a[i * SIDE..(i + 1) * SIDE].iter().sum::<f64>() / SIDE as f64;
                let column = a.iter().skip(i).step_by(SIDE).sum::<f64>() / SIDE as f64;
                assert!((row - p).abs() < bound && (column - p).abs() < bound, "{i}: {row} {column}");
            }
            for shift in [1, 2, 3, 4, 16, SIDE - 1, SIDE, SIDE + 1, 2 * SIDE] {
                let c = correlation(&a[shift..], &a[..a.len() - shift], p);
                assert!(c.abs() < near, "shifted by {shift}: {c}");
            }
            let others = [
                draw(Mask::new(p as f32, 8), 0),
                draw(mask.stream(0), 0),
                draw(mask.stream(1), 0),
                draw(mask, 1 << 32),
            ];
            for (i, b) in others.iter().enumerate() {
                let c = correlation(&a, b, p);
                assert!(c.abs() < near, "mask {i}: {c}");
            }
        }
    }
}
