//! A transport of one's own: it registers under the `trtype` MEMORY, and everything that takes a transport ID can use it.
//!
//! Run with `cargo run -p doorbell-host --example custom_transport`.

mod memory;

use std::{sync::Arc, time::Duration};

use doorbell_host::{Cancel, ControllerOptions, Probed, TransportId, probe, transport};
use doorbell_platform::{Arena, poll};
use doorbell_queue::{Done, IoQueue, Op, Wait};
use doorbell_spec::{command::NvmOpcode, status::Status};
use memory::{BLOCK, MemoryTransport, Site};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let memory = Arc::new(MemoryTransport::default());
    memory.add("example", Site::new());
    transport::register(memory)?;

    let id: TransportId = "trtype:memory traddr:example subnqn:nqn.2016-06.org.example:memory".parse()?;
    for Probed { id, outcome } in probe(&[id], &ControllerOptions::default(), &Cancel::new()) {
        let controller = outcome?;
        println!("{id}: {} {}", controller.name(), controller.identify().mn());
        for namespace in controller.namespaces() {
            println!("{}: {} blocks of {} bytes", namespace.name, namespace.blocks, namespace.block_size);
        }
        let mut queue = controller.connect_io_queue(32)?;
        let arena = Arc::new(Arena::new(2 * BLOCK as usize)?);
        queue.attach(&arena)?;
        let (from, to) = (arena.alloc(BLOCK, 1)?, arena.alloc(BLOCK, 1)?);
        arena.region().write(from.offset, b"ding dong");
        for (slot, opcode, range) in [(0, NvmOpcode::WRITE, from), (1, NvmOpcode::READ, to)] {
            queue.prepare(slot, &[range])?;
            println!("{}: {}", opcode.name(), round_trip(&mut queue, slot, opcode)?);
        }
        let mut text = [0; 9];
        arena.region().read(to.offset, &mut text);
        println!("read back \"{}\"", String::from_utf8_lossy(&text));
        queue.stop();
        controller.detach();
    }
    Ok(())
}

/// Block 7 of namespace 1, once, and what came of it.
fn round_trip(queue: &mut impl IoQueue, slot: u16, opcode: NvmOpcode) -> Result<Status, Box<dyn std::error::Error>> {
    queue.submit(&[Op { slot, opcode: opcode.0, nsid: 1, slba: 7, blocks: 1, ..Op::default() }]);
    let mut done = [Done { slot: 0, status: Status::SUCCESS, result: 0 }];
    for _ in 0..100 {
        queue.commit()?;
        if queue.reap(&mut done)? > 0 {
            return Ok(done[0].status);
        }
        if let Wait::Fd { fd, writable } = queue.arm()? {
            poll::wait(&[(fd, writable)], Duration::from_millis(100));
        }
    }
    Err("no answer within 10 s".into())
}
