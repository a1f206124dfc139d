//! The command line: one file a subcommand. Results go to standard output, logs and bars to standard error.

mod clean;
mod encode;
mod inputs;
mod merge;
mod merge_adapter;
mod mine;
mod observer;
mod report;
mod run_file;
mod runs;
mod score;
mod scoreboard;
mod status;
mod sweep;
mod tasks;
mod train;
mod words;
mod worker;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::config::ConfigErrors;
use crate::hub::HubError;
use crate::task::spec::TaskError;

/// Evaluate, fine-tune and merge text embedders.
///
/// Scores text embedders with mteb's own numbers, fine-tunes grids of variants, merges them by SLERP, and reports
/// which is best and how sure that is.
#[derive(Debug, Parser)]
#[command(name = "embeval", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log more: once for information, twice for everything (RUST_LOG overrides).
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// No progress bars and no messages but errors.
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train, merge and score a grid of variants; report which is best. Run again, it does only what is missing.
    Sweep(sweep::Args),
    /// Score a model on tasks.
    Score(score::Args),
    /// Train one model.
    Train(train::Args),
    /// Embed texts into a .npy file.
    Encode(encode::Args),
    /// Merge two models.
    Merge(merge::Args),
    /// Mine hard negatives for training.
    Mine(mine::Args),
    /// Write a run's report anew.
    Report(report::Args),
    /// Tell how far a run is: what is done, who works on what, what failed, how long the rest may take.
    Status(status::Args),
    /// List all runs.
    Runs(runs::Args),
    /// Free disk space: remove what no report, choice or step of a run needs any more.
    Clean(clean::Args),
    /// List, show or check tasks.
    Tasks(tasks::Args),
    /// Work on a run: started by `sweep`, or by a job of Slurm.
    #[command(hide = true)]
    Worker(worker::Args),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Aligned text.
    Table,
    /// One JSON document.
    Json,
    /// A Markdown table.
    Markdown,
}

/// Parses the command line and runs it. Exit code 0: done, 1: failed, 2: misused.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("embeval={level},error")));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
    let result = match cli.command {
        Command::Sweep(args) => sweep::run(&args, cli.quiet),
        Command::Score(args) => score::run(&args, cli.quiet),
        Command::Train(args) => train::run(&args, cli.quiet),
        Command::Encode(args) => encode::run(&args, cli.quiet),
        Command::Merge(args) => merge::run(&args, cli.quiet),
        Command::Mine(args) => mine::run(&args, cli.quiet),
        Command::Report(args) => report::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Runs(args) => runs::run(&args),
        Command::Clean(args) => clean::run(&args),
        Command::Tasks(args) => tasks::run(&args, cli.quiet),
        Command::Worker(args) => return worker::run(&args, cli.quiet),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe went away (`| head`): nobody is left to be told.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            ExitCode::from(if is_misuse(&error) { 2 } else { 1 })
        }
    }
}

/// The error and its causes, each once: many messages quote their cause already.
fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(&format!(": {cause}"));
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|e| e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}

/// What was asked for is wrong (a config, a task's name, an option), as opposed to something failing.
fn is_misuse(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.is::<ConfigErrors>()
            || e.is::<Misuse>()
            || matches!(e.downcast_ref::<TaskError>(), Some(TaskError::File(_)))
            || matches!(e.downcast_ref::<HubError>(), Some(HubError::Name { .. }))
    })
}

/// A wrong option, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

/// Prints a result to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Largest resident memory of this process so far, in MiB; 0 where the system does not tell.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024
}
