//! Runs Slurm's commands, and says what their failures mean.

use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::error::SlurmError;

/// What a command said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// Exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

/// Slurm's commands and the clock; the tests have a cluster of their own behind it.
pub trait Commands {
    /// Runs `sbatch`, `squeue`, `scancel`, `scontrol`, `sinfo` or `sacct` and waits for its end.
    ///
    /// # Errors
    /// Where the program could not be run at all.
    fn run(&self, program: &str, arguments: &[String]) -> io::Result<Reply>;

    /// Waits.
    fn pause(&self, time: Duration);
}

/// The commands on this machine's search path.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlurmCommands;

/// Variables that change what `sbatch` does with options that are ours.
const OWN_OPTIONS: [&str; 10] = [
    "SBATCH_ARRAY_INX",
    "SBATCH_ERROR",
    "SBATCH_IGNORE_PBS",
    "SBATCH_INPUT",
    "SBATCH_JOB_NAME",
    "SBATCH_NO_REQUEUE",
    "SBATCH_OPEN_MODE",
    "SBATCH_OUTPUT",
    "SBATCH_REQUEUE",
    "SBATCH_WAIT",
];

/// Variables with these beginnings filter and format what is listed.
const LISTINGS: [&str; 5] = ["SACCT_", "SCANCEL_", "SINFO_", "SQUEUE_", "SLURM_TIME_FORMAT"];

impl Commands for SlurmCommands {
    fn run(&self, program: &str, arguments: &[String]) -> io::Result<Reply> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if OWN_OPTIONS.contains(&name.as_ref()) || LISTINGS.iter().any(|start| name.starts_with(start)) {
                command.env_remove(name.as_ref());
            }
        }
        // A group of its own: Ctrl-C is this process's to handle, and must not end an sbatch half-way.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let output = command.output()?;
        Ok(Reply {
            code: output.status.code(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// How a command that was run came out.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// It did what it should; its output.
    Done(String),
    /// The controller was not reached, or its answer was not: what was asked for may have happened.
    Unreachable(String),
    /// It said no, and why.
    Refused(String),
}

/// What clients say when the controller is away, busy or restarting.
const AWAY: [&str; 12] = [
    "unable to contact slurm controller",
    "connection refused",
    "connection timed out",
    "connection reset",
    "communication connection failure",
    "socket timed out",
    "zero bytes were transmitted",
    "transport endpoint is not connected",
    "resource temporarily unavailable",
    "standby mode",
    "no route to host",
    "temporarily unable to accept job",
];

/// Runs a command.
///
/// # Errors
/// Where the program is missing or cannot be run.
pub(super) fn call(commands: &dyn Commands, program: &str, arguments: &[String]) -> Result<Outcome, SlurmError> {
    let reply = commands.run(program, arguments).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            SlurmError::Missing { program: program.into() }
        } else {
            SlurmError::Command { program: program.into(), source }
        }
    })?;
    if reply.code == Some(0) {
        return Ok(Outcome::Done(reply.output));
    }
    let message = tidy(&reply, program);
    let small = message.to_lowercase();
    // A command that a signal ended may have been heard.
    if reply.code.is_none() || AWAY.iter().any(|words| small.contains(words)) {
        Ok(Outcome::Unreachable(message))
    } else {
        Ok(Outcome::Refused(message))
    }
}

/// What a command complained about, on one line, without the program's name before each.
fn tidy(reply: &Reply, program: &str) -> String {
    let said = if reply.errors.trim().is_empty() { &reply.output } else { &reply.errors };
    let lines: Vec<&str> = said
        .lines()
        .map(|line| {
            let line = line.trim();
            let line = line.strip_prefix(program).map_or(line, |rest| rest.trim_start_matches(':').trim_start());
            line.strip_prefix("error: ").unwrap_or(line)
        })
        .filter(|line| !line.is_empty())
        .collect();
    match (lines.is_empty(), reply.code) {
        (false, _) => lines.join("; "),
        (true, Some(code)) => format!("exit code {code}"),
        (true, None) => "ended by a signal".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Reply);

    impl Commands for Says {
        fn run(&self, _: &str, _: &[String]) -> io::Result<Reply> {
            Ok(self.0.clone())
        }

        fn pause(&self, _: Duration) {}
    }

    fn outcome(code: Option<i32>, errors: &str) -> Outcome {
        call(&Says(Reply { code, output: "41".into(), errors: errors.into() }), "sbatch", &[]).unwrap()
    }

    #[test]
    fn failures_are_told_apart() {
        // As Slurm 22.05 says them.
        let away = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n";
        assert!(matches!(outcome(Some(1), away), Outcome::Unreachable(_)));
        let lost = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation";
        assert!(matches!(outcome(Some(1), lost), Outcome::Unreachable(_)));
        assert!(matches!(outcome(None, ""), Outcome::Unreachable(_)));
        let partition = "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: \
                         Invalid partition name specified\n";
        assert_eq!(
            outcome(Some(1), partition),
            Outcome::Refused(
                "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified"
                    .into()
            )
        );
        assert_eq!(outcome(Some(0), ""), Outcome::Done("41".into()));
    }

    #[test]
    fn a_missing_command_is_named() {
        let error = call(&SlurmCommands, "sbatch-that-nobody-has", &[]).unwrap_err().to_string();
        assert!(error.starts_with("sbatch-that-nobody-has: not found") && error.contains("run.executor"), "{error}");
    }
}
