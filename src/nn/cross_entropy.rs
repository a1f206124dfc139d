//! Softmax cross entropy over rows of logits, with a temperature.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::kernel::math::{exp_shifted, maximum};
use super::kernel::parallel;
use super::kernel::simd::multiversion;
use super::storage::{output, values, with_values, zeros};

const NAME: &str = "cross-entropy";

/// Mean over rows of `−log softmax(logits / temperature)[target]`; `logits` `[rows, classes]` → a scalar. Where `masked`
/// is not empty, `masked[row * classes + class]` leaves that class out of the row's softmax.
///
/// # Errors
/// Where a target is outside the classes, or is masked.
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Arc<Vec<u32>>,
    masked: &Arc<Vec<bool>>,
    temperature: f64,
) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    if targets.len() != rows || !(masked.is_empty() || masked.len() == rows * classes) {
        bail!("{NAME}: {} targets and {} mask values for logits {:?}", targets.len(), masked.len(), logits.dims());
    }
    for (row, &target) in targets.iter().enumerate() {
        if target as usize >= classes || masked.get(row * classes + target as usize) == Some(&true) {
            bail!("{NAME}: target {target} of row {row} is outside the {classes} classes or masked");
        }
    }
    if !logits.device().is_cpu() {
        return super::composed::cross_entropy(logits, targets, masked, temperature);
    }
    let op = CrossEntropy { targets: targets.clone(), masked: masked.clone(), inverse: (1.0 / temperature) as f32 };
    logits.contiguous()?.apply_op1(op)
}

struct CrossEntropy {
    targets: Arc<Vec<u32>>,
    masked: Arc<Vec<bool>>,
    inverse: f32,
}

multiversion! {
    /// Turns `row` into its softmax and returns the log of the sum of exponentials.
    fn softmax<A>(row: &mut [f32]) -> f32 {
        let shift = maximum(row);
        let sum = exp_shifted::<A>(row, shift);
        for value in row.iter_mut() {
            *value /= sum;
        }
        shift + sum.ln()
    }
}

impl CrossEntropy {
    /// The row's logits over the temperature, masked ones at −∞.
    fn scaled(&self, r: usize, logits: &[f32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(logits) {
            *o = x * self.inverse;
        }
        if let Some(mask) = self.masked.get(r * out.len()..(r + 1) * out.len()) {
            out.iter_mut().zip(mask).filter(|(_, m)| **m).for_each(|(o, _)| *o = f32::MIN);
        }
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(NAME, storage, layout)?;
        let classes = layout.shape().dims()[1].max(1);
        let mut row = zeros(classes);
        let mut total = 0f64;
        for (r, logits) in x.chunks_exact(classes).enumerate() {
            self.scaled(r, logits, &mut row);
            let target = row[self.targets[r] as usize];
            total += f64::from(softmax(&mut row) - target);
        }
        Ok(output(vec![(total / self.targets.len().max(1) as f64) as f32], ()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values(NAME, [x, dout], |[xs, dy]| {
            let (rows, classes) = x.dims2()?;
            let factor = dy[0] * self.inverse / rows.max(1) as f32;
            let mut dx = zeros(xs.len());
            parallel::over_rows(&mut dx, classes, |first, part| {
                for (r, row) in part.chunks_exact_mut(classes).enumerate() {
                    let r = first + r;
                    self.scaled(r, &xs[r * classes..(r + 1) * classes], row);
                    softmax(row);
                    row[self.targets[r] as usize] -= 1.0;
                    row.iter_mut().for_each(|v| *v *= factor);
                }
            });
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}
