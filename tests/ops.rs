//! Every fused op against the same thing composed of candle's ops, forward and backward.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use embeval::nn::embedding::Embedding;
use embeval::nn::layer_norm::LayerNorm;
use embeval::nn::linear::{Joint, Linear, LowRank, product_transposed};
use embeval::nn::pooling::{PoolingMode, pool};
use embeval::nn::{PackedBatch, activation, attention, composed, cross_entropy, dropout, normalize};

/// Deterministic values in (−1, 1), scaled.
fn var(shape: &[usize], seed: u64, scale: f64) -> Var {
    let n: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let data: Vec<f32> = (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (((state >> 33) as f64 / (1u64 << 31) as f64 * 2.0 - 1.0) * scale) as f32
        })
        .collect();
    Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu).unwrap()).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference relative to the largest value.
fn relative_error(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (values(a), values(b));
    let scale = b.iter().fold(1e-20f32, |m, v| m.max(v.abs()));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / scale
}

/// Compares value and gradients of two functions of the same variables under a fixed random cotangent.
fn compare(name: &str, vars: &[&Var], fused: impl Fn() -> Result<Tensor>, reference: impl Fn() -> Result<Tensor>) {
    let (y, want) = (fused().unwrap(), reference().unwrap());
    let error = relative_error(&y, &want);
    assert!(error <= 1e-5, "{name}: forward differs by {error}");
    let cotangent = var(y.dims(), 99, 1.0);
    let cotangent = cotangent.as_tensor().detach();
    let gradients = y.mul(&cotangent).unwrap().sum_all().unwrap().backward().unwrap();
    let wanted = want.mul(&cotangent).unwrap().sum_all().unwrap().backward().unwrap();
    for (i, var) in vars.iter().enumerate() {
        let got = gradients.get(var).unwrap_or_else(|| panic!("{name}: operand {i} has no gradient"));
        let want = wanted.get(var).unwrap();
        let error = relative_error(got, want);
        assert!(error <= 1e-5, "{name}: gradient {i} differs by {error}");
        assert!(values(got).iter().any(|v| *v != 0.0), "{name}: gradient {i} is zero");
    }
}

const LENGTHS: [usize; 7] = [1, 5, 8, 33, 0, 70, 2];

fn batch() -> PackedBatch {
    let sequences: Vec<Vec<u32>> =
        LENGTHS.iter().map(|&n| (0..n as u32).map(|i| (i * 7 + n as u32) % 50).collect()).collect();
    PackedBatch::with_prompts(&sequences, &[0, 2, 0, 3, 0, 1, 5])
}

#[test]
fn attention_equals_composed() {
    let batch = batch();
    for (hidden, heads) in [(64, 2), (48, 4), (36, 3), (16, 16)] {
        let shape = [batch.tokens(), hidden];
        let (q, k, v) = (var(&shape, 1, 2.0), var(&shape, 2, 2.0), var(&shape, 3, 1.0));
        compare(
            &format!("attention {hidden}/{heads}"),
            &[&q, &k, &v],
            || attention::attention(&q, &k, &v, &batch.cu_seqlens, heads),
            || composed::attention(&q, &k, &v, &batch.cu_seqlens, heads),
        );
    }
}

#[test]
fn joint_attention_equals_composed() {
    let batch = batch();
    for (hidden, heads) in [(64, 2), (36, 3)] {
        let qkv = var(&[batch.tokens(), 3 * hidden], 1, 2.0);
        let part = |i: usize| qkv.narrow(1, i * hidden, hidden)?.contiguous();
        compare(
            &format!("joint attention {hidden}/{heads}"),
            &[&qkv],
            || attention::joint_attention(&qkv, &batch.cu_seqlens, heads),
            || composed::attention(&part(0)?, &part(1)?, &part(2)?, &batch.cu_seqlens, heads),
        );
    }
}

#[test]
fn joint_layers_equal_separate_ones() {
    let x = var(&[70, 48], 1, 1.0);
    let weights: Vec<Var> = (0..3).map(|i| var(&[24 + 8 * i, 48], 2 + i as u64, 0.5)).collect();
    let biases: Vec<Var> = (0..3).map(|i| var(&[24 + 8 * i], 5 + i as u64, 0.5)).collect();
    for trainable in [true, false] {
        let of = |v: &Var| if trainable { v.as_tensor().clone() } else { v.as_detached_tensor() };
        let layers: Vec<Linear> =
            weights.iter().zip(&biases).map(|(w, b)| Linear::new(of(w), Some(of(b)), None).unwrap()).collect();
        let layers: Vec<&Linear> = layers.iter().collect();
        let joint = Joint::new(&layers).unwrap();
        let mut vars = vec![&x];
        if trainable {
            vars.extend(weights.iter().chain(&biases));
        }
        compare(
            "joint layers",
            &vars,
            || Ok(joint.forward(&x, &layers)?.expect("nothing is in the way")),
            || Tensor::cat(&layers.iter().map(|l| composed::linear(&x, l, None)).collect::<Result<Vec<_>>>()?, 1),
        );
    }
}

#[test]
fn a_bias_that_is_trained_beside_frozen_weights_is_not_kept_from_before() {
    let x = var(&[40, 32], 1, 1.0);
    let bias = var(&[32], 2, 1.0);
    let layer = Linear::new(var(&[32, 32], 3, 0.5).as_detached_tensor(), Some(bias.as_tensor().clone()), None).unwrap();
    let parts = [&layer, &layer];
    let joint = Joint::new(&parts).unwrap();
    joint.forward(&x, &parts).unwrap();
    bias.set(var(&[32], 4, 1.0).as_tensor()).unwrap();
    let y = joint.forward(&x, &parts).unwrap().expect("nothing is in the way");
    let want =
        Tensor::cat(&[composed::linear(&x, &layer, None).unwrap(), composed::linear(&x, &layer, None).unwrap()], 1);
    assert!(relative_error(&y, &want.unwrap()) < 1e-5);
}

#[test]
fn attention_of_a_long_sequence_equals_composed() {
    let batch = PackedBatch::new(&[vec![1u32; 700]]);
    let shape = [700, 64];
    let (q, k, v) = (var(&shape, 1, 1.0), var(&shape, 2, 1.0), var(&shape, 3, 1.0));
    compare(
        "long attention",
        &[&q, &k, &v],
        || attention::attention(&q, &k, &v, &batch.cu_seqlens, 2),
        || composed::attention(&q, &k, &v, &batch.cu_seqlens, 2),
    );
}

#[test]
fn layer_norm_equals_composed() {
    for (rows, width) in [(1, 16), (700, 48), (37, 384), (5, 7)] {
        let (x, r) = (var(&[rows, width], 1, 3.0), var(&[rows, width], 2, 1.0));
        let (w, b) = (var(&[width], 3, 1.0), var(&[width], 4, 1.0));
        let norm = LayerNorm { weight: w.as_tensor().clone(), bias: b.as_tensor().clone(), eps: 1e-5 };
        compare(
            "layer norm",
            &[&x, &w, &b],
            || norm.forward(&x),
            || composed::layer_norm(&x, &norm.weight, &norm.bias, norm.eps),
        );
        compare(
            "residual layer norm",
            &[&x, &r, &w, &b],
            || norm.forward_residual(&x, &r),
            || composed::layer_norm(&(x.as_tensor() + r.as_tensor())?, &norm.weight, &norm.bias, norm.eps),
        );
    }
}

#[test]
fn gelu_equals_composed() {
    let x = var(&[300, 200], 1, 6.0);
    compare("gelu", &[&x], || activation::Activation::Gelu.forward(&x), || composed::gelu(&x));
}

#[test]
fn linear_layers_equal_composed() {
    for (rows, inputs, outputs, rank) in [(1, 8, 3, 2), (133, 96, 200, 8), (600, 64, 64, 4)] {
        let x = var(&[rows, inputs], 1, 1.0);
        let (w, b) = (var(&[outputs, inputs], 2, 1.0), var(&[outputs], 3, 1.0));
        let (la, lb) = (var(&[rank, inputs], 4, 1.0), var(&[outputs, rank], 5, 1.0));
        let lora = || Some(LowRank { a: la.as_tensor().clone(), b: lb.as_tensor().clone(), scale: 2.0, dropout: 0.3 });
        let frozen = |t: &Var| t.as_tensor().detach();
        let trainable = Linear::new(w.as_tensor().clone(), Some(b.as_tensor().clone()), None).unwrap();
        compare("trainable", &[&x, &w, &b], || trainable.forward(&x, None), || composed::linear(&x, &trainable, None));
        let no_bias = Linear::new(w.as_tensor().clone(), None, None).unwrap();
        compare("no bias", &[&x, &w], || no_bias.forward(&x, None), || composed::linear(&x, &no_bias, None));
        let fixed = Linear::new(frozen(&w), Some(frozen(&b)), None).unwrap();
        compare("frozen", &[&x], || fixed.forward(&x, None), || composed::linear(&x, &fixed, None));
        let adapted = Linear::new(frozen(&w), Some(frozen(&b)), lora()).unwrap();
        for seed in [None, Some(7)] {
            compare("lora", &[&x, &la, &lb], || adapted.forward(&x, seed), || composed::linear(&x, &adapted, seed));
        }
        let both = Linear::new(w.as_tensor().clone(), Some(b.as_tensor().clone()), lora()).unwrap();
        compare("both", &[&x, &w, &b, &la, &lb], || both.forward(&x, None), || composed::linear(&x, &both, None));
    }
}

#[test]
fn a_frozen_weight_gets_no_gradient() {
    let (x, w, la, lb) = (var(&[4, 8], 1, 1.0), var(&[8, 8], 2, 1.0), var(&[2, 8], 3, 1.0), var(&[8, 2], 4, 1.0));
    let lora = LowRank { a: la.as_tensor().clone(), b: lb.as_tensor().clone(), scale: 1.0, dropout: 0.0 };
    let layer = Linear::new(w.as_tensor().detach(), None, Some(lora)).unwrap();
    let gradients = layer.forward(&x, None).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&layer.weight).is_none() && gradients.get(&w).is_none());
    assert!(gradients.get(&la).is_some() && gradients.get(&lb).is_some());
}

#[test]
fn fused_activation_equals_separate() {
    let x = var(&[77, 64], 1, 1.0).as_tensor().detach();
    let w = var(&[128, 64], 2, 1.0).as_tensor().detach();
    let b = var(&[128], 3, 1.0).as_tensor().detach();
    let layer = Linear::new(w, Some(b), None).unwrap();
    let fused = layer.forward_activated(&x, activation::Activation::Gelu, None).unwrap();
    let apart = activation::Activation::Gelu.forward(&layer.forward(&x, None).unwrap()).unwrap();
    assert_eq!(values(&fused), values(&apart));
}

#[test]
fn embedding_equals_composed() {
    let batch = batch();
    for width in [48, 200] {
        let (word, position, kind) = (var(&[50, width], 1, 1.0), var(&[80, width], 2, 1.0), var(&[2, width], 3, 1.0));
        let tables = Embedding {
            word: word.as_tensor().clone(),
            position: position.as_tensor().clone(),
            token_type: kind.as_tensor().clone(),
        };
        compare(
            "embedding",
            &[&word, &position, &kind],
            || tables.forward(&batch.ids, &batch.positions),
            || composed::embedding(&tables, &batch.ids, &batch.positions),
        );
        assert!(tables.forward(&Arc::new(vec![50]), &Arc::new(vec![0])).is_err());
        assert!(tables.forward(&Arc::new(vec![0]), &Arc::new(vec![80])).is_err());
    }
}

#[test]
fn pooling_equals_composed() {
    let batch = batch();
    let x = var(&[batch.tokens(), 40], 1, 1.0);
    for mode in [
        PoolingMode::Cls,
        PoolingMode::Max,
        PoolingMode::Mean,
        PoolingMode::MeanSqrtLen,
        PoolingMode::WeightedMean,
        PoolingMode::LastToken,
    ] {
        compare(&format!("{mode:?}"), &[&x], || pool(&x, &batch, mode), || composed::pool(&x, &batch, mode));
    }
}

#[test]
fn normalize_equals_composed() {
    let x = var(&[90, 70], 1, 2.0);
    compare("normalize", &[&x], || normalize::l2_normalize(&x), || composed::l2_normalize(&x));
    let zero = Tensor::zeros((2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(values(&normalize::l2_normalize(&zero).unwrap()), vec![0.0; 8]);
}

#[test]
fn cross_entropy_equals_composed() {
    let (q, d) = (var(&[9, 30], 1, 1.0), var(&[14, 30], 2, 1.0));
    let targets = Arc::new((0..9u32).collect::<Vec<_>>());
    let mut mask = vec![false; 9 * 14];
    mask[9 * 3 + 13] = true;
    mask[14 * 2 + 5] = true;
    for masked in [Arc::new(vec![]), Arc::new(mask)] {
        compare(
            "info nce",
            &[&q, &d],
            || cross_entropy::cross_entropy(&product_transposed(&q, &d)?, &targets, &masked, 0.05),
            || composed::cross_entropy(&q.matmul(&d.t()?)?, &targets, &masked, 0.05),
        );
    }
    let logits = product_transposed(&q, &d).unwrap();
    let bad = Arc::new(vec![14u32; 9]);
    assert!(cross_entropy::cross_entropy(&logits, &bad, &Arc::new(vec![]), 0.05).is_err());
}

#[test]
fn dropout_keeps_the_mean_and_repeats() {
    let x = Tensor::ones((200, 500), candle_core::DType::F32, &Device::Cpu).unwrap();
    let a = values(&dropout::dropout(&x, 0.25, 3).unwrap());
    assert_eq!(a, values(&dropout::dropout(&x, 0.25, 3).unwrap()));
    assert_ne!(a, values(&dropout::dropout(&x, 0.25, 4).unwrap()));
    let mean = a.iter().sum::<f32>() / a.len() as f32;
    assert!((mean - 1.0).abs() < 0.01, "mean {mean}");
    assert!(a.iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
}

#[test]
fn ops_do_not_depend_on_the_number_of_threads() {
    let batch = batch();
    let shape = [batch.tokens(), 64];
    let (q, k, v) = (var(&shape, 1, 1.0), var(&shape, 2, 1.0), var(&shape, 3, 1.0));
    let (w, b) = (var(&[64], 4, 1.0), var(&[64], 5, 1.0));
    let run = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let norm = LayerNorm { weight: w.as_tensor().clone(), bias: b.as_tensor().clone(), eps: 1e-5 };
            let y = norm.forward(&attention::attention(&q, &k, &v, &batch.cu_seqlens, 2).unwrap()).unwrap();
            let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            (values(&y), values(gradients.get(&q).unwrap()), values(gradients.get(&w).unwrap()))
        })
    };
    assert_eq!(run(1), run(2));
}
