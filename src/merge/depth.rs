//! α along the depth of an encoder.

use crate::model::names::{layer_of, of_embeddings};

/// The α of a tensor: `values` are spread evenly from the first layer to the last and interpolated linearly by the layer's
/// number; the only layer of an encoder stands in the middle. The embeddings, which come before the layers, have the first
/// value; what comes after them (pooler, `Dense` heads) has the last. One value holds everywhere, to the bit.
///
/// NaN of no values.
pub fn of_tensor(values: &[f64], name: &str, layers: usize) -> f64 {
    match layer_of(name) {
        Some(layer) => of_layer(values, layer, layers),
        None if of_embeddings(name) => values.first().copied().unwrap_or(f64::NAN),
        None => values.last().copied().unwrap_or(f64::NAN),
    }
}

/// The α of each layer, from the first.
pub fn by_layer(values: &[f64], layers: usize) -> Vec<f64> {
    (0..layers).map(|layer| of_layer(values, layer, layers)).collect()
}

fn of_layer(values: &[f64], layer: usize, layers: usize) -> f64 {
    let share = if layers > 1 { layer.min(layers - 1) as f64 / (layers - 1) as f64 } else { 0.5 };
    let at = share * values.len().saturating_sub(1) as f64;
    let below = at.floor() as usize;
    let (Some(&low), high) = (values.get(below), values.get(below + 1)) else { return f64::NAN };
    high.map_or(low, |&high| low + (high - low) * (at - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spread_over_the_layers() {
        assert_eq!(by_layer(&[0.0, 1.0], 5), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(by_layer(&[0.0, 1.0, 0.0], 5), [0.0, 0.5, 1.0, 0.5, 0.0]);
        assert_eq!(by_layer(&[0.2, 0.6], 1), [0.4]);
        assert_eq!(by_layer(&[0.3], 3), [0.3; 3]);
        assert_eq!(by_layer(&[0.3, 0.3], 7), [0.3; 7]);
    }

    #[test]
    fn tensors_outside_the_layers_have_the_ends() {
        let at = |name: &str| of_tensor(&[0.0, 0.5, 1.0], name, 3);
        assert_eq!(at("embeddings.word_embeddings.weight"), 0.0);
        assert_eq!(at("encoder.layer.0.output.dense.weight"), 0.0);
        assert_eq!(at("encoder.layer.1.output.dense.weight"), 0.5);
        assert_eq!(at("encoder.layer.2.output.dense.weight"), 1.0);
        assert_eq!(at("encoder.block.1.layer.0.SelfAttention.q.weight"), 0.5);
        assert_eq!(at("embed_tokens.weight"), 0.0);
        assert_eq!(at("pooler.dense.weight"), 1.0);
        assert_eq!(at("2_Dense.linear.weight"), 1.0);
    }
}
