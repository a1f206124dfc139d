//! Products with a right matrix that is prepared once, by blocks of 32 × 32: on a matrix unit `f32` values as sums of `bf16` parts, elsewhere
//! values as they are, by AVX-512, or rounded to `bf16`, by AVX512-BF16.
//!
//! # Precision
//! That of AVX-512 is `f32`'s, products and sums fused. On the matrix unit:
//!
//! A value is split as `x = h + m + l + r`: `h` is `x` rounded to `bf16` (8 significant bits), `m` the rest rounded to `bf16`,
//! `l` what then remains, and `|r| ≤ 2⁻²⁴ |x|`, half a unit in the last place of an `f32`, is dropped. A product is
//! `h·h' + (h·m' + m·h') + (m·m' + h·l' + l·h')`, each exact in `f32` and summed in `f32`; what is left out is at most
//! `2⁻²³ |x·x'|`. That is the precision of an `f32` product: against `f64`, on random matrices with an inner dimension of 384,
//! the root mean square error is 4e-8 of the largest result, where `gemm`'s is 1e-7; at 1,536 it is 8e-8, and 1e-7. Two parts
//! and three products take half the time, but are off by 1e-6: training has them.
//!
//! Values above 3.38e38 round to infinity and give NaN; parts below 1.2e-38 are taken for zero.
//!
//! The order of additions depends on the inner dimension alone: a row of a result is the same to the bit whatever other rows
//! are computed with it and on however many threads.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use tiled::{
    Aligned, Block, Lines, Next, Packed, grow, keep, lines, multiply, over_blocks, spare, split_in, steps_at_once,
};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub use absent::{Packed, multiply};

/// What a product is added to.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// Nothing.
    Zero,
    /// One row, `[columns]`, added to every row.
    Row(&'a [f32]),
    /// What the result held before.
    Result,
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiled {
    use super::Start;
    use std::cell::{Cell, RefCell};

    use rayon::prelude::*;

    use super::super::amx::{DEPTH, SIDE, Tile, Tiles, WHOLE, ahead, group};
    use super::super::gemm::Operand;
    use super::super::outer::{self, Side, Turn};
    use super::super::parallel::{self, Disjoint};
    use super::super::precision;
    use super::super::split::{Place, copy, split};

    /// Rows of the left matrix that are split at a time, at the most.
    pub const LEFT_ROWS: usize = 256;
    /// A result's block, `[SIDE, SIDE]`.
    pub type Block = [f32; SIDE * SIDE];

    static ZEROS: [f32; SIDE] = [0.0; SIDE];

    /// Steps of the inner dimension that are laid out and multiplied at a time: so many that 256 rows of them stay in the second-level
    /// cache, which is half as large in processors without AMX.
    pub const fn steps_at_once(parts: usize) -> usize {
        if parts == WHOLE { 12 } else { 48 / parts }
    }

    thread_local! {
        static LEFT: Cell<Vec<Tile>> = const { Cell::new(Vec::new()) };
        static SPARE: RefCell<Vec<Vec<Tile>>> = const { RefCell::new(Vec::new()) };
    }

    /// Buffers that a thread keeps for its next products, at the most.
    const MOST_SPARE: usize = 8;

    /// Memory for `len` tiles, which a thread has kept if it can be: pages that are new cost as much as what is written to them. The
    /// smallest that is large enough, so that large ones are there for who needs them.
    pub fn spare(len: usize) -> Vec<Tile> {
        SPARE
            .with_borrow_mut(|all| {
                let fits = (0..all.len()).filter(|i| all[*i].len() >= len).min_by_key(|i| all[*i].len());
                fits.map(|i| all.swap_remove(i))
            })
            .unwrap_or_else(|| vec![Tile::ZERO; len])
    }

    /// Keeps memory for [`spare`].
    pub fn keep(tiles: Vec<Tile>) {
        SPARE.with_borrow_mut(|all| {
            all.push(tiles);
            if all.len() > MOST_SPARE {
                // The smallest costs least to make again.
                let smallest = (0..all.len()).min_by_key(|i| all[*i].len());
                smallest.map(|i| all.swap_remove(i));
            }
        });
    }

    /// Makes room for `len` tiles; what was there stays, so that nothing is cleared that will be overwritten.
    pub fn grow(tiles: &mut Vec<Tile>, len: usize) -> &mut [Tile] {
        if tiles.len() < len {
            tiles.resize(len, Tile::ZERO);
        }
        &mut tiles[..len]
    }

    /// As [`split`], in this many parts; or [`copy`].
    ///
    /// # Safety
    /// As there.
    pub unsafe fn split_in(
        parts: usize,
        x: Operand<'_>,
        place: Place,
        first: usize,
        from: usize,
        scale: f32,
        out: &mut [Tile],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match parts {
                1 => split::<1>(x, place, first, from, scale, out),
                2 => split::<2>(x, place, first, from, scale, out),
                WHOLE => copy(x, place, first, from, scale, out),
                _ => split::<3>(x, place, first, from, scale, out),
            }
        }
    }

    /// Rows of a left matrix in tiles: panels of [`SIDE`] rows, each of `steps` groups.
    #[derive(Clone, Copy)]
    pub struct Lines<'a> {
        /// `[panels][steps][part][half]`.
        pub tiles: &'a [Tile],
        /// Rows, the last panel's alone may be fewer than its tiles hold.
        pub rows: usize,
        /// Groups of a panel.
        pub steps: usize,
    }

    /// Where blocks of a result become rows of the next product, in tiles.
    pub struct Next<'a> {
        /// As those of [`Lines`].
        pub tiles: &'a mut [Tile],
        /// The panel of columns that is the first group.
        pub from: usize,
        /// Groups of a panel.
        pub steps: usize,
    }

    impl Next<'_> {
        fn group(&mut self, panel: usize, column: usize, parts: usize) -> &mut [Tile] {
            let at = (panel * self.steps + column - self.from) * group(parts);
            &mut self.tiles[at..at + group(parts)]
        }
    }

    /// A group of a left matrix as its values.
    fn whole(group: &mut [Tile]) -> &mut Block {
        assert!(size_of_val(group) >= size_of::<Block>(), "a group of another layout");
        // SAFETY: of that size, aligned to more; a group of values as they are is 32 rows of 32 of them (`split::copy`).
        unsafe { &mut *group.as_mut_ptr().cast::<Block>() }
    }

    /// A right matrix `[inner, columns]`, split and laid out by panels of 32 columns.
    pub struct Packed {
        /// At least `inner / DEPTH * columns / SIDE` groups, rounded up.
        tiles: Vec<Tile>,
        inner: usize,
        columns: usize,
        parts: usize,
    }

    impl std::fmt::Debug for Packed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "Packed[{}, {}] in {}", self.inner, self.columns, self.parts)
        }
    }

    impl Packed {
        /// Prepares `b` in this thread's precision; `None` where products are not by blocks (`amx::layout`).
        pub fn new(b: Operand<'_>) -> Option<Self> {
            Self::within(b, |len| vec![Tile::ZERO; len])
        }

        /// As [`Self::new`], for a product or two: in memory that is kept for the next ones ([`Self::let_go`]).
        pub fn brief(b: Operand<'_>) -> Option<Self> {
            Self::within(b, spare)
        }

        fn within(b: Operand<'_>, memory: impl FnOnce(usize) -> Vec<Tile>) -> Option<Self> {
            let parts = precision::layout()?;
            let (inner, columns) = b.shape();
            let panel = inner.div_ceil(DEPTH) * group(parts);
            let len = panel * columns.div_ceil(SIDE);
            let mut tiles = memory(len);
            let used = grow(&mut tiles, len);
            if panel > 0 {
                let pack = |(i, part): (usize, &mut [Tile])| {
                    // SAFETY: `layout` has seen that the processor has these instructions.
                    unsafe { split_in(parts, b.t(), Place::Right, i * SIDE, 0, 1.0, part) }
                };
                if parallel::threads() == 1 {
                    used.chunks_exact_mut(panel).enumerate().for_each(pack);
                } else {
                    used.par_chunks_exact_mut(panel).enumerate().for_each(pack);
                }
            }
            Some(Self { tiles, inner, columns, parts })
        }

        /// Columns.
        pub fn columns(&self) -> usize {
            self.columns
        }

        /// Rows.
        pub fn inner(&self) -> usize {
            self.inner
        }

        /// Parts that its values are split into, or [`WHOLE`].
        pub fn parts(&self) -> usize {
            self.parts
        }

        /// Groups of a panel.
        pub fn steps(&self) -> usize {
            self.inner.div_ceil(DEPTH)
        }

        /// Gives its memory to the next product of this thread.
        pub fn let_go(self) {
            keep(self.tiles);
        }

        /// `out = start + scale * a b`, `out` row-major. `finish` gets every block of finished rows of `out` once, while it is
        /// in the cache.
        pub fn multiply(
            &self,
            out: &mut [f32],
            start: Start<'_>,
            scale: f32,
            a: Operand<'_>,
            finish: &(dyn Fn(&mut [f32]) + Sync),
        ) {
            let (rows, inner) = a.shape();
            assert_eq!(inner, self.inner, "inner dimensions differ");
            assert_eq!(out.len(), rows * self.columns, "result of another size");
            if let Start::Row(row) = start {
                assert_eq!(row.len(), self.columns, "row of another size");
            }
            if out.is_empty() {
                return;
            }
            if inner == 0 {
                match start {
                    Start::Zero => out.fill(0.0),
                    Start::Row(row) => out.chunks_exact_mut(row.len()).for_each(|out| out.copy_from_slice(row)),
                    Start::Result => {}
                }
                finish(out);
                return;
            }
            let shared = Disjoint::new(out);
            over_blocks(rows, |first, count| {
                // SAFETY: blocks of rows do not overlap.
                let out = unsafe { shared.range(first * self.columns, count * self.columns) };
                self.rows(out, start, scale, a, first);
                finish(out);
            });
        }

        /// Rows from `first` of the product.
        fn rows(&self, out: &mut [f32], start: Start<'_>, scale: f32, a: Operand<'_>, first: usize) {
            let Some(registers) = Tiles::new(self.parts) else {
                // `self` is only made where there are registers; should they be gone, nobody reads what was not computed.
                out.fill(f32::NAN);
                return;
            };
            let count = out.len() / self.columns;
            let mut left = LEFT.take();
            self.apply(&registers, &mut left, a, first..first + count, scale, (out, self.columns), start);
            LEFT.set(left);
        }

        /// `out = start + scale * a b` for some rows of `a`, on this thread; rows of `out` are `stride` values apart, and `left` is memory to
        /// split them in.
        #[allow(clippy::too_many_arguments)]
        pub fn apply(
            &self,
            registers: &Tiles,
            left: &mut Vec<Tile>,
            a: Operand<'_>,
            rows: std::ops::Range<usize>,
            scale: f32,
            (out, stride): (&mut [f32], usize),
            start: Start<'_>,
        ) {
            let (all, most, count) = (self.steps(), steps_at_once(self.parts), rows.len());
            for from in (0..all).step_by(most) {
                let steps = most.min(all - from);
                let start = if from > 0 { Start::Result } else { start };
                let tiles = lines(left, a, rows.clone(), from..from + steps, scale, self.parts);
                self.add(registers, Lines { tiles, rows: count, steps }, from, (&mut *out, stride), start);
            }
        }

        /// `out = start + lines · b`, for the inner dimension's groups `from..from + lines.steps`; rows of `out` are `stride`
        /// values apart.
        pub fn add(
            &self,
            registers: &Tiles,
            lines: Lines<'_>,
            from: usize,
            (out, stride): (&mut [f32], usize),
            start: Start<'_>,
        ) {
            assert!(lines.rows == 0 || out.len() >= (lines.rows - 1) * stride + self.columns, "result of another size");
            for column in (0..self.columns).step_by(SIDE) {
                self.panels(registers, lines, column, from, |panel, a, b, next| {
                    let row = panel * SIDE;
                    let size = (SIDE.min(lines.rows - row), SIDE.min(self.columns - column));
                    let start = match start {
                        Start::Row(row) => Start::Row(&row[column..][..size.1]),
                        start => start,
                    };
                    // SAFETY: `panels` gives `steps` groups; the rows are in `out` by the assertion.
                    unsafe {
                        put(
                            registers,
                            a,
                            b,
                            lines.steps,
                            (out[row * stride + column..].as_mut_ptr(), stride),
                            size,
                            start,
                            next,
                        );
                    }
                });
            }
        }

        /// `row + lines · b` block by block: `visit` gets the number of the panel of rows, the first column, and 32 x 32 values,
        /// of which those past the edges mean nothing; what it makes of them goes to `next`. `columns` is where the panels of columns begin.
        pub fn blocks(
            &self,
            registers: &Tiles,
            lines: Lines<'_>,
            columns: std::ops::Range<usize>,
            row: Option<&[f32]>,
            mut next: Option<Next<'_>>,
            visit: &mut dyn FnMut(usize, usize, &mut Block),
        ) {
            let mut own = Aligned([0f32; SIDE * SIDE]);
            for column in columns.step_by(SIDE) {
                let mut start = [0f32; SIDE];
                if let Some(row) = row {
                    let width = SIDE.min(row.len() - column);
                    start[..width].copy_from_slice(&row[column..][..width]);
                }
                self.panels(registers, lines, column, 0, |panel, a, b, ahead| {
                    let mut product = |block: &mut Block| {
                        let c = block.as_mut_ptr();
                        // SAFETY: `panels` gives `steps` groups; the block is 32 rows of 32 values.
                        unsafe { registers.block_product(a, b, lines.steps, (c, SIDE), (start.as_ptr(), 0), ahead) };
                        visit(panel, column, block);
                    };
                    let Some(next) = &mut next else { return product(&mut own.0) };
                    let to = next.group(panel, column / SIDE, self.parts);
                    if self.parts == WHOLE {
                        return product(whole(to));
                    }
                    product(&mut own.0);
                    let x = Operand::new(&own.0, SIDE, SIDE);
                    // SAFETY: `Tiles::new` has seen that the processor has these instructions.
                    unsafe { split_in(self.parts, x, Place::Left, 0, 0, 1.0, to) };
                });
            }
        }

        /// Calls `f(panel, a, b, next)` for each panel of rows against the columns from `column` on; both have `lines.steps`
        /// groups. The next columns come from memory while these are multiplied.
        #[inline(always)]
        fn panels(
            &self,
            registers: &Tiles,
            lines: Lines<'_>,
            column: usize,
            from: usize,
            mut f: impl FnMut(usize, *const Tile, *const Tile, *const u8),
        ) {
            let (all, steps, group) = (self.steps(), lines.steps, group(self.parts));
            let panels = lines.rows.div_ceil(SIDE);
            assert!(steps > 0 && registers.parts() == self.parts && lines.tiles.len() >= panels * steps * group);
            let right = &self.tiles[(column / SIDE * all + from) * group..][..steps * group];
            let next = right.as_ptr().wrapping_add(all * group).cast::<u8>();
            for (panel, left) in lines.tiles.chunks_exact(steps * group).enumerate().take(panels) {
                f(panel, left.as_ptr(), right.as_ptr(), next.wrapping_add(panel * steps * ahead(self.parts)));
            }
        }
    }

    /// A block from the start of a line of the cache on.
    #[repr(C, align(64))]
    #[derive(Clone, Copy)]
    pub struct Aligned(pub Block);

    /// Puts `start + a b` to the first `size` (rows, columns) of `out`, whose rows are `stride` values apart; as
    /// [`Tiles::block_product`].
    ///
    /// # Safety
    /// `a` and `b` must have `steps` ≥ 1 groups, and the values of `out` that are written be nobody else's meanwhile.
    #[allow(clippy::too_many_arguments)]
    #[inline(always)]
    unsafe fn put(
        registers: &Tiles,
        a: *const Tile,
        b: *const Tile,
        steps: usize,
        (out, stride): (*mut f32, usize),
        (height, width): (usize, usize),
        start: Start<'_>,
        next: *const u8,
    ) {
        if (height, width) == (SIDE, SIDE) {
            let from = match start {
                Start::Zero => (ZEROS.as_ptr(), 0),
                Start::Row(row) => (row[..SIDE].as_ptr(), 0),
                Start::Result => (out.cast_const(), stride),
            };
            // SAFETY: the caller's promise.
            unsafe { registers.block_product(a, b, steps, (out, stride), from, next) };
            return;
        }
        let mut block = Aligned([0f32; SIDE * SIDE]);
        // SAFETY: the caller's promise.
        let line = |r: usize| unsafe { std::slice::from_raw_parts_mut(out.add(r * stride), width) };
        for (r, to) in block.0.chunks_exact_mut(SIDE).enumerate().take(height) {
            match start {
                Start::Zero => {}
                Start::Row(row) => to[..width].copy_from_slice(&row[..width]),
                Start::Result => to[..width].copy_from_slice(line(r)),
            }
        }
        let c = block.0.as_mut_ptr();
        // SAFETY: as above; the block is 32 rows of 32 values.
        unsafe { registers.block_product(a, b, steps, (c, SIDE), (c.cast_const(), SIDE), next) };
        for (r, from) in block.0.chunks_exact(SIDE).enumerate().take(height) {
            line(r).copy_from_slice(&from[..width]);
        }
    }

    /// The rows `rows` of `a` in tiles, the groups `steps` of their inner dimension, times `scale`.
    pub fn lines<'a>(
        tiles: &'a mut Vec<Tile>,
        a: Operand<'_>,
        rows: std::ops::Range<usize>,
        steps: std::ops::Range<usize>,
        scale: f32,
        parts: usize,
    ) -> &'a [Tile] {
        let panel = steps.len() * group(parts);
        let tiles = grow(tiles, rows.len().div_ceil(SIDE) * panel);
        for (i, tiles) in tiles.chunks_exact_mut(panel).enumerate() {
            // SAFETY: callers have seen that the processor has these instructions (`Tiles::new`).
            unsafe { split_in(parts, a, Place::Left, rows.start + i * SIDE, steps.start * DEPTH, scale, tiles) };
        }
        tiles
    }

    /// Calls `f(first, count)` on blocks of rows, in parallel: whole panels but for the last, of 256 rows at the most, as many for each
    /// thread, of about one size. Two a thread at least, so that one that is held up holds up little.
    pub fn over_blocks(rows: usize, f: impl Fn(usize, usize) + Sync + Send) {
        let (panels, threads) = (rows.div_ceil(SIDE), parallel::threads());
        let least = panels.div_ceil(LEFT_ROWS / SIDE);
        let blocks = match threads {
            1 => least,
            _ => least.max(2 * threads).next_multiple_of(threads).min(panels.div_ceil(2)),
        };
        let start = |i: usize| (i * panels / blocks * SIDE).min(rows);
        let run = |i: usize| f(start(i), start(i + 1) - start(i));
        if blocks <= 1 || threads == 1 {
            (0..blocks).for_each(run);
        } else {
            (0..blocks).into_par_iter().with_max_len(1).for_each(run);
        }
    }

    /// As [`Packed::multiply`], preparing `b` in memory that is kept for the next call. `false`, and nothing done, where products are not
    /// by blocks.
    pub fn multiply(out: &mut [f32], accumulate: bool, scale: f32, a: Operand<'_>, b: Operand<'_>) -> bool {
        if a.is_transposed() && !b.is_transposed() {
            let (a, b) = (a.t(), b);
            // The longer side as the right matrix, which is not transposed.
            return match a.shape().1 <= b.shape().1 {
                true => outer::sum(a, Side::Rows(b), scale, out, Turn::No, accumulate),
                false => outer::sum(b, Side::Rows(a), scale, out, Turn::Yes, accumulate),
            };
        }
        let Some(packed) = Packed::brief(b) else { return false };
        let start = if accumulate { Start::Result } else { Start::Zero };
        packed.multiply(out, start, scale, a, &|_| {});
        packed.let_go();
        true
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn values(n: usize, seed: u64) -> Vec<f32> {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 33) as f64 / (1u64 << 30) as f64 - 1.0) as f32
            };
            (0..n).map(|_| next()).collect()
        }

        #[test]
        fn products_of_every_orientation_and_size_are_close_to_f64() {
            if precision::layout().is_none() {
                eprintln!("skipped: no AVX-512");
                return;
            }
            for (m, n, k) in [(1, 1, 1), (5, 3, 7), (33, 31, 65), (64, 96, 32), (130, 40, 1_600), (300, 8, 48)] {
                let (x, y, base) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
                for (flip_a, flip_b, accumulate) in
                    [(false, false, false), (false, true, true), (true, false, true), (true, true, false)]
                {
                    let a = if flip_a { Operand::new(&x, k, m).t() } else { Operand::new(&x, m, k) };
                    let b = if flip_b { Operand::new(&y, n, k).t() } else { Operand::new(&y, k, n) };
                    let mut out = base.clone();
                    assert!(multiply(&mut out, accumulate, 0.5, a, b));
                    for (i, got) in out.iter().enumerate() {
                        let (r, c) = (i / n, i % n);
                        let at = |p: usize| {
                            let x = if flip_a { x[p * m + r] } else { x[r * k + p] };
                            let y = if flip_b { y[c * k + p] } else { y[p * n + c] };
                            f64::from(x) * f64::from(y)
                        };
                        let start = if accumulate { f64::from(base[i]) } else { 0.0 };
                        let want = start + 0.5 * (0..k).map(at).sum::<f64>();
                        let bound = 1e-6 * (k as f64).sqrt().max(2.0);
                        assert!((f64::from(*got) - want).abs() < bound, "{m} {n} {k} at {r}, {c}: {got}, not {want}");
                    }
                }
            }
        }

        #[test]
        fn a_row_does_not_depend_on_the_others_or_on_the_threads() {
            let (m, n, k) = (301, 70, 200);
            let (x, y) = (values(m * k, 1), values(k * n, 2));
            let Some(packed) = Packed::new(Operand::new(&y, k, n)) else {
                eprintln!("skipped: no AVX-512");
                return;
            };
            let run = |threads: usize| {
                let mut out = vec![0f32; m * n];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| packed.multiply(&mut out, Start::Zero, 1.0, Operand::new(&x, m, k), &|_| {}));
                out
            };
            let all = run(1);
            assert_eq!(all, run(3));
            for row in [0, 31, 150, 300] {
                let mut out = vec![0f32; n];
                packed.multiply(&mut out, Start::Zero, 1.0, Operand::new(&x[row * k..][..k], 1, k), &|_| {});
                assert_eq!(out, all[row * n..][..n]);
            }
        }

        #[test]
        fn a_row_is_added_to_every_row() {
            let (x, y, row) = (values(70 * 40, 1), values(40 * 50, 2), values(50, 3));
            let Some(packed) = Packed::new(Operand::new(&y, 40, 50)) else {
                eprintln!("skipped: no AVX-512");
                return;
            };
            let (mut plain, mut shifted) = (vec![0f32; 70 * 50], vec![f32::NAN; 70 * 50]);
            packed.multiply(&mut plain, Start::Zero, 1.0, Operand::new(&x, 70, 40), &|_| {});
            packed.multiply(&mut shifted, Start::Row(&row), 1.0, Operand::new(&x, 70, 40), &|_| {});
            for (i, (a, b)) in plain.iter().zip(&shifted).enumerate() {
                assert!((a + row[i % 50] - b).abs() < 4e-6, "{a} + {} is not {b}", row[i % 50]);
            }
        }

        #[test]
        fn finish_sees_every_value_once() {
            let (x, y) = (values(100 * 40, 1), values(40 * 50, 2));
            let Some(packed) = Packed::new(Operand::new(&y, 40, 50)) else {
                eprintln!("skipped: no AVX-512");
                return;
            };
            let (mut plain, mut finished) = (vec![0f32; 100 * 50], vec![0f32; 100 * 50]);
            packed.multiply(&mut plain, Start::Zero, 1.0, Operand::new(&x, 100, 40), &|_| {});
            let add = |rows: &mut [f32]| rows.iter_mut().for_each(|v| *v += 1.0);
            packed.multiply(&mut finished, Start::Zero, 1.0, Operand::new(&x, 100, 40), &add);
            assert!(plain.iter().zip(&finished).all(|(a, b)| a + 1.0 == *b));
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod absent {
    use super::super::gemm::Operand;
    use super::Start;

    /// A prepared right matrix; none can be made here.
    #[derive(Debug)]
    pub enum Packed {}

    impl Packed {
        /// `None`.
        pub fn new(_: Operand<'_>) -> Option<Self> {
            None
        }

        /// Never called.
        pub fn multiply(&self, _: &mut [f32], _: Start<'_>, _: f32, _: Operand<'_>, _: &(dyn Fn(&mut [f32]) + Sync)) {
            match *self {}
        }
    }

    /// `false`, and nothing done.
    pub fn multiply(_: &mut [f32], _: bool, _: f32, _: Operand<'_>, _: Operand<'_>) -> bool {
        false
    }
}
