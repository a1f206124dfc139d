//! An encoder's layers laid out as tiles, for inference.

use std::sync::OnceLock;

use candle_core::{Device, Tensor};

use super::pass::{Pass, Place};
use super::{Attention, Encoder, Inner, Layer, Norm, Order, Projections};
use crate::nn::PackedBatch;
use crate::nn::attention::Heads;
use crate::nn::fused::{self, Dense, Tokens};
use crate::nn::kernel::precision;
use crate::nn::linear::Linear;

/// What a model's layers are as tiles, by precision; made when first asked for.
#[derive(Debug, Default)]
pub struct FusedLayers {
    by_parts: [OnceLock<Option<Vec<fused::Layer>>>; precision::F32],
}

impl FusedLayers {
    /// The layers in this thread's precision; `None` where one of them, or the processor, is not made for it.
    pub fn of(&self, encoder: &Encoder) -> Option<&[fused::Layer]> {
        // Not `get_or_init`: a thread that packs in parallel may be given another forward pass meanwhile, which would wait for
        // itself. Two threads may lay out the same weights; one result is kept.
        let cell = self.by_parts.get(precision::parts() - 1)?;
        if cell.get().is_none() {
            let _ = cell.set(encoder.layers.iter().map(|layer| made(layer)).collect());
        }
        cell.get()?.as_deref()
    }
}

impl Encoder {
    /// As [`Encoder::forward`] in inference, `x` being the first layer's input.
    pub(super) fn run_fused(
        &self,
        x: &Tensor,
        batch: &PackedBatch,
        pass: &Pass,
        layers: &[fused::Layer],
    ) -> candle_core::Result<Tensor> {
        let bias = pass.relative.as_ref().map(|bias| bias.flatten_all()?.to_vec1::<f32>()).transpose()?;
        let mut values = x.flatten_all()?.to_vec1::<f32>()?;
        for (fused, layer) in layers.iter().zip(&self.layers) {
            let biased = matches!(&layer.attention, Attention::Plain(attention) if attention.biased);
            let tokens = Tokens {
                cu_seqlens: &batch.cu_seqlens,
                positions: &batch.positions,
                bias: bias.as_deref().filter(|_| biased),
            };
            fused.forward(&mut values, &tokens)?;
        }
        Tensor::from_vec(values, x.shape(), &Device::Cpu)
    }
}

fn dense(linear: &Linear) -> Option<Dense> {
    Some(Dense { weight: linear.fixed()?.clone(), bias: linear.bias.clone() })
}

/// The halves of a layer that gives gate and up side by side.
fn halves(dense: &Dense) -> Option<(Dense, Dense)> {
    let inner = dense.weight.dims2().ok()?.0 / 2;
    let half = |from: usize| {
        let part = |x: &Tensor| x.narrow(0, from, inner).ok();
        let bias = match &dense.bias {
            Some(bias) => Some(part(bias)?),
            None => None,
        };
        Some(Dense { weight: part(&dense.weight)?, bias })
    };
    Some((half(0)?, half(inner)?))
}

fn norm(norm: &Norm) -> Option<fused::Norm> {
    let values = |tensor: &Tensor| {
        let plain = !tensor.track_op() && tensor.device().is_cpu();
        plain.then(|| tensor.to_vec1::<f32>().ok()).flatten()
    };
    Some(match norm {
        Norm::None => fused::Norm::None,
        Norm::Layer(norm) => fused::Norm::Layer(values(&norm.weight)?, values(&norm.bias)?, norm.eps as f32),
        Norm::Rms(norm) => fused::Norm::Rms(values(&norm.scale().ok()?)?, norm.eps as f32),
    })
}

impl Layer {
    /// Attention and the feed-forward layers as one operation whose variables' gradients go to the pass's sink; `None` where the
    /// layer is not made for it.
    pub(super) fn run_trained(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Option<Tensor>> {
        let Some(sink) = pass.gradients() else { return Ok(None) };
        let (Attention::Plain(attention), Order::After([Norm::Layer(first), Norm::Layer(second)])) =
            (&self.attention, &self.order)
        else {
            return Ok(None);
        };
        let (Projections::Separate(projections), Inner::Plain(up)) = (&attention.projections, &self.feed_forward.inner)
        else {
            return Ok(None);
        };
        let projections = projections.all();
        let (output, down) = (&attention.output, &self.feed_forward.output);
        let plain = !attention.biased
            && self.relative.is_none()
            && attention.prepare.is_none()
            && attention.heads.key_values() == attention.heads.count
            && !self.feed_forward.drops
            && x.device().is_cpu()
            && projections.iter().chain([&output, &up, &down]).all(|linear| linear.is_plain());
        if !plain {
            return Ok(None);
        }
        let dropout = pass.weights(Place::Weights)?;
        let heads = Heads { causal: attention.heads.causal || pass.causal, dropout, ..attention.heads.clone() };
        let layer = fused::training::Layer {
            projections: projections.map(Linear::clone),
            heads,
            output: output.clone(),
            norms: [first.clone(), second.clone()],
            up: up.clone(),
            activation: self.feed_forward.activation,
            down: down.clone(),
            drops: [pass.drops(self.drops[0], Place::AttentionOutput)?, pass.drops(self.drops[1], Place::Output)?],
        };
        layer.forward(x, &pass.cu_seqlens, sink, pass.runs_again()).map(Some)
    }
}

fn made(layer: &Layer) -> Option<fused::Layer> {
    let Attention::Plain(attention) = &layer.attention else { return None };
    if layer.relative.is_some() || attention.heads.dropout.is_some() {
        return None;
    }
    let order = match &layer.order {
        Order::After([a, b]) => fused::Order::After([norm(a)?, norm(b)?]),
        Order::Before([a, b]) => fused::Order::Before([norm(a)?, norm(b)?]),
        Order::Around([a, b, c, d]) => fused::Order::Around([norm(a)?, norm(b)?, norm(c)?, norm(d)?]),
    };
    let projections = match &attention.projections {
        Projections::Fused(linear) => vec![dense(linear)?],
        Projections::Separate(layers) => layers.all().into_iter().map(dense).collect::<Option<_>>()?,
    };
    let inner = match &layer.feed_forward.inner {
        Inner::Plain(up) => fused::Inner::Plain(dense(up)?),
        Inner::Gated { gate, up, .. } => fused::Inner::Gated(dense(gate)?, dense(up)?),
        Inner::FusedGated(both) => {
            let (gate, up) = halves(&dense(both)?)?;
            fused::Inner::Gated(gate, up)
        }
    };
    fused::Layer::new(&fused::Parts {
        projections,
        prepare: attention.prepare.clone(),
        heads: attention.heads.clone(),
        output: dense(&attention.output)?,
        inner,
        activation: layer.feed_forward.activation,
        down: dense(&layer.feed_forward.output)?,
        order,
    })
}
