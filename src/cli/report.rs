//! `embeval report`: a run's report anew, or models of runs and of published results side by side.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Misuse, inputs, print, scoreboard};
use crate::metric::aggregate;
use crate::store::folder::read_json;
use crate::store::mteb;
use crate::store::record::{RunRecord, TaskRecord, Variant};
use crate::task::protocol::Protocol;
use crate::task::select::select;
use crate::task::spec::{TaskSpec, TaskType};

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders: of runs (runs/NAME), and of results as mteb writes them (`score --output`, reports/published). A single run
    /// gets its report anew; several folders, or results, are put side by side.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Folder of a run's report (default reports/NAME).
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The tasks that are compared and that the means are over (default: all that any of the models has).
    #[arg(long, value_name = "SELECTOR", num_args = 1..)]
    tasks: Vec<String>,
}

/// A model's scores in a comparison.
struct Column {
    name: String,
    scores: BTreeMap<String, f64>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut columns = Vec::new();
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let library = inputs::selection(&["*".to_string()], None)?.tasks;
    if args.folders.len() > 1 && args.output.is_some() {
        anyhow::bail!(Misuse(
            "--output is of a single run's report; several folders are compared on standard output".into()
        ));
    }
    let mut notes = Vec::new();
    for folder in &args.folders {
        if folder.join("record.json").is_file() {
            let record: RunRecord = read_json(&folder.join("record.json"))?;
            if args.folders.len() == 1 {
                return anew(&record, args.output.clone());
            }
            of_run(&record, &mut columns, &mut types);
            notes.extend(limits(&record));
        } else {
            for results in mteb::read(folder, &|task| expected(&library, task))? {
                types.extend(results.types.clone());
                let again = columns.iter().any(|column: &Column| column.name == results.model.name);
                let short: String = results.model.revision.chars().take(8).collect();
                let name = if again { format!("{} ({short})", results.model.name) } else { results.model.name };
                columns.push(Column { name, scores: results.tasks });
            }
        }
    }
    let mut table = side_by_side(args, &columns, &types, &library)?;
    notes.iter().for_each(|note| table.push_str(&format!("{note}\n")));
    print(&table)
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

/// How a run's scores differ from whole ones.
fn limits(record: &RunRecord) -> Option<String> {
    let mut said: Vec<String> = record.limit.iter().map(|n| format!("at most {n} rows a split")).collect();
    said.extend(record.limits.iter().map(|(task, n)| format!("{task} at most {n}")));
    if record.protocol != Protocol::default().to_string() {
        said.push(format!("draws of {}", record.protocol));
    }
    (!said.is_empty()).then(|| format!("{}: {}.", record.name, said.join(", ")))
}

/// The (split, subset) pairs that a known task's score is over.
fn expected(library: &[TaskSpec], task: &str) -> Option<Vec<(String, String)>> {
    let known = library.iter().find(|known| known.name == task)?;
    Some(known.splits.test.iter().map(|split| (split.clone(), known.subset.clone())).collect())
}

fn of_run(record: &RunRecord, columns: &mut Vec<Column>, types: &mut BTreeMap<String, String>) {
    let scores = |tasks: &[TaskRecord]| tasks.iter().map(|t| (t.name.clone(), t.main_score)).collect();
    let chosen = record.choice.as_ref().map(|choice| choice.id.as_str());
    let column = |variant: &Variant, word: &str| Column {
        name: format!("{} {word}", record.name),
        scores: scores(&variant.test),
    };
    for (at, variant) in record.variants.iter().enumerate() {
        types.extend(variant.test.iter().map(|t| (t.name.clone(), t.task_type.clone())));
        if at == 0 {
            columns.push(column(variant, "base"));
        }
        if at > 0 && Some(variant.id.as_str()) == chosen {
            columns.push(column(variant, &format!("chosen: {}", variant.label)));
        }
    }
}

/// A task's type and score.
type Typed = (String, Option<f64>);

/// The table: tasks by type, then the means, over a set that is named; a missing task blanks the means that it belongs to.
fn side_by_side(
    args: &Args,
    columns: &[Column],
    types: &BTreeMap<String, String>,
    library: &[TaskSpec],
) -> anyhow::Result<String> {
    let kind_of = |task: &str| -> String {
        let known = library.iter().find(|known| known.name == task).map(|known| known.kind.name().to_string());
        known.or_else(|| types.get(task).cloned()).unwrap_or_else(|| "unknown type".into())
    };
    let mut names: Vec<String> = columns.iter().flat_map(|column| column.scores.keys().cloned()).collect();
    names.sort();
    names.dedup();
    let mut set = "all tasks that any of the models has".to_string();
    if args.tasks.is_empty() {
        let benchmarks = ["rumteb", "rumteb-v1", "rumteb-14"].map(String::from);
        for benchmark in benchmarks.iter().filter_map(|name| select(std::slice::from_ref(name), &[]).ok()?.benchmark) {
            let mut tasks = benchmark.tasks.clone();
            tasks.sort();
            if tasks == names {
                set = benchmark.title;
            }
        }
    } else {
        let chosen = inputs::selection(&args.tasks, None)?;
        set = chosen.benchmark.map_or("the tasks selected".into(), |benchmark| benchmark.title);
        names = chosen.tasks.into_iter().map(|task| task.name).collect();
        names.sort();
    }
    let order: Vec<&str> = TaskType::all().map(TaskType::name).collect();
    let place = |kind: &str| order.iter().position(|known| *known == kind).unwrap_or(order.len());
    let mut tasks: Vec<(String, String)> = names.into_iter().map(|name| (kind_of(&name), name)).collect();
    tasks.sort_by(|a, b| place(&a.0).cmp(&place(&b.0)).then_with(|| a.cmp(b)));

    let shown = |score: Option<f64>| score.map_or_else(|| "–".to_string(), |score| format!("{score:.3}"));
    let mut header = vec!["Task".to_string(), "Type".to_string()];
    header.extend(columns.iter().map(|column| column.name.clone()));
    let mut rows = vec![header];
    for (kind, task) in &tasks {
        let mut row = vec![task.clone(), kind.clone()];
        row.extend(columns.iter().map(|column| shown(column.scores.get(task).copied())));
        rows.push(row);
    }
    let typed = |column: &Column| -> Vec<Typed> {
        tasks.iter().map(|(kind, task)| (kind.clone(), column.scores.get(task).copied())).collect()
    };
    let all: Vec<Vec<Typed>> = columns.iter().map(typed).collect();
    let mut mean = |name: String, over: String, f: &dyn Fn(&[Typed]) -> Option<f64>| {
        let mut row = vec![name, over];
        row.extend(all.iter().map(|scores| shown(f(scores))));
        rows.push(row);
    };
    let mut kinds: Vec<String> = tasks.iter().map(|(kind, _)| kind.clone()).collect();
    kinds.dedup();
    for kind in &kinds {
        let count = tasks.iter().filter(|(k, _)| k == kind).count();
        mean(format!("Mean ({kind})"), scoreboard::tasks(count), &|scores| {
            aggregate::type_means(scores).into_iter().find(|(k, _)| k == kind).and_then(|(_, mean)| mean)
        });
    }
    mean("Mean (Task)".into(), scoreboard::tasks(tasks.len()), &|scores| {
        aggregate::mean_task(&scores.iter().map(|(_, score)| *score).collect::<Vec<_>>())
    });
    mean("Mean (TaskType)".into(), scoreboard::types(kinds.len()), &|scores| aggregate::mean_task_type(scores));
    let right: Vec<usize> = (2..columns.len() + 2).collect();
    let table = scoreboard::aligned(&rows, true, &right);
    let blank = "A dash: the model has no score there, and every mean that it belongs to stays blank.";
    Ok(format!("{table}\nMeans over {set} ({}), test side. {blank}\n", scoreboard::tasks(tasks.len())))
}
