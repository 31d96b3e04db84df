//! One I/O queue of a context: which I/Os wait for it, which slot carries which piece of which I/O, and when memory has to be
//! prepared anew. The order is first come, first served: a backlog waits here, never in the queue.

use std::{collections::VecDeque, sync::Arc};

use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, Down, IoQueue, Op, PrepareError, Progress, REAP_BATCH, Slot};
use doorbell_result::{IoKind, document::QueuePlan};
use doorbell_spec::{
    command::{Direction, DsmRange, data_direction},
    status::Status,
};
use zerocopy::IntoBytes;

use crate::{
    classes::{Class, Label, RANGE},
    metadata::Carried,
};

/// One I/O of `-q`, from the moment it is issued to the end of its last piece.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tag {
    /// When it was issued.
    pub stamp: u64,
    /// First block that no command carries yet.
    pub slba: u64,
    /// Blocks that no command carries yet.
    pub left: u32,
    /// Bytes that commands carry.
    pub offset: u32,
    /// Commands that carry a piece and are not over.
    pub outstanding: u32,
    /// Pieces made so far, and its number among the I/Os of its queue: where all of these have slots of their own, of which there are
    /// fewer than 65536.
    pub pieces: Slot,
    pub number: Slot,
    /// Start of its buffer in the arena.
    pub buffer: u64,
    /// Its class.
    pub class: u8,
    /// The first failure of a piece.
    pub status: Status,
    /// What happened to it besides.
    pub fate: Fate,
    /// Its stamps have readings of the clock of their own, where not all I/Os' have.
    pub sampled: bool,
}

// A tag is written with every I/O.
const _: () = assert!(size_of::<Tag>() <= 48);

/// What happened to an I/O besides the statuses of its commands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    #[default]
    Usual,
    /// It took too long, and its commands are to be aborted.
    Overdue,
    /// A piece was lost with its queue, or never sent.
    Abandoned,
}

impl Tag {
    /// Whether it is issued and not over.
    #[inline]
    pub fn is_live(&self) -> bool {
        self.outstanding > 0 || self.left > 0
    }

    /// The command that it is, if it writes, was for another place.
    #[cold]
    pub fn placed(&mut self, slba: u64, geometry: &Geometry) {
        let class = geometry.class(self);
        if matches!(class.label.kind, IoKind::Write | IoKind::WriteZeroes | IoKind::Append) {
            self.slba = slba + u64::from(class.blocks);
        }
    }

    /// A command carries its next blocks.
    #[inline]
    fn taken(&mut self, blocks: u32, geometry: &Geometry) {
        self.slba += u64::from(blocks);
        self.left -= blocks;
        self.offset += blocks * geometry.block_size;
        self.pieces = self.pieces.wrapping_add(1);
        self.outstanding += 1;
    }
}

/// What all I/Os of a context have in common.
#[derive(Clone, Debug)]
pub(crate) struct Geometry {
    pub nsid: u32,
    /// Bytes of a block in a buffer.
    pub block_size: u32,
    /// First block of the range that is used.
    pub first_block: u64,
    /// What commands move of a block.
    pub carried: Carried,
    pub classes: Box<[Class]>,
    /// Largest piece of a buffer that is presented as one range, `-O`, at least 1; `u32::MAX` leaves buffers whole.
    pub io_unit: u32,
}

impl Geometry {
    /// The class of an I/O.
    #[inline]
    pub fn class(&self, tag: &Tag) -> &Class {
        &self.classes[usize::from(tag.class)]
    }

    /// What results tell apart.
    pub fn labels(&self) -> Vec<Label> {
        self.classes.iter().map(|class| class.label).collect()
    }

    /// Most commands of one I/O.
    pub fn most_pieces(&self) -> u32 {
        self.classes.iter().map(|class| class.split.most_pieces() as u32).max().unwrap_or(1)
    }

    /// Bytes of a buffer.
    pub fn buffer(&self) -> u32 {
        // A slot is prepared with some memory even if no command uses it.
        self.classes.iter().map(|class| class.data_bytes(self.block_size)).max().unwrap_or(0).max(self.block_size)
    }

    /// From the start of a buffer to the metadata that is apart from its data, and how much of that there is.
    pub fn metadata(&self) -> (u32, u32) {
        let blocks = self.buffer() / self.block_size;
        (self.buffer().next_multiple_of(8), blocks * self.carried.apart)
    }

    /// Bytes of a buffer with that metadata.
    pub fn whole(&self) -> u32 {
        let (at, bytes) = self.metadata();
        if bytes > 0 { at + bytes } else { self.buffer() }
    }

    /// Says what memory the commands in a slot use.
    fn prepare(
        &self,
        queue: &mut impl IoQueue,
        slot: Slot,
        buffer: u64,
        memory: Memory,
        ranges: &mut Vec<Range>,
    ) -> Result<(), PrepareError> {
        self.ranges(buffer, memory, ranges);
        queue.prepare(slot, ranges)?;
        if self.carried.apart == 0 {
            return Ok(());
        }
        let bytes = |data: u32| data / self.block_size * self.carried.apart;
        let offset = buffer + u64::from(self.metadata().0 + bytes(memory.offset));
        queue.prepare_metadata(slot, Range { offset, len: bytes(memory.len) })
    }

    /// Most data bytes of a command.
    fn largest_piece(&self) -> u32 {
        let of = |class: &Class| match class.label.kind {
            IoKind::Trim => RANGE,
            _ if class.data_bytes(self.block_size) == 0 => self.block_size,
            _ => class.split.pieces(0, class.blocks).map(|piece| piece.blocks * self.block_size).max().unwrap_or(0),
        };
        self.classes.iter().map(of).max().unwrap_or(self.block_size)
    }

    /// Whether all commands that carry data carry as much, which is a whole buffer.
    fn is_uniform(&self) -> bool {
        let mut sizes = self.classes.iter().map(|class| class.data_bytes(self.block_size)).filter(|&bytes| bytes > 0);
        let first = sizes.next();
        sizes.all(|bytes| Some(bytes) == first) && self.classes.iter().all(|class| class.label.kind != IoKind::Trim)
    }

    /// Blocks of the next command of an I/O.
    #[inline]
    fn next_piece(&self, tag: &Tag) -> u32 {
        let split = &self.class(tag).split;
        if split.most_pieces() == 1 {
            return tag.left;
        }
        split.pieces(tag.slba, tag.left).next().map_or(tag.left, |piece| piece.blocks)
    }

    /// The memory of the command that carries the next blocks of an I/O, if it has any.
    #[inline]
    fn memory(&self, index: u32, tag: &Tag, blocks: u32) -> Option<Memory> {
        let class = self.class(tag);
        match data_direction(class.opcode) {
            Direction::None => None,
            _ if class.plain => Some(Memory { tag: index, offset: tag.offset, len: blocks * self.block_size }),
            _ => Some(Memory { tag: index, offset: u32::from(tag.pieces) * RANGE, len: RANGE }),
        }
    }

    /// The command that carries the next blocks of an I/O in a slot.
    #[inline]
    fn op(&self, slot: Slot, tag: &Tag, blocks: u32) -> Op {
        let class = self.class(tag);
        let (slba, blocks, reference) = match class.plain {
            true => (tag.slba, blocks, tag.slba & self.carried.reference_mask),
            false => (class.words(), 1, 0),
        };
        Op {
            slot,
            opcode: class.opcode,
            nsid: self.nsid,
            slba,
            blocks,
            control: class.control,
            reference,
            ..Op::default()
        }
    }

    /// The ranges of `len` bytes at `offset` of the buffer at `buffer`, cut at multiples of the I/O unit.
    fn ranges(&self, buffer: u64, memory: Memory, ranges: &mut Vec<Range>) {
        ranges.clear();
        if self.io_unit == u32::MAX {
            return ranges.push(Range { offset: buffer + u64::from(memory.offset), len: memory.len });
        }
        let end = memory.offset + memory.len;
        let mut at = memory.offset;
        while at < end {
            let edge = (at / self.io_unit).checked_add(1).and_then(|unit| unit.checked_mul(self.io_unit));
            let next = edge.map_or(end, |edge| edge.min(end));
            ranges.push(Range { offset: buffer + u64::from(at), len: next - at });
            at = next;
        }
    }
}

/// The part of a tag's buffer that a slot is prepared for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    tag: u32,
    offset: u32,
    len: u32,
}

/// A queue and what load keeps about it.
#[derive(Debug)]
pub(crate) struct Lane<Q> {
    pub queue: Q,
    /// The queue is stopped.
    pub stopped: bool,
    /// Tags with pieces that have no slot yet, in the order they were issued.
    waiting: VecDeque<u32>,
    /// Commands with a slot, which the queue has not taken.
    ops: Vec<Op>,
    uncommitted: bool,
    /// The queue commits when it sleeps, which it does after each pass.
    pub commits_asleep: bool,
    /// The tag whose piece a slot carries.
    owner: Vec<u32>,
    prepared: Vec<Memory>,
    /// Idle slots; `None` when each piece of each tag has a slot of its own, `number * most_pieces + piece`, whose memory is
    /// prepared once.
    free: Option<Vec<Slot>>,
    /// Each tag has one piece, with a slot of its own.
    direct: bool,
    ranges: Vec<Range>,
    arena: Arc<Arena>,
    /// Most commands of an I/O.
    most_pieces: u32,
}

impl<Q: IoQueue> Lane<Q> {
    /// Prepares the slots of a queue for the I/Os in `own`, whose buffers are in the arena.
    ///
    /// # Errors
    /// When the queue cannot carry such commands.
    pub fn new(
        mut queue: Q,
        geometry: &Geometry,
        tags: &[Tag],
        own: &[u32],
        arena: &Arc<Arena>,
    ) -> Result<Self, PrepareError> {
        queue.attach(arena)?;
        let slots = usize::from(queue.needs().slots);
        if slots == 0 {
            return Err(PrepareError("the queue has room for no command".into()));
        }
        let most_pieces = geometry.most_pieces();
        let most = most_pieces as usize;
        let fixed = own.len().saturating_mul(most) <= slots;
        let mut ranges = Vec::new();
        let mut prepared = Vec::with_capacity(slots);
        // The largest piece takes the most ranges; if the queue accepts it, it accepts all.
        let (whole, len) = (geometry.buffer(), geometry.largest_piece());
        for slot in 0..slots {
            let (number, piece) = if fixed { (slot / most, slot % most) } else { (0, 0) };
            let Some(&tag) = own.get(number) else { break };
            let buffer = tags[tag as usize].buffer;
            let offset = (piece as u32).saturating_mul(len).min(whole - len);
            let memory = Memory { tag, offset, len };
            geometry.prepare(&mut queue, slot as Slot, buffer, memory, &mut ranges)?;
            prepared.push(memory);
        }
        Ok(Self {
            queue,
            stopped: false,
            waiting: VecDeque::with_capacity(own.len()),
            ops: Vec::with_capacity(own.len().max(REAP_BATCH)),
            uncommitted: false,
            commits_asleep: false,
            owner: own.iter().copied().chain(std::iter::repeat(0)).take(slots).collect(),
            prepared,
            direct: fixed && most == 1 && geometry.is_uniform(),
            free: (!fixed).then(|| (0..slots as Slot).rev().collect()),
            ranges,
            arena: arena.clone(),
            most_pieces,
        })
    }

    /// What it carries at most when so many I/Os are its own.
    pub fn plan(&self, ios: usize) -> QueuePlan {
        QueuePlan { depth: ios as u32, commands: self.queue.needs().slots.into() }
    }

    /// Takes an I/O in that is issued now; it goes to the queue with the next [`Lane::flush`].
    #[inline(always)]
    pub fn push(&mut self, index: u32, tag: Tag, geometry: &Geometry, tags: &mut [Tag]) {
        let kept = &mut tags[index as usize];
        let mut tag = Tag { buffer: kept.buffer, number: kept.number, ..tag };
        if self.direct {
            let blocks = tag.left;
            self.ops.push(geometry.op(tag.number, &tag, blocks));
            tag.taken(blocks, geometry);
        } else {
            self.waiting.push_back(index);
        }
        *kept = tag;
    }

    /// Gives the queue as much as it takes, and lets the peer see it, unless that is for the sleep that follows.
    ///
    /// # Errors
    /// When the queue is lost.
    #[inline]
    pub fn flush(&mut self, geometry: &Geometry, tags: &mut [Tag]) -> Result<(), Down> {
        loop {
            if self.ops.is_empty() && !self.waiting.is_empty() {
                self.build(geometry, tags)?;
            }
            if self.ops.is_empty() {
                break;
            }
            let taken = self.queue.submit(&self.ops);
            self.uncommitted |= taken > 0;
            if taken < self.ops.len() {
                self.ops.drain(..taken);
                break;
            }
            self.ops.clear();
        }
        if self.uncommitted && !self.commits_asleep {
            self.uncommitted = self.queue.commit()? == Progress::Pending;
        }
        Ok(())
    }

    /// Notes that a slot's command is over and returns the tag whose piece it carried.
    #[inline]
    pub fn retire(&mut self, done: &Done) -> u32 {
        if let Some(free) = &mut self.free {
            free.push(done.slot);
        }
        self.owner[usize::from(done.slot)]
    }

    /// How Aborts name the commands of a tag that the queue has taken.
    pub fn commands(&self, tag: u32) -> impl Iterator<Item = (u16, u16)> + '_ {
        let own = self.owner.iter().enumerate().filter(move |(_, owner)| **owner == tag);
        own.filter_map(|(slot, _)| self.queue.named(slot as Slot))
    }

    /// Has the commands of a tag that the queue has taken ended, by the queue or by `abort`, and returns for how many that was asked.
    pub fn abort(&mut self, tag: u32, mut abort: impl FnMut(u16, u16)) -> u64 {
        let mut asked = 0;
        for slot in (0..self.owner.len()).filter(|&slot| self.owner[slot] == tag).map(|slot| slot as Slot) {
            let Some((sqid, cid)) = self.queue.named(slot) else { continue };
            match self.queue.cancel(slot) {
                Some(possible) => asked += u64::from(possible),
                None => {
                    abort(sqid, cid);
                    asked += 1;
                }
            }
        }
        asked
    }

    /// Whether a tag has a piece here, as far as the queue names its commands.
    pub fn holds(&self, tag: u32) -> bool {
        self.waiting.contains(&tag) || self.commands(tag).next().is_some()
    }

    /// Stops the queue and forgets what it has not taken. Returns the tags that lost a piece by that, each once; their
    /// other pieces still come out of the queue.
    pub fn stop(&mut self, tags: &mut [Tag]) -> Vec<u32> {
        self.stopped = true;
        self.uncommitted = false;
        self.queue.stop();
        let mut lost: Vec<u32> = self.ops.drain(..).map(|op| self.owner[usize::from(op.slot)]).collect();
        lost.iter().for_each(|&tag| tags[tag as usize].outstanding -= 1);
        lost.extend(self.waiting.drain(..));
        lost.sort_unstable();
        lost.dedup();
        for &tag in &lost {
            let tag = &mut tags[tag as usize];
            (tag.left, tag.fate) = (0, Fate::Abandoned);
        }
        lost
    }

    /// Makes up to a batch of commands from the tags that have waited longest.
    #[inline]
    fn build(&mut self, geometry: &Geometry, tags: &mut [Tag]) -> Result<(), Down> {
        while self.ops.len() < REAP_BATCH
            && let Some(&index) = self.waiting.front()
        {
            let tag = &mut tags[index as usize];
            let slot = match &mut self.free {
                None => (u32::from(tag.number) * self.most_pieces) as Slot + tag.pieces,
                Some(free) => match free.pop() {
                    Some(slot) => slot,
                    None => break,
                },
            };
            let blocks = geometry.next_piece(tag);
            let memory = geometry.memory(index, tag, blocks);
            if let Some(memory) = memory.filter(|_| !geometry.class(tag).plain) {
                let range = DsmRange::new(tag.slba, blocks);
                self.arena.region().write(tag.buffer + u64::from(memory.offset), range.as_bytes());
            }
            self.owner[usize::from(slot)] = index;
            self.ops.push(geometry.op(slot, tag, blocks));
            tag.taken(blocks, geometry);
            if tag.left == 0 {
                self.waiting.pop_front();
            }
            let prepared = &mut self.prepared[usize::from(slot)];
            if let Some(memory) = memory.filter(|memory| *prepared != *memory) {
                *prepared = memory;
                geometry
                    .prepare(&mut self.queue, slot, tag.buffer, memory, &mut self.ranges)
                    .map_err(|error| Down(error.to_string()))?;
            }
        }
        Ok(())
    }
}
