//! Every architecture against transformers, sentence-transformers, PyTorch and PEFT: golden values by
//! `tests/data/architectures/make_architectures.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use embeval::encode::encode;
use embeval::model::{BuildOptions, Embedder, Mode, ModelFiles};
use embeval::nn::PackedBatch;
use embeval::nn::checkpoint::GradientSink;
use embeval::objective::{Criterion, Direction, Example, Kind, State, Text};
use serde_json::Value;

mod common;
use common::{largest_difference, values};

const ALL: [&str; 16] = [
    "modern_bert",
    "modern_bert_masked",
    "qwen3",
    "qwen2",
    "qwen2_causal",
    "t5_gated",
    "t5_relu",
    "distilbert",
    "mpnet",
    "nomic_bert",
    "nomic_bert_native",
    "gemma3",
    "deberta",
    "deberta_v2",
    "static",
    "model2vec",
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/architectures").join(name)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn expected(name: &str, json: &Value) -> HashMap<String, Tensor> {
    tensors(&folder(name).join(json["tensors"].as_str().unwrap_or("expected.safetensors")))
}

fn embed(files: &ModelFiles, texts: &[String], prompt: &str) -> Vec<f32> {
    let embedder = Embedder::build(files, &BuildOptions::default()).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    encode(&embedder, &texts, prompt, &|_| {}).unwrap().embeddings.data().to_vec()
}

#[test]
fn tokens_states_and_embeddings_equal_the_peers() {
    for name in ALL {
        let files = ModelFiles::load(&folder(name)).unwrap();
        let json = json(&folder(name).join("expected.json"));
        let expected = expected(name, &json);
        let texts = strings(&json["texts"]);
        let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
        let ids = files.tokenizer().encode(&borrowed, "").unwrap();
        let want: Vec<Vec<u32>> = serde_json::from_value(json["token_ids"].clone()).unwrap();
        assert_eq!(ids, want, "{name}: token ids");
        let embedder = Embedder::build(&files, &BuildOptions::default()).unwrap();
        let states = embedder.token_states(&PackedBatch::new(&ids), Mode::INFERENCE).unwrap();
        let difference = largest_difference(&values(&states), &values(&expected["hidden"]));
        assert!(difference < 2e-5, "{name}: hidden states differ by {difference}");
        let difference = largest_difference(&embed(&files, &texts, ""), &values(&expected["embeddings"]));
        assert!(difference < 2e-5, "{name}: embeddings differ by {difference}");
        for (prompt, text) in &files.layout.prompts.named {
            let Some(want) = expected.get(&format!("embeddings.{prompt}")) else { continue };
            let difference = largest_difference(&embed(&files, &texts, text), &values(want));
            assert!(difference < 2e-5, "{name}: embeddings with prompt {prompt} differ by {difference}");
        }
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    for name in ALL {
        let files = ModelFiles::load(&folder(name)).unwrap();
        let texts = strings(&json(&folder(name).join("expected.json"))["texts"]);
        let place = tempfile::tempdir().unwrap();
        files.save(place.path(), "# card\n").unwrap();
        let again = ModelFiles::load(place.path()).unwrap();
        assert_eq!(again.layout.prompts, files.layout.prompts, "{name}");
        assert_eq!(again.architecture, files.architecture, "{name}");
        assert_eq!(embed(&files, &texts, ""), embed(&again, &texts, ""), "{name}");
    }
}

#[test]
fn an_embedding_is_the_same_to_the_bit_in_any_batch() {
    for name in ALL {
        let files = ModelFiles::load(&folder(name)).unwrap();
        let base = strings(&json(&folder(name).join("expected.json"))["texts"]);
        let texts: Vec<String> = (0..60).map(|i| base[i % base.len()].clone() + &i.to_string()).collect();
        let together = embed(&files, &texts, "");
        let dim = files.embedding_size();
        for (i, text) in texts.iter().enumerate().step_by(7) {
            let alone = embed(&files, std::slice::from_ref(text), "");
            let same = alone.iter().zip(&together[i * dim..]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{name}: text {i}");
        }
    }
}

/// Those whose goldens have gradients.
fn trained() -> impl Iterator<Item = &'static str> {
    ALL.into_iter().filter(|name| folder(name).join("gradients.json").is_file())
}

fn criterion() -> Criterion {
    Criterion {
        kind: Kind::InfoNce { learn_temperature: false, label_smoothing: 0.0, false_negatives: None },
        direction: Direction::Asymmetric,
        temperature: 0.05,
        matryoshka: None,
        memory: None,
        margins: None,
    }
}

/// The rows of a golden batch, tokenized.
fn batch(files: &ModelFiles, json: &Value) -> Vec<Example> {
    let ids = |key: &str| -> Vec<Text> {
        let texts = strings(&json[key]);
        let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
        let ids = files.tokenizer().encode(&borrowed, "").unwrap();
        let hash = |text: &String| text.bytes().fold(7, |h: u64, b| h.wrapping_mul(131).wrapping_add(u64::from(b)));
        ids.into_iter()
            .zip(&texts)
            .map(|(ids, text)| Text { ids: ids.into(), identity: hash(text), prompt_tokens: 0, guide: None })
            .collect()
    };
    let pairs = ids("queries").into_iter().zip(ids("positives")).zip(ids("negatives"));
    pairs.map(|((query, positive), negative)| Example::pair(query, positive, vec![negative])).collect()
}

fn loss(embedder: &Embedder, rows: &[Example], mode: Mode) -> Tensor {
    let criterion = criterion();
    let layout = criterion.layout(rows);
    let embeddings = embedder.forward(&layout.packed(0..layout.texts.len()), mode).unwrap();
    let mut state = State::new(&criterion, embedder.files().embedding_size(), &[], 1, &Device::Cpu).unwrap();
    criterion.loss(&embeddings, &layout, rows, &mut state, None).unwrap()
}

fn is_pooler(name: &str) -> bool {
    name.starts_with("pooler")
}

/// The golden gradients by the names that tensors have here, where files have others.
fn by_our_names(name: &str, golden: HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    if name != "nomic_bert" {
        return golden;
    }
    let mut out = HashMap::new();
    for (key, tensor) in golden {
        let key = key.replace("encoder.layers", "layers").replace("emb_ln", "embeddings.LayerNorm");
        if let Some(layer) = key.strip_suffix("attn.Wqkv.weight") {
            for (part, letter) in tensor.chunk(3, 0).unwrap().into_iter().zip(["q", "k", "v"]) {
                out.insert(format!("{layer}self_attn.{letter}_proj.weight"), part);
            }
            continue;
        }
        let key =
            key.replace("attn.out_proj", "self_attn.o_proj").replace("fc11", "up_proj").replace("fc12", "gate_proj");
        let key = key.replace("fc2", "down_proj").replace("norm1", "post_attention_layernorm");
        out.insert(key.replace("norm2", "post_mlp_layernorm"), tensor);
    }
    out
}

#[test]
fn gradients_equal_pytorchs() {
    let mut compared = 0;
    for name in trained() {
        let files = ModelFiles::load(&folder(name)).unwrap();
        let json = json(&folder(name).join("gradients.json"));
        let golden = by_our_names(name, tensors(&folder(name).join("gradients.safetensors")));
        let trainable = |name: &str| !is_pooler(name);
        let embedder = Embedder::build(&files, &BuildOptions { trainable: &trainable, ..Default::default() }).unwrap();
        let loss = loss(&embedder, &batch(&files, &json), Mode::INFERENCE);
        let want = json["loss"].as_f64().unwrap() as f32;
        assert!((loss.to_scalar::<f32>().unwrap() - want).abs() < 1e-4, "{name}: loss");
        let gradients = loss.backward().unwrap();
        let scale = golden.iter().filter(|(key, _)| *key != "loss").flat_map(|(_, t)| values(t));
        let scale = scale.fold(0f32, |m, v| m.max(v.abs()));
        let mut seen = 0;
        for (parameter, var) in embedder.vars() {
            let want = golden.get(parameter).unwrap_or_else(|| panic!("{name}: no golden gradient of {parameter}"));
            let got = gradients.get(var).unwrap_or_else(|| panic!("{name}: no gradient of {parameter}"));
            let want = values(want);
            // Relative to the tensor's own largest gradient, with a floor for those that are zero but for rounding.
            let own = want.iter().fold(scale * 1e-3, |m, v| m.max(v.abs()));
            let difference = largest_difference(&values(got), &want) / own;
            assert!(difference < 1e-4, "{name}: gradient of {parameter} differs by {difference}");
            seen += 1;
        }
        assert_eq!(seen, golden.len() - 1, "{name}: parameters without a counterpart");
        compared += 1;
    }
    assert_eq!(compared, 12);
}

#[test]
fn checkpointing_gives_the_plain_gradients_to_the_bit() {
    for name in trained().filter(|name| *name != "static") {
        let files = ModelFiles::load(&folder(name)).unwrap();
        let rows = batch(&files, &json(&folder(name).join("gradients.json")));
        let trainable = |name: &str| !is_pooler(name);
        let embedder = Embedder::build(&files, &BuildOptions { trainable: &trainable, ..Default::default() }).unwrap();
        let plain = loss(&embedder, &rows, Mode::training(3)).backward().unwrap();
        let sink = GradientSink::new();
        let outside = loss(&embedder, &rows, Mode::training(3).with_checkpointing(&sink)).backward().unwrap();
        for (parameter, var) in embedder.vars() {
            let got = match (outside.get(var).cloned(), sink.take(var.id())) {
                (Some(a), Some(b)) => (a + b).unwrap(),
                (Some(a), None) | (None, Some(a)) => a,
                (None, None) => panic!("{name}: no gradient of {parameter}"),
            };
            let (got, want) = (values(&got), values(plain.get(var).unwrap()));
            // What several layers share is summed in another order.
            let own = want.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
            let shared = parameter.contains("relative")
                || parameter.contains("rel_embeddings")
                || parameter == "encoder.LayerNorm.weight"
                || parameter == "encoder.LayerNorm.bias";
            let most = if shared { own * 1e-5 } else { 0.0 };
            assert!(largest_difference(&got, &want) <= most, "{name}: {parameter}");
        }
    }
}
