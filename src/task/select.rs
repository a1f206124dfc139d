//! SELECTOR → tasks: a task file, a folder of them, a name, a glob, `type=…` or `lang=…`.

use std::path::{Path, PathBuf};

use super::spec::{TaskError, TaskSpec, TaskType};
use crate::data::suggest::nearest;

/// Resolves selectors against the task folders given; each task once, in the order found.
///
/// # Errors
/// Where a file is wrong, or a selector selects nothing (near names are suggested).
pub fn select(selectors: &[String], folders: &[PathBuf]) -> Result<Vec<TaskSpec>, TaskError> {
    let mut library: Option<Vec<TaskSpec>> = None;
    let mut out: Vec<TaskSpec> = Vec::new();
    for selector in selectors {
        let path = Path::new(selector);
        let found = if path.is_dir() {
            folder(path)?
        } else if path.is_file() {
            vec![TaskSpec::load(path)?]
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            return Err(unknown(selector, "no such task file".into()));
        } else {
            if library.is_none() {
                library = Some(read_library(folders)?);
            }
            named(selector, library.as_deref().unwrap_or_default())?
        };
        for task in found {
            match out.iter().find(|t| t.name == task.name) {
                Some(other) if !same_file(&other.path, &task.path) => {
                    let message = format!("is defined by {} and by {}", other.path.display(), task.path.display());
                    return Err(TaskError::Other { task: task.name, message });
                }
                Some(_) => {}
                None => out.push(task),
            }
        }
    }
    Ok(out)
}

/// The tasks of all folders; a folder that is named twice (`tasks`, `configs/../tasks`) counts once.
fn read_library(folders: &[PathBuf]) -> Result<Vec<TaskSpec>, TaskError> {
    let mut seen: Vec<&PathBuf> = Vec::new();
    let mut all = Vec::new();
    for place in folders.iter().filter(|place| place.is_dir()) {
        if !seen.iter().any(|other| same_file(other, place)) {
            all.extend(folder(place)?);
            seen.push(place);
        }
    }
    Ok(all)
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn unknown(selector: &str, message: String) -> TaskError {
    TaskError::Other { task: selector.into(), message }
}

fn named(selector: &str, library: &[TaskSpec]) -> Result<Vec<TaskSpec>, TaskError> {
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
            _ => (selector, library.iter().map(|task| task.name.as_str()).collect()),
        };
        let message = if library.is_empty() {
            "no task of this name: there is no tasks/ folder here; give a task file or a folder of them".to_string()
        } else {
            let hint = match nearest_all(wanted, &names).as_slice() {
                [] => "; ".to_string(),
                near => format!("; did you mean {}? ", near.join(", ")),
            };
            format!("selects no task{hint}`embeval tasks list` lists those there are")
        };
        return Err(unknown(selector, message));
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

/// The tasks of a folder and of the folders in it, by file name.
fn folder(place: &Path) -> Result<Vec<TaskSpec>, TaskError> {
    let mut files = Vec::new();
    collect(place, 0, &mut files)
        .map_err(|e| unknown(&place.display().to_string(), format!("cannot be listed: {e}")))?;
    files.sort();
    if files.is_empty() {
        return Err(unknown(&place.display().to_string(), "the folder holds no task files (*.yaml)".into()));
    }
    files.iter().map(|path| TaskSpec::load(path)).collect()
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
        let tasks = select(&selectors, folders).map_err(|e| e.to_string())?;
        Ok(tasks.into_iter().map(|task| task.name).collect())
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
        assert!(names(&["StsbRuSTS"], &[]).unwrap_err().contains("there is no tasks/ folder here"));
    }
}
