//! Faults on request: latencies, stalls, errors, lost and repeated completions, damaged data, slow digests, a limit of the rate, resets. A
//! [`Script`] says which (its grammar is in docs/fault-scripts.md), an [`Engine`] shared by all reactors decides what becomes of each
//! I/O command, and the [`Faults`] of a connection keep completions back until they are due. A target without a script has none of
//! these, and its connections ask once a command whether they have.
//!
//! Data is moved when a command is carried out; what a script delays is the completion, with the data of a Read over a socket. All
//! times are nanoseconds since the first I/O command that the target took.

mod engine;
mod latency;
mod log;
mod pending;
mod script;
mod tracking;

pub(crate) use engine::Engine;
pub(crate) use pending::{Fate, Faults, Reset};
pub(crate) use script::Damage;
pub use script::Script;
pub(crate) use tracking::Tracking;

#[cfg(test)]
mod tests;
