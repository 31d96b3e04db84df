//! Copying between a namespace and memory with commands of many sizes, from and to memory that begins anywhere in a page: what arrives
//! is compared byte for byte by whoever called.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_host::{AnyQueue, Cancel, Controller, ControllerOptions, Namespace, TransportId};
use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, IoQueue, Op, REAP_BATCH};
use doorbell_spec::command::NvmOpcode;

/// How long nothing may happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// Queue entries asked for.
const ENTRIES: u32 = 32;
/// Sizes of commands in bytes, taken in turn: blocks, pages, more and less than what lists of pages hold, as much as there may be.
const SIZES: [u32; 9] = [512, 4096, 1536, 8192, 12288 + 512, 65536, 4096 + 512, 131_072, u32::MAX];
/// Where their memory begins in a page.
const STARTS: [u32; 5] = [0, 512, 4096 - 512, 64, 2048 + 4];

/// Which way.
pub enum Direction<'a> {
    /// From the namespace into this.
    Read(&'a mut [u8]),
    /// From this to the namespace.
    Write(&'a [u8]),
}

impl Direction<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(bytes) => bytes.len(),
            Self::Write(bytes) => bytes.len(),
        }
    }
}

/// The namespace that `id` names, and its controller.
fn reach(id: &TransportId) -> Result<(Controller, Namespace), String> {
    let nsid = id.ns.ok_or("the transport ID names no namespace, like ns:1")?;
    let cancel = Cancel::new();
    let controller = Controller::connect(id, &ControllerOptions::default(), &cancel).map_err(|why| why.to_string())?;
    let namespace = controller.namespaces().into_iter().find(|one| one.nsid == nsid);
    let namespace = namespace.ok_or_else(|| format!("{} has no namespace {nsid}", controller.name()))?;
    Ok((controller, namespace))
}

/// The first bytes of the namespace that `id` names, without its metadata.
///
/// # Errors
/// What could not be connected or read, and why.
pub fn look_at(id: &TransportId, bytes: usize) -> Result<Vec<u8>, String> {
    let (controller, namespace) = reach(id)?;
    let seen =
        controller.reader().and_then(|mut reader| reader.read(&namespace, 0, bytes)).map_err(|why| why.to_string());
    controller.detach();
    seen
}

/// Copies from or to the beginning of the namespace that `id` names.
///
/// # Errors
/// What could not be connected or copied, and why.
pub fn copy(id: &TransportId, direction: Direction) -> Result<(), String> {
    let (controller, namespace) = reach(id)?;
    if !direction.len().is_multiple_of(namespace.block_size as usize) {
        return Err(format!("{} bytes are no whole blocks of {}", direction.len(), namespace.block_size));
    }
    let entries = ENTRIES.min(controller.io_queue_entries());
    let mut queue = controller.connect_io_queue(entries).map_err(|why| why.to_string())?;
    let outcome = transfer(&mut queue, &namespace, direction);
    queue.stop();
    drop(queue);
    controller.detach();
    outcome
}

/// A command under way.
struct Transfer {
    at: usize,
    range: Range,
}

fn transfer(queue: &mut AnyQueue, namespace: &Namespace, mut direction: Direction) -> Result<(), String> {
    let needs = queue.needs();
    let most = needs.bytes.min(namespace.max_transfer);
    let slots = needs.slots.min(ENTRIES as u16);
    let stride = (most + 4096).next_multiple_of(4096);
    let arena =
        Arena::backed(needs.backing, stride as usize * usize::from(slots)).map_err(|why| format!("memory: {why}"))?;
    let arena = Arc::new(arena);
    queue.attach(&arena).map_err(|why| why.to_string())?;
    let areas: Result<Vec<Range>, _> = (0..slots).map(|_| arena.alloc(stride, 4096)).collect();
    let areas = areas.map_err(|why| format!("memory: {why}"))?;
    let block = namespace.block_size;
    let (mut under_way, mut next, mut number) = ((0..slots).map(|_| None).collect::<Vec<Option<Transfer>>>(), 0, 0);
    let mut last = Instant::now();
    while next < direction.len() || under_way.iter().any(Option::is_some) {
        for slot in 0..slots {
            let left = direction.len() - next;
            if left == 0 || under_way[usize::from(slot)].is_some() {
                continue;
            }
            let size = SIZES[number % SIZES.len()].clamp(block, most).min(left as u32) / block * block;
            let start = STARTS[number % STARTS.len()].next_multiple_of(needs.alignment) % 4096;
            let range = areas[usize::from(slot)].part(start, size);
            if let Direction::Write(bytes) = &direction {
                arena.region().write(range.offset, &bytes[next..next + size as usize]);
            }
            queue.prepare(slot, &[range]).map_err(|why| why.to_string())?;
            let opcode = if matches!(direction, Direction::Read(_)) { NvmOpcode::READ } else { NvmOpcode::WRITE };
            let slba = next as u64 / u64::from(block);
            let op = Op { slot, opcode: opcode.0, nsid: namespace.nsid, slba, blocks: size / block, ..Op::default() };
            if queue.submit(&[op]) == 0 {
                break;
            }
            under_way[usize::from(slot)] = Some(Transfer { at: next, range });
            next += size as usize;
            number += 1;
        }
        queue.commit().map_err(|why| why.to_string())?;
        let mut done = [Done::default(); REAP_BATCH];
        let count = queue.reap(&mut done).map_err(|why| why.to_string())?;
        for one in &done[..count] {
            let Transfer { at, range } = under_way[usize::from(one.slot)].take().ok_or("a completion of nothing")?;
            if !one.status.is_success() {
                return Err(format!("{} bytes at {at}: {}", range.len, one.status));
            }
            if let Direction::Read(bytes) = &mut direction {
                arena.region().read(range.offset, &mut bytes[at..at + range.len as usize]);
            }
            last = Instant::now();
        }
        if last.elapsed() > PATIENCE {
            return Err(format!("nothing was completed for {PATIENCE:?}, after {next} bytes"));
        }
    }
    Ok(())
}
