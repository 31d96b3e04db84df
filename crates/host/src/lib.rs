//! The NVMe host driver: finding controllers, bringing them up, and queues to their namespaces.
//!
//! [`probe`] turns transport IDs into [`Controller`]s, each with a thread that keeps its admin queue. A controller hands out I/O
//! queues ([`AnyQueue`]) that move to the worker that drives them.

mod cancel;
mod controller;
mod discovery;
mod error;
mod identity;
mod init_state;
mod namespace;
mod probe;
mod reader;
pub mod split;
pub mod transport;
mod transport_id;

pub use cancel::Cancel;
pub use controller::{Controller, ControllerOptions, Reconnect};
pub use discovery::{DiscoveryLog, Found, discover, found};
pub use error::{Cause, Error};
pub use identity::HostIdentity;
pub use init_state::InitState;
pub use namespace::{Namespace, Zoned};
pub use probe::{Probed, probe};
pub use reader::Reader;
pub use transport::{AnyQueue, PollGroup, port::AdminData};
pub use transport_id::{AddressFamily, TransportId, TransportIdError, TransportType};
