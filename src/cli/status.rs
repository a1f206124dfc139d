//! `embeval status`.

use std::path::PathBuf;

use super::scoreboard::aligned;
use super::{Format, Misuse, print, words};
use crate::store::status::{Ended, Progress, Status, status};
use crate::store::survey::{Survey, find};

/// Waiting steps that the table names; the rest are counted.
const SHOWN: usize = 5;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run: its folder, or its name in runs/.
    run: PathBuf,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let root = find(&args.run).map_err(Misuse)?;
    let (rule, fault) = words::rule(&root);
    let mut status = status(&Survey::read(&root), &rule);
    status.faults.extend(fault);
    match args.format {
        Format::Json => print(&serde_json::to_string_pretty(&status)?),
        Format::Table => print(&page(&status, false)),
        Format::Markdown => print(&page(&status, true)),
    }
}

fn page(status: &Status, markdown: bool) -> String {
    let mut out = summary(status, markdown);
    let mut rows = vec![
        ["Kind", "All", "Done", "Running", "Waiting", "Failed", "Pruned", "Spent", "Median"].map(String::from).to_vec(),
    ];
    for kind in &status.kinds {
        let c = &kind.counts;
        let mut row = vec![kind.kind.name().to_string()];
        row.extend([c.all, c.complete, c.running, c.waiting, c.failed, c.pruned].map(|n| n.to_string()));
        row.push(words::duration(kind.seconds));
        row.push(kind.median_seconds.map_or_else(|| "–".into(), words::duration));
        rows.push(row);
    }
    if rows.len() > 1 {
        out.push_str(&format!("\n{}", aligned(&rows, markdown, &[1, 2, 3, 4, 5, 6, 7, 8])));
    }
    section(
        &mut out,
        markdown,
        "Running",
        status.running.iter().map(|working| {
            let since = working.seconds.map_or(String::new(), |s| format!(", for {}", words::duration(s)));
            let far = working.progress.as_ref().map_or(String::new(), |p| format!(": {}", how_far(p)));
            format!("{}{far} (process {} on {}{since})", working.title, working.pid, working.host)
        }),
    );
    let ended = |ended: &Ended| {
        let tried = if ended.attempts > 1 { format!(" ({} attempts)", ended.attempts) } else { String::new() };
        let log = ended.log.as_ref().map_or(String::new(), |log| format!("; log: {}", log.display()));
        let why = if ended.message.is_empty() { "no reason was written" } else { &ended.message };
        format!("{}{tried}: {why}{log}", ended.title)
    };
    section(&mut out, markdown, "Failed", status.failed.iter().map(ended));
    section(&mut out, markdown, "Pruned", status.pruned.iter().map(|e| format!("{}: {}", e.title, e.message)));
    let waiting = status.waiting.iter().take(SHOWN).map(|waiting| match &waiting.progress {
        Some(progress) => format!("{}: begun, {}", waiting.title, how_far(progress)),
        None => waiting.title.clone(),
    });
    let more = status.waiting.len().saturating_sub(SHOWN);
    let more = (more > 0).then(|| format!("and {more} more"));
    section(&mut out, markdown, "Waiting", waiting.chain(more));
    section(
        &mut out,
        markdown,
        "Locks that nobody holds",
        status.stale_locks.iter().map(|lock| {
            let whose = if lock.host.is_empty() {
                "it names nobody".to_string()
            } else {
                format!("process {} on {} is gone", lock.pid, lock.host)
            };
            format!("{} ({}): {whose}; the next `embeval sweep` takes it over", lock.path.display(), lock.title)
        }),
    );
    section(&mut out, markdown, "Cannot be read", status.faults.iter().cloned());
    out
}

fn summary(status: &Status, markdown: bool) -> String {
    let c = &status.steps;
    let mut lines = vec![
        format!("{}: {}", status.run, status.state),
        format!(
            "{} of {} steps done ({:.0} %), {} spent",
            c.complete + c.pruned,
            c.all,
            100.0 * status.share,
            words::duration(status.seconds)
        ),
    ];
    if let Some(left) = &status.left {
        let least = if left.at_least { "at least " } else { "about " };
        lines.push(format!("{least}{} left, by {}", words::duration(left.seconds), left.based_on));
    }
    if let Some(best) = &status.best {
        let what = if status.chosen {
            "chosen".to_string()
        } else {
            format!("best so far ({} of {} scored)", best.scored, best.all)
        };
        lines.push(format!("{what}: {} ({} on {}: {:.4})", best.label, best.by, best.on, best.score));
    }
    let d = &status.disk;
    lines.push(format!(
        "{} on the disk: models {}, states {}, best/ {}, other {}",
        words::bytes(d.total()),
        words::bytes(d.models),
        words::bytes(d.states),
        words::bytes(d.best),
        words::bytes(d.other)
    ));
    let bullets: Vec<String> = match lines.split_first() {
        Some((first, rest)) if markdown => {
            std::iter::once(format!("**{first}**\n")).chain(rest.iter().map(|l| format!("- {l}"))).collect()
        }
        _ => lines,
    };
    bullets.join("\n") + "\n"
}

fn section(out: &mut String, markdown: bool, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        return;
    }
    out.push_str(&if markdown { format!("\n## {title}\n\n") } else { format!("\n{title}\n") });
    for line in lines {
        out.push_str(&format!("{}{}\n", if markdown { "- " } else { "  " }, line.replace('\n', " ")));
    }
}

fn how_far(progress: &Progress) -> String {
    let mut out = match progress.all {
        Some(all) => format!("{} of {all} {}", progress.done, progress.unit),
        None => format!("{} {}", progress.done, progress.unit),
    };
    if let Some(loss) = progress.loss {
        out.push_str(&format!(", loss {loss:.4}"));
    }
    if let Some(rate) = progress.tokens_per_second {
        out.push_str(&format!(", {rate:.0} tokens/s"));
    }
    out
}
