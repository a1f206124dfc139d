//! From the tree to the checked config: bounds, defaults and cross-checks.

use std::path::{Path, PathBuf};

use super::node::{Node, Origin, Value};
use super::read_merges::read_merges;
use super::read_sweep::{read_choose, read_prune, read_run, read_score};
use super::read_training::{cross_check, read_adapter, read_data, read_loss, read_train, read_tsdae};
use super::reader::{Faults, Reader};
use super::schema::{Base, Config, Objective, Scratch};
use super::trials::read_search;

/// Reads the tree; faults go to `faults`, and the result counts only if there are none.
pub(super) fn config(root: &Node, folder: &Path, faults: &Faults) -> Config {
    let r = Reader::new(Some(root), "", &root.origin, faults);
    for key in ["grid", "trials"] {
        r.has(key);
    }
    let name = r.plain_name("name");
    let objectives =
        [("symmetric", Objective::Symmetric), ("asymmetric", Objective::Asymmetric), ("tsdae", Objective::Tsdae)];
    let objective = r.choice("objective", &objectives).unwrap_or(Objective::Asymmetric);
    let config = Config {
        name,
        base: read_base(&r, folder),
        data: read_data(&r, folder, !is_of_the_base_alone(root)),
        objective,
        loss: read_loss(&r, objective, folder),
        adapter: read_adapter(&r),
        tsdae: read_tsdae(&r, objective),
        train: read_train(&r, folder),
        search: read_search(&r),
        merge: read_merges(&r),
        prune: read_prune(&r),
        score: read_score(&r, folder),
        choose: read_choose(&r),
        run: read_run(&r),
    };
    cross_check(&config, root, faults);
    r.finish();
    config
}

/// Sections of a config that say what is trained.
const OF_TRAINING: [&str; 11] =
    ["data", "objective", "loss", "adapter", "tsdae", "train", "grid", "trials", "search", "merge", "prune"];

/// Whether a config names tasks and a model that is there, and nothing that is trained: then the model alone is scored.
fn is_of_the_base_alone(root: &Node) -> bool {
    let is_there = matches!(root.get("base").map(|base| &base.value), Some(Value::Text(_)));
    is_there && root.get("score").is_some() && OF_TRAINING.iter().all(|key| root.get(key).is_none())
}

pub(super) fn resolve(path: &str, origin: &Origin, folder: &Path) -> PathBuf {
    let given = PathBuf::from(path);
    match origin {
        Origin::Line(_) if given.is_relative() => folder.join(given),
        _ => given,
    }
}

fn read_base(r: &Reader<'_>, folder: &Path) -> Base {
    let Some(node) = r.node("base") else {
        r.fault("base", "is missing: give a model folder, or {scratch: {…}}");
        return Base::Hub { id: String::new(), folder: None };
    };
    if let Value::Text(text) = &node.value {
        let beside = resolve(text, &node.origin, folder);
        for path in [beside.clone(), PathBuf::from(text)] {
            if path.is_dir() {
                return Base::Folder(path);
            }
        }
        let looks_like_path = text.starts_with(['.', '/', '~']) || text.matches('/').count() != 1;
        if looks_like_path || text.is_empty() {
            r.fault("base", "no such model folder (relative to the config, or to the current folder)");
        }
        return if looks_like_path { Base::Folder(beside) } else { Base::Hub { id: text.clone(), folder: None } };
    }
    let outer = Reader::new(Some(node), "base", &node.origin, r.faults());
    if !outer.has("scratch") {
        outer.fault_here("must be a model folder, a hub id, or {scratch: {…}}");
    }
    let s = outer.section("scratch");
    s.choice("tokenizer", &[("wordpiece", ())]);
    let size = |key, default| s.whole(key, 1..=65_536, "from 1 to 65536").unwrap_or(default);
    let hidden = size("hidden", 128);
    let heads = size("heads", (hidden / 32).max(1));
    if hidden % heads != 0 {
        s.fault_here(format!("hidden {hidden} is not a multiple of heads {heads}"));
    }
    let scratch = Scratch {
        layers: s.whole("layers", 0..=96, "from 0 to 96").unwrap_or(2),
        hidden,
        heads,
        intermediate: size("intermediate", 4 * hidden),
        vocabulary: s.whole("vocabulary", 100..=1_000_000, "from 100").unwrap_or(8_000),
        max_length: s.whole("max_length", 4..=8_192, "from 4 to 8192").unwrap_or(128),
        lower_case: s.flag("lower_case").unwrap_or(true),
        seed: s.whole("seed", 0.., "from 0").unwrap_or(1) as u64,
    };
    s.finish();
    outer.finish();
    Base::Scratch(scratch)
}
