//! `--embedded`: a RAM target inside this process, on a core outside `-c` if there is one, else cooperatively on the first worker's.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use doorbell_host::{AddressFamily, TransportId, TransportType};
use doorbell_load::Companion;
use doorbell_platform::cpu;
use doorbell_subsystem::{Backend, Cooperative, NamespaceConfig, SubsystemConfig, Target, TargetConfig};

use super::options::Link;
use crate::{output::tell, scratch::Folder};

/// Size of the namespace in bytes.
const SIZE: u64 = 256 << 20;
const NQN: &str = "nqn.2026-11.io.doorbell:embedded";

/// The embedded target.
pub struct Embedded {
    id: TransportId,
    place: Place,
    /// Of its socket, for vfio-user; removed after the target.
    _folder: Option<Folder>,
}

enum Place {
    /// On a core of its own, for as long as this lives.
    Apart { _target: Target },
    /// Inside the first worker's loop, and on a thread that serves while that does not go round: the worker waits for the target
    /// itself when it makes its queues.
    Shared { target: Arc<Mutex<Cooperative>>, rounds: Arc<AtomicU64>, ended: Arc<AtomicBool> },
}

impl Embedded {
    /// Starts it; `cores` are the workers'.
    pub fn start(link: Link, cores: &[usize]) -> Result<Self, String> {
        let allowed =
            cpu::allowed().map_err(|why| format!("--embedded: asking for the cores of this machine: {why}"))?;
        let free = allowed.iter().copied().find(|core| !cores.contains(core));
        let subsystem = SubsystemConfig {
            namespaces: vec![NamespaceConfig { backend: Backend::Ram { size: SIZE }, block_size: 512 }],
            ..SubsystemConfig::new(NQN)
        };
        let mut config = TargetConfig::of(subsystem);
        let folder = match link {
            Link::Tcp => None,
            Link::VfioUser => Some(Folder::new().map_err(|why| format!("--embedded: {why}"))?),
        };
        match &folder {
            None => config.listen.push((Ipv4Addr::LOCALHOST, 0).into()),
            Some(folder) => config.vfio_user.push(folder.path().to_path_buf()),
        }
        config.cores = free.map(|core| vec![core]);
        // What comes over TCP wakes it; a host that writes to memory wakes nobody.
        config.poll = folder.is_some();
        let id = |addresses: &[SocketAddr]| match &folder {
            None => over_tcp(addresses[0]),
            Some(folder) => TransportId {
                trtype: TransportType::VfioUser,
                traddr: folder.path().display().to_string(),
                ..TransportId::default()
            },
        };
        let fail = |why: doorbell_subsystem::Error| format!("--embedded: {why}");
        if let Some(core) = free {
            let target = Target::start(config).map_err(fail)?;
            tell(format_args!("Embedded target: RAM, {} MiB, on core {core}", SIZE >> 20));
            let id = id(target.addresses());
            return Ok(Self { id, place: Place::Apart { _target: target }, _folder: folder });
        }
        let (addresses, target) = Target::cooperative(config).map_err(fail)?;
        let id = id(&addresses);
        tell(format_args!(
            "Embedded target: RAM, {} MiB, no core is left for it: it shares core {} with a worker, and the result is that of both",
            SIZE >> 20,
            cores[0]
        ));
        let target = Arc::new(Mutex::new(target));
        let (rounds, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let place = Place::Shared { target: target.clone(), rounds: rounds.clone(), ended: ended.clone() };
        thread::spawn(move || {
            let mut seen = 0;
            while !ended.load(Ordering::Relaxed) {
                let now = rounds.load(Ordering::Relaxed);
                if std::mem::replace(&mut seen, now) != now || !pass(&target) {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Ok(Self { id, place, _folder: folder })
    }

    /// How to reach it.
    pub fn transport_id(&self) -> TransportId {
        self.id.clone()
    }

    /// What the first worker has to do for it.
    pub fn companion(&self, core: usize) -> Option<Companion> {
        let Place::Shared { target, rounds, .. } = &self.place else { return None };
        let (target, rounds) = (target.clone(), rounds.clone());
        Some(Companion {
            core,
            run: Box::new(move || {
                rounds.fetch_add(1, Ordering::Relaxed);
                let _ = pass(&target);
            }),
        })
    }
}

fn over_tcp(address: SocketAddr) -> TransportId {
    TransportId {
        trtype: TransportType::Tcp,
        adrfam: AddressFamily::Ipv4,
        traddr: address.ip().to_string(),
        trsvcid: address.port().to_string(),
        subnqn: NQN.into(),
        ..TransportId::default()
    }
}

fn pass(target: &Mutex<Cooperative>) -> bool {
    target.lock().unwrap_or_else(PoisonError::into_inner).pass()
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Place::Shared { ended, .. } = &self.place {
            ended.store(true, Ordering::Relaxed);
        }
    }
}
