//! What a client wants of the device.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use crate::wire::{Command, RegionAccess};

/// Something that the target does; what has a [`Ticket`] is answered with it.
#[derive(Debug)]
pub enum Event {
    /// Read `count` bytes of a region; answered by [`super::Connection::answer`]. The range lies in the region, which can be read.
    Read {
        /// For the answer.
        ticket: Ticket,
        /// Index.
        region: u32,
        /// From the region's start.
        offset: u64,
        /// In bytes.
        count: u32,
    },
    /// Write a region. The range lies in the region, which can be written.
    Write {
        /// For the answer.
        ticket: Ticket,
        /// Index.
        region: u32,
        /// From the region's start.
        offset: u64,
        /// What to write.
        data: Vec<u8>,
    },
    /// Change what becomes of interrupts, or trigger them. The device has all of them.
    SetIrqs {
        /// For the answer.
        ticket: Ticket,
        /// What to do.
        irqs: IrqSet,
    },
    /// Memory is in the map no more; to be answered once nothing uses it.
    Unmapped {
        /// For the answer.
        ticket: Ticket,
        /// Its address and size; none for all there was.
        range: Option<(u64, u64)>,
    },
    /// Reset the device. The map stays.
    Reset {
        /// For the answer.
        ticket: Ticket,
    },
    /// An access to the client's memory is over.
    Moved {
        /// What [`super::Connection::dma_read`] or `dma_write` returned.
        id: u16,
        /// What was read (nothing after a write), or why it failed.
        result: Result<Vec<u8>, Errno>,
    },
    /// The client was refused something, and has been told; this is for the log.
    Refused(String),
}

/// The right to answer a command, once.
#[derive(Debug)]
#[must_use = "the client waits for the answer"]
pub struct Ticket {
    pub(super) id: u16,
    pub(super) command: Command,
    pub(super) silent: bool,
    /// What an answer begins with.
    pub(super) echo: Vec<u8>,
}

/// What to do with interrupts `start` to `start + count` of a kind.
#[derive(Debug)]
pub struct IrqSet {
    /// The kind ([`crate::wire::irq`]).
    pub index: u32,
    /// The first one.
    pub start: u32,
    /// How many. 0, with [`Action::Trigger`] and no data: the kind is disabled, its eventfds go.
    pub count: u32,
    /// What to do.
    pub action: Action,
    /// With what.
    pub data: IrqData,
}

/// What is done with interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep them back.
    Mask,
    /// Let them through.
    Unmask,
    /// Trigger them; with eventfds, these are what a trigger writes to from now on.
    Trigger,
}

/// What comes with an [`IrqSet`].
#[derive(Debug)]
pub enum IrqData {
    /// Nothing: all of them are meant.
    None,
    /// Whether each is meant.
    Bool(Vec<bool>),
    /// A descriptor for each, of whatever it is: the client can make who writes to it wait ([`doorbell_platform::Raiser`]).
    Eventfds(Vec<OwnedFd>),
}

/// An event without its ticket.
pub(super) enum Work {
    Read(RegionAccess),
    Write(RegionAccess, Vec<u8>),
    SetIrqs(IrqSet),
    Unmapped(Option<(u64, u64)>),
    Reset,
}

impl Work {
    pub fn event(self, ticket: Ticket) -> Event {
        match self {
            Self::Read(access) => Event::Read {
                ticket,
                region: access.region.get(),
                offset: access.offset.get(),
                count: access.count.get(),
            },
            Self::Write(access, data) => {
                Event::Write { ticket, region: access.region.get(), offset: access.offset.get(), data }
            }
            Self::SetIrqs(irqs) => Event::SetIrqs { ticket, irqs },
            Self::Unmapped(range) => Event::Unmapped { ticket, range },
            Self::Reset => Event::Reset { ticket },
        }
    }
}
