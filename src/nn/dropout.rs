//! Dropout (Srivastava et al. 2014) with masks that are pure functions of a seed and the element's place.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::kernel::mask::{Mask, Row, mix};
use super::kernel::parallel;
use super::kernel::simd::multiversion;
use super::storage::{output, values, with_values};

const NAME: &str = "dropout";
const BLOCK: usize = 16_384;

/// Zeroes each element with probability `p` and scales the others by 1/(1 − p).
///
/// # Errors
/// Where `p` is not in `[0, 1)`.
pub fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        bail!("{NAME}: probability {p} is not in [0, 1)");
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    let op = Dropout { p, seed };
    if x.device().is_cpu() {
        return x.contiguous()?.apply_op1(op);
    }
    #[cfg(feature = "cuda")]
    if super::cuda::covers(x) {
        return super::cuda::dropout::elements(x, p, seed);
    }
    let mut mask = vec![1f32; x.elem_count()];
    op.apply(0, &mut mask);
    x.mul(&Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?)
}

struct Dropout {
    p: f32,
    seed: u64,
}

impl Dropout {
    fn apply(&self, first: usize, part: &mut [f32]) {
        let scale = 1.0 / (1.0 - self.p);
        let threshold = (f64::from(self.p) * (1u64 << 32) as f64) as u64;
        for (i, value) in part.iter_mut().enumerate() {
            let draw = mix(self.seed.wrapping_add((first + i) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32;
            *value = if draw < threshold { 0.0 } else { *value * scale };
        }
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = values(NAME, storage, layout)?.to_vec();
        parallel::over_rows(&mut out, BLOCK, |block, part| self.apply(block * BLOCK, part));
        Ok(output(out, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values(NAME, [dout], |[dy]| {
            let mut dx = dy.to_vec();
            parallel::over_rows(&mut dx, BLOCK, |block, part| self.apply(block * BLOCK, part));
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}

/// Every token's place in masks, `[tokens]`: its sequence's number, counted from `first`, and its position there. So the
/// mask of a sequence depends on nothing else in its batch, and stays when a batch is cut and the parts count on.
pub fn token_places(cu_seqlens: &[usize], first: usize) -> Arc<Vec<u64>> {
    let sequence = |(s, bounds): (usize, &[usize])| {
        let number = ((first + s) as u64) << 32;
        (0..bounds[1] - bounds[0]).map(move |position| number | position as u64)
    };
    Arc::new(cu_seqlens.windows(2).enumerate().flat_map(sequence).collect())
}

/// Dropout of packed tokens whose mask is a function of the seed, the token's place ([`token_places`]) and the column, so
/// that a pass can be repeated with the same mask and no mask is kept.
#[derive(Debug, Clone)]
pub struct TokenDropout {
    mask: Mask,
    places: Arc<Vec<u64>>,
}

impl TokenDropout {
    /// Drops with probability `p`; none where it is 0.
    ///
    /// # Errors
    /// Where `p` is not in `[0, 1)`.
    pub fn new(p: f32, seed: u64, places: &Arc<Vec<u64>>) -> Result<Option<Self>> {
        if !(0.0..1.0).contains(&p) {
            bail!("{NAME}: probability {p} is not in [0, 1)");
        }
        Ok((p > 0.0).then(|| Self { mask: Mask::new(p, seed), places: places.clone() }))
    }

    /// Zeroes elements of `x` `[tokens, hidden]` and scales the others by 1/(1 − p).
    ///
    /// # Errors
    /// Where `x` has another number of rows than there are places.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_groups(x, 1)
    }

    /// As [`Self::forward`], with one draw for every `group` neighbouring columns: a head's, say.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_groups(&self, x: &Tensor, group: usize) -> Result<Tensor> {
        let (tokens, width) = x.dims2()?;
        self.check(tokens)?;
        #[cfg(feature = "cuda")]
        if super::cuda::covers(x) {
            return super::cuda::dropout::tokens(x, self, group);
        }
        if !x.device().is_cpu() {
            return x.mul(&self.factors(width, group, x)?);
        }
        x.contiguous()?.apply_op1(TokenMask { dropout: self.clone(), group: group.max(1) })
    }

    /// That there is a place for each of the tokens.
    pub(super) fn check(&self, tokens: usize) -> Result<()> {
        if tokens != self.places.len() {
            bail!("{NAME}: {tokens} tokens, but places for {} in the mask", self.places.len());
        }
        Ok(())
    }

    /// The mask, and where each token stands in it.
    pub(super) fn parts(&self) -> (Mask, &[u64]) {
        (self.mask, &self.places)
    }

    /// Where each token stands in the mask.
    #[cfg(feature = "cuda")]
    pub(super) fn places(&self) -> &Arc<Vec<u64>> {
        &self.places
    }

    /// What `x` `[tokens, width]` is multiplied with: 0 or 1/(1 − p), with one draw for every `group` columns.
    pub(super) fn factors(&self, width: usize, group: usize, like: &Tensor) -> Result<Tensor> {
        let mut factors = vec![1f32; self.places.len() * width];
        self.apply(width, group.max(1), 0, &mut factors);
        Tensor::from_vec(factors, (self.places.len(), width), like.device())?.to_dtype(like.dtype())
    }

    /// What the attention weights of one sequence, `[heads, n, n]`, are multiplied with; its tokens are `start..start + n`.
    pub(crate) fn head_factors(&self, start: usize, n: usize, heads: usize, like: &Tensor) -> Result<Tensor> {
        let mut factors = vec![1f32; heads * n * n];
        for (i, row) in factors.chunks_exact_mut(n.max(1)).enumerate() {
            self.mask.stream(i / n).row(self.places[start + i % n]).apply_to(row);
        }
        Tensor::from_vec(factors, (heads, n, n), like.device())?.to_dtype(like.dtype())
    }

    fn apply(&self, width: usize, group: usize, first: usize, rows: &mut [f32]) {
        for (row, place) in rows.chunks_exact_mut(width.max(1)).zip(&self.places[first..]) {
            apply_groups(self.mask.row(*place), group, row);
        }
    }
}

multiversion! {
    /// One draw for every `group` neighbouring values.
    #[allow(clippy::extra_unused_type_parameters)]
    fn apply_groups<A>(draws: Row, group: usize, row: &mut [f32]) {
        if group == 1 {
            return draws.apply_to(row);
        }
        for (column, values) in row.chunks_mut(group).enumerate() {
            values.iter_mut().for_each(|value| *value = draws.apply(column as u32, *value));
        }
    }
}

struct TokenMask {
    dropout: TokenDropout,
    group: usize,
}

impl TokenMask {
    fn masked(&self, x: &[f32], width: usize) -> Vec<f32> {
        let mut out = x.to_vec();
        parallel::over_rows(&mut out, width, |first, rows| self.dropout.apply(width, self.group, first, rows));
        out
    }
}

impl CustomOp1 for TokenMask {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.masked(values(NAME, storage, layout)?, layout.shape().dims()[1]);
        Ok(output(out, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_values(NAME, [dout], |[dy]| Ok(self.masked(dy, x.dims()[1])))?;
        Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
    }
}
