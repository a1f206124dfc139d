//! Average precision of a ranking without interpolation.

/// Σ (Rᵢ − Rᵢ₋₁)·Pᵢ over the distinct scores from the highest down, equal scores taken together (scikit-learn's
/// `average_precision_score`); 0 without a positive. NaN scores rank last; the shorter list decides the length.
pub fn average_precision(positive: &[bool], scores: &[f64]) -> f64 {
    let mut ranking: Vec<(f64, bool)> = scores.iter().copied().zip(positive.iter().copied()).collect();
    let total = ranking.iter().filter(|(_, positive)| *positive).count();
    if total == 0 {
        return 0.0;
    }
    let key = |score: f64| if score.is_nan() { f64::NEG_INFINITY } else { score };
    ranking.sort_by(|a, b| key(b.0).total_cmp(&key(a.0)));
    let (mut hits, mut seen, mut area) = (0usize, 0usize, 0.0);
    for group in ranking.chunk_by(|a, b| key(a.0) == key(b.0)) {
        let found = group.iter().filter(|(_, positive)| *positive).count();
        hits += found;
        seen += group.len();
        area += found as f64 / total as f64 * (hits as f64 / seen as f64);
    }
    area
}
