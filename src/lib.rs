pub mod adapter;
pub mod data { pub mod atomic; pub mod matrix; }
pub mod encode;
pub mod model;
pub mod nn;
