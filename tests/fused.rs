//! Layers that run as one operation are the layers that run op by op: on tiny models of every architecture (`tests/data`), in
//! inference, in training, and in bf16.

use std::path::PathBuf;
use std::process::Command;

mod common;

use candle_core::Tensor;
use common::{largest_difference, values};
use embeval::adapter::{Adapter, LoraSpec};
use embeval::model::{BuildOptions, Embedder, Mode, ModelFiles};
use embeval::nn::PackedBatch;
use embeval::nn::checkpoint::GradientSink;
use embeval::nn::kernel::precision;
use embeval::train::run::{adapter_targets, linear_layers};

const FOLDERS: [&str; 10] = [
    "models/bert",
    "models/xlm_roberta",
    "architectures/distilbert",
    "architectures/mpnet",
    "architectures/nomic_bert",
    "architectures/modern_bert",
    "architectures/qwen3",
    "architectures/gemma3",
    "architectures/t5_gated",
    "architectures/t5_relu",
];

fn files(name: &str) -> ModelFiles {
    ModelFiles::load(&PathBuf::from("tests/data").join(name)).unwrap()
}

/// Sequences of many lengths, one longer than a block of rows of attention.
fn batch(files: &ModelFiles) -> PackedBatch {
    let vocabulary = files.architecture.spec().vocab_size as u32;
    let longest = files.max_seq_length.min(60);
    let sequence =
        |s: usize, n: usize| (0..n).map(|i| ((s * 31 + i * 17 + 5) as u32) % vocabulary).collect::<Vec<u32>>();
    let lengths = [1, longest, 7, 33.min(longest), 2, 24.min(longest), 40.min(longest)];
    PackedBatch::new(&lengths.iter().enumerate().map(|(s, n)| sequence(s, *n)).collect::<Vec<_>>())
}

fn build(files: &ModelFiles, trained: bool) -> Embedder {
    Embedder::build(files, &BuildOptions { trainable: &|_| trained, ..Default::default() }).unwrap()
}

#[test]
fn inference_by_whole_layers_is_inference_op_by_op() {
    for name in FOLDERS {
        let files = files(name);
        let batch = batch(&files);
        let states = |trained| values(&build(&files, trained).token_states(&batch, Mode::INFERENCE).unwrap());
        // Weights that are trained run op by op.
        let (whole, by_op) = (states(false), states(true));
        let scale = by_op.iter().fold(1f32, |m, v| m.max(v.abs()));
        let difference = largest_difference(&whole, &by_op) / scale;
        assert!(difference < 5e-6, "{name}: states differ by {difference}");
    }
}

#[test]
fn bf16_is_close_and_no_f32() {
    for name in FOLDERS {
        let files = files(name);
        let (batch, embedder) = (batch(&files), build(&files, false));
        let embed = |bf16| {
            let _precision = precision::scope(bf16);
            let x = embedder.forward(&batch, Mode::INFERENCE).unwrap();
            x.broadcast_div(&x.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap()).unwrap()
        };
        let difference = largest_difference(&values(&embed(true)), &values(&embed(false)));
        assert!(difference > 1e-6 && difference < 5e-2, "{name}: embeddings differ by {difference}");
    }
}

/// A loss that weighs every value of the embeddings.
fn loss(embedder: &Embedder, batch: &PackedBatch, mode: Mode) -> Tensor {
    let embeddings = embedder.forward(batch, mode).unwrap();
    let count = embeddings.elem_count();
    let weights: Vec<f32> = (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect();
    let weights = Tensor::from_vec(weights, embeddings.shape(), embeddings.device()).unwrap();
    embeddings.mul(&weights).unwrap().sum_all().unwrap()
}

/// The gradients of [`loss`] by layers in whole, in this precision, against those op by op in `f32`; whether layers were one operation.
fn compare_gradients(name: &str, embedder: &Embedder, batch: &PackedBatch, mode: Mode, parts: usize) -> bool {
    let plain = loss(embedder, batch, mode.clone());
    let want = plain.backward().unwrap();
    let sink = GradientSink::new();
    let _precision = precision::in_parts(parts);
    let fused = loss(embedder, batch, mode.with_gradients(&sink));
    let difference = (plain.to_scalar::<f32>().unwrap() - fused.to_scalar::<f32>().unwrap()).abs();
    let high = parts == precision::HIGH;
    assert!(difference < if high { 5e-4 } else { 1e-4 }, "{name}, {parts} parts: losses differ by {difference}");
    let outside = fused.backward().unwrap();
    let by_hand = !sink.is_empty();
    let grads = |parameter: &str| want.get(&embedder.vars()[parameter]).map(values).unwrap_or_default();
    let scale = embedder.vars().keys().flat_map(|p| grads(p)).fold(0f32, |m, v| m.max(v.abs()));
    for (parameter, var) in embedder.vars() {
        let Some(want) = want.get(var).map(values) else { continue };
        let got = match (outside.get(var).cloned(), sink.take(var.id())) {
            (Some(a), Some(b)) => (a + b).unwrap(),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => panic!("{name}: no gradient of {parameter}"),
        };
        let own = want.iter().fold(scale * 1e-2, |m, v| m.max(v.abs()));
        let difference = largest_difference(&values(&got), &want) / own;
        assert!(
            difference < if high { 1e-4 } else { 5e-5 },
            "{name}, {parts} parts: gradient of {parameter} differs by {difference}"
        );
    }
    by_hand
}

#[test]
fn gradients_of_whole_layers_are_those_op_by_op() {
    let mut by_hand = 0;
    for name in FOLDERS {
        let files = files(name);
        let (batch, embedder) = (batch(&files), build(&files, true));
        for mode in [Mode::INFERENCE, Mode::training(5)] {
            for parts in [precision::F32, precision::HIGH] {
                by_hand += usize::from(compare_gradients(name, &embedder, &batch, mode.clone(), parts));
            }
        }
    }
    assert!(by_hand >= 12, "{by_hand} passes had layers of one operation");
}

#[test]
fn gradients_of_adapters_in_whole_layers_are_those_op_by_op() {
    let mut by_hand = 0;
    for name in FOLDERS {
        let files = files(name);
        let batch = batch(&files);
        let linears = linear_layers(&files);
        let all: Vec<String> = linears.keys().cloned().collect();
        for targets in [all, adapter_targets(&files, &[])] {
            let spec = LoraSpec { rank: 3, alpha: 6.0, ..LoraSpec::default() };
            let adapter = Adapter::init(spec, &targets, &linears, 7).unwrap();
            let options = BuildOptions { adapter: Some(&adapter), adapter_trainable: true, ..Default::default() };
            let embedder = Embedder::build(&files, &options).unwrap();
            // B starts as zero, which would leave A without a gradient.
            for (i, var) in embedder.vars().values().enumerate() {
                let count = var.elem_count();
                let values: Vec<f32> = (0..count).map(|v| ((v * 29 + i * 7) % 41) as f32 / 200.0 - 0.1).collect();
                var.set(&Tensor::from_vec(values, var.shape(), var.device()).unwrap()).unwrap();
            }
            for parts in [precision::F32, precision::HIGH] {
                by_hand += usize::from(compare_gradients(name, &embedder, &batch, Mode::training(5), parts));
            }
        }
    }
    assert!(by_hand >= 8, "{by_hand} passes had layers of one operation");
}

#[test]
fn bf16_without_a_matrix_unit_is_bf16() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.txt");
    let lines: Vec<String> = (1..40).map(|i| "the cat sat on the mat and looked ".repeat(i % 9 + 1)).collect();
    std::fs::write(&texts, lines.join("\n")).unwrap();
    let encode = |level: Option<&str>, dtype: &str| {
        let output = folder.path().join("out.npy");
        let mut command = Command::new(env!("CARGO_BIN_EXE_embeval"));
        command.args(["-q", "encode", "tests/data/models/bert", "--device", "cpu", "--dtype", dtype, "--input"]);
        command.arg(&texts).arg("--output").arg(&output);
        level.map(|level| command.env("EMBEVAL_SIMD", level));
        assert!(command.status().unwrap().success());
        let bytes = std::fs::read(&output).unwrap();
        let start = bytes.iter().position(|b| *b == b'\n').unwrap() + 1;
        bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<f32>>()
    };
    let exact = encode(None, "f32");
    for level in [None, Some("v4"), Some("v3"), Some("baseline")] {
        let difference = largest_difference(&encode(level, "bf16"), &exact);
        assert!(difference > 1e-5 && difference < 3e-2, "{level:?}: bf16 differs from f32 by {difference}");
    }
}
