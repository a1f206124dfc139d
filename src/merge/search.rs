//! The search for α: a coarse grid, then narrowing around the best.

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Stop when the best α's neighbours are closer together than this.
    pub tolerance: f64,
    /// Most evaluations.
    pub budget: usize,
}

/// The coarse grid.
const COARSE: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// The α to evaluate next, given (α, score) so far; `None` when done. A pure function, so that an interrupted search goes on
/// as it would have.
///
/// After the coarse grid the wider gap beside the best point is halved, the better neighbour's side first on a tie, until the
/// neighbours of the best are within `tolerance` of each other, or the budget is spent.
pub fn next(points: &[(f64, f64)], plan: Plan) -> Option<f64> {
    if points.len() >= plan.budget {
        return None;
    }
    if let Some(&alpha) = COARSE.iter().find(|a| !points.iter().any(|p| p.0 == **a)) {
        return Some(alpha);
    }
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let best = best_of(&sorted)?;
    let left = best.checked_sub(1).map(|i| sorted[i]);
    let right = sorted.get(best + 1).copied();
    let here = sorted[best].0;
    let span = right.map_or(here, |r| r.0) - left.map_or(here, |l| l.0);
    if span <= plan.tolerance + 1e-12 {
        return None;
    }
    let gap = |side: Option<(f64, f64)>| side.map_or(0.0, |p| (p.0 - here).abs());
    let (gap_left, gap_right) = (gap(left), gap(right));
    let go_left = if (gap_left - gap_right).abs() < 1e-12 {
        left.map(|p| p.1) >= right.map(|p| p.1)
    } else {
        gap_left > gap_right
    };
    let other = if go_left { left } else { right }?;
    Some((other.0 + here) / 2.0)
}

/// Position of the best point: the highest score, the smaller α on a tie.
pub fn best_of(points: &[(f64, f64)]) -> Option<usize> {
    (0..points.len()).reduce(|best, i| if points[i].1 > points[best].1 { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(f: impl Fn(f64) -> f64, plan: Plan) -> Vec<(f64, f64)> {
        let mut points = Vec::new();
        while let Some(alpha) = next(&points, plan) {
            points.push((alpha, f(alpha)));
        }
        points
    }

    #[test]
    fn finds_the_top_of_a_hill_within_tolerance() {
        for top in [0.0, 0.13, 0.5, 0.81, 1.0] {
            let points = run(|a| -(a - top) * (a - top), Plan { tolerance: 0.05, budget: 30 });
            let best = points[best_of(&points).unwrap()].0;
            assert!((best - top).abs() <= 0.05, "top {top}, found {best}");
            assert!(points.len() <= 13, "{} evaluations", points.len());
        }
    }

    #[test]
    fn keeps_to_its_budget_and_never_repeats() {
        let points = run(|a| (a * 37.0).sin(), Plan { tolerance: 1e-6, budget: 9 });
        assert_eq!(points.len(), 9);
        let mut alphas: Vec<f64> = points.iter().map(|p| p.0).collect();
        alphas.sort_by(f64::total_cmp);
        alphas.dedup();
        assert_eq!(alphas.len(), 9);
    }

    #[test]
    fn goes_on_after_an_interruption_as_without() {
        let plan = Plan { tolerance: 0.05, budget: 12 };
        let f = |a: f64| -(a - 0.3).abs();
        let whole = run(f, plan);
        let mut half = whole[..6].to_vec();
        while let Some(alpha) = next(&half, plan) {
            half.push((alpha, f(alpha)));
        }
        assert_eq!(whole, half);
    }
}
