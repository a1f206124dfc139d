//! Inner products of many vectors with many others in `f64`, the inner loop of every estimator here.
//!
//! Each product is summed in eight interleaved parts that are added up in a fixed order, with separate multiplications and
//! additions, so the values are the same on every machine: wider vector instructions change the speed only.

const LANES: usize = 8;

/// `out[i, j] = Σ_d a[i, d]·b[j, d]` for row-major `a` `[m, dim]`, `b` `[n, dim]` and `out` `[m, n]`.
///
/// Lengths that are no multiple of `dim` are cut down to whole rows; an `out` shorter than `m·n` limits `m`.
pub fn inner_products(a: &[f64], b: &[f64], dim: usize, out: &mut [f64]) {
    if dim == 0 {
        out.fill(0.0);
        return;
    }
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            return unsafe { products_avx512(a, b, dim, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the feature.
            return unsafe { products_avx2(a, b, dim, out) };
        }
    }
    products::<[f64; LANES], 1, 2>(a, b, dim, out);
}

/// `Σ a[d]·b[d]`, summed as [`inner_products`] does.
pub fn inner_product(a: &[f64], b: &[f64]) -> f64 {
    let mut out = [0.0];
    inner_products(a, b, a.len().min(b.len()), &mut out);
    out[0]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn products_avx512(a: &[f64], b: &[f64], dim: usize, out: &mut [f64]) {
    products::<x86::Wide, 4, 4>(a, b, dim, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn products_avx2(a: &[f64], b: &[f64], dim: usize, out: &mut [f64]) {
    products::<x86::Halves, 2, 2>(a, b, dim, out);
}

#[inline(always)]
fn products<V: Lanes, const I: usize, const J: usize>(a: &[f64], b: &[f64], dim: usize, out: &mut [f64]) {
    // This many rows of `a` stay in the first cache level while the rows of `b` pass by.
    let panel = (24 * 1024 / (8 * dim)).clamp(1, 64).next_multiple_of(I);
    let n = b.len() / dim;
    let m = (a.len() / dim).min(out.len().checked_div(n).unwrap_or(0));
    let mut start = 0;
    while start < m {
        let end = (start + panel).min(m);
        let mut j = 0;
        while j + J <= n {
            let columns = std::array::from_fn(|t| &b[(j + t) * dim..(j + t + 1) * dim]);
            column_block::<V, I, J>(a, columns, (start, end), (j, n), out);
            j += J;
        }
        while j < n {
            column_block::<V, I, 1>(a, [&b[j * dim..(j + 1) * dim]], (start, end), (j, n), out);
            j += 1;
        }
        start = end;
    }
}

#[inline(always)]
fn column_block<V: Lanes, const I: usize, const J: usize>(
    a: &[f64],
    columns: [&[f64]; J],
    (start, end): (usize, usize),
    (j, n): (usize, usize),
    out: &mut [f64],
) {
    let dim = columns[0].len();
    let mut i = start;
    while i + I <= end {
        let rows = std::array::from_fn(|t| &a[(i + t) * dim..(i + t + 1) * dim]);
        for (t, values) in tile::<V, I, J>(rows, columns).iter().enumerate() {
            out[(i + t) * n + j..(i + t) * n + j + J].copy_from_slice(values);
        }
        i += I;
    }
    while i < end {
        let [values] = tile::<V, 1, J>([&a[i * dim..(i + 1) * dim]], columns);
        out[i * n + j..i * n + j + J].copy_from_slice(&values);
        i += 1;
    }
}

#[inline(always)]
fn tile<V: Lanes, const I: usize, const J: usize>(rows: [&[f64]; I], columns: [&[f64]; J]) -> [[f64; J]; I] {
    let dim = columns[0].len();
    let eights = dim / LANES;
    let whole = eights * LANES;
    let left: [&[[f64; LANES]]; I] = std::array::from_fn(|i| &rows[i].as_chunks().0[..eights]);
    let right: [&[[f64; LANES]]; J] = std::array::from_fn(|j| &columns[j].as_chunks().0[..eights]);
    let mut sums = [[V::zero(); J]; I];
    for at in 0..eights {
        let right: [V; J] = std::array::from_fn(|j| V::load(&right[j][at]));
        for (sums, row) in sums.iter_mut().zip(left) {
            let left = V::load(&row[at]);
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum = sum.plus_product(left, right);
            }
        }
    }
    let mut products = [[0.0; J]; I];
    for i in 0..I {
        for j in 0..J {
            let mut sums = sums[i][j].values();
            for (sum, (a, b)) in sums.iter_mut().zip(rows[i][whole..].iter().zip(&columns[j][whole..])) {
                *sum += a * b;
            }
            products[i][j] = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
        }
    }
    products
}

/// Eight numbers side by side.
trait Lanes: Copy {
    fn zero() -> Self;
    fn load(values: &[f64; LANES]) -> Self;
    /// `self + a·b`, the product rounded first.
    fn plus_product(self, a: Self, b: Self) -> Self;
    fn values(self) -> [f64; LANES];
}

/// Left to the compiler's own vectorisation.
impl Lanes for [f64; LANES] {
    #[inline(always)]
    fn zero() -> Self {
        [0.0; LANES]
    }

    #[inline(always)]
    fn load(values: &[f64; LANES]) -> Self {
        *values
    }

    #[inline(always)]
    fn plus_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + a[lane] * b[lane])
    }

    #[inline(always)]
    fn values(self) -> [f64; LANES] {
        self
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256d, __m512d, _mm256_add_pd, _mm256_loadu_pd, _mm256_mul_pd, _mm256_setzero_pd, _mm256_storeu_pd,
        _mm512_add_pd, _mm512_loadu_pd, _mm512_mul_pd, _mm512_setzero_pd, _mm512_storeu_pd,
    };

    use super::{LANES, Lanes};

    /// One AVX-512 register; made only in functions that have the feature.
    #[derive(Clone, Copy)]
    pub struct Wide(__m512d);

    /// Two AVX registers; made only in functions that have the feature.
    #[derive(Clone, Copy)]
    pub struct Halves(__m256d, __m256d);

    // SAFETY of all calls below: `products_avx512` and `products_avx2` are the only users of these types and run only where
    // the feature was detected; every pointer comes from an array of eight values.
    impl Lanes for Wide {
        #[inline(always)]
        fn zero() -> Self {
            Self(unsafe { _mm512_setzero_pd() })
        }

        #[inline(always)]
        fn load(values: &[f64; LANES]) -> Self {
            Self(unsafe { _mm512_loadu_pd(values.as_ptr()) })
        }

        #[inline(always)]
        fn plus_product(self, a: Self, b: Self) -> Self {
            Self(unsafe { _mm512_add_pd(self.0, _mm512_mul_pd(a.0, b.0)) })
        }

        #[inline(always)]
        fn values(self) -> [f64; LANES] {
            let mut values = [0.0; LANES];
            unsafe { _mm512_storeu_pd(values.as_mut_ptr(), self.0) };
            values
        }
    }

    impl Lanes for Halves {
        #[inline(always)]
        fn zero() -> Self {
            unsafe { Self(_mm256_setzero_pd(), _mm256_setzero_pd()) }
        }

        #[inline(always)]
        fn load(values: &[f64; LANES]) -> Self {
            unsafe { Self(_mm256_loadu_pd(values.as_ptr()), _mm256_loadu_pd(values[4..].as_ptr())) }
        }

        #[inline(always)]
        fn plus_product(self, a: Self, b: Self) -> Self {
            unsafe {
                let low = _mm256_add_pd(self.0, _mm256_mul_pd(a.0, b.0));
                Self(low, _mm256_add_pd(self.1, _mm256_mul_pd(a.1, b.1)))
            }
        }

        #[inline(always)]
        fn values(self) -> [f64; LANES] {
            let mut values = [0.0; LANES];
            unsafe {
                _mm256_storeu_pd(values.as_mut_ptr(), self.0);
                _mm256_storeu_pd(values[4..].as_mut_ptr(), self.1);
            }
            values
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tiles_give_the_same_values() {
        for (m, n, dim) in [(1, 1, 1), (5, 7, 19), (13, 6, 64), (70, 9, 384), (4, 0, 3), (0, 4, 3)] {
            let a: Vec<f64> = (0..m * dim).map(|i| ((i * 7 % 31) as f64 - 15.0) / 7.0).collect();
            let b: Vec<f64> = (0..n * dim).map(|i| ((i * 5 % 29) as f64 - 14.0) / 3.0).collect();
            let (mut fast, mut plain) = (vec![0.0; m * n], vec![0.0; m * n]);
            inner_products(&a, &b, dim, &mut fast);
            products::<[f64; LANES], 1, 1>(&a, &b, dim, &mut plain);
            assert_eq!(fast, plain);
            #[cfg(target_arch = "x86_64")]
            if dim > 0 && is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has the feature.
                unsafe { products_avx2(&a, &b, dim, &mut fast) };
                assert_eq!(fast, plain);
            }
            for i in 0..m {
                for j in 0..n {
                    let exact: f64 = (0..dim).map(|d| a[i * dim + d] * b[j * dim + d]).sum();
                    assert!((exact - fast[i * n + j]).abs() < 1e-9 * (1.0 + exact.abs()));
                }
            }
        }
    }
}
