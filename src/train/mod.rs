//! Fine-tuning: batches, optimizer, schedule, the loop, checkpoints.

pub mod batches;
pub mod dev;
mod error;
pub mod optimizer;
pub mod run;
pub mod schedule;

pub use error::TrainError;
pub use run::{Output, Settings, run};
