//! What the tests of the driver over the memory transport share: sites at addresses, options, and ways to pick commands.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(missing_docs, reason = "tests")]

#[path = "../../examples/memory/mod.rs"]
pub mod memory;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use doorbell_host::{Cancel, Controller, ControllerOptions, Error, HostIdentity, TransportId, transport};
use doorbell_spec::{
    command::{AdminOpcode, Command, IdentifyRequest, LogRequest},
    fabrics::{self, Fctype, PropertyRequest},
    feature::Fid,
    identify::Cns,
    log::Lid,
};
use memory::{MemoryTransport, Reply, Site};

pub const NQN: &str = "nqn.2016-06.org.example:memory";

/// Puts a site at a new address and returns the ID of its subsystem.
pub fn place(site: &Arc<Site>) -> TransportId {
    static TRANSPORT: OnceLock<Arc<MemoryTransport>> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let transport = TRANSPORT.get_or_init(|| {
        let transport = Arc::new(MemoryTransport::default());
        transport::register(transport.clone()).unwrap();
        transport
    });
    let address = format!("site{}", NEXT.fetch_add(1, Ordering::Relaxed));
    transport.add(&address, site.clone());
    format!("trtype:memory traddr:{address} subnqn:{NQN}").parse().unwrap()
}

pub fn options() -> ControllerOptions {
    ControllerOptions {
        host: HostIdentity { nqn: "nqn.2016-06.org.example:host".into(), id: [7; 16] },
        ..ControllerOptions::default()
    }
}

pub fn hasty() -> ControllerOptions {
    let short = Duration::from_millis(40);
    ControllerOptions { admin_timeout: short, connect_timeout: short, ..options() }
}

pub fn connect(site: &Arc<Site>) -> Result<Controller, Error> {
    Controller::connect(&place(site), &options(), &Cancel::new())
}

/// A site whose hook answers the commands that `which` picks with `reply`.
pub fn faulty(which: impl Fn(&Command) -> bool + Send + Sync + 'static, reply: fn() -> Reply) -> Arc<Site> {
    Site::with_hook(move |_, command| if which(command) { reply() } else { Reply::Model })
}

pub fn is_fabrics(command: &Command, fctype: Fctype) -> bool {
    command.is_fabrics() && fabrics::fctype(command) == fctype
}

pub fn gets(offset: u32) -> impl Fn(&Command) -> bool + Clone {
    move |command| is_fabrics(command, Fctype::PROPERTY_GET) && PropertyRequest::parse(command).offset == offset
}

pub fn is_admin(command: &Command, opcode: AdminOpcode) -> bool {
    !command.is_fabrics() && command.opc == opcode.0
}

pub fn identifies(cns: Cns) -> impl Fn(&Command) -> bool + Clone {
    move |command| is_admin(command, AdminOpcode::IDENTIFY) && IdentifyRequest::parse(command).cns == cns
}

pub fn feature(opcode: AdminOpcode, fid: Fid) -> impl Fn(&Command) -> bool + Clone {
    move |command| is_admin(command, opcode) && command.fid() == fid
}

pub fn reads_log(lid: Lid) -> impl Fn(&Command) -> bool + Clone {
    move |command| is_admin(command, AdminOpcode::GET_LOG_PAGE) && LogRequest::parse(command).lid == lid
}

/// Looks again and again until it holds; a test that waits longer than this is broken.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub fn seen(site: &Site, which: impl Fn(&Command) -> bool) -> usize {
    site.seen.lock().unwrap().iter().filter(|(_, command)| which(command)).count()
}
