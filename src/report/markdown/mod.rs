//! `README.md` of a report.

mod cost;
mod merges;
mod noise;
mod notes;
mod scores;
mod summary;

use std::fmt::Write;

use super::escape;
use super::plot::Plot;
use super::statistics::{CHOICE, Estimate, Statistics, is_final};
use crate::store::record::{RunRecord, Variant, VariantKind};

/// Most rows of a table; the tables in CSV have them all.
const ROWS: usize = 30;

/// What the page is made of.
struct Page<'a> {
    /// The record, its words escaped.
    run: &'a RunRecord,
    statistics: &'a Statistics<'a>,
    plots: &'a [Plot],
    /// The rule of the choice.
    rule: &'a str,
    /// Final variants, and the chosen one, in the plan's order.
    finals: Vec<usize>,
    /// Those of them that the tables show.
    shown: Vec<usize>,
    chosen: Option<usize>,
    base: Option<usize>,
}

impl<'a> Page<'a> {
    fn new(run: &'a RunRecord, statistics: &'a Statistics<'a>, plots: &'a [Plot]) -> Self {
        let chosen = run.choice.as_ref().and_then(|c| run.variants.iter().position(|v| v.id == c.id));
        let base = run.variants.iter().position(|v| v.kind == VariantKind::Base);
        // A checkpoint on the way stands in the tables only if it was chosen.
        let finals: Vec<usize> =
            (0..run.variants.len()).filter(|&i| is_final(&run.variants[i]) || Some(i) == chosen).collect();
        let rule = run.choice.as_ref().map_or("mean_task_type", |c| c.by.as_str());
        let mut page = Self { run, statistics, plots, rule, finals, shown: Vec::new(), chosen, base };
        page.shown = page.few(&page.finals);
        page
    }

    /// Variants by the score that the choice goes by, the best first; those without one last.
    fn ranked(&self, variants: &[usize]) -> Vec<usize> {
        let scores: Vec<f64> = (0..self.run.variants.len())
            .map(|i| self.statistics.score(CHOICE, i, self.rule).unwrap_or(f64::NEG_INFINITY))
            .collect();
        let mut ranked = variants.to_vec();
        ranked.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        ranked
    }

    /// All of them if they fit into a table; else the base and the best ones, the chosen among them.
    fn few(&self, variants: &[usize]) -> Vec<usize> {
        if variants.len() <= ROWS + 2 {
            return variants.to_vec();
        }
        let mut ranked = self.ranked(variants);
        ranked.retain(|i| Some(*i) != self.base);
        let is_late = self.chosen.filter(|c| ranked.iter().skip(ROWS).any(|i| i == c));
        ranked.truncate(ROWS);
        self.base.into_iter().chain(ranked).chain(is_late).collect()
    }

    fn label(&self, variant: usize) -> &str {
        &self.run.variants[variant].label
    }

    /// What the rule is called in tables.
    fn measure(&self) -> String {
        match self.rule {
            "mean_task" => "Mean (Task)".into(),
            "mean_task_type" => "Mean (TaskType)".into(),
            task => escape::text(task),
        }
    }

    /// The side of the choice.
    fn on(&self) -> &str {
        self.run.choice.as_ref().map_or("dev", |c| c.on.as_str())
    }

    fn picture(&self, out: &mut String, name: &str, text: &str) {
        if self.plots.iter().any(|p| p.name == name) {
            let _ = writeln!(out, "![{text}](plots/{name}.png)\n");
        }
    }

    /// Says that a table does not hold all.
    fn left_out(&self, out: &mut String, shown: usize, all: usize, what: &str) {
        if shown < all {
            let _ = writeln!(
                out,
                "\nThe base and the {ROWS} best of {all} {what} by {} on {}; all of them are in [scores](tables/scores.csv).",
                self.measure(),
                self.on()
            );
        }
    }
}

/// The whole page.
pub fn page(run: &RunRecord, statistics: &Statistics, plots: &[Plot]) -> String {
    let run = &escape::record(run);
    let page = &Page::new(run, statistics, plots);
    let mut out = String::new();
    if run.choice.as_ref().is_some_and(|c| c.on == "test") {
        out.push_str("> **Chosen on test:** the scores of the chosen variant below are too high by that choice.\n\n");
    }
    let _ = writeln!(out, "# {}\n", run.name);
    summary::summary(&mut out, page);
    out.push_str("\n## Scores on test\n\n");
    scores::table(&mut out, page, "test", &page.shown);
    page.left_out(&mut out, page.shown.len(), page.finals.len(), "variants");
    scores::legend(&mut out, page);
    page.picture(&mut out, "heat-map", "Differences to the base by task, on test");
    scores::pairs(&mut out, page);
    noise::seeds(&mut out, page);
    merges::slerp(&mut out, page);
    merges::layers(&mut out, page);
    merges::averaged(&mut out, page);
    if plots.iter().any(|p| p.name.starts_with("effect-")) {
        out.push_str("\n## What each setting does\n\n");
        for plot in plots.iter().filter(|p| p.name.starts_with("effect-")) {
            page.picture(&mut out, &plot.name, &plot.title);
        }
    }
    if !run.curves.is_empty() {
        out.push_str("\n## Training\n\n");
        page.picture(&mut out, "losses", "Training loss (smoothed) and dev loss by step");
        page.picture(&mut out, "dev-score", "Mean reciprocal rank of the positive among all dev positives, by step");
        scores::checkpoints(&mut out, page);
    }
    notes::unfinished(&mut out, page);
    if !run.is_of_the_base_alone() {
        out.push_str("\n## Scores on dev\n\n");
        let seeds = run.variants.iter().flat_map(|v| &v.dev).map(|t| t.seeds.len() + 1).max().unwrap_or(1);
        let mean = if seeds > 1 { format!(": means over {seeds} protocol seeds") } else { String::new() };
        let _ = writeln!(out, "What the choices were made on{mean}.\n");
        scores::table(&mut out, page, "dev", &page.shown);
        page.left_out(&mut out, page.shown.len(), page.finals.len(), "variants");
    }
    cost::cost(&mut out, page);
    notes::settings(&mut out, page);
    noise::sources(&mut out, page);
    notes::notes(&mut out, page);
    out
}

/// A fraction in points with one decimal.
fn points(value: f64) -> String {
    if value.is_finite() { format!("{:.1}", 100.0 * value) } else { "–".into() }
}

fn signed(value: f64) -> String {
    // What rounds to nothing has no sign.
    match format!("{:+.1}", 100.0 * value) {
        _ if !value.is_finite() => "–".into(),
        text if text == "-0.0" || text == "+0.0" => "0.0".into(),
        text => text,
    }
}

fn between(interval: (f64, f64)) -> String {
    if interval.0.is_finite() { format!("{} to {}", points(interval.0), points(interval.1)) } else { "–".into() }
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
    match p {
        p if p.is_nan() => "p not known".into(),
        p if p < 0.001 => "p < 0.001".into(),
        p => format!("p = {p:.3}"),
    }
}

/// What a merge is called in a sentence.
fn parts(variant: &Variant) -> Option<String> {
    match &variant.kind {
        VariantKind::Base | VariantKind::Trained { .. } => None,
        VariantKind::Merged { first, second, alpha, auto, layers } => {
            let how = if *auto { "found on dev" } else { "given" };
            let far = format!("{:.0} % of the way from {first} to {second}", 100.0 * alpha);
            Some(match layers {
                Some(layers) => format!("α by layer ({how}): {}; on average {alpha:.3}, {far}", list(layers)),
                None => format!("α = {alpha:.3} ({how}): {far}"),
            })
        }
        VariantKind::Averaged { models, weights } => {
            let of: Vec<String> = models.iter().zip(weights).map(|(m, w)| format!("{m} ({w:.3})")).collect();
            Some(format!("The weighted mean of {}", of.join(", ")))
        }
    }
}

fn list(values: &[f64]) -> String {
    values.iter().map(|value| format!("{value:.2}")).collect::<Vec<_>>().join(", ")
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
            choice: Some(Choice {
                id: "1".into(),
                on: on.into(),
                by: by.into(),
                score: 0.7,
                why: "highest".into(),
                ..Default::default()
            }),
            unfinished: Vec::new(),
            limit: None,
            limits: BTreeMap::new(),
            protocol: "sklearn-1.9".into(),
            published: Vec::new(),
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
        // By the mean over seeds `a|b` (0.7) beats `c` (0.54) in most draws of examples and protocol seeds; at seed 42 it would lose.
        for on in ["dev", "test"] {
            let run = record_on(on, "mean_task");
            assert!(Statistics::new(&run).best_shares(CHOICE, &[0, 1, 2], "mean_task")[&1] > 0.75, "{on}");
        }
    }

    #[test]
    fn seeds_merges_and_what_did_not_end_have_their_tables() {
        let mut run = record("mean_task");
        let with = |mut v: Variant, rank: &str, seed: &str| {
            v.settings = [("adapter.rank", rank), ("train.seed", seed)].map(|(k, v)| (k.into(), v.into())).into();
            v
        };
        let trained = |trial: &str| VariantKind::Trained { trial: trial.into(), step: 5, steps: 5 };
        run.variants = vec![
            run.variants[0].clone(),
            with(variant("1", "r8 s1", trained("r8 s1"), 60, &[]), "8", "1"),
            with(variant("2", "r8 s2", trained("r8 s2"), 66, &[]), "8", "2"),
            with(variant("3", "r32 s1", trained("r32 s1"), 64, &[]), "32", "1"),
            variant(
                "4",
                "soup",
                VariantKind::Averaged { models: vec!["r8_s1".into(), "x".into()], weights: vec![0.25, 0.75] },
                50,
                &[],
            ),
            variant(
                "5",
                "layers",
                VariantKind::Merged {
                    first: "r8 s1".into(),
                    second: "r32 s1".into(),
                    alpha: 0.3,
                    auto: false,
                    layers: Some(vec![0.2, 0.4]),
                },
                55,
                &[],
            ),
        ];
        run.variants[1].cost.flops = 2e12;
        run.variants[1].cost.tokens = 1_234;
        run.unfinished.push(crate::store::record::Unfinished {
            label: "r|64".into(),
            settings: BTreeMap::new(),
            state: "pruned".into(),
            step: Some(40),
            score: Some(0.25),
            reason: "among the worse half".into(),
        });
        let page = page(&run, &Statistics::new(&run), &[]);
        for line in [
            "| rank 8 ← chosen | 2 | 63.0 | 63.0 | 4.2 |",
            "| r32 s1 | 1 | 64.0 | 64.0 | – | – | – |",
            "| r\\|64 | pruned | 40 | 0.2500 | among the worse half |",
            "| soup | r8\\_s1 (0.250), x (0.750) |",
            "| layers | 0.300 | 0.20, 0.40 |",
            "| r8 s1 | 1.23 k | 0 | 2.00e12 |",
            "| The training seed | 4.2 | 2 training runs that differ in the seed alone |",
            "Its settings are the best of the 5 groups of settings in",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("not measured: one training seed"));
    }

    #[test]
    fn two_hundred_trials_stay_readable() {
        let mut run = record("mean_task");
        let trained = |i: usize| VariantKind::Trained { trial: format!("t{i}"), step: 5, steps: 5 };
        let base = run.variants[0].clone();
        let trials = (0..200).map(|i| variant(&format!("v{i}"), &format!("t{i}"), trained(i), 20 + i % 70, &[]));
        run.variants = std::iter::once(base).chain(trials).collect();
        run.choice = Some(Choice { id: "v3".into(), ..run.choice.unwrap() });
        let page = page(&run, &Statistics::new(&run), &[]);
        // Base, thirty, and the chosen, which is none of them.
        let rows = page.split("## Scores on test").nth(1).unwrap().lines().skip(4).take_while(|l| l.starts_with('|'));
        let rows: Vec<&str> = rows.collect();
        assert_eq!(rows.len(), 32, "{rows:?}");
        assert!(rows[0].starts_with("| base |") && rows[31].starts_with("| t3 ← chosen |"));
        assert!(page.contains("the 30 best of 201 variants") && page.lines().count() < 250);
    }
}
