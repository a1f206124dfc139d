//! Plans by example: ids that must not change, merges, what belongs to what.

use std::path::PathBuf;

use super::*;
use crate::config::Document;
use crate::task::select::select;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A config over bundled rows; its paths are relative to `configs`.
const NEEDED: &str = "name: x\nbase: {scratch: {layers: 1, hidden: 32, heads: 1, vocabulary: 500}}\n\
                      data: {train: ../tasks/everyday/pairs-train.jsonl, dev: ../tasks/everyday/pairs-dev.jsonl}\n";

fn of_document(document: &Document) -> Result<Plan, PlanError> {
    let trials = document.trials().unwrap();
    let axes = document.axes().unwrap();
    let axes = axes.into_iter().map(|(key, values)| (key, values.iter().map(|v| v.value.show()).collect())).collect();
    let config = trials[0].config.clone();
    let tasks = select(&config.score.tasks, &[]).unwrap().tasks;
    Plan::new(config, axes, trials, tasks)
}

fn plan(added: &str) -> Result<Plan, PlanError> {
    let text = format!("{NEEDED}{added}");
    of_document(&Document::parse(&text, "c.yaml", &root().join("configs"), &[]).unwrap())
}

/// The merges of a grid of two objectives, two temperatures and three seeds, by the names of their models.
fn merged(merge: &str) -> Vec<Vec<String>> {
    let grid = "grid: {objective: [symmetric, asymmetric], loss.temperature: [0.02, 0.05], train.seed: [1, 2, 3]}\n";
    let plan = plan(&format!("{grid}merge:\n  - {merge}\n")).unwrap();
    let names = |merge: &MergePlan| merge.models.iter().map(|&m| plan.part_label(m).to_string()).collect();
    plan.merges.iter().map(names).collect()
}

fn fails(added: &str) -> String {
    match plan(added) {
        Err(PlanError::Config(message)) => message,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{added}: is planned"),
    }
}

/// `tests/data/plan/sweep.steps` is what `embeval sweep configs/sweep.yaml --dry-run` printed before plans had maps.
#[test]
fn the_bundled_sweep_has_the_steps_that_it_always_had() {
    let plan = of_document(&Document::load(&root().join("configs/sweep.yaml"), &[]).unwrap()).unwrap();
    let steps: Vec<String> = plan.steps.iter().map(|step| format!("{}  {}", step.id, step.title)).collect();
    let golden = std::fs::read_to_string(root().join("tests/data/plan/sweep.steps")).unwrap();
    assert_eq!(steps, golden.lines().collect::<Vec<_>>());
}

#[test]
fn a_plan_tells_what_belongs_to_what() {
    let plan = plan(
        "train: {epochs: 2, save_every: 5}\ngrid: {objective: [symmetric, asymmetric], train.seed: [1, 2]}\nmerge:\n  - slerp: {first: \
         {objective: symmetric}, second: {objective: asymmetric}, alpha: [0.3, 0.5]}\n",
    )
    .unwrap();
    for (number, step) in plan.steps.iter().enumerate() {
        assert_eq!(plan.step_index(&step.id), Some(number));
        for input in &step.inputs {
            let input = plan.step_index(input).unwrap();
            assert!(input < number && plan.dependants(input).contains(&number));
        }
        let dependants = plan.dependants(number);
        assert!(dependants.iter().all(|&later| plan.steps[later].inputs.contains(&step.id)));
        let trials: Vec<usize> = match &step.work {
            Work::Base => Vec::new(),
            Work::Train { trial } => vec![*trial],
            Work::Merge { merge } => plan.merges[*merge].trials().collect(),
            Work::Score { model: ModelRef::Base, .. } => Vec::new(),
            Work::Score { model: ModelRef::Checkpoint { trial, .. }, .. } => vec![*trial],
            Work::Score { model: ModelRef::Merged(merge), .. } => plan.merges[*merge].trials().collect(),
        };
        assert_eq!(plan.trials_of(number), trials);
    }
    assert_eq!(plan.step_index("none"), None);
    for model in plan.models() {
        for side in [Split::Dev, Split::Test] {
            let step = plan.scorer(&model, side).unwrap();
            assert_eq!(step.work, Work::Score { model: model.clone(), split: side.name() });
        }
    }
    let trained = plan.step_index(plan.training_step(1).unwrap()).unwrap();
    assert_eq!(plan.steps[trained].work, Work::Train { trial: 1 });
    assert_eq!(plan.dependants(0).len(), 4 + 2);
}

#[test]
fn equal_trials_share_their_steps() {
    let plan = plan("trials: [{name: a}, {name: b}, {name: c, set: {train.lr: 1e-3}}]\n").unwrap();
    assert_eq!(plan.training_step(0), plan.training_step(1));
    assert_eq!(plan.steps.len(), 1 + 2 + 2 * (1 + 2));
    let model = |trial: usize| ModelRef::Checkpoint { trial, step: plan.trials[trial].steps };
    assert_eq!(plan.scorer(&model(0), Split::Dev), plan.scorer(&model(1), Split::Dev));
    let training = plan.step_index(plan.training_step(0).unwrap()).unwrap();
    assert_eq!(plan.trials_of(training), [0, 1]);
}

#[test]
fn slerp_matches_the_axes_that_nobody_names() {
    let sides = merged("slerp: {first: {objective: symmetric}, second: {objective: asymmetric}}");
    assert_eq!(sides.len(), 6);
    assert!(sides.contains(&vec!["symmetric T0.05 s2".to_string(), "asymmetric T0.05 s2".to_string()]));
    // The same pairs, by the axis that they differ in.
    assert_eq!(merged("slerp: {over: objective}"), sides);
    assert_eq!(merged("slerp: {over: train.seed}").len(), 4 * 3);
    assert_eq!(merged("slerp: {pairs: all}").len(), 66);
    assert_eq!(merged("slerp: {pairs: all, alpha: [0.2, 0.8]}").len(), 132);
    // Partial axes on one side, more on the other.
    let partial =
        merged("slerp: {first: {objective: symmetric, train.seed: 1}, second: {objective: asymmetric, train.seed: 2}}");
    let expected = ["0.02", "0.05"].map(|t| vec![format!("symmetric T{t} s1"), format!("asymmetric T{t} s2")]);
    assert_eq!(partial, expected);
}

#[test]
fn slerp_takes_any_two_variants_and_the_base() {
    let two = merged("slerp: {first: {name: symmetric T0.02 s1}, second: {name: asymmetric T0.05 s3}, alpha: 0.5}");
    assert_eq!(two, [["symmetric T0.02 s1", "asymmetric T0.05 s3"]]);
    let base = merged("slerp: {first: {name: base}, second: {objective: symmetric, train.seed: 2}}");
    assert_eq!(base, [["base", "symmetric T0.02 s2"], ["base", "symmetric T0.05 s2"]]);
    let plan =
        plan("trials: [{name: a}]\nmerge: [{slerp: {first: {name: a}, second: {name: base}, alpha: 0.5}}]\n").unwrap();
    let merge = plan.steps.iter().find(|step| matches!(step.work, Work::Merge { .. })).unwrap();
    assert_eq!(merge.inputs, [plan.training_step(0).unwrap(), plan.producer(&ModelRef::Base).unwrap()]);
    assert_eq!(plan.label(&ModelRef::Merged(0), None), "slerp(a, base) α=0.500");
}

#[test]
fn means_go_over_an_axis_or_over_models() {
    let over = merged("linear: {over: train.seed}");
    assert_eq!(over.len(), 4);
    assert_eq!(over[0], ["symmetric T0.02 s1", "symmetric T0.02 s2", "symmetric T0.02 s3"]);
    let models =
        merged("linear: {models: [{train.seed: 1}, {train.seed: 3}, {name: base}], weights: [0.5, 0.25, 0.25]}");
    assert_eq!(models.len(), 4);
    assert_eq!(models[3], ["asymmetric T0.05 s1", "asymmetric T0.05 s3", "base"]);
    let named = merged("linear: {models: [{name: symmetric T0.02 s1}, {name: asymmetric T0.05 s3}]}");
    assert_eq!(named, [["symmetric T0.02 s1", "asymmetric T0.05 s3"]]);
    let plan = plan("grid: {train.seed: [1, 2, 3]}\nmerge:\n  - linear: {over: train.seed}\n  - linear: {models: [{train.seed: 1}, {train.seed: 2}], weights: [0.3, 0.7]}\n").unwrap();
    let Method::Linear { weights, .. } = &plan.merges[0].method else { panic!("{:?}", plan.merges) };
    assert_eq!(weights, &[1.0 / 3.0; 3]);
    assert_eq!(plan.label(&ModelRef::Merged(0), None), "mean(all, over train.seed)");
    assert_eq!(plan.label(&ModelRef::Merged(1), None), "mean(s1, s2) w=0.300:0.700");
    let ids: Vec<&str> = (0..2).filter_map(|merge| plan.producer(&ModelRef::Merged(merge))).collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn alpha_by_layer_is_a_merge_of_its_own() {
    let alphas = |alpha: &str| {
        let text = format!(
            "trials: [{{name: a}}, {{name: b, set: {{train.lr: 1e-3}}}}]\nmerge: [{{slerp: {{pairs: all, alpha: {alpha}}}}}]\n"
        );
        let plan = plan(&text).unwrap();
        (plan.producer(&ModelRef::Merged(0)).unwrap().to_string(), plan.label(&ModelRef::Merged(0), None))
    };
    let all: Vec<(String, String)> =
        ["auto", "0.5", "{layers: auto}", "{layers: [0, 0.5, 1]}", "{layers: [0.5, 0.5]}"].map(alphas).to_vec();
    let mut ids: Vec<&String> = all.iter().map(|(id, _)| id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let labels: Vec<&str> = all.iter().map(|(_, label)| label.as_str()).collect();
    assert_eq!(
        labels[..4],
        ["slerp(a, b) α=auto", "slerp(a, b) α=0.500", "slerp(a, b) α=auto", "slerp(a, b) α=0.000→0.500→1.000"]
    );
}

#[test]
fn faults_of_merges() {
    let seeds = "grid: {train.seed: {from: 1, to: 21, step: 1}}\n";
    assert_eq!(
        fails(&format!("{seeds}merge: [{{slerp: {{pairs: all}}}}]\n")),
        "merge.slerp.pairs: all: 21 trials make 210 pairs, more than 200: name the pairs with first and second, or the axis that \
         they differ in with over"
    );
    assert_eq!(
        fails("grid: {train.seed: [1, 2, 3]}\nmerge: [{linear: {over: train.seed, weights: [0.5, 0.5]}}]\n"),
        "merge.linear.weights: 2 weights, but 3 models are to be merged (s1, s2, s3): give one each, or `equal`"
    );
    assert_eq!(
        fails("grid: {train.seed: [1, 2], train.lr: [1e-3]}\nmerge: [{slerp: {over: train.lr}}]\n"),
        "merge.slerp.over: no two trials differ in train.lr alone; the axes are train.seed, train.lr"
    );
    let apart = "trials:\n  - {name: a, set: {train.lr: 1e-3, train.seed: 1}}\n  - {name: b, set: {train.lr: 1e-4, train.seed: 2}}\n";
    assert_eq!(
        fails(&format!("{apart}merge: [{{slerp: {{first: {{train.lr: 1e-3}}, second: {{train.lr: 1e-4}}}}}}]\n")),
        "merge.slerp: no pair of trials has first {train.lr: 0.001} and second {train.lr: 1e-4} and agrees in the other axes; the \
         axes are train.lr, train.seed"
    );
    let many = "grid: {train.seed: {from: 1, to: 150, step: 1}}\nmerge: [{slerp: {over: train.seed}}]\n";
    assert_eq!(fails(many), "merge: makes more than 10000 merges: select fewer models, or give fewer values of alpha");
}

#[test]
fn batches_that_are_remembered_are_those_counted_anew() {
    let text = NEEDED.replace("dev: ../tasks/everyday/pairs-dev.jsonl", "dev: {split: 0.1}");
    let grid = "grid: {train.seed: [1, 2], train.batch: [8, 32], loss.hard_negatives: [0, 1]}\n";
    for text in [NEEDED, &text] {
        let document = Document::parse(&format!("{text}{grid}"), "c.yaml", &root().join("configs"), &[]).unwrap();
        let plan = of_document(&document).unwrap();
        for trial in plan.trials.iter().map(|plan| &plan.trial.config) {
            assert_eq!(TrainingSets::default().batches(trial).unwrap(), plan.sets.batches(trial).unwrap());
        }
        let steps: Vec<usize> = plan.trials.iter().map(|plan| plan.steps).collect();
        assert!(steps[0] > steps[2] && steps[2] > 1, "{steps:?}");
    }
}
