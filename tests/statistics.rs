//! Intervals, p-values and probabilities against simulations with a known truth: a 95 % interval is to hold it 93 to 97 % of the time over
//! 1,000 draws. Every draw goes the way of a report: outcomes → task records → the statistics.

use std::collections::BTreeMap;

use embeval::metric::average_precision::average_precision;
use embeval::metric::correlation::spearman;
use embeval::metric::interval;
use embeval::metric::moments::Moments;
use embeval::metric::outcomes::Outcomes;
use embeval::report::statistics::{CHOICE, Statistics};
use embeval::store::choice::{self, Rule};
use embeval::store::record::{Cost, RunRecord, TaskRecord, Variant, VariantKind};
use embeval::store::scoring::{Scored, Seeds};

const DRAWS: usize = 1_000;

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((bits ^ (bits >> 31)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn bernoulli(&mut self, p: f64) -> f64 {
        f64::from(u8::from(self.uniform() < p))
    }
}

fn score(outcomes: &Outcomes) -> f64 {
    match outcomes {
        Outcomes::PerExample(values) | Outcomes::PerExperiment(values) => {
            values.iter().sum::<f64>() / values.len() as f64
        }
        Outcomes::Pairs(pairs) => {
            let x: Vec<f64> = pairs.iter().map(|pair| f64::from(pair.0)).collect();
            spearman(&x, &pairs.iter().map(|pair| pair.1).collect::<Vec<_>>()).unwrap()
        }
        Outcomes::Ranked(pairs) => {
            let scores: Vec<f64> = pairs.iter().map(|pair| f64::from(pair.0)).collect();
            average_precision(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>(), &scores)
        }
        Outcomes::Splits(parts) => parts.iter().map(score).sum::<f64>() / parts.len() as f64,
    }
}

fn task(name: &str, kind: &str, outcomes: Outcomes) -> TaskRecord {
    TaskRecord {
        name: name.into(),
        task_type: kind.into(),
        metric: String::new(),
        main_score: score(&outcomes),
        seeds: Vec::new(),
        rows: 0,
        outcomes,
    }
}

/// Share of draws whose interval of the score by `rule` holds the truth. A task's name has the draw's number, and so a seed of its own.
fn coverage(truth: f64, rule: &str, mut draw: impl FnMut(&mut Random, usize) -> Vec<TaskRecord>) -> f64 {
    let mut random = Random(2024);
    let held = (0..DRAWS).filter(|&number| {
        let records = draw(&mut random, number);
        let rule = if rule.is_empty() { records[0].name.clone() } else { rule.into() };
        let (low, high) = Scored::new(&records, Seeds::Mean).mean(&rule).unwrap().interval();
        low <= truth && truth <= high
    });
    held.count() as f64 / DRAWS as f64
}

#[track_caller]
fn holds(name: &str, share: f64) {
    println!("{name}: {:.1} %", 100.0 * share);
    assert!((0.93..=0.97).contains(&share), "{name}: {share}");
}

fn examples(random: &mut Random, n: usize, p: f64) -> Outcomes {
    Outcomes::PerExample((0..n).map(|_| random.bernoulli(p)).collect())
}

fn normal_pairs(random: &mut Random, n: usize, rho: f64) -> Outcomes {
    let pair = |random: &mut Random| {
        let x = random.normal();
        (x as f32, rho * x + (1.0 - rho * rho).sqrt() * random.normal())
    };
    Outcomes::Pairs((0..n).map(|_| pair(random)).collect())
}

/// Spearman's correlation of a bivariate normal (Pearson 1907).
fn true_spearman(rho: f64) -> f64 {
    6.0 / std::f64::consts::PI * (rho / 2.0).asin()
}

fn experiments(random: &mut Random, n: usize, mean: f64) -> Outcomes {
    Outcomes::PerExperiment((0..n).map(|_| mean + 0.03 * random.normal()).collect())
}

#[test]
fn means_of_right_answers() {
    for (n, p) in [(100, 0.5), (100, 0.7), (100, 0.9), (100, 0.95), (200, 0.8), (500, 0.6), (500, 0.95)] {
        let share = coverage(p, "", |r, i| vec![task(&format!("{i}"), "Classification", examples(r, n, p))]);
        holds(&format!("{n} answers, {p} right"), share);
    }
}

#[test]
fn correlations() {
    for (n, rho) in [(200, 0.3), (200, 0.6), (200, 0.85), (400, 0.8)] {
        let share =
            coverage(true_spearman(rho), "", |r, i| vec![task(&format!("{i}"), "STS", normal_pairs(r, n, rho))]);
        holds(&format!("Spearman's correlation, {n} pairs, {rho}"), share);
    }
}

#[test]
fn average_precisions() {
    for (n, shift) in [(300, 1.0), (300, 2.0)] {
        let ranked = |random: &mut Random, n: usize| -> Vec<(f32, bool)> {
            let pair = |random: &mut Random| {
                let positive = random.uniform() < 0.4;
                ((random.normal() + if positive { shift } else { 0.0 }) as f32, positive)
            };
            (0..n).map(|_| pair(random)).collect()
        };
        let truth = score(&Outcomes::Ranked(ranked(&mut Random(5), 1_000_000)));
        let share = coverage(truth, "", |r, i| {
            vec![task(&format!("{i}"), "PairClassification", Outcomes::Ranked(ranked(r, n)))]
        });
        holds(&format!("average precision, {n} pairs, positives {shift} higher"), share);
    }
}

#[test]
fn means_of_few_experiments() {
    for n in [4, 10, 20] {
        let share = coverage(0.4, "", |r, i| vec![task(&format!("{i}"), "Clustering", experiments(r, n, 0.4))]);
        holds(&format!("{n} experiments"), share);
    }
    // This interval has a closed form: so many draws that no stream of random numbers is lucky or unlucky.
    let (mut random, draws) = (Random(77), 200_000);
    let held = (0..draws).filter(|_| {
        let outcomes = experiments(&mut random, 10, 0.4);
        let (low, high) = interval::student(score(&outcomes), &Moments::of_score(&outcomes, &[]), interval::LEVEL);
        low <= 0.4 && 0.4 <= high
    });
    let share = held.count() as f64 / draws as f64;
    assert!((share - 0.95).abs() < 0.002, "ten experiments over {draws} draws: {share}");
}

#[test]
fn means_over_task_types() {
    let truth = (true_spearman(0.7) + (0.8 + 0.6) / 2.0 + 0.35) / 3.0;
    let share = coverage(truth, "mean_task_type", |r, i| {
        vec![
            task(&format!("s{i}"), "STS", normal_pairs(r, 200, 0.7)),
            task(&format!("c{i}"), "Classification", examples(r, 150, 0.8)),
            task(&format!("d{i}"), "Classification", examples(r, 300, 0.6)),
            task(&format!("k{i}"), "Clustering", experiments(r, 10, 0.35)),
        ]
    });
    holds("mean over three types", share);
    // Two handfuls of experiments and nothing else: where a normal in t's place would be furthest off.
    let share = coverage(0.4, "mean_task", |r, i| {
        let few = |r: &mut Random, name: String, spread: f64| {
            let values = (0..5).map(|_| 0.4 + spread * r.normal()).collect();
            task(&name, "Clustering", Outcomes::PerExperiment(values))
        };
        vec![few(r, format!("a{i}"), 0.05), few(r, format!("b{i}"), 0.02)]
    });
    holds("two tasks of five experiments", share);
}

fn variant(id: usize, kind: VariantKind, settings: &[(&str, &str)], test: Vec<TaskRecord>) -> Variant {
    Variant {
        id: format!("{id}"),
        label: format!("v{id}"),
        kind,
        settings: settings.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        cost: Cost::default(),
        dev: test.clone(),
        test,
    }
}

fn trained(id: usize) -> VariantKind {
    VariantKind::Trained { trial: format!("v{id}"), step: 10, steps: 10 }
}

fn run(variants: Vec<Variant>) -> RunRecord {
    RunRecord {
        name: "run".into(),
        base: "base".into(),
        settings: BTreeMap::new(),
        data: Vec::new(),
        axes: Vec::new(),
        variants,
        curves: Vec::new(),
        searches: Vec::new(),
        choice: None,
        unfinished: Vec::new(),
        limit: None,
        limits: BTreeMap::new(),
        protocol: "sklearn-1.9".into(),
        published: Vec::new(),
        notes: Vec::new(),
    }
}

/// Share of draws in which the paired interval holds the true difference, and in which p is at most 0.05.
fn paired(truth: f64, mut draw: impl FnMut(&mut Random) -> (Outcomes, Outcomes)) -> (f64, f64) {
    let mut random = Random(23);
    let (mut held, mut rejected) = (0, 0);
    for number in 0..DRAWS {
        let (first, second) = draw(&mut random);
        let name = format!("{number}");
        let records = [first, second]
            .into_iter()
            .enumerate()
            .map(|(i, o)| variant(i, trained(i), &[], vec![task(&name, "T", o)]));
        let run = run(records.collect());
        let difference = Statistics::new(&run).difference("test", 0, 1, &name).unwrap();
        held += usize::from(difference.interval.0 <= truth && truth <= difference.interval.1);
        rejected += usize::from(difference.p <= 0.05);
        let outside = difference.interval.0 > 0.0 || difference.interval.1 < 0.0;
        assert_eq!(outside, difference.p < 0.05, "interval and p-value tell different things: {difference:?}");
    }
    (held as f64 / DRAWS as f64, rejected as f64 / DRAWS as f64)
}

/// Right and wrong answers of two models that differ on a row with probability `better` + `worse`.
fn answers(random: &mut Random, n: usize, better: f64, worse: f64) -> (Outcomes, Outcomes) {
    let rows = (0..n).map(|_| {
        let u = random.uniform();
        match u {
            u if u < better => (1.0, 0.0),
            u if u < better + worse => (0.0, 1.0),
            u => (f64::from(u8::from(u < 0.7)), f64::from(u8::from(u < 0.7))),
        }
    });
    let (first, second) = rows.unzip();
    (Outcomes::PerExample(first), Outcomes::PerExample(second))
}

#[test]
fn paired_differences() {
    for (n, better, worse) in [(100, 0.2, 0.1), (200, 0.06, 0.04), (300, 0.05, 0.05)] {
        let (share, _) = paired(better - worse, |r| answers(r, n, better, worse));
        holds(&format!("{n} answers of two models, {better} and {worse} of them one's alone"), share);
    }
    let (share, false_alarms) = paired(0.0, |r| {
        let (x, both) = (r.normal(), 0.02);
        let values = |r: &mut Random| (0..10).map(|_| 0.4 + both * x + 0.03 * r.normal()).collect();
        (Outcomes::PerExperiment(values(r)), Outcomes::PerExperiment(values(r)))
    });
    holds("ten experiments of two models", share);
    assert!(false_alarms <= 0.07);
    let (share, _) = paired(true_spearman(0.8 / 1.16f64.sqrt()) - true_spearman(0.8), |r| {
        let rows: Vec<(f32, f32, f64)> = (0..200)
            .map(|_| {
                let x = r.normal();
                ((x + 0.4 * r.normal()) as f32, x as f32, 0.8 * x + 0.6 * r.normal())
            })
            .collect();
        let side = |pick: fn(&(f32, f32, f64)) -> f32| Outcomes::Pairs(rows.iter().map(|p| (pick(p), p.2)).collect());
        (side(|p| p.0), side(|p| p.1))
    });
    holds("Spearman's correlations of two models on 200 pairs", share);
}

/// Most differences are zero: too few others for a normal, so the test must be careful rather than exact.
#[test]
fn pairs_that_are_mostly_equal() {
    for (n, each) in [(100, 0.01), (200, 0.01), (200, 0.025), (500, 0.01)] {
        let (share, false_alarms) = paired(0.0, |r| answers(r, n, each, each));
        println!("{n} answers, {each} each way: {share}, {false_alarms} false alarms");
        assert!(share >= 0.93 && false_alarms <= 0.05, "{n} answers, {each} each way: {share}, {false_alarms}");
    }
    // The exact sign test of k rows that are all one model's: 2 · 2⁻ᵏ.
    for (k, exact) in [(3usize, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125), (8, 0.0078)] {
        let side = |right: usize| Outcomes::PerExample((0..300).map(|i| f64::from(u8::from(i < right))).collect());
        let records = [side(200 + k), side(200)].map(|o| vec![task("T", "T", o)]);
        let run = run(records.into_iter().enumerate().map(|(i, o)| variant(i, trained(i), &[], o)).collect());
        let p = Statistics::new(&run).difference("test", 0, 1, "T").unwrap().p;
        assert!(p >= 0.6 * exact && (p <= 0.05) == (exact <= 0.05), "{k}: {p} against {exact}");
    }
    let same = vec![task("T", "T", examples(&mut Random(1), 100, 0.5))];
    let run = run((0..2).map(|i| variant(i, trained(i), &[], same.clone())).collect());
    let none = Statistics::new(&run).difference("test", 0, 1, "T").unwrap();
    assert_eq!((none.difference, none.interval, none.p), (0.0, (0.0, 0.0), 1.0));
}

/// Ten models against one reference, none of them different: any that is called different is an error of the family.
#[test]
fn holm_keeps_the_familys_error() {
    let mut random = Random(31);
    let mut wrong = 0;
    for number in 0..DRAWS {
        let n = 200;
        let difficulty: Vec<f64> = (0..n).map(|_| if random.uniform() < 0.5 { 0.9 } else { 0.4 }).collect();
        let name = format!("{number}");
        let variants: Vec<Variant> = (0..11)
            .map(|i| {
                let outcomes = Outcomes::PerExample(difficulty.iter().map(|p| random.bernoulli(*p)).collect());
                variant(i, trained(i), &[], vec![task(&name, "T", outcomes)])
            })
            .collect();
        let run = run(variants);
        let statistics = Statistics::new(&run);
        let p: Vec<f64> = (1..11).map(|i| statistics.difference("test", i, 0, &name).unwrap().p).collect();
        wrong += usize::from(interval::holm(&p).iter().any(|p| *p <= 0.05));
    }
    println!("family error: {:.1} %", 100.0 * wrong as f64 / DRAWS as f64);
    assert!(wrong as f64 / DRAWS as f64 <= 0.05, "{wrong}");
    assert!(wrong > 5, "the correction is far too careful: {wrong}");
}

/// Settings with a training seed's noise: where the score of another run lies.
#[test]
fn another_training_run() {
    for (seeds, spread) in [(3usize, 0.03), (5, 0.02)] {
        let mut random = Random(41);
        let (mut held, mut mean_held) = (0, 0);
        for number in 0..DRAWS {
            let n = 200;
            // A row is right where its difficulty is below the run's level: the members share the rows.
            let rows: Vec<f64> = (0..n).map(|_| random.uniform()).collect();
            let levels: Vec<f64> = (0..seeds).map(|_| 0.7 + spread * random.normal()).collect();
            let name = format!("{number}");
            let variants = levels.iter().enumerate().map(|(i, level)| {
                let right = rows.iter().map(|row| f64::from(u8::from(row < level))).collect();
                variant(
                    i,
                    trained(i),
                    &[("train.seed", &format!("{i}"))],
                    vec![task(&name, "T", Outcomes::PerExample(right))],
                )
            });
            let run = run(variants.collect());
            let groups = Statistics::new(&run).groups("test", &name);
            assert_eq!(groups.len(), 1);
            let (low, high) = groups[0].total_interval.unwrap();
            let another = 0.7 + spread * random.normal();
            held += usize::from(low <= another && another <= high);
            let on_these = rows.iter().map(|row| normal_cdf((0.7 - row) / spread)).sum::<f64>() / n as f64;
            let (low, high) = groups[0].interval.unwrap();
            mean_held += usize::from(low <= on_these && on_these <= high);
        }
        holds(&format!("another run after {seeds}"), held as f64 / DRAWS as f64);
        holds(&format!("mean over seeds, {seeds}"), mean_held as f64 / DRAWS as f64);
    }
}

fn normal_cdf(z: f64) -> f64 {
    use statrs::distribution::{ContinuousCDF, Normal};
    Normal::standard().cdf(z)
}

/// Of the choices that are said to be right with so much probability, so many are: with and without noise of training.
#[test]
fn the_probability_of_the_best() {
    for seeds in [1usize, 3] {
        let mut random = Random(53);
        let (mut said, mut right) = (0.0, 0.0);
        for number in 0..400 {
            let name = format!("{number}");
            let rows: Vec<f64> = (0..150).map(|_| random.uniform()).collect();
            let truth: Vec<f64> = (0..4).map(|_| 0.4 + 0.4 * random.uniform()).collect();
            let spread = if seeds > 1 { 0.06 } else { 0.0 };
            let mut variants = Vec::new();
            for (group, truth) in truth.iter().enumerate() {
                for seed in 0..seeds {
                    let level = truth + spread * random.normal();
                    let right = rows.iter().map(|row| {
                        let own = 0.6 * row + 0.4 * random.uniform();
                        f64::from(u8::from(own < quantile(level)))
                    });
                    let outcomes = Outcomes::PerExample(right.collect());
                    let settings = [("x", &*format!("{group}")), ("train.seed", &*format!("{seed}"))];
                    let at = variants.len();
                    variants.push(variant(at, trained(at), &settings, vec![task(&name, "T", outcomes)]));
                }
            }
            let rule = Rule { on_test: false, by: &name, one_standard_error: false, seeds: 1 };
            let chosen = choice::choose(&variants, &rule).unwrap();
            let group = chosen.id.parse::<usize>().unwrap() / seeds;
            said += chosen.probability.unwrap();
            right += f64::from(u8::from(truth.iter().all(|t| *t <= truth[group])));
            if number < 20 {
                let at = chosen.id.parse::<usize>().unwrap();
                let run = run(variants);
                let all: Vec<usize> = (0..run.variants.len()).collect();
                let shown = Statistics::new(&run).best_shares(CHOICE, &all, &name)[&at];
                assert!((shown - chosen.probability.unwrap()).abs() < 1e-9, "the report says {shown}");
            }
        }
        println!("{seeds} seeds: said {:.3}, right {:.3}", said / 400.0, right / 400.0);
        assert!((said - right).abs() / 400.0 < 0.05, "{seeds} seeds: said {said}, right {right}");
    }
}

/// Below which 0.6 U + 0.4 V lies with this probability (U, V uniform), for probabilities of 1/3 to 2/3 and what is near: the trapezoid's middle
/// and its sides.
fn quantile(p: f64) -> f64 {
    if p < 1.0 / 3.0 {
        (0.48 * p.max(0.0)).sqrt()
    } else if p <= 2.0 / 3.0 {
        0.6 * p + 0.2
    } else {
        1.0 - (0.48 * (1.0 - p).max(0.0)).sqrt()
    }
}
