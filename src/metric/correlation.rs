//! Pearson's and Spearman's correlation.

/// The rank of every value, 1 for the smallest; equal values share the mean of their ranks.
pub fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    for group in order.chunk_by(|&a, &b| values[a] == values[b]).scan(0, |before, group| {
        let start = *before;
        *before += group.len();
        Some((start, group))
    }) {
        let (start, members) = group;
        let rank = start as f64 + (members.len() + 1) as f64 / 2.0;
        for &member in members {
            ranks[member] = rank;
        }
    }
    ranks
}

/// Pearson's r of two lists of one length; `None` where it is undefined: a list is constant or not finite, or has fewer
/// than two values, or the lengths differ.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let constant = |values: &[f64]| values.iter().all(|value| *value == values[0]);
    if x.len() != y.len() || x.len() < 2 || constant(x) || constant(y) {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (dx, dy) = (x - mean_x, y - mean_y);
        xx += dx * dx;
        yy += dy * dy;
        xy += dx * dy;
    }
    let r = xy / (xx.sqrt() * yy.sqrt());
    r.is_finite().then(|| r.clamp(-1.0, 1.0))
}

/// Spearman's rho: Pearson's r of the average ranks; `None` where that is undefined or a value is NaN.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.iter().chain(y).any(|value| value.is_nan()) {
        return None;
    }
    pearson(&average_ranks(x), &average_ranks(y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_correlations_are_none() {
        assert_eq!(pearson(&[], &[]), None);
        assert_eq!(pearson(&[1.0], &[1.0]), None);
        assert_eq!(pearson(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(spearman(&[1.0, f64::NAN], &[1.0, 2.0]), None);
        assert_eq!(spearman(&[3.0, 3.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn zeros_of_either_sign_tie() {
        assert_eq!(average_ranks(&[0.0, -0.0, 1.0]), [1.5, 1.5, 3.0]);
    }
}
