//! The load engine.

mod context;
#[cfg(test)]
mod context_tests;
mod lane;
pub mod observer;
pub mod plan;
mod port;
mod recorder;
pub mod run;
mod split;
pub mod stop;
#[cfg(test)]
mod test_queue;
mod worker;
pub mod workload;
pub mod zipf;
