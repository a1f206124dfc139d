//! A run's folder: steps with status and locks, and the records that reports read.

pub mod folder;
pub mod lock;
pub mod mteb;
pub mod record;
pub mod scoring;
