//! Everything that a peer can send, or a user can write, as functions that take any bytes and must neither panic nor find a
//! promise broken. `tests/corpus.rs` runs them over `corpus/` with every test run; `run` gives them to libFuzzer
//! (docs/fuzzing.md).

mod connect;
mod controller;
mod host_queue;
mod pdu;
pub mod seeds;
mod stream;
mod structures;

mod text;
pub mod vfio_user;
pub mod vfio_user_messages;

/// A body: what is done with some bytes.
pub type Body = fn(&[u8]);

/// All bodies by name, which is also the name of their folder in `corpus/`.
pub const BODIES: [(&str, Body); 14] = [
    ("stream_to_host", stream::to_host),
    ("stream_to_controller", stream::to_controller),
    ("controller", controller::run),
    ("connect", connect::run),
    ("host_queue", host_queue::run),
    ("identify", structures::identify),
    ("log_pages", structures::log_pages),
    ("signatures", structures::signatures),
    ("discovery_log", structures::discovery_log),
    ("transport_id", text::transport_id),
    ("options", text::options),
    ("vfio_user_server", vfio_user::to_server),
    ("vfio_user_client", vfio_user::to_client),
    ("vfio_user_messages", vfio_user_messages::run),
];
