//! What variants took, in numbers that do not depend on the machine.

use super::steps::TrainLog;
use super::{Engine, ExecError};
use crate::config::schema::Adapter;
use crate::store::record::Cost;
use crate::train::run::linear_layers;

impl Engine<'_> {
    /// What the untouched base took here: nothing.
    pub(super) fn base_cost(&self) -> Result<Cost, ExecError> {
        let parameters = self.base()?.weights.values().map(|tensor| tensor.elem_count() as u64).sum();
        Ok(Cost { parameters, ..Cost::default() })
    }

    /// What a training took up to `step`.
    pub(super) fn training_cost(&self, trial: usize, log: &TrainLog, step: usize) -> Result<Cost, ExecError> {
        let planned = &self.plan.trials[trial];
        let share = step as f64 / planned.steps.max(1) as f64;
        let tokens = (log.tokens as f64 * share).round();
        let layers: usize = linear_layers(&*self.base()?).values().map(|(outputs, inputs)| outputs * inputs).sum();
        // Forward, and backward for the activations: 4 a weight; 2 more where the weight itself is trained.
        let per_token = match planned.trial.config.adapter {
            Adapter::Full => 6.0 * layers as f64,
            Adapter::Lora(_) | Adapter::Qlora { .. } => 4.0 * layers as f64 + 6.0 * log.trainable as f64,
        };
        Ok(Cost { tokens: tokens as u64, trainable: log.trainable, flops: tokens * per_token, ..self.base_cost()? })
    }
}

/// Together.
pub(super) fn sum(parts: &[Cost]) -> Cost {
    parts.iter().fold(Cost::default(), |all, part| Cost {
        tokens: all.tokens + part.tokens,
        trainable: all.trainable + part.trainable,
        parameters: part.parameters,
        flops: all.flops + part.flops,
    })
}
