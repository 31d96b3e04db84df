//! The work requests of a connection: the queue pair, the memory it names, and the numbers by which completions come back.

use std::{io, sync::Arc};

use doorbell_platform::{Range, Region};
use doorbell_rdma::{
    Access, Device, Flags, Identifier, Memory, Piece, PostError, QueuePair, QueueSize, Registration, Remote as Place,
};
use doorbell_spec::completion::Completion;
use zerocopy::IntoBytes;

use super::{
    IN_CAPSULE,
    admission::{EXTRA, Terms},
    exchange::{COMMAND, Done, Wire},
    pointer::Remote,
};

/// Bytes of a capsule's buffer.
const CAPSULE: u32 = COMMAND + IN_CAPSULE;
/// Bytes of an answer.
const ANSWER: u32 = size_of::<Completion>() as u32;
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
    fn id(self) -> u64 {
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
}

/// A queue pair with its memory.
#[derive(Debug)]
pub(super) struct Link {
    queue: QueuePair,
    frames: Memory,
    /// Buffers for capsules, then answers, one a slot.
    own: Memory,
    region: Arc<Region>,
    answers: u64,
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
pub(super) fn own_memory(device: &Arc<Device>, terms: &Terms) -> Result<Arc<Registration>, Trouble> {
    let bytes = answers(terms) + u64::from(terms.slots() * ANSWER);
    Ok(Registration::new(device, Arc::new(Region::new(bytes as usize)?), Access::Local)?)
}

/// Where the answers begin.
fn answers(terms: &Terms) -> u64 {
    u64::from(terms.entries) * u64::from(CAPSULE)
}

impl Link {
    /// Joins a queue pair and its memory, and posts a receive for every command that its host may send.
    ///
    /// # Errors
    /// The device takes them not.
    pub(super) fn new(
        mut queue: QueuePair,
        terms: &Terms,
        frames: &Arc<Registration>,
        own: &Arc<Registration>,
    ) -> Result<Self, Trouble> {
        let (frames, region) = (queue.attach(frames)?, own.region().clone());
        let own = queue.attach(own)?;
        let mut link = Self { queue, frames, own, region, answers: answers(terms), pieces: Vec::new() };
        (0..terms.entries).for_each(|capsule| link.give_back(capsule));
        link.queue.post_receives()?;
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
    pub(super) fn post(&mut self) -> Result<(), PostError> {
        self.queue.post_receives()?;
        self.queue.post_sends()?;
        Ok(())
    }

    /// Asks the device of the host for a sign of life.
    pub(super) fn probe(&mut self) {
        self.queue.push_write(Work::Probe.id(), &[], NOWHERE, Flags::SIGNALED);
    }

    /// Gives up the connection: everything posted comes back, and a marker after it. Returns how many markers are to come.
    pub(super) fn fail(&mut self) -> u8 {
        // What the host is told matters no more than whether it can be told.
        let _ = self.queue.identifier().disconnect();
        if self.queue.fail().is_err() {
            return 0;
        }
        self.queue.push_send(Work::Marker.id(), &[], Flags::SIGNALED);
        let capsule = self.capsule(0);
        self.queue.push_receive(Work::Marker.id(), &[capsule]);
        u8::from(self.queue.post_sends().is_ok()) + u8::from(self.queue.post_receives().is_ok())
    }

    fn capsule(&self, capsule: u32) -> Piece {
        let range = Range { offset: u64::from(capsule) * u64::from(CAPSULE), len: CAPSULE };
        Piece { memory: self.own, range }
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
        let piece = self.capsule(capsule);
        self.queue.push_receive(Work::Capsule(capsule).id(), &[piece]);
    }

    #[inline]
    fn look(&self, capsule: u32, at: u32, bytes: &mut [u8]) {
        self.region.read(self.capsule(capsule).range.offset + u64::from(at), bytes);
    }

    fn unload(&self, capsule: u32, at: u32, region: &Region, to: Range) {
        let from = self.capsule(capsule).range.offset + u64::from(at);
        region.copy_from(to.offset, &self.region, from, to.len as usize);
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
