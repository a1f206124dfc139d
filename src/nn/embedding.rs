//! Embedding look-up over packed tokens: the sum of word, position and token-type rows in one pass. The word table may be
//! held in 8 bits; its rows are then dequantised as they are read.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, Var, bail};

use super::checkpoint::GradientSink;
use super::kernel::parallel;
use super::quantized::Int8;
use super::storage::{output, unset, values, with_values, zeros};

const NAME: &str = "embedding";

/// A table whose rows are looked up.
#[derive(Debug, Clone)]
pub enum Table {
    /// As a tensor; trainable if it is a variable.
    Dense(Tensor),
    /// Held in 8 bits; frozen.
    Int8(Arc<Int8>),
}

impl From<Tensor> for Table {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl Table {
    /// (rows, columns).
    ///
    /// # Errors
    /// Where a tensor has not two dimensions.
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(tensor) => tensor.dims2(),
            Self::Int8(table) => Ok(table.shape()),
        }
    }
}

impl Table {
    /// The table as a tensor: itself, or dequantised for this once.
    ///
    /// # Errors
    /// None but a lack of memory.
    pub fn tensor(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Int8(table) => {
                let (rows, columns) = table.shape();
                let mut values = vec![0.0; rows * columns];
                table.dequantize_into(&mut values);
                Tensor::from_vec(values, (rows, columns), &candle_core::Device::Cpu)
            }
        }
    }
}

/// The tables of a BERT-like embedding layer; each is trainable if it is a variable.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[vocabulary, hidden]`.
    pub word: Table,
    /// `[positions, hidden]`.
    pub position: Tensor,
    /// `[types, hidden]`; every token is of type 0. Some architectures have none.
    pub token_type: Option<Tensor>,
}

impl Embedding {
    /// `word[ids] + position[positions] + token_type[0]`, `[tokens, hidden]`.
    ///
    /// # Errors
    /// Where an id or a position is outside its table.
    pub fn forward(&self, ids: &Arc<Vec<u32>>, positions: &Arc<Vec<u32>>) -> Result<Tensor> {
        self.forward_to(ids, positions, None)
    }

    /// As [`Self::forward`]; where there is a sink, gradients by the tables go there.
    ///
    /// # Errors
    /// As there.
    pub fn forward_to(
        &self,
        ids: &Arc<Vec<u32>>,
        positions: &Arc<Vec<u32>>,
        sink: Option<&GradientSink>,
    ) -> Result<Tensor> {
        let (vocabulary, hidden) = self.word.shape()?;
        let (places, width) = self.position.dims2()?;
        let kinds = self.token_type.as_ref().map(Tensor::dims2).transpose()?;
        if width != hidden || kinds.is_some_and(|(n, w)| n == 0 || w != hidden) || ids.len() != positions.len() {
            bail!("{NAME}: tables {:?}, {:?}, {kinds:?} do not fit", [vocabulary, hidden], self.position.dims());
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            bail!("{NAME}: token id {id} is outside the vocabulary of {vocabulary}");
        }
        if let Some(position) = positions.iter().find(|&&p| p as usize >= places) {
            bail!("{NAME}: position {position} is outside the table of {places}: lower max_seq_length");
        }
        #[cfg(feature = "cuda")]
        if let Table::Dense(word) = &self.word
            && super::cuda::embedding::covers(word, ids)
        {
            let position = Some((&self.position, positions));
            return super::cuda::embedding::embed(word, ids, position, self.token_type.as_ref());
        }
        if !self.position.device().is_cpu() {
            return super::composed::embedding(self, ids, positions);
        }
        let op = LookUp { ids: ids.clone(), positions: positions.clone() };
        let none = || Tensor::zeros((1, hidden), candle_core::DType::F32, self.position.device());
        let token_type = self.token_type.as_ref().map_or_else(none, |kinds| kinds.contiguous())?;
        let position = self.position.contiguous()?;
        match (&self.word, sink) {
            (Table::Dense(word), Some(sink)) => {
                let tables = [word.contiguous()?, position, token_type];
                // Of the tables' own graph the op is no part; a variable makes it differentiated.
                let anchor = Var::zeros((), candle_core::DType::F32, word.device())?;
                anchor.apply_op1(SunkLookUp { tables, op, sink: sink.clone() })
            }
            (Table::Dense(word), None) => word.contiguous()?.apply_op3(&position, &token_type, op),
            (Table::Int8(word), _) => position.apply_op2(&token_type, Int8LookUp { word: word.clone(), op }),
        }
    }
}

/// Rows `ids` of a table, `[tokens, hidden]`.
///
/// # Errors
/// Where an id is outside the table.
pub fn look_up(table: &Table, ids: &Arc<Vec<u32>>) -> Result<Tensor> {
    let (rows, _) = table.shape()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
        bail!("{NAME}: token id {id} is outside the vocabulary of {rows}");
    }
    match table {
        #[cfg(feature = "cuda")]
        Table::Dense(table) if super::cuda::embedding::covers(table, ids) => {
            super::cuda::embedding::embed(table, ids, None, None)
        }
        Table::Dense(table) if table.device().is_cpu() => table.contiguous()?.apply_op1(Rows { ids: ids.clone() }),
        Table::Dense(table) => table.index_select(&Tensor::new(ids.as_slice(), table.device())?, 0),
        Table::Int8(table) => table.rows(ids, &candle_core::Device::Cpu),
    }
}

struct Rows {
    ids: Arc<Vec<u32>>,
}

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (table, width) = (values(NAME, storage, layout)?, layout.shape().dims()[1]);
        let mut out = Vec::with_capacity(self.ids.len() * width);
        for &id in self.ids.iter() {
            out.extend_from_slice(&table[id as usize * width..][..width]);
        }
        Ok(output(out, (self.ids.len(), width)))
    }

    fn bwd(&self, table: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        LookUp::gradient(table, &self.ids, dout)
    }
}

struct LookUp {
    ids: Arc<Vec<u32>>,
    positions: Arc<Vec<u32>>,
}

/// `table[index[i]] += rows[i]`, split by columns so that tasks do not collide and the order of additions is fixed.
fn scatter(indices: &[u32], rows: &[f32], width: usize, table_rows: usize) -> Vec<f32> {
    let mut table = zeros(table_rows * width);
    let shared = parallel::Disjoint::new(&mut table);
    let columns = width.div_ceil(parallel::threads()).max(64).min(width.max(1));
    parallel::over(width.div_ceil(columns), |part| {
        let (from, to) = (part * columns, ((part + 1) * columns).min(width));
        for (i, &index) in indices.iter().enumerate() {
            // SAFETY: tasks write to different columns.
            let target = unsafe { shared.range(index as usize * width + from, to - from) };
            for (t, v) in target.iter_mut().zip(&rows[i * width + from..i * width + to]) {
                *t += v;
            }
        }
    });
    table
}

impl LookUp {
    /// The sums, `[tokens, width]`; `word(id, row)` writes a word's row.
    fn sums(
        &self,
        position: &[f32],
        token_type: &[f32],
        width: usize,
        word: impl Fn(usize, &mut [f32]) + Sync + Send,
    ) -> Vec<f32> {
        // SAFETY: every value of every row is written below; the tables have `width` columns.
        let mut out = unsafe { unset(self.ids.len() * width) };
        parallel::over_rows(&mut out, width, |first, rows| {
            for (r, row) in rows.chunks_exact_mut(width).enumerate() {
                word(self.ids[first + r] as usize, row);
                let position = &position[self.positions[first + r] as usize * width..][..width];
                for ((o, p), t) in row.iter_mut().zip(position).zip(&token_type[..width]) {
                    *o = *o + p + t;
                }
            }
        });
        out
    }

    /// The gradient of a table whose rows `indices` were looked up, if it is trained.
    fn gradient(table: &Tensor, indices: &[u32], dout: &Tensor) -> Result<Option<Tensor>> {
        let (rows, width) = table.dims2()?;
        if !table.track_op() {
            return Ok(None);
        }
        with_values(NAME, [dout], |[dy]| {
            Tensor::from_vec(scatter(indices, dy, width, rows), table.shape(), table.device())
        })
        .map(Some)
    }
}

/// As [`LookUp`], the tables being no operands: their gradients go to the sink, uncopied.
struct SunkLookUp {
    tables: [Tensor; 3],
    op: LookUp,
    sink: GradientSink,
}

impl CustomOp1 for SunkLookUp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let [word, position, token_type] = &self.tables;
        let width = word.dims2()?.1;
        with_values(NAME, [word, position, token_type], |[word, position, token_type]| {
            let row = |id: usize, row: &mut [f32]| row.copy_from_slice(&word[id * width..][..width]);
            Ok(output(self.op.sums(position, token_type, width, row), (self.op.ids.len(), width)))
        })
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let kinds = vec![0u32; self.op.ids.len()];
        let indices: [&[u32]; 3] = [&self.op.ids, &self.op.positions, &kinds];
        for (table, indices) in self.tables.iter().zip(indices) {
            let (rows, width) = table.dims2()?;
            if table.track_op() {
                let gradient = with_values(NAME, [dout], |[dy]| Ok(scatter(indices, dy, width, rows)))?;
                self.sink.add_values(table, gradient)?;
            }
        }
        Ok(None)
    }
}

/// As [`LookUp`], the word table being no operand.
struct Int8LookUp {
    word: Arc<Int8>,
    op: LookUp,
}

impl CustomOp2 for Int8LookUp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = self.word.shape().1;
        let (position, token_type) = (values(NAME, s1, l1)?, values(NAME, s2, l2)?);
        let out = self.op.sums(position, token_type, width, |id, row| self.word.row_into(id, row));
        Ok(output(out, (self.op.ids.len(), width)))
    }

    fn bwd(
        &self,
        position: &Tensor,
        token_type: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let zeros = vec![0u32; self.op.ids.len()];
        Ok((LookUp::gradient(position, &self.op.positions, dout)?, LookUp::gradient(token_type, &zeros, dout)?))
    }
}

impl CustomOp3 for LookUp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (word, position, token_type) = (values(NAME, s1, l1)?, values(NAME, s2, l2)?, values(NAME, s3, l3)?);
        let width = l1.shape().dims()[1];
        let out = self.sums(position, token_type, width, |id, row| row.copy_from_slice(&word[id * width..][..width]));
        Ok(output(out, (self.ids.len(), width)))
    }

    fn bwd(
        &self,
        word: &Tensor,
        position: &Tensor,
        token_type: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let zeros = vec![0u32; self.ids.len()];
        Ok((
            Self::gradient(word, &self.ids, dout)?,
            Self::gradient(position, &self.positions, dout)?,
            Self::gradient(token_type, &zeros, dout)?,
        ))
    }
}
