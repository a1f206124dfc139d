//! SELECTOR → tasks: a task file, a folder of them, a name, a glob, `type=…` or `lang=…`.

use std::path::{Path, PathBuf};

use super::spec::{TaskError, TaskSpec};
use crate::data::suggest::did_you_mean;

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
                let mut all = Vec::new();
                for place in folders.iter().filter(|p| p.is_dir()) {
                    all.extend(folder(place)?);
                }
                library = Some(all);
            }
            named(selector, library.as_deref().unwrap_or_default())?
        };
        for task in found {
            match out.iter().find(|t| t.name == task.name) {
                Some(other) if other.path != task.path => {
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
        let names = library.iter().map(|t| t.name.as_str());
        let hint = did_you_mean(selector, names);
        let message = if library.is_empty() {
            "no task of this name: there is no tasks/ folder here; give a task file or a folder of them".to_string()
        } else {
            format!("no task of this name{hint} `embeval tasks list` lists those there are")
        };
        return Err(unknown(selector, message));
    }
    Ok(chosen)
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

    #[test]
    fn a_typo_is_met_with_a_suggestion() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = "name: StsbRuSTS\ntype: STS\ndata: {files: {test: a.jsonl}}\nsplits: {test: test}\n";
        std::fs::write(folder.path().join("a.yaml"), yaml).unwrap();
        let folders = [folder.path().to_path_buf()];
        assert_eq!(select(&["type=STS".into()], &folders).unwrap().len(), 1);
        let error = select(&["StsbRuST".into()], &folders).unwrap_err().to_string();
        assert!(error.contains("did you mean `StsbRuSTS`"), "{error}");
    }
}
