//! The link by itself, between two processes: the client names memory in a message, the server brings it over by RDMA READ, turns every
//! bit and writes the result back by RDMA WRITE, says so in a message, and the client looks.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_platform::{Range, Region, poll};
use doorbell_rdma::{
    Access, Channel, Completion, CompletionQueue, Device, EventChannel, EventKind, Flags, Identifier, Memory, Opcode,
    Piece, QueuePair, QueueSize, Registration, Remote, SharedReceiveQueue, Status,
};

use super::{LIMIT, Outcome, expect, parameters};

/// Bytes that go over and back in a round.
const LEN: u32 = 64 << 10;
/// A message: address and key.
const MESSAGE: Range = Range { offset: 0, len: 12 };
/// Where messages are received.
const INBOX: Range = Range { offset: 64, len: 64 };
/// What is sent, and behind it what comes back.
const DATA: Range = Range { offset: 4096, len: LEN };
const BACK: Range = Range { offset: 4096 + LEN as u64, len: LEN };

/// One end: a queue pair with its memory, and one receive posted.
struct End {
    queue: QueuePair,
    shared: Option<SharedReceiveQueue>,
    completions: Arc<CompletionQueue>,
    registration: Arc<Registration>,
    region: Arc<Region>,
    outbox: [Piece; 1],
    inbox: [Piece; 1],
    memory: Memory,
}

impl End {
    fn new(identifier: Identifier, shared: bool, sleep: bool) -> Outcome<Self> {
        let device: Arc<Device> = identifier.device()?;
        println!("{}: {:?}", device.name(), device.attributes());
        let channel = if sleep { Some(Channel::new(&device)?) } else { None };
        let completions = CompletionQueue::new(&device, 16, channel.as_ref())?;
        let mut shared = if shared { Some(SharedReceiveQueue::new(&device, 4, 1)?) } else { None };
        let size = QueueSize { sends: 4, receives: 4, send_pieces: 1, receive_pieces: 1, inline: 16 };
        let mut queue = QueuePair::new(identifier, size, &completions, shared.as_ref()).map_err(|(_, error)| error)?;
        println!("queue pair {}, {} bytes inline", queue.number(), queue.inline_limit());
        let region = Arc::new(Region::new((BACK.offset + u64::from(BACK.len)) as usize)?);
        let registration = Registration::new(&device, region.clone(), Access::Peer)?;
        let memory = queue.attach(&registration)?;
        let receive = match &mut shared {
            Some(shared) => shared.attach(&registration)?,
            None => memory,
        };
        let (outbox, inbox) = ([Piece { memory, range: MESSAGE }], [Piece { memory: receive, range: INBOX }]);
        let mut end = Self { queue, shared, completions, registration, region, outbox, inbox, memory };
        end.receive()?;
        Ok(end)
    }

    fn receive(&mut self) -> Outcome<()> {
        let posted = match &mut self.shared {
            Some(shared) => {
                shared.push_receive(u64::MAX, &self.inbox);
                shared.post_receives()?
            }
            None => {
                self.queue.push_receive(u64::MAX, &self.inbox);
                self.queue.post_receives()?
            }
        };
        assert_eq!(posted, 1);
        Ok(())
    }

    /// Sends where a range of ours is.
    fn tell(&mut self, range: Range) {
        self.region.write(MESSAGE.offset, &self.registration.address(range).to_le_bytes());
        self.region.write(MESSAGE.offset + 8, &self.registration.remote_key().to_le_bytes());
        self.queue.push_send(1, &self.outbox, Flags::SIGNALED);
    }

    fn told(&self) -> Remote {
        let (mut address, mut key) = ([0; 8], [0; 4]);
        self.region.read(INBOX.offset, &mut address);
        self.region.read(INBOX.offset + 8, &mut key);
        Remote { address: u64::from_le_bytes(address), key: u32::from_le_bytes(key) }
    }

    /// Waits for `count` completions, all of which must be successes.
    fn reap(&mut self, count: usize) -> Outcome<Vec<Completion>> {
        let (deadline, mut all, mut some) = (Instant::now() + LIMIT, Vec::new(), [Completion::default(); 4]);
        while all.len() < count {
            let most = some.len().min(count - all.len());
            let mut found = self.completions.poll(&mut some[..most])?;
            if let (0, Some(channel)) = (found, self.completions.channel()) {
                self.completions.arm()?;
                found = self.completions.poll(&mut some[..most])?;
                if found == 0 {
                    poll::wait(
                        &[(channel.as_fd().as_raw_fd(), false)],
                        deadline.saturating_duration_since(Instant::now()),
                    );
                    channel.drain();
                }
            }
            for completion in &some[..found] {
                if completion.status() != Status::SUCCESS {
                    return Err(format!("{}: {completion:?}", completion.status()).into());
                }
                assert_eq!(completion.queue(), self.queue.number());
                all.push(*completion);
            }
            if Instant::now() > deadline {
                return Err(format!("{} of {count} completions within {LIMIT:?}", all.len()).into());
            }
        }
        Ok(all)
    }

    /// Waits for the receive of [`Self::receive`] to come back flushed.
    fn flushed(&self) -> Outcome<()> {
        let (deadline, mut flushed) = (Instant::now() + LIMIT, [Completion::default()]);
        while self.completions.poll(&mut flushed)? == 0 {
            if Instant::now() > deadline {
                return Err("the receive did not come back from a failed queue pair".into());
            }
        }
        assert_eq!((flushed[0].id(), flushed[0].status()), (u64::MAX, Status::WR_FLUSH_ERR));
        Ok(())
    }

    /// The next message, and the ends of so many sends; they may be seen in either order.
    fn message(&mut self, sends: usize) -> Outcome<Remote> {
        let all = self.reap(1 + sends)?;
        assert_eq!(all.iter().filter(|one| one.id() == 1).count(), sends);
        let came = |one: &Completion| (one.opcode(), one.id(), one.bytes()) == (Opcode::RECV, u64::MAX, MESSAGE.len);
        assert!(all.iter().any(came), "{all:?}");
        let told = self.told();
        self.receive()?;
        Ok(told)
    }
}

/// Serves one client; with `shared` from a shared receive queue, with `sleep` on a completion channel instead of polling.
pub fn serve(at: SocketAddr, shared: bool, sleep: bool) -> Outcome<()> {
    let channel = EventChannel::new()?;
    let listener = channel.identifier()?;
    listener.listen(at, 16)?;
    println!("listening at {:?}", listener.local_address());
    let request = expect(&channel, EventKind::ConnectRequest)?;
    assert_eq!(request.token, listener.token());
    assert_eq!(request.private_data[..5], *b"hello");
    let identifier = request.request.ok_or("a request without an identifier")?;
    println!("{:?} comes", identifier.peer_address());
    let mut end = End::new(identifier, shared, sleep)?;
    // From here on its events have a channel of their own.
    let own = EventChannel::new()?;
    end.queue.migrate(&own)?;
    end.queue.identifier().accept(&parameters(b"welcome"))?;
    expect(&own, EventKind::Established)?;
    let (data, back) = ([Piece { memory: end.memory, range: DATA }], [Piece { memory: end.memory, range: BACK }]);
    let mut sends = 0;
    loop {
        let theirs = end.message(sends)?;
        if theirs.key == 0 {
            break;
        }
        end.queue.push_read(2, &data, theirs, Flags::SIGNALED);
        end.queue.post_sends()?;
        assert_eq!(end.reap(1)?[0].opcode(), Opcode::RDMA_READ);
        let mut bytes = vec![0; LEN as usize];
        end.region.read(DATA.offset, &mut bytes);
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        end.region.write(BACK.offset, &bytes);
        let there = Remote { address: theirs.address + u64::from(LEN), key: theirs.key };
        // One chain, one doorbell; the message must not overtake what it announces.
        end.queue.push_write(3, &back, there, Flags::NONE);
        end.tell(DATA);
        assert_eq!(end.queue.post_sends()?, 2);
        sends = 1;
    }
    // The client leaves when it has this: the receive was posted before that.
    end.tell(DATA);
    end.queue.post_sends()?;
    end.reap(1)?;
    expect(&own, EventKind::Disconnected)?;
    end.queue.fail()?;
    if !shared {
        end.flushed()?;
    }
    end.queue.close();
    if !shared {
        end.queue.push_receive(8, &end.inbox);
        assert!(end.queue.post_receives().is_err_and(|error| error.taken == 0), "a closed queue pair takes a receive");
    }
    assert!(end.queue.fail().is_err(), "a closed queue pair changes its state");
    println!("server: done");
    Ok(())
}

/// Goes through so many rounds with a server.
pub fn ask(to: SocketAddr, rounds: u32, sleep: bool) -> Outcome<()> {
    let channel = EventChannel::new()?;
    let identifier = channel.identifier()?;
    identifier.set_type_of_service(32)?;
    identifier.resolve_address(None, to, Duration::from_secs(2))?;
    expect(&channel, EventKind::AddressResolved)?;
    identifier.resolve_route(Duration::from_secs(2))?;
    expect(&channel, EventKind::RouteResolved)?;
    let mut end = End::new(identifier, false, sleep)?;
    end.queue.identifier().connect(&parameters(b"hello"))?;
    let answer = expect(&channel, EventKind::Established)?;
    assert_eq!(answer.token, end.queue.identifier().token());
    assert_eq!(answer.private_data[..7], *b"welcome");
    for round in 0..rounds {
        let bytes: Vec<u8> = (0..LEN).map(|at| (at.wrapping_mul(31) ^ round) as u8).collect();
        end.region.write(DATA.offset, &bytes);
        end.tell(DATA);
        end.queue.post_sends()?;
        // The answer may be seen before the send is known to be done.
        let all = end.reap(2)?;
        assert!(all.iter().any(|one| one.id() == 1) && all.iter().any(|one| one.id() == u64::MAX));
        end.receive()?;
        let wanted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        if !end.region.equals(BACK.offset, &wanted) {
            return Err(format!("round {round}: what came back is not what went there, turned").into());
        }
    }
    end.region.fill(MESSAGE.offset, MESSAGE.len as usize, 0);
    end.queue.push_send(1, &end.outbox, Flags::SIGNALED);
    end.queue.post_sends()?;
    end.reap(2)?;
    end.queue.identifier().disconnect()?;
    expect(&channel, EventKind::Disconnected)?;
    println!("client: {rounds} rounds of {LEN} bytes there and back");
    Ok(())
}
