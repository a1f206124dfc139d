//! Rows of tables: their sum, and gradients without atomic additions.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::compile::{Module, Source};
use super::launch::{Arg, Grid, device_of, launch, tensor, unset, zeros};
use super::ready::{record1, record2, record3};
use super::{indices, rows};

/// Tokens by the row that they look up, `[rows looked up]`, `[rows + 1]` and `[tokens]`: rows, bounds of their tokens, tokens.
fn groups(list: &Arc<Vec<u32>>, like: &Tensor) -> Result<[Tensor; 3]> {
    let mut order: Vec<u32> = (0..list.len() as u32).collect();
    order.sort_by_key(|token| list[*token as usize]);
    let (mut targets, mut bounds): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    for (place, token) in order.iter().enumerate() {
        let row = list[*token as usize];
        if targets.last() != Some(&row) {
            targets.push(row);
            bounds.push(place as u32);
        }
    }
    bounds.push(order.len() as u32);
    let device = like.device();
    Ok([Tensor::new(targets, device)?, Tensor::new(bounds, device)?, Tensor::new(order, device)?])
}

/// The gradient of a table like `table` whose rows `list` were looked up.
fn gradient(table: &Tensor, list: &Arc<Vec<u32>>, dy: &Tensor) -> Result<Tensor> {
    let ((count, width), device) = (table.dims2()?, device_of(dy)?);
    let [targets, bounds, order] = groups(list, dy)?;
    let sums = zeros(&device, count * width, dy.dtype())?;
    let args = [
        Arg::In(dy, 0),
        Arg::In(&targets, 0),
        Arg::In(&bounds, 0),
        Arg::In(&order, 0),
        Arg::Raw(&sums, 0),
        Arg::Int(width),
    ];
    let grid = Grid::new((targets.elem_count(), width.div_ceil(128)), 128);
    // SAFETY: the kernel's arguments; every index is a row of the table, which the caller has checked.
    unsafe { launch(&device, &Module::new(Source::Rows, dy.dtype()), "embed_backward", grid, &args)? };
    tensor(sums, (count, width)).to_dtype(table.dtype())
}

/// `word[ids] + position[positions] + kinds[0]`, `[tokens, hidden]`; every index is in its table.
///
/// # Errors
/// The compiler's and the driver's.
pub fn embed(
    word: &Tensor,
    ids: &Arc<Vec<u32>>,
    position: Option<(&Tensor, &Arc<Vec<u32>>)>,
    kinds: Option<&Tensor>,
) -> Result<Tensor> {
    let ((_, width), device, dtype) = (word.dims2()?, device_of(word)?, word.dtype());
    let word = word.contiguous()?;
    let table = |x: &Tensor| x.to_dtype(dtype)?.contiguous();
    let places = position.map(|(_, places)| places.clone());
    let position = position.map(|(position, _)| table(position)).transpose()?;
    let kinds = kinds.map(table).transpose()?;
    let indices = indices::numbers(ids, word.device())?;
    let position_indices = places.as_ref().map(|list| indices::numbers(list, word.device())).transpose()?;
    let out = unset(&device, ids.len() * width, dtype)?;
    let args = [
        Arg::In(&word, 0),
        Arg::In(&indices, 0),
        Arg::maybe(position.as_ref()),
        Arg::maybe(position_indices.as_ref()),
        Arg::maybe(kinds.as_ref()),
        Arg::Raw(&out, 0),
        Arg::Int(width),
    ];
    let grid = Grid::new((ids.len(), 1), (width.next_multiple_of(32) as u32).min(256));
    // SAFETY: the kernel's arguments; every index is a row of its table.
    unsafe { launch(&device, &Module::new(Source::Rows, dtype), "embed", grid, &args)? };
    let shape = (ids.len(), width);
    let by_word = {
        let (ids, trained) = (ids.clone(), word.track_op());
        move |word: &Tensor, dy: &Tensor| trained.then(|| gradient(word, &ids, dy)).transpose()
    };
    let by_position = {
        let trained = position.as_ref().is_some_and(Tensor::track_op);
        move |position: &Tensor, dy: &Tensor| match &places {
            Some(places) if trained => gradient(position, places, dy).map(Some),
            _ => Ok(None),
        }
    };
    let by_kind = {
        let trained = kinds.as_ref().is_some_and(Tensor::track_op);
        move |kinds: &Tensor, dy: &Tensor| -> Result<Option<Tensor>> {
            if !trained {
                return Ok(None);
            }
            let first = rows::column_sums(dy)?.reshape((1, width))?.to_dtype(kinds.dtype())?;
            let others = kinds.dim(0)? - 1;
            if others == 0 {
                return Ok(Some(first));
            }
            Tensor::cat(&[first, kinds.narrow(0, 1, others)?.zeros_like()?], 0).map(Some)
        }
    };
    match (position, kinds) {
        (Some(position), Some(kinds)) => {
            record3("embedding", [&word, &position, &kinds], out, shape, move |[word, position, kinds], _, dy| {
                Ok([by_word(&word, dy)?, by_position(&position, dy)?, by_kind(&kinds, dy)?])
            })
        }
        (Some(position), None) => {
            record2("embedding", [&word, &position], out, shape, move |[word, position], _, dy| {
                Ok([by_word(&word, dy)?, by_position(&position, dy)?])
            })
        }
        (None, Some(kinds)) => record2("embedding", [&word, &kinds], out, shape, move |[word, kinds], _, dy| {
            Ok([by_word(&word, dy)?, by_kind(&kinds, dy)?])
        }),
        (None, None) => record1("embedding", [&word], out, shape, move |[word], _, dy| Ok([by_word(&word, dy)?])),
    }
}

/// Whether the kernels take this table and as many indices.
pub fn covers(table: &Tensor, ids: &[u32]) -> bool {
    super::covers(table) && !ids.is_empty() && matches!(table.dtype(), DType::F32 | DType::BF16)
}
