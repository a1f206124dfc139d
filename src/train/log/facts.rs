//! What the logs say of a run beside its records.

use serde_json::{Map, Value};

/// What is known of a run when it starts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunFacts {
    /// The model trained from: a name of the hub or a folder.
    pub base: String,
    /// What is trained: `full`, `lora`, `qlora` and so on.
    pub method: String,
    /// Bits of the frozen base's weights where it is quantized.
    pub quantization_bits: Option<u32>,
    /// The adapter's settings, such as `{"r": 8, "alpha": 32, "dropout": 0.1}`; none in full training.
    pub adapter: Option<Value>,
    /// Parameters of the model, the adapter's included.
    pub total_parameters: u64,
    /// Parameters that are trained.
    pub trainable_parameters: u64,
    /// All settings of the run.
    pub settings: Value,
    /// Optimizer steps that the run is to make.
    pub max_steps: u64,
    /// Passes over the rows that it is to make, a begun one counted.
    pub epochs: u64,
    /// Rows a batch.
    pub batch: u64,
    /// Steps between dev evaluations; none evaluates at the end only.
    pub eval_every: Option<u64>,
    /// Steps between checkpoints; none saves at the end only.
    pub save_every: Option<u64>,
    /// What makes an evaluation the best; none has no best one.
    pub best: Option<BestMetric>,
}

/// The metric that picks the best evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestMetric {
    /// Its name in [`EvalRecord::metrics`](super::EvalRecord::metrics).
    pub name: String,
    /// Whether more is better.
    pub greater_is_better: bool,
}

/// What is known of a run at its end only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunSummary {
    /// Whether the run came to its end, and was not stopped before.
    pub completed: bool,
    /// Most memory held at once, in bytes.
    pub peak_memory: Option<u64>,
    /// Further facts for the report, by key; keys that the report has already are not overwritten.
    pub extra: Map<String, Value>,
}
