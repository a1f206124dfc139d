//! A run's folder: steps with status and locks, the records that reports read, and what is told and tidied of it.

pub mod best;
pub mod budget;
pub mod choice;
pub mod clean;
pub mod disk;
pub mod folder;
pub mod groups;
pub mod listing;
pub mod lock;
pub mod model_card;
pub mod models;
pub mod mteb;
pub mod record;
pub mod results;
pub mod scoring;
pub mod status;
pub mod survey;
