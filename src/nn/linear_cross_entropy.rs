//! A language model's head and its loss as one op, which never holds the logits of all tokens.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::kernel::gemm::{Operand, multiply};
use super::kernel::math::{exp_shifted, maximum};
use super::kernel::parallel::{self, Disjoint};
use super::kernel::simd::multiversion;
use super::storage::{output, unset, values, with_values, zeros};

const NAME: &str = "linear-cross-entropy";
/// Logits that are held at a time (64 MiB), and the fewest rows that make the table worth reading.
const CHUNK: (usize, usize) = (1 << 24, 128);

/// Mean over rows of `−log softmax(h Wᵀ + b)[target]`: `h` `[tokens, hidden]`, `table` `[vocabulary, hidden]`, `bias`
/// `[vocabulary]` → a scalar. Rows whose target is `ignore` are left out, of the mean, too.
///
/// Logits are made, and turned into gradients, some rows at a time; with the gradients made along with the loss they need
/// not be made again in the backward pass (as in Hsu et al. 2024, Liger).
///
/// # Errors
/// Where shapes do not fit, a target is outside the vocabulary, or no row is left.
pub fn linear_cross_entropy(
    h: &Tensor,
    table: &Tensor,
    bias: &Tensor,
    targets: &[u32],
    ignore: Option<u32>,
) -> Result<Tensor> {
    let ((tokens, hidden), (vocabulary, width)) = (h.dims2()?, table.dims2()?);
    if width != hidden || bias.dims() != [vocabulary] || targets.len() != tokens {
        bail!(
            "{NAME}: h {:?}, table {:?}, bias {:?} and {} targets do not fit",
            h.dims(),
            table.dims(),
            bias.dims(),
            targets.len()
        );
    }
    let kept: Vec<u32> =
        (0..).zip(targets).filter(|(_, target)| Some(**target) != ignore).map(|(row, _)| row).collect();
    if kept.is_empty() {
        bail!("{NAME}: none of {tokens} rows has a target");
    }
    let (mut h, mut targets) = (h.clone(), targets.to_vec());
    if kept.len() < tokens {
        targets = kept.iter().map(|row| targets[*row as usize]).collect();
        h = h.index_select(&Tensor::from_vec(kept, targets.len(), h.device())?, 0)?;
    }
    if let Some(target) = targets.iter().find(|target| **target as usize >= vocabulary) {
        bail!("{NAME}: target {target} is outside the vocabulary of {vocabulary}");
    }
    if !h.device().is_cpu() {
        return super::composed::linear_cross_entropy(&h, table, bias, &Arc::new(targets));
    }
    let rows = (CHUNK.0 / vocabulary).max(CHUNK.1);
    fused(&h, table, bias, targets, rows)
}

/// `rows`: those whose logits are held at a time.
fn fused(h: &Tensor, table: &Tensor, bias: &Tensor, targets: Vec<u32>, rows: usize) -> Result<Tensor> {
    let wanted = [h, table, bias].map(Tensor::track_op);
    let op = LinearCrossEntropy { targets, rows, wanted, ready: Mutex::default() };
    h.contiguous()?.apply_op3(&table.contiguous()?, &bias.contiguous()?, op)
}

struct LinearCrossEntropy {
    targets: Vec<u32>,
    rows: usize,
    /// Which of the operands get a gradient.
    wanted: [bool; 3],
    /// Gradients that the forward pass has made.
    ready: Mutex<Option<Gradients>>,
}

/// By `h`, the table and the bias, where wanted.
type Gradients = [Option<Vec<f32>>; 3];

multiversion! {
    /// Adds the bias to a row of logits and gives its loss; turns it into the loss's gradient by the logits, times `factor`.
    fn loss_of<A>(row: &mut [f32], bias: &[f32], target: usize, factor: f32) -> f32 {
        row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        let (shift, own) = (maximum(row), row[target]);
        let sum = exp_shifted::<A>(row, shift);
        let scale = factor / sum;
        row.iter_mut().for_each(|x| *x *= scale);
        row[target] -= factor;
        sum.ln() - (own - shift)
    }
}

impl LinearCrossEntropy {
    /// The loss, and its gradients where wanted.
    fn run(&self, [h, table, bias]: [&[f32]; 3]) -> (f32, Gradients) {
        let (tokens, vocabulary) = (self.targets.len(), bias.len());
        let hidden = h.len() / tokens.max(1);
        let sizes = [h.len(), table.len(), bias.len()];
        let mut gradients: Gradients = [0, 1, 2].map(|i| self.wanted[i].then(|| zeros(sizes[i])));
        let weight = Operand::new(table, vocabulary, hidden);
        let mut total = 0f64;
        // SAFETY: the product writes every value of the rows that are read.
        let mut logits = unsafe { unset(self.rows.min(tokens) * vocabulary) };
        for first in (0..tokens).step_by(self.rows) {
            let rows = self.rows.min(tokens - first);
            let part = Operand::new(&h[first * hidden..(first + rows) * hidden], rows, hidden);
            let logits = &mut logits[..rows * vocabulary];
            multiply(logits, false, 1.0, part, weight.t());
            total += self.losses(first, logits, bias).iter().map(|loss| f64::from(*loss)).sum::<f64>();
            let dlogits = Operand::new(logits, rows, vocabulary);
            let [dh, dtable, dbias] = &mut gradients;
            if let Some(dh) = dh {
                multiply(&mut dh[first * hidden..(first + rows) * hidden], false, 1.0, dlogits, weight);
            }
            if let Some(dtable) = dtable {
                multiply(dtable, first > 0, 1.0, dlogits.t(), part);
            }
            if let Some(dbias) = dbias {
                add_columns(logits, dbias);
            }
        }
        ((total / tokens as f64) as f32, gradients)
    }

    /// Losses of the rows from `first` on; their logits become gradients.
    fn losses(&self, first: usize, logits: &mut [f32], bias: &[f32]) -> Vec<f32> {
        let (vocabulary, factor) = (bias.len(), 1.0 / self.targets.len() as f32);
        let mut losses = zeros(logits.len() / vocabulary);
        let shared = Disjoint::new(&mut losses);
        parallel::over_rows(logits, vocabulary, |start, part| {
            for (r, row) in part.chunks_exact_mut(vocabulary).enumerate() {
                let target = self.targets[first + start + r] as usize;
                // SAFETY: every row has a place of its own.
                let place = unsafe { shared.range(start + r, 1) };
                place.fill(loss_of(row, bias, target, factor));
            }
        });
        losses
    }
}

/// Adds the rows of `x` to `sums`, in their order whatever the number of threads.
fn add_columns(x: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    parallel::over_rows(sums, 1, |first, sums| {
        for row in x.chunks_exact(width) {
            sums.iter_mut().zip(&row[first..]).for_each(|(s, v)| *s += v);
        }
    });
}

impl CustomOp3 for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (loss, gradients) = self.run([values(NAME, s1, l1)?, values(NAME, s2, l2)?, values(NAME, s3, l3)?]);
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradients);
        Ok(output(vec![loss], ()))
    }

    fn bwd(
        &self,
        h: &Tensor,
        table: &Tensor,
        bias: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gradients = match ready {
            Some(gradients) => gradients,
            // A second backward pass of the same graph.
            None => with_values(NAME, [h, table, bias], |operands| Ok(self.run(operands).1))?,
        };
        let factor = f64::from(dout.to_scalar::<f32>()?);
        let tensor = |gradient: Option<Vec<f32>>, like: &Tensor| -> Result<Option<Tensor>> {
            let Some(gradient) = gradient else { return Ok(None) };
            let gradient = Tensor::from_vec(gradient, like.shape(), like.device())?;
            Ok(Some(if factor == 1.0 { gradient } else { (gradient * factor)? }))
        };
        let [dh, dtable, dbias] = gradients;
        Ok((tensor(dh, h)?, tensor(dtable, table)?, tensor(dbias, bias)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn var(shape: &[usize], seed: usize) -> Var {
        let data =
            (0..shape.iter().product()).map(|i: usize| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect();
        Var::from_vec::<_, f32>(data, shape, &Device::Cpu).unwrap()
    }

    fn values_of(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn any_number_of_rows_at_a_time_gives_the_composed_loss_and_gradients() {
        let (tokens, hidden, vocabulary) = (37, 24, 90);
        let (h, table, bias) = (var(&[tokens, hidden], 1), var(&[vocabulary, hidden], 2), var(&[vocabulary], 3));
        let targets: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % vocabulary as u32).collect();
        let want = super::super::composed::linear_cross_entropy(&h, &table, &bias, &Arc::new(targets.clone())).unwrap();
        let wanted = (&want * 3.0).unwrap().backward().unwrap();
        for rows in [1, 5, 36, 37, 100] {
            let loss = fused(&h, &table, &bias, targets.clone(), rows).unwrap();
            let difference = loss.to_scalar::<f32>().unwrap() - want.to_scalar::<f32>().unwrap();
            assert!(difference.abs() < 1e-5, "{rows} rows: loss differs by {difference}");
            let scaled = (&loss * 3.0).unwrap();
            // The second pass finds no gradients ready and makes them again.
            for pass in 0..2 {
                let gradients = scaled.backward().unwrap();
                for (i, operand) in [&h, &table, &bias].into_iter().enumerate() {
                    let (got, want) =
                        (values_of(gradients.get(operand).unwrap()), values_of(wanted.get(operand).unwrap()));
                    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                    let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                    assert!(
                        worst < 1e-5 * scale,
                        "{rows} rows, pass {pass}: gradient {i} differs by {worst} of {scale}"
                    );
                }
            }
        }
    }
}
