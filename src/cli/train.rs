//! `embeval train`.

use std::path::PathBuf;

use serde_json::json;

use super::{Format, Misuse, inputs, observer, peak_mb, print};
use crate::config::Document;
use crate::config::schema::Base;
use crate::exec::settings;
use crate::model::ModelFiles;
use crate::plan::load_rows;
use crate::train::run::Run;

/// Arguments of `train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The config (of a single trial: no grid).
    config: PathBuf,
    /// Override a setting: `--set train.lr=1e-4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Folder that gets the checkpoints (default runs/NAME).
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let document = Document::load(&args.config, &args.sets)?;
    if document.trials()?.len() != 1 {
        anyhow::bail!(Misuse(format!("{}: spans several trials: use `embeval sweep`", args.config.display())));
    }
    let config = document.check()?;
    let device = inputs::device(&config.run.device)?;
    let rows = load_rows(&config.data.train, config.train.seed)?;
    let dev = load_rows(&config.data.dev, config.train.seed)?;
    let (base, base_name) = match &config.base {
        Base::Folder(path) => (ModelFiles::load(path)?, path.display().to_string()),
        Base::Hub { id, .. } => {
            let source = inputs::source(id, None, quiet)?;
            (ModelFiles::load(&source.folder)?, source.id.unwrap_or_else(|| id.clone()))
        }
        Base::Scratch(s) => (settings::base_from_nothing(&config, s)?, "base".to_string()),
    };
    let settings = settings::training(&config, &base);
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(&config.name));
    let bar = observer::bar(0, quiet);
    let (result, _) = crate::train::run(&Run {
        base: &base,
        base_name: &base_name,
        start: None,
        settings: &settings,
        rows: &rows,
        dev: &dev,
        device: &device,
        output: Some(&output),
        progress: &|step, steps, loss| {
            bar.set_length(steps as u64);
            bar.set_position(step as u64);
            bar.set_message(format!("loss {loss:.4}"));
        },
        fixed_batches: None,
    })?;
    bar.finish_and_clear();
    let last = result.checkpoints.last().map(|(_, path)| path.display().to_string()).unwrap_or_default();
    let rate = result.tokens as f64 / result.seconds.max(1e-9);
    print(&match args.format {
        Format::Json => serde_json::to_string(&json!({
            "steps": result.steps, "tokens": result.tokens, "seconds": (result.seconds * 1e3).round() / 1e3,
            "tokens_per_second": rate.round(), "peak_mb": peak_mb(), "losses": result.losses, "dev": result.dev,
            "output": last,
        }))?,
        _ => format!(
            "{} steps, {} tokens, {:.1} s, {rate:.0} tokens/s, loss {:.4} to {:.4}\n{last}",
            result.steps,
            result.tokens,
            result.seconds,
            result.losses.first().copied().unwrap_or(f64::NAN),
            result.losses.last().copied().unwrap_or(f64::NAN)
        ),
    })
}
