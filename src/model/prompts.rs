//! Which prompt a text gets, by mteb's look-up order and sentence-transformers' defaults.

use std::collections::BTreeMap;

/// A model's named prompts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompts {
    /// Name → text put before every input.
    pub named: BTreeMap<String, String>,
    /// Name of the prompt used where nothing else applies.
    pub default_name: Option<String>,
}

/// The side of an asymmetric task that a text is on (mteb's `prompt_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// A query.
    Query,
    /// A document.
    Document,
}

impl Side {
    /// `query` or `document`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Document => "document",
        }
    }
}

/// mteb's dictionaries of the models that it registers with prompts.
const REGISTERED: &str = include_str!("registered_prompts.json");

#[derive(serde::Deserialize)]
struct Registered {
    models: Vec<String>,
    prompts: BTreeMap<String, String>,
}

/// The prompts that mteb registers for a model of the hub (`org/name`), where it does.
pub fn registered(model: &str) -> Option<Prompts> {
    let all: Vec<Registered> = serde_json::from_str(REGISTERED).unwrap_or_default();
    let found = all.into_iter().find(|entry| entry.models.iter().any(|name| name == model))?;
    Some(Prompts { named: found.prompts, default_name: None })
}

/// What mteb tells an instruction model in a task of this type that has no instruction of its own.
pub fn default_instruction(task_type: &str) -> &'static str {
    match task_type {
        "Classification" | "MultilabelClassification" => "Classify user passages.",
        "Clustering" => "Identify categories in user passages.",
        "STS" => "Retrieve semantically similar text.",
        "PairClassification" => "Retrieve text that are semantically similar to the given text.",
        "Retrieval" | "Reranking" => "Retrieve text based on user query.",
        _ => "",
    }
}

impl Prompts {
    /// mteb's look-up of the prompt of a text in `task` of type `task_type` (mteb's names): the first of `<task>-<side>`,
    /// `<task>`, `<type>-<side>`, `<type>`, `<side>`. An empty prompt that is found counts.
    pub fn looked_up(&self, task: &str, task_type: &str, side: Option<Side>) -> Option<&str> {
        let mut keys = Vec::with_capacity(5);
        for stem in [task, task_type] {
            if let Some(side) = side {
                keys.push(format!("{stem}-{}", side.name()));
            }
            keys.push(stem.to_string());
        }
        keys.extend(side.map(|side| side.name().to_string()));
        keys.iter().find_map(|key| self.named.get(key)).map(String::as_str)
    }

    /// What sentence-transformers puts before a text by itself: `query` for queries; `document`, `passage` or `corpus` for
    /// documents; else the default prompt. Empty where there is none.
    pub fn own_default(&self, side: Option<Side>) -> &str {
        let names: &[&str] = match side {
            Some(Side::Query) => &["query"],
            Some(Side::Document) => &["document", "passage", "corpus"],
            None => &[],
        };
        let named = names.iter().find_map(|name| self.named.get(*name));
        let found = named.or_else(|| self.named.get(self.default_name.as_ref()?));
        found.map_or("", String::as_str)
    }

    /// The prompt of a text: [`Self::looked_up`], else [`Self::own_default`].
    pub fn find(&self, task: &str, task_type: &str, side: Option<Side>) -> &str {
        self.looked_up(task, task_type, side).unwrap_or_else(|| self.own_default(side))
    }

    /// The prompt of a side in training.
    pub fn of_side(&self, side: Side) -> &str {
        self.find("", "", Some(side))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(pairs: &[(&str, &str)], default_name: Option<&str>) -> Prompts {
        Prompts {
            named: pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            default_name: default_name.map(String::from),
        }
    }

    #[test]
    fn follows_mtebs_order() {
        let p = prompts(
            &[("T-query", "a"), ("T", "b"), ("STS-query", "c"), ("STS", "d"), ("query", "e"), ("x", "f")],
            Some("x"),
        );
        assert_eq!(p.find("T", "STS", Some(Side::Query)), "a");
        assert_eq!(p.find("T", "STS", None), "b");
        assert_eq!(p.find("U", "STS", Some(Side::Query)), "c");
        assert_eq!(p.find("U", "STS", Some(Side::Document)), "d");
        assert_eq!(p.find("U", "Retrieval", Some(Side::Query)), "e");
        assert_eq!(p.find("U", "Retrieval", Some(Side::Document)), "f");
        assert_eq!(p.find("U", "Retrieval", None), "f");
    }

    #[test]
    fn e5_gets_no_prefix_on_symmetric_tasks() {
        let p = prompts(&[("query", "query: "), ("passage", "passage: ")], None);
        assert_eq!(p.find("T", "STS", None), "");
        assert_eq!(p.find("T", "Retrieval", Some(Side::Document)), "passage: ");
    }

    #[test]
    fn registered_models_are_found() {
        let p = registered("deepvk/USER2-base").unwrap();
        assert_eq!(p.looked_up("STS22", "STS", None), Some("search_document: "));
        assert_eq!(p.looked_up("RuSTSBenchmarkSTS", "STS", None), Some("classification: "));
        assert_eq!(p.looked_up("RuBQRetrieval", "Retrieval", Some(Side::Query)), Some("search_query: "));
        assert!(registered("deepvk/USER-bge-m3").is_none());
    }

    #[test]
    fn an_empty_prompt_found_first_means_none() {
        let p = prompts(&[("STS", ""), ("x", "f")], Some("x"));
        assert_eq!(p.find("T", "STS", None), "");
    }
}
