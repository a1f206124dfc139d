//! The head of the page: what was chosen, how good it is and how sure that is. Plain HTML, so that it stands there without
//! scripts, too.

use std::fmt::Write;

use super::super::scores::{Scores, title};
use super::super::statistics::{CHOICE, Difference, Estimate, Statistics, is_final};
use super::data::Extra;
use super::text;
use crate::store::record::{RunRecord, VariantKind};

fn points(value: f64) -> String {
    if value.is_finite() { format!("{:.1}", 100.0 * value) } else { "–".into() }
}

fn signed(value: f64) -> String {
    if value.is_finite() { format!("{:+.1}", 100.0 * value).replace('-', "−") } else { "–".into() }
}

fn count(n: usize, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// The warning, if one is due, the title and the verdict.
pub fn of(run: &RunRecord, statistics: &Statistics, scores: &Scores, extra: &Extra) -> String {
    let mut out = String::new();
    if run.choice.as_ref().is_some_and(|c| c.on == "test") {
        out.push_str(
            "<p class=\"warning\" role=\"note\"><strong>Chosen on test.</strong> The test scores of the chosen variant are too high \
             by that choice.</p>\n",
        );
    }
    let _ = writeln!(out, "<p class=\"eyebrow\">embeval report</p>\n<h1>{}</h1>", text(&run.name));
    let tasks = |on: &str| statistics.tasks_on(on).len();
    let sides = match (tasks("test"), tasks("dev")) {
        (test, 0) => format!("{} on test", count(test, "task")),
        (test, dev) => format!("{} on test, {dev} of them with a dev side", count(test, "task")),
    };
    if extra.sources.is_empty() {
        let finals = run.variants.iter().filter(|v| is_final(v)).count();
        let base = text(&run.base);
        let unfinished = match run.unfinished.len() {
            0 => String::new(),
            n => format!(" · <a href=\"#unfinished\">{} not trained to the end</a>", count(n, "trial")),
        };
        let _ =
            writeln!(out, "<p class=\"sub\">{} from <b>{base}</b> · {sides}{unfinished}</p>", count(finals, "variant"));
        verdict(&mut out, run, statistics, scores);
    } else {
        let _ = writeln!(
            out,
            "<p class=\"sub\">{} · {sides} · differences are to <b>{}</b></p>",
            count(run.variants.len(), "model"),
            text(&scores.reference)
        );
    }
    out
}

fn verdict(out: &mut String, run: &RunRecord, statistics: &Statistics, scores: &Scores) {
    let (Some(choice), Some(chosen)) = (&run.choice, scores.chosen) else {
        let (what, why) = match run.is_of_the_base_alone() {
            true => ("The base alone", "Nothing was trained, so nothing is chosen and dev was not scored."),
            false => ("Nothing could be chosen", "No task has a dev side."),
        };
        let _ = writeln!(out, "<section class=\"verdict\"><h2>{what}</h2><p>{why}</p></section>");
        return;
    };
    let variant = &run.variants[chosen];
    let _ = writeln!(
        out,
        "<section class=\"verdict\" aria-label=\"The choice\">\n<p class=\"label\">Chosen</p>\n<h2>{}</h2>\n<p class=\"why\">{}.{}</p>",
        text(&variant.label),
        text(&sentence(&choice.why.replacen(&choice.by, title(&choice.by), 1))),
        made(&variant.kind)
    );
    let measure = text(title(&scores.rule));
    out.push_str("<dl class=\"tiles\">\n");
    let mut tile = |name: &str, value: &str, note: &str, picture: &str| {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{value}{picture}<small>{note}</small></dd></div>");
    };
    let interval = |e: &Estimate| {
        let (low, high) = e.interval;
        if low.is_finite() { format!("95 %: {} to {}", points(low), points(high)) } else { "no interval".into() }
    };
    for (name, side) in [("test", &scores.test), ("dev", &scores.dev)] {
        if let Some(e) = side.get(chosen, &scores.rule) {
            tile(&format!("{measure} on {name}"), &points(e.score), &interval(&e), "");
        }
    }
    let against = |other: usize| {
        let on = if scores.test.column(&scores.rule).is_some() { "test" } else { "dev" };
        statistics.difference(on, chosen, other, &scores.rule).map(|d| (on, d))
    };
    if let Some(base) = scores.base.filter(|b| *b != chosen)
        && let Some((on, d)) = against(base)
    {
        tile(&format!("against the base, {on}"), &signed(d.difference), &said(&d), &whisker(&d));
    }
    if let Some(next) = scores.order.iter().copied().find(|&i| i != chosen && !is_same(run, i, &variant.label))
        && let Some((on, d)) = against(next)
    {
        let name = format!("against the best other, {on}");
        let note = format!("{}<br><span class=\"whom\">{}</span>", said(&d), text(&run.variants[next].label));
        tile(&name, &signed(d.difference), &note, &whisker(&d));
    }
    if let Some(share) = statistics.best_shares(CHOICE, &scores.order, &scores.rule).get(&chosen) {
        let note =
            format!("of {}, by the bootstrap over the rows of {}", count(scores.order.len(), "variant"), scores.on);
        tile("Chance to be the best", &format!("{:.0} %", 100.0 * share), &note, "");
    }
    out.push_str("</dl>\n</section>\n");
}

fn sentence(words: &str) -> String {
    let mut letters = words.trim_end_matches('.').chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn made(kind: &VariantKind) -> String {
    match kind {
        VariantKind::Merged { first, second, alpha, .. } => {
            format!(" α = {alpha:.3}: {:.0} % of the way from {} to {}.", 100.0 * alpha, text(first), text(second))
        }
        VariantKind::Averaged { models, .. } => format!(" A weighted mean of {} models.", models.len()),
        VariantKind::Trained { step, steps, .. } if step != steps => {
            format!(" Its checkpoint of step {step} of {steps}.")
        }
        _ => String::new(),
    }
}

/// A merge at α = 0 or 1 is one of its two models.
fn is_same(run: &RunRecord, i: usize, label: &str) -> bool {
    match &run.variants[i].kind {
        VariantKind::Merged { first, second, alpha, .. } => {
            (*alpha == 0.0 && first == label) || (*alpha == 1.0 && second == label)
        }
        _ => false,
    }
}

fn said(d: &Difference) -> String {
    if !d.interval.0.is_finite() {
        return "no interval".into();
    }
    let verdict = if d.interval.0 <= 0.0 && d.interval.1 >= 0.0 { ": no difference shown" } else { "" };
    format!("95 %: {} to {}{verdict}", signed(d.interval.0), signed(d.interval.1))
}

/// The difference and its interval about a line at zero.
fn whisker(d: &Difference) -> String {
    let (low, high) = d.interval;
    if !(low.is_finite() && high.is_finite()) {
        return String::new();
    }
    let reach = low.abs().max(high.abs()).max(1e-6) * 1.1;
    let x = |v: f64| format!("{:.1}", 60.0 + 58.0 * v / reach);
    let side = if low > 0.0 {
        "above"
    } else if high < 0.0 {
        "below"
    } else {
        "open"
    };
    format!(
        "<svg class=\"whisker {side}\" viewBox=\"0 0 120 16\" aria-hidden=\"true\"><line class=\"zero\" x1=\"60\" x2=\"60\" y1=\"1\" y2=\"15\"/>\
         <line class=\"reach\" x1=\"{}\" x2=\"{}\" y1=\"8\" y2=\"8\"/><circle cx=\"{}\" cy=\"8\" r=\"3.5\"/></svg>",
        x(low),
        x(high),
        x(d.difference)
    )
}
