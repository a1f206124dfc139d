//! `trainer_state.json` as transformers 5 writes it beside a checkpoint.
//!
//! Keys and their meaning are those of `transformers.trainer_callback.TrainerState`, keys in alphabetical order as there.
//! Every step has an entry in `log_history` (`logging_steps` is 1), and every evaluation one with `eval_` before the names of
//! its metrics; at the end of a run an entry with `train_runtime`, `train_loss` and the speed follows, which transformers'
//! model cards look for. What is not finite is left out of an entry. Three differences: `total_flos` is 0, as operations are
//! not counted; where evaluation or saving happens at the end only, `eval_steps` and `save_steps` are `max_steps`;
//! `best_model_checkpoint` is null, and not an older checkpoint, where the best evaluation's step was not saved.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::facts::{BestMetric, RunFacts, RunSummary};
use super::record::{EvalRecord, History, Record, StepRecord};

/// Name of the file.
pub const FILE_NAME: &str = "trainer_state.json";

/// The best evaluation so far: its step and its value. The first of equals counts, and NaN never does.
pub fn best(history: &History, metric: &BestMetric) -> Option<(u64, f64)> {
    let values = history.evals.iter().filter_map(|e| Some((e.step, *e.metrics.get(&metric.name)?)));
    values.filter(|(_, value)| value.is_finite()).fold(None, |best, (step, value)| match best {
        Some((_, least)) if !(if metric.greater_is_better { value > least } else { value < least }) => best,
        _ => Some((step, value)),
    })
}

/// The content of `trainer_state.json`; `best_checkpoint` is the folder of the best evaluation's step, `end` is given at the
/// end of the run.
pub fn trainer_state(
    facts: &RunFacts,
    history: &History,
    best_checkpoint: Option<&Path>,
    end: Option<&RunSummary>,
) -> Value {
    let (step, tokens, _) = history.progress();
    let best = facts.best.as_ref().and_then(|metric| best(history, metric));
    let mut log: Vec<Value> = history
        .records()
        .into_iter()
        .map(|record| match record {
            Record::Step(record) => step_entry(record),
            Record::Eval(record) => eval_entry(record),
        })
        .collect();
    if let (Some(_), Some(last)) = (end, history.steps.last()) {
        log.push(end_entry(history, last));
    }
    json!({
        "best_global_step": best.map(|(step, _)| step),
        "best_metric": best.map(|(_, value)| value),
        "best_model_checkpoint": best_checkpoint.map(|path| path.to_string_lossy()),
        "epoch": finite_or_zero(history.steps.last().map_or(0.0, |last| last.epoch)),
        "eval_steps": facts.eval_every.unwrap_or(facts.max_steps),
        "global_step": step,
        "is_hyper_param_search": false,
        "is_local_process_zero": true,
        "is_world_process_zero": true,
        "log_history": log,
        "logging_steps": 1,
        "max_steps": facts.max_steps,
        "num_input_tokens_seen": tokens,
        "num_train_epochs": facts.epochs,
        "save_steps": facts.save_every.unwrap_or(facts.max_steps),
        "stateful_callbacks": {
            // transformers' trainer looks its own control up here when it saves after a resumption.
            "TrainerControl": {
                "args": {
                    "should_epoch_stop": false,
                    "should_evaluate": false,
                    "should_log": false,
                    "should_save": true,
                    "should_training_stop": end.is_some(),
                },
                "attributes": {},
            },
        },
        "total_flos": 0.0,
        "train_batch_size": facts.batch,
        "trial_name": null,
        "trial_params": null,
    })
}

fn finite_or_zero(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// An entry of the log: finite figures in alphabetical order, the step last.
fn entry(mut figures: Vec<(String, f64)>, step: u64) -> Value {
    figures.retain(|(_, value)| value.is_finite());
    figures.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out: Map<String, Value> = figures.into_iter().map(|(name, value)| (name, value.into())).collect();
    out.insert("step".into(), step.into());
    out.into()
}

fn step_entry(record: &StepRecord) -> Value {
    entry(record.curves().into_iter().map(|(name, value)| (name.into(), value)).collect(), record.step)
}

fn eval_entry(record: &EvalRecord) -> Value {
    let named = |name: &str| if name.starts_with("eval_") { name.into() } else { format!("eval_{name}") };
    let metrics = record.metrics.iter().map(|(name, value)| (named(name), *value));
    entry(metrics.chain([("epoch".into(), record.epoch)]).collect(), record.step)
}

fn end_entry(history: &History, last: &StepRecord) -> Value {
    let losses: f64 = history.steps.iter().map(|s| s.loss).sum();
    let figures = [
        ("epoch", last.epoch),
        ("total_flos", 0.0),
        ("train_loss", losses / history.steps.len() as f64),
        ("train_runtime", last.seconds),
        // Without seconds there is no speed: a division by zero is not finite, and left out.
        ("train_steps_per_second", history.steps.len() as f64 / last.seconds),
        ("train_tokens_per_second", last.tokens as f64 / last.seconds),
    ];
    entry(figures.map(|(name, value)| (name.into(), value)).into(), last.step)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn eval(step: u64, mrr: f64) -> EvalRecord {
        EvalRecord { step, epoch: 0.5, metrics: BTreeMap::from([("mrr".into(), mrr)]), ..Default::default() }
    }

    #[test]
    fn the_best_is_the_first_of_equals_and_never_nan() {
        let history = History { evals: [f64::NAN, 0.5, 0.75, 0.75].map(|m| eval(1, m)).into(), ..Default::default() };
        let mut history = history;
        (1..).zip(&mut history.evals).for_each(|(step, eval)| eval.step = step);
        let metric = |name: &str, greater_is_better| BestMetric { name: name.into(), greater_is_better };
        assert_eq!(best(&history, &metric("mrr", true)), Some((3, 0.75)));
        assert_eq!(best(&history, &metric("mrr", false)), Some((2, 0.5)));
        assert_eq!(best(&history, &metric("ndcg", true)), None);
    }

    #[test]
    fn entries_say_what_was_measured_and_nothing_else() {
        let step = StepRecord {
            step: 2,
            epoch: 0.5,
            loss: f64::NAN,
            learning_rate: 1e-5,
            grad_norm: f64::INFINITY,
            tokens: 50,
            seconds: 0.0,
            ..Default::default()
        };
        let history = History { steps: vec![step], evals: vec![eval(2, 0.5)] };
        let facts = RunFacts { max_steps: 4, save_every: Some(2), ..Default::default() };
        let state = trainer_state(&facts, &history, None, Some(&RunSummary::default()));
        assert_eq!(
            state["log_history"],
            json!([
                {"epoch": 0.5, "learning_rate": 1e-5, "step": 2},
                {"epoch": 0.5, "eval_mrr": 0.5, "step": 2},
                {"epoch": 0.5, "total_flos": 0.0, "train_runtime": 0.0, "step": 2},
            ])
        );
        assert_eq!(
            (&state["eval_steps"], &state["save_steps"], &state["best_metric"], &state["num_input_tokens_seen"]),
            (&json!(4), &json!(2), &Value::Null, &json!(50))
        );
        let keys: Vec<_> = state.as_object().unwrap().keys().collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }

    #[test]
    fn a_run_that_has_not_begun_has_a_state() {
        let state = trainer_state(&RunFacts::default(), &History::default(), None, Some(&RunSummary::default()));
        assert_eq!((&state["global_step"], &state["log_history"]), (&json!(0), &json!([])));
    }
}
