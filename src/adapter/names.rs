//! Which of a model's names an adapter's names mean. Adapters are made on models that wrap the encoder (`bert.encoder…`,
//! `0.auto_model.encoder…`) or are a part of it; a name is found by its end, and must be found once.

use std::collections::BTreeMap;

/// The longest list of names in a message.
const SHOWN: usize = 3;

/// Whether one is the other, or the end of it after a dot.
fn alike(name: &str, known: &str) -> bool {
    let ends =
        |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    ends(name, known) || ends(known, name)
}

/// Whether it is of the pooler of the original, which no embedder runs.
pub fn of_pooler(name: &str) -> bool {
    name.split('.').any(|part| part == "pooler")
}

/// Name of an adapter → name of the model. Those of the pooler may be missing in the model and are then left out.
///
/// # Errors
/// A name that the model has not, or has more than once, and two names that mean the same.
pub fn resolve<'n>(names: impl Iterator<Item = &'n str>, known: &[&str]) -> Result<BTreeMap<&'n str, String>, String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    let mut missing = Vec::new();
    for name in names {
        let candidates: Vec<&str> = match known.iter().find(|k| **k == name) {
            Some(exact) => vec![exact],
            None => known.iter().copied().filter(|k| alike(name, k)).collect(),
        };
        match candidates.as_slice() {
            [] if of_pooler(name) => {}
            [] => missing.push(name),
            [one] => {
                if let Some(other) = taken.insert((*one).into(), name) {
                    return Err(format!("`{other}` and `{name}` of the adapter both mean `{one}` of this model"));
                }
                found.insert(name, (*one).into());
            }
            many => {
                return Err(format!(
                    "`{name}` of the adapter may mean {} of this model: give its modules their full names",
                    list(many)
                ));
            }
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let some = known.iter().filter(|k| !of_pooler(k)).take(SHOWN).copied().collect::<Vec<_>>();
    Err(format!("the adapter has weights for {}, which this model has not (it has {} …)", list(&missing), list(&some)))
}

fn list(names: &[&str]) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["encoder.layer.0.query", "encoder.layer.1.query", "pooler.dense"];

    #[test]
    fn names_are_found_by_their_ends() {
        for name in [
            "encoder.layer.0.query",
            "bert.encoder.layer.0.query",
            "0.auto_model.encoder.layer.0.query",
            "layer.0.query",
        ] {
            assert_eq!(resolve([name].into_iter(), &KNOWN).unwrap()[name], KNOWN[0], "{name}");
        }
    }

    #[test]
    fn what_is_unknown_or_ambiguous_is_an_error() {
        let fails = |names: &[&str]| resolve(names.iter().copied(), &KNOWN).unwrap_err();
        assert!(fails(&["encoder.layer.2.query"]).contains("encoder.layer.2.query"));
        assert!(fails(&["subencoder.layer.0.query"]).contains("has not"));
        assert!(fails(&["query"]).contains("may mean"));
        assert!(fails(&["a.encoder.layer.0.query", "b.encoder.layer.0.query"]).contains("both mean"));
        assert!(resolve(["bert.pooler.other"].into_iter(), &KNOWN).unwrap().is_empty());
    }
}
