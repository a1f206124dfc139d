//! Losses: tensors in, a scalar out. No model, no randomness.
//!
//! Embeddings come as the model gives them; a loss that compares by cosine normalises them itself. All values are `f32`.

pub mod adaptive_margin;
pub mod angle;
pub mod arcface;
pub mod cosent;
pub mod distance;
pub mod distillation;
pub mod gist;
pub mod info_nce;
pub mod margin;
pub mod matryoshka;
pub mod regression;
pub mod simcse;
pub mod temperature;
pub mod triplet;
pub mod triplet_mining;

mod math;
