//! Parameter groups: which learning rate and weight decay a tensor has, by its name.

use crate::adapter::glob;
use crate::model::names::{layer_of, of_embeddings};

/// A group of tensors with rates of their own.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Group {
    /// Names, `*` for any run of characters.
    pub pattern: String,
    /// Factor of the learning rate.
    pub lr: f64,
    /// Weight decay instead of the optimizer's.
    pub weight_decay: Option<f64>,
}

/// How rates are given to tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    /// The first whose pattern matches counts; its rate and the layer's are multiplied.
    pub groups: Vec<Group>,
    /// Factor from a layer to the one below it (ULMFiT's discriminative fine-tuning, Howard and Ruder 2018; ELECTRA's and
    /// BERT's layer-wise decay): the layers' factors are `decay^(layers − 1 − i)`, heads have 1, the embeddings
    /// `decay^layers`. 1 is off.
    pub layer_decay: f64,
    /// Layers of the encoder.
    pub layers: usize,
    /// Tensors without weight decay.
    pub no_decay: Vec<String>,
}

impl Default for Groups {
    fn default() -> Self {
        Self { groups: Vec::new(), layer_decay: 1.0, layers: 0, no_decay: default_no_decay() }
    }
}

/// Biases, norms, and what a loss learns beside the model.
pub fn default_no_decay() -> Vec<String> {
    [
        "*.bias",
        "*LayerNorm*",
        "*layernorm*",
        "*layer_norm*",
        "*_norm.*",
        "*.norm*",
        "norm.*",
        "*_bias",
        "*lora_magnitude_vector*",
        "loss.logit_scale",
    ]
    .map(String::from)
    .to_vec()
}

/// Factor of the learning rate, and weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Factor of the scheduled learning rate.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Groups {
    /// The rates of the tensor `name`.
    pub fn rates(&self, name: &str, weight_decay: f64) -> Rates {
        let matches = |pattern: &str| glob(pattern.as_bytes(), name.as_bytes());
        let own = self.groups.iter().find(|group| matches(&group.pattern));
        let decays = !self.no_decay.iter().any(|pattern| matches(pattern));
        Rates {
            lr: own.map_or(1.0, |g| g.lr) * self.layer_factor(name),
            weight_decay: match own.and_then(|g| g.weight_decay) {
                Some(own) => own,
                None if decays => weight_decay,
                None => 0.0,
            },
        }
    }

    /// Patterns that match none of `names`: misspelt ones.
    pub fn unused<'a>(&'a self, names: &[&str]) -> Vec<&'a str> {
        let unused = |g: &&Group| !names.iter().any(|name| glob(g.pattern.as_bytes(), name.as_bytes()));
        self.groups.iter().filter(unused).map(|g| g.pattern.as_str()).collect()
    }

    fn layer_factor(&self, name: &str) -> f64 {
        if self.layer_decay == 1.0 {
            return 1.0;
        }
        let below = match layer_of(name) {
            Some(layer) => self.layers.saturating_sub(1 + layer),
            None if of_embeddings(name) => self.layers,
            None => 0,
        };
        self.layer_decay.powi(below as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_fall_from_the_top_and_embeddings_are_lowest() {
        let groups = Groups { layer_decay: 0.5, layers: 3, ..Groups::default() };
        let lr = |name: &str| groups.rates(name, 0.01).lr;
        assert_eq!(lr("encoder.layer.2.output.dense.weight"), 1.0);
        assert_eq!(lr("encoder.layer.0.attention.self.query.lora_A.weight"), 0.25);
        assert_eq!(lr("embeddings.word_embeddings.weight"), 0.125);
        assert_eq!(lr("2_Dense.linear.weight"), 1.0);
    }

    #[test]
    fn a_pattern_sets_rate_and_decay_and_biases_have_none() {
        let group = Group { pattern: "embeddings.*".into(), lr: 0.1, weight_decay: Some(0.0) };
        let groups = Groups { groups: vec![group], ..Groups::default() };
        assert_eq!(groups.rates("embeddings.word_embeddings.weight", 0.01), Rates { lr: 0.1, weight_decay: 0.0 });
        assert_eq!(groups.rates("encoder.layer.0.output.dense.weight", 0.01), Rates { lr: 1.0, weight_decay: 0.01 });
        assert_eq!(groups.rates("encoder.layer.0.output.dense.bias", 0.01).weight_decay, 0.0);
        for norm in [
            "encoder.layer.0.output.LayerNorm.weight",
            "layers.3.attn_norm.weight",
            "layers.0.input_layernorm.weight",
            "layers.0.self_attn.q_norm.weight",
            "encoder.block.0.layer.0.layer_norm.weight",
            "encoder.final_layer_norm.weight",
            "final_norm.weight",
            "norm.weight",
            "embeddings.norm.weight",
            "encoder.layer.0.attention.self.q_bias",
        ] {
            assert_eq!(groups.rates(norm, 0.01).weight_decay, 0.0, "{norm}");
        }
        assert!(groups.unused(&["embeddings.x"]).is_empty());
        assert_eq!(groups.unused(&["encoder.x"]), ["embeddings.*"]);
    }
}
