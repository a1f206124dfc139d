//! Attention over packed sequences in tiles, with a running softmax.

use std::sync::Arc;

use candle_core::{CudaStorage, DType, Result, Tensor};

use super::compile::{Module, Source};
use super::indices;
use super::launch::{Arg, Grid, device_of, launch, tensor, unset, zeros};
use super::ready::{record1, record2, record3};
use crate::nn::attention::Heads;

/// The largest head that the kernels take.
pub const DEEPEST: usize = 256;

/// What the kernels are told; laid out as `Shape` of `attention.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    heads: i32,
    group: i32,
    q_stride: i32,
    k_stride: i32,
    out_stride: i32,
    tokens: i32,
    before: i32,
    after: i32,
    scale: f32,
    bias_columns: i32,
    bias_zero: i32,
    threshold: u32,
    kept: f32,
    seed: u64,
}

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The result.
    Forward,
    /// Gradients by queries (and the bias).
    Queries,
    /// Gradients by keys and values.
    Keys,
}

impl Pass {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Queries, Self::Keys];

    /// Rows and columns of a tile: what fits 64 KiB and the registers.
    fn tile(self, kind: Kind) -> (usize, usize) {
        match (self, kind.depth) {
            (Self::Forward, _) if kind.mma() => (64, 64),
            (Self::Queries, ..=64) | (Self::Keys, ..=32) if kind.mma() => (64, 64),
            (Self::Queries, _) | (Self::Keys, ..=64) if kind.mma() => (64, 32),
            (Self::Keys, _) if kind.mma() => (64, 16),
            (Self::Forward, ..=64) => (64, 32),
            (_, ..=64) | (Self::Forward, ..=128) => (32, 32),
            (_, ..=128) => (32, 16),
            (Self::Forward, _) => (16, 16),
            _ => (16, 8),
        }
    }

    /// Bytes of shared memory, as the kernels lay it out.
    fn shared(self, kind: Kind) -> u32 {
        let ((rows, columns), depth) = (self.tile(kind), kind.depth);
        let values = if kind.mma() {
            let (by_token, by_value) = (columns * (depth + 8) / 2, depth * (columns + 8) / 2);
            match self {
                Self::Forward => by_token + by_value,
                Self::Queries => 2 * by_token + by_value,
                Self::Keys => 2 * (by_token + by_value),
            }
        } else {
            let (line, scores) = (depth + 1, rows * (columns + 1));
            match self {
                Self::Forward => (rows + 2 * columns) * line + scores,
                Self::Queries => 2 * (rows + columns) * line + scores,
                Self::Keys => 2 * (rows + columns) * line + 2 * scores,
            }
        };
        4 * values as u32
    }
}

/// What kernels there are for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub dtype: DType,
    pub depth: usize,
}

impl Kind {
    /// Whether tensor cores multiply the tiles.
    fn mma(self) -> bool {
        self.dtype == DType::BF16 && self.depth.is_multiple_of(16) && self.depth <= 128
    }
}

/// The kernels of a pass.
pub(super) fn module(kind: Kind, pass: Pass, bias: bool, dropout: bool) -> Module {
    let forward = pass == Pass::Forward;
    let source = match (kind.mma(), forward) {
        (true, _) => Source::AttentionMma,
        (false, true) => Source::Attention,
        (false, false) => Source::AttentionBackward,
    };
    let (rows, columns) = pass.tile(kind);
    let mut module = Module::new(source, kind.dtype).with("DEPTH", kind.depth).with("COLUMNS", columns);
    if !kind.mma() {
        module = module.with("ROWS", rows);
    }
    if !forward {
        module = module.with("BACKWARD", 1);
    }
    module.with("BIAS", bias.into()).with("DROPOUT", dropout.into())
}

/// Whether the kernels take heads of this depth.
pub fn covers(q: &Tensor, depth: usize) -> bool {
    super::covers(q) && depth <= DEEPEST
}

/// The first values of queries, keys and values in these tensors.
type Parts<'a> = [(&'a Tensor, usize); 3];

#[derive(Clone)]
struct Attention {
    cu_seqlens: Arc<Vec<usize>>,
    heads: Heads,
    depth: usize,
    shape: Shape,
}

impl Attention {
    /// `strides`: values from row to row of queries, and of keys.
    fn new(
        tokens: usize,
        strides: [usize; 2],
        cu_seqlens: &Arc<Vec<usize>>,
        heads: Heads,
        depth: usize,
        bias: Option<&Tensor>,
    ) -> Result<Self> {
        let far = |reach: usize| i32::try_from(reach).unwrap_or(i32::MAX).min(1 << 30);
        let (before, after) = heads.reach();
        let columns = bias.map_or(Ok(1), |bias| bias.dim(1))?;
        let (seed, threshold, kept) = heads.dropout.as_ref().map_or((0, 0, 1.0), |dropout| dropout.parts().0.parts());
        let shape = Shape {
            heads: heads.count as i32,
            group: (heads.count / heads.key_values()) as i32,
            q_stride: strides[0] as i32,
            k_stride: strides[1] as i32,
            out_stride: (heads.count * depth) as i32,
            tokens: tokens as i32,
            before: far(before),
            after: far(after),
            scale: heads.scale(depth),
            bias_columns: columns as i32,
            bias_zero: (columns / 2) as i32,
            threshold,
            kept,
            seed,
        };
        Ok(Self { cu_seqlens: cu_seqlens.clone(), heads, depth, shape })
    }

    fn tokens(&self) -> usize {
        self.shape.tokens as usize
    }

    fn width(&self) -> usize {
        self.heads.count * self.depth
    }

    /// What a pass runs on: kernels, tiles, and where dropout has its tokens.
    fn plan(&self, pass: Pass, like: &Tensor, bias: bool) -> Result<(Module, Tensor, Option<Tensor>)> {
        let dropout = self.heads.dropout.as_ref();
        let places = dropout.map(|dropout| indices::places(dropout.places(), like.device())).transpose()?;
        let kind = self.kind(like);
        let tiles = indices::tiles(&self.cu_seqlens, pass.tile(kind).0, like.device())?;
        Ok((module(kind, pass, bias, dropout.is_some()), tiles, places))
    }

    fn kind(&self, like: &Tensor) -> Kind {
        Kind { dtype: like.dtype(), depth: self.depth }
    }

    fn grid(&self, pass: Pass, like: &Tensor, tiles: &Tensor, heads: usize) -> Result<Grid> {
        Ok(Grid { blocks: (tiles.dim(0)?, heads), threads: 128, shared: pass.shared(self.kind(like)) })
    }

    /// The result `[tokens, heads * depth]` and, if asked for, the logarithms of the softmaxes' sums `[heads, tokens]`.
    fn forward(
        &self,
        parts: Parts<'_>,
        bias: Option<&Tensor>,
        differentiated: bool,
    ) -> Result<(CudaStorage, Option<Tensor>)> {
        let like = parts[0].0;
        let device = device_of(like)?;
        let (module, tiles, places) = self.plan(Pass::Forward, like, bias.is_some())?;
        let bounds = indices::bounds(&self.cu_seqlens, like.device())?;
        let out = unset(&device, self.tokens() * self.width(), like.dtype())?;
        let sums = self.heads.count * self.tokens();
        let lse = differentiated.then(|| unset(&device, sums, DType::F32)).transpose()?;
        let [q, k, v] = parts.map(|(tensor, from)| Arg::In(tensor, from));
        let args = [
            q,
            k,
            v,
            Arg::maybe(bias),
            Arg::maybe(places.as_ref()),
            Arg::In(&bounds, 0),
            Arg::In(&tiles, 0),
            Arg::Raw(&out, 0),
            Arg::maybe_raw(lse.as_ref()),
            Arg::Attended(&self.shape),
        ];
        let grid = self.grid(Pass::Forward, like, &tiles, self.heads.count)?;
        // SAFETY: the kernel's arguments; the tiles are of the batch's sequences, whose bounds the caller has checked.
        unsafe { launch(&device, &module, "attention_forward", grid, &args)? };
        Ok((out, lse.map(|lse| tensor(lse, (self.heads.count, self.tokens())))))
    }

    /// Writes the gradients by queries, keys and values to `targets`, laid out as the inputs; adds that by the bias to `dbias`.
    fn backward(
        &self,
        parts: Parts<'_>,
        bias: Option<&Tensor>,
        [out, dout, lse]: [&Tensor; 3],
        targets: [(&CudaStorage, usize); 3],
        dbias: Option<&CudaStorage>,
    ) -> Result<()> {
        let like = parts[0].0;
        let (device, bounds) = (device_of(like)?, indices::bounds(&self.cu_seqlens, like.device())?);
        let (queries, tiles, places) = self.plan(Pass::Queries, like, bias.is_some())?;
        let rows = self.heads.count * self.tokens();
        let delta = unset(&device, rows, DType::F32)?;
        let args = [Arg::In(out, 0), Arg::In(dout, 0), Arg::Raw(&delta, 0), Arg::Attended(&self.shape)];
        // SAFETY: the kernel's arguments; a value for each row of each head.
        unsafe { launch(&device, &queries, "attention_delta", Grid::new((rows.div_ceil(4), 1), 128), &args)? };
        let [dq, dk, dv] = targets.map(|(storage, from)| Arg::Raw(storage, from));
        let inputs = |tiles| {
            let [q, k, v] = parts.map(|(tensor, from)| Arg::In(tensor, from));
            vec![
                q,
                k,
                v,
                Arg::In(dout, 0),
                Arg::maybe(bias),
                Arg::maybe(places.as_ref()),
                Arg::In(&bounds, 0),
                Arg::In(tiles, 0),
                Arg::In(lse, 0),
                Arg::Raw(&delta, 0),
            ]
        };
        let mut args = inputs(&tiles);
        args.extend([dq, Arg::maybe_raw(dbias), Arg::Attended(&self.shape)]);
        let grid = self.grid(Pass::Queries, like, &tiles, self.heads.count)?;
        // SAFETY: as in `forward`; the target is laid out as the queries.
        unsafe { launch(&device, &queries, "attention_queries", grid, &args)? };
        drop(args);
        let (keys, tiles, _) = self.plan(Pass::Keys, like, bias.is_some())?;
        let mut args = inputs(&tiles);
        args.extend([dk, dv, Arg::Attended(&self.shape)]);
        let grid = self.grid(Pass::Keys, like, &tiles, self.heads.key_values())?;
        // SAFETY: as in `forward`; the targets are laid out as keys and values.
        unsafe { launch(&device, &keys, "attention_keys", grid, &args) }
    }
}

/// See [`crate::nn::attention::attention`], of queries, keys and values of one shape.
///
/// # Errors
/// The compiler's and the driver's.
pub fn apart([q, k, v]: [&Tensor; 3], cu_seqlens: &Arc<Vec<usize>>, heads: Heads, depth: usize) -> Result<Tensor> {
    let [q, k, v] = [q.contiguous()?, k.contiguous()?, v.contiguous()?];
    let (tokens, width) = q.dims2()?;
    let attention = Attention::new(tokens, [width, width], cu_seqlens, heads, depth, None)?;
    let differentiated = [&q, &k, &v].iter().any(|x| x.track_op());
    let (out, lse) = attention.forward([(&q, 0), (&k, 0), (&v, 0)], None, differentiated)?;
    let shape = q.shape().clone();
    record3("packed-attention", [&q, &k, &v], out, &shape, move |[q, k, v], out, dout| {
        let Some(lse) = &lse else { candle_core::bail!("packed-attention: no sums are kept") };
        let device = device_of(&q)?;
        let new = || unset(&device, q.elem_count(), q.dtype());
        let targets = [new()?, new()?, new()?];
        let [dq, dk, dv] = &targets;
        attention.backward([(&q, 0), (&k, 0), (&v, 0)], None, [out, dout, lse], [(dq, 0), (dk, 0), (dv, 0)], None)?;
        Ok(targets.map(|target| Some(tensor(target, q.shape()))))
    })
}

/// See [`crate::nn::attention::joint_attention`].
///
/// # Errors
/// The compiler's and the driver's.
pub fn joint(
    qkv: &Tensor,
    cu_seqlens: &Arc<Vec<usize>>,
    heads: Heads,
    depth: usize,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let qkv = qkv.contiguous()?;
    let (tokens, width) = qkv.dims2()?;
    let bias = bias.map(super::parameter).transpose()?;
    let columns = [0, heads.count * depth, (heads.count + heads.key_values()) * depth];
    let attention = Attention::new(tokens, [width, width], cu_seqlens, heads, depth, bias.as_ref())?;
    let by_bias = bias.as_ref().is_some_and(Tensor::track_op);
    let (out, lse) =
        attention.forward(columns.map(|column| (&qkv, column)), bias.as_ref(), qkv.track_op() || by_bias)?;
    let shape = (tokens, attention.width());
    let run = move |qkv: &Tensor, bias: Option<&Tensor>, out: &Tensor, dout: &Tensor| {
        let Some(lse) = &lse else { candle_core::bail!("packed-attention: no sums are kept") };
        let device = device_of(qkv)?;
        let target = unset(&device, qkv.elem_count(), qkv.dtype())?;
        let dbias = bias.filter(|_| by_bias).map(|bias| zeros(&device, bias.elem_count(), DType::F32)).transpose()?;
        attention.backward(
            columns.map(|column| (qkv, column)),
            bias,
            [out, dout, lse],
            columns.map(|column| (&target, column)),
            dbias.as_ref(),
        )?;
        let dbias = dbias.zip(bias).map(|(dbias, bias)| tensor(dbias, bias.shape()));
        Ok((Some(tensor(target, qkv.shape())), dbias))
    };
    match bias {
        Some(bias) => record2("packed-attention", [&qkv, &bias], out, shape, move |[qkv, bias], out, dout| {
            let (dqkv, dbias) = run(&qkv, Some(&bias), out, dout)?;
            Ok([dqkv, dbias])
        }),
        None => record1("packed-attention", [&qkv], out, shape, move |[qkv], out, dout| {
            let (dqkv, _) = run(&qkv, None, out, dout)?;
            Ok([dqkv])
        }),
    }
}
