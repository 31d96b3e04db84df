//! A queue without a socket, for tests and fuzz targets: what a controller may send is handed over, what goes to it is taken.

use std::sync::Arc;

use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, Slot};
use doorbell_spec::command::Command;
use doorbell_tcp::{Digests, Fault, Receiver, Role, Sender};

use super::{Agreement, Commands};

/// The commands of an I/O queue and both halves of its link, joined to nothing.
#[derive(Debug)]
pub struct Unplugged {
    receiver: Receiver,
    sender: Sender,
    commands: Commands,
    arena: Arc<Arena>,
}

impl Unplugged {
    /// A connected I/O queue of `slots` slots over `arena` whose ends agreed on these digests, on at most `in_capsule_bytes` bytes
    /// of data in a command capsule and at most `max_h2c_data` in one H2CData PDU.
    pub fn new(slots: u16, arena: Arc<Arena>, digests: Digests, in_capsule_bytes: u32, max_h2c_data: u32) -> Self {
        let mut receiver = Receiver::new(Role::Host, crate::transport::tcp::MOST_DATA);
        receiver.use_digests(digests);
        let mut sender = Sender::new(Role::Host);
        sender.use_agreement(digests, 0);
        let agreement = Agreement { qid: 1, slots, in_capsule_bytes, max_h2c_data, whole_reads: true };
        Self { receiver, sender, commands: Commands::new(agreement), arena }
    }

    /// Issues a command whose data is in `data`, ranges of the arena; false if the slot is busy or does not exist.
    pub fn submit(&mut self, slot: Slot, command: Command, data: &[Range]) -> bool {
        let idle = self.commands.cids.is_idle(slot);
        if idle {
            self.commands.slots[usize::from(slot)].use_memory(data, data.iter().map(|range| range.len).sum());
            self.commands.issue(slot, command, &mut self.sender);
        }
        idle
    }

    /// Takes bytes from the controller, and moves what the queue has to say to the end of `out`.
    ///
    /// # Errors
    /// Why the queue is lost.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let region = Some(self.arena.region());
        let received = self.receiver.deliver(bytes, region, &mut self.commands);
        self.commands.answer_requests(&mut self.sender);
        self.unload(out);
        received
    }

    /// Moves what the queue has to say to the end of `out`.
    pub fn unload(&mut self, out: &mut Vec<u8>) {
        self.sender.unload(Some(self.arena.region()), out);
        self.commands.settle(self.sender.sent());
    }

    /// Takes what is over.
    pub fn reap(&mut self) -> impl Iterator<Item = Done> {
        self.commands.done.drain(..)
    }

    /// Ends the queue: every outstanding slot is over, aborted.
    pub fn stop(&mut self) {
        self.commands.abort_all();
    }
}
