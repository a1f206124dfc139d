//! Encoders against transformers, sentence-transformers and PyTorch: golden values by `tests/data/models/make_models.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use embeval::adapter::peft;
use embeval::encode::encode;
use embeval::model::architecture::Architecture;
use embeval::model::{BuildOptions, Embedder, Mode, ModelDropout, ModelFiles};
use embeval::nn::PackedBatch;
use embeval::nn::checkpoint::GradientSink;
use embeval::nn::pooling::PoolingMode;
use embeval::objective::{Criterion, Direction, Example, Kind, State, Text};
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
                    prompt_tokens: 0,
                    guide: None,
                })
                .collect()
        };
        let batch: Vec<Example> = ids("queries")
            .into_iter()
            .zip(ids("positives"))
            .zip(ids("negatives"))
            .map(|((query, positive), negative)| Example::pair(query, positive, vec![negative]))
            .collect();
        let trainable = |name: &str| !name.starts_with("pooler");
        let embedder = Embedder::build(&files, &BuildOptions { trainable: &trainable, ..Default::default() }).unwrap();
        for (direction, prefix) in [(Direction::Asymmetric, ""), (Direction::Symmetric, "symmetric.")] {
            let kind = Kind::InfoNce { learn_temperature: false, label_smoothing: 0.0, false_negatives: None };
            let (matryoshka, memory, margins) = (None, None, None);
            let criterion = Criterion { kind, direction, temperature: 0.05, matryoshka, memory, margins };
            let layout = criterion.layout(&batch);
            let embeddings = embedder.forward(&layout.packed(0..layout.texts.len()), Mode::INFERENCE).unwrap();
            let mut state = State::new(&criterion, embedder.files().embedding_size(), &[], 1, &Device::Cpu).unwrap();
            let loss = criterion.loss(&embeddings, &layout, &batch, &mut state, None).unwrap();
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
    for (name, tensor) in adapter.tensors() {
        assert_eq!(values(&tensor), values(&again.tensors()[&name]));
    }
}

const DROPOUT: ModelDropout = ModelDropout { hidden: 0.2, attention: 0.3 };

fn ids(files: &ModelFiles, json: &Value) -> Vec<Vec<u32>> {
    let texts = strings(&json["texts"]);
    files.tokenizer().encode(&texts.iter().map(String::as_str).collect::<Vec<_>>(), "").unwrap()
}

#[test]
fn the_config_says_the_dropout() {
    let (files, ..) = load("xlm_roberta");
    let of = |key: &str, value: Value| {
        let mut config = files.config.clone();
        config[key] = value;
        Architecture::parse(&config, Path::new("config.json")).map(|a| a.dropout())
    };
    let own = files.architecture.dropout();
    assert_eq!(own, ModelDropout { hidden: 0.0, attention: 0.0 });
    assert_eq!(of("hidden_dropout_prob", 0.25.into()).unwrap(), ModelDropout { hidden: 0.25, ..own });
    // transformers' default.
    assert_eq!(of("attention_probs_dropout_prob", Value::Null).unwrap(), ModelDropout { attention: 0.1, ..own });
    for bad in [Value::from(1.0), Value::from(-0.1), Value::from("none"), Value::from(0.999_999_999_999)] {
        let error = of("hidden_dropout_prob", bad).unwrap_err().to_string();
        assert!(error.contains("hidden_dropout_prob"), "{error}");
    }
}

#[test]
fn dropout_is_drawn_only_where_built_and_asked_for_and_repeats_by_seed() {
    for name in ["bert", "roberta"] {
        let (files, json, _) = load(name);
        let batch = PackedBatch::new(&ids(&files, &json));
        let plain = Embedder::build(&files, &BuildOptions::default()).unwrap();
        let dropping =
            |dropout| Embedder::build(&files, &BuildOptions { dropout: Some(dropout), ..Default::default() }).unwrap();
        let of = |embedder: &Embedder, mode: Mode| values(&embedder.token_states(&batch, mode).unwrap());
        let want = of(&plain, Mode::INFERENCE);
        let both = dropping(DROPOUT);
        assert_eq!(of(&plain, Mode::training(1)), want);
        assert_eq!(of(&both, Mode::INFERENCE), want);
        let drawn = of(&both, Mode::training(1));
        assert_eq!(of(&both, Mode::training(1)), drawn);
        assert_ne!(of(&both, Mode::training(2)), drawn);
        let hidden = of(&dropping(ModelDropout { attention: 0.0, ..DROPOUT }), Mode::training(1));
        let attention = of(&dropping(ModelDropout { hidden: 0.0, ..DROPOUT }), Mode::training(1));
        for (other, what) in [(&want, "none"), (&hidden, "hidden"), (&attention, "attention")] {
            assert_ne!(other, &drawn, "{name}: {what}");
        }
        assert_ne!(hidden, want);
        assert_ne!(attention, want);
        // A tiny probability drops nothing: the kernels with masks compute what those without do.
        let small = dropping(ModelDropout { hidden: 1e-7, attention: 1e-7 });
        assert!(largest_difference(&of(&small, Mode::training(1)), &want) < 1e-3, "{name}");
    }
}

#[test]
fn a_part_of_a_batch_has_the_masks_of_the_whole() {
    let (files, json, _) = load("xlm_roberta");
    let sequences = ids(&files, &json);
    let options = BuildOptions { dropout: Some(DROPOUT), ..Default::default() };
    let embedder = Embedder::build(&files, &options).unwrap();
    let of = |range: std::ops::Range<usize>| {
        let mode = Mode::training(3).from_sequence(range.start);
        values(&embedder.forward(&PackedBatch::new(&sequences[range]), mode).unwrap())
    };
    let n = sequences.len();
    assert_eq!(of(0..n), [of(0..4), of(4..5), of(5..n)].concat());
}

/// Gradients by name of the squares of what the model gives, and of a sink where one is used.
fn gradients(embedder: &Embedder, batch: &PackedBatch, mode: Mode, sink: &GradientSink) -> BTreeMap<String, Vec<f32>> {
    let loss = embedder.pooled(batch, mode).unwrap().sqr().unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let of = |var: &candle_core::Var| match (gradients.get(var).cloned(), sink.take(var.id())) {
        (Some(outside), None) => values(&outside),
        (None, Some(inside)) => values(&inside),
        (outside, inside) => panic!("a gradient in both or none: {} {}", outside.is_some(), inside.is_some()),
    };
    embedder.vars().iter().map(|(name, var)| (name.clone(), of(var))).collect()
}

#[test]
fn checkpointing_gives_the_plain_gradients_to_the_bit() {
    let (files, json, _) = load("bert");
    let batch = PackedBatch::new(&ids(&files, &json));
    let mut adapter = peft::load(&models().join("bert/lora_trained")).unwrap();
    adapter.spec.dropout = 0.1;
    let trainable = |name: &str| !name.starts_with("pooler");
    for dropout in [None, Some(DROPOUT)] {
        let full = BuildOptions { trainable: &trainable, dropout, ..Default::default() };
        let lora = BuildOptions { adapter: Some(&adapter), adapter_trainable: true, dropout, ..Default::default() };
        for (what, options) in [("full", full), ("lora", lora)] {
            let embedder = Embedder::build(&files, &options).unwrap();
            let sink = GradientSink::new();
            let want = gradients(&embedder, &batch, Mode::training(4), &sink);
            let got = gradients(&embedder, &batch, Mode::training(4).with_checkpointing(&sink), &sink);
            for (name, want) in &want {
                assert!(want == &got[name], "{what}, dropout {}: {name}", dropout.is_some());
            }
            assert!(sink.is_empty());
        }
    }
}
