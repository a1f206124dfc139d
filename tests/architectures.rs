//! Every architecture against transformers, sentence-transformers, PyTorch and PEFT: golden values by
//! `tests/data/architectures/make_architectures.py`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use embeval::adapter::{Adapter, LoraSpec, peft};
use embeval::data::training::{OpenOptions, Subset, TrainingSet};
use embeval::encode::encode;
use embeval::merge::slerp;
use embeval::model::{BuildOptions, Embedder, Mode, ModelFiles};
use embeval::nn::PackedBatch;
use embeval::nn::checkpoint::GradientSink;
use embeval::objective::{Criterion, Direction, Example, Kind, State, Text};
use embeval::train;
use embeval::train::batches::{Draw, Source};
use embeval::train::groups::Groups;
use embeval::train::optimizer::AdamW;
use embeval::train::run::{AdapterSettings, Objective, Output, Precision, Run, Settings};
use embeval::train::sampler::SamplerSettings;
use embeval::train::schedule::Shape;
use serde_json::{Value, json};

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

fn read(path: &Path) -> Value {
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
        let json = read(&folder(name).join("expected.json"));
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
        let texts = strings(&read(&folder(name).join("expected.json"))["texts"]);
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
        let base = strings(&read(&folder(name).join("expected.json"))["texts"]);
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
        let json = read(&folder(name).join("gradients.json"));
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
        let rows = batch(&files, &read(&folder(name).join("gradients.json")));
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

/// The golden batches as rows, and which rows each batch has.
fn rows(golden: &Value) -> (Vec<Value>, Vec<Vec<usize>>) {
    let (mut rows, mut batches) = (Vec::new(), Vec::new());
    for batch in golden["batches"].as_array().unwrap() {
        let [queries, positives, negatives] = ["queries", "positives", "negatives"].map(|key| strings(&batch[key]));
        batches.push((rows.len()..rows.len() + queries.len()).collect());
        for ((query, positive), negative) in queries.into_iter().zip(positives).zip(negatives) {
            rows.push(json!({"query": query, "pos": [positive], "neg": [negative]}));
        }
    }
    (rows, batches)
}

fn source(rows: &[Value]) -> Source {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(&path, text).unwrap();
    let set = Arc::new(TrainingSet::open(&path, &OpenOptions::default()).unwrap());
    Source { name: "rows".into(), rows: Subset::all(set), weight: 1.0, prompts: Default::default() }
}

/// The settings of the goldens' training.
fn settings(golden: &Value, adapter: Option<Vec<String>>) -> Settings {
    let limit = golden["max_length"].as_u64().unwrap_or(1 << 20) as usize;
    let spec = LoraSpec { rank: 4, alpha: 8.0, ..LoraSpec::default() };
    Settings {
        objective: Objective::Embeddings(criterion()),
        loss_name: "info_nce".into(),
        draw: Draw::HardNegatives(1),
        mix: SamplerSettings::new(6),
        max_length: (limit, limit),
        adapter: adapter.map(|targets| AdapterSettings { spec, targets, quantization: None }),
        freeze: Vec::new(),
        dropout: None,
        epochs: 1,
        max_steps: None,
        batch: 6,
        accumulate: 1,
        grad_cache: None,
        checkpointing: false,
        precision: Precision::High,
        lr: 1e-3,
        schedule: Shape::Linear,
        warmup: 2.0,
        optimizer: AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: Some(1.0), ema: None },
        groups: Groups::default(),
        seed: 1,
        eval_every: None,
        best: None,
        save_every: None,
        keep: (None, None),
        state_every: None,
    }
}

fn plain<'a>(base: &'a ModelFiles, settings: &'a Settings, train: &'a [Source]) -> Run<'a> {
    Run {
        base,
        base_name: "base",
        start: None,
        guide: None,
        settings,
        train,
        dev: &[],
        tasks: None,
        device: &Device::Cpu,
        output: None,
        fingerprint: "test",
        facts: json!({}),
        progress: &|_, _, _| {},
        fixed_batches: None,
        stop_after: None,
        hold: None,
    }
}

/// Ten steps on the golden batches, from PEFT's first adapter where there is one.
fn follow(name: &str, golden: &Value) -> (ModelFiles, Output, Embedder) {
    let files = ModelFiles::load(&folder(name)).unwrap();
    let (rows, batches) = rows(golden);
    let train = [source(&rows)];
    let targets = golden["targets"].as_array().map(|_| strings(&golden["targets"]));
    let start = targets.is_some().then(|| peft::load(&folder(name).join("lora_init")).unwrap());
    let settings = settings(golden, targets);
    let run = Run { start, fixed_batches: Some(&batches), ..plain(&files, &settings, &train) };
    let (output, embedder) = train::run::run(&run).unwrap();
    (files, output, embedder)
}

#[test]
fn training_follows_the_peers() {
    let mut compared = 0;
    for name in ALL {
        let found = ["training_lora.json", "training.json"].map(|file| folder(name).join(file));
        let Some(path) = found.into_iter().find(|path| path.is_file()) else { continue };
        let golden = read(&path);
        let (_, output, embedder) = follow(name, &golden);
        let want: Vec<f64> = serde_json::from_value(golden["losses"].clone()).unwrap();
        assert_eq!(output.losses.len(), want.len());
        for (step, (got, want)) in output.losses.iter().zip(&want).enumerate() {
            assert!((got - want).abs() < 1e-3, "{name}, step {step}: loss {got}, the peer's {want}");
        }
        let texts = strings(&golden["texts"]);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let want: Vec<Vec<f32>> = serde_json::from_value(golden["embeddings"].clone()).unwrap();
        let got = encode(&embedder.detached().unwrap(), &texts, "", &|_| {}).unwrap().embeddings;
        let difference = largest_difference(got.data(), &want.concat());
        assert!(difference < 2e-3, "{name}: embeddings after training differ by {difference}");
        compared += 1;
    }
    assert_eq!(compared, 12);
}

/// Adapters that were trained, on their base and merged into it; the merged model saved, read, and merged by SLERP.
#[test]
fn trained_adapters_merge_and_their_models_too() {
    for name in ["modern_bert", "qwen3", "qwen2", "t5_gated", "gemma3", "nomic_bert", "deberta", "distilbert", "mpnet"]
    {
        let (files, _, embedder) = follow(name, &read(&folder(name).join("training_lora.json")));
        let adapter = embedder.adapter().unwrap();
        let texts = strings(&read(&folder(name).join("expected.json"))["texts"]);
        let with = {
            let options = BuildOptions { adapter: Some(&adapter), ..Default::default() };
            let embedder = Embedder::build(&files, &options).unwrap();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            encode(&embedder, &texts, "", &|_| {}).unwrap().embeddings.data().to_vec()
        };
        let base = embed(&files, &texts, "");
        assert!(largest_difference(&with, &base) > 1e-3, "{name}: the adapter changes nothing");
        let mut weights = files.weights.clone();
        adapter.merge_into(&mut weights).unwrap();
        let merged = files.with_weights(&weights);
        let scale = base.iter().fold(1f32, |m, v| m.max(v.abs()));
        let difference = largest_difference(&embed(&merged, &texts, ""), &with);
        assert!(difference < 5e-6 * scale, "{name}: merged differs by {difference}");
        let place = tempfile::tempdir().unwrap();
        merged.save(place.path(), "").unwrap();
        let again = ModelFiles::load(place.path()).unwrap();
        assert_eq!(embed(&again, &texts, ""), embed(&merged, &texts, ""), "{name}");
        let slerp = |alpha: f64| slerp::models(&files, &again, None, &[alpha], slerp::Mode::Tensor).unwrap().files;
        assert_eq!(embed(&slerp(0.0), &texts, ""), base, "{name}: α = 0");
        assert_eq!(embed(&slerp(1.0), &texts, ""), embed(&again, &texts, ""), "{name}: α = 1");
        let half = embed(&slerp(0.5), &texts, "");
        assert!(half != base && half.iter().all(|v| v.is_finite()), "{name}: α = 0.5");
    }
}

/// A run that is killed and taken up ends as one that nothing disturbed, to the bit; of a half-precision base, too.
#[test]
fn a_killed_run_goes_on_to_the_very_same_weights() {
    for (name, targets) in [
        ("modern_bert", None),
        ("modern_bert", Some("Wqkv")),
        ("qwen3", None),
        ("qwen3", Some("q_proj")),
        ("t5_gated", Some("q")),
        ("static", None),
    ] {
        let golden = read(&folder("modern_bert").join("training_lora.json"));
        let files = ModelFiles::load(&folder(name)).unwrap();
        let rows: Vec<Value> =
            rows(&golden).0.into_iter().filter(|row| !row["query"].as_str().unwrap().trim().is_empty()).collect();
        let train = [source(&rows)];
        let targets = targets.map(|target: &str| vec![target.to_string()]);
        let settings =
            Settings { max_steps: Some(6), state_every: Some(2), save_every: Some(6), ..settings(&json!({}), targets) };
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let train_in = |place: &Path, stop_after| {
            let run = Run { output: Some(place), stop_after, ..plain(&files, &settings, &train) };
            train::run::run(&run)
        };
        let (whole, _) = train_in(one.path(), None).unwrap();
        drop(train_in(two.path(), Some(3)));
        let (resumed, _) = train_in(two.path(), None).unwrap();
        assert_eq!(resumed.resumed, Some(2), "{name}");
        assert_eq!(whole.losses[2..], resumed.losses[resumed.losses.len() - 4..], "{name}");
        let weights = |output: &Output| {
            let path = &output.checkpoints.last().unwrap().1;
            let names = ["model.safetensors", "adapter_model.safetensors", "0_StaticEmbedding/model.safetensors"];
            let found = names.iter().map(|name| path.join(name)).find(|path| path.is_file()).unwrap();
            std::fs::read(found).unwrap()
        };
        assert!(weights(&whole) == weights(&resumed), "{name}: the weights differ");
    }
}

#[test]
fn an_adapter_without_targets_is_on_what_peft_would_choose() {
    for (name, want) in [
        ("modern_bert", vec!["attn.Wqkv"]),
        ("qwen3", vec!["self_attn.q_proj", "self_attn.v_proj"]),
        ("t5_relu", vec!["SelfAttention.q", "SelfAttention.v"]),
        ("distilbert", vec!["attention.q_lin", "attention.v_lin"]),
        ("deberta_v2", vec!["self.query_proj", "self.value_proj"]),
    ] {
        let files = ModelFiles::load(&folder(name)).unwrap();
        let linears = train::run::linear_layers(&files);
        let targets = train::run::adapter_targets(&files, &[]);
        let adapter = Adapter::init(LoraSpec::default(), &targets, &linears, 1).unwrap();
        let layers = files.architecture.layers();
        assert_eq!(adapter.modules().count(), layers * want.len(), "{name}");
        assert!(adapter.modules().all(|module| want.iter().any(|end| module.ends_with(end))), "{name}");
        // No table is among the linear layers.
        assert!(linears.values().all(|(outputs, _)| *outputs != files.architecture.spec().vocab_size), "{name}");
    }
    let files = ModelFiles::load(&folder("static")).unwrap();
    let settings = settings(&json!({}), Some(Vec::new()));
    let train = [source(&rows(&read(&folder("static").join("training.json"))).0)];
    let error = train::run::run(&plain(&files, &settings, &train)).err().unwrap().to_string();
    assert!(error.contains("adapter.kind full"), "{error}");
}

/// A copy of a model folder in which a file is changed.
fn changed(name: &str, file: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let place = copy(name);
    let path = place.path().join(file);
    let mut value = read(&path);
    change(&mut value);
    std::fs::write(&path, value.to_string()).unwrap();
    place
}

fn copy(name: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for entry in walk(&folder(name)) {
        let to = place.path().join(entry.strip_prefix(folder(name)).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&entry, to).unwrap();
    }
    place
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(walk(&path)) } else { out.push(path) }
    }
    out
}

/// What reading and building a folder says.
fn error_of(folder: &Path) -> String {
    let built = ModelFiles::load(folder).and_then(|files| Embedder::build(&files, &BuildOptions::default()).map(drop));
    built.expect_err("the folder is damaged").to_string()
}

#[test]
fn configs_that_contradict_weights_or_ask_for_more_are_one_error_each() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &[&str]); 19] = [
        ("modern_bert", |c| c["intermediate_size"] = 48.into(), &["layers.0.mlp.Wi.weight", "[96, 32]"]),
        ("modern_bert", |c| c["num_hidden_layers"] = 5.into(), &["no tensor `layers.4."]),
        ("modern_bert", |c| c["layer_types"] = json!(["full_attention"]), &["layer_types has 1 entries"]),
        ("modern_bert", |c| c["num_attention_heads"] = 5.into(), &["not a multiple of num_attention_heads 5"]),
        ("qwen3", |c| c["head_dim"] = 8.into(), &["layers.0.self_attn.q_norm.weight", "[16]", "[8]"]),
        ("qwen3", |c| c["num_key_value_heads"] = 3.into(), &["num_key_value_heads 3"]),
        ("qwen3", |c| c["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4}), &["`yarn`", "rope_scaling"]),
        ("qwen3", |c| c["hidden_act"] = "mish".into(), &["hidden_act `mish`", "silu"]),
        ("qwen3", |c| c["rms_norm_eps"] = (-1.0).into(), &["rms_norm_eps = -1"]),
        ("t5_gated", |c| c["feed_forward_proj"] = "gated-other".into(), &["feed_forward_proj `gated-other`"]),
        ("t5_gated", |c| c["relative_attention_num_buckets"] = 6.into(), &["relative_attention_num_buckets 6"]),
        ("t5_relu", |c| c["d_kv"] = 99.into(), &["SelfAttention.q.weight"]),
        ("gemma3", |c| c["attn_logit_softcapping"] = 50.into(), &["attn_logit_softcapping"]),
        ("nomic_bert", |c| c["rotary_emb_fraction"] = 0.5.into(), &["rotary_emb_fraction"]),
        ("deberta_v2", |c| c["conv_kernel_size"] = 3.into(), &["conv_kernel_size"]),
        ("deberta_v2", |c| c["max_relative_positions"] = 5.into(), &["position_buckets 8", "max_relative_positions 5"]),
        ("modern_bert", |c| c["num_attention_heads"] = 32.into(), &["odd width"]),
        ("qwen2", |c| c["quantization_config"] = json!({"load_in_8bit": true}), &["quantization_config"]),
        (
            "distilbert",
            |c| c["model_type"] = "bloom".into(),
            &["`bloom` is not supported", "modernbert", "qwen3", "t5"],
        ),
    ];
    for (name, change, parts) in cases {
        let place = changed(name, "config.json", change);
        let error = error_of(place.path());
        for part in parts {
            assert!(error.contains(part), "{name}: {part} is not in: {error}");
        }
        let path = place.path().display().to_string();
        assert!(error.contains(&path), "{name}: no path in: {error}");
    }
}

#[test]
fn damaged_weights_are_one_error_each() {
    let shard = "model-00002-of-00002.safetensors";
    let place = copy("qwen3");
    std::fs::remove_file(place.path().join(shard)).unwrap();
    let error = error_of(place.path());
    assert!(error.contains(shard), "{error}");

    let place = copy("qwen3");
    let bytes = std::fs::read(place.path().join(shard)).unwrap();
    std::fs::write(place.path().join(shard), &bytes[..bytes.len() - 7]).unwrap();
    let error = error_of(place.path());
    assert!(error.contains(shard) && error.contains("not a whole safetensors file"), "{error}");

    // A tensor of whole numbers where values are expected, and a word table that is missing.
    let place = copy("modern_bert");
    let path = place.path().join("model.safetensors");
    let mut tensors = tensors(&path);
    let norm = tensors["final_norm.weight"].to_dtype(DType::I64).unwrap();
    tensors.insert("final_norm.weight".into(), norm);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let error = error_of(place.path());
    assert!(error.contains("final_norm.weight"), "{error}");
    tensors.remove("embeddings.tok_embeddings.weight");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let error = error_of(place.path());
    assert!(error.contains("embeddings.tok_embeddings.weight") && error.contains("[330, 32]"), "{error}");

    // A mapping that points outside the table.
    let place = copy("model2vec");
    let path = place.path().join("model.safetensors");
    let mut tensors = self::tensors(&path);
    tensors.insert("mapping".into(), Tensor::new(&[0i64, 1 << 40], &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let error = error_of(place.path());
    assert!(error.contains("mapping"), "{error}");
}

/// As Model2Vec itself saves it, without the files of sentence-transformers.
#[test]
fn a_model2vec_folder_needs_no_modules() {
    let place = copy("model2vec");
    let files = ModelFiles::load(place.path()).unwrap();
    std::fs::remove_file(place.path().join("modules.json")).unwrap();
    let bare = ModelFiles::load(place.path()).unwrap();
    let texts = strings(&read(&folder("model2vec").join("expected.json"))["texts"]);
    assert_eq!(embed(&bare, &texts, ""), embed(&files, &texts, ""));
    let plain = changed("model2vec", "config.json", |c| c["normalize"] = false.into());
    std::fs::remove_file(plain.path().join("modules.json")).unwrap();
    assert_ne!(embed(&ModelFiles::load(plain.path()).unwrap(), &texts, ""), embed(&files, &texts, ""));
}

/// What `mapping` and `weights` of a Model2Vec file mean.
#[test]
fn a_mapped_table_has_each_tokens_row_times_its_weight() {
    let place = copy("model2vec");
    let path = place.path().join("model.safetensors");
    let mut tensors = tensors(&path);
    let table = tensors["embeddings"].clone();
    let rows = table.dim(0).unwrap();
    let mapping: Vec<i64> = (0..rows as i64).map(|i| i / 2).collect();
    let factors: Vec<f32> = (0..rows).map(|i| 0.5 + i as f32 / rows as f32).collect();
    tensors.insert("mapping".into(), Tensor::new(mapping, &Device::Cpu).unwrap());
    tensors.insert("weights".into(), Tensor::new(factors.clone(), &Device::Cpu).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let files = ModelFiles::load(place.path()).unwrap();
    let got = files.weights["embedding.weight"].to_vec2::<f32>().unwrap();
    let table = table.to_vec2::<f32>().unwrap();
    for (i, row) in got.iter().enumerate() {
        let want: Vec<f32> = table[i / 2].iter().map(|v| v * factors[i]).collect();
        assert_eq!(*row, want, "token {i}");
    }
}

#[test]
fn tsdae_of_an_encoder_without_a_decoder_is_refused() {
    let files = ModelFiles::load(&folder("modern_bert")).unwrap();
    let embedder = Embedder::build(&files, &BuildOptions::default()).unwrap();
    let error = embeval::model::Decoder::new(&embedder, None, 1).err().unwrap().to_string();
    assert!(error.contains("modernbert") && error.contains("SimCSE"), "{error}");
}
