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

impl Prompts {
    /// The prompt of a text in `task` of type `task_type` (mteb's names): the first of `<task>-<side>`, `<task>`,
    /// `<type>-<side>`, `<type>`, `<side>`; then sentence-transformers' own: `document`, `passage` or `corpus` for documents,
    /// else the default prompt. Empty where there is none.
    pub fn find(&self, task: &str, task_type: &str, side: Option<Side>) -> &str {
        let mut keys = Vec::with_capacity(8);
        for stem in [task, task_type] {
            if let Some(side) = side {
                keys.push(format!("{stem}-{}", side.name()));
            }
            keys.push(stem.to_string());
        }
        match side {
            Some(Side::Query) => keys.push("query".into()),
            Some(Side::Document) => keys.extend(["document", "passage", "corpus"].map(String::from)),
            None => {}
        }
        keys.extend(self.default_name.clone());
        keys.iter().find_map(|key| self.named.get(key)).map_or("", String::as_str)
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
    fn an_empty_prompt_found_first_means_none() {
        let p = prompts(&[("STS", ""), ("x", "f")], Some("x"));
        assert_eq!(p.find("T", "STS", None), "");
    }
}
