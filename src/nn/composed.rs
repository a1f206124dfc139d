//! The same operations composed of candle's own differentiable ones: the path of devices without a fused kernel, and
//! what the fused kernels are tested against.

use std::sync::Arc;

use candle_core::{D, DType, IndexOp, Result, Tensor};

use super::PackedBatch;
use super::attention::Heads;
use super::embedding::{Embedding, Table};
use super::linear::Linear;
use super::pooling::PoolingMode;

/// Softmax over the last dimension.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}

/// See [`super::attention::attention`].
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &Arc<Vec<usize>>,
    heads: impl Into<Heads>,
) -> Result<Tensor> {
    let (_, hidden) = q.dims2()?;
    let Heads { count, causal, dropout } = heads.into();
    let depth = hidden / count;
    let mut outs = Vec::with_capacity(cu_seqlens.len());
    for bounds in cu_seqlens.windows(2) {
        let n = bounds[1] - bounds[0];
        if n == 0 {
            continue;
        }
        let part = |x: &Tensor| x.narrow(0, bounds[0], n)?.reshape((n, count, depth))?.transpose(0, 1)?.contiguous();
        let mut scores = (part(q)?.matmul(&part(k)?.t()?.contiguous()?)? / (depth as f64).sqrt())?;
        if causal {
            let after: Vec<f32> = (0..n * n).map(|i| if i % n > i / n { f32::NEG_INFINITY } else { 0.0 }).collect();
            scores = scores.broadcast_add(&Tensor::from_vec(after, (n, n), q.device())?.to_dtype(q.dtype())?)?;
        }
        let mut weights = softmax(&scores)?;
        if let Some(dropout) = &dropout {
            weights = weights.mul(&dropout.head_factors(bounds[0], n, count, &weights)?)?;
        }
        outs.push(weights.matmul(&part(v)?)?.transpose(0, 1)?.reshape((n, hidden))?);
    }
    if outs.is_empty() { q.zeros_like() } else { Tensor::cat(&outs, 0) }
}

/// See [`super::layer_norm::LayerNorm::forward`].
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// See [`super::activation::Activation::Gelu`].
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// See [`Linear::forward`].
pub fn linear(x: &Tensor, layer: &Linear, dropout_seed: Option<u64>) -> Result<Tensor> {
    let weight = layer.weight.tensor(x.device())?;
    let base = |x: &Tensor| x.matmul(&weight.t()?);
    let mut y = base(x)?;
    if let Some(lora) = &layer.lora {
        let dropped = match dropout_seed {
            Some(seed) => super::dropout::dropout(x, lora.dropout, seed)?,
            None => x.clone(),
        };
        let change = (dropped.matmul(&lora.a.t()?)?.matmul(&lora.b.t()?)? * lora.scale)?;
        y = match &layer.magnitude {
            Some(magnitude) => {
                let whole = (&weight + (lora.b.matmul(&lora.a)? * lora.scale)?)?.detach();
                let norms = whole.sqr()?.sum(1)?.sqrt()?.maximum(f64::from(f32::MIN_POSITIVE))?;
                let dropped = base(&dropped)?;
                ((y - &dropped)? + (dropped + change)?.broadcast_mul(&(magnitude / norms)?)?)?
            }
            None => (y + change)?,
        };
    }
    match &layer.bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// See [`Embedding::forward`].
pub fn embedding(tables: &Embedding, ids: &Arc<Vec<u32>>, positions: &Arc<Vec<u32>>) -> Result<Tensor> {
    let device = tables.position.device();
    let word = match &tables.word {
        Table::Dense(word) => word.index_select(&Tensor::new(ids.as_slice(), device)?, 0)?,
        Table::Int8(word) => word.rows(ids, device)?,
    };
    let positions = Tensor::new(positions.as_slice(), device)?;
    let sum = (word + tables.position.index_select(&positions, 0)?)?;
    sum.broadcast_add(&tables.token_type.i(0)?)
}

/// See [`super::pooling::pool`].
pub fn pool(hidden: &Tensor, batch: &PackedBatch, mode: PoolingMode) -> Result<Tensor> {
    let (_, width) = hidden.dims2()?;
    let mut rows = Vec::with_capacity(batch.sequences());
    for s in 0..batch.sequences() {
        let range = batch.pooled_range(s);
        if range.is_empty() {
            rows.push(Tensor::zeros((1, width), hidden.dtype(), hidden.device())?);
            continue;
        }
        let part = hidden.narrow(0, range.start, range.len())?;
        rows.push(match mode.weights(range.len(), range.start - batch.cu_seqlens[s]) {
            None => part.max_keepdim(0)?,
            Some(weights) => {
                let n = weights.len();
                Tensor::from_vec(weights, (1, n), hidden.device())?.to_dtype(hidden.dtype())?.matmul(&part)?
            }
        });
    }
    Tensor::cat(&rows, 0)
}

/// See [`super::normalize::l2_normalize`].
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    x.broadcast_div(&length)
}

/// See [`super::cross_entropy::cross_entropy`].
pub fn cross_entropy(
    logits: &Tensor,
    targets: &Arc<Vec<u32>>,
    masked: &Arc<Vec<bool>>,
    temperature: f64,
) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    let mut scaled = (logits.to_dtype(DType::F32)? / temperature)?;
    if !masked.is_empty() {
        let mask: Vec<f32> = masked.iter().map(|m| if *m { f32::MIN } else { 0.0 }).collect();
        scaled = (scaled + Tensor::from_vec(mask, (rows, classes), logits.device())?)?;
    }
    let shifted = scaled.broadcast_sub(&scaled.max_keepdim(1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(1)?.log()?;
    let log_probability = shifted.broadcast_sub(&log_sum)?;
    let targets = Tensor::new(targets.as_slice(), logits.device())?.unsqueeze(1)?;
    log_probability.gather(&targets, 1)?.mean_all()?.neg()
}

/// See [`super::linear_cross_entropy::linear_cross_entropy`]; it holds all logits.
pub fn linear_cross_entropy(h: &Tensor, table: &Tensor, bias: &Tensor, targets: &Arc<Vec<u32>>) -> Result<Tensor> {
    let logits = h.matmul(&table.t()?)?.broadcast_add(bias)?;
    cross_entropy(&logits, targets, &Arc::new(Vec::new()), 1.0)
}
