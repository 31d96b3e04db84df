//! The work requests of a connection: the queue pair, the memory it names, and the numbers by which completions come back.

use std::{io, sync::Arc};

use doorbell_platform::{Range, Region};
use doorbell_rdma::{
    Access, Device, Flags, Identifier, Memory, Parameters, Piece, PostError, QueuePair, QueueSize, Registration,
    Remote as Place,
};
use doorbell_spec::{completion::Completion, rdma::Accept};
use zerocopy::IntoBytes;

use super::{
    IN_CAPSULE,
    admission::{EXTRA, Terms},
    exchange::{COMMAND, Done, Wire},
    pointer::Remote,
    receives::{Pools, Share},
};

/// Bytes of a capsule's buffer.
const CAPSULE: u32 = COMMAND + IN_CAPSULE;
/// Bytes of an answer.
const ANSWER: u32 = size_of::<Completion>() as u32;
/// A host that finds no receive is tried again as often as it takes; the deadline for a stall ends that.
const RNR_FOR_EVER: u8 = 7;
/// How long a host waits that finds no receive: 0.64 ms (IBA table 46). Shared ones come back with every pass.
const RNR_TIMER: u8 = 12;
/// Where an RDMA WRITE of nothing goes.
const NOWHERE: Place = Place { address: 0, key: 0 };

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A capsule has come into that buffer.
    Capsule(u32),
    /// A work request of the command in that slot.
    Command(Done, u16),
    /// An empty RDMA WRITE that shows whether the host is there.
    Probe,
    /// The last request of one side of the queue pair.
    Marker,
}

impl Work {
    #[inline]
    pub(super) fn id(self) -> u64 {
        let (kind, index) = match self {
            Self::Capsule(index) => (0, index),
            Self::Command(Done::Read, slot) => (1, slot.into()),
            Self::Command(Done::Write, slot) => (2, slot.into()),
            Self::Command(Done::Send, slot) => (3, slot.into()),
            Self::Probe => (4, 0),
            Self::Marker => (5, 0),
        };
        kind << 32 | u64::from(index)
    }

    /// What was posted under a number.
    #[inline]
    pub(super) fn of(id: u64) -> Self {
        let index = id as u32;
        match id >> 32 {
            0 => Self::Capsule(index),
            1 => Self::Command(Done::Read, index as u16),
            2 => Self::Command(Done::Write, index as u16),
            3 => Self::Command(Done::Send, index as u16),
            4 => Self::Probe,
            _ => Self::Marker,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Link(#[from] doorbell_rdma::Error),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("{0}")]
    System(#[from] io::Error),
    #[error(
        "its queues have {wanted} entries in all for {there} shared receives, and over iWARP a host that finds none loses its \
         connection: give the target more (--rdma-srq-size)"
    )]
    TooFew { wanted: u32, there: u32 },
    #[error("{wanted} receives are to be shared, of which the device takes {there}: lower --rdma-srq-size")]
    TooMany { wanted: u32, there: u32 },
}

/// A queue pair with its memory.
#[derive(Debug)]
pub(super) struct Link {
    queue: QueuePair,
    frames: Memory,
    /// Buffers for capsules, unless they are shared, then answers, one a slot.
    own: Memory,
    region: Arc<Region>,
    answers: u64,
    share: Option<Share>,
    pieces: Vec<Piece>,
}

/// How large a queue pair has to be.
pub(super) fn queue_size(terms: &Terms) -> QueueSize {
    QueueSize {
        sends: terms.sends + EXTRA,
        receives: terms.entries + 1,
        send_pieces: terms.write_ranges as u32,
        receive_pieces: 1,
        inline: ANSWER,
    }
}

/// Registers the memory of a connection: buffers for capsules, and answers.
///
/// # Errors
/// So much is not to be had, or must not be pinned.
pub(super) fn own_memory(device: &Arc<Device>, terms: &Terms, shares: bool) -> Result<Arc<Registration>, Trouble> {
    let bytes = answers(terms, shares) + u64::from(terms.slots() * ANSWER);
    Ok(Registration::new(device, Arc::new(Region::new(bytes as usize)?), Access::Local)?)
}

/// Where the answers begin.
fn answers(terms: &Terms, shares: bool) -> u64 {
    if shares { 0 } else { buffer(terms.entries).offset }
}

/// Where the buffer of a capsule is.
pub(super) fn buffer(capsule: u32) -> Range {
    Range { offset: u64::from(capsule) * u64::from(CAPSULE), len: CAPSULE }
}

impl Link {
    /// Joins a queue pair and its memory, and posts a receive for every command that its host may send, unless it shares some.
    ///
    /// # Errors
    /// The device takes them not.
    pub(super) fn new(
        mut queue: QueuePair,
        terms: &Terms,
        frames: &Arc<Registration>,
        own: &Arc<Registration>,
        share: Option<Share>,
    ) -> Result<Self, (Option<Share>, Trouble)> {
        let region = own.region().clone();
        let (frames, own) = match queue.attach(frames).and_then(|frames| Ok((frames, queue.attach(own)?))) {
            Ok(memory) => memory,
            Err(error) => return Err((share, error.into())),
        };
        let answers = answers(terms, share.is_some());
        let mut link = Self { queue, frames, own, region, answers, share, pieces: Vec::new() };
        if link.share.is_none() {
            (0..terms.entries).for_each(|capsule| link.give_back(capsule));
            if let Err(error) = link.queue.post_receives() {
                return Err((None, error.into()));
            }
        }
        Ok(link)
    }

    /// The connection.
    pub(super) fn identifier(&self) -> &Identifier {
        self.queue.identifier()
    }

    /// The device.
    pub(super) fn device(&self) -> &Device {
        self.queue.device()
    }

    /// Posts what has been collected: receives first, as an answer may be what lets the host send.
    #[inline]
    pub(super) fn post(&mut self, pools: &mut Pools) -> Result<(), PostError> {
        match &mut self.share {
            Some(share) => pools.post(share)?,
            None => drop(self.queue.post_receives()?),
        }
        self.queue.post_sends()?;
        Ok(())
    }

    /// Asks the device of the host for a sign of life.
    pub(super) fn probe(&mut self) {
        self.queue.push_write(Work::Probe.id(), &[], NOWHERE, Flags::SIGNALED);
    }

    /// Gives up the connection: everything posted comes back, and a marker after it. Returns how many markers are to come: none over
    /// iWARP, where what is posted after that need not come back; what was posted has an end with the queue pair.
    pub(super) fn fail(&mut self) -> u8 {
        // What the host is told matters no more than whether it can be told.
        let _ = self.queue.identifier().disconnect();
        if self.queue.fail().is_err() || self.device().attributes().is_iwarp {
            return 0;
        }
        self.queue.push_send(Work::Marker.id(), &[], Flags::SIGNALED);
        let mut markers = u8::from(self.queue.post_sends().is_ok());
        if self.share.is_none() {
            self.queue.push_receive(Work::Marker.id(), &[Piece { memory: self.own, range: buffer(0) }]);
            markers += u8::from(self.queue.post_receives().is_ok());
        }
        markers
    }

    /// Accepts the host.
    ///
    /// # Errors
    /// It has gone, or the device has.
    pub(super) fn accept(&self, terms: &Terms) -> Result<(), doorbell_rdma::Error> {
        self.identifier().accept(&Parameters {
            private_data: Accept::new(terms.entries as u16).as_bytes(),
            responder_resources: 0,
            initiator_depth: terms.reads as u8,
            retry_count: 7,
            rnr_retry_count: RNR_FOR_EVER,
        })?;
        if self.share.is_some() {
            // It costs time only where this cannot be said.
            let _ = self.queue.set_rnr_timer(RNR_TIMER);
        }
        Ok(())
    }

    /// Something that was posted has come back.
    #[inline]
    pub(super) fn came_back(&mut self, id: u64) {
        if let (Some(share), Work::Capsule(capsule)) = (&mut self.share, Work::of(id)) {
            share.take(capsule);
        }
    }

    /// Gives up the queue pair; what is left of it then is its part in what it shared.
    pub(super) fn close(self) -> Option<Share> {
        self.share
    }

    /// Where capsules come.
    #[inline]
    fn capsules(&self) -> &Region {
        self.share.as_ref().map_or(&*self.region, Share::region)
    }

    fn name(&mut self, ranges: &[Range]) {
        self.pieces.clear();
        self.pieces.extend(ranges.iter().map(|&range| Piece { memory: self.frames, range }));
    }
}

impl Wire for Link {
    #[inline]
    fn read(&mut self, slot: u16, from: Remote, to: &[Range]) {
        self.name(to);
        let place = Place { address: from.address, key: from.key };
        self.queue.push_read(Work::Command(Done::Read, slot).id(), &self.pieces, place, Flags::SIGNALED);
    }

    #[inline]
    fn write(&mut self, slot: u16, signaled: bool, to: Remote, from: &[Range]) {
        self.name(from);
        let place = Place { address: to.address, key: to.key };
        let flags = if signaled { Flags::SIGNALED } else { Flags::NONE };
        self.queue.push_write(Work::Command(Done::Write, slot).id(), &self.pieces, place, flags);
    }

    #[inline]
    fn send(&mut self, slot: u16, answer: &Completion, invalidate: Option<u32>) {
        let range = Range { offset: self.answers + u64::from(slot) * u64::from(ANSWER), len: ANSWER };
        self.region.write(range.offset, answer.as_bytes());
        let (id, pieces) = (Work::Command(Done::Send, slot).id(), [Piece { memory: self.own, range }]);
        match invalidate {
            Some(key) => self.queue.push_send_invalidate(id, &pieces, key, Flags::SIGNALED),
            None => self.queue.push_send(id, &pieces, Flags::SIGNALED),
        }
    }

    #[inline]
    fn give_back(&mut self, capsule: u32) {
        match &mut self.share {
            Some(share) => share.give_back(capsule),
            None => {
                let piece = Piece { memory: self.own, range: buffer(capsule) };
                self.queue.push_receive(Work::Capsule(capsule).id(), &[piece]);
            }
        }
    }

    #[inline]
    fn look(&self, capsule: u32, at: u32, bytes: &mut [u8]) {
        self.capsules().read(buffer(capsule).offset + u64::from(at), bytes);
    }

    fn unload(&self, capsule: u32, at: u32, region: &Region, to: Range) {
        let from = buffer(capsule).offset + u64::from(at);
        region.copy_from(to.offset, self.capsules(), from, to.len as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_come_back_as_what_was_posted() {
        for work in [
            Work::Capsule(0),
            Work::Capsule(u32::MAX),
            Work::Command(Done::Read, 7),
            Work::Command(Done::Write, u16::MAX),
            Work::Command(Done::Send, 0),
            Work::Probe,
            Work::Marker,
        ] {
            assert_eq!(Work::of(work.id()), work);
        }
    }
}
