//! The step that merges models, and its search for α.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::steps::Loaded;
use super::{Engine, ExecError, settings};
use crate::merge::linear::Mean;
use crate::merge::search::{self, best_of, middle, winners};
use crate::merge::{depth, slerp};
use crate::model::{BuildOptions, Embedder, ModelError, ModelFiles};
use crate::plan::{AlphaPlan, MergePlan, Method, ModelIndex, Step};
use crate::store::folder::{read_json, write_json};
use crate::store::record::{AlphaPoint, AlphaSearch, EndPoint, TaskRecord};
use crate::store::scoring::{Scored, Seeds, rule_replicates, rule_score};
use crate::task::spec::Split;

/// A finished merge.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MergeLog {
    /// α of SLERP, the mean over the layers where it differs by layer; 0 of a mean of models.
    pub alpha: f64,
    /// α along the depth as it was given or found, where it differs by layer.
    #[serde(default)]
    pub depth: Option<Vec<f64>>,
    /// The same by layer of the encoder.
    #[serde(default)]
    pub layers: Option<Vec<f64>>,
    pub linear_share: f64,
    pub search: Option<AlphaSearch>,
}

impl MergeLog {
    /// α as it is shown: one value, or those along the depth.
    pub fn shown(&self) -> Vec<f64> {
        self.depth.clone().unwrap_or_else(|| vec![self.alpha])
    }
}

/// The model at an α, or at values of α along the depth.
type At<'a> = dyn Fn(&[f64]) -> Result<slerp::Merged, ModelError> + 'a;

/// A search's evaluations: α of the first layer and the last (equal ones for one α), the score, the scores of tasks.
struct Evaluated {
    ends: (f64, f64),
    score: f64,
    tasks: Vec<TaskRecord>,
}

impl Engine<'_> {
    pub(super) fn merge(&self, step: &Step, merge: usize) -> Result<(), ExecError> {
        let plan = &self.plan.merges[merge];
        let folder = self.folder.step(&step.id);
        let log = match &plan.method {
            Method::Slerp { mode, alpha } => {
                let (first, second) = match plan.models.as_slice() {
                    &[first, second] => (self.part(first)?, self.part(second)?),
                    _ => return Err(ExecError::Other("SLERP is of two models".into())),
                };
                let base = self.base()?;
                let mode = settings::slerp_mode(*mode);
                let at = |alpha: &[f64]| slerp::models(&first, &second, Some(&base), alpha, mode);
                let (alpha, search) = match alpha {
                    AlphaPlan::Given(values) => (values.clone(), None),
                    AlphaPlan::Search { ends, tolerance, budget } => {
                        let limits = search::Plan { tolerance: *tolerance, budget: *budget };
                        let search = self.search(&folder, plan, (limits, *ends), &at)?;
                        let alpha = match search.ends {
                            Some((first, last)) if first != last => vec![first, last],
                            Some((both, _)) => vec![both],
                            None => vec![search.chosen],
                        };
                        (alpha, Some(search))
                    }
                };
                let merged = at(&alpha)?;
                merged.files.save(&folder.join("model"), &self.card(plan, &alpha))?;
                let layers = depth::by_layer(&alpha, first.architecture.layers());
                let by_layer = alpha.len() > 1;
                let mean = layers.iter().sum::<f64>() / layers.len().max(1) as f64;
                MergeLog {
                    alpha: match alpha.as_slice() {
                        &[one] => one,
                        _ => mean,
                    },
                    depth: by_layer.then_some(alpha),
                    layers: by_layer.then_some(layers),
                    linear_share: merged.linear_share,
                    search,
                }
            }
            Method::Linear { weights, .. } => {
                let mut mean: Option<Mean> = None;
                for (number, (&model, &weight)) in plan.models.iter().zip(weights).enumerate() {
                    let files = self.part(model)?;
                    match &mut mean {
                        Some(mean) => mean.add(&files, weight)?,
                        None => mean = Some(Mean::new(files, weight)?),
                    }
                    self.advances(number + 1, weights.len(), self.plan.part_label(model));
                }
                let mean = mean.ok_or_else(|| ExecError::Other("a mean needs models".into()))?;
                mean.finish()?.save(&folder.join("model"), &self.card(plan, &[]))?;
                MergeLog { alpha: 0.0, depth: None, layers: None, linear_share: 1.0, search: None }
            }
        };
        Ok(write_json(&folder.join("merge.json"), &log)?)
    }

    /// A model that is merged, its adapter in the weights as they are stored, whatever it was trained on.
    fn part(&self, model: ModelIndex) -> Result<ModelFiles, ExecError> {
        match self.load(&self.plan.final_model(model))? {
            Loaded::Files(files) => Ok(files),
            Loaded::Adapted(base, adapter, _) => {
                let mut weights = base.weights.clone();
                adapter.merge_into(&mut weights).map_err(ModelError::from)?;
                Ok(base.with_weights(&weights))
            }
        }
    }

    /// The model card: what was merged, and how.
    fn card(&self, plan: &MergePlan, alpha: &[f64]) -> String {
        let labels: Vec<String> =
            plan.models.iter().map(|&model| format!("`{}`", self.plan.part_label(model))).collect();
        let text = match &plan.method {
            Method::Slerp { mode, .. } => {
                let mode = format!("{mode:?}").to_lowercase();
                let weight = match alpha {
                    &[one] => format!("α = {one} (weight of the second)"),
                    values => format!(
                        "α (weight of the second) = {} from the first layer to the last",
                        values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                    ),
                };
                format!(
                    "# SLERP of two models\n\n{}, {weight}, mode {mode}, made with embeval.\n",
                    labels.join(" and ")
                )
            }
            Method::Linear { weights, .. } => {
                let rows: String =
                    labels.iter().zip(weights).map(|(label, weight)| format!("| {label} | {weight:.4} |\n")).collect();
                format!(
                    "# Weighted mean of {} models\n\nMade with embeval.\n\n| model | weight |\n|---|---|\n{rows}",
                    labels.len()
                )
            }
        };
        format!("---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n\n{text}")
    }

    fn search(
        &self,
        folder: &Path,
        plan: &MergePlan,
        (limits, ends): (search::Plan, bool),
        at: &At<'_>,
    ) -> Result<AlphaSearch, ExecError> {
        let choose = &self.plan.config.choose;
        let split = if choose.on_test { Split::Test } else { Split::Dev };
        let mut found: Vec<Evaluated> = Vec::new();
        let mut known: Vec<((f64, f64), f64)> = Vec::new();
        loop {
            let next = if ends {
                search::next_ends(&known, limits)
            } else {
                let points: Vec<(f64, f64)> = known.iter().map(|(ends, score)| (ends.0, *score)).collect();
                search::next(&points, limits).map(|alpha| (alpha, alpha))
            };
            let Some((first, last)) = next else { break };
            let (alpha, name) = if first == last {
                (vec![first], format!("{first:.6}"))
            } else {
                (vec![first, last], format!("{first:.6}-{last:.6}"))
            };
            let path = folder.join(format!("alpha-{name}.json"));
            if read_json::<Vec<TaskRecord>>(&path).is_err() {
                let merged = at(&alpha)?;
                let half = settings::encodes_in_half(&self.device, self.plan.config.run.dtype);
                let options = BuildOptions { device: self.device.clone(), half, ..Default::default() };
                let embedder = Embedder::build(&merged.files, &options)?;
                write_json(&path, &self.score_tasks(&embedder, split, choose.seeds, None)?.tasks)?;
            }
            // Read back in every case, so that a search that was interrupted sees the same numbers.
            let tasks: Vec<TaskRecord> = read_json(&path)?;
            let score = rule_score(&tasks, choose.by.name()).ok_or_else(|| {
                ExecError::Other(format!("choose.by = {}: no task gives this on {}", choose.by.name(), split.name()))
            })?;
            known.push(((first, last), score));
            found.push(Evaluated { ends: (first, last), score, tasks });
            self.advances(known.len(), limits.budget, &format!("α {name}: {score:.4}"));
        }
        let [first, second] = [0, 1].map(|at| plan.models.get(at).map_or("", |&model| self.plan.part_label(model)));
        let half = found.iter().map(|point| point.ends).find(|(a, b)| a == b && *a > 0.0 && *a < 1.0);
        let linear_share = half.map_or(Ok(0.0), |(half, _)| at(&[half]).map(|merged| merged.linear_share))?;
        let mut search = summary(found, choose.by.name(), ends)
            .ok_or_else(|| ExecError::Other("the search for α evaluated nothing".into()))?;
        (search.first, search.second, search.linear_share) = (first.into(), second.into(), linear_share);
        Ok(search)
    }
}

/// What a search found, out of its evaluations in the order made.
fn summary(found: Vec<Evaluated>, by: &str, ends: bool) -> Option<AlphaSearch> {
    let evaluations = found.len();
    let replicates: Vec<Vec<f64>> = found.iter().map(|point| rule_replicates(&point.tasks, by)).collect();
    let intervals: Vec<(f64, f64)> = found
        .iter()
        .map(|point| {
            Scored::new(&point.tasks, Seeds::Mean).mean(by).map_or((f64::NAN, f64::NAN), |mean| mean.interval())
        })
        .collect();
    let mut singles: Vec<usize> = (0..found.len()).filter(|&i| found[i].ends.0 == found[i].ends.1).collect();
    singles.sort_by(|&a, &b| found[a].ends.0.total_cmp(&found[b].ends.0));
    let points: Vec<AlphaPoint> = singles
        .iter()
        .map(|&i| AlphaPoint { alpha: found[i].ends.0, score: found[i].score, interval: intervals[i] })
        .collect();
    let best = best_of(&points.iter().map(|point| (point.alpha, point.score)).collect::<Vec<_>>())?;
    let of_singles: Vec<Vec<f64>> = singles.iter().map(|&i| replicates[i].clone()).collect();
    let chosen_interval = middle(winners(&of_singles).into_iter().map(|won| points[won].alpha).collect());
    let mut search = AlphaSearch {
        first: String::new(),
        second: String::new(),
        chosen: points[best].alpha,
        chosen_interval,
        ends: None,
        ends_intervals: None,
        end_points: Vec::new(),
        evaluations,
        points,
        linear_share: 0.0,
    };
    if ends {
        // The first evaluated wins a tie: one α for all layers is simpler than two.
        let best = found.iter().reduce(|best, next| if next.score > best.score { next } else { best })?;
        search.ends = Some(best.ends);
        let won: Vec<(f64, f64)> = winners(&replicates).into_iter().map(|won| found[won].ends).collect();
        search.ends_intervals =
            middle(won.iter().map(|ends| ends.0).collect()).zip(middle(won.iter().map(|ends| ends.1).collect()));
        search.end_points = found
            .iter()
            .zip(&intervals)
            .filter(|(point, _)| point.ends.0 != point.ends.1)
            .map(|(point, &interval)| EndPoint {
                first: point.ends.0,
                last: point.ends.1,
                score: point.score,
                interval,
            })
            .collect();
    }
    Some(search)
}
