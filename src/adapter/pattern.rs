//! How PEFT matches module names: by regular expressions that a name, or the end of it after a dot, must match.

use fancy_regex::Regex;

/// The value of the first pattern that `module` matches, as PEFT's `rank_pattern` and `alpha_pattern` mean it:
/// `(.*\.)?(pattern)$` from the start of the name.
///
/// # Errors
/// A pattern that is no regular expression.
pub fn value_of<'a, T>(patterns: &'a [(String, T)], module: &str) -> Result<Option<&'a T>, String> {
    for (pattern, value) in patterns {
        if matches(&format!(r"^(.*\.)?({pattern})$"), pattern, module)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Whether the whole of `module` matches a regular expression, as PEFT's `target_modules` in one string mean it.
///
/// # Errors
/// A pattern that is no regular expression.
pub fn matches_whole(pattern: &str, module: &str) -> Result<bool, String> {
    matches(&format!(r"^(?:{pattern})$"), pattern, module)
}

/// The number of the layer that a module is in: the first number between two dots after two names, or right after one
/// of `patterns`.
///
/// # Errors
/// A pattern that is no regular expression.
pub fn layer_of(patterns: &[String], module: &str) -> Result<Option<u64>, String> {
    let expressions = match patterns {
        [] => vec![(r".*?\.[^.]*\.(\d+)\.".to_string(), "")],
        patterns => patterns.iter().map(|p| (format!(r"(?:^|.*?\.){p}\.(\d+)\."), p.as_str())).collect(),
    };
    for (expression, pattern) in expressions {
        let captures = compile(&format!("^(?:{expression})"), pattern)?
            .captures(module)
            .map_err(|e| format!("the pattern `{pattern}` cannot be tried on `{module}`: {e}"))?;
        // The last group, as the pattern may have groups of its own.
        if let Some(number) = captures.and_then(|c| c.iter().last().flatten().and_then(|m| m.as_str().parse().ok())) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// The pattern that matches a name alone.
pub fn exactly(module: &str) -> String {
    fancy_regex::escape(module).into_owned()
}

fn compile(expression: &str, pattern: &str) -> Result<Regex, String> {
    Regex::new(expression).map_err(|e| format!("the pattern `{pattern}` is no regular expression: {e}"))
}

fn matches(expression: &str, pattern: &str, module: &str) -> Result<bool, String> {
    let found = compile(expression, pattern)?.is_match(module);
    found.map_err(|e| format!("the pattern `{pattern}` cannot be tried on `{module}`: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pattern_that_ends_the_name_counts() {
        let patterns = [("layer\\.1\\..*query".to_string(), 2), ("query".into(), 4), ("self.(key|value)".into(), 8)];
        let of = |module: &str| value_of(&patterns, module).unwrap().copied();
        assert_eq!(of("encoder.layer.1.attention.self.query"), Some(2));
        assert_eq!(of("encoder.layer.11.attention.self.query"), Some(4));
        assert_eq!(of("query"), Some(4));
        assert_eq!(of("encoder.layer.0.attention.self.value"), Some(8));
        assert_eq!(of("encoder.layer.0.attention.self.subquery"), None);
        assert!(value_of(&[("(".to_string(), 1)], "a").unwrap_err().contains("`(`"));
    }

    #[test]
    fn layers_are_numbered_as_in_peft() {
        let of = |patterns: &[&str], module: &str| {
            layer_of(&patterns.iter().map(ToString::to_string).collect::<Vec<_>>(), module).unwrap()
        };
        assert_eq!(of(&[], "encoder.layer.3.attention.self.query"), Some(3));
        assert_eq!(of(&[], "bert.encoder.layer.3.attention.self.query"), Some(3));
        assert_eq!(of(&[], "model.layers.1.experts.0.up"), Some(1));
        assert_eq!(of(&["layer"], "layer.7.query"), Some(7));
        assert_eq!(of(&["block"], "encoder.layer.3.query"), None);
        assert_eq!(of(&[], "pooler.dense"), None);
    }
}
