//! Tasks: the task file, their data, and the protocols that turn embeddings and labels into scores. No model is known
//! here: an encoder is anything that implements [`evaluate::TextEncoder`].

pub mod benchmark;
pub mod bitext_mining;
pub mod classification;
pub mod clustering;
pub mod evaluate;
pub mod files;
pub mod label;
pub mod load;
mod load_ranking;
pub mod multilabel;
pub mod pair_classification;
pub mod protocol;
pub mod ranking;
mod read;
pub mod repository;
pub mod select;
pub mod spec;
pub mod sts;
