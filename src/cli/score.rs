//! `embeval score`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;
use serde_json::{Map, Value, json};

use super::{Format, Misuse, inputs, observer, print, scoreboard};
use crate::data::rows::{fingerprint_of, hex};
use crate::data::size;
use crate::encode::identity;
use crate::exec::encoder::{ModelEncoder, PromptRules};
use crate::exec::precomputed::Precomputed;
use crate::exec::to_record;
use crate::model::{Embedder, prompts};
use crate::store::mteb::{ModelMeta, TaskResult};
use crate::task::evaluate::{Evaluation, TextEncoder, evaluate, protocol_seeds};
use crate::task::load::TaskData;
use crate::task::protocol::{Protocol, Similarity};
use crate::task::select::Selection;
use crate::task::spec::{Source, Split, TaskSpec, TaskType};
use scoreboard::{Scoreboard, Scores};

/// Arguments of `score`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a folder (sentence-transformers or plain transformers), or an id of the hub.
    #[arg(required_unless_present = "embeddings", conflicts_with = "embeddings")]
    model: Option<String>,
    /// Its revision on the hub (default main).
    #[arg(long)]
    revision: Option<String>,
    /// Tasks: a benchmark (rumteb, rumteb-v1, rumteb-14), a task file, a folder of them, a name, a glob, `type=STS`,
    /// `lang=rus` (default: all in tasks/ whose data is in files).
    #[arg(long, value_name = "SELECTOR", num_args = 1..)]
    tasks: Vec<String>,
    /// The side to score.
    #[arg(long, value_enum, default_value = "test")]
    split: Side,
    /// A LoRA adapter on top (PEFT's folder).
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Score embeddings made elsewhere instead of a model: `DIR/<Task>/<split>.npy` and the like (`embeval tasks texts`
    /// writes the texts to be embedded and says the names).
    #[arg(long, value_name = "DIR", conflicts_with_all = ["adapter", "prompt", "revision"])]
    embeddings: Option<PathBuf>,
    /// The similarity of the model that made them.
    #[arg(long, value_enum, default_value = "cosine", requires = "embeddings")]
    similarity: SimilarityArgument,
    /// Text put before every input, instead of the model's prompts; `{instruction}` stands for the task's instruction.
    #[arg(long)]
    prompt: Option<String>,
    /// Score the first DIM values of each embedding (Matryoshka), for each DIM given, with the model run once (default: all values, or
    /// `truncate_dim` of the model's folder).
    #[arg(long, value_name = "DIM", num_args = 1.., value_delimiter = ',', conflicts_with = "embeddings",
          value_parser = clap::value_parser!(u32).range(1..))]
    truncate_dim: Vec<u32>,
    /// The model's name in result files, ORG/NAME; the prompts that mteb registers for it are used.
    #[arg(long, value_name = "ORG/NAME")]
    model_name: Option<String>,
    /// Write result files as mteb's: `DIR/<org>__<model>/<revision>/<Task>.json`; those of a run with a limit, on dev, in bf16,
    /// with another seed or a prompt go to `experiments/` in there, so that none passes for a published one.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Precision (default: bf16 on a GPU, f32 on the CPU): `bf16` rounds the operands of products, with sums in f32; on a GPU weights and
    /// activations, too. On the CPU clusterings are embedded in f32 all the same: k-means tells the rounding.
    #[arg(long, value_enum, conflicts_with = "embeddings")]
    dtype: Option<inputs::Precision>,
    /// Most rows of a split (queries, of a retrieval).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Seed of the protocol's draws (mteb's is 42).
    #[arg(long, default_value_t = 42)]
    seed: u32,
    /// Protocol seeds: N of them show the spread that other draws give.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Whose draws: sklearn-1.9, or sklearn-1.8 as in nearly all published numbers (clusterings differ).
    #[arg(long, default_value = "sklearn-1.9")]
    protocol: Protocol,
    /// Bytes that embeddings kept on the disk may take ($EMBEVAL_CACHE, else ~/.cache/embeval); 0 keeps none.
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = size::parse)]
    cache_size: u64,
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// A side of the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    Dev,
    Test,
}

impl From<Side> for Split {
    fn from(side: Side) -> Self {
        match side {
            Side::Dev => Self::Dev,
            Side::Test => Self::Test,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SimilarityArgument {
    Cosine,
    Dot,
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let mut selection = match args.tasks.as_slice() {
        [] => inputs::selection(&["*".to_string()], None)?,
        named => inputs::selection(named, None)?,
    };
    if args.tasks.is_empty() {
        selection.tasks.retain(|task| matches!(task.source, Source::Files(_)));
    }
    if let Some(name) = args.model_name.as_deref().filter(|name| !inputs::is_id(name)) {
        bail!(Misuse(format!("--model-name {name}: must be ORG/NAME, of letters, digits, `-`, `_` and `.`")));
    }
    if let Some(folder) = &args.embeddings {
        return precomputed(args, selection, folder, quiet);
    }
    if selection.tasks.is_empty() {
        bail!(Misuse("no tasks/ folder here: name tasks, such as --tasks rumteb or --tasks FOLDER".into()));
    }
    let model = args.model.as_deref().unwrap_or_default();
    let device = inputs::device(&args.device)?;
    let source = inputs::source(model, args.revision.as_deref(), quiet)?;
    let embedder = inputs::embedder(&source.folder, args.adapter.as_deref(), &device, args.dtype)?;
    let _precision = inputs::precision(args.dtype, &device);
    let name = args.model_name.clone().or(source.id);
    let bar = observer::bar(0, quiet);
    let progress = |done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    };
    let rules = PromptRules { fixed: args.prompt.clone(), registered: name.as_deref().and_then(prompts::registered) };
    let encoder = ModelEncoder::new(&embedder, &progress).with_rules(rules).with_cache(&inputs::cache(args.cache_size));
    let meta = match &args.output {
        Some(_) => Some(ModelMeta {
            name: name.unwrap_or_else(|| local_name(&source.folder)),
            revision: match (source.commit, &args.adapter) {
                (Some(commit), None) => commit,
                // As long as a commit.
                _ => hex(&identity::content(&embedder)?).chars().take(40).collect(),
            },
        }),
        None => None,
    };
    let facts = facts(&embedder);
    let prompts = |task: &str| encoder.prompts.borrow().get(task).cloned();
    let meta = meta.as_ref();
    let files = embedder.files();
    let mut dims: Vec<Option<usize>> = args.truncate_dim.iter().map(|dim| Some(*dim as usize)).collect();
    if dims.is_empty() {
        dims.push(files.layout.truncate_dim);
    }
    dims.iter().try_for_each(|dim| inputs::check_dim(files, *dim))?;
    let (several, mut boards) = (dims.len() > 1, Vec::new());
    for dim in dims {
        encoder.truncate(dim);
        let scoring =
            Scoring { args, encoder: &encoder, meta, facts: &facts, prompts: &prompts, bar: &bar, quiet, dim };
        let mut board = scoring.all(&selection, model)?;
        board.dim = dim;
        if encoder.truncated.get() > 0 && boards.is_empty() {
            board.notes.push(format!(
                "{} texts were cut at the model's limit of {} tokens",
                encoder.truncated.get(),
                files.max_seq_length
            ));
        }
        let clusters = selection.tasks.iter().any(|task| task.kind == TaskType::Clustering);
        if clusters && args.dtype == Some(inputs::Precision::Bf16) && device.is_cpu() {
            board.notes.push("clusterings are embedded in f32: k-means tells bf16's rounding".into());
        }
        board.notes.extend(encoder.unused_prompts());
        board.prompts = encoder.prompts.borrow().clone();
        boards.push(board);
    }
    bar.finish_and_clear();
    let (hits, misses) = encoder.cache_hits();
    tracing::info!("embedding cache: {hits} found, {misses} encoded");
    if several { finish_all(args, &boards) } else { boards.iter().try_for_each(|board| finish(args, board)) }
}

/// Prints the boards of several dimensions: one table, a column each.
fn finish_all(args: &Args, boards: &[Scoreboard]) -> anyhow::Result<()> {
    print(&match args.format {
        Format::Json => {
            let all: Vec<Value> = boards.iter().map(Scoreboard::as_json).collect();
            serde_json::to_string_pretty(&Value::Array(all))?
        }
        Format::Table => scoreboard::by_dimension(boards, false),
        Format::Markdown => scoreboard::by_dimension(boards, true),
    })?;
    match boards.iter().find(|board| !board.failed.is_empty()) {
        Some(board) => {
            let all = board.failed.len() + board.scores.len();
            bail!("{} of {all} tasks could not be scored:{}", board.failed.len(), reasons(&board.failed))
        }
        None => Ok(()),
    }
}

fn precomputed(args: &Args, mut selection: Selection, folder: &std::path::Path, quiet: bool) -> anyhow::Result<()> {
    let similarity = if args.similarity == SimilarityArgument::Dot { Similarity::Dot } else { Similarity::Cosine };
    let encoder = Precomputed::new(folder, similarity);
    if args.tasks.is_empty() {
        selection.tasks.retain(|task| encoder.has(&task.name));
    }
    if selection.tasks.is_empty() {
        bail!(Misuse(format!("{}: holds embeddings of no known task: name tasks by --tasks", folder.display())));
    }
    let meta = args.output.as_ref().map(|_| ModelMeta {
        name: args.model_name.clone().unwrap_or_else(|| local_name(folder)),
        revision: "no_revision_available".into(),
    });
    let bar = observer::bar(0, quiet);
    let (meta, facts) = (meta.as_ref(), &Map::new());
    let scoring = Scoring { args, encoder: &encoder, meta, facts, prompts: &|_| None, bar: &bar, quiet, dim: None };
    let board = scoring.all(&selection, &folder.display().to_string())?;
    bar.finish_and_clear();
    finish(args, &board)
}

/// Prints the board; tasks that failed are an error after that.
fn finish(args: &Args, board: &Scoreboard) -> anyhow::Result<()> {
    print(&match args.format {
        Format::Json => serde_json::to_string_pretty(&board.as_json())?,
        Format::Table => board.as_table(false),
        Format::Markdown => board.as_table(true),
    })?;
    if !board.failed.is_empty() {
        let all = board.failed.len() + board.scores.len();
        bail!("{} of {all} tasks could not be scored:{}", board.failed.len(), reasons(&board.failed));
    }
    Ok(())
}

/// A line a reason; tasks that failed for the same one share it.
fn reasons(failed: &[(String, String)]) -> String {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    for (task, error) in failed {
        let reason = error
            .strip_prefix(&format!("task {task}"))
            .map_or(error.as_str(), |rest| rest.trim_start_matches([':', ' ']));
        let reason = reason.to_string();
        match lines.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, tasks)) => tasks.push(task),
            None => lines.push((reason, vec![task])),
        }
    }
    lines.iter().map(|(reason, tasks)| format!("\n  {}: {reason}", tasks.join(", "))).collect()
}

/// `local/<folder>`: mteb wants an organisation.
fn local_name(folder: &std::path::Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.into());
    format!("local/{}", folder.file_name().map_or("model".into(), |name| name.to_string_lossy()))
}

/// What mteb's record of a model asks for and is known.
fn facts(embedder: &Embedder) -> Map<String, Value> {
    let files = embedder.files();
    let similarity = if files.layout.similarity.is_empty() { "cosine" } else { &files.layout.similarity };
    let pairs = [
        ("n_parameters", json!(files.parameters())),
        ("max_tokens", json!(files.max_seq_length)),
        ("embed_dim", json!(files.embedding_size())),
        ("similarity_fn_name", json!(similarity)),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// A task's evaluation, what it took, and the commit of its data on the hub.
struct Scored {
    evaluation: Evaluation,
    seconds: f64,
    data_revision: Option<String>,
}

struct Scoring<'a> {
    args: &'a Args,
    encoder: &'a dyn TextEncoder,
    meta: Option<&'a ModelMeta>,
    facts: &'a Map<String, Value>,
    /// The prompts that a task's texts got, by side.
    prompts: &'a dyn Fn(&str) -> Option<BTreeMap<&'static str, String>>,
    bar: &'a indicatif::ProgressBar,
    quiet: bool,
    /// Values of an embedding that are scored, where not all are.
    dim: Option<usize>,
}

impl Scoring<'_> {
    /// Scores one task after the other; one that fails is told, and the others go on.
    fn all(&self, selection: &Selection, model: &str) -> anyhow::Result<Scoreboard> {
        let args = self.args;
        let split = Split::from(args.split);
        let folder = match (&args.output, self.meta) {
            (Some(root), Some(meta)) => {
                let folder = meta.folder(root);
                meta.write(&folder, self.facts)?;
                match self.experiment() {
                    Some(name) => {
                        let inner = folder.join("experiments").join(&name);
                        let named =
                            ModelMeta { name: format!("{} {name}", meta.name), revision: meta.revision.clone() };
                        named.write(&inner, self.facts)?;
                        Some(inner)
                    }
                    None => Some(folder),
                }
            }
            _ => None,
        };
        let mut board = Scoreboard {
            model: model.into(),
            split,
            limit: args.limit,
            protocol: args.protocol,
            set: match (&selection.benchmark, split) {
                (Some(benchmark), Split::Test) => benchmark.title.clone(),
                (Some(benchmark), Split::Dev) => format!("the tasks of {} that have a dev side", benchmark.title),
                (None, _) => "the tasks selected".into(),
            },
            tasks: selection.tasks.iter().map(|t| (t.name.clone(), t.kind)).collect(),
            ..Scoreboard::default()
        };
        for task in &selection.tasks {
            self.bar.set_message(task.name.clone());
            match self.one(task, split) {
                Ok(Some(scored)) => {
                    let evaluation = scored.evaluation.clone();
                    let main = evaluation.seeds.first().map_or(f64::NAN, |s| s.main_score);
                    let (encoding, rest) = evaluation.seconds;
                    tracing::info!("{}: {main:.4} (encoding {encoding:.1} s, the rest {rest:.1} s)", task.name);
                    if let Some(folder) = &folder {
                        self.result(task, scored).write(folder)?;
                    }
                    if let Some(record) = to_record(task, &evaluation) {
                        board.scores.push(Scores { record, evaluation });
                    }
                }
                Ok(None) => {
                    tracing::warn!("{} has no dev side, left out", task.name);
                    board.tasks.retain(|(name, _)| *name != task.name);
                }
                Err(error) if selection.tasks.len() == 1 => return Err(error),
                Err(error) => {
                    // All are told at the end; now, so that nobody waits for what has failed.
                    let told = super::describe(&error);
                    if !self.quiet {
                        tracing::warn!("{told}");
                    }
                    board.failed.push((task.name.clone(), told));
                }
            }
        }
        Ok(board)
    }

    /// What tells the run from one that others publish; such results must not pass for those.
    fn experiment(&self) -> Option<String> {
        let args = self.args;
        let mut parts = Vec::new();
        if args.split == Side::Dev {
            parts.push("dev".to_string());
        }
        parts.extend(args.limit.map(|limit| format!("limit-{limit}")));
        if args.seed != 42 {
            parts.push(format!("seed-{}", args.seed));
        }
        if args.dtype == Some(inputs::Precision::Bf16) {
            parts.push("bf16".to_string());
        }
        parts.extend(self.dim.map(|dim| format!("dim-{dim}")));
        let prompt = args.prompt.as_ref().map(|text| fingerprint_of(text.as_bytes()));
        parts.extend(prompt.map(|print| format!("prompt-{}", print.chars().take(8).collect::<String>())));
        (!parts.is_empty()).then(|| parts.join("_"))
    }

    fn one(&self, task: &TaskSpec, split: Split) -> anyhow::Result<Option<Scored>> {
        let args = self.args;
        let start = std::time::Instant::now();
        let limit = args.limit.map(|n| n as usize);
        let Some(data) = TaskData::load_from(task, split, limit, &inputs::datasets(self.quiet))? else {
            return Ok(None);
        };
        let seeds = protocol_seeds(args.seeds as usize, args.seed);
        let evaluation = evaluate(task, split, &data, self.encoder, &seeds, args.protocol)?;
        Ok(Some(Scored { evaluation, seconds: start.elapsed().as_secs_f64(), data_revision: data.revision }))
    }

    fn result(&self, task: &TaskSpec, scored: Scored) -> TaskResult {
        let Scored { evaluation, seconds, data_revision } = scored;
        let first = &evaluation.seeds[0];
        let revision = match data_revision {
            Some(commit) => commit,
            None => format!("files-{}", task.fingerprint.chars().take(12).collect::<String>()),
        };
        let mut more = Map::new();
        more.insert("task_type".into(), json!(task.kind.name()));
        more.insert("protocol".into(), scoreboard::protocol(self.args.protocol));
        more.insert("seed".into(), json!(first.seed));
        if let Some(spread) = scoreboard::spread(&evaluation) {
            more.insert("seeds".into(), spread);
        }
        if let Some(limit) = self.args.limit {
            more.insert("limit".into(), json!(limit));
        }
        if let Some(dim) = self.dim {
            more.insert("truncate_dim".into(), json!(dim));
        }
        if let Some(prompts) = (self.prompts)(&task.name) {
            more.insert("prompts".into(), json!(prompts));
        }
        more.insert("made_by".into(), json!(concat!("embeval ", env!("CARGO_PKG_VERSION"))));
        TaskResult {
            task: task.name.clone(),
            revision,
            splits: first.splits.iter().map(|(name, scored)| (name.clone(), scored.scores.clone())).collect(),
            subset: task.subset.clone(),
            languages: task.languages.clone(),
            seconds,
            more,
        }
    }
}
