//! `embeval encode`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use serde_json::json;

use super::{Format, inputs, observer, peak_mb, print};
use crate::data::atomic;
use crate::data::embedding_file::to_npy;
use crate::model::prompts::Side;

/// Arguments of `encode`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a folder, or an id of the hub.
    model: String,
    /// Its revision on the hub (default main).
    #[arg(long)]
    revision: Option<String>,
    /// Texts: a text a line, or JSON lines with `text`, `query` or `sentence1`.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the embeddings go: a .npy file, `[texts, dim]`, f32.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// A LoRA adapter on top (PEFT's folder).
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Text put before every input (default: the model's default prompt).
    #[arg(long, conflicts_with = "side")]
    prompt: Option<String>,
    /// Use the model's prompt of this side.
    #[arg(long, value_enum)]
    side: Option<SideArgument>,
    /// Keep the first DIM values of an embedding (Matryoshka; default: all, or `truncate_dim` of the model's folder).
    #[arg(long, value_name = "DIM", value_parser = clap::value_parser!(u32).range(1..))]
    truncate_dim: Option<u32>,
    /// Where to compute: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Precision (default: bf16 on a GPU, f32 on the CPU): `bf16` rounds the operands of products, with sums in f32; on a GPU weights and
    /// activations, too.
    #[arg(long, value_enum)]
    dtype: Option<inputs::Precision>,
    /// How to print what it cost.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SideArgument {
    Query,
    Document,
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let device = inputs::device(&args.device)?;
    let source = inputs::source(&args.model, args.revision.as_deref(), quiet)?;
    let embedder = inputs::embedder(&source.folder, args.adapter.as_deref(), &device, args.dtype)?;
    let texts = inputs::texts(&args.input)?;
    let _precision = inputs::precision(args.dtype, &device);
    if device.is_cpu() {
        embedder.prepare();
    }
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let side = args.side.map(|s| if s == SideArgument::Query { Side::Query } else { Side::Document });
    let own = embedder.files().layout.prompts.find("", "", side).to_string();
    let prompt = args.prompt.clone().unwrap_or(own);
    let bar = observer::bar(texts.len() as u64, quiet);
    let start = Instant::now();
    let encoded = crate::encode::encode(&embedder, &texts, &prompt, &|done| bar.set_position(done as u64))?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let files = embedder.files();
    let dim = args.truncate_dim.map(|dim| dim as usize).or(files.layout.truncate_dim);
    inputs::check_dim(files, dim)?;
    let embeddings = dim.map_or_else(|| encoded.embeddings.clone(), |dim| encoded.embeddings.columns(dim));
    atomic::write(&args.output, &to_npy(&embeddings))
        .with_context(|| format!("{}: cannot be written", args.output.display()))?;
    let rate = encoded.tokens as f64 / seconds.max(1e-9);
    print(&match args.format {
        Format::Json => serde_json::to_string(&json!({
            "texts": texts.len(), "tokens": encoded.tokens, "seconds": (seconds * 1e4).round() / 1e4,
            "tokens_per_second": rate.round(), "truncated": encoded.truncated, "peak_mb": peak_mb(),
        }))?,
        _ => format!(
            "{} texts, {} tokens, {seconds:.2} s, {rate:.0} tokens/s, {} texts cut; {}",
            texts.len(),
            encoded.tokens,
            encoded.truncated,
            args.output.display()
        ),
    })
}
