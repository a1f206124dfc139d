//! Training against PyTorch (golden files by `tests/data/models/make_models.py`), and what a run promises.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use embeval::adapter::{LoraSpec, QuantKind, Quantization, peft};
use embeval::data::training::{OpenOptions, Subset, TrainingSet};
use embeval::encode::encode;
use embeval::loss::margin::Margin;
use embeval::model::{BuildOptions, Embedder, Mode, ModelDropout, ModelFiles};
use embeval::objective::backward::{Passes, Step};
use embeval::objective::{Criterion, Direction, Example, Kind, State, Text};
use embeval::train::batches::{Draw, Source};
use embeval::train::best::Rule;
use embeval::train::checkpoint;
use embeval::train::groups::Groups;
use embeval::train::optimizer::AdamW;
use embeval::train::run::{AdapterSettings, Objective, Output, Precision, Run, Settings, run};
use embeval::train::sampler::SamplerSettings;
use embeval::train::schedule::Shape;
use serde_json::{Value, json};

fn bert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models/bert")
}

fn golden(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(bert().join(name)).unwrap()).unwrap()
}

fn info_nce(direction: Direction) -> Criterion {
    Criterion {
        kind: Kind::InfoNce { learn_temperature: false, label_smoothing: 0.0, false_negatives: None },
        direction,
        temperature: 0.05,
        matryoshka: None,
        memory: None,
        margins: None,
    }
}

fn settings() -> Settings {
    Settings {
        objective: Objective::Embeddings(info_nce(Direction::Asymmetric)),
        loss_name: "info_nce".into(),
        draw: Draw::HardNegatives(1),
        mix: SamplerSettings::new(6),
        max_length: (48, 48),
        adapter: None,
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

/// A source of these rows.
fn source(rows: &[Value]) -> Source {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(&path, text).unwrap();
    let set = Arc::new(TrainingSet::open(&path, &OpenOptions::default()).unwrap());
    Source { name: "rows".into(), rows: Subset::all(set), weight: 1.0, prompts: Default::default() }
}

/// The golden batches as rows, and which rows each batch has.
fn rows(golden: &Value) -> (Vec<Value>, Vec<Vec<usize>>) {
    let (mut rows, mut batches) = (Vec::new(), Vec::new());
    for batch in golden["batches"].as_array().unwrap() {
        let column = |key: &str| -> Vec<String> { serde_json::from_value(batch[key].clone()).unwrap() };
        let (queries, positives, negatives) = (column("queries"), column("positives"), column("negatives"));
        batches.push((rows.len()..rows.len() + queries.len()).collect());
        for ((query, positive), negative) in queries.into_iter().zip(positives).zip(negatives) {
            rows.push(json!({"query": query, "pos": [positive], "neg": [negative]}));
        }
    }
    (rows, batches)
}

fn plain<'a>(base: &'a ModelFiles, settings: &'a Settings, train: &'a [Source]) -> Run<'a> {
    Run {
        base,
        base_name: "bert",
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

fn follow(golden: &Value, settings: &Settings, start: Option<embeval::adapter::Adapter>) -> (Output, Embedder) {
    let files = ModelFiles::load(&bert()).unwrap();
    let (rows, batches) = rows(golden);
    let train = [source(&rows)];
    run(&Run { start, fixed_batches: Some(&batches), ..plain(&files, settings, &train) }).unwrap()
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
    let settings = Settings { adapter: Some(lora(0.0, None)), ..settings() };
    let before = ModelFiles::load(&bert()).unwrap();
    let (output, embedder) = follow(&golden, &settings, Some(start));
    compare(&golden, &output, &embedder);
    assert_eq!(embedder.vars().len(), 8);
    for (name, tensor) in embedder.weights() {
        let moved = (tensor - &before.weights[&name]).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(moved.to_scalar::<f32>().unwrap(), 0.0, "{name} moved");
    }
}

/// Without a GPU it says that it is skipped; `tests/peers/cuda_emulate` runs it without one.
#[cfg(feature = "cuda")]
#[test]
fn training_on_a_gpu_follows_pytorch_and_the_cpu() {
    let device = match Device::new_cuda(0) {
        Ok(device) => device,
        Err(error) => return println!("skipped: there is no GPU: {error}"),
    };
    let follow_there = |golden: &Value, settings: &Settings, start: Option<embeval::adapter::Adapter>| {
        let files = ModelFiles::load(&bert()).unwrap();
        let (rows, batches) = rows(golden);
        let train = [source(&rows)];
        run(&Run { start, device: &device, fixed_batches: Some(&batches), ..plain(&files, settings, &train) }).unwrap()
    };
    let full = golden("training.json");
    let (output, embedder) = follow_there(&full, &settings(), None);
    compare(&full, &output, &embedder);
    let (half, embedder) = follow_there(&full, &Settings { precision: Precision::Bf16, ..settings() }, None);
    assert!(embedder.vars().values().all(|v| v.dtype() == candle_core::DType::F32));
    for (a, b) in half.losses.iter().zip(&output.losses) {
        assert!((a - b).abs() < 0.05 * b.abs().max(0.5), "{a} {b}");
    }
    let golden = golden("training_lora.json");
    let start = || Some(peft::load(&bert().join("lora_init")).unwrap());
    let adapted = Settings { adapter: Some(lora(0.0, None)), ..settings() };
    let (output, embedder) = follow_there(&golden, &adapted, start());
    compare(&golden, &output, &embedder);
    let quantization = Some(Quantization { kind: QuantKind::Nf4 { double: true }, embeddings: true });
    let quantized = Settings { adapter: Some(lora(0.2, quantization)), checkpointing: true, ..settings() };
    let ((there, _), (here, _)) = (follow_there(&golden, &quantized, start()), follow(&golden, &quantized, start()));
    for (a, b) in there.losses.iter().zip(&here.losses) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
}

fn lora(dropout: f64, quantization: Option<Quantization>) -> AdapterSettings {
    let spec = LoraSpec { rank: 4, alpha: 8.0, dropout, ..LoraSpec::default() };
    AdapterSettings { spec, targets: vec!["query".into(), "value".into()], quantization }
}

fn small_rows() -> Vec<Value> {
    let (rows, _) = rows(&golden("training.json"));
    rows.into_iter().filter(|r| !r["query"].as_str().unwrap().trim().is_empty()).collect()
}

fn train_in(folder: Option<&Path>, settings: &Settings) -> (Output, Embedder) {
    stopped(folder, settings, None)
}

/// As [`train_in`], stopped after some steps as if it were killed.
fn stopped(folder: Option<&Path>, settings: &Settings, stop_after: Option<usize>) -> (Output, Embedder) {
    let files = ModelFiles::load(&bert()).unwrap();
    let rows = small_rows();
    let (train, dev) = ([source(&rows)], [source(&rows[..12])]);
    run(&Run { dev: &dev, output: folder, stop_after, ..plain(&files, settings, &train) }).unwrap()
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
        objective: Objective::Embeddings(info_nce(Direction::Symmetric)),
        ..settings()
    };
    let (output, embedder) = train_in(Some(folder.path()), &settings);
    let steps: Vec<usize> = output.checkpoints.iter().map(|c| c.0).collect();
    assert_eq!(steps, [2, 4, 5]);
    let evaluated: Vec<usize> = output.dev.iter().map(|p| p.step).collect();
    assert_eq!(evaluated, [0, 2, 4, 5]);
    let saved = ModelFiles::load(&output.checkpoints[2].1).unwrap();
    assert_eq!(difference(&embedder.weights(), &saved.weights), 0.0);
    for (step, path) in &output.checkpoints {
        let state: Value =
            serde_json::from_str(&std::fs::read_to_string(path.join("trainer_state.json")).unwrap()).unwrap();
        assert_eq!(state["global_step"], json!(step));
    }
    // A state to take up from is kept with the newest checkpoint alone.
    assert!(!output.checkpoints[0].1.join("training_state.safetensors").exists());
    assert!(output.checkpoints[2].1.join("training_state.safetensors").exists());
}

type Tensors = BTreeMap<String, candle_core::Tensor>;

/// The largest difference of two sets of tensors.
fn difference(a: &Tensors, b: &Tensors) -> f32 {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let far = |name: &String| {
        let change = (&a[name] - &b[name]).unwrap().abs().unwrap().flatten_all().unwrap();
        change.max(0).unwrap().to_scalar::<f32>().unwrap()
    };
    a.keys().map(far).fold(0.0, f32::max)
}

#[test]
fn a_diverging_run_stops_with_the_reason() {
    let files = ModelFiles::load(&bert()).unwrap();
    let train = [source(&small_rows())];
    let settings =
        Settings { lr: 1e30, warmup: 0.0, optimizer: AdamW { clip: None, ..settings().optimizer }, ..settings() };
    let result = run(&plain(&files, &settings, &train));
    let error = result.err().expect("a run with such a rate cannot succeed").to_string();
    assert!(error.contains("lower train.lr"), "{error}");
}

fn trained(embedder: &Embedder) -> Tensors {
    embedder.vars().iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect()
}

#[test]
fn a_killed_run_goes_on_to_the_very_same_weights() {
    let nf4 = Quantization { kind: QuantKind::Nf4 { double: true }, embeddings: true };
    let int8 = Quantization { kind: QuantKind::Int8, embeddings: false };
    let memory = Criterion { memory: Some((16, 2)), ..info_nce(Direction::Symmetric) };
    let learned = Criterion {
        kind: Kind::InfoNce {
            learn_temperature: true,
            label_smoothing: 0.1,
            false_negatives: Some(Margin::Relative(0.05)),
        },
        ..info_nce(Direction::Asymmetric)
    };
    let dropout = Some(ModelDropout { hidden: 0.1, attention: 0.1 });
    let base = || Settings { max_steps: Some(9), eval_every: Some(4), state_every: Some(1), epochs: 3, ..settings() };
    let cases = [
        ("full", Settings { dropout, ..base() }),
        ("full, memory", Settings { objective: Objective::Embeddings(memory.clone()), ..base() }),
        ("full, average", Settings { optimizer: AdamW { ema: Some(0.9), ..base().optimizer }, ..base() }),
        ("full, learned temperature", Settings { objective: Objective::Embeddings(learned), ..base() }),
        ("full, cached, accumulated", Settings { grad_cache: Some(4), accumulate: 2, dropout, ..base() }),
        ("LoRA", Settings { adapter: Some(lora(0.1, None)), ..base() }),
        (
            "LoRA, memory",
            Settings { adapter: Some(lora(0.1, None)), objective: Objective::Embeddings(memory.clone()), ..base() },
        ),
        ("QLoRA NF4", Settings { adapter: Some(lora(0.1, Some(nf4))), ..base() }),
        (
            "QLoRA int8, memory",
            Settings { adapter: Some(lora(0.0, Some(int8))), objective: Objective::Embeddings(memory), ..base() },
        ),
    ];
    for (number, (name, settings)) in cases.into_iter().enumerate() {
        let (whole, interrupted) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (output, embedder) = train_in(Some(whole.path()), &settings);
        // Killed twice, at other steps in every case.
        for stop in [1 + number % 4, 5 + number % 3] {
            let (part, _) = stopped(Some(interrupted.path()), &settings, Some(stop));
            assert_eq!(part.steps, stop, "{name}");
        }
        let (resumed, again) = train_in(Some(interrupted.path()), &settings);
        assert_eq!(resumed.resumed, Some(5 + number % 3), "{name}");
        assert_eq!(difference(&trained(&embedder), &trained(&again)), 0.0, "{name}");
        assert_eq!(
            (&output.losses, &output.norms, &output.dev),
            (&resumed.losses, &resumed.norms, &resumed.dev),
            "{name}"
        );
        assert_eq!((output.tokens, output.truncated), (resumed.tokens, resumed.truncated), "{name}");
        let file = |folder: &Path| {
            let last = folder.join(checkpoint::checkpoint_name(9));
            let name = if settings.adapter.is_some() { "adapter_model.safetensors" } else { "model.safetensors" };
            std::fs::read(last.join(name)).unwrap()
        };
        assert_eq!(file(whole.path()), file(interrupted.path()), "{name}");
    }
}

#[test]
fn a_run_of_other_settings_is_not_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { max_steps: Some(4), state_every: Some(1), ..settings() };
    stopped(Some(folder.path()), &settings, Some(2));
    let files = ModelFiles::load(&bert()).unwrap();
    let train = [source(&small_rows())];
    let error = run(&Run { output: Some(folder.path()), fingerprint: "other", ..plain(&files, &settings, &train) });
    let error = error.err().expect("another run's state").to_string();
    assert!(error.contains("other settings") && error.contains("--restart"), "{error}");
}

/// Loss and gradients of a batch, by name.
fn gradients(embedder: &Embedder, criterion: &Criterion, batch: &[Example], passes: Passes) -> (f64, Tensors) {
    let dim = embedder.files().embedding_size();
    let mut state = State::new(criterion, dim, &[], 1, &Device::Cpu).unwrap();
    let step = Step { embedder, criterion, guide: None, passes, mode: Mode::training(7), share: 1 };
    // Once before, so that there is something to remember.
    step.run(&batch[..8], &mut state, &mut |_| Ok(())).unwrap();
    let mut sums = Tensors::new();
    let mut take = |store: candle_core::backprop::GradStore| {
        for (name, var) in embedder.vars() {
            if let Some(gradient) = store.get(var.as_tensor()) {
                let sum = match sums.remove(name) {
                    Some(sum) => (sum + gradient)?,
                    None => gradient.clone(),
                };
                sums.insert(name.clone(), sum);
            }
        }
        Ok(())
    };
    let loss = step.run(batch, &mut state, &mut take).unwrap();
    (loss, sums)
}

#[test]
fn cached_gradients_are_those_of_the_whole_batch() {
    let files = ModelFiles::load(&bert()).unwrap();
    let tokenizer = files.tokenizer();
    let rows = small_rows();
    let text = |value: &Value, i: u64| Text {
        ids: Arc::new(tokenizer.encode(&[value.as_str().unwrap()], "").unwrap().remove(0)),
        identity: i,
        prompt_tokens: 0,
        guide: None,
    };
    let batch: Vec<Example> = (0..40)
        .map(|i| (&rows[i % rows.len()], 10 * i as u64))
        .map(|(r, i)| Example::pair(text(&r["query"], i), text(&r["pos"][0], i + 1), vec![text(&r["neg"][0], i + 2)]))
        .collect();
    let matryoshka = Some(embeval::loss::matryoshka::Matryoshka { dims: vec![32, 8], weights: vec![1.0, 0.5] });
    for criterion in [
        info_nce(Direction::Symmetric),
        Criterion { memory: Some((30, 0)), ..info_nce(Direction::Asymmetric) },
        Criterion { matryoshka, ..info_nce(Direction::Asymmetric) },
        Criterion {
            kind: Kind::Triplet { margin: 0.5, distance: embeval::loss::distance::Distance::Cosine },
            ..info_nce(Direction::Asymmetric)
        },
    ] {
        // The model's dropout is that of the whole batch, too.
        let dropout = Some(ModelDropout { hidden: 0.1, attention: 0.1 });
        let options = BuildOptions { trainable: &|name| !name.starts_with("pooler"), dropout, ..Default::default() };
        let embedder = Embedder::build(&files, &options).unwrap();
        let (loss, whole) = gradients(&embedder, &criterion, &batch, Passes::Whole);
        let (cached_loss, cached) = gradients(&embedder, &criterion, &batch, Passes::Cached(7));
        assert!((loss - cached_loss).abs() < 1e-5, "{loss} {cached_loss}");
        assert_eq!(whole.len(), embedder.vars().len());
        assert!(difference(&whole, &cached) < 1e-5, "{:?}: {}", criterion.kind, difference(&whole, &cached));
    }
}

#[test]
fn recomputed_activations_change_nothing() {
    let dropout = Some(ModelDropout { hidden: 0.1, attention: 0.1 });
    for adapter in [None, Some(lora(0.2, None))] {
        let plain = Settings { max_steps: Some(3), dropout, adapter, ..settings() };
        let (a, x) = train_in(None, &plain);
        let (b, y) = train_in(None, &Settings { checkpointing: true, ..plain.clone() });
        assert_eq!(a.losses, b.losses);
        assert_eq!(difference(&trained(&x), &trained(&y)), 0.0);
    }
}

#[test]
fn the_best_checkpoint_is_kept_and_patience_ends_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let rule = Rule { metric: "loss".into(), min_delta: 0.0, patience: Some(2) };
    // A rate that first helps and then harms.
    let settings = Settings {
        max_steps: Some(40),
        epochs: 40,
        lr: 0.03,
        warmup: 0.0,
        schedule: Shape::Constant,
        eval_every: Some(1),
        best: Some(rule),
        keep: (Some(2), None),
        ..settings()
    };
    let (output, _) = train_in(Some(folder.path()), &settings);
    // The untrained model is evaluated, but is no checkpoint.
    let losses: Vec<f64> = output.dev.iter().filter_map(|p| p.loss).skip(1).collect();
    let (metric, value) = output.best.clone().unwrap();
    assert_eq!(metric, "loss");
    assert_eq!(value, losses.iter().copied().fold(f64::INFINITY, f64::min));
    assert!(output.steps < 40, "never stopped: {losses:?}");
    let best = losses.iter().position(|l| *l == value).unwrap() + 1;
    assert_eq!((output.steps, output.result), (best + 2, best));
    assert!(folder.path().join(checkpoint::checkpoint_name(best)).is_dir());
    assert!(output.checkpoints.len() <= 3, "{:?}", output.checkpoints);
    assert_eq!(checkpoint::read_final(folder.path()).unwrap().step, output.result);
}

#[test]
fn bf16_follows_f32_and_keeps_its_weights_in_f32() {
    let plain = Settings { max_steps: Some(6), ..settings() };
    let (a, _) = train_in(None, &plain);
    let (b, embedder) = train_in(None, &Settings { precision: Precision::Bf16, ..plain });
    assert!(embedder.vars().values().all(|v| v.dtype() == candle_core::DType::F32));
    for (a, b) in a.losses.iter().zip(&b.losses) {
        assert!((a - b).abs() < 0.05 * a.abs().max(0.5), "{a} {b}");
    }
}

#[test]
fn what_changes_nothing_is_an_error() {
    let files = ModelFiles::load(&bert()).unwrap();
    let train = [source(&small_rows())];
    // One step of warm-up: its rate is 0.
    let settings = Settings { max_steps: Some(1), warmup: 1.0, ..settings() };
    let error = run(&plain(&files, &settings, &train)).err().expect("nothing was trained").to_string();
    assert!(error.contains("changed no embedding"), "{error}");
}

#[test]
fn rows_that_a_loss_cannot_use_are_refused_with_what_it_needs() {
    let files = ModelFiles::load(&bert()).unwrap();
    let pairs = [source(&small_rows())];
    for (kind, needed) in [
        (Kind::CoSent { scale: 20.0 }, "sentence1, sentence2, score"),
        (Kind::ArcFace { scale: 30.0 }, "text, label"),
        (Kind::SimCse, "plain texts"),
        (Kind::MarginMse, "pos_scores"),
    ] {
        let objective = Objective::Embeddings(Criterion { kind, ..info_nce(Direction::Asymmetric) });
        let settings = Settings { objective, ..settings() };
        let error = run(&plain(&files, &settings, &pairs)).err().expect("pairs are not enough").to_string();
        assert!(error.contains(needed) && error.contains("rows: holds pairs"), "{error}");
    }
}

#[test]
fn every_loss_trains() {
    use embeval::loss::distance::Distance;
    use embeval::loss::triplet_mining::{Mining, TripletMining};
    let files = ModelFiles::load(&bert()).unwrap();
    let rows = small_rows();
    let text = |row: &Value, key: &str| row[key].as_str().or(row[key][0].as_str()).unwrap().to_string();
    let scored: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(
            |(i, r)| json!({"sentence1": text(r, "query"), "sentence2": text(r, "pos"), "score": (i % 5) as f64 / 4.0}),
        )
        .collect();
    let labelled: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(i, r)| json!({"text": text(r, "query"), "label": format!("c{}", i % 3)}))
        .collect();
    let texts: Vec<Value> = rows.iter().map(|r| json!({"text": text(r, "query")})).collect();
    let taught: Vec<Value> = rows
        .iter()
        .map(|r| {
            let mut r = r.clone();
            (r["pos_scores"], r["neg_scores"]) = (json!([0.9]), json!([0.2]));
            r
        })
        .collect();
    let margins = embeval::loss::adaptive_margin::Settings {
        start: 0.0,
        end: 0.3,
        warm_up: 3,
        smallest: 0.15,
        largest: 0.6,
        power: 0.25,
        easing: 0.5,
        momentum: 0.9,
    };
    let triplets = |mining| Kind::BatchTriplets(TripletMining { distance: Distance::Euclidean, mining });
    let cases: Vec<(Kind, &[Value])> = vec![
        (Kind::Gist { margin: Margin::Absolute(0.0) }, &rows),
        (Kind::SimCse, &texts),
        (Kind::Distillation { teacher_temperature: 1.0 }, &taught),
        (Kind::MarginMse, &taught),
        (Kind::Triplet { margin: 0.5, distance: Distance::Cosine }, &rows),
        (triplets(Mining::Hard { margin: 1.0 }), &labelled),
        (triplets(Mining::All { margin: 1.0 }), &labelled),
        (Kind::CoSent { scale: 20.0 }, &scored),
        (Kind::Angle { scale: 20.0 }, &scored),
        (Kind::Regression, &scored),
        (Kind::ArcFace { scale: 30.0 }, &labelled),
    ];
    for (kind, rows) in cases {
        let (train, dev) = ([source(rows)], [source(rows)]);
        let name = format!("{kind:?}");
        let guide = matches!(kind, Kind::Gist { .. }).then_some(&files);
        let margins = matches!(kind, Kind::ArcFace { .. }).then(|| margins.clone());
        let criterion = Criterion { kind, margins, temperature: 0.1, ..info_nce(Direction::Asymmetric) };
        let settings = Settings {
            objective: Objective::Embeddings(criterion),
            epochs: 30,
            max_steps: Some(60),
            eval_every: Some(60),
            lr: 5e-3,
            batch: 12,
            mix: SamplerSettings::new(12),
            dropout: Some(ModelDropout { hidden: 0.05, attention: 0.05 }),
            ..settings()
        };
        let (output, _) = run(&Run { dev: &dev, guide, ..plain(&files, &settings, &train) })
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let (first, last) = (output.dev[0].loss.unwrap(), output.dev.last().unwrap().loss.unwrap());
        assert!(last < first, "{name}: dev loss {first} to {last} on the very rows that are trained on");
    }
}
