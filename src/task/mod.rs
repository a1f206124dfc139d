//! Tasks: the task file, their data, and the protocols that turn embeddings and labels into scores. No model is known
//! here: an encoder is anything that implements [`evaluate::TextEncoder`].

pub mod classification;
pub mod clustering;
pub mod evaluate;
pub mod label;
pub mod load;
pub mod multilabel;
pub mod protocol;
pub mod select;
pub mod spec;
pub mod sts;
