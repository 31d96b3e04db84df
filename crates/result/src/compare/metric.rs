//! The figures that are compared.

use std::ops::Range;

use crate::{
    Distribution, Document,
    document::{Latency, Slice},
};

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// I/Os a second.
    Iops,
    /// Mean latency in microseconds.
    Mean,
    /// Median.
    P50,
    /// 90th percentile.
    P90,
    /// 99th percentile.
    P99,
    /// 99.9th percentile.
    P999,
    /// Processor time an I/O in microseconds: that of passes that found completions.
    Cpu,
}

/// A figure, and by what share of itself it may be wrong.
pub(super) type Figure = (f64, f64);

impl Metric {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Iops, Self::Mean, Self::P50, Self::P90, Self::P99, Self::P999, Self::Cpu];

    /// As it is shown, and asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iops => "iops",
            Self::Mean => "mean",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Cpu => "cpu",
        }
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Iops => "IOPS",
            _ => "us",
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        self == Self::Iops
    }

    /// That of a run. In an open loop latencies are response times where `response` says so.
    pub(super) fn of(self, run: &Document, response: bool) -> Option<Figure> {
        match self {
            Self::Iops => Some((run.results.merged.iops, 0.0)),
            Self::Cpu => cpu(run),
            _ => self.of_latencies(&latency(run, response)?.distribution),
        }
        .filter(|figure| figure.0.is_finite() && figure.0 > 0.0)
    }

    fn of_latencies(self, latencies: &Distribution) -> Option<Figure> {
        match self {
            Self::Mean => latencies.mean_us().map(|mean| (mean, 0.0)),
            Self::P50 => latencies.percentile_within(50.0),
            Self::P90 => latencies.percentile_within(90.0),
            Self::P99 => latencies.percentile_within(99.0),
            Self::P999 => latencies.percentile_within(99.9),
            Self::Iops | Self::Cpu => None,
        }
    }

    /// That of a part of a time series.
    pub(super) fn of_slices(self, slices: &[Slice], range: Range<usize>) -> Option<f64> {
        let part = slices.get(range)?;
        if self == Self::Iops {
            let seconds = |slice: &Slice| slice.end_s - slice.begin_s;
            let ios: f64 = part.iter().map(|slice| slice.iops * seconds(slice)).sum();
            return Some(ios / part.iter().map(seconds).sum::<f64>()).filter(|rate| rate.is_finite());
        }
        let mut all = Distribution::default();
        part.iter().filter_map(|slice| slice.distribution.as_ref()).for_each(|one| all.merge(one));
        self.of_latencies(&all).map(|figure| figure.0)
    }
}

/// The latencies to compare.
fn latency(run: &Document, response: bool) -> Option<&Latency> {
    match &run.results.open_loop {
        Some(open) if response => open.response.as_ref(),
        _ => run.results.merged.latency.as_ref(),
    }
}

fn cpu(sum: &Document) -> Option<Figure> {
    let busy = |run: &Document| {
        let share: f64 = run.workers.iter().map(|worker| worker.busy_percent / 100.0).sum();
        share * run.results.merged.seconds
    };
    let seconds: f64 = sum.runs().into_iter().map(busy).sum();
    Some((seconds * 1e6 / sum.results.merged.ios as f64, 0.0))
}
