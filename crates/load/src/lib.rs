//! The load engine: keeps a set number of I/Os in flight on every namespace of a plan, from one pinned worker a core, and counts
//! them so that the result can be checked. `doorbell perf` calls [`run()`]; the `report` crate shows what it returns.
//!
//! [`plan`] says who drives what, `run` plans by it, connects and watches, `worker` is the loop of a core, `context`
//! one worker's load on one namespace, `classes` what its I/Os do, `lane` one of its queues, `timing` how its I/Os are
//! stamped, `pacing` when they arrive in an open loop, `recorder` its counts, `slices` their course in time, `coverage`
//! where they went, `fill` what they write, `verify` whether it is still there, `outage` how lost queues are replaced,
//! `survey` which zones a queue writes and `zones` the queue that does, `memory` whether there is enough for all,
//! [`workload`] (with [`zipf`] and [`permutation`]) its sequence of I/Os. `clock_check` and `head_room` measure the
//! tool itself.

#[cfg(test)]
mod audit_tests;
mod classes;
mod clock_check;
mod context;
#[cfg(test)]
mod context_tests;
mod coverage;
mod file;
mod fill;
mod head_room;
mod lane;
mod memory;
mod metadata;
mod observer;
mod outage;
#[cfg(test)]
mod outage_tests;
mod pacing;
pub mod permutation;
pub mod plan;
mod port;
mod recorder;
#[cfg(test)]
mod rest_tests;
mod run;
#[cfg(test)]
mod run_tests;
mod second_look;
mod slices;
mod stop;
mod survey;
#[cfg(test)]
mod test_queue;
mod timing;
#[cfg(test)]
mod timing_tests;
mod transport_counters;
#[cfg(test)]
mod truth_tests;
mod verify;
mod worker;
pub mod workload;
pub mod zipf;
mod zones;

pub use doorbell_kernel_io as kernel;
pub use doorbell_result::{Arrival, IoKind, Timing};
pub use metadata::Protect;
pub use observer::{Event, Observer, Second};
pub use pacing::Rate;
pub use plan::{Bound, Fill, LbaRange, Limit, PollMode, RunOptions, Selection};
pub use port::Target;
pub use run::{Companion, run};
pub use stop::StopFlag;
pub use workload::Pattern;
