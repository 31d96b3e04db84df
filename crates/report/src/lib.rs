//! Every way to show a result. Called by the subcommands of `doorbell`; each function makes a complete piece
//! of text from the result model, and prints nothing itself. The layouts that `spdk_nvme_perf` has too are
//! the same byte for byte, so that what reads its output reads ours.

pub mod audit;
pub mod compare;
pub mod csv;
pub mod failures;
pub mod hlog;
pub mod merge;
pub mod open_loop;
pub mod parts;
pub mod percentiles;
pub mod spdk_latency;
pub mod spdk_table;
pub mod status_line;
pub mod telemetry;
pub mod timing;
pub mod transport_stats;
pub mod verification;
pub mod zones;

/// Arrivals a second for people: no more of them than a thousandth.
fn arrivals(rate: f64) -> f64 {
    (rate * 1e3).round() / 1e3
}

/// `ticks` in microseconds.
fn microseconds(ticks: f64, ticks_per_second: f64) -> f64 {
    ticks * 1e6 / ticks_per_second
}
