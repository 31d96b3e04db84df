//! The NVMe/TCP link: PDU framing, digests and gathered socket calls, shared by host and target.
//!
//! [`Receiver`] and [`Sender`] are pure: they speak of headers and of ranges of a [`doorbell_platform::Region`], never of payload
//! bytes, and own no socket and no clock. [`Link`] is the thin shell that joins both to a socket. What a PDU *means* is decided by
//! the owner, who implements [`Sink`].

mod digest;
mod link;
mod receiver;
mod sender;
mod unplugged;

pub use link::{Link, Lost};
pub use receiver::{Fault, Pdu, Receiver, Sink, Violation};
pub use sender::{DataPdu, Sender};

/// Which end of the connection we are; it decides which PDUs may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends commands.
    Host,
    /// Answers them.
    Controller,
}

/// The digests both ends agreed on (TCP 3.4.1.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// A CRC-32C behind every header.
    pub header: bool,
    /// A CRC-32C behind all data.
    pub data: bool,
}

impl Digests {
    /// From the DGST byte of ICReq or ICResp.
    pub fn from_bits(bits: u8) -> Self {
        use doorbell_spec::tcp::digest::{DDGST, HDGST};
        Self { header: bits & HDGST != 0, data: bits & DDGST != 0 }
    }

    /// The DGST byte.
    pub fn bits(self) -> u8 {
        use doorbell_spec::tcp::digest::{DDGST, HDGST};
        (u8::from(self.header) * HDGST) | (u8::from(self.data) * DDGST)
    }
}
