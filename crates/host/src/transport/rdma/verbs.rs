//! The link of a real device: verbs and the connection manager.

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use doorbell_platform::{Arena, Range, Region, Table};
use doorbell_queue::Slot;
use doorbell_rdma::{
    Access, Channel, Completion, CompletionQueue, Device, Error, EventChannel, EventKind, Flags, Memory, Piece,
    PostError, QueuePair, Registration, Remote, SharedReceiveQueue,
};

use super::{
    capsule::Reach,
    link::{Link, RECEIVE},
    queue::Layout,
};

/// Registered arenas, so that the queues of a context register theirs once.
static ARENAS: Mutex<Vec<Weak<Registration>>> = Mutex::new(Vec::new());

/// A queue pair with everything that belongs to it.
#[derive(Debug)]
pub struct Verbs {
    pub(super) pair: QueuePair,
    pub(super) completions: Arc<CompletionQueue>,
    pub(super) channel: Arc<Channel>,
    pub(super) events: EventChannel,
    /// Where capsules are.
    pub(super) capsules: Memory,
    /// Where data is.
    pub(super) data: Option<Memory>,
    pub(super) answers: Answers,
}

/// Where answers come to.
#[derive(Debug)]
pub(super) struct Answers {
    /// Receives that other queue pairs take from too, if they are shared.
    pub shared: Option<SharedReceiveQueue>,
    pub _promise: Option<Promise>,
    pub memory: Memory,
    pub layout: Layout,
}

/// The receives that the queues of a poll group share on one device. Clones post to the same ones.
#[derive(Clone, Debug)]
pub struct SharedAnswers {
    queue: SharedReceiveQueue,
    region: Arc<Region>,
    memory: Memory,
    layout: Layout,
    /// Commands that the queues may have outstanding in all.
    promised: Arc<AtomicU32>,
}

/// A queue's part of the receives that it shares, given back with it.
#[derive(Debug)]
pub(super) struct Promise {
    commands: u32,
    promised: Arc<AtomicU32>,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.promised.fetch_sub(self.commands, Ordering::Relaxed);
    }
}

impl SharedAnswers {
    /// Posts `count` receives.
    ///
    /// # Errors
    /// What was refused.
    pub(super) fn new(device: &Arc<Device>, count: u32) -> Result<Self, Error> {
        let mut queue = SharedReceiveQueue::new(device, count, 1)?;
        let layout = Layout::answers(count);
        let registration = Registration::new(device, region(layout.bytes)?, Access::Local)?;
        let memory = queue.attach(&registration)?;
        (0..count)
            .for_each(|index| queue.push_receive(number(index), &[Piece { memory, range: layout.answer(index) }]));
        queue.post_receives()?;
        Ok(Self { queue, region: registration.region().clone(), memory, layout, promised: Arc::default() })
    }

    /// A part for a queue of `commands` at a time. Over InfiniBand and RoCE a controller that finds no receive is told to try again; over
    /// iWARP its connection ends, so there the queues have no more commands than there are receives.
    ///
    /// # Errors
    /// How many there would be.
    pub(super) fn promise(&self, commands: u32) -> Result<Promise, String> {
        let all = self.promised.fetch_add(commands, Ordering::Relaxed) + commands;
        let promise = Promise { commands, promised: self.promised.clone() };
        enough(all, self.queue.depth(), self.device().attributes().is_iwarp).map(|()| promise)
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        self.queue.device()
    }

    pub(super) fn queue(&self) -> &SharedReceiveQueue {
        &self.queue
    }

    /// Where answers come to, and the table of them.
    pub(super) fn split(self, promise: Promise) -> (Answers, Option<Table<2>>) {
        let table = self.layout.table(&self.region);
        (Answers { shared: Some(self.queue), _promise: Some(promise), memory: self.memory, layout: self.layout }, table)
    }
}

fn enough(commands: u32, receives: u32, is_iwarp: bool) -> Result<(), String> {
    match is_iwarp && commands > receives {
        true => Err(format!(
            "{commands} commands or more would share {receives} receives, and over iWARP a connection ends whose answer finds none: share \
             as many as all queues of a core and namespace have together (--rdma-srq-size), or none"
        )),
        false => Ok(()),
    }
}

/// Memory of `bytes` bytes for capsules or answers.
pub(super) fn region(bytes: usize) -> Result<Arc<Region>, Error> {
    let error = |source| Error::Call { call: "mmap", source, hint: None };
    Arena::new(bytes).map(|arena| arena.share()).map_err(error)
}

/// The number of the receive of an answer.
pub(super) fn number(answer: u32) -> u64 {
    RECEIVE | u64::from(answer)
}

fn registered(device: &Arc<Device>, region: &Arc<Region>) -> Result<Arc<Registration>, Error> {
    let mut arenas = ARENAS.lock().unwrap_or_else(PoisonError::into_inner);
    arenas.retain(|known| known.strong_count() > 0);
    let same = |known: &Arc<Registration>| Arc::ptr_eq(known.device(), device) && Arc::ptr_eq(known.region(), region);
    if let Some(known) = arenas.iter().filter_map(Weak::upgrade).find(same) {
        return Ok(known);
    }
    let registration = Registration::new(device, region.clone(), Access::Peer)?;
    arenas.push(Arc::downgrade(&registration));
    Ok(registration)
}

impl Link for Verbs {
    fn device(&self) -> &str {
        self.pair.device().name()
    }

    fn reach(&mut self, region: &Arc<Region>) -> Result<Reach, String> {
        let registration = registered(self.pair.device(), region).map_err(|why| {
            let (bytes, device) = (region.len(), self.device());
            let limit = doorbell_platform::memlock::reckon(bytes as u64).err().map(|why| format!("; {why}"));
            format!("giving {bytes} bytes of memory to {device}: {why}{}", limit.unwrap_or_default())
        })?;
        self.data = Some(self.pair.attach(&registration).map_err(|why| why.to_string())?);
        let address = registration.address(Range { offset: 0, len: 0 });
        Ok(Reach { address, key: registration.remote_key() })
    }

    #[inline]
    fn push_send(&mut self, slot: Slot, capsule: Range, data: Option<Range>) {
        let capsule = Piece { memory: self.capsules, range: capsule };
        match data.zip(self.data) {
            Some((range, memory)) => {
                self.pair.push_send(slot.into(), &[capsule, Piece { memory, range }], Flags::SIGNALED)
            }
            None => self.pair.push_send(slot.into(), &[capsule], Flags::SIGNALED),
        }
    }

    #[inline]
    fn push_receive(&mut self, answer: u32) {
        let Answers { shared, memory, layout, .. } = &mut self.answers;
        let pieces = [Piece { memory: *memory, range: layout.answer(answer) }];
        match shared {
            Some(queue) => queue.push_receive(number(answer), &pieces),
            None => self.pair.push_receive(number(answer), &pieces),
        }
    }

    #[inline]
    fn post_receives(&mut self) -> Result<usize, PostError> {
        match &mut self.answers.shared {
            Some(queue) => queue.post_receives(),
            None => self.pair.post_receives(),
        }
    }

    #[inline]
    fn post_sends(&mut self) -> Result<usize, PostError> {
        self.pair.post_sends()
    }

    #[inline]
    fn poll(&self, into: &mut [Completion]) -> Result<usize, String> {
        self.completions.poll(into).map_err(|why| why.to_string())
    }

    fn news(&mut self) -> Option<String> {
        let mut said = None;
        loop {
            match self.events.next_event() {
                // Of a connection that was over before, or nothing to a queue that stands.
                Ok(Some(event)) if event.kind != EventKind::Disconnected => {}
                Ok(Some(_)) => said = Some("the peer ended the connection".into()),
                // The other end may be on that device, too, and end first.
                Ok(None) if self.pair.device().is_removed() => {
                    return Some(format!("the device {} was removed", self.device()));
                }
                Ok(None) => return said,
                Err(why) => return said.or(Some(why.to_string())),
            }
        }
    }

    fn arm(&mut self) -> Result<RawFd, String> {
        self.channel.drain();
        self.completions.arm().map_err(|why| why.to_string())?;
        Ok(self.channel.as_fd().as_raw_fd())
    }

    fn nudge(&mut self) -> Result<(), PostError> {
        self.pair.push_write(0, &[], Remote { address: 0, key: 0 }, Flags::NONE);
        self.pair.post_sends().map(drop)
    }

    fn end(&mut self) -> bool {
        // Either may say that the connection is over already.
        let _ = self.pair.identifier().disconnect();
        let is_iwarp = self.pair.device().attributes().is_iwarp;
        match is_iwarp {
            true => self.pair.close(),
            false => drop(self.pair.fail()),
        }
        is_iwarp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_iwarp_each_command_has_a_receive() {
        assert_eq!(enough(64, 64, true), Ok(()));
        assert_eq!(enough(65, 64, false), Ok(()), "told to try again");
        let why = enough(65, 64, true).unwrap_err();
        assert!(why.contains("65 commands") && why.contains("64 receives") && why.contains("--rdma-srq-size"), "{why}");
    }
}
