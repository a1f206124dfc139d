//! Tables, training rows, atomic files, and draws that equal NumPy's and Python's.

pub mod atomic;
pub mod cell;
pub mod corpus;
pub mod embedding_file;
pub mod matrix;
pub mod random;
pub mod rows;
pub mod size;
pub mod stratify;
pub mod subsample;
pub mod suggest;
pub mod table;
mod text_tables;
pub mod training;
