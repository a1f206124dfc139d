//! Encoders against transformers, sentence-transformers and PyTorch: golden values by `tests/data/models/make_models.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use embeval::adapter::peft;
use embeval::encode::encode;
use embeval::model::{BuildOptions, Embedder, Mode, ModelFiles};
use embeval::nn::PackedBatch;
use embeval::nn::pooling::PoolingMode;
use embeval::objective::Direction;
use embeval::objective::contrastive::{Contrastive, Example, Text};
use serde_json::Value;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn load(name: &str) -> (ModelFiles, Value, std::collections::HashMap<String, Tensor>) {
    let folder = models().join(name);
    let expected = candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
    (ModelFiles::load(&folder).unwrap(), json(&folder.join("expected.json")), expected)
}

fn embed(files: &ModelFiles, texts: &[String], prompt: &str) -> Vec<f32> {
    let embedder = Embedder::build(files, &BuildOptions::default()).unwrap();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    encode(&embedder, &texts, prompt, &|_| {}).unwrap().embeddings.data().to_vec()
}

#[test]
fn tokens_states_and_embeddings_equal_the_peers() {
    for name in ["bert", "roberta", "xlm_roberta", "bert_bin"] {
        let (files, json, expected) = load(name);
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
    }
}

#[test]
fn prompts_are_put_before_texts_and_may_be_left_out_of_pooling() {
    let (mut files, json, expected) = load("xlm_roberta");
    let texts = strings(&json["texts"]);
    for side in ["query", "document"] {
        let prompt = files.layout.prompts.named[side].clone();
        let got = embed(&files, &texts, &prompt);
        let difference = largest_difference(&got, &values(&expected[&format!("embeddings.{side}")]));
        assert!(difference < 2e-5, "{side}: {difference}");
    }
    files.layout.include_prompt = false;
    let got = embed(&files, &texts, &files.layout.prompts.named["query"].clone());
    let difference = largest_difference(&got, &values(&expected["embeddings.query.prompt_not_pooled"]));
    assert!(difference < 2e-5, "{difference}");
}

#[test]
fn every_pooling_mode_equals_sentence_transformers() {
    let (mut files, json, expected) = load("bert");
    let texts = strings(&json["texts"]);
    for (name, modes) in [
        ("cls", vec![PoolingMode::Cls]),
        ("max", vec![PoolingMode::Max]),
        ("mean", vec![PoolingMode::Mean]),
        ("mean_sqrt_len_tokens", vec![PoolingMode::MeanSqrtLen]),
        ("weightedmean", vec![PoolingMode::WeightedMean]),
        ("lasttoken", vec![PoolingMode::LastToken]),
        ("mean+max", vec![PoolingMode::Mean, PoolingMode::Max]),
        ("max+mean", vec![PoolingMode::Max, PoolingMode::Mean]),
    ] {
        files.layout.pooling = modes;
        let got = embed(&files, &texts, "");
        let difference = largest_difference(&got, &values(&expected[&format!("embeddings.{name}")]));
        assert!(difference < 2e-5, "{name}: {difference}");
        // A saved folder pools in the same order.
        let folder = tempfile::tempdir().unwrap();
        files.save(folder.path(), "").unwrap();
        assert_eq!(ModelFiles::load(folder.path()).unwrap().layout.pooling, files.layout.pooling, "{name}");
    }
}

#[test]
fn a_batch_gives_what_single_texts_give() {
    let (files, json, _) = load("xlm_roberta");
    let texts = strings(&json["texts"]);
    let together = embed(&files, &texts, "");
    let alone: Vec<f32> = texts.iter().flat_map(|t| embed(&files, std::slice::from_ref(t), "")).collect();
    assert!(largest_difference(&together, &alone) < 1e-6);
}

/// What the cache of embeddings stands on: the batch that an embedding was made in does not show in it.
#[test]
fn an_embedding_is_the_same_to_the_bit_in_any_batch() {
    for name in ["bert", "roberta", "xlm_roberta"] {
        let (files, json, _) = load(name);
        let base = strings(&json["texts"]);
        let texts: Vec<String> = (0..150).map(|i| base[i % base.len()].repeat(1 + i % 4) + &i.to_string()).collect();
        let together = embed(&files, &texts, "");
        let dim = files.embedding_size();
        for (size, step) in [(1, 1), (7, 13), (40, 37)] {
            for start in (0..texts.len()).step_by(step).take(12) {
                let part = &texts[start..(start + size).min(texts.len())];
                let alone = embed(&files, part, "");
                let same = alone.iter().zip(&together[start * dim..]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name}: {size} texts from {start} on");
            }
        }
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    let (files, json, _) = load("xlm_roberta");
    let texts = strings(&json["texts"]);
    let folder = tempfile::tempdir().unwrap();
    files.save(folder.path(), "# card\n").unwrap();
    let again = ModelFiles::load(folder.path()).unwrap();
    assert_eq!(again.layout.prompts, files.layout.prompts);
    assert_eq!(embed(&files, &texts, ""), embed(&again, &texts, ""));
}

#[test]
fn gradients_equal_pytorchs() {
    for name in ["bert", "xlm_roberta"] {
        let folder = models().join(name);
        let files = ModelFiles::load(&folder).unwrap();
        let json = json(&folder.join("gradients.json"));
        let expected = candle_core::safetensors::load(folder.join("gradients.safetensors"), &Device::Cpu).unwrap();
        let ids = |key: &str| -> Vec<Text> {
            let texts = strings(&json[key]);
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let ids = files.tokenizer().encode(&texts, "").unwrap();
            ids.into_iter()
                .zip(texts)
                .map(|(ids, text)| Text {
                    ids: ids.into(),
                    identity: text.bytes().fold(7, |h: u64, b| h.wrapping_mul(131).wrapping_add(u64::from(b))),
                })
                .collect()
        };
        let batch: Vec<Example> = ids("queries")
            .into_iter()
            .zip(ids("positives"))
            .zip(ids("negatives"))
            .map(|((query, positive), negative)| Example { query, positive, negatives: vec![negative] })
            .collect();
        let trainable = |name: &str| !name.starts_with("pooler");
        let embedder = Embedder::build(&files, &BuildOptions { trainable: &trainable, ..Default::default() }).unwrap();
        for (direction, prefix) in [(Direction::Asymmetric, ""), (Direction::Symmetric, "symmetric.")] {
            let objective = Contrastive { direction, temperature: 0.05, prompt_tokens: (0, 0) };
            let loss = objective.loss(&embedder, &batch, Mode::INFERENCE).unwrap();
            let want = values(&expected[&format!("{prefix}loss")])[0];
            assert!((loss.to_scalar::<f32>().unwrap() - want).abs() < 1e-4, "{name} {prefix}loss");
            let gradients = loss.backward().unwrap();
            let scale = expected.values().flat_map(values).fold(0f32, |m, v| m.max(v.abs()));
            for (parameter, var) in embedder.vars() {
                let want = values(&expected[&format!("{prefix}{parameter}")]);
                let got = values(gradients.get(var).unwrap());
                // Relative to the tensor's own largest gradient, with a floor for those that are zero but for rounding.
                let own = want.iter().fold(scale * 1e-3, |m, v| m.max(v.abs()));
                let difference = largest_difference(&got, &want) / own;
                assert!(difference < 1e-4, "{name}: gradient of {prefix}{parameter} differs by {difference}");
            }
        }
    }
}

#[test]
fn a_peft_adapter_gives_pefts_embeddings() {
    let files = ModelFiles::load(&models().join("bert")).unwrap();
    let golden = json(&models().join("bert/training_lora.json"));
    let adapter = peft::load(&models().join("bert/lora_trained")).unwrap();
    let texts = strings(&golden["texts"]);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let want: Vec<Vec<f32>> = serde_json::from_value(golden["embeddings"].clone()).unwrap();
    let options = BuildOptions { adapter: Some(&adapter), ..Default::default() };
    let embedder = Embedder::build(&files, &options).unwrap();
    let got = encode(&embedder, &texts, "", &|_| {}).unwrap().embeddings;
    assert!(largest_difference(got.data(), &want.concat()) < 2e-5);
    // Merged into the base, it is the same model.
    let mut weights: BTreeMap<String, Tensor> = files.weights.clone();
    adapter.merge_into(&mut weights).unwrap();
    let merged = Embedder::build(&files.with_weights(&weights), &BuildOptions::default()).unwrap();
    let merged = encode(&merged, &texts, "", &|_| {}).unwrap().embeddings;
    assert!(largest_difference(merged.data(), got.data()) < 2e-6);
    // Saved and read again, it is the same adapter.
    let folder = tempfile::tempdir().unwrap();
    peft::save(&adapter, "base", folder.path()).unwrap();
    let again = peft::load(folder.path()).unwrap();
    assert_eq!(again.spec, adapter.spec);
    for (module, (a, b)) in adapter.tensors() {
        let (x, y) = &again.tensors()[module];
        assert_eq!((values(a), values(b)), (values(x), values(y)));
    }
}
