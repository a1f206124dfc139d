//! What can be said of a training set by its texts' hashes: repeats, false negatives, numbers of negatives.

use super::hash::Hashes;

/// Counts over a training set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stats {
    /// Rows.
    pub rows: usize,
    /// Texts: queries, positives and negatives.
    pub texts: usize,
    /// Rows whose query is that of an earlier row.
    pub duplicate_queries: usize,
    /// Positives that are there before, in any row.
    pub duplicate_positives: usize,
    /// Rows with a positive that also belongs to another query: in one batch, each would be the other's false negative.
    pub shared_positives: usize,
    /// Rows where a negative equals the row's own query or a positive of it.
    pub own_negatives: usize,
    /// Negatives that were blank and are left out.
    pub blank_negatives: usize,
    /// Rows without any negative.
    pub without_negatives: usize,
    /// Fewest, mean and most negatives of a row.
    pub negatives: (usize, f64, usize),
    /// Rows with a teacher's score for every positive and negative.
    pub teacher_rows: usize,
}

impl Stats {
    /// Share of the rows whose query is that of an earlier row, 0 to 1.
    pub fn share_of_duplicate_queries(&self) -> f64 {
        self.duplicate_queries as f64 / self.rows.max(1) as f64
    }

    /// Share of the rows with a positive that also belongs to another query, 0 to 1.
    pub fn share_of_shared_positives(&self) -> f64 {
        self.shared_positives as f64 / self.rows.max(1) as f64
    }
}

/// Counts what hashes tell; in passing it needs 24 bytes a positive.
pub(super) fn count(hashes: &Hashes) -> Stats {
    let rows = hashes.rows();
    let mut out = Stats { rows, texts: hashes.texts(), ..Default::default() };
    let mut queries: Vec<u64> = (0..rows).map(|row| hashes.parts(row).0).collect();
    queries.sort_unstable();
    out.duplicate_queries = queries.windows(2).filter(|w| w[0] == w[1]).count();
    drop(queries);
    // (positive, query, row), equal positives next to each other.
    let mut owners: Vec<(u64, u64, usize)> = Vec::new();
    let (mut fewest, mut most, mut total) = (usize::MAX, 0, 0);
    for row in 0..rows {
        let (query, positives, negatives) = hashes.parts(row);
        owners.extend(positives.iter().map(|positive| (*positive, query, row)));
        out.own_negatives += usize::from(negatives.iter().any(|n| *n == query || positives.contains(n)));
        out.without_negatives += usize::from(negatives.is_empty());
        fewest = fewest.min(negatives.len());
        most = most.max(negatives.len());
        total += negatives.len();
    }
    out.negatives = (if rows == 0 { 0 } else { fewest }, total as f64 / rows.max(1) as f64, most);
    owners.sort_unstable();
    let mut shared = vec![false; rows];
    for equal in owners.chunk_by(|a, b| a.0 == b.0) {
        out.duplicate_positives += equal.len() - 1;
        // Sorted by query within: the first and the last differ if any do.
        if equal.first().map(|owner| owner.1) != equal.last().map(|owner| owner.1) {
            for (.., row) in equal {
                shared[*row] = true;
            }
        }
    }
    out.shared_positives = shared.into_iter().filter(|s| *s).count();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted() {
        let mut hashes = Hashes::default();
        // Query, positives, negatives.
        for (row, positives) in [
            (vec![1, 10, 20, 21], 1),
            (vec![1, 10], 1),
            (vec![2, 10, 11, 12], 2),
            (vec![3, 11, 11, 13], 2),
            (vec![4, 14, 4, 15], 1),
            (vec![5, 16, 16], 1),
        ] {
            hashes.push(row.into_iter(), positives);
        }
        let stats = count(&hashes);
        assert_eq!((stats.rows, stats.texts), (6, 21));
        assert_eq!(stats.duplicate_queries, 1, "row 2 has row 1's query");
        assert_eq!(stats.duplicate_positives, 4, "10 twice more, 11 twice more");
        assert_eq!(stats.shared_positives, 4, "10 belongs to queries 1 and 2, 11 to 2 and 3: rows 1 to 4");
        assert_eq!(stats.own_negatives, 2, "rows 5 and 6");
        assert_eq!(stats.without_negatives, 1);
        assert_eq!(stats.negatives, (0, 7.0 / 6.0, 2));
        assert_eq!(stats.share_of_shared_positives(), 4.0 / 6.0);
        assert_eq!(count(&Hashes::default()), Stats::default());
    }
}
