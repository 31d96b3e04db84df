//! What the device is: its regions, of which some parts are mapped, and its interrupts.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use doorbell_platform::Region;
use rustix::fs::fstat;
use zerocopy::{FromBytes, IntoBytes};

use super::{Client, Error, duplicates};
use crate::{
    MOST_FDS, Message, PAGE, Violation,
    wire::{self, CapHeader, Command, IrqInfo, IrqSet, RegionInfo, SparseArea, SparseMmap, irq, region},
};

/// Most bytes of a region's description.
const MOST_INFO: u32 = 4096;
/// Most parts of a region that we map.
const MOST_AREAS: usize = 64;

/// Most bytes of a region that we map: should they be taken away, memory of ours takes their place.
const MOST_MAPPED: u64 = 256 << 20;

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// [`wire::device`].
    pub flags: u32,
    /// Number of regions.
    pub regions: u32,
    /// Number of kinds of interrupts.
    pub irqs: u32,
}

/// A region of the device.
#[derive(Clone, Debug)]
pub struct DeviceRegion {
    /// In bytes; 0 where there is none with this index.
    pub size: u64,
    /// Whether it can be read.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// The parts that are mapped here, for reading and writing; none of a region that cannot be written.
    pub areas: Vec<Area>,
}

/// A part of a region that is mapped; all ones once the device's process took it away.
#[derive(Clone, Debug)]
pub struct Area {
    /// From the region's start.
    pub offset: u64,
    /// The part.
    pub memory: Arc<Region>,
}

impl DeviceRegion {
    /// Where `len` bytes at `offset` are mapped: the memory and the offset in it.
    pub fn mapped(&self, offset: u64, len: u64) -> Option<(Arc<Region>, u64)> {
        self.areas.iter().find_map(|area| {
            let at = offset.checked_sub(area.offset)?;
            let fits = at.checked_add(len)? <= area.memory.len() as u64;
            fits.then(|| (area.memory.clone(), at))
        })
    }
}

impl Client {
    /// What the device is.
    ///
    /// # Errors
    /// [`Error`].
    pub fn info(&mut self) -> Result<DeviceInfo, Error> {
        let request = wire::DeviceInfo { argsz: (size_of::<wire::DeviceInfo>() as u32).into(), ..Default::default() };
        let info: wire::DeviceInfo = self.describe(Command::DEVICE_GET_INFO, request.as_bytes())?.1;
        Ok(DeviceInfo { flags: info.flags.get(), regions: info.num_regions.get(), irqs: info.num_irqs.get() })
    }

    /// A region, with what can be mapped of it mapped.
    ///
    /// # Errors
    /// [`Error`].
    pub fn region(&mut self, index: u32) -> Result<DeviceRegion, Error> {
        let request = RegionInfo { argsz: MOST_INFO.into(), index: index.into(), ..Default::default() };
        let (reply, info): (_, RegionInfo) = self.describe(Command::DEVICE_GET_REGION_INFO, request.as_bytes())?;
        let flags = info.flags.get();
        let mut found = DeviceRegion {
            size: info.size.get(),
            readable: flags & region::READ != 0,
            writable: flags & region::WRITE != 0,
            areas: Vec::new(),
        };
        if info.argsz.get() > MOST_INFO {
            let most = MOST_INFO;
            return Err(Error::Unable(format!(
                "region {index} takes {} bytes to describe, {most} are read",
                info.argsz
            )));
        }
        // A store to what is mapped for reading only would end this process.
        let is_mapped = flags & region::MMAP != 0 && found.writable;
        let Some(file) = reply.fds.first().filter(|_| is_mapped) else { return Ok(found) };
        let areas = match parts(&reply, &info) {
            Ok(areas) => areas,
            Err(violation) => return Err(self.lost(violation.into())),
        };
        let sum = areas.iter().fold(0u64, |sum, (_, size)| sum.saturating_add(*size));
        if sum > MOST_MAPPED {
            return Err(Error::Unable(format!("{sum:#x} bytes of region {index} to be mapped, {MOST_MAPPED:#x} are")));
        }
        for (offset, size) in areas {
            let memory = map_area(file.as_fd(), info.offset.get(), offset, size).map_err(|why| {
                Error::Unable(format!("cannot map {size:#x} bytes at {offset:#x} of region {index}: {why}"))
            })?;
            found.areas.push(Area { offset, memory: Arc::new(memory) });
        }
        Ok(found)
    }

    /// How many interrupts of a kind the device has, and their flags ([`wire::irq`]).
    ///
    /// # Errors
    /// [`Error`].
    pub fn irqs(&mut self, index: u32) -> Result<(u32, u32), Error> {
        let argsz = size_of::<IrqInfo>() as u32;
        let request = IrqInfo { argsz: argsz.into(), index: index.into(), ..Default::default() };
        let info: IrqInfo = self.describe(Command::DEVICE_GET_IRQ_INFO, request.as_bytes())?.1;
        Ok((info.count.get(), info.flags.get()))
    }

    /// Has interrupts of a kind from `start` on written to eventfds, one each.
    ///
    /// # Errors
    /// [`Error`]; those before the one that failed may be set.
    pub fn set_irqs(&mut self, index: u32, start: u32, eventfds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let at_once = self.limits.max_msg_fds.min(MOST_FDS as u64) as usize;
        if at_once == 0 {
            return Err(Error::Unable("the device takes no descriptors, so it cannot interrupt".into()));
        }
        for (part, fds) in (0u32..).zip(eventfds.chunks(at_once)) {
            let first = start + part * at_once as u32;
            let request = irq_set(index, first, fds.len() as u32, irq::DATA_EVENTFD);
            let what = || format!("eventfds for {} interrupts from {first} on", fds.len());
            self.ask(Command::DEVICE_SET_IRQS, &[request.as_bytes()], duplicates(fds)?, what)?;
        }
        Ok(())
    }

    /// Disables all interrupts of a kind.
    ///
    /// # Errors
    /// [`Error`].
    pub fn disable_irqs(&mut self, index: u32) -> Result<(), Error> {
        let request = irq_set(index, 0, 0, irq::DATA_NONE);
        let what = || format!("to disable interrupts of kind {index}");
        self.ask(Command::DEVICE_SET_IRQS, &[request.as_bytes()], Vec::new(), what).map(drop)
    }

    /// Asks for a description, which begins with a structure.
    fn describe<T: FromBytes>(&mut self, command: Command, request: &[u8]) -> Result<(Message, T), Error> {
        let reply = self.ask(command, &[request], Vec::new(), || command.to_string())?;
        match reply.read() {
            Some(info) => Ok((reply, info)),
            None => {
                let why = format!("{} bytes answer {command}", reply.body.len());
                Err(self.lost(Violation(why).into()))
            }
        }
    }
}

fn irq_set(index: u32, start: u32, count: u32, data: u32) -> IrqSet {
    IrqSet {
        argsz: (size_of::<IrqSet>() as u32).into(),
        flags: (data | irq::ACTION_TRIGGER).into(),
        index: index.into(),
        start: start.into(),
        count: count.into(),
    }
}

/// The parts of a region that can be mapped: what the capabilities say, or all of it.
fn parts(reply: &Message, info: &RegionInfo) -> Result<Vec<(u64, u64)>, Violation> {
    let mut areas = None;
    let mut at = if info.flags.get() & region::CAPS != 0 { info.cap_offset.get() as usize } else { 0 };
    while at != 0 {
        let cap = reply.body.get(at..).and_then(|rest| CapHeader::read_from_prefix(rest).ok());
        let (cap, _) = cap.ok_or_else(|| Violation(format!("a capability at {at} of {} bytes", reply.body.len())))?;
        if cap.id.get() == region::CAP_SPARSE_MMAP && areas.is_none() {
            areas = Some(sparse(&reply.body[at..])?);
        }
        let next = cap.next.get() as usize;
        if next != 0 && next <= at {
            return Err(Violation(format!("the capability at {at} is followed by one at {next}")));
        }
        at = next;
    }
    let areas = areas.unwrap_or_else(|| vec![(0, info.size.get())]);
    let fits = |(offset, size): &(u64, u64)| {
        let end = offset.checked_add(*size);
        *size > 0 && (offset | size).is_multiple_of(PAGE) && end.is_some_and(|end| end <= info.size.get())
    };
    match areas.iter().find(|area| !fits(area)) {
        Some((offset, size)) => {
            Err(Violation(format!("{size:#x} bytes at {offset:#x} to be mapped of a region of {:#x}", info.size)))
        }
        None => Ok(areas),
    }
}

fn sparse(cap: &[u8]) -> Result<Vec<(u64, u64)>, Violation> {
    let cut = || Violation("a list of areas is cut short".into());
    let (sparse, rest) = SparseMmap::read_from_prefix(cap).map_err(|_| cut())?;
    let count = sparse.nr_areas.get() as usize;
    if count > MOST_AREAS {
        return Err(Violation(format!("{count} areas to be mapped of a region, {MOST_AREAS} are taken")));
    }
    let (areas, _) = <[SparseArea]>::ref_from_prefix_with_elems(rest, count).map_err(|_| cut())?;
    Ok(areas.iter().map(|area| (area.offset.get(), area.size.get())).collect())
}

fn map_area(file: BorrowedFd<'_>, base: u64, offset: u64, size: u64) -> Result<Region, String> {
    let start =
        base.checked_add(offset).filter(|start| start.is_multiple_of(PAGE)).ok_or("it does not begin a page")?;
    let has = fstat(file).map_err(|error| error.to_string())?.st_size as u64;
    if start.checked_add(size).is_none_or(|end| end > has) {
        return Err(format!("its file has {has:#x} bytes"));
    }
    let size = usize::try_from(size).map_err(|_| "it is too large")?;
    Region::map(file, start, size, true, 0xff).map_err(|error| error.to_string())
}
