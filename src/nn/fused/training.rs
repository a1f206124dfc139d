//! A transformer layer of BERT's kind as one operation that is differentiated by hand: what the backward pass needs is kept,
//! what is cheap is computed again, and gradients by parameters go to a [`GradientSink`] without a copy.
//!
//! Products are in the thread's precision ([`precision`]). Where products are by blocks (AMX, AVX-512), what follows attention goes by blocks of rows.

use std::sync::{Arc, Mutex, PoisonError};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use candle_core::Error;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, Var, bail};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use super::passes;
use super::stack;
use crate::nn::activation::{self, Activation};
use crate::nn::attention::{Heads, Packed as Attention};
use crate::nn::checkpoint::GradientSink;
use crate::nn::dropout::TokenDropout;
use crate::nn::kernel::layer_norm::{self as kernel, Rows};
use crate::nn::kernel::parallel;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::nn::kernel::{
    gemm::Operand,
    outer::{self, Side, Turn},
    packed::Aligned,
    precision,
};
use crate::nn::layer_norm::LayerNorm;
use crate::nn::linear::Linear;
use crate::nn::storage::{output, unset, values, with_values};

const NAME: &str = "transformer-layer";

/// A layer with its norms after the residuals, and what its pass draws.
#[derive(Debug, Clone)]
pub struct Layer {
    /// For queries, keys and values.
    pub projections: [Linear; 3],
    /// How it attends, and what is dropped of the weights.
    pub heads: Heads,
    /// Back to the hidden size.
    pub output: Linear,
    /// After attention, and after the feed-forward layers.
    pub norms: [LayerNorm; 2],
    /// Up.
    pub up: Linear,
    /// In between.
    pub activation: Activation,
    /// Down.
    pub down: Linear,
    /// Dropout of what is added to the residuals.
    pub drops: [Option<TokenDropout>; 2],
}

impl Layer {
    /// `[tokens, hidden]` → the same; gradients by the layer's variables go to `sink`. With `again` the input alone is kept, and
    /// the layer is run again in the backward pass.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(self, x: &Tensor, cu_seqlens: &Arc<Vec<usize>>, sink: &GradientSink, again: bool) -> Result<Tensor> {
        let (tokens, hidden) = x.dims2()?;
        for norm in &self.norms {
            if norm.weight.dims() != [hidden] || norm.bias.dims() != [hidden] {
                bail!("{NAME}: norm {:?} does not fit x {:?}", norm.weight.dims(), x.dims());
            }
        }
        self.drops.iter().flatten().try_for_each(|dropout| dropout.check(tokens))?;
        let attention = Attention::new(cu_seqlens, tokens, self.heads.clone(), 3 * hidden, None)?;
        // A variable among the operands, so that the op is differentiated where `x` depends on none.
        let anchor = Var::zeros((), DType::F32, x.device())?;
        let kept = Mutex::new(None);
        x.contiguous()?.apply_op2(&anchor, Run { layer: self, attention, sink: sink.clone(), again, kept })
    }
}

/// What the backward pass needs beside the input.
struct Kept {
    /// Queries, keys and values side by side.
    projected: Vec<f32>,
    context: Vec<f32>,
    /// Before the first norm.
    middle: Vec<f32>,
    /// Before the activation.
    inner: Inner,
    /// Before the second norm.
    last: Vec<f32>,
}

enum Inner {
    /// `[rows, inner]`.
    Rows(Vec<f32>),
    /// In blocks ([`passes::Forward::inner`]).
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Blocks(Vec<Aligned>),
}

struct Run {
    layer: Layer,
    attention: Attention,
    sink: GradientSink,
    again: bool,
    kept: Mutex<Option<Kept>>,
}

/// A norm's values while a closure runs.
fn with_norm<T>(norm: &LayerNorm, f: impl FnOnce(&[f32], &[f32]) -> T) -> Result<T> {
    with_values(NAME, [&norm.weight, &norm.bias], |[scale, shift]| Ok(f(scale, shift)))
}

fn rows<'a>(x: &'a [f32], norm: &LayerNorm, width: usize) -> Rows<'a> {
    Rows { x, residual: &[], dropout: None, width, eps: norm.eps as f32 }
}

/// The norm of the rows of `x`.
fn normalised(norm: &LayerNorm, x: &[f32], width: usize) -> Result<Vec<f32>> {
    with_norm(norm, |scale, shift| {
        // SAFETY: the kernel writes every row.
        let mut out = unsafe { unset(x.len()) };
        parallel::over_rows(&mut out, width, |first, out| {
            kernel::forward(rows(x, norm, width).part(first, out.len() / width), scale, shift, out);
        });
        out
    })
}

/// `x = dropout(x) + residual`.
fn add_dropped(x: &mut [f32], dropout: Option<&TokenDropout>, residual: &[f32], width: usize) {
    parallel::over_rows(x, width, |first, x| {
        for (r, row) in x.chunks_exact_mut(width).enumerate() {
            if let Some(dropout) = dropout {
                let (mask, places) = dropout.parts();
                mask.row(places[first + r]).apply_to(row);
            }
            row.iter_mut().zip(&residual[(first + r) * width..]).for_each(|(x, y)| *x += y);
        }
    });
}

/// The gradient by what dropout was drawn for; nothing where none was.
fn dropped(dy: &[f32], dropout: Option<&TokenDropout>, width: usize) -> Option<Vec<f32>> {
    let (mask, places) = dropout?.parts();
    let mut out = dy.to_vec();
    parallel::over_rows(&mut out, width, |first, out| {
        for (r, row) in out.chunks_exact_mut(width).enumerate() {
            mask.row(places[first + r]).apply_to(row);
        }
    });
    Some(out)
}

impl Run {
    fn compute(&self, x: &[f32], tokens: usize) -> Result<(Vec<f32>, Kept)> {
        let layer = &self.layer;
        let width = x.len().checked_div(tokens).unwrap_or(0);
        let projected = stack::run(&layer.projections.each_ref(), x, tokens)?;
        if projected.len() != 3 * x.len() {
            bail!("{NAME}: queries, keys and values are not as wide as the input");
        }
        let context = self.attention.joint_forward(&projected);
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if tokens > 0
            && precision::layout().is_some()
            && let Some(passes::Forward { out, middle, inner, last }) = self.rest(width, true)?.forward(x, &context)
        {
            return Ok((out, Kept { projected, context, middle, inner: Inner::Blocks(inner), last }));
        }
        let mut middle = stack::run(&[&layer.output], &context, tokens)?;
        if middle.len() != x.len() {
            bail!("{NAME}: attention's output is not as wide as its input");
        }
        add_dropped(&mut middle, layer.drops[0].as_ref(), x, width);
        let normed = normalised(&layer.norms[0], &middle, width)?;
        let inner = stack::run(&[&layer.up], &normed, tokens)?;
        let mut last = stack::run(&[&layer.down], &activation::applied(layer.activation, &inner), tokens)?;
        if last.len() != x.len() {
            bail!("{NAME}: the feed-forward layers' output is not as wide as their input");
        }
        add_dropped(&mut last, layer.drops[1].as_ref(), &normed, width);
        let out = normalised(&layer.norms[1], &last, width)?;
        Ok((out, Kept { projected, context, middle, inner: Inner::Rows(inner), last }))
    }

    /// What follows attention, its weights for the forward pass or the backward pass.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn rest(&self, hidden: usize, forward: bool) -> Result<passes::Rest<'_>> {
        let layer = &self.layer;
        let linears = [&layer.output, &layer.up, &layer.down];
        let shapes = [linears[0].weight.shape()?, linears[1].weight.shape()?, linears[2].weight.shape()?];
        let inner = shapes[1].0;
        if shapes != [(hidden, hidden), (inner, hidden), (hidden, inner)] {
            bail!("{NAME}: weights {shapes:?} do not fit {hidden} values a token");
        }
        let flat = |tensor: &Tensor| with_values(NAME, [tensor], |[values]| Ok(values.to_vec()));
        let norm = |norm: &LayerNorm| {
            Ok::<_, Error>(passes::Norm { scale: flat(&norm.weight)?, shift: flat(&norm.bias)?, eps: norm.eps as f32 })
        };
        let bias = |linear: &Linear| linear.bias.as_ref().map(flat).transpose();
        Ok(passes::Rest {
            weights: [
                stack::ready(linears[0], forward)?,
                stack::ready(linears[1], forward)?,
                stack::ready(linears[2], forward)?,
            ],
            biases: [bias(linears[0])?, bias(linears[1])?, bias(linears[2])?],
            norms: [norm(&layer.norms[0])?, norm(&layer.norms[1])?],
            drops: layer.drops.each_ref().map(|drop| drop.as_ref().map(TokenDropout::parts)),
            activation: layer.activation,
            hidden,
            inner,
        })
    }

    /// [`Self::gradient`] as far as attention's result, by blocks of rows: the gradients by the layer's input through the first residual,
    /// and by attention's result; `None` where products are not by blocks ([`crate::nn::kernel::amx::layout`]).
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn rest_gradient(
        &self,
        (context, middle, inner, last): (&[f32], Vec<f32>, Vec<Aligned>, Vec<f32>),
        tokens: usize,
        dy: &[f32],
    ) -> Result<Option<[Vec<f32>; 2]>> {
        let (layer, hidden) = (&self.layer, dy.len().checked_div(tokens).unwrap_or(0));
        let Layer { output, up, down, norms, .. } = layer;
        let linears = [output, down, up];
        let trained = |tensor: &Tensor| tensor.is_variable();
        let norms_learn = norms.iter().any(|norm| trained(&norm.weight) || trained(&norm.bias));
        let wanted = passes::Wanted {
            down: down.weight.track_op(),
            up: up.weight.track_op(),
            down_rows: stack::adapts(down),
            up_rows: stack::adapts(up),
            sums: norms_learn || linears.iter().any(|linear| linear.bias.as_ref().is_some_and(trained)),
        };
        let rest = self.rest(hidden, false)?;
        let Some(passed) = rest.backward((&middle, &inner, &last), dy, wanted) else { return Ok(None) };
        drop((rest, middle, inner, last));
        let by_output = passed.dattended.as_ref().unwrap_or(&passed.dx);
        stack::weight_gradients(&[output], context, by_output, tokens, &self.sink)?;
        let mut sums = passed.sums.as_slice();
        for norm in norms {
            for parameter in [&norm.weight, &norm.bias] {
                take(&self.sink, Some(parameter), hidden, &mut sums)?;
            }
        }
        for linear in linears {
            take(&self.sink, linear.bias.as_ref(), linear.weight.shape()?.0, &mut sums)?;
        }
        let (dout, normed) = (&passed.dout, &passed.normed);
        for (linear, columns, left, turn) in
            [(down, &passed.active, dout, Turn::No), (up, &passed.dinner, normed, Turn::Yes)]
        {
            if let (Some(columns), Some(weight)) = (columns, linear.weight.dense()) {
                // SAFETY: the sum, which is not added, writes every value.
                let mut gradient = unsafe { unset(weight.elem_count()) };
                let left = Operand::new(left, tokens, hidden);
                if !outer::sum(left, Side::Tiles(columns), 1.0, &mut gradient, turn, false) {
                    return Ok(None);
                }
                self.sink.add_values(weight, gradient)?;
            }
        }
        if let Some(active) = &passed.active_rows {
            stack::low_rank_gradients(&[down], active, dout, tokens, &self.sink)?;
        }
        if let Some(dinner) = &passed.dinner_rows {
            stack::low_rank_gradients(&[up], normed, dinner, tokens, &self.sink)?;
        }
        Ok(Some([passed.dx, passed.dcontext]))
    }

    /// The gradient by a norm's input; those by its parameters go to the sink.
    fn norm_gradient(&self, norm: &LayerNorm, x: &[f32], dy: &[f32], width: usize) -> Result<Vec<f32>> {
        if norm.weight.track_op() || norm.bias.track_op() {
            let sums = parallel::column_sums(x.len() / width.max(1), 2 * width, |range, sums| {
                let dy = &dy[range.start * width..range.end * width];
                kernel::backward_params(rows(x, norm, width).part(range.start, range.len()), dy, sums);
            });
            let (scale, shift) = sums.split_at(width);
            self.sink.add_values(&norm.weight, scale.to_vec())?;
            self.sink.add_values(&norm.bias, shift.to_vec())?;
        }
        with_norm(norm, |scale, _| {
            // SAFETY: the kernel writes every row.
            let mut dx = unsafe { unset(x.len()) };
            parallel::over_rows(&mut dx, width, |first, out| {
                let dy = &dy[first * width..first * width + out.len()];
                kernel::backward_input(rows(x, norm, width).part(first, out.len() / width), scale, dy, out);
            });
            dx
        })
    }

    /// As [`Self::rest_gradient`], an operation after the other.
    fn rest_gradient_by_ops(
        &self,
        (context, middle, mut inner, last): (&[f32], Vec<f32>, Vec<f32>, Vec<f32>),
        tokens: usize,
        dy: &[f32],
    ) -> Result<[Vec<f32>; 2]> {
        let layer = &self.layer;
        let width = dy.len().checked_div(tokens).unwrap_or(0);
        let dlast = self.norm_gradient(&layer.norms[1], &last, dy, width)?;
        drop(last);
        let dropped_gradient = dropped(&dlast, layer.drops[1].as_ref(), width);
        let dout = dropped_gradient.as_deref().unwrap_or(&dlast);
        let mut dinner = stack::back(&[&layer.down], dout, tokens, None)?;
        activation::with_slope(layer.activation, &mut inner, &mut dinner);
        stack::gradients(&[&layer.down], &inner, dout, tokens, &self.sink)?;
        drop((inner, dropped_gradient));
        if stack::learns(&[&layer.up]) {
            let normed = normalised(&layer.norms[0], &middle, width)?;
            stack::gradients(&[&layer.up], &normed, &dinner, tokens, &self.sink)?;
        }
        let dmiddle = stack::back(&[&layer.up], &dinner, tokens, Some(dlast))?;
        drop(dinner);
        let dx = self.norm_gradient(&layer.norms[0], &middle, &dmiddle, width)?;
        drop((middle, dmiddle));
        let dropped_gradient = dropped(&dx, layer.drops[0].as_ref(), width);
        let dattended = dropped_gradient.as_deref().unwrap_or(&dx);
        stack::gradients(&[&layer.output], context, dattended, tokens, &self.sink)?;
        let dcontext = stack::back(&[&layer.output], dattended, tokens, None)?;
        drop(dropped_gradient);
        Ok([dx, dcontext])
    }

    fn gradient(&self, x: &[f32], tokens: usize, kept: Kept, dy: &[f32], wanted: bool) -> Result<Vec<f32>> {
        let layer = &self.layer;
        let Kept { projected, context, middle, inner, last } = kept;
        let [mut dx, dcontext] = match inner {
            Inner::Rows(inner) => self.rest_gradient_by_ops((&context, middle, inner, last), tokens, dy)?,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Inner::Blocks(inner) => match self.rest_gradient((&context, middle, inner, last), tokens, dy)? {
                Some(gradients) => gradients,
                None => bail!("{NAME}: the processor's instructions are gone"),
            },
        };
        let (dprojected, _) = self.attention.joint_backward([&projected, &dcontext, &[]], false);
        drop((projected, context, dcontext));
        stack::gradients(&layer.projections.each_ref(), x, &dprojected, tokens, &self.sink)?;
        if wanted {
            dx = stack::back(&layer.projections.each_ref(), &dprojected, tokens, Some(dx))?;
        }
        Ok(dx)
    }
}

/// Gives the next `len` sums, those of a parameter, to the sink; none where none were wanted.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn take(sink: &GradientSink, parameter: Option<&Tensor>, len: usize, sums: &mut &[f32]) -> Result<()> {
    let Some((own, rest)) = sums.split_at_checked(len) else { return Ok(()) };
    *sums = rest;
    parameter.map_or(Ok(()), |parameter| sink.add_values(parameter, own.to_vec()))
}

impl CustomOp2 for Run {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let (out, kept) = self.compute(values(NAME, s1, l1)?, l1.shape().dims()[0])?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept).filter(|_| !self.again);
        Ok(output(out, l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor, dout: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (tokens, wanted) = (x.dims2()?.0, x.track_op());
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let kept = match kept {
            None if self.again => Some(with_values(NAME, [x], |[xs]| Ok(self.compute(xs, tokens)?.1))?),
            kept => kept,
        };
        let Some(kept) = kept else { bail!("{NAME}: differentiated twice") };
        with_values(NAME, [x, dout], |[xs, dy]| {
            let dx = self.gradient(xs, tokens, kept, dy, wanted)?;
            Ok((wanted.then(|| Tensor::from_vec(dx, x.shape(), x.device())).transpose()?, None))
        })
    }
}
