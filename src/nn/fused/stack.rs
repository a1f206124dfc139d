//! Linear layers of one input as one product, their adapters folded into the weights: `W + scale B A` is made for a pass and let go.

use candle_core::{Result, Tensor, bail};

use crate::nn::activation::Activation;
use crate::nn::checkpoint::GradientSink;
use crate::nn::kernel::gemm::{Operand, multiply};
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
    if !learns(linears) {
        return Ok(());
    }
    let width = dy.len().checked_div(rows).unwrap_or(0);
    let inputs = x.len().checked_div(rows).unwrap_or(0);
    if linears.iter().any(|linear| linear.weight.track_op()) {
        let all = weight_gradient(dy, x, rows, width, inputs, 1.0);
        if let ([_], Some(weight)) = (linears, linears[0].weight.dense()) {
            sink.add_values(weight, all)?;
            return rest(linears, x, dy, rows, (inputs, width), sink);
        }
        each(linears, |linear, first, outputs| match linear.weight.dense().filter(|weight| weight.track_op()) {
            Some(weight) => sink.add_values(weight, all[first * inputs..(first + outputs) * inputs].to_vec()),
            None => Ok(()),
        })?;
    }
    rest(linears, x, dy, rows, (inputs, width), sink)
}

/// Those by biases and adapters.
fn rest(
    linears: &[&Linear],
    x: &[f32],
    dy: &[f32],
    rows: usize,
    (inputs, width): (usize, usize),
    sink: &GradientSink,
) -> Result<()> {
    if linears.iter().any(|linear| linear.bias.as_ref().is_some_and(Tensor::track_op)) {
        let all = column_sums(dy, width);
        each(linears, |linear, first, outputs| match linear.bias.as_ref().filter(|bias| bias.track_op()) {
            Some(bias) => sink.add_values(bias, all[first..first + outputs].to_vec()),
            None => Ok(()),
        })?;
    }
    low_rank_gradients(linears, x, dy, rows, (inputs, width), sink)
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

/// Those of the adapters. The input, which is large, is read once for all of them.
fn low_rank_gradients(
    linears: &[&Linear],
    x: &[f32],
    dy: &[f32],
    rows: usize,
    (inputs, width): (usize, usize),
    sink: &GradientSink,
) -> Result<()> {
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
    // x Aᵀ of all, `[rows, ranks]`; then dy B beside each other, from which all gradients by A follow at once.
    let low = affine(x, rows, &down, None, Activation::None, None);
    let mut dlow = vec![0f32; rows * ranks];
    let mut column = 0;
    each(linears, |linear, first, outputs| {
        let Some(lora) = linear.lora.as_ref().filter(|lora| learns_low_rank(lora)) else { return Ok(()) };
        let (rank, scale) = (lora.a.dims2()?.0, lora.scale as f32);
        let dy = Operand::strided(dy.get(first..).unwrap_or_default(), rows, outputs, width);
        with_values(NAME, [&lora.b], |[b]| {
            let mut part = vec![0f32; rows * rank];
            multiply(&mut part, false, scale, dy, Operand::new(b, outputs, rank));
            for (to, from) in dlow.chunks_exact_mut(ranks).zip(part.chunks_exact(rank)) {
                to[column..column + rank].copy_from_slice(from);
            }
            let low = Operand::strided(low.get(column..).unwrap_or_default(), rows, rank, ranks);
            let mut db = vec![0f32; outputs * rank];
            multiply(&mut db, false, scale, dy.t(), low);
            sink.add_values(&lora.b, db)
        })?;
        column += rank;
        Ok(())
    })?;
    let da = weight_gradient(&dlow, x, rows, ranks, inputs, 1.0);
    let mut first = 0;
    for lora in adapters {
        let values = lora.a.elem_count();
        sink.add_values(&lora.a, da[first..first + values].to_vec())?;
        first += values;
    }
    Ok(())
}
