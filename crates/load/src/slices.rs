//! The time series (`--interval`). A context records into a slice; when its time is over, the context takes an empty one and leaves the
//! full one in a queue without locks, and the run adds it up, tells of it and gives it back empty. Where the run is late and there is
//! no empty one, the slice goes on and holds more than its time. All slices of a context are all of its window.

use std::{collections::BTreeMap, sync::Arc};

use crossbeam_queue::ArrayQueue;
use doorbell_platform::clock::Anchor;
use doorbell_result::{ContextResult, Distribution, IoKind, LatencyStats, document};

use crate::{
    classes::{Label, add_up},
    recorder::Errors,
};

/// Slices of a context: one that it records into, and what the run may be late by.
const SLICES: usize = 4;

/// What was measured in a part of the window.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Its place among the intervals of the window: that of the last which it holds.
    pub index: u64,
    /// In ticks from the start of the window.
    pub begin: u64,
    pub end: u64,
    /// Its I/Os by class.
    pub tallies: Box<[Tally]>,
    pub failed: u64,
    /// None comes after it.
    pub last: bool,
}

impl Slice {
    /// Of I/Os of so many classes.
    pub fn new(classes: usize) -> Self {
        Self { tallies: (0..classes).map(|_| Tally::default()).collect(), ..Self::default() }
    }

    /// Makes it empty; its histograms keep their memory.
    fn clear(&mut self) {
        for tally in &mut self.tallies {
            tally.completed = 0;
            let latency = &mut tally.latency;
            (latency.count, latency.sum, latency.min, latency.max) = (0, 0, 0, 0);
            latency.histogram.clear();
        }
        (self.failed, self.last) = (0, false);
    }
}

/// I/Os of one class.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub completed: u64,
    pub latency: LatencyStats,
}

/// Slices on their way between a context and the run.
#[derive(Debug)]
pub(crate) struct Exchange {
    full: ArrayQueue<Box<Slice>>,
    empty: ArrayQueue<Box<Slice>>,
}

impl Exchange {
    /// For I/Os of so many classes.
    pub fn new(classes: usize) -> Arc<Self> {
        let exchange = Self { full: ArrayQueue::new(SLICES), empty: ArrayQueue::new(SLICES) };
        (1..SLICES).for_each(|_| drop(exchange.empty.push(Box::new(Slice::new(classes)))));
        Arc::new(exchange)
    }

    /// Changes a full slice for an empty one, where there is one.
    pub fn change(&self, slice: &mut Box<Slice>) -> bool {
        let Some(empty) = self.empty.pop() else { return false };
        // There is a place for each slice there is.
        let _ = self.full.push(std::mem::replace(slice, empty));
        true
    }

    /// Looks at the full slices in their order, and gives them back empty.
    pub fn collect(&self, look: &mut dyn FnMut(&Slice)) {
        while let Some(mut slice) = self.full.pop() {
            look(&slice);
            slice.clear();
            let _ = self.empty.push(slice);
        }
    }
}

/// What the run makes of the slices of all contexts.
#[derive(Debug, Default)]
pub(crate) struct Series {
    contexts: Vec<Source>,
    /// By index: those that some context has not delivered yet.
    open: BTreeMap<u64, Sum>,
    /// Complete ones.
    pub slices: Vec<document::Slice>,
    labels: Vec<Label>,
}

#[derive(Debug)]
struct Source {
    exchange: Arc<Exchange>,
    sums: Vec<Tally>,
    /// The first index that it can still deliver.
    next: u64,
}

/// A slice of several contexts.
#[derive(Debug)]
struct Sum {
    begin: u64,
    end: u64,
    ios: u64,
    reads: u64,
    failed: u64,
    /// I/Os and bytes a tick.
    rates: [f64; 2],
    latency: LatencyStats,
}

impl Series {
    pub fn new(labels: Vec<Label>, exchanges: Vec<Arc<Exchange>>) -> Self {
        let source = |exchange| Source { exchange, sums: labels.iter().map(|_| Tally::default()).collect(), next: 0 };
        Self { contexts: exchanges.into_iter().map(source).collect(), labels, ..Self::default() }
    }

    /// Takes in what contexts have delivered.
    pub fn collect(&mut self, start: &Anchor) {
        for index in 0..self.contexts.len() {
            // A context that could not be made delivers nothing.
            if Arc::strong_count(&self.contexts[index].exchange) == 1 && self.contexts[index].next == 0 {
                self.contexts[index].next = u64::MAX;
            }
            let exchange = self.contexts[index].exchange.clone();
            exchange.collect(&mut |slice| self.add(index, slice));
        }
        let next = self.contexts.iter().map(|source| source.next).min().unwrap_or(0);
        let later = self.open.split_off(&next);
        let complete = std::mem::replace(&mut self.open, later);
        // The longer the run, the better the rate is known.
        let rate = start.ticks_per_second(&Anchor::now());
        self.slices.extend(complete.into_iter().map(|(index, sum)| sum.slice(index, rate)));
    }

    /// Takes in the last slice of a context, and gives its result the sums of all.
    pub fn complete(&mut self, index: usize, last: &Slice, errors: &Errors, result: &mut ContextResult) {
        self.add(index, last);
        let source = &mut self.contexts[index];
        source.next = u64::MAX;
        add_up(result, &self.labels, &source.sums, errors);
    }

    fn add(&mut self, context: usize, slice: &Slice) {
        let source = &mut self.contexts[context];
        source.next = if slice.last { u64::MAX } else { slice.index + 1 };
        let ticks = slice.end - slice.begin;
        let (mut ios, mut reads, mut bytes) = (0, 0, 0);
        for ((sum, tally), label) in source.sums.iter_mut().zip(&slice.tallies).zip(&self.labels) {
            sum.completed += tally.completed;
            sum.latency.merge(&tally.latency);
            ios += tally.completed;
            reads += if label.kind == IoKind::Read { tally.completed } else { 0 };
            bytes += tally.completed * u64::from(label.bytes);
        }
        if ticks == 0 && ios == 0 {
            return;
        }
        let sum = self.open.entry(slice.index).or_insert_with(|| Sum {
            begin: slice.begin,
            end: slice.end,
            ios: 0,
            reads: 0,
            failed: 0,
            rates: [0.0; 2],
            latency: LatencyStats::default(),
        });
        sum.begin = sum.begin.min(slice.begin);
        sum.end = sum.end.max(slice.end);
        sum.ios += ios;
        sum.reads += reads;
        sum.failed += slice.failed;
        for (rate, count) in sum.rates.iter_mut().zip([ios, bytes]) {
            *rate += count as f64 / (ticks as f64).max(1.0);
        }
        slice.tallies.iter().for_each(|tally| sum.latency.merge(&tally.latency));
    }
}

impl Sum {
    fn slice(self, index: u64, ticks_per_second: f64) -> document::Slice {
        let distribution = Distribution::new(&self.latency, ticks_per_second);
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second;
        let percentile = |percent| distribution.percentile(percent).map(|one| one.us);
        let any = distribution.samples > 0;
        document::Slice {
            slice: index,
            begin_s: seconds(self.begin),
            end_s: seconds(self.end),
            ios: self.ios,
            reads: self.reads,
            failed: self.failed,
            iops: self.rates[0] * ticks_per_second,
            mib_per_s: self.rates[1] * ticks_per_second / 1_048_576.0,
            mean_us: distribution.mean_us(),
            p50_us: percentile(50.0),
            p99_us: percentile(99.0),
            max_us: any.then(|| distribution.us(distribution.max as f64)),
            distribution: any.then_some(distribution),
        }
    }
}
