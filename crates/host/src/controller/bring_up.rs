//! Bringing a controller from nothing to ready: one function a phase, in the order of the specification (Base 3.5). What only a
//! controller over Fabrics needs is here too; what only one within reach needs is in [`super::direct`].

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_queue::{IoQueue, Slot};
use doorbell_spec::{
    command::{self, LogRequest, NSID_ALL},
    fabrics::{self, ConnectData, ConnectResponse, cattr},
    feature::{Fid, HostBehavior, NumberOfQueues, Select, async_event_config as event},
    identify::{self, Cns, Csi, NamespaceList, Nidt, cmic, ctratt, sgls},
    log::{self, AnaGroupDescriptor, AnaHeader, Lid, critical_warning},
    register::{Cap, Vs},
    status::generic,
};
use doorbell_tcp::Digests;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{
    ControllerOptions,
    direct::{Direct, Reach},
    registers::{self, Properties},
};
use crate::{
    cancel::Cancel,
    error::Cause,
    init_state::InitState,
    namespace::Namespace,
    transport::{
        self, Capsule, PollGroup, QueueRequest,
        port::{AdminData, BUFFER, Kind, Port, refused},
    },
    transport_id::{TransportId, TransportType},
};

/// Entries of the admin queue.
const ADMIN_ENTRIES: u32 = 32;
/// The slot that keep alive commands use.
pub(super) const KEEP_ALIVE_SLOT: Slot = 1;
/// The first slot of Asynchronous Event Requests, and how many there are at most.
pub(super) const EVENT_SLOTS: std::ops::Range<Slot> = 2..10;
/// The slot of Abort commands: one at a time, which every controller takes (ACL is 0-based).
pub(super) const ABORT_SLOT: Slot = 10;
/// An admin or Fabrics command capsule over TCP (TCP 3.3.2.2); those over RDMA hold no data.
const ADMIN_CAPSULE: Capsule = Capsule { data_bytes: 8192, data_offset: 0, descriptors: 1 };
/// More active namespaces than this are a lie.
pub(super) const MOST_NAMESPACES: usize = 1 << 16;
/// The critical warnings to report: those of every version. There are controllers that refuse all events for the others' sake.
const CRITICAL_WARNINGS: u32 = (critical_warning::SPARE
    | critical_warning::TEMPERATURE
    | critical_warning::RELIABILITY
    | critical_warning::READ_ONLY
    | critical_warning::VOLATILE_BACKUP) as u32;
/// Largest transfer where the controller states none.
const UNLIMITED_TRANSFER: u64 = 1 << 30;

/// What bring-up learned.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub cap: Cap,
    pub vs: Vs,
    pub cntlid: u16,
    pub data: Arc<identify::Controller>,
    /// What the first Identify took: a round trip, and the controller's time for it.
    pub identify_took: Duration,
    /// What the controller agreed to for the connection of its admin queue.
    pub digests: Digests,
    /// Keep alive timeout: what was asked for, or less where less was granted; if any.
    pub keep_alive: Option<Duration>,
    pub io_queues: u16,
    pub io_entries: u32,
    pub capsule: Capsule,
    pub max_transfer: u32,
    pub namespaces: Vec<Namespace>,
    /// Oddities that do not stand in the way, for the log.
    pub warnings: Vec<String>,
}

/// A controller on its way up.
pub(super) struct BringUp<'a> {
    pub id: &'a TransportId,
    pub name: &'a str,
    pub options: &'a ControllerOptions,
    pub cancel: &'a Cancel,
    /// How its device is had, when it is within reach.
    pub reach: Option<&'a Reach>,
}

/// A controller that is up.
pub(super) struct Up {
    /// Its admin queue.
    pub port: Port,
    /// Its device and queues, when it is within reach.
    pub direct: Option<Direct>,
    pub ready: Ready,
}

pub(super) type Step<T> = Result<T, Cause>;

impl BringUp<'_> {
    /// From nothing to ready.
    pub fn run(&self) -> Step<Up> {
        match self.reach {
            Some(reach) => self.run_directly(reach),
            None => self.run_over_fabrics(),
        }
    }

    fn run_over_fabrics(&self) -> Step<Up> {
        let (mut port, connected) = self.connect_admin().map_err(|why| why.at(InitState::ConnectAdminq))?;
        port.grant("bring-up", self.options.bring_up_timeout);
        let mut registers = Properties { port: &mut port, timeout: self.timeout() };
        let (vs, cap) = registers::capabilities(&mut registers)?;
        let limit = registers::ready_limit(cap, None);
        registers::disable(&mut registers, limit, Duration::ZERO)?;
        registers::enable(&mut registers, cap, limit)?;
        let mut ready = self.learn(&mut port, vs, cap)?;
        port.end_grant();
        ready.capsule = self.capsule(&ready.data, &mut ready.warnings)?;
        ready.cntlid = connected.cntlid;
        let said = ready.data.cntlid.get();
        if said != connected.cntlid {
            ready.warnings.push(format!("Connect gave controller {}, Identify says {said}", connected.cntlid));
        }
        Ok(Up { port, direct: None, ready })
    }

    /// All that the admin queue of an enabled controller tells.
    pub fn learn(&self, port: &mut Port, vs: Vs, cap: Cap) -> Step<Ready> {
        let asked = Instant::now();
        let data = self.identify(port)?;
        let identify_took = asked.elapsed();
        let mut warnings = Vec::new();
        self.configure_events(port, &data, vs, &mut warnings)?;
        let keep_alive = self.keep_alive(port, &data)?;
        let most = data.max_transfer(cap.mpsmin()).unwrap_or(UNLIMITED_TRANSFER).min(UNLIMITED_TRANSFER) as u32;
        let most = most.min(port.most_bytes());
        let mut ready = Ready {
            cap,
            vs,
            cntlid: data.cntlid.get(),
            identify_took,
            digests: port.digests(),
            keep_alive,
            io_queues: 0,
            io_entries: self.options.io_queue_size.min(32768).min(most_entries(cap, &data)).max(2),
            capsule: Capsule { data_bytes: 0, data_offset: 0, descriptors: 1 },
            max_transfer: most,
            namespaces: Vec::new(),
            warnings,
            data,
        };
        if !self.id.is_discovery() {
            ready.io_queues = self.number_of_queues(port, &mut ready.warnings)?;
            self.host_behavior(port, &ready.data)?;
            self.namespaces(port, &mut ready)?;
            self.ana_states(port, &ready.data, most, &mut ready.namespaces)?;
        }
        Ok(ready)
    }

    pub fn timeout(&self) -> Duration {
        self.options.admin_timeout
    }

    /// The Connect data of any queue of this host.
    pub fn connect_data(&self, cntlid: u16) -> Step<ConnectData> {
        let hostnqn = self.id.hostnqn.as_ref().unwrap_or(&self.options.host.nqn);
        ConnectData::new(self.options.host.id, cntlid, &self.id.subnqn, hostnqn).map_err(|why| {
            Cause::Transport(format!("the host NQN {hostnqn} or subsystem NQN {} is none: {why}", self.id.subnqn))
        })
    }

    /// A queue of the controller, connected.
    pub fn connect_queue(
        &self,
        qid: u16,
        entries: u32,
        capsule: Capsule,
        cntlid: u16,
        group: &PollGroup,
    ) -> Step<(Port, ConnectResponse)> {
        let request = QueueRequest {
            qid,
            cntlid,
            entries,
            header_digest: self.options.header_digest,
            data_digest: self.options.data_digest,
            capsule,
            group: group.clone(),
            shared_receives: Some(self.options.rdma_srq_size).filter(|&size| size > 0 && qid > 0),
            type_of_service: self.options.transport_tos,
            zero_copy: self.options.zero_copy,
            deadline: Instant::now() + self.options.connect_timeout,
            cancel: self.cancel.clone(),
        };
        let data = self.connect_data(cntlid)?;
        let queue = transport::open_queue(self.id, &request)?;
        let sqsize = queue.needs().slots;
        let kind = if qid == 0 { Kind::Admin } else { Kind::Io };
        let mut port = Port::new(queue, kind, false, self.cancel)?;
        let attributes = if self.options.disable_sq_flow_control { cattr::DISABLE_SQ_FLOW_CONTROL } else { 0 };
        let kato = self.options.keep_alive.map_or(0, |time| time.as_millis().min(u32::MAX.into()) as u32);
        let kato = if qid == 0 { kato } else { 0 };
        let command = fabrics::connect(qid, sqsize, attributes, kato);
        let answer = port.connect(&command, &data, self.options.connect_timeout)?;
        if answer.authreq != 0 {
            return Err(Cause::Transport(
                "it requires authentication (DH-HMAC-CHAP), which is not built yet; allow this host without a key"
                    .into(),
            ));
        }
        Ok((port, answer))
    }

    fn connect_admin(&self) -> Step<(Port, ConnectResponse)> {
        // FFFFh asks for a controller of the dynamic model.
        self.connect_queue(0, ADMIN_ENTRIES, ADMIN_CAPSULE, 0xffff, &PollGroup::default())
    }

    /// An Identify data structure of 4096 bytes.
    fn page(&self, port: &mut Port, cns: Cns, nsid: u32) -> Step<Vec<u8>> {
        let command = command::identify(cns, nsid, Csi::NVM, 0);
        port.succeed(&command, &AdminData::In(identify::SIZE as u32), self.timeout()).map(|(_, bytes)| bytes)
    }

    fn identify(&self, port: &mut Port) -> Step<Arc<identify::Controller>> {
        let bytes = self.page(port, Cns::CONTROLLER, 0).map_err(|why| why.at(InitState::Identify))?;
        Ok(Arc::new(identify::Controller::read_from_bytes(&bytes).expect("4096 bytes")))
    }

    /// Event configuration and requests; a controller without events is still a controller.
    fn configure_events(
        &self,
        port: &mut Port,
        data: &identify::Controller,
        vs: Vs,
        warnings: &mut Vec<String>,
    ) -> Step<()> {
        let offered = if vs >= Vs::version(1, 2, 0) { data.oaes.get() } else { 0 };
        let wanted = match self.id.is_discovery() {
            true => offered & 1 << 31,
            false => CRITICAL_WARNINGS | offered & (event::NAN | event::FAN | event::ANACN),
        };
        let command = command::set_features(Fid::ASYNC_EVENT_CONFIGURATION, false, 0, wanted);
        let (done, _) =
            port.execute(&command, &AdminData::None, self.timeout()).map_err(|why| why.at(InitState::ConfigureAer))?;
        if !done.status.is_success() {
            warnings.push(format!("no events: {}", refused(Kind::Admin, &command, done.status, String::new())));
            return Ok(());
        }
        let count = EVENT_SLOTS.len().min(usize::from(data.aerl) + 1);
        for slot in EVENT_SLOTS.take(count) {
            port.send(slot, &command::async_event_request()).map_err(|why| why.at(InitState::ConfigureAer))?;
        }
        Ok(())
    }

    /// The keep alive time granted; a controller that knows none needs none. (Over Fabrics all know it, whatever KAS says.)
    fn keep_alive(&self, port: &mut Port, data: &identify::Controller) -> Step<Option<Duration>> {
        let knows = self.reach.is_none() || data.kas.get() != 0;
        let Some(asked) = self.options.keep_alive.filter(|_| knows) else { return Ok(None) };
        let command = command::get_features(Fid::KEEP_ALIVE_TIMER, Select::CURRENT, 0, 0);
        let at = |why: Cause| why.at(InitState::SetKeepAliveTimeout);
        let (done, _) = port.execute(&command, &AdminData::None, self.timeout()).map_err(at)?;
        match done.result as u32 {
            _ if done.status.is(generic::INVALID_FIELD) => Ok(Some(asked)),
            _ if !done.status.is_success() => Err(at(refused(Kind::Admin, &command, done.status, String::new()))),
            0 => Ok(None),
            // Less may be granted; more would only let a loss go unnoticed for longer.
            granted => Ok(Some(Duration::from_millis(granted.into()).min(asked))),
        }
    }

    /// The I/O queues granted; a controller that refuses to say has none, and may still answer admin commands.
    fn number_of_queues(&self, port: &mut Port, warnings: &mut Vec<String>) -> Step<u16> {
        let wanted = self.options.num_io_queues.max(1);
        let asked = NumberOfQueues { submission: wanted.into(), completion: wanted.into() };
        let command = command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, asked.to_dword());
        let at = |why: Cause| why.at(InitState::SetNumQueues);
        let (done, _) = port.execute(&command, &AdminData::None, self.timeout()).map_err(at)?;
        if !done.status.is_success() {
            warnings.push(format!("no I/O queues: {}", refused(Kind::Admin, &command, done.status, String::new())));
            return Ok(0);
        }
        let granted = NumberOfQueues::from_dword(done.result as u32);
        Ok(u32::from(wanted).min(granted.submission).min(granted.completion) as u16)
    }

    fn namespaces(&self, port: &mut Port, ready: &mut Ready) -> Step<()> {
        for nsid in self.active(port, &ready.data, ready.vs)? {
            match self.namespace(port, nsid, ready.vs, ready.cap, ready.max_transfer)? {
                Some(Ok(namespace)) => ready.namespaces.push(namespace),
                Some(Err(why)) => ready.warnings.push(why),
                None => {}
            }
        }
        Ok(())
    }

    /// The identifiers of the active namespaces, ascending.
    pub fn active(&self, port: &mut Port, data: &identify::Controller, vs: Vs) -> Step<Vec<u32>> {
        let at = |why: Cause| why.at(InitState::IdentifyActiveNs);
        if vs < Vs::version(1, 1, 0) {
            return Ok((1..=data.nn.get().min(MOST_NAMESPACES as u32)).collect());
        }
        let mut active: Vec<u32> = Vec::new();
        loop {
            let last = active.last().copied().unwrap_or(0);
            let bytes = self.page(port, Cns::ACTIVE_NAMESPACES, last).map_err(at)?;
            let list = NamespaceList::ref_from_bytes(&bytes).expect("4096 bytes");
            // Ascending ones only, so that a list that repeats itself ends.
            let before = active.len();
            active.extend(list.after(last).filter(|&nsid| nsid != NSID_ALL));
            if active.len() - before < NamespaceList::CAPACITY {
                return Ok(active);
            }
            if active.len() > MOST_NAMESPACES {
                return Err(at(Cause::Nonsense(format!("it claims more than {MOST_NAMESPACES} active namespaces"))));
            }
        }
    }

    /// A namespace, or why it cannot be used; `None` when it is not active after all.
    pub fn namespace(
        &self,
        port: &mut Port,
        nsid: u32,
        vs: Vs,
        cap: Cap,
        max_transfer: u32,
    ) -> Step<Option<Result<Namespace, String>>> {
        let bytes = match self.page(port, Cns::NAMESPACE, nsid) {
            Ok(bytes) => bytes,
            Err(why) => {
                let inactive = [generic::INVALID_NAMESPACE, generic::INVALID_FIELD];
                return match why.status() {
                    Some(status) if inactive.iter().any(|&code| status.is(code)) => Ok(None),
                    _ => Err(why.at(InitState::IdentifyNs)),
                };
            }
        };
        let data = identify::Namespace::read_from_bytes(&bytes).expect("4096 bytes");
        if data.nsze.get() == 0 {
            return Ok(None);
        }
        let mut namespace = match Namespace::new(nsid, self.name, &data, max_transfer) {
            Ok(namespace) => namespace,
            Err(why) => return Ok(Some(Err(why))),
        };
        if data.protection_type() != 0 {
            // A controller without extended formats may not know the page.
            let more = match self.page(port, Cns::CSI_NAMESPACE, nsid) {
                Ok(bytes) => Some(identify::NvmNamespace::read_from_bytes(&bytes).expect("4096 bytes")),
                Err(why) if why.status().is_some() => None,
                Err(why) => return Err(why.at(InitState::IdentifyNs)),
            };
            if let Err(why) = namespace.protect(&data, more.as_ref()) {
                return Ok(Some(Err(why)));
            }
        }
        self.identifiers(port, &mut namespace, vs).map_err(|why| why.at(InitState::IdentifyIdDescs))?;
        if namespace.csi == Csi::ZONED {
            match self.zones(port, &namespace, &data, cap).map_err(|why| why.at(InitState::IdentifyNsIocsSpecific))? {
                Ok(zoned) => namespace.zoned = Some(zoned),
                Err(why) => return Ok(Some(Err(why))),
            }
        }
        Ok(Some(Ok(namespace)))
    }

    /// UUID and command set of a namespace; a controller that does not list them is asked no further.
    fn identifiers(&self, port: &mut Port, namespace: &mut Namespace, vs: Vs) -> Step<()> {
        if vs < Vs::version(1, 3, 0) {
            return Ok(());
        }
        let bytes = match self.page(port, Cns::NAMESPACE_DESCRIPTORS, namespace.nsid) {
            Ok(bytes) => bytes,
            Err(why) if why.status().is_some() => return Ok(()),
            Err(why) => return Err(why),
        };
        for descriptor in identify::descriptors(&bytes) {
            match (descriptor.nidt, descriptor.nid) {
                (Nidt::EUI64, nid) => namespace.eui64 = nid.try_into().unwrap_or(namespace.eui64),
                (Nidt::NGUID, nid) => namespace.nguid = nid.try_into().unwrap_or(namespace.nguid),
                (Nidt::UUID, nid) => namespace.uuid = nid.try_into().unwrap_or(namespace.uuid),
                _ => namespace.csi = descriptor.csi().unwrap_or(namespace.csi),
            }
        }
        Ok(())
    }

    /// The states of the namespaces' ANA groups (Base 8.1.1), where the controller reports them.
    pub fn ana_states(
        &self,
        port: &mut Port,
        data: &identify::Controller,
        max_transfer: u32,
        namespaces: &mut [Namespace],
    ) -> Step<()> {
        if data.cmic & cmic::ANA == 0 {
            return Ok(());
        }
        // The page names namespaces that this host cannot use, too.
        let ids = u64::from(data.nn.get()).max(namespaces.len() as u64);
        let groups = u64::from(data.nanagrpid.get()) * size_of::<AnaGroupDescriptor>() as u64;
        let bytes = (size_of::<AnaHeader>() as u64 + groups + 4 * ids).min(BUFFER.into());
        // In one piece where that is possible: groups may change between two, and there are targets that ignore the offset.
        let page = match self.log_page(port, Lid::ANA, bytes, max_transfer) {
            Ok(page) => page,
            Err(why) if why.status().is_some() => return Ok(()),
            Err(why) => return Err(why.at(InitState::SetSupportedLogPages)),
        };
        let groups = log::ana_groups(&page).into_iter().flat_map(|(_, groups)| groups);
        let states: HashMap<_, _> =
            groups.map(|group| (group.descriptor.agid.get(), group.descriptor.state())).collect();
        for namespace in namespaces {
            namespace.ana_state = states.get(&namespace.ana_group).copied();
        }
        Ok(())
    }

    /// What an I/O command capsule may hold.
    fn capsule(&self, data: &identify::Controller, warnings: &mut Vec<String>) -> Step<Capsule> {
        let (over_rdma, bits) = (self.id.trtype == TransportType::Rdma, data.sgls.get());
        if over_rdma && bits & sgls::KEYED == 0 {
            let what =
                format!("it takes no keyed SGL descriptors (SGLS {bits:x}h), without which there is no NVMe/RDMA");
            return Err(Cause::Nonsense(what).at(InitState::Identify));
        }
        let data_offset = u32::from(data.icdoff.get()) * 16;
        let bytes = data.in_capsule_data_size().saturating_sub(data_offset.into()).min(BUFFER.into()) as u32;
        let data_bytes = match over_rdma {
            true if bits & sgls::OFFSET == 0 => 0,
            false if data_offset != 0 => {
                let icdoff = data.icdoff;
                warnings.push(format!(
                    "it wants in-capsule data at an offset (ICDOFF {icdoff}): no data travels in capsules"
                ));
                0
            }
            _ => bytes,
        };
        // 0 is no limit.
        let descriptors = if data.msdbd == 0 { u16::MAX } else { data.msdbd.into() };
        Ok(Capsule { data_bytes, data_offset, descriptors })
    }

    fn host_behavior(&self, port: &mut Port, data: &identify::Controller) -> Step<()> {
        if data.ctratt.get() & ctratt::ELBAS == 0 {
            return Ok(());
        }
        let mut behavior = HostBehavior::new_zeroed();
        behavior.lbafee = 1;
        let command = command::set_features(Fid::HOST_BEHAVIOR_SUPPORT, false, 0, 0);
        let out = AdminData::Out(behavior.as_bytes().to_vec());
        port.succeed(&command, &out, self.timeout()).map(|_| ()).map_err(|why| why.at(InitState::SetHostFeature))
    }

    /// A log page of `bytes` bytes, at most `most` of them with one command (4096 are always possible).
    pub fn log_page(&self, port: &mut Port, lid: Lid, bytes: u64, most: u32) -> Step<Vec<u8>> {
        let mut page = Vec::new();
        while (page.len() as u64) < bytes {
            let offset = page.len() as u64;
            let piece = (bytes - offset).min(most.clamp(4096, BUFFER).into());
            let request = LogRequest { nsid: NSID_ALL, bytes: piece, offset, ..LogRequest::new(lid) };
            let data = AdminData::In(piece as u32);
            page.extend(port.succeed(&command::get_log_page(&request), &data, self.timeout())?.1);
        }
        Ok(page)
    }
}

/// Entries that an I/O queue may have: CAP.MQES is 0-based, MAXCMD is 0 where it says nothing.
fn most_entries(cap: Cap, data: &identify::Controller) -> u32 {
    let entries = u32::from(cap.mqes()) + 1;
    match data.maxcmd.get() {
        0 => entries,
        most => entries.min(most.into()),
    }
}
