//! Whole models on a GPU against the CPU: embeddings, gradients, training. Without a GPU these tests say that they are skipped;
//! `tests/peers/cuda_emulate` runs them without one.
#![cfg(feature = "cuda")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor, Var};
use embeval::encode::embed_tokens;
use embeval::model::architecture::ModelDropout;
use embeval::model::{BuildOptions, Embedder, Mode, ModelFiles};
use embeval::nn::PackedBatch;
use embeval::nn::checkpoint::GradientSink;
use embeval::nn::kernel::precision;
use embeval::train::groups::Groups;
use embeval::train::optimizer::{AdamW, Optimizer};

fn gpu() -> Option<Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| Device::new_cuda(0).map_err(|e| println!("no GPU: {e}")).ok());
    if gpu.is_none() {
        println!("skipped: there is no GPU");
    }
    gpu.clone()
}

fn models() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut models: Vec<PathBuf> = ["models", "architectures"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(data.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists() || path.join("modules.json").exists())
        .collect();
    models.sort();
    assert!(models.len() > 15);
    models
}

/// Sequences of ids that every model's vocabulary has.
fn sequences() -> Vec<Vec<u32>> {
    [3usize, 11, 1, 24, 7]
        .iter()
        .enumerate()
        .map(|(s, n)| (0..*n).map(|i| (5 + (s * 7 + i * 3) % 30) as u32).collect())
        .collect()
}

fn values(x: &Tensor) -> Vec<f32> {
    let x = x.to_dtype(DType::F32).unwrap().to_device(&Device::Cpu).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn difference(got: &[f32], want: &[f32], floor: f32) -> f32 {
    assert_eq!(got.len(), want.len());
    assert!(got.iter().all(|v| v.is_finite()), "not finite");
    let scale = want.iter().fold(floor, |m, v| m.max(v.abs()));
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / scale
}

#[test]
fn embeddings_are_the_cpus() {
    let Some(gpu) = gpu() else { return };
    for path in models() {
        let files = ModelFiles::load(&path).unwrap();
        let embed = |device: &Device, half: bool| {
            let options = BuildOptions { device: device.clone(), half, ..Default::default() };
            let embedder = Embedder::build(&files, &options).unwrap();
            let embedded = embed_tokens(&embedder, &sequences()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!((embedded.dtype(), embedder.half()), (DType::F32, half && device.is_cuda()));
            values(&embedded)
        };
        let want = embed(&Device::Cpu, false);
        let error = difference(&embed(&gpu, false), &want, 1e-6);
        assert!(error < 1e-4, "{}: differs by {error}", path.display());
        let error = difference(&embed(&gpu, true), &want, 1e-6);
        assert!(error < 0.06, "{}: differs by {error} in bf16", path.display());
    }
}

/// Gradients of all weights by a function of the embeddings, by name.
fn gradients(
    files: &ModelFiles,
    device: &Device,
    checkpointing: bool,
    bf16: bool,
) -> (f32, BTreeMap<String, Vec<f32>>) {
    let trainable = |name: &str| !name.starts_with("pooler") && !name.contains(".pooler.");
    let dropout = Some(ModelDropout { hidden: 0.1, attention: 0.1 });
    let options = BuildOptions { device: device.clone(), trainable: &trainable, dropout, ..Default::default() };
    let embedder = Embedder::build(files, &options).unwrap();
    let sink = GradientSink::new();
    let mode = if checkpointing { Mode::training(5).with_checkpointing(&sink) } else { Mode::training(5) };
    let _precision = precision::scope(bf16);
    let embedded = embedder.forward(&PackedBatch::new(&sequences()), mode).unwrap();
    let weights: Vec<f32> = (0..embedded.elem_count()).map(|i| ((i * 37) % 19) as f32 / 19.0 - 0.4).collect();
    let weights = Tensor::from_vec(weights, embedded.shape(), device).unwrap();
    let loss = (embedded * weights).unwrap().sum_all().unwrap();
    let mut found = loss.backward().unwrap();
    let mut all = BTreeMap::new();
    for (name, var) in embedder.vars() {
        let gradient = match (found.remove(var), sink.take(var.id())) {
            (Some(a), Some(b)) => (a + b).unwrap(),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => panic!("no gradient of {name}"),
        };
        assert_eq!(gradient.dtype(), DType::F32, "{name}");
        all.insert(name.clone(), values(&gradient));
    }
    (loss.to_scalar().unwrap(), all)
}

#[test]
fn gradients_are_the_cpus() {
    let Some(gpu) = gpu() else { return };
    for path in models() {
        let files = ModelFiles::load(&path).unwrap();
        let (loss, want) = gradients(&files, &Device::Cpu, false, false);
        let largest = want.values().flatten().fold(0f32, |m, v| m.max(v.abs()));
        for (checkpointing, bf16, most) in [(false, false, 1e-3), (true, false, 1e-3), (false, true, 0.3)] {
            let (there, got) = gradients(&files, &gpu, checkpointing, bf16);
            let off = (there - loss).abs() / loss.abs().max(1.0);
            assert!(off < most / 10.0, "{}: loss {there}, not {loss}", path.display());
            for (name, want) in &want {
                // With a floor for those that are zero but for rounding.
                let floor = largest * if bf16 { 0.05 } else { 1e-3 };
                let error = difference(&got[name], want, floor);
                assert!(error < most, "{} {name}: differs by {error} ({checkpointing}, {bf16})", path.display());
            }
        }
    }
}

#[test]
fn optimizer_steps_and_states_are_the_cpus() {
    let Some(gpu) = gpu() else { return };
    let settings = AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: Some(1.0), ema: Some(0.9) };
    let start: Vec<f32> = (0..70_001).map(|i| ((i * 31) % 101) as f32 / 50.0 - 1.0).collect();
    let on = |device: &Device| {
        let vars: BTreeMap<String, Var> = [("a.weight", 70_001), ("b.bias", 5)]
            .iter()
            .map(|(name, n)| (name.to_string(), Var::from_tensor(&Tensor::new(&start[..*n], device).unwrap()).unwrap()))
            .collect();
        let mut optimizer = Optimizer::new(settings.clone(), &vars, &Groups::default()).unwrap();
        let mut norms = Vec::new();
        let mut step = |optimizer: &mut Optimizer| {
            let loss = vars.values().map(|v| v.as_tensor().sqr().unwrap().sum_all().unwrap());
            let loss = loss.reduce(|a, b| (a + b).unwrap()).unwrap();
            optimizer.accumulate(&loss).unwrap();
            norms.push(optimizer.step(0.01).unwrap());
        };
        (0..3).for_each(|_| step(&mut optimizer));
        let (state, at) = (optimizer.state().unwrap(), optimizer.steps());
        let mut resumed = Optimizer::new(settings.clone(), &vars, &Groups::default()).unwrap();
        resumed.restore(&state, at).unwrap();
        (0..2).for_each(|_| step(&mut resumed));
        (resumed.state().unwrap(), norms)
    };
    let ((want, norms), (got, there)) = (on(&Device::Cpu), on(&gpu));
    for (a, b) in there.iter().zip(&norms) {
        assert!((a - b).abs() < 1e-5 * b, "norm {a}, not {b}");
    }
    for (name, want) in &want {
        let error = difference(&values(&got[name]), &values(want), 1e-6);
        assert!(error < 1e-5, "{name}: differs by {error}");
    }
}
