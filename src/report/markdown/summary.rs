//! The first lines: what was chosen, and by how much it is better.

use std::fmt::Write;

use super::{CHOICE, Page, between, p_value, parts, points, scores, signed};
use crate::metric::interval;
use crate::report::statistics::Difference;
use crate::store::choice::same_model;

pub fn summary(out: &mut String, page: &Page) {
    let (run, statistics, rule) = (page.run, page.statistics, page.rule);
    let Some(choice) = &run.choice else {
        if let (Some(base), true) = (page.base, run.is_of_the_base_alone()) {
            out.push_str("Nothing was trained: the base alone was scored, on test.\n\n");
            means(out, page, base);
            return;
        }
        out.push_str("Nothing could be chosen: no task has a dev side.\n");
        return;
    };
    let Some(chosen) = page.chosen else { return };
    let variant = &run.variants[chosen];
    let _ = writeln!(out, "**Chosen: {}** ({}).\n", variant.label, choice.why);
    if let Some(parts) = parts(variant) {
        let _ = writeln!(out, "- {parts}.");
    }
    if !variant.settings.is_empty() {
        let text: Vec<String> = variant.settings.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        let _ = writeln!(out, "- Its settings: {}; those of all trials are below.", text.join(", "));
    }
    means(out, page, chosen);
    compared(out, page, chosen);
    let all: Vec<usize> = (0..run.variants.len()).collect();
    let shares = statistics.best_shares(CHOICE, &all, rule);
    if let Some(share) = shares.get(&chosen) {
        let groups = statistics.groups(CHOICE, rule);
        let (what, count) = if statistics.has_seeds() {
            ("Its settings are the best of the", format!("{} groups of settings", groups.len()))
        } else {
            ("It is the best of the", format!("{} variants", shares.len()))
        };
        let training = if statistics.has_seeds() { " with noise of training" } else { "" };
        let _ = writeln!(
            out,
            "- {what} {count} in {:.0} % of the bootstrap resamples of {}{training}: about the probability that it truly is.",
            100.0 * share,
            choice.on
        );
    }
}

/// A variant's score on test, and those of published models beside it.
fn means(out: &mut String, page: &Page, variant: usize) {
    let (measure, rule) = (page.measure(), page.rule);
    let Some(ours) = page.statistics.estimate("test", variant, rule) else { return };
    let (score, ends) = (points(ours.score), between(ours.interval));
    let _ = writeln!(out, "- On test: {measure} {score} (95 % interval {ends}).");
    for published in &page.run.published {
        if let Some(theirs) = scores::published_score(page.statistics, published, rule) {
            let (name, difference) = (&published.name, signed(ours.score - theirs));
            let _ = writeln!(
                out,
                "- {name} as published: {measure} {}; ours less it {difference}, not paired.",
                points(theirs)
            );
        }
    }
}

/// Lines against the base, on STS tasks, and against the next best.
fn compared(out: &mut String, page: &Page, chosen: usize) {
    let (run, statistics, rule) = (page.run, page.statistics, page.rule);
    // Every final variant is compared with the chosen: one family, whichever of them the page tells of.
    let others: Vec<usize> = page.finals.iter().copied().filter(|&i| i != chosen).collect();
    let mut differences: Vec<(usize, Difference)> =
        others.iter().filter_map(|&i| Some((i, statistics.difference("test", chosen, i, rule)?))).collect();
    differences.retain(|(i, _)| !same_model(&run.variants[*i], &run.variants[chosen]));
    let adjusted = interval::holm(&differences.iter().map(|(_, d)| d.p).collect::<Vec<_>>());
    let say = |label: &str, at: usize| {
        let (d, p) = (&differences[at].1, adjusted[at]);
        let verdict = if p <= 0.05 { "" } else { ": no difference shown" };
        format!(
            "{} points against {label} (95 % interval {} to {}, {} after Holm{verdict})",
            signed(d.difference),
            signed(d.interval.0),
            signed(d.interval.1),
            p_value(p)
        )
    };
    if let Some(at) = differences.iter().position(|(i, _)| Some(*i) == page.base) {
        let _ = writeln!(out, "- {}.", say("the base", at));
    }
    correlations(out, page, chosen);
    let candidates: Vec<usize> = differences.iter().map(|(i, _)| *i).collect();
    let told = run.choice.as_ref().and_then(|c| c.runner_up.as_ref());
    let told = told.and_then(|label| candidates.iter().copied().find(|&i| page.label(i) == label));
    let scored = |i: &usize| statistics.score(CHOICE, *i, rule).is_some();
    let runner_up = told.or_else(|| page.ranked(&candidates).into_iter().find(scored));
    if let Some(at) = runner_up.and_then(|second| differences.iter().position(|(i, _)| *i == second)) {
        let label = format!("the next best on {}, {}", page.on(), page.label(differences[at].0));
        let _ = writeln!(out, "- {}.", say(&label, at));
    }
}

/// STS by itself, against the base: the one task type whose score needs no protocol.
fn correlations(out: &mut String, page: &Page, chosen: usize) {
    let statistics = page.statistics;
    let Some(base) = page.base.filter(|b| *b != chosen) else { return };
    let tasks = statistics.tasks_on("test").into_iter().filter(|(_, kind)| kind == "STS");
    let found: Vec<(String, Difference)> = tasks
        .filter_map(|(name, _)| Some((name.clone(), statistics.difference("test", chosen, base, &name)?)))
        .collect();
    let adjusted = interval::holm(&found.iter().map(|(_, d)| d.p).collect::<Vec<_>>());
    let after = if found.len() > 1 { format!(" after Holm over {} STS tasks", found.len()) } else { String::new() };
    for ((name, d), p) in found.iter().zip(adjusted) {
        let score = |variant| statistics.score("test", variant, name).map_or_else(|| "–".into(), points);
        let _ = writeln!(
            out,
            "- {}: {} against the base's {}, {} points (95 % interval {} to {}, {}{after}).",
            crate::report::escape::text(name),
            score(chosen),
            score(base),
            signed(d.difference),
            signed(d.interval.0),
            signed(d.interval.1),
            p_value(p)
        );
    }
}
