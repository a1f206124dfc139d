//! Rows to unit length.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::kernel::parallel;
use super::kernel::simd::{dot, multiversion};
use super::storage::{output, values, with_values, zeros};

const NAME: &str = "l2-normalize";
/// Smallest length divided by, as in `torch.nn.functional.normalize`.
const EPS: f32 = 1e-12;

/// `x / max(‖x‖₂, 1e-12)` by row, `[rows, dim]`.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    x.dims2()?;
    #[cfg(feature = "cuda")]
    if super::cuda::covers(x) {
        return super::cuda::normalize::l2_normalize(x);
    }
    if !x.device().is_cpu() {
        return super::composed::l2_normalize(x);
    }
    x.contiguous()?.apply_op1(Normalize)
}

multiversion! {
    fn forward<A>(rows: &mut [f32], width: usize) {
        for row in rows.chunks_exact_mut(width) {
            let length = dot::<A>(row, row).sqrt().max(EPS);
            for value in row {
                *value /= length;
            }
        }
    }
}

multiversion! {
    fn backward<A>(x: &[f32], y: &[f32], dy: &[f32], width: usize, out: &mut [f32]) {
        for (r, out) in out.chunks_exact_mut(width).enumerate() {
            let row = r * width..(r + 1) * width;
            let norm = dot::<A>(&x[row.clone()], &x[row.clone()]).sqrt();
            // Below the bound the divisor is constant and only scales.
            let along = if norm < EPS { 0.0 } else { dot::<A>(&y[row.clone()], &dy[row.clone()]) };
            let length = norm.max(EPS);
            for ((o, y), d) in out.iter_mut().zip(&y[row.clone()]).zip(&dy[row]) {
                *o = (d - y * along) / length;
            }
        }
    }
}

struct Normalize;

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = values(NAME, storage, layout)?.to_vec();
        let width = layout.shape().dims()[1];
        parallel::over_rows(&mut out, width, |_, rows| forward(rows, width.max(1)));
        Ok(output(out, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values(NAME, [x, out, dout], |[xs, ys, dy]| {
            let width = x.dims()[1].max(1);
            let mut dx = zeros(xs.len());
            parallel::over_rows(&mut dx, width, |first, rows| {
                let range = first * width..first * width + rows.len();
                backward(&xs[range.clone()], &ys[range.clone()], &dy[range], width, rows);
            });
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}
