//! `doorbell perf`: the load generator's command.

pub mod options;
