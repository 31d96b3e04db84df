//! The PCI configuration space of the function (PCI Local Bus 6, PCIe Transport 3.8): a header and three capabilities. What of it can
//! be written keeps what is written; nothing here changes what the function does, as the host's driver reaches it by other means.

use doorbell_spec::register::{DOORBELLS, cq_head_doorbell};

use crate::controller::{DSTRD, VENDOR};

/// Bytes of the configuration space.
pub(super) const SIZE: usize = 256;
/// The function's identifier among those of [`VENDOR`].
const DEVICE: u16 = 0x0001;
/// Mass storage, non-volatile memory, NVM Express.
const CLASS: u32 = 0x01_08_02;
/// Most vectors that an MSI-X table has room for.
pub(super) const MOST_VECTORS: u16 = 2048;
/// The BAR that has the MSI-X table.
pub(super) const TABLE_BAR: u8 = 4;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const POWER: usize = 0x40;
const MSIX: usize = 0x50;
const EXPRESS: usize = 0x60;

/// A configuration space.
#[derive(Debug)]
pub(super) struct ConfigSpace {
    bytes: [u8; SIZE],
    /// Bits that the host can write.
    writable: [u8; SIZE],
}

/// Bytes of BAR 0 for so many I/O queues: registers, then doorbells.
pub(super) fn registers_len(io_queues: u16) -> u64 {
    (cq_head_doorbell(io_queues, DSTRD) + (4 << DSTRD)).max(u64::from(DOORBELLS) * 2).next_power_of_two()
}

/// Bytes of the MSI-X table for so many vectors.
fn table_len(vectors: u16) -> u64 {
    u64::from(vectors) * 16
}

/// Bytes of the BAR with the MSI-X table and the bits of what is pending.
fn table_bar_len(vectors: u16) -> u64 {
    (table_len(vectors).next_multiple_of(8) + u64::from(vectors).div_ceil(64) * 8).next_power_of_two().max(4096)
}

impl ConfigSpace {
    /// The space of a function with so many I/O queues and vectors.
    pub(super) fn new(io_queues: u16, vectors: u16) -> Self {
        let mut space = Self { bytes: [0; SIZE], writable: [0; SIZE] };
        space.set(0, &VENDOR.to_le_bytes());
        space.set(2, &DEVICE.to_le_bytes());
        // Memory space, bus master, no legacy interrupts.
        space.allow(COMMAND, &0x0406u16.to_le_bytes());
        // There are capabilities.
        space.set(STATUS, &[0x10]);
        space.set(9, &CLASS.to_le_bytes()[..3]);
        space.bar(0, registers_len(io_queues));
        space.bar(TABLE_BAR, table_bar_len(vectors));
        space.set(SUBSYSTEM, &VENDOR.to_le_bytes());
        space.set(SUBSYSTEM + 2, &DEVICE.to_le_bytes());
        space.set(CAPABILITIES, &[POWER as u8]);
        space.allow(INTERRUPT_LINE, &[0xff]);

        // Power management, version 3; the state can be written and says nothing.
        space.set(POWER, &[0x01, MSIX as u8, 0x03, 0x00, 0x08]);
        space.allow(POWER + 4, &[0x03]);
        let pending = table_len(vectors).next_multiple_of(8) as u32;
        space.set(MSIX, &[0x11, EXPRESS as u8]);
        space.set(MSIX + 2, &(vectors - 1).to_le_bytes());
        // MSI-X enable, function mask.
        space.allow(MSIX + 3, &[0xc0]);
        space.set(MSIX + 4, &u32::from(TABLE_BAR).to_le_bytes());
        space.set(MSIX + 8, &(pending | u32::from(TABLE_BAR)).to_le_bytes());
        // An endpoint of PCI Express, version 2, that can be reset by itself.
        space.set(EXPRESS, &[0x10, 0x00, 0x02, 0x00]);
        space.set(EXPRESS + 4, &(1u32 << 28 | 1 << 15).to_le_bytes());
        space.allow(EXPRESS + 8, &0x7fffu16.to_le_bytes());
        space
    }

    /// Copies what is at `offset`; there is nothing behind the end.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let there = &self.bytes[start(offset)..];
        let len = there.len().min(bytes.len());
        bytes[..len].copy_from_slice(&there[..len]);
    }

    /// Writes what can be written of `bytes` at `offset`.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (there, masks) = (&mut self.bytes[start(offset)..], &self.writable[start(offset)..]);
        for ((there, mask), byte) in there.iter_mut().zip(masks).zip(bytes) {
            *there = *there & !mask | byte & mask;
        }
    }

    /// A memory BAR of 64 bits.
    fn bar(&mut self, bar: u8, len: u64) {
        let at = BAR0 + usize::from(bar) * 4;
        self.set(at, &[0b100]);
        self.allow(at, &(!(len - 1)).to_le_bytes());
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }
}

/// An offset as an index.
fn start(offset: u64) -> usize {
    usize::try_from(offset).map_or(SIZE, |at| at.min(SIZE))
}

/// The MSI-X table and the bits of what is pending. The host's end of the protocol says which vectors it wants to hear of, so the
/// table keeps what is written and that is all.
#[derive(Debug)]
pub(super) struct Table(Vec<u8>);

impl Table {
    /// A table of so many vectors, all masked, as after a reset.
    pub(super) fn new(vectors: u16) -> Self {
        let mut bytes = vec![0; table_bar_len(vectors) as usize];
        bytes[..table_len(vectors) as usize].chunks_mut(16).for_each(|entry| entry[12] = 1);
        Self(bytes)
    }

    /// Bytes of the BAR it is in.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Copies what is at `offset`, which must be there.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
    }

    /// Writes at `offset`, which must be there.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dword(space: &ConfigSpace, at: u64) -> u32 {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn it_is_an_nvme_function_with_capabilities() {
        let space = ConfigSpace::new(128, 129);
        assert_eq!(dword(&space, 8) >> 8, 0x010802);
        let mut at = u64::from(dword(&space, 0x34) as u8);
        let mut found = Vec::new();
        while at != 0 {
            found.push(dword(&space, at) as u8);
            at = (dword(&space, at) >> 8 & 0xff).into();
        }
        assert_eq!(found, [0x01, 0x11, 0x10]);
        assert_eq!(dword(&space, MSIX as u64) >> 16 & 0x7ff, 128);
        assert_eq!(dword(&space, MSIX as u64 + 8), (129 * 16) | 4);
    }

    #[test]
    fn bars_say_how_long_they_are() {
        for (queues, len) in [(1, 8192u64), (31, 8192), (32, 16384), (128, 32768), (65534, 16 << 20)] {
            assert_eq!(registers_len(queues), len, "{queues}");
            let mut space = ConfigSpace::new(queues, 1);
            space.write(0x10, &[0xff; 8]);
            let value = u64::from(dword(&space, 0x10)) | u64::from(dword(&space, 0x14)) << 32;
            assert_eq!((value & 0xf, !(value & !0xf) + 1), (4, len), "{queues}");
        }
        assert_eq!((table_bar_len(1), table_bar_len(129), table_bar_len(2048)), (4096, 4096, 65536));
    }

    #[test]
    fn what_cannot_be_written_stays_and_nothing_is_behind_the_end() {
        let mut space = ConfigSpace::new(128, 129);
        let before = space.bytes;
        space.write(0, &[0xff; SIZE + 100]);
        for (at, before) in before.iter().enumerate() {
            assert_eq!((space.bytes[at] ^ before) & !space.writable[at], 0, "byte {at}");
        }
        assert_eq!((dword(&space, 0), dword(&space, 0x34)), (u32::from_le_bytes([0xbe, 0xd0, 1, 0]), 0x40));
        space.write(u64::MAX, &[1, 2]);
        let mut bytes = [7; 2];
        space.read(u64::MAX, &mut bytes);
        assert_eq!(bytes, [0; 2]);
    }
}
