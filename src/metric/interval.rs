//! Intervals of scores and of differences.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use super::moments::Moments;

/// Level of every interval that the reports give.
pub const LEVEL: f64 = 0.95;

/// The middle `level` (0.95: from the 2.5th to the 97.5th percentile) of the replicates, percentiles interpolated;
/// undefined replicates are left out. `(NaN, NaN)` where none is left or `level` is not in (0, 1).
pub fn percentile(replicates: &[f64], level: f64) -> (f64, f64) {
    between(replicates, ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
}

/// The bias-corrected and accelerated interval (BCa; Efron 1987) of a score with these replicates: from percentile Φ(z₀ + (z₀ + z)/(1 −
/// a(z₀ + z))) with z the normal's quantile at (1 ∓ level)/2.
///
/// z₀ is the normal's quantile at the share of replicates below the score, equal ones counted half; a is
/// [`Moments::acceleration`]. Where the score is as good as normal both are near zero, and it is the percentile interval. No end is above
/// 1, which no score of mteb's is. `(NaN, NaN)` where the variance is not known or no replicate is defined.
pub fn bca(score: f64, replicates: &[f64], moments: &Moments, level: f64) -> (f64, f64) {
    let finite: Vec<f64> = replicates.iter().copied().filter(|value| value.is_finite()).collect();
    let is_known = score.is_finite() && moments.variance.is_finite() && !finite.is_empty();
    if !is_known || level <= 0.0 || level >= 1.0 {
        return (f64::NAN, f64::NAN);
    }
    // A replicate that is the score but for rounding is neither below nor above.
    let near = 1e-9 * moments.error().max(score.abs());
    let below: f64 = finite
        .iter()
        .map(|value| if (value - score).abs() <= near { 0.5 } else { f64::from(u8::from(*value < score)) })
        .sum();
    let normal = Normal::standard();
    // At most half a replicate from the end, and never further than the median's bias may be.
    let share = (below / finite.len() as f64).clamp(0.1, 0.9);
    let (bias, acceleration) = (normal.inverse_cdf(share), moments.acceleration().clamp(-0.25, 0.25));
    let at = |share: f64| {
        let z = bias + normal.inverse_cdf(share);
        normal.cdf(bias + z / (1.0 - acceleration * z))
    };
    let (low, high) = between(&finite, (at((1.0 - level) / 2.0), at((1.0 + level) / 2.0)));
    (low.min(1.0), high.min(1.0))
}

/// Student's interval: value ∓ t · standard error, t at the degrees of freedom. `(NaN, NaN)` where the variance is not known.
pub fn student(value: f64, moments: &Moments, level: f64) -> (f64, f64) {
    let half = quantile(moments.freedom, (1.0 + level) / 2.0) * moments.error();
    if moments.variance == 0.0 { (value, value) } else { (value - half, value + half) }
}

/// The two-sided p-value of "the value is zero": of value / standard error under Student's t at the degrees of freedom. 1 where
/// value and error are both zero; NaN where the variance is not known. It is below 1 − level just where [`student`]'s interval
/// does not hold zero.
pub fn p_value(value: f64, moments: &Moments) -> f64 {
    if moments.variance == 0.0 {
        return if value == 0.0 { 1.0 } else { 0.0 };
    }
    let t = (value / moments.error()).abs();
    if t.is_nan() {
        return f64::NAN;
    }
    let below = match distribution(moments.freedom) {
        Some(student) => student.cdf(-t),
        None => Normal::standard().cdf(-t),
    };
    (2.0 * below).min(1.0)
}

/// The quantile of Student's t; the normal's where the degrees of freedom are infinite, NaN where there are none.
pub fn quantile(freedom: f64, share: f64) -> f64 {
    match distribution(freedom) {
        Some(student) => student.inverse_cdf(share),
        None if freedom == f64::INFINITY => Normal::standard().inverse_cdf(share),
        None => f64::NAN,
    }
}

fn distribution(freedom: f64) -> Option<StudentsT> {
    freedom.is_finite().then(|| StudentsT::new(0.0, 1.0, freedom).ok()).flatten()
}

/// Quantiles of the replicates' mid-distribution (Parzen 2004): a value stands at the share below it and half the share
/// of those equal to it, and quantiles are interpolated between values. Resampled shares of right answers are multiples
/// of 1/n, and an interval out of plain percentiles would hold whole steps too many.
fn between(replicates: &[f64], (low, high): (f64, f64)) -> (f64, f64) {
    let mut sorted: Vec<f64> = replicates.iter().copied().filter(|value| value.is_finite()).collect();
    if sorted.is_empty() || !(low > 0.0 && low < high && high < 1.0) {
        return (f64::NAN, f64::NAN);
    }
    sorted.sort_unstable_by(f64::total_cmp);
    // Sums of the same values in another order differ in their last bits.
    let near = 1e-9 * (sorted[sorted.len() - 1] - sorted[0]);
    let mut steps: Vec<(f64, f64)> = Vec::new();
    let mut before = 0;
    for group in sorted.chunk_by(|a, b| b - a <= near) {
        steps.push(((before as f64 + group.len() as f64 / 2.0) / sorted.len() as f64, group[0]));
        before += group.len();
    }
    let quantile = |share: f64| {
        let above = steps.partition_point(|(at, _)| *at < share);
        match (above.checked_sub(1).and_then(|below| steps.get(below)), steps.get(above)) {
            (Some((from, low)), Some((to, high))) => low + (high - low) * (share - from) / (to - from),
            (Some((_, value)), None) | (None, Some((_, value))) => *value,
            (None, None) => f64::NAN,
        }
    };
    (quantile(low), quantile(high))
}

/// Holm's step-down adjustment (1979): the p-values of `m` comparisons, adjusted so that rejecting those at or below α
/// keeps the chance of any false rejection within α. In the order given; a NaN stays NaN and counts as no comparison.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut largest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max((order.len() - rank) as f64 * p[i]).min(1.0);
        adjusted[i] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_steps_down() {
        assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
        assert_eq!(holm(&[0.5, 0.9]), [1.0, 1.0]);
        let with_nan = holm(&[0.02, f64::NAN, 0.03]);
        assert_eq!((with_nan[0], with_nan[2]), (0.04, 0.04));
        assert!(with_nan[1].is_nan());
    }

    #[test]
    fn percentiles_are_interpolated() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        let (low, high) = percentile(&values, 0.95);
        assert!((low - 2.025).abs() < 1e-9 && (high - 97.975).abs() < 1e-9);
        // Equal values stand in the middle of their share: a quarter of the way up, the lower half's value.
        let halves: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i >= 50))).collect();
        assert_eq!(percentile(&halves, 0.5), (0.0, 1.0));
        assert!(percentile(&[f64::NAN], 0.95).0.is_nan());
    }

    #[test]
    fn without_bias_and_skewness_bca_is_the_percentile_interval() {
        let values: Vec<f64> = (-50..=50).map(|i| f64::from(i) / 100.0).collect();
        let moments = Moments::plain(0.01, f64::INFINITY);
        let (bca, plain) = (bca(0.0, &values, &moments, 0.95), percentile(&values, 0.95));
        assert!((bca.0 - plain.0).abs() < 1e-9 && (bca.1 - plain.1).abs() < 1e-9);
        // A long tail to the left (a score near 1) moves both ends down.
        let skewed = Moments { third: -0.4 * 0.001, ..moments };
        let moved = super::bca(0.0, &values, &skewed, 0.95);
        assert!(moved.0 < plain.0 && moved.1 < plain.1, "{moved:?}");
        assert!(super::bca(0.0, &values, &Moments::plain(f64::NAN, 0.0), 0.95).0.is_nan());
    }

    #[test]
    fn students_quantiles_are_the_tables() {
        for (freedom, t) in [(1.0, 12.706), (2.0, 4.303), (9.0, 2.262), (30.0, 2.042), (f64::INFINITY, 1.960)] {
            assert!((quantile(freedom, 0.975) - t).abs() < 5e-4, "{freedom}");
            let moments = Moments::plain(1.0, freedom);
            assert!((p_value(t, &moments) - 0.05).abs() < 5e-4, "{freedom}");
            assert!((student(1.0, &moments, 0.95).0 - (1.0 - t)).abs() < 5e-4);
        }
        assert_eq!(p_value(0.0, &Moments::NONE), 1.0);
        assert!(p_value(0.1, &Moments::plain(f64::NAN, 3.0)).is_nan());
    }
}
