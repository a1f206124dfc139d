//! Whole runs' logs. `EMBEVAL_LOG_FOLDER` names a folder to leave them in for tests/peers/check_tensorboard.py: `whole`,
//! `resumed` (killed at step 27, resumed from the checkpoint of step 20), `moved` (resumed in an empty folder) and `again`
//! (a run of 24 steps in the folder of a longer one).

use std::fs::{self, OpenOptions};

use serde_json::json;

use super::*;

const STEPS: u64 = 40;
const EVERY: u64 = 10;

fn facts() -> RunFacts {
    RunFacts {
        base: "sentence-transformers/all-MiniLM-L6-v2".into(),
        method: "lora".into(),
        adapter: Some(json!({"r": 8, "alpha": 32.0, "dropout": 0.1})),
        total_parameters: 22_713_216,
        trainable_parameters: 147_456,
        settings: json!({"temperature": 0.05, "prompt": "```\nzwei Zeilen – ещё: "}),
        max_steps: STEPS,
        epochs: 2,
        batch: 32,
        eval_every: Some(EVERY),
        save_every: Some(EVERY),
        best: Some(BestMetric { name: "mrr".into(), greater_is_better: true }),
        ..Default::default()
    }
}

fn step(step: u64) -> StepRecord {
    StepRecord {
        step,
        epoch: step as f64 / 20.0,
        loss: if step == 13 { f64::NAN } else { 2.0 / (step as f64).sqrt() },
        learning_rate: 2e-5 * (1.0 - step as f64 / STEPS as f64),
        grad_norm: if step == 13 { f64::INFINITY } else { (step as f64).cos().abs() },
        tokens: 1111 * step,
        seconds: 0.3 * step as f64,
        extra: [("temperature".into(), 0.05 / step as f64)].into(),
        ..Default::default()
    }
}

fn eval(step: u64) -> EvalRecord {
    let mrr = [0.3, 0.5, 0.7, 0.6, 0.65][(step / EVERY) as usize];
    let loss = if step == 0 { f64::NAN } else { 1.0 / 3.0 / step as f64 };
    let metrics = [("mrr".into(), mrr), ("loss".into(), loss)].into();
    EvalRecord { step, epoch: step as f64 / 20.0, time: None, metrics }
}

/// Trains from the step after `from` up to `to`, with an evaluation and a checkpoint every ten steps.
fn train(log: &mut RunLog, from: u64, to: u64) {
    if from == 0 {
        log.eval(eval(0)).unwrap();
    }
    for made in from + 1..=to {
        log.step(step(made)).unwrap();
        if made % EVERY == 0 {
            log.eval(eval(made)).unwrap();
            let checkpoint = log.folder.join(format!("checkpoint-{made:06}"));
            fs::create_dir_all(&checkpoint).unwrap();
            log.write_state(&checkpoint).unwrap();
            let history = serde_json::to_vec(log.history()).unwrap();
            fs::write(checkpoint.join("history.json"), history).unwrap();
        }
    }
}

fn finish(mut log: RunLog) {
    log.finish(&RunSummary { completed: true, peak_memory: Some(1 << 30), ..Default::default() }).unwrap();
}

fn checkpoint(folder: &Path, step: u64) -> History {
    let path = folder.join(format!("checkpoint-{step:06}/history.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Cuts the last bytes off a file, as a crash does.
fn cut(path: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

/// A file's JSON documents, a line each or one in all, without what tells time.
fn timeless(path: &Path) -> Vec<Value> {
    fn strip(value: &mut Value) {
        if let Value::Object(map) = value {
            map.retain(|key, _| {
                !(key.contains("time") || key.contains("per_second") || key == "best_model_checkpoint")
            });
            map.values_mut().for_each(strip);
        } else if let Value::Array(array) = value {
            array.iter_mut().for_each(strip);
        } else if let Some(number) = value.as_f64() {
            // Through JSON and back, a number may change in its last digit.
            *value = json!(format!("{number:.12e}"));
        }
    }
    let text = fs::read_to_string(path).unwrap();
    let mut out: Vec<Value> =
        serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap).collect();
    out.iter_mut().for_each(strip);
    out
}

fn event_files(folder: &Path) -> Vec<PathBuf> {
    let mut out: Vec<_> =
        fs::read_dir(folder.join("tensorboard")).unwrap().map(|entry| entry.unwrap().path()).collect();
    out.sort();
    out
}

#[test]
fn a_resumed_run_logs_what_an_uninterrupted_one_does() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("EMBEVAL_LOG_FOLDER").map_or(temporary.path().to_owned(), PathBuf::from);
    let [whole, resumed, moved, again] = ["whole", "resumed", "moved", "again"].map(|name| root.join(name));

    let mut log = RunLog::open(&whole, facts(), None).unwrap();
    train(&mut log, 0, STEPS);
    finish(log);

    let mut log = RunLog::open(&resumed, facts(), None).unwrap();
    train(&mut log, 0, 27);
    drop(log);
    cut(&resumed.join("log.jsonl"), 5);
    cut(&event_files(&resumed)[0], 7);
    let mut log = RunLog::open(&resumed, facts(), Some(checkpoint(&resumed, 20))).unwrap();
    assert_eq!(log.history().last_step(), Some(20));
    train(&mut log, 20, STEPS);
    finish(log);

    let mut log = RunLog::open(&moved, facts(), Some(checkpoint(&resumed, 20))).unwrap();
    train(&mut log, 20, STEPS);
    finish(log);

    let mut log = RunLog::open(&again, facts(), None).unwrap();
    train(&mut log, 0, STEPS);
    drop(log);
    let mut log = RunLog::open(&again, facts(), None).unwrap();
    train(&mut log, 0, 24);
    finish(log);

    let files = [
        "log.jsonl",
        trainer_state::FILE_NAME,
        "detailed_training_logs.json",
        "training_losses.json",
        "training_summary_report.json",
    ];
    for name in files {
        let expected = timeless(&whole.join(name));
        assert!(!expected.is_empty());
        for other in [&resumed, &moved] {
            assert_eq!(timeless(&other.join(name)), expected, "{name} of {}", other.display());
        }
    }
    assert_eq!(timeless(&whole.join("log.jsonl")).len() as u64, STEPS + 1 + STEPS / EVERY);
    assert_eq!(timeless(&again.join("log.jsonl")).len(), 24 + 3);
    // The first twenty steps are in the first file already, and not said again; in another folder they are.
    let lengths = |folder: &Path| -> Vec<u64> {
        event_files(folder).iter().map(|path| fs::metadata(path).unwrap().len()).collect()
    };
    let (one, two, moved) = (lengths(&whole), lengths(&resumed), lengths(&moved));
    assert_eq!((one.len(), two.len(), moved.len()), (1, 2, 1));
    assert!(two[1] < one[0] * 2 / 3 && moved[0] > one[0] * 9 / 10, "{one:?} {two:?} {moved:?}");
}

#[test]
fn the_best_checkpoint_is_found_by_its_step() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = RunLog::open(folder.path(), facts(), None).unwrap();
    train(&mut log, 0, STEPS);
    let read = |folder: &Path| best_of(&folder.join(trainer_state::FILE_NAME));
    let best = folder.path().join("checkpoint-000020");
    assert_eq!(
        read(&folder.path().join("checkpoint-000010")).2,
        folder.path().join("checkpoint-000010").to_str().map(Into::into)
    );
    assert_eq!(read(&folder.path().join("checkpoint-000040")), (Some(20), Some(0.7), best.to_str().map(Into::into)));
    // Elsewhere too, as long as the run's folder has it.
    let copy = tempfile::tempdir().unwrap();
    log.write_state(copy.path()).unwrap();
    assert_eq!(read(copy.path()).2, best.to_str().map(Into::into));
    fs::remove_dir_all(&best).unwrap();
    log.write_state(copy.path()).unwrap();
    assert_eq!(read(copy.path()), (Some(20), Some(0.7), None));
}

/// Step, value and checkpoint of the best evaluation.
fn best_of(path: &Path) -> (Option<u64>, Option<f64>, Option<String>) {
    let state: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let checkpoint = state["best_model_checkpoint"].as_str().map(Into::into);
    (state["best_global_step"].as_u64(), state["best_metric"].as_f64(), checkpoint)
}

#[test]
fn reports_can_be_had_while_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = RunLog::open(folder.path(), facts(), None).unwrap();
    log.write_reports().unwrap();
    train(&mut log, 0, 25);
    log.write_reports().unwrap();
    let report = &timeless(&folder.path().join("training_summary_report.json"))[0];
    assert_eq!(
        (&report["training_completed"], &report["loss_progression"][1]["epoch"]),
        (&json!(false), &json!("2.000000000000e0"))
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_one_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = RunLog::open(&file, facts(), None).unwrap_err();
    assert!(error.path.starts_with(&file) && error.to_string().contains("resume from the last checkpoint"), "{error}");

    let run = folder.path().join("run");
    let mut log = RunLog::open(&run, facts(), None).unwrap();
    train(&mut log, 0, 1);
    let error = log.write_state(&file).unwrap_err();
    assert_eq!(error.path, file.join(trainer_state::FILE_NAME));
    fs::create_dir(run.join("training_losses.json")).unwrap();
    let error = log.finish(&RunSummary::default()).unwrap_err();
    assert_eq!(error.path, run.join("training_losses.json"));

    let log = folder.path().join("other/log.jsonl");
    fs::create_dir_all(&log).unwrap();
    assert_eq!(RunLog::open(&folder.path().join("other"), facts(), None).unwrap_err().path, log);
}

#[test]
fn settings_cannot_leave_their_code_block() {
    let text = config_text(&facts());
    let (_, settings) = text.split_once("\n\n").unwrap();
    assert!(settings.lines().all(|line| line.starts_with("    ")), "{settings}");
    let read: Value = serde_json::from_str(settings).unwrap();
    assert_eq!(read, facts().settings);
}
