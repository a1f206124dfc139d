//! A run's folder: steps with status and locks, and the records that reports read.

pub mod folder;
pub mod mteb;
pub mod record;
pub mod results;
pub mod scoring;
