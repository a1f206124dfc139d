//! The kernels on a GPU against the CPU's, forwards and backwards. Without a GPU these tests say that they are skipped; that
//! every kernel compiles is tested in any case. `tests/peers/cuda_emulate` runs them without one.
#![cfg(feature = "cuda")]

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Device, Result, Tensor, Var};
use embeval::nn::PackedBatch;
use embeval::nn::activation::{Activation, gated, joint_gated};
use embeval::nn::attention::{Heads, attention, joint_attention};
use embeval::nn::cuda::compile::modules;
use embeval::nn::dropout::{TokenDropout, dropout, token_places};
use embeval::nn::embedding::{Embedding, Table, look_up};
use embeval::nn::layer_norm::LayerNorm;
use embeval::nn::linear::{Linear, LowRank};
use embeval::nn::normalize::l2_normalize;
use embeval::nn::pooling::{PoolingMode, pool};
use embeval::nn::rms_norm::RmsNorm;
use embeval::nn::rotary::{QueryKey, Rotary};

/// Lengths of the sequences of a batch.
const LENGTHS: [usize; 7] = [1, 7, 64, 33, 0, 70, 2];

/// The GPU, if there is one.
fn gpu() -> Option<Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| Device::new_cuda(0).map_err(|e| println!("no GPU: {e}")).ok());
    if gpu.is_none() {
        println!("skipped: there is no GPU");
    }
    gpu.clone()
}

fn drawn(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let draw = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..shape.iter().product()).map(draw).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

fn bounds() -> Arc<Vec<usize>> {
    let mut bounds = vec![0];
    LENGTHS.iter().for_each(|n| bounds.push(bounds[bounds.len() - 1] + n));
    Arc::new(bounds)
}

fn tokens() -> usize {
    LENGTHS.iter().sum()
}

fn values(x: &Tensor) -> Vec<f32> {
    let x = x.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, relative to the largest value.
fn difference(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let (got, want) = (values(got), values(want));
    assert!(got.iter().all(|v| v.is_finite()), "not finite");
    let scale = want.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / scale
}

/// Result, and gradients by the inputs of a weighted sum of it.
fn run(
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
    tracked: bool,
) -> Result<(Tensor, Vec<Option<Tensor>>)> {
    if !tracked {
        return Ok((f(inputs)?, Vec::new()));
    }
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let out = f(&tensors)?;
    let weights = drawn(out.dims(), 99).to_device(out.device())?;
    let gradients = (out.to_dtype(DType::F32)? * weights)?.sum_all()?.backward()?;
    Ok((out, tensors.iter().map(|tensor| gradients.get(tensor).cloned()).collect()))
}

/// Compares an operation on the GPU, in both types, with the CPU's. The first `activations` of the inputs are of the type; the
/// others are parameters, of `f32`.
fn check(name: &str, activations: usize, inputs: &[Tensor], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) {
    let Some(gpu) = gpu() else { return };
    for (dtype, most) in [(DType::F32, 2e-5), (DType::BF16, 2e-2)] {
        // Both start from the same values.
        let rounded: Vec<Tensor> = inputs
            .iter()
            .enumerate()
            .map(
                |(i, x)| {
                    if i < activations { x.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap() } else { x.clone() }
                },
            )
            .collect();
        let there: Vec<Tensor> = rounded
            .iter()
            .enumerate()
            .map(|(i, x)| {
                x.to_device(&gpu).unwrap().to_dtype(if i < activations { dtype } else { DType::F32 }).unwrap()
            })
            .collect();
        let (want, gradients) = run(f, &rounded, true).unwrap_or_else(|e| panic!("{name} on the CPU: {e}"));
        let (plain, _) = run(f, &there, false).unwrap_or_else(|e| panic!("{name} {dtype:?}: {e}"));
        let (got, found) = run(f, &there, true).unwrap_or_else(|e| panic!("{name} {dtype:?}, tracked: {e}"));
        let error = difference(&got, &want).max(difference(&plain, &want));
        assert!(error < most, "{name} {dtype:?}: differs by {error}");
        for (i, (got, want)) in found.iter().zip(&gradients).enumerate() {
            let (Some(got), Some(want)) = (got, want) else {
                panic!("{name} {dtype:?}: gradient {i}: {} on the GPU, {} on the CPU", got.is_some(), want.is_some());
            };
            assert_eq!(got.dtype(), there[i].dtype(), "{name}: type of gradient {i}");
            let error = difference(got, want);
            assert!(error < most, "{name} {dtype:?}: gradient {i} differs by {error}");
        }
    }
}

fn drops(p: f32, seed: u64) -> TokenDropout {
    TokenDropout::new(p, seed, &token_places(&bounds(), 3)).unwrap().unwrap()
}

/// Through NVRTC, as when the program runs; needs no GPU.
#[test]
fn every_kernel_compiles() {
    let sizes = [(384, 64), (1024, 128), (48, 20), (2304, 256)];
    for dtype in [DType::F32, DType::BF16] {
        for (capability, sizes) in [(80, &sizes[..]), (90, &sizes[..1])] {
            for (hidden, depth) in sizes {
                for module in modules(dtype, *hidden, *depth) {
                    let ptx = module.ptx(capability).unwrap_or_else(|e| panic!("{e}"));
                    assert!(ptx.contains(".entry") || ptx.starts_with("EMULATED"), "{}: no kernel", module.name());
                }
            }
        }
    }
}

#[test]
fn attention_in_all_its_kinds() {
    let n = tokens();
    let apart = |heads: Heads, hidden: usize, name: &str| {
        let inputs = [drawn(&[n, hidden], 1), drawn(&[n, hidden], 2), drawn(&[n, hidden], 3)];
        let f = |x: &[Tensor]| attention(&x[0], &x[1], &x[2], &bounds(), heads.clone());
        check(name, 3, &inputs, &f);
    };
    apart(Heads::from(4), 64, "attention");
    apart(Heads { dropout: Some(drops(0.3, 5)), ..Heads::from(2) }, 48, "attention with dropout");
    apart(Heads { window: Some(5), ..Heads::from(2) }, 128, "attention in a window");
    apart(Heads { causal: true, scale: Some(0.3), ..Heads::from(1) }, 128, "causal attention");
    apart(Heads { causal: true, window: Some(40), ..Heads::from(1) }, 256, "causal attention in a window");
    let joint = |heads: Heads, depth: usize, bias: Option<usize>, name: &str| {
        let width = (heads.count + 2 * heads.key_values()) * depth;
        let mut inputs = vec![drawn(&[n, width], 4)];
        inputs.extend(bias.map(|longest| drawn(&[heads.count, 2 * longest - 1], 5)));
        let f = |x: &[Tensor]| joint_attention(&x[0], &bounds(), heads.clone(), x.get(1));
        check(name, 1, &inputs, &f);
    };
    joint(Heads { key_values: 2, ..Heads::from(4) }, 16, None, "grouped heads");
    joint(
        Heads { key_values: 1, dropout: Some(drops(0.2, 6)), ..Heads::from(3) },
        20,
        None,
        "one head of keys, dropout",
    );
    joint(Heads::from(3), 16, Some(70), "attention with a bias");
    joint(
        Heads { scale: Some(1.0), dropout: Some(drops(0.2, 7)), ..Heads::from(2) },
        32,
        Some(80),
        "a bias and dropout",
    );
}

#[test]
fn norms() {
    let n = tokens();
    for width in [48, 384, 1001] {
        let (x, residual) = (drawn(&[n, width], 1), drawn(&[n, width], 2));
        let (weight, bias) = (drawn(&[width], 3), drawn(&[width], 4));
        let layer =
            |x: &[Tensor]| LayerNorm { weight: x[x.len() - 2].clone(), bias: x[x.len() - 1].clone(), eps: 1e-5 };
        check("LayerNorm", 1, &[x.clone(), weight.clone(), bias.clone()], &|x| layer(x).forward(&x[0]));
        let inputs = [x.clone(), residual, weight.clone(), bias];
        check("LayerNorm after a residual", 2, &inputs, &|x| layer(x).forward_residual(&x[0], &x[1], None));
        let dropped = drops(0.4, 8);
        check("LayerNorm after dropout", 2, &inputs, &|x| layer(x).forward_residual(&x[0], &x[1], Some(&dropped)));
        for plus_one in [false, true] {
            let f = |x: &[Tensor]| RmsNorm { weight: x[1].clone(), eps: 1e-6, plus_one }.forward(&x[0]);
            check("RMSNorm", 1, &[x.clone(), weight.clone()], &f);
        }
    }
}

#[test]
fn activations_and_gates() {
    use Activation::{Gelu, GeluTanh, None, Relu, Silu, Tanh};
    let (x, y) = ((drawn(&[37, 50], 1) * 4.0).unwrap(), drawn(&[37, 50], 2));
    for activation in [Gelu, GeluTanh, Silu, Tanh, Relu, None] {
        let name = format!("{activation:?}");
        if activation != None {
            check(&name, 1, std::slice::from_ref(&x), &|x| activation.forward(&x[0]));
        }
        check(&format!("gated {name}"), 2, &[x.clone(), y.clone()], &|x| gated(&x[0], &x[1], activation));
        check(&format!("jointly gated {name}"), 1, std::slice::from_ref(&x), &|x| joint_gated(&x[0], activation));
    }
}

#[test]
fn pooling_and_unit_length() {
    let ids: Vec<Vec<u32>> = LENGTHS.iter().map(|n| vec![1; *n]).collect();
    for prompt in [0, 3] {
        let batch = PackedBatch::with_prompts(&ids, &[prompt; 7]);
        use PoolingMode::{Cls, LastToken, Max, Mean, MeanSqrtLen, WeightedMean};
        for mode in [Cls, Max, Mean, MeanSqrtLen, WeightedMean, LastToken] {
            check(&format!("{mode:?}"), 1, &[drawn(&[tokens(), 130], 1)], &|x| pool(&x[0], &batch, mode));
        }
    }
    check("unit length", 1, &[drawn(&[9, 70], 1)], &|x| l2_normalize(&x[0]));
}

#[test]
fn rotary_positions_and_norms_of_heads() {
    let positions: Arc<Vec<u32>> = Arc::new(LENGTHS.iter().flat_map(|n| 0..*n as u32).collect());
    for (depth, heads, key_values) in [(16, 3, 3), (64, 2, 1), (80, 2, 2)] {
        let rotary = Arc::new(Rotary::new(depth, 10_000.0, 1.0));
        let qkv = drawn(&[tokens(), (heads + 2 * key_values) * depth], 1);
        let layer = |norms| QueryKey { heads, key_values, norms, rotary: rotary.clone() };
        check("rotary", 1, std::slice::from_ref(&qkv), &|x| layer(None).forward(&x[0], &positions));
        for plus_one in [false, true] {
            let norm = |x: &Tensor| RmsNorm { weight: x.clone(), eps: 1e-6, plus_one };
            let inputs = [qkv.clone(), drawn(&[depth], 2), drawn(&[depth], 3)];
            let f = |x: &[Tensor]| layer(Some((norm(&x[1]), norm(&x[2])))).forward(&x[0], &positions);
            check("rotary with norms", 1, &inputs, &f);
        }
    }
}

#[test]
fn dropout_draws_the_same_masks() {
    let x = drawn(&[tokens(), 24], 1);
    check("dropout", 1, std::slice::from_ref(&x), &|x| dropout(&x[0], 0.3, 11));
    check("dropout by token", 1, std::slice::from_ref(&x), &|x| drops(0.3, 12).forward(&x[0]));
    check("dropout by head", 1, &[x], &|x| drops(0.3, 13).forward_groups(&x[0], 8));
}

#[test]
fn tables() {
    let ids: Arc<Vec<u32>> = Arc::new((0..60).map(|i| (i * i) % 23).collect());
    let positions: Arc<Vec<u32>> = Arc::new((0..60).map(|i| i % 9).collect());
    let inputs = [drawn(&[23, 40], 1), drawn(&[9, 40], 2), drawn(&[2, 40], 3)];
    let f = |kinds: bool| {
        let (ids, positions) = (ids.clone(), positions.clone());
        move |x: &[Tensor]| {
            let token_type = kinds.then(|| x[2].clone());
            Embedding { word: Table::Dense(x[0].clone()), position: x[1].clone(), token_type }.forward(&ids, &positions)
        }
    };
    check("embeddings", 3, &inputs, &f(true));
    check("embeddings of two tables", 2, &inputs[..2], &f(false));
    check("look-up", 1, &inputs[..1], &|x| look_up(&Table::Dense(x[0].clone()), &ids));
}

#[test]
fn linear_layers() {
    let (x, w, b) = (drawn(&[31, 24], 1), drawn(&[40, 24], 2), drawn(&[40], 3));
    let layer = |w: &Tensor, b: Option<&Tensor>| Linear::new(w.clone(), b.cloned(), None).unwrap();
    let all = [x.clone(), w.clone(), b.clone()];
    check("linear", 1, &all, &|x| layer(&x[1], Some(&x[2])).forward(&x[0], None));
    check("linear, no bias", 1, &all[..2], &|x| layer(&x[1], None).forward(&x[0], None));
    check("linear and GELU", 1, &all, &|x| layer(&x[1], Some(&x[2])).forward_activated(&x[0], Activation::Gelu, None));
    let there = |x: &Tensor, like: &Tensor| x.to_device(like.device()).unwrap();
    check("frozen", 1, &all[..1], &|x| {
        layer(&there(&w, &x[0]), Some(&there(&b, &x[0]))).forward_activated(&x[0], Activation::Silu, None)
    });
    let adapter = [x, drawn(&[4, 24], 4), drawn(&[40, 4], 5)];
    for (p, seed) in [(0.0, None), (0.25, Some(3))] {
        check("adapted", 1, &adapter, &|x| {
            let lora = LowRank { a: x[1].clone(), b: x[2].clone(), scale: 0.5, dropout: p };
            Linear::new(there(&w, &x[0]), Some(there(&b, &x[0])), Some(lora))?.forward(&x[0], seed)
        });
    }
}
