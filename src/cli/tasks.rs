//! `embeval tasks`.

use super::{inputs, print};
use crate::task::load::TaskData;
use crate::task::spec::{Split, TaskSpec};

/// Arguments of `tasks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// One line a task.
    List {
        /// Selectors (default: all in tasks/).
        selectors: Vec<String>,
    },
    /// All of a task.
    Show {
        /// Selectors.
        #[arg(required = true)]
        selectors: Vec<String>,
    },
    /// Loads every row of every side and says what is wrong.
    Check {
        /// Selectors (default: all in tasks/).
        selectors: Vec<String>,
    },
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let all = vec!["*".to_string()];
    let chosen = |selectors: &Vec<String>| inputs::tasks(if selectors.is_empty() { &all } else { selectors }, None);
    match &args.action {
        Action::List { selectors } => {
            let lines: Vec<String> = chosen(selectors)?.iter().map(line).collect();
            print(&lines.join("\n"))
        }
        Action::Show { selectors } => {
            let blocks: Vec<String> = chosen(selectors)?.iter().map(|t| format!("{t:#?}")).collect();
            print(&blocks.join("\n"))
        }
        Action::Check { selectors } => {
            let mut out = Vec::new();
            for task in chosen(selectors)? {
                let mut parts = Vec::new();
                for split in [Split::Dev, Split::Test] {
                    match TaskData::load(&task, split, None)? {
                        Some(data) => parts.push(format!("{} {} rows", split.name(), data.rows())),
                        None => parts.push(format!("no {} side", split.name())),
                    }
                }
                out.push(format!("{}: {}", task.name, parts.join(", ")));
            }
            print(&out.join("\n"))
        }
    }
}

fn line(task: &TaskSpec) -> String {
    format!("{:<40} {:<26} {:<20} {}", task.name, task.kind.name(), task.languages.join(","), task.metric)
}
