//! Measures of predictions against labels, and what may be said of their uncertainty.

pub mod aggregate;
pub mod average_precision;
pub mod bootstrap;
pub mod classification;
pub mod clustering;
pub mod correlation;
pub mod interval;
pub mod moments;
pub mod multilabel;
pub mod outcomes;
pub mod ranking;
pub mod thresholds;
