//! What the columns of a training file mean, and what its rows therefore are.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::data::cell::Cell;
use crate::data::suggest::did_you_mean;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Query,
    Positives,
    /// The number orders the columns: `neg`, `negative`, `negative_0`, `negative_1` …
    Negatives(u64),
    PositiveScores,
    NegativeScores,
    First,
    Second,
    Score,
    Label,
    Text,
    Prompt,
    Kind,
}

/// A role that a name stands for; of two names of one role, the one of lower rank counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) role: Role,
    pub(super) rank: u8,
}

/// FlagEmbedding's keys and sentence-transformers' columns.
const KNOWN: [(&str, Role, u8); 16] = [
    ("query", Role::Query, 0),
    ("anchor", Role::Query, 1),
    ("pos", Role::Positives, 0),
    ("positive", Role::Positives, 1),
    ("neg", Role::Negatives(0), 0),
    ("negative", Role::Negatives(1), 0),
    ("pos_scores", Role::PositiveScores, 0),
    ("neg_scores", Role::NegativeScores, 0),
    ("sentence1", Role::First, 0),
    ("sentence2", Role::Second, 0),
    ("score", Role::Score, 0),
    ("label", Role::Label, 0),
    ("text", Role::Text, 0),
    ("sentence", Role::Text, 1),
    ("prompt", Role::Prompt, 0),
    ("type", Role::Kind, 0),
];

/// `negative_1`, `negative_2` …
fn numbered(name: &str) -> Option<Meaning> {
    let digits = name.strip_prefix("negative_").filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    let number: u64 = digits.parse().ok()?;
    Some(Meaning { role: Role::Negatives(number.saturating_add(2)), rank: 0 })
}

fn meaning(name: &str) -> Option<Meaning> {
    let known = KNOWN.iter().find(|(known, ..)| *known == name);
    known.map(|(_, role, rank)| Meaning { role: *role, rank: *rank }).or_else(|| numbered(name))
}

/// The names that a file's columns go by.
#[derive(Debug, Clone)]
pub(super) struct Names {
    table: HashMap<Arc<str>, Vec<Meaning>>,
    /// Whether `negative_1` … have their usual meaning.
    numbered: bool,
    /// What the user maps, ours and theirs.
    pub(super) mapped: Vec<(String, Arc<str>)>,
}

impl Names {
    /// The usual names, with `columns` (ours → theirs) in place of those of the same role.
    ///
    /// # Errors
    /// Where ours is none of the known names.
    pub(super) fn new(columns: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut mapped = Vec::new();
        for (ours, theirs) in columns {
            let Some(meaning) = meaning(ours) else {
                let known = KNOWN.iter().map(|(name, ..)| *name);
                let names: Vec<&str> = known.clone().collect();
                let hint = did_you_mean(ours, known);
                return Err(format!(
                    "columns.{ours}: no column of training data is called so{hint} (known are {})",
                    names.join(", ")
                ));
            };
            mapped.push((ours.clone(), Arc::<str>::from(theirs.as_str()), meaning));
        }
        let taken = |role: Role| match role {
            Role::Negatives(_) => mapped.iter().any(|(.., m)| matches!(m.role, Role::Negatives(_))),
            role => mapped.iter().any(|(.., m)| m.role == role),
        };
        let claimed = |name: &str| mapped.iter().any(|(_, theirs, _)| &**theirs == name);
        let mut table: HashMap<Arc<str>, Vec<Meaning>> = HashMap::new();
        for (name, role, rank) in KNOWN {
            if !taken(role) && !claimed(name) {
                table.insert(name.into(), vec![Meaning { role, rank }]);
            }
        }
        let numbered = !taken(Role::Negatives(0));
        for (_, theirs, meaning) in &mapped {
            table.entry(theirs.clone()).or_default().push(*meaning);
        }
        Ok(Self { table, numbered, mapped: mapped.into_iter().map(|(ours, theirs, _)| (ours, theirs)).collect() })
    }

    /// What a column's name stands for; mostly one thing or nothing.
    pub(super) fn meanings(&self, name: &str) -> Cow<'_, [Meaning]> {
        match self.table.get(name) {
            Some(meanings) => Cow::Borrowed(meanings),
            None if self.numbered => Cow::Owned(numbered(name).into_iter().collect()),
            None => Cow::Borrowed(&[]),
        }
    }
}

/// A value of a row and what it stands for.
#[derive(Debug, Clone)]
pub(super) struct Field {
    /// The name that the file gives it.
    pub(super) name: Arc<str>,
    pub(super) meaning: Meaning,
    pub(super) cell: Cell,
}

impl Field {
    /// Adds a value to a record: once for each of its meanings, which are rarely more than one.
    pub(super) fn spread(name: &Arc<str>, meanings: &[Meaning], cell: Cell, record: &mut Vec<Self>) {
        let Some((last, others)) = meanings.split_last() else { return };
        for meaning in others {
            record.push(Self { name: name.clone(), meaning: *meaning, cell: cell.clone() });
        }
        record.push(Self { name: name.clone(), meaning: *last, cell });
    }
}

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// A query, texts that match it, texts that do not.
    Pairs,
    /// Two texts and a number.
    Scored,
    /// A text and its class.
    Labelled,
    /// Texts alone.
    Texts,
}

impl Layout {
    /// The first layout whose columns are all there.
    pub(super) fn of<'a>(fields: impl Iterator<Item = &'a Field> + Clone) -> Option<Self> {
        let has = |role: Role| fields.clone().any(|field| field.meaning.role == role);
        if has(Role::Query) && has(Role::Positives) {
            Some(Self::Pairs)
        } else if has(Role::First) && has(Role::Second) && (has(Role::Score) || has(Role::Label)) {
            Some(Self::Scored)
        } else if has(Role::Text) && has(Role::Label) {
            Some(Self::Labelled)
        } else if has(Role::Text) {
            Some(Self::Texts)
        } else {
            None
        }
    }

    /// As errors name it.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Pairs => "a query with texts that match it",
            Self::Scored => "two texts with a score",
            Self::Labelled => "a text with a label",
            Self::Texts => "a text alone",
        }
    }
}

/// Why the columns of a file make no training rows, and what to do. `unused` are the names that mean nothing here.
pub(super) fn no_layout(names: &Names, fields: &[Field], unused: &[Arc<str>]) -> String {
    let all: Vec<&str> = fields.iter().map(|field| &*field.name).chain(unused.iter().map(|name| &**name)).collect();
    let there = if all.is_empty() { "none".into() } else { all.join(", ") };
    if let Some((ours, theirs)) = names.mapped.iter().find(|(_, theirs)| !all.contains(&&**theirs)) {
        let hint = did_you_mean(theirs, all.iter().copied());
        return format!("columns.{ours}: there is no column `{theirs}`{hint} (columns: {there})");
    }
    let has = |role: Role| fields.iter().any(|field| field.meaning.role == role);
    let missing = if has(Role::First) && has(Role::Second) {
        "two texts need `score` or `label` (a number); for pairs without one, map `columns: {query: sentence1, positive: \
         sentence2}`"
    } else if has(Role::Query) {
        "a query needs `pos` or `positive`"
    } else if has(Role::Positives) {
        "pairs need `query` or `anchor`"
    } else {
        "expected `query` and `pos` (FlagEmbedding), `anchor` and `positive`, `sentence1`, `sentence2` and `score` \
         (sentence-transformers), `text` and `label`, or `text`"
    };
    format!("columns: {there}: {missing}; other names are mapped by `columns: {{query: theirs, positive: theirs}}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(names: &Names, columns: &[&str]) -> Vec<Field> {
        let field = |name: &str, meaning: &Meaning| Field { name: name.into(), meaning: *meaning, cell: Cell::Null };
        columns
            .iter()
            .flat_map(|name| names.meanings(name).iter().map(|m| field(name, m)).collect::<Vec<_>>())
            .collect()
    }

    fn layout(columns: &[&str]) -> Option<Layout> {
        let names = Names::new(&BTreeMap::new()).unwrap();
        Layout::of(fields(&names, columns).iter())
    }

    #[test]
    fn columns_decide() {
        for (columns, expected) in [
            (&["query", "pos", "neg", "pos_scores"][..], Some(Layout::Pairs)),
            (&["anchor", "positive", "negative_1"], Some(Layout::Pairs)),
            (&["query", "positive"], Some(Layout::Pairs)),
            (&["sentence1", "sentence2", "score"], Some(Layout::Scored)),
            (&["sentence1", "sentence2", "label"], Some(Layout::Scored)),
            (&["text", "label"], Some(Layout::Labelled)),
            (&["sentence", "label", "id"], Some(Layout::Labelled)),
            (&["text"], Some(Layout::Texts)),
            (&["sentence1", "sentence2"], None),
            (&["sentence_A", "sentence_B", "score"], None),
            (&["query", "text2"], None),
            (&[], None),
        ] {
            assert_eq!(layout(columns), expected, "{columns:?}");
        }
    }

    #[test]
    fn a_mapped_role_loses_its_usual_names() {
        let columns = [("query", "question"), ("positive", "text"), ("negative", "wrong")];
        let columns = columns.map(|(ours, theirs)| (ours.to_string(), theirs.to_string())).into();
        let names = Names::new(&columns).unwrap();
        let roles = |name: &str| names.meanings(name).iter().map(|m| m.role).collect::<Vec<_>>();
        assert_eq!(roles("question"), [Role::Query]);
        assert_eq!(roles("text"), [Role::Positives], "a name that the user gives a meaning has no other");
        for name in ["query", "anchor", "pos", "positive", "neg", "negative_1"] {
            assert_eq!(roles(name), [], "{name}");
        }
        assert_eq!(roles("label"), [Role::Label]);
        let error = Names::new(&[("positiv".to_string(), "a".to_string())].into()).unwrap_err();
        assert!(error.contains("columns.positiv") && error.contains("did you mean `positive`"), "{error}");
    }

    #[test]
    fn numbered_negatives_are_in_order() {
        let names = Names::new(&BTreeMap::new()).unwrap();
        let order = |name: &str| match names.meanings(name).first() {
            Some(Meaning { role: Role::Negatives(order), .. }) => Some(*order),
            _ => None,
        };
        let orders: Vec<_> = ["neg", "negative", "negative_0", "negative_2", "negative_10"].map(order).to_vec();
        assert!(orders.windows(2).all(|w| w[0].is_some() && w[0] < w[1]), "{orders:?}");
        assert_eq!(
            (order("negative_"), order("negative_x"), order("negative_99999999999999999999")),
            (None, None, None)
        );
    }
}
