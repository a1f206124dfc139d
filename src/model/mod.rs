//! Embedding models: folders in and out, tokenizer, architecture, pooling and heads.

pub mod architecture;
pub mod decoder;
pub mod embedder;
mod error;
pub mod files;
pub mod layers;
pub mod layout;
pub mod names;
pub mod parameters;
pub mod prompts;
pub mod scratch;
pub mod tokenizer;
mod vocabulary;
pub mod weights;

pub use architecture::ModelDropout;
pub use decoder::Decoder;
pub use embedder::{BuildOptions, Embedder, Mode};
pub use error::ModelError;
pub use files::ModelFiles;
pub use tokenizer::TextTokenizer;
