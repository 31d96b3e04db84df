//! An open loop (`--rate`): I/Os that are issued when they were planned to be, whatever has become of those before.

use crate::LatencyStats;

/// How arrivals lie in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrival {
    /// At equal distances.
    #[default]
    Fixed,
    /// Independent of each other: distances are exponentially distributed.
    Poisson,
    /// So many at once, 1 or more, at equal distances.
    Burst(u32),
}

impl std::fmt::Display for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
            Self::Poisson => f.write_str("poisson"),
            Self::Burst(count) => write!(f, "burst:{count}"),
        }
    }
}

/// What was planned for a context and what came of it. All counts are of arrivals planned within the window.
#[derive(Clone, Debug, Default)]
pub struct OpenLoop {
    /// Arrivals a second.
    pub rate: f64,
    /// How they lie in time.
    pub arrival: Arrival,
    /// So many were planned.
    pub planned: u64,
    /// So many of them waited because `-q` others were in flight.
    pub late: u64,
    /// So many were never issued: they still waited when the window ended.
    pub dropped: u64,
    /// Longest time in ticks from a planned arrival to the moment its I/O was issued.
    pub longest_lag: u64,
    /// Response times in ticks: from the planned arrival to the completion, of all that were issued and ended well, those included that
    /// were over only after the window.
    pub response: LatencyStats,
}
