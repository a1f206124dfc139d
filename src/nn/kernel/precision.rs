//! Precision of matrix products on this thread: `f32`, or operands rounded to `bf16` with sums in `f32` (what mixed-precision
//! training calls autocast; Micikevicius et al. 2018, Kalamkar et al. 2019). On a matrix unit it is the number of `bf16` parts
//! that an operand is split into ([`super::packed`]).

use std::cell::Cell;

/// Parts of an `f32`.
pub const F32: usize = 3;
/// Parts of an operand of 16 significant bits: half the products of an `f32`, each off by 2⁻¹⁶ at the most. What PyTorch calls `high`
/// (`torch.set_float32_matmul_precision`: "the sum of two bfloat16 numbers").
pub const HIGH: usize = 2;
/// Parts of what is rounded to `bf16`.
pub const BF16: usize = 1;

thread_local! {
    static PARTS: Cell<usize> = const { Cell::new(F32) };
}

/// Puts the precision of this thread's products back when it goes.
#[must_use]
pub struct Scope {
    before: usize,
    // Of this thread.
    not_send: std::marker::PhantomData<*const ()>,
}

/// Products that this thread asks for have operands of `bf16` from now on, or of `f32`, until the scope goes.
pub fn scope(bf16: bool) -> Scope {
    in_parts(if bf16 { BF16 } else { F32 })
}

/// As [`scope`], with operands of 1 to 3 parts. Where no matrix unit makes it worth having two, they have three.
pub fn in_parts(parts: usize) -> Scope {
    let parts = if parts == BF16 || (parts == HIGH && has_unit()) { parts } else { F32 };
    Scope { before: PARTS.replace(parts), not_send: std::marker::PhantomData }
}

/// What tells this thread's products from those in another precision, or of a processor that lays operands out in another way.
pub fn arithmetic() -> [u8; 2] {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    let layout = layout().unwrap_or_default();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    let layout = 0;
    [parts() as u8, layout as u8]
}

fn has_unit() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return super::amx::available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// How operands in this thread's precision are laid out for products by blocks ([`super::amx::layout`]).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn layout() -> Option<usize> {
    super::amx::layout(parts())
}

/// Whether this thread's products have operands of `bf16`.
pub fn is_bf16() -> bool {
    PARTS.get() == BF16
}

/// Parts that what is added to a weight is made with: all, but for `bf16`.
pub fn parts_of_weights() -> usize {
    if is_bf16() { BF16 } else { F32 }
}

/// Parts that operands of this thread's products are split into on a matrix unit.
pub fn parts() -> usize {
    PARTS.get()
}

impl Drop for Scope {
    fn drop(&mut self) {
        PARTS.set(self.before);
    }
}
/// The values rounded to the nearest `bf16`, ties to even.
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::gemm::{Operand, multiply};
    use super::*;

    #[test]
    fn products_in_bf16_are_those_of_rounded_operands() {
        let value = |i: usize| ((i * 2_654_435_761) % 1_000) as f32 / 500.0 - 1.0;
        for (m, n, k) in [(3, 20, 130), (70, 96, 200), (40, 33, 9)] {
            let (x, y): (Vec<f32>, Vec<f32>) =
                ((0..m * k).map(value).collect(), (0..n * k).map(|i| value(i + 7)).collect());
            let run = |x: &[f32], y: &[f32]| {
                let mut out = vec![0.0; m * n];
                multiply(&mut out, false, 1.0, Operand::new(x, m, k), Operand::new(y, n, k).t());
                out
            };
            let want = run(&rounded(&x), &rounded(&y));
            let exact = run(&x, &y);
            let got = {
                let _scope = scope(true);
                run(&x, &y)
            };
            assert!(!is_bf16());
            let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            if n * k >= 1 << 11 {
                assert!(far(&got, &want) < 1e-5 * k as f32, "{}", far(&got, &want));
                assert!(far(&got, &exact) > 1e-4);
            }
        }
    }
}
