//! Settings, trials that did not end, and how to read the page.

use std::fmt::Write;

use super::{Page, ROWS};
use crate::store::record::{Unfinished, VariantKind};

pub fn settings(out: &mut String, page: &Page) {
    let run = page.run;
    out.push_str("\n## Settings\n\n");
    if run.is_of_the_base_alone() {
        let _ = writeln!(out, "Base: {}.", run.base);
        return;
    }
    let _ = writeln!(out, "Base: {}. Training rows: {}.\n", run.base, {
        let sets: Vec<String> = run.data.iter().map(|(name, rows)| format!("{name} ({rows})")).collect();
        sets.join(", ")
    });
    let shared: Vec<String> = run.settings.iter().map(|(k, v)| format!("`{k}` {v}")).collect();
    let _ = writeln!(out, "Of all trials: {}.\n", shared.join(", "));
    let mut keys: Vec<&str> = run.axes.iter().map(|(k, _)| k.as_str()).collect();
    if keys.is_empty() {
        // Named trials have settings, but no axes.
        keys.extend(run.variants.iter().flat_map(|v| v.settings.keys()).map(String::as_str));
        keys.sort_unstable();
        keys.dedup();
    }
    if keys.is_empty() {
        return;
    }
    let _ =
        writeln!(out, "| Variant | {} | α |", keys.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(" | "));
    let _ = writeln!(out, "|---|{}", "---|".repeat(keys.len() + 1));
    for &i in &page.shown {
        let v = &run.variants[i];
        let values: Vec<&str> = keys.iter().map(|k| v.settings.get(*k).map_or("–", String::as_str)).collect();
        let alpha = match &v.kind {
            VariantKind::Merged { alpha, layers: None, .. } => format!("{alpha:.3}"),
            VariantKind::Merged { alpha, layers: Some(_), .. } => format!("{alpha:.3}, by layer"),
            _ => "–".into(),
        };
        let _ = writeln!(out, "| {} | {} | {alpha} |", v.label, values.join(" | "));
    }
    if page.shown.len() < page.finals.len() {
        out.push_str("\nThose of all variants are in [settings](tables/settings.csv).\n");
    }
}

/// Trials that were pruned or failed, with the reason.
pub fn unfinished(out: &mut String, page: &Page) {
    let all = &page.run.unfinished;
    if all.is_empty() {
        return;
    }
    let count = |state: &str| all.iter().filter(|u| u.state == state).count();
    let known: Vec<String> = ["pruned", "failed"]
        .into_iter()
        .filter(|state| count(state) > 0)
        .map(|state| format!("{} {state}", count(state)))
        .collect();
    let _ = writeln!(out, "\n## Not finished\n\nThese were not trained to their end: {}.\n", known.join(", "));
    out.push_str("| Trial | State | Step | Judged by | Reason |\n|---|---|---:|---:|---|\n");
    let mut shown: Vec<&Unfinished> = all.iter().collect();
    // What failed asks for a look; what was pruned has its score.
    shown.sort_by_key(|u| u.state != "failed");
    for u in shown.iter().take(ROWS) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            u.label,
            u.state,
            u.step.map_or_else(|| "–".into(), |step| step.to_string()),
            u.score.map_or_else(|| "–".into(), |score| format!("{score:.4}")),
            u.reason
        );
    }
    if all.len() > ROWS {
        let _ = writeln!(out, "\n{} more are in the run's `record.json`, under `unfinished`.", all.len() - ROWS);
    }
}

pub fn notes(out: &mut String, page: &Page) {
    let training = if page.statistics.has_seeds() {
        "They hold the noise of training with another seed only where the page says so"
    } else {
        "They do not hold the noise of training with another seed"
    };
    let _ = writeln!(
        out,
        "\n## How to read this\n\n- **dev** is a task's validation split, or where it has none a fixed slice of its training split. Variants, \
         checkpoints and α are chosen on dev; test is only reported. The dev score of what was chosen is too high by the choice, its test score is \
         not.\n- Intervals hold 95 %: bias-corrected and accelerated bootstrap intervals (BCa, 1,000 resamples) over rows; Student's over up to 30 \
         experiments or sets (clustering). Of a mean, every task is resampled by itself: it would move so with other examples of these tasks, not with \
         other tasks. {training}.\n- The same resamples serve all variants, so differences are paired; their intervals and p-values are \
         Student's with the paired standard error.\n- p-values of the comparisons with the chosen variant are corrected by Holm's method; *no \
         difference shown* means that the corrected p is above 0.05, not that there is none."
    );
    for note in &page.run.notes {
        let _ = writeln!(out, "- {note}.");
    }
    out.push_str("\nThe numbers: [scores](tables/scores.csv), [settings](tables/settings.csv), [α](tables/alpha.csv), [losses](tables/losses.csv). Each plot is in `plots/` as PNG and SVG.\n");
}
