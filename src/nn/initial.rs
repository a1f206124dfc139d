//! Values that fresh parameters start from.

use rand::SeedableRng;
use rand_distr::Distribution;

/// Uniform in ±√(6 / (rows + columns)) (Glorot and Bengio 2010), `[rows, columns]`, row-major.
pub fn xavier_uniform(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    let bound = (6.0 / (rows + columns).max(1) as f32).sqrt();
    match rand_distr::Uniform::new_inclusive(-bound, bound) {
        Ok(uniform) => uniform.sample_iter(rand_pcg::Pcg64::seed_from_u64(seed)).take(rows * columns).collect(),
        Err(_) => vec![0.0; rows * columns],
    }
}
