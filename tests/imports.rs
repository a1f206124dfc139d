//! Which module may import which: the table of ARCHITECTURE.md, held by the `crate::` paths of the sources.

use std::path::Path;

/// (module, what it may import beside itself).
const TABLE: [(&str, &[&str]); 19] = [
    ("data", &[]),
    ("nn", &[]),
    ("hub", &["data"]),
    ("config", &["data"]),
    ("metric", &["data"]),
    ("estimator", &["data", "metric"]),
    ("mine", &["data", "estimator"]),
    ("adapter", &["data", "nn"]),
    ("loss", &["nn"]),
    ("model", &["adapter", "data", "nn"]),
    ("objective", &["loss", "model", "nn"]),
    ("task", &["config", "data", "estimator", "metric"]),
    ("train", &["adapter", "data", "loss", "model", "nn", "objective"]),
    ("encode", &["data", "model", "nn"]),
    ("merge", &["model"]),
    ("store", &["data", "metric"]),
    ("report", &["data", "metric", "store"]),
    ("plan", &["config", "data", "task", "train"]),
    (
        "exec",
        &[
            "adapter",
            "config",
            "data",
            "encode",
            "hub",
            "loss",
            "merge",
            "metric",
            "model",
            "objective",
            "plan",
            "store",
            "task",
            "train",
        ],
    ),
];

fn sources(folder: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn imports_go_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    for (module, allowed) in TABLE {
        let mut files = Vec::new();
        sources(&src.join(module), &mut files);
        assert!(!files.is_empty(), "{module} has no sources");
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
                for (at, _) in line.match_indices("crate::") {
                    let name: String =
                        line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if name != module && !allowed.contains(&name.as_str()) {
                        faults.push(format!("{}:{}: {module} may not import {name}", file.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_module_is_in_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(src).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap().to_string_lossy().to_string();
            assert!(name == "cli" || TABLE.iter().any(|(module, _)| *module == name), "{name} is missing");
        }
    }
}
