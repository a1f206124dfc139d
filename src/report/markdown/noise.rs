//! Where a score's uncertainty comes from.

use std::fmt::Write;

use super::{CHOICE, Page, ROWS, between, points};
use crate::report::escape;
use crate::report::statistics::SeedGroup;
use crate::store::record::VariantKind;
use crate::store::scoring::variance;

/// Settings over their training seeds.
pub fn seeds(out: &mut String, page: &Page) {
    if !page.statistics.has_seeds() {
        return;
    }
    let (dev, test) = (page.statistics.groups(CHOICE, page.rule), page.statistics.groups("test", page.rule));
    let of_choice = |group: &SeedGroup| dev.iter().find(|d| d.members == group.members).map_or(f64::NAN, |d| d.mean);
    let mut shown: Vec<&SeedGroup> =
        test.iter().filter(|g| g.members.iter().any(|i| page.finals.contains(i))).collect();
    let all = shown.len();
    shown.sort_by(|a, b| of_choice(b).total_cmp(&of_choice(a)));
    shown.truncate(ROWS);
    let _ = writeln!(
        out,
        "\n## Settings over training seeds\n\n{} in points. SD: between training seeds, with n − 1. Interval of the mean: Student's, over training \
         seeds alone, on these very examples. Another run: where the score of one more training run lies, with 95 %, over all examples, training seeds and \
         protocol seeds.\n",
        page.measure()
    );
    let _ = writeln!(
        out,
        "| Settings | seeds | {} | test | SD | interval of the mean | another run |\n|---|---:|---:|---:|---:|---:|---:|",
        page.on()
    );
    for group in &shown {
        let mark = if page.chosen.is_some_and(|c| group.members.contains(&c)) { " ← chosen" } else { "" };
        let _ = writeln!(
            out,
            "| {}{mark} | {} | {} | {} | {} | {} | {} |",
            name(page, group),
            group.members.len(),
            points(of_choice(group)),
            points(group.mean),
            group.sd.map_or_else(|| "–".into(), points),
            group.interval.map_or_else(|| "–".into(), between),
            group.total_interval.map_or_else(|| "–".into(), between)
        );
    }
    if shown.len() < all {
        let _ = writeln!(out, "\nThe {ROWS} best of {all} by the mean on {}.", page.on());
    }
}

fn name(page: &Page, group: &SeedGroup) -> String {
    let Some(first) = group.members.first().map(|&i| &page.run.variants[i]) else { return String::new() };
    let settings: Vec<String> =
        group.settings.iter().map(|(k, v)| format!("{} {}", escape::text(last(k)), escape::text(v))).collect();
    match &first.kind {
        VariantKind::Trained { step, steps, .. } => {
            let at = if step == steps { String::new() } else { format!(", step {step}") };
            let settings = if settings.is_empty() { "all trials".into() } else { settings.join(", ") };
            if group.members.len() == 1 { first.label.clone() } else { format!("{settings}{at}") }
        }
        _ if group.members.len() > 1 => format!("{} and {} more", first.label, group.members.len() - 1),
        _ => first.label.clone(),
    }
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// The three sources side by side, and the protocol's by task.
pub fn sources(out: &mut String, page: &Page) {
    let groups = page.statistics.groups("test", page.rule);
    let own = page.chosen.and_then(|c| groups.iter().find(|g| g.members.contains(&c)));
    if let Some(group) = own {
        let _ = writeln!(
            out,
            "\n## Sources of noise\n\nStandard deviations of the chosen variant's {} on test, in points.\n\n| What changes | SD | How it is known |\n|---|---:|---|",
            page.measure()
        );
        let _ = writeln!(out, "| The examples | {} | the bootstrap |", points(group.noise.examples));
        let (of, how) = match group.noise.training {
            Some(training) => {
                (points(training), format!("{} training runs that differ in the seed alone", group.members.len()))
            }
            None => {
                ("–".into(), "not measured: one training seed (`train.seed: [1, 2, 3]` in the grid measures it)".into())
            }
        };
        let is_base = page.chosen == page.base;
        if is_base {
            let _ = writeln!(out, "| The training seed | – | the base was not trained |");
        } else {
            let _ = writeln!(out, "| The training seed | {of} | {how} |");
        }
        let seeds = group.members.first().map(|&i| &page.run.variants[i].test);
        let seeds = seeds.and_then(|tasks| tasks.iter().map(|t| t.seeds.len() + 1).max()).unwrap_or(1);
        let (of, how) = match group.noise.protocol {
            Some(protocol) => (points(protocol), format!("{seeds} protocol seeds of the same model")),
            None => ("–".into(), "not measured: one protocol seed".into()),
        };
        let _ = writeln!(out, "| The protocol's seed | {of} | {how} |");
    }
    protocol(out, page);
}

fn protocol(out: &mut String, page: &Page) {
    let run = page.run;
    let Some(first) = run.variants.first() else { return };
    let mut lines = Vec::new();
    for task in first.test.iter().filter(|t| !t.seeds.is_empty()) {
        let spreads: Vec<f64> = run
            .variants
            .iter()
            .filter_map(|v| v.test.iter().find(|t| t.name == task.name))
            .map(|t| variance(&t.by_seed()).sqrt())
            .filter(|spread| spread.is_finite())
            .collect();
        let mean = spreads.iter().sum::<f64>() / spreads.len().max(1) as f64;
        lines.push(format!("| {} | {} | {} |", escape::text(&task.name), task.seeds.len() + 1, points(mean)));
    }
    if !lines.is_empty() {
        out.push_str("\n## Noise of the protocol\n\nStandard deviation of the score when only the protocol's seed changes (other training samples, other bootstrap samples), in points, mean over the variants.\n\n| Task | Seeds | Standard deviation |\n|---|---:|---:|\n");
        out.push_str(&lines.join("\n"));
        out.push('\n');
    }
}
