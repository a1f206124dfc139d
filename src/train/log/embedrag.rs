//! The three files that EmbedRAG's trainer leaves beside its checkpoints.
//!
//! Keys are those of EmbedRAG (github.com/chao-yuyu/EmbedRAG, `train.py`):
//! - `detailed_training_logs.json`: `training_args`, `model_info`, `step_logs` (`epoch` and `step` within it from 1,
//!   `global_step` from 0, `loss`, `learning_rate`, `step_duration`, `timestamp`), `epoch_logs` (`epoch`, `avg_loss`,
//!   `total_loss`, `num_steps`, `epoch_duration`, `learning_rate`, `timestamp`), `training_start_time`,
//!   `training_end_time`, `training_summary`;
//! - `training_losses.json`: `epoch` and mean `loss` of every epoch;
//! - `training_summary_report.json`: `training_completed`, `completion_time`, `total_duration_hours`, `model_info`,
//!   `training_args`, `performance_summary` (`total_training_time`, `total_epochs`, `total_steps`, `final_loss`,
//!   `best_loss`, `avg_step_duration`), `loss_progression`.
//!
//! Ours differ: a step is an optimizer step, not a batch; its learning rate is the one that it was made with, not the next;
//! durations are those of training steps, evaluation and saving aside; times are in UTC and say so. Ours alone are
//! `grad_norm`, `tokens` and `extra` of a step, `eval_logs`, `base_model` of the model, `total_tokens`,
//! `tokens_per_second` and `peak_memory_bytes` of the summary. Final and best loss are means of an epoch, as there. What is
//! not finite is null.

use serde_json::{Map, Value, json};

use super::facts::{RunFacts, RunSummary};
use super::record::{History, StepRecord};
use super::time::iso;

/// The three files, name and content each; `now` in seconds since 1970, `end` is given at the end of the run.
pub fn files(facts: &RunFacts, history: &History, now: f64, end: Option<&RunSummary>) -> [(&'static str, Value); 3] {
    let epochs = epochs(history);
    let model = model_info(facts);
    let summary = summary(facts, history, &epochs, end);
    let ended = end.and_then(|_| iso(now));
    let progression = |key: &str| -> Vec<Value> {
        epochs.iter().map(|epoch| json!({"epoch": epoch.number, key: epoch.mean()})).collect()
    };
    let mut report = json!({
        "training_completed": end.is_some_and(|end| end.completed),
        "completion_time": ended,
        "total_duration_hours": history.progress().2 / 3600.0,
        "model_info": model,
        "training_args": facts.settings,
        "performance_summary": summary,
        "loss_progression": progression("avg_loss"),
    });
    if let (Some(report), Some(end)) = (report.as_object_mut(), end) {
        for (key, value) in &end.extra {
            report.entry(key).or_insert_with(|| value.clone());
        }
    }
    let detailed = json!({
        "training_args": facts.settings,
        "model_info": model,
        "step_logs": step_logs(&epochs),
        "epoch_logs": epochs.iter().map(Epoch::log).collect::<Vec<_>>(),
        "eval_logs": eval_logs(history),
        "training_start_time": start(history),
        "training_end_time": ended,
        "training_summary": summary,
    });
    [
        ("detailed_training_logs.json", detailed),
        ("training_losses.json", progression("loss").into()),
        ("training_summary_report.json", report),
    ]
}

/// The steps of one pass over the rows.
struct Epoch<'a> {
    /// From 1.
    number: u64,
    steps: Vec<&'a StepRecord>,
    /// Seconds in training steps before it.
    before: f64,
}

impl Epoch<'_> {
    fn total(&self) -> f64 {
        self.steps.iter().map(|step| step.loss).sum()
    }

    fn mean(&self) -> f64 {
        self.total() / self.steps.len() as f64
    }

    fn log(&self) -> Value {
        let last = self.steps.last();
        json!({
            "epoch": self.number,
            "avg_loss": self.mean(),
            "total_loss": self.total(),
            "num_steps": self.steps.len(),
            "epoch_duration": last.map(|last| last.seconds - self.before),
            "learning_rate": last.map(|last| last.learning_rate),
            "timestamp": last.and_then(|last| iso(last.time?)),
        })
    }
}

/// The number of the epoch, from 1, that a step belongs to, when `epoch` passes are over behind it.
fn number(epoch: f64) -> u64 {
    // A pass is over at a whole number, up to rounding: its last step still belongs to it.
    (epoch - 1e-9).ceil().max(1.0) as u64
}

fn epochs(history: &History) -> Vec<Epoch<'_>> {
    let mut out: Vec<Epoch<'_>> = Vec::new();
    let mut before = 0.0;
    for step in &history.steps {
        let number = number(step.epoch);
        match out.last_mut() {
            Some(last) if last.number == number => last.steps.push(step),
            _ => out.push(Epoch { number, steps: vec![step], before }),
        }
        before = step.seconds;
    }
    out
}

fn step_logs(epochs: &[Epoch<'_>]) -> Vec<Value> {
    let mut out = Vec::new();
    for epoch in epochs {
        let mut before = epoch.before;
        for (within, step) in (1..).zip(&epoch.steps) {
            let mut log = json!({
                "epoch": epoch.number,
                "step": within,
                "global_step": step.step.saturating_sub(1),
                "loss": step.loss,
                "learning_rate": step.learning_rate,
                "grad_norm": step.grad_norm,
                "step_duration": step.seconds - before,
                "tokens": step.tokens,
                "timestamp": step.time.and_then(iso),
            });
            if let (Some(log), false) = (log.as_object_mut(), step.extra.is_empty()) {
                log.insert("extra".into(), json!(step.extra));
            }
            before = step.seconds;
            out.push(log);
        }
    }
    out
}

fn eval_logs(history: &History) -> Vec<Value> {
    let evals = history.evals.iter();
    let log = |eval: &super::EvalRecord| {
        json!({
            "epoch": eval.epoch,
            "global_step": eval.step,
            "metrics": eval.metrics,
            "timestamp": eval.time.and_then(iso),
        })
    };
    evals.map(log).collect()
}

fn start(history: &History) -> Option<String> {
    let first = history.steps.first()?;
    iso(first.time? - first.seconds)
}

fn model_info(facts: &RunFacts) -> Value {
    json!({
        "finetune_type": facts.method,
        "quantization_bits": facts.quantization_bits,
        "total_parameters": facts.total_parameters,
        "trainable_parameters": facts.trainable_parameters,
        "trainable_percentage": 100.0 * facts.trainable_parameters as f64 / facts.total_parameters as f64,
        "lora_config": facts.adapter,
        "base_model": facts.base,
    })
}

fn summary(facts: &RunFacts, history: &History, epochs: &[Epoch<'_>], end: Option<&RunSummary>) -> Map<String, Value> {
    let (_, tokens, seconds) = history.progress();
    let steps = history.steps.len();
    let losses = epochs.iter().map(Epoch::mean);
    // Without steps or seconds the quotients are not finite, and null.
    let entries = [
        ("total_training_time", json!(seconds)),
        ("total_epochs", json!(facts.epochs)),
        ("total_steps", json!(steps)),
        ("final_loss", json!(losses.clone().next_back())),
        ("best_loss", json!(losses.filter(|loss| loss.is_finite()).min_by(f64::total_cmp))),
        ("avg_step_duration", json!(seconds / steps as f64)),
        ("total_tokens", json!(tokens)),
        ("tokens_per_second", json!(tokens as f64 / seconds)),
        ("peak_memory_bytes", json!(end.and_then(|end| end.peak_memory))),
    ];
    entries.map(|(key, value)| (key.into(), value)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::EvalRecord;
    use super::*;

    /// Two epochs of three steps, the second one step short.
    fn history(losses: [f64; 5]) -> History {
        let steps = (1..).zip(losses).map(|(step, loss)| StepRecord {
            step,
            epoch: step as f64 * (1.0 / 3.0),
            loss,
            learning_rate: 1e-4 / step as f64,
            grad_norm: 1.0,
            tokens: 10 * step,
            seconds: 2.0 * step as f64,
            time: Some(1_751_306_300.0 + 2.0 * step as f64),
            ..Default::default()
        });
        let eval = EvalRecord { step: 5, epoch: 5.0 / 3.0, time: None, metrics: [("mrr".into(), 0.5)].into() };
        History { steps: steps.collect(), evals: vec![eval] }
    }

    fn facts() -> RunFacts {
        RunFacts {
            base: "base".into(),
            method: "lora".into(),
            adapter: Some(json!({"r": 8, "alpha": 32, "dropout": 0.1})),
            total_parameters: 200,
            trainable_parameters: 3,
            settings: json!({"lr": 1e-4}),
            epochs: 2,
            ..Default::default()
        }
    }

    #[test]
    fn epochs_are_told_apart_and_averaged() {
        let [(_, detailed), (_, losses), (_, report)] =
            files(&facts(), &history([4.0, 3.0, 2.0, 1.0, 0.5]), 1_751_306_320.0, None);
        assert_eq!(losses, json!([{"epoch": 1, "loss": 3.0}, {"epoch": 2, "loss": 0.75}]));
        let steps = detailed["step_logs"].as_array().unwrap();
        let places: Vec<_> = steps.iter().map(|s| (s["epoch"].as_u64(), s["step"].as_u64())).collect();
        assert_eq!(places, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)].map(|(e, s)| (Some(e), Some(s))));
        assert_eq!(
            steps[3],
            json!({"epoch": 2, "step": 1, "global_step": 3, "loss": 1.0, "learning_rate": 1e-4 / 4.0, "grad_norm": 1.0,
                   "step_duration": 2.0, "tokens": 40, "timestamp": "2025-06-30T17:58:28.000000+00:00"})
        );
        assert_eq!(
            detailed["epoch_logs"][1],
            json!({"epoch": 2, "avg_loss": 0.75, "total_loss": 1.5, "num_steps": 2, "epoch_duration": 4.0,
                   "learning_rate": 1e-4 / 5.0, "timestamp": "2025-06-30T17:58:30.000000+00:00"})
        );
        assert_eq!(detailed["training_start_time"], "2025-06-30T17:58:20.000000+00:00");
        assert_eq!((&report["training_completed"], &report["completion_time"]), (&json!(false), &Value::Null));
        assert_eq!(report["model_info"]["trainable_percentage"], 1.5);
    }

    #[test]
    fn the_report_sums_the_run_up() {
        let end = RunSummary {
            completed: true,
            peak_memory: Some(1024),
            extra: json!({"device": "cpu", "model_info": 1}).as_object().unwrap().clone(),
        };
        let history = history([4.0, 3.0, 2.0, 1.0, 0.5]);
        let [_, _, (_, report)] = files(&facts(), &history, 1_751_306_320.0, Some(&end));
        assert_eq!(
            report["performance_summary"],
            json!({"total_training_time": 10.0, "total_epochs": 2, "total_steps": 5, "final_loss": 0.75, "best_loss": 0.75,
                   "avg_step_duration": 2.0, "total_tokens": 50, "tokens_per_second": 5.0, "peak_memory_bytes": 1024})
        );
        assert_eq!(report["completion_time"], "2025-06-30T17:58:40.000000+00:00");
        assert_eq!((&report["training_completed"], &report["device"]), (&json!(true), &json!("cpu")));
        assert_eq!(report["model_info"]["lora_config"]["r"], 8);
    }

    #[test]
    fn what_is_not_finite_is_null_and_never_the_best() {
        let history = history([4.0, 3.0, 2.0, f64::NAN, 0.5]);
        let [_, (_, losses), (_, report)] = files(&facts(), &history, f64::NAN, Some(&RunSummary::default()));
        assert_eq!(losses[1], json!({"epoch": 2, "loss": null}));
        assert_eq!(report["performance_summary"]["best_loss"], 3.0);
        let [_, (_, losses), (_, report)] = files(&RunFacts::default(), &History::default(), 0.0, None);
        assert_eq!((losses, &report["performance_summary"]["final_loss"]), (json!([]), &Value::Null));
        assert_eq!(report["performance_summary"]["tokens_per_second"], Value::Null);
    }
}
