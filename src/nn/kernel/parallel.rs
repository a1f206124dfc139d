//! Work split over the current rayon pool; inline where the pool has one thread.

use rayon::prelude::*;

/// Threads of the current pool.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Rows that one task takes at least, so that a task is worth its hand-over (about 16 k values).
fn rows_per_task(width: usize) -> usize {
    (16_384 / width.max(1)).max(1)
}

/// Calls `f(first_row, rows_of_out)` on blocks of rows of `out` (`[rows, width]`), in parallel.
pub fn over_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
    let width = width.max(1);
    let rows = rows_per_task(width);
    if threads() == 1 || out.len() <= rows * width {
        for (block, part) in out.chunks_mut(rows * width).enumerate() {
            f(block * rows, part);
        }
    } else {
        out.par_chunks_mut(rows * width).enumerate().for_each(|(block, part)| f(block * rows, part));
    }
}

/// Calls `f(i)` for `0..n`, in parallel.
pub fn over(n: usize, f: impl Fn(usize) + Sync + Send) {
    if threads() == 1 || n == 1 {
        (0..n).for_each(f);
    } else {
        (0..n).into_par_iter().with_max_len(n.div_ceil(threads() * 8).max(1)).for_each(f);
    }
}

/// `f(i)` of `0..n` in their order, in parallel.
pub fn map<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    if threads() == 1 || n == 1 { (0..n).map(f).collect() } else { (0..n).into_par_iter().map(f).collect() }
}

/// Sums of columns: `out[c] = sum_r f(r, c)` with a fixed split of the rows, so that the result does not depend on the
/// number of threads. `add(rows, partial)` adds the rows of a block into `partial` (`[width]`).
pub fn column_sums(
    rows: usize,
    width: usize,
    add: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync + Send,
) -> Vec<f32> {
    const BLOCK: usize = 256;
    let blocks = rows.div_ceil(BLOCK);
    let partial = |block: usize| {
        let mut sums = vec![0f32; width];
        add(block * BLOCK..((block + 1) * BLOCK).min(rows), &mut sums);
        sums
    };
    let partials: Vec<Vec<f32>> = if threads() == 1 || blocks <= 1 {
        (0..blocks).map(partial).collect()
    } else {
        (0..blocks).into_par_iter().map(partial).collect()
    };
    let mut out = vec![0f32; width];
    for sums in partials {
        for (o, s) in out.iter_mut().zip(sums) {
            *o += s;
        }
    }
    out
}

/// A mutable slice that several tasks write to at disjoint places.
pub struct Disjoint<'a, T = f32> {
    data: *mut T,
    len: usize,
    marker: std::marker::PhantomData<&'a mut [T]>,
}

impl<T> Clone for Disjoint<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Disjoint<'_, T> {}

// SAFETY: every user writes to ranges that no other task touches (the contract of `range`).
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Wraps a slice.
    pub fn new(data: &'a mut [T]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), marker: std::marker::PhantomData }
    }

    /// Where value `start` is, for what writes to some of the `len` values from there on.
    pub fn pointer(&self, start: usize, len: usize) -> *mut T {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "range outside the buffer");
        self.data.wrapping_add(start)
    }

    /// `start..start + len` to write to.
    ///
    /// # Safety
    /// No two tasks may hold overlapping ranges at the same time.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn range(&self, start: usize, len: usize) -> &'a mut [T] {
        // SAFETY: within the slice by the assertion there; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(start, len), len) }
    }
}
