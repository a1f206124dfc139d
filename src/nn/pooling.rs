//! From token vectors to one vector a sequence, with sentence-transformers' modes.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::PackedBatch;
use super::storage::{output, values, with_values, zeros};

const NAME: &str = "pooling";

/// sentence-transformers' pooling modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingMode {
    /// The first token.
    Cls,
    /// The largest value of each dimension.
    Max,
    /// The mean over tokens.
    Mean,
    /// The sum over tokens divided by the root of their number.
    MeanSqrtLen,
    /// The mean weighted by position, 1 for the first token (Muennighoff 2022).
    WeightedMean,
    /// The last token.
    LastToken,
}

/// Pools every sequence: `[tokens, hidden]` → `[sequences, hidden]`. A sequence without tokens gives zeros.
///
/// # Errors
/// Where `hidden` has another number of rows than the batch has tokens.
pub fn pool(hidden: &Tensor, batch: &PackedBatch, mode: PoolingMode) -> Result<Tensor> {
    let (tokens, _) = hidden.dims2()?;
    if tokens != batch.tokens() {
        bail!("{NAME}: {tokens} vectors for {} tokens", batch.tokens());
    }
    #[cfg(feature = "cuda")]
    if super::cuda::covers(hidden) {
        return super::cuda::pooling::pool(hidden, batch, mode);
    }
    if !hidden.device().is_cpu() {
        return super::composed::pool(hidden, batch, mode);
    }
    hidden.contiguous()?.apply_op1(Pool { batch: batch.clone(), mode })
}

struct Pool {
    batch: PackedBatch,
    mode: PoolingMode,
}

impl PoolingMode {
    /// Weight of each of `n` tokens; `None` for the maximum. `first` is the position of the first within its sequence.
    pub(super) fn weights(self, n: usize, first: usize) -> Option<Vec<f32>> {
        let mut weights = vec![0f32; n];
        match self {
            Self::Max => return None,
            _ if n == 0 => {}
            Self::Cls => weights[0] = 1.0,
            Self::LastToken => weights[n - 1] = 1.0,
            Self::Mean => weights.fill(1.0 / n as f32),
            Self::MeanSqrtLen => weights.fill(1.0 / (n as f32).sqrt()),
            Self::WeightedMean => {
                let total: f32 = (0..n).map(|i| (first + i + 1) as f32).sum();
                weights.iter_mut().enumerate().for_each(|(i, w)| *w = (first + i + 1) as f32 / total);
            }
        }
        Some(weights)
    }
}

impl Pool {
    fn first_position(&self, s: usize) -> usize {
        self.batch.pooled_range(s).start - self.batch.cu_seqlens[s]
    }
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(NAME, storage, layout)?;
        let width = layout.shape().dims()[1];
        let mut out = zeros(self.batch.sequences() * width);
        for (s, row) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let range = self.batch.pooled_range(s);
            if range.is_empty() {
                continue;
            }
            match self.mode.weights(range.len(), self.first_position(s)) {
                None => {
                    row.copy_from_slice(&x[range.start * width..][..width]);
                    for t in range.start + 1..range.end {
                        for (o, v) in row.iter_mut().zip(&x[t * width..][..width]) {
                            *o = o.max(*v);
                        }
                    }
                }
                Some(weights) => {
                    for (t, w) in range.zip(weights).filter(|(_, w)| *w != 0.0) {
                        for (o, v) in row.iter_mut().zip(&x[t * width..][..width]) {
                            *o += w * v;
                        }
                    }
                }
            }
        }
        Ok(output(out, (self.batch.sequences(), width)))
    }

    fn bwd(&self, x: &Tensor, out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values(NAME, [x, out, dout], |[xs, ys, dy]| {
            let width = x.dims()[1];
            let mut dx = zeros(xs.len());
            for s in 0..self.batch.sequences() {
                let range = self.batch.pooled_range(s);
                let dy = &dy[s * width..][..width];
                match self.mode.weights(range.len(), self.first_position(s)) {
                    None => {
                        // The first token that holds the maximum takes the gradient, as in PyTorch.
                        for d in 0..width {
                            let top = ys[s * width + d];
                            if let Some(t) = range.clone().find(|t| xs[t * width + d] == top) {
                                dx[t * width + d] = dy[d];
                            }
                        }
                    }
                    Some(weights) => {
                        for (t, w) in range.zip(weights) {
                            for (o, d) in dx[t * width..][..width].iter_mut().zip(dy) {
                                *o = w * d;
                            }
                        }
                    }
                }
            }
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}
