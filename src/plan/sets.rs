//! Training sets, each opened once however many trials read it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::json;

use crate::config::Config;
use crate::config::schema::{Mixing, TrainSet};
use crate::data::table::DataError;
use crate::data::training::{Form, OpenOptions, Subset, TrainingSet};
use crate::train::batches::Source;
use crate::train::sampler::{self, Sampler, SamplerSettings, SetSize, Stop};

/// Open sets, by path and options, and the batches that they make.
#[derive(Default)]
pub struct TrainingSets {
    open: RefCell<BTreeMap<String, Arc<TrainingSet>>>,
    batches: RefCell<HashMap<String, usize>>,
}

/// Prompts of queries and documents.
pub type Prompts = (String, String);

impl TrainingSets {
    /// Opens a set, or gives it again.
    ///
    /// # Errors
    /// Where it cannot be read, or a row cannot be used.
    pub fn open(&self, set: &TrainSet) -> Result<Arc<TrainingSet>, DataError> {
        let key = json!([set.path, set.limit, set.columns]).to_string();
        if let Some(open) = self.open.borrow().get(&key) {
            return Ok(open.clone());
        }
        let options = OpenOptions { limit: set.limit, columns: set.columns.clone(), ..OpenOptions::default() };
        let open = Arc::new(TrainingSet::open(&set.path, &options)?);
        self.open.borrow_mut().insert(key, open.clone());
        Ok(open)
    }

    /// The training and dev rows of a config; `own` are the base's prompts, for sides that the config gives none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn sources(&self, config: &Config, own: &Prompts) -> Result<(Vec<Source>, Vec<Source>), DataError> {
        let (mut train, mut dev) = (Vec::new(), Vec::new());
        for set in &config.data.train {
            let source = self.source(set, config, own)?;
            let Some(share) = config.data.dev_share else {
                train.push(source);
                continue;
            };
            let wanted = (source.rows.len() as f64 * share).round().max(1.0) as usize;
            let (rest, drawn) = source.rows.split(wanted, config.train.seed);
            if drawn.is_empty() || rest.is_empty() {
                return Err(DataError::content(
                    &set.path,
                    "data.dev.split: no dev rows can be drawn, as rows with the same query stay together: raise the share, or give \
                     a dev file",
                ));
            }
            let (name, prompts) = (source.name.clone(), source.prompts.clone());
            dev.push(Source { name, rows: drawn, prompts, weight: 1.0 });
            train.push(Source { rows: rest, ..source });
        }
        for set in &config.data.dev {
            dev.push(self.source(set, config, own)?);
        }
        Ok((train, dev))
    }

    fn source(&self, set: &TrainSet, config: &Config, own: &Prompts) -> Result<Source, DataError> {
        let prompt = |of_set: &Option<String>, of_all: &Option<String>, own: &String| {
            of_set.clone().or_else(|| of_all.clone()).unwrap_or_else(|| own.clone())
        };
        let all = &config.data.prompts;
        Ok(Source {
            name: name(set),
            rows: Subset::all(self.open(set)?),
            weight: set.weight,
            prompts: (prompt(&set.prompts.0, &all.0, &own.0), prompt(&set.prompts.1, &all.1, &own.1)),
        })
    }

    /// Batches of an epoch of a config.
    ///
    /// # Errors
    /// Where a set cannot be read, or no batch can be made of them.
    pub fn batches(&self, config: &Config) -> Result<usize, super::PlanError> {
        // The seed says which rows are kept for dev, and by that how many; else it changes their order alone.
        let seed = config.data.dev_share.map(|_| config.train.seed);
        let key = json!([config.data, config.train.batch, uses_negatives(config), seed]).to_string();
        if let Some(&batches) = self.batches.borrow().get(&key) {
            return Ok(batches);
        }
        let (train, _) = self.sources(config, &Prompts::default())?;
        let sizes: Vec<SetSize> = train.iter().map(|s| SetSize { rows: s.rows.len(), weight: s.weight }).collect();
        let sampler = Sampler::new(&sizes, mix(config, &train), config.train.seed)
            .map_err(|e| super::PlanError::Config(e.to_string()))?;
        let batches = sampler.batches_per_epoch();
        self.batches.borrow_mut().insert(key, batches);
        Ok(batches)
    }
}

/// A set's name in messages and reports: its file, with the folder that it lies in.
pub fn name(set: &TrainSet) -> String {
    let name = set.path.file_name().map(|n| n.to_string_lossy().to_string()).unwrap_or_default();
    let parent = set.path.parent().and_then(|p| p.file_name()).map(|n| n.to_string_lossy().to_string());
    parent.map_or(name.clone(), |parent| format!("{parent}/{name}"))
}

/// How a config's sets make batches.
pub fn mix(config: &Config, train: &[Source]) -> SamplerSettings {
    let data = &config.data;
    let negatives = uses_negatives(config);
    let stop = |all: bool| if all { Stop::AllExhausted } else { Stop::FirstExhausted };
    SamplerSettings {
        mixing: match data.mixing {
            Mixing::Proportional => sampler::Mixing::Proportional,
            Mixing::RoundRobin { all } => sampler::Mixing::RoundRobin(stop(all)),
            Mixing::Weighted { alpha, all } => sampler::Mixing::Weighted { alpha, stop: stop(all) },
        },
        batch: config.train.batch,
        drop_last: data.drop_last,
        one_set_per_batch: data.one_set_per_batch,
        no_duplicates: data.no_duplicates,
        // A last batch of a single row without negatives would teach nothing.
        skip_lone: !negatives || train.iter().any(|source| !has_negatives(&source.rows)),
    }
}

fn uses_negatives(config: &Config) -> bool {
    config.loss.hard_negatives > 0 || config.loss.group_size.is_some()
}

/// Whether every row has a hard negative.
fn has_negatives(rows: &Subset) -> bool {
    matches!(rows.form(), Form::Pairs { negatives: (1.., _), .. })
}
