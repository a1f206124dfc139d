//! Searches for α, and what else was merged.

use std::fmt::Write;

use super::{Page, ROWS, between, cell, list, points};
use crate::store::record::{AlphaSearch, VariantKind};

/// Evaluations of a grid of α in steps of 0.05.
const GRID: usize = 21;

/// The searches for α.
pub fn slerp(out: &mut String, page: &Page) {
    let run = page.run;
    if run.searches.is_empty() {
        return;
    }
    out.push_str(
        "\n## α of SLERP\n\nα is the weight of the second model: 0 is the first, 1 the second. It was searched on dev: a coarse grid, then \
         halving around the best.\n\n",
    );
    let _ = writeln!(
        out,
        "| First (α = 0) | Second (α = 1) | α | 95 % of resamples | dev at α | test at α | dev at 0 | dev at 1 | evaluations | nearly parallel |"
    );
    out.push_str("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    let at = |search: &AlphaSearch, alpha: f64| search.points.iter().find(|p| p.alpha == alpha).cloned();
    let score = |search: &AlphaSearch, alpha| at(search, alpha).map_or(f64::NAN, |p| p.score);
    let mut shown: Vec<&AlphaSearch> = run.searches.iter().collect();
    if shown.len() > ROWS {
        shown.sort_by(|a, b| score(b, b.chosen).total_cmp(&score(a, a.chosen)));
        shown.truncate(ROWS);
    }
    for search in &shown {
        let merged = run.variants.iter().position(|v| {
            matches!(&v.kind, VariantKind::Merged { first, second, auto: true, layers, .. }
                if *first == search.first && *second == search.second && layers.is_some() == search.ends.is_some())
        });
        let best = match search.ends {
            Some((first, last)) => {
                let apart = search.end_points.iter().find(|p| (p.first, p.last) == (first, last));
                let apart = apart.map(|p| (p.score, p.interval));
                apart.or_else(|| at(search, first).filter(|_| first == last).map(|p| (p.score, p.interval)))
            }
            None => at(search, search.chosen).map(|p| (p.score, p.interval)),
        };
        let dev =
            best.map_or_else(|| "–".into(), |(score, interval)| format!("{} ({})", points(score), between(interval)));
        let range = |interval: Option<(f64, f64)>| {
            interval.map_or_else(|| "–".into(), |(low, high)| format!("{low:.3} to {high:.3}"))
        };
        // With α of its own at either end the merge is made with those; the single α is where that search began.
        let (alpha, spread) = match (search.ends, search.ends_intervals) {
            (Some((first, last)), intervals) => (
                format!("{first:.3} … {last:.3}"),
                intervals.map_or_else(
                    || "–".into(),
                    |(first, last)| format!("{} … {}", range(Some(first)), range(Some(last))),
                ),
            ),
            (None, _) => (format!("{:.3}", search.chosen), range(search.chosen_interval)),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {alpha} | {spread} | {dev} | {} | {} | {} | {} | {:.0} % |",
            search.first,
            search.second,
            cell(merged.and_then(|v| page.statistics.estimate("test", v, page.rule))),
            points(score(search, 0.0)),
            points(score(search, 1.0)),
            search.evaluations,
            100.0 * search.linear_share
        );
    }
    let spent: usize = run.searches.iter().map(|s| s.evaluations).sum();
    let _ = writeln!(
        out,
        "\nScores are {}, dev with its 95 % interval. The searches took {spent} evaluations; a grid of {GRID} (steps of 0.05) takes {}. \
         95 % of resamples: where the best of the evaluated α lies in 95 % of the bootstrap's resamples. Nearly parallel: the share of the tensors that differ for which SLERP falls back to linear interpolation.{}\n",
        page.measure(),
        GRID * run.searches.len(),
        if shown.len() < run.searches.len() {
            format!(" The {ROWS} best of {} searches; all are in [α](tables/alpha.csv).", run.searches.len())
        } else {
            String::new()
        }
    );
    page.picture(out, "alpha", "Dev score by α, with 95 % bands; the chosen α is marked");
}

/// Merges with an α for each layer.
pub fn layers(out: &mut String, page: &Page) {
    let by_layer: Vec<(usize, &Vec<f64>)> = page
        .shown
        .iter()
        .filter_map(|&i| match &page.run.variants[i].kind {
            VariantKind::Merged { layers: Some(layers), .. } => Some((i, layers)),
            _ => None,
        })
        .collect();
    if by_layer.is_empty() {
        return;
    }
    out.push_str("\n## α by layer\n\n| Variant | mean α | α of the layers, first to last | dev | test |\n|---|---:|---|---:|---:|\n");
    for (i, layers) in by_layer {
        let mean = layers.iter().sum::<f64>() / layers.len() as f64;
        let (dev, test) = sides(page, i);
        let _ = writeln!(out, "| {} | {mean:.3} | {} | {dev} | {test} |", page.label(i), list(layers));
    }
}

/// Weighted means of models.
pub fn averaged(out: &mut String, page: &Page) {
    let means: Vec<usize> = page
        .shown
        .iter()
        .copied()
        .filter(|&i| matches!(page.run.variants[i].kind, VariantKind::Averaged { .. }))
        .collect();
    if means.is_empty() {
        return;
    }
    out.push_str("\n## Means of models\n\nWeighted means of the weights of several models (model soups, Wortsman et al. 2022).\n\n");
    out.push_str("| Variant | Models (weights) | dev | test |\n|---|---|---:|---:|\n");
    for i in means {
        if let VariantKind::Averaged { models, weights } = &page.run.variants[i].kind {
            let of: Vec<String> = models.iter().zip(weights).map(|(m, w)| format!("{m} ({w:.3})")).collect();
            let (dev, test) = sides(page, i);
            let _ = writeln!(out, "| {} | {} | {dev} | {test} |", page.label(i), of.join(", "));
        }
    }
}

fn sides(page: &Page, variant: usize) -> (String, String) {
    let of = |on| cell(page.statistics.estimate(on, variant, page.rule));
    (of("dev"), of("test"))
}
