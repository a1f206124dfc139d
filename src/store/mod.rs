//! A run's folder: steps with status and locks, and the records that reports read.

pub mod choice;
pub mod folder;
pub mod groups;
pub mod lock;
pub mod mteb;
pub mod record;
pub mod scoring;
