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

/// The (α of the first layer, α of the last) to evaluate next, given those evaluated so far with their scores; `None` when
/// done. A pure function, as [`next`].
///
/// Half of the budget goes to the best single α, found as [`next`] does. From there each end moves by itself, a step down or
/// up, first a quarter of the range, and stays where the score is better; where no move is better the step is halved, until it
/// is below `tolerance` or the budget is spent (coordinate search; Hooke and Jeeves 1961 without the pattern move).
pub fn next_ends(points: &[((f64, f64), f64)], plan: Plan) -> Option<(f64, f64)> {
    if points.len() >= plan.budget {
        return None;
    }
    let known = |at: (f64, f64)| points.iter().find(|p| p.0 == at).map(|p| p.1);
    let single = Plan { budget: plan.budget.div_ceil(2).max(COARSE.len()), ..plan };
    let mut singles: Vec<(f64, f64)> = Vec::new();
    while let Some(alpha) = next(&singles, single) {
        match known((alpha, alpha)) {
            Some(score) => singles.push((alpha, score)),
            None => return Some((alpha, alpha)),
        }
    }
    singles.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (alpha, mut best) = *singles.get(best_of(&singles)?)?;
    let mut here = (alpha, alpha);
    let mut step = 0.25;
    while step >= plan.tolerance {
        let mut moved = false;
        for (first, last) in [(-step, 0.0), (step, 0.0), (0.0, -step), (0.0, step)] {
            let there = ((here.0 + first).clamp(0.0, 1.0), (here.1 + last).clamp(0.0, 1.0));
            if there == here {
                continue;
            }
            let score = match known(there) {
                Some(score) => score,
                None => return Some(there),
            };
            if score > best {
                (here, best, moved) = (there, score, true);
            }
        }
        if !moved {
            step /= 2.0;
        }
    }
    None
}

/// Which point wins in each bootstrap replicate: `replicates` holds those of each point's score, paired by position. The first
/// in order wins a tie; a replicate in which no point has a score is left out.
pub fn winners(replicates: &[Vec<f64>]) -> Vec<usize> {
    let draws = replicates.iter().map(Vec::len).min().unwrap_or(0);
    (0..draws)
        .filter_map(|r| {
            let scores = replicates.iter().enumerate().map(|(point, of_point)| (point, of_point[r]));
            scores.filter(|(_, score)| score.is_finite()).reduce(|best, next| if next.1 > best.1 { next } else { best })
        })
        .map(|(point, _)| point)
        .collect()
}

/// From the 2.5th to the 97.5th percentile of the values, at values that are there; `None` of none.
///
/// Of the α that win in bootstrap replicates it says how surely α is known. Only points that were evaluated can win, so the
/// interval is never finer than they are.
pub fn middle(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)? as f64;
    let (low, high) = ((0.025 * last).floor() as usize, (0.975 * last).ceil() as usize);
    Some((*values.get(low)?, *values.get(high)?))
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

    fn run_ends(f: impl Fn(f64, f64) -> f64, plan: Plan) -> Vec<((f64, f64), f64)> {
        let mut points: Vec<((f64, f64), f64)> = Vec::new();
        while let Some(at) = next_ends(&points, plan) {
            assert!(points.iter().all(|p| p.0 != at), "{at:?} twice");
            points.push((at, f(at.0, at.1)));
        }
        points
    }

    #[test]
    fn ends_are_found_within_tolerance() {
        for top in [(0.1, 0.9), (0.5, 0.5), (1.0, 0.3), (0.0, 0.0)] {
            let f = |a: f64, b: f64| -(a - top.0) * (a - top.0) - (b - top.1) * (b - top.1);
            let points = run_ends(f, Plan { tolerance: 0.05, budget: 200 });
            let best = points.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a }).unwrap().0;
            assert!((best.0 - top.0).abs() <= 0.05 && (best.1 - top.1).abs() <= 0.05, "{top:?} {best:?}");
            // The ends are never worse than the best single value.
            let single = points.iter().filter(|p| p.0.0 == p.0.1).map(|p| p.1).fold(f64::MIN, f64::max);
            assert!(f(best.0, best.1) >= single);
        }
    }

    #[test]
    fn the_search_for_ends_keeps_to_its_budget_and_resumes() {
        let f = |a: f64, b: f64| (a * 17.0).sin() + (b * 23.0).cos();
        let plan = Plan { tolerance: 0.001, budget: 17 };
        let whole = run_ends(f, plan);
        assert_eq!(whole.len(), 17);
        assert!(whole[..9].iter().all(|p| p.0.0 == p.0.1) && whole[9..].iter().any(|p| p.0.0 != p.0.1));
        for known in 0..whole.len() {
            assert_eq!(next_ends(&whole[..known], plan), Some(whole[known].0));
        }
    }

    #[test]
    fn alphas_interval_is_where_replicates_choose() {
        // Of a hundred replicates, the second of three points wins 90, the third 8, the first 2; one has no scores.
        let mut replicates = vec![vec![0.0; 101], vec![0.5; 101], vec![0.2; 101]];
        (0..8).for_each(|r| replicates[2][r] = 0.9);
        (8..10).for_each(|r| replicates[0][r] = 0.9);
        (0..3).for_each(|point| replicates[point][100] = f64::NAN);
        let won = winners(&replicates);
        assert_eq!([0, 1, 2].map(|point| won.iter().filter(|w| **w == point).count()), [2, 90, 8]);
        let alphas = [0.25, 0.5, 0.75];
        assert_eq!(middle(won.iter().map(|&point| alphas[point]).collect()), Some((0.5, 0.75)));
        assert_eq!(winners(&[vec![1.0], vec![1.0]]), [0]);
        assert_eq!(middle(Vec::new()), None);
    }
}
