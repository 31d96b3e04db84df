//! A target in this process, over both kinds of link.

use std::{net::Ipv4Addr, path::Path};

use doorbell_host::{AddressFamily, TransportId, TransportType};
use doorbell_subsystem::{Backend, NamespaceConfig, SubsystemConfig, Target, TargetConfig};

/// Starts one with a namespace, and returns how it is reached over TCP and, at that directory, over vfio-user.
pub fn start(nqn: &str, backend: Backend, block_size: u32, directory: &Path) -> (Target, [TransportId; 2]) {
    let namespaces = vec![NamespaceConfig { backend, block_size }];
    let mut config = TargetConfig::of(SubsystemConfig { namespaces, ..SubsystemConfig::new(nqn) });
    config.listen.push((Ipv4Addr::LOCALHOST, 0).into());
    config.vfio_user.push(directory.into());
    let target = Target::start(config).unwrap();
    let over_tcp = TransportId {
        trtype: TransportType::Tcp,
        adrfam: AddressFamily::Ipv4,
        traddr: "127.0.0.1".into(),
        trsvcid: target.addresses()[0].port().to_string(),
        subnqn: nqn.into(),
        ..TransportId::default()
    };
    let over_rings = TransportId {
        trtype: TransportType::VfioUser,
        traddr: directory.display().to_string(),
        ..TransportId::default()
    };
    (target, [over_tcp, over_rings])
}
