//! What a controller may send to a host's I/O queue with commands outstanding. No byte outside the buffers of its reads changes,
//! each command is over once, a read that succeeded had all its data, what is sent for R2Ts is what they asked for, and it makes
//! no difference how the stream is cut.

use std::{cell::OnceCell, sync::Arc};

use doorbell_host::transport::tcp::Unplugged;
use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, Slot};
use doorbell_spec::{
    command::{self, Command},
    tcp::{DataHeader, PduType, flags},
};
use doorbell_tcp::{Fault, Pdu, Receiver, Role, Sink, Violation};
use zerocopy::FromBytes;

use crate::pdu::{Input, covers, places};

/// Mode bit 0: what is over is issued again, with new identifiers.
pub const AGAIN: u8 = 1;
const SIZE: usize = 40 << 10;
/// What the arena holds before anything comes.
static STILL: [u8; SIZE] = {
    let mut bytes = [0; SIZE];
    let mut at = 0;
    while at < SIZE {
        bytes[at] = (at % 251) as u8;
        at += 1;
    }
    bytes
};
const IN_CAPSULE: u32 = 1024;
const MOST_H2C: u32 = 4096;
/// Slots of the queue; one stays idle.
pub const SLOTS: u16 = 8;

/// A slot's command and memory: bytes from the start of the arena.
const fn at(offset: u64, len: u32) -> Range {
    Range { offset, len }
}

const READS: [(Slot, &[Range]); 3] =
    [(0, &[at(64, 512)]), (1, &[at(1024, 100), at(2048, 3900), at(7000, 96)]), (6, &[at(9001, 1)])];
const WRITES: [(Slot, &[Range]); 3] =
    [(2, &[at(10_000, 512)]), (3, &[at(12_288, 4096), at(20_480, 4096)]), (4, &[at(30_000, 5000)])];

/// The command and the memory of a slot.
fn order(slot: Slot) -> Option<(Command, &'static [Range])> {
    let of = |list: &'static [(Slot, &'static [Range])]| {
        list.iter().find(|(each, _)| *each == slot).map(|(_, ranges)| *ranges)
    };
    let read = of(&READS).map(|ranges| (command::read(1, 0, 1, 0), ranges));
    let write = || of(&WRITES).map(|ranges| (command::write(1, 0, 1, 0), ranges));
    let flush = || (slot == 5).then(|| (command::flush(1), &[][..]));
    read.or_else(write).or_else(flush)
}

fn size(ranges: &[Range]) -> u32 {
    ranges.iter().map(|range| range.len).sum()
}

thread_local! {
    static ARENA: OnceCell<Arc<Arena>> = const { OnceCell::new() };
}

/// The body.
pub fn run(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    ARENA.with(|arena| {
        let arena = arena.get_or_init(|| Arc::new(Arena::new(SIZE).expect("memory")));
        if input.mode & AGAIN != 0 {
            exchange(&input, arena, input.pieces(&input.stream));
            return;
        }
        let whole = exchange(&input, arena, std::iter::once(&input.stream[..]));
        let cut = exchange(&input, arena, input.pieces(&input.stream));
        assert_eq!(whole.fault, cut.fault, "it makes a difference how the stream is cut");
        if whole.fault.is_none() {
            assert!(whole.done == cut.done && whole.sent == cut.sent, "it makes a difference how the stream is cut");
        }
    });
}

/// A queue of this arena with its commands outstanding, and the bytes of these.
pub fn started(input: &Input, arena: &Arc<Arena>) -> Unplugged {
    let mut queue = Unplugged::new(SLOTS, arena.clone(), input.digests, IN_CAPSULE, MOST_H2C);
    for slot in 0..SLOTS {
        if let Some((command, ranges)) = order(slot) {
            assert!(queue.submit(slot, command, ranges));
        }
    }
    queue
}

struct Outcome {
    fault: Option<Fault>,
    done: Vec<Done>,
    /// What the queue sent for R2Ts.
    sent: Vec<u8>,
}

fn exchange<'a>(input: &Input, arena: &Arc<Arena>, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let region = arena.region();
    region.write(0, &STILL);
    let mut queue = started(input, arena);
    let (mut sent, mut done, mut fault) = (Vec::new(), Vec::new(), None);
    queue.unload(&mut sent);
    sent.clear();
    let (mut issued, again) = (usize::from(SLOTS) - 1, input.mode & AGAIN != 0);
    for piece in pieces {
        fault = queue.receive(piece, &mut sent).err();
        let before = done.len();
        done.extend(queue.reap());
        if fault.is_some() {
            break;
        }
        if again {
            for over in &done[before..] {
                let (command, ranges) = order(over.slot).expect("a slot that was used");
                assert!(queue.submit(over.slot, command, ranges), "slot {} is over and not idle", over.slot);
                issued += 1;
            }
            queue.unload(&mut sent);
        }
    }
    check_sent(input, &sent);

    let answered = done.len();
    queue.stop();
    done.extend(queue.reap());
    assert_eq!(done.len(), issued, "every command is over once");
    for slot in 0..SLOTS {
        let times = done.iter().filter(|over| over.slot == slot).count();
        let expected = usize::from(order(slot).is_some());
        assert!(times == expected || again && times >= expected, "slot {slot} is over {times} times");
    }
    for over in &done[..answered] {
        if let Some((_, ranges)) = READS.iter().find(|(slot, _)| *slot == over.slot)
            && over.status.is_success()
        {
            // The identifier of a slot's first use is its number.
            let of = |header: &DataHeader| header.cccid.get() == over.slot;
            let all = again || covers(&input.stream, input.digests, PduType::C2H_DATA, of, size(ranges));
            assert!(all, "a read that did not have its data, all of it and once, succeeded");
        }
    }
    untouched(region);
    Outcome { fault, done, sent }
}

/// Only the buffers of reads may have changed.
fn untouched(region: &doorbell_platform::Region) {
    let mut at = 0;
    let buffers = READS.iter().flat_map(|(_, ranges)| ranges.iter());
    for range in buffers {
        let before = &STILL[at as usize..range.offset as usize];
        assert!(region.equals(at, before), "bytes before {} changed", range.offset);
        at = range.end();
    }
    assert!(region.equals(at, &STILL[at as usize..]), "bytes behind {at} changed");
}

/// What a queue sends must be well-formed, and the data of the writes that were asked for.
fn check_sent(input: &Input, sent: &[u8]) {
    let mut requested = Requested { positions: [0; SLOTS as usize], again: input.mode & AGAIN != 0 };
    let mut receiver = Receiver::new(Role::Controller, MOST_H2C);
    receiver.use_digests(input.digests);
    receiver.received(sent.len(), sent, None, &mut requested).expect("a host keeps to the protocol");
    assert!(!receiver.is_within_pdu(), "half a PDU");
    for pdu in places(sent, input.digests).filter(|pdu| pdu.kind == PduType::H2C_DATA) {
        let header = DataHeader::ref_from_prefix(&sent[pdu.at..]).expect("a whole PDU").0;
        let (_, ranges) = order(header.cccid.get() % SLOTS).expect("a slot that was used");
        let pieces = ranges.iter().map(|range| &STILL[range.offset as usize..range.end() as usize]);
        let all = pieces.collect::<Vec<_>>().concat();
        let start = pdu.at + pdu.data.0;
        let data = &sent[start..start + pdu.data.1];
        assert!(all[header.datao.get() as usize..].starts_with(data), "other data than the command's");
    }
}

/// A controller that reads what was sent for its R2Ts.
struct Requested {
    /// How much of each slot's data came.
    positions: [u32; SLOTS as usize],
    again: bool,
}

impl Sink for Requested {
    fn pdu(&mut self, pdu: Pdu<'_>, data_len: u32) -> Result<u32, Violation> {
        match pdu {
            Pdu::CapsuleCmd(_) if self.again => {}
            Pdu::H2cData(header) => {
                let slot = header.cccid.get() % SLOTS;
                let (_, ranges) = order(slot).expect("a slot that was used");
                let position = &mut self.positions[usize::from(slot)];
                if header.datao.get() == 0 {
                    // The first of a command; where nothing is issued again there is one.
                    assert!(self.again || *position == 0, "data is sent again");
                    *position = 0;
                }
                assert_eq!(header.datao.get(), *position, "data out of order");
                *position += data_len;
                let asked = [3, 4].contains(&slot) && *position <= size(ranges);
                assert!(asked && data_len > 0, "{data_len} bytes of slot {slot} were sent");
                assert!(header.common.flags & flags::LAST != 0 || data_len == MOST_H2C, "a short PDU in the middle");
            }
            other => panic!("a host sent {other:?}"),
        }
        Ok(0)
    }

    fn place(&mut self, _: u32, _: u32, _: u32, _: &mut Vec<Range>) {}

    fn finished(&mut self, _: u32, intact: bool) -> Result<(), Violation> {
        assert!(intact, "a host's data digest is wrong");
        Ok(())
    }
}
