//! Which models can be merged.

use crate::model::{ModelError, ModelFiles};

/// Checks that two models can be merged: same architecture, pooling, heads, prompts and tokenizer, same tensors.
///
/// # Errors
/// What differs, by name.
pub fn check(first: &ModelFiles, second: &ModelFiles) -> Result<(), ModelError> {
    let fail = |message: String| {
        Err(ModelError::file(&second.path, format!("cannot be merged with {}: {message}", first.path.display())))
    };
    if first.architecture != second.architecture {
        return fail("the architectures differ (config.json)".into());
    }
    let (a, b) = (&first.layout, &second.layout);
    if a.pooling != b.pooling || a.include_prompt != b.include_prompt {
        return fail(format!("the pooling differs ({:?} and {:?})", a.pooling, b.pooling));
    }
    if a.heads != b.heads {
        return fail("the modules after pooling differ (modules.json)".into());
    }
    if a.prompts != b.prompts {
        return fail("the prompts differ (config_sentence_transformers.json)".into());
    }
    if first.tokenizer_content() != second.tokenizer_content() {
        return fail("the tokenizers differ (tokenizer.json)".into());
    }
    for (name, tensor) in &first.weights {
        match second.weights.get(name) {
            None => return fail(format!("it has no tensor `{name}`")),
            Some(other) if other.dims() != tensor.dims() => {
                return fail(format!("tensor `{name}` is {:?} there and {:?} here", tensor.dims(), other.dims()));
            }
            Some(_) => {}
        }
    }
    match second.weights.keys().find(|name| !first.weights.contains_key(*name)) {
        Some(name) => fail(format!("tensor `{name}` is in this one alone")),
        None => Ok(()),
    }
}
