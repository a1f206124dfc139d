pub mod adapter;
pub mod data { pub mod atomic; pub mod matrix; pub mod rows; }
pub mod encode;
pub mod model;
pub mod nn;
pub mod loss;
pub mod objective;
pub mod train;
