//! The dynamic 8-bit type (Dettmers 2015, "8-bit approximations for parallelism in deep learning"), in which bitsandbytes
//! holds the statistics of 4-bit blocks.

use std::sync::OnceLock;

/// Values that share an absolute maximum.
pub const BLOCK: usize = 256;

/// Decimal exponents of the type: 10⁻⁶ to 10⁰.
const EXPONENTS: i32 = 7;
/// Steps from −1 to 1 that a value is rounded to before its code is looked up; bitsandbytes' CPU kernel does so.
const STEPS: f32 = 65_535.0;

/// The 256 values of the type, ascending: ±10^(e−6) times the midpoints of 2^e equal parts of \[0.1, 1\], zero, and one.
pub fn map() -> &'static [f32; 256] {
    static MAP: OnceLock<[f32; 256]> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut values = vec![0.0, 1.0];
        for exponent in 0..EXPONENTS {
            let parts = 1usize << exponent;
            let step = (1.0 - 0.1f32) / parts as f32;
            // PyTorch's linspace: from either end to the middle, in one rounding.
            let bound = |k: usize| {
                if k < parts.div_ceil(2) {
                    step.mul_add(k as f32, 0.1)
                } else {
                    (-step).mul_add((parts - k) as f32, 1.0)
                }
            };
            let scale = 10f64.powi(exponent - EXPONENTS + 1) as f32;
            for part in 0..parts {
                let value = scale * ((bound(part) + bound(part + 1)) / 2.0);
                values.extend([value, -value]);
            }
        }
        values.sort_by(f32::total_cmp);
        let mut map = [0.0; 256];
        map.iter_mut().zip(values).for_each(|(to, value)| *to = value);
        map
    })
}

/// Quantises values in blocks of [`BLOCK`]: (codes, absolute maxima of the blocks).
pub fn quantize(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let map = map();
    let middles: Vec<f32> = map.windows(2).map(|pair| (pair[0] + pair[1]) * 0.5).collect();
    let (mut codes, mut maxima) = (Vec::with_capacity(values.len()), Vec::new());
    for block in values.chunks(BLOCK) {
        let absmax = block.iter().fold(0f32, |max, v| max.max(v.abs()));
        maxima.push(absmax);
        if absmax == 0.0 {
            codes.resize(codes.len() + block.len(), 0);
            continue;
        }
        let inverse = 1.0 / absmax;
        codes.extend(block.iter().map(|value| {
            let scaled = (value * inverse).clamp(-1.0, 1.0);
            let step = ((scaled + 1.0) * 0.5).mul_add(STEPS, 0.5).trunc();
            let rounded = (step + step) / STEPS - 1.0;
            middles.partition_point(|&middle| rounded > middle) as u8
        }));
    }
    (codes, maxima)
}

/// The value of a code of a block.
pub fn dequantize(code: u8, absmax: f32) -> f32 {
    map()[usize::from(code)] * absmax
}
