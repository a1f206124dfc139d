//! Nearest neighbours by brute force, voting on label sets.

use super::EstimatorError;
use super::product::{inner_product, inner_products};
use crate::data::matrix::Matrix;

const BLOCK: usize = 64;

/// The 0/1 labels of each row of `queries` `[n, dim]`, row-major `[n, columns]`: every column by majority of the `k` rows of
/// `rows` `[m, dim]` that are nearest in Euclidean distance; an even split votes 0.
///
/// `labels` is row-major `[m, columns]` of 0 and 1. Distances are ‖x‖² − 2x·y + ‖y‖² in `f64`; of equal ones the earlier
/// row is nearer.
///
/// # Errors
/// Fewer than `k` rows, `k = 0`, labels that do not fit the rows, or dimensions that differ.
pub fn vote(
    rows: &Matrix,
    labels: &[u8],
    columns: usize,
    queries: &Matrix,
    k: usize,
) -> Result<Vec<u8>, EstimatorError> {
    let (m, dim) = (rows.rows(), rows.cols());
    if k == 0 || m < k {
        return Err(EstimatorError::TooFewRows { estimator: "k-nearest neighbours", needed: k.max(1), rows: m });
    }
    if queries.cols() != dim {
        return Err(EstimatorError::Dimensions { fitted: dim, given: queries.cols() });
    }
    if labels.len() != m * columns {
        return Err(EstimatorError::Labels { rows: m, labels: labels.len() });
    }
    let rows: Vec<f64> = rows.data().iter().map(|&value| f64::from(value)).collect();
    let norms: Vec<f64> = (0..m).map(|i| &rows[i * dim..(i + 1) * dim]).map(|row| inner_product(row, row)).collect();
    let mut products = vec![0.0; BLOCK * m];
    let mut block = Vec::with_capacity(BLOCK * dim);
    let mut nearest: Vec<(f64, usize)> = Vec::with_capacity(k + 1);
    let mut votes = vec![0usize; columns];
    let mut predicted = Vec::with_capacity(queries.rows() * columns);
    for start in (0..queries.rows()).step_by(BLOCK) {
        let end = (start + BLOCK).min(queries.rows());
        block.clear();
        block.extend(queries.data()[start * dim..end * dim].iter().map(|&value| f64::from(value)));
        inner_products(&block, &rows, dim, &mut products[..(end - start) * m]);
        for (at, products) in products.chunks_exact(m).take(end - start).enumerate() {
            let query = &block[at * dim..(at + 1) * dim];
            let query_norm = inner_product(query, query);
            nearest.clear();
            for (row, (product, norm)) in products.iter().zip(&norms).enumerate() {
                let distance = query_norm - 2.0 * product + norm;
                if nearest.len() < k || distance < nearest[k - 1].0 {
                    let place = nearest.partition_point(|(other, _)| *other <= distance);
                    nearest.insert(place, (distance, row));
                    nearest.truncate(k);
                }
            }
            votes.fill(0);
            for &(_, row) in &nearest {
                for (vote, &label) in votes.iter_mut().zip(&labels[row * columns..(row + 1) * columns]) {
                    *vote += usize::from(label != 0);
                }
            }
            predicted.extend(votes.iter().map(|&vote| u8::from(2 * vote > k)));
        }
    }
    Ok(predicted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_of_the_nearest() {
        let rows = Matrix::new(4, 1, vec![0.0, 1.0, 2.0, 10.0]).unwrap();
        let queries = Matrix::new(2, 1, vec![0.4, 9.0]).unwrap();
        let labels = [1, 0, 0, 0, 0, 1, 1, 1];
        assert_eq!(vote(&rows, &labels, 2, &queries, 3).unwrap(), [0, 0, 0, 1]);
        assert_eq!(vote(&rows, &labels, 2, &queries, 1).unwrap(), [1, 0, 1, 1]);
        assert!(vote(&rows, &labels, 2, &queries, 5).is_err());
        assert!(vote(&rows, &labels[..7], 2, &queries, 3).is_err());
    }
}
