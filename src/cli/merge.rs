//! `embeval merge`.

use std::path::PathBuf;

use anyhow::bail;

use super::{Misuse, inputs, merge_adapter, print};
use crate::merge::linear::Mean;
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
    ///
    /// Architecture, tokenizer, pooling and prompts of the two must agree.
    Slerp {
        /// The first model (α = 0): a folder, or an id of the hub.
        first: String,
        /// The second model (α = 1), likewise.
        second: String,
        /// Weight of the second, from 0 to 1.
        #[arg(long, required_unless_present = "alpha_layers")]
        alpha: Option<f64>,
        /// Weights of the second along the depth: two or more, from the first layer to the last, interpolated between by the
        /// layer's number. The embeddings have the first, what comes after the layers the last.
        #[arg(long, value_name = "ALPHA,ALPHA…", value_delimiter = ',', conflicts_with = "alpha")]
        alpha_layers: Vec<f64>,
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
    /// Weighted mean of two or more models (a model soup).
    ///
    /// Architecture, tokenizer, pooling and prompts of all must agree. Weights are summed in f64 and rounded once.
    Linear {
        /// The models: folders, or ids of the hub.
        #[arg(required = true, num_args = 2..)]
        models: Vec<String>,
        /// A weight for each model, which sum to 1 (default: all alike).
        #[arg(long, value_name = "WEIGHT,WEIGHT…", value_delimiter = ',')]
        weights: Vec<f64>,
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
    let load = |model: &String| -> anyhow::Result<ModelFiles> {
        Ok(ModelFiles::load(&inputs::source(model, None, quiet)?.folder)?)
    };
    match &args.kind {
        Kind::Slerp { first, second, alpha, alpha_layers, mode, base, output } => {
            let mode = match mode {
                ModeArgument::Tensor => Mode::Tensor,
                ModeArgument::Whole => Mode::Whole,
                ModeArgument::Delta => Mode::Delta,
            };
            let (alpha, shown) = match (alpha, alpha_layers.as_slice()) {
                (Some(alpha), _) => (vec![*alpha], format!("α = {alpha} (weight of the second)")),
                (None, [_]) => bail!(Misuse("--alpha-layers: give two or more values, or --alpha for one".into())),
                (None, values) => {
                    let list: Vec<String> = values.iter().map(ToString::to_string).collect();
                    let shown =
                        format!("α (weight of the second) = {} from the first layer to the last", list.join(", "));
                    (values.to_vec(), shown)
                }
            };
            let base = base.as_ref().map(load).transpose()?;
            let merged = slerp::models(&load(first)?, &load(second)?, base.as_ref(), &alpha, mode)?;
            let card = format!("# SLERP\n\n`{first}` and `{second}`, {shown}, made with embeval.\n");
            merged.files.save(output, &card)?;
            print(&format!(
                "{}: {:.0} % of the tensors that differ are nearly parallel and were interpolated linearly",
                output.display(),
                100.0 * merged.linear_share
            ))
        }
        Kind::Linear { models, weights, output } => {
            let weights = weights_of(models.len(), weights)?;
            let mut mean: Option<Mean> = None;
            for (model, &weight) in models.iter().zip(&weights) {
                let files = load(model)?;
                match &mut mean {
                    Some(mean) => mean.add(&files, weight)?,
                    None => mean = Some(Mean::new(files, weight)?),
                }
            }
            let Some(mean) = mean else { bail!(Misuse("name two or more models".into())) };
            let rows: String =
                models.iter().zip(&weights).map(|(model, weight)| format!("| `{model}` | {weight:.4} |\n")).collect();
            let card = format!(
                "# Weighted mean of {} models\n\nMade with embeval.\n\n| model | weight |\n|---|---|\n{rows}",
                models.len()
            );
            mean.finish()?.save(output, &card)?;
            print(&format!("{}: mean of {} models", output.display(), models.len()))
        }
        Kind::Adapter(args) => merge_adapter::run(args, quiet),
    }
}

/// The weights of so many models: those given, or all alike.
fn weights_of(models: usize, given: &[f64]) -> anyhow::Result<Vec<f64>> {
    if given.is_empty() {
        return Ok(vec![1.0 / models as f64; models]);
    }
    if given.len() != models {
        bail!(Misuse(format!("--weights: {} weights for {models} models: give one each", given.len())));
    }
    if let Some(weight) = given.iter().find(|weight| !(0.0..=1.0).contains(*weight)) {
        bail!(Misuse(format!("--weights: {weight} must be from 0 to 1")));
    }
    let sum: f64 = given.iter().sum();
    if (sum - 1.0).abs() > 1e-3 {
        bail!(Misuse(format!("--weights: sum to {sum}: they must sum to 1")));
    }
    Ok(given.to_vec())
}
