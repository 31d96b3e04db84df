//! What a context leaves: its measurements put together, and what there is to say about them.

use std::{
    thread,
    time::{Duration, Instant},
};

use doorbell_queue::{Drain, IoQueue};
use doorbell_result::{ContextResult, EndReason, Layout, Precision, QueueUse, SlowRecord, Timing};

use super::Context;
use crate::{
    classes::add_up,
    coverage::Kind,
    recorder::{Errors, Slow},
    slices::Slice,
    stop::Clock,
    transport_counters::counters,
};

/// How long the end of a run waits for a device to let go of buffers.
const LET_GO: Duration = Duration::from_millis(200);

/// What a context leaves.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub result: ContextResult,
    pub end: EndReason,
    pub problems: Vec<String>,
    /// What was recorded last, and what failed, when slices were given away; the result has none of their sums then.
    pub last: Option<(Box<Slice>, Errors)>,
    /// The first reads whose protection information the controller found wrong: LBA and blocks.
    pub suspects: Vec<(u64, u32)>,
}

impl<Q: IoQueue, C: Clock> Context<'_, Q, C> {
    /// What was measured, once the device has let go of the buffers, or has had the time to.
    pub(super) fn into_outcome(mut self) -> Outcome {
        let at_risk = || self.lanes.iter().any(|lane| lane.stopped && lane.queue.drained() != Drain::Clean);
        // What was given up is let go of by the controller's thread, a moment later.
        let deadline = Instant::now() + LET_GO;
        while at_risk() && Instant::now() < deadline {
            thread::sleep(LET_GO / 100);
        }
        if at_risk() {
            self.problems.push(format!(
                "{} from core {}: the device may still write to {} bytes of buffers, which are not reused",
                self.task.path,
                self.task.core,
                self.arena.region().len()
            ));
            std::mem::forget(self.arena.clone());
        }
        self.end_outage(false);
        if let Some(protector) = &self.protector {
            self.problems.extend(protector.problems(&self.task.path, self.task.core));
        }
        self.counted.extend(self.lanes.iter().map(|lane| lane.queue.counters()));
        let transport = self.transport.take().map(|(name, device)| counters(name, device, &self.counted));
        let verification = self.verifier.take().map(|verifier| verifier.finish(&self.task.path));
        if let Some(found) = verification.as_ref().filter(|found| found.wrong() > 0) {
            let kinds = found.mismatches.iter().map(|(kind, count)| format!("{kind}: {count}"));
            self.problems.push(format!(
                "{} from core {}: {} of {} blocks that were read were not what they should have been ({})",
                self.task.path,
                self.task.core,
                found.wrong(),
                found.checked,
                kinds.collect::<Vec<_>>().join(", ")
            ));
        }
        let precision = self.precision();
        // Who was to issue so many I/Os has dropped none.
        let until = if self.ended == Some(EndReason::Count) { 0 } else { self.recorder.end().min(self.now) };
        let open_loop = self.pacing.take().map(|pacing| pacing.finish(until));
        let mut queue_use = QueueUse::default();
        for queue in &self.counted {
            queue_use.polls += queue.polls;
            queue_use.completions += queue.completions;
            queue_use.doorbells +=
                queue.sq_doorbells + queue.sq_shadow_doorbells + queue.cq_doorbells + queue.cq_shadow_doorbells;
        }
        let sums = self.recorder.finish(self.clock.now());
        let (unit, task) = (u64::from(self.task.unit), self.task);
        let labels = task.geometry.labels();
        let slow = |io: &Slow| SlowRecord {
            latency: io.latency,
            issued: io.issued,
            kind: labels[io.class].kind,
            lba: io.lba,
            in_flight: io.in_flight,
        };
        let mut result = ContextResult {
            layout: Layout {
                depth: task.depth,
                ios: task.limit,
                sequential: task.kind == Kind::Sequential,
                full: task.kind == (Kind::Full { alone: true }),
                first_block: task.geometry.first_block + task.part.start * unit,
                blocks: (task.part.end - task.part.start) * unit,
                commands_per_io: task.geometry.most_pieces(),
                queues: self.queues,
                memory_node: task.node,
            },
            name: task.name,
            path: task.path,
            core: task.core,
            window_start: sums.window_start,
            window_ticks: sums.window_ticks,
            precision,
            account: sums.account,
            audit: sums.audit,
            coverage: self.coverage.finish(),
            failed_commands: self.failed_commands,
            slowest: sums.slowest.iter().map(slow).collect(),
            queue_use,
            busy_ticks: sums.busy_ticks,
            idle_ticks: sums.idle_ticks,
            transport,
            outages: self.outages,
            timeouts: self.timeouts,
            open_loop,
            verification,
            ..ContextResult::default()
        };
        let last = match self.series {
            true => Some((sums.slice, sums.errors)),
            false => {
                add_up(&mut result, &labels, &sums.slice.tallies, &sums.errors);
                None
            }
        };
        let (end, problems, suspects) = (self.ended.unwrap_or_default(), self.problems, self.suspects);
        Outcome { result, end, problems, last, suspects }
    }

    fn precision(&self) -> Precision {
        let largest_error = match self.task.timing {
            Timing::Exact | Timing::Sampled(_) => self.clock_cost,
            Timing::Batch => self.clock_cost + self.longest_use as f64,
            Timing::Off => 0.0,
        };
        Precision { clock_cost: self.clock_cost, largest_error }
    }
}
