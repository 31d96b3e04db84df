//! What a run tells while it goes on, and the rule that keeps a storm of failed I/Os from flooding the terminal.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use doorbell_result::document;

/// Something that happened in a run, in the order it is worth showing.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A namespace is left out; the text says why.
    Skipped(&'a str),
    /// Advice about a namespace that is tested all the same.
    Advice(&'a str),
    /// Something a controller told, an asynchronous event first of all.
    Notice(&'a str),
    /// A worker drives a namespace.
    Associated {
        /// The namespace's name.
        name: &'a str,
        /// The worker's core.
        core: usize,
        /// The I/Os that a percentage of the namespace comes to, when the limit was given so.
        percent_ios: Option<u64>,
    },
    /// Everything is connected and prepared; the workers start.
    Launching,
    /// About a second has passed.
    Second(Second),
    /// The warm-up is over, the measurement begins.
    WarmedUp,
    /// A slice of the time series is complete.
    Slice(&'a document::Slice),
    /// Something failed: a line for the error stream.
    Error(&'a str),
}

/// What all workers did since the previous such event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    /// Whether the warm-up still goes on.
    pub warm_up: bool,
    /// I/Os that were over.
    pub ios: u64,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// Workers.
    pub cores: usize,
    /// Share of the workers' time spent in polls that found completions, in percent.
    pub busy_percent: f64,
    /// Seconds to the end of the window, at most.
    pub left: f64,
}

/// Failed I/Os that are shown each for itself where `-Q` says nothing else, and from then on one of so many: a device can fail hundreds of
/// thousands a second.
const SHOWN: u64 = 1000;

/// Receives events, from any thread of the run.
pub type Observer<'a> = dyn Fn(Event<'_>) + Sync + 'a;

/// Reports failed I/Os: the first thousand and one of a thousand then, or every N-th under `-Q N`.
pub(crate) struct Reporter<'a> {
    observer: &'a Observer<'a>,
    every: u64,
    failures: AtomicU64,
}

impl fmt::Debug for Reporter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("every", &self.every).finish_non_exhaustive()
    }
}

impl<'a> Reporter<'a> {
    /// Shows every `every`-th failed I/O.
    pub fn new(observer: &'a Observer<'a>, every: u64) -> Self {
        Self { observer, every: every.max(1), failures: AtomicU64::new(0) }
    }

    /// An I/O failed; `text` says which and how.
    pub fn failed_io(&self, text: impl FnOnce() -> String) {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let every = if self.every == 1 && before > SHOWN { SHOWN } else { self.every };
        if before.is_multiple_of(every) {
            match (before, every) {
                (0, _) | (_, 1) => self.error(&text()),
                _ => self.error(&format!("Message suppressed {} times: {}", every - 1, text())),
            }
        }
    }

    /// Something worth knowing that is no failure.
    pub fn notice(&self, text: &str) {
        (self.observer)(Event::Notice(text));
    }

    /// Anything else that failed.
    pub fn error(&self, text: &str) {
        (self.observer)(Event::Error(text));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn lines(every: u64, failures: u32) -> Vec<String> {
        let lines = Mutex::new(Vec::new());
        let observer = |event: Event<'_>| {
            if let Event::Error(text) = event {
                lines.lock().unwrap().push(text.to_owned());
            }
        };
        let reporter = Reporter::new(&observer, every);
        (0..failures).for_each(|i| reporter.failed_io(|| format!("I/O {i}")));
        lines.into_inner().unwrap()
    }

    #[test]
    fn every_failure_is_shown_or_every_nth() {
        assert_eq!(lines(1, 3), ["I/O 0", "I/O 1", "I/O 2"]);
        let flood = lines(1, 3500);
        assert_eq!(
            flood[999..],
            ["I/O 999", "I/O 1000", "Message suppressed 999 times: I/O 2000", "Message suppressed 999 times: I/O 3000"]
        );
        assert_eq!(
            lines(1000, 2500),
            ["I/O 0", "Message suppressed 999 times: I/O 1000", "Message suppressed 999 times: I/O 2000"]
        );
    }
}
