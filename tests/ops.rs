//! Every fused op against the same thing composed of candle's ops, forward and backward.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use embeval::nn::activation::Activation;
use embeval::nn::attention::Heads;
use embeval::nn::checkpoint::{GradientSink, Segment, checkpoint};
use embeval::nn::dropout::{TokenDropout, token_places};
use embeval::nn::embedding::{Embedding, look_up};
use embeval::nn::layer_norm::LayerNorm;
use embeval::nn::linear::{Joint, Linear, LowRank, product_transposed};
use embeval::nn::linear_cross_entropy::linear_cross_entropy;
use embeval::nn::pooling::{PoolingMode, pool};
use embeval::nn::rms_norm::RmsNorm;
use embeval::nn::rotary::{QueryKey, Rotary};
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
            || composed::attention(&q, &k, &v, &batch.cu_seqlens, heads, None),
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
            || attention::joint_attention(&qkv, &batch.cu_seqlens, heads, None),
            || composed::attention(&part(0)?, &part(1)?, &part(2)?, &batch.cu_seqlens, heads, None),
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
        || composed::attention(&q, &k, &v, &batch.cu_seqlens, 2, None),
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
            || norm.forward_residual(&x, &r, None),
            || composed::layer_norm(&(x.as_tensor() + r.as_tensor())?, &norm.weight, &norm.bias, norm.eps),
        );
    }
}

const ACTIVATIONS: [Activation; 5] =
    [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu, Activation::Tanh];

#[test]
fn activations_equal_composed() {
    let x = var(&[300, 200], 1, 6.0);
    for activation in ACTIVATIONS {
        let name = format!("{activation:?}");
        compare(&name, &[&x], || activation.forward(&x), || composed::activation(&x, activation));
    }
}

#[test]
fn gated_units_equal_composed() {
    let (rows, inner) = (130, 72);
    let (gate, up) = (var(&[rows, inner], 1, 4.0), var(&[rows, inner], 2, 2.0));
    let both = Var::from_tensor(&Tensor::cat(&[&*gate, &*up], 1).unwrap().detach()).unwrap();
    for activation in ACTIVATIONS {
        let name = format!("gated {activation:?}");
        let want = || composed::activation(&gate, activation)? * up.as_tensor();
        compare(&name, &[&gate, &up], || activation::gated(&gate, &up, activation), want);
        let (left, right) = (|| both.narrow(1, 0, inner), || both.narrow(1, inner, inner));
        let want = || composed::activation(&left()?.contiguous()?, activation)? * right()?;
        compare(&name, &[&both], || activation::joint_gated(&both, activation), want);
    }
    assert!(activation::gated(&gate, &both, Activation::Silu).is_err());
    assert!(activation::joint_gated(var(&[3, 5], 1, 1.0).as_tensor(), Activation::Silu).is_err());
}

#[test]
fn rms_norm_equals_composed() {
    for (rows, width) in [(1, 16), (700, 48), (37, 384), (5, 7)] {
        let (x, w) = (var(&[rows, width], 1, 3.0), var(&[width], 3, 1.0));
        for plus_one in [false, true] {
            let norm = RmsNorm { weight: w.as_tensor().clone(), eps: 1e-6, plus_one };
            let scale = || w.affine(1.0, if plus_one { 1.0 } else { 0.0 });
            compare("rms norm", &[&x, &w], || norm.forward(&x), || composed::rms_norm(&x, &scale()?, 1e-6));
        }
    }
}

/// Queries and keys with and without norms, as many heads of keys as of queries or fewer.
#[test]
fn prepared_queries_and_keys_equal_composed() {
    let batch = batch();
    for (heads, key_values, depth) in [(4, 4, 8), (4, 2, 16), (3, 1, 6)] {
        let width = (heads + 2 * key_values) * depth;
        let qkv = var(&[batch.tokens(), width], 1, 2.0);
        let (wq, wk) = (var(&[depth], 2, 1.0), var(&[depth], 3, 1.0));
        let norm = |w: &Var| RmsNorm { weight: w.as_tensor().clone(), eps: 1e-6, plus_one: heads == 3 };
        for norms in [None, Some((norm(&wq), norm(&wk)))] {
            let rotary = Arc::new(Rotary::new(depth, 1000.0, 2.0));
            let vars = if norms.is_some() { vec![&qkv, &wq, &wk] } else { vec![&qkv] };
            let layer = QueryKey { heads, key_values, norms, rotary: rotary.clone() };
            compare(
                &format!("{heads} heads of {depth}"),
                &vars,
                || layer.forward(&qkv, &batch.positions),
                || composed::query_key(&qkv, &layer, &batch.positions, &rotary.angles(128)),
            );
        }
    }
}

/// What positions are for: a score depends on the distance alone.
#[test]
fn rotated_scores_depend_on_distance_alone() {
    let layer = QueryKey { heads: 1, key_values: 1, norms: None, rotary: Arc::new(Rotary::new(8, 10_000.0, 1.0)) };
    let row = values(&var(&[1, 24], 1, 1.0));
    let score = |query: u32, key: u32| {
        let rows = Tensor::from_vec([row.clone(), row.clone()].concat(), (2, 24), &Device::Cpu).unwrap();
        let out = values(&layer.forward(&rows, &Arc::new(vec![query, key])).unwrap());
        (0..8).map(|i| out[i] * out[24 + 8 + i]).sum::<f32>()
    };
    assert!((score(3, 9) - score(500, 506)).abs() < 1e-4);
    assert!((score(3, 9) - score(3, 5)).abs() > 1e-2);
}

/// Fewer heads of keys, windows, a bias by distance, a scale of its own, and all of it at once.
#[test]
fn every_way_to_attend_equals_composed() {
    let lengths = PackedBatch::new(&[0usize, 1, 7, 16, 17, 40, 61, 101].map(|n| vec![0u32; n]));
    let tokens = lengths.tokens();
    let dropout = TokenDropout::new(0.3, 5, &token_places(&lengths.cu_seqlens, 0)).unwrap();
    let plain = Heads { count: 4, ..Heads::default() };
    let grouped = Heads { key_values: 2, ..plain.clone() };
    let ways = [
        plain.clone(),
        grouped.clone(),
        Heads { key_values: 1, causal: true, ..plain.clone() },
        Heads { window: Some(3), ..plain.clone() },
        Heads { window: Some(20), ..grouped.clone() },
        Heads { window: Some(5), causal: true, scale: Some(1.0), ..grouped.clone() },
        Heads { window: Some(1), ..plain },
        Heads { window: Some(17), scale: Some(0.3), dropout, ..grouped },
    ];
    for depth in [8, 16, 24] {
        for way in &ways {
            let kv = way.key_values();
            let qkv = var(&[tokens, (4 + 2 * kv) * depth], 1, 1.5);
            let bias = var(&[4, 2 * 104 - 1], 2, 1.0);
            let part = |from: usize, heads: usize| qkv.narrow(1, from * depth, heads * depth)?.contiguous();
            let bounds = &lengths.cu_seqlens;
            let name = format!("{way:?} of {depth}");
            for added in [None, Some(bias.as_tensor())] {
                let vars = if added.is_some() { vec![&qkv, &bias] } else { vec![&qkv] };
                compare(
                    &name,
                    &vars,
                    || attention::joint_attention(&qkv, bounds, way.clone(), added),
                    || composed::attention(&part(0, 4)?, &part(4, kv)?, &part(4 + kv, kv)?, bounds, way.clone(), added),
                );
            }
            compare(
                &name,
                &[&qkv],
                || attention::attention(&part(0, 4)?, &part(4, kv)?, &part(4 + kv, kv)?, bounds, way.clone()),
                || composed::attention(&part(0, 4)?, &part(4, kv)?, &part(4 + kv, kv)?, bounds, way.clone(), None),
            );
        }
    }
    let qkv = var(&[tokens, 12 * 8], 1, 1.0);
    let short = var(&[4, 2 * 100 - 1], 2, 1.0);
    let error = attention::joint_attention(&qkv, &lengths.cu_seqlens, 4, Some(&short)).unwrap_err().to_string();
    assert!(error.contains("101 tokens"), "{error}");
}

/// Sequences of more keys than are taken at a time.
#[test]
fn long_sequences_in_every_way_equal_composed() {
    let lengths = PackedBatch::new(&[900usize, 1, 790].map(|n| vec![0u32; n]));
    let (tokens, bounds) = (lengths.tokens(), &lengths.cu_seqlens);
    let dropout = TokenDropout::new(0.3, 5, &token_places(bounds, 0)).unwrap();
    let plain = Heads { count: 2, ..Heads::default() };
    let ways = [
        Heads { dropout, ..plain.clone() },
        Heads { causal: true, key_values: 1, ..plain.clone() },
        Heads { window: Some(20), ..plain.clone() },
        Heads { window: Some(780), causal: true, ..plain },
    ];
    for way in ways {
        let kv = way.key_values();
        let qkv = var(&[tokens, (2 + 2 * kv) * 16], 1, 1.5);
        let bias = var(&[2, 2 * 900 - 1], 2, 1.0);
        let part = |from: usize, heads: usize| qkv.narrow(1, from * 16, heads * 16)?.contiguous();
        compare(
            &format!("{way:?}"),
            &[&qkv, &bias],
            || attention::joint_attention(&qkv, bounds, way.clone(), Some(bias.as_tensor())),
            || {
                composed::attention(
                    &part(0, 2)?,
                    &part(2, kv)?,
                    &part(2 + kv, kv)?,
                    bounds,
                    way.clone(),
                    Some(bias.as_tensor()),
                )
            },
        );
    }
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
    assert!(gradients.get(layer.weight.dense().unwrap()).is_none() && gradients.get(&w).is_none());
    assert!(gradients.get(&la).is_some() && gradients.get(&lb).is_some());
}

#[test]
fn fused_activation_equals_separate() {
    let x = var(&[77, 64], 1, 1.0).as_tensor().detach();
    let w = var(&[128, 64], 2, 1.0).as_tensor().detach();
    let b = var(&[128], 3, 1.0).as_tensor().detach();
    let layer = Linear::new(w, Some(b), None).unwrap();
    let fused = layer.forward_activated(&x, Activation::Gelu, None).unwrap();
    let apart = Activation::Gelu.forward(&layer.forward(&x, None).unwrap()).unwrap();
    assert_eq!(values(&fused), values(&apart));
}

#[test]
fn embedding_equals_composed() {
    let batch = batch();
    for width in [48, 200] {
        let (word, position, kind) = (var(&[50, width], 1, 1.0), var(&[80, width], 2, 1.0), var(&[2, width], 3, 1.0));
        let tables = Embedding {
            word: word.as_tensor().clone().into(),
            position: position.as_tensor().clone(),
            token_type: Some(kind.as_tensor().clone()),
        };
        compare(
            "embedding",
            &[&word, &position, &kind],
            || tables.forward(&batch.ids, &batch.positions),
            || composed::embedding(&tables, &batch.ids, &batch.positions),
        );
        let untyped = Embedding { token_type: None, ..tables.clone() };
        compare(
            "embedding without types",
            &[&word, &position],
            || untyped.forward(&batch.ids, &batch.positions),
            || composed::embedding(&untyped, &batch.ids, &batch.positions),
        );
        let ids = Tensor::new(batch.ids.as_slice(), &Device::Cpu).unwrap();
        compare("rows", &[&word], || look_up(&tables.word, &batch.ids), || word.index_select(&ids, 0));
        assert!(look_up(&tables.word, &Arc::new(vec![50])).is_err());
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

/// All ways of a layer to attend over `batch`.
fn ways(batch: &PackedBatch, count: usize) -> [Heads; 3] {
    let dropout = TokenDropout::new(0.3, 5, &token_places(&batch.cu_seqlens, 0)).unwrap();
    [(true, None), (false, dropout.clone()), (true, dropout)].map(|(causal, dropout)| Heads {
        count,
        causal,
        dropout,
        ..Heads::default()
    })
}

#[test]
fn causal_attention_and_dropout_on_its_weights_equal_composed() {
    let lengths = PackedBatch::new(&(1..=70).map(|n| vec![0u32; n]).collect::<Vec<_>>());
    for (batch, shapes) in [(batch(), vec![(64, 2), (128, 2), (16, 2), (36, 3)]), (lengths, vec![(32, 1)])] {
        for (hidden, heads) in shapes {
            let shape = [batch.tokens(), hidden];
            let (q, k, v) = (var(&shape, 1, 2.0), var(&shape, 2, 2.0), var(&shape, 3, 1.0));
            for way in ways(&batch, heads) {
                compare(
                    &format!("attention {hidden}/{heads}, causal {}, {:?}", way.causal, way.dropout.is_some()),
                    &[&q, &k, &v],
                    || attention::attention(&q, &k, &v, &batch.cu_seqlens, way.clone()),
                    || composed::attention(&q, &k, &v, &batch.cu_seqlens, way.clone(), None),
                );
                let qkv = Var::from_tensor(&Tensor::cat(&[&*q, &*k, &*v], 1).unwrap().detach()).unwrap();
                let part = |i: usize| qkv.narrow(1, i * hidden, hidden)?.contiguous();
                compare(
                    "joint attention",
                    &[&qkv],
                    || attention::joint_attention(&qkv, &batch.cu_seqlens, way.clone(), None),
                    || composed::attention(&part(0)?, &part(1)?, &part(2)?, &batch.cu_seqlens, way.clone(), None),
                );
            }
        }
    }
}

#[test]
fn a_causal_token_does_not_see_those_after_it() {
    let cu_seqlens = Arc::new(vec![0, 70]);
    let (q, k, v) = (var(&[70, 32], 1, 1.0), var(&[70, 32], 2, 1.0), var(&[70, 32], 3, 1.0));
    let heads = Heads { count: 2, causal: true, dropout: None, ..Heads::default() };
    let whole = values(&attention::attention(&q, &k, &v, &cu_seqlens, heads.clone()).unwrap());
    for n in [1, 7, 8, 33, 69] {
        let part = |x: &Var| x.narrow(0, 0, n).unwrap();
        let cut = attention::attention(&part(&q), &part(&k), &part(&v), &Arc::new(vec![0, n]), heads.clone()).unwrap();
        assert!(values(&cut).iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-6), "{n} of 70");
    }
    // The first sees itself alone.
    assert_eq!(whole[..32], values(&v)[..32]);
}

/// The weights themselves: queries and keys of zeros give each of n keys 1/n, and values of a unit matrix show them.
fn dropped_weights(n: usize, p: f32, seed: u64, first: usize) -> Vec<f32> {
    let zero = Tensor::zeros((n, n), DType::F32, &Device::Cpu).unwrap();
    let unit = Tensor::eye(n, DType::F32, &Device::Cpu).unwrap();
    let cu_seqlens = Arc::new(vec![0, n]);
    let dropout = TokenDropout::new(p, seed, &token_places(&cu_seqlens, first)).unwrap();
    let heads = Heads { count: 1, causal: false, dropout, ..Heads::default() };
    values(&attention::attention(&zero, &zero, &unit, &cu_seqlens, heads).unwrap())
}

#[test]
fn dropout_of_weights_has_its_rate_and_its_own_mask_a_seed_and_sequence() {
    let n = 400;
    let whole = (n * n) as f32;
    for p in [0.1f32, 0.5] {
        let a = dropped_weights(n, p, 1, 0);
        let kept = 1.0 / (n as f32 * (1.0 - p));
        assert!(a.iter().all(|w| *w == 0.0 || (w / kept - 1.0).abs() < 1e-5));
        let dropped = |w: &[f32]| w.iter().map(|w| if *w == 0.0 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
        let a = dropped(&a);
        let bound = 5.0 * (p * (1.0 - p) / whole).sqrt();
        assert!((a.iter().sum::<f32>() / whole - p).abs() < bound);
        for b in [dropped_weights(n, p, 2, 0), dropped_weights(n, p, 1, 1)] {
            let both = a.iter().zip(dropped(&b)).map(|(a, b)| a * b).sum::<f32>() / whole;
            assert!((both - p * p).abs() < 5.0 * (p * p * (1.0 - p * p) / whole).sqrt(), "{both}");
        }
    }
}

/// The mask of hidden values as a tensor.
fn mask_of(dropout: &TokenDropout, tokens: usize, width: usize) -> Tensor {
    dropout.forward(&Tensor::ones((tokens, width), DType::F32, &Device::Cpu).unwrap()).unwrap()
}

#[test]
fn dropout_of_tokens_equals_a_product_with_its_mask_also_inside_layer_norm() {
    let batch = batch();
    let tokens = batch.tokens();
    let places = token_places(&batch.cu_seqlens, 3);
    for width in [384, 7] {
        let (x, r) = (var(&[tokens, width], 1, 3.0), var(&[tokens, width], 2, 1.0));
        let (w, b) = (var(&[width], 3, 1.0), var(&[width], 4, 1.0));
        let norm = LayerNorm { weight: w.as_tensor().clone(), bias: b.as_tensor().clone(), eps: 1e-5 };
        let dropout = TokenDropout::new(0.4, 9, &places).unwrap().unwrap();
        let mask = mask_of(&dropout, tokens, width);
        compare("dropout", &[&x], || dropout.forward(&x), || x.mul(&mask));
        compare(
            "dropout, residual, layer norm",
            &[&x, &r, &w, &b],
            || norm.forward_residual(&x, &r, Some(&dropout)),
            || composed::layer_norm(&(x.mul(&mask)? + r.as_tensor())?, &norm.weight, &norm.bias, norm.eps),
        );
        assert!(
            norm.forward_residual(&x.narrow(0, 0, 2).unwrap(), &r.narrow(0, 0, 2).unwrap(), Some(&dropout)).is_err()
        );
    }
    let dropout = TokenDropout::new(0.4, 9, &places).unwrap().unwrap();
    let x = var(&[tokens, 24], 1, 1.0);
    let grouped = dropout.forward_groups(&Tensor::ones((tokens, 24), DType::F32, &Device::Cpu).unwrap(), 8).unwrap();
    assert!(values(&grouped).chunks(8).all(|group| group.iter().all(|v| *v == group[0])));
    compare("grouped dropout", &[&x], || dropout.forward_groups(&x, 8), || x.mul(&grouped));
    let rate = values(&mask_of(&dropout, tokens, 4000)).iter().filter(|v| **v == 0.0).count() as f64;
    let n = (tokens * 4000) as f64;
    assert!((rate / n - 0.4).abs() < 5.0 * (0.24 / n).sqrt());
}

#[test]
fn a_sequences_mask_depends_on_its_number_and_not_on_its_batch() {
    let mask = |lengths: &[usize], first: usize| {
        let cu_seqlens: Vec<usize> = (0..=lengths.len()).map(|s| lengths[..s].iter().sum()).collect();
        let dropout = TokenDropout::new(0.5, 1, &token_places(&cu_seqlens, first)).unwrap().unwrap();
        values(&mask_of(&dropout, cu_seqlens[lengths.len()], 16))
    };
    let whole = mask(&[3, 5, 4], 0);
    assert_eq!(whole[3 * 16..8 * 16], mask(&[9, 5], 0)[9 * 16..]);
    assert_eq!(whole[3 * 16..], mask(&[5, 4], 1));
    assert_ne!(mask(&[5], 0), mask(&[5], 1));
}

#[test]
fn dropout_is_none_at_zero_and_refused_outside_its_range() {
    let places = token_places(&[0, 4], 0);
    assert!(TokenDropout::new(0.0, 1, &places).unwrap().is_none());
    for p in [-0.1, 1.0, f32::NAN] {
        assert!(TokenDropout::new(p, 1, &places).is_err(), "{p}");
    }
}

#[test]
fn linear_cross_entropy_equals_composed_and_leaves_ignored_rows_out() {
    let (tokens, hidden, vocabulary) = (41, 24, 70);
    let (h, table, bias) =
        (var(&[tokens, hidden], 1, 1.0), var(&[vocabulary, hidden], 2, 1.0), var(&[vocabulary], 3, 1.0));
    let targets: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % vocabulary as u32).collect();
    let kept: Vec<u32> = (0..tokens as u32).filter(|i| targets[*i as usize] != 14).collect();
    assert!(kept.len() < tokens);
    for (ignore, rows) in [(None, (0..tokens as u32).collect()), (Some(14), kept)] {
        let left = Arc::new(rows.iter().map(|r| targets[*r as usize]).collect::<Vec<_>>());
        let rows = Tensor::new(rows, &Device::Cpu).unwrap();
        compare(
            "linear cross entropy",
            &[&h, &table, &bias],
            || linear_cross_entropy(&h, &table, &bias, &targets, ignore),
            || composed::linear_cross_entropy(&h.index_select(&rows, 0)?, &table, &bias, &left),
        );
    }
    // A frozen table and bias get no gradient, and the loss is the same.
    let (fixed, still) = (table.as_detached_tensor(), bias.as_detached_tensor());
    let loss = linear_cross_entropy(&h, &fixed, &still, &targets, None).unwrap();
    let gradients = loss.backward().unwrap();
    assert!(gradients.get(&h).is_some() && gradients.get(&fixed).is_none() && gradients.get(&still).is_none());
    let bad = |targets: &[u32], ignore| linear_cross_entropy(&h, &table, &bias, targets, ignore).is_err();
    assert!(bad(&[1; 40], None) && bad(&[70; 41], None) && bad(&[3; 41], Some(3)));
    assert!(linear_cross_entropy(&h, &table, &var(&[69], 1, 1.0), &targets, None).is_err());
}

/// x + GELU(x W + b), twice, each with a residual and a LayerNorm with dropout: a small model of variables.
struct Blocks {
    layers: Vec<(Linear, LayerNorm, TokenDropout)>,
    vars: Vec<Var>,
}

impl Blocks {
    fn new(count: u64, tokens: usize) -> Self {
        let (mut layers, mut vars) = (Vec::new(), Vec::new());
        for i in 0..count {
            let own = [
                var(&[32, 32], 4 * i + 1, 0.5),
                var(&[32], 4 * i + 2, 0.5),
                var(&[32], 4 * i + 3, 1.0),
                var(&[32], 4 * i + 4, 1.0),
            ];
            let [w, b, g, s] = [0, 1, 2, 3].map(|v: usize| own[v].as_tensor().clone());
            let dropout = TokenDropout::new(0.2, i, &token_places(&[0, tokens], 0)).unwrap().unwrap();
            layers.push((Linear::new(w, Some(b), None).unwrap(), LayerNorm { weight: g, bias: s, eps: 1e-5 }, dropout));
            vars.extend(own);
        }
        Self { layers, vars }
    }

    fn segment(&self, i: usize, mark: Option<Arc<()>>) -> Segment {
        let (linear, norm, dropout) = self.layers[i].clone();
        Arc::new(move |x| {
            let x = match &mark {
                Some(mark) => x.apply_op1(Mark(mark.clone()))?,
                None => x.clone(),
            };
            norm.forward_residual(&linear.forward_activated(&x, Activation::Gelu, None)?, &x, Some(&dropout))
        })
    }

    fn forward(&self, x: &Tensor, sink: Option<&GradientSink>, mark: Option<&Arc<()>>) -> Tensor {
        (0..self.layers.len()).fold(x.clone(), |x, i| {
            let segment = self.segment(i, mark.cloned());
            match sink {
                Some(sink) => checkpoint(&x, segment, sink).unwrap(),
                None => segment(&x).unwrap(),
            }
        })
    }
}

/// Does nothing, and lives as long as the graph that it is in.
struct Mark(#[allow(dead_code)] Arc<()>);

impl CustomOp1 for Mark {
    fn name(&self) -> &'static str {
        "mark"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((storage.clone(), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dout.clone()))
    }
}

fn gradients_of(y: &Tensor) -> GradStore {
    let cotangent = var(y.dims(), 99, 1.0).as_detached_tensor();
    y.mul(&cotangent).unwrap().sum_all().unwrap().backward().unwrap()
}

#[test]
fn checkpointed_gradients_are_the_plain_ones_to_the_bit() {
    let blocks = Blocks::new(3, 50);
    let x = var(&[50, 32], 100, 1.0);
    for input in [x.as_tensor().clone(), x.as_detached_tensor(), (x.as_tensor() * 2.0).unwrap()] {
        let sink = GradientSink::new();
        let (plain, kept) = (blocks.forward(&input, None, None), blocks.forward(&input, Some(&sink), None));
        assert_eq!(values(&plain), values(&kept));
        let (wanted, got) = (gradients_of(&plain), gradients_of(&kept));
        for (i, var) in blocks.vars.iter().enumerate() {
            assert!(got.get(var).is_none());
            assert_eq!(values(&sink.take(var.id()).unwrap()), values(wanted.get(var).unwrap()), "variable {i}");
        }
        assert!(sink.is_empty());
        assert_eq!(wanted.get(&x).map(values), got.get(&x).map(values));
        assert_eq!(got.get(&x).is_some(), input.track_op());
    }
}

#[test]
fn gradients_of_variables_inside_and_outside_add_up_over_calls() {
    let blocks = Blocks::new(1, 50);
    let x = var(&[50, 32], 100, 1.0);
    let sink = GradientSink::new();
    let once = |x: &Tensor| checkpoint(x, blocks.segment(0, None), &sink).unwrap();
    // The block twice, and once more outside of a checkpoint.
    let y = blocks.segment(0, None)(&once(&once(&x))).unwrap();
    let plain = blocks.forward(&blocks.forward(&blocks.forward(&x, None, None), None, None), None, None);
    let (wanted, got) = (gradients_of(&plain), gradients_of(&y));
    for var in &blocks.vars {
        let sum = (sink.take(var.id()).unwrap() + got.get(var).unwrap()).unwrap();
        assert!(relative_error(&sum, wanted.get(var).unwrap()) < 1e-5);
    }
}

#[test]
fn a_checkpoint_keeps_no_graph_and_is_none_where_nothing_is_trained() {
    let blocks = Blocks::new(3, 50);
    let x = var(&[50, 32], 100, 1.0);
    let (mark, sink) = (Arc::new(()), GradientSink::new());
    let plain = blocks.forward(&x, None, Some(&mark));
    let graphs = Arc::strong_count(&mark) - 1;
    drop(plain);
    assert_eq!((graphs, Arc::strong_count(&mark) - 1), (3, 0));
    let kept = blocks.forward(&x, Some(&sink), Some(&mark));
    // The functions themselves hold it; no op of their graphs does.
    assert_eq!(Arc::strong_count(&mark) - 1, 3);
    let nodes = kept.sorted_nodes().len();
    assert!(nodes <= 4 * 2, "{nodes} nodes");
    let fixed: Segment = Arc::new(|x| x * 2.0);
    assert!(!checkpoint(&x.as_detached_tensor(), fixed, &sink).unwrap().track_op());
}

#[test]
fn ops_do_not_depend_on_the_number_of_threads() {
    let batch = batch();
    let shape = [batch.tokens(), 64];
    let (q, k, v) = (var(&shape, 1, 1.0), var(&shape, 2, 1.0), var(&shape, 3, 1.0));
    let (w, b, table) = (var(&[64], 4, 1.0), var(&[64], 5, 1.0), var(&[300, 64], 6, 1.0));
    let bias = var(&[300], 7, 1.0);
    let targets: Vec<u32> = (0..batch.tokens() as u32).collect();
    let run = |threads: usize, heads: &Heads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let norm = LayerNorm { weight: w.as_tensor().clone(), bias: b.as_tensor().clone(), eps: 1e-5 };
            let context = attention::attention(&q, &k, &v, &batch.cu_seqlens, heads.clone()).unwrap();
            let y = norm.forward_residual(&context, &q, heads.dropout.as_ref()).unwrap();
            let loss = linear_cross_entropy(&y, &table, &bias, &targets, None).unwrap();
            let gradients = loss.backward().unwrap();
            let mut all = vec![values(&y), values(&loss)];
            all.extend([&q, &k, &v, &w, &b, &table, &bias].map(|var| values(gradients.get(var).unwrap())));
            all
        })
    };
    for heads in ways(&batch, 2).into_iter().chain([Heads::from(2)]) {
        assert_eq!(run(1, &heads), run(2, &heads));
        assert_eq!(run(1, &heads), run(5, &heads));
    }
}
