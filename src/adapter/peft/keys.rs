//! Names of tensors in PEFT's files, read by their parts.

/// What PEFT puts before every name.
const PREFIX: &str = "base_model.model.";

/// Which tensor of a module it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `lora_A`.
    A,
    /// `lora_B`.
    B,
    /// `lora_magnitude_vector`.
    Magnitude,
    /// A tensor of the base.
    Plain,
    /// A tensor of the base in a module that has low-rank matrices, too.
    Inside,
}

/// A tensor's name, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The module, or the tensor of the base, as the model that the adapter was made on names it.
    pub name: String,
    /// Which tensor of it.
    pub place: Place,
    /// The adapter's name, which state dicts hold that PEFT did not write.
    pub adapter: Option<String>,
}

/// Takes a name apart.
///
/// # Errors
/// A tensor of a kind that cannot be applied.
pub fn read(key: &str) -> Result<Key, String> {
    let parts: Vec<&str> = key.strip_prefix(PREFIX).unwrap_or(key).split('.').collect();
    let Some(at) = parts.iter().position(|part| part.starts_with("lora_")) else {
        return plain(&parts);
    };
    let (name, tail) = (parts[..at].join("."), &parts[at + 1..]);
    let place = match parts[at] {
        "lora_A" => Place::A,
        "lora_B" => Place::B,
        "lora_magnitude_vector" => Place::Magnitude,
        "lora_embedding_A" | "lora_embedding_B" => {
            return Err(format!("tensor `{key}`: low-rank updates of embedding tables cannot be applied"));
        }
        _ => return Err(format!("tensor `{key}` is of no kind of LoRA that can be applied")),
    };
    let adapter = match (tail, place) {
        (["weight"], _) | ([], Place::Magnitude) => None,
        ([adapter, "weight"], _) | ([adapter], Place::Magnitude) => Some(adapter.to_string()),
        ([.., "bias"], _) => {
            return Err(format!("tensor `{key}`: biases of the low-rank matrices (lora_bias) cannot be applied"));
        }
        _ => return Err(format!("tensor `{key}` is of no kind of LoRA that can be applied")),
    };
    if name.is_empty() {
        return Err(format!("tensor `{key}` names no module"));
    }
    Ok(Key { name, place, adapter })
}

fn plain(parts: &[&str]) -> Result<Key, String> {
    let (place, adapter, kept) = match parts {
        [module @ .., "modules_to_save", adapter, last] => {
            (Place::Plain, Some(adapter.to_string()), [module, &[*last]].concat())
        }
        [module @ .., "base_layer", last] => (Place::Inside, None, [module, &[*last]].concat()),
        parts => (Place::Plain, None, parts.to_vec()),
    };
    Ok(Key { name: kept.join("."), place, adapter })
}

/// The name under which PEFT looks for a tensor of a module (or of the base, by its whole name).
pub fn write(name: &str, place: Place) -> String {
    match place {
        Place::A => format!("{PREFIX}{name}.lora_A.weight"),
        Place::B => format!("{PREFIX}{name}.lora_B.weight"),
        Place::Magnitude => format!("{PREFIX}{name}.lora_magnitude_vector"),
        Place::Inside => match name.rsplit_once('.') {
            Some((module, last)) => format!("{PREFIX}{module}.base_layer.{last}"),
            None => format!("{PREFIX}{name}"),
        },
        Place::Plain => format!("{PREFIX}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let query = "bert.encoder.layer.0.query";
        let of = |key: &str| {
            let key = read(key).unwrap();
            (key.name, key.place, key.adapter)
        };
        assert_eq!(of(&format!("base_model.model.{query}.lora_A.weight")), (query.into(), Place::A, None));
        assert_eq!(of(&format!("{query}.lora_B.default.weight")), (query.into(), Place::B, Some("default".into())));
        for (key, adapter) in [("", None), (".weight", None), (".x", Some("x")), (".x.weight", Some("x"))] {
            let found = of(&format!("base_model.model.{query}.lora_magnitude_vector{key}"));
            assert_eq!(found, (query.into(), Place::Magnitude, adapter.map(String::from)));
        }
        assert_eq!(of("base_model.model.a.base_layer.bias"), ("a.bias".into(), Place::Inside, None));
        assert_eq!(of("base_model.model.a.modules_to_save.x.bias"), ("a.bias".into(), Place::Plain, Some("x".into())));
        // The prefix goes once: a model of that name inside keeps it.
        assert_eq!(of("base_model.model.model.a.lora_A.weight").0, "model.a");
    }

    #[test]
    fn what_is_written_is_read_again() {
        for place in [Place::A, Place::B, Place::Magnitude, Place::Plain, Place::Inside] {
            let key = read(&write("encoder.layer.0.dense", place)).unwrap();
            assert_eq!((key.name.as_str(), key.place), ("encoder.layer.0.dense", place));
        }
    }

    #[test]
    fn other_kinds_are_errors() {
        for (key, word) in [
            ("base_model.model.a.lora_embedding_A", "embedding"),
            ("base_model.model.a.lora_B.bias", "lora_bias"),
            ("base_model.model.a.lora_mixture.weight", "no kind of LoRA"),
            ("base_model.model.a.lora_A.x.y.weight", "no kind of LoRA"),
            ("base_model.model.lora_A.weight", "names no module"),
        ] {
            let error = read(key).unwrap_err();
            assert!(error.contains(word) && error.contains(key), "{error}");
        }
    }
}
