//! From the steps' outputs to the record that the report reads, the choice among the variants, and the table of results.

use std::collections::BTreeMap;

use super::merging::MergeLog;
use super::steps::{ScoreLog, TrainLog};
use super::{Engine, ExecError, cost, prune};
use crate::config::Trial;
use crate::config::schema::{Adapter, Base, Dropout, Dtype, LossKind, Select};
use crate::plan::{Method, ModelRef};
use crate::store::choice::{self, Rule};
use crate::store::folder::{StepState, read_json, write_json};
use crate::store::record::{Choice, Cost, Published, RunRecord, TaskRecord, Unfinished, Variant, VariantKind};
use crate::store::{mteb, results};
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
        let mut unfinished_trials: Vec<Unfinished> = Vec::new();
        let mut costs: BTreeMap<usize, TrainLog> = BTreeMap::new();
        let mut warnings: Vec<(String, Vec<String>)> = Vec::new();
        for (trial, planned) in plan.trials.iter().enumerate() {
            let model = ModelRef::Checkpoint { trial, step: planned.steps };
            if let Some(unfinished) = self.unfinished(&model, &planned.trial) {
                unfinished_trials.push(unfinished);
                continue;
            }
            let log: TrainLog = read_json(&self.output(&model, "training.json")?)?;
            costs.insert(trial, log.clone());
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
        let mut merges = BTreeMap::new();
        for number in 0..plan.merges.len() {
            if !self.is_made(&ModelRef::Merged(number)) {
                continue;
            }
            let log: MergeLog = read_json(&self.output(&ModelRef::Merged(number), "merge.json")?)?;
            searches.extend(log.search.clone());
            merges.insert(number, log);
        }
        let mut variants = Vec::new();
        for model in plan.models() {
            let Some(test) = plan.scorer(&model, Split::Test) else { continue };
            let dev = plan.scorer(&model, Split::Dev);
            if !self.is_made(&model) || !dev.iter().chain([&test]).all(|step| self.folder.is_complete(&step.id)) {
                continue;
            }
            let read = |id: &str| read_json::<ScoreLog>(&self.folder.step(id).join("scores.json")).map(|log| log.tasks);
            let on_dev = dev.map(|step| read(&step.id)).transpose()?.unwrap_or_default();
            let mut variant = self.variant(&model, &merges, on_dev, read(&test.id)?, test.id.clone());
            variant.cost = self.cost(&model, &costs)?;
            variants.push(variant);
        }
        for task in plan.tasks.iter().filter(|_| plan.sides().contains(&Split::Dev)) {
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
            unfinished: unfinished_trials,
            limit: c.score.limit,
            limits: c.score.limits.clone(),
            protocol: self.protocol().to_string(),
            published: self.published()?,
            notes,
        };
        write_json(&self.folder.root().join("record.json"), &record)?;
        results::write(&record, &self.folder.root().join("results.parquet"))?;
        Ok(record)
    }

    /// The published results that the config names, as far as they are over tasks of this run.
    fn published(&self) -> Result<Vec<Published>, ExecError> {
        let task = |name: &str| self.plan.tasks.iter().find(|task| task.name == name);
        let expected = |name: &str| {
            let task = task(name)?;
            Some(task.splits.test.iter().map(|split| (split.clone(), task.subset.clone())).collect())
        };
        let mut published: Vec<Published> = Vec::new();
        for folder in &self.plan.config.score.published {
            for mut results in mteb::read(folder, &expected)? {
                results.tasks.retain(|name, _| task(name).is_some());
                let mut name = results.model.name;
                if published.iter().any(|other| other.name == name) {
                    let short: String = results.model.revision.chars().take(8).collect();
                    name = format!("{name} {short}");
                }
                if !results.tasks.is_empty() {
                    published.push(Published { name, scores: results.tasks });
                }
            }
        }
        Ok(published)
    }

    /// Whether a model is there: the base as a folder always is.
    fn is_made(&self, model: &ModelRef) -> bool {
        self.plan.producer(model).is_none_or(|id| self.folder.is_complete(id))
    }

    /// What became of a trial whose training is not complete.
    fn unfinished(&self, model: &ModelRef, trial: &Trial) -> Option<Unfinished> {
        let id = self.plan.producer(model)?;
        let (state, reason) = match self.folder.state(id) {
            StepState::Complete => return None,
            StepState::Pruned(why) => ("pruned", why),
            StepState::Failed(why) => ("failed", why),
            StepState::Open => ("failed", "what it needs could not be made".to_string()),
        };
        let last = prune::read(&self.folder.step(id)).last().copied();
        Some(Unfinished {
            label: trial.label.clone(),
            settings: trial.axes.iter().cloned().collect(),
            state: state.into(),
            step: last.map(|r| r.step),
            score: last.map(|r| r.score),
            reason,
        })
    }

    /// What a model took.
    fn cost(&self, model: &ModelRef, logs: &BTreeMap<usize, TrainLog>) -> Result<Cost, ExecError> {
        let of = |trial: usize, step: usize| match logs.get(&trial) {
            Some(log) => self.training_cost(trial, log, step),
            None => self.base_cost(),
        };
        match model {
            ModelRef::Base => self.base_cost(),
            ModelRef::Checkpoint { trial, step } => of(*trial, *step),
            ModelRef::Merged(number) => {
                let mut parts = Vec::new();
                for trial in self.plan.merges[*number].trials() {
                    parts.push(of(trial, self.plan.trials[trial].steps)?);
                }
                Ok(Cost { parameters: self.base_cost()?.parameters, ..cost::sum(&parts) })
            }
        }
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
        merges: &BTreeMap<usize, MergeLog>,
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
                let name = |at: usize| merge.models.get(at).map_or("", |&model| plan.part_label(model)).to_string();
                let kind = match &merge.method {
                    Method::Slerp { .. } => VariantKind::Merged {
                        first: name(0),
                        second: name(1),
                        alpha: merges.get(number).map_or(0.0, |log| log.alpha),
                        auto: merge.is_searched(),
                        layers: merges.get(number).and_then(|log| log.layers.clone()),
                    },
                    Method::Linear { weights, .. } => VariantKind::Averaged {
                        models: (0..merge.models.len()).map(name).collect(),
                        weights: weights.clone(),
                    },
                };
                (kind, merge.shared.clone())
            }
        };
        let alpha = if let ModelRef::Merged(number) = model { merges.get(number).map(MergeLog::shown) } else { None };
        Variant {
            id,
            label: plan.label(model, alpha.as_deref()),
            kind,
            settings: settings.into_iter().collect(),
            cost: Cost::default(),
            dev,
            test,
        }
    }

    /// The choice that the config asks for.
    fn choose(&self, variants: &[Variant]) -> Option<Choice> {
        if self.plan.trials.is_empty() {
            return None;
        }
        let choose = &self.plan.config.choose;
        let rule = Rule {
            on_test: choose.on_test,
            by: choose.by.name(),
            one_standard_error: choose.select == Select::OneStandardError,
            seeds: choose.seeds,
        };
        choice::choose(variants, &rule)
    }

    /// What all trials have in common.
    fn shared_settings(&self) -> BTreeMap<String, String> {
        if self.plan.trials.is_empty() {
            return BTreeMap::new();
        }
        let c = &self.plan.config;
        let t = &c.train;
        // Named trials have no axes, but settings of their own.
        let of_trials =
            |key: &str| self.plan.trials.iter().any(|plan| plan.trial.axes.iter().any(|(own, _)| own == key));
        let varied = |key: &str| self.plan.axes.iter().any(|(axis, _)| axis == key) || of_trials(key);
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
                (
                    "adapter.targets",
                    if lora.targets.is_empty() { "the architecture's own".into() } else { lora.targets.join(", ") },
                ),
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
        match c.run.dtype {
            Dtype::Auto => None,
            Dtype::F32 => Some(("run.dtype", "f32".to_string())),
            Dtype::Bf16 => Some(("run.dtype", "bf16".to_string())),
        },
    ]
    .into_iter()
    .flatten()
    .collect()
}
