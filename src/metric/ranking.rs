//! Measures of rankings as trec_eval (through pytrec_eval) and mteb compute them.

/// The ranks at which rankings are cut.
pub const CUTS: [usize; 7] = [1, 3, 5, 10, 20, 100, 1000];

/// One value for each of [`CUTS`].
pub type AtCuts = [f64; CUTS.len()];

/// The measures of one query.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct QueryScores {
    /// Discounted cumulative gain over that of the best ranking, gains linear.
    pub ndcg: AtCuts,
    /// Average precision, over all relevant documents.
    pub map: AtCuts,
    /// Share of the relevant documents that were found.
    pub recall: AtCuts,
    /// Share of the ranks that hold a relevant document.
    pub precision: AtCuts,
    /// One over the rank of the first relevant document.
    pub mrr: AtCuts,
    /// 1 where there is a relevant document.
    pub hit_rate: AtCuts,
}

impl QueryScores {
    /// The measures with the stems of mteb's keys, in its order.
    pub fn named(&self) -> [(&'static str, &AtCuts); 6] {
        [
            ("ndcg", &self.ndcg),
            ("map", &self.map),
            ("recall", &self.recall),
            ("precision", &self.precision),
            ("mrr", &self.mrr),
            ("hit_rate", &self.hit_rate),
        ]
    }
}

/// The measures of a ranking: `ranked` are the judged grades of its documents, best first (0 where not judged), `judged` all
/// grades of the query. A grade of 1 or more is relevant; grades below 0 count as 0. All 0 without a relevant document.
pub fn query_scores(ranked: &[i64], judged: &[i64]) -> QueryScores {
    let mut out = QueryScores::default();
    let relevant = judged.iter().filter(|&&grade| grade > 0).count();
    if relevant == 0 {
        return out;
    }
    let discounted = |grade: i64, rank: usize| grade.max(0) as f64 / ((rank + 2) as f64).log2();
    let mut ideal = judged.to_vec();
    ideal.sort_unstable_by(|a, b| b.cmp(a));
    let (mut gain, mut best, mut hits, mut precisions) = (0.0, 0.0, 0usize, 0.0);
    let mut first = None;
    let mut rank = 0;
    for (slot, &cut) in CUTS.iter().enumerate() {
        while rank < cut {
            if let Some(&grade) = ideal.get(rank) {
                best += discounted(grade, rank);
            }
            if let Some(&grade) = ranked.get(rank) {
                gain += discounted(grade, rank);
                if grade > 0 {
                    hits += 1;
                    precisions += hits as f64 / (rank + 1) as f64;
                    first = first.or(Some(rank + 1));
                }
            }
            rank += 1;
        }
        out.ndcg[slot] = gain / best;
        out.map[slot] = precisions / relevant as f64;
        out.recall[slot] = hits as f64 / relevant as f64;
        out.precision[slot] = hits as f64 / cut as f64;
        out.mrr[slot] = first.map_or(0.0, |rank| 1.0 / rank as f64);
        out.hit_rate[slot] = f64::from(u8::from(hits > 0));
    }
    out
}

/// What the confidence of a query's answer is read from: the highest score, the population standard deviation of the scores,
/// and the highest less the second; 0 where there is nothing to read.
pub fn confidences(scores: &[f64]) -> [f64; 3] {
    let n = scores.len() as f64;
    if scores.is_empty() {
        return [0.0; 3];
    }
    let (mut first, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for &score in scores {
        if score > first {
            (first, second) = (score, first);
        } else if score > second {
            second = score;
        }
    }
    let mean = scores.iter().sum::<f64>() / n;
    let std = (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n).sqrt();
    [first, std, if scores.len() > 1 { first - second } else { 0.0 }]
}

/// Area under the curve of `metric` against the share of queries abstained from, the least confident first, between that of
/// no confidence (0) and that of knowing the metric (1); mteb's normalised abstention. `None` where the two do not differ.
pub fn normalised_abstention(confidence: &[f64], metric: &[f64]) -> Option<f64> {
    if metric.is_empty() || confidence.len() != metric.len() {
        return None;
    }
    let flat = metric.iter().sum::<f64>() / metric.len() as f64 * 0.9;
    let oracle = abstention_area(metric, metric);
    if (oracle - flat).abs() <= f64::EPSILON * flat.abs().max(1.0) {
        return None;
    }
    Some((abstention_area(confidence, metric) - flat) / (oracle - flat))
}

fn abstention_area(confidence: &[f64], metric: &[f64]) -> f64 {
    let n = metric.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| confidence[a].total_cmp(&confidence[b]));
    let mut values = Vec::with_capacity(n);
    for group in order.chunk_by(|&a, &b| confidence[a] == confidence[b]) {
        let mean = group.iter().map(|&query| metric[query]).sum::<f64>() / group.len() as f64;
        values.extend(std::iter::repeat_n(mean, group.len()));
    }
    // Sums from the most confident down, so that dropping the first is a difference of positions.
    let mut tail = vec![0.0; n + 1];
    for at in (0..n).rev() {
        tail[at] = tail[at + 1] + values[at];
    }
    let rates: Vec<f64> = (0..10).map(|i| f64::from(i) * 0.1).collect();
    let means: Vec<f64> = rates
        .iter()
        .map(|rate| {
            let dropped = ((rate * n as f64).round_ties_even() as usize).min(n - 1);
            tail[dropped] / (n - dropped) as f64
        })
        .collect();
    rates.windows(2).zip(means.windows(2)).map(|(rate, mean)| (rate[1] - rate[0]) * (mean[0] + mean[1]) / 2.0).sum()
}

/// `value` to five decimals as Python's `round` gives it: correctly rounded from the exact binary value.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.5}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ranking_by_hand() {
        let scores = query_scores(&[0, 2, 1], &[1, 2, 0, 3]);
        let ideal = 3.0 + 2.0 / 3f64.log2() + 0.5;
        assert!((scores.ndcg[1] - (2.0 / 3f64.log2() + 0.5) / ideal).abs() < 1e-15);
        assert!((scores.map[1] - (0.5 + 2.0 / 3.0) / 3.0).abs() < 1e-15);
        assert_eq!((scores.mrr[0], scores.mrr[1], scores.hit_rate[0]), (0.0, 0.5, 0.0));
        assert_eq!((scores.precision[3], scores.recall[6]), (0.2, 2.0 / 3.0));
        assert_eq!(query_scores(&[0, -1], &[0, -1]), QueryScores::default());
    }

    #[test]
    fn confidence_needs_scores() {
        assert_eq!(confidences(&[]), [0.0; 3]);
        assert_eq!(confidences(&[0.5]), [0.5, 0.0, 0.0]);
        assert_eq!(confidences(&[0.25, 0.75]), [0.75, 0.25, 0.5]);
    }

    #[test]
    fn knowing_the_metric_is_one_and_no_spread_is_undefined() {
        let metric = [0.1, 0.9, 0.4, 0.6, 0.2, 0.3, 0.8, 0.7, 0.5, 0.0];
        assert!((normalised_abstention(&metric, &metric).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(normalised_abstention(&[1.0, 2.0], &[0.5, 0.5]), None);
        assert_eq!(normalised_abstention(&[], &[]), None);
        assert_eq!(rounded(0.123_455), 0.12345);
    }
}
