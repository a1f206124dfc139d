//! Tables of scores and of differences.

use std::fmt::Write;

use super::{CHOICE, Page, ROWS, cell, points, signed};
use crate::metric::aggregate;
use crate::report::escape;
use crate::report::statistics::{Estimate, Statistics, is_final};
use crate::store::choice::same_model;
use crate::store::record::{Published, RunRecord, VariantKind};

/// Most variants that are compared with each other.
const COMPARED: usize = 8;

/// Columns of a score table: heading and rule.
fn columns(statistics: &Statistics, on: &str) -> Vec<(String, String)> {
    let tasks = statistics.tasks_on(on);
    let mut columns =
        vec![("Mean (Task)".to_string(), "mean_task".to_string()), ("Mean (TaskType)".into(), "mean_task_type".into())];
    let mut kinds: Vec<&String> = Vec::new();
    for (_, kind) in &tasks {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    // Where every type has one task, the tasks' own columns say it.
    if kinds.len() > 1 && kinds.len() < tasks.len() {
        columns.extend(kinds.iter().map(|kind| (format!("*{kind}*"), format!("type:{kind}"))));
    }
    columns.extend(tasks.iter().map(|(name, _)| (escape::text(name), name.clone())));
    columns
}

pub fn table(out: &mut String, page: &Page, on: &str, rows: &[usize]) {
    let columns = columns(page.statistics, on);
    let headings: Vec<&str> = columns.iter().map(|c| c.0.as_str()).collect();
    let _ = writeln!(out, "| Variant | {} |", headings.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(columns.len()));
    let cells: Vec<Vec<Option<Estimate>>> = rows
        .iter()
        .map(|&row| columns.iter().map(|(_, rule)| page.statistics.estimate(on, row, rule)).collect())
        .collect();
    let best: Vec<Option<String>> = (0..columns.len())
        .map(|c| {
            let top = cells.iter().filter_map(|row| row[c].map(|e| e.score)).fold(f64::NEG_INFINITY, f64::max);
            top.is_finite().then(|| points(top))
        })
        .collect();
    for (row, values) in rows.iter().zip(&cells) {
        let mark = if Some(*row) == page.chosen { " ← chosen" } else { "" };
        let shown: Vec<String> = values
            .iter()
            .zip(&best)
            .map(|(value, best)| {
                let text = cell(*value);
                let is_best = value.is_some_and(|v| Some(points(v.score)) == *best);
                if is_best { format!("**{text}**") } else { text }
            })
            .collect();
        let _ = writeln!(out, "| {}{mark} | {} |", page.label(*row), shown.join(" | "));
    }
    for published in page.run.published.iter().filter(|_| on == "test") {
        let score = |rule: &str| published_score(page.statistics, published, rule).map_or_else(|| "–".into(), points);
        let shown: Vec<String> = columns.iter().map(|(_, rule)| score(rule)).collect();
        let _ = writeln!(out, "| {} (published) | {} |", published.name, shown.join(" | "));
    }
}

/// A published model's score under a column; none of a mean where it lacks one of the tasks.
pub fn published_score(statistics: &Statistics, published: &Published, rule: &str) -> Option<f64> {
    let tasks = statistics.tasks_on("test").into_iter();
    let scores: Vec<(String, Option<f64>)> =
        tasks.map(|(name, kind)| (kind, published.scores.get(&name).copied())).collect();
    match rule {
        "mean_task" => aggregate::mean_task(&scores.iter().map(|(_, score)| *score).collect::<Vec<_>>()),
        "mean_task_type" => aggregate::mean_task_type(&scores),
        rule => match rule.strip_prefix("type:") {
            Some(kind) => aggregate::type_means(&scores).into_iter().find(|(known, _)| known == kind)?.1,
            None => published.scores.get(rule).copied(),
        },
    }
}

pub fn legend(out: &mut String, page: &Page) {
    let tasks = page.statistics.tasks_on("test");
    let names: Vec<String> = tasks.iter().map(|t| escape::text(&t.0)).collect();
    let _ = writeln!(
        out,
        "\nScores are fractions × 100 at mteb's seed 42 (draws of scikit-learn {}), ± half of the 95 % interval; the best of a \
         column is bold. Means are over these {} tasks: {}.{}",
        page.run.protocol.trim_start_matches("sklearn-"),
        names.len(),
        names.join(", "),
        limits(page.run)
    );
    if !page.run.published.is_empty() {
        out.push_str(
            "Rows marked *(published)* are as their authors gave them: without intervals, in no choice and never bold; a dash \
             where they have no score, or lack a task of the mean.\n",
        );
    }
    out.push('\n');
}

/// What limits of rows mean for a reader.
fn limits(run: &RunRecord) -> String {
    let single: Vec<String> = run.limits.iter().map(|(task, rows)| format!("{task} to {rows}")).collect();
    let what = match (run.limit, single.is_empty()) {
        (None, true) => return String::new(),
        (Some(n), true) => format!("Each split was limited to {n} rows"),
        (Some(n), false) => format!("Each split was limited to {n} rows, {}", single.join(", ")),
        (None, false) => format!("Splits were limited to rows: {}", single.join(", ")),
    };
    format!(" **{what}**, so the scores do not compare with published ones.")
}

/// The best few against each other.
pub fn pairs(out: &mut String, page: &Page) {
    let run = page.run;
    let mut top: Vec<usize> = Vec::new();
    // Of settings over several training seeds the best one stands for all.
    let groups = page.statistics.groups(CHOICE, page.rule);
    let together = |a: usize, b: usize| groups.iter().any(|g| g.members.contains(&a) && g.members.contains(&b));
    let fixed = page.chosen.into_iter().chain(page.base);
    for i in fixed.chain(page.ranked(&page.finals)) {
        let is_new = !top
            .iter()
            .any(|&known| known == i || together(known, i) || same_model(&run.variants[known], &run.variants[i]));
        if is_new && top.len() < COMPARED && page.statistics.score("test", i, page.rule).is_some() {
            top.push(i);
        }
    }
    // The chosen first, then by the score of the choice, the base in its place.
    let (first, rest) = top.split_at(top.len().min(usize::from(page.chosen.is_some())));
    let order: Vec<usize> = first.iter().copied().chain(page.ranked(rest)).collect();
    if order.len() < 3 {
        return;
    }
    let pairs = page.statistics.pairwise("test", page.rule, &order);
    let _ = writeln!(
        out,
        "\n## Against each other\n\nThe row's {} on test less the column's, in points, with p after Holm's correction over the {} pairs; \
         bold where a difference is shown (p at most 0.05). The variants are the best by the choice's rule on {}, and the base.\n",
        page.measure(),
        pairs.len(),
        page.on()
    );
    let heads: Vec<String> = (2..=order.len()).map(|n| format!("({n})")).collect();
    let _ = writeln!(out, "| | {} |", heads.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(heads.len()));
    for (at, &row) in order.iter().enumerate() {
        let cells: Vec<String> = order[1..]
            .iter()
            .map(|&column| match pairs.iter().find(|pair| pair.first == row && pair.second == column) {
                Some(pair) => {
                    let p = if pair.p_holm < 0.001 { "< 0.001".into() } else { format!("{:.3}", pair.p_holm) };
                    let mark = if pair.p_holm <= 0.05 { "**" } else { "" };
                    format!("{mark}{}{mark} ({p})", signed(pair.difference))
                }
                None => String::new(),
            })
            .collect();
        let _ = writeln!(out, "| ({}) {} | {} |", at + 1, page.label(row), cells.join(" | "));
    }
}

/// The scores of every checkpoint of the trials that were scored on the way.
pub fn checkpoints(out: &mut String, page: &Page) {
    let (run, statistics) = (page.run, page.statistics);
    if run.variants.iter().all(is_final) {
        return;
    }
    let trained = |i: &usize| matches!(run.variants[*i].kind, VariantKind::Trained { .. });
    let all: Vec<usize> = (0..run.variants.len()).filter(trained).collect();
    let shown = if all.len() <= 2 * ROWS { all.clone() } else { page.ranked(&all).into_iter().take(ROWS).collect() };
    let title = if shown.len() < all.len() { "Checkpoints" } else { "Every checkpoint" };
    let _ = writeln!(
        out,
        "\n### {title}\n\n| Trial | Step | dev Mean (TaskType) | test Mean (TaskType) |\n|---|---:|---:|---:|"
    );
    for &i in &shown {
        if let VariantKind::Trained { trial, step, steps } = &run.variants[i].kind {
            let _ = writeln!(
                out,
                "| {trial} | {step} of {steps} | {} | {} |",
                cell(statistics.estimate("dev", i, "mean_task_type")),
                cell(statistics.estimate("test", i, "mean_task_type"))
            );
        }
    }
    if shown.len() < all.len() {
        let _ = writeln!(
            out,
            "\nThe {} best of {} checkpoints by {} on {}; all of them are in [scores](tables/scores.csv).",
            shown.len(),
            all.len(),
            page.measure(),
            page.on()
        );
    }
}
