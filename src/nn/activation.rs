//! Element-wise activations.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::kernel::math;
use super::kernel::parallel;
use super::kernel::simd::multiversion;
use super::storage::{output, unset, values, with_values};

const NAME: &str = "gelu";

/// The activations that the supported architectures use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x), exact (`gelu`).
    Gelu,
    /// Identity.
    None,
    /// tanh(x) (`Dense` layers).
    Tanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Applies it to every element.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu if x.device().is_cpu() => x.contiguous()?.apply_op1(Gelu),
            Self::Gelu => super::composed::gelu(x),
            Self::None => Ok(x.clone()),
            Self::Tanh => x.tanh(),
            Self::Relu => x.relu(),
        }
    }
}

multiversion! {
    /// GELU of every value, in place.
    pub fn gelu_in_place<A>(x: &mut [f32]) {
        for value in x {
            *value = math::gelu::<A>(*value);
        }
    }
}

multiversion! {
    fn gelu_backward<A>(x: &[f32], dy: &[f32], out: &mut [f32]) {
        for ((o, x), d) in out.iter_mut().zip(x).zip(dy) {
            *o = d * math::gelu_derivative::<A>(*x);
        }
    }
}

struct Gelu;

/// Values that one call of a kernel takes.
const BLOCK: usize = 16_384;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = values(NAME, storage, layout)?.to_vec();
        parallel::over_rows(&mut out, BLOCK, |_, part| gelu_in_place(part));
        Ok(output(out, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        with_values(NAME, [x, dout], |[xs, dy]| {
            // SAFETY: the kernel writes every block.
            let mut dx = unsafe { unset(xs.len()) };
            parallel::over_rows(&mut dx, BLOCK, |block, part| {
                let range = block * BLOCK..block * BLOCK + part.len();
                gelu_backward(&xs[range.clone()], &dy[range], part);
            });
            Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
        })
    }
}
