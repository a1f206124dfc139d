//! `embeval mine`.

mod arguments;
mod encoder;

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

pub use self::arguments::Args;
use self::arguments::check_names;
use self::encoder::Encoder;
use super::{Format, Misuse, inputs, observer, peak_mb, print};
use crate::data::atomic;
use crate::data::rows::{PairRow, read_pairs};
use crate::data::table::Table;
use crate::mine::{self, Embeddings, Layout, MiningSet, Origin, OtherKeys, Output, Parts, Report, Settings, Written};
use crate::model::prompts::Side;

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let settings = args.choice.settings(args.search_batch_size);
    settings.check().map_err(|e| Misuse(format!("--{}", e.to_string().replacen('_', "-", 1))))?;
    let layout = args.output_format.layout();
    check_names(args)?;
    let device = inputs::device(&args.device)?;

    let Read { rows, keys, pool } = read(args, layout)?;
    let set = MiningSet::new(&Origin {
        rows: &rows,
        pool: pool.as_deref(),
        rule: settings.rule,
        include_negatives: args.include_negatives,
        keep_negatives: !args.replace,
        score_negatives: args.scores,
    })?;
    if set.candidates() == 0 {
        return Err(mine::MineError::NoCandidates.into());
    }

    let source = inputs::source(&args.model, args.revision.as_deref(), quiet)?;
    let embedder = inputs::embedder(&source.folder, args.adapter.as_deref(), &device, args.dtype)?;
    let _precision = inputs::precision(args.dtype, &device);
    let own = &embedder.files().layout.prompts;
    let prompt = |given: &Option<String>, side| given.clone().unwrap_or_else(|| own.of_side(side).to_string());
    let prompts = (prompt(&args.query_prompt, Side::Query), prompt(&args.document_prompt, Side::Document));
    let mut facts = facts(args, &set, &settings, &prompts);
    if args.dry_run {
        return print(&match args.format {
            Format::Json => serde_json::to_string(&facts)?,
            Format::Table | Format::Markdown => plan(&facts),
        });
    }
    for path in [Some(&args.output), args.report.as_ref()].into_iter().flatten() {
        writable(path).with_context(|| format!("{}: cannot be written", path.display()))?;
    }

    let start = Instant::now();
    let bar = observer::bar((set.queries().len() + set.documents().len()) as u64, quiet);
    let mut encoder = Encoder::new(&embedder, &inputs::cache(args.cache_size), &bar);
    let (candidates, others) = set.documents().split_at(set.candidates());
    let embeddings = Embeddings::new(
        encoder.all(set.queries(), &prompts.0)?,
        encoder.all(candidates, &prompts.1)?,
        encoder.all(others, &prompts.1)?,
    );
    bar.finish_and_clear();
    facts.insert("tokens".into(), encoder.tokens.into());
    facts.insert("truncated".into(), encoder.truncated.into());
    facts.insert("encode_seconds".into(), seconds(start));

    let start = Instant::now();
    let format = mine::Format {
        layout,
        scores: args.scores,
        keep_negatives: !args.replace,
        num_negatives: settings.num_negatives,
    };
    let parts = Parts { set: &set, embeddings: &embeddings, rows: &rows, keys: &keys };
    let (report, written) = mined(&args.output, &settings, format, parts, quiet)?;
    facts.insert("mine_seconds".into(), seconds(start));
    facts.insert("lines".into(), written.lines.into());
    facts.insert("left_out".into(), written.left_out.into());
    if let Some(path) = &args.report {
        atomic::write_with(path, |file| {
            let mut out = BufWriter::new(file);
            report.write(&facts, &set, &mut out)?;
            out.flush()
        })
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    if !quiet {
        eprint!("{}", report.as_table());
        let most = embedder.files().max_seq_length;
        for (count, what) in [
            (encoder.truncated, format!("texts were cut at the model's limit of {most} tokens")),
            (written.left_out, "pairs have no line, for want of negatives".into()),
        ] {
            if count > 0 {
                eprintln!("{count} {what}");
            }
        }
    }
    print(&match args.format {
        Format::Json => {
            facts.insert("peak_mb".into(), peak_mb().into());
            if let Value::Object(totals) = report.as_json() {
                facts.extend(totals);
            }
            serde_json::to_string(&facts)?
        }
        Format::Table | Format::Markdown => format!(
            "{} queries, {} negatives of {} candidates, {} lines; {}",
            set.queries().len(),
            report.negatives,
            set.candidates(),
            written.lines,
            args.output.display()
        ),
    })
}

/// What the input files hold.
struct Read {
    rows: Vec<PairRow>,
    keys: OtherKeys,
    pool: Option<Vec<String>>,
}

fn read(args: &Args, layout: Layout) -> anyhow::Result<Read> {
    let limit = args.limit.map(|rows| rows as usize);
    let rows = read_pairs(&args.input, limit)?;
    let (input, flag) = (args.input.display(), layout == Layout::Flag);
    if !flag && !args.replace && rows.iter().any(|row| !row.negatives.is_empty()) {
        bail!(Misuse(format!(
            "{input}: has negatives, which --output-format {} cannot keep: add --replace, or write --output-format flag",
            layout.name()
        )));
    }
    let keys = if flag { OtherKeys::read(&args.input, limit)? } else { OtherKeys::default() };
    if keys.had_scores && !args.scores {
        tracing::warn!(
            "{input}: pos_scores and neg_scores are of other negatives and left out; --scores writes new ones"
        );
    }
    if !keys.unread.is_empty() {
        tracing::warn!("{input}: left out, being of types that are not read: {}", keys.unread.join(", "));
    }
    let pool = args.candidate_pool.as_deref().map(|path| Table::read(path)?.texts("text")).transpose()?;
    Ok(Read { rows, keys, pool })
}

/// Mines into a file that appears when it is whole.
fn mined(
    path: &Path,
    settings: &Settings,
    format: mine::Format,
    parts: Parts<'_>,
    quiet: bool,
) -> anyhow::Result<(Report, Written)> {
    let bar = observer::bar(parts.set.queries().len() as u64, quiet);
    let mut result = None;
    let mut failed = None;
    let outcome = atomic::write_with(path, |file| {
        let mut output = Output::new(BufWriter::with_capacity(1 << 18, file), format, parts);
        let progress = |done: usize| bar.set_position(done as u64);
        let report = mine::mine::<anyhow::Error>(parts.set, parts.embeddings, settings, &progress, &mut |one| {
            Ok(output.take(one)?)
        });
        match report {
            Ok(report) => {
                result = Some((report, output.finish()?));
                Ok(())
            }
            Err(error) => {
                failed = Some(error);
                Err(std::io::Error::other("not mined"))
            }
        }
    });
    bar.finish_and_clear();
    match (failed, outcome, result) {
        (Some(error), ..) => Err(error.context(path.display().to_string())),
        (None, Err(error), _) => {
            Err(anyhow::Error::new(error).context(format!("{}: cannot be written", path.display())))
        }
        (None, Ok(()), Some(result)) => Ok(result),
        (None, Ok(()), None) => bail!("{}: nothing was mined", path.display()),
    }
}

fn seconds(start: Instant) -> Value {
    json!((start.elapsed().as_secs_f64() * 1e3).round() / 1e3)
}

/// That a file can be made there: told before hours of encoding.
fn writable(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let probe = parent.join(format!(".embeval.{}.probe", std::process::id()));
    std::fs::File::create(&probe)?;
    std::fs::remove_file(&probe)
}

/// What is mined, over what, and by which settings.
fn facts(args: &Args, set: &MiningSet<'_>, settings: &Settings, prompts: &(String, String)) -> Map<String, Value> {
    let range_max = settings.range_max(set.most_positives());
    let facts = json!({
        "model": args.model,
        "adapter": args.adapter.as_ref().map(|path| path.display().to_string()),
        "input": args.input.display().to_string(),
        "candidate_pool": args.candidate_pool.as_ref().map(|path| path.display().to_string()),
        "output": args.output.display().to_string(),
        "rows": set.rows(),
        "queries": set.queries().len(),
        "candidates": set.candidates(),
        "texts": set.queries().len() + set.documents().len(),
        "most_positives": set.most_positives(),
        "prompts": {"query": prompts.0, "document": prompts.1},
        "settings": {
            "rule": settings.rule.name(),
            "range_min": settings.range_min,
            "range_max": range_max,
            "num_negatives": settings.num_negatives,
            "max_score": settings.max_score,
            "min_score": settings.min_score,
            "absolute_margin": settings.absolute_margin,
            "relative_margin": settings.relative_margin,
            "semi_hard": settings.semi_hard,
            "sampling": settings.sampling.name(),
            "seed": settings.seed,
            "top_up": settings.top_up,
        },
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

/// A dry run in words.
fn plan(facts: &Map<String, Value>) -> String {
    let number = |key: &str| facts[key].as_u64().unwrap_or(0);
    let settings = facts["settings"].as_object().cloned().unwrap_or_default();
    let set = settings.iter().filter(|(_, value)| !value.is_null() && **value != Value::Bool(false));
    let set: Vec<String> = set.map(|(key, value)| format!("{key} {}", value.to_string().trim_matches('"'))).collect();
    format!(
        "{} rows, {} queries, {} candidates, {} texts to encode\nprompts: query {}, document {}\n{}\nnothing was written to {}",
        number("rows"),
        number("queries"),
        number("candidates"),
        number("texts"),
        facts["prompts"]["query"],
        facts["prompts"]["document"],
        set.join(", "),
        facts["output"].as_str().unwrap_or_default()
    )
}
