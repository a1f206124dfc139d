//! Element-wise activations, and gated ones.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::kernel::math;
use super::kernel::parallel::{self, Disjoint};
use super::kernel::simd::{Arith, multiversion};
use super::storage::{output, unset, values, with_values};

/// The activations that the supported architectures use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), exact (`gelu`).
    Gelu,
    /// GELU approximated by tanh (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// x σ(x) (`silu`, `swish`).
    Silu,
    /// Identity.
    None,
    /// tanh(x) (`Dense` layers).
    Tanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// The activation of this name in a transformers config.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" => Self::GeluTanh,
            "silu" | "swish" => Self::Silu,
            "relu" => Self::Relu,
            "tanh" => Self::Tanh,
            "linear" => Self::None,
            _ => return None,
        })
    }

    /// Applies it to every element.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Tanh => x.tanh(),
            Self::Relu => x.relu(),
            _ if x.device().is_cpu() => x.contiguous()?.apply_op1(Elements(self)),
            #[cfg(feature = "cuda")]
            _ if super::cuda::covers(x) => super::cuda::activation::activation(x, self),
            _ => super::composed::activation(x, self),
        }
    }

    /// Applies it in place.
    pub(super) fn apply(self, x: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
            Self::Silu => silu(x),
            Self::Relu => x.iter_mut().for_each(|v| *v = v.max(0.0)),
            Self::Tanh => x.iter_mut().for_each(|v| *v = v.tanh()),
        }
    }

    /// Whether [`Self::apply`] computes what [`Self::forward`] does, to the bit.
    pub(super) fn fuses(self) -> bool {
        matches!(self, Self::Gelu | Self::GeluTanh | Self::Silu)
    }

    /// Value and derivative.
    #[inline(always)]
    fn at<A: Arith>(self, x: f32) -> (f32, f32) {
        match self {
            Self::Gelu => (math::gelu::<A>(x), math::gelu_derivative::<A>(x)),
            Self::GeluTanh => (math::gelu_tanh::<A>(x), math::gelu_tanh_derivative::<A>(x)),
            Self::Silu => (math::silu::<A>(x), math::silu_derivative::<A>(x)),
            Self::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            Self::None => (x, 1.0),
            Self::Tanh => {
                let y = x.tanh();
                (y, 1.0 - y * y)
            }
        }
    }
}

multiversion! {
    fn gelu<A>(x: &mut [f32]) {
        x.iter_mut().for_each(|value| *value = math::gelu::<A>(*value));
    }
}

multiversion! {
    fn gelu_tanh<A>(x: &mut [f32]) {
        x.iter_mut().for_each(|value| *value = math::gelu_tanh::<A>(*value));
    }
}

multiversion! {
    fn silu<A>(x: &mut [f32]) {
        x.iter_mut().for_each(|value| *value = math::silu::<A>(*value));
    }
}

/// `out = dy f'(x)`; one loop for each function, so that each vectorises.
macro_rules! slopes {
    ($kind:expr, |$activation:ident| $body:expr) => {
        match $kind {
            Activation::Gelu => {
                let $activation = Activation::Gelu;
                $body
            }
            Activation::GeluTanh => {
                let $activation = Activation::GeluTanh;
                $body
            }
            Activation::Silu => {
                let $activation = Activation::Silu;
                $body
            }
            Activation::Relu => {
                let $activation = Activation::Relu;
                $body
            }
            Activation::None => {
                let $activation = Activation::None;
                $body
            }
            Activation::Tanh => {
                let $activation = Activation::Tanh;
                $body
            }
        }
    };
}

multiversion! {
    fn backward<A>(kind: Activation, x: &[f32], dy: &[f32], out: &mut [f32]) {
        slopes!(kind, |f| for ((o, x), d) in out.iter_mut().zip(x).zip(dy) {
            *o = d * f.at::<A>(*x).1;
        });
    }
}

multiversion! {
    /// `out = f(gate) * up` of one row.
    fn gated_forward<A>(kind: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
        slopes!(kind, |f| for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
            *o = f.at::<A>(*g).0 * u;
        });
    }
}

multiversion! {
    /// Gradients by gate and up of one row.
    fn gated_backward<A>(kind: Activation, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        slopes!(kind, |f| for ((((dg, du), g), u), d) in dgate.iter_mut().zip(dup.iter_mut()).zip(gate).zip(up).zip(dy) {
            let (value, slope) = f.at::<A>(*g);
            *dg = d * u * slope;
            *du = d * value;
        });
    }
}

/// The activation of every value.
pub(super) fn applied(kind: Activation, x: &[f32]) -> Vec<f32> {
    // SAFETY: every block is written.
    let mut out = unsafe { unset(x.len()) };
    parallel::over_rows(&mut out, BLOCK, |first, part| {
        part.copy_from_slice(&x[first * BLOCK..][..part.len()]);
        kind.apply(part);
    });
    out
}

/// `x = f(x)` and `dy = dy f'(x)`.
pub(super) fn with_slope(kind: Activation, x: &mut [f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "gradient of another size");
    let shared = Disjoint::new(dy);
    parallel::over_rows(x, SMALL_BLOCK, |first, part| {
        // SAFETY: blocks do not overlap.
        let dy = unsafe { shared.range(first * SMALL_BLOCK, part.len()) };
        value_and_slope(kind, part, dy);
    });
}

multiversion! {
    /// `x = f(x)` and `dy = dy f'(x)`, on this thread.
    pub(super) fn value_and_slope<A>(kind: Activation, x: &mut [f32], dy: &mut [f32]) {
        slopes!(kind, |f| for (d, x) in dy.iter_mut().zip(x) {
            let (value, slope) = f.at::<A>(*x);
            *x = value;
            *d *= slope;
        });
    }
}

struct Elements(Activation);

/// Values that one call of a kernel takes.
const BLOCK: usize = 16_384;
/// As [`BLOCK`], where two arrays are read and written.
const SMALL_BLOCK: usize = 8_192;

impl CustomOp1 for Elements {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = values(self.name(), storage, layout)?.to_vec();
        parallel::over_rows(&mut out, BLOCK, |_, part| self.0.apply(part));
        Ok(output(out, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values("activation", [x, dout], |[xs, dy]| {
            // SAFETY: the kernel writes every block.
            let mut dx = unsafe { unset(xs.len()) };
            parallel::over_rows(&mut dx, BLOCK, |block, part| {
                let range = block * BLOCK..block * BLOCK + part.len();
                backward(self.0, &xs[range.clone()], &dy[range], part);
            });
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}

/// A gated linear unit (Dauphin et al. 2017; Shazeer 2020): `f(gate) * up`, both `[tokens, inner]`.
///
/// # Errors
/// Where the shapes differ.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    let (_, inner) = gate.dims2()?;
    if gate.dims() != up.dims() {
        bail!("gated-linear-unit: gate {:?} and up {:?} differ", gate.dims(), up.dims());
    }
    #[cfg(feature = "cuda")]
    if super::cuda::covers(gate) {
        return super::cuda::activation::gated(gate, up, activation);
    }
    if !gate.device().is_cpu() {
        return super::composed::activation(gate, activation)? * up;
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, Gated { activation, inner })
}

/// As [`gated`], of gate and up side by side in one tensor, `[tokens, 2 * inner]`, the gate first.
///
/// # Errors
/// Where the width is odd.
pub fn joint_gated(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    let inner = width / 2;
    if !width.is_multiple_of(2) {
        bail!("gated-linear-unit: {width} columns are not a gate and what it is multiplied with");
    }
    #[cfg(feature = "cuda")]
    if super::cuda::covers(x) {
        return super::cuda::activation::joint_gated(x, activation);
    }
    if !x.device().is_cpu() {
        let (gate, up) = (x.narrow(1, 0, inner)?.contiguous()?, x.narrow(1, inner, inner)?.contiguous()?);
        return super::composed::activation(&gate, activation)? * up;
    }
    x.contiguous()?.apply_op1(Gated { activation, inner })
}

struct Gated {
    activation: Activation,
    inner: usize,
}

impl Gated {
    /// Rows `stride` values apart.
    fn forward(&self, gate: &[f32], up: &[f32], stride: usize, rows: usize) -> Vec<f32> {
        // SAFETY: the kernel writes every row.
        let mut out = unsafe { unset(rows * self.inner) };
        parallel::over_rows(&mut out, self.inner, |first, part| {
            for (r, out) in part.chunks_exact_mut(self.inner).enumerate() {
                let start = (first + r) * stride;
                gated_forward(self.activation, &gate[start..start + self.inner], &up[start..start + self.inner], out);
            }
        });
        out
    }

    /// Writes the gradients to rows `stride` values apart of both targets, from the columns given on.
    fn backward(&self, [gate, up, dy]: [&[f32]; 3], stride: usize, targets: [(Disjoint<'_>, usize); 2]) {
        let inner = self.inner;
        let [(dgate, gate_column), (dup, up_column)] = targets;
        parallel::over(dy.len() / inner.max(1), |row| {
            let start = row * stride;
            // SAFETY: rows do not overlap, nor do the columns of gate and up.
            let (dgate, dup) =
                unsafe { (dgate.range(gate_column + start, inner), dup.range(up_column + start, inner)) };
            let dy = &dy[row * inner..(row + 1) * inner];
            gated_backward(self.activation, &gate[start..start + inner], &up[start..start + inner], dy, dgate, dup);
        });
    }
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated-linear-unit"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let name = "gated-linear-unit";
        let out = self.forward(values(name, s1, l1)?, values(name, s2, l2)?, self.inner, l1.shape().dims()[0]);
        Ok(output(out, l1.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, dout: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_values("gated-linear-unit", [gate, up, dout], |inputs| {
            // SAFETY: every row of both is written.
            let (mut dgate, mut dup) = unsafe { (unset(inputs[0].len()), unset(inputs[0].len())) };
            self.backward(inputs, self.inner, [(Disjoint::new(&mut dgate), 0), (Disjoint::new(&mut dup), 0)]);
            let tensor = |data| Tensor::from_vec(data, gate.shape(), gate.device()).map(Some);
            Ok((tensor(dgate)?, tensor(dup)?))
        })
    }
}

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated-linear-unit"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values("gated-linear-unit", storage, layout)?;
        let rows = layout.shape().dims()[0];
        let out = self.forward(x, x.get(self.inner..).unwrap_or_default(), 2 * self.inner, rows);
        Ok(output(out, (rows, self.inner)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values("gated-linear-unit", [x, dout], |[xs, dy]| {
            // SAFETY: both halves of every row are written.
            let mut dx = unsafe { unset(xs.len()) };
            let shared = Disjoint::new(&mut dx);
            let up = xs.get(self.inner..).unwrap_or_default();
            self.backward([xs, up, dy], 2 * self.inner, [(shared, 0), (shared, self.inner)]);
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}
