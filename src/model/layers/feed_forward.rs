//! The feed-forward layers of a transformer layer, up to what they add to the residual.

use candle_core::Tensor;

use super::pass::{Pass, Place};
use crate::model::ModelError;
use crate::nn::activation::{Activation, gated, joint_gated};
use crate::nn::linear::{Joint, Linear};

/// What comes before the activation.
#[derive(Debug)]
pub enum Inner {
    /// One layer, `[hidden → inner]`.
    Plain(Linear),
    /// A gate and what it is multiplied with, `[hidden → inner]` each.
    Gated {
        /// What the activation is applied to.
        gate: Linear,
        /// The other.
        up: Linear,
        /// Both in one.
        joint: Joint,
    },
    /// Both by one layer, `[hidden → 2 inner]`, the gate first.
    FusedGated(Linear),
}

impl Inner {
    /// A gate and what it is multiplied with.
    ///
    /// # Errors
    /// Where their inputs differ.
    pub fn gated(gate: Linear, up: Linear) -> Result<Self, ModelError> {
        let joint = Joint::new(&[&gate, &up])?;
        Ok(Self::Gated { gate, up, joint })
    }
}

/// Feed-forward layers.
#[derive(Debug)]
pub struct FeedForward {
    /// Up.
    pub inner: Inner,
    /// In between.
    pub activation: Activation,
    /// Whether dropout falls on what is in between.
    pub drops: bool,
    /// Down, `[inner → hidden]`.
    pub output: Linear,
}

impl FeedForward {
    /// `[tokens, hidden]` → the same.
    ///
    /// # Errors
    /// Where the shapes do not fit.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        let activation = self.activation;
        let mut inner = match &self.inner {
            Inner::Plain(linear) => linear.forward_activated(x, activation, pass.adapter_seed(4))?,
            Inner::FusedGated(linear) => joint_gated(&linear.forward(x, pass.adapter_seed(4))?, activation)?,
            Inner::Gated { gate, up, joint } => match joint.forward(x, &[gate, up])? {
                Some(both) => joint_gated(&both, activation)?,
                None => {
                    // The sixth place is dropout's.
                    let (gate, up) = (gate.forward(x, pass.adapter_seed(4))?, up.forward(x, pass.adapter_seed(20))?);
                    gated(&gate, &up, activation)?
                }
            },
        };
        if self.drops {
            inner = pass.drop_hidden(inner, Place::Inner)?;
        }
        self.output.forward(&inner, pass.adapter_seed(5))
    }
}
