//! Numerically safe pieces that several losses need, and the checks of what they are given.

use candle_core::{Result, Tensor, bail};

use crate::nn::normalize::l2_normalize;

/// A logit that no softmax sees: its exponential is 0, and it is finite, so that no difference of two is NaN.
const LEFT_OUT: f32 = -1e30;

/// `max(x, 0)` with the gradient 0 at 0, as torch has it (candle's `relu` has 1 there).
pub(super) fn hinge(x: &Tensor) -> Result<Tensor> {
    x * x.detach().gt(0.0)?.to_dtype(x.dtype())?
}

/// `|x|` with the gradient 0 at 0, as torch has it (candle's `abs` has 1 there).
pub(super) fn magnitude(x: &Tensor) -> Result<Tensor> {
    x * x.detach().sign()?
}

/// `ln(1 + exp(x))` by element.
pub(super) fn softplus(x: &Tensor) -> Result<Tensor> {
    let shift = x.detach().relu()?;
    let sum = ((x - &shift)?.exp()? + shift.neg()?.exp()?)?;
    sum.log()? + shift
}

/// `ln(1 + Σ exp(x))` over the elements of `x` where `kept`, of the same shape and `u8`, is not 0; a scalar.
pub(super) fn log_one_plus_sum_exp(x: &Tensor, kept: &Tensor) -> Result<Tensor> {
    let x = keep(x, kept)?;
    let shift = f64::from(x.detach().flatten_all()?.max(0)?.to_scalar::<f32>()?.max(0.0));
    let sum = ((x - shift)?.exp()?.sum_all()? + (-shift).exp())?;
    sum.log()? + shift
}

/// Log of the softmax of each row of `x` `[rows, classes]` over the classes where `kept`, of the same shape and `u8`, is
/// not 0; there must be one. Elsewhere the result is very negative, but finite.
pub(super) fn log_softmax(x: &Tensor, kept: &Tensor) -> Result<Tensor> {
    let x = keep(x, kept)?;
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(1)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)
}

fn keep(x: &Tensor, kept: &Tensor) -> Result<Tensor> {
    kept.where_cond(x, &Tensor::full(LEFT_OUT, x.shape(), x.device())?)
}

/// `x_i · y_i` for every row i: `[n, d]`, `[n, d]` → `[n]`.
pub(super) fn row_products(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    (x * y)?.sum(1)
}

/// `cos(x_i, y_i)` for every row i: `[n, d]`, `[n, d]` → `[n]`.
pub(super) fn row_cosines(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    row_products(&l2_normalize(x)?, &l2_normalize(y)?)
}

/// The rows `indices` of `x`: `[n, d]` → `[indices, d]`.
///
/// # Errors
/// Where an index is outside the rows.
pub(super) fn rows_at(loss: &str, x: &Tensor, indices: impl IntoIterator<Item = usize>) -> Result<Tensor> {
    let rows = x.dim(0)?;
    let mut checked = Vec::new();
    for index in indices {
        if index >= rows {
            bail!("{loss}: row {index} is outside the {rows} rows given");
        }
        checked.push(index as u32);
    }
    let count = checked.len();
    x.index_select(&Tensor::from_vec(checked, count, x.device())?, 0)
}

/// The common shape `(rows, width)` of matrices.
///
/// # Errors
/// Where they differ, or are empty.
pub(super) fn common_shape(loss: &str, matrices: &[(&str, &Tensor)]) -> Result<(usize, usize)> {
    let mut first = None;
    for (name, matrix) in matrices {
        let shape = shape(loss, name, matrix)?;
        match first {
            None => first = Some((*name, shape)),
            Some((other, expected)) if shape != expected => {
                bail!(
                    "{loss}: {name} are {:?}, {other} {:?}; they must be alike",
                    matrix.dims(),
                    [expected.0, expected.1]
                )
            }
            Some(_) => {}
        }
    }
    Ok(first.map_or((0, 0), |(_, shape)| shape))
}

/// The shape `(rows, width)` of a matrix that must have this width.
///
/// # Errors
/// Where it differs, or the matrix is empty.
pub(super) fn shape_of_width(loss: &str, name: &str, matrix: &Tensor, width: usize) -> Result<(usize, usize)> {
    let found = shape(loss, name, matrix)?;
    if found.1 != width {
        bail!("{loss}: {name} are {:?}, the rest is {width} wide", matrix.dims());
    }
    Ok(found)
}

fn shape(loss: &str, name: &str, matrix: &Tensor) -> Result<(usize, usize)> {
    match matrix.dims() {
        &[rows, width] if rows > 0 && width > 0 => Ok((rows, width)),
        dims => bail!("{loss}: {name} must be rows of numbers, got shape {dims:?}"),
    }
}

/// Refuses a setting that is not above 0.
pub(super) fn check_above_zero(loss: &str, name: &str, value: f64) -> Result<()> {
    if !(value > 0.0 && value.is_finite()) {
        bail!("{loss}: {name} = {value}: must be above 0");
    }
    Ok(())
}

/// Refuses a number of values other than that of the rows, and values that are no numbers.
pub(super) fn check_scores(loss: &str, name: &str, scores: &[f32], rows: usize) -> Result<()> {
    if scores.len() != rows {
        bail!("{loss}: {} {name} for {rows} rows", scores.len());
    }
    match scores.iter().position(|score| !score.is_finite()) {
        Some(row) => bail!("{loss}: {name}[{row}] = {}: must be a finite number", scores[row]),
        None => Ok(()),
    }
}

/// Refuses a number of labels other than that of the rows.
pub(super) fn check_labels(loss: &str, labels: &[u32], rows: usize) -> Result<()> {
    if labels.len() != rows {
        bail!("{loss}: {} labels for {rows} rows", labels.len());
    }
    Ok(())
}
