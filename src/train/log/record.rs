//! What is recorded of a run: a record an optimizer step, a record an evaluation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One optimizer step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StepRecord {
    /// Optimizer steps made, this one included: from 1.
    pub step: u64,
    /// Passes over the rows so far; the last step of the first pass has 1.0.
    #[serde(with = "number")]
    pub epoch: f64,
    /// Training loss of the step, the mean over its batches.
    #[serde(with = "number")]
    pub loss: f64,
    /// Learning rate that the step was made with.
    #[serde(with = "number")]
    pub learning_rate: f64,
    /// Norm of the gradient before clipping.
    #[serde(with = "number")]
    pub grad_norm: f64,
    /// Tokens that went through the model so far.
    pub tokens: u64,
    /// Seconds in training steps so far, evaluation and saving aside, earlier sessions of a resumed run included.
    #[serde(with = "number")]
    pub seconds: f64,
    /// When the step ended, seconds since 1970; [`RunLog`](super::RunLog) fills it in where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// Further figures by name (parts of the loss, the temperature); names of the fields above are not used again here.
    #[serde(default, with = "numbers", skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, f64>,
}

/// Names of [`StepRecord::curves`] that `extra` cannot take, with those that readers of the logs give a meaning of their own.
const RESERVED: [&str; 6] = ["loss", "learning_rate", "grad_norm", "epoch", "step", "train_runtime"];

impl StepRecord {
    /// The figures that make a curve each, by name: loss, learning rate, gradient norm, epoch, and the further ones.
    pub fn curves(&self) -> Vec<(&str, f64)> {
        let mut out = vec![
            ("loss", self.loss),
            ("learning_rate", self.learning_rate),
            ("grad_norm", self.grad_norm),
            ("epoch", self.epoch),
        ];
        out.extend(self.further());
        out
    }

    /// The further figures, without those whose name is taken.
    pub(super) fn further(&self) -> impl Iterator<Item = (&str, f64)> {
        let free = self.extra.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
        free.map(|(name, value)| (name.as_str(), *value))
    }
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EvalRecord {
    /// Optimizer steps made; 0 is before the first.
    pub step: u64,
    /// Passes over the rows so far.
    #[serde(with = "number")]
    pub epoch: f64,
    /// When the evaluation ended, seconds since 1970; [`RunLog`](super::RunLog) fills it in where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
    /// Metrics by name, such as `loss`, `mrr`.
    #[serde(with = "numbers")]
    pub metrics: BTreeMap<String, f64>,
}

/// All that was recorded of a run, oldest first: kept in a checkpoint, a resumed run's log goes on from it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct History {
    /// Optimizer steps.
    pub steps: Vec<StepRecord>,
    /// Evaluations.
    pub evals: Vec<EvalRecord>,
}

/// A record of either kind; in JSON, its fields and `"type": "step"` or `"type": "eval"`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Record<'a> {
    /// An optimizer step.
    Step(&'a StepRecord),
    /// An evaluation.
    Eval(&'a EvalRecord),
}

impl Record<'_> {
    /// Optimizer steps made when it was recorded, and 0 for a step, 1 for an evaluation: their order in a log.
    pub fn place(&self) -> (u64, u8) {
        match self {
            Self::Step(record) => (record.step, 0),
            Self::Eval(record) => (record.step, 1),
        }
    }
}

impl History {
    /// Steps and evaluations as they happened: an evaluation follows the step after which it was made.
    pub fn records(&self) -> Vec<Record<'_>> {
        let mut out: Vec<Record<'_>> =
            self.steps.iter().map(Record::Step).chain(self.evals.iter().map(Record::Eval)).collect();
        out.sort_by_key(Record::place);
        out
    }

    /// The last step that anything is recorded of.
    pub fn last_step(&self) -> Option<u64> {
        self.steps.iter().map(|s| s.step).chain(self.evals.iter().map(|e| e.step)).max()
    }

    /// Optimizer steps, tokens and seconds so far.
    pub fn progress(&self) -> (u64, u64, f64) {
        self.steps.last().map_or((0, 0, 0.0), |last| (last.step, last.tokens, last.seconds))
    }

    /// Forgets what was recorded after `step`, evaluations at `step` kept.
    pub fn truncate(&mut self, step: u64) {
        self.steps.retain(|record| record.step <= step);
        self.evals.retain(|record| record.step <= step);
    }
}

/// JSON has no NaN and no infinity: both are written as null, and null is read as NaN.
mod number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

/// As [`number`], for the values of a map.
mod numbers {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(values.iter().map(|(name, value)| (name, value.is_finite().then_some(*value))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
        let values = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
        Ok(values.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let step = |step: u64, loss: f64| StepRecord {
            step,
            epoch: step as f64 / 4.0,
            loss,
            learning_rate: 2e-5,
            grad_norm: 1.25,
            tokens: 100 * step,
            seconds: 0.5 * step as f64,
            ..Default::default()
        };
        let eval = |step: u64, loss: f64| EvalRecord {
            step,
            epoch: step as f64 / 4.0,
            time: Some(1.7e9),
            metrics: BTreeMap::from([("loss".into(), loss)]),
        };
        let mut third = step(3, 0.25);
        third.extra = BTreeMap::from([("temperature".into(), 0.05), ("scale".into(), f64::INFINITY)]);
        History { steps: vec![step(1, 1.0), step(2, f64::NAN), third], evals: vec![eval(0, f64::NAN), eval(2, 0.75)] }
    }

    #[test]
    fn what_is_not_finite_stays_valid_json_and_is_read_back() {
        let text = serde_json::to_string(&history()).unwrap();
        assert!(text.contains(r#""loss":null"#) && text.contains(r#""scale":null"#), "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        let read: History = serde_json::from_str(&text).unwrap();
        assert!(read.steps[1].loss.is_nan() && read.evals[0].metrics["loss"].is_nan());
        assert!(read.steps[2].extra["scale"].is_nan());
        assert_eq!(read.steps[0], history().steps[0]);
        assert_eq!(read.evals[1], history().evals[1]);
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }

    #[test]
    fn a_history_that_lacks_a_figure_is_refused_by_name() {
        let error = serde_json::from_str::<History>(r#"{"steps":[{"step":1,"epoch":1.0}],"evals":[]}"#).unwrap_err();
        assert!(error.to_string().contains("loss"), "{error}");
        assert!(serde_json::from_str::<History>(r#"{"steps":[{"step":-1}],"evals":[]}"#).is_err());
    }

    #[test]
    fn records_come_as_they_happened() {
        let history = history();
        let places: Vec<_> = history.records().iter().map(Record::place).collect();
        assert_eq!(places, [(0, 1), (1, 0), (2, 0), (2, 1), (3, 0)]);
        assert_eq!(history.last_step(), Some(3));
        assert_eq!(history.progress(), (3, 300, 1.5));
        assert_eq!(History::default().last_step(), None);
        let mut cut = history.clone();
        cut.truncate(2);
        assert_eq!((cut.steps.len(), cut.evals.len(), cut.last_step()), (2, 2, Some(2)));
        assert_eq!(
            serde_json::to_string(&Record::Eval(&history.evals[1])).unwrap(),
            r#"{"type":"eval","step":2,"epoch":0.5,"time":1700000000.0,"metrics":{"loss":0.75}}"#
        );
    }

    #[test]
    fn a_further_figure_cannot_take_the_name_of_another() {
        let mut record = history().steps.remove(0);
        record.extra = BTreeMap::from([("loss".into(), 9.0), ("temperature".into(), 0.05)]);
        let names: Vec<_> = record.curves().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["loss", "learning_rate", "grad_norm", "epoch", "temperature"]);
        assert_eq!(record.curves()[0].1, 1.0);
    }
}
