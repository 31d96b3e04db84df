//! What the kernel's ways to do I/O have in common, as queues: slots, what is over at once, and the end.

use std::{io, os::fd::RawFd, sync::Arc, time::Duration};

use doorbell_platform::{Arena, Backing, Range, Region};
use doorbell_queue::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait};
use doorbell_spec::{
    command::{Command, NvmOpcode},
    status::{self, Status, generic, system},
};
use rustix::io::Errno;

use crate::{file::File, libaio::Libaio, passthrough::Passthrough, uring::Uring};

/// I/Os that one call gives the kernel: it begins with the first of them only when it has them all.
const AT_ONCE: usize = 8;

/// A way to do I/O through the kernel; all there are lie in this crate.
pub trait Backend: Send + Sized {
    /// Makes it for so many I/Os at once.
    fn open(file: &File, slots: u16, region: Arc<Region>) -> Result<Self, String>;
    /// Takes an I/O; `Ok(false)` when there is no room.
    ///
    /// # Errors
    /// How it ends, as it cannot be done this way.
    fn push(&mut self, op: &Op, memory: Range) -> Result<bool, Status>;
    /// Gives the kernel what was pushed; returns whether it took all. `refused` hears of what it never will.
    fn submit(&mut self, refused: impl FnMut(Slot, Status)) -> io::Result<bool>;
    /// Tells of at most so many that are over: slot, what came back, and the result of a command.
    fn reap(&mut self, most: usize, over: impl FnMut(Slot, i64, u64)) -> io::Result<usize>;
    /// What came back as a status, for an I/O that was to read or write so many bytes.
    fn status(answer: i64, moves: u32) -> Status;
    /// How many are over and not told of.
    fn ready(&self) -> u32;
    /// Sleeps until something may be over, or so long; false where that cannot be done but by what `arm` gives.
    fn sleep(&mut self, longest: Duration) -> io::Result<bool>;
    /// Whether that submits as well.
    fn sleep_submits(&self) -> bool;
    /// What to sleep on; nothing when something may be over.
    fn arm(&mut self) -> io::Result<Option<RawFd>>;
    /// Asks for the end of a slot's I/O, or of all; returns whether that is possible.
    fn cancel(&mut self, slot: Option<Slot>) -> bool;
}

/// The status of an I/O that was to read or write so many bytes, by bytes or a negative error number.
#[inline]
pub(crate) fn status_of(answer: i64, moves: u32) -> Status {
    if answer == i64::from(moves) { Status::SUCCESS } else { status_of_error(answer) }
}

/// The same where something is wrong.
#[cold]
pub(crate) fn status_of_error(answer: i64) -> Status {
    let number = u8::try_from(-answer).unwrap_or(0);
    if [Errno::CANCELED, Errno::INTR].iter().any(|error| error.raw_os_error() == number.into()) {
        return generic::ABORT_REQUESTED;
    }
    if number > 0 { Status::new(status::SCT_SYSTEM, number) } else { system::SHORT_TRANSFER }
}

/// What a slot is about.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    memory: Range,
    /// Bytes that its present I/O reads or writes.
    moves: u32,
    busy: bool,
}

/// An I/O queue over a way of the kernel's.
#[derive(Debug)]
pub struct Queue<B> {
    file: File,
    /// Made by `attach`.
    backend: Option<B>,
    places: Box<[Place]>,
    outstanding: u16,
    /// Given back by a stop, and still the kernel's.
    late: u32,
    /// Ended without the kernel.
    ended: Vec<(Slot, Status)>,
    stopped: bool,
    counters: Counters,
}

impl<B: Backend> Queue<B> {
    pub(crate) fn new(file: File, slots: u16) -> Self {
        Self {
            file,
            backend: None,
            places: vec![Place::default(); slots.into()].into(),
            outstanding: 0,
            late: 0,
            ended: Vec::with_capacity(slots.into()),
            stopped: false,
            counters: Counters::default(),
        }
    }

    /// Gives back what the kernel still has.
    #[cold]
    fn give_back(&mut self, done: &mut [Done]) -> usize {
        let mut count = 0;
        for (slot, place) in self.places.iter_mut().enumerate().filter(|(_, place)| place.busy).take(done.len()) {
            place.busy = false;
            done[count] = Done { slot: slot as Slot, status: generic::ABORTED_SQ_DELETION, result: 0 };
            count += 1;
        }
        self.outstanding -= count as u16;
        self.late += count as u32;
        count
    }

    fn down(&self, error: &io::Error) -> Down {
        Down(format!("{}: {}: {error}", self.file.name(), self.file.engine().word()))
    }

    #[inline]
    fn take(&mut self, op: &Op) -> bool {
        let Some(backend) = self.backend.as_mut().filter(|_| !self.stopped) else { return false };
        let Some(place) = self.places.get_mut(usize::from(op.slot)).filter(|place| !place.busy) else { return false };
        place.moves = match NvmOpcode(op.opcode) {
            NvmOpcode::READ | NvmOpcode::WRITE => place.memory.len,
            _ => 0,
        };
        match backend.push(op, place.memory) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(status) => self.ended.push((op.slot, status)),
        }
        place.busy = true;
        self.outstanding += 1;
        true
    }
}

impl<B: Backend> IoQueue for Queue<B> {
    fn needs(&self) -> Needs {
        Needs {
            slots: self.places.len() as u16,
            alignment: self.file.alignment(),
            segments: u16::MAX,
            bytes: self.file.max_transfer(),
            backing: Backing::Any,
        }
    }

    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        let backend = B::open(&self.file, self.places.len() as u16, arena.share()).map_err(PrepareError)?;
        self.backend = Some(backend);
        Ok(())
    }

    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        let wrong = |why: &str| Err(PrepareError(format!("slot {slot} {why}")));
        let mut memory = Range { offset: data.first().map_or(0, |first| first.offset), len: 0 };
        for piece in data {
            if piece.offset != memory.end() {
                return wrong("has memory in several pieces, which one I/O of the kernel's does not take here");
            }
            memory.len += piece.len;
        }
        match self.places.get_mut(usize::from(slot)).filter(|place| !place.busy) {
            Some(place) => place.memory = memory,
            None => return wrong("is busy or does not exist"),
        }
        Ok(())
    }

    #[inline]
    fn submit(&mut self, ops: &[Op]) -> usize {
        // Why a commit fails the next one says, too.
        let mut taken = 0;
        for op in ops {
            let full = taken > 0 && taken % AT_ONCE == 0;
            if (full && self.commit().is_err()) || !self.take(op) {
                break;
            }
            taken += 1;
        }
        self.counters.submitted += taken as u64;
        self.counters.queued += (ops.len() - taken) as u64;
        taken
    }

    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        let op = Op {
            slot,
            opcode: command.opc,
            nsid: command.nsid.get(),
            slba: command.slba(),
            blocks: command.block_count(),
            control: command.control(),
            ..Op::default()
        };
        self.submit(&[op]) == 1
    }

    #[inline]
    fn commit(&mut self) -> Result<Progress, Down> {
        let Some(backend) = &mut self.backend else { return Ok(Progress::Complete) };
        let ended = &mut self.ended;
        match backend.submit(|slot, status| ended.push((slot, status))) {
            Ok(true) => Ok(Progress::Complete),
            Ok(false) => Ok(Progress::Pending),
            Err(error) => Err(self.down(&error)),
        }
    }

    #[inline]
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        self.counters.polls += 1;
        let Some(backend) = &mut self.backend else { return Ok(0) };
        let (places, outstanding, late) = (&mut self.places, &mut self.outstanding, &mut self.late);
        let (mut count, room) = (0, done.len());
        let mut put = |slot: Slot, status: &dyn Fn(u32) -> Status, result: u64| {
            // What a stop gave back comes out of the kernel later.
            let Some(place) = places.get_mut(usize::from(slot)).filter(|place| place.busy) else {
                *late = late.saturating_sub(1);
                return;
            };
            place.busy = false;
            *outstanding -= 1;
            done[count] = Done { slot, status: status(place.moves), result };
            count += 1;
        };
        let ended = self.ended.len().min(room);
        self.ended.drain(..ended).for_each(|(slot, status)| put(slot, &|_| status, 0));
        let outcome = match room - ended {
            0 => Ok(0),
            room => backend.reap(room, |slot, answer, result| put(slot, &|moves| B::status(answer, moves), result)),
        };
        if self.stopped {
            count += self.give_back(&mut done[count..]);
        }
        self.counters.idle_polls += u64::from(count == 0);
        self.counters.completions += count as u64;
        match outcome {
            Err(error) if count == 0 && !self.stopped => Err(self.down(&error)),
            _ => Ok(count),
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        let Some(backend) = &mut self.backend else { return };
        let ended = &mut self.ended;
        let mut submit = |backend: &mut B| backend.submit(|slot, status| ended.push((slot, status)));
        // What cannot be submitted or cancelled is given back all the same, and counted as the kernel's.
        let _ = submit(backend);
        if backend.cancel(None) {
            let _ = submit(backend);
        }
    }

    fn drained(&self) -> Drain {
        let ready = || self.backend.as_ref().map_or(0, B::ready);
        match (self.outstanding, self.late) {
            (0, 0) => Drain::Clean,
            (0, late) => match late.saturating_sub(ready()) {
                0 => Drain::Clean,
                left => Drain::Quarantined(left),
            },
            _ => Drain::Busy,
        }
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        let Some(backend) = self.backend.as_mut().filter(|_| self.ended.is_empty()) else { return Ok(Wait::Ready) };
        match backend.arm() {
            Ok(Some(fd)) => Ok(Wait::Fd { fd, writable: false }),
            Ok(None) => Ok(Wait::Ready),
            Err(error) => Err(self.down(&error)),
        }
    }

    fn sleep(&mut self, longest: Duration) -> Result<bool, Down> {
        match self.backend.as_mut().filter(|_| self.ended.is_empty()).map(|backend| backend.sleep(longest)) {
            None => self.commit().map(|_| true),
            Some(outcome) => outcome.map_err(|error| self.down(&error)),
        }
    }

    fn sleep_commits(&self) -> bool {
        self.backend.as_ref().is_some_and(B::sleep_submits)
    }

    fn cancel(&mut self, slot: Slot) -> Option<bool> {
        let busy = self.places.get(usize::from(slot)).is_some_and(|place| place.busy);
        let asked = busy && self.backend.as_mut().is_some_and(|backend| backend.cancel(Some(slot)));
        // It goes out at once: nothing else may be submitted for long.
        Some(asked && self.commit().is_ok())
    }

    fn named(&self, slot: Slot) -> Option<(u16, u16)> {
        self.places.get(usize::from(slot)).filter(|place| place.busy).map(|_| (0, slot))
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// A queue of one of the kernel's ways. Match on it to have a loop compiled for each.
#[derive(Debug)]
pub enum KernelQueue {
    /// Linux AIO.
    Libaio(Box<Queue<Libaio>>),
    /// io_uring.
    Uring(Box<Queue<Uring>>),
    /// NVMe commands through io_uring.
    Passthrough(Box<Queue<Passthrough>>),
}
