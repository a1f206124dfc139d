//! What the variants took to make, and which of them are worth it.

use std::fmt::Write;

use super::{CHOICE, Page, points};
use crate::store::record::Cost;

/// Costs beside scores, with the Pareto front.
pub fn cost(out: &mut String, page: &Page) {
    let run = page.run;
    if run.is_of_the_base_alone() || run.variants.iter().all(|v| v.cost == Cost::default()) {
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

/// A count, to three digits that count.
fn short(value: f64) -> String {
    if value < 1e3 {
        return format!("{value:.0}");
    }
    let digits = value.log10().floor() as i32;
    let rounded = (value / 10f64.powi(digits - 2)).round() * 10f64.powi(digits - 2);
    let (unit, name) = match rounded {
        v if v >= 1e9 => (1e9, "G"),
        v if v >= 1e6 => (1e6, "M"),
        _ => (1e3, "k"),
    };
    let shown = rounded / unit;
    let decimals = 2 - (shown.log10().floor() as usize).min(2);
    format!("{shown:.decimals$} {name}")
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn counts_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1_000.0, "1.00 k"),
            (294_912.0, "295 k"),
            (999_999.0, "1.00 M"),
            (22_713_216.0, "22.7 M"),
            (1.5e9, "1.50 G"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
