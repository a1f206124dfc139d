//! A dense row-major table of `f32`: what an encoder returns and what a protocol reads.

/// Row-major `[rows, cols]` values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Matrix {
    /// `rows * cols` values in row-major order; `None` where the length does not fit.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Option<Self> {
        (rows.checked_mul(cols)? == data.len()).then_some(Self { rows, cols, data })
    }

    /// All zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (the embedding dimension).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i`, `[cols]`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// Row `i`, `[cols]`, to write to.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// All values, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// All values, row-major, to write to.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The first `cols` columns.
    #[must_use]
    pub fn columns(&self, cols: usize) -> Self {
        if cols >= self.cols {
            return self.clone();
        }
        let data = (0..self.rows).flat_map(|i| self.row(i)[..cols].iter().copied()).collect();
        Self { rows: self.rows, cols, data }
    }

    /// The rows named, in that order (repeats allowed).
    pub fn select(&self, rows: &[usize]) -> Self {
        let mut data = Vec::with_capacity(rows.len() * self.cols);
        for &row in rows {
            data.extend_from_slice(self.row(row));
        }
        Self { rows: rows.len(), cols: self.cols, data }
    }
}
