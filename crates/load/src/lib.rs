//! The load engine.

pub mod workload;
pub mod zipf;
mod recorder;
