//! Dropout (Srivastava et al. 2014) with a mask that is a pure function of a seed and the element's index.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::kernel::parallel;
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
    let mut mask = vec![1f32; x.elem_count()];
    op.apply(0, &mut mask);
    x.mul(&Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?)
}

struct Dropout {
    p: f32,
    seed: u64,
}

/// SplitMix64's output function (Steele et al. 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
