//! The NVMe/TCP link: PDU framing, digests and gathered socket calls, shared by host and target.
//!
//! [`Receiver`] and [`Sender`] are pure: they speak of headers and of ranges of a [`doorbell_platform::Region`], never of payload
//! bytes, and own no socket and no clock. [`Link`] is the thin shell that joins both to a socket. What a PDU *means* is decided by
//! the owner, who implements [`Sink`].

use std::{io, net::TcpStream};

mod digest;
mod link;
mod receiver;
mod sender;
mod unplugged;
mod zero_copy;

pub use link::{Link, Lost};
pub use receiver::{Fault, Pdu, Receiver, Sink, Violation};
pub use sender::{DataPdu, Sender};
pub use zero_copy::{ZeroCopy, ZeroCopyCounts};

/// Whether both ends of a connection are on one machine, between which nothing is sent without a copy.
pub fn is_local(socket: &TcpStream) -> io::Result<bool> {
    let (local, peer) = (socket.local_addr()?.ip().to_canonical(), socket.peer_addr()?.ip().to_canonical());
    Ok(peer.is_loopback() || peer == local)
}

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
