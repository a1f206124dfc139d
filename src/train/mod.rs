//! Fine-tuning: batches, optimizer, schedule, the loop, checkpoints, logs.

pub mod batches;
pub mod best;
pub mod checkpoint;
pub mod dev;
mod error;
pub mod groups;
pub mod guard;
pub mod log;
pub mod optimizer;
pub mod run;
pub mod sampler;
pub mod schedule;
mod trainer;

pub use error::TrainError;
pub use run::{Output, Run, Settings, run};
