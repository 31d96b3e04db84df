//! The socket floor: two pinned threads exchange the bytes of NVMe/TCP over a loopback connection, with the batching and the
//! placement of data that Doorbell uses, and do nothing else. No command is looked at, nothing is recorded.
//!
//! A unit begins with its type, and its number in bytes 4 to 8: a command (72 bytes), a response or a request for data (24), data
//! (24 and the payload).

use std::{
    collections::VecDeque,
    hint::black_box,
    io,
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use doorbell_platform::{
    Crc32c, Range, Region, cpu,
    socket::{self, Segment, Sending},
};

/// What an I/O is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Command out; data and response back as one.
    Read,
    /// Command with its data out; response back.
    InCapsuleWrite,
    /// Command out; request for data back; data out; response back.
    RequestedWrite,
}

/// The exchange to measure.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What an I/O is.
    pub kind: Kind,
    /// I/Os in flight, over all connections.
    pub depth: u32,
    /// Connections, which I/Os visit in turn.
    pub connections: u32,
    /// Bytes of data of an I/O.
    pub size: u32,
    /// Whether both ends take CRC-32C of data: of what arrives, and the asking end of what it sends; the other end sends what it
    /// keeps the checksum of.
    pub checksums: bool,
    /// How long to measure.
    pub time: Duration,
    /// The cores of the asking and of the answering end.
    pub cores: [usize; 2],
}

const COMMAND: u8 = 4;
const RESPONSE: u8 = 5;
const DATA: u8 = 6;
const REQUEST: u8 = 9;
const RAM: u64 = 512 << 20;
const STAGING: usize = 256 << 10;
/// Most bytes offered to the socket at once.
const CALL: u32 = 512 << 10;

/// Measures the exchange; returns I/Os a second.
///
/// # Errors
/// When sockets, memory or cores are not to be had.
pub fn measure(shape: Shape) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut asking, mut answering) = (Vec::new(), Vec::new());
    for _ in 0..shape.connections {
        asking.push(TcpStream::connect(listener.local_addr()?)?);
        answering.push(listener.accept()?.0);
    }
    for stream in asking.iter().chain(&answering) {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
    }
    let ram = Region::new(RAM as usize)?;
    ram.populate()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let answer = scope.spawn(|| {
            cpu::pin(shape.cores[1])?;
            let mut staging = vec![0; STAGING];
            let end = |(number, stream)| End::new(stream, &ram, number, shape.checksums);
            let mut ends: Vec<_> = (1..).zip(answering).map(end).collect();
            while !stop.load(Ordering::Relaxed) {
                ends.iter_mut().try_for_each(|end| end.answer(shape, &mut staging))?;
            }
            Ok(())
        });
        let asked = scope.spawn(|| {
            cpu::pin(shape.cores[0])?;
            ask(asking, shape)
        });
        let asked = asked.join().expect("the asking end does not panic");
        stop.store(true, Ordering::Relaxed);
        match answer.join().expect("the answering end does not panic") {
            // The asking end closes first, which the answering one may notice.
            Err(error) if asked.is_err() => Err::<(), io::Error>(error)?,
            _ => {}
        }
        asked
    })
}

fn ask(streams: Vec<TcpStream>, shape: Shape) -> io::Result<f64> {
    let memory = Region::new((shape.depth * shape.size) as usize)?;
    memory.populate()?;
    let mut staging = vec![0; STAGING];
    let end = |(number, stream)| End::new(stream, &memory, number, shape.checksums);
    let mut ends: Vec<_> = (1..).zip(streams).map(end).collect();
    for number in 0..shape.depth {
        ends[(number % shape.connections) as usize].command(shape, number);
    }
    let (start, mut done) = (Instant::now(), 0u64);
    loop {
        let mut any = false;
        for end in &mut ends {
            end.send()?;
            end.receive(&mut staging, |kind, number| (24, (kind == DATA).then(|| slot(shape, number))))?;
            let mut ready = std::mem::take(&mut end.ready);
            any |= !ready.is_empty();
            for (kind, number) in ready.drain(..) {
                match kind {
                    REQUEST => end.push_summed(DATA, 24, number, Some(slot(shape, number))),
                    _ => {
                        done += 1;
                        end.command(shape, number);
                    }
                }
            }
            end.ready = ready;
        }
        // The clock is read when something came, as a tool that measures latency must.
        if any && start.elapsed() >= shape.time {
            return Ok(done as f64 / start.elapsed().as_secs_f64());
        }
    }
}

fn slot(shape: Shape, number: u32) -> Range {
    Range { offset: u64::from(number) * u64::from(shape.size), len: shape.size }
}

/// One end of the connection.
struct End<'a> {
    stream: TcpStream,
    memory: &'a Region,
    out: VecDeque<Segment>,
    headers: Vec<u8>,
    /// The beginning of a unit that has not arrived whole.
    partial: Vec<u8>,
    /// What is left of the payload that is arriving, and the unit it belongs to.
    rest: Range,
    current: (u8, u32),
    /// Units that have arrived whole.
    ready: Vec<(u8, u32)>,
    random: u64,
    /// The checksum of the data that is arriving, where they are taken.
    checksum: Option<Crc32c>,
}

impl<'a> End<'a> {
    /// `number`, from 1, sets its sequence of blocks apart from the others'.
    fn new(stream: TcpStream, memory: &'a Region, number: u64, checksums: bool) -> Self {
        Self {
            stream,
            memory,
            out: VecDeque::new(),
            headers: Vec::new(),
            partial: Vec::with_capacity(72),
            rest: Range::default(),
            current: (0, 0),
            ready: Vec::new(),
            random: number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            checksum: checksums.then(Crc32c::new),
        }
    }

    fn command(&mut self, shape: Shape, number: u32) {
        let data = (shape.kind == Kind::InCapsuleWrite).then(|| slot(shape, number));
        self.push_summed(COMMAND, 72, number, data);
    }

    /// Receives what is there and queues the answers.
    fn answer(&mut self, shape: Shape, staging: &mut [u8]) -> io::Result<()> {
        let mut random = self.random;
        let mut block = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            Range { offset: random % (RAM / u64::from(shape.size)) * u64::from(shape.size), len: shape.size }
        };
        self.receive(staging, |kind, _| match kind {
            COMMAND => (72, (shape.kind == Kind::InCapsuleWrite).then(&mut block)),
            _ => (24, Some(block())),
        })?;
        let mut ready = std::mem::take(&mut self.ready);
        for (kind, number) in ready.drain(..) {
            match (shape.kind, kind) {
                (Kind::Read, _) => self.push(DATA, 24, number, Some(block())),
                (Kind::RequestedWrite, COMMAND) => self.push(REQUEST, 24, number, None),
                _ => self.push(RESPONSE, 24, number, None),
            }
        }
        (self.ready, self.random) = (ready, random);
        self.send()
    }

    fn push_summed(&mut self, kind: u8, len: u32, number: u32, data: Option<Range>) {
        if let (Some(data), Some(_)) = (data, self.checksum) {
            let mut sum = Crc32c::new();
            self.memory.checksum(data, &mut sum);
            black_box(sum.finish());
        }
        self.push(kind, len, number, data);
    }

    fn push(&mut self, kind: u8, len: u32, number: u32, data: Option<Range>) {
        let at = self.headers.len() as u32;
        let mut header = [0; 72];
        header[0] = kind;
        header[4..8].copy_from_slice(&number.to_le_bytes());
        self.headers.extend_from_slice(&header[..len as usize]);
        match self.out.back_mut() {
            Some(Segment::Header { at: start, len: length }) if *start + *length == at => *length += len,
            _ => self.out.push_back(Segment::Header { at, len }),
        }
        self.out.extend(data.map(Segment::Payload));
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let mut offered = 0;
            let batch = self.out.iter().copied().take_while(|segment| {
                let fits = offered < CALL;
                offered += segment.len();
                fits
            });
            let mut left =
                match socket::send(self.stream.as_fd(), batch, &self.headers, Some(self.memory), Sending::Copied) {
                    Ok(sent) => sent as u32,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                };
            while let Some(segment) = self.out.front_mut() {
                if segment.len() > left {
                    match segment {
                        Segment::Header { at, len } => (*at, *len) = (*at + left, *len - left),
                        Segment::Payload(range) => *range = range.part(left, u32::MAX),
                    }
                    break;
                }
                left -= segment.len();
                self.out.pop_front();
            }
        }
        self.headers.clear();
        Ok(())
    }

    /// One receive: into the payload that is arriving, then staging; `unit` gives the header length and the place of the data.
    fn receive(
        &mut self,
        staging: &mut [u8],
        mut unit: impl FnMut(u8, u32) -> (usize, Option<Range>),
    ) -> io::Result<()> {
        let have = self.partial.len();
        staging[..have].copy_from_slice(&self.partial);
        let rest = [self.rest];
        let direct = if self.rest.len > 0 { &rest[..] } else { &[] };
        let count = match socket::receive(self.stream.as_fd(), direct, Some(self.memory), &mut staging[have..]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let placed = (count as u32).min(self.rest.len);
        if self.rest.len > 0 {
            if let Some(sum) = &mut self.checksum {
                self.memory.checksum(self.rest.part(0, placed), sum);
            }
            self.rest = self.rest.part(placed, u32::MAX);
            if self.rest.len > 0 {
                return Ok(());
            }
            self.summed();
            self.ready.push(self.current);
        }
        let end = have + count - placed as usize;
        let mut at = 0;
        while end - at >= 24 {
            let number = u32::from_le_bytes(staging[at + 4..at + 8].try_into().expect("4 bytes"));
            let kind = staging[at];
            let header = if kind == COMMAND { 72 } else { 24 };
            if end - at < header {
                break;
            }
            let (header, data) = unit(kind, number);
            at += header;
            let Some(data) = data else {
                self.ready.push((kind, number));
                continue;
            };
            let here = (end - at).min(data.len as usize);
            match &mut self.checksum {
                None => self.memory.write(data.offset, &staging[at..at + here]),
                Some(sum) => self.memory.write_and_checksum(data.offset, &staging[at..at + here], sum),
            }
            at += here;
            self.rest = data.part(here as u32, u32::MAX);
            if self.rest.len > 0 {
                self.current = (kind, number);
            } else {
                self.summed();
                self.ready.push((kind, number));
            }
        }
        self.partial.clear();
        self.partial.extend_from_slice(&staging[at..end]);
        Ok(())
    }

    /// All data of a unit is here.
    fn summed(&mut self) {
        if let Some(sum) = &mut self.checksum {
            black_box(std::mem::take(sum).finish());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_exchange_goes_round() {
        let cores = cpu::allowed().unwrap();
        for kind in [Kind::Read, Kind::InCapsuleWrite, Kind::RequestedWrite] {
            let cores = [cores[0], *cores.last().unwrap()];
            for (depth, connections, size, checksums) in
                [(1, 1, 4096, false), (8, 1, 131_072, true), (8, 3, 4096, false), (8, 1, 4096, true)]
            {
                let shape = Shape { kind, depth, connections, size, checksums, time: Duration::from_millis(50), cores };
                assert!(measure(shape).unwrap() > 0.0, "{shape:?}");
            }
        }
    }
}
