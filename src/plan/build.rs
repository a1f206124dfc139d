//! Steps and their ids, out of trials and merges.
//!
//! Settings at their defaults are left out of what is hashed where they came later than the first runs, so that those are found
//! again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::identity::{canonical_text, folder_fingerprint, step_id, step_id_of};
use super::merges::{AlphaPlan, MergePlan, Method, ModelIndex, label_of};
use super::{ModelRef, PlanError, Step, TrialPlan, Work};
use crate::config::Config;
use crate::config::schema::{Adapter, Base, Data, Dtype, LossKind, Objective, Score, SlerpMode, TrainSet};
use crate::data::rows;
use crate::task::spec::{Source, Split, TaskSpec};

/// Settings by key, their values canonical.
type Parts = Vec<(&'static str, String)>;

/// Builds the steps of a plan.
pub(super) struct Builder {
    pub steps: Vec<Step>,
    /// Identity of the base.
    pub base: String,
    /// Id of the step that makes each trial.
    pub trained: Vec<String>,
    /// Id of the step that makes each merge.
    pub merged: Vec<String>,
    /// By step, the trials that it is for.
    pub trials_of: Vec<Vec<usize>>,
    /// Step of an id.
    pub index: HashMap<String, usize>,
    /// Scoring steps, by model: on dev, if anything is chosen, and on test.
    pub scorers: HashMap<ModelRef, [Option<usize>; 2]>,
    /// Training files that are not there, of a sketch; else none is looked for.
    pub absent: Option<BTreeSet<PathBuf>>,
    prints: BTreeMap<PathBuf, String>,
    folders: BTreeMap<PathBuf, String>,
    tasks: BTreeMap<&'static str, Value>,
    data: HashMap<String, Parts>,
}

impl Builder {
    pub fn empty(base: String) -> Self {
        Self {
            steps: Vec::new(),
            base,
            trained: Vec::new(),
            merged: Vec::new(),
            trials_of: Vec::new(),
            index: HashMap::new(),
            scorers: HashMap::new(),
            absent: None,
            prints: BTreeMap::new(),
            folders: BTreeMap::new(),
            tasks: BTreeMap::new(),
            data: HashMap::new(),
        }
    }

    pub fn new(config: &Config, tasks: &[TaskSpec], sketch: bool) -> Result<Self, PlanError> {
        let mut builder = Self::empty(String::new());
        builder.absent = sketch.then(BTreeSet::new);
        match &config.base {
            Base::Folder(path) => builder.base = folder_fingerprint(path)?,
            // Not fetched: a plan that is only shown.
            Base::Hub { id, folder: None } => builder.base = step_id("hub", 1, &json!({"id": id})),
            // The id counts beside the content: prompts may be registered for it.
            Base::Hub { id, folder: Some(path) } => {
                builder.base = step_id("hub", 1, &json!({"id": id, "content": folder_fingerprint(path)?}));
            }
            Base::Scratch(scratch) => {
                let data = builder.sets(&config.data.train)?;
                builder.base = step_id("base", 1, &json!({"scratch": scratch, "data": data}));
                builder.add(Step {
                    id: builder.base.clone(),
                    title: "make the base from nothing".into(),
                    work: Work::Base,
                    inputs: Vec::new(),
                });
            }
        }
        for split in [Split::Dev, Split::Test] {
            let mut all = Vec::new();
            for task in tasks {
                all.push(builder.task(task)?);
            }
            builder.tasks.insert(split.name(), json!(all));
        }
        Ok(builder)
    }

    /// Adds a step, unless there is one of its id; gives its position.
    fn add(&mut self, step: Step) -> usize {
        if let Some(&known) = self.index.get(&step.id) {
            return known;
        }
        let number = self.steps.len();
        self.index.insert(step.id.clone(), number);
        self.steps.push(step);
        self.trials_of.push(Vec::new());
        number
    }

    fn belongs(&mut self, step: usize, trials: impl IntoIterator<Item = usize>) {
        let Some(known) = self.trials_of.get_mut(step) else { return };
        for trial in trials {
            // They come in order but for merges, which have few.
            if known.last() != Some(&trial) && (known.last() < Some(&trial) || !known.contains(&trial)) {
                known.push(trial);
            }
        }
    }

    fn print(&mut self, path: &Path) -> Result<String, PlanError> {
        if let Some(print) = self.prints.get(path) {
            return Ok(print.clone());
        }
        let print = rows::fingerprint(path)?;
        self.prints.insert(path.into(), print.clone());
        Ok(print)
    }

    fn sets(&mut self, sets: &[TrainSet]) -> Result<Value, PlanError> {
        let mut out = Vec::new();
        for set in sets {
            let print = match &mut self.absent {
                Some(absent) if is_absent(&set.path) => {
                    absent.insert(set.path.clone());
                    "absent".to_string()
                }
                _ => self.print(&set.path)?,
            };
            let mut entry = json!({"data": print, "weight": set.weight, "limit": set.limit});
            if set.prompts != (None, None) {
                entry["prompts"] = json!(set.prompts);
            }
            if !set.columns.is_empty() {
                entry["columns"] = json!(set.columns);
            }
            out.push(entry);
        }
        Ok(json!(out))
    }

    /// Identity of a task: its file and its data.
    pub fn task(&mut self, task: &TaskSpec) -> Result<Value, PlanError> {
        let mut files = Vec::new();
        if let Source::Hub { repo, revision: None, .. } = &task.source {
            return Err(PlanError::Config(format!(
                "{}: data.revision is missing: a sweep keeps its scores, so the data ({repo}) must not move under them",
                task.path.display()
            )));
        }
        if let Source::Files(map) = &task.source {
            for (split, path) in map {
                files.push(json!([split, self.print(path)?]));
            }
        }
        Ok(json!({"spec": task.fingerprint, "files": files}))
    }

    /// What of a training's identity comes from its data; trials share it.
    fn data(&mut self, data: &Data) -> Result<Parts, PlanError> {
        let value = json!(data);
        let key = value.to_string();
        if let Some(parts) = self.data.get(&key) {
            return Ok(parts.clone());
        }
        let mut parts: Parts = vec![
            ("train_data", canonical_text(&self.sets(&data.train)?)),
            ("dev_data", canonical_text(&self.sets(&data.dev)?)),
            ("prompts", canonical_text(&data.prompts)),
        ];
        for key in ["dev_share", "mixing", "one_set_per_batch", "no_duplicates", "drop_last"] {
            parts.extend(value.get(key).map(|value| (key, canonical_text(value))));
        }
        if data.train.iter().any(|set| set.weight != 1.0) {
            parts.push(("sampling", "2".into()));
        }
        self.data.insert(key, parts.clone());
        Ok(parts)
    }

    /// Identity of a training run.
    pub fn training(&mut self, c: &Config) -> Result<String, PlanError> {
        let mut parts = self.data(&c.data)?;
        parts.extend([
            ("base", canonical_text(&self.base)),
            ("objective", canonical_text(&c.objective)),
            ("loss", canonical_text(&c.loss)),
            ("adapter", canonical_text(&c.adapter)),
            ("train", canonical_text(&c.train)),
        ]);
        if c.objective == Objective::Tsdae {
            parts.push(("tsdae", canonical_text(&c.tsdae)));
        }
        if c.run.dtype != Dtype::Auto {
            parts.push(("dtype", canonical_text(&c.run.dtype)));
        }
        if let LossKind::Gist { folder: Some(folder), .. } = &c.loss.kind {
            if !self.folders.contains_key(folder) {
                self.folders.insert(folder.clone(), folder_fingerprint(folder)?);
            }
            parts.push(("guide", canonical_text(&self.folders.get(folder))));
        }
        let parts: Vec<(&str, &str)> = parts.iter().map(|(key, value)| (*key, value.as_str())).collect();
        // 2: positives that were not drawn are no negatives, and rows' own prompts and types count.
        Ok(step_id_of("train", 2, &parts))
    }

    pub fn add_trials(&mut self, trials: &[TrialPlan]) -> Result<(), PlanError> {
        for (number, plan) in trials.iter().enumerate() {
            let c = &plan.trial.config;
            let id = self.training(c)?;
            let kind = match &c.adapter {
                Adapter::Full => "full".to_string(),
                Adapter::Lora(lora) => format!("LoRA r{}", lora.rank),
                Adapter::Qlora { lora, .. } => format!("QLoRA r{}", lora.rank),
            };
            let title = match plan.steps {
                0 => format!("train {} ({kind})", plan.trial.label),
                steps => format!("train {} ({kind}, {steps} steps)", plan.trial.label),
            };
            let inputs = self.base_input();
            let step = self.add(Step { id: id.clone(), title, work: Work::Train { trial: number }, inputs });
            self.belongs(step, [number]);
            self.trained.push(id);
        }
        Ok(())
    }

    /// The step that makes the base, where there is one.
    pub fn base_input(&self) -> Vec<String> {
        match self.steps.first() {
            Some(step) if step.work == Work::Base => vec![step.id.clone()],
            _ => Vec::new(),
        }
    }

    pub fn add_merges(&mut self, config: &Config, merges: &[MergePlan], trials: &[TrialPlan]) {
        let search = self.search_settings(config);
        for (number, plan) in merges.iter().enumerate() {
            let (mut models, mut inputs) = (Vec::new(), Vec::new());
            for model in &plan.models {
                match model {
                    ModelIndex::Base => {
                        models.push("base".to_string());
                        inputs.extend(self.base_input());
                    }
                    ModelIndex::Trial(trial) => {
                        let id = self.trained.get(*trial).cloned().unwrap_or_default();
                        models.push(id.clone());
                        inputs.push(id);
                    }
                }
            }
            let labels: Vec<&str> = plan.models.iter().map(|&model| label_of(trials, model)).collect();
            let settings = match &plan.method {
                Method::Slerp { mode, alpha } => self.slerp_settings(&models, *mode, alpha, &search),
                Method::Linear { weights, .. } => json!({"mean": models, "weights": weights, "base": self.base}),
            };
            let id = step_id("merge", 1, &settings);
            let title = match &plan.method {
                Method::Slerp { alpha, .. } => {
                    let alpha = match alpha {
                        AlphaPlan::Given(values) => format!(" at α = {}", shown_alpha(values, |v| v.to_string())),
                        AlphaPlan::Search { ends: false, .. } => ", searching for α".into(),
                        AlphaPlan::Search { ends: true, .. } => {
                            ", searching for α of the first layer and the last".into()
                        }
                    };
                    format!("merge {}{alpha}", labels.join(" with "))
                }
                Method::Linear { .. } => format!("average {}", few(&labels)),
            };
            let step = self.add(Step { id: id.clone(), title, work: Work::Merge { merge: number }, inputs });
            self.belongs(step, plan.trials());
            self.merged.push(id);
        }
    }

    /// What decides the result of a search, beside the models and the limits of the search itself.
    fn search_settings(&self, config: &Config) -> Value {
        let mut settings = json!({"choose": config.choose, "limit": config.score.limit, "tasks": self.tasks});
        for (key, value) in scoring(&config.score) {
            settings[key] = value;
        }
        settings
    }

    fn slerp_settings(&self, models: &[String], mode: SlerpMode, alpha: &AlphaPlan, search: &Value) -> Value {
        let mut settings = json!({"pair": models, "mode": mode, "base": self.base, "alpha": null});
        match alpha {
            AlphaPlan::Given(values) => match values.as_slice() {
                [one] => settings["alpha"] = json!(one),
                values => settings["layers"] = json!(values),
            },
            AlphaPlan::Search { ends, tolerance, budget } => {
                settings["search"] = search.clone();
                settings["search"]["tolerance"] = json!(tolerance);
                settings["search"]["budget"] = json!(budget);
                if *ends {
                    settings["search"]["ends"] = json!(true);
                }
            }
        }
        settings
    }

    pub fn add_scores(&mut self, config: &Config, trials: &[TrialPlan], merges: usize) {
        let sides = [(Split::Dev, config.choose.seeds), (Split::Test, config.score.seeds)].map(|(split, seeds)| {
            let mut parts: Parts = vec![
                ("split", canonical_text(&split.name())),
                ("tasks", canonical_text(&self.tasks.get(split.name()))),
                ("limit", canonical_text(&config.score.limit)),
                ("seeds", canonical_text(&seeds)),
            ];
            parts.extend(scoring(&config.score).into_iter().map(|(key, value)| (key, canonical_text(&value))));
            (!trials.is_empty() || split == Split::Test).then_some((split, parts))
        });
        let base = Scored {
            model: ModelRef::Base,
            identity: self.base.clone(),
            title: "base".into(),
            inputs: self.base_input(),
            trials: Vec::new(),
        };
        self.add_score(&sides, base);
        for (trial, plan) in trials.iter().enumerate() {
            let Some(trained) = self.trained.get(trial).cloned() else { continue };
            for &step in &plan.checkpoints {
                if step == plan.steps || config.score.all_checkpoints {
                    let scored = Scored {
                        model: ModelRef::Checkpoint { trial, step },
                        identity: format!("{trained}#{step}"),
                        title: plan.label_at(step),
                        inputs: vec![trained.clone()],
                        trials: vec![trial],
                    };
                    self.add_score(&sides, scored);
                }
            }
        }
        for number in 0..merges {
            let Some(merged) = self.merged.get(number).cloned() else { continue };
            let trials =
                self.index.get(&merged).and_then(|&step| self.trials_of.get(step)).cloned().unwrap_or_default();
            let scored = Scored {
                model: ModelRef::Merged(number),
                identity: merged.clone(),
                title: format!("merge {}", number + 1),
                inputs: vec![merged],
                trials,
            };
            self.add_score(&sides, scored);
        }
    }

    fn add_score(&mut self, sides: &[Option<(Split, Parts)>; 2], scored: Scored) {
        let model = canonical_text(&scored.identity);
        let steps = sides.each_ref().map(|side| {
            let (split, parts) = side.as_ref()?;
            let mut all: Vec<(&str, &str)> = parts.iter().map(|(key, value)| (*key, value.as_str())).collect();
            all.push(("model", &model));
            let step = self.add(Step {
                id: step_id_of("score", 1, &all),
                title: format!("score {} on {}", scored.title, split.name()),
                work: Work::Score { model: scored.model.clone(), split: split.name() },
                inputs: scored.inputs.clone(),
            });
            self.belongs(step, scored.trials.iter().copied());
            Some(step)
        });
        self.scorers.insert(scored.model, steps);
    }
}

/// Whether there is no file at a path, nor anything else.
pub(super) fn is_absent(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// A model that is scored on both sides.
struct Scored {
    model: ModelRef,
    identity: String,
    title: String,
    inputs: Vec<String>,
    trials: Vec<usize>,
}

/// What of the scoring settings tells one step from another, beside those that always do.
fn scoring(score: &Score) -> Vec<(&'static str, Value)> {
    let mut settings = Vec::new();
    if !score.limits.is_empty() {
        settings.push(("limits", json!(score.limits)));
    }
    if score.protocol != "sklearn-1.9" {
        settings.push(("protocol", json!(score.protocol)));
    }
    settings
}

/// α as it is shown: one value, or those along the depth.
pub(super) fn shown_alpha(values: &[f64], shown: impl Fn(f64) -> String) -> String {
    values.iter().map(|&value| shown(value)).collect::<Vec<_>>().join("→")
}

/// Names in a row, where they are few.
fn few(labels: &[&str]) -> String {
    match labels {
        [first, .., last] if labels.len() > 4 => format!("{first} … {last} ({} models)", labels.len()),
        _ => labels.join(", "),
    }
}
