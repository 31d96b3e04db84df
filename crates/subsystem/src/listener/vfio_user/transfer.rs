//! Where the data of a command lies in the host's memory: PRP entries and lists (Base 4.3.1), SGL descriptors and segments (Base
//! 4.3.2). Each page of a list and each piece of a segment is copied once and only the copy is looked at, so that a host that changes
//! them meanwhile changes nothing that has been checked.

use doorbell_spec::{
    command::{Command, FLAGS_PSDT, FLAGS_SGL, FLAGS_SGL_METADATA, SglDescriptor, SglKind},
    status::{Status, generic},
};
use zerocopy::{FromZeros, IntoBytes, little_endian::U64};

use super::memory::{Memory, Piece, Trouble};
use crate::controller::Plan;

/// Bytes of a memory page (CC.MPS is 0, the only value there is).
pub(super) const PAGE: u32 = 4096;
/// Entries of a page of a PRP list.
const ENTRIES: usize = PAGE as usize / size_of::<U64>();
/// Descriptors copied at a time.
const AT_ONCE: usize = 64;
/// Most descriptors of a command: more than any sensible host has for the largest transfer there is.
const MOST_DESCRIPTORS: usize = 16384;

/// Where lists are read from.
pub(super) trait Source: Copy {
    /// Copies `bytes.len()` bytes from `at`.
    fn read(self, at: u64, bytes: &mut [u8]) -> Result<(), Trouble>;
}

impl Source for Memory<'_> {
    #[inline]
    fn read(self, at: u64, bytes: &mut [u8]) -> Result<(), Trouble> {
        Memory::read(self, at, bytes)
    }
}

/// Appends the pieces of the bytes that a command's data pointer names, and behind them its metadata, where that is apart.
///
/// # Errors
/// The status to answer with, or that the host's memory is gone.
#[inline]
pub(super) fn pieces(
    memory: impl Source,
    command: &Command,
    plan: &Plan,
    pieces: &mut Vec<Piece>,
) -> Result<(), Trouble> {
    let len = plan.len - plan.apart;
    match command.flags & FLAGS_PSDT {
        0 => prp(memory, [command.dptr.prp1(), command.dptr.prp2()], len, pieces)?,
        FLAGS_SGL | FLAGS_SGL_METADATA => sgl(memory, command.sgl(), len, pieces)?,
        _ => return Err(INVALID_FIELD),
    }
    if plan.apart > 0 {
        // SGLS says that a metadata pointer is an address, of a dword.
        if command.flags & FLAGS_PSDT == FLAGS_SGL_METADATA || !command.mptr.get().is_multiple_of(4) {
            return Err(INVALID_FIELD);
        }
        push(pieces, command.mptr.get(), plan.apart);
    }
    Ok(())
}

const INVALID_FIELD: Trouble = Trouble::Status(generic::INVALID_FIELD.with_dnr());
const PRP_OFFSET: Trouble = Trouble::Status(generic::PRP_OFFSET_INVALID.with_dnr());

fn failed(status: Status) -> Result<(), Trouble> {
    Err(Trouble::Status(status.with_dnr()))
}

#[inline]
pub(super) fn prp(
    memory: impl Source,
    [first, second]: [u64; 2],
    len: u32,
    pieces: &mut Vec<Piece>,
) -> Result<(), Trouble> {
    if len == 0 {
        return Ok(());
    }
    if !first.is_multiple_of(4) {
        return Err(PRP_OFFSET);
    }
    let part = len.min(PAGE - offset(first));
    push(pieces, first, part);
    let left = len - part;
    match left {
        0 => Ok(()),
        1..=PAGE if offset(second) != 0 => Err(PRP_OFFSET),
        1..=PAGE => {
            push(pieces, second, left);
            Ok(())
        }
        _ => prp_list(memory, second, left, pieces),
    }
}

/// A list of PRP entries: its first page may begin anywhere in a page, and the last entry of a page that is not enough names the next.
fn prp_list(memory: impl Source, list: u64, len: u32, pieces: &mut Vec<Piece>) -> Result<(), Trouble> {
    let (mut list, mut left) = (list, len);
    if !list.is_multiple_of(size_of::<U64>() as u64) {
        return Err(PRP_OFFSET);
    }
    let mut page = [U64::ZERO; ENTRIES];
    loop {
        let wanted = left.div_ceil(PAGE) as usize;
        let room = (PAGE - offset(list)) as usize / size_of::<U64>();
        let entries = &mut page[..wanted.min(room)];
        memory.read(list, entries.as_mut_bytes())?;
        let next = if wanted > room { entries.split_last() } else { None };
        for entry in next.map_or(&*entries, |(_, data)| data) {
            if offset(entry.get()) != 0 {
                return Err(PRP_OFFSET);
            }
            let part = left.min(PAGE);
            push(pieces, entry.get(), part);
            left -= part;
        }
        let Some((next, _)) = next else { return Ok(()) };
        list = next.get();
        if offset(list) != 0 {
            return Err(PRP_OFFSET);
        }
    }
}

fn sgl(memory: impl Source, first: SglDescriptor, len: u32, pieces: &mut Vec<Piece>) -> Result<(), Trouble> {
    if len == 0 {
        return Ok(());
    }
    let mut left = len;
    let (mut segment, mut is_last) = match first.kind() {
        SglKind::DataBlock { address, length } => {
            take_block(address, length, &mut left, pieces)?;
            return finish(left);
        }
        SglKind::Segment { address, length } => ((address, length), false),
        SglKind::LastSegment { address, length } => ((address, length), true),
        _ => return failed(generic::SGL_TYPE_INVALID),
    };
    let mut seen = 0;
    loop {
        let (address, length) = segment;
        let count = length as usize / size_of::<SglDescriptor>();
        if count == 0 || !(length as usize).is_multiple_of(size_of::<SglDescriptor>()) {
            return failed(generic::INVALID_SGL_SEGMENT);
        }
        seen += count;
        if seen > MOST_DESCRIPTORS {
            return failed(generic::INVALID_SGL_COUNT);
        }
        let mut next = None;
        for at in (0..count).step_by(AT_ONCE) {
            let mut some: [SglDescriptor; AT_ONCE] = FromZeros::new_zeroed();
            let some = &mut some[..AT_ONCE.min(count - at)];
            let from = address.checked_add((at * size_of::<SglDescriptor>()) as u64).ok_or(Trouble::UNREACHABLE)?;
            memory.read(from, some.as_mut_bytes())?;
            for (descriptor, at) in some.iter().zip(at + 1..) {
                match descriptor.kind() {
                    SglKind::DataBlock { address, length } => take_block(address, length, &mut left, pieces)?,
                    // Only the last descriptor of a segment that is not the last names another.
                    SglKind::Segment { address, length } if at == count && !is_last => {
                        next = Some(((address, length), false));
                    }
                    SglKind::LastSegment { address, length } if at == count && !is_last => {
                        next = Some(((address, length), true));
                    }
                    SglKind::Segment { .. } | SglKind::LastSegment { .. } => {
                        return failed(generic::INVALID_SGL_SEGMENT);
                    }
                    _ => return failed(generic::SGL_TYPE_INVALID),
                }
            }
        }
        match next {
            Some(found) => (segment, is_last) = found,
            None if is_last => return finish(left),
            None => return failed(generic::INVALID_SGL_SEGMENT),
        }
    }
}

fn take_block(address: u64, length: u32, left: &mut u32, pieces: &mut Vec<Piece>) -> Result<(), Trouble> {
    // SGLS says that a list is not longer than the data.
    *left = left.checked_sub(length).ok_or(Trouble::Status(generic::DATA_SGL_LENGTH_INVALID.with_dnr()))?;
    if length > 0 {
        push(pieces, address, length);
    }
    Ok(())
}

fn finish(left: u32) -> Result<(), Trouble> {
    if left == 0 { Ok(()) } else { failed(generic::DATA_SGL_LENGTH_INVALID) }
}

#[inline]
fn offset(address: u64) -> u32 {
    (address % u64::from(PAGE)) as u32
}

/// Appends a piece, joined with the last one where they touch.
#[inline]
fn push(pieces: &mut Vec<Piece>, at: u64, len: u32) {
    match pieces.last_mut() {
        Some(last) if last.at.checked_add(last.len.into()) == Some(at) && last.len.checked_add(len).is_some() => {
            last.len += len;
        }
        _ => pieces.push(Piece { at, len }),
    }
}
