//! The checked config: its sections, defaults and cross-checks.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::node::{Node, Origin, Value};
use super::reader::{Faults, Reader};

/// A checked config: only this can run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Names the run's and the report's folders.
    pub name: String,
    /// The model to start from.
    pub base: Base,
    /// Training data.
    pub data: Data,
    /// What a batch's loss looks at.
    pub objective: Objective,
    /// The loss.
    pub loss: Loss,
    /// What is trained.
    pub adapter: Adapter,
    /// Optimization.
    pub train: Train,
    /// Merges of trained variants.
    pub merge: Vec<Slerp>,
    /// Tasks and how they are scored.
    pub score: Score,
    /// How the best is chosen.
    pub choose: Choose,
    /// Where it runs.
    pub run: Run,
}

/// The model to start from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Base {
    /// A model folder.
    Folder(PathBuf),
    /// A hub id (`org/name`).
    Hub(String),
    /// Made from nothing.
    Scratch(Scratch),
}

/// Sizes of a model made from nothing; its tokenizer is trained on the training data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scratch {
    /// Transformer layers (default 2).
    pub layers: usize,
    /// Width of the token vectors (default 128).
    pub hidden: usize,
    /// Attention heads (default hidden / 32).
    pub heads: usize,
    /// Width of the feed-forward layers (default 4 hidden).
    pub intermediate: usize,
    /// Most entries of the vocabulary (default 8000).
    pub vocabulary: usize,
    /// Most tokens of a text (default 128).
    pub max_length: usize,
    /// Whether texts are lower-cased (default true).
    pub lower_case: bool,
    /// Seed of the weights (default 1).
    pub seed: u64,
}

/// Training data.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Data {
    /// Training sets.
    pub train: Vec<TrainSet>,
    /// Dev sets: loss and ranking while training.
    pub dev: Vec<TrainSet>,
    /// Prompts before queries and documents; the model's own if none is given.
    pub prompts: (Option<String>, Option<String>),
}

/// A file of training rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSet {
    /// The file.
    pub path: PathBuf,
    /// Rows used per epoch, as a multiple of those there are (default 1).
    pub weight: f64,
    /// Most rows read, from the start.
    pub limit: Option<usize>,
}

/// What a batch's loss looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Both sides alike, both directions.
    Symmetric,
    /// Query to document, with their prompts and lengths.
    Asymmetric,
}

/// InfoNCE.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Loss {
    /// Temperature (default 0.05).
    pub temperature: f64,
    /// Hard negatives a row, at most (default 1).
    pub hard_negatives: usize,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Adapter {
    /// All of the model's weights.
    Full,
    /// A low-rank adapter on frozen weights.
    Lora {
        /// Rank (default 8).
        rank: usize,
        /// Scale is alpha / rank (default 2 rank).
        alpha: f64,
        /// Dropout before the adapter (default 0).
        dropout: f64,
        /// Linear layers, by name, end of name, glob, or `all-linear` (default query, value).
        targets: Vec<String>,
    },
}

/// Optimization.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Train {
    /// Passes over the rows (default 1).
    pub epochs: usize,
    /// Optimizer steps, if fewer.
    pub max_steps: Option<usize>,
    /// Rows a batch (default 32).
    pub batch: usize,
    /// Batches an optimizer step (default 1).
    pub accumulate: usize,
    /// Highest learning rate (default 2e-5).
    pub lr: f64,
    /// Shape after warm-up (default linear).
    pub schedule: Schedule,
    /// Warm-up: a share of the steps below 1, steps otherwise (default 0.05).
    pub warmup: f64,
    /// Largest gradient norm; null for none (default 1).
    pub clip: Option<f64>,
    /// Decoupled weight decay (default 0.01).
    pub weight_decay: f64,
    /// Decay rates of AdamW's moments (default 0.9, 0.999).
    pub betas: (f64, f64),
    /// AdamW's epsilon (default 1e-8).
    pub eps: f64,
    /// Most tokens of queries and documents (default the model's own).
    pub max_length: (Option<usize>, Option<usize>),
    /// Seed of order, draws and initial adapters (default 1).
    pub seed: u64,
    /// Steps between dev evaluations.
    pub eval_every: Option<usize>,
    /// Steps between checkpoints; the last step is always saved.
    pub save_every: Option<usize>,
    /// Tensors that stay as they are, by glob.
    pub freeze: Vec<String>,
}

/// Learning-rate schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Falls linearly to 0.
    Linear,
    /// Half a cosine.
    Cosine,
    /// Stays.
    Constant,
}

/// SLERP of pairs of trials.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Slerp {
    /// Axes that the first of a pair has (α = 0).
    pub first: Vec<(String, String)>,
    /// Axes that the second has (α = 1).
    pub second: Vec<(String, String)>,
    /// Weight of the second.
    pub alpha: Alpha,
    /// Tensor by tensor, the whole model as one vector, or the changes from the base.
    pub mode: SlerpMode,
    /// The search stops when α is known this closely (default 0.05).
    pub tolerance: f64,
    /// Most evaluations of a search (default 12).
    pub budget: usize,
}

/// Weight of the second model of a merge.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// Found on dev.
    Auto,
    /// Given; a merge each.
    Values(Vec<f64>),
}

/// What is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlerpMode {
    /// Each tensor by itself.
    Tensor,
    /// All weights as one vector.
    Whole,
    /// Each tensor's change from the base.
    Delta,
}

/// Tasks and how they are scored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Selectors: task files, folders, names, globs, `type=…`, `lang=…`.
    pub tasks: Vec<String>,
    /// Score every checkpoint, or the last of each trial alone.
    pub all_checkpoints: bool,
    /// Most rows of a split (training splits of tasks are not cut).
    pub limit: Option<usize>,
    /// Protocol seeds on test, 42 the first (default 3).
    pub seeds: usize,
}

/// How the best is chosen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choose {
    /// Chosen on test instead of dev: the report says so in its first line.
    pub on_test: bool,
    /// The rule.
    pub by: Rule,
    /// Protocol seeds on dev, 42 the first (default 3).
    pub seeds: usize,
}

/// What the best is best by.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Mean over task types of the mean over their tasks.
    MeanTaskType,
    /// Mean over tasks.
    MeanTask,
    /// One task.
    Task(String),
}

impl Rule {
    /// As written in the config.
    pub fn name(&self) -> &str {
        match self {
            Self::MeanTaskType => "mean_task_type",
            Self::MeanTask => "mean_task",
            Self::Task(name) => name,
        }
    }
}

/// Where it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
}

/// Reads the tree; faults go to `faults`, and the result counts only if there are none.
pub(super) fn read(root: &Node, folder: &Path, faults: &Faults) -> Config {
    let r = Reader::new(Some(root), "", &root.origin, faults);
    for key in ["grid", "trials"] {
        r.has(key);
    }
    let name = r.required_text("name");
    if !name.is_empty() && (name.contains(['/', '\\']) || name.starts_with('.')) {
        r.fault("name", "must be a plain name: it names a folder");
    }
    let objectives = [("symmetric", Objective::Symmetric), ("asymmetric", Objective::Asymmetric)];
    if r.node("objective").is_some_and(|n| n.value == Value::Text("tsdae".into())) {
        r.fault("objective", "is not available yet; symmetric and asymmetric are");
    }
    let objective = match r.node("objective").map(|n| &n.value) {
        Some(Value::Text(text)) if text == "tsdae" => Objective::Asymmetric,
        _ => r.choice("objective", &objectives).unwrap_or(Objective::Asymmetric),
    };
    let config = Config {
        name,
        base: read_base(&r, folder),
        data: read_data(&r, folder),
        objective,
        loss: read_loss(&r),
        adapter: read_adapter(&r),
        train: read_train(&r),
        merge: read_merges(&r),
        score: read_score(&r, folder),
        choose: read_choose(&r),
        run: read_run(&r),
    };
    if config.objective == Objective::Symmetric {
        let (query, document) = &config.data.prompts;
        if query.clone().unwrap_or_default() != document.clone().unwrap_or_default() {
            r.fault_here("objective symmetric encodes both sides alike, but data.prompts differ: make them equal, or use asymmetric");
        }
        if config.train.max_length.0 != config.train.max_length.1 {
            r.fault_here(
                "objective symmetric encodes both sides alike, but train.max_length differs between the sides",
            );
        }
    }
    if config.train.eval_every.is_some() && config.data.dev.is_empty() {
        r.fault_here("train.eval_every needs dev rows: give data.dev");
    }
    r.finish();
    config
}

fn resolve(path: &str, origin: &Origin, folder: &Path) -> PathBuf {
    let given = PathBuf::from(path);
    match origin {
        Origin::Line(_) if given.is_relative() => folder.join(given),
        _ => given,
    }
}

fn read_base(r: &Reader<'_>, folder: &Path) -> Base {
    let Some(node) = r.node("base") else {
        r.fault("base", "is missing: give a model folder, or {scratch: {…}}");
        return Base::Hub(String::new());
    };
    if let Value::Text(text) = &node.value {
        let beside = resolve(text, &node.origin, folder);
        for path in [beside.clone(), PathBuf::from(text)] {
            if path.is_dir() {
                return Base::Folder(path);
            }
        }
        let looks_like_path = text.starts_with(['.', '/', '~']) || text.matches('/').count() != 1;
        if looks_like_path || text.is_empty() {
            r.fault("base", "no such model folder (relative to the config, or to the current folder)");
        }
        return if looks_like_path { Base::Folder(beside) } else { Base::Hub(text.clone()) };
    }
    let outer = Reader::new(Some(node), "base", &node.origin, r.faults());
    if !outer.has("scratch") {
        outer.fault_here("must be a model folder, a hub id, or {scratch: {…}}");
    }
    let s = outer.section("scratch");
    let size = |key, default| s.whole(key, 1..=65_536, "from 1 to 65536").unwrap_or(default);
    let hidden = size("hidden", 128);
    let heads = size("heads", (hidden / 32).max(1));
    if hidden % heads != 0 {
        s.fault_here(format!("hidden {hidden} is not a multiple of heads {heads}"));
    }
    let scratch = Scratch {
        layers: s.whole("layers", 0..=96, "from 0 to 96").unwrap_or(2),
        hidden,
        heads,
        intermediate: size("intermediate", 4 * hidden),
        vocabulary: s.whole("vocabulary", 100..=1_000_000, "from 100").unwrap_or(8_000),
        max_length: s.whole("max_length", 4..=8_192, "from 4 to 8192").unwrap_or(128),
        lower_case: s.flag("lower_case").unwrap_or(true),
        seed: s.whole("seed", 0.., "from 0").unwrap_or(1) as u64,
    };
    s.finish();
    outer.finish();
    Base::Scratch(scratch)
}

fn read_sets(r: &Reader<'_>, key: &'static str, folder: &Path) -> Vec<TrainSet> {
    let mut sets = Vec::new();
    for item in r.items(key) {
        if let Value::Text(path) = &item.value {
            sets.push(TrainSet { path: resolve(path, &item.origin, folder), weight: 1.0, limit: None });
            continue;
        }
        let set = Reader::new(Some(item), &r.full(key), &item.origin, r.faults());
        let path = set.required_text("path");
        let origin = set.node("path").map_or(&item.origin, |n| &n.origin);
        sets.push(TrainSet {
            path: resolve(&path, origin, folder),
            weight: set.number("weight", "above 0", |v| v > 0.0 && v <= 1e6).unwrap_or(1.0),
            limit: set.whole("limit", 1.., "from 1"),
        });
        set.finish();
    }
    sets
}

fn read_data(r: &Reader<'_>, folder: &Path) -> Data {
    let d = r.section("data");
    let train = read_sets(&d, "train", folder);
    if train.is_empty() {
        d.fault("train", "is missing: give a file of training rows, or a list of them");
    }
    let dev = read_sets(&d, "dev", folder);
    let p = d.section("prompts");
    let prompts = (p.text("query"), p.text("document"));
    p.finish();
    d.finish();
    Data { train, dev, prompts }
}

fn read_loss(r: &Reader<'_>) -> Loss {
    let l = r.section("loss");
    l.choice("name", &[("info_nce", ())]);
    let loss = Loss {
        temperature: l
            .number("temperature", "above 0 (0.02 to 0.1 is usual)", |v| v > 0.0 && v <= 100.0)
            .unwrap_or(0.05),
        hard_negatives: l.whole("hard_negatives", 0..=64, "from 0 to 64").unwrap_or(1),
    };
    l.finish();
    loss
}

fn read_adapter(r: &Reader<'_>) -> Adapter {
    let a = r.section("adapter");
    let kind = a.text("kind").unwrap_or_else(|| "full".into());
    if kind == "qlora" {
        a.fault("kind", "is not available yet; full and lora are");
    } else {
        a.choice("kind", &[("full", ()), ("lora", ())]);
    }
    let lora_keys = ["rank", "alpha", "dropout", "targets"];
    if kind == "full" {
        for key in lora_keys {
            if a.node(key).is_some_and(|n| n.value != Value::Null) {
                a.fault(key, "is a setting of LoRA, but adapter.kind is full");
            }
        }
        a.finish();
        return Adapter::Full;
    }
    let rank = a.whole("rank", 1..=4_096, "from 1 to 4096").unwrap_or(8);
    let adapter = Adapter::Lora {
        rank,
        alpha: a.number("alpha", "above 0", |v| v > 0.0).unwrap_or(2.0 * rank as f64),
        dropout: a.number("dropout", "from 0 to below 1", |v| (0.0..1.0).contains(&v)).unwrap_or(0.0),
        targets: a.texts("targets").unwrap_or_else(|| vec!["query".into(), "value".into()]),
    };
    if matches!(&adapter, Adapter::Lora { targets, .. } if targets.is_empty()) {
        a.fault("targets", "must name at least one linear layer");
    }
    a.finish();
    adapter
}

fn read_train(r: &Reader<'_>) -> Train {
    let t = r.section("train");
    let count = |key, default| t.whole(key, 1..=1_000_000, "from 1").unwrap_or(default);
    let length = |reader: &Reader<'_>, key| reader.whole(key, 4..=65_536, "from 4");
    let max_length = match t.node("max_length").map(|n| &n.value) {
        Some(Value::Map(_)) => {
            let m = t.section("max_length");
            let lengths = (length(&m, "query"), length(&m, "document"));
            m.finish();
            lengths
        }
        Some(_) => {
            let both = length(&t, "max_length");
            (both, both)
        }
        None => (None, None),
    };
    let betas: Vec<f64> = t
        .items("betas")
        .iter()
        .filter_map(|n| match n.value {
            Value::Float(f) => Some(f),
            Value::Int(i) => Some(i as f64),
            _ => None,
        })
        .collect();
    if t.has("betas") && (betas.len() != 2 || betas.iter().any(|b| !(0.0..1.0).contains(b))) {
        t.fault("betas", "must be two numbers from 0 to below 1");
    }
    let clip = match t.node("clip").map(|n| &n.value) {
        Some(Value::Null) => None,
        Some(_) => t.number("clip", "above 0, or null for none", |v| v > 0.0),
        None => Some(1.0),
    };
    let schedules = [("linear", Schedule::Linear), ("cosine", Schedule::Cosine), ("constant", Schedule::Constant)];
    let train = Train {
        epochs: count("epochs", 1),
        max_steps: t.whole("max_steps", 1.., "from 1"),
        batch: count("batch", 32),
        accumulate: count("accumulate", 1),
        lr: t.number("lr", "above 0", |v| v > 0.0 && v <= 10.0).unwrap_or(2e-5),
        schedule: t.choice("schedule", &schedules).unwrap_or(Schedule::Linear),
        warmup: t.number("warmup", "a share of the steps below 1, or a number of steps", |v| v >= 0.0).unwrap_or(0.05),
        clip,
        weight_decay: t.number("weight_decay", "from 0 to 1", |v| (0.0..=1.0).contains(&v)).unwrap_or(0.01),
        betas: if betas.len() == 2 { (betas[0], betas[1]) } else { (0.9, 0.999) },
        eps: t.number("eps", "above 0", |v| v > 0.0).unwrap_or(1e-8),
        max_length,
        seed: t.whole("seed", 0.., "from 0").unwrap_or(1) as u64,
        eval_every: t.whole("eval_every", 1.., "from 1"),
        save_every: t.whole("save_every", 1.., "from 1"),
        freeze: t.texts("freeze").unwrap_or_default(),
    };
    if train.batch < 2 {
        t.fault("batch", "must be at least 2: the other rows of a batch are its negatives");
    }
    t.finish();
    train
}

fn read_merges(r: &Reader<'_>) -> Vec<Slerp> {
    let mut merges = Vec::new();
    for item in r.items("merge") {
        let outer = Reader::new(Some(item), "merge", &item.origin, r.faults());
        if !outer.has("slerp") {
            outer.fault_here("must be {slerp: {first: …, second: …, alpha: auto}}");
        }
        let m = outer.section("slerp");
        let selector = |key: &'static str| -> Vec<(String, String)> {
            match m.node(key).map(|n| &n.value) {
                Some(Value::Map(entries)) if !entries.is_empty() => {
                    entries.iter().map(|(k, n)| (k.clone(), n.value.show())).collect()
                }
                _ => {
                    m.fault(key, "must be a mapping of an axis to a value, such as {objective: symmetric}");
                    Vec::new()
                }
            }
        };
        let (first, second) = (selector("first"), selector("second"));
        let alpha = match m.node("alpha").map(|n| &n.value) {
            None => Alpha::Auto,
            Some(Value::Text(text)) if text == "auto" => Alpha::Auto,
            Some(_) => {
                let values: Vec<Option<f64>> = m
                    .items("alpha")
                    .iter()
                    .map(|n| match n.value {
                        Value::Float(f) => Some(f),
                        Value::Int(i) => Some(i as f64),
                        _ => None,
                    })
                    .collect();
                if values.is_empty() || values.iter().any(|v| !v.is_some_and(|v| (0.0..=1.0).contains(&v))) {
                    m.fault("alpha", "must be `auto`, or a number from 0 to 1, or a list of such");
                }
                Alpha::Values(values.into_iter().flatten().collect())
            }
        };
        let modes = [("tensor", SlerpMode::Tensor), ("whole", SlerpMode::Whole), ("delta", SlerpMode::Delta)];
        merges.push(Slerp {
            first,
            second,
            alpha,
            mode: m.choice("mode", &modes).unwrap_or(SlerpMode::Tensor),
            tolerance: m.number("tolerance", "from 0.001 to 0.5", |v| (0.001..=0.5).contains(&v)).unwrap_or(0.05),
            budget: m.whole("budget", 5..=200, "from 5 to 200").unwrap_or(12),
        });
        m.finish();
        outer.finish();
    }
    merges
}

fn read_score(r: &Reader<'_>, folder: &Path) -> Score {
    let s = r.section("score");
    let mut tasks = Vec::new();
    for item in s.items("tasks") {
        let Value::Text(text) = &item.value else {
            s.faults().add(&item.origin, format!("score.tasks: {} must be text", item.value.show()));
            continue;
        };
        let beside = resolve(text, &item.origin, folder);
        tasks.push(if beside.exists() { beside.display().to_string() } else { text.clone() });
    }
    let score = Score {
        tasks,
        all_checkpoints: s.choice("checkpoints", &[("all", true), ("last", false)]).unwrap_or(true),
        limit: s.whole("limit", 20.., "from 20"),
        seeds: s.whole("seeds", 1..=100, "from 1 to 100").unwrap_or(3),
    };
    s.finish();
    score
}

fn read_choose(r: &Reader<'_>) -> Choose {
    let c = r.section("choose");
    let by = match c.text("by").as_deref() {
        None | Some("mean_task_type") => Rule::MeanTaskType,
        Some("mean_task") => Rule::MeanTask,
        Some(task) => Rule::Task(task.to_string()),
    };
    let choose = Choose {
        on_test: c.choice("on", &[("dev", false), ("test", true)]).unwrap_or(false),
        by,
        seeds: c.whole("seeds", 1..=100, "from 1 to 100").unwrap_or(3),
    };
    c.finish();
    choose
}

fn read_run(r: &Reader<'_>) -> Run {
    let s = r.section("run");
    let later = |key: &'static str, available: &[&str]| {
        if let Some(text) = s.text(key)
            && !available.contains(&text.as_str())
        {
            s.fault(key, format!("is not available yet; {} is", available.join(", ")));
        }
    };
    later("executor", &["local"]);
    later("dtype", &["f32"]);
    later("jobs", &["1"]);
    let device = s.text("device").unwrap_or_else(|| "auto".into());
    let cuda = device
        .strip_prefix("cuda")
        .is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(|n| n.parse::<usize>().is_ok()));
    if !(cuda || device == "auto" || device == "cpu") {
        s.fault("device", "must be auto, cpu, cuda or cuda:N");
    }
    s.finish();
    Run { device }
}
