//! A small host: one queue, one command at a time unless a test wants it otherwise.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use doorbell_spec::{
    command::{self, Command, SglDescriptor},
    completion::Completion,
    fabrics::{self, ConnectData, ConnectResponse, cattr},
    register::{self, Cc, Csts},
    status::{Status, generic},
    tcp::{IcReq, R2t, flags},
};
use zerocopy::IntoBytes;

use crate::{End, Framing, Part, Pdu, Wire};

/// The name of the NVM subsystem in tests.
pub const NQN: &str = "nqn.2014-08.org.example:storage";
/// The name of the host in tests.
pub const HOST: &str = "nqn.2014-08.org.example:host";
/// The identifier of the host in tests.
pub const HOST_ID: [u8; 16] = [7; 16];

/// How data leaves the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In the command capsule.
    InCapsule,
    /// When an R2T asks for it.
    Requested,
}

/// How a connection is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Ask for header digests.
    pub header_digest: bool,
    /// Ask for data digests.
    pub data_digest: bool,
    /// HPDA.
    pub hpda: u8,
    /// Submission queue flow control.
    pub flow_control: bool,
    /// Keep alive timeout in milliseconds, 0 for none.
    pub kato: u32,
    /// Entries of the submission queue, 0-based.
    pub sqsize: u16,
    /// The host's NQN.
    pub hostnqn: &'static str,
    /// The host's identifier.
    pub hostid: [u8; 16],
}

impl Default for Setup {
    /// No digests, no alignment, flow control, no keep alive, 32 entries, [`HOST`].
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            hpda: 0,
            flow_control: true,
            kato: 0,
            sqsize: 31,
            hostnqn: HOST,
            hostid: HOST_ID,
        }
    }
}

/// A host's end of one queue. What it does by itself is honest; [`HostPeer::wire`] is there for the rest. Methods that do not return an
/// [`End`] are for an honest exchange that must succeed, and panic if it does not.
#[derive(Debug)]
pub struct HostPeer {
    /// The connection.
    pub wire: Wire,
    /// Responses that have come and have not been asked for.
    pub responses: VecDeque<Completion>,
    /// Requests for data that have come and have not been answered.
    pub requests: VecDeque<R2t>,
    /// Data PDUs that came with a wrong digest.
    pub broken: u32,
    /// MAXH2CDATA: most bytes of an H2CData.
    pub maxh2cdata: u32,
    setup: Setup,
    cid: u16,
    /// Data of outstanding commands: to be asked for, and as it has come.
    out: HashMap<u16, Vec<u8>>,
    incoming: HashMap<u16, Vec<u8>>,
}

impl HostPeer {
    /// A connection after ICReq and ICResp.
    pub fn open(address: SocketAddr, setup: Setup) -> Self {
        Self::try_open(address, setup).unwrap_or_else(|end| panic!("no connection with {address}: {end}"))
    }

    /// The same, where it may fail.
    ///
    /// # Errors
    /// Why there is no connection.
    pub fn try_open(address: SocketAddr, setup: Setup) -> Result<Self, End> {
        let mut wire = Wire::connect(address)?;
        let wanted = Framing { header_digest: setup.header_digest, data_digest: setup.data_digest, pda: 0 };
        wire.send(IcReq::new(setup.hpda, wanted.bits(), 0).as_bytes())?;
        let answer = wire.receive()?;
        let Some(icresp) = answer.icresp() else {
            return Err(End::Nonsense(format!("{} instead of ICResp", answer.kind())));
        };
        wire.framing = Framing::new(icresp.digest, icresp.cpda);
        Ok(Self {
            wire,
            responses: VecDeque::new(),
            requests: VecDeque::new(),
            broken: 0,
            maxh2cdata: icresp.maxh2cdata.get(),
            setup,
            cid: 0,
            out: HashMap::new(),
            incoming: HashMap::new(),
        })
    }

    /// An admin queue with an enabled controller, and the controller's identifier.
    pub fn admin(address: SocketAddr, nqn: &str, setup: Setup) -> (Self, u16) {
        let mut host = Self::open(address, setup);
        let response = host.connect(0, nqn, fabrics::CNTLID_DYNAMIC);
        assert!(response.status().is_success(), "{}", response.status().fabrics());
        host.enable();
        (host, ConnectResponse::parse(&response).cntlid)
    }

    /// An I/O queue of a controller.
    pub fn io(address: SocketAddr, cntlid: u16, qid: u16, nqn: &str, setup: Setup) -> Self {
        let mut host = Self::open(address, setup);
        let response = host.connect(qid, nqn, cntlid);
        assert!(response.status().is_success(), "{}", response.status().fabrics());
        host
    }

    /// Connect, as the setup says.
    pub fn connect(&mut self, qid: u16, nqn: &str, cntlid: u16) -> Completion {
        let data = ConnectData::new(self.setup.hostid, cntlid, nqn, self.setup.hostnqn).expect("names that fit");
        self.connect_with(qid, &data)
    }

    /// Connect with data of one's own.
    pub fn connect_with(&mut self, qid: u16, data: &ConnectData) -> Completion {
        let bits = if self.setup.flow_control { 0 } else { cattr::DISABLE_SQ_FLOW_CONTROL };
        let command = fabrics::connect(qid, self.setup.sqsize, bits, self.setup.kato);
        self.send(command, data.as_bytes(), Way::InCapsule).expect("an answer to Connect")
    }

    /// Enables the controller.
    pub fn enable(&mut self) {
        let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4).into_bits();
        self.none(fabrics::property_set(register::CC, false, cc.into()));
        let csts = self.none(fabrics::property_get(register::CSTS, false)).result64();
        assert!(Csts::from_bits(csts as u32).rdy());
    }

    /// A command without data that succeeds.
    pub fn none(&mut self, command: Command) -> Completion {
        let response = self.send(command, &[], Way::Requested).expect("an answer");
        assert!(response.status().is_success(), "{}", response.status());
        response
    }

    /// A command without data.
    pub fn status(&mut self, command: Command) -> Status {
        self.send(command, &[], Way::Requested).expect("an answer").status()
    }

    /// A command that brings `len` bytes, and what has come of them.
    pub fn fetch(&mut self, mut command: Command, len: u32) -> Result<Vec<u8>, Status> {
        command.set_sgl(SglDescriptor::transport(len));
        let cid = self.submit(command, &[]);
        let response = self.response(cid).expect("an answer");
        let mut bytes = self.incoming.remove(&cid).unwrap_or_default();
        if !response.status().is_success() {
            return Err(response.status());
        }
        bytes.resize(len as usize, 0xee);
        Ok(bytes)
    }

    /// A command with data for the controller.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub fn send(&mut self, command: Command, data: &[u8], way: Way) -> Result<Completion, End> {
        let cid = self.begin(command, data, way)?;
        self.response(cid)
    }

    /// Sends a command with data for the controller and returns its identifier; [`HostPeer::response`] gives the data that is asked for.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub fn begin(&mut self, mut command: Command, data: &[u8], way: Way) -> Result<u16, End> {
        let len = data.len() as u32;
        let within = !data.is_empty() && way == Way::InCapsule;
        command.set_sgl(if within { SglDescriptor::in_capsule(0, len) } else { SglDescriptor::transport(len) });
        let cid = self.try_submit(command, if within { data } else { &[] })?;
        if !within {
            self.out.insert(cid, data.to_vec());
        }
        Ok(cid)
    }

    /// Writes blocks of `block` bytes.
    pub fn write(&mut self, nsid: u32, slba: u64, block: u32, data: &[u8], way: Way) -> Status {
        let blocks = data.len() as u32 / block;
        self.send(command::write(nsid, slba, blocks, 0), data, way).expect("an answer").status()
    }

    /// Reads blocks of `block` bytes.
    pub fn read(&mut self, nsid: u32, slba: u64, block: u32, blocks: u32) -> Vec<u8> {
        self.fetch(command::read(nsid, slba, blocks, 0), block * blocks).expect("a Read that succeeds")
    }

    /// Sends a command as it is but for its identifier, which is returned, with data in its capsule.
    pub fn submit(&mut self, command: Command, data: &[u8]) -> u16 {
        self.try_submit(command, data).expect("a connection that takes a command")
    }

    /// The same, where it may fail.
    ///
    /// # Errors
    /// How the connection ended.
    pub fn try_submit(&mut self, mut command: Command, data: &[u8]) -> Result<u16, End> {
        self.cid = (self.cid + 1) % 0x7fff;
        command.cid = self.cid.into();
        command.flags |= command::FLAGS_SGL;
        self.wire.send(&self.wire.framing.command(&command, data))?;
        Ok(self.cid)
    }

    /// Waits for the response to a command, giving the data that is asked for, with any command.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub fn response(&mut self, cid: u16) -> Result<Completion, End> {
        loop {
            let is_it = |response: &Completion| response.cid.get() == cid;
            self.until(|host| host.responses.iter().any(is_it) || !host.requests.is_empty())?;
            while let Some(request) = self.requests.pop_front() {
                self.give(&request, u32::MAX)?;
            }
            if let Some(at) = self.responses.iter().position(is_it) {
                self.out.remove(&cid);
                return Ok(self.responses.remove(at).expect("it is there"));
            }
        }
    }

    /// Gives at most `limit` bytes of the data asked for.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub fn give(&mut self, request: &R2t, limit: u32) -> Result<(), End> {
        let (cccid, ttag, offset) = (request.cccid.get(), request.ttag.get(), request.r2to.get());
        let end = offset + request.r2tl.get();
        let data = self.out.get(&cccid).cloned().unwrap_or_default();
        let mut at = offset;
        while at < end.min(offset.saturating_add(limit)) {
            let len = (end - at).min(self.maxh2cdata).min(limit);
            let part = Part { cccid, ttag, datao: at, last: at + len == end, success: false };
            let bytes = data.get(at as usize..(at + len) as usize).expect("an R2T within the data");
            self.wire.send(&self.wire.framing.h2c_data(part, bytes))?;
            at += len;
        }
        Ok(())
    }

    /// Receives until something holds.
    ///
    /// # Errors
    /// How the connection ended first; [`End::Silent`] when it has not held for the wire's patience.
    pub fn until(&mut self, holds: impl Fn(&Self) -> bool) -> Result<(), End> {
        let deadline = Instant::now() + self.wire.patience;
        while !holds(self) {
            let pdu = self.wire.receive_within(deadline.saturating_duration_since(Instant::now()))?;
            self.file(&pdu)?;
        }
        Ok(())
    }

    /// Waits for the controller to end the connection, and says how.
    pub fn ended(&mut self) -> End {
        self.until(|_| false).expect_err("it ends")
    }

    /// The data that has come for a command.
    pub fn take_data(&mut self, cid: u16) -> Vec<u8> {
        self.incoming.remove(&cid).unwrap_or_default()
    }

    fn file(&mut self, pdu: &Pdu) -> Result<(), End> {
        if let Some(completion) = pdu.completion() {
            self.responses.push_back(completion);
        } else if let Some(r2t) = pdu.r2t() {
            self.requests.push_back(r2t);
        } else if let Some(header) = pdu.c2h_data() {
            let bytes = self.incoming.entry(header.cccid.get()).or_default();
            let at = header.datao.get() as usize;
            bytes.resize(bytes.len().max(at + pdu.data.len()), 0xee);
            bytes[at..at + pdu.data.len()].copy_from_slice(&pdu.data);
            self.broken += u32::from(!pdu.intact);
            if pdu.flags() & flags::SUCCESS != 0 {
                self.responses.push_back(Completion::new(header.cccid.get(), 0, generic::SUCCESS, 0));
            }
        } else {
            return Err(End::Nonsense(format!("{}, which no controller sends now", pdu.kind())));
        }
        Ok(())
    }
}
