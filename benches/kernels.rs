//! The CPU kernels beside this machine's own peaks, measured in the same run: `cargo bench --bench kernels`.
//!
//! criterion prints G elements a second, which are GFLOP/s in the groups `peak` and `product`, and GiB/s (read and written) in
//! the others. `peak` has what a core's units give with all data in the first-level cache, on every thread of the pool at once
//! (RAYON_NUM_THREADS), what the `gemm` crate gives on a large product, and what memory gives. The shapes are those of
//! all-MiniLM-L6-v2 with 768 tokens.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use embeval::nn::attention::joint_attention;
use embeval::nn::kernel::gemm::Operand;
use embeval::nn::kernel::layer_norm::{self, Rows};
use embeval::nn::kernel::packed::{Packed, Start};
use embeval::nn::kernel::{adamw, parallel, precision};

use candle_core::{Device, Tensor};

const TOKENS: usize = 768;
const HIDDEN: usize = 384;
const INNER: usize = 1536;

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as f64 / (1u64 << 30) as f64 - 1.0) as f32
    };
    (0..n).map(|_| next()).collect()
}

fn by_gemm(n: usize, x: &[f32], y: &[f32], out: &mut [f32]) {
    let (width, threads) = (n as isize, gemm::Parallelism::Rayon(parallel::threads()));
    assert!(x.len() == n * n && y.len() == n * n && out.len() == n * n);
    // SAFETY: the three slices are n x n by the assertion.
    unsafe {
        let (x, y) = (x.as_ptr(), y.as_ptr());
        gemm::gemm(
            n,
            n,
            n,
            out.as_mut_ptr(),
            1,
            width,
            false,
            x,
            1,
            width,
            y,
            1,
            width,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

/// Products of tiles in the first-level cache, on every thread of the pool; FLOP of the `f32` or `bf16` product it stands for.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn tiles<const PARTS: usize>(blocks: usize) {
    use embeval::nn::kernel::amx::{SIDE, Tile, Tiles, group};
    rayon::broadcast(|_| {
        let Some(registers) = Tiles::new(PARTS) else { return };
        // Not zeros: the processor slows down by what its units switch.
        let tile =
            |seed| Tile(std::array::from_fn(|i| 0x3f80_bf80 ^ (((i as u32 * 2_654_435_761) ^ seed) & 0x807f_007f)));
        let steps = 8 / PARTS;
        let a: Vec<Tile> = (0..steps * group(PARTS)).map(|i| tile(i as u32)).collect();
        let b: Vec<Tile> = (0..steps * group(PARTS)).map(|i| tile(77 + i as u32)).collect();
        let mut c = vec![0f32; SIDE * SIDE];
        for _ in 0..blocks {
            let (from, to) = (c.as_ptr(), c.as_mut_ptr());
            // SAFETY: `steps` groups each, 32 x 32 values.
            unsafe {
                registers.block_product(a.as_ptr(), b.as_ptr(), steps, (to, SIDE), (from, SIDE), a.as_ptr().cast())
            };
        }
        black_box(c);
    });
}

fn peak(c: &mut Criterion) {
    let mut group = c.benchmark_group("peak");
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        use embeval::nn::kernel::amx::{WHOLE, available, layout};
        let flop = |steps: usize| Throughput::Elements((2 * 32 * 32 * 32 * steps * 1000 * parallel::threads()) as u64);
        let unit = if available() { "matrix unit" } else { "AVX-512" };
        match layout(precision::F32) {
            Some(WHOLE) => {
                group.throughput(flop(8 / WHOLE));
                group.bench_function(format!("{unit}, f32"), |b| b.iter(|| tiles::<WHOLE>(1000)));
            }
            Some(_) => {
                group.throughput(flop(8 / 3));
                group.bench_function(format!("{unit}, f32 in three parts"), |b| b.iter(|| tiles::<3>(1000)));
            }
            None => {}
        }
        if layout(precision::BF16).is_some() {
            group.throughput(flop(8));
            group.bench_function(format!("{unit}, bf16"), |b| b.iter(|| tiles::<1>(1000)));
        }
    }
    let n = 1024;
    let (x, y, mut out) = (values(n * n, 1), values(n * n, 2), vec![0f32; n * n]);
    group.throughput(Throughput::Elements(2 * (n * n * n) as u64));
    group.bench_function("gemm crate, f32, 1024 x 1024 x 1024", |b| b.iter(|| by_gemm(n, &x, &y, &mut out)));
    let (from, mut to) = (vec![1f32; 1 << 26], vec![0f32; 1 << 26]);
    group.throughput(Throughput::Bytes(8 << 26));
    group.bench_function("memory, copied", |b| {
        b.iter(|| {
            parallel::over_rows(&mut to, 1 << 14, |first, part| {
                part.copy_from_slice(&from[first << 14..][..part.len()])
            })
        });
    });
    group.finish();
}

fn product(c: &mut Criterion) {
    let mut group = c.benchmark_group("product");
    for (name, inputs, outputs) in [("qkv", HIDDEN, 3 * HIDDEN), ("up", HIDDEN, INNER), ("down", INNER, HIDDEN)] {
        let (x, w) = (values(TOKENS * inputs, 1), values(inputs * outputs, 2));
        let mut out = vec![0f32; TOKENS * outputs];
        group.throughput(Throughput::Elements((2 * TOKENS * inputs * outputs) as u64));
        for (precision, parts) in [("f32", 3), ("two parts", 2), ("bf16", 1)] {
            let _precision = precision::in_parts(parts);
            let Some(packed) = Packed::new(Operand::new(&w, outputs, inputs).t()) else { continue };
            group.bench_function(BenchmarkId::new(name, precision), |b| {
                b.iter(|| packed.multiply(&mut out, Start::Zero, 1.0, Operand::new(&x, TOKENS, inputs), &|_| {}));
            });
        }
    }
    group.finish();
}

fn passes(c: &mut Criterion) {
    let mut group = c.benchmark_group("pass");
    let n = TOKENS * HIDDEN;
    let (x, residual, scale) = (values(n, 1), values(n, 2), values(HIDDEN, 3));
    let mut out = vec![0f32; n];
    group.throughput(Throughput::Bytes(12 * n as u64));
    group.bench_function("LayerNorm with residual", |b| {
        b.iter(|| {
            let rows = Rows { x: &x, residual: &residual, dropout: None, width: HIDDEN, eps: 1e-12 };
            parallel::over_rows(&mut out, HIDDEN, |first, out| {
                layer_norm::forward(rows.part(first, out.len() / HIDDEN), &scale, &scale, out);
            });
        });
    });
    let inner = Tensor::from_vec(values(TOKENS * INNER, 4), (TOKENS, INNER), &Device::Cpu);
    if let Ok(inner) = inner {
        group.throughput(Throughput::Bytes(8 * (TOKENS * INNER) as u64));
        group.bench_function("GELU", |b| b.iter(|| embeval::nn::activation::Activation::Gelu.forward(&inner)));
    }
    let weights = 8 << 20;
    let (mut p, g, mut m, mut v) = (values(weights, 1), values(weights, 2), vec![0f32; weights], vec![0f32; weights]);
    let rates = adamw::Rates {
        betas: (0.9, 0.999),
        rest: (0.1, 0.001),
        eps: 1e-8,
        scale: 1.0,
        root_correction: 1.0,
        lr_decay: 1.0,
        step_size: 1e-5,
    };
    group.throughput(Throughput::Bytes(28 * weights as u64));
    group.bench_function("AdamW, one thread", |b| b.iter(|| adamw::update(&rates, &mut p, &g, &mut m, &mut v)));
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for length in [16, 64, 256, 1024] {
        let sequences = (TOKENS / length).max(1);
        let tokens = sequences * length;
        let bounds = Arc::new((0..=sequences).map(|s| s * length).collect::<Vec<_>>());
        let Ok(qkv) = Tensor::from_vec(values(tokens * 3 * HIDDEN, 5), (tokens, 3 * HIDDEN), &Device::Cpu) else {
            continue;
        };
        // Scores and weighted values.
        group.throughput(Throughput::Elements((4 * tokens * length * HIDDEN) as u64));
        for (name, bf16) in [("f32", false), ("bf16", true)] {
            let _precision = precision::scope(bf16);
            group.bench_function(BenchmarkId::new(name, length), |b| {
                b.iter(|| joint_attention(&qkv, &bounds, 12, None))
            });
        }
    }
    group.finish();
}

criterion_group!(benches, peak, product, passes, attention);
criterion_main!(benches);
