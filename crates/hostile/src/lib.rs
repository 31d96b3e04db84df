//! Misbehaving peers, for the tests of the host and of the target: NVMe/TCP over real sockets, and the device's end of rings in memory
//! ([`ring`]). Nothing but tests and benchmarks uses this crate, and it shares no code with what it tests but the wire formats of
//! `doorbell-spec` and the memory: a bug in the link cannot hide in both ends.
//!
//! - A [`Wire`] is a socket with deadlines that sends exact bytes and takes PDUs apart; [`Framing`] builds honest PDUs.
//! - A [`Misdeed`] is a way to misbehave that either end can commit on a wire, in place of the honest [`Step`] it was to take; its
//!   [`Fate`] is what the specification has the other end do about it.
//! - A [`HostPeer`] is a small honest host and a [`TargetPeer`] a small honest controller, so that a misdeed can be placed anywhere in
//!   the life of a connection: the host's by calling [`Misdeed::perform`] on its wire between two honest calls, the controller's from
//!   the hook that is asked before every honest answer.
//!
//! ```no_run
//! use doorbell_hostile::{HostPeer, Misdeed, Moment, Reply, Role, Setup, Step, TargetPeer};
//! use doorbell_spec::command::{self, NvmOpcode};
//!
//! // A host whose second write breaks off in the middle:
//! # let address = "127.0.0.1:4420".parse().unwrap();
//! let (_admin, cntlid) = HostPeer::admin(address, "nqn.2014-08.org.example:storage", Setup::default());
//! let mut io = HostPeer::io(address, cntlid, 1, "nqn.2014-08.org.example:storage", Setup::default());
//! let write = Step::command(command::write(1, 0, 8, 0), vec![1; 4096]);
//! Misdeed::HalfThenClose.perform(&mut io.wire, Role::Host, &write).unwrap();
//! println!("{}", io.wire.end());
//!
//! // A controller that answers the first Read with a wrong length, and is honest beside that:
//! let peer = TargetPeer::start(|connection, moment| match moment {
//!     Moment::Command(command, _) if connection.qid > 0 && command.opc == NvmOpcode::READ.0 => {
//!         connection.misdeed(Misdeed::PlenHuge, &Step::command(*command, vec![0; 4096]))
//!     }
//!     _ => Reply::Model,
//! });
//! println!("trtype:tcp traddr:127.0.0.1 trsvcid:{}", peer.address().port());
//! ```

mod host;
mod misdeed;
mod pdu;
pub mod ring;
mod target;
mod wire;

pub use host::{HOST, HOST_ID, HostPeer, NQN, Setup, Way};
pub use misdeed::{Fate, Misdeed, Role, Step};
pub use pdu::{Framing, Part, Pdu};
pub use target::{BLOCK, BLOCKS, Connection, Moment, Reply, TargetPeer, identify_controller, identify_namespace};
pub use wire::{End, PATIENCE, Wire};
