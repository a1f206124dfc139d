//! Merging models: SLERP of two, by layer where that is asked for, and the search for its α; weighted means of any number.

mod check;
pub mod depth;
pub mod linear;
pub mod search;
pub mod slerp;
#[cfg(test)]
mod tests;

pub use check::check;
