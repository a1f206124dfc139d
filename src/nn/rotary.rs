//! What becomes of queries and keys before attention: RMSNorm of each head (Qwen3, Gemma3) and rotary positions (Su et al.
//! 2021), in one pass over queries, keys and values side by side.
//!
//! Positions rotate the two halves of a head's values against each other, as transformers does (`rotate_half`), not
//! neighbouring ones.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::kernel::parallel;
use super::kernel::rms_norm;
use super::rms_norm::RmsNorm;
use super::storage::{output, values, with_values};

const NAME: &str = "query-key";

/// Angles by position: `position * base^(-2i/depth) / factor`.
#[derive(Debug)]
pub struct Rotary {
    depth: usize,
    base: f64,
    factor: f64,
    table: RwLock<Arc<Angles>>,
}

/// Cosines and sines, `[positions, depth / 2]` each.
#[derive(Debug, Default)]
pub struct Angles {
    positions: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    /// For heads of `depth` values; `factor` divides the positions (linear scaling, Chen et al. 2023).
    pub fn new(depth: usize, base: f64, factor: f64) -> Self {
        Self { depth, base, factor, table: RwLock::default() }
    }

    /// Angles of at least `positions` positions, kept for the next call.
    pub fn angles(&self, positions: usize) -> Arc<Angles> {
        let known = self.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.positions >= positions {
            return known;
        }
        let positions = positions.next_power_of_two().max(64);
        let half = self.depth / 2;
        // In the precision and order of transformers: frequencies and products are f32.
        let frequencies: Vec<f32> = (0..half)
            .map(|i| (1.0 / (self.base as f32).powf(2.0 * i as f32 / self.depth as f32)) / self.factor as f32)
            .collect();
        let (mut cos, mut sin) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = position as f32 * frequency;
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        let made = Arc::new(Angles { positions, cos, sin });
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = made.clone();
        made
    }
}

impl Angles {
    fn row(&self, position: usize, half: usize) -> (&[f32], &[f32]) {
        let range = position * half..(position + 1) * half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Cosines and sines of every position side by side, `[positions, depth]`.
    #[cfg(feature = "cuda")]
    pub(super) fn rows(&self, half: usize) -> Vec<f32> {
        (0..self.positions).flat_map(|position| <[&[f32]; 2]>::from(self.row(position, half)).concat()).collect()
    }

    /// Cosines and sines of positions as tensors `[tokens, depth / 2]`.
    pub(super) fn tensors(&self, positions: &[u32], half: usize, like: &Tensor) -> Result<(Tensor, Tensor)> {
        let of = |table: &[f32]| {
            let row = |p: &u32| table[*p as usize * half..(*p as usize + 1) * half].to_vec();
            let rows: Vec<f32> = positions.iter().flat_map(row).collect();
            Tensor::from_vec(rows, (positions.len(), half), like.device())?.to_dtype(like.dtype())
        };
        Ok((of(&self.cos)?, of(&self.sin)?))
    }
}

/// How queries and keys of a layer are prepared.
#[derive(Debug, Clone)]
pub struct QueryKey {
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys, and of values.
    pub key_values: usize,
    /// RMSNorm of each query head and each key head, over `depth` values.
    pub norms: Option<(RmsNorm, RmsNorm)>,
    /// Rotary positions.
    pub rotary: Arc<Rotary>,
}

impl QueryKey {
    /// `qkv` `[tokens, (heads + 2 key_values) depth]` → the same with queries and keys prepared; `positions` `[tokens]`.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, qkv: &Tensor, positions: &Arc<Vec<u32>>) -> Result<Tensor> {
        let (tokens, width) = qkv.dims2()?;
        let depth = self.rotary.depth;
        if width != (self.heads + 2 * self.key_values) * depth || positions.len() != tokens || !depth.is_multiple_of(2)
        {
            bail!(
                "{NAME}: {tokens} tokens of {width} values do not fit {} + 2 x {} heads of {depth} values and {} positions",
                self.heads,
                self.key_values,
                positions.len()
            );
        }
        let last = positions.iter().max().map_or(0, |p| *p as usize + 1);
        let angles = self.rotary.angles(last);
        let norms = match &self.norms {
            Some((query, key)) => {
                if query.weight.dims() != [depth] || key.weight.dims() != [depth] {
                    bail!("{NAME}: norms {:?} do not fit heads of {depth} values", query.weight.dims());
                }
                Some(Tensor::stack(&[query.scale()?, key.scale()?], 0)?)
            }
            None => None,
        };
        let eps = self.norms.as_ref().map(|(query, _)| query.eps as f32);
        #[cfg(feature = "cuda")]
        if super::cuda::rotary::covers(qkv, depth) {
            return super::cuda::rotary::query_key(self, qkv, positions, &angles, norms.as_ref());
        }
        if !qkv.device().is_cpu() {
            return super::composed::query_key(qkv, self, positions, &angles);
        }
        let (heads, key_values, positions) = (self.heads, self.key_values, positions.clone());
        let op = Prepare { heads, key_values, depth, eps, angles, positions };
        match norms {
            Some(norms) => qkv.contiguous()?.apply_op2(&norms, op),
            None => qkv.contiguous()?.apply_op1(op),
        }
    }

    /// As [`Self::forward`], in place, on values of the CPU.
    ///
    /// # Errors
    /// As there.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub(super) fn apply(&self, qkv: &mut [f32], positions: &Arc<Vec<u32>>) -> Result<()> {
        let depth = self.rotary.depth;
        let width = (self.heads + 2 * self.key_values) * depth;
        if qkv.len() != width * positions.len() || !depth.is_multiple_of(2) {
            bail!("{NAME}: {} values are not {} tokens of {width}", qkv.len(), positions.len());
        }
        let last = positions.iter().max().map_or(0, |p| *p as usize + 1);
        let norms = match &self.norms {
            Some((query, key)) => Tensor::stack(&[query.scale()?, key.scale()?], 0)?.flatten_all()?.to_vec1()?,
            None => Vec::new(),
        };
        if self.norms.is_some() && norms.len() != 2 * depth {
            bail!("{NAME}: norms of {} values do not fit heads of {depth}", norms.len() / 2);
        }
        Prepare {
            heads: self.heads,
            key_values: self.key_values,
            depth,
            eps: self.norms.as_ref().map(|(query, _)| query.eps as f32),
            angles: self.rotary.angles(last),
            positions: positions.clone(),
        }
        .apply(qkv, &norms);
        Ok(())
    }

    /// Values of a head.
    pub fn depth(&self) -> usize {
        self.rotary.depth
    }
}

struct Prepare {
    heads: usize,
    key_values: usize,
    depth: usize,
    eps: Option<f32>,
    angles: Arc<Angles>,
    positions: Arc<Vec<u32>>,
}

/// Rotates a head in place; backwards with `sign` −1.
#[inline(always)]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (x, y) = (*a, *b);
        *a = x * c - sign * y * s;
        *b = y * c + sign * x * s;
    }
}

impl Prepare {
    fn width(&self) -> usize {
        (self.heads + 2 * self.key_values) * self.depth
    }

    /// The norm's weight of a head.
    fn weight<'a>(&self, norms: &'a [f32], head: usize) -> &'a [f32] {
        &norms[usize::from(head >= self.heads) * self.depth..][..self.depth]
    }

    fn forward(&self, qkv: &[f32], norms: &[f32]) -> Vec<f32> {
        let mut out = qkv.to_vec();
        self.apply(&mut out, norms);
        out
    }

    fn apply(&self, qkv: &mut [f32], norms: &[f32]) {
        let (width, depth, half) = (self.width(), self.depth, self.depth / 2);
        parallel::over_rows(qkv, width, |first, rows| {
            let mut source = vec![0f32; depth];
            for (r, row) in rows.chunks_exact_mut(width).enumerate() {
                let (cos, sin) = self.angles.row(self.positions[first + r] as usize, half);
                for (h, head) in row.chunks_exact_mut(depth).take(self.heads + self.key_values).enumerate() {
                    if let Some(eps) = self.eps {
                        source.copy_from_slice(head);
                        rms_norm::forward(&source, self.weight(norms, h), eps, head);
                    }
                    rotate(head, cos, sin, 1.0);
                }
            }
        });
    }

    /// Gradient by `qkv`; with norms, what comes before them is read from `qkv`.
    fn backward(&self, qkv: &[f32], norms: &[f32], dout: &[f32]) -> Vec<f32> {
        let (width, depth, half) = (self.width(), self.depth, self.depth / 2);
        let mut out = dout.to_vec();
        parallel::over_rows(&mut out, width, |first, rows| {
            let mut rotated = vec![0f32; depth];
            for (r, row) in rows.chunks_exact_mut(width).enumerate() {
                let (cos, sin) = self.angles.row(self.positions[first + r] as usize, half);
                let source = &qkv[(first + r) * width..][..width];
                let heads = row.chunks_exact_mut(depth).zip(source.chunks_exact(depth));
                for (h, (head, source)) in heads.take(self.heads + self.key_values).enumerate() {
                    rotate(head, cos, sin, -1.0);
                    if let Some(eps) = self.eps {
                        rotated.copy_from_slice(head);
                        rms_norm::backward_input(source, self.weight(norms, h), eps, &rotated, head);
                    }
                }
            }
        });
        out
    }

    /// Gradient by the norms' weights, `[2, depth]`.
    fn norm_gradient(&self, qkv: &[f32], dout: &[f32], eps: f32) -> Vec<f32> {
        let (width, depth, half) = (self.width(), self.depth, self.depth / 2);
        parallel::column_sums(qkv.len() / width, 2 * depth, |rows, sums| {
            let mut rotated = vec![0f32; depth];
            for row in rows {
                let (cos, sin) = self.angles.row(self.positions[row] as usize, half);
                let range = row * width..(row + 1) * width;
                let heads = qkv[range.clone()].chunks_exact(depth).zip(dout[range].chunks_exact(depth));
                for (h, (source, dout)) in heads.take(self.heads + self.key_values).enumerate() {
                    rotated.copy_from_slice(dout);
                    rotate(&mut rotated, cos, sin, -1.0);
                    let sums = &mut sums[usize::from(h >= self.heads) * depth..][..depth];
                    rms_norm::backward_weight(source, eps, &rotated, sums);
                }
            }
        })
    }
}

impl CustomOp1 for Prepare {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(output(self.forward(values(NAME, storage, layout)?, &[]), layout.shape().clone()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values(NAME, [qkv, dout], |[xs, dy]| {
            Tensor::from_vec(self.backward(xs, &[], dy), qkv.shape(), qkv.device()).map(Some)
        })
    }
}

impl CustomOp2 for Prepare {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(output(self.forward(values(NAME, s1, l1)?, values(NAME, s2, l2)?), l1.shape().clone()))
    }

    fn bwd(&self, qkv: &Tensor, norms: &Tensor, _: &Tensor, dout: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_values(NAME, [qkv, norms, dout], |[xs, ws, dy]| {
            let dx = Tensor::from_vec(self.backward(xs, ws, dy), qkv.shape(), qkv.device())?;
            let eps = self.eps.unwrap_or_default();
            let dw = norms.track_op().then(|| self.norm_gradient(xs, dy, eps));
            let dw = dw.map(|dw| Tensor::from_vec(dw, norms.shape(), norms.device())).transpose()?;
            Ok((Some(dx), dw))
        })
    }
}
