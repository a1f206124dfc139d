//! The YAML as written → the checked config. Errors are located (`file:line: key = value: …`) and all reported at once.

pub mod document;
pub mod node;
mod read;
mod read_merges;
mod read_sweep;
mod read_training;
pub mod reader;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod trials;

pub use document::Document;
pub use reader::{ConfigError, ConfigErrors};
pub use schema::Config;
pub use trials::Trial;
