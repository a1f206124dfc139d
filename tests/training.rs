//! Training against PyTorch (golden files by `tests/data/models/make_models.py`), and what a run promises.

use std::path::{Path, PathBuf};

use candle_core::Device;
use embeval::adapter::{LoraSpec, peft};
use embeval::data::rows::PairRow;
use embeval::encode::encode;
use embeval::model::{Embedder, ModelFiles};
use embeval::objective::Direction;
use embeval::train::optimizer::AdamW;
use embeval::train::run::{Output, Run, Settings, run};
use embeval::train::schedule::Shape;
use serde_json::Value;

fn bert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/bert")
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(bert().join(name)).unwrap()).unwrap()
}

fn settings() -> Settings {
    Settings {
        direction: Direction::Asymmetric,
        temperature: 0.05,
        hard_negatives: 1,
        prompts: (String::new(), String::new()),
        max_length: (48, 48),
        adapter: None,
        freeze: Vec::new(),
        epochs: 1,
        max_steps: None,
        batch: 6,
        accumulate: 1,
        lr: 1e-3,
        schedule: Shape::Linear,
        warmup: 2.0,
        optimizer: AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: Some(1.0) },
        seed: 1,
        eval_every: None,
        save_every: None,
    }
}

/// The golden batches as rows, and which rows each batch has.
fn rows(golden: &Value) -> (Vec<PairRow>, Vec<Vec<usize>>) {
    let (mut rows, mut batches) = (Vec::new(), Vec::new());
    for batch in golden["batches"].as_array().unwrap() {
        let column = |key: &str| -> Vec<String> { serde_json::from_value(batch[key].clone()).unwrap() };
        let (queries, positives, negatives) = (column("queries"), column("positives"), column("negatives"));
        batches.push((rows.len()..rows.len() + queries.len()).collect());
        for ((query, positive), negative) in queries.into_iter().zip(positives).zip(negatives) {
            rows.push(PairRow { query, positives: vec![positive], negatives: vec![negative] });
        }
    }
    (rows, batches)
}

fn follow(golden: &Value, settings: &Settings, start: Option<embeval::adapter::Adapter>) -> (Output, Embedder) {
    let files = ModelFiles::load(&bert()).unwrap();
    let (rows, batches) = rows(golden);
    run(&Run {
        base: &files,
        base_name: "bert",
        start,
        settings,
        rows: &rows,
        dev: &[],
        device: &Device::Cpu,
        output: None,
        progress: &|_, _, _| {},
        fixed_batches: Some(&batches),
    })
    .unwrap()
}

fn compare(golden: &Value, output: &Output, embedder: &Embedder) {
    let want: Vec<f64> = serde_json::from_value(golden["losses"].clone()).unwrap();
    assert_eq!(output.losses.len(), want.len());
    for (step, (got, want)) in output.losses.iter().zip(&want).enumerate() {
        assert!((got - want).abs() < 1e-3, "step {step}: loss {got}, PyTorch's {want}");
    }
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let want: Vec<Vec<f32>> = serde_json::from_value(golden["embeddings"].clone()).unwrap();
    let got = encode(&embedder.detached().unwrap(), &texts, "", &|_| {}).unwrap().embeddings;
    for (i, want) in want.iter().enumerate() {
        let difference = got.row(i).iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(difference < 2e-3, "embedding {i} after training differs by {difference}");
    }
}

#[test]
fn a_full_fine_tune_follows_pytorch() {
    let golden = golden("training.json");
    let (output, embedder) = follow(&golden, &settings(), None);
    compare(&golden, &output, &embedder);
}

#[test]
fn lora_follows_peft_and_moves_nothing_frozen() {
    let golden = golden("training_lora.json");
    let start = peft::load(&bert().join("lora_init")).unwrap();
    let spec = LoraSpec { rank: 4, alpha: 8.0, dropout: 0.0, rslora: false };
    let settings = Settings { adapter: Some((spec, vec!["query".into(), "value".into()])), ..settings() };
    let before = ModelFiles::load(&bert()).unwrap();
    let (output, embedder) = follow(&golden, &settings, Some(start));
    compare(&golden, &output, &embedder);
    assert_eq!(embedder.vars().len(), 8);
    for (name, tensor) in embedder.weights() {
        let moved = (tensor - &before.weights[&name]).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(moved.to_scalar::<f32>().unwrap(), 0.0, "{name} moved");
    }
}

fn small_rows() -> Vec<PairRow> {
    let (rows, _) = rows(&golden("training.json"));
    rows.into_iter().filter(|r| !r.query.trim().is_empty()).collect()
}

fn train_in(folder: Option<&Path>, settings: &Settings) -> (Output, Embedder) {
    let files = ModelFiles::load(&bert()).unwrap();
    let rows = small_rows();
    run(&Run {
        base: &files,
        base_name: "bert",
        start: None,
        settings,
        rows: &rows,
        dev: &rows[..12],
        device: &Device::Cpu,
        output: folder,
        progress: &|_, _, _| {},
        fixed_batches: None,
    })
    .unwrap()
}

#[test]
fn a_run_repeats_to_the_bit_and_another_seed_does_not() {
    let settings = Settings { max_steps: Some(6), accumulate: 2, ..settings() };
    let (a, _) = train_in(None, &settings);
    let (b, _) = train_in(None, &settings);
    assert_eq!((&a.losses, &a.norms), (&b.losses, &b.norms));
    let (c, _) = train_in(None, &Settings { seed: 2, ..settings });
    assert_ne!(a.losses, c.losses);
}

#[test]
fn checkpoints_are_the_model_at_their_step() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        max_steps: Some(5),
        save_every: Some(2),
        eval_every: Some(2),
        direction: Direction::Symmetric,
        ..settings()
    };
    let (output, embedder) = train_in(Some(folder.path()), &settings);
    let steps: Vec<usize> = output.checkpoints.iter().map(|c| c.0).collect();
    assert_eq!(steps, [2, 4, 5]);
    let evaluated: Vec<usize> = output.dev.iter().map(|p| p.step).collect();
    assert_eq!(evaluated, [0, 2, 4, 5]);
    let saved = ModelFiles::load(&output.checkpoints[2].1).unwrap();
    for (name, tensor) in embedder.weights() {
        let difference = (tensor - &saved.weights[&name]).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0, "{name}");
    }
}

#[test]
fn a_diverging_run_stops_with_the_reason() {
    let files = ModelFiles::load(&bert()).unwrap();
    let rows = small_rows();
    let settings =
        Settings { lr: 1e30, warmup: 0.0, optimizer: AdamW { clip: None, ..settings().optimizer }, ..settings() };
    let result = run(&Run {
        base: &files,
        base_name: "bert",
        start: None,
        settings: &settings,
        rows: &rows,
        dev: &[],
        device: &Device::Cpu,
        output: None,
        progress: &|_, _, _| {},
        fixed_batches: None,
    });
    let error = result.err().expect("a run with such a rate cannot succeed").to_string();
    assert!(error.contains("lower train.lr"), "{error}");
}
