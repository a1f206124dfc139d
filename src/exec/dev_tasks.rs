//! Tasks whose dev side is scored while a model trains.

use std::collections::BTreeMap;

use super::encoder::{ModelEncoder, PromptRules};
use crate::metric::aggregate;
use crate::model::Embedder;
use crate::model::prompts::Prompts;
use crate::task::evaluate::evaluate;
use crate::task::files::Datasets;
use crate::task::load::TaskData;
use crate::task::protocol::Protocol;
use crate::task::spec::{Split, TaskError, TaskSpec};

/// Name of the mean among the scores of the tasks.
const MEAN: &str = "tasks";

/// Tasks with their dev rows.
pub struct DevTasks {
    tasks: Vec<(TaskSpec, TaskData)>,
    protocol: Protocol,
    registered: Option<Prompts>,
}

impl DevTasks {
    /// Loads the dev side of tasks.
    ///
    /// # Errors
    /// Where a task cannot be read, or has no dev side.
    pub fn load(
        specs: &[TaskSpec],
        limit: &dyn Fn(&str) -> Option<usize>,
        datasets: &dyn Datasets,
        protocol: Protocol,
        registered: Option<Prompts>,
    ) -> Result<Self, TaskError> {
        let mut tasks = Vec::with_capacity(specs.len());
        for spec in specs {
            match TaskData::load_from(spec, Split::Dev, limit(&spec.name), datasets)? {
                Some(data) => tasks.push((spec.clone(), data)),
                None => {
                    return Err(TaskError::Other {
                        task: spec.name.clone(),
                        message: "has neither a dev nor a training split: take it out of train.eval_tasks".into(),
                    });
                }
            }
        }
        Ok(Self { tasks, protocol, registered })
    }

    /// Main scores by task, and `tasks`, the mean over types of the mean over their tasks.
    ///
    /// # Errors
    /// The first task that cannot be scored.
    pub fn score(&self, embedder: &Embedder) -> Result<BTreeMap<String, f64>, String> {
        let rules = PromptRules { fixed: None, registered: self.registered.clone() };
        let encoder = ModelEncoder::new(embedder, &|_, _| {}).with_rules(rules);
        let mut scores = BTreeMap::new();
        let mut by_type = Vec::new();
        for (spec, data) in &self.tasks {
            let evaluation =
                evaluate(spec, Split::Dev, data, &encoder, &[42], self.protocol).map_err(|e| e.to_string())?;
            let Some(first) = evaluation.seeds.first() else { continue };
            by_type.push((spec.kind.name(), Some(first.main_score)));
            scores.insert(spec.name.clone(), first.main_score);
        }
        scores.extend(aggregate::mean_task_type(&by_type).map(|mean| (MEAN.to_string(), mean)));
        Ok(scores)
    }
}
