//! Linear layers of one input as one product, their adapters folded into the weights: `W + scale B A` is made for a pass and let go.

use candle_core::{Result, Tensor, bail};

use crate::nn::activation::Activation;
use crate::nn::checkpoint::GradientSink;
use crate::nn::kernel::gemm::{Operand, multiply, multiply_here};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::nn::kernel::packed::Packed;
use crate::nn::kernel::parallel;
use crate::nn::kernel::precision;
use crate::nn::linear::{Linear, LowRank, added_gradient, affine, column_sums, weight_gradient};
use crate::nn::storage::with_values;

const NAME: &str = "linear";

/// The weights one below the other, `[Σ outputs, inputs]`, with what adapters add.
fn folded(linears: &[&Linear]) -> Result<(Vec<f32>, usize)> {
    let mut inputs = None;
    let mut all = Vec::new();
    for linear in linears {
        let (outputs, width) = linear.weight.shape()?;
        if *inputs.get_or_insert(width) != width {
            bail!("{NAME}: weights of {width} and {inputs:?} inputs are no stack");
        }
        let start = all.len();
        linear.weight.with_values(NAME, |weight| {
            all.extend_from_slice(weight);
            Ok(())
        })?;
        if let Some(lora) = &linear.lora {
            let rank = lora.a.dims2()?.0;
            let _precision = precision::in_parts(precision::parts_of_weights());
            with_values(NAME, [&lora.a, &lora.b], |[a, b]| {
                let (a, b) = (Operand::new(a, rank, width), Operand::new(b, outputs, rank));
                multiply(&mut all[start..], true, lora.scale as f32, b, a);
                Ok(())
            })?;
        }
    }
    Ok((all, inputs.unwrap_or(0)))
}

/// Runs `f` on [`folded`] weights and their inputs; on a single layer's own where it has no adapter.
fn with_weights<T>(linears: &[&Linear], f: impl FnOnce(&[f32], usize) -> Result<T>) -> Result<T> {
    match linears {
        [one] if one.lora.is_none() => {
            let inputs = one.weight.shape()?.1;
            one.weight.with_values(NAME, |weight| f(weight, inputs))
        }
        _ => {
            let (weight, inputs) = folded(linears)?;
            f(&weight, inputs)
        }
    }
}

/// A weight as products by blocks read it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub enum Ready<'a> {
    /// That of a frozen layer.
    Kept(&'a Packed),
    /// Made for a pass.
    Own(Option<Packed>),
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Ready<'_> {
    /// The matrix.
    pub fn get(&self) -> Option<&Packed> {
        match self {
            Self::Kept(packed) => Some(packed),
            Self::Own(packed) => packed.as_ref(),
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Drop for Ready<'_> {
    fn drop(&mut self) {
        if let Self::Own(packed) = self
            && let Some(packed) = packed.take()
        {
            packed.let_go();
        }
    }
}

/// A layer's weight with what its adapter adds: `Wᵀ` for the forward pass, `W` for the backward pass. Empty where products are not by blocks.
///
/// # Errors
/// Where the shapes do not fit.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn ready(linear: &Linear, forward: bool) -> Result<Ready<'_>> {
    if let Some(kept) = linear.kept(forward)? {
        return Ok(Ready::Kept(kept));
    }
    with_weights(&[linear], |weight, inputs| {
        let weight = Operand::new(weight, weight.len().checked_div(inputs).unwrap_or(0), inputs);
        let right = if forward { weight.t() } else { weight };
        Ok(Ready::Own(Packed::brief(right)))
    })
}

/// The biases one after the other; those that are missing are zero, and none if all are.
fn biases(linears: &[&Linear]) -> Result<Option<Vec<f32>>> {
    if linears.iter().all(|linear| linear.bias.is_none()) {
        return Ok(None);
    }
    let mut all = Vec::new();
    for linear in linears {
        match &linear.bias {
            Some(bias) => with_values(NAME, [bias], |[bias]| {
                all.extend_from_slice(bias);
                Ok(())
            })?,
            None => all.resize(all.len() + linear.weight.shape()?.0, 0.0),
        }
    }
    Ok(Some(all))
}

/// `x Wᵀ + b` of all, side by side: `[rows, Σ outputs]`.
///
/// # Errors
/// Where the shapes do not fit.
pub fn run(linears: &[&Linear], x: &[f32], rows: usize) -> Result<Vec<f32>> {
    for linear in linears {
        let (outputs, inputs) = linear.weight.shape()?;
        if x.len() != rows * inputs {
            bail!("{NAME}: {} values are not {rows} rows for weight {:?}", x.len(), [outputs, inputs]);
        }
    }
    match linears {
        [one] if one.is_frozen() => one.run(x, rows),
        _ => {
            let bias = biases(linears)?;
            with_weights(linears, |weight, _| Ok(affine(x, rows, weight, bias.as_deref(), Activation::None, None)))
        }
    }
}

/// The gradient by the input of [`run`], added to `sum` where there is one.
///
/// # Errors
/// As there.
pub fn back(linears: &[&Linear], dy: &[f32], rows: usize, sum: Option<Vec<f32>>) -> Result<Vec<f32>> {
    match linears {
        [one] if one.is_frozen() => one.back(dy, rows, sum),
        _ => with_weights(linears, |weight, inputs| {
            let outputs = weight.len().checked_div(inputs).unwrap_or(0);
            Ok(added_gradient(dy, rows, weight, (outputs, inputs), None, sum))
        }),
    }
}

/// Whether a layer's adapter is trained.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn adapts(linear: &Linear) -> bool {
    linear.lora.as_ref().is_some_and(learns_low_rank)
}

/// Whether one of them has a parameter that is trained.
pub fn learns(linears: &[&Linear]) -> bool {
    linears.iter().any(|linear| {
        let lora = linear.lora.as_ref().is_some_and(learns_low_rank);
        linear.weight.track_op() || linear.bias.as_ref().is_some_and(Tensor::track_op) || lora
    })
}

fn learns_low_rank(lora: &LowRank) -> bool {
    lora.a.track_op() || lora.b.track_op()
}

/// Gives the gradients by their parameters, from the input and the gradient by the output of [`run`], to `sink`.
///
/// # Errors
/// As there.
pub fn gradients(linears: &[&Linear], x: &[f32], dy: &[f32], rows: usize, sink: &GradientSink) -> Result<()> {
    if linears.iter().any(|linear| linear.bias.as_ref().is_some_and(Tensor::track_op)) {
        let all = column_sums(dy, dy.len().checked_div(rows).unwrap_or(0));
        each(linears, |linear, first, outputs| match linear.bias.as_ref().filter(|bias| bias.track_op()) {
            Some(bias) => sink.add_values(bias, all[first..first + outputs].to_vec()),
            None => Ok(()),
        })?;
    }
    weight_gradients(linears, x, dy, rows, sink)
}

/// As [`gradients`], but for the biases.
///
/// # Errors
/// As there.
pub fn weight_gradients(linears: &[&Linear], x: &[f32], dy: &[f32], rows: usize, sink: &GradientSink) -> Result<()> {
    if linears.iter().any(|linear| linear.weight.track_op()) {
        let [inputs, width] = [x, dy].map(|values| values.len().checked_div(rows).unwrap_or(0));
        let all = weight_gradient(dy, x, rows, width, inputs, 1.0);
        match (linears, linears[0].weight.dense()) {
            ([_], Some(weight)) => sink.add_values(weight, all)?,
            _ => each(linears, |linear, first, outputs| {
                match linear.weight.dense().filter(|weight| weight.track_op()) {
                    Some(weight) => sink.add_values(weight, all[first * inputs..(first + outputs) * inputs].to_vec()),
                    None => Ok(()),
                }
            })?,
        }
    }
    low_rank_gradients(linears, x, dy, rows, sink)
}

/// Calls `f(linear, first output, outputs)` for each.
fn each(linears: &[&Linear], mut f: impl FnMut(&Linear, usize, usize) -> Result<()>) -> Result<()> {
    let mut first = 0;
    for linear in linears {
        let outputs = linear.weight.shape()?.0;
        f(linear, first, outputs)?;
        first += outputs;
    }
    Ok(())
}

/// As [`gradients`], those of the adapters. The input, which is large, is read once for all of them.
///
/// # Errors
/// As there.
pub fn low_rank_gradients(linears: &[&Linear], x: &[f32], dy: &[f32], rows: usize, sink: &GradientSink) -> Result<()> {
    let [inputs, width] = [x, dy].map(|values| values.len().checked_div(rows).unwrap_or(0));
    let adapters: Vec<&LowRank> =
        linears.iter().filter_map(|l| l.lora.as_ref()).filter(|l| learns_low_rank(l)).collect();
    if adapters.is_empty() {
        return Ok(());
    }
    let ranks: usize = adapters.iter().map(|lora| lora.a.dims2().map_or(0, |(rank, _)| rank)).sum();
    let mut down = Vec::with_capacity(ranks * inputs);
    for lora in &adapters {
        with_values(NAME, [&lora.a], |[a]| {
            down.extend_from_slice(a);
            Ok(())
        })?;
    }
    // Of each: its place among the columns of `dy` and among the ranks, B, the factor.
    let mut ups = Vec::new();
    let mut rank = 0;
    each(linears, |linear, first, outputs| {
        let Some(lora) = linear.lora.as_ref().filter(|lora| learns_low_rank(lora)) else { return Ok(()) };
        let own = lora.a.dims2()?.0;
        with_values(NAME, [&lora.b], |[b]| {
            ups.push((first..first + outputs, rank..rank + own, b.to_vec(), lora.scale as f32));
            Ok(())
        })?;
        rank += own;
        Ok(())
    })?;
    // By blocks of rows, whose gradients are summed in their order: those by A, then those by each B.
    let all = ranks * inputs + ups.iter().map(|(columns, own, ..)| columns.len() * own.len()).sum::<usize>();
    let sums = parallel::column_sums(rows, all, |block, sums| {
        let count = block.len();
        let x = Operand::new(&x[block.start * inputs..block.end * inputs], count, inputs);
        let dy = &dy[block.start * width..block.end * width];
        // x Aᵀ of all beside each other, and scale dy B.
        let (mut low, mut dlow) = (vec![0f32; count * ranks], vec![0f32; count * ranks]);
        multiply_here(&mut low, 1.0, x, Operand::new(&down, ranks, inputs).t());
        let mut from = ranks * inputs;
        for (columns, own, b, scale) in &ups {
            let (outputs, rank) = (columns.len(), own.len());
            let dy = Operand::strided(&dy[columns.start..], count, outputs, width);
            let mut part = vec![0f32; count * rank];
            multiply_here(&mut part, *scale, dy, Operand::new(b, outputs, rank));
            for (to, from) in dlow.chunks_exact_mut(ranks).zip(part.chunks_exact(rank)) {
                to[own.clone()].copy_from_slice(from);
            }
            let low = Operand::strided(&low[own.start..], count, rank, ranks);
            multiply_here(&mut sums[from..from + outputs * rank], *scale, dy.t(), low);
            from += outputs * rank;
        }
        multiply_here(&mut sums[..ranks * inputs], 1.0, Operand::new(&dlow, count, ranks).t(), x);
    });
    let (by_a, mut by_b) = sums.split_at(ranks * inputs);
    for (lora, (columns, own, ..)) in adapters.iter().zip(&ups) {
        sink.add_values(&lora.a, by_a[own.start * inputs..own.end * inputs].to_vec())?;
        let (values, rest) = by_b.split_at(columns.len() * own.len());
        sink.add_values(&lora.b, values.to_vec())?;
        by_b = rest;
    }
    Ok(())
}
