//! Files, block devices and NVMe namespaces that the kernel's drivers have, as I/O queues: by Linux AIO, by io_uring, or by commands
//! that the NVMe driver passes through. [`File::open`] looks at what a path is and says what is in the way; [`File::queue`] gives a
//! queue, whose ring is made when it is attached to memory, on the thread that uses it.

mod advice;
mod file;
mod libaio;
mod passthrough;
mod queue;
mod uring;

pub use file::{COMMANDS, Engine, File, Options};
pub use libaio::Libaio;
pub use passthrough::Passthrough;
pub use queue::{KernelQueue, Queue};
pub use uring::Uring;
