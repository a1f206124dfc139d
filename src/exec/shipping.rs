//! The chosen model as a folder of its own: `best/` of the run, ready for sentence-transformers.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Engine, ExecError, settings};
use crate::adapter::peft;
use crate::config::Config;
use crate::config::schema::{Adapter, Base};
use crate::data::atomic;
use crate::model::{ModelError, prompts};
use crate::plan::ModelRef;
use crate::store::best;
use crate::store::folder::{StoreError, read_json};
use crate::store::model_card::{BaseFacts, Card, ModelFacts, Shipped, TaskFacts};
use crate::store::models::is_removed;
use crate::store::record::RunRecord;
use crate::task::spec::{Source, Split};
use crate::train::checkpoint;

/// Puts the chosen model into `best/`: a whole model is copied, an adapter is merged into the base's own weights and stands
/// beside them in `adapter/`, a chosen base is written as it was read. Nothing is touched where it is there already. Gives the
/// folder; none where nothing was chosen.
///
/// # Errors
/// Where the chosen model was removed, cannot be read or merged, or the folder cannot be written.
pub fn ship(engine: &Engine<'_>, record: &RunRecord) -> Result<Option<PathBuf>, ExecError> {
    let Some(choice) = &record.choice else { return Ok(None) };
    let plan = engine.plan;
    let is_it = |model: &ModelRef| plan.scorer(model, Split::Test).is_some_and(|step| step.id == choice.id);
    let chosen = plan.models().into_iter().find(is_it);
    let variant = record.variants.iter().find(|variant| variant.id == choice.id);
    let (Some(model), Some(variant)) = (chosen, variant) else {
        return Err(ExecError::Other(format!("the chosen model ({}) is none of the plan's", choice.id)));
    };
    let source = Chosen::find(engine, &model)?;
    let card = card(engine, record, &model, source.shipped(), variant)?.text();
    let root = engine.folder.root();
    if best::is_current(root, &variant.id, &card) {
        return Ok(Some(root.join(best::FOLDER)));
    }
    best::replace(root, &variant.id, &variant.label, |draft| source.write(engine, draft, &card)).map(Some)
}

/// Where the chosen model is.
enum Chosen {
    Base,
    Whole(PathBuf),
    Adapter { folder: PathBuf, quantized: Option<String> },
}

impl Chosen {
    fn find(engine: &Engine<'_>, model: &ModelRef) -> Result<Self, ExecError> {
        let (id, name) = match (model, engine.plan.producer(model)) {
            (ModelRef::Base, _) => return Ok(Self::Base),
            (ModelRef::Merged(_), Some(id)) => (id, "model".to_string()),
            (ModelRef::Checkpoint { trial, step }, Some(id)) => {
                let is_last = engine.plan.trials.get(*trial).is_some_and(|planned| planned.steps == *step);
                let result = checkpoint::read_final(&engine.folder.step(id)).filter(|_| is_last).map(|f| f.step);
                (id, checkpoint::checkpoint_name(result.unwrap_or(*step)))
            }
            (other, None) => return Err(ExecError::Other(format!("{other:?} has no step that makes it"))),
        };
        let folder = engine.folder.step(id).join(&name);
        if is_removed(&engine.folder, id, &name) {
            return Err(ExecError::Other(format!(
                "{}: the chosen model was removed on purpose (removed.json beside it): remove status.json there and run the sweep \
                 again, which makes it anew",
                folder.display()
            )));
        }
        let ModelRef::Checkpoint { trial, .. } = model else { return Ok(Self::Whole(folder)) };
        Ok(match engine.plan.trials.get(*trial).map(|planned| &planned.trial.config.adapter) {
            None | Some(Adapter::Full) => Self::Whole(folder),
            Some(adapter) => {
                let quantized = settings::quantization(adapter).map(|q| q.kind.to_string());
                Self::Adapter { folder, quantized }
            }
        })
    }

    fn shipped(&self) -> Shipped {
        match self {
            Self::Base => Shipped::Base,
            Self::Whole(_) => Shipped::Copy,
            Self::Adapter { quantized, .. } => Shipped::Adapter { quantized: quantized.clone() },
        }
    }

    fn write(&self, engine: &Engine<'_>, draft: &Path, card: &str) -> Result<(), ExecError> {
        match self {
            Self::Base => engine.base()?.save(draft, card)?,
            Self::Whole(folder) => {
                best::copy_model(folder, draft)?;
                write(&draft.join("README.md"), card.as_bytes())?;
            }
            Self::Adapter { folder, .. } => {
                let base = engine.base()?;
                let mut weights = base.weights.clone();
                peft::load(folder)?.merge_into(&mut weights).map_err(ModelError::from)?;
                base.with_weights(&weights).save(draft, card)?;
                let beside = draft.join("adapter");
                best::copy_model(folder, &beside)?;
                // What it is an adapter of, without this machine's path.
                let path = beside.join("adapter_config.json");
                let mut config: Value = read_json(&path)?;
                config["base_model_name_or_path"] = Value::from(base_facts(&engine.plan.config, None).0);
                write(&path, format!("{config:#}\n").as_bytes())?;
            }
        }
        Ok(())
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    atomic::write(path, content).map_err(|source| StoreError::Io { path: path.into(), source })
}

/// The base's name as adapters give it, and what a card says of it.
fn base_facts(config: &Config, folder: Option<&Path>) -> (String, BaseFacts) {
    let mut facts = BaseFacts { licence: folder.and_then(licence), ..BaseFacts::default() };
    match &config.base {
        Base::Hub { id, .. } => {
            let id = id.split('@').next().unwrap_or(id).to_string();
            facts.name = id.clone();
            facts.id = Some(id);
        }
        Base::Folder(path) => {
            facts.name = path.file_name().map_or_else(|| "base".into(), |name| name.to_string_lossy().into_owned());
        }
        Base::Scratch(s) => {
            facts.from_nothing = true;
            facts.name = format!("made from nothing ({} layers of {}, seed {})", s.layers, s.hidden, s.seed);
        }
    }
    let name = if facts.from_nothing { "base".into() } else { facts.name.clone() };
    (name, facts)
}

/// The licence that the metadata of a model's card names.
fn licence(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("README.md")).ok()?;
    let metadata = text.strip_prefix("---")?.split("\n---").next()?;
    let line = metadata.lines().find_map(|line| line.strip_prefix("license:"))?;
    let value = line.split(" #").next()?.trim().trim_matches(['"', '\'']);
    let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "-._+".contains(c));
    plain.then(|| value.to_string())
}

fn card<'a>(
    engine: &Engine<'_>,
    record: &'a RunRecord,
    model: &ModelRef,
    shipped: Shipped,
    variant: &'a crate::store::record::Variant,
) -> Result<Card<'a>, ExecError> {
    let base = engine.base()?;
    let config = match model {
        ModelRef::Checkpoint { trial, .. } => engine.plan.trials.get(*trial).map(|planned| &planned.trial.config),
        _ => None,
    };
    let config = config.unwrap_or(&engine.plan.config);
    let trained = if *model == ModelRef::Base { (None, None) } else { config.data.prompts.clone() };
    let facts = ModelFacts {
        dimensions: base.embedding_size(),
        max_length: base.max_seq_length,
        parameters: base.parameters(),
        similarity: base.layout.similarity.clone(),
        prompts: base.layout.prompts.named.clone(),
        default_prompt: base.layout.prompts.default_name.clone(),
        trained_prompts: trained,
        registered_prompts: engine.base_id().and_then(prompts::registered).is_some(),
    };
    let tasks = engine.plan.tasks.iter().map(|task| {
        let (dataset, part, revision) = match &task.source {
            Source::Files(_) => (None, None, None),
            Source::Hub { repo, revision, config, .. } => (Some(repo.clone()), config.clone(), revision.clone()),
        };
        TaskFacts {
            name: task.name.clone(),
            languages: task.languages.clone(),
            dataset,
            config: part,
            revision,
            splits: task.splits.test.clone(),
        }
    });
    let datasets = config.data.train.iter().filter_map(|set| hub_dataset(&set.path));
    let mut datasets: Vec<String> = datasets.filter(|_| *model != ModelRef::Base).collect();
    datasets.dedup();
    let base = base_facts(&engine.plan.config, Some(&base.path)).1;
    Ok(Card { record, variant, base, model: facts, shipped, tasks: tasks.collect(), datasets })
}

/// The data set of the hub that a file of its cache is of: `…/datasets--org--name/snapshots/…`.
fn hub_dataset(path: &Path) -> Option<String> {
    path.components().find_map(|part| {
        let (org, name) = part.as_os_str().to_str()?.strip_prefix("datasets--")?.split_once("--")?;
        Some(format!("{org}/{name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_that_of_the_metadata() {
        let folder = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("---\nlanguage: en\nlicense: apache-2.0\n---\nlicense: mit\n", Some("apache-2.0")),
            ("---\nlicense: \"mit\" # the usual\n---\n", Some("mit")),
            ("---\nlanguage: en\n---\nlicense: mit\n", None),
            ("license: mit\n", None),
            ("---\nlicense:\n- mit\n---\n", None),
        ] {
            std::fs::write(folder.path().join("README.md"), text).unwrap();
            assert_eq!(licence(folder.path()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_data_set_is_known_by_its_place_in_the_hubs_cache() {
        let cached = Path::new("/h/hub/datasets--org--my-set/snapshots/abc/train.parquet");
        assert_eq!(hub_dataset(cached).as_deref(), Some("org/my-set"));
        assert_eq!(hub_dataset(Path::new("/data/train.parquet")), None);
    }
}
