//! Distances of embeddings: between the rows of two matrices, and between all rows of one.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};

use super::math::{magnitude, row_cosines};
use crate::nn::kernel::parallel;
use crate::nn::linear::product_transposed;
use crate::nn::normalize::l2_normalize;

/// Added under a root: at equal rows the distance is 1e-6 and its gradient 0, not NaN.
const EPS: f64 = 1e-12;

/// How far apart two embeddings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// `1 − cos(x, y)`.
    Cosine,
    /// `‖x − y‖₂`; its gradient at equal embeddings is 0.
    Euclidean,
    /// `Σ |x − y|`; its gradient at equal coordinates is 0.
    Manhattan,
}

impl Distance {
    /// Between row i of `x` and row i of `y`: `[n, d]`, `[n, d]` → `[n]`.
    pub fn rows(self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cosine => row_cosines(x, y)?.affine(-1.0, 1.0),
            Self::Euclidean => ((x - y)?.sqr()?.sum(1)? + EPS)?.sqrt(),
            Self::Manhattan => magnitude(&(x - y)?)?.sum(1),
        }
    }

    /// Between all rows of `x`: `[n, d]` → `[n, n]`.
    pub fn matrix(self, x: &Tensor) -> Result<Tensor> {
        if self == Self::Cosine {
            let x = l2_normalize(x)?;
            return product_transposed(&x, &x)?.affine(-1.0, 1.0);
        }
        if x.device().is_cpu() {
            return x.contiguous()?.apply_op1(AllPairs(self));
        }
        self.composed_matrix(x)
    }

    /// The same of candle's own operations, with n² d values in memory.
    fn composed_matrix(self, x: &Tensor) -> Result<Tensor> {
        let difference = x.unsqueeze(1)?.broadcast_sub(&x.unsqueeze(0)?)?;
        match self {
            Self::Manhattan => magnitude(&difference)?.sum(D::Minus1),
            _ => (difference.sqr()?.sum(D::Minus1)? + EPS)?.sqrt(),
        }
    }
}

/// Lanes that a sum is split into, which the compiler turns into vector registers.
const LANES: usize = 8;

/// `Σ term(x − y)`.
fn sum(x: &[f32], y: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| term(x - y)).sum();
    for (x, y) in xs.zip(ys) {
        for (lane, (x, y)) in lanes.iter_mut().zip(x.iter().zip(y)) {
            *lane += term(x - y);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// All distances, Euclidean or Manhattan, from the differences themselves: by products (`‖x‖² − 2xy + ‖y‖²`) near rows
/// would lose all digits, and candle's operations would hold n² differences.
struct AllPairs(Distance);

impl AllPairs {
    fn distance(&self, x: &[f32], y: &[f32]) -> f32 {
        match self.0 {
            Distance::Manhattan => sum(x, y, f32::abs),
            _ => sum(x, y, |d| d * d).sqrt(),
        }
    }

    /// Adds `weight` times the gradient of the distance by `x` to `out`.
    fn add_gradient(&self, out: &mut [f32], weight: f32, distance: f32, x: &[f32], y: &[f32]) {
        if weight == 0.0 || distance == 0.0 {
            return;
        }
        let differences = x.iter().zip(y).map(|(x, y)| x - y);
        match self.0 {
            Distance::Manhattan => out.iter_mut().zip(differences).for_each(|(o, d)| {
                if d != 0.0 {
                    *o += weight * d.signum();
                }
            }),
            _ => out.iter_mut().zip(differences).for_each(|(o, d)| *o += weight / distance * d),
        }
    }
}

impl CustomOp1 for AllPairs {
    fn name(&self) -> &'static str {
        "all-pairs-distance"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let CpuStorage::F32(data) = storage else {
            bail!("{}: expects f32 values, got {:?}", self.name(), storage.dtype());
        };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("{}: expects a contiguous tensor, got {layout:?}", self.name());
        };
        let (n, width) = layout.shape().dims2()?;
        let x = &data[start..end];
        let row = |i: usize| &x[i * width..(i + 1) * width];
        let mut out = vec![0f32; n * n];
        parallel::over_rows(&mut out, n, |first, part| {
            for (i, distances) in part.chunks_exact_mut(n).enumerate() {
                for (j, distance) in distances.iter_mut().enumerate() {
                    *distance = self.distance(row(first + i), row(j));
                }
            }
        });
        Ok((CpuStorage::F32(out), (n, n).into()))
    }

    fn bwd(&self, x: &Tensor, distances: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (n, width) = x.dims2()?;
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        let distances = distances.flatten_all()?.to_vec1::<f32>()?;
        // A distance stands in the matrix twice.
        let weights = (gradient + gradient.t()?)?.flatten_all()?.to_vec1::<f32>()?;
        let row = |i: usize| &values[i * width..(i + 1) * width];
        let mut out = vec![0f32; n * width];
        parallel::over_rows(&mut out, width, |first, part| {
            for (i, out) in part.chunks_exact_mut(width).enumerate() {
                let i = first + i;
                for j in 0..n {
                    self.add_gradient(out, weights[i * n + j], distances[i * n + j], row(i), row(j));
                }
            }
        });
        Tensor::from_vec(out, (n, width), x.device()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Rows 1 and 3 are equal, row 2 shares coordinates with row 0.
    fn embeddings() -> Var {
        let mut values: Vec<f32> = (0..5 * 19).map(|i| ((i * 37 % 23) as f32 - 11.0) / 7.0).collect();
        values.copy_within(19..38, 57);
        values.copy_within(0..10, 38);
        Var::from_tensor(&Tensor::from_vec(values, (5, 19), &Device::Cpu).unwrap()).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn all_pairs_are_the_composed_ones() {
        let x = embeddings();
        let cotangent: Vec<f32> = (0..25).map(|i| ((i * 11 % 17) as f32 - 8.0) / 9.0).collect();
        let cotangent = Tensor::from_vec(cotangent, (5, 5), &Device::Cpu).unwrap();
        for distance in [Distance::Euclidean, Distance::Manhattan] {
            let gradients = |matrix: &Tensor| {
                let loss = (matrix * &cotangent).unwrap().sum_all().unwrap();
                values(loss.backward().unwrap().get(&x).unwrap())
            };
            let (fused, composed) = (distance.matrix(&x).unwrap(), distance.composed_matrix(&x).unwrap());
            for (got, want) in values(&fused).iter().zip(values(&composed)) {
                assert!((got - want).abs() < 2e-6, "{distance:?}: {got} {want}");
            }
            for (got, want) in gradients(&fused).iter().zip(gradients(&composed)) {
                assert!((got - want).abs() < 1e-5, "{distance:?}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_matrix_holds_the_distances_of_its_rows() {
        let x = embeddings();
        let (first, second) = (x.narrow(0, 0, 4).unwrap(), x.narrow(0, 1, 4).unwrap());
        for distance in [Distance::Cosine, Distance::Euclidean, Distance::Manhattan] {
            let matrix = distance.matrix(&x).unwrap().to_vec2::<f32>().unwrap();
            for (i, want) in values(&distance.rows(&first, &second).unwrap()).into_iter().enumerate() {
                assert!((matrix[i][i + 1] - want).abs() < 2e-6, "{distance:?}");
            }
        }
    }
}
