//! The contract of an I/O queue, and the in-memory null queue that proves it.
