//! SELECTOR → tasks: a task file, a folder of them, a benchmark, a name, a glob, `type=…` or `lang=…`.

use std::path::{Path, PathBuf};

use super::benchmark::{Benchmark, built_in_benchmarks, built_in_tasks, is_benchmark, is_built_in};
use super::spec::{TaskError, TaskSpec, TaskType};
use crate::data::suggest::nearest;

/// Tasks that were selected.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selection {
    /// Each task once, in the order found.
    pub tasks: Vec<TaskSpec>,
    /// The benchmark, where one and nothing else was selected.
    pub benchmark: Option<Benchmark>,
}

/// Resolves selectors against the task folders given and what is built in.
///
/// # Errors
/// Where a file is wrong, or a selector selects nothing (near names are suggested).
pub fn select(selectors: &[String], folders: &[PathBuf]) -> Result<Selection, TaskError> {
    let mut library: Option<Library> = None;
    let mut out = Selection::default();
    for selector in selectors {
        let path = Path::new(selector);
        // A benchmark's name is one wherever it is given, beside a folder of that name too.
        let named_list = if selector.contains(['/', '.', '*', '=']) {
            None
        } else if path.exists() {
            built_in_benchmarks()?.into_iter().find(|b| b.name == *selector)
        } else {
            Library::known(&mut library, folders)?.benchmarks.iter().find(|b| b.name == *selector).cloned()
        };
        let found = if let Some(benchmark) = named_list {
            let tasks = Library::known(&mut library, folders)?.tasks_of(&benchmark)?;
            out.benchmark = (selectors.len() == 1).then_some(benchmark);
            tasks
        } else if path.is_dir() {
            folder(path)?.0
        } else if path.is_file() {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if is_benchmark(&text) {
                let library = Library::known(&mut library, folders)?;
                let benchmark = Benchmark::parse(path, &text)?;
                let tasks = library.tasks_of(&benchmark)?;
                out.benchmark = (selectors.len() == 1).then_some(benchmark);
                tasks
            } else {
                vec![TaskSpec::load(path)?]
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            return Err(unknown(selector, "no such task file".into()));
        } else {
            named(selector, Library::known(&mut library, folders)?)?
        };
        for task in found {
            match out.tasks.iter().find(|t| t.name == task.name) {
                Some(other) if !same_task(other, &task) => {
                    let message = format!("is defined by {} and by {}", other.path.display(), task.path.display());
                    return Err(TaskError::Other { task: task.name, message });
                }
                Some(_) => {}
                None => out.tasks.push(task),
            }
        }
    }
    Ok(out)
}

/// The benchmarks of the task folders given and those built in.
///
/// # Errors
/// Where a file is wrong.
pub fn benchmarks(folders: &[PathBuf]) -> Result<Vec<Benchmark>, TaskError> {
    Ok(Library::read(folders)?.benchmarks)
}

/// What selectors choose from.
struct Library {
    tasks: Vec<TaskSpec>,
    benchmarks: Vec<Benchmark>,
}

impl Library {
    fn known<'a>(library: &'a mut Option<Self>, folders: &[PathBuf]) -> Result<&'a Self, TaskError> {
        if library.is_none() {
            *library = Some(Self::read(folders)?);
        }
        library.as_ref().ok_or_else(|| unknown("tasks", "cannot be listed".into()))
    }

    /// The tasks of all folders, and those built in that no folder has; a folder that is named twice (`tasks`,
    /// `configs/../tasks`) counts once.
    fn read(folders: &[PathBuf]) -> Result<Self, TaskError> {
        let mut seen: Vec<&PathBuf> = Vec::new();
        let (mut tasks, mut benchmarks) = (Vec::new(), Vec::new());
        for place in folders.iter().filter(|place| place.is_dir()) {
            if !seen.iter().any(|other| same_file(other, place)) {
                let (more, lists) = folder(place)?;
                tasks.extend(more);
                benchmarks.extend(lists);
                seen.push(place);
            }
        }
        let missing = |task: &TaskSpec| !tasks.iter().any(|known: &TaskSpec| known.name == task.name);
        let more: Vec<TaskSpec> = built_in_tasks()?.into_iter().filter(missing).collect();
        tasks.extend(more);
        for benchmark in built_in_benchmarks()? {
            if !benchmarks.iter().any(|known: &Benchmark| known.name == benchmark.name) {
                benchmarks.push(benchmark);
            }
        }
        Ok(Self { tasks, benchmarks })
    }

    fn tasks_of(&self, benchmark: &Benchmark) -> Result<Vec<TaskSpec>, TaskError> {
        let of_name =
            |name: &String| {
                self.tasks.iter().find(|task| task.name == *name).cloned().ok_or_else(|| {
                    unknown(&benchmark.name, format!("lists the task {name}, which no task file defines"))
                })
            };
        benchmark.tasks.iter().map(of_name).collect()
    }
}

fn same_task(a: &TaskSpec, b: &TaskSpec) -> bool {
    same_file(&a.path, &b.path) || (a.fingerprint == b.fingerprint && (is_built_in(&a.path) || is_built_in(&b.path)))
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn unknown(selector: &str, message: String) -> TaskError {
    TaskError::Other { task: selector.into(), message }
}

fn named(selector: &str, all: &Library) -> Result<Vec<TaskSpec>, TaskError> {
    let library = &all.tasks;
    let chosen: Vec<TaskSpec> = library
        .iter()
        .filter(|task| match selector.split_once('=') {
            Some(("type", kind)) => task.kind.name().eq_ignore_ascii_case(kind),
            Some(("lang", lang)) => task.languages.iter().any(|l| l == lang || l.split('-').next() == Some(lang)),
            _ => glob(selector, &task.name),
        })
        .cloned()
        .collect();
    if chosen.is_empty() {
        let (wanted, names): (&str, Vec<&str>) = match selector.split_once('=') {
            Some(("type", kind)) => (kind, TaskType::all().map(TaskType::name).collect()),
            Some(("lang", lang)) => {
                let languages = library.iter().flat_map(|task| &task.languages);
                (lang, languages.flat_map(|l| [l.as_str(), l.split('-').next().unwrap_or_default()]).collect())
            }
            _ => {
                let tasks = library.iter().map(|task| task.name.as_str());
                (selector, tasks.chain(all.benchmarks.iter().map(|b| b.name.as_str())).collect())
            }
        };
        let hint = match nearest_all(wanted, &names).as_slice() {
            [] => "; ".to_string(),
            near => format!("; did you mean {}? ", near.join(", ")),
        };
        return Err(unknown(selector, format!("selects no task{hint}`embeval tasks list` lists those there are")));
    }
    Ok(chosen)
}

/// Up to three of the names, the nearest first, each in backticks.
fn nearest_all(wanted: &str, names: &[&str]) -> Vec<String> {
    let mut left = names.to_vec();
    let mut found = Vec::new();
    while found.len() < 3
        && let Some(name) = nearest(wanted, left.iter().copied())
    {
        found.push(format!("`{name}`"));
        left.retain(|other| *other != name);
    }
    found
}

/// `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    if !pattern.contains('*') {
        return rest.is_empty();
    }
    let mut rest = rest;
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        if i + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// The tasks and the benchmarks of a folder and of the folders in it, by file name.
fn folder(place: &Path) -> Result<(Vec<TaskSpec>, Vec<Benchmark>), TaskError> {
    let mut files = Vec::new();
    collect(place, 0, &mut files)
        .map_err(|e| unknown(&place.display().to_string(), format!("cannot be listed: {e}")))?;
    files.sort();
    if files.is_empty() {
        return Err(unknown(&place.display().to_string(), "the folder holds no task files (*.yaml)".into()));
    }
    let (mut tasks, mut benchmarks) = (Vec::new(), Vec::new());
    for path in &files {
        match std::fs::read_to_string(path) {
            Ok(text) if is_benchmark(&text) => benchmarks.push(Benchmark::parse(path, &text)?),
            _ => tasks.push(TaskSpec::load(path)?),
        }
    }
    Ok((tasks, benchmarks))
}

fn collect(place: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(place)? {
        let path = entry?.path();
        if path.is_dir() && depth < 3 {
            collect(&path, depth + 1, files)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        assert!(glob("Stsb*", "StsbRuSTS") && glob("*STS", "StsbRuSTS") && glob("S*Ru*S", "StsbRuSTS"));
        assert!(glob("StsbRuSTS", "StsbRuSTS") && !glob("Stsb", "StsbRuSTS") && !glob("*Clustering", "StsbRuSTS"));
    }

    fn library() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("tasks/more")).unwrap();
        for (file, name, kind, columns, lang) in [
            ("a.yaml", "StsbRuSTS", "STS", "", "rus-Cyrl"),
            ("b.yaml", "StsbEnSTS", "STS", "", "eng-Latn"),
            ("more/c.yml", "SibRuClustering", "Clustering", "columns: {labels: topic}\n", "rus-Cyrl"),
        ] {
            let yaml = format!(
                "name: {name}\ntype: {kind}\nlanguages: [{lang}]\n{columns}data: {{files: {{test: a.jsonl}}}}\nsplits: {{test: test}}\n"
            );
            std::fs::write(folder.path().join("tasks").join(file), yaml).unwrap();
        }
        folder
    }

    fn names(selectors: &[&str], folders: &[PathBuf]) -> Result<Vec<String>, String> {
        let selectors: Vec<String> = selectors.iter().map(ToString::to_string).collect();
        let chosen = select(&selectors, folders).map_err(|e| e.to_string())?;
        // Of the tasks built in only the folder's are asked about here.
        Ok(chosen.tasks.into_iter().filter(|task| !is_built_in(&task.path)).map(|task| task.name).collect())
    }

    #[test]
    fn selectors_find_each_task_once() {
        let folder = library();
        let tasks = folder.path().join("tasks");
        // The same folder by another way, as from a config beside it, and one that is not there.
        let folders = [tasks.clone(), tasks.join("more/.."), folder.path().join("none")];
        assert_eq!(names(&["type=sts"], &folders).unwrap(), ["StsbRuSTS", "StsbEnSTS"]);
        assert_eq!(names(&["lang=rus"], &folders).unwrap(), ["StsbRuSTS", "SibRuClustering"]);
        assert_eq!(
            names(&["*Ru*", "StsbEnSTS", "StsbRuSTS"], &folders).unwrap(),
            ["StsbRuSTS", "SibRuClustering", "StsbEnSTS"]
        );
        let (file, all) = (tasks.join("more/../a.yaml"), tasks.display().to_string());
        assert_eq!(names(&["StsbRuSTS", &file.display().to_string()], &folders).unwrap(), ["StsbRuSTS"]);
        assert_eq!(names(&[&all], &[]).unwrap().len(), 3);
        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::copy(tasks.join("a.yaml"), other.join("a.yaml")).unwrap();
        let error = names(&["StsbRuSTS"], &[tasks, other]).unwrap_err();
        assert!(error.contains("is defined by"), "{error}");
    }

    #[test]
    fn a_typo_is_met_with_the_nearest_names() {
        let folder = library();
        let folders = [folder.path().join("tasks")];
        for (selector, expected) in [
            ("StsbRuST", "did you mean `StsbRuSTS`, `StsbEnSTS`?"),
            ("type=Clusterng", "did you mean `Clustering`?"),
            ("lang=ruz", "did you mean `rus`?"),
            ("Nothing*", "selects no task; `embeval tasks list`"),
            ("none.yaml", "no such task file"),
        ] {
            let error = names(&[selector], &folders).unwrap_err();
            assert!(error.contains(expected), "{selector}: {error}");
        }
        assert!(names(&["StsbRuSTS"], &[]).unwrap_err().contains("selects no task"));
    }

    #[test]
    fn a_benchmark_selects_its_tasks_and_gives_the_mean_its_name() {
        let chosen = select(&["rumteb".into()], &[]).unwrap();
        assert_eq!((chosen.tasks.len(), chosen.benchmark.unwrap().title.as_str()), (23, "MTEB(rus, v1.1)"));
        let more = select(&["rumteb-14".into(), "TERRa".into()], &[]).unwrap();
        assert_eq!((more.tasks.len(), more.benchmark), (15, None));
        let folder = library();
        let list = folder.path().join("tasks/own.yaml");
        std::fs::write(&list, "benchmark: own\ntasks: [StsbEnSTS, TERRa]\n").unwrap();
        let folders = [folder.path().join("tasks")];
        assert_eq!(names(&["own"], &folders).unwrap(), ["StsbEnSTS"]);
        assert_eq!(select(&[list.display().to_string()], &folders).unwrap().benchmark.unwrap().title, "own");
        std::fs::write(&list, "benchmark: own\ntasks: [Nothing]\n").unwrap();
        assert!(names(&["own"], &folders).unwrap_err().contains("lists the task Nothing"));
        assert!(names(&["rumtab"], &folders).unwrap_err().contains("did you mean `rumteb`"));
    }
}
