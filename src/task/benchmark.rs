//! Benchmarks, lists of tasks whose mean has a name; and the task files that are built into the binary.

use std::path::Path;

use super::spec::{TaskError, TaskSpec};
use crate::config::node::{self, Origin};
use crate::config::reader::{Faults, Reader};

/// A list of tasks with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Benchmark {
    /// What it is selected by.
    pub name: String,
    /// What reports call it.
    pub title: String,
    /// Names of its tasks.
    pub tasks: Vec<String>,
}

macro_rules! files {
    ($($path:literal)*) => { &[$(($path, include_str!(concat!("../../tasks/", $path)))),*] };
}

/// RuMTEB's task files and lists, so that they are there wherever the binary is.
const BUILT_IN: &[(&str, &str)] = files! {
    "benchmarks/rumteb.yaml"
    "benchmarks/rumteb-v1.yaml"
    "benchmarks/rumteb-14.yaml"
    "rumteb/CEDRClassification.yaml"
    "rumteb/GeoreviewClassification.yaml"
    "rumteb/GeoreviewClusteringP2P.yaml"
    "rumteb/HeadlineClassification.yaml"
    "rumteb/InappropriatenessClassification.yaml"
    "rumteb/KinopoiskClassification.yaml"
    "rumteb/MIRACLReranking.yaml"
    "rumteb/MIRACLRetrieval.yaml"
    "rumteb/MIRACLRetrievalHardNegatives.v2.yaml"
    "rumteb/MassiveIntentClassification.yaml"
    "rumteb/MassiveScenarioClassification.yaml"
    "rumteb/RUParaPhraserSTS.yaml"
    "rumteb/RiaNewsRetrieval.yaml"
    "rumteb/RiaNewsRetrievalHardNegatives.v2.yaml"
    "rumteb/RuBQReranking.yaml"
    "rumteb/RuBQRetrieval.yaml"
    "rumteb/RuReviewsClassification.yaml"
    "rumteb/RuSTSBenchmarkSTS.yaml"
    "rumteb/RuSciBenchGRNTIClassification.yaml"
    "rumteb/RuSciBenchGRNTIClusteringP2P.yaml"
    "rumteb/RuSciBenchOECDClassification.yaml"
    "rumteb/RuSciBenchOECDClusteringP2P.yaml"
    "rumteb/STS22.yaml"
    "rumteb/SensitiveTopicsClassification.yaml"
    "rumteb/TERRa.yaml"
};

/// Where built-in files are said to be.
const FOLDER: &str = "built-in";

/// The tasks that are built in.
///
/// # Errors
/// None in a binary that passed its tests.
pub fn built_in_tasks() -> Result<Vec<TaskSpec>, TaskError> {
    let tasks = BUILT_IN.iter().filter(|(_, text)| !is_benchmark(text));
    tasks.map(|(path, text)| TaskSpec::parse(&Path::new(FOLDER).join(path), text)).collect()
}

/// The benchmarks that are built in.
///
/// # Errors
/// None in a binary that passed its tests.
pub fn built_in_benchmarks() -> Result<Vec<Benchmark>, TaskError> {
    let lists = BUILT_IN.iter().filter(|(_, text)| is_benchmark(text));
    lists.map(|(path, text)| Benchmark::parse(&Path::new(FOLDER).join(path), text)).collect()
}

/// Whether a task is built in.
pub fn is_built_in(path: &Path) -> bool {
    path.starts_with(FOLDER)
}

/// Whether a YAML file lists tasks instead of being one.
pub fn is_benchmark(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("benchmark:"))
}

impl Benchmark {
    /// Reads a list of tasks.
    ///
    /// # Errors
    /// Every fault of the file, located.
    pub fn parse(path: &Path, text: &str) -> Result<Self, TaskError> {
        let faults = Faults::new(path.display().to_string());
        let benchmark = match node::parse(text) {
            Ok(root) => {
                let r = Reader::new(Some(&root), "", &root.origin, &faults);
                let name = r.plain_name("benchmark");
                let tasks = r.texts("tasks").unwrap_or_default();
                if tasks.is_empty() {
                    r.fault("tasks", "must list the names of tasks");
                }
                let title = r.text("title").unwrap_or_else(|| name.clone());
                r.text("source");
                r.finish();
                Some(Self { name, title, tasks })
            }
            Err((line, message)) => {
                faults.add(&Origin::Line(line), message);
                None
            }
        };
        let benchmark = faults.finish(benchmark)?;
        benchmark.ok_or_else(|| TaskError::Other { task: path.display().to_string(), message: "is empty".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::spec::TaskType;

    #[test]
    fn every_built_in_file_is_read_and_the_lists_name_tasks() {
        let tasks = built_in_tasks().unwrap();
        let named = |name: &String| tasks.iter().find(|task| task.name == *name).unwrap_or_else(|| panic!("{name}"));
        let mut sizes = Vec::new();
        for benchmark in built_in_benchmarks().unwrap() {
            let of_type = |kind: TaskType| benchmark.tasks.iter().filter(|t| named(t).kind == kind).count();
            sizes.push((benchmark.name.clone(), benchmark.tasks.len(), of_type(TaskType::Classification)));
        }
        sizes.sort();
        let expected = [("rumteb", 23, 9), ("rumteb-14", 14, 7), ("rumteb-v1", 23, 9)];
        assert_eq!(sizes, expected.map(|(name, all, kind)| (name.to_string(), all, kind)));
        assert_eq!(tasks.len(), 25);
        // Spec facts that are easily lost.
        assert_eq!(named(&"MassiveIntentClassification".into()).splits.test, ["validation", "test"]);
        assert_eq!(named(&"TERRa".into()).splits.test, ["dev"]);
        assert!(named(&"RiaNewsRetrievalHardNegatives.v2".into()).settings.ignore_identical_ids);
    }

    #[test]
    fn a_list_without_tasks_is_a_fault() {
        let error = Benchmark::parse(Path::new("b.yaml"), "benchmark: b\ntask: [A]\n").unwrap_err().to_string();
        assert!(error.contains("tasks: must list") && error.contains("unknown key `task`"), "{error}");
    }
}
