//! The same operations composed of candle's own differentiable ones: the path of devices without a fused kernel, and
//! what the fused kernels are tested against.

use std::sync::Arc;

use candle_core::{D, DType, IndexOp, Result, Tensor};

use super::PackedBatch;
use super::activation::Activation;
use super::attention::Heads;
use super::embedding::{Embedding, Table};
use super::linear::Linear;
use super::pooling::PoolingMode;
use super::rms_norm::RmsNorm;
use super::rotary::{Angles, QueryKey};

/// Softmax over the last dimension.
pub(crate) fn softmax(x: &Tensor) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)
}

/// See [`super::attention::attention`] and [`super::attention::joint_attention`].
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    cu_seqlens: &Arc<Vec<usize>>,
    heads: impl Into<Heads>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (_, hidden) = q.dims2()?;
    let heads = heads.into();
    let (count, key_values) = (heads.count, heads.key_values());
    let (depth, group) = (hidden / count, count / key_values);
    let (before, after) = heads.reach();
    let mut outs = Vec::with_capacity(cu_seqlens.len());
    for bounds in cu_seqlens.windows(2) {
        let n = bounds[1] - bounds[0];
        if n == 0 {
            continue;
        }
        let part = |x: &Tensor, heads: usize| {
            x.narrow(0, bounds[0], n)?.reshape((n, heads, depth))?.transpose(0, 1)?.contiguous()
        };
        // Every head of keys and values as often as there are queries of it.
        let shared = |x: &Tensor| {
            let owners: Vec<u32> = (0..count as u32).map(|h| h / group as u32).collect();
            part(x, key_values)?.index_select(&Tensor::new(owners, x.device())?, 0)
        };
        let (keys, values) = if group == 1 { (part(k, count)?, part(v, count)?) } else { (shared(k)?, shared(v)?) };
        let mut scores = (part(q, count)?.matmul(&keys.t()?.contiguous()?)? * f64::from(heads.scale(depth)))?;
        if let Some(bias) = bias {
            let zero = bias.dims2()?.1 / 2;
            let distances: Vec<u32> = (0..n * n).map(|i| (zero + i % n - i / n) as u32).collect();
            let added = bias.index_select(&Tensor::new(distances, bias.device())?, 1)?;
            scores = (scores + added.reshape((count, n, n))?)?;
        }
        let hidden = |i: usize| {
            let (row, key) = (i / n, i % n);
            row > key && row - key > before || key > row && key - row > after
        };
        if (0..n * n).any(hidden) {
            let mask: Vec<f32> = (0..n * n).map(|i| if hidden(i) { f32::NEG_INFINITY } else { 0.0 }).collect();
            scores = scores.broadcast_add(&Tensor::from_vec(mask, (n, n), q.device())?.to_dtype(q.dtype())?)?;
        }
        let mut weights = softmax(&scores)?;
        if let Some(dropout) = &heads.dropout {
            weights = weights.mul(&dropout.head_factors(bounds[0], n, count, &weights)?)?;
        }
        outs.push(weights.matmul(&values)?.transpose(0, 1)?.reshape((n, count * depth))?);
    }
    if outs.is_empty() { q.zeros_like() } else { Tensor::cat(&outs, 0) }
}

/// See [`super::rms_norm::RmsNorm::forward`].
pub fn rms_norm(x: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(scale)
}

/// See [`QueryKey::forward`].
pub fn query_key(qkv: &Tensor, layer: &QueryKey, positions: &[u32], angles: &Angles) -> Result<Tensor> {
    let (tokens, _) = qkv.dims2()?;
    let (depth, half) = (layer.depth(), layer.depth() / 2);
    let (cos, sin) = angles.tensors(positions, half, qkv)?;
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let prepared = |from: usize, heads: usize, norm: Option<&RmsNorm>| {
        let mut x = qkv.narrow(1, from * depth, heads * depth)?.reshape((tokens, heads, depth))?;
        if let Some(norm) = norm {
            x = rms_norm(&x, &norm.scale()?, norm.eps)?;
        }
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 2)?.reshape((tokens, heads * depth))
    };
    let (heads, keys) = (layer.heads, layer.key_values);
    let q = prepared(0, heads, layer.norms.as_ref().map(|(q, _)| q))?;
    let k = prepared(heads, keys, layer.norms.as_ref().map(|(_, k)| k))?;
    Tensor::cat(&[q, k, qkv.narrow(1, (heads + keys) * depth, keys * depth)?], 1)
}

/// See [`super::layer_norm::LayerNorm::forward`].
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// See [`Activation::forward`].
pub fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Silu => x.silu(),
        Activation::Tanh => x.tanh(),
        Activation::Relu => x.relu(),
        Activation::None => Ok(x.clone()),
    }
}

/// See [`Linear::forward`].
pub fn linear(x: &Tensor, layer: &Linear, dropout_seed: Option<u64>) -> Result<Tensor> {
    let weight = layer.weight.tensor(x.device())?.to_dtype(x.dtype())?;
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
    let sum = (&word + tables.position.index_select(&positions, 0)?.to_dtype(word.dtype())?)?;
    match &tables.token_type {
        Some(kinds) => sum.broadcast_add(&kinds.i(0)?.to_dtype(word.dtype())?),
        None => Ok(sum),
    }
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
    let logits = h.to_dtype(table.dtype())?.matmul(&table.t()?)?.broadcast_add(bias)?;
    cross_entropy(&logits, targets, &Arc::new(Vec::new()), 1.0)
}
