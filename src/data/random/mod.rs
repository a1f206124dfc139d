//! The random number generators of NumPy and Python, draw for draw, so that a protocol samples the rows that mteb samples.

pub mod mt19937;
pub mod numpy_legacy;
pub mod pcg64;
pub mod python;

pub use numpy_legacy::RandomState;
pub use pcg64::Generator;
pub use python::PythonRandom;
