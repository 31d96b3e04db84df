//! The controller memory buffer (Base 8.2.1, 3.1.4.11 to 17), as a place for submission queues: the device then need not fetch commands.

use std::sync::Arc;

use doorbell_platform::Region;
use doorbell_spec::register::{self, Cap, Cmbloc, Cmbmsc, Cmbsz, Vs};

use crate::transport::ring::{Place, device::Device};

/// Bit of CMBSTS: the base address cannot be used.
const CBAI: u64 = 1;

/// The buffer and what of it is taken.
pub(super) struct Buffer {
    region: Arc<Region>,
    /// Where it begins in the region, where on the bus.
    start: u64,
    bus: u64,
    len: u64,
    /// Pieces that are in use: start and length from the buffer's start, ascending.
    taken: Vec<(u64, u64)>,
}

impl Buffer {
    /// The buffer of a device, if it has one that takes submission queues and can be mapped. Since version 1.4 the controller shows
    /// it only when it is told to, and has to be told its address on the bus.
    pub fn find(device: &dyn Device, vs: Vs, cap: Cap) -> Result<Option<Self>, String> {
        let told = vs >= Vs::version(1, 4, 0);
        if told && !cap.cmbs() {
            return Ok(None);
        }
        let read = |offset| device.read(offset, false).map_err(|why| why.to_string());
        let control = |value: Cmbmsc| {
            let outcome = device.write(register::CMBMSC, true, value.into_bits());
            outcome.map_err(|why| why.to_string())
        };
        if told {
            control(Cmbmsc::new().with_cre(true))?;
        }
        let size = Cmbsz::from_bits(read(register::CMBSZ)? as u32);
        if size.sz() == 0 || !size.sqs() {
            return Ok(None);
        }
        let location = Cmbloc::from_bits(read(register::CMBLOC)? as u32);
        let Some(unit) = 4096u64.checked_shl(4 * u32::from(size.szu())).filter(|_| size.szu() <= 6) else {
            return Err(format!("it counts in units of a reserved size (CMBSZ.SZU {})", size.szu()));
        };
        let Some((region, bus)) = device.memory(location.bir())? else { return Ok(None) };
        let (start, len) = (u64::from(location.ofst()) * unit, u64::from(size.sz()) * unit);
        let room = (region.len() as u64).checked_sub(start).filter(|&room| room > 0);
        let Some(room) = room else {
            return Err(format!("it begins at {start:x}h of BAR {} of {:x}h bytes", location.bir(), region.len()));
        };
        let bus = bus + start;
        if told {
            control(Cmbmsc::new().with_cre(true).with_cmse(true).with_cba(bus >> 12))?;
            if read(register::CMBSTS)? & CBAI != 0 {
                return Err(format!("the controller does not take it at bus address {bus:x}h (CMBSTS.CBAI)"));
            }
        }
        Ok(Some(Self { region, start, bus, len: len.min(room), taken: Vec::new() }))
    }

    /// The first piece of `len` bytes that is free, and by what it is given back; at a multiple of `page` on the bus.
    pub fn take(&mut self, len: u64, page: u64) -> Option<(Place, u64)> {
        let first = self.bus.next_multiple_of(page) - self.bus;
        let ends = self.taken.iter().map(|(start, len)| (start + len + first).next_multiple_of(page) - first);
        let at = std::iter::once(first).chain(ends).find(|at| {
            let free = |&(start, taken): &(u64, u64)| at + len <= start || start + taken <= *at;
            at + len <= self.len && self.taken.iter().all(free)
        })?;
        self.taken.push((at, len));
        self.taken.sort_unstable();
        Some((Place { region: self.region.clone(), offset: self.start + at, bus: self.bus + at }, at))
    }

    pub fn give_back(&mut self, at: u64) {
        self.taken.retain(|&(start, _)| start != at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_pages_that_nobody_else_has_and_come_back() {
        let region = Arc::new(Region::new(1 << 16).unwrap());
        let mut buffer = Buffer { region, start: 4096, bus: 0xc000_0000, len: 3 * 4096 + 100, taken: Vec::new() };
        let mut take = |len| buffer.take(len, 4096).map(|(place, at)| (place.offset, place.bus, at));
        assert_eq!(take(64), Some((4096, 0xc000_0000, 0)));
        assert_eq!(take(4097), Some((8192, 0xc000_1000, 4096)));
        assert_eq!(take(101), None, "the last page is cut short");
        assert_eq!(take(100), Some((16384, 0xc000_3000, 12288)));
        buffer.give_back(4096);
        assert_eq!(buffer.take(8192, 4096).map(|(_, at)| at), Some(4096));
    }
}
