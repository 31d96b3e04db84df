//! What the tool itself can drive here: the same loop, with the same depth, split, timing and pattern, on queues that answer at once.
//! What the device reached is the device's as long as it is well below that.

use std::time::Duration;

use doorbell_queue::null::NullQueue;
use doorbell_result::ContextResult;

use crate::{
    context::{Context, Pass, Task},
    fill::Filling,
    lane::Geometry,
    observer::Reporter,
    stop::Clock,
    worker::{Beside, Ending, Progress, Times, drive},
    workload::Workload,
};

/// A context of the run, to be tried again on queues that answer at once.
pub(crate) struct Again {
    task: Task,
    workload: Workload,
    /// Places in each of its queues.
    slots: Vec<u16>,
}

impl Again {
    /// The same load; data is not touched, so that a byte stands for a block.
    pub fn new(task: &Task, workload: &Workload, slots: Vec<u16>) -> Self {
        let mut geometry = Geometry { block_size: 1, io_unit: u32::MAX, ..task.geometry.clone() };
        geometry.classes.iter_mut().for_each(|class| class.split = class.split.with_block_size(1));
        let fill = Filling::default();
        let task = Task { geometry, limit: None, node: None, alignment: 1, fill, ..task.clone() };
        Self { task, workload: workload.clone(), slots }
    }
}

/// I/Os a second over `span` on this core; `None` where it cannot be tried.
pub(crate) fn measure(again: Vec<Again>, clock: &impl Clock, span: Duration, ticks: u64) -> Option<f64> {
    let silent = |_: crate::Event<'_>| {};
    let reporter = Reporter::new(&silent, 1);
    let context = |again: Again| {
        let queues: Vec<_> = again.slots.into_iter().map(NullQueue::new).collect();
        Context::new(again.task, again.workload, queues, clock.clone(), &reporter).ok()
    };
    let contexts: Option<Vec<_>> = again.into_iter().map(context).collect();
    let mut contexts: Vec<Box<dyn Pass + '_>> =
        contexts?.into_iter().map(|context| Box::new(context) as Box<dyn Pass>).collect();
    let times = Times { warm_up: 0, time: ticks, drain: ticks, hurried_drain: ticks };
    let beside = Beside { companion: None, rest: None };
    drive(&mut contexts, clock, times, &Ending::default(), &Progress::default(), beside);
    let rate = |result: ContextResult| result.completed() as f64 / (result.window_ticks as f64).max(1.0);
    let rates: f64 = contexts.into_iter().map(|context| rate(context.finish().result)).sum();
    Some(rates * ticks as f64 / span.as_secs_f64())
}
