//! `embeval clean`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde_json::json;

use super::{Format, Misuse, inputs, print, words};
use crate::encode::cache;
use crate::store::clean::{CleanError, Item, Keep, What, carry_out, plan};
use crate::store::listing::folders;
use crate::store::survey::{Survey, find};

/// Arguments of `clean`.
///
/// By default only what nobody needs goes: states of finished trainings, steps that the plan has no more (left by
/// earlier configs; those that a report in record.json rests on stay), temporary files and locks of processes that are gone.
/// Scores, logs and records always stay, and so do the chosen model, and every model that a step which is not done still
/// reads. A model that was removed is noted in its step's removed.json: the sweep makes it again if it is ever needed.
/// A run that a living process works on is left alone.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Runs: folders, or names in runs/.
    runs: Vec<PathBuf>,
    /// All runs in ./runs.
    #[arg(long, conflicts_with = "runs")]
    all: bool,
    /// Print what would go, remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Which models stay beside the choice and what is not done with.
    #[arg(long, value_enum, default_value = "all")]
    keep: KeepModels,
    /// Remove checkpoints that are neither chosen nor part of a merge: --keep merges.
    #[arg(long, conflicts_with = "keep")]
    checkpoints: bool,
    /// Only runs in which nothing changed for so long: 30d, 12h, 2w.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older: Option<Duration>,
    /// Remove the kept embeddings of all runs ($EMBEVAL_CACHE, else ~/.cache/embeval): they are made again when needed.
    #[arg(long)]
    cache: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// Which models stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum KeepModels {
    /// All of them.
    #[value(alias = "all-checkpoints")]
    All,
    /// The result of each training, and merged models.
    Final,
    /// What merges are made of, and merged models.
    Merges,
    /// The choice alone.
    Best,
}

impl From<KeepModels> for Keep {
    fn from(keep: KeepModels) -> Self {
        match keep {
            KeepModels::All => Self::All,
            KeepModels::Final => Self::Final,
            KeepModels::Merges => Self::Merges,
            KeepModels::Best => Self::Best,
        }
    }
}

/// `30d`, `12h`, `2w`, `45min`.
fn age(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "min" | "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        "w" => Some(604_800),
        _ => None,
    };
    let whole = seconds.and_then(|seconds: u64| number.parse::<u64>().ok()?.checked_mul(seconds));
    whole.map(Duration::from_secs).ok_or_else(|| format!("`{text}` is no age: write 30d, 12h, 2w or 45min"))
}

/// What was done with a run.
struct Done {
    root: PathBuf,
    items: Vec<Item>,
    freed: u64,
    /// Why it was left alone.
    skipped: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.runs.is_empty() && !args.all && !args.cache {
        anyhow::bail!(Misuse("name runs, or say --all (every run in ./runs) or --cache".into()));
    }
    let roots: Vec<PathBuf> = if args.all {
        folders(Path::new("runs")).context("runs: cannot be read")?
    } else {
        // All are looked at before anything is removed.
        args.runs.iter().map(|run| find(run).map_err(Misuse)).collect::<Result<_, _>>()?
    };
    let mut all = Vec::new();
    for root in roots {
        all.push(one(args, root)?);
    }
    let cache = if args.cache { Some(clear_cache(args.dry_run)?) } else { None };
    let refused: Vec<String> =
        if args.all { Vec::new() } else { all.iter().filter_map(|done| done.skipped.clone()).collect() };
    let shown = match args.format {
        Format::Json => document(args, &all, cache)?,
        Format::Table | Format::Markdown => page(args, &all, cache),
    };
    if all.iter().any(|done| done.skipped.is_none()) || args.all || args.cache {
        print(&shown)?;
    }
    if refused.is_empty() { Ok(()) } else { anyhow::bail!("{}", refused.join("\n")) }
}

fn one(args: &Args, root: PathBuf) -> anyhow::Result<Done> {
    let mut done = Done { items: Vec::new(), freed: 0, skipped: None, root };
    if let Some(least) = args.older {
        let age = Survey::read(&done.root).changed().and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_none_or(|age| age < least) {
            return Ok(done);
        }
    }
    let keep = if args.checkpoints { Keep::Merges } else { args.keep.into() };
    match plan(&done.root, keep, &words::rule(&done.root).0) {
        Ok(items) => done.items = items,
        Err(e @ CleanError::Store(_)) => return Err(e.into()),
        Err(left_alone) => {
            done.skipped = Some(left_alone.to_string());
            return Ok(done);
        }
    }
    done.freed =
        if args.dry_run { done.items.iter().map(|item| item.bytes).sum() } else { carry_out(&done.root, &done.items)? };
    Ok(done)
}

/// Segments and bytes.
fn clear_cache(dry_run: bool) -> anyhow::Result<(usize, u64)> {
    let settings = inputs::cache(1);
    cache::clear(&settings, dry_run).with_context(|| format!("{}: cannot be cleared", settings.folder.display()))
}

fn document(args: &Args, all: &[Done], cache: Option<(usize, u64)>) -> anyhow::Result<String> {
    let runs: Vec<serde_json::Value> = all
        .iter()
        .map(|done| json!({"run": done.root, "items": done.items, "bytes": done.freed, "skipped": done.skipped}))
        .collect();
    let cache = cache.map(|(segments, bytes)| json!({"segments": segments, "bytes": bytes}));
    Ok(serde_json::to_string_pretty(&json!({"dry_run": args.dry_run, "runs": runs, "cache": cache}))?)
}

fn page(args: &Args, all: &[Done], cache: Option<(usize, u64)>) -> String {
    let mut out = String::new();
    let (verb, freed) = if args.dry_run { ("would go", "would be freed") } else { ("removed", "freed") };
    for done in all {
        if let Some(why) = &done.skipped {
            // Runs that were named are told on standard error.
            if args.all {
                out.push_str(&format!("left alone: {why}\n"));
            }
            continue;
        }
        out.push_str(&format!("{}: {} {freed}\n", done.root.display(), words::bytes(done.freed)));
        for what in [What::State, What::Leftover, What::Temporary, What::Lock, What::Model] {
            let of_it: Vec<&Item> = done.items.iter().filter(|item| item.what == what).collect();
            if of_it.is_empty() {
                continue;
            }
            let bytes = words::bytes(of_it.iter().map(|item| item.bytes).sum());
            out.push_str(&format!(
                "  {} {}, {bytes} ({verb})\n",
                of_it.len(),
                what.name()[usize::from(of_it.len() > 1)]
            ));
            for item in of_it {
                let path = item.path.strip_prefix(&done.root).unwrap_or(&item.path);
                out.push_str(&format!("    {} ({}), {}\n", path.display(), item.word, words::bytes(item.bytes)));
            }
        }
    }
    if let Some((segments, bytes)) = cache {
        out.push_str(&format!("kept embeddings: {} {freed} ({segments} files {verb})\n", words::bytes(bytes)));
    }
    if out.is_empty() { "nothing to clean\n".into() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age(" 12 h"), Ok(Duration::from_secs(43_200)));
        assert!(["", "d", "30", "-1d", "3 fortnights", "99999999999999999999w"].iter().all(|text| age(text).is_err()));
    }
}
