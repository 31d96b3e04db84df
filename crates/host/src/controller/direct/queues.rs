//! I/O queues of a controller within reach: created by admin commands over memory that is laid out here, and deleted when their
//! owners are through with them (Base 5.2).

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use doorbell_platform::{Backing, Pages, Region};
use doorbell_spec::{
    command::{self, Command},
    register,
};

use super::{Direct, memory::Ended};
use crate::{
    controller::bring_up::Ready,
    error::Cause,
    transport::{
        AnyQueue,
        port::{AdminData, Port},
        ring::{Place, RingParts, RingQueue, Shadow},
    },
};

/// Bytes of a command and of a completion.
const COMMAND: u64 = 64;
const COMPLETION: u64 = 16;
/// What a deletion may still take when the caller has given up.
const GRACE: Duration = Duration::from_millis(500);

/// An I/O queue that the controller has.
pub(super) struct Queue {
    /// Its rings, or the completion ring alone.
    memory: Arc<Region>,
    /// Where its commands are in the controller memory buffer.
    in_buffer: Option<u64>,
    interrupt: Option<Arc<OwnedFd>>,
    safe: Arc<AtomicBool>,
}

impl Queue {
    /// Wakes who sleeps until it has something.
    pub fn wake(&self) {
        if let Some(fd) = &self.interrupt {
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    /// The device has let go of it.
    pub fn is_safe(&self) {
        self.safe.store(true, Ordering::Release);
    }
}

impl Direct {
    /// Memory for rings of `entries` entries, the submission queue being elsewhere when that is given.
    pub(super) fn rings(&self, entries: u32, sq: Option<Place>) -> Result<(Place, Place), String> {
        let page = self.page();
        let size = |entry: u64| (u64::from(entries) * entry).next_multiple_of(page);
        let commands = if sq.is_some() { 0 } else { size(COMMAND) };
        // Rings are small: the pool of huge pages is for data, unless the device can use nothing else.
        let backing = match self.backing {
            Backing::Shared(Pages::HugeIfFree) => Backing::Shared(Pages::Ordinary),
            other => other,
        };
        let both = self.shared.allocate(backing, commands + size(COMPLETION), page)?;
        let cq = Place { region: both.region.clone(), offset: both.offset + commands, bus: both.bus + commands };
        Ok((sq.unwrap_or(both), cq))
    }

    /// Creates an I/O queue.
    ///
    /// # Errors
    /// A status, after which the controller is as before; all else means that it is lost.
    pub fn create(
        &mut self,
        port: &mut Port,
        ready: &Ready,
        entries: u32,
        timeout: Duration,
    ) -> Result<AnyQueue, Cause> {
        let free = (1..=ready.io_queues).find(|qid| !self.queues.contains_key(qid));
        let qid = free.ok_or_else(|| Cause::Transport(all_in_use(ready.io_queues)))?;
        let interrupt = match self.options.interrupts {
            true => Some(self.device.interrupt(qid).map_err(Cause::Transport)?.ok_or_else(|| {
                let what = format!("I/O queue {qid} cannot have an interrupt (-E): the device has no vector {qid}");
                Cause::Transport(format!("{what}; use fewer cores, namespaces or queue pairs (-P), or leave -E out"))
            })?),
            false => None,
        };
        let page = self.page();
        let in_buffer = self.buffer.as_mut().and_then(|buffer| buffer.take(u64::from(entries) * COMMAND, page));
        let sq = in_buffer.as_ref().map(|(place, _)| place.clone());
        let in_buffer = in_buffer.map(|(_, at)| at);
        let safe = Arc::new(AtomicBool::new(false));
        let made = self.rings(entries, sq).and_then(|(sq, cq)| {
            let parts = RingParts {
                shadow: self.shadow(qid),
                most_bytes: ready.max_transfer,
                sgl: self.sgl,
                interrupt: interrupt.clone(),
                ..self.parts(qid, entries, sq.clone(), cq.clone(), Some(safe.clone()))
            };
            Ok((RingQueue::new(parts)?, sq, cq))
        });
        let (queue, sq, cq) = made.map_err(|why| {
            self.free_buffer(in_buffer);
            Cause::Transport(why)
        })?;
        let vector = interrupt.is_some().then_some(qid);
        let memory = cq.region.clone();
        self.queues.insert(qid, Queue { memory, in_buffer, interrupt, safe });
        let size = (entries - 1) as u16;
        let mut send = |command: Command| port.succeed(&command, &AdminData::None, timeout).map(drop);
        if let Err(refused) = send(command::create_io_cq(qid, size, cq.bus, vector)) {
            // Nothing was created where that is certain; the queue that is dropped here is not asked to be deleted.
            return Err(self.undo(qid, refused));
        }
        if let Err(refused) = send(command::create_io_sq(qid, size, sq.bus, qid, 0)) {
            return match send(command::delete_io_cq(qid)) {
                Ok(()) => Err(self.undo(qid, refused)),
                Err(_) => Err(refused),
            };
        }
        std::thread::sleep(self.quirks.rest_after_create);
        Ok(AnyQueue::Ring(Box::new(queue)))
    }

    /// Forgets a queue that the controller refused, not one that it may have.
    fn undo(&mut self, qid: u16, refused: Cause) -> Cause {
        if refused.status().is_some() {
            self.forget(qid);
        }
        refused
    }

    fn forget(&mut self, qid: u16) {
        let Some(queue) = self.queues.remove(&qid) else { return };
        queue.is_safe();
        self.shared.unmap(&queue.memory);
        self.free_buffer(queue.in_buffer);
    }

    fn free_buffer(&mut self, at: Option<u64>) {
        if let (Some(buffer), Some(at)) = (&mut self.buffer, at) {
            buffer.give_back(at);
        }
    }

    /// Deletes the queues that were ended. Returns what went wrong with some, for people.
    ///
    /// # Errors
    /// When the controller does not answer: it is lost.
    pub fn bury(&mut self, port: &mut Port, timeout: Duration) -> Result<Vec<String>, Cause> {
        // Whoever gives up wants it done all the same, as a deletion that is left half done helps nobody; but does not wait for a
        // device that answers nothing any more.
        port.grace(GRACE);
        let outcome = self.bury_each(port, timeout);
        port.grace(Duration::ZERO);
        outcome
    }

    fn bury_each(&mut self, port: &mut Port, timeout: Duration) -> Result<Vec<String>, Cause> {
        let mut notes = Vec::new();
        for Ended { qid, memory, safe } in self.shared.ended() {
            // The admin queue ends with the incarnation; one that was not created, or was refused, needs no deletion.
            let known = self.queues.get(&qid).is_some_and(|queue| Arc::ptr_eq(&queue.safe, &safe));
            if known {
                let mut send = |command: Command| port.succeed(&command, &AdminData::None, timeout).map(drop);
                match send(command::delete_io_sq(qid)).and_then(|()| send(command::delete_io_cq(qid))) {
                    Ok(()) => self.forget(qid),
                    // Its memory stays mapped, its number taken.
                    Err(why) if why.status().is_some() => {
                        notes.push(format!("I/O queue {qid} cannot be deleted: {why}"));
                        continue;
                    }
                    Err(why) => return Err(why),
                }
            }
            if qid > 0 {
                memory.iter().for_each(|region| self.shared.unmap(region));
            }
        }
        Ok(notes)
    }

    /// Gives the controller shadow doorbells (Base 5.2.5), where one page holds those of all queues.
    pub(super) fn shadow_doorbells(
        &mut self,
        port: &mut Port,
        ready: &mut Ready,
        timeout: Duration,
    ) -> Result<(), Cause> {
        let page = self.page();
        let end = register::cq_head_doorbell(ready.io_queues, self.cap.dstrd()) + 4 - u64::from(register::DOORBELLS);
        if end > page {
            return Ok(());
        }
        let place = self.shared.allocate(self.backing, 2 * page, page).map_err(Cause::Transport)?;
        let command = command::doorbell_buffer_config(place.bus, place.bus + page);
        match port.execute(&command, &AdminData::None, timeout)?.0.status {
            status if status.is_success() => self.shadow = Some(place),
            status => {
                self.shared.unmap(&place.region);
                ready.warnings.push(format!("no shadow doorbells: Doorbell Buffer Config was answered {status}"));
            }
        }
        Ok(())
    }

    fn shadow(&self, qid: u16) -> Option<Shadow> {
        let place = self.shadow.as_ref()?;
        let dstrd = self.cap.dstrd();
        let at = |doorbell: u64| place.offset + doorbell - u64::from(register::DOORBELLS);
        let (sq_tail, cq_head) = (register::sq_tail_doorbell(qid, dstrd), register::cq_head_doorbell(qid, dstrd));
        let page = self.page();
        Some(Shadow {
            region: place.region.clone(),
            sq_tail: at(sq_tail),
            cq_head: at(cq_head),
            sq_event: at(sq_tail) + page,
            cq_event: at(cq_head) + page,
        })
    }
}

/// What to do when no I/O queue is left.
pub(in crate::controller) fn all_in_use(io_queues: u16) -> String {
    format!("all of its {io_queues} I/O queues are in use: use fewer cores, namespaces or queue pairs (-P, -U)")
}
