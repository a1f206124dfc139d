//! `embeval merge`.

use std::path::PathBuf;

use super::{inputs, merge_adapter, print};
use crate::merge::slerp::{self, Mode};
use crate::model::ModelFiles;

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
        /// The first model (α = 0): a folder, or an id of the hub.
        first: String,
        /// The second model (α = 1), likewise.
        second: String,
        /// Weight of the second, from 0 to 1.
        #[arg(long)]
        alpha: f64,
        /// Tensor by tensor, the whole model as one vector, or the changes from the base.
        #[arg(long, value_enum, default_value = "tensor")]
        mode: ModeArgument,
        /// What both started from, for `--mode delta`.
        #[arg(long)]
        base: Option<String>,
        /// Folder of the merged model.
        #[arg(long)]
        output: PathBuf,
    },
    /// An adapter into its base.
    ///
    /// An adapter that was trained on a quantised base (QLoRA) belongs to what that base dequantises to. Merged into it
    /// (`--into dequantized`) it computes what was trained; merged into the original it may be better or worse: `--tasks`
    /// shows both.
    Adapter(merge_adapter::Args),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ModeArgument {
    Tensor,
    Whole,
    Delta,
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    match &args.kind {
        Kind::Slerp { first, second, alpha, mode, base, output } => {
            let load = |model: &String| -> anyhow::Result<ModelFiles> {
                Ok(ModelFiles::load(&inputs::source(model, None, quiet)?.folder)?)
            };
            let mode = match mode {
                ModeArgument::Tensor => Mode::Tensor,
                ModeArgument::Whole => Mode::Whole,
                ModeArgument::Delta => Mode::Delta,
            };
            let base = base.as_ref().map(load).transpose()?;
            let merged = slerp::models(&load(first)?, &load(second)?, base.as_ref(), *alpha, mode)?;
            let card = format!(
                "# SLERP\n\n`{first}` and `{second}`, α = {alpha} (weight of the second), made with embeval.\n"
            );
            merged.files.save(output, &card)?;
            print(&format!(
                "{}: {:.0} % of the tensors that differ are nearly parallel and were interpolated linearly",
                output.display(),
                100.0 * merged.linear_share
            ))
        }
        Kind::Adapter(args) => merge_adapter::run(args, quiet),
    }
}
