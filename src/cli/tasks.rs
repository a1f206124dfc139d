//! `embeval tasks`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;

use super::{Misuse, inputs, print};
use crate::data::atomic;
use crate::data::table::DataError;
use crate::exec::precomputed::stems;
use crate::task::benchmark::Benchmark;
use crate::task::load::{SplitRows, TaskData, Texts};
use crate::task::select::benchmarks;
use crate::task::spec::{Source, Split, TaskSpec};

/// Arguments of `tasks`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// One line a task and a benchmark.
    List {
        /// Selectors (default: all in tasks/ and those built in).
        selectors: Vec<String>,
    },
    /// All of a task.
    Show {
        /// Selectors.
        #[arg(required = true)]
        selectors: Vec<String>,
    },
    /// Loads every side and says what is wrong; of a corpus the ids are read, the texts are not.
    Check {
        /// Selectors (default: all in tasks/ whose data is in files).
        selectors: Vec<String>,
    },
    /// Writes the texts of tasks, so that they can be embedded elsewhere: `DIR/<Task>/<part>.jsonl`. Embeddings of the same
    /// names (`<part>.npy`, all rows, in order) are scored by `embeval score --embeddings DIR`.
    Texts {
        /// Selectors.
        #[arg(required = true)]
        selectors: Vec<String>,
        /// The folder.
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let all = vec!["*".to_string()];
    let chosen = |selectors: &Vec<String>| inputs::tasks(if selectors.is_empty() { &all } else { selectors }, None);
    match &args.action {
        Action::List { selectors } => {
            let mut lines: Vec<String> = chosen(selectors)?.iter().map(line).collect();
            if selectors.is_empty() {
                for benchmark in benchmarks(&inputs::task_folders(None))? {
                    let Benchmark { name, title, tasks } = benchmark;
                    lines.push(format!("{name:<40} benchmark of {} tasks: {title}", tasks.len()));
                }
            }
            print(&lines.join("\n"))
        }
        Action::Show { selectors } => {
            let blocks: Vec<String> = chosen(selectors)?.iter().map(|t| format!("{t:#?}")).collect();
            print(&blocks.join("\n"))
        }
        Action::Check { selectors } => {
            let mut tasks = chosen(selectors)?;
            if selectors.is_empty() {
                tasks.retain(|task| matches!(task.source, Source::Files(_)));
            }
            check(&tasks, quiet)
        }
        Action::Texts { selectors, output } => {
            let mut out = Vec::new();
            for task in chosen(selectors)? {
                let data = TaskData::load_from(&task, Split::Test, None, &inputs::datasets(quiet))?;
                for (_, rows) in data.iter().flat_map(|data| &data.splits) {
                    out.extend(write_texts(&output.join(&task.name), rows)?);
                }
            }
            out.dedup();
            print(&out.join("\n"))
        }
    }
}

/// Every task is checked, whatever is wrong with another.
fn check(tasks: &[TaskSpec], quiet: bool) -> anyhow::Result<()> {
    let (mut out, mut faults) = (Vec::new(), Vec::new());
    for task in tasks {
        let mut parts = Vec::new();
        for split in [Split::Dev, Split::Test] {
            match TaskData::load_from(task, split, None, &inputs::datasets(quiet)) {
                Ok(Some(data)) => parts.push(format!("{} {} rows", split.name(), data.rows())),
                Ok(None) => parts.push(format!("no {} side", split.name())),
                Err(e) => {
                    faults.push(format!("\n  {e}"));
                    break;
                }
            }
        }
        if parts.len() == 2 {
            out.push(format!("{}: {}", task.name, parts.join(", ")));
        }
    }
    if !out.is_empty() {
        print(&out.join("\n"))?;
    }
    match faults.len() {
        0 => Ok(()),
        1 if tasks.len() == 1 => anyhow::bail!(Misuse(faults.concat().trim().to_string())),
        n => anyhow::bail!(Misuse(format!("{n} of {} tasks cannot be used:{}", tasks.len(), faults.concat()))),
    }
}

/// The texts of a split, a file a part.
fn write_texts(folder: &Path, rows: &SplitRows) -> anyhow::Result<Vec<String>> {
    let mut out = Vec::new();
    for texts in rows.texts() {
        out.push(write_part(folder, texts)?);
    }
    if let SplitRows::Ranking(rows) = rows {
        let path = folder.join(format!("{}.documents.jsonl", rows.queries.split));
        let mut fault = None;
        let written = atomic::write_with(&path, |file| {
            let mut out = std::io::BufWriter::new(file);
            let mut take = |_: usize, block: &[String]| -> Result<(), Stop> {
                block.iter().try_for_each(|text| writeln!(out, "{}", json!({"text": text}))).map_err(Stop::Io)
            };
            match rows.documents.blocks(10_000, &mut take) {
                Err(Stop::Io(e)) => return Err(e),
                Err(Stop::Data(e)) => {
                    fault = Some(e);
                    return Err(std::io::Error::other("the corpus cannot be read"));
                }
                Ok(()) => {}
            }
            out.flush()
        });
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        written.with_context(|| format!("{}: cannot be written", path.display()))?;
        out.push(format!("{}: {} texts", path.display(), rows.documents.ids().len()));
    }
    Ok(out)
}

/// What ends the writing of documents.
enum Stop {
    Data(DataError),
    Io(std::io::Error),
}

impl From<DataError> for Stop {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

fn write_part(folder: &Path, texts: &Texts) -> anyhow::Result<String> {
    let path = folder.join(format!("{}.jsonl", stems(&texts.split, texts.column)[0]));
    // Rows that are not among these (a query without judgements) are never asked for; they hold their place.
    let mut rows = vec![""; texts.total];
    texts.rows.iter().zip(&texts.texts).for_each(|(&row, text)| rows[row] = text);
    let lines: String = rows.iter().map(|text| format!("{}\n", json!({"text": text}))).collect();
    atomic::write(&path, lines.as_bytes()).with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(format!("{}: {} texts", path.display(), texts.total))
}

fn line(task: &TaskSpec) -> String {
    let place = match &task.source {
        Source::Hub { repo, .. } => format!("hub: {repo}"),
        Source::Files(_) => "files".into(),
    };
    let languages = task.languages.join(",");
    format!("{:<40} {:<26} {:<20} {:<16} {place}", task.name, task.kind.name(), languages, task.metric)
}
