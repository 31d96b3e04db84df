//! What a script does on one connection: commands whose completion is not out yet, and when it will be.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Instant,
};

use doorbell_spec::{
    command::{Command, NvmOpcode},
    status::Status,
};

use super::{
    engine::{Engine, Verdict},
    log::{Buffer, Entry},
    script::Target,
};
use crate::controller::IoQueue;

/// A command by its queue and its identifier.
type Key = (u16, u16);

/// The faults of a connection whose completions need a `T` to be sent.
#[derive(Debug)]
pub(crate) struct Faults<T> {
    engine: Arc<Engine>,
    log: Option<Buffer>,
    /// Commands that are not done.
    open: HashMap<Key, Ticket>,
    held: BinaryHeap<Reverse<Held<T>>>,
    /// Commands whose completion never goes.
    lost: Vec<(Key, Ticket)>,
    /// Completions that have been given to the link and may not have left.
    leaving: Vec<(Key, Ticket)>,
    count: u64,
    /// Up to here resets have been carried out.
    reset_until: Option<u64>,
    /// When the digests of what has come so far are made.
    digested: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ticket {
    arrived: u64,
    verdict: Verdict,
    posted: u64,
    opcode: u8,
    slba: u64,
    blocks: u32,
    status: Status,
}

/// A completion that waits for its time.
#[derive(Debug)]
struct Held<T> {
    due: u64,
    /// Of completions that are due together, the first done is the first to go.
    number: u64,
    key: Key,
    ticket: Ticket,
    answer: T,
}

impl<T> Ord for Held<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Held<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Held<T> {}

/// What is to be done with the answer to a command that is done.
#[derive(Debug)]
pub(crate) enum Fate<T> {
    /// Send it: no script is about it.
    Send(T),
    /// Nothing: it is kept until it is due.
    Held,
    /// Throw it away.
    Lost(T),
}

/// The script takes something down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// The connection.
    Connection,
    /// The controller.
    Controller,
}

impl<T> Faults<T> {
    /// For a connection that begins now.
    pub(crate) fn new(engine: &Arc<Engine>) -> Box<Self> {
        Box::new(Self {
            engine: engine.clone(),
            log: engine.log.as_ref().and_then(super::log::Log::buffer),
            open: HashMap::new(),
            held: BinaryHeap::new(),
            lost: Vec::new(),
            leaving: Vec::new(),
            count: 0,
            reset_until: engine.has_begun().then(|| engine.now()),
            digested: 0,
        })
    }

    /// A command has come; returns the status that it is to fail with, without being carried out. `digested` is how many bytes of
    /// data it moves under a digest.
    pub(crate) fn arrived(&mut self, qid: u16, command: &Command, digested: u32) -> Option<Status> {
        let now = self.engine.now();
        let mut verdict = self.engine.judge(command, now);
        let digests = self.engine.digests(digested);
        if digests > 0 {
            // One after the other, as one core makes them.
            self.digested = self.digested.max(now) + digests;
            verdict.due = verdict.due.max(self.digested);
        }
        let has_blocks = NvmOpcode(command.opc) != NvmOpcode::DATASET_MANAGEMENT && command.opc != NvmOpcode::FLUSH.0;
        let (slba, blocks) = if has_blocks { (command.slba(), command.block_count()) } else { (0, 0) };
        let ticket =
            Ticket { arrived: now, verdict, posted: 0, opcode: command.opc, slba, blocks, status: Status::SUCCESS };
        self.open.insert((qid, command.cid.get()), ticket);
        verdict.failure
    }

    /// A command that has come is to have its data damaged, or what it overwrites kept, where the script wants that.
    pub(crate) fn harm(&self, queue: &mut IoQueue, cid: u16) {
        if self.engine.corrupts {
            let damage = self.open.get(&(queue.qid(), cid)).and_then(|ticket| ticket.verdict.damage);
            queue.harm(cid, damage, self.engine.history.as_ref());
        }
    }

    /// A command is done and would be answered now.
    pub(crate) fn done(&mut self, qid: u16, cid: u16, status: Status, answer: T) -> Fate<T> {
        let key = (qid, cid);
        let Some(mut ticket) = self.open.remove(&key) else { return Fate::Send(answer) };
        ticket.status = status;
        if ticket.verdict.dropped {
            self.write(key, &ticket, "dropped", (u64::MAX, 0));
            self.lost.push((key, ticket));
            return Fate::Lost(answer);
        }
        let due = self.engine.defer(ticket.verdict.due.max(self.engine.now()));
        // What was done in time was planned to go when it was due, the rest as soon as it could.
        ticket.verdict.due = due;
        self.count += 1;
        self.held.push(Reverse(Held { due, number: self.count, key, ticket, answer }));
        Fate::Held
    }

    /// The next completion that is due, and how often to send it.
    pub(crate) fn next(&mut self) -> Option<(u16, u16, T, u32)> {
        let due = self.held.peek()?.0.due;
        let now = self.engine.now();
        if now < due {
            return None;
        }
        let Reverse(Held { key, mut ticket, answer, .. }) = self.held.pop()?;
        ticket.posted = now;
        if let Some(tracking) = &self.engine.tracking {
            tracking.count(ticket.opcode, now - ticket.arrived);
        }
        let times = if ticket.verdict.duplicated { 2 } else { 1 };
        self.leaving.push((key, ticket));
        Some((key.0, key.1, answer, times))
    }

    /// What [`Faults::next`] gave has left.
    pub(crate) fn left(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let (now, mut leaving) = (self.engine.now(), std::mem::take(&mut self.leaving));
        for (key, ticket) in leaving.drain(..) {
            let fate = if ticket.verdict.duplicated { "duplicated" } else { "-" };
            self.write(key, &ticket, fate, (ticket.verdict.due, now));
        }
        self.leaving = leaving;
    }

    /// When something is to be done next.
    pub(crate) fn due(&self) -> Option<Instant> {
        let held = self.held.peek().map(|held| held.0.due);
        let reset = self.engine.has_begun().then(|| self.engine.next_reset(self.reset_until.unwrap_or(0))).flatten();
        self.engine.instant(held.into_iter().chain(reset).min()?)
    }

    /// The reset that is due, once.
    pub(crate) fn reset(&mut self) -> Option<Reset> {
        if !self.engine.has_begun() {
            return None;
        }
        let now = self.engine.now();
        let target = self.engine.reset(self.reset_until.unwrap_or(0), now)?;
        self.reset_until = Some(now);
        Some(match target {
            Target::Connection => Reset::Connection,
            Target::Controller => Reset::Controller,
        })
    }

    /// What was to be reset until now has been, by the host.
    pub(crate) fn skip_resets(&mut self) {
        if self.engine.has_begun() {
            self.reset_until = Some(self.engine.now());
        }
    }

    /// Forgets the commands that `which` picks; returns those that are not under way elsewhere, to be answered by who asks.
    pub(crate) fn abort(&mut self, which: impl Fn(u16, u16) -> bool) -> Vec<(u16, u16)> {
        let mut ended = Vec::new();
        let mut entries = Vec::new();
        self.held.retain(|Reverse(held)| {
            let ends = which(held.key.0, held.key.1);
            if ends {
                ended.push(held.key);
                entries.push((held.key, held.ticket));
            }
            !ends
        });
        self.lost.retain(|&(key, _)| {
            let ends = which(key.0, key.1);
            if ends {
                ended.push(key);
            }
            !ends
        });
        self.open.retain(|key, ticket| {
            let ends = which(key.0, key.1);
            if ends {
                entries.push((*key, *ticket));
            }
            !ends
        });
        for (key, ticket) in entries {
            self.write(key, &ticket, "aborted", (ticket.verdict.due, 0));
        }
        ended
    }

    /// Ends with the connection or its queues; returns the answers that were not sent.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.left();
        let held: Vec<_> = std::mem::take(&mut self.held).into_vec();
        let under_way = std::mem::take(&mut self.open);
        let kept = held.iter().map(|Reverse(held)| (held.key, held.ticket));
        for (key, ticket) in kept.chain(under_way) {
            self.write(key, &ticket, "ended", (ticket.verdict.due, 0));
        }
        self.lost.clear();
        self.flush();
        held.into_iter().map(|Reverse(held)| held.answer)
    }

    /// Hands the log over as far as it is.
    pub(crate) fn flush(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    fn write(&mut self, key: Key, ticket: &Ticket, fate: &'static str, (planned, sent): (u64, u64)) {
        let Some(log) = &mut self.log else { return };
        let (qid, cid) = key;
        log.push(Entry {
            arrived: ticket.arrived,
            planned,
            posted: ticket.posted,
            sent,
            qid,
            cid,
            opcode: ticket.opcode,
            slba: ticket.slba,
            blocks: ticket.blocks,
            status: ticket.status,
            fate,
        });
    }
}
