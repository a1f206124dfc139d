//! One tree for all trials: each sets its values in it, and they are taken back after.

use super::super::node::Node;
use super::super::read_training::{LORA_SETTINGS, QLORA_SETTINGS};

/// A config's tree that trials' settings are laid over, one after the other.
pub(super) struct Overlay {
    tree: Node,
}

impl Overlay {
    pub(super) fn new(tree: Node) -> Self {
        Self { tree }
    }

    /// What `read` gives for the tree with a trial's settings. A trial drops the adapter's settings that all trials share and
    /// its own kind has not. Only the sections that the trial touches are copied.
    pub(super) fn with<T>(&mut self, set: &[(String, Node)], read: impl FnOnce(&Node) -> T) -> T {
        let mut saved: Vec<(&str, Option<Node>)> = Vec::new();
        for (key, _) in set {
            let section = key.split('.').next().unwrap_or_default();
            if !saved.iter().any(|(known, _)| *known == section) {
                saved.push((section, self.tree.get(section).cloned()));
            }
        }
        if let Some((_, kind)) = set.iter().find(|(key, _)| key == "adapter.kind") {
            let kind = kind.value.show();
            for setting in LORA_SETTINGS.into_iter().chain(QLORA_SETTINGS) {
                if !kinds_of(setting).contains(&kind.as_str()) {
                    self.tree.get_mut("adapter").and_then(|adapter| adapter.remove(setting));
                }
            }
        }
        for (key, node) in set {
            self.tree.set(&key.split('.').collect::<Vec<_>>(), node.clone());
        }
        let out = read(&self.tree);
        for (section, node) in saved {
            match node {
                Some(node) => self.tree.set(&[section], node),
                None => drop(self.tree.remove(section)),
            }
        }
        out
    }
}

/// The kinds of adapter for which a setting under `adapter` has a meaning.
pub(super) fn kinds_of(setting: &str) -> &'static [&'static str] {
    match setting {
        "kind" => &["full", "lora", "qlora"],
        setting if QLORA_SETTINGS.contains(&setting) => &["qlora"],
        _ => &["lora", "qlora"],
    }
}
