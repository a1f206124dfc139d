//! From the section `merge` to single merges: which models each takes, and how.

use std::collections::{HashMap, HashSet};

use super::{PlanError, TrialPlan};
use crate::config::Config;
use crate::config::schema::{Alpha, Linear, Merge, Pairs, Selector, Slerp, SlerpMode, Weights};
use crate::config::trials::{BASE, MOST_TRIALS};

/// A model that is merged: the base, or the result of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelIndex {
    /// The base.
    Base,
    /// The last checkpoint of a trial, by position.
    Trial(usize),
}

/// A merge of models.
#[derive(Debug, Clone, PartialEq)]
pub struct MergePlan {
    /// What is merged: two for SLERP, the first at α = 0; any number from two for a mean.
    pub models: Vec<ModelIndex>,
    /// How.
    pub method: Method,
    /// Axes that all of its trials share.
    pub shared: Vec<(String, String)>,
}

/// How models are merged.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Along the arc between two.
    Slerp {
        /// What is interpolated.
        mode: SlerpMode,
        /// Weight of the second.
        alpha: AlphaPlan,
    },
    /// Weighted mean.
    Linear {
        /// Weights, which sum to 1.
        weights: Vec<f64>,
        /// The axis over which the mean goes, where it was asked for so.
        over: Option<String>,
    },
}

/// Where α is from.
#[derive(Debug, Clone, PartialEq)]
pub enum AlphaPlan {
    /// Given: one for all layers, or values along the depth.
    Given(Vec<f64>),
    /// Found on dev.
    Search {
        /// Whether the first layer and the last have α of their own.
        ends: bool,
        /// How closely α is to be known.
        tolerance: f64,
        /// Most evaluations.
        budget: usize,
    },
}

impl MergePlan {
    /// α, where it is given.
    pub fn given_alpha(&self) -> Option<&[f64]> {
        match &self.method {
            Method::Slerp { alpha: AlphaPlan::Given(values), .. } => Some(values),
            _ => None,
        }
    }

    /// Whether α is to be searched for.
    pub fn is_searched(&self) -> bool {
        matches!(self.method, Method::Slerp { alpha: AlphaPlan::Search { .. }, .. })
    }

    /// Most models that the search for α scores; 0 where there is none.
    pub fn search_budget(&self) -> usize {
        match self.method {
            Method::Slerp { alpha: AlphaPlan::Search { budget, .. }, .. } => budget,
            _ => 0,
        }
    }

    /// Positions of the trials that it needs.
    pub fn trials(&self) -> impl Iterator<Item = usize> + '_ {
        self.models.iter().filter_map(|model| match model {
            ModelIndex::Trial(trial) => Some(*trial),
            ModelIndex::Base => None,
        })
    }
}

/// Most pairs of `pairs: all`: each takes a search.
const MOST_PAIRS: usize = 200;

/// Most merges of a sweep.
const MOST_MERGES: usize = MOST_TRIALS;

/// All merges of a config, in its order; those of one entry in the trials' order.
pub(super) fn merges(config: &Config, trials: &[TrialPlan]) -> Result<Vec<MergePlan>, PlanError> {
    let pool = Pool { trials };
    let mut merges = Vec::new();
    for merge in &config.merge {
        let before = merges.len();
        match merge {
            Merge::Slerp(slerp) => pool.slerps(slerp, &mut merges)?,
            Merge::Linear(linear) => pool.means(linear, &mut merges)?,
        }
        if merges.len() == before {
            return Err(PlanError::Config(pool.nothing(merge)));
        }
    }
    Ok(merges)
}

struct Pool<'a> {
    trials: &'a [TrialPlan],
}

/// Axes' values, to tell which trials agree in them.
type Axes<'a> = Vec<(&'a str, &'a str)>;

impl<'a> Pool<'a> {
    fn axes(&self, trial: usize) -> &'a [(String, String)] {
        self.trials.get(trial).map_or(&[], |plan| &plan.trial.axes)
    }

    /// The models that a selector names, in order.
    fn select(&self, selector: &Selector) -> Vec<ModelIndex> {
        if selector.iter().any(|(key, value)| key == "name" && value == BASE) {
            return vec![ModelIndex::Base];
        }
        let has = |plan: &TrialPlan| {
            selector.iter().all(|(key, value)| {
                plan.trial.axes.iter().any(|(k, v)| k == key && v == value)
                    || (key == "name" && *value == plan.trial.label)
            })
        };
        self.trials.iter().enumerate().filter(|(_, plan)| has(plan)).map(|(i, _)| ModelIndex::Trial(i)).collect()
    }

    /// A trial's axes that `named` does not name.
    fn free(&self, trial: usize, named: &HashSet<&str>) -> Axes<'a> {
        let axes = self.axes(trial).iter().filter(|(key, _)| !named.contains(key.as_str()));
        axes.map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    fn slerps(&self, slerp: &Slerp, merges: &mut Vec<MergePlan>) -> Result<(), PlanError> {
        let pairs = match &slerp.pairs {
            Pairs::Sides { first, second } => self.combinations(&[first, second])?,
            Pairs::Over(axis) => {
                let mut pairs = Vec::new();
                for group in self.groups(axis) {
                    for (at, first) in group.iter().enumerate() {
                        pairs.extend(group.iter().skip(at + 1).map(|second| vec![*first, *second]));
                        bounded(pairs.len())?;
                    }
                }
                pairs.sort_unstable();
                pairs
            }
            Pairs::All => {
                let n = self.trials.len();
                let pairs = n * n.saturating_sub(1) / 2;
                if pairs > MOST_PAIRS {
                    return Err(PlanError::Config(format!(
                        "merge.slerp.pairs: all: {n} trials make {pairs} pairs, more than {MOST_PAIRS}: name the pairs with \
                         first and second, or the axis that they differ in with over"
                    )));
                }
                let pair = |a: usize, b: usize| vec![ModelIndex::Trial(a), ModelIndex::Trial(b)];
                (0..n).flat_map(|a| (a + 1..n).map(move |b| pair(a, b))).collect()
            }
        };
        let search = |ends: bool| AlphaPlan::Search { ends, tolerance: slerp.tolerance, budget: slerp.budget };
        let alphas: Vec<AlphaPlan> = match &slerp.alpha {
            Alpha::Auto => vec![search(false)],
            Alpha::AutoLayers => vec![search(true)],
            Alpha::Values(values) => values.iter().map(|&value| AlphaPlan::Given(vec![value])).collect(),
            Alpha::Layers(values) => vec![AlphaPlan::Given(values.clone())],
        };
        bounded(merges.len() + pairs.len() * alphas.len())?;
        for models in pairs {
            for alpha in &alphas {
                let method = Method::Slerp { mode: slerp.mode, alpha: alpha.clone() };
                merges.push(self.plan(models.clone(), method));
            }
        }
        Ok(())
    }

    fn means(&self, linear: &Linear, merges: &mut Vec<MergePlan>) -> Result<(), PlanError> {
        let sets = match &linear.over {
            Some(axis) => self.groups(axis).into_iter().filter(|group| group.len() > 1).collect(),
            None => self.combinations(&linear.models.iter().collect::<Vec<_>>())?,
        };
        bounded(merges.len() + sets.len())?;
        for models in sets {
            let weights = match &linear.weights {
                Weights::Equal => vec![1.0; models.len()],
                Weights::Given(weights) if weights.len() == models.len() => weights.clone(),
                Weights::Given(weights) => {
                    let labels: Vec<&str> = models.iter().map(|&model| label_of(self.trials, model)).collect();
                    return Err(PlanError::Config(format!(
                        "merge.linear.weights: {} weights, but {} models are to be merged ({}): give one each, or `equal`",
                        weights.len(),
                        labels.len(),
                        labels.join(", ")
                    )));
                }
            };
            let sum: f64 = weights.iter().sum();
            let weights = weights.into_iter().map(|weight| weight / sum).collect();
            merges.push(self.plan(models, Method::Linear { weights, over: linear.over.clone() }));
        }
        Ok(())
    }

    fn plan(&self, models: Vec<ModelIndex>, method: Method) -> MergePlan {
        let mut merge = MergePlan { models, method, shared: Vec::new() };
        let trials: Vec<usize> = merge.trials().collect();
        if let Some((&first, others)) = trials.split_first() {
            let common = |axis: &&(String, String)| others.iter().all(|&trial| self.axes(trial).contains(axis));
            merge.shared = self.axes(first).iter().filter(common).cloned().collect();
        }
        merge
    }

    /// Trials that differ in an axis alone, by the order of their first.
    fn groups(&self, axis: &str) -> Vec<Vec<ModelIndex>> {
        let named = HashSet::from([axis]);
        let mut place: HashMap<Axes<'a>, usize> = HashMap::new();
        let mut groups: Vec<Vec<ModelIndex>> = Vec::new();
        for trial in 0..self.trials.len() {
            if self.axes(trial).iter().any(|(key, _)| key == axis) {
                let next = groups.len();
                let at = *place.entry(self.free(trial, &named)).or_insert(next);
                if at == next {
                    groups.push(Vec::new());
                }
                if let Some(group) = groups.get_mut(at) {
                    group.push(ModelIndex::Trial(trial));
                }
            }
        }
        groups
    }

    /// Every combination of models, one of each selector, that agree in the axes that no selector names. The base agrees with
    /// all, and so do models that are all named one by one.
    fn combinations(&self, selectors: &[&Selector]) -> Result<Vec<Vec<ModelIndex>>, PlanError> {
        let named: HashSet<&str> = selectors.iter().flat_map(|s| s.iter()).map(|(key, _)| key.as_str()).collect();
        let one_by_one = selectors.iter().all(|s| s.iter().any(|(key, _)| key == "name"));
        let mut groups: Vec<HashMap<Axes<'a>, Vec<ModelIndex>>> = Vec::with_capacity(selectors.len());
        let key = |model: ModelIndex| match model {
            ModelIndex::Trial(trial) if !one_by_one => Some(self.free(trial, &named)),
            _ => None,
        };
        let chosen: Vec<Vec<ModelIndex>> = selectors.iter().map(|selector| self.select(selector)).collect();
        for models in &chosen {
            let mut by_axes: HashMap<Axes<'a>, Vec<ModelIndex>> = HashMap::new();
            for &model in models {
                by_axes.entry(key(model).unwrap_or_default()).or_default().push(model);
            }
            groups.push(by_axes);
        }
        // The first selector that does not name the base leads: its trials say in which axes the others must agree.
        let lead = chosen.iter().position(|models| models.first() != Some(&ModelIndex::Base)).unwrap_or(0);
        let mut out = Vec::new();
        for &leader in chosen.get(lead).into_iter().flatten() {
            let axes = key(leader).unwrap_or_default();
            let mut combined: Vec<Vec<ModelIndex>> = vec![Vec::with_capacity(selectors.len())];
            for (place, (models, by_axes)) in chosen.iter().zip(&groups).enumerate() {
                let lone = [leader];
                let fitting: &[ModelIndex] = if place == lead {
                    &lone
                } else if models.first() == Some(&ModelIndex::Base) {
                    models
                } else {
                    by_axes.get(&axes).map_or(&[], Vec::as_slice)
                };
                let mut extended = Vec::with_capacity(combined.len() * fitting.len());
                for set in &combined {
                    for &model in fitting.iter().filter(|model| !set.contains(model)) {
                        let mut set = set.clone();
                        set.push(model);
                        extended.push(set);
                    }
                    bounded(out.len() + extended.len())?;
                }
                combined = extended;
            }
            out.extend(combined);
        }
        Ok(out)
    }

    /// Why a merge selects nothing.
    fn nothing(&self, merge: &Merge) -> String {
        let mut axes: Vec<&str> = Vec::new();
        for (key, _) in self.trials.iter().flat_map(|plan| &plan.trial.axes) {
            if !axes.contains(&key.as_str()) {
                axes.push(key);
            }
        }
        let shown = |selector: &Selector| {
            format!("{{{}}}", selector.iter().map(|(k, v)| format!("{k}: {v}")).collect::<Vec<_>>().join(", "))
        };
        let what = match merge {
            Merge::Slerp(Slerp { pairs: Pairs::Sides { first, second }, .. }) => format!(
                "merge.slerp: no pair of trials has first {} and second {} and agrees in the other axes",
                shown(first),
                shown(second)
            ),
            Merge::Slerp(Slerp { pairs: Pairs::Over(axis), .. }) => {
                format!("merge.slerp.over: no two trials differ in {axis} alone")
            }
            Merge::Slerp(_) => "merge.slerp.pairs: all: there are no two trials".into(),
            Merge::Linear(Linear { over: Some(axis), .. }) => {
                format!("merge.linear.over: no two trials differ in {axis} alone")
            }
            Merge::Linear(linear) => format!(
                "merge.linear: no trials have {} and agree in the other axes",
                linear.models.iter().map(shown).collect::<Vec<_>>().join(", ")
            ),
        };
        format!("{what}; the axes are {}", if axes.is_empty() { "none".into() } else { axes.join(", ") })
    }
}

fn bounded(merges: usize) -> Result<(), PlanError> {
    if merges > MOST_MERGES {
        return Err(PlanError::Config(format!(
            "merge: makes more than {MOST_MERGES} merges: select fewer models, or give fewer values of alpha"
        )));
    }
    Ok(())
}

/// A model's name: its trial's label, or `base`.
pub(super) fn label_of(trials: &[TrialPlan], model: ModelIndex) -> &str {
    match model {
        ModelIndex::Base => BASE,
        ModelIndex::Trial(trial) => trials.get(trial).map_or("", |plan| &plan.trial.label),
    }
}
