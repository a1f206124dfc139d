//! TSDAE's decoder against sentence-transformers' `DenoisingAutoEncoderLoss`: golden values by
//! `tests/peers/golden_tsdae.py`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, Var};
use embeval::adapter::{Adapter, LoraSpec};
use embeval::model::{BuildOptions, Decoder, Embedder, Mode, ModelDropout, ModelFiles};
use embeval::nn::PackedBatch;
use embeval::nn::checkpoint::GradientSink;
use serde_json::Value;

const NAMES: [&str; 2] = ["bert", "xlm_roberta"];

struct Golden {
    files: ModelFiles,
    tensors: HashMap<String, Tensor>,
    json: Value,
}

fn golden(name: &str) -> Golden {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tsdae").join(name);
    Golden {
        files: ModelFiles::load(&folder).unwrap(),
        tensors: candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap(),
        json: serde_json::from_str(&std::fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap(),
    }
}

impl Golden {
    fn batch(&self, key: &str) -> PackedBatch {
        let ids: Vec<Vec<u32>> = serde_json::from_value(self.json[key].clone()).unwrap();
        PackedBatch::new(&ids)
    }

    /// The decoder's own tensors.
    fn own(&self) -> BTreeMap<String, Tensor> {
        let own = self.tensors.iter().filter(|(name, _)| !name.starts_with("gradient."));
        own.map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    }

    fn loss(&self, embedder: &Embedder, decoder: &Decoder, mode: &Mode) -> Tensor {
        let sentences = embedder.pooled(&self.batch("source"), mode.clone()).unwrap();
        decoder.loss(embedder, &sentences, &self.batch("target"), mode).unwrap()
    }
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn scalar(t: &Tensor) -> f32 {
    t.to_scalar().unwrap()
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn trained(files: &ModelFiles, dropout: Option<ModelDropout>) -> Embedder {
    Embedder::build(files, &BuildOptions { trainable: &|_| true, dropout, ..Default::default() }).unwrap()
}

/// The name in transformers of the decoder's own tensor: RoBERTa calls its head otherwise.
fn transformers_name(model: &str, name: &str) -> String {
    if model == "bert" {
        return name.replace("decoder.encoder", "decoder.bert.encoder");
    }
    name.replace("decoder.encoder", "decoder.roberta.encoder")
        .replace("cls.predictions.transform.dense", "lm_head.dense")
        .replace("cls.predictions.transform.LayerNorm", "lm_head.layer_norm")
        .replace("cls.predictions.bias", "lm_head.bias")
}

#[test]
fn loss_and_gradients_of_shared_and_own_tensors_are_sentence_transformers() {
    for name in NAMES {
        let golden = golden(name);
        let embedder = trained(&golden.files, None);
        let decoder = Decoder::new(&embedder, Some(&golden.own()), 1).unwrap();
        let loss = golden.loss(&embedder, &decoder, &Mode::INFERENCE);
        let want = golden.json["loss"].as_f64().unwrap();
        assert!((f64::from(scalar(&loss)) - want).abs() < 1e-5, "{name}: loss {loss}, not {want}");
        let gradients = loss.backward().unwrap();
        let wanted: HashMap<&str, Vec<f32>> = golden
            .tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("gradient.")?, values(tensor))))
            .collect();
        let largest = wanted.values().flatten().fold(0f32, |m, v| m.max(v.abs()));
        let vars: Vec<(String, &Var)> = embedder
            .vars()
            .iter()
            .map(|(n, var)| (n.clone(), var))
            .chain(decoder.vars().iter().map(|(n, var)| (transformers_name(name, n), var)))
            .collect();
        assert_eq!(vars.len(), wanted.len());
        for (parameter, var) in vars {
            let want = &wanted[parameter.as_str()];
            // Relative to the tensor's own largest gradient, with a floor for those that are zero but for rounding.
            let own = want.iter().fold(largest * 1e-3, |m, v| m.max(v.abs()));
            let difference = difference(&values(gradients.get(var).unwrap()), want) / own;
            assert!(difference < 1e-4, "{name}: gradient of {parameter} differs by {difference}");
        }
    }
}

#[test]
fn checkpointing_changes_no_gradient_with_dropout_and_without() {
    for dropout in [None, Some(ModelDropout { hidden: 0.2, attention: 0.3 })] {
        let golden = golden("bert");
        let embedder = trained(&golden.files, dropout);
        let decoder = Decoder::new(&embedder, Some(&golden.own()), 1).unwrap();
        let sink = GradientSink::new();
        let plain = golden.loss(&embedder, &decoder, &Mode::training(5));
        let kept = golden.loss(&embedder, &decoder, &Mode::training(5).with_checkpointing(&sink));
        assert_eq!(scalar(&plain), scalar(&kept));
        let (wanted, got) = (plain.backward().unwrap(), kept.backward().unwrap());
        for (name, var) in embedder.vars().iter().chain(decoder.vars()) {
            let want = wanted.get(var).unwrap();
            let parts = [sink.take(var.id()), got.get(var).cloned()];
            let sum = parts.into_iter().flatten().reduce(|a, b| (a + b).unwrap()).unwrap();
            let largest = values(want).iter().fold(1e-6f32, |m, v| m.max(v.abs()));
            // Tensors of encoder and decoder are summed in another order.
            assert!(difference(&values(&sum), &values(want)) < 1e-5 * largest, "{name}");
        }
        assert!(sink.is_empty());
    }
}

#[test]
fn dropout_is_drawn_by_seed_where_the_mode_asks() {
    let golden = golden("xlm_roberta");
    let plain = trained(&golden.files, None);
    let embedder = trained(&golden.files, Some(ModelDropout { hidden: 0.1, attention: 0.1 }));
    let decoder = Decoder::new(&embedder, Some(&golden.own()), 1).unwrap();
    let of = |embedder: &Embedder, mode: Mode| scalar(&golden.loss(embedder, &decoder, &mode));
    let want = of(&plain, Mode::INFERENCE);
    assert_eq!(of(&embedder, Mode::INFERENCE), want);
    assert_eq!(of(&plain, Mode::training(1)), want);
    let first = of(&embedder, Mode::training(1));
    assert_eq!(of(&embedder, Mode::training(1)), first);
    assert!(first != want && of(&embedder, Mode::training(2)) != first);
}

#[test]
fn adapted_layers_are_shared_adapters_and_all() {
    let golden = golden("bert");
    let linears = (0..2)
        .flat_map(|i| ["query", "value"].map(|part| (format!("encoder.layer.{i}.attention.self.{part}"), (32, 32))))
        .collect();
    let spec = LoraSpec { rank: 2, alpha: 4.0, ..LoraSpec::default() };
    let adapter = Adapter::init(spec, &["all-linear".into()], &linears, 3).unwrap();
    let adapter = adapter.with_tensors(|name| {
        let b = name.strip_suffix(".lora_B.weight")?;
        (adapter.module(b)?.b.ones_like().ok()? * 0.1).ok()
    });
    let options = BuildOptions { adapter: Some(&adapter), adapter_trainable: true, ..Default::default() };
    let embedder = Embedder::build(&golden.files, &options).unwrap();
    let decoder = Decoder::new(&embedder, Some(&golden.own()), 1).unwrap();
    // Merged into the weights, the adapter is the same model: so it is at work in encoder and decoder.
    let mut weights = golden.files.weights.clone();
    adapter.merge_into(&mut weights).unwrap();
    let merged = trained(&golden.files.with_weights(&weights), None);
    let loss = golden.loss(&embedder, &decoder, &Mode::INFERENCE);
    let merged_loss = golden.loss(&merged, &decoder, &Mode::INFERENCE);
    assert!((scalar(&loss) - scalar(&merged_loss)).abs() < 1e-5);
    let (gradients, wanted) = (loss.backward().unwrap(), merged_loss.backward().unwrap());
    assert_eq!(embedder.vars().len(), 8);
    for (module, part) in adapter.modules().map(|module| (module, adapter.module(module).unwrap())) {
        let (a, b) = (&part.a, &part.b);
        // By the chain rule: dA = scale Bᵀ dW, dB = scale dW Aᵀ.
        let dw = wanted.get(&merged.vars()[&format!("{module}.weight")]).unwrap();
        let da = (b.t().unwrap().matmul(dw).unwrap() * 2.0).unwrap();
        let db = (dw.matmul(&a.t().unwrap()).unwrap() * 2.0).unwrap();
        for (part, want) in [("lora_A", da), ("lora_B", db)] {
            let got = gradients.get(&embedder.vars()[&format!("{module}.{part}.weight")]).unwrap();
            let largest = values(&want).iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(difference(&values(got), &values(&want)) < 1e-4 * largest, "{module}.{part}");
        }
    }
    for var in decoder.vars().values() {
        assert!(gradients.get(var).is_some());
    }
}

#[test]
fn fresh_tensors_are_drawn_by_seed_as_transformers_does() {
    let golden = golden("bert");
    let embedder = trained(&golden.files, None);
    let all = |seed| -> BTreeMap<String, Vec<f32>> {
        let decoder = Decoder::new(&embedder, None, seed).unwrap();
        decoder.vars().iter().map(|(name, var)| (name.clone(), values(var))).collect()
    };
    let vars = all(1);
    assert_eq!(vars, all(1));
    assert_eq!(vars.len(), 2 * 6 + 5);
    for (name, value) in &vars {
        let module_norm = name.contains("LayerNorm");
        if name.ends_with("bias") {
            assert!(value.iter().all(|v| *v == 0.0), "{name}");
        } else if module_norm {
            assert!(value.iter().all(|v| *v == 1.0), "{name}");
        } else {
            // The config's initializer_range is 0.05; 1024 draws.
            let std = (value.iter().map(|v| v * v).sum::<f32>() / value.len() as f32).sqrt();
            assert!((std / 0.05 - 1.0).abs() < 0.12, "{name}: {std}");
            assert_ne!(value, &all(2)[name], "{name}");
        }
    }
    // Some given: the others are those that were drawn without.
    let name = "encoder.layer.0.crossattention.self.value.bias";
    let given =
        BTreeMap::from([(format!("bert.{name}"), Tensor::ones(32, candle_core::DType::F32, &Device::Cpu).unwrap())]);
    let decoder = Decoder::new(&embedder, Some(&given), 1).unwrap();
    for (own, var) in decoder.vars() {
        let want = if own.ends_with(name) { vec![1.0; 32] } else { vars[own].clone() };
        assert_eq!(values(var), want, "{own}");
    }
    let bad = BTreeMap::from([(name.to_string(), Tensor::ones(31, candle_core::DType::F32, &Device::Cpu).unwrap())]);
    let error = Decoder::new(&embedder, Some(&bad), 1).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("31"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let golden = golden("bert");
    let embedder = trained(&golden.files, None);
    let decoder = Decoder::new(&embedder, None, 1).unwrap();
    let loss = |rows: usize, width: usize, ids: &[Vec<u32>]| {
        let sentences = Tensor::ones((rows, width), candle_core::DType::F32, &Device::Cpu).unwrap();
        decoder.loss(&embedder, &sentences, &PackedBatch::new(ids), &Mode::INFERENCE)
    };
    assert!(loss(1, 32, &[vec![2, 7, 3]]).is_ok());
    // A text of one token, or none, has nothing to predict; beside another that is no matter.
    let alone = scalar(&loss(1, 32, &[vec![2, 7, 3]]).unwrap());
    assert_eq!(scalar(&loss(3, 32, &[vec![2], vec![2, 7, 3], vec![]]).unwrap()), alone);
    for bad in
        [loss(2, 32, &[vec![2, 3]]), loss(1, 64, &[vec![2, 3]]), loss(1, 32, &[vec![2]]), loss(1, 32, &[vec![2, 60]])]
    {
        assert!(bad.is_err());
    }
}
