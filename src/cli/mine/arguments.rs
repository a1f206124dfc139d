//! What `embeval mine` is given, and what it means.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::super::{Format, Misuse};
use crate::data::size;
use crate::mine::{Layout, Rule, Sampling, Settings};

/// Arguments of `mine`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model that finds the negatives: a folder, or an id of the hub.
    pub model: String,
    /// Its revision on the hub (default main).
    #[arg(long)]
    pub revision: Option<String>,
    /// A LoRA adapter on top (PEFT's folder).
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Training rows: `query`, `pos`, `neg`, or `anchor`, `positive`, `negative_1` … (jsonl, csv, tsv, parquet).
    #[arg(long, value_name = "FILE", alias = "input-file", alias = "input_file")]
    pub input: PathBuf,
    /// Where the mined rows go: JSON lines.
    #[arg(long, value_name = "FILE", alias = "output-file", alias = "output_file")]
    pub output: PathBuf,
    /// Texts that may become negatives beside the rows' positives (by the rule hn-mine: instead of them): rows with `text`.
    #[arg(long, value_name = "FILE", alias = "candidate_pool", alias = "corpus")]
    pub candidate_pool: Option<PathBuf>,
    /// The rows' own negatives may become negatives of other rows.
    #[arg(long)]
    pub include_negatives: bool,
    #[command(flatten)]
    pub choice: Choice,
    /// Drop the rows' own negatives instead of keeping them before those mined.
    #[arg(long)]
    pub replace: bool,
    /// Write the cosines, too: `pos_scores` and `neg_scores`, or `scores`.
    #[arg(long)]
    pub scores: bool,
    /// Whose columns.
    #[arg(long, value_enum, default_value = "flag")]
    pub output_format: LayoutArgument,
    /// Write how many candidates look like answers, in all and a query, as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Text put before queries (default: the model's query prompt, as in training).
    #[arg(long, value_name = "TEXT")]
    pub query_prompt: Option<String>,
    /// Text put before documents (default: the model's document prompt, as in training).
    #[arg(long, value_name = "TEXT", alias = "corpus-prompt")]
    pub document_prompt: Option<String>,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Precision (default: bf16 on a GPU, f32 on the CPU).
    #[arg(long, value_enum)]
    pub dtype: Option<crate::cli::inputs::Precision>,
    /// Most rows of the input.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Queries searched at a time, at most (default: what some MB hold); the result is the same.
    #[arg(long, value_name = "N", alias = "search_batch_size", value_parser = clap::value_parser!(u32).range(1..))]
    pub search_batch_size: Option<u32>,
    /// Say what would be mined, and encode nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Bytes that embeddings kept on the disk may take ($EMBEVAL_CACHE, else ~/.cache/embeval); 0 keeps none.
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = size::parse)]
    pub cache_size: u64,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
}

/// Which candidates become negatives.
#[derive(Debug, clap::Args)]
pub struct Choice {
    /// Whose ranks and defaults: sentence-transformers' mine_hard_negatives (ranks among what bounds and margins leave; the 3 best), or
    /// FlagEmbedding's hn_mine (ranks of the search; 15 at random of 10-210, filled up). Default: the first, with
    /// --range-for-sampling the second.
    #[arg(long, value_enum)]
    rule: Option<RuleArgument>,
    /// Best candidates that are passed over.
    #[arg(long, value_name = "N", alias = "range_min")]
    range_min: Option<usize>,
    /// First rank that is no longer looked at.
    #[arg(long, value_name = "N", alias = "range_max")]
    range_max: Option<usize>,
    /// Both, as hn_mine writes them: 10-210.
    #[arg(
        long,
        value_name = "MIN-MAX",
        alias = "range_for_sampling",
        value_parser = ranks,
        conflicts_with_all = ["range_min", "range_max"]
    )]
    range_for_sampling: Option<(usize, usize)>,
    /// Negatives a query.
    #[arg(long, value_name = "N", visible_alias = "negative-number", aliases = ["negative_number", "num_negatives"])]
    num_negatives: Option<usize>,
    /// No negative with a cosine above this.
    #[arg(long, value_name = "COSINE", alias = "max_score", allow_negative_numbers = true)]
    max_score: Option<f64>,
    /// No negative with a cosine below this.
    #[arg(long, value_name = "COSINE", alias = "min_score", allow_negative_numbers = true)]
    min_score: Option<f64>,
    /// A negative's cosine is lower than the positive's by at least this.
    #[arg(long, value_name = "COSINE", alias = "absolute_margin", allow_negative_numbers = true)]
    absolute_margin: Option<f64>,
    /// A negative's cosine is lower than the positive's by at least this share of it: 0.05 keeps what scores 95 % or less.
    #[arg(long, value_name = "SHARE", alias = "relative_margin", allow_negative_numbers = true)]
    relative_margin: Option<f64>,
    /// A negative's cosine is lower than the positive's.
    #[arg(long)]
    semi_hard: bool,
    /// The best of those in range, or any.
    #[arg(long, value_enum, visible_alias = "sampling", alias = "sampling_strategy")]
    sampling_strategy: Option<SamplingArgument>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Fill up with random candidates where too few are left; they keep to margins and --max-score.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    top_up: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RuleArgument {
    #[value(alias = "st")]
    SentenceTransformers,
    #[value(alias = "hn_mine")]
    HnMine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SamplingArgument {
    Top,
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LayoutArgument {
    /// query, pos, neg: a line a row
    Flag,
    /// anchor, positive, negative: a line for each negative of each positive
    Triplet,
    /// anchor, positive, negative_1 …: a line for each positive that has all negatives
    NTuple,
}

impl LayoutArgument {
    /// Whose columns.
    pub fn layout(self) -> Layout {
        match self {
            Self::Flag => Layout::Flag,
            Self::Triplet => Layout::Triplet,
            Self::NTuple => Layout::NTuple,
        }
    }
}

/// `10-210`.
fn ranks(text: &str) -> Result<(usize, usize), String> {
    let ends = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    ends.ok_or_else(|| "must be two ranks, such as 10-210".into())
}

impl Choice {
    /// The settings: those given, else the rule's.
    pub fn settings(&self, block: Option<u32>) -> Settings {
        let rule = match self.rule {
            Some(RuleArgument::HnMine) => Rule::HnMine,
            None if self.range_for_sampling.is_some() => Rule::HnMine,
            Some(RuleArgument::SentenceTransformers) | None => Rule::SentenceTransformers,
        };
        let usual = Settings::new(rule);
        let range = self.range_for_sampling;
        Settings {
            range_min: range.map(|(low, _)| low).or(self.range_min).unwrap_or(usual.range_min),
            range_max: range.map(|(_, high)| high).or(self.range_max).or(usual.range_max),
            num_negatives: self.num_negatives.unwrap_or(usual.num_negatives),
            max_score: self.max_score,
            min_score: self.min_score,
            absolute_margin: self.absolute_margin,
            relative_margin: self.relative_margin,
            semi_hard: self.semi_hard,
            sampling: match self.sampling_strategy {
                Some(SamplingArgument::Top) => Sampling::Top,
                Some(SamplingArgument::Random) => Sampling::Random,
                None => usual.sampling,
            },
            seed: self.seed,
            top_up: self.top_up.unwrap_or(usual.top_up),
            block: block.map(|queries| queries as usize),
            rule,
        }
    }
}

/// That the outputs are JSON lines, no folders, and none of the inputs.
pub fn check_names(args: &Args) -> anyhow::Result<()> {
    let named = |path: &Path, ends: &[&str]| path.extension().is_some_and(|e| ends.iter().any(|end| e == *end));
    if !named(&args.output, &["jsonl", "ndjson"]) {
        bail!(Misuse(format!(
            "--output {}: mined rows are JSON lines: let the name end with .jsonl",
            args.output.display()
        )));
    }
    let same = |a: &Path, b: &Path| a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    let outputs = [("--output", Some(&args.output)), ("--report", args.report.as_ref())];
    for (option, path) in outputs.into_iter().filter_map(|(option, path)| Some((option, path?))) {
        if path.is_dir() {
            bail!(Misuse(format!("{option} {}: is a folder, expected a file", path.display())));
        }
        if std::iter::once(&args.input).chain(&args.candidate_pool).any(|input| same(input, path)) {
            bail!(Misuse(format!("{option} {}: is read as well: give another name", path.display())));
        }
    }
    if args.report.as_ref().is_some_and(|report| same(report, &args.output)) {
        bail!(Misuse(format!("--report {}: is --output, too: give another name", args.output.display())));
    }
    Ok(())
}
