//! Training curves made small enough to be seen.

/// Mean over a window of a twentieth of the run, centred.
pub fn smooth(points: &[(usize, f64)]) -> Vec<(usize, f64)> {
    let half = (points.len() / 40).max(1);
    (0..points.len())
        .map(|i| {
            let window = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
            (points[i].0, window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64)
        })
        .collect()
}

/// At most `most` points, evenly spread, the first and the last among them.
pub fn thinned(points: &[(usize, f64)], most: usize) -> Vec<(usize, f64)> {
    if points.len() <= most || most < 2 {
        return points.to_vec();
    }
    (0..most).map(|i| points[i * (points.len() - 1) / (most - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_kept_and_a_line_stays_a_line() {
        let line: Vec<(usize, f64)> = (0..1_000).map(|i| (i, i as f64)).collect();
        let kept = thinned(&smooth(&line), 200);
        assert_eq!((kept.len(), kept[0].0, kept[199].0), (200, 0, 999));
        assert!(kept.iter().skip(10).take(180).all(|(x, y)| (*x as f64 - y).abs() < 1e-9));
        assert_eq!(thinned(&line[..3], 200), line[..3]);
        assert!(smooth(&[]).is_empty());
    }
}
