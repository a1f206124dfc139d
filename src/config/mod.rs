//! The YAML as written → the checked config. Errors are located (`file:line: key = value: …`) and all reported at once.

pub mod document;
pub mod node;
pub mod reader;
pub mod schema;

pub use document::{Document, Trial};
pub use reader::{ConfigError, ConfigErrors};
pub use schema::Config;
