//! `results.parquet`: every score of a run as one table, for anything that reads Parquet.
//!
//! A row a variant, side and task: `variant` (the id), `label`, `kind` (`base`, `trained`, `merged`, `averaged`), `chosen`,
//! `trial` and `step` of trained variants, `alpha` of merged ones, `setting.KEY` an axis, `split` (`dev`, `test`), `task`,
//! `type`, `metric`, `main_score` with the ends of its 95 % interval `low` and `high`, `mean_over_seeds`, `seeds` (how many
//! that mean is over), `rows`, and the cost: `tokens`, `trainable`, `parameters`, `flops`. What a variant does not have is null.

use std::path::Path;

use polars::prelude::{Column, DataFrame, ParquetWriter};

use super::folder::StoreError;
use super::record::{RunRecord, TaskRecord, Variant, VariantKind};
use super::scoring::Seeds;
use crate::data::atomic;

/// One row, before it is turned into columns.
struct Row<'a> {
    variant: &'a Variant,
    split: &'static str,
    task: &'a TaskRecord,
}

/// Writes the table of a run to `path`.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(run: &RunRecord, path: &Path) -> Result<(), StoreError> {
    let fault = |e: polars::error::PolarsError| StoreError::Results { path: path.into(), message: e.to_string() };
    let mut frame = frame(run).map_err(fault)?;
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).map_err(fault)?;
    atomic::write(path, &bytes).map_err(|source| StoreError::Io { path: path.into(), source })
}

fn frame(run: &RunRecord) -> Result<DataFrame, polars::error::PolarsError> {
    let rows: Vec<Row<'_>> = run
        .variants
        .iter()
        .flat_map(|variant| {
            let dev = variant.dev.iter().map(move |task| Row { variant, split: "dev", task });
            dev.chain(variant.test.iter().map(move |task| Row { variant, split: "test", task }))
        })
        .collect();
    let text = |name: &str, of: &dyn Fn(&Row<'_>) -> String| {
        Column::new(name.into(), rows.iter().map(of).collect::<Vec<String>>())
    };
    let maybe = |name: &str, of: &dyn Fn(&Row<'_>) -> Option<String>| {
        Column::new(name.into(), rows.iter().map(of).collect::<Vec<Option<String>>>())
    };
    let whole = |name: &str, of: &dyn Fn(&Row<'_>) -> Option<u64>| {
        Column::new(name.into(), rows.iter().map(of).collect::<Vec<Option<u64>>>())
    };
    let real = |name: &str, of: &dyn Fn(&Row<'_>) -> Option<f64>| {
        let values: Vec<Option<f64>> = rows.iter().map(|r| of(r).filter(|v| v.is_finite())).collect();
        Column::new(name.into(), values)
    };
    let intervals: Vec<(f64, f64)> = rows.iter().map(|r| r.task.interval(Seeds::Published)).collect();
    let end = |name: &str, of: &dyn Fn(&(f64, f64)) -> f64| {
        let values: Vec<Option<f64>> = intervals.iter().map(|i| Some(of(i)).filter(|v| v.is_finite())).collect();
        Column::new(name.into(), values)
    };
    let chosen = run.choice.as_ref().map(|c| c.id.as_str());
    let is_chosen: Vec<bool> = rows.iter().map(|r| Some(r.variant.id.as_str()) == chosen).collect();
    let mut columns = vec![
        text("variant", &|r| r.variant.id.clone()),
        text("label", &|r| r.variant.label.clone()),
        text("kind", &|r| kind(r.variant).into()),
        Column::new("chosen".into(), is_chosen),
        maybe("trial", &|r| match &r.variant.kind {
            VariantKind::Trained { trial, .. } => Some(trial.clone()),
            _ => None,
        }),
        whole("step", &|r| match &r.variant.kind {
            VariantKind::Trained { step, .. } => Some(*step as u64),
            _ => None,
        }),
        real("alpha", &|r| match &r.variant.kind {
            VariantKind::Merged { alpha, .. } => Some(*alpha),
            _ => None,
        }),
    ];
    let mut keys: Vec<&String> = run.axes.iter().map(|(key, _)| key).collect();
    for key in run.variants.iter().flat_map(|v| v.settings.keys()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    columns.extend(keys.iter().map(|key| maybe(&format!("setting.{key}"), &|r| r.variant.settings.get(*key).cloned())));
    columns.extend([
        text("split", &|r| r.split.into()),
        text("task", &|r| r.task.name.clone()),
        text("type", &|r| r.task.task_type.clone()),
        text("metric", &|r| r.task.metric.clone()),
        real("main_score", &|r| Some(r.task.main_score)),
        end("low", &|i| i.0),
        end("high", &|i| i.1),
        real("mean_over_seeds", &|r| Some(r.task.mean_over_seeds())),
        whole("seeds", &|r| Some(r.task.seeds.len() as u64 + 1)),
        whole("rows", &|r| Some(r.task.rows as u64)),
        whole("tokens", &|r| Some(r.variant.cost.tokens)),
        whole("trainable", &|r| Some(r.variant.cost.trainable)),
        whole("parameters", &|r| Some(r.variant.cost.parameters)),
        real("flops", &|r| Some(r.variant.cost.flops)),
    ]);
    DataFrame::new(rows.len(), columns)
}

/// A variant's kind in one word.
pub fn kind(variant: &Variant) -> &'static str {
    match variant.kind {
        VariantKind::Base => "base",
        VariantKind::Trained { .. } => "trained",
        VariantKind::Merged { .. } => "merged",
        VariantKind::Averaged { .. } => "averaged",
    }
}
