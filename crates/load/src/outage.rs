//! The run's side of an outage: sees that a controller is lost and that it is back, connects new queues on a thread of their own,
//! and tells the contexts. Workers are told by [`crate::worker::Ending::news`] that there is something to hear.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread,
    time::Instant,
};

use doorbell_host::PollGroup;

use crate::{
    plan::RunOptions,
    port::{AnyQueue, Port},
    stop::StopFlag,
};

/// The queues of a context.
pub(crate) struct Queues {
    /// Those that carry I/Os.
    pub active: Vec<AnyQueue>,
    /// Those that are only there (`-U`).
    pub idle: Vec<AnyQueue>,
}

impl Queues {
    /// Connects them, unless the run is stopped or the deadline is over before.
    /// I/Os have up to `pieces` commands.
    pub fn connect(
        port: &dyn Port,
        options: &RunOptions,
        pieces: u32,
        deadline: Instant,
        stop: &StopFlag,
    ) -> Result<Self, String> {
        // No queue needs more entries than its share of the I/Os, and one entry stays free; what it never uses costs both ends.
        let share = options.io_depth.div_ceil(u32::from(options.qpairs).max(1));
        // A queue that writes zones has commands of its own, one at a time.
        let commands = u64::from(pieces) * u64::from(share) + u64::from(port.shape().zoned.is_some());
        let entries = options.io_queue_size.unwrap_or_else(|| u32::try_from(commands + 1).unwrap_or(u32::MAX));
        // One worker polls them all.
        let group = PollGroup::default();
        let one = |_| match Instant::now() < deadline {
            true => port.connect(entries, &group),
            false => Err(format!("its I/O queue is not connected: the queues before it took {:?}", options.connect)),
        };
        let some = |count| -> Result<Vec<AnyQueue>, String> {
            let wanted = (0..count).take_while(|_| stop.requests() == 0);
            wanted.map(one).collect()
        };
        Ok(Self { active: some(options.qpairs)?, idle: some(options.unused_qpairs)? })
    }
}

/// What a context is told.
pub(crate) enum News {
    /// The controller is lost.
    Lost(String),
    /// It is back: the queues of an incarnation.
    Back {
        /// The queues.
        queues: Queues,
        /// The incarnation.
        incarnation: u64,
    },
    /// The context has no way back.
    Over(String),
}

/// Looks after the queues of one context.
pub(crate) struct Keeper {
    port: Arc<dyn Port>,
    news: Sender<News>,
    /// Most commands of an I/O.
    pieces: u32,
    /// The incarnation that the context's queues belong to.
    incarnation: u64,
    /// The context knows that this one is lost.
    told: bool,
    /// Since when it has been there again, while the path to the namespace changes its state.
    changing: Option<Instant>,
    /// New queues of an incarnation, on their way.
    connecting: Option<(u64, Receiver<Result<Queues, String>>)>,
    /// Times in a row that no queues were to be had.
    failures: u32,
    /// The context was told that it has no way back.
    over: bool,
}

impl Keeper {
    pub fn new(port: Arc<dyn Port>, pieces: u32, incarnation: u64, news: Sender<News>) -> Self {
        Self {
            port,
            news,
            pieces,
            incarnation,
            told: false,
            changing: None,
            connecting: None,
            failures: 0,
            over: false,
        }
    }

    /// One look; returns whether there is news for the context.
    pub fn look(&mut self, options: &RunOptions, stop: &StopFlag) -> bool {
        let now = self.port.incarnation();
        // Of a run that is stopped, queues may be missing.
        if now == Some(self.incarnation) || self.over || stop.requests() > 0 {
            return false;
        }
        let told = std::mem::replace(&mut self.told, true);
        if !told {
            return self.tell(News::Lost("its controller is lost".into()));
        }
        let Some(now) = now else {
            self.changing = None;
            return false;
        };
        let Some((incarnation, queues)) = &self.connecting else {
            if let Some(most) = self.port.changing()
                && self.changing.get_or_insert_with(Instant::now).elapsed() < most
            {
                return false;
            }
            self.changing = None;
            return match self.port.check() {
                Ok(()) => {
                    self.connecting = Some((now, connect(&self.port, options, self.pieces, stop)));
                    false
                }
                // Said of the incarnation that is there still: final.
                Err(why) if self.port.incarnation() == Some(now) => self.give_up(why),
                Err(_) => false,
            };
        };
        let (incarnation, outcome) = (*incarnation, queues.try_recv());
        if let Err(TryRecvError::Empty) = outcome {
            return false;
        }
        self.connecting = None;
        match outcome {
            _ if incarnation != now => false,
            Ok(Ok(queues)) => {
                (self.incarnation, self.told, self.failures) = (now, false, 0);
                self.tell(News::Back { queues, incarnation })
            }
            Ok(Err(why)) if self.failures < options.reconnect.unwrap_or(0) => {
                self.failures += 1;
                self.port.queue_lost(now, why);
                false
            }
            Ok(Err(why)) => self.give_up(why),
            Err(_) => self.give_up("no thread to connect new I/O queues".into()),
        }
    }

    fn give_up(&mut self, why: String) -> bool {
        self.over = true;
        self.tell(News::Over(format!("its controller is back, but it cannot go on: {why}")))
    }

    fn tell(&self, news: News) -> bool {
        // A context that has ended does not listen.
        self.news.send(news).is_ok()
    }
}

/// Connects a context's queues on a thread that a request to stop leaves behind: each of its waits has a deadline in the driver.
fn connect(
    port: &Arc<dyn Port>,
    options: &RunOptions,
    pieces: u32,
    stop: &StopFlag,
) -> Receiver<Result<Queues, String>> {
    let (sender, receiver) = mpsc::channel();
    let (port, options, stop) = (port.clone(), options.clone(), stop.clone());
    let deadline = Instant::now() + options.connect;
    let connect = move || drop(sender.send(Queues::connect(&*port, &options, pieces, deadline, &stop)));
    // Without the thread the sender is dropped, which is noticed.
    let _ = thread::Builder::new().name("connect".into()).spawn(connect);
    receiver
}
