//! Some rows of a training set, and sets split in two.

use std::collections::HashMap;
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;

use super::{Form, TrainingRow, TrainingSet};
use crate::data::table::DataError;

/// Draws up to `dev_rows` of `len` rows by a seed: (the rest, those drawn), both in order. Rows with the same `query` (a hash)
/// stay together: as many rows as fit are drawn, so fewer than `dev_rows` where a query has more rows than there is room for.
pub fn split(len: usize, dev_rows: usize, seed: u64, query: impl Fn(usize) -> u64) -> (Vec<usize>, Vec<usize>) {
    let mut rows_of: HashMap<u64, usize> = HashMap::new();
    for row in 0..len {
        *rows_of.entry(query(row)).or_default() += 1;
    }
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut rand_pcg::Pcg64::seed_from_u64(seed));
    let mut room = dev_rows;
    for row in order {
        // A query that is decided on has no rows left to count.
        let Some(rows) = rows_of.get_mut(&query(row)) else { continue };
        if *rows > 0 && *rows <= room {
            room -= *rows;
            *rows = 0;
        }
        if room == 0 {
            break;
        }
    }
    (0..len).partition(|row| rows_of.get(&query(*row)).is_some_and(|rows| *rows > 0))
}

/// Some rows of a set, or all of them; cheap to clone.
#[derive(Debug, Clone)]
pub struct Subset {
    set: Arc<TrainingSet>,
    rows: Option<Arc<Vec<usize>>>,
}

impl Subset {
    /// All rows of a set.
    pub fn all(set: Arc<TrainingSet>) -> Self {
        Self { set, rows: None }
    }

    /// The rows of these numbers, in their order.
    pub fn new(set: Arc<TrainingSet>, rows: Vec<usize>) -> Self {
        Self { set, rows: Some(Arc::new(rows)) }
    }

    /// Draws up to `dev_rows` rows by a seed, as [`split`] does: (the rest, those drawn).
    pub fn split(&self, dev_rows: usize, seed: u64) -> (Self, Self) {
        let query = |row: usize| self.hashes(row).first().copied().unwrap_or_default();
        let (train, dev) = split(self.len(), dev_rows, seed, query);
        let part =
            |rows: Vec<usize>| Self::new(self.set.clone(), rows.into_iter().map(|row| self.place(row)).collect());
        (part(train), part(dev))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.as_ref().map_or_else(|| self.set.len(), |rows| rows.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number that a row has in the whole set.
    pub fn place(&self, row: usize) -> usize {
        self.rows.as_ref().map_or(row, |rows| rows.get(row).copied().unwrap_or(usize::MAX))
    }

    /// A row.
    ///
    /// # Errors
    /// As [`TrainingSet::row`].
    pub fn row(&self, row: usize) -> Result<TrainingRow, DataError> {
        self.set.row(self.place(row))
    }

    /// The hashes of a row's texts, as [`TrainingSet::hashes`].
    pub fn hashes(&self, row: usize) -> &[u64] {
        self.set.hashes(self.place(row))
    }

    /// What the rows are.
    pub fn form(&self) -> Form {
        self.set.form()
    }

    /// The whole set.
    pub fn set(&self) -> &Arc<TrainingSet> {
        &self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_on_one_side_only() {
        // 300 rows of 100 queries, three each, and 100 with their own.
        let query = |row: usize| if row < 300 { (row % 100) as u64 } else { row as u64 };
        let (train, dev) = split(400, 40, 7, query);
        assert_eq!((train.len(), dev.len()), (360, 40));
        assert!(train.is_sorted() && dev.is_sorted());
        let mut all: Vec<usize> = train.iter().chain(&dev).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..400).collect::<Vec<_>>());
        let of_dev: Vec<u64> = dev.iter().map(|row| query(*row)).collect();
        assert!(train.iter().all(|row| !of_dev.contains(&query(*row))));
        assert!(dev.iter().any(|row| *row < 300) && dev.iter().any(|row| *row >= 300), "both kinds are drawn");
        assert_eq!(split(400, 40, 7, query), (train.clone(), dev.clone()));
        assert_ne!(split(400, 40, 8, query).1, dev);
    }

    #[test]
    fn what_does_not_fit_stays() {
        assert_eq!(split(6, 2, 1, |_| 0), ((0..6).collect(), vec![]), "one query is not torn apart");
        assert_eq!(split(3, 0, 1, |row| row as u64), (vec![0, 1, 2], vec![]));
        assert_eq!(split(3, 9, 1, |row| row as u64), (vec![], vec![0, 1, 2]));
        assert_eq!(split(0, 1, 1, |row| row as u64), (vec![], vec![]));
        for seed in 0..50 {
            let (train, dev) = split(5, 1, seed, |row| row.min(3) as u64);
            assert_eq!((train.len(), dev.len()), (4, 1), "seed {seed}");
            assert!(dev[0] < 3, "rows 4 and 5 belong together");
        }
    }
}
