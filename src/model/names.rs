//! What names of tensors say, whatever the architecture.

/// The number of the layer that a tensor belongs to: after the first `layer`, `layers`, `block` or `h` in its name.
pub fn layer_of(name: &str) -> Option<usize> {
    let mut parts = name.split('.').skip_while(|part| !matches!(*part, "layer" | "layers" | "block" | "h"));
    parts.nth(1)?.parse().ok()
}

/// Whether a tensor is one of the tables that come before the layers, or a norm beside them.
pub fn of_embeddings(name: &str) -> bool {
    ["embeddings.", "embed_tokens.", "shared.", "embedding."].iter().any(|table| name.contains(table))
}

/// Whether a matrix `module` is a table whose rows are looked up, and no linear layer.
pub fn is_table(module: &str) -> bool {
    ["embeddings", "embed_tokens", "relative_attention_bias"].iter().any(|name| module.contains(name))
        || matches!(module, "shared" | "embedding")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_tables_are_known_by_every_architectures_names() {
        for (name, layer) in [
            ("encoder.layer.3.output.dense.weight", Some(3)),
            ("layers.11.attn.Wqkv.weight", Some(11)),
            ("encoder.block.23.layer.1.DenseReluDense.wo.weight", Some(23)),
            ("transformer.layer.2.ffn.lin1.weight", Some(2)),
            ("encoder.final_layer_norm.weight", None),
            ("encoder.rel_embeddings.weight", None),
        ] {
            assert_eq!(layer_of(name), layer, "{name}");
        }
        for table in ["embeddings.tok_embeddings.weight", "embed_tokens.weight", "shared.weight", "embedding.weight"] {
            assert!(of_embeddings(table) && is_table(table.trim_end_matches(".weight")), "{table}");
        }
        for other in ["final_norm.weight", "2_Dense.linear.weight", "layers.0.mlp.Wi.weight"] {
            assert!(!of_embeddings(other) && !is_table(other), "{other}");
        }
    }
}
