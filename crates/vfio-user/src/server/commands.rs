//! Commands of a client, one by one: each is checked whole before anything is done.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use doorbell_platform::Region;
use rustix::{
    fs::{fcntl_get_seals, fstat, fstatfs},
    io::Errno,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    Connection, MOST_OPEN,
    events::{Action, IrqData, IrqSet, Work},
};
use crate::{
    Limits, MOST_DATA, MOST_DMA_MAPS, Message,
    dma::Unmappable,
    wire::{
        CapHeader, Command, DeviceInfo, DmaMapRequest, DmaUnmapRequest, IrqInfo, IrqSet as IrqRequest, RegionAccess,
        RegionInfo, RegionIoFds, SparseArea, SparseMmap, device, dma, irq, region,
    },
};

/// What comes of a command.
pub(super) enum Outcome {
    /// It is answered: a body and descriptors.
    Answer(Vec<u8>, Vec<OwnedFd>),
    /// It is for the target; what its answer begins with.
    Work(Vec<u8>, Work),
}

/// Why a command is refused: what the client is told, and what the log.
pub(super) struct Refusal {
    pub errno: Errno,
    pub why: String,
}

fn refusal<T>(errno: Errno, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { errno, why: why.into() })
}

fn answer(body: &[u8]) -> Result<Outcome, Refusal> {
    Ok(Outcome::Answer(body.to_vec(), Vec::new()))
}

/// The structure that a command's body begins with, which says that there is room for `argsz` bytes.
fn request<T: FromBytes>(message: &Message, argsz: impl Fn(&T) -> u32) -> Result<T, Refusal> {
    let Some(value) = message.read::<T>() else {
        return refusal(Errno::INVAL, format!("it has {} bytes", message.body.len()));
    };
    match argsz(&value) {
        size if (size as usize) < size_of::<T>() => refusal(Errno::INVAL, format!("its argsz is {size}")),
        _ => Ok(value),
    }
}

impl Connection {
    pub(super) fn carry_out(&mut self, message: &mut Message) -> Result<Outcome, Refusal> {
        let command = message.command();
        if !message.fds.is_empty() && !matches!(command, Command::DMA_MAP | Command::DEVICE_SET_IRQS) {
            message.fds.clear();
            return refusal(Errno::INVAL, "descriptors came with it");
        }
        if self.open >= MOST_OPEN {
            return refusal(Errno::BUSY, format!("{MOST_OPEN} others wait for the device"));
        }
        match command {
            Command::VERSION => self.version(message),
            Command::DMA_MAP => self.dma_map(message),
            Command::DMA_UNMAP => self.dma_unmap(message),
            Command::DEVICE_GET_INFO => self.device_info(message),
            Command::DEVICE_GET_REGION_INFO => self.region_info(message),
            Command::DEVICE_GET_REGION_IO_FDS => self.region_io_fds(message),
            Command::DEVICE_GET_IRQ_INFO => self.irq_info(message),
            Command::DEVICE_SET_IRQS => self.set_irqs(message),
            Command::REGION_READ => self.region_access(message, region::READ),
            Command::REGION_WRITE => self.region_access(message, region::WRITE),
            Command::DEVICE_RESET => Ok(Outcome::Work(Vec::new(), Work::Reset)),
            _ => refusal(Errno::NOTSUP, "it is not supported"),
        }
    }

    fn version(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        if self.limits.is_some() {
            return refusal(Errno::INVAL, "it came before");
        }
        match Limits::read(message) {
            Ok((minor, limits)) => {
                self.limits = Some(limits);
                answer(&Limits::announce(minor))
            }
            Err(violation) => refusal(Errno::INVAL, violation.0),
        }
    }

    fn dma_map(&mut self, message: &mut Message) -> Result<Outcome, Refusal> {
        let request = request(message, |request: &DmaMapRequest| request.argsz.get())?;
        let (addr, size, flags) = (request.addr.get(), request.size.get(), request.flags.get());
        let fail = |errno, why: &str| refusal(errno, format!("{size:#x} bytes at {addr:#x}: {why}"));
        match self.map.check(addr, size, flags) {
            Err(why @ Unmappable::Overlaps) => return fail(Errno::EXIST, &why.to_string()),
            Err(why) => return fail(Errno::INVAL, &why.to_string()),
            Ok(()) if self.map.len() >= MOST_DMA_MAPS => {
                return fail(Errno::NOSPC, &format!("{MOST_DMA_MAPS} ranges are mapped"));
            }
            Ok(()) if message.fds.len() > 1 => return fail(Errno::INVAL, "more than one descriptor came with it"),
            Ok(()) => {}
        }
        let memory = match message.fds.pop() {
            None => None,
            Some(fd) => match map_memory(fd.as_fd(), request.offset.get(), size, flags & dma::WRITE != 0) {
                Ok(region) => Some(Arc::new(region)),
                Err((errno, why)) => return fail(errno, &why),
            },
        };
        self.map.insert(addr, size, flags, memory);
        answer(&[])
    }

    fn dma_unmap(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let request = request(message, |request: &DmaUnmapRequest| request.argsz.get())?;
        let (addr, size) = (request.addr.get(), request.size.get());
        let range = match request.flags.get() {
            0 if self.map.remove(addr, Some(size)).is_some() => Some((addr, size)),
            0 => return refusal(Errno::NOENT, format!("{size:#x} bytes at {addr:#x} were not mapped in one piece")),
            dma::UNMAP_ALL if (addr, size) == (0, 0) => {
                self.map.clear();
                None
            }
            other => {
                return refusal(Errno::INVAL, format!("its flags are {other:#x}, for {size:#x} bytes at {addr:#x}"));
            }
        };
        let echo = DmaUnmapRequest { argsz: (size_of::<DmaUnmapRequest>() as u32).into(), ..request };
        Ok(Outcome::Work(echo.as_bytes().to_vec(), Work::Unmapped(range)))
    }

    fn device_info(&self, message: &Message) -> Result<Outcome, Refusal> {
        request(message, |request: &DeviceInfo| request.argsz.get())?;
        let info = DeviceInfo {
            argsz: (size_of::<DeviceInfo>() as u32).into(),
            flags: (device::PCI | device::RESET).into(),
            num_regions: (self.device.regions.len() as u32).into(),
            num_irqs: (self.device.irqs.len() as u32).into(),
        };
        answer(info.as_bytes())
    }

    fn region_info(&self, message: &Message) -> Result<Outcome, Refusal> {
        let request = request(message, |request: &RegionInfo| request.argsz.get())?;
        let index = request.index.get();
        let Some(found) = self.device.regions.get(index as usize) else {
            return refusal(Errno::INVAL, format!("there is no region {index}"));
        };
        let memory = found.memory.as_ref().and_then(|memory| memory.file()).filter(|_| !found.areas.is_empty());
        let caps = memory.map_or(0, |_| size_of::<SparseMmap>() + found.areas.len() * size_of::<SparseArea>());
        let whole = (size_of::<RegionInfo>() + caps) as u32;
        // A client that has no room is told how much it takes.
        let file = memory.filter(|_| request.argsz.get() >= whole);
        let mut flags = if found.readable { region::READ } else { 0 };
        flags |= if found.writable { region::WRITE } else { 0 };
        flags |= if memory.is_some() { region::MMAP } else { 0 };
        flags |= if file.is_some() { region::CAPS } else { 0 };
        let info = RegionInfo {
            argsz: whole.into(),
            flags: flags.into(),
            index: index.into(),
            cap_offset: if file.is_some() { size_of::<RegionInfo>() as u32 } else { 0 }.into(),
            size: found.size.into(),
            offset: 0.into(),
        };
        let mut body = info.as_bytes().to_vec();
        let Some(file) = file else { return Ok(Outcome::Answer(body, Vec::new())) };
        let header = CapHeader { id: region::CAP_SPARSE_MMAP.into(), version: 1.into(), next: 0.into() };
        let sparse = SparseMmap { header, nr_areas: (found.areas.len() as u32).into(), reserved: 0.into() };
        body.extend(sparse.as_bytes());
        for area in &found.areas {
            let area = SparseArea { offset: area.offset.into(), size: u64::from(area.len).into() };
            body.extend(area.as_bytes());
        }
        let file = file.try_clone_to_owned().or_else(|error| {
            refusal(Errno::from_io_error(&error).unwrap_or(Errno::MFILE), format!("no descriptor: {error}"))
        })?;
        Ok(Outcome::Answer(body, vec![file]))
    }

    fn region_io_fds(&self, message: &Message) -> Result<Outcome, Refusal> {
        let request = request(message, |request: &RegionIoFds| request.argsz.get())?;
        if request.index.get() as usize >= self.device.regions.len() {
            return refusal(Errno::INVAL, format!("there is no region {}", request.index));
        }
        let none =
            RegionIoFds { argsz: (size_of::<RegionIoFds>() as u32).into(), index: request.index, ..Default::default() };
        answer(none.as_bytes())
    }

    fn irq_info(&self, message: &Message) -> Result<Outcome, Refusal> {
        let request = request(message, |request: &IrqInfo| request.argsz.get())?;
        let Some(&count) = self.device.irqs.get(request.index.get() as usize) else {
            return refusal(Errno::INVAL, format!("there are no interrupts of kind {}", request.index));
        };
        let info = IrqInfo {
            argsz: (size_of::<IrqInfo>() as u32).into(),
            flags: if count > 0 { irq::EVENTFD | irq::NORESIZE } else { 0 }.into(),
            index: request.index,
            count: count.into(),
        };
        answer(info.as_bytes())
    }

    fn set_irqs(&self, message: &mut Message) -> Result<Outcome, Refusal> {
        let request = request(message, |request: &IrqRequest| request.argsz.get())?;
        let (index, start, count) = (request.index.get(), request.start.get(), request.count.get());
        let there = self.device.irqs.get(index as usize).copied().unwrap_or(0);
        if start.checked_add(count).is_none_or(|end| end > there) {
            return refusal(Errno::INVAL, format!("{count} from {start} on of kind {index}, which has {there}"));
        }
        let fds = std::mem::take(&mut message.fds);
        let rest = message.after::<IrqRequest>();
        let flags = request.flags.get();
        const DATA: u32 = irq::DATA_NONE | irq::DATA_BOOL | irq::DATA_EVENTFD;
        let action = match flags & !DATA {
            irq::ACTION_MASK => Action::Mask,
            irq::ACTION_UNMASK => Action::Unmask,
            irq::ACTION_TRIGGER => Action::Trigger,
            _ => return refusal(Errno::INVAL, format!("its flags are {flags:#x}")),
        };
        let data = match flags & DATA {
            irq::DATA_NONE if fds.is_empty() => IrqData::None,
            irq::DATA_BOOL if fds.is_empty() && rest.len() == count as usize => {
                IrqData::Bool(rest.iter().map(|&byte| byte != 0).collect())
            }
            irq::DATA_EVENTFD if action == Action::Trigger && fds.len() == count as usize => IrqData::Eventfds(fds),
            _ => {
                let (fds, bytes) = (fds.len(), rest.len());
                return refusal(
                    Errno::INVAL,
                    format!("flags {flags:#x} for {count}, with {fds} descriptors and {bytes} bytes"),
                );
            }
        };
        if count == 0 && !matches!((action, &data), (Action::Trigger, IrqData::None)) {
            return refusal(Errno::INVAL, format!("flags {flags:#x} for no interrupt"));
        }
        Ok(Outcome::Work(Vec::new(), Work::SetIrqs(IrqSet { index, start, count, action, data })))
    }

    fn region_access(&self, message: &Message, access: u32) -> Result<Outcome, Refusal> {
        let request = request(message, |_: &RegionAccess| u32::MAX)?;
        let (index, offset, count) = (request.region.get(), request.offset.get(), request.count.get());
        let data = message.after::<RegionAccess>();
        let sent = if access == region::WRITE { count } else { 0 };
        if count == 0 || count > MOST_DATA || data.len() != sent as usize {
            return refusal(Errno::INVAL, format!("{count} bytes, and {} came with it", data.len()));
        }
        let found = self.device.regions.get(index as usize);
        let found = found.filter(|found| offset.checked_add(count.into()).is_some_and(|end| end <= found.size));
        let Some(found) = found else {
            return refusal(Errno::INVAL, format!("{count} bytes at {offset:#x} do not lie in region {index}"));
        };
        if !(if access == region::WRITE { found.writable } else { found.readable }) {
            return refusal(Errno::PERM, format!("region {index} does not allow it"));
        }
        let work = if access == region::WRITE { Work::Write(request, data.to_vec()) } else { Work::Read(request) };
        Ok(Outcome::Work(request.as_bytes().to_vec(), work))
    }
}

/// Maps a client's memory, which it may take away again: a region survives that. Memory only: a page of another file may take its
/// file system as long as it likes to come, and so may every other answer of it. Only files in memory have seals, which the kernel
/// tells without asking anybody.
fn map_memory(fd: BorrowedFd<'_>, offset: u64, size: u64, writable: bool) -> Result<Region, (Errno, String)> {
    const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
    let system = |what: &'static str| move |errno: Errno| (errno, format!("{what}: {errno}"));
    if fcntl_get_seals(fd).is_err() {
        return Err((Errno::INVAL, "its descriptor is of a file, not of memory".into()));
    }
    let at = fstatfs(fd).map_err(system("its descriptor has no file system"))?;
    // Sign and width of these fields differ between machines.
    let (kind, page) = (at.f_type as u64 & 0xffff_ffff, at.f_bsize as u64);
    if kind == HUGETLBFS_MAGIC && !(offset | size).is_multiple_of(page.max(1)) {
        return Err((Errno::INVAL, format!("it is not whole huge pages of {page:#x} bytes")));
    }
    let has = fstat(fd).map_err(system("its descriptor has no size"))?.st_size as u64;
    if !offset.is_multiple_of(crate::PAGE) || offset.checked_add(size).is_none_or(|end| end > has) {
        return Err((Errno::INVAL, format!("offset {offset:#x} of a file of {has:#x} bytes")));
    }
    let size = usize::try_from(size).map_err(|_| (Errno::NOMEM, "it is too large".to_string()))?;
    Region::map(fd, offset, size, writable, 0).map_err(|error| {
        (Errno::from_io_error(&error).unwrap_or(Errno::NOMEM), format!("it cannot be mapped: {error}"))
    })
}
