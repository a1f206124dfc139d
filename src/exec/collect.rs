//! From the steps' outputs to the record that the report reads, the choice among the variants, and the table of results.

use std::collections::BTreeMap;

use super::steps::{MergeLog, ScoreLog, TrainLog};
use super::{Engine, ExecError};
use crate::config::schema::{Adapter, Base, Dropout, Dtype, LossKind};
use crate::plan::ModelRef;
use crate::store::folder::{read_json, write_json};
use crate::store::record::{Choice, Cost, RunRecord, TaskRecord, Variant, VariantKind};
use crate::store::results;
use crate::store::scoring::rule_score;
use crate::task::spec::Split;

/// Share of texts cut at the limit from which a note is made.
const TRUNCATED_NOTE: f64 = 0.05;

impl Engine<'_> {
    /// Gathers a finished run, and writes `record.json` and `results.parquet`.
    ///
    /// # Errors
    /// Where a step's output cannot be read.
    pub fn collect(&self) -> Result<RunRecord, ExecError> {
        let plan = self.plan;
        let mut notes = Vec::new();
        let mut curves = Vec::new();
        let mut warnings: Vec<(String, Vec<String>)> = Vec::new();
        for (trial, planned) in plan.trials.iter().enumerate() {
            let model = ModelRef::Checkpoint { trial, step: planned.steps };
            let log: TrainLog = read_json(&self.output(&model, "training.json")?)?;
            let (cut, all) = log.truncated;
            if cut as f64 > TRUNCATED_NOTE * all as f64 {
                let share = 100.0 * cut as f64 / all as f64;
                notes.push(format!(
                    "{}: {share:.1} % of the training texts were cut at the length limit",
                    planned.trial.label
                ));
            }
            // Truncation is told above, for runs whose log has no warnings yet, too.
            let cut = |w: &&String| w.contains("of the texts were cut at the length limit");
            for warning in log.warnings.iter().filter(|w| !cut(w)) {
                match warnings.iter_mut().find(|(known, _)| known == warning) {
                    Some((_, trials)) => trials.push(planned.trial.label.clone()),
                    None => warnings.push((warning.clone(), vec![planned.trial.label.clone()])),
                }
            }
            if let (Some(step), Some((metric, value))) = (log.result, &log.best) {
                notes.push(format!(
                    "{}: the checkpoint of step {step} was chosen while training, by {metric} on dev ({value:.4})",
                    planned.trial.label
                ));
            }
            if let Adapter::Qlora { quantization, .. } = &planned.trial.config.adapter {
                notes.push(format!(
                    "{}: scored as trained, on the base in {}; merges put the adapter into the base's own weights",
                    planned.trial.label,
                    format!("{quantization:?}").to_lowercase()
                ));
            }
            curves.push(log.curve);
        }
        for (warning, trials) in warnings {
            let whose = if trials.len() == plan.trials.len() { "All trials".to_string() } else { trials.join(", ") };
            notes.push(format!("{whose}: {warning}"));
        }
        let mut searches = Vec::new();
        let mut alphas = BTreeMap::new();
        for number in 0..plan.merges.len() {
            let log: MergeLog = read_json(&self.output(&ModelRef::Merged(number), "merge.json")?)?;
            alphas.insert(number, log.alpha);
            searches.extend(log.search);
        }
        let mut variants = Vec::new();
        for model in plan.models() {
            let (Some(dev), Some(test)) = (plan.scorer(&model, Split::Dev), plan.scorer(&model, Split::Test)) else {
                continue;
            };
            let read = |id: &str| read_json::<ScoreLog>(&self.folder.step(id).join("scores.json"));
            variants.push(self.variant(&model, &alphas, read(&dev.id)?.tasks, read(&test.id)?.tasks, test.id.clone()));
        }
        for task in &plan.tasks {
            if variants.first().is_some_and(|v: &Variant| !v.dev.iter().any(|t| t.name == task.name)) {
                notes.push(format!(
                    "{} has neither a dev nor a training split: it is reported on test and takes part in no choice",
                    task.name
                ));
            }
        }
        if self.base()?.layout.assumed {
            notes.push("The base folder has no modules.json: mean pooling without normalisation was assumed".into());
        }
        let choice = self.choose(&variants);
        let c = &plan.config;
        let record = RunRecord {
            name: c.name.clone(),
            base: match &c.base {
                Base::Folder(path) => path.file_name().map_or_else(|| "base".into(), |n| n.to_string_lossy().into()),
                Base::Hub { id, .. } => id.clone(),
                Base::Scratch(s) => format!("made from nothing ({} layers of {}, seed {})", s.layers, s.hidden, s.seed),
            },
            settings: self.shared_settings(),
            data: plan.rows.clone(),
            axes: plan.axes.clone(),
            variants,
            curves,
            searches,
            choice,
            unfinished: Vec::new(),
            limit: c.score.limit,
            limits: c.score.limits.clone(),
            protocol: self.protocol().to_string(),
            notes,
        };
        write_json(&self.folder.root().join("record.json"), &record)?;
        results::write(&record, &self.folder.root().join("results.parquet"))?;
        Ok(record)
    }

    fn output(&self, model: &ModelRef, name: &str) -> Result<std::path::PathBuf, ExecError> {
        match self.plan.producer(model) {
            Some(id) => Ok(self.folder.step(id).join(name)),
            None => Err(ExecError::Other(format!("{model:?} has no step that makes it"))),
        }
    }

    fn variant(
        &self,
        model: &ModelRef,
        alphas: &BTreeMap<usize, f64>,
        dev: Vec<TaskRecord>,
        test: Vec<TaskRecord>,
        id: String,
    ) -> Variant {
        let plan = self.plan;
        let label = |trial: usize| plan.trials[trial].trial.label.clone();
        let (kind, settings) = match model {
            ModelRef::Base => (VariantKind::Base, Vec::new()),
            ModelRef::Checkpoint { trial, step } => (
                VariantKind::Trained { trial: label(*trial), step: *step, steps: plan.trials[*trial].steps },
                plan.trials[*trial].trial.axes.clone(),
            ),
            ModelRef::Merged(number) => {
                let merge = &plan.merges[*number];
                let kind = VariantKind::Merged {
                    first: label(merge.pair.0),
                    second: label(merge.pair.1),
                    alpha: alphas.get(number).copied().unwrap_or_default(),
                    auto: merge.alpha.is_none(),
                    layers: None,
                };
                (kind, merge.shared.clone())
            }
        };
        let alpha = if let ModelRef::Merged(number) = model { alphas.get(number).copied() } else { None };
        Variant {
            id,
            label: plan.label(model, alpha),
            kind,
            settings: settings.into_iter().collect(),
            cost: Cost::default(),
            dev,
            test,
        }
    }

    /// The best by the rule, on dev unless the config says otherwise; the first in order on a tie.
    fn choose(&self, variants: &[Variant]) -> Option<Choice> {
        let choose = &self.plan.config.choose;
        let (on, by) = (if choose.on_test { "test" } else { "dev" }, choose.by.name());
        let scored: Vec<(&Variant, f64)> = variants
            .iter()
            .filter_map(|v| Some((v, rule_score(if choose.on_test { &v.test } else { &v.dev }, by)?)))
            .collect();
        let (best, score) = scored.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        let seeds =
            if choose.seeds == 1 { "1 protocol seed".into() } else { format!("{} protocol seeds", choose.seeds) };
        let why = format!("highest {by} on {on} among {} scored models, {seeds} each", scored.len());
        Some(Choice { id: best.id.clone(), on: on.into(), by: by.into(), score, why })
    }

    /// What all trials have in common.
    fn shared_settings(&self) -> BTreeMap<String, String> {
        let c = &self.plan.config;
        let t = &c.train;
        let varied = |key: &str| self.plan.axes.iter().any(|(axis, _)| axis == key);
        let mut all: Vec<(&str, String)> = vec![
            ("train.epochs", t.epochs.to_string()),
            ("train.batch", t.batch.to_string()),
            ("train.accumulate", t.accumulate.to_string()),
            ("train.lr", t.lr.to_string()),
            ("train.schedule", format!("{:?}", t.schedule).to_lowercase()),
            ("train.warmup", t.warmup.to_string()),
            ("train.weight_decay", t.weight_decay.to_string()),
            ("train.seed", t.seed.to_string()),
            ("objective", c.objective.name().to_string()),
            ("loss.temperature", c.loss.temperature.to_string()),
            ("loss.hard_negatives", c.loss.hard_negatives.to_string()),
        ];
        all.extend(later_settings(c));
        if let Some(steps) = t.max_steps {
            all.push(("train.max_steps", steps.to_string()));
        }
        match &c.adapter {
            Adapter::Full => all.push(("adapter.kind", "full".into())),
            Adapter::Lora(lora) | Adapter::Qlora { lora, .. } => all.extend([
                ("adapter.kind", if matches!(c.adapter, Adapter::Lora(_)) { "lora" } else { "qlora" }.to_string()),
                ("adapter.rank", lora.rank.to_string()),
                // Without a value of its own it follows the rank.
                (
                    "adapter.alpha",
                    if varied("adapter.rank") && lora.alpha == 2.0 * lora.rank as f64 {
                        "2 rank".into()
                    } else {
                        lora.alpha.to_string()
                    },
                ),
                ("adapter.dropout", lora.dropout.to_string()),
                ("adapter.targets", lora.targets.join(", ")),
            ]),
        }
        all.into_iter().filter(|(key, _)| !varied(key)).map(|(k, v)| (k.to_string(), v)).collect()
    }
}

/// Settings that are told where they are not what most runs have.
fn later_settings(c: &crate::config::Config) -> Vec<(&'static str, String)> {
    let t = &c.train;
    let usual = |yes: bool, key: &'static str, value: String| (!yes).then_some((key, value));
    [
        usual(c.loss.kind == LossKind::default(), "loss.name", c.loss.kind.name().into()),
        c.loss.group_size.map(|size| ("loss.group_size", size.to_string())),
        c.loss.memory.map(|m| ("loss.memory", format!("{} pairs, after {} batches", m.size, m.warmup))),
        c.loss.matryoshka.as_ref().map(|m| ("loss.matryoshka", format!("{:?}", m.dims))),
        match t.dropout {
            Dropout::Config => Some(("train.dropout", "config".to_string())),
            Dropout::Rate(rate) => usual(rate == 0.0, "train.dropout", rate.to_string()),
        },
        usual(t.layer_decay == 1.0, "train.layer_decay", t.layer_decay.to_string()),
        t.ema.map(|decay| ("train.ema", decay.to_string())),
        t.grad_cache.map(|chunk| ("train.grad_cache", chunk.to_string())),
        usual(!t.checkpointing, "train.checkpointing", "true".into()),
        t.patience.map(|patience| ("train.patience", patience.to_string())),
        usual(c.run.dtype == Dtype::F32, "run.dtype", "bf16".into()),
    ]
    .into_iter()
    .flatten()
    .collect()
}
