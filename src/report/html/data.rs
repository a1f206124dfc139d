//! What the page's scripts read: one JSON value, all numbers rounded to what can be seen.
//!
//! Scores and differences are whole thousandths of a point (`53912` is 53.912 points, a fraction of 0.53912); `null` is a
//! score that is not there. Lists of a variant follow `variants`, lists of a column follow its side's `columns`.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::super::curves;
use super::super::scores::{Column, Group, Scores, Side, title};
use super::super::statistics::{Estimate, Statistics, is_final};
use crate::metric::outcomes::Outcomes;
use crate::store::record::{AlphaSearch, RunRecord, TaskRecord, Variant, VariantKind};

/// Variants that have the intervals of every column, and differences to the base and the chosen; of the others those of the
/// means are kept.
const WHOLE: usize = 200;
/// Rows of the heat map; they have differences to the base on every task.
const HEAT: usize = 30;
/// Variants of which every pair has its differences.
const PAIRED: usize = 8;
/// Points that all training curves of a series may have together, and the most that one has.
const CURVES: (usize, usize) = (20_000, 200);

/// What several runs put side by side have beyond a record.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    /// Where each variant comes from; empty for a single run.
    pub sources: Vec<String>,
    /// By what rows were drawn, a variant each; empty for a single run.
    pub rows: Vec<Rows>,
}

/// What decides which rows of a task are evaluated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    /// Whose draws.
    pub protocol: String,
    /// Rows at the most.
    pub limit: Option<usize>,
    /// The same for single tasks.
    pub limits: BTreeMap<String, usize>,
}

impl std::fmt::Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.limit {
            Some(n) => write!(f, "at most {n} rows a split")?,
            None => write!(f, "all rows")?,
        }
        for (task, n) in &self.limits {
            write!(f, ", {task} at most {n}")?;
        }
        write!(f, "; draws of {}", self.protocol)
    }
}

impl Rows {
    fn of(&self, task: &str) -> (&str, Option<usize>) {
        (&self.protocol, self.limits.get(task).copied().or(self.limit))
    }
}

impl Extra {
    /// Whether two variants' scores under a column are over the same rows, so that their difference is paired.
    pub fn is_paired(&self, run: &RunRecord, side: &Side, column: &Column, pair: (usize, usize)) -> bool {
        let tasks = |i: usize| -> &[TaskRecord] {
            run.variants.get(i).map_or(&[], |v| if side.on == "dev" { &v.dev } else { &v.test })
        };
        let wanted = side.columns.iter().filter(|c| {
            c.group == Group::Task
                && match column.group {
                    Group::Mean => true,
                    Group::Type => c.task_type == column.title,
                    Group::Task => c.rule == column.rule,
                }
        });
        wanted.map(|c| &c.rule).all(|name| {
            let find = |i| tasks(i).iter().find(|t| t.name == *name);
            let (Some(a), Some(b)) = (find(pair.0), find(pair.1)) else { return false };
            let drawn = |i: usize| self.rows.get(i).map(|r| r.of(name));
            a.rows == b.rows && drawn(pair.0) == drawn(pair.1) && same_rows(&a.outcomes, &b.outcomes)
        })
    }
}

/// Whether the outcomes can be of the same rows: as many of them, and where they hold gold labels the same ones.
fn same_rows(a: &Outcomes, b: &Outcomes) -> bool {
    match (a, b) {
        (Outcomes::PerExample(a), Outcomes::PerExample(b))
        | (Outcomes::PerExperiment(a), Outcomes::PerExperiment(b)) => !a.is_empty() && a.len() == b.len(),
        (Outcomes::Pairs(a), Outcomes::Pairs(b)) => {
            !a.is_empty() && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.1 == b.1)
        }
        (Outcomes::Ranked(a), Outcomes::Ranked(b)) => {
            !a.is_empty() && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.1 == b.1)
        }
        (Outcomes::Splits(a), Outcomes::Splits(b)) => {
            !a.is_empty() && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_rows(a, b))
        }
        _ => false,
    }
}

/// Everything.
pub fn of(run: &RunRecord, statistics: &Statistics, scores: &Scores, extra: &Extra) -> Value {
    let axes = axes(run);
    let whole: BTreeSet<usize> = scores.best(WHOLE).into_iter().collect();
    let variants: Vec<Value> =
        run.variants.iter().enumerate().map(|(i, v)| variant(v, &axes, extra.sources.get(i))).collect();
    let mut limits: Vec<String> = run.limit.iter().map(|n| format!("at most {n} rows a split")).collect();
    limits.extend(run.limits.iter().map(|(task, n)| format!("{task} at most {n}")));
    json!({
        "name": run.name, "base": run.base, "rule": scores.rule, "ruleTitle": title(&scores.rule), "on": scores.on,
        "compared": !extra.sources.is_empty(),
        "chosen": scores.chosen, "baseline": scores.base,
        "axes": axes.iter().map(|(key, values)| json!({"key": key, "values": values})).collect::<Vec<_>>(),
        "variants": variants,
        "order": scores.order,
        "sides": {"dev": side(run, &scores.dev, &whole), "test": side(run, &scores.test, &whole)},
        "pairs": {
            "dev": pairs(run, statistics, scores, &scores.dev, extra),
            "test": pairs(run, statistics, scores, &scores.test, extra),
        },
        "heat": scores.best(HEAT),
        "searches": run.searches.iter().map(|s| search(s, run)).collect::<Vec<_>>(),
        "curves": training(run),
        "unfinished": run.unfinished.iter().map(|u| json!({
            "label": u.label, "settings": u.settings, "state": u.state, "step": u.step, "score": u.score, "reason": u.reason,
        })).collect::<Vec<_>>(),
        "settings": run.settings, "data": run.data, "protocol": run.protocol, "limits": limits, "notes": run.notes,
    })
}

/// The axes with every value that a variant has.
fn axes(run: &RunRecord) -> Vec<(String, Vec<String>)> {
    let mut axes = run.axes.clone();
    for (key, values) in &mut axes {
        for value in run.variants.iter().filter_map(|v| v.settings.get(key)) {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
    }
    axes
}

fn variant(v: &Variant, axes: &[(String, Vec<String>)], source: Option<&String>) -> Value {
    let (kind, facts) = match &v.kind {
        VariantKind::Base => ("base", Vec::new()),
        VariantKind::Trained { trial, step, steps } => {
            ("trained", vec![("trial".to_string(), trial.clone()), ("step".into(), format!("{step} of {steps}"))])
        }
        VariantKind::Merged { first, second, alpha, auto, layers } => {
            let how = if *auto { "found on dev" } else { "given" };
            let by_layer = layers.as_ref().map(|layers| {
                let each: Vec<String> = layers.iter().map(|a| format!("{a:.2}")).collect();
                ("α by layer".to_string(), each.join(", "))
            });
            let mut facts = vec![
                ("first (α = 0)".to_string(), first.clone()),
                ("second (α = 1)".into(), second.clone()),
                ("α".into(), format!("{alpha:.3} ({how})")),
            ];
            facts.extend(by_layer);
            ("merged", facts)
        }
        VariantKind::Averaged { models, weights } => {
            let parts = models.iter().zip(weights).map(|(m, w)| (m.clone(), format!("weight {w:.3}")));
            ("averaged", parts.collect())
        }
    };
    let place = |(key, values): &(String, Vec<String>)| {
        v.settings.get(key).and_then(|value| values.iter().position(|x| x == value))
    };
    let more: Map<String, Value> = v
        .settings
        .iter()
        .filter(|(key, _)| !axes.iter().any(|(axis, _)| axis == *key))
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    let mut out = json!({"label": v.label, "kind": kind, "at": axes.iter().map(place).collect::<Vec<_>>()});
    if let Some(map) = out.as_object_mut() {
        let mut put = |key: &str, is_there: bool, value: Value| {
            if is_there {
                map.insert(key.into(), value);
            }
        };
        let cost = &v.cost;
        put("source", source.is_some(), json!(source));
        put("facts", !facts.is_empty(), json!(facts));
        put("more", !more.is_empty(), Value::Object(more.clone()));
        put("onTheWay", !is_final(v), json!(true));
        let costs = json!([cost.tokens, cost.trainable, cost.parameters, cost.flops.is_finite().then_some(cost.flops)]);
        put("cost", *cost != Default::default(), costs);
    }
    out
}

/// A fraction in whole thousandths of a point. One in the middle between two tenths goes a step to the side that it came
/// from, so the page, which rounds again, shows the tenths that the Markdown shows.
fn milli(value: f64) -> Option<i64> {
    if !value.is_finite() {
        return None;
    }
    let exact = value.abs() * 1e5;
    let whole = exact.round();
    let step = match whole % 100.0 == 50.0 {
        true if exact < whole => -1.0,
        true => 1.0,
        false => 0.0,
    };
    Some((whole + step).copysign(value) as i64)
}

fn side(run: &RunRecord, side: &Side, whole: &BTreeSet<usize>) -> Value {
    let columns: Vec<Value> = side
        .columns
        .iter()
        .map(|c| {
            let group = match c.group {
                Group::Mean => "mean",
                Group::Type => "type",
                Group::Task => "task",
            };
            json!({
                "rule": c.rule, "title": c.title, "group": group, "type": c.task_type, "metric": c.metric, "rows": c.rows,
                "seeds": c.seeds,
            })
        })
        .collect();
    let row =
        |cells: &[Option<Estimate>]| -> Value { cells.iter().map(|c| json!(c.and_then(|e| milli(e.score)))).collect() };
    // The way from the score down and up to the ends of its interval, means first; cut behind the last that is kept.
    let reach = |i: usize, cells: &[Option<Estimate>], end: &dyn Fn(&Estimate) -> f64| -> Value {
        let kept = |c: &&Column| whole.contains(&i) || c.group == Group::Mean;
        let many = side.columns.iter().take_while(kept).count();
        cells[..many].iter().map(|c| json!(c.and_then(|e| milli(end(&e) - e.score)).map(i64::abs))).collect()
    };
    let each = |f: &dyn Fn(usize, &[Option<Estimate>]) -> Value| -> Value {
        side.cells.iter().enumerate().map(|(i, cells)| f(i, cells)).collect()
    };
    // Rows are the same for all variants of a run; where they are not, each cell says its own.
    let mut odd = Map::new();
    for (i, v) in run.variants.iter().enumerate() {
        for t in if side.on == "dev" { &v.dev } else { &v.test } {
            if let Some(c) =
                side.columns.iter().position(|c| c.group == Group::Task && c.rule == t.name && c.rows != t.rows)
            {
                odd.insert(format!("{i},{c}"), json!(t.rows));
            }
        }
    }
    json!({
        "columns": columns,
        "score": each(&|_, cells| row(cells)),
        "down": each(&|i, cells| reach(i, cells, &|e| e.interval.0)),
        "up": each(&|i, cells| reach(i, cells, &|e| e.interval.1)),
        "oddRows": odd,
    })
}

/// Paired differences that the page can show: `"a,b"` → `[column, a − b, low, high]` of every column known.
fn pairs(run: &RunRecord, statistics: &Statistics, scores: &Scores, side: &Side, extra: &Extra) -> Value {
    let all: Vec<usize> = (0..side.columns.len()).collect();
    let leading: Vec<usize> = all
        .iter()
        .copied()
        .filter(|&c| side.columns[c].group == Group::Mean || side.columns[c].rule == scores.rule)
        .collect();
    let mut wanted: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
    let mut want = |a: usize, b: usize, columns: &[usize]| {
        // One of the two directions is enough.
        if a != b {
            let has_turned = wanted.contains_key(&(b, a));
            let pair = if has_turned { (b, a) } else { (a, b) };
            wanted.entry(pair).or_default().extend(columns);
        }
    };
    for reference in scores.base.into_iter().chain(scores.chosen) {
        scores.best(WHOLE).into_iter().for_each(|v| want(v, reference, &leading));
    }
    if let Some(base) = scores.base {
        scores.best(HEAT).into_iter().for_each(|v| want(v, base, &all));
    }
    let best = scores.best(PAIRED);
    for (at, &a) in best.iter().enumerate() {
        best[at + 1..].iter().for_each(|&b| want(a, b, &all));
    }
    let jobs: Vec<((usize, usize), usize)> =
        wanted.iter().flat_map(|(pair, columns)| columns.iter().map(|c| (*pair, *c))).collect();
    let found: Vec<((usize, usize), Value)> = jobs
        .into_par_iter()
        .filter_map(|((a, b), c)| {
            let column = &side.columns[c];
            if !extra.is_paired(run, side, column, (a, b)) {
                return None;
            }
            let d = statistics.difference(side.on, a, b, &column.rule)?;
            Some(((a, b), json!([c, milli(d.difference)?, milli(d.interval.0)?, milli(d.interval.1)?])))
        })
        .collect();
    let mut out = Map::new();
    for ((a, b), value) in found {
        let entry = out.entry(format!("{a},{b}")).or_insert_with(|| json!([]));
        if let Some(list) = entry.as_array_mut() {
            list.push(value);
        }
    }
    Value::Object(out)
}

fn search(s: &AlphaSearch, run: &RunRecord) -> Value {
    let points: Vec<Value> = s
        .points
        .iter()
        .map(|p| json!([round(p.alpha, 1e5), milli(p.score), milli(p.interval.0), milli(p.interval.1)]))
        .collect();
    let variant = run.variants.iter().position(|v| {
        matches!(&v.kind, VariantKind::Merged { first, second, auto: true, .. } if *first == s.first && *second == s.second)
    });
    json!({
        "first": s.first, "second": s.second, "points": points, "chosen": round(s.chosen, 1e5), "variant": variant,
        "evaluations": s.evaluations, "linear": round(s.linear_share, 1e3),
    })
}

/// `null` for what is not finite.
fn round(value: f64, to: f64) -> Value {
    json!((value * to).round() / to)
}

/// Training curves, smoothed as the plots are and thinned.
fn training(run: &RunRecord) -> Value {
    let most = (CURVES.0 / run.curves.len().max(1)).clamp(20, CURVES.1);
    let series = |points: &[(usize, f64)]| -> Value {
        let kept = curves::thinned(points, most);
        json!([
            kept.iter().map(|p| p.0).collect::<Vec<_>>(),
            kept.iter().map(|p| round(p.1, if p.1.abs() < 1.0 { 1e4 } else { 1e3 })).collect::<Vec<_>>()
        ])
    };
    run.curves
        .iter()
        .map(|curve| {
            let variant = run.variants.iter().position(|v| {
                matches!(&v.kind, VariantKind::Trained { trial, step, steps } if *trial == curve.trial && step == steps)
            });
            json!({
                "label": curve.trial, "variant": variant, "loss": series(&curves::smooth(&curve.train_loss)),
                "devLoss": series(&curve.dev_loss), "devScore": series(&curve.dev_score),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rounded_twice_shows_the_tenth_of_a_number_rounded_once() {
        assert_eq!((milli(0.5), milli(-0.012_345_4), milli(f64::NAN)), (Some(50_000), Some(-1_235), None));
        for i in 0..20_000 {
            let value = 0.3 + f64::from(i) * 1.234_567e-5;
            let twice = milli(value).unwrap() as f64 / 1e3;
            assert_eq!(format!("{twice:.1}"), format!("{:.1}", 100.0 * value), "{value}");
        }
    }

    #[test]
    fn only_outcomes_of_the_same_rows_are_paired() {
        let pairs = |gold: f64| Outcomes::Pairs(vec![(0.1, gold), (0.2, 1.0)]);
        let plain = |n: usize| Outcomes::PerExample(vec![1.0; n]);
        assert!(same_rows(&pairs(0.5), &pairs(0.5)) && !same_rows(&pairs(0.5), &pairs(0.6)));
        assert!(
            same_rows(&plain(2), &plain(2)) && !same_rows(&plain(2), &plain(3)) && !same_rows(&plain(0), &plain(0))
        );
        assert!(!same_rows(&plain(2), &Outcomes::PerExperiment(vec![1.0; 2])));
        let split = |gold| Outcomes::Splits(vec![plain(2), pairs(gold)]);
        assert!(same_rows(&split(0.5), &split(0.5)) && !same_rows(&split(0.5), &split(0.6)));
    }
}
