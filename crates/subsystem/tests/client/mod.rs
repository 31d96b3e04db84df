//! A small host for tests: one queue, one command at a time unless a test wants it otherwise.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use doorbell_platform::{Range, Region};
use doorbell_spec::{
    command::{self, Command, SglDescriptor},
    completion::Completion,
    fabrics::{self, ConnectData, ConnectResponse, cattr},
    register::{self, Cc, Csts},
    status::{Status, generic},
    tcp::{IcReq, flags},
};
use doorbell_tcp::{DataPdu, Digests, Link, Lost, Pdu, Role, Sink, Violation};
use zerocopy::IntoBytes;

pub const NQN: &str = "nqn.2014-08.org.example:storage";
pub const HOST: &str = "nqn.2014-08.org.example:host";
pub const HOST_ID: [u8; 16] = [7; 16];
const DEADLINE: Duration = Duration::from_secs(20);
/// Where data for the host arrives, and where data from the host lies.
const IN: u64 = 0;
const OUT: u64 = 4 << 20;

/// How data leaves the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    InCapsule,
    Requested,
}

/// How a connection is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub digests: Digests,
    pub hpda: u8,
    pub flow_control: bool,
    pub kato: u32,
    pub sqsize: u16,
}

impl Default for Setup {
    fn default() -> Self {
        Self { digests: Digests::default(), hpda: 0, flow_control: true, kato: 0, sqsize: 31 }
    }
}

/// A request for data: command, transfer tag, offset, length.
pub type Request = (u16, u16, u32, u32);

#[derive(Default)]
pub struct Inbox {
    pub agreed: Option<(Digests, u32)>,
    pub responses: VecDeque<Completion>,
    pub requests: VecDeque<Request>,
    token: (u32, u16, bool),
    pub broken: u32,
}

impl Sink for Inbox {
    fn pdu(&mut self, pdu: Pdu<'_>, _: u32) -> Result<u32, Violation> {
        match pdu {
            Pdu::IcResp(response) => {
                self.agreed = Some((Digests::from_bits(response.digest), response.maxh2cdata.get()));
            }
            Pdu::CapsuleResp(capsule) => self.responses.push_back(capsule.completion),
            Pdu::R2t(r2t) => {
                self.requests.push_back((r2t.cccid.get(), r2t.ttag.get(), r2t.r2to.get(), r2t.r2tl.get()));
            }
            Pdu::C2hData(header) => {
                let success = header.common.flags & flags::SUCCESS != 0;
                self.token = (header.datao.get(), header.cccid.get(), success);
            }
            other => panic!("a target sent {other:?}"),
        }
        Ok(0)
    }

    fn place(&mut self, _: u32, at: u32, len: u32, ranges: &mut Vec<Range>) {
        ranges.push(Range { offset: IN + u64::from(self.token.0 + at), len });
    }

    fn finished(&mut self, _: u32, intact: bool) -> Result<(), Violation> {
        self.broken += u32::from(!intact);
        if self.token.2 {
            self.responses.push_back(Completion::new(self.token.1, 0, generic::SUCCESS, 0));
        }
        Ok(())
    }
}

pub struct Client {
    pub link: Link,
    pub inbox: Inbox,
    pub region: Region,
    setup: Setup,
    staging: Vec<u8>,
    cid: u16,
    most: u32,
}

impl Client {
    /// A connection after ICReq and ICResp.
    pub fn open(address: SocketAddr, setup: Setup) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        let mut client = Self {
            link: Link::new(socket, Role::Host, 4 << 20).unwrap(),
            inbox: Inbox::default(),
            region: Region::new(8 << 20).unwrap(),
            setup,
            staging: vec![0; 64 << 10],
            cid: 0,
            most: 0,
        };
        client.link.sender.initialize(&IcReq::new(setup.hpda, setup.digests.bits(), 0));
        client.until(|inbox| inbox.agreed.is_some()).unwrap();
        let (digests, most) = client.inbox.agreed.unwrap();
        client.link.receiver().use_digests(digests);
        client.link.sender.use_agreement(digests, 0);
        client.most = most;
        client
    }

    /// An admin queue with an enabled controller, and the controller's identifier.
    pub fn admin(address: SocketAddr, nqn: &str, setup: Setup) -> (Self, u16) {
        let mut client = Self::open(address, setup);
        let response = client.connect(0, nqn, fabrics::CNTLID_DYNAMIC);
        assert!(response.status().is_success(), "{}", response.status().fabrics());
        client.enable();
        (client, ConnectResponse::parse(&response).cntlid)
    }

    /// An I/O queue of a controller.
    pub fn io(address: SocketAddr, cntlid: u16, qid: u16, setup: Setup) -> Self {
        let mut client = Self::open(address, setup);
        let response = client.connect(qid, NQN, cntlid);
        assert!(response.status().is_success(), "{}", response.status().fabrics());
        client
    }

    pub fn connect(&mut self, qid: u16, nqn: &str, cntlid: u16) -> Completion {
        let data = ConnectData::new(HOST_ID, cntlid, nqn, HOST).unwrap();
        self.connect_with(qid, &data)
    }

    pub fn connect_with(&mut self, qid: u16, data: &ConnectData) -> Completion {
        let bits = if self.setup.flow_control { 0 } else { cattr::DISABLE_SQ_FLOW_CONTROL };
        let command = fabrics::connect(qid, self.setup.sqsize, bits, self.setup.kato);
        self.send(command, data.as_bytes(), Way::InCapsule).unwrap()
    }

    pub fn enable(&mut self) {
        let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4).into_bits();
        self.none(fabrics::property_set(register::CC, false, cc.into()));
        let csts = self.none(fabrics::property_get(register::CSTS, false)).result64();
        assert!(Csts::from_bits(csts as u32).rdy());
    }

    /// A command without data that succeeds.
    pub fn none(&mut self, command: Command) -> Completion {
        let response = self.send(command, &[], Way::Requested).unwrap();
        assert!(response.status().is_success(), "{}", response.status());
        response
    }

    /// A command without data.
    pub fn status(&mut self, command: Command) -> Status {
        self.send(command, &[], Way::Requested).unwrap().status()
    }

    /// A command that brings `len` bytes.
    pub fn fetch(&mut self, mut command: Command, len: u32) -> Result<Vec<u8>, Status> {
        command.set_sgl(SglDescriptor::transport(len));
        self.region.fill(IN, len as usize, 0xee);
        let cid = self.submit(command, &[]);
        let response = self.response(cid).unwrap();
        if !response.status().is_success() {
            return Err(response.status());
        }
        let mut bytes = vec![0; len as usize];
        self.region.read(IN, &mut bytes);
        Ok(bytes)
    }

    /// A command with data for the target.
    pub fn send(&mut self, mut command: Command, data: &[u8], way: Way) -> Result<Completion, Lost> {
        let len = data.len() as u32;
        self.region.write(OUT, data);
        let within = !data.is_empty() && way == Way::InCapsule;
        command.set_sgl(if within { SglDescriptor::in_capsule(0, len) } else { SglDescriptor::transport(len) });
        let range = [Range { offset: OUT, len }];
        let cid = self.submit(command, if within { &range } else { &[] });
        self.response(cid)
    }

    pub fn write(&mut self, nsid: u32, slba: u64, block: u32, data: &[u8], way: Way) -> Status {
        let blocks = data.len() as u32 / block;
        self.send(command::write(nsid, slba, blocks, 0), data, way).unwrap().status()
    }

    pub fn read(&mut self, nsid: u32, slba: u64, block: u32, blocks: u32) -> Vec<u8> {
        self.fetch(command::read(nsid, slba, blocks, 0), block * blocks).unwrap()
    }

    /// Queues a command with data in its capsule; returns its identifier.
    pub fn submit(&mut self, mut command: Command, data: &[Range]) -> u16 {
        self.cid = (self.cid + 1) % 0x7fff;
        command.cid = self.cid.into();
        command.flags |= command::FLAGS_SGL;
        self.link.sender.command(&command, data, Some(&self.region));
        self.cid
    }

    /// Waits for the response to a command, giving the data it is asked for.
    pub fn response(&mut self, cid: u16) -> Result<Completion, Lost> {
        loop {
            let is_it = |response: &Completion| response.cid.get() == cid;
            self.until(|inbox| inbox.responses.iter().any(is_it) || !inbox.requests.is_empty())?;
            while let Some(request) = self.inbox.requests.pop_front() {
                self.give(request, u32::MAX);
            }
            if let Some(at) = self.inbox.responses.iter().position(is_it) {
                return Ok(self.inbox.responses.remove(at).unwrap());
            }
        }
    }

    /// Gives at most `limit` bytes of the data asked for.
    pub fn give(&mut self, (cccid, ttag, offset, len): Request, limit: u32) {
        let (mut at, end) = (offset, offset + len);
        while at < end.min(offset.saturating_add(limit)) {
            let part = (end - at).min(self.most).min(limit);
            let pdu = DataPdu { cccid, ttag, datao: at, last: at + part == end, success: false };
            let range = [Range { offset: OUT + u64::from(at), len: part }];
            self.link.sender.data(pdu, &range, Some(&self.region));
            at += part;
        }
    }

    /// Sends and receives until something holds.
    pub fn until(&mut self, holds: impl Fn(&Inbox) -> bool) -> Result<(), Lost> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let sent = self.link.flush(Some(&self.region));
            if holds(&self.inbox) {
                return Ok(());
            }
            // What the target said before it closed is worth reading, though it takes no more.
            let count = self.link.receive(Some(&self.region), &mut self.staging, &mut self.inbox)?;
            if count == 0 {
                sent?;
                assert!(Instant::now() < deadline, "nothing comes from the target");
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Waits for the target to end the connection, and says how.
    pub fn ended(&mut self) -> Lost {
        self.until(|_| false).unwrap_err()
    }
}
