//! What the variants took to make, and which of them are worth it.

use std::fmt::Write;

use super::{CHOICE, Page, points};
use crate::store::record::Cost;

/// Costs beside scores, with the Pareto front.
pub fn cost(out: &mut String, page: &Page) {
    let run = page.run;
    if run.variants.iter().all(|v| v.cost == Cost::default()) {
        return;
    }
    let scored: Vec<(usize, f64)> =
        page.finals.iter().filter_map(|&i| Some((i, page.statistics.score(CHOICE, i, page.rule)?))).collect();
    let is_front = |i: usize| {
        let Some((_, own)) = scored.iter().find(|(other, _)| *other == i) else { return false };
        let cost = run.variants[i].cost.flops;
        !scored.iter().any(|(other, score)| {
            let theirs = run.variants[*other].cost.flops;
            theirs <= cost && score >= own && (theirs < cost || score > own)
        })
    };
    let mut rows = page.shown.clone();
    rows.extend(page.finals.iter().copied().filter(|&i| is_front(i) && !page.shown.contains(&i)));
    let _ = writeln!(
        out,
        "\n## Cost\n\nOn the front: no other variant has at least this {} on {} for at most this much training, and is better in one of the two.\n",
        page.measure(),
        page.on()
    );
    out.push_str("| Variant | training tokens | trained weights | training FLOPs | score | front |\n|---|---:|---:|---:|---:|---|\n");
    for i in rows {
        let cost = run.variants[i].cost;
        let score = page.statistics.score(CHOICE, i, page.rule).map_or_else(|| "–".into(), points);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {score} | {} |",
            page.label(i),
            short(cost.tokens as f64),
            short(cost.trainable as f64),
            if cost.flops > 0.0 { format!("{:.2e}", cost.flops) } else { "0".into() },
            if is_front(i) { "front" } else { "" }
        );
    }
    page.left_out(out, page.shown.len(), page.finals.len(), "variants, and the whole front,");
}

/// A count with three digits that count.
fn short(value: f64) -> String {
    for (unit, name) in [(1e9, " G"), (1e6, " M"), (1e3, " k")] {
        if value >= unit {
            return format!("{:.3}", value / unit)
                .chars()
                .take(4)
                .collect::<String>()
                .trim_end_matches('.')
                .to_string()
                + name;
        }
    }
    format!("{value:.0}")
}
