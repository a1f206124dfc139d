//! `embeval sweep`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};

use super::observer::Bars;
use super::run_file::{self, RunFile, absolute};
use super::{Misuse, print};
use crate::config::Document;
use crate::config::schema::{Base, Executor, PruneRule};
use crate::data::size;
use crate::exec::Engine;
use crate::exec::event::{Event, Silence};
use crate::exec::local::{End, Local};
use crate::exec::{heads, jobs, slurm};
use crate::hub::{Hub, HubError, Repo, RepoKind, Settings};
use crate::plan::Plan;
use crate::store::folder::StepState;
use crate::store::record::RunRecord;
use crate::task::spec::Source;

/// Arguments of `sweep`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The config.
    config: PathBuf,
    /// Override a setting: `--set train.lr=1e-4` (the value is YAML).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Print the trials, the steps, and what they will take (a few steps and texts are tried to know it); run nothing.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: try nothing, print trials and steps alone.
    #[arg(long, requires = "dry_run")]
    no_calibration: bool,
    /// Folder of the run (default runs/NAME).
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Folder of the report (default reports/NAME).
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Who runs the steps: processes of this machine, or jobs of Slurm (default: the config's).
    #[arg(long)]
    executor: Option<ExecutorName>,
    /// Steps at a time (default: the config's).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Where to compute: auto, cpu, cuda or cuda:N (default: the config's).
    #[arg(long)]
    device: Option<String>,
    /// Bytes that embeddings kept on the disk may take ($EMBEVAL_CACHE, else ~/.cache/embeval); 0 keeps none.
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = size::parse)]
    cache_size: u64,
}

/// Who runs the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ExecutorName {
    /// Processes of this machine.
    Local,
    /// Jobs of Slurm.
    Slurm,
}

pub fn run(args: &Args, quiet: bool) -> anyhow::Result<()> {
    let document = Document::load(&args.config, &args.sets)?;
    if args.dry_run {
        return dry_run(args, &document, quiet);
    }
    let plan = run_file::plan(&document, quiet)?;
    let name = plan.config.name.clone();
    let root = root(args, &name)?;
    let report = args.report.clone().unwrap_or_else(|| PathBuf::from("reports").join(&name));
    let run = run_file(args, &document, &plan, &report)?;
    let observer = Bars::new(quiet);
    let engine = run_file::engine(&plan, &run, &root, &observer, quiet)?;
    // Found now rather than after hours of work.
    std::fs::create_dir_all(&report)
        .with_context(|| format!("{}: the report cannot be written there", report.display()))?;
    let steps = run_file::steps_text(&plan)?;
    let head = heads::enter(&engine.folder, &steps)?;
    let before = RunFile::read(&root).ok().and_then(|before| before.prune);
    let write = |name: &str, content: &[u8]| {
        let path = root.join(name);
        crate::data::atomic::write(&path, content).with_context(|| format!("{}: cannot be written", path.display()))
    };
    write("config.yaml", document.text().as_bytes())?;
    write("plan.json", &steps)?;
    run.write(&root)?;
    if head.alone {
        heads::open_again(&engine.folder, &plan, before == run.prune)?;
    }
    if plan.steps.iter().any(|step| !engine.folder.state(&step.id).is_over()) {
        if !quiet {
            let left = engine.count();
            eprintln!(
                "to do: {} trainings ({} steps), {} models to score, at most {} more in searches for α (--dry-run says how long)",
                left.trainings, left.train_steps, left.scorings, left.search_scorings
            );
        }
        // In an engine of its own: what it reads is needed again by the workers, not here.
        run_file::engine(&plan, &run, &root, &Silence, quiet)?.check_tasks()?;
        let stop = on_interrupt()?;
        let executor = args.executor.map_or(plan.config.run.executor, |name| match name {
            ExecutorName::Local => Executor::Local,
            ExecutorName::Slurm => Executor::Slurm,
        });
        let jobs = args.jobs.map(usize::from).or(plan.config.run.jobs);
        let end = match executor {
            Executor::Local => here(&engine, &stop, jobs.unwrap_or(1), quiet)?,
            Executor::Slurm if !head.alone => bail!(
                "{}: another head is at work on this run, and a cluster takes orders from one: wait for it, or stop it",
                root.display()
            ),
            Executor::Slurm => on_cluster(&engine, &stop, jobs.unwrap_or(0), quiet)?,
        };
        if end == End::Stopped {
            bail!("stopped: what was done is kept in {}; the same command carries on", root.display());
        }
    }
    let record = engine.collect()?;
    crate::report::write(&record, &report)?;
    crate::exec::shipping::ship(&engine, &record)?;
    finish(&engine, &record, &report)
}

/// The run's folder.
fn root(args: &Args, name: &str) -> anyhow::Result<PathBuf> {
    absolute(&args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(name)))
}

/// Prints the plan and what it will take, as far as that can be known here and now.
fn dry_run(args: &Args, document: &Document, quiet: bool) -> anyhow::Result<()> {
    let plan = run_file::sketch(document, !args.no_calibration, quiet)?;
    print(&describe(&plan))?;
    if args.no_calibration {
        return Ok(());
    }
    let (missing, why) = out_of_reach(&plan)?;
    if missing.is_empty() && plan.absent.is_empty() {
        return print(&estimate(&plan, args, document, &root(args, &plan.config.name)?, quiet)?);
    }
    let mut out = String::new();
    if !missing.is_empty() {
        out.push_str("to download when the hub can be reached:\n");
        missing.iter().for_each(|repo| out.push_str(&format!("  {repo}\n")));
    }
    if let Some(why) = why {
        out.push_str(&format!("not now: {why}\n"));
    }
    out.push_str("not known before all of this is here: tokens, how long it takes, room on the disk\n");
    print(&out)
}

/// What a plan reads from the hub that is not on this machine and cannot be asked for now, and why not.
fn out_of_reach(plan: &Plan) -> anyhow::Result<(Vec<Repo>, Option<HubError>)> {
    let (mut missing, mut why) = (Vec::new(), None);
    let mut settings = Settings::from_env();
    for repo in of_the_hub(plan) {
        let is_fetched = repo.kind == RepoKind::Model && matches!(&plan.config.base, Base::Hub { folder: Some(_), .. });
        if is_fetched {
            continue;
        }
        match Hub::new(settings.clone()).listing(&repo) {
            Err(e) if e.is_out_of_reach() => {
                missing.push(repo);
                why.get_or_insert(e);
                // It is not waited for once more.
                settings.offline = true;
            }
            // Files of the base are missing.
            _ if repo.kind == RepoKind::Model => missing.push(repo),
            // What else is wrong with a task's data is told where it is read.
            _ => {}
        }
    }
    Ok((missing, why))
}

/// The repositories of the hub that a plan reads, each once: the base, and the data of tasks.
fn of_the_hub(plan: &Plan) -> Vec<Repo> {
    let mut repos = Vec::new();
    if let Base::Hub { id, .. } = &plan.config.base {
        let (id, revision) = id.split_once('@').map_or((id.as_str(), None), |(id, revision)| (id, Some(revision)));
        repos.push(Repo { kind: RepoKind::Model, id: id.into(), revision: revision.map(String::from) });
    }
    for task in &plan.tasks {
        if let Source::Hub { repo, revision, .. } = &task.source {
            let repo = Repo { kind: RepoKind::Dataset, id: repo.clone(), revision: revision.clone() };
            if !repos.contains(&repo) {
                repos.push(repo);
            }
        }
    }
    repos
}

fn run_file(args: &Args, document: &Document, plan: &Plan, report: &Path) -> anyhow::Result<RunFile> {
    let (text, file, folder, sets) = document.source();
    Ok(RunFile {
        config: file.into(),
        folder: absolute(folder)?,
        text: text.into(),
        sets: sets.to_vec(),
        directory: std::env::current_dir()?,
        device: args.device.clone().unwrap_or_else(|| plan.config.run.device.clone()),
        cache_size: args.cache_size,
        report: absolute(report)?,
        prune: plan.config.prune.as_ref().map(serde_json::to_value).transpose()?,
    })
}

/// What the sweep will take, in words. Nothing is written where the run's folder is not there.
fn estimate(plan: &Plan, args: &Args, document: &Document, root: &Path, quiet: bool) -> anyhow::Result<String> {
    let run = run_file(args, document, plan, Path::new("reports"))?;
    let nowhere = tempfile_folder(root)?;
    let engine = run_file::engine(plan, &run, nowhere.as_deref().unwrap_or(root), &Silence, quiet)?;
    let estimate = engine.estimate();
    if let Some(folder) = nowhere {
        std::fs::remove_dir_all(&folder).with_context(|| format!("{}: cannot be removed", folder.display()))?;
    }
    let e = estimate?;
    let jobs = args.jobs.map(usize::from).or(plan.config.run.jobs);
    let mut out = format!(
        "to train: {} trainings, {} steps, {} tokens, {}\n",
        e.trainings,
        e.train_steps,
        thousands(e.train_tokens),
        duration(e.train_seconds)
    );
    out.push_str(&format!(
        "to score: {} models, and at most {} in searches for α; {} tokens a model, {}\n",
        e.scorings,
        e.search_scorings,
        thousands(e.tokens_a_model.0 + e.tokens_a_model.1),
        duration(e.score_seconds)
    ));
    out.push_str(&format!(
        "together: {} here, one step after the other{}\n",
        duration(e.train_seconds + e.score_seconds),
        if jobs.is_some_and(|jobs| jobs > 1) {
            ", whatever the number of jobs where they share a processor"
        } else {
            ""
        }
    ));
    out.push_str(&format!("on the disk: {} of models", bytes(e.disk)));
    if e.disk_while_training > 0 {
        out.push_str(&format!(", and up to {} beside a training while it runs", bytes(e.disk_while_training)));
    }
    out.push_str("\n(measured on a few steps of each kind of training and a few texts; estimators and evaluations while training come on top)\n");
    Ok(out)
}

/// A folder for an estimate of a run that has none yet.
fn tempfile_folder(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    if root.join("steps").is_dir() {
        return Ok(None);
    }
    let folder = std::env::temp_dir().join(format!("embeval-estimate-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    Ok(Some(folder))
}

fn thousands(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.1} billion", v / 1e9),
        v if v >= 1e6 => format!("{:.1} million", v / 1e6),
        v if v >= 1e3 => format!("{:.0} thousand", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 5_400.0 => format!("{:.1} hours", s / 3_600.0),
        s if s >= 90.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{s:.0} seconds"),
    }
}

fn bytes(count: u64) -> String {
    match count as f64 {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b => format!("{:.0} MB", b / 1e6),
    }
}

/// Runs the steps in processes of this machine.
fn here(engine: &Engine<'_>, stop: &AtomicBool, jobs: usize, quiet: bool) -> anyhow::Result<End> {
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let mut arguments = vec!["worker".to_string(), engine.folder.root().display().to_string()];
    arguments.extend(["--head".to_string(), std::process::id().to_string()]);
    arguments.extend(quiet.then(|| "--quiet".to_string()));
    let local = Local {
        program: &program,
        arguments: &arguments,
        folder: &engine.folder,
        jobs,
        retries: engine.plan.config.run.retries,
        stop,
        observer: engine.observer,
    };
    Ok(local.run()?)
}

/// Runs the steps as jobs of Slurm.
fn on_cluster(engine: &Engine<'_>, stop: &Arc<AtomicBool>, jobs: usize, quiet: bool) -> anyhow::Result<End> {
    if let Some(prune) = engine.plan.config.prune.as_ref().filter(|prune| prune.rule != PruneRule::Median) {
        bail!(Misuse(format!(
            "prune.rule: {:?} holds trainings until others come as far, and on a cluster each would keep its place meanwhile: use \
             median, or executor local in one large job",
            prune.rule
        )));
    }
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let cluster = slurm::Cluster {
        settings: &engine.plan.config.run.slurm,
        folder: engine.folder.root(),
        program: &program,
        worker_args: quiet.then(|| "--quiet".to_string()).into_iter().collect(),
        jobs_at_once: jobs,
        retries: engine.plan.config.run.retries,
        patience: PATIENCE,
        commands: &slurm::SlurmCommands,
    };
    // Interrupts are counted: at the first the jobs are cancelled, at the second this process leaves.
    let (interrupts, flag) = (Arc::new(AtomicUsize::new(0)), stop.clone());
    let count = interrupts.clone();
    std::thread::spawn(move || {
        loop {
            if flag.swap(false, Ordering::Relaxed) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let state = |id: &str| jobs::state(&engine.folder, id);
    let mut told = |event: slurm::Event| engine.observer.sees(0, &Event::Note { text: event.to_string() });
    let summary = slurm::run(&cluster, &jobs::jobs(engine.plan), &state, &mut told, &interrupts)?;
    for failure in &summary.failed {
        // Those that the worker could not mark itself.
        if !engine.folder.state(&failure.step).is_over() {
            engine.folder.give_up(&failure.step, &StepState::Failed(failure.reason.clone()))?;
        }
    }
    Ok(if summary.cancelled { End::Stopped } else { End::Done })
}

/// How long a Slurm controller that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// A flag that Ctrl-C and the signal to end set; at the second the process ends at once.
fn on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first one finds the flag not set.
        signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// What came out, in words; an error where steps failed.
fn finish(engine: &Engine<'_>, record: &RunRecord, report: &std::path::Path) -> anyhow::Result<()> {
    let chosen = record.choice.as_ref().and_then(|c| record.variants.iter().find(|v| v.id == c.id));
    let chosen = match chosen {
        Some(variant) => variant.label.as_str(),
        None if record.is_of_the_base_alone() => "nothing, the base alone was scored",
        None => "nothing could be chosen",
    };
    let best = engine.folder.root().join(crate::store::best::FOLDER);
    let best = if best.is_dir() { format!("\nmodel: {}", best.display()) } else { String::new() };
    print(&format!("chosen: {chosen}{best}\nreport: {}", report.join("README.md").display()))?;
    let failed: Vec<String> = engine
        .plan
        .steps
        .iter()
        .filter_map(|step| match engine.folder.state(&step.id) {
            StepState::Failed(why) => Some(format!("{}: {why}", step.title)),
            _ => None,
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let shown: Vec<&str> = failed.iter().take(5).map(String::as_str).collect();
    bail!(
        "{} of {} steps failed (the same command tries them again):\n  {}",
        failed.len(),
        engine.plan.steps.len(),
        shown.join("\n  ")
    );
}

/// The trials and steps in words.
fn describe(plan: &Plan) -> String {
    let mut out = format!("{} trials\n", plan.trials.len());
    for t in &plan.trials {
        if t.steps == 0 {
            out.push_str(&format!("  {}: steps not known, its training rows are not here\n", t.trial.label));
            continue;
        }
        out.push_str(&format!(
            "  {}: {} steps, checkpoints at {}\n",
            t.trial.label,
            t.steps,
            t.checkpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        ));
    }
    if plan.trials.is_empty() {
        out.push_str("  nothing is trained: the base alone is scored, on test\n");
    }
    if !plan.absent.is_empty() {
        out.push_str("not here (the sweep needs them; the ids below change with their content):\n");
        plan.absent.iter().for_each(|path| out.push_str(&format!("  {}\n", path.display())));
    }
    let tasks: Vec<&str> = plan.tasks.iter().map(|t| t.name.as_str()).collect();
    out.push_str(&format!("{} tasks: {}\n", tasks.len(), tasks.join(", ")));
    out.push_str(&format!("{} steps\n", plan.steps.len()));
    for step in &plan.steps {
        out.push_str(&format!("  {}  {}\n", step.id, step.title));
    }
    out
}
