//! `embeval report`: a run's report anew, or models of runs and of published results side by side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Format, Misuse, inputs, print, scoreboard};
use crate::metric::outcomes::Outcomes;
use crate::report::compare::{Comparison, Model, Rows, TaskSet};
use crate::report::markdown_text;
use crate::store::folder::read_json;
use crate::store::mteb;
use crate::store::record::{Cost, RunRecord, TaskRecord};
use crate::task::select::select;
use crate::task::spec::{TaskSpec, TaskType};

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders: of runs (runs/NAME), and of results as mteb writes them (`score --output`, reports/published). A single run
    /// gets its report anew; several folders, or results, are put side by side: the base and the chosen of every run, and
    /// every model with results. The first is what the others are compared with.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Folder of the report (of a single run by default reports/NAME). Of several folders: README.md, index.html, tables and
    /// plots are written there, and nothing but the place is printed.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The tasks that are compared and that the means are over (default: those that all of the models have).
    #[arg(long, value_name = "SELECTOR", num_args = 1..)]
    tasks: Vec<String>,
    /// How a comparison is printed.
    #[arg(long, value_enum, default_value = "markdown")]
    format: Format,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let library = inputs::selection(&["*".to_string()], None)?.tasks;
    let mut models = Vec::new();
    // Which record a model is of: models of one have the same base.
    let mut bases: Vec<(String, usize)> = Vec::new();
    for folder in &args.folders {
        if folder.join("record.json").is_file() {
            let record: RunRecord = read_json(&folder.join("record.json"))?;
            if args.folders.len() == 1 {
                return anew(&record, args.output.clone());
            }
            of_run(&record, folder, &mut bases, &mut models);
        } else {
            for results in mteb::read(folder, &|task| expected(&library, task))? {
                models.push(of_results(results, folder, &models));
            }
        }
    }
    let set = task_set(args, &models, &library)?;
    let comparison = Comparison::new(models, set.clone());
    match &args.output {
        None if args.format == Format::Json => print(&serde_json::to_string_pretty(&comparison.as_json())?),
        None => print(&tables(&comparison, &set, args.format == Format::Markdown)),
        Some(place) => {
            comparison.write(&page(&comparison, &set), place)?;
            print(&place.join("README.md").display().to_string())
        }
    }
}

/// Writes a run's report.
fn anew(record: &RunRecord, output: Option<PathBuf>) -> anyhow::Result<()> {
    let plain = record.name.chars().all(|c| !c.is_control() && !"/\\".contains(c)) && !record.name.starts_with('.');
    let place = match output {
        Some(place) => place,
        None if plain && !record.name.is_empty() => PathBuf::from("reports").join(&record.name),
        None => anyhow::bail!(Misuse(format!("the run's name `{}` cannot be a folder's: give --output", record.name))),
    };
    crate::report::write(record, &place)?;
    print(&place.join("README.md").display().to_string())
}

/// The (split, subset) pairs that a known task's score is over.
fn expected(library: &[TaskSpec], task: &str) -> Option<Vec<(String, String)>> {
    let known = library.iter().find(|known| known.name == task)?;
    Some(known.splits.test.iter().map(|split| (split.clone(), known.subset.clone())).collect())
}

/// A name that no model has yet: with a word more where it is taken.
fn unique(name: String, more: &str, models: &[Model]) -> String {
    let is_taken = |name: &str| models.iter().any(|m| m.name == name);
    if !is_taken(&name) {
        return name;
    }
    let longer = format!("{name} ({more})");
    if !is_taken(&longer) {
        return longer;
    }
    (2..).map(|n| format!("{longer} #{n}")).find(|name| !is_taken(name)).unwrap_or(longer)
}

/// The base and the chosen of a run. A base that another run has scored alike stands there once.
fn of_run(record: &RunRecord, folder: &Path, bases: &mut Vec<(String, usize)>, models: &mut Vec<Model>) {
    let rows = Rows { protocol: record.protocol.clone(), limit: record.limit, limits: record.limits.clone() };
    let chosen = record.choice.as_ref().map(|choice| choice.id.as_str());
    let place = folder.display().to_string();
    for (at, variant) in record.variants.iter().enumerate() {
        let is_chosen = Some(variant.id.as_str()) == chosen;
        if at > 0 && !is_chosen {
            continue;
        }
        let word = match (at, is_chosen) {
            (0, false) => "base".to_string(),
            (0, true) => "base (chosen)".to_string(),
            _ => format!("chosen: {}", variant.label),
        };
        if at == 0 {
            let known = bases.iter().find(|(id, _)| *id == variant.id);
            if let Some(model) = known.and_then(|(_, at)| models.get_mut(*at)) {
                model.from = format!("{}, {}", model.from, record.name);
                continue;
            }
            bases.push((variant.id.clone(), models.len()));
        }
        models.push(Model {
            name: unique(format!("{} {word}", record.name), &place, models),
            from: record.name.clone(),
            tasks: variant.test.clone(),
            rows: Some(rows.clone()),
            settings: variant.settings.clone(),
            cost: variant.cost,
        });
    }
}

/// A model with result files: scores without outcomes.
fn of_results(results: mteb::ModelResults, folder: &Path, models: &[Model]) -> Model {
    let short: String = results.model.revision.chars().take(8).collect();
    let task = |(name, score): (&String, &f64)| TaskRecord {
        name: name.clone(),
        task_type: results.types.get(name).cloned().unwrap_or_default(),
        metric: "main score".into(),
        main_score: *score,
        seeds: Vec::new(),
        rows: 0,
        outcomes: Outcomes::PerExample(Vec::new()),
    };
    Model {
        name: unique(results.model.name.clone(), &short, models),
        from: folder.display().to_string(),
        tasks: results.tasks.iter().map(task).collect(),
        rows: None,
        settings: BTreeMap::new(),
        cost: Cost::default(),
    }
}

/// The tasks selected, else those that all models have.
fn task_set(args: &Args, models: &[Model], library: &[TaskSpec]) -> anyhow::Result<TaskSet> {
    let has = |model: &Model, task: &str| model.tasks.iter().any(|t| t.name == task);
    let mut all: Vec<&str> = models.iter().flat_map(|m| m.tasks.iter().map(|t| t.name.as_str())).collect();
    all.sort_unstable();
    all.dedup();
    let mut title = "the tasks that all of the models have".to_string();
    let mut names: Vec<String> = Vec::new();
    if args.tasks.is_empty() {
        names.extend(all.iter().filter(|task| models.iter().all(|m| has(m, task))).map(ToString::to_string));
        if names.is_empty() {
            anyhow::bail!(Misuse("the models have no task in common: name those to compare with --tasks".into()));
        }
        let benchmarks = ["rumteb", "rumteb-v1", "rumteb-14"].map(String::from);
        for benchmark in benchmarks.iter().filter_map(|name| select(std::slice::from_ref(name), &[]).ok()?.benchmark) {
            let mut tasks = benchmark.tasks.clone();
            tasks.sort();
            if tasks == names {
                title = benchmark.title;
            }
        }
    } else {
        let chosen = inputs::selection(&args.tasks, None)?;
        title = chosen.benchmark.map_or("the tasks selected".into(), |benchmark| benchmark.title);
        names.extend(chosen.tasks.into_iter().map(|task| task.name));
        names.sort();
    }
    let left_out = all
        .iter()
        .filter(|task| args.tasks.is_empty() && !names.iter().any(|name| name == *task))
        .map(|task| {
            let whose = models.iter().filter(|m| has(m, task)).map(|m| m.name.clone());
            (task.to_string(), whose.collect())
        })
        .collect();
    let kind_of = |task: &str| -> String {
        let known = library.iter().find(|known| known.name == task).map(|known| known.kind.name().to_string());
        let said = || {
            let mut records = models.iter().flat_map(|m| &m.tasks);
            records.find(|t| t.name == task && !t.task_type.is_empty()).map(|t| t.task_type.clone())
        };
        known.or_else(said).unwrap_or_else(|| "unknown type".into())
    };
    let order: Vec<&str> = TaskType::all().map(TaskType::name).collect();
    let place = |kind: &str| order.iter().position(|known| *known == kind).unwrap_or(order.len());
    let mut tasks: Vec<(String, String)> = names.into_iter().map(|name| (kind_of(&name), name)).collect();
    tasks.sort_by(|a, b| place(&a.0).cmp(&place(&b.0)).then_with(|| a.cmp(b)));
    Ok(TaskSet { title, tasks: tasks.into_iter().map(|(kind, name)| (name, kind)).collect(), left_out })
}

/// The tables of a comparison and what a reader must know.
fn tables(comparison: &Comparison, set: &TaskSet, markdown: bool) -> String {
    let words = |text: &str| if markdown { markdown_text(text) } else { text.to_string() };
    let many = comparison.names().len();
    let right: Vec<usize> = (2..many + 2).collect();
    let mut out = scoreboard::aligned(&comparison.score_rows(&words), markdown, &right);
    out.push_str(&format!("\nMeans over {} ({}), test side.", set.title, scoreboard::tasks(set.tasks.len())));
    out.push_str(" A dash: the model has no score there, and every mean that it belongs to stays blank.");
    out.push_str(" ±: half of the 95 % bootstrap interval, where the outcomes of single rows are known.\n");
    if let Some(rows) = comparison.difference_rows(&words) {
        let right: Vec<usize> = (1..many).collect();
        out.push_str(&format!("\n{}", scoreboard::aligned(&rows, markdown, &right)));
        out.push_str(
            "\nIn brackets the paired 95 % interval, where both were scored on the same rows and their outcomes are known; \
             intervals are not corrected for their number.\n",
        );
    }
    if !comparison.notes().is_empty() {
        out.push('\n');
    }
    for note in comparison.notes() {
        out.push_str(&format!("{}{}.\n", if markdown { "- " } else { "" }, words(note)));
    }
    out
}

/// `README.md` of a comparison.
fn page(comparison: &Comparison, set: &TaskSet) -> String {
    let names: Vec<String> = comparison.names().into_iter().map(markdown_text).collect();
    let picture =
        if comparison.names().len() > 1 { "\n![Differences to the first by task](plots/heat-map.png)\n" } else { "" };
    format!(
        "# Side by side: {}\n\n{}{picture}\n[index.html](index.html) is the same to sort and filter; the numbers are in \
         [tables/scores.csv](tables/scores.csv).\n",
        names.join(", "),
        tables(comparison, set, true)
    )
}
