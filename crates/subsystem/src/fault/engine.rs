//! What becomes of a command: the part of a script that all connections share.
//!
//! The n-th command that meets a rule's conditions gets the n-th number of the rule's sequence, whichever connection it came over. So
//! a seed repeats the sequence of latencies and failures, however many reactors there are; which command meets which of them
//! depends on the order in which they come.

use std::{
    io,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_spec::{command::Command, status::Status};
use rustix::time::{ClockId, clock_gettime};

use super::{
    latency::unit,
    log::Log,
    script::{Damage, Deed, Rule, Script, Target},
    tracking::Tracking,
};
use crate::controller::History;

/// A script that is carried out.
#[derive(Debug)]
pub(crate) struct Engine {
    script: Script,
    /// The moment that all times count from, on the system's monotonic clock.
    epoch: Arc<OnceLock<u64>>,
    /// Commands so far that met the conditions of each rule.
    met: Vec<AtomicU64>,
    /// Commands so far, for the limit of the rate: when the next may complete.
    next: AtomicU64,
    pub(super) log: Option<Log>,
    /// Latencies for hosts that ask for them, if the script offers them.
    pub(crate) tracking: Option<Tracking>,
    /// What blocks held before, where reads may be stale.
    pub(super) history: Option<Arc<History>>,
    /// Whether data is damaged at all.
    pub(super) corrupts: bool,
}

/// What is to become of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Earliest completion.
    pub(super) due: u64,
    pub(super) failure: Option<Status>,
    pub(super) dropped: bool,
    pub(super) duplicated: bool,
    /// What becomes of its data, and bits that choose how.
    pub(super) damage: Option<(Damage, u64)>,
}

impl Engine {
    /// Carries a script out, and writes to the file at `log` what came of it.
    ///
    /// # Errors
    /// Why there can be no such file.
    pub(crate) fn new(script: Script, log: Option<&Path>) -> io::Result<Arc<Self>> {
        let met = script.rules.iter().map(|_| AtomicU64::new(0)).collect();
        let epoch = Arc::default();
        let log = log.map(|path| Log::create(path, &epoch)).transpose()?;
        let tracking = script.intel_latency.then(Tracking::default);
        let damages = |wanted: fn(Damage) -> bool| {
            script.rules.iter().any(|rule| matches!(rule.deed, Deed::Damage(damage) if wanted(damage)))
        };
        let (corrupts, stale) = (damages(|_| true), damages(|damage| damage == Damage::StaleRead));
        let history = stale.then(Arc::default);
        Ok(Arc::new(Self { tracking, script, epoch, met, next: AtomicU64::new(0), log, history, corrupts }))
    }

    /// Ends the log.
    ///
    /// # Errors
    /// What it lacks, and why.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let done = self.log.as_ref().map_or(Ok(()), Log::finish);
        done.map_err(|why| format!("the log of the fault script {why}"))
    }

    /// The time now. The first call makes it begin.
    pub(super) fn now(&self) -> u64 {
        let now = monotonic();
        now.saturating_sub(*self.epoch.get_or_init(|| now))
    }

    /// When that will be; now, when it is over.
    pub(super) fn instant(&self, time: u64) -> Option<Instant> {
        let left = self.epoch.get()?.saturating_add(time).saturating_sub(monotonic());
        Instant::now().checked_add(Duration::from_nanos(left))
    }

    /// Whether time has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.epoch.get().is_some()
    }

    /// Nanoseconds that the digests of so many bytes take.
    pub(super) fn digests(&self, bytes: u32) -> u64 {
        (u128::from(self.script.digest) * u128::from(bytes) / 1024) as u64
    }

    /// What becomes of a command that came at `now`.
    pub(super) fn judge(&self, command: &Command, now: u64) -> Verdict {
        let mut verdict = Verdict { due: now.max(self.turn(now)), ..Verdict::default() };
        for (at, (rule, met)) in self.script.rules.iter().zip(&self.met).enumerate() {
            let Some(bits) = self.hit(at as u64, rule, met, command) else { continue };
            match &rule.deed {
                Deed::Delay(latency) => verdict.due = verdict.due.saturating_add(latency.draw(bits)),
                Deed::Fail(status) => {
                    verdict.failure.get_or_insert(*status);
                }
                Deed::Drop => verdict.dropped = true,
                Deed::Duplicate => verdict.duplicated = true,
                Deed::Damage(damage) => verdict.damage = verdict.damage.or(Some((*damage, bits))),
            }
        }
        verdict
    }

    /// When a completion goes that was to go at `due`: not within a stall.
    pub(super) fn defer(&self, mut due: u64) -> u64 {
        // The end of one may lie in another.
        while let Some(end) = self.script.stalls.iter().find_map(|&(when, span)| {
            let end = when.last(due)?.saturating_add(span);
            (due < end).then_some(end)
        }) {
            due = end;
        }
        due
    }

    /// The first reset after `since` that is due by `now`.
    pub(super) fn reset(&self, since: u64, now: u64) -> Option<Target> {
        let due = |&&(when, _): &&(_, _)| super::script::When::last(when, now).is_some_and(|at| at > since);
        self.script.resets.iter().find(due).map(|&(_, target)| target)
    }

    /// When the next reset is due after `since`.
    pub(super) fn next_reset(&self, since: u64) -> Option<u64> {
        self.script.resets.iter().filter_map(|(when, _)| when.next(since)).min()
    }

    /// The random bits for a command that a rule picks; none for others.
    fn hit(&self, number: u64, rule: &Rule, met: &AtomicU64, command: &Command) -> Option<u64> {
        if !rule.pick.covers(command) {
            return None;
        }
        let count = met.fetch_add(1, Ordering::Relaxed);
        if !(count + 1).is_multiple_of(rule.pick.every) {
            return None;
        }
        let bits = mix(mix(mix(self.script.seed) ^ number) ^ count);
        (unit(bits) < rule.pick.rate).then(|| mix(bits))
    }

    /// When the limit of the rate lets a command complete.
    fn turn(&self, now: u64) -> u64 {
        if self.script.interval == 0.0 {
            return now;
        }
        // In 1/1024 ns, so that a rate is kept whose interval is no whole number of nanoseconds.
        let (interval, now) = ((self.script.interval * 1024.0) as u64, now.saturating_mul(1024));
        let step = |next: u64| Some(next.max(now).saturating_add(interval));
        let before = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or(now);
        before.max(now).saturating_add(interval) / 1024
    }
}

/// Nanoseconds of the system's monotonic clock, by which the times of a log can be laid beside those of others.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The finalizer of splitmix64: every bit of the result depends on every bit of the argument.
pub(super) fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
