//! The socket floor alone, to hold it against other measurements of the same exchange:
//!
//!     cargo run --release -p doorbell-bench --bin floor read|write|r2t DEPTH CONNECTIONS BYTES SECONDS

use std::{error::Error, time::Duration};

use doorbell_bench::floor::{Kind, Shape, measure};
use doorbell_platform::cpu;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, depth, connections, size, seconds] = &arguments[..] else {
        return Err("read|write|r2t DEPTH CONNECTIONS BYTES SECONDS".into());
    };
    let kind = match kind.as_str() {
        "read" => Kind::Read,
        "write" => Kind::InCapsuleWrite,
        "r2t" => Kind::RequestedWrite,
        other => return Err(format!("{other} is none of read, write, r2t").into()),
    };
    let cores = cpu::allowed()?;
    let cores = [*cores.last().ok_or("no core")?, cores[0]];
    let (depth, connections, size) = (depth.parse()?, connections.parse()?, size.parse()?);
    let time = Duration::from_secs(seconds.parse()?);
    let iops = measure(Shape { kind, depth, connections, size, checksums: false, time, cores })?;
    println!("{iops:.0} IOPS, {:.0} MiB/s", iops * f64::from(size) / f64::from(1 << 20));
    Ok(())
}
