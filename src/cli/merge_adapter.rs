//! `embeval merge adapter`.

use std::path::PathBuf;

use anyhow::bail;
use candle_core::Device;

use super::score::Side;
use super::scoreboard::aligned;
use super::{Misuse, inputs, observer, print};
use crate::adapter::{Adapter, peft};
use crate::exec::datasets::HubDatasets;
use crate::exec::encoder::{ModelEncoder, PromptRules};
use crate::model::weights::Weights;
use crate::model::{BuildOptions, Embedder, ModelError, ModelFiles, prompts};
use crate::nn::quantized::{QuantKind, Quantization};
use crate::task::evaluate::{evaluate, protocol_seeds};
use crate::task::load::TaskData;
use crate::task::protocol::Protocol;
use crate::task::spec::{Split, TaskSpec};

/// Arguments of `merge adapter`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The base model: a folder, or an id of the hub.
    base: String,
    /// The adapter (PEFT's folder).
    adapter: PathBuf,
    /// Folder of the merged model.
    #[arg(long)]
    output: PathBuf,
    /// What the adapter is merged into: the base as it is stored, or as it is after quantisation and back.
    #[arg(long, value_enum, default_value = "original")]
    into: Into,
    /// How the base was quantised when the adapter was trained.
    #[arg(long, value_enum, default_value = "nf4")]
    quantization: Kind,
    /// The word embeddings were quantised, too.
    #[arg(long)]
    quantized_embeddings: bool,
    /// Score both merges, and the adapter on the quantised base, on these tasks (as in `score`).
    #[arg(long, value_name = "SELECTOR", num_args = 1..)]
    tasks: Vec<String>,
    /// The side to score.
    #[arg(long, value_enum, default_value = "test", requires = "tasks")]
    split: Side,
    /// Where to score: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto", requires = "tasks")]
    device: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Into {
    Original,
    Dequantized,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// 4-bit NormalFloat with double quantisation.
    Nf4,
    /// 4-bit NormalFloat.
    Nf4Single,
    /// 8 bits, one absolute maximum a row.
    Int8,
}

impl From<Kind> for QuantKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Nf4 => Self::Nf4 { double: true },
            Kind::Nf4Single => Self::Nf4 { double: false },
            Kind::Int8 => Self::Int8,
        }
    }
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let tasks = if args.tasks.is_empty() { Vec::new() } else { inputs::tasks(&args.tasks, None)? };
    let source = inputs::source(&args.base, None, quiet)?;
    let files = ModelFiles::load(&source.folder)?;
    let adapter = peft::load(&args.adapter)?;
    let quantization = Quantization { kind: args.quantization.into(), embeddings: args.quantized_embeddings };
    let merged = |weights: Weights| -> Result<ModelFiles, ModelError> {
        let mut weights = weights;
        adapter.merge_into(&mut weights)?;
        Ok(files.with_weights(&weights))
    };
    let original = || merged(files.weights.clone());
    let dequantized = || merged(Embedder::dequantized_weights(&files, &quantization)?);
    let chosen = match args.into {
        Into::Original => original()?,
        Into::Dequantized => dequantized()?,
    };
    if adapter.is_identity_on(&files.weights).map_err(ModelError::from)? {
        tracing::warn!("{}: changes nothing: all of its B matrices are zero", args.adapter.display());
    }
    let table = if tasks.is_empty() {
        None
    } else {
        let comparison = Comparison {
            files: &files,
            adapter: &adapter,
            quantization: &quantization,
            tasks: &tasks,
            split: args.split.into(),
            device: inputs::device(&args.device)?,
            rules: PromptRules { fixed: None, registered: source.id.as_deref().and_then(prompts::registered) },
            quiet,
        };
        Some(comparison.rows(&original()?, &dequantized()?)?)
    };
    let into = match args.into {
        Into::Original => "the base as it is stored".to_string(),
        Into::Dequantized => format!("the base as it is after quantisation ({}) and back", named(&quantization)),
    };
    let card = card(args, &into, table.as_deref());
    chosen.save(&args.output, &card)?;
    let shown = table.map(|rows| aligned(&rows, false, &NUMBERS) + "\n").unwrap_or_default();
    print(&format!("{shown}{}: the adapter merged into {into}", args.output.display()))
}

fn named(quantization: &Quantization) -> String {
    format!("{}{}", quantization.kind, if quantization.embeddings { ", word embeddings too" } else { "" })
}

fn card(args: &Args, into: &str, table: Option<&[Vec<String>]>) -> String {
    let mut card = format!(
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n---\n\n# Merged adapter\n\n`{}` merged into \
         `{}` ({into}) with embeval.\n",
        args.adapter.display(),
        args.base
    );
    if let Some(rows) = table {
        card.push_str(&format!("\nScores of the ways to apply it, {} side:\n\n", Split::from(args.split).name()));
        card.push_str(&aligned(rows, true, &NUMBERS));
    }
    card
}

/// Columns of the comparison that hold numbers.
const NUMBERS: [usize; 5] = [2, 3, 4, 5, 6];

/// The ways to apply an adapter, scored on the same tasks.
struct Comparison<'a> {
    files: &'a ModelFiles,
    adapter: &'a Adapter,
    quantization: &'a Quantization,
    tasks: &'a [TaskSpec],
    split: Split,
    device: Device,
    rules: PromptRules,
    quiet: bool,
}

impl Comparison<'_> {
    /// A table: a header, a row a task, and their mean.
    fn rows(&self, original: &ModelFiles, dequantized: &ModelFiles) -> anyhow::Result<Vec<Vec<String>>> {
        let options = || BuildOptions { device: self.device.clone(), ..Default::default() };
        let unmerged = BuildOptions { adapter: Some(self.adapter), quantize: Some(self.quantization), ..options() };
        let models = [
            Embedder::build(self.files, &unmerged)?,
            Embedder::build(original, &options())?,
            Embedder::build(dequantized, &options())?,
        ];
        let names = [format!("Unmerged on {}", self.quantization.kind), "In original".into(), "In dequantised".into()];
        let [first, second, third] = names;
        let header = ["Task".into(), "Metric".into(), first, second, "Change".into(), third, "Change".into()];
        let mut rows = vec![header.to_vec()];
        let bar = observer::bar(0, self.quiet);
        let progress = |done: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        };
        let encoders: Vec<ModelEncoder<'_>> =
            models.iter().map(|model| ModelEncoder::new(model, &progress).with_rules(self.rules.clone())).collect();
        let datasets = inputs::datasets(self.quiet);
        let mut scores: Vec<[f64; 3]> = Vec::new();
        for task in self.tasks {
            bar.set_message(task.name.clone());
            match self.scores(task, &encoders, &datasets)? {
                Some(found) => {
                    rows.push(row(task.name.clone(), task.metric.clone(), found));
                    scores.push(found);
                }
                None => tracing::warn!("{} has no dev side, left out", task.name),
            }
        }
        bar.finish_and_clear();
        if scores.is_empty() {
            bail!(Misuse("--split dev: none of the tasks has a dev side".into()));
        }
        let mean = |i: usize| scores.iter().map(|s| s[i]).sum::<f64>() / scores.len() as f64;
        rows.push(row("Mean".into(), super::scoreboard::tasks(scores.len()), [mean(0), mean(1), mean(2)]));
        Ok(rows)
    }

    /// Main scores of a task, or none where it has no such side.
    fn scores(
        &self,
        task: &TaskSpec,
        encoders: &[ModelEncoder<'_>],
        datasets: &HubDatasets,
    ) -> anyhow::Result<Option<[f64; 3]>> {
        let Some(data) = TaskData::load_from(task, self.split, None, datasets)? else { return Ok(None) };
        let mut scores = [f64::NAN; 3];
        for (score, encoder) in scores.iter_mut().zip(encoders) {
            let evaluation = evaluate(task, self.split, &data, encoder, &protocol_seeds(1, 42), Protocol::default())?;
            *score = evaluation.seeds.first().map_or(f64::NAN, |seed| seed.main_score);
        }
        Ok(Some(scores))
    }
}

fn row(task: String, metric: String, [unmerged, original, dequantized]: [f64; 3]) -> Vec<String> {
    let score = |value: f64| format!("{value:.4}");
    let change = |value: f64| format!("{:+.4}", value - unmerged);
    vec![task, metric, score(unmerged), score(original), change(original), score(dequantized), change(dequantized)]
}
