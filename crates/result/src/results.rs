//! From what the engine measured to the sums of the document.

use std::collections::BTreeMap;

use crate::{
    ContextResult, Distribution, IoKind, Latency, LatencyStats, Measurement, OpenLoop, Operation, RunResult,
    Verification,
    document::{ContextMeasurement, ContextPlan, OpenLoopRecord, OutageRecord, Results, SlowIo, WorkerUse, ZoneRecord},
};

/// The slowest I/Os of a run that are told.
const SLOWEST: usize = 16;

impl Results {
    /// The sums of a run.
    pub fn of(run: &RunResult) -> Self {
        let contexts: Vec<_> = run.contexts.iter().map(|context| ContextMeasurement::of(context, run)).collect();
        let parts = |wanted: &dyn Fn(&ContextMeasurement) -> bool| {
            Measurement::merged(contexts.iter().filter(|context| wanted(context)).map(|context| &context.merged))
        };
        let operation = |name: &str| {
            let of: Vec<_> = contexts.iter().filter_map(|context| context.operations.get(name)).collect();
            (!of.is_empty()).then(|| (name.to_owned(), Measurement::merged(of)))
        };
        Self {
            merged: parts(&|_| true),
            operations: IoKind::ALL.into_iter().filter_map(|kind| operation(kind.word())).collect(),
            sizes: sizes(run),
            namespaces: contexts.iter().map(|one| (one.path.clone(), parts(&|other| other.path == one.path))).collect(),
            cores: contexts.iter().map(|one| (one.core, parts(&|other| other.core == one.core))).collect(),
            contexts,
            open_loop: OpenLoopRecord::of(run),
            window_began_s: None,
            verification: Verification::sum(run.contexts.iter().filter_map(|context| context.verification.as_ref())),
        }
    }
}

/// The sums by size, where there are several.
fn sizes(run: &RunResult) -> BTreeMap<u32, Measurement> {
    let of = |size: u32| {
        let contexts = run.contexts.iter();
        let parts = contexts.filter_map(|one| Some(Measurement::of(one.sizes.get(&size)?, one.window_ticks, run)));
        Measurement::merged(&parts.collect::<Vec<_>>())
    };
    run.contexts.iter().flat_map(|context| context.sizes.keys()).map(|&size| (size, of(size))).collect()
}

impl OpenLoopRecord {
    fn of(run: &RunResult) -> Option<Self> {
        let loops: Vec<&OpenLoop> = run.contexts.iter().filter_map(|context| context.open_loop.as_ref()).collect();
        let sum = |of: fn(&OpenLoop) -> u64| loops.iter().map(|one| of(one)).sum();
        let mut response = LatencyStats::default();
        loops.iter().for_each(|one| response.merge(&one.response));
        let lag = loops.iter().map(|one| one.longest_lag).max()?;
        Some(Self {
            rate: loops.iter().map(|one| one.rate).sum(),
            arrival: loops[0].arrival.to_string(),
            planned: sum(|one| one.planned),
            late: sum(|one| one.late),
            dropped: sum(|one| one.dropped),
            longest_lag_us: lag as f64 * 1e6 / run.ticks_per_second,
            response: Latency::of(Distribution::new(&response, run.ticks_per_second)),
        })
    }
}

impl ContextMeasurement {
    fn of(context: &ContextResult, run: &RunResult) -> Self {
        let seconds = |ticks: u64| ticks as f64 / run.ticks_per_second;
        let operations: BTreeMap<String, Measurement> = context
            .operations()
            .filter(|(_, operation)| operation.completed > 0 || !operation.errors.is_empty())
            .map(|(kind, operation)| (kind.word().to_owned(), Measurement::of(operation, context.window_ticks, run)))
            .collect();
        // Both have the window of the context.
        let merged = Measurement { seconds: seconds(context.window_ticks), ..Measurement::merged(operations.values()) };
        let outages = context.outages.iter().map(|outage| OutageRecord {
            began_s: seconds(outage.began),
            silent_s: seconds(outage.silent),
            lost: outage.lost,
            attempts: outage.attempts,
            back: outage.back,
            why: outage.why.clone(),
        });
        let counters = context.transport.iter().flat_map(|transport| &transport.counters);
        Self {
            core: context.core,
            name: context.name.clone(),
            path: context.path.clone(),
            merged,
            operations,
            account: context.account,
            mean_in_flight: context.mean_in_flight(),
            outages: outages.collect(),
            timed_out: (context.timeouts.timed_out, context.timeouts.aborts, context.timeouts.aborted),
            zone_management: context.zones.map(ZoneRecord::of),
            counters: counters.map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        }
    }
}

impl ContextPlan {
    /// What each worker did on each namespace.
    pub fn all(run: &RunResult) -> Vec<Self> {
        let plan = |context: &ContextResult| Self {
            core: context.core,
            path: context.path.clone(),
            ios: context.layout.ios,
            first_block: context.layout.first_block,
            blocks: context.layout.blocks,
            commands_per_io: context.layout.commands_per_io,
            queues: context.layout.queues.clone(),
            memory_node: context.layout.memory_node,
        };
        run.contexts.iter().map(plan).collect()
    }
}

impl SlowIo {
    /// The slowest I/Os of all contexts, slowest first.
    pub fn all(run: &RunResult) -> Vec<Self> {
        let seconds = |ticks: u64| ticks as f64 / run.ticks_per_second;
        let of = |context: &'_ ContextResult| {
            let (path, core) = (context.path.clone(), context.core);
            let slow = context.slowest.iter().map(move |io| Self {
                latency_us: seconds(io.latency) * 1e6,
                issued_s: seconds(io.issued),
                operation: io.kind.word().into(),
                lba: io.lba,
                path: path.clone(),
                core,
                in_flight: io.in_flight,
            });
            slow.collect::<Vec<_>>()
        };
        let mut all: Vec<Self> = run.contexts.iter().flat_map(of).collect();
        all.sort_by(|one, other| other.latency_us.total_cmp(&one.latency_us));
        all.truncate(SLOWEST);
        all
    }
}

impl WorkerUse {
    /// What each worker's core did.
    pub fn all(run: &RunResult) -> Vec<Self> {
        let one = |worker: &crate::WorkerResult| {
            let contexts = || run.contexts.iter().filter(|context| context.core == worker.core);
            let sum = |of: &dyn Fn(&ContextResult) -> u64| contexts().map(of).sum::<u64>() as f64;
            let (busy, idle) = (sum(&|context| context.busy_ticks), sum(&|context| context.idle_ticks));
            let (ios, all_ios) = (sum(&ContextResult::completed), sum(&|context| context.account.submitted));
            let doorbells = sum(&|context| context.queue_use.doorbells);
            let share = |part: f64, whole: f64| (whole > 0.0).then(|| part / whole);
            Self {
                core: worker.core,
                cpu_percent: worker.cpu_share * 100.0,
                busy_percent: share(busy, busy + idle).unwrap_or(0.0) * 100.0,
                ticks_per_io: share(busy, ios),
                polls_per_completion: share(
                    sum(&|context| context.queue_use.polls),
                    sum(&|context| context.queue_use.completions),
                ),
                doorbells_per_io: share(doorbells, all_ios).filter(|_| doorbells > 0.0),
            }
        };
        run.workers.iter().map(one).collect()
    }
}

impl Measurement {
    fn of(operation: &Operation, window_ticks: u64, run: &RunResult) -> Self {
        let (seconds, ios) = (window_ticks as f64 / run.ticks_per_second, operation.completed);
        let bytes = operation.bytes;
        let a_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        Self {
            ios,
            bytes,
            seconds,
            iops: a_second(ios as f64),
            mib_per_s: a_second(bytes as f64 / 1_048_576.0),
            errors: operation.errors.clone(),
            latency: Latency::of(Distribution::new(&operation.latency, run.ticks_per_second)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(latencies: std::ops::Range<u64>) -> Operation {
        let mut latency = LatencyStats::default();
        latencies.clone().for_each(|ticks| latency.record(ticks));
        Operation { completed: latency.count, bytes: latency.count << 20, latency, errors: BTreeMap::new() }
    }

    fn context(core: usize, path: &str, reads: u64, writes: u64) -> ContextResult {
        ContextResult {
            core,
            path: path.into(),
            window_ticks: 2000,
            reads: operation(1000..1000 + reads),
            writes: operation(5000..5000 + writes),
            ..ContextResult::default()
        }
    }

    #[test]
    fn the_parts_add_up_every_way() {
        let mut failing = context(1, "b", 0, 0);
        failing.reads.errors.insert("Aborted".into(), 7);
        let contexts = vec![context(0, "a", 100, 50), context(0, "b", 200, 0), context(1, "a", 30, 300), failing];
        let run = RunResult { io_size: 1 << 20, ticks_per_second: 1000.0, contexts, ..RunResult::default() };
        let results = Results::of(&run);
        let merged = &results.merged;
        assert_eq!((merged.ios, merged.bytes, merged.seconds, merged.failed()), (680, 680 << 20, 2.0, 7));
        assert_eq!((merged.iops, merged.mib_per_s), (340.0, 340.0));
        let latency = merged.latency.as_ref().unwrap();
        assert_eq!((latency.distribution.samples, latency.min_us, latency.max_us), (680, 1e6, 5.299e6));
        let by = |sums: Vec<&Measurement>| {
            let all = Measurement::merged(sums);
            assert_eq!((&all.latency, all.ios, all.failed()), (&merged.latency, 680, 7));
        };
        by(results.namespaces.values().collect());
        by(results.cores.values().collect());
        by(results.operations.values().collect());
        by(results.contexts.iter().map(|context| &context.merged).collect());
        assert_eq!(results.operations["write"].ios, 350);
        assert_eq!((results.cores[&0].ios, results.namespaces["b"].ios), (350, 200));
        assert_eq!((results.contexts[1].operations.len(), results.contexts[3].operations["read"].failed()), (1, 7));
        assert_eq!(Results::of(&RunResult::default()), Results::default());
    }
}
