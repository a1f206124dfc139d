//! A transformer layer in three passes on tiles, for inference: everything from one product's input to the next one's
//! is done on a block of rows while it is in the second-level cache, and nothing else is written out.
//!
//! 1. the norm before attention, queries, keys and values: by blocks of rows;
//! 2. attention: by sequences and heads;
//! 3. its output layer, residual and norm, the feed-forward layers, residual and norm: by blocks of rows. What the activation
//!    gives goes into the next product's tiles at once, never to memory.
//!
//! Results are the same to the bit whatever rows are computed together, and on however many threads.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod passes;
mod stack;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiled;
pub mod training;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use tiled::Layer;

use std::sync::Arc;

use candle_core::Tensor;

use super::activation::Activation;
use super::attention::Heads;
use super::rotary::QueryKey;

/// A linear layer.
#[derive(Debug, Clone)]
pub struct Dense {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Option<Tensor>,
}

/// A norm over rows.
#[derive(Debug, Clone)]
pub enum Norm {
    /// As they are.
    None,
    /// LayerNorm: scale, shift, what is added to the variance.
    Layer(Vec<f32>, Vec<f32>, f32),
    /// RMSNorm: scale, what is added to the mean square.
    Rms(Vec<f32>, f32),
}

/// Where a layer's norms are.
#[derive(Debug, Clone)]
pub enum Order {
    /// After each residual.
    After([Norm; 2]),
    /// Before attention and before the feed-forward layers.
    Before([Norm; 2]),
    /// Before and after each.
    Around([Norm; 4]),
}

/// What comes before the activation.
#[derive(Debug)]
pub enum Inner {
    /// One layer.
    Plain(Dense),
    /// A gate, which the activation is applied to, and what it is multiplied with.
    Gated(Dense, Dense),
}

/// What a layer is made of.
#[derive(Debug)]
pub struct Parts {
    /// To queries, keys and values, in this order: three layers, or one of all.
    pub projections: Vec<Dense>,
    /// Norms and rotary positions of queries and keys.
    pub prepare: Option<QueryKey>,
    /// How it attends.
    pub heads: Heads,
    /// Back to the hidden size.
    pub output: Dense,
    /// Up.
    pub inner: Inner,
    /// In between.
    pub activation: Activation,
    /// Down.
    pub down: Dense,
    /// Norms.
    pub order: Order,
}

/// What the layers of a pass share.
pub struct Tokens<'a> {
    /// Bounds of the sequences, `[sequences + 1]`.
    pub cu_seqlens: &'a Arc<Vec<usize>>,
    /// Position of each token, `[tokens]`.
    pub positions: &'a Arc<Vec<u32>>,
    /// What is added to the scores by distance, `[heads, 2 n − 1]`.
    pub bias: Option<&'a [f32]>,
}

/// A layer that cannot be made here.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[derive(Debug)]
pub enum Layer {}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
impl Layer {
    /// `None`.
    pub fn new(_: &Parts) -> Option<Self> {
        None
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn forward(&self, _: &mut [f32], _: &Tokens<'_>) -> candle_core::Result<()> {
        match *self {}
    }
}
