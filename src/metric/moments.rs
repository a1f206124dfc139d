//! Variance, skewness and degrees of freedom of a score's sampling error, of one model or of the difference of two.

use super::bootstrap::{self, FEW};
use super::outcomes::Outcomes;

/// Cumulants of a sampling error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Its variance; NaN where it cannot be known (one experiment).
    pub variance: f64,
    /// Its third cumulant, E(error³).
    pub third: f64,
    /// Degrees of freedom of `variance`; infinite where it is known for certain.
    pub freedom: f64,
}

impl Moments {
    /// No error.
    pub const NONE: Self = Self { variance: 0.0, third: 0.0, freedom: f64::INFINITY };

    /// Of one model's score. `replicates` are its bootstrap's.
    ///
    /// A mean of n values has the variance s²/n with n−1 degrees of freedom, and the third cumulant m₃/n². Of a handful of
    /// values ([`FEW`]) skewness cannot be learnt: it is taken for zero. Of a Spearman correlation or an average precision the
    /// variance is that of the replicates, the third cumulant Σ l³ over the empirical influences l of blocks of rows, by the
    /// jackknife (Efron 1987, section 6).
    pub fn of_score(outcomes: &Outcomes, replicates: &[f64]) -> Self {
        match outcomes {
            Outcomes::PerExample(values) | Outcomes::PerExperiment(values) => of_mean(values),
            Outcomes::Pairs(pairs) => resampled(replicates, pairs.len(), cubes(outcomes)),
            Outcomes::Ranked(pairs) => resampled(replicates, pairs.len(), cubes(outcomes)),
            Outcomes::Splits(parts) => match parts.iter().map(linear).collect::<Option<Vec<_>>>() {
                Some(means) => mean_of(means.into_iter().map(of_mean)),
                None => {
                    let third = parts.iter().map(|part| linear(part).map_or_else(|| cubes(part), |v| of_mean(v).third));
                    resampled(replicates, rows(outcomes), third.sum::<f64>() / (parts.len() as f64).powi(3))
                }
            },
        }
    }

    /// Of the difference of two models' scores on the same rows. `replicates` are those of the two bootstraps, paired.
    ///
    /// Means are compared row by row. Most of the differences are zero where the models are alike, and a variance out of the
    /// few rows that differ is too small too often: with k such rows it is multiplied by (k+2)/k, which is what adding a row
    /// that differs either way does (Bonett and Price 2012, for right and wrong answers; with all k on one side, p is then
    /// within a hundredth or two of the exact sign test's). Where no row differs the variance is zero.
    pub fn of_difference(first: &Outcomes, second: &Outcomes, replicates: (&[f64], &[f64])) -> Self {
        match (first, second) {
            (Outcomes::Splits(a), Outcomes::Splits(b)) if a.len() == b.len() => {
                let means = a.iter().zip(b).map(|(a, b)| Some((linear(a)?, linear(b)?)));
                match means.collect::<Option<Vec<_>>>() {
                    Some(means) => mean_of(means.into_iter().map(|(a, b)| of_paired(a, b))),
                    None => of_replicates(rows(first), replicates),
                }
            }
            (first, second) => match (linear(first), linear(second)) {
                (Some(a), Some(b)) => of_paired(a, b),
                _ => of_replicates(rows(first), replicates),
            },
        }
    }

    /// Of a weighted sum of independent errors. Degrees of freedom by Satterthwaite (1946): (Σ vᵢ)² / Σ (vᵢ²/νᵢ) over the
    /// weighted variances vᵢ.
    pub fn combine(parts: impl IntoIterator<Item = (f64, Self)>) -> Self {
        let (mut variance, mut third, mut shares) = (0.0, 0.0, 0.0);
        for (weight, part) in parts {
            let own = weight * weight * part.variance;
            variance += own;
            third += weight.powi(3) * part.third;
            if own > 0.0 {
                shares += own * own / part.freedom;
            }
        }
        let freedom = if shares > 0.0 { variance * variance / shares } else { f64::INFINITY };
        Self { variance, third, freedom }
    }

    /// The same with `variance` known by so many degrees of freedom and no skewness.
    pub fn plain(variance: f64, freedom: f64) -> Self {
        Self { variance, third: 0.0, freedom }
    }

    /// Standard error.
    pub fn error(&self) -> f64 {
        self.variance.sqrt()
    }

    /// Efron's acceleration: a sixth of the skewness.
    pub fn acceleration(&self) -> f64 {
        if self.variance > 0.0 { self.third / (6.0 * self.variance.powf(1.5)) } else { 0.0 }
    }
}

fn linear(outcomes: &Outcomes) -> Option<&[f64]> {
    match outcomes {
        Outcomes::PerExample(values) | Outcomes::PerExperiment(values) => Some(values),
        _ => None,
    }
}

fn rows(outcomes: &Outcomes) -> usize {
    match outcomes {
        Outcomes::PerExample(values) | Outcomes::PerExperiment(values) => values.len(),
        Outcomes::Pairs(pairs) => pairs.len(),
        Outcomes::Ranked(pairs) => pairs.len(),
        Outcomes::Splits(parts) => parts.iter().map(rows).sum(),
    }
}

fn mean_of(parts: impl ExactSizeIterator<Item = Moments>) -> Moments {
    let weight = 1.0 / parts.len() as f64;
    Moments::combine(parts.map(|part| (weight, part)))
}

fn of_mean(values: &[f64]) -> Moments {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let cubes: f64 = values.iter().map(|value| (value - mean).powi(3)).sum();
    let third = if values.len() > FEW { cubes / n.powi(3) } else { 0.0 };
    // 0/0 for one value: NaN, as documented.
    Moments { variance: squares / (n - 1.0) / n, third, freedom: n - 1.0 }
}

fn of_paired(a: &[f64], b: &[f64]) -> Moments {
    if a.len() != b.len() {
        return Moments::combine([(1.0, of_mean(a)), (-1.0, of_mean(b))]);
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let differ = differences.iter().filter(|d| **d != 0.0).count() as f64;
    let moments = of_mean(&differences);
    if differ == 0.0 {
        return Moments::NONE;
    }
    Moments { variance: moments.variance * if a.len() > FEW { (differ + 2.0) / differ } else { 1.0 }, ..moments }
}

/// The variance of replicates, those undefined left out, of a score over `n` rows.
fn resampled(replicates: &[f64], n: usize, third: f64) -> Moments {
    let finite: Vec<f64> = replicates.iter().copied().filter(|value| value.is_finite()).collect();
    let count = finite.len() as f64;
    let mean = finite.iter().sum::<f64>() / count;
    let squares: f64 = finite.iter().map(|value| (value - mean).powi(2)).sum();
    Moments { variance: squares / (count - 1.0), third, freedom: n as f64 - 1.0 }
}

fn of_replicates(n: usize, (first, second): (&[f64], &[f64])) -> Moments {
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    resampled(&differences, n, 0.0)
}

/// Σ l³ over the influences of blocks of rows: l = ((G−1)/G)·(mean of the scores without a block − the score without it).
fn cubes(outcomes: &Outcomes) -> f64 {
    let without = bootstrap::without_blocks(outcomes);
    let blocks = without.len() as f64;
    let mean = without.iter().sum::<f64>() / blocks;
    let sum: f64 = without.iter().map(|score| ((blocks - 1.0) / blocks * (mean - score)).powi(3)).sum();
    if sum.is_finite() { sum } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_the_textbook_variance() {
        let values: Vec<f64> = (0..40).map(f64::from).collect();
        let moments = Moments::of_score(&Outcomes::PerExample(values), &[]);
        // Variance of 0 … n−1 with n−1 in the denominator: n(n+1)/12.
        assert!((moments.variance - 40.0 * 41.0 / 12.0 / 40.0).abs() < 1e-12);
        assert!(moments.third.abs() < 1e-12 && moments.freedom == 39.0);
        assert!(Moments::of_score(&Outcomes::PerExperiment(vec![0.3]), &[]).variance.is_nan());
    }

    #[test]
    fn rows_that_differ_either_way_are_added() {
        let a = Outcomes::PerExample((0..200).map(|i| f64::from(u8::from(i < 104))).collect());
        let b = Outcomes::PerExample((0..200).map(|i| f64::from(u8::from(i < 100))).collect());
        let moments = Moments::of_difference(&a, &b, (&[], &[]));
        let plain = (0.02 * 0.98) / 199.0;
        assert!((moments.variance / (plain * 6.0 / 4.0) - 1.0).abs() < 1e-12);
        assert_eq!(Moments::of_difference(&a, &a, (&[], &[])), Moments::NONE);
    }

    #[test]
    fn degrees_of_freedom_are_satterthwaites() {
        let part = |variance, freedom| (1.0, Moments::plain(variance, freedom));
        let both = Moments::combine([part(2.0, 5.0), part(2.0, 5.0)]);
        assert!((both.variance - 4.0).abs() < 1e-12 && (both.freedom - 10.0).abs() < 1e-12);
        assert_eq!(Moments::combine([part(0.0, 3.0)]).freedom, f64::INFINITY);
    }

    #[test]
    fn the_jackknife_gives_the_skewness_of_a_mean_of_precision() {
        // Splits of means are means: the skewness is that of the whole, by weight.
        let part = |shift: f64| Outcomes::PerExample((0..50).map(|i| shift + f64::from(i * i)).collect());
        let (one, both) = (part(0.0), Outcomes::Splits(vec![part(0.0), part(5.0)]));
        let (one, both) = (Moments::of_score(&one, &[]), Moments::of_score(&both, &[]));
        assert!((both.variance / one.variance - 0.5).abs() < 1e-12);
        assert!((both.third / one.third - 0.25).abs() < 1e-12);
    }
}
