//! Self-attention of a layer, up to what it adds to the residual.

use candle_core::Tensor;

use super::pass::{Pass, Place};
use crate::model::ModelError;
use crate::nn::attention::{Heads, attention, joint_attention};
use crate::nn::linear::{Joint, Linear};
use crate::nn::rotary::QueryKey;

/// How queries, keys and values are made of token vectors.
#[derive(Debug)]
pub enum Projections {
    /// By three layers.
    Separate(Box<Separate>),
    /// By one layer, side by side.
    Fused(Linear),
}

/// Layers for queries, keys and values.
#[derive(Debug)]
pub struct Separate {
    /// `[hidden → heads depth]`.
    query: Linear,
    /// `[hidden → key_values depth]`.
    key: Linear,
    /// As `key`.
    value: Linear,
    /// The three in one.
    joint: Joint,
}

impl Separate {
    /// The layers for queries, keys and values.
    pub(super) fn all(&self) -> [&Linear; 3] {
        [&self.query, &self.key, &self.value]
    }
}

impl Projections {
    /// Of three layers.
    ///
    /// # Errors
    /// Where their inputs differ.
    pub fn separate(query: Linear, key: Linear, value: Linear) -> Result<Self, ModelError> {
        let joint = Joint::new(&[&query, &key, &value])?;
        Ok(Self::Separate(Box::new(Separate { query, key, value, joint })))
    }
}

/// Self-attention with its projections.
#[derive(Debug)]
pub struct SelfAttention {
    /// To queries, keys and values.
    pub projections: Projections,
    /// Norms and rotary positions of queries and keys.
    pub prepare: Option<QueryKey>,
    /// How it attends; its dropout is the pass's.
    pub heads: Heads,
    /// Whether it adds the pass's bias by distance to its scores.
    pub biased: bool,
    /// `[heads depth → hidden]`.
    pub output: Linear,
}

impl SelfAttention {
    /// `[tokens, hidden]` → the same.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        self.forward_biased(x, pass, pass.relative.as_ref().filter(|_| self.biased))
    }

    /// As [`Self::forward`], with a bias of its own, `[heads, 2 n − 1]`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_biased(&self, x: &Tensor, pass: &Pass, bias: Option<&Tensor>) -> candle_core::Result<Tensor> {
        let dropout = pass.weights(Place::Weights)?;
        let heads = Heads { causal: self.heads.causal || pass.causal, dropout, ..self.heads.clone() };
        let qkv = match &self.projections {
            Projections::Fused(linear) => linear.forward(x, pass.adapter_seed(0))?,
            Projections::Separate(layers) => {
                match layers.joint.forward(x, &[&layers.query, &layers.key, &layers.value])? {
                    Some(qkv) => qkv,
                    None => {
                        let q = layers.query.forward(x, pass.adapter_seed(0))?;
                        let k = layers.key.forward(x, pass.adapter_seed(1))?;
                        let v = layers.value.forward(x, pass.adapter_seed(2))?;
                        if self.prepare.is_none() && bias.is_none() {
                            let context = attention(&q, &k, &v, &pass.cu_seqlens, heads)?;
                            return self.output.forward(&context, pass.adapter_seed(3));
                        }
                        Tensor::cat(&[q, k, v], 1)?
                    }
                }
            }
        };
        let qkv = match &self.prepare {
            Some(prepare) => prepare.forward(&qkv, &pass.positions)?,
            None => qkv,
        };
        self.output.forward(&joint_attention(&qkv, &pass.cu_seqlens, heads, bias)?, pass.adapter_seed(3))
    }
}
