//! The models that a run keeps on the disk, who still needs them, and how they are let go of.
//!
//! A checkpoint or merged model can be removed while its step stays complete: its scores are in other steps. A marker in the
//! step's folder, `removed.json`, names what was removed on purpose, so that it is not taken for damage; a step that is to
//! read such a model makes its producer a step to be done again.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::disk::{checkpoint_step, size};
use super::folder::{RunFolder, StoreError, read_json, write_json};
use super::survey::{Kind, Rule, State, Step, Survey};

/// The marker's name in a step's folder.
pub const REMOVED: &str = "removed.json";

/// What was removed from a step's folder on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Removed {
    /// Names of folders in the step's: `checkpoint-000150`, `model`.
    pub models: Vec<String>,
    /// What they were removed for, in a word or two, the latest.
    #[serde(default)]
    pub by: String,
}

/// A model on the disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// The step whose folder it is in.
    pub step: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its name in tables.
    pub label: String,
    /// Bytes.
    pub bytes: u64,
    /// Optimizer step, of a checkpoint.
    pub checkpoint: Option<usize>,
    /// Whether it is a training's result, and not a checkpoint on the way; a merged model is.
    pub is_final: bool,
    /// Whether a merge of the plan is made of it.
    pub merged_from: bool,
    /// Its score on the side that choices are made on.
    pub score: Option<f64>,
    /// Why it must stay: a step that is not done, or the choice.
    pub needed: Option<String>,
}

/// The models that trainings and merges of a run have left.
pub fn models(survey: &Survey, rule: &Rule) -> Vec<Model> {
    let links = Links::new(survey);
    let mut out = Vec::new();
    for step in &survey.steps {
        match step.kind {
            Kind::Train => out.extend(checkpoints(&links, step, rule)),
            Kind::Merge => out.extend(merged(&links, step, rule)),
            Kind::Base | Kind::Score | Kind::Other => {}
        }
    }
    let chosen = links.chosen(rule);
    for model in &mut out {
        if model.needed.is_none() && chosen.as_ref().is_some_and(|folder| *folder == model.folder) {
            model.needed = Some("it is the choice".into());
        }
    }
    out
}

/// Which steps read which models.
struct Links<'a> {
    survey: &'a Survey,
    /// Training → its last planned step, and the step of the checkpoint that is its result.
    results: BTreeMap<&'a str, (usize, usize)>,
    /// Model folder → the steps that score it.
    scorers: BTreeMap<PathBuf, Vec<&'a Step>>,
    /// Step → the merges that are made of it.
    merges: BTreeMap<&'a str, Vec<&'a Step>>,
}

impl<'a> Links<'a> {
    fn new(survey: &'a Survey) -> Self {
        #[derive(Deserialize)]
        struct Final {
            step: usize,
        }
        let mut results: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for scored in survey.steps.iter().filter_map(|step| step.scored.as_ref()) {
            if let (Some(train), Some(at)) = (&scored.producer, scored.checkpoint) {
                let last = &mut results.entry(train).or_default().0;
                *last = at.max(*last);
            }
        }
        for (train, (last, result)) in &mut results {
            let found = read_json::<Final>(&survey.folder(train).join("final.json"));
            *result = found.map_or(*last, |found| found.step);
        }
        let mut links = Self { survey, results, scorers: BTreeMap::new(), merges: BTreeMap::new() };
        for step in &survey.steps {
            if let Some(folder) = links.folder_of(step) {
                links.scorers.entry(folder).or_default().push(step);
            }
            for input in step.inputs.iter().filter(|_| step.kind == Kind::Merge) {
                links.merges.entry(input).or_default().push(step);
            }
        }
        links
    }

    /// The folder of the model that a step scores; none of a base that is no step's.
    fn folder_of(&self, scoring: &Step) -> Option<PathBuf> {
        let scored = scoring.scored.as_ref()?;
        let train = scored.producer.as_deref()?;
        let folder = self.survey.folder(train);
        let Some(at) = scored.checkpoint else { return Some(folder.join("model")) };
        let result = self.results.get(train).filter(|(last, _)| *last == at).map_or(at, |(_, result)| *result);
        Some(folder.join(format!("checkpoint-{result:06}")))
    }

    /// The model of the record's choice; of a run without one, the best so far.
    fn chosen(&self, rule: &Rule) -> Option<PathBuf> {
        let recorded = self.survey.record().and_then(|record| record.choice).map(|choice| choice.id);
        let known = recorded.filter(|id| self.survey.step(id).is_some());
        let id = known.or_else(|| self.survey.best(rule).map(|best| best.id))?;
        self.folder_of(self.survey.step(&id)?)
    }

    fn merges_of(&self, id: &str) -> &[&'a Step] {
        self.merges.get(id).map_or(&[], Vec::as_slice)
    }

    /// A model as its scoring steps describe it.
    fn model(&self, step: &Step, folder: PathBuf, rule: &Rule) -> Model {
        let scorers = self.scorers.get(&folder).map_or(&[][..], Vec::as_slice);
        let on_side = |s: &&&Step| s.scored.as_ref().is_some_and(|scored| scored.split == rule.on);
        let waiting = scorers.iter().find(|s| !s.state.is_over());
        Model {
            step: step.id.clone(),
            label: scorers.first().map_or_else(|| step.title.clone(), |s| s.label().to_string()),
            bytes: size(&folder),
            checkpoint: None,
            is_final: true,
            merged_from: !self.merges_of(&step.id).is_empty(),
            score: scorers.iter().find(on_side).and_then(|s| self.survey.score(s, &rule.by)),
            needed: waiting.map(|s| format!("`{}` is not done", s.title)),
            folder,
        }
    }
}

fn checkpoints(links: &Links<'_>, step: &Step, rule: &Rule) -> Vec<Model> {
    let mut found: Vec<(usize, PathBuf)> = Vec::new();
    for entry in fs::read_dir(links.survey.folder(&step.id)).into_iter().flatten().flatten() {
        let at = entry.file_name().to_str().and_then(checkpoint_step);
        found.extend(at.filter(|_| entry.file_type().is_ok_and(|t| t.is_dir())).map(|at| (at, entry.path())));
    }
    found.sort();
    // A training that nothing scores has its last checkpoint as its result.
    let known = links.results.get(step.id.as_str()).map(|(_, result)| *result);
    let result = known.or_else(|| found.last().map(|(at, _)| *at));
    let awaited = links.merges_of(&step.id).iter().find(|merge| !merge.state.is_over());
    let title = step.title.strip_prefix("train ").unwrap_or(&step.title);
    let title = title.rsplit_once(" (").map_or(title, |(label, _)| label);
    let mut out = Vec::new();
    for (at, folder) in found {
        let mut model = links.model(step, folder, rule);
        model.checkpoint = Some(at);
        model.is_final = Some(at) == result;
        model.merged_from &= model.is_final;
        if let Some(merge) = awaited.filter(|_| model.is_final) {
            model.needed = Some(format!("`{}` is not done", merge.title));
        }
        if !step.state.is_over() {
            model.needed = Some("its training is not done".into());
        }
        if model.label == step.title {
            model.label = format!("{title} @{at}");
        }
        out.push(model);
    }
    out
}

fn merged(links: &Links<'_>, step: &Step, rule: &Rule) -> Option<Model> {
    let folder = links.survey.folder(&step.id).join("model");
    if !folder.is_dir() {
        return None;
    }
    let mut model = links.model(step, folder, rule);
    if !matches!(step.state, State::Complete(_)) {
        model.needed = Some("its merge is not done".into());
    }
    Some(model)
}

/// What was removed on purpose from a step's folder; empty where nothing was.
pub fn removed(run: &RunFolder, id: &str) -> Removed {
    read_json(&run.step(id).join(REMOVED)).unwrap_or_default()
}

/// Removes models. The marker is written first: a process killed between the two leaves what is known to be removable.
/// Gives the bytes that were freed.
///
/// # Errors
/// The operating system's.
pub fn remove(run: &RunFolder, models: &[Model], by: &str) -> Result<u64, StoreError> {
    let mut freed = 0;
    for model in models {
        let Some(name) = model.folder.file_name().map(|n| n.to_string_lossy().into_owned()) else { continue };
        let mut marker = removed(run, &model.step);
        marker.by = by.into();
        if !marker.models.contains(&name) {
            marker.models.push(name);
            marker.models.sort();
        }
        write_json(&run.step(&model.step).join(REMOVED), &marker)?;
        match fs::remove_dir_all(&model.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io { path: model.folder.clone(), source: e });
            }
            _ => freed += model.bytes,
        }
    }
    Ok(freed)
}

/// Forgets what was removed from a step's folder: it was made again.
///
/// # Errors
/// The operating system's.
pub fn made_again(run: &RunFolder, id: &str) -> Result<(), StoreError> {
    let path = run.step(id).join(REMOVED);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::Io { path, source: e }),
        _ => Ok(()),
    }
}

/// Whether the step is to be done again for a model of this name in its folder: it was removed on purpose, and is not there.
pub fn is_removed(run: &RunFolder, id: &str, name: &str) -> bool {
    removed(run, id).models.iter().any(|known| known == name) && !run.step(id).join(name).exists()
}
