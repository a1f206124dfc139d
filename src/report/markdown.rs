//! `README.md` of a report.

use std::fmt::Write;

use super::escape;
use super::plot::Plot;
use super::statistics::{CHOICE, Difference, Estimate, Statistics, is_final};
use crate::metric::bootstrap;
use crate::store::record::{RunRecord, Variant, VariantKind};

/// A fraction in points with one decimal.
fn points(value: f64) -> String {
    if value.is_finite() { format!("{:.1}", 100.0 * value) } else { "–".into() }
}

fn signed(value: f64) -> String {
    if value.is_finite() { format!("{:+.1}", 100.0 * value) } else { "–".into() }
}

fn cell(estimate: Option<Estimate>) -> String {
    estimate.map_or_else(
        || "–".into(),
        |e| {
            let half = (e.interval.1 - e.interval.0) / 2.0;
            if half.is_finite() { format!("{} ± {}", points(e.score), points(half)) } else { points(e.score) }
        },
    )
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "p < 0.001".into() } else { format!("p = {p:.3}") }
}

/// The whole page.
pub fn page(run: &RunRecord, statistics: &Statistics, plots: &[Plot]) -> String {
    let run = &escape::record(run);
    let mut out = String::new();
    // A checkpoint on the way stands in the tables only if it was chosen.
    let is_chosen = |v: &Variant| run.choice.as_ref().is_some_and(|c| c.id == v.id);
    let finals: Vec<usize> =
        (0..run.variants.len()).filter(|&i| is_final(&run.variants[i]) || is_chosen(&run.variants[i])).collect();
    if run.choice.as_ref().is_some_and(|c| c.on == "test") {
        out.push_str("> **Chosen on test:** the scores of the chosen variant below are too high by that choice.\n\n");
    }
    let _ = writeln!(out, "# {}\n", run.name);
    summary(&mut out, run, statistics, &finals);
    out.push_str("\n## Scores on test\n\n");
    table(&mut out, run, statistics, "test", &finals);
    legend(&mut out, run, statistics);
    picture(&mut out, plots, "heat-map", "Differences to the base by task, on test");
    if !run.searches.is_empty() {
        out.push_str("\n## α of SLERP\n\n");
        alpha(&mut out, run, statistics);
        picture(&mut out, plots, "alpha", "Dev score by α, with 95 % bands; the chosen α is marked");
    }
    if plots.iter().any(|p| p.name.starts_with("effect-")) {
        out.push_str("\n## What each setting does\n\n");
        for plot in plots.iter().filter(|p| p.name.starts_with("effect-")) {
            picture(&mut out, plots, &plot.name, &plot.title);
        }
    }
    if !run.curves.is_empty() {
        out.push_str("\n## Training\n\n");
        picture(&mut out, plots, "losses", "Training loss (smoothed) and dev loss by step");
        picture(&mut out, plots, "dev-score", "Mean reciprocal rank of the positive among all dev positives, by step");
        checkpoints(&mut out, run, statistics);
    }
    out.push_str("\n## Scores on dev\n\n");
    let seeds = run.variants.iter().flat_map(|v| &v.dev).map(|t| t.seeds.len() + 1).max().unwrap_or(1);
    let mean = if seeds > 1 { format!(": means over {seeds} protocol seeds") } else { String::new() };
    let _ = writeln!(out, "What the choices were made on{mean}.\n");
    table(&mut out, run, statistics, "dev", &finals);
    settings(&mut out, run, &finals);
    noise(&mut out, run);
    notes(&mut out, run);
    out
}

fn summary(out: &mut String, run: &RunRecord, statistics: &Statistics, finals: &[usize]) {
    let Some(choice) = &run.choice else {
        out.push_str("Nothing could be chosen: no task has a dev side.\n");
        return;
    };
    let Some(chosen) = run.variants.iter().position(|v| v.id == choice.id) else { return };
    let variant = &run.variants[chosen];
    let _ = writeln!(out, "**Chosen: {}** ({}).\n", variant.label, choice.why);
    if let VariantKind::Merged { first, second, alpha, auto, .. } = &variant.kind {
        let how = if *auto { "found on dev" } else { "given" };
        let _ = writeln!(out, "- α = {alpha:.3} ({how}): {:.0} % of the way from {first} to {second}.", 100.0 * alpha);
    }
    if !variant.settings.is_empty() {
        let text: Vec<String> = variant.settings.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        let _ = writeln!(out, "- Its settings: {}; those of all trials are below.", text.join(", "));
    }
    let rule = choice.by.as_str();
    let measure = match rule {
        "mean_task" => "Mean (Task)",
        "mean_task_type" => "Mean (TaskType)",
        task => &escape::text(task),
    };
    if let Some(e) = statistics.estimate("test", chosen, rule) {
        let (from, to) = (points(e.interval.0), points(e.interval.1));
        let _ = writeln!(out, "- On test: {measure} {} (95 % interval {from} to {to}).", points(e.score));
    }
    // Every comparison that the page makes with the chosen is one hypothesis of the family that Holm's method corrects.
    let others: Vec<usize> = finals.iter().copied().filter(|&i| i != chosen).collect();
    let differences: Vec<(usize, Difference)> =
        others.iter().filter_map(|&i| Some((i, statistics.difference("test", chosen, i, rule)?))).collect();
    let adjusted = bootstrap::holm(&differences.iter().map(|(_, d)| d.p).collect::<Vec<_>>());
    let say = |label: &str, d: &Difference, p: f64| {
        let verdict = if d.interval.0 <= 0.0 && d.interval.1 >= 0.0 { ": no difference shown" } else { "" };
        format!(
            "{} points against {label} (95 % interval {} to {}, {} after Holm{verdict})",
            signed(d.difference),
            signed(d.interval.0),
            signed(d.interval.1),
            p_value(p)
        )
    };
    if let Some(at) = differences.iter().position(|(i, _)| run.variants[*i].kind == VariantKind::Base) {
        let _ = writeln!(out, "- {}.", say("the base", &differences[at].1, adjusted[at]));
    }
    for (name, kind) in statistics.tasks_on("test") {
        let base = run.variants.iter().position(|v| v.kind == VariantKind::Base);
        if kind == "STS"
            && let Some(base) = base.filter(|b| *b != chosen)
            && let (Some(a), Some(b), Some(d)) = (
                statistics.task("test", chosen, &name),
                statistics.task("test", base, &name),
                statistics.difference("test", chosen, base, &name),
            )
        {
            let _ = writeln!(
                out,
                "- {name}: {} against the base's {}, {} points (95 % interval {} to {}, {}).",
                points(a.score),
                points(b.score),
                signed(d.difference),
                signed(d.interval.0),
                signed(d.interval.1),
                p_value(d.p)
            );
        }
    }
    let on = choice.on.as_str();
    // A merge at α = 0 or 1 is one of its two models.
    let is_same = |i: usize| match &run.variants[i].kind {
        VariantKind::Merged { first, second, alpha, .. } => {
            (*alpha == 0.0 && *first == variant.label) || (*alpha == 1.0 && *second == variant.label)
        }
        _ => false,
    };
    let runner_up = others
        .iter()
        .filter(|i| !is_same(**i))
        .filter_map(|&i| Some((i, statistics.estimate(CHOICE, i, &choice.by)?.score)))
        .reduce(|best, next| if next.1 > best.1 { next } else { best });
    if let Some((second, _)) = runner_up
        && let Some(at) = differences.iter().position(|(i, _)| *i == second)
    {
        let label = format!("the next best on {on}, {}", run.variants[second].label);
        let _ = writeln!(out, "- {}.", say(&label, &differences[at].1, adjusted[at]));
    }
    let shares = statistics.best_shares(CHOICE, finals, &choice.by);
    if let Some(share) = shares.get(&chosen) {
        let _ = writeln!(
            out,
            "- It is the best of the {} variants in {:.0} % of the bootstrap resamples of {on}.",
            finals.len(),
            100.0 * share
        );
    }
}

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
    columns.extend(tasks.iter().map(|(name, _)| (name.clone(), name.clone())));
    columns
}

fn value(statistics: &Statistics, on: &str, variant: usize, rule: &str) -> Option<Estimate> {
    if rule.starts_with("mean_") || rule.starts_with("type:") {
        statistics.estimate(on, variant, rule)
    } else {
        statistics.task(on, variant, rule)
    }
}

fn table(out: &mut String, run: &RunRecord, statistics: &Statistics, on: &str, rows: &[usize]) {
    let columns = columns(statistics, on);
    let chosen = run.choice.as_ref().map(|c| c.id.as_str());
    let headings: Vec<&str> = columns.iter().map(|c| c.0.as_str()).collect();
    let _ = writeln!(out, "| Variant | {} |", headings.join(" | "));
    let _ = writeln!(out, "|---|{}", "---:|".repeat(columns.len()));
    let cells: Vec<Vec<Option<Estimate>>> =
        rows.iter().map(|&row| columns.iter().map(|(_, rule)| value(statistics, on, row, rule)).collect()).collect();
    let best: Vec<Option<String>> = (0..columns.len())
        .map(|c| {
            let top = cells.iter().filter_map(|row| row[c].map(|e| e.score)).fold(f64::NEG_INFINITY, f64::max);
            top.is_finite().then(|| points(top))
        })
        .collect();
    for (row, values) in rows.iter().zip(&cells) {
        let variant = &run.variants[*row];
        let mark = if Some(variant.id.as_str()) == chosen { " ← chosen" } else { "" };
        let shown: Vec<String> = values
            .iter()
            .zip(&best)
            .map(|(value, best)| {
                let text = cell(*value);
                let is_best = value.is_some_and(|v| Some(points(v.score)) == *best);
                if is_best { format!("**{text}**") } else { text }
            })
            .collect();
        let _ = writeln!(out, "| {}{mark} | {} |", variant.label, shown.join(" | "));
    }
}

fn legend(out: &mut String, run: &RunRecord, statistics: &Statistics) {
    let tasks = statistics.tasks_on("test");
    let names: Vec<&str> = tasks.iter().map(|t| t.0.as_str()).collect();
    let _ = writeln!(
        out,
        "\nScores are fractions × 100 at mteb's seed 42 (draws of scikit-learn {}), ± half of the 95 % bootstrap interval; the best of a \
         column is bold. Means are over these {} tasks: {}.{}",
        run.protocol.trim_start_matches("sklearn-"),
        names.len(),
        names.join(", "),
        limits(run)
    );
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

fn picture(out: &mut String, plots: &[Plot], name: &str, text: &str) {
    if plots.iter().any(|p| p.name == name) {
        let _ = writeln!(out, "![{text}](plots/{name}.png)\n");
    }
}

fn alpha(out: &mut String, run: &RunRecord, statistics: &Statistics) {
    let by = run.choice.as_ref().map_or("mean_task_type", |c| c.by.as_str());
    out.push_str(
        "α is the weight of the second model: 0 is the first, 1 the second. It was searched on dev: a coarse grid, then halving \
         around the best.\n\n",
    );
    let _ = writeln!(
        out,
        "| First (α = 0) | Second (α = 1) | α | dev at α | dev at 0 | dev at 1 | test at α | evaluations | nearly parallel |"
    );
    out.push_str("|---|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for search in &run.searches {
        let at = |alpha: f64| search.points.iter().find(|p| p.alpha == alpha).map_or(f64::NAN, |p| p.score);
        let merged = run.variants.iter().position(|v| {
            matches!(&v.kind, VariantKind::Merged { first, second, auto: true, .. } if *first == search.first && *second == search.second)
        });
        let test = merged.and_then(|v| value(statistics, "test", v, by));
        let _ = writeln!(
            out,
            "| {} | {} | {:.3} | {} | {} | {} | {} | {} | {:.0} % |",
            search.first,
            search.second,
            search.chosen,
            points(at(search.chosen)),
            points(at(0.0)),
            points(at(1.0)),
            cell(test),
            search.evaluations,
            100.0 * search.linear_share
        );
    }
    out.push_str("\nNearly parallel: the share of the tensors that differ for which SLERP falls back to linear interpolation.\n\n");
}

fn checkpoints(out: &mut String, run: &RunRecord, statistics: &Statistics) {
    let on_the_way: Vec<usize> = (0..run.variants.len()).filter(|&i| !is_final(&run.variants[i])).collect();
    if on_the_way.is_empty() {
        return;
    }
    out.push_str("\n### Every checkpoint\n\n| Trial | Step | dev Mean (TaskType) | test Mean (TaskType) |\n|---|---:|---:|---:|\n");
    for (i, variant) in run.variants.iter().enumerate() {
        if let VariantKind::Trained { trial, step, steps } = &variant.kind {
            let _ = writeln!(
                out,
                "| {trial} | {step} of {steps} | {} | {} |",
                cell(statistics.estimate("dev", i, "mean_task_type")),
                cell(statistics.estimate("test", i, "mean_task_type"))
            );
        }
    }
}

fn settings(out: &mut String, run: &RunRecord, finals: &[usize]) {
    out.push_str("\n## Settings\n\n");
    let _ = writeln!(out, "Base: {}. Training rows: {}.\n", run.base, {
        let sets: Vec<String> = run.data.iter().map(|(name, rows)| format!("{name} ({rows})")).collect();
        sets.join(", ")
    });
    let shared: Vec<String> = run.settings.iter().map(|(k, v)| format!("`{k}` {v}")).collect();
    let _ = writeln!(out, "Of all trials: {}.\n", shared.join(", "));
    if run.axes.is_empty() {
        return;
    }
    let keys: Vec<&str> = run.axes.iter().map(|(k, _)| k.as_str()).collect();
    let _ =
        writeln!(out, "| Variant | {} | α |", keys.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(" | "));
    let _ = writeln!(out, "|---|{}", "---|".repeat(keys.len() + 1));
    for &i in finals {
        let v: &Variant = &run.variants[i];
        let values: Vec<&str> = keys.iter().map(|k| v.settings.get(*k).map_or("–", String::as_str)).collect();
        let alpha = if let VariantKind::Merged { alpha, .. } = &v.kind { format!("{alpha:.3}") } else { "–".into() };
        let _ = writeln!(out, "| {} | {} | {alpha} |", v.label, values.join(" | "));
    }
}

fn noise(out: &mut String, run: &RunRecord) {
    let mut lines = Vec::new();
    let Some(first) = run.variants.first() else { return };
    for task in first.test.iter().filter(|t| !t.seeds.is_empty()) {
        let spreads: Vec<f64> = run
            .variants
            .iter()
            .filter_map(|v| {
                let t = v.test.iter().find(|t| t.name == task.name)?;
                let values: Vec<f64> = std::iter::once(t.main_score).chain(t.seeds.iter().map(|s| s.1)).collect();
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                Some((values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt())
            })
            .collect();
        let mean = spreads.iter().sum::<f64>() / spreads.len().max(1) as f64;
        lines.push(format!("| {} | {} | {} |", task.name, task.seeds.len() + 1, points(mean)));
    }
    if !lines.is_empty() {
        out.push_str("\n## Noise of the protocol\n\nStandard deviation of the score when only the protocol's seed changes (other training samples, other bootstrap samples), in points, mean over the variants.\n\n| Task | Seeds | Standard deviation |\n|---|---:|---:|\n");
        out.push_str(&lines.join("\n"));
        out.push('\n');
    }
}

fn notes(out: &mut String, run: &RunRecord) {
    out.push_str("\n## How to read this\n\n");
    out.push_str(
        "- **dev** is a task's validation split, or where it has none a fixed slice of its training split. Variants, checkpoints and α are \
         chosen on dev; test is only reported.\n- Intervals are percentile bootstrap intervals (1,000 resamples): over rows for \
         classification and STS, over experiments or sets for clustering. The same resamples serve all variants, so differences are \
         paired. They do not hold the noise of training with another seed.\n- p-values of the comparisons with the chosen variant \
         are corrected by Holm's method.\n",
    );
    for note in &run.notes {
        let _ = writeln!(out, "- {note}.");
    }
    out.push_str("\nThe numbers: [scores](tables/scores.csv), [settings](tables/settings.csv), [α](tables/alpha.csv), [losses](tables/losses.csv). Each plot is in `plots/` as PNG and SVG.\n");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::metric::outcomes::Outcomes;
    use crate::store::record::{Choice, TaskRecord};

    fn task(right: usize, seeds: &[(u64, f64)]) -> TaskRecord {
        let outcomes = (0..100).map(|i| f64::from(u8::from(i < right))).collect();
        TaskRecord {
            name: "A".into(),
            task_type: "Classification".into(),
            metric: "accuracy".into(),
            main_score: right as f64 / 100.0,
            seeds: seeds.to_vec(),
            rows: 100,
            outcomes: Outcomes::PerExample(outcomes),
        }
    }

    fn variant(id: &str, label: &str, kind: VariantKind, right: usize, seeds: &[(u64, f64)]) -> Variant {
        Variant {
            id: id.into(),
            label: label.into(),
            kind,
            settings: BTreeMap::new(),
            cost: crate::store::record::Cost::default(),
            dev: vec![task(right, seeds)],
            test: vec![task(right, seeds)],
        }
    }

    fn record(by: &str) -> RunRecord {
        record_on("dev", by)
    }

    fn record_on(on: &str, by: &str) -> RunRecord {
        let trained = |trial: &str| VariantKind::Trained { trial: trial.into(), step: 5, steps: 5 };
        RunRecord {
            name: "run".into(),
            base: "base".into(),
            settings: BTreeMap::new(),
            data: Vec::new(),
            axes: Vec::new(),
            variants: vec![
                variant("0", "base", VariantKind::Base, 20, &[]),
                variant("1", "a|b", trained("a|b"), 60, &[(1, 0.7), (2, 0.8)]),
                variant("2", "c", trained("c"), 61, &[(1, 0.5), (2, 0.5)]),
            ],
            curves: Vec::new(),
            searches: Vec::new(),
            choice: Some(Choice { id: "1".into(), on: on.into(), by: by.into(), score: 0.7, why: "highest".into() }),
            unfinished: Vec::new(),
            limit: None,
            limits: BTreeMap::new(),
            protocol: "sklearn-1.9".into(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_page_names_the_choice_its_rule_and_the_difference() {
        for (by, name) in [("mean_task_type", "Mean (TaskType)"), ("mean_task", "Mean (Task)"), ("A", "A")] {
            let run = record(by);
            let page = page(&run, &Statistics::new(&run), &[]);
            assert!(page.contains("**Chosen: a\\|b**"), "{page}");
            assert!(page.contains(&format!("On test: {name} 60.0 (95 % interval ")), "{page}");
            assert!(page.contains("+40.0 points against the base (95 % interval "), "{page}");
            // A cell more in one row than in another would break the table.
            let cells = |line: &str| line.replace("\\|", "").matches('|').count();
            let rows: Vec<&str> = page.lines().skip_while(|l| !l.starts_with("| Variant")).take(5).collect();
            assert!(rows.iter().all(|row| cells(row) == cells(rows[0])), "{rows:?}");
        }
    }

    #[test]
    fn dev_scores_are_means_over_seeds_as_the_choice_takes_them() {
        let run = record("mean_task");
        let statistics = Statistics::new(&run);
        let dev = statistics.estimate("dev", 1, "mean_task").unwrap();
        assert!((dev.score - 0.7).abs() < 1e-12 && dev.interval.0 < 0.7 && dev.interval.1 > 0.7);
        assert_eq!(statistics.estimate("test", 1, "mean_task").unwrap().score, 0.6);
        // By the mean over seeds `a|b` (0.7) beats `c` (0.54) in nearly every resample; at seed 42 it would lose.
        for on in ["dev", "test"] {
            let run = record_on(on, "mean_task");
            assert!(Statistics::new(&run).best_shares(CHOICE, &[0, 1, 2], "mean_task")[&1] > 0.95, "{on}");
        }
    }
}
