//! The config by example: what is wrong is told with its place, what is right reads as written.

use std::path::{Path, PathBuf};

use super::schema::{
    Adapter, Alpha, Base, Dropout, Dtype, Lora, LossKind, Margin, Memory, Metric, Mixing, Objective, Quantization,
    Rule, SlerpMode, TrainSet, Tsdae,
};
use super::{Config, ConfigErrors, Document, Trial};

/// Three lines that every config needs; what a case adds begins on line 4.
const NEEDED: &str = "name: x\nbase: org/model\ndata: {train: t.jsonl, dev: d.jsonl}\n";

fn parse(text: &str, sets: &[&str]) -> Result<Document, ConfigErrors> {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    Document::parse(text, "c.yaml", Path::new("/configs"), &sets)
}

fn check(added: &str, sets: &[&str]) -> Result<Config, ConfigErrors> {
    parse(&format!("{NEEDED}{added}"), sets)?.check()
}

fn trials(added: &str, sets: &[&str]) -> Result<Vec<Trial>, ConfigErrors> {
    parse(&format!("{NEEDED}{added}"), sets)?.trials()
}

fn set(path: &str, weight: f64, limit: Option<usize>) -> TrainSet {
    TrainSet { path: path.into(), weight, limit, prompts: (None, None), columns: Default::default() }
}

fn errors<T: std::fmt::Debug>(result: Result<T, ConfigErrors>) -> Vec<String> {
    result.unwrap_err().to_string().lines().map(ToString::to_string).collect()
}

#[test]
fn each_fault_is_told_with_its_place() {
    for (added, expected) in [
        ("loss: {temperature: 0}", "c.yaml:4: loss.temperature = 0: must be above 0 (0.02 to 0.1 is usual)"),
        ("loss:\n  temperature: -0.5", "c.yaml:5: loss.temperature = -0.5: must be above 0 (0.02 to 0.1 is usual)"),
        ("loss: {temperature: .nan}", "c.yaml:4: loss.temperature = NaN: must be above 0 (0.02 to 0.1 is usual)"),
        ("loss: {temperature: warm}", "c.yaml:4: loss.temperature = warm: must be above 0 (0.02 to 0.1 is usual)"),
        ("loss: {temprature: 0.1}", "c.yaml:4: unknown key `loss.temprature`; did you mean `temperature`?"),
        (
            "loss: {name: tripel}",
            "c.yaml:4: loss.name = tripel: must be one of info_nce, gist, simcse, distillation, margin_mse, triplet, \
             batch_hard_triplet, cosent, angle, cosine_regression, arcface; did you mean `triplet`?",
        ),
        (
            "loss: {name: cosent, temperature: 0.1}",
            "c.yaml:4: loss.temperature = 0.1: is of no use with cosent, which has none",
        ),
        (
            "loss: {margin: 0.1}",
            "c.yaml:4: loss.margin = 0.1: is a setting of triplet, batch_hard_triplet, arcface, but loss.name is info_nce",
        ),
        (
            "loss: {name: angle, hard_negatives: 2}",
            "c.yaml:4: loss.hard_negatives = 2: is of no use with angle, which takes scored pairs",
        ),
        (
            "loss: {group_size: 8, hard_negatives: 2}",
            "c.yaml:4: loss.group_size = 8: and loss.hard_negatives both say how many negatives a row has: give one",
        ),
        (
            "loss: {false_negatives: {}}",
            "c.yaml:4: loss.false_negatives: must have one of absolute_margin, relative_margin (0.05 is usual)",
        ),
        (
            "loss: {memory: 8}",
            "c.yaml:4: loss.memory: is smaller than a batch: make it larger than train.batch, or leave it out",
        ),
        (
            "loss: {name: triplet, memory: 100}",
            "c.yaml:4: loss.memory = 100: holds negatives for info_nce; triplet has no use for them",
        ),
        (
            "loss: {matryoshka: [64, 0]}",
            "c.yaml:4: loss.matryoshka = [64, 0]: must be a list of dimensions, such as [384, 192, 96], or {dims, weights}",
        ),
        (
            "loss: {name: gist, guide: ./none}",
            "c.yaml:4: loss.guide = ./none: no such model folder; `base` is the base model",
        ),
        ("loss: {hard_negatives: 65}", "c.yaml:4: loss.hard_negatives = 65: must be a whole number from 0 to 64"),
        ("loss: [1]", "c.yaml:4: loss = [1]: must be a mapping"),
        ("lss:\n  temperature: 1", "c.yaml:4: unknown key `lss`; did you mean `loss`?"),
        (
            "objective: symetric",
            "c.yaml:4: objective = symetric: must be one of symmetric, asymmetric, tsdae; did you mean `symmetric`?",
        ),
        (
            "objective: tsdae\nloss: {temperature: 1}",
            "c.yaml:5: loss.temperature = 1: is of no use with objective tsdae, whose loss is the cross entropy over the text's tokens",
        ),
        (
            "tsdae: {deletion: 0.5}",
            "c.yaml:4: tsdae = {deletion: 0.5}: says how texts are damaged, but objective is asymmetric",
        ),
        (
            "objective: tsdae\ntrain: {grad_cache: 8}",
            "c.yaml:5: train.grad_cache: caches a loss over embeddings; objective tsdae has a loss over tokens: leave it out",
        ),
        (
            "adapter: {kind: lora, quantization: nf4}",
            "c.yaml:4: adapter.quantization = nf4: is a setting of QLoRA, but adapter.kind is lora",
        ),
        (
            "adapter: {kind: qlora, quantization: nf5}",
            "c.yaml:4: adapter.quantization = nf5: must be one of nf4, nf4-single, int8; did you mean `nf4`?",
        ),
        (
            "train: {dropout: 0}\nloss: {name: simcse}",
            "c.yaml:4: train.dropout: simcse lives on dropout: with none, both passes are the same text",
        ),
        ("train: {patience: 3}", "c.yaml:4: train.patience: counts dev evaluations: give train.eval_every"),
        (
            "train: {eval_every: 5, metric: StsbRu}",
            "c.yaml:4: train.metric: must be loss or mrr, or `tasks` or a task's name with train.eval_tasks given",
        ),
        (
            "train: {eval_every: 5, patience: 2}\nscore: {checkpoints: all}",
            "c.yaml:5: score.checkpoints: all: train.metric, patience and keep leave it open which there will be; use last, \
             which is the best then",
        ),
        ("train: {keep: {disk: big}}", "c.yaml:4: train.keep.disk = big: `big` is no size: write 500MB, 4GB or 0"),
        ("train: {groups: [{lr: 2}]}", "c.yaml:4: train.groups.pattern: is missing"),
        ("train: {dropout: 1}", "c.yaml:4: train.dropout = 1: must be from 0 to below 1, or config"),
        ("adapter: {rank: 8}", "c.yaml:4: adapter.rank = 8: is a setting of LoRA, but adapter.kind is full"),
        ("adapter: {kind: lora, rank: 0}", "c.yaml:4: adapter.rank = 0: must be a whole number from 1 to 4096"),
        ("adapter: {kind: lora, rank: 8.5}", "c.yaml:4: adapter.rank = 8.5: must be a whole number from 1 to 4096"),
        ("adapter: {kind: lora, dropout: 1}", "c.yaml:4: adapter.dropout = 1: must be from 0 to below 1"),
        ("adapter: {kind: lora, targets: []}", "c.yaml:4: adapter.targets = []: must name at least one linear layer"),
        ("train: {lr: fast}", "c.yaml:4: train.lr = fast: must be above 0"),
        ("train:\n  # a comment\n  lr: 0", "c.yaml:6: train.lr = 0: must be above 0"),
        (
            "train: {batch: 1}",
            "c.yaml:4: train.batch = 1: must be at least 2: the other rows of a batch are its negatives",
        ),
        ("train: {epochs: 99999999999999999999}", "c.yaml:4: train.epochs = 1e20: must be a whole number from 1"),
        ("train: {eval_every: 0}", "c.yaml:4: train.eval_every = 0: must be a whole number from 1"),
        ("train: {betas: [0.9]}", "c.yaml:4: train.betas = [0.9]: must be two numbers from 0 to below 1"),
        ("train: {clip: 0}", "c.yaml:4: train.clip = 0: must be above 0, or null for none"),
        (
            "train: {schedule: linaer}",
            "c.yaml:4: train.schedule = linaer: must be one of linear, cosine, constant; did you mean `linear`?",
        ),
        (
            "train: {warmup: 1.5}",
            "c.yaml:4: train.warmup = 1.5: must be a share of the steps from 0 to below 1, or a whole number of steps",
        ),
        ("train: {max_length: {query: 2}}", "c.yaml:4: train.max_length.query = 2: must be a whole number from 4"),
        ("train: {freeze: {a: b}}", "c.yaml:4: train.freeze = {a: b}: must be text or a list of texts"),
        ("score: {limit: 5}", "c.yaml:4: score.limit = 5: must be a whole number from 20"),
        ("score: {checkpoints: true}", "c.yaml:4: score.checkpoints = true: must be text; put it in quotes"),
        ("choose: {on: train}", "c.yaml:4: choose.on = train: must be one of dev, test"),
        (
            "choose: {by: mean_task_typ}",
            "c.yaml:4: choose.by = mean_task_typ: must be mean_task_type, mean_task or a task's name; did you mean `mean_task_type`?",
        ),
        ("run: {executor: slrum}", "c.yaml:4: run.executor = slrum: must be one of local, slurm"),
        ("run: {dtype: f16}", "c.yaml:4: run.dtype = f16: must be one of auto, f32, bf16; did you mean `bf16`?"),
        ("run: {device: gpu}", "c.yaml:4: run.device = gpu: must be auto, cpu, cuda or cuda:N"),
        (
            "merge: [{ties: {}}]",
            "c.yaml:4: merge: must be {slerp: {first: …, second: …, alpha: auto}} or {linear: {models: […], weights: equal}}",
        ),
        (
            "merge: [{linear: {}}]",
            "c.yaml:4: merge.linear.models: must list two or more models, such as [{train.seed: 1}, {train.seed: 2}], or give \
             over: AXIS",
        ),
        (
            "merge: [{linear: {models: [{name: a}, 3]}}]",
            "c.yaml:4: merge.linear.models: 3 must be a mapping of an axis to a value, such as {train.seed: 1}",
        ),
        (
            "merge: [{linear: {models: [{name: a}, {name: b}], weights: [0.5, 0.2, 0.3]}}]",
            "c.yaml:4: merge.linear.weights = [0.5, 0.2, 0.3]: 3 weights for 2 models: give one each",
        ),
        (
            "merge: [{linear: {models: [{name: a}, {name: b}], weights: [0.5, 0.6]}}]",
            "c.yaml:4: merge.linear.weights = [0.5, 0.6]: sum to 1.1: they must sum to 1",
        ),
        (
            "merge: [{linear: {over: train.seed, weights: [0.5, -0.5]}}]",
            "c.yaml:4: merge.linear.weights = [0.5, -0.5]: must be `equal`, or a list of numbers from 0 to 1, one a model",
        ),
        (
            "merge: [{linear: {over: train.seed, models: [{name: a}, {name: b}]}}]",
            "c.yaml:4: merge.linear: selects its models twice: give models, or over",
        ),
        ("merge: [{slerp: {pairs: some}}]", "c.yaml:4: merge.slerp.pairs = some: must be one of all"),
        (
            "merge: [{slerp: {pairs: all, over: objective}}]",
            "c.yaml:4: merge.slerp: selects its pairs twice: give first and second, or over, or pairs: all",
        ),
        (
            "merge: [{slerp: {pairs: all, alpha: 1.5}}]",
            "c.yaml:4: merge.slerp.alpha = 1.5: must be `auto`, a number from 0 to 1, a list of such, or {layers: auto} or \
             {layers: [0, 1]}",
        ),
        (
            "merge: [{slerp: {pairs: all, alpha: {layers: [0.5]}}}]",
            "c.yaml:4: merge.slerp.alpha.layers = [0.5]: must be `auto`, or two or more numbers from 0 to 1, from the first \
             layer to the last",
        ),
        ("search: {sample: 0}", "c.yaml:4: search.sample = 0: must be a whole number from 1 to 10000"),
        ("search: {limit: 20000}", "c.yaml:4: search.limit = 20000: must be a whole number from 1 to 10000"),
        (
            "search: {sample: 20, limit: 10}",
            "c.yaml:4: search.sample = 20: is more than search.limit (10): draw fewer than 20, or raise the limit",
        ),
        (
            "objective: symmetric\ntrain:\n  max_length: {query: 32, document: 128}",
            "c.yaml:6: train.max_length: objective symmetric encodes both sides alike: make the lengths equal, or use asymmetric",
        ),
        ("a: &a [1, 2]\nb: *c", "c.yaml:5: not valid YAML: while parsing node, found unknown anchor"),
        ("loss:\n  temperature: 1\n  temperature: 2", "c.yaml:6: not valid YAML: duplicated key in mapping"),
        ("train: {lr: [1\n", "c.yaml:5: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("train:\n\tlr: 1", "c.yaml:5: not valid YAML: tabs disallowed within this context (block indentation)"),
        ("? [a]\n: 1", "c.yaml:1: has a key that is no text"),
        ("---\nname: y", "c.yaml:5: holds more than one YAML document"),
    ] {
        let found = errors(check(added, &[]));
        assert!(found.iter().any(|line| line == expected), "{added:?}\nexpected {expected}\nfound    {found:#?}");
    }
}

#[test]
fn what_every_config_needs() {
    for (text, expected) in [
        ("", "c.yaml:1: name: is missing"),
        ("name: ''\nbase: a/b\ndata: {train: t}", "c.yaml:1: name = : must not be empty"),
        ("base: a/b\nname:\ndata: {train: t}", "c.yaml:2: name = null: must not be empty"),
        (
            "name: ../x\nbase: a/b\ndata: {train: t}",
            "c.yaml:1: name = ../x: must be a plain name (no / \\ : * ? \" < > |, no dot in front): it names files and folders",
        ),
        ("name: x\ndata: {train: t}", "c.yaml:1: base: is missing: give a model folder, or {scratch: {…}}"),
        (
            "name: x\nbase: ./none\ndata: {train: t}",
            "c.yaml:2: base = ./none: no such model folder (relative to the config, or to the current folder)",
        ),
        (
            "name: x\nbase: {scratc: {}}\ndata: {train: t}",
            "c.yaml:2: unknown key `base.scratc`; did you mean `scratch`?",
        ),
        (
            "name: x\nbase:\n  scratch: {hidden: 100, heads: 3}\ndata: {train: t}",
            "c.yaml:3: base.scratch: hidden 100 is not a multiple of heads 3",
        ),
        (
            "name: x\nbase: {scratch: {tokenizer: bpe}}\ndata: {train: t}",
            "c.yaml:2: base.scratch.tokenizer = bpe: must be one of wordpiece",
        ),
        ("name: x\nbase: a/b", "c.yaml:1: data.train: is missing: give a file of training rows, or a list of them"),
        (
            "name: x\nbase: a/b\ndata:\n  train: [{path: t, weight: 0}]",
            "c.yaml:4: data.train.weight = 0: must be above 0",
        ),
        ("name: x\nbase: a/b\ndata: {train: [{weight: 1}]}", "c.yaml:3: data.train.path: is missing"),
        (
            "name: x\nbase: a/b\ndata: {train: t}\ntrain: {eval_every: 5}",
            "c.yaml:4: train.eval_every: needs something to evaluate: give data.dev, or train.eval_tasks",
        ),
        ("- a", "c.yaml:1: must be a mapping of settings"),
    ] {
        let found = errors(parse(text, &[]).and_then(|d| d.check()));
        assert!(found.iter().any(|line| line == expected), "{text:?}\nexpected {expected}\nfound    {found:#?}");
    }
    let missing = errors(Document::load(Path::new("/none/c.yaml"), &[]));
    assert!(missing[0].starts_with("/none/c.yaml: cannot be read: "), "{missing:?}");
}

#[test]
fn all_faults_are_told_at_once_in_the_files_order() {
    let added = "run: {device: gpu}\ngrid: {x.y: 3}\ntrain: {lr: 0, epochz: 2}\nlss:\n  temperature: 0\n";
    let expected = [
        "c.yaml:4: run.device = gpu: must be auto, cpu, cuda or cuda:N",
        "c.yaml:5: grid.x.y: must be a list of at least one value",
        "c.yaml:6: train.lr = 0: must be above 0",
        "c.yaml:6: unknown key `train.epochz`; did you mean `epochs`?",
        "c.yaml:7: unknown key `lss`; did you mean `loss`?",
        "--set train.batch=0: train.batch = 0: must be a whole number from 1",
    ];
    assert_eq!(errors(trials(added, &["train.batch=0"])), expected);
}

#[test]
fn hostile_documents_are_refused() {
    let mut laughs = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    }
    assert!(errors(check(&laughs, &[]))[0].contains("billion-laughs"));
    for (nested, expected) in [
        (format!("a: {}", "[".repeat(100_000)), "recursion limit exceeded"),
        (format!("a:\n  {}", "- ".repeat(100_000)), "c.yaml:5: is nested too deep"),
        (format!("a:\n  {}", "? ".repeat(100_000)), "c.yaml:5: is nested too deep"),
        ((0..1_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect(), "c.yaml:205: is nested too deep"),
        ("#".repeat(5 << 20), "is larger than 4 MiB"),
    ] {
        let found = errors(check(&nested, &[]));
        assert!(found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn an_override_is_applied_and_located() {
    let config =
        check("train: {lr: 1}", &["train.lr=2e-5", "train.clip=null", "adapter.kind=lora", "data.prompts.query='q: '"]);
    let config = config.unwrap();
    assert_eq!((config.train.lr, config.train.clip), (2e-5, None));
    assert!(matches!(config.adapter, Adapter::Lora(Lora { rank: 8, .. })));
    assert_eq!(config.data.prompts, (Some("q: ".into()), None));
    // Paths that are typed are relative to the current folder, paths that are written to the config.
    let config = check("", &["data.train=[{path: a.jsonl, weight: 2}, b.jsonl]", "data.train.0.limit=10"]).unwrap();
    let first = set("a.jsonl", 2.0, Some(10));
    assert_eq!((config.data.train.len(), &config.data.train[0]), (2, &first));
    assert_eq!(config.data.dev[0].path, PathBuf::from("/configs/d.jsonl"));
    for (set, expected) in [
        ("train.lr=0", "--set train.lr=0: train.lr = 0: must be above 0"),
        ("train.lrr=1", "--set train.lrr=1: unknown key `train.lrr`; did you mean `lr`?"),
        ("train.lr", "--set train.lr: must be KEY=VALUE, such as train.lr=2e-5"),
        ("=1", "--set =1: has an empty key"),
        ("train..lr=1", "--set train..lr=1: has an empty key"),
        ("train.lr=[1", "--set train.lr=[1: not valid YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("train=5", "--set train=5: train = 5: must be a mapping"),
        (
            "data.prompts.query=q: ",
            "--set data.prompts.query=q: : data.prompts.query = {q: null}: must be text; put it in quotes",
        ),
    ] {
        let found = errors(check("", &[set]));
        assert!(found.iter().any(|line| line == expected), "{set}\nexpected {expected}\nfound    {found:#?}");
    }
}

#[test]
fn a_bare_config_has_the_defaults() {
    let config = check("", &[]).unwrap();
    assert_eq!(config.base, Base::Hub { id: "org/model".into(), folder: None });
    assert_eq!((config.objective, config.adapter.clone()), (Objective::Asymmetric, Adapter::Full));
    assert_eq!((config.loss.temperature, config.loss.hard_negatives), (0.05, 1));
    let t = &config.train;
    assert_eq!((t.epochs, t.max_steps, t.batch, t.accumulate, t.lr), (1, None, 32, 1, 2e-5));
    assert_eq!((t.warmup, t.clip, t.weight_decay, t.betas, t.eps), (0.05, Some(1.0), 0.01, (0.9, 0.999), 1e-8));
    assert_eq!((t.max_length, t.seed, t.eval_every, t.save_every), ((None, None), 1, None, None));
    assert_eq!((config.choose.by.name(), config.choose.on_test, config.choose.seeds), ("mean_task_type", false, 3));
    assert_eq!(config.data.train[0], set("/configs/t.jsonl", 1.0, None));
    // A step's identity is a hash of this: the same settings give the same text, however they are written.
    let written =
        check("train: &t\n  lr: 2.0e-5\n  epochs: 1\nloss: {hard_negatives: 1, temperature: 5.0e-2}\n", &[]).unwrap();
    assert_eq!(serde_json::to_string(&config).unwrap(), serde_json::to_string(&written).unwrap());
    assert_eq!(check("", &["adapter=null", "train=null", "train.betas=null"]).unwrap(), config);
}

#[test]
fn every_setting_of_training_reads_as_written() {
    let text = "
data:
  train: [{path: a.jsonl, prompts: {query: 'q: '}, columns: {query: question}}, b.csv]
  dev: {split: 0.1}
  mixing: {weighted: {alpha: 0.5, stop: first_exhausted}}
  one_set_per_batch: false
  no_duplicates: true
  drop_last: true
loss: {name: info_nce, learn_temperature: true, label_smoothing: 0.1, false_negatives: {relative_margin: 0.05}, memory: {size: 384, warmup: 10}, matryoshka: [64, 32], group_size: 8}
adapter: {kind: qlora, rank: 4, rslora: true, dora: true, rank_pattern: {key: 8}, alpha_pattern: {key: 4.5}, quantization: int8, quantize_embeddings: false}
train: {dropout: 0.2, layer_decay: 0.9, groups: [{pattern: '*.bias', lr: 2, weight_decay: 0}], no_decay: ['*.bias'], ema: 0.999, grad_cache: 64, checkpointing: true, eval_every: 50, eval_tasks: [StsbRuSTS], metric: tasks, patience: 3, min_delta: 0.001, keep: {last: 2, disk: 1GB}, state_every: 20}
run: {dtype: bf16}
";
    let config = parse(&format!("name: x\nbase: org/model\n{}", text.trim_start()), &[]).unwrap().check().unwrap();
    let data = &config.data;
    assert_eq!((data.dev_share, data.mixing), (Some(0.1), Mixing::Weighted { alpha: 0.5, all: false }));
    assert!(!data.one_set_per_batch && data.no_duplicates && data.drop_last);
    assert_eq!(data.train[0].prompts, (Some("q: ".into()), None));
    assert_eq!(data.train[0].columns["query"], "question");
    let false_negatives = Some(Margin::Relative(0.05));
    let kind = LossKind::InfoNce { learn_temperature: true, label_smoothing: 0.1, false_negatives };
    assert_eq!((&config.loss.kind, config.loss.memory), (&kind, Some(Memory { size: 384, warmup: 10 })));
    assert_eq!(config.loss.matryoshka.clone().unwrap().weights, [1.0, 1.0]);
    assert_eq!(config.loss.group_size, Some(8));
    let Adapter::Qlora { lora, quantization: Quantization::Int8, quantize_embeddings: false } = &config.adapter else {
        panic!("{:?}", config.adapter)
    };
    assert!(
        lora.rslora && lora.dora && lora.rank_pattern == [("key".to_string(), 8)] && lora.alpha_pattern[0].1 == 4.5
    );
    let t = &config.train;
    assert_eq!((t.dropout, t.layer_decay, t.ema, t.grad_cache), (Dropout::Rate(0.2), 0.9, Some(0.999), Some(64)));
    assert_eq!((t.groups[0].lr, t.groups[0].weight_decay, t.checkpointing), (2.0, Some(0.0), true));
    assert_eq!((t.metric.clone(), t.patience, t.min_delta), (Some(Metric::Tasks), Some(3), 0.001));
    assert_eq!((t.keep_last, t.keep_bytes, t.state_every), (Some(2), Some(1_000_000_000), Some(20)));
    assert_eq!(config.run.dtype, Dtype::Bf16);
    let together = check("loss: {memory: 64}", &["data.train=[a.jsonl, b.jsonl]", "data.one_set_per_batch=true"]);
    assert!(errors(together)[0].contains("keeps apart"));
    let tsdae = check("objective: tsdae\ntsdae: {deletion: 0.4, shuffle: 3, masking: 0.1}", &[]).unwrap();
    assert_eq!(tsdae.tsdae, Tsdae { deletion: 0.4, shuffle: 3, masking: 0.1 });
}

#[test]
fn settings_that_came_later_do_not_change_the_identity_of_earlier_runs() {
    let config = check("train: {dropout: 0}", &[]).unwrap();
    for (section, known) in [
        (serde_json::to_value(&config.loss).unwrap(), vec!["hard_negatives", "temperature"]),
        (serde_json::to_value(&config.adapter).unwrap(), vec!["kind"]),
    ] {
        let mut keys: Vec<String> = section.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, known);
    }
    let train = serde_json::to_value(&config.train).unwrap();
    let later =
        ["dropout", "layer_decay", "groups", "ema", "grad_cache", "eval_tasks", "metric", "patience", "state_every"];
    assert!(later.iter().all(|key| train.get(key).is_none()), "{train}");
}

#[test]
fn a_full_config_reads_as_written() {
    let text = "
name: full
base: {scratch: {layers: 1, hidden: 64, vocabulary: 500, tokenizer: wordpiece, lower_case: false, seed: 7}}
data:
  train: [a.jsonl, {path: /b.csv, weight: 0.5, limit: 100}]
  dev: d.jsonl
  prompts: {query: 'q: ', document: ''}
objective: asymmetric
loss: {name: info_nce, temperature: 0.02, hard_negatives: 0}
adapter: {kind: lora, rank: 4, alpha: 32, dropout: 0.1, targets: all-linear}
train: {epochs: 2, batch: 8, lr: 1e-3, schedule: cosine, warmup: 10, clip: null, max_length: 64, save_every: 5, freeze: ['embeddings.*']}
merge:
  - slerp: {first: {name: a}, second: {name: b}, alpha: [0.2, 1], mode: delta}
score: {tasks: [type=STS], checkpoints: last, limit: 50, seeds: 2}
choose: {on: test, by: StsbRuSTS}
run: {executor: local, jobs: 1, device: 'cuda:1', dtype: f32}
";
    let config = parse(text, &[]).unwrap().check().unwrap();
    let Base::Scratch(scratch) = &config.base else { panic!("{:?}", config.base) };
    assert_eq!((scratch.heads, scratch.intermediate, scratch.max_length, scratch.lower_case), (2, 256, 128, false));
    assert_eq!(config.data.train[1], set("/b.csv", 0.5, Some(100)));
    assert_eq!(config.data.prompts, (Some("q: ".into()), Some(String::new())));
    let targets = vec!["all-linear".to_string()];
    let lora = config.adapter.lora().unwrap();
    assert_eq!((lora.rank, lora.alpha, lora.dropout, &lora.targets), (4, 32.0, 0.1, &targets));
    assert_eq!((config.train.warmup, config.train.clip, config.train.max_length), (10.0, None, (Some(64), Some(64))));
    let super::schema::Merge::Slerp(merge) = &config.merge[0] else { panic!("{:?}", config.merge) };
    assert_eq!((merge.alpha.clone(), merge.mode, merge.budget), (Alpha::Values(vec![0.2, 1.0]), SlerpMode::Delta, 12));
    assert_eq!((config.score.all_checkpoints, config.score.limit), (false, Some(50)));
    assert_eq!((config.choose.on_test, config.choose.by.clone()), (true, Rule::Task("StsbRuSTS".into())));
    assert_eq!(config.run.device, "cuda:1");
}

#[test]
fn the_model_may_lie_beside_the_config() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("model")).unwrap();
    let file = folder.path().join("c.yaml");
    std::fs::write(&file, "\u{feff}name: x\nbase: model\ndata: {train: t.jsonl}\n").unwrap();
    let config = Document::load(&file, &[]).unwrap().check().unwrap();
    assert_eq!(config.base, Base::Folder(folder.path().join("model")));
}

fn labels(trials: &[Trial]) -> Vec<&str> {
    trials.iter().map(|t| t.label.as_str()).collect()
}

#[test]
fn a_grid_spans_its_trials_in_the_configs_order() {
    assert_eq!(labels(&trials("", &[]).unwrap()), ["x"]);
    let grid = "adapter: {kind: lora}\ngrid: {objective: [symmetric, asymmetric], adapter.rank: [8, 32], loss.temperature: [0.02], train.lr: [2e-5]}\n";
    let found = trials(grid, &[]).unwrap();
    let expected = [
        "symmetric r8 T0.02 lr=2e-5",
        "symmetric r32 T0.02 lr=2e-5",
        "asymmetric r8 T0.02 lr=2e-5",
        "asymmetric r32 T0.02 lr=2e-5",
    ];
    assert_eq!(labels(&found), expected);
    assert_eq!(found[1].axes[1], ("adapter.rank".to_string(), "32".to_string()));
    // Alpha was not written: it follows the trial's own rank.
    assert!(matches!(found[1].config.adapter, Adapter::Lora(Lora { rank: 32, alpha: 64.0, .. })));
    // Axes of the adapter apply where there is one, and so do the settings that all trials share.
    let kinds = "adapter: {alpha: 16}\ngrid: {adapter.kind: [full, lora], adapter.rank: [8, 32]}\n";
    let found = trials(kinds, &[]).unwrap();
    assert_eq!(labels(&found), ["full", "lora r8", "lora r32"]);
    assert_eq!((found[0].config.adapter.clone(), found[0].axes.len()), (Adapter::Full, 1));
    assert!(matches!(found[2].config.adapter, Adapter::Lora(Lora { alpha: 16.0, .. })));
    // Axes whose last parts are the same keep their whole keys.
    let lengths = "grid: {train.max_length.query: [8], data.prompts.query: [a]}\n";
    assert_eq!(labels(&trials(lengths, &[]).unwrap()), ["train.max_length.query=8 data.prompts.query=a"]);
    assert_eq!(labels(&trials("adapter: {kind: lora}\n", &["grid.adapter.rank=[4, 6]"]).unwrap()), ["r4", "r6"]);
}

#[test]
fn named_trials_are_variants() {
    let named = "adapter: {kind: lora, rank: 4}\ntrials:\n  - {name: plain}\n  - {name: whole, set: {adapter.kind: full, train.lr: 1e-5}}\n";
    let found = trials(named, &[]).unwrap();
    assert_eq!(labels(&found), ["plain", "whole"]);
    assert_eq!((found[1].config.adapter.clone(), found[1].config.train.lr), (Adapter::Full, 1e-5));
    assert_eq!(found[1].axes[1], ("train.lr".to_string(), "1e-5".to_string()));
}

#[test]
fn faults_of_grids_trials_and_merges() {
    let grid = "grid: {objective: [symmetric, asymmetric]}\n";
    let merge =
        |first: &str, second: &str| format!("{grid}merge:\n  - slerp:\n      first: {first}\n      second: {second}\n");
    let many: Vec<String> = (1..=101).map(|i| i.to_string()).collect();
    for (added, expected) in [
        ("grid: 3".into(), "c.yaml:4: grid: must be a mapping of settings to lists of values"),
        ("grid: {train.lr: []}".into(), "c.yaml:4: grid.train.lr: must be a list of at least one value"),
        ("grid: {train.lr: [0.1, 1e-1]}".into(), "c.yaml:4: grid.train.lr: lists 0.1 twice"),
        (
            "grid: {run.device: [cpu]}".into(),
            "c.yaml:4: grid.run.device: cannot be an axis: it is the same for all trials of a sweep",
        ),
        ("grid:\n  train.lr: [1, 0]".into(), "c.yaml:5: train.lr = 0: must be above 0"),
        ("grid:\n  train.lrr: [1]".into(), "c.yaml:5: unknown key `train.lrr`; did you mean `lr`?"),
        (
            "grid:\n  adapter.rank: [8]".into(),
            "c.yaml:5: grid.adapter.rank: applies to no trial: adapter.kind is full; make it lora",
        ),
        (
            "grid:\n  adapter: [{kind: lora}]\n  adapter.rank: [8]".into(),
            "c.yaml:6: grid.adapter.rank: overlaps with grid.adapter: one of them would overwrite the other",
        ),
        (
            format!("grid: {{train.seed: [{0}], train.epochs: [{0}]}}", many.join(", ")),
            "c.yaml:4: grid: spans 10201 trials, more than 10000: give fewer values, tie axes to settings with `when`, or draw \
             some points at random (search: {sample: 100})",
        ),
        (
            format!("{grid}trials: [{{name: a}}]"),
            "c.yaml:5: trials: a config has either a grid or named trials: remove one of them",
        ),
        (
            "grid: {base: [a/b]}".into(),
            "c.yaml:4: grid.base: cannot be an axis: it is the same for all trials of a sweep",
        ),
        (
            "trials: [{name: a, set: {base: b}}]".into(),
            "c.yaml:4: trials.set.base: is the same for all trials of a sweep",
        ),
        ("trials: [{name: a}, {name: a}]".into(), "c.yaml:4: trials.name = a: is taken by another trial"),
        ("trials: [{set: {}}]".into(), "c.yaml:4: trials.name: is missing"),
        (
            "trials: [{name: a, set: [1]}]".into(),
            "c.yaml:4: trials.set = [1]: must be a mapping of settings to values, such as {train.lr: 1e-4}",
        ),
        ("trials: [{name: a, set: {train.lrr: 1}}]".into(), "c.yaml:4: unknown key `train.lrr`; did you mean `lr`?"),
        (
            "trials: [{name: a, set: {adapter.rank: 8}}]".into(),
            "c.yaml:4: adapter.rank = 8: is a setting of LoRA, but adapter.kind is full",
        ),
        (
            merge("{objectve: symmetric}", "{objective: asymmetric}"),
            "c.yaml:7: merge.slerp.first.objectve: no axis of this name; there are objective, name; did you mean `objective`?",
        ),
        (
            merge("{objective: symmetric}", "{objective: asymetric}"),
            "c.yaml:8: merge.slerp.second.objective = asymetric: no trial has this; there are symmetric, asymmetric; did you mean `asymmetric`?",
        ),
        (
            merge("{objective: symmetric}", "{objective: symmetric}"),
            "c.yaml:6: merge.slerp: first and second select the same trials",
        ),
        (
            merge("{}", "{objective: symmetric}"),
            "c.yaml:7: merge.slerp.first = {}: must be a mapping of an axis to a value, such as {objective: symmetric}",
        ),
    ] {
        let found = errors(trials(&added, &[]));
        assert!(found.iter().any(|line| line == expected), "{added:?}\nexpected {expected}\nfound    {found:#?}");
    }
    assert_eq!(trials(&merge("{objective: symmetric}", "{objective: asymmetric}"), &[]).unwrap().len(), 2);
}

#[test]
fn the_config_in_force_reads_back_with_its_overrides() {
    let text = "# mine\nname: a\nbase: b\ndata: {train: [{path: 'x y: z.jsonl', limit: 3}]}\ntrain: {lr: 1e-5, clip: 1}\ngrid:\n  loss.temperature: [0.02, 1.0]\n";
    let load = |text: &str, sets: &[&str]| parse(text, sets).unwrap();
    assert_eq!(load(text, &[]).text(), text);
    let sets = ["train.lr=3e-4", "base=\"1\"", "data.train=[yes.jsonl, 'no: #x', '']", "grid.adapter.rank=[8]"];
    let changed = load(text, &sets);
    let again = load(&changed.text(), &[]);
    assert!(changed.text().contains("--set train.lr=3e-4") && changed.text().contains("lr: 3.0e-4"));
    assert_eq!(again.root.to_yaml(), changed.root.to_yaml());
    let values = |d: &Document| format!("{:?}", d.root.clone().relocated(&super::node::Origin::Line(1)));
    assert_eq!(values(&again), values(&changed));
}

#[test]
fn limits_of_single_tasks_replace_the_general_one() {
    let score = check("score: {limit: 100, limits: {A: 20}}\n", &[]).unwrap().score;
    assert_eq!((score.limit_of("A"), score.limit_of("B")), (Some(20), Some(100)));
    let error = check("score: {limits: {A: 3, B: [1]}}\n", &[]).unwrap_err().to_string();
    assert!(error.contains("c.yaml:4: score.limits.A = 3 must be a whole number from 20"), "{error}");
    assert!(error.contains("score.limits.B = [1] must be"), "{error}");
}

#[test]
fn ranges_are_axes() {
    let axes = |grid: &str| {
        let document = parse(&format!("{NEEDED}grid: {{{grid}}}\n"), &[]).unwrap();
        let axes = document.axes().unwrap();
        axes[0].1.iter().map(|node| node.value.show()).collect::<Vec<_>>()
    };
    assert_eq!(
        axes("train.lr: {from: 1e-5, to: 1e-3, count: 5, scale: log}"),
        ["1e-5", "3.16e-5", "1e-4", "3.16e-4", "0.001"]
    );
    assert_eq!(axes("train.epochs: {from: 1, to: 10, step: 3}"), ["1", "4", "7", "10"]);
    assert_eq!(axes("adapter.rank: {from: 8, to: 64, count: 4, scale: log}"), ["8", "16", "32", "64"]);
    assert_eq!(axes("train.ema: {from: 0.9, to: 0.99, count: 4}"), ["0.9", "0.93", "0.96", "0.99"]);
    assert_eq!(axes("train.lr: {values: [1e-5, 2e-5]}"), ["1e-5", "2e-5"]);
    // Whole numbers stay whole, and what is set on the command line reads alike.
    let found = trials("", &["grid.train.epochs={from: 1, to: 3, count: 3}", "grid.train.lr=[1e-5]"]).unwrap();
    assert_eq!(labels(&found), ["epochs=1 lr=1e-5", "epochs=2 lr=1e-5", "epochs=3 lr=1e-5"]);
    assert_eq!(found[2].config.train.epochs, 3);
}

#[test]
fn faults_of_ranges_and_conditions() {
    for (grid, expected) in [
        ("train.lr: {}", "grid.train.lr: must be a list of at least one value"),
        ("train.lr: 1e-5", "grid.train.lr: must be a list of at least one value"),
        (
            "train.lr: {from: 1e-5, count: 3}",
            "grid.train.lr.to: is missing: a range has from and to, and count or step",
        ),
        ("train.lr: {from: 2, to: 1, count: 3}", "grid.train.lr.to = 1: must be above from (2)"),
        ("train.lr: {from: 0, to: 1, count: 3, scale: log}", "grid.train.lr.from = 0: must be above 0 for scale log"),
        (
            "train.lr: {from: 0, to: 1}",
            "grid.train.lr: a range needs one of count (how many values) and step (how far apart)",
        ),
        (
            "train.lr: {from: 1, to: 2, step: 0.1, scale: log}",
            "grid.train.lr.scale = log: has no meaning with step, which adds: give count instead of step",
        ),
        ("train.lr: {from: 0, to: 1, count: 1}", "grid.train.lr.count = 1: must be a whole number from 2 to 10000"),
        (
            "train.lr: {from: 0, to: 1, step: 1e-9}",
            "grid.train.lr.step = 1e-9: gives more than 10000 values: make it larger",
        ),
        (
            "train.lr: {from: 0, to: 1, count: 3, values: [1]}",
            "grid.train.lr: gives its values twice: give one of {values: […]}, {from, to, count, scale: linear|log}, {from, to, \
             step}, {uniform: [a, b]}, {log_uniform: [a, b]} or {whole: [a, b]}",
        ),
        ("train.lr: {from: 0, to: 1, step: 1, cont: 3}", "unknown key `grid.train.lr.cont`; did you mean `count`?"),
        (
            "train.lr: {uniform: [1, 0]}",
            "grid.train.lr.uniform = [1, 0]: must be two numbers, the lower first, such as [1e-5, 1e-3]",
        ),
        (
            "train.lr: {log_uniform: [0, 1]}",
            "grid.train.lr.log_uniform = [0, 1]: must be above 0: zero has no order of magnitude",
        ),
        (
            "train.batch: {whole: [2, 4.5]}",
            "grid.train.batch.whole = [2, 4.5]: must be two whole numbers, such as [4, 64]",
        ),
        (
            "train.batch: {whole: [2, 4]}",
            "grid.train.batch: is a distribution: say how many points are drawn, such as search: {sample: 20}, or give a list \
             or a range",
        ),
        (
            "train.lr: {values: [1e-5], when: 3}",
            "grid.train.lr.when = 3: must be a mapping of a setting to its values, such as {adapter.kind: [lora, qlora]}",
        ),
        (
            "train.lr: {values: [1e-5], when: {objectve: symmetric}}",
            "grid.train.lr.when.objectve: is neither an axis nor set in this config: set it, so that its value is known",
        ),
        (
            "train.lr: {values: [1e-5], when: {objective: symmetric}}",
            "grid.train.lr: applies to no trial: its `when` never holds",
        ),
        (
            "train.lr: {values: [1e-5], when: {adapter.kind: lorra}}, adapter.kind: [full, lora]",
            "grid.train.lr.when.adapter.kind = lorra: no trial has this; there are full, lora; did you mean `lora`?",
        ),
        (
            "train.lr: {values: [1e-5], when: {train.lr: 1e-5}}",
            "grid.train.lr.when.train.lr: an axis cannot depend on itself",
        ),
        (
            "adapter.kind: [full, lora], adapter.quantization: [nf4, int8]",
            "grid.adapter.quantization: applies to no trial: adapter.kind is full; make it lora",
        ),
        ("prune.factor: [2, 3]", "grid.prune.factor: cannot be an axis: it is the same for all trials of a sweep"),
        ("search.seed: [2, 3]", "grid.search.seed: cannot be an axis: it is the same for all trials of a sweep"),
    ] {
        let found = errors(trials(&format!("grid: {{{grid}}}\n"), &[]));
        let expected = format!("c.yaml:4: {expected}");
        assert!(found.contains(&expected), "{grid:?}\nexpected {expected}\nfound    {found:#?}");
    }
    let limit =
        "grid: {train.seed: {from: 1, to: 12, step: 1}, objective: [symmetric, asymmetric]}\nsearch: {limit: 20}\n";
    let found = errors(trials(limit, &[]));
    let expected = "c.yaml:4: grid: spans 24 trials, more than search.limit 20: give fewer values, tie axes to settings with \
                    `when`, or draw some points at random (search: {sample: 20})";
    assert_eq!(found, [expected]);
    assert_eq!(trials(limit, &["search.limit=24"]).unwrap().len(), 24);
    let named = "trials: [{name: a}, {name: b}]\n";
    assert_eq!(
        errors(trials(named, &["search.limit=1"])),
        ["c.yaml:4: trials: names 2 trials, more than search.limit 1: name fewer"]
    );
    assert!(errors(trials(named, &["search.sample=1"]))[0].contains("names its trials: leave it out"));
    assert!(errors(trials("", &["search.sample=1"]))[0].contains("draws from a grid, and there is none"));
    assert!(errors(trials("trials: [{name: base}, {name: b}]\n", &[]))[0].contains("what merges call the base model"));
}

#[test]
fn conditional_axes_apply_where_they_say() {
    let grid = "grid:\n  adapter.rank: {values: [8, 32], when: {objective: symmetric}}\n  objective: [symmetric, asymmetric]\n  \
                adapter.kind: [full, lora]\n";
    let expected = ["r8 symmetric lora", "symmetric full", "asymmetric full", "asymmetric lora", "r32 symmetric lora"];
    let found = trials(grid, &[]).unwrap();
    let mut sorted = labels(&found);
    sorted.sort_unstable();
    let mut wanted = expected.to_vec();
    wanted.sort_unstable();
    assert_eq!(sorted, wanted);
    // A setting that is not written may be named where every config has it; a dropped axis leaves the config's own value.
    let by_setting = "loss: {temperature: 0.02}\ngrid:\n  train.lr: [1e-5, 2e-5]\n  loss.temperature: {values: [0.05], when: {train.lr: \
                      1e-5}}\n  train.seed: {values: [1, 2], when: {objective: asymmetric, loss.temperature: [0.05]}}\n";
    let found = trials(by_setting, &[]).unwrap();
    assert_eq!(labels(&found), ["lr=1e-5 T0.05 s1", "lr=1e-5 T0.05 s2", "lr=2e-5"]);
    assert_eq!(found[2].config.loss.temperature, 0.02);
}

#[test]
fn samples_are_distinct_stable_and_nested() {
    let grid =
        "grid: {train.seed: {from: 1, to: 10, step: 1}, objective: [symmetric, asymmetric], train.lr: [1e-5, 2e-5]}\n";
    let draw = |sample: usize, seed: usize| {
        let found = trials(grid, &[&format!("search.sample={sample}"), &format!("search.seed={seed}")]).unwrap();
        labels(&found).into_iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (five, ten) = (draw(5, 1), draw(10, 1));
    // Of Python's random.Random(1): swaps of place i with i + randbelow(40 - i).
    assert_eq!(
        five,
        [
            "s3 symmetric lr=1e-5",
            "s10 symmetric lr=2e-5",
            "s2 asymmetric lr=1e-5",
            "s5 asymmetric lr=2e-5",
            "s3 asymmetric lr=2e-5"
        ]
    );
    assert_eq!(five[..], ten[..5]);
    assert_ne!(five, draw(5, 2));
    let mut all = draw(39, 1);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 39);
    // A sample of all there is, is the grid.
    assert_eq!(draw(40, 1), labels(&trials(grid, &[]).unwrap()));
    assert_eq!(draw(100, 1).len(), 40);
}

#[test]
fn distributions_are_drawn_within_their_bounds() {
    let grid = "search: {sample: 200}\ngrid:\n  train.lr: {log_uniform: [1e-5, 1e-3]}\n  train.weight_decay: {uniform: [0, 0.1]}\n  train.batch: \
                {whole: [4, 64]}\n";
    let document = parse(&format!("{NEEDED}{grid}"), &[]).unwrap();
    let found = document.trials().unwrap();
    assert_eq!(found.len(), 200);
    let train = || found.iter().map(|trial| &trial.config.train);
    assert!(train().all(|t| (1e-5..=1e-3).contains(&t.lr) && (0.0..=0.1).contains(&t.weight_decay)));
    assert!(train().all(|t| (4..=64).contains(&t.batch)));
    // Half of the rates are below the middle of the exponents, half of the decays below the middle: 100 ± 4 standard deviations.
    let below = |of: &dyn Fn(&super::schema::Train) -> bool| train().filter(|t| of(t)).count();
    assert!((72..=128).contains(&below(&|t| t.lr < 1e-4)) && (72..=128).contains(&below(&|t| t.weight_decay < 0.05)));
    // Three digits, and the axes are the values drawn, ascending.
    assert!(found.iter().all(|trial| trial.axes[0].1.trim_start_matches("0.").split('e').next().unwrap().len() <= 6));
    let axes = document.axes().unwrap();
    let rates: Vec<f64> = axes[0].1.iter().map(|node| node.value.show().parse().unwrap()).collect();
    assert!(rates.windows(2).all(|pair| pair[0] < pair[1]) && rates.len() > 150);
    // More than there are.
    let few = "search: {sample: 10}\ngrid: {train.batch: {whole: [4, 6]}}\n";
    assert_eq!(labels(&trials(few, &[]).unwrap()), ["batch=4", "batch=5", "batch=6"]);
    let narrow = "search: {sample: 5000}\ngrid: {train.ema: {uniform: [0.5, 0.9]}}\n";
    let error = &errors(trials(narrow, &[]))[0];
    assert!(error.contains("different points were found where search.sample asks for 5000"), "{error}");
}

#[test]
fn merges_read_as_written() {
    use super::schema::{Linear, Merge, Pairs, Weights};
    let text = "grid: {train.seed: [1, 2, 3], objective: [symmetric, asymmetric]}\nmerge:\n  - slerp: {pairs: all}\n  - slerp: {over: \
                objective, alpha: {layers: [0, 0.5, 1]}}\n  - slerp: {first: {name: base}, second: {train.seed: 1}, alpha: {layers: \
                auto}, mode: whole}\n  - linear: {over: train.seed}\n  - linear: {models: [{train.seed: 1}, {train.seed: 2}], weights: \
                [0.3, 0.7]}\n";
    let found = trials(text, &[]).unwrap();
    let merges = &found[0].config.merge;
    let Merge::Slerp(first) = &merges[0] else { panic!("{merges:?}") };
    assert_eq!((&first.pairs, &first.alpha, first.mode), (&Pairs::All, &Alpha::Auto, SlerpMode::Tensor));
    let Merge::Slerp(second) = &merges[1] else { panic!("{merges:?}") };
    assert_eq!((&second.pairs, &second.alpha), (&Pairs::Over("objective".into()), &Alpha::Layers(vec![0.0, 0.5, 1.0])));
    let Merge::Slerp(third) = &merges[2] else { panic!("{merges:?}") };
    let side = |key: &str, value: &str| vec![(key.to_string(), value.to_string())];
    let sides = Pairs::Sides { first: side("name", "base"), second: side("train.seed", "1") };
    assert_eq!((&third.pairs, &third.alpha), (&sides, &Alpha::AutoLayers));
    assert_eq!(
        merges[3],
        Merge::Linear(Linear { models: Vec::new(), over: Some("train.seed".into()), weights: Weights::Equal })
    );
    let Merge::Linear(last) = &merges[4] else { panic!("{merges:?}") };
    assert_eq!((last.models.len(), &last.weights), (2, &Weights::Given(vec![0.3, 0.7])));
    // What is set on the command line reaches into lists, and dotted keys stay whole.
    let sets = ["merge.0.slerp.alpha=0.3", "merge.2.slerp.second.train.seed=2", "merge.4.linear.models.0.train.seed=3"];
    let changed = trials(text, &sets).unwrap();
    let shown = format!("{:?}", changed[0].config.merge);
    assert!(shown.contains("Values([0.3])") && shown.contains(r#"second: [("train.seed", "2")]"#), "{shown}");
    assert!(shown.contains(r#"models: [[("train.seed", "3")], [("train.seed", "2")]]"#), "{shown}");
    for (set, expected) in [
        (
            "merge.1.slerp.over=objectve",
            "--set merge.1.slerp.over=objectve: merge.slerp.over = objectve: no axis of this name; there are train.seed, objective; did you mean `objective`?",
        ),
        ("merge.4.linear.models.0.train.seed=2", "c.yaml:10: merge.linear.models: {train.seed: 2} is there twice"),
        (
            "merge.4.linear.models.0.train.seed=7",
            "--set merge.4.linear.models.0.train.seed=7: merge.linear.models.train.seed = 7: no trial has this; there are 1, 2, 3",
        ),
        (
            "merge.2.slerp.first.objective=symmetric",
            "c.yaml:8: merge.slerp.first.name = base: is the base model, which has no axes: name it alone",
        ),
    ] {
        let found = errors(trials(text, &[set]));
        assert!(found.iter().any(|line| line == expected), "{set:?}\nexpected {expected}\nfound    {found:#?}");
    }
}

#[test]
fn what_named_trials_set_can_be_overridden() {
    let named = "trials:\n  - {name: plain}\n  - {name: fast, set: {train.lr: 1e-5}}\n";
    let found = trials(named, &["trials.1.set.train.lr=1e-3", "trials.0.set.train.batch=8"]).unwrap();
    assert_eq!((found[1].config.train.lr, found[1].config.train.batch), (1e-3, 32));
    assert_eq!(found[0].config.train.batch, 8);
    assert_eq!(found[1].axes, [("train.lr".to_string(), "0.001".to_string())]);
}

#[test]
fn trials_do_not_see_what_others_set() {
    let found = trials(
        "train: {lr: 1e-4}\ntrials:\n  - {name: a, set: {train.epochs: 3, loss.temperature: 0.5}}\n  - {name: b}\n",
        &[],
    );
    let found = found.unwrap();
    assert_eq!((found[0].config.train.epochs, found[0].config.train.lr), (3, 1e-4));
    assert_eq!(found[1].config, check("train: {lr: 1e-4}\n", &[]).unwrap());
}

#[test]
fn a_base_and_tasks_are_enough_where_nothing_is_trained() {
    let alone = "name: x\nbase: org/model\nscore: {tasks: [rumteb]}\n";
    let document = parse(alone, &[]).unwrap();
    assert_eq!(document.trials().unwrap(), []);
    assert_eq!(document.check().unwrap().score.tasks, ["rumteb"]);
    // Whatever says how to train asks for what to train on.
    for more in ["train: {lr: 1e-4}", "objective: symmetric", "trials: [{name: a}]", "grid: {train.lr: [1e-4, 1e-3]}"] {
        let found = errors(parse(&format!("{alone}{more}\n"), &[]).and_then(|d| d.trials()));
        assert!(found.iter().any(|line| line.contains("data.train: is missing")), "{more}: {found:?}");
    }
    let scratch = alone.replace("org/model", "{scratch: {layers: 1}}");
    assert!(errors(parse(&scratch, &[]).and_then(|d| d.trials()))[0].contains("data.train: is missing"));
    let found = errors(parse(alone, &["score.published=/none"]).and_then(|d| d.check()));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("score.published: /none: no such folder of results"), "{found:?}");
}
