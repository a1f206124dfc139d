//! Sums over rows of outer products, `Σ_t a_tᵀ b_t`, on tiles: gradients of weights.
//!
//! Rows are taken some hundred at a time, in the order in which they are in memory; the sums of a chunk are added to blocks that stand one
//! after the other, so that memory is read and written in long runs. The order of additions depends on the number of rows alone.

use std::cell::RefCell;

use super::amx::{self, DEPTH, SIDE, Tile, Tiles, group};
use super::gemm::Operand;
use super::packed::{Aligned, Block, grow, keep, spare, split_in};
use super::parallel::{self, Disjoint};
use super::precision;
use super::split::Place;

/// Steps of rows that are multiplied at a time: so many that a narrow side's tiles stay in the second-level cache.
const CHUNK: usize = 24;

/// Blocks of sums that a thread keeps for its next product, at the most: 64 MB.
const MOST_KEPT: usize = 1 << 14;

thread_local! {
    static SUMS: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// A matrix `[rows, columns]` in tiles, filled block by block.
pub struct Columns {
    /// `[column panels][row panels]` groups.
    tiles: Vec<Tile>,
    rows: usize,
    columns: usize,
    parts: usize,
}

impl Columns {
    /// In this thread's precision, with nothing in it that means anything.
    pub fn new(rows: usize, columns: usize) -> Self {
        let parts = precision::layout().unwrap_or(precision::F32);
        let tiles = spare(rows.div_ceil(SIDE) * columns.div_ceil(SIDE) * group(parts));
        Self { tiles, rows, columns, parts }
    }

    /// What writes to it.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer { steps: self.rows.div_ceil(SIDE), parts: self.parts, tiles: Disjoint::new(&mut self.tiles) }
    }
}

impl Drop for Columns {
    fn drop(&mut self) {
        keep(std::mem::take(&mut self.tiles));
    }
}

/// Fills [`Columns`].
#[derive(Clone, Copy)]
pub struct Writer<'a> {
    tiles: Disjoint<'a, Tile>,
    steps: usize,
    parts: usize,
}

impl Writer<'_> {
    /// Puts the block of the rows `32 row_panel..` and the columns `32 column_panel..`, zero beyond the matrix.
    ///
    /// # Safety
    /// Each block is put by one thread; the processor must have AVX-512 F, BW, DQ and VL.
    pub unsafe fn put(&self, row_panel: usize, column_panel: usize, block: &Block) {
        let size = group(self.parts);
        let x = Operand::new(block, SIDE, SIDE).t();
        // SAFETY: the caller's promise.
        unsafe {
            let tiles = self.tiles.range((column_panel * self.steps + row_panel) * size, size);
            split_in(self.parts, x, Place::Right, 0, 0, 1.0, tiles);
        }
    }
}

/// The right matrix of a sum.
pub enum Side<'a> {
    /// `[rows, columns]`, row-major.
    Rows(Operand<'a>),
    /// In tiles.
    Tiles(&'a Columns),
}

/// How the result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// `[columns of a, columns of b]`.
    No,
    /// Transposed.
    Yes,
}

/// `out = scale aᵀ b`, or added to what was there, for `a` `[rows, columns]`, row-major. `false`, and nothing done, where
/// products are not by blocks.
pub fn sum(a: Operand<'_>, b: Side<'_>, scale: f32, out: &mut [f32], turn: Turn, add: bool) -> bool {
    let (rows, m) = a.shape();
    let (n, parts) = match &b {
        Side::Rows(b) => (b.shape().1, precision::layout()),
        Side::Tiles(b) => (b.columns, Some(b.parts)),
    };
    let fits = match &b {
        Side::Rows(b) => b.shape().0 == rows && !b.is_transposed(),
        Side::Tiles(b) => b.rows == rows,
    };
    assert!(fits && !a.is_transposed() && out.len() == m * n, "matrices of other sizes");
    let Some(parts) = parts.filter(|parts| amx::layout(*parts) == Some(*parts)) else { return false };
    let (row_panels, column_panels, all) = (m.div_ceil(SIDE), n.div_ceil(SIDE), rows.div_ceil(SIDE));
    let most = CHUNK.min(all) * group(parts);
    let mut left = spare(row_panels * most);
    let mut right = if matches!(b, Side::Rows(_)) { spare(column_panels * most) } else { Vec::new() };
    let mut sums = SUMS.take();
    let blocks = row_panels * column_panels;
    if sums.len() < blocks {
        sums.resize(blocks, Aligned([0.0; SIDE * SIDE]));
    }
    for first in (0..all).step_by(CHUNK) {
        let steps = CHUNK.min(all - first);
        let size = steps * group(parts);
        {
            let of_a = Disjoint::new(grow(&mut left, row_panels * size));
            let of_b = match b {
                Side::Rows(_) => Disjoint::new(grow(&mut right, column_panels * size)),
                Side::Tiles(_) => Disjoint::new(&mut right[..0]),
            };
            let split = |x: Operand<'_>, place, panels: usize, factor, step: usize, tiles: Disjoint<'_, Tile>| {
                for panel in 0..panels {
                    // SAFETY: a group of tiles for each panel and step; `layout` has seen that the processor has these instructions.
                    unsafe {
                        let tiles = tiles.range(panel * size + step * group(parts), group(parts));
                        split_in(parts, x, place, panel * SIDE, (first + step) * DEPTH, factor, tiles);
                    }
                }
            };
            parallel::over(steps, |step| {
                split(a.t(), Place::Left, row_panels, scale, step, of_a);
                if let Side::Rows(b) = &b {
                    split(b.t(), Place::Right, column_panels, 1.0, step, of_b);
                }
            });
        }
        let shared = Disjoint::new(&mut sums[..blocks]);
        let zeros = [0f32; SIDE];
        parallel::over(column_panels, |column| {
            let Some(registers) = Tiles::new(parts) else { return };
            let b = match &b {
                Side::Rows(_) => &right[column * size..][..size],
                Side::Tiles(b) => &b.tiles[(column * all + first) * group(parts)..][..size],
            };
            for row in 0..row_panels {
                let a = &left[row * size..][..size];
                // SAFETY: a block of sums for each row and column of panels; `a` and `b` have `steps` groups, the block 32 rows.
                unsafe {
                    let c = shared.range(column * row_panels + row, 1)[0].0.as_mut_ptr();
                    let from = if first > 0 { (c.cast_const(), SIDE) } else { (zeros.as_ptr(), 0) };
                    registers.block_product(
                        a.as_ptr(),
                        b.as_ptr(),
                        steps,
                        (c, SIDE),
                        from,
                        c.wrapping_add(SIDE * SIDE).cast(),
                    );
                }
            }
        });
    }
    unpack(&sums[..blocks], (m, n), rows > 0, out, turn, add);
    if sums.len() <= MOST_KEPT {
        SUMS.set(sums);
    }
    keep(left);
    if !right.is_empty() {
        keep(right);
    }
    true
}

/// Writes `blocks` (`[column panels][row panels]`) to the result.
fn unpack(blocks: &[Aligned], (m, n): (usize, usize), any: bool, out: &mut [f32], turn: Turn, add: bool) {
    let row_panels = m.div_ceil(SIDE);
    if !any {
        if !add {
            out.fill(0.0);
        }
        return;
    }
    let shared = Disjoint::new(out);
    let (lines, width, stride) = if turn == Turn::Yes { (n, m, m) } else { (m, n, n) };
    parallel::over(lines.div_ceil(SIDE), |panel| {
        let height = SIDE.min(lines - panel * SIDE);
        for other in 0..width.div_ceil(SIDE) {
            let (row, column) = if turn == Turn::Yes { (other, panel) } else { (panel, other) };
            let block = &blocks[column * row_panels + row].0;
            let count = SIDE.min(width - other * SIDE);
            let mut turned = [0f32; SIDE * SIDE];
            let block = match turn {
                Turn::No => block,
                Turn::Yes => {
                    for (r, values) in block.chunks_exact(SIDE).enumerate() {
                        values.iter().enumerate().for_each(|(c, v)| turned[c * SIDE + r] = *v);
                    }
                    &turned
                }
            };
            for (r, values) in block.chunks_exact(SIDE).enumerate().take(height) {
                // SAFETY: a panel of lines for each call.
                let target = unsafe { shared.range((panel * SIDE + r) * stride + other * SIDE, count) };
                if add {
                    target.iter_mut().zip(values).for_each(|(t, v)| *t += v);
                } else {
                    target.copy_from_slice(&values[..count]);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2_003) as f32 / 1_001.0 - 1.0).collect()
    }

    #[test]
    fn sums_of_rows_and_of_blocks_are_close_to_f64_turned_or_not() {
        if precision::layout().is_none() {
            eprintln!("skipped: no AVX-512");
            return;
        }
        for (rows, m, n) in [(1, 1, 1), (70, 33, 40), (800, 64, 95), (1_700, 8, 300)] {
            let (x, y) = (values(rows * m, 1), values(rows * n, 2));
            let mut columns = Columns::new(rows, n);
            let writer = columns.writer();
            for (row_panel, column_panel) in
                (0..rows.div_ceil(SIDE)).flat_map(|r| (0..n.div_ceil(SIDE)).map(move |c| (r, c)))
            {
                let mut block = [0f32; SIDE * SIDE];
                for (i, value) in block.iter_mut().enumerate() {
                    let (r, c) = (row_panel * SIDE + i / SIDE, column_panel * SIDE + i % SIDE);
                    *value = if r < rows && c < n { y[r * n + c] } else { 0.0 };
                }
                // SAFETY: this thread alone; the processor has AVX-512.
                unsafe { writer.put(row_panel, column_panel, &block) };
            }
            let (a, b) = (Operand::new(&x, rows, m), Operand::new(&y, rows, n));
            for (turn, add) in [(Turn::No, false), (Turn::Yes, false), (Turn::Yes, true)] {
                let mut out = [vec![0.25; m * n], vec![0.25; m * n]];
                assert!(sum(a, Side::Rows(b), 0.5, &mut out[0], turn, add));
                assert!(sum(a, Side::Tiles(&columns), 0.5, &mut out[1], turn, add));
                assert_eq!(out[0], out[1]);
                for (i, got) in out[0].iter().enumerate() {
                    let (r, c) = if turn == Turn::Yes { (i % m, i / m) } else { (i / n, i % n) };
                    let want: f64 = (0..rows).map(|t| f64::from(x[t * m + r]) * f64::from(y[t * n + c])).sum();
                    let want = if add { 0.25 } else { 0.0 } + 0.5 * want;
                    assert!((f64::from(*got) - want).abs() < 1e-6 * rows as f64, "{rows} {m} {n}: {got}, not {want}");
                }
            }
        }
    }
}
