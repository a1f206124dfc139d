//! `embeval worker`: a process that works on a run, started by `sweep` here or by Slurm. Not for people.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::observer::Pipe;
use super::run_file::{self, RunFile};
use crate::exec::event::{Event, Observer};
use crate::exec::local::FATAL;

/// Arguments of `worker`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder.
    run: PathBuf,
    /// Run these steps, in this order, and wait for no others.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    steps: Vec<String>,
    /// The process to end with.
    #[arg(long, value_name = "PID")]
    head: Option<u32>,
}

/// Exit code where a step could not be done.
const FAILED: u8 = 1;

pub fn run(args: &Args, quiet: bool) -> ExitCode {
    let observer = Pipe::new();
    match work(args, &observer, quiet) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some((title, why))) => {
            eprintln!("error: {title}: {why}");
            ExitCode::from(FAILED)
        }
        Err(error) => {
            let message = super::describe(&error);
            // Whoever reads the events tells it; a job's log has it from here.
            if args.head.is_none() {
                eprintln!("error: {message}");
            }
            observer.sees(0, &Event::Fatal { message });
            ExitCode::from(FATAL)
        }
    }
}

fn work(args: &Args, observer: &Pipe, quiet: bool) -> anyhow::Result<Option<(String, String)>> {
    if let Some(head) = args.head {
        follow(head)?;
    }
    let root = run_file::absolute(&args.run)?;
    let run = RunFile::read(&root)?;
    std::env::set_current_dir(&run.directory)
        .with_context(|| format!("{}: cannot be entered", run.directory.display()))?;
    let plan = run_file::plan(&run.document()?, quiet)?;
    let known = std::fs::read(root.join("plan.json")).unwrap_or_default();
    if known != run_file::steps_text(&plan)? {
        bail!(
            "{}: the plan is no longer what the run was started with: data, tasks or the base changed on the disk; run the \
             sweep again, and what they touch is done anew",
            root.display()
        );
    }
    let engine = run_file::engine(&plan, &run, &root, observer, quiet)?;
    if args.steps.is_empty() {
        engine.work()?;
        return Ok(None);
    }
    Ok(engine.work_on(&args.steps)?)
}

/// Ends this process when the one that started it is gone.
#[cfg(target_os = "linux")]
fn follow(head: u32) -> anyhow::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have gone before this was set.
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get().unsigned_abs() != head) {
        bail!("the process that started this one is gone");
    }
    Ok(())
}

/// Ends this process when the one that started it is gone.
#[cfg(not(target_os = "linux"))]
fn follow(head: u32) -> anyhow::Result<()> {
    std::thread::spawn(move || {
        while rustix::process::getppid().is_some_and(|parent| parent.as_raw_nonzero().get().unsigned_abs() == head) {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
        std::process::exit(1);
    });
    Ok(())
}
