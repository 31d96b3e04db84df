//! `doorbell`: measures NVMe storage.

#[allow(dead_code)]
mod perf;

fn main() {}
