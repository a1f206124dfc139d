//! `embeval runs`.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::scoreboard::aligned;
use super::{Format, Misuse, print, words};
use crate::store::listing::{Row, folders, row};

/// Arguments of `runs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of runs.
    #[arg(default_value = "runs")]
    folder: PathBuf,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    if !args.folder.is_dir() {
        anyhow::bail!(Misuse(format!("{}: no such folder", args.folder.display())));
    }
    let found = folders(&args.folder).with_context(|| format!("{}: cannot be read", args.folder.display()))?;
    let rows: Vec<Row> = found.iter().map(|root| row(root, &words::rule(root).0)).collect();
    if args.format == Format::Json {
        return print(&serde_json::to_string_pretty(&rows)?);
    }
    if rows.is_empty() {
        return print(&format!("{}: holds no runs of sweeps", args.folder.display()));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let header = ["Run", "State", "Trials", "Steps", "Best", "Score", "Disk", "Changed", "Report"];
    let mut table = vec![header.map(String::from).to_vec()];
    for row in &rows {
        let (mut label, mut score) = ("–".to_string(), "–".to_string());
        if let Some(best) = &row.best {
            label = if row.chosen { best.label.clone() } else { format!("{} (so far)", best.label) };
            score = format!("{:.4} {}", best.score, best.on);
        }
        table.push(vec![
            row.name.clone(),
            row.state.into(),
            row.trials.to_string(),
            format!("{}/{}", row.done, row.steps),
            label,
            score,
            words::bytes(row.bytes),
            row.changed.map_or_else(|| "–".into(), |at| words::ago(now.saturating_sub(at))),
            row.report.as_ref().map_or_else(|| "–".into(), |page| page.display().to_string()),
        ]);
    }
    print(&aligned(&table, args.format == Format::Markdown, &[2, 3, 5, 6]))
}
