//! Client and server against each other, the device a few registers and an eventfd.

use std::{
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use doorbell_platform::{Range, Region, poll};
use doorbell_vfio_user::{
    Access, Action, BindError, Client, Connection, Description, Errno, Error, Event, IrqData, Listener, Lost,
    RegionDescription, SOCKET_NAME,
    wire::{device, irq, region},
};
use rustix::event::{EventfdFlags, eventfd};

const PATIENCE: Duration = Duration::from_secs(20);

/// What the device was told, beside reads and writes of registers.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Reset,
    Unmapped(Option<(u64, u64)>),
    Irqs(u32, u32, u32),
    Moved(Result<Vec<u8>, Errno>),
    Refused(String),
}

/// A device on a thread. Region 0 is 8 KiB of registers of which the second page can be mapped; a write to 8 copies the quadword at
/// the bus address written to the one behind it, a write to 16 does so by messages, a write to 24 rings eventfd 1.
struct Device {
    told: Receiver<Told>,
    doorbells: Arc<Region>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Lost>>,
}

impl Device {
    fn start(stream: UnixStream) -> Self {
        let doorbells = Arc::new(Region::shared(8192, false).unwrap());
        let description = describe(&doorbells);
        let (tell, told) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut connection = Connection::new(stream, Arc::new(description)).unwrap();
            let mut registers = vec![0; 4096];
            let mut eventfds: Vec<OwnedFd> = Vec::new();
            let mut copies: Vec<(u16, u64)> = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let Some(event) = connection.receive()? else {
                    poll::wait(&[(connection.fd(), connection.wants_to_write())], Duration::from_millis(20));
                    continue;
                };
                match event {
                    Event::Read { ticket, region: 0, offset, count } if offset + u64::from(count) <= 4096 => {
                        connection.answer(ticket, &registers[offset as usize..][..count as usize]);
                    }
                    Event::Write { ticket, region: 0, offset, data } if offset + data.len() as u64 <= 4096 => {
                        registers[offset as usize..][..data.len()].copy_from_slice(&data);
                        let value = |at: usize| u64::from_le_bytes(registers[at..at + 8].try_into().unwrap());
                        match offset {
                            8 => {
                                let mut quadword = [0; 8];
                                connection.map().read(value(8), &mut quadword).unwrap();
                                connection.map().write(value(8) + 8, &quadword).unwrap();
                            }
                            16 => copies.push((connection.dma_read(value(16), 8).unwrap(), value(16) + 8)),
                            24 => drop(rustix::io::write(&eventfds[1], &1u64.to_ne_bytes()).unwrap()),
                            _ => {}
                        }
                        connection.done(ticket);
                    }
                    Event::Read { ticket, .. } | Event::Write { ticket, .. } => connection.refuse(ticket, Errno::IO),
                    Event::SetIrqs { ticket, irqs } => {
                        tell.send(Told::Irqs(irqs.index, irqs.start, irqs.count)).unwrap();
                        assert_eq!(irqs.action, Action::Trigger);
                        match irqs.data {
                            IrqData::Eventfds(fds) => eventfds.splice(irqs.start as usize.., fds).for_each(drop),
                            _ => eventfds.clear(),
                        }
                        connection.done(ticket);
                    }
                    Event::Unmapped { ticket, range } => {
                        tell.send(Told::Unmapped(range)).unwrap();
                        connection.done(ticket);
                    }
                    Event::Reset { ticket } => {
                        registers.fill(0);
                        tell.send(Told::Reset).unwrap();
                        connection.done(ticket);
                    }
                    Event::Moved { id, result } => match copies.iter().position(|(each, _)| *each == id) {
                        Some(at) => match result {
                            Ok(data) => drop(connection.dma_write(copies.swap_remove(at).1, &data).unwrap()),
                            Err(_) => tell.send(Told::Moved(result)).unwrap(),
                        },
                        None => tell.send(Told::Moved(result)).unwrap(),
                    },
                    Event::Refused(why) => tell.send(Told::Refused(why)).unwrap(),
                }
            }
            Ok(())
        });
        Self { told, doorbells, stop, thread }
    }

    fn told(&self) -> Told {
        self.told.recv_timeout(PATIENCE).unwrap()
    }

    fn end(self) -> Result<(), Lost> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn describe(doorbells: &Arc<Region>) -> Description {
    let mut description = Description { regions: vec![RegionDescription::default(); 9], irqs: vec![0, 0, 40, 0, 0] };
    description.regions[0] = RegionDescription {
        size: 8192,
        readable: true,
        writable: true,
        memory: Some(doorbells.clone()),
        areas: vec![Range { offset: 4096, len: 4096 }],
    };
    description.regions[7] = RegionDescription { size: 256, readable: true, ..RegionDescription::default() };
    description
}

fn pair() -> (Client, Device) {
    let (near, far) = UnixStream::pair().unwrap();
    let device = Device::start(far);
    (Client::over(near, PATIENCE, Box::new(|| false)).unwrap(), device)
}

#[test]
fn a_device_is_described_and_its_registers_are_read_and_written() {
    let (mut client, device) = pair();
    let info = client.info().unwrap();
    assert_eq!((info.flags, info.regions, info.irqs), (device::PCI | device::RESET, 9, 5));
    let bar = client.region(region::BAR0).unwrap();
    assert_eq!((bar.size, bar.readable, bar.writable, bar.areas.len()), (8192, true, true, 1));
    let config = client.region(region::CONFIG).unwrap();
    assert_eq!((config.size, config.writable, config.areas.len()), (256, false, 0));
    assert_eq!(client.region(region::ROM).unwrap().size, 0);
    client.write(0, 0x14, &[1, 2, 3, 4]).unwrap();
    let mut back = [0; 8];
    client.read(0, 0x10, &mut back).unwrap();
    assert_eq!(back, [0, 0, 0, 0, 1, 2, 3, 4]);
    client.reset().unwrap();
    assert_eq!(device.told(), Told::Reset);
    client.read(0, 0x10, &mut back).unwrap();
    assert_eq!(back, [0; 8]);
    device.end().unwrap();
}

#[test]
fn doorbells_are_memory_of_both_ends() {
    let (mut client, device) = pair();
    let bar = client.region(region::BAR0).unwrap();
    let (memory, at) = bar.mapped(0x1008, 4).unwrap();
    assert!(bar.mapped(0xffc, 8).is_none() && bar.mapped(0x1ffc, 8).is_none());
    memory.store_u32(at, 17, Ordering::Release);
    assert_eq!(device.doorbells.load_u32(0x1008, Ordering::Acquire), 17);
    device.end().unwrap();
}

#[test]
fn the_device_reaches_memory_that_is_shared_and_no_other() {
    let (mut client, device) = pair();
    let region = Arc::new(Region::shared(8192, false).unwrap());
    client.dma_map(&region, 0x10_0000).unwrap();
    region.write(4096, b"quadword");
    client.write(0, 8, &0x10_1000u64.to_le_bytes()).unwrap();
    assert!(region.equals(4104, b"quadword"));
    let error = client.dma_map(&region, 0x10_1000).unwrap_err();
    assert!(error.to_string().contains("some of it is mapped already"), "{error}");
    client.dma_unmap(&region, 0x10_0000).unwrap();
    assert_eq!(device.told(), Told::Unmapped(Some((0x10_0000, 8192))));
    let error = client.dma_unmap(&region, 0x10_0000).unwrap_err();
    assert!(matches!(&error, Error::Refused { errno: Errno::NOENT, .. }), "{error}");
    assert!(matches!(device.told(), Told::Refused(why) if why.contains("DMA_UNMAP")));
    client.dma_map(&region, 0x20_0000).unwrap();
    device.end().unwrap();
}

#[test]
fn memory_that_cannot_be_shared_is_reached_by_messages() {
    let (mut client, device) = pair();
    let region = Arc::new(Region::new(4096).unwrap());
    client.dma_map(&region, 0x1000).unwrap();
    region.write(0, b"quadword");
    client.write(0, 16, &0x1000u64.to_le_bytes()).unwrap();
    // While nobody waits for an answer, and while somebody does.
    while !region.equals(8, b"quadword") {
        assert!(poll::wait(&[(client.fd(), false)], PATIENCE));
        client.serve().unwrap();
    }
    assert_eq!(device.told(), Told::Moved(Ok(Vec::new())));
    client.write(0, 16, &0x1010u64.to_le_bytes()).unwrap();
    while !region.equals(0x18, &[0; 8]) || device.told.try_recv() != Ok(Told::Moved(Ok(Vec::new()))) {
        client.read(0, 0, &mut [0; 4]).unwrap();
    }
    client.write(0, 16, &0x5000u64.to_le_bytes()).unwrap();
    client.read(0, 0, &mut [0; 4]).unwrap();
    client.read(0, 0, &mut [0; 4]).unwrap();
    assert_eq!(device.told(), Told::Moved(Err(Errno::FAULT)), "what is not mapped is not given");
    device.end().unwrap();
}

#[test]
fn interrupts_ring_eventfds_of_the_client() {
    let (mut client, device) = pair();
    assert_eq!(client.irqs(irq::MSIX).unwrap(), (40, irq::EVENTFD | irq::NORESIZE));
    assert_eq!(client.irqs(irq::INTX).unwrap().0, 0);
    let eventfds: Vec<OwnedFd> = (0..33).map(|_| eventfd(0, EventfdFlags::CLOEXEC).unwrap()).collect();
    let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
    client.set_irqs(irq::MSIX, 0, &borrowed).unwrap();
    for part in [(0, 16), (16, 16), (32, 1)] {
        assert_eq!(device.told(), Told::Irqs(irq::MSIX, part.0, part.1), "as many as fit a message");
    }
    client.write(0, 24, &[1]).unwrap();
    let mut count = [0; 8];
    rustix::io::read(&eventfds[1], &mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
    client.disable_irqs(irq::MSIX).unwrap();
    assert_eq!(device.told(), Told::Irqs(irq::MSIX, 0, 0));
    let error = client.set_irqs(irq::MSIX, 39, &borrowed[..2]).unwrap_err();
    assert!(error.to_string().contains("eventfds for 2 interrupts from 39 on"), "{error}");
    device.end().unwrap();
}

#[test]
fn either_end_learns_that_the_other_is_gone() {
    let (mut client, device) = pair();
    device.end().unwrap();
    let error = client.read(0, 0, &mut [0; 4]).unwrap_err();
    assert_eq!((&error, error.is_final()), (&Error::Closed, true));
    assert_eq!(error.to_string(), "the device's process closed the connection");
    assert_eq!(client.serve(), Err(Error::Closed));
    assert_eq!(client.reset(), Err(Error::Closed));

    let (client, device) = pair();
    drop(client);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !device.thread.is_finished() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(matches!(device.end(), Err(Lost::Closed { within_message: false })));
}

/// A folder for a test, which is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("doorbell-vfio-user-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_client_finds_the_device_by_directory_or_socket() {
    let folder = Folder::new("find");
    let listener = Listener::bind(&folder.0).unwrap();
    assert!(listener.accept().unwrap().is_none());
    for path in [folder.0.clone(), folder.0.join(SOCKET_NAME)] {
        let client = std::thread::spawn(move || Client::connect(&path, PATIENCE, Box::new(|| false)));
        assert!(poll::wait(&[(listener.fd(), false)], PATIENCE));
        let device = Device::start(listener.accept().unwrap().unwrap());
        let mut client = client.join().unwrap().unwrap();
        client.reset().unwrap();
        device.end().unwrap();
    }
}

#[test]
fn a_device_in_use_says_so() {
    let folder = Folder::new("taken");
    let listener = Listener::bind(&folder.0).unwrap();
    let path = folder.0.clone();
    let client = std::thread::spawn(move || Client::connect(&path, PATIENCE, Box::new(|| false)));
    assert!(poll::wait(&[(listener.fd(), false)], PATIENCE));
    drop(listener.accept().unwrap().unwrap());
    let error = client.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("is the device used by another process?"), "{error}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let folder = Folder::new("absent");
    let connect = || Client::connect(&folder.0, PATIENCE, Box::new(|| false)).unwrap_err().to_string();
    assert!(connect().contains("is the device's process running?"), "{}", connect());
    fs::create_dir(&folder.0).unwrap();
    // As a process leaves it that was killed.
    drop(std::os::unix::net::UnixListener::bind(folder.0.join(SOCKET_NAME)).unwrap());
    assert!(connect().contains("the device's process has ended"), "{}", connect());
}

#[test]
fn a_device_that_takes_nobody_is_waited_for_so_long() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
    let folder = Folder::new("full");
    fs::create_dir(&folder.0).unwrap();
    let path = folder.0.join(SOCKET_NAME);
    let address = SocketAddrUnix::new(&path).unwrap();
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &address).unwrap();
    listen(&listener, 0).unwrap();
    let waiting = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    connect(&waiting, &address).unwrap();
    let error = Client::connect(&path, Duration::from_millis(60), Box::new(|| false)).unwrap_err();
    assert!(error.to_string().contains("took nobody for 60ms"), "{error}");
    let error = Client::connect(&path, PATIENCE, Box::new(|| true)).unwrap_err();
    assert!(matches!(error, Error::Cancelled(_)), "{error}");
    assert!(matches!(Listener::bind(&folder.0), Err(BindError::InUse(_))));
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = Folder::new("stale");
    fs::create_dir(&folder.0).unwrap();
    let socket = folder.0.join(SOCKET_NAME);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let listener = Listener::bind(&folder.0).unwrap();
    assert_eq!(listener.path(), socket);
    let error = Listener::bind(&folder.0).unwrap_err();
    assert!(matches!(&error, BindError::InUse(path) if *path == socket), "{error}");
    assert!(listener.accept().unwrap().is_some(), "the second one has asked the first");
    drop(listener);
    assert!(!socket.exists());
    fs::write(&socket, "kept").unwrap();
    assert!(matches!(Listener::bind(&folder.0), Err(BindError::NotASocket(_))));
    assert_eq!(fs::read(&socket).unwrap(), b"kept");
}

#[test]
fn a_directory_is_made_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("made");
    let listener = Listener::bind(&folder.0).unwrap();
    assert_eq!(fs::metadata(&folder.0).unwrap().permissions().mode() & 0o777, 0o700);
    drop(listener);
    let error = Listener::bind(&folder.0.join("a/b")).unwrap_err().to_string();
    assert!(error.starts_with("cannot make the directory"), "{error}");
    let long = folder.0.join("x".repeat(120));
    let error = Listener::bind(&long).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen at") && error.contains("xxx"), "{error}");
}

#[test]
fn memory_is_looked_up_where_the_client_put_it() {
    let (near, far) = UnixStream::pair().unwrap();
    let doorbells = Arc::new(Region::shared(8192, false).unwrap());
    let mut connection = Connection::new(far, Arc::new(describe(&doorbells))).unwrap();
    let client = std::thread::spawn(move || {
        let mut client = Client::over(near, PATIENCE, Box::new(|| false)).unwrap();
        let region = Arc::new(Region::shared(8192, false).unwrap());
        region.write(5000, b"here");
        client.dma_map(&region, 0x7000).unwrap();
        client
    });
    while !client.is_finished() {
        assert!(connection.receive().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    let piece = connection.map().find(0x7000 + 5000, 4096, Access::Write).unwrap();
    assert!(piece.len == 8192 - 5000 && piece.memory.unwrap().equals(piece.offset, b"here"));
}
