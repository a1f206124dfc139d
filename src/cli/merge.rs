//! `embeval merge`.

use std::path::PathBuf;

use super::print;
use crate::adapter::peft;
use crate::merge::slerp::{self, Mode};
use crate::model::{ModelError, ModelFiles};

/// Arguments of `merge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, clap::Subcommand)]
enum Kind {
    /// Spherical linear interpolation of two models.
    Slerp {
        /// The first model (α = 0).
        first: PathBuf,
        /// The second model (α = 1).
        second: PathBuf,
        /// Weight of the second, from 0 to 1.
        #[arg(long)]
        alpha: f64,
        /// Tensor by tensor, the whole model as one vector, or the changes from the base.
        #[arg(long, value_enum, default_value = "tensor")]
        mode: ModeArgument,
        /// What both started from, for `--mode delta`.
        #[arg(long)]
        base: Option<PathBuf>,
        /// Folder of the merged model.
        #[arg(long)]
        output: PathBuf,
    },
    /// An adapter into its base.
    Adapter {
        /// The base model.
        base: PathBuf,
        /// The adapter (PEFT's folder).
        adapter: PathBuf,
        /// Folder of the merged model.
        #[arg(long)]
        output: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ModeArgument {
    Tensor,
    Whole,
    Delta,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.kind {
        Kind::Slerp { first, second, alpha, mode, base, output } => {
            let mode = match mode {
                ModeArgument::Tensor => Mode::Tensor,
                ModeArgument::Whole => Mode::Whole,
                ModeArgument::Delta => Mode::Delta,
            };
            let base = base.as_deref().map(ModelFiles::load).transpose()?;
            let merged =
                slerp::models(&ModelFiles::load(first)?, &ModelFiles::load(second)?, base.as_ref(), *alpha, mode)?;
            let card = format!(
                "# SLERP\n\n`{}` and `{}`, α = {alpha} (weight of the second), made with embeval.\n",
                first.display(),
                second.display()
            );
            merged.files.save(output, &card)?;
            print(&format!(
                "{}: {:.0} % of the tensors that differ are nearly parallel and were interpolated linearly",
                output.display(),
                100.0 * merged.linear_share
            ))
        }
        Kind::Adapter { base, adapter, output } => {
            let files = ModelFiles::load(base)?;
            let adapter_weights = peft::load(adapter)?;
            let mut weights = files.weights.clone();
            adapter_weights.merge_into(&mut weights).map_err(ModelError::from)?;
            let card =
                format!("# Merged adapter\n\n`{}` merged into `{}` with embeval.\n", adapter.display(), base.display());
            files.with_weights(&weights).save(output, &card)?;
            print(&output.display().to_string())
        }
    }
}
