//! The loop of a worker: passes over its contexts from the start signal to the end of the drain.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use doorbell_queue::Wait;
use doorbell_result::EndReason;

use crate::{
    context::{Pass, State},
    stop::{Clock, StopFlag},
};

/// How long the parts of a run are, in ticks of the worker's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub warm_up: u64,
    pub time: u64,
    /// Longest wait for what is in flight when the load has ended.
    pub drain: u64,
    /// The same when somebody asked to stop, or a controller was lost.
    pub hurried_drain: u64,
}

/// What comes to workers from outside: what ends a run, and word of controllers that are lost and brought back.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    pub stop: StopFlag,
    /// A controller is lost for good.
    pub lost: AtomicBool,
    /// Counts the times when there was news for contexts: a worker looks when it has changed.
    pub news: AtomicU64,
}

impl Ending {
    fn why(&self) -> Option<EndReason> {
        match (self.stop.requests(), self.lost.load(Ordering::Relaxed)) {
            (0, false) => None,
            (0, true) => Some(EndReason::Lost),
            _ => Some(EndReason::Signal),
        }
    }
}

/// What a worker has done so far, for the line a second; on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Progress {
    pub over: AtomicU64,
    pub busy_ticks: AtomicU64,
    pub idle_ticks: AtomicU64,
}

/// What a worker does besides its contexts.
pub(crate) struct Beside<'a> {
    /// Called once a pass.
    pub companion: Option<&'a mut (dyn FnMut() + Send)>,
    /// Sleeping, where it does not look without end.
    pub rest: Option<Rest<'a>>,
}

/// When and how a worker sleeps.
pub(crate) struct Rest<'a> {
    /// Ticks without a completion before it does.
    pub spin: u64,
    /// The longest sleep.
    pub longest: Duration,
    /// Sleeps until one of the descriptors is ready, or so long.
    pub sleep: &'a dyn Fn(&[Wait], Duration),
}

/// Runs contexts to their end: warm-up, window, drain.
pub(crate) fn drive<C: Clock>(
    contexts: &mut [Box<dyn Pass + '_>],
    clock: &C,
    times: Times,
    ending: &Ending,
    progress: &Progress,
    mut beside: Beside<'_>,
) {
    let mut waits = Vec::with_capacity(contexts.len());
    let (mut deadline, mut heard) = (None, 0);
    if let ([only], Some(Rest { spin: 0, .. })) = (&mut *contexts, &beside.rest) {
        only.sleeps_after_each_pass();
    }
    contexts.iter_mut().for_each(|context| context.begin(times.warm_up, times.time));
    let mut busy_until = clock.now();
    loop {
        let news = ending.news.load(Ordering::Acquire);
        if news != heard {
            heard = news;
            contexts.iter_mut().for_each(|context| context.attend());
        }
        let mut sum = State::default();
        for context in contexts.iter_mut() {
            let state = context.pass();
            sum.found += state.found;
            sum.running |= state.running;
            sum.in_flight += state.in_flight;
            sum.over += state.over;
            sum.busy_ticks += state.busy_ticks;
            sum.idle_ticks += state.idle_ticks;
        }
        progress.over.store(sum.over, Ordering::Relaxed);
        progress.busy_ticks.store(sum.busy_ticks, Ordering::Relaxed);
        progress.idle_ticks.store(sum.idle_ticks, Ordering::Relaxed);
        if let Some(companion) = &mut beside.companion {
            companion();
        }
        let why = ending.why();
        if let Some(why) = why.filter(|_| sum.running) {
            contexts.iter_mut().for_each(|context| context.end(why));
        } else if !sum.running {
            if sum.in_flight == 0 {
                break;
            }
            let now = clock.now();
            let hurried = why.map_or(times.drain, |_| times.hurried_drain);
            let end = deadline.map_or(now + hurried, |end: u64| end.min(now + hurried));
            deadline = Some(end);
            let reason = match ending.stop.requests() {
                2.. => Some("a second request to stop came"),
                _ => (now >= end).then_some("the time to drain is over"),
            };
            if let Some(reason) = reason {
                contexts.iter_mut().for_each(|context| context.give_up(reason));
                break;
            }
        }
        if let Some(rest) = &beside.rest {
            let now = clock.now();
            if sum.found > 0 {
                busy_until = now;
            }
            // Who is woken for nothing sleeps again at once.
            if now.saturating_sub(busy_until) >= rest.spin {
                waits.clear();
                let mut slept = match contexts {
                    [only] => only.sleep(rest.longest),
                    _ => false,
                };
                if !slept && sum.found == 0 && contexts.iter_mut().all(|context| context.arm(&mut waits)) {
                    (rest.sleep)(&waits, rest.longest);
                    slept = true;
                }
                if slept {
                    contexts.iter_mut().for_each(|context| context.has_slept());
                }
            }
        }
    }
}
