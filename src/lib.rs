//! Evaluate, fine-tune and merge text embedders.
//!
//! The pipeline: [`config`] → [`plan`] (a grid becomes a graph of content-addressed steps) → [`exec`] ([`train`], [`merge`],
//! [`encode`], [`task`]) → [`store`] → [`report`]. [`nn`] holds the packed, differentiable operations, [`model`] the
//! architectures and model folders, [`adapter`] LoRA, [`loss`] and [`objective`] what training minimises, [`mine`] hard
//! negatives for it, [`metric`] and [`estimator`] what the protocols compute, [`data`] tables and NumPy-compatible draws.
//! `ARCHITECTURE.md` says which may import which.

pub mod adapter;
pub mod cli;
pub mod config;
pub mod data;
pub mod encode;
pub mod estimator;
pub mod exec;
pub mod hub;
pub mod loss;
pub mod merge;
pub mod metric;
pub mod mine;
pub mod model;
pub mod nn;
pub mod objective;
pub mod plan;
pub mod report;
pub mod store;
pub mod task;
pub mod train;
