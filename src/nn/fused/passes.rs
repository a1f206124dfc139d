//! What follows attention in a layer of BERT's kind, in training, by blocks of rows on tiles: its output layer, residual and norm,
//! the feed-forward layers, residual and norm; forward, and backward.
//!
//! Memory is what training waits for: a block of rows goes from one end to the other while it is in the second-level cache. What the
//! activation takes is kept in blocks as the products leave them, and what the products of the weights' gradients read is written as tiles.

use std::cell::RefCell;

use super::stack::Ready;
use super::tiled::sized;
use crate::nn::activation::{Activation, value_and_slope};
use crate::nn::kernel::amx::{SIDE, Tile, Tiles, group};
use crate::nn::kernel::gemm::Operand;
use crate::nn::kernel::layer_norm::{self, Rows};
use crate::nn::kernel::mask::{Mask, add_dropped};
use crate::nn::kernel::outer::{Columns, Writer};
use crate::nn::kernel::packed::{Aligned, Block, Lines, Next, Packed, Start, grow, lines, over_blocks, steps_at_once};
use crate::nn::kernel::parallel::{self, Disjoint};
use crate::nn::storage::unset;

/// Reused buffers of a worker.
#[derive(Default)]
struct Scratch {
    left: Vec<Tile>,
    between: Vec<Tile>,
    rows: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A LayerNorm's parameters.
pub struct Norm {
    /// `[hidden]`.
    pub scale: Vec<f32>,
    /// `[hidden]`.
    pub shift: Vec<f32>,
    /// Added to the variance.
    pub eps: f32,
}

/// What follows attention.
pub struct Rest<'a> {
    /// Of the output layer, up and down: `Wᵀ` forward, `W` backward.
    pub weights: [Ready<'a>; 3],
    /// Of the same.
    pub biases: [Option<Vec<f32>>; 3],
    /// After attention, and after the feed-forward layers.
    pub norms: [Norm; 2],
    /// Of what is added to the residuals: masks, and the tokens' places in them.
    pub drops: [Option<(Mask, &'a [u64])>; 2],
    /// Between up and down.
    pub activation: Activation,
    /// Values of a row.
    pub hidden: usize,
    /// Values of a row between up and down.
    pub inner: usize,
}

/// What the forward pass gives; all but `out` for the backward pass.
pub struct Forward {
    /// `[rows, hidden]`.
    pub out: Vec<f32>,
    /// Before the first norm.
    pub middle: Vec<f32>,
    /// Before the activation, `[row panels][column panels]`, zero beyond the matrix.
    pub inner: Vec<Aligned>,
    /// Before the second norm.
    pub last: Vec<f32>,
}

/// What the gradients by parameters ask of the backward pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// The weight of down is trained.
    pub down: bool,
    /// That of up is.
    pub up: bool,
    /// An adapter of down is.
    pub down_rows: bool,
    /// An adapter of up is.
    pub up_rows: bool,
    /// Norms or biases are.
    pub sums: bool,
}

/// What the backward pass gives.
pub struct Backward {
    /// By the layer's input through the first residual, `[rows, hidden]`.
    pub dx: Vec<f32>,
    /// By attention's result, `[rows, inputs of the output layer]`.
    pub dcontext: Vec<f32>,
    /// By the output layer's result, where dropout makes it another than `dx`.
    pub dattended: Option<Vec<f32>>,
    /// By what down gives.
    pub dout: Vec<f32>,
    /// What up was given.
    pub normed: Vec<f32>,
    /// What down was given, in tiles.
    pub active: Option<Columns>,
    /// By what up gave, in tiles.
    pub dinner: Option<Columns>,
    /// As `active`, `[rows, inner]`.
    pub active_rows: Option<Vec<f32>>,
    /// As `dinner`, `[rows, inner]`.
    pub dinner_rows: Option<Vec<f32>>,
    /// By scale and shift of both norms, by the biases of the output layer, down and up, one after the other; empty where not wanted.
    pub sums: Vec<f32>,
}

impl Norm {
    fn rows<'a>(&self, x: &'a [f32]) -> Rows<'a> {
        Rows { x, residual: &[], dropout: None, width: self.scale.len(), eps: self.eps }
    }
}

/// The places of a block's rows.
fn part(drop: Option<(Mask, &[u64])>, first: usize, count: usize) -> Option<(Mask, &[u64])> {
    drop.map(|(mask, places)| (mask, &places[first..first + count]))
}

/// Writes the rows of a block that are in a matrix `[rows, width]`.
///
/// # Safety
/// One caller a block.
unsafe fn write_rows(
    target: Disjoint<'_>,
    (rows, width): (usize, usize),
    (panel, column): (usize, usize),
    block: &Block,
) {
    let count = SIDE.min(width - column);
    for (r, values) in block.chunks_exact(SIDE).enumerate().take(rows - panel * SIDE) {
        // SAFETY: the caller's promise.
        let row = unsafe { target.range((panel * SIDE + r) * width + column, count) };
        row.copy_from_slice(&values[..count]);
    }
}

impl Rest<'_> {
    fn packed(&self) -> Option<[&Packed; 3]> {
        let [output, up, down] = &self.weights;
        Some([output.get()?, up.get()?, down.get()?])
    }

    /// From the layer's input `x` `[rows, hidden]` and attention's result `context`; `None` where products are not by blocks ([`crate::nn::kernel::amx::layout`]).
    pub fn forward(&self, x: &[f32], context: &[f32]) -> Option<Forward> {
        let [output, up, down] = self.packed()?;
        let (hidden, inputs, parts) = (self.hidden, output.inner(), output.parts());
        let rows = x.len() / hidden;
        assert!(x.len() == rows * hidden && context.len() == rows * inputs, "matrices of other sizes");
        let columns = self.inner.div_ceil(SIDE);
        // SAFETY: every row is written below; every block, too, as a whole.
        let (mut out, mut middle, mut last) = unsafe { (unset(x.len()), unset(x.len()), unset(x.len())) };
        let mut inner = unset_blocks(rows.div_ceil(SIDE) * columns);
        let targets = [Disjoint::new(&mut out), Disjoint::new(&mut middle), Disjoint::new(&mut last)];
        let kept = Disjoint::new(&mut inner);
        over_blocks(rows, |first, count| {
            let Some(registers) = Tiles::new(parts) else { return };
            let span = first * hidden..(first + count) * hidden;
            // SAFETY: blocks of rows do not overlap.
            let [out, middle, last] = targets.map(|t| unsafe { t.range(span.start, span.len()) });
            SCRATCH.with_borrow_mut(|Scratch { left, between, rows: normed }| {
                let x = &x[span.clone()];
                let context = Operand::new(&context[first * inputs..(first + count) * inputs], count, inputs);
                output.apply(&registers, left, context, 0..count, 1.0, (&mut *middle, hidden), self.start(0));
                add_dropped(middle, part(self.drops[0], first, count), x, hidden);
                let normed = sized(normed, count * hidden);
                let [norm, after] = &self.norms;
                layer_norm::forward(norm.rows(middle), &norm.scale, &norm.shift, normed);
                let steps = hidden.div_ceil(SIDE);
                let tiles = lines(left, Operand::new(normed, count, hidden), 0..count, 0..steps, 1.0, parts);
                let input = Lines { tiles, rows: count, steps };
                let all = down.steps();
                for from in (0..all).step_by(steps_at_once(parts)) {
                    let steps = steps_at_once(parts).min(all - from);
                    let span = from * SIDE..((from + steps) * SIDE).min(self.inner);
                    let between = grow(between, count.div_ceil(SIDE) * steps * group(parts));
                    let next = Some(Next { tiles: &mut *between, from, steps });
                    up.blocks(&registers, input, span, self.biases[1].as_deref(), next, &mut |panel, column, block| {
                        // SAFETY: a block for each panel of rows and columns.
                        let keep = unsafe { kept.range((first / SIDE + panel) * columns + column / SIDE, 1) };
                        keep[0].0 = *block;
                        clear_beyond(&mut keep[0].0, count - panel * SIDE, self.inner - column);
                        self.activation.apply(block);
                    });
                    let start = if from > 0 { Start::Result } else { self.start(2) };
                    let lines = Lines { tiles: between, rows: count, steps };
                    down.add(&registers, lines, from, (&mut *last, hidden), start);
                }
                add_dropped(last, part(self.drops[1], first, count), normed, hidden);
                layer_norm::forward(after.rows(last), &after.scale, &after.shift, out);
            });
        });
        Some(Forward { out, middle, inner, last })
    }

    fn start(&self, layer: usize) -> Start<'_> {
        self.biases[layer].as_deref().map_or(Start::Zero, Start::Row)
    }

    /// From what the forward pass kept and the gradient by its result; the weights are `W`. `None` where products are not by blocks ([`crate::nn::kernel::amx::layout`]).
    pub fn backward(
        &self,
        (middle, inner, last): (&[f32], &[Aligned], &[f32]),
        dy: &[f32],
        wanted: Wanted,
    ) -> Option<Backward> {
        let [output, up, down] = self.packed()?;
        let (hidden, inputs, parts) = (self.hidden, output.columns(), output.parts());
        let rows = dy.len() / hidden;
        let (panels, columns) = (rows.div_ceil(SIDE), self.inner.div_ceil(SIDE));
        let fits = [middle.len(), last.len(), dy.len()].iter().all(|len| *len == rows * hidden);
        assert!(fits && inner.len() == panels * columns, "matrices of other sizes");
        // SAFETY: every row of all of them is written below.
        let mut out = unsafe {
            Backward {
                dx: unset(dy.len()),
                dcontext: unset(rows * inputs),
                dattended: self.drops[0].map(|_| unset(dy.len())),
                dout: unset(dy.len()),
                normed: unset(dy.len()),
                active: wanted.down.then(|| Columns::new(rows, self.inner)),
                dinner: wanted.up.then(|| Columns::new(rows, self.inner)),
                active_rows: wanted.down_rows.then(|| unset(rows * self.inner)),
                dinner_rows: wanted.up_rows.then(|| unset(rows * self.inner)),
                sums: Vec::new(),
            }
        };
        // For each panel of rows: by both norms, by the biases of the output layer, down and up.
        let width = 6 * hidden + self.inner;
        let mut sums = vec![0f32; if wanted.sums { panels * width } else { 0 }];
        let shared = Disjoint::new(&mut sums);
        let [dx, dcontext, dout, normed] =
            [&mut out.dx, &mut out.dcontext, &mut out.dout, &mut out.normed].map(|x| Disjoint::new(x));
        let [dattended, active_rows, dinner_rows] = [&mut out.dattended, &mut out.active_rows, &mut out.dinner_rows]
            .map(|x| x.as_mut().map(|x| Disjoint::new(x)));
        let [active, dinner] = [&mut out.active, &mut out.dinner].map(|x| x.as_mut().map(Columns::writer));
        over_blocks(rows, |first, count| {
            let Some(registers) = Tiles::new(parts) else { return };
            let span = first * hidden..(first + count) * hidden;
            // SAFETY: blocks of rows do not overlap.
            let [dx, dout, normed] = [dx, dout, normed].map(|t| unsafe { t.range(span.start, span.len()) });
            let dattended = dattended.map(|t| unsafe { t.range(span.start, span.len()) });
            let dcontext = unsafe { dcontext.range(first * inputs, count * inputs) };
            let [middle, last, dy] = [middle, last, dy].map(|x| &x[span.clone()]);
            let [norm, after] = &self.norms;
            // Sums of a panel's rows, from `at` on.
            let panel_sums = |panel: usize, at: usize, len: usize| {
                // SAFETY: a range for each panel of rows.
                wanted.sums.then(|| unsafe { shared.range((first / SIDE + panel) * width + at, len) })
            };
            let norm_sums = |norm: &Norm, x: &[f32], dy: &[f32], at: usize| {
                for (panel, dy) in dy.chunks(SIDE * hidden).enumerate() {
                    if let Some(sums) = panel_sums(panel, at, 2 * hidden) {
                        let rows = norm.rows(x).part(panel * SIDE, dy.len() / hidden);
                        layer_norm::backward_params(rows, dy, sums);
                    }
                }
            };
            let bias_sums = |dy: &[f32], at: usize| {
                for (panel, dy) in dy.chunks(SIDE * hidden).enumerate() {
                    if let Some(sums) = panel_sums(panel, at, hidden) {
                        dy.chunks_exact(hidden).for_each(|row| sums.iter_mut().zip(row).for_each(|(s, d)| *s += d));
                    }
                }
            };
            SCRATCH.with_borrow_mut(|Scratch { left, between, rows: dmiddle }| {
                let dmiddle = sized(dmiddle, count * hidden);
                norm_sums(after, last, dy, 2 * hidden);
                layer_norm::backward_input(after.rows(last), &after.scale, dy, dmiddle);
                dout.copy_from_slice(dmiddle);
                add_dropped(dout, part(self.drops[1], first, count), &[], hidden);
                bias_sums(dout, 5 * hidden);
                if wanted.up || wanted.up_rows {
                    layer_norm::forward(norm.rows(middle), &norm.scale, &norm.shift, normed);
                }
                let steps = hidden.div_ceil(SIDE);
                let tiles = lines(left, Operand::new(dout, count, hidden), 0..count, 0..steps, 1.0, parts);
                let input = Lines { tiles, rows: count, steps };
                let all = up.steps();
                for from in (0..all).step_by(steps_at_once(parts)) {
                    let steps = steps_at_once(parts).min(all - from);
                    let span = from * SIDE..((from + steps) * SIDE).min(self.inner);
                    let between = grow(between, count.div_ceil(SIDE) * steps * group(parts));
                    let next = Some(Next { tiles: &mut *between, from, steps });
                    down.blocks(&registers, input, span, None, next, &mut |panel, column, block| {
                        let (row_panel, column_panel) = (first / SIDE + panel, column / SIDE);
                        let mut active_block = inner[row_panel * columns + column_panel];
                        value_and_slope(self.activation, &mut active_block.0, block);
                        if let Some(sums) = panel_sums(panel, 6 * hidden + column, SIDE.min(self.inner - column)) {
                            let count = sums.len();
                            block.chunks_exact(SIDE).for_each(|row| add(sums, &row[..count]));
                        }
                        let at = (row_panel, column_panel);
                        let put = |to: &Option<Writer<'_>>, flat: &Option<Disjoint<'_>>, block: &Block| {
                            // SAFETY: each block is written once; `Tiles::new` has seen that the processor has these instructions.
                            unsafe {
                                if let Some(to) = to {
                                    to.put(at.0, at.1, block);
                                }
                                if let Some(target) = flat {
                                    write_rows(*target, (rows, self.inner), (row_panel, column), block);
                                }
                            }
                        };
                        put(&active, &active_rows, &active_block.0);
                        put(&dinner, &dinner_rows, block);
                    });
                    let lines = Lines { tiles: between, rows: count, steps };
                    up.add(&registers, lines, from, (&mut *dmiddle, hidden), Start::Result);
                }
                norm_sums(norm, middle, dmiddle, 0);
                layer_norm::backward_input(norm.rows(middle), &norm.scale, dmiddle, dx);
                let by_output: &[f32] = match dattended {
                    Some(dattended) => {
                        dattended.copy_from_slice(dx);
                        add_dropped(dattended, part(self.drops[0], first, count), &[], hidden);
                        dattended
                    }
                    None => dx,
                };
                bias_sums(by_output, 4 * hidden);
                let by_output = Operand::new(by_output, count, hidden);
                output.apply(&registers, left, by_output, 0..count, 1.0, (&mut *dcontext, inputs), Start::Zero);
            });
        });
        let mut total = vec![0f32; if wanted.sums { width } else { 0 }];
        parallel::over_rows(&mut total, 512, |block, part| {
            let from = block * 512;
            sums.chunks_exact(width).for_each(|panel| add(part, &panel[from..from + part.len()]));
        });
        out.sums = total;
        Some(out)
    }
}

fn add(sums: &mut [f32], values: &[f32]) {
    sums.iter_mut().zip(values).for_each(|(s, v)| *s += v);
}

/// Blocks that are not set yet.
fn unset_blocks(count: usize) -> Vec<Aligned> {
    let mut blocks = Vec::with_capacity(count);
    // SAFETY: within the capacity; any bits are values of `f32`, and callers write every block before they read it.
    #[allow(clippy::uninit_vec)]
    unsafe {
        blocks.set_len(count);
    }
    blocks
}

/// Zeroes what is beyond the first rows and columns.
fn clear_beyond(block: &mut Block, rows: usize, columns: usize) {
    if rows < SIDE {
        block[rows * SIDE..].fill(0.0);
    }
    if columns < SIDE {
        block.chunks_exact_mut(SIDE).for_each(|row| row[columns..].fill(0.0));
    }
}
