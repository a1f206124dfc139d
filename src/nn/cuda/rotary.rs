//! Norms and rotary positions of queries and keys.

use std::sync::Arc;

use candle_core::{CudaStorage, DType, Result, Tensor};

use super::compile::{Module, Source};
use super::launch::{Arg, Grid, device_of, launch, tensor, unset};
use super::ready::{record1, record2};
use super::{indices, rows};
use crate::nn::rotary::{Angles, QueryKey};

/// Tokens' heads, a warp each, of a block.
const WARPS: usize = 4;
/// The largest head that the kernels take.
pub const DEEPEST: usize = 512;

/// The kernels for heads of `depth` values.
pub(super) fn module(dtype: DType, depth: usize, norms: bool) -> Module {
    Module::new(Source::Rotary, dtype).with("DEPTH", depth).with("NORMS", norms.into())
}

#[derive(Clone)]
struct Prepare {
    heads: usize,
    key_values: usize,
    depth: usize,
    eps: Option<f64>,
    positions: Tensor,
    angles: Tensor,
}

impl Prepare {
    fn module(&self, qkv: &Tensor) -> Module {
        module(qkv.dtype(), self.depth, self.eps.is_some())
    }

    fn units(&self, qkv: &Tensor) -> usize {
        qkv.elem_count() / self.depth
    }

    fn sizes(&self, qkv: &Tensor) -> [Arg<'static>; 4] {
        let eps = Arg::Float(self.eps.unwrap_or_default());
        [Arg::Long(self.units(qkv)), Arg::Int(self.heads), Arg::Int(self.key_values), eps]
    }

    fn grid(&self, qkv: &Tensor) -> Grid {
        Grid::new((self.units(qkv).div_ceil(WARPS), 1), 32 * WARPS as u32)
    }

    fn forward(&self, qkv: &Tensor, weights: Option<&Tensor>) -> Result<CudaStorage> {
        let device = device_of(qkv)?;
        let out = unset(&device, qkv.elem_count(), qkv.dtype())?;
        let mut args = vec![
            Arg::In(qkv, 0),
            Arg::maybe(weights),
            Arg::In(&self.positions, 0),
            Arg::In(&self.angles, 0),
            Arg::Raw(&out, 0),
        ];
        args.extend(self.sizes(qkv));
        // SAFETY: the kernel's arguments; there are angles for every position.
        unsafe { launch(&device, &self.module(qkv), "prepare_forward", self.grid(qkv), &args)? };
        drop(args);
        Ok(out)
    }

    fn backward(&self, qkv: &Tensor, weights: Option<&Tensor>, dout: &Tensor) -> Result<Tensor> {
        let device = device_of(qkv)?;
        let dqkv = unset(&device, qkv.elem_count(), qkv.dtype())?;
        let mut args = vec![
            Arg::In(qkv, 0),
            Arg::maybe(weights),
            Arg::In(&self.positions, 0),
            Arg::In(&self.angles, 0),
            Arg::In(dout, 0),
            Arg::Raw(&dqkv, 0),
        ];
        args.extend(self.sizes(qkv));
        // SAFETY: as above.
        unsafe { launch(&device, &self.module(qkv), "prepare_backward", self.grid(qkv), &args)? };
        drop(args);
        Ok(tensor(dqkv, qkv.shape()))
    }

    /// By the norms' scales, `[2, depth]`.
    fn norm_gradient(&self, qkv: &Tensor, dout: &Tensor) -> Result<Tensor> {
        let device = device_of(qkv)?;
        let (share, parts) = rows::parts(self.units(qkv));
        let partials = unset(&device, parts * 2 * self.depth, DType::F32)?;
        let [units, heads, key_values, eps] = self.sizes(qkv);
        let args = [
            Arg::In(qkv, 0),
            Arg::In(&self.positions, 0),
            Arg::In(&self.angles, 0),
            Arg::In(dout, 0),
            Arg::Raw(&partials, 0),
            units,
            Arg::Int(share),
            heads,
            key_values,
            eps,
        ];
        // SAFETY: the kernel's arguments; `partials` has two rows for each part.
        unsafe { launch(&device, &self.module(qkv), "norm_partials", Grid::new((parts, 1), 128), &args)? };
        rows::total(&partials, parts, 2 * self.depth)?.reshape((2, self.depth))
    }
}

/// Whether the kernels take heads of this depth.
pub fn covers(qkv: &Tensor, depth: usize) -> bool {
    super::covers(qkv) && depth <= DEEPEST
}

/// See [`QueryKey::forward`]; `norms` `[2, depth]` are the scales of queries' and keys' norms.
///
/// # Errors
/// The compiler's and the driver's.
pub fn query_key(
    layer: &QueryKey,
    qkv: &Tensor,
    positions: &Arc<Vec<u32>>,
    angles: &Arc<Angles>,
    norms: Option<&Tensor>,
) -> Result<Tensor> {
    let qkv = qkv.contiguous()?;
    let depth = layer.depth();
    let prepare = Prepare {
        heads: layer.heads,
        key_values: layer.key_values,
        depth,
        eps: layer.norms.as_ref().map(|(query, _)| query.eps),
        positions: indices::numbers(positions, qkv.device())?,
        angles: indices::kept(angles, ("angles", depth), qkv.device(), || {
            Tensor::from_vec(angles.rows(depth / 2), ((), depth), qkv.device())
        })?,
    };
    let norms = norms.map(super::parameter).transpose()?;
    let out = prepare.forward(&qkv, norms.as_ref())?;
    let shape = qkv.shape().clone();
    match norms {
        Some(norms) => {
            let trained = norms.track_op();
            record2("query-key", [&qkv, &norms], out, &shape, move |[qkv, norms], _, dout| {
                let weights = trained.then(|| prepare.norm_gradient(&qkv, dout)).transpose()?;
                Ok([Some(prepare.backward(&qkv, Some(&norms), dout)?), weights])
            })
        }
        None => record1("query-key", [&qkv], out, &shape, move |[qkv], _, dout| {
            Ok([Some(prepare.backward(&qkv, None, dout)?)])
        }),
    }
}
