//! Embedding look-up over packed tokens: the sum of word, position and token-type rows in one pass.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::kernel::parallel;
use super::storage::{output, unset, values, with_values, zeros};

const NAME: &str = "embedding";

/// The tables of a BERT-like embedding layer; each is trainable if it is a variable.
#[derive(Debug, Clone)]
pub struct Embedding {
    /// `[vocabulary, hidden]`.
    pub word: Tensor,
    /// `[positions, hidden]`.
    pub position: Tensor,
    /// `[types, hidden]`; every token is of type 0.
    pub token_type: Tensor,
}

impl Embedding {
    /// `word[ids] + position[positions] + token_type[0]`, `[tokens, hidden]`.
    ///
    /// # Errors
    /// Where an id or a position is outside its table.
    pub fn forward(&self, ids: &Arc<Vec<u32>>, positions: &Arc<Vec<u32>>) -> Result<Tensor> {
        let (vocabulary, hidden) = self.word.dims2()?;
        let (places, width) = self.position.dims2()?;
        let (types, type_width) = self.token_type.dims2()?;
        if width != hidden || type_width != hidden || types == 0 || ids.len() != positions.len() {
            bail!(
                "{NAME}: tables {:?}, {:?}, {:?} do not fit",
                self.word.dims(),
                self.position.dims(),
                self.token_type.dims()
            );
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            bail!("{NAME}: token id {id} is outside the vocabulary of {vocabulary}");
        }
        if let Some(position) = positions.iter().find(|&&p| p as usize >= places) {
            bail!("{NAME}: position {position} is outside the table of {places}: lower max_seq_length");
        }
        if !self.word.device().is_cpu() {
            return super::composed::embedding(self, ids, positions);
        }
        let op = LookUp { ids: ids.clone(), positions: positions.clone() };
        self.word.contiguous()?.apply_op3(&self.position.contiguous()?, &self.token_type.contiguous()?, op)
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
        // SAFETY: every value of every row is written below; the tables have `width` columns.
        let mut out = unsafe { unset(self.ids.len() * width) };
        parallel::over_rows(&mut out, width, |first, rows| {
            for (r, row) in rows.chunks_exact_mut(width).enumerate() {
                let word = &word[self.ids[first + r] as usize * width..][..width];
                let position = &position[self.positions[first + r] as usize * width..][..width];
                for (((o, w), p), t) in row.iter_mut().zip(word).zip(position).zip(&token_type[..width]) {
                    *o = w + p + t;
                }
            }
        });
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
        let width = word.dims()[1];
        let zeros = vec![0u32; self.ids.len()];
        let gradient = |table: &Tensor, indices: &[u32]| -> Result<Option<Tensor>> {
            if !table.track_op() {
                return Ok(None);
            }
            with_values(NAME, [dout], |[dy]| {
                Tensor::from_vec(scatter(indices, dy, width, table.dims()[0]), table.shape(), table.device())
            })
            .map(Some)
        };
        Ok((gradient(word, &self.ids)?, gradient(position, &self.positions)?, gradient(token_type, &zeros)?))
    }
}
