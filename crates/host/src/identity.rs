//! Who this host is: its NQN and identifier, as every tool on the machine should give them.

use std::{fs, sync::OnceLock};

use doorbell_spec::nqn::{self, UUID_PREFIX};
use uuid::Uuid;

/// A host's name and identifier (Base 4.5, Fabrics Connect data).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIdentity {
    /// NVMe Qualified Name.
    pub nqn: String,
    /// Host Identifier.
    pub id: [u8; 16],
}

impl HostIdentity {
    /// What /etc/nvme/hostnqn and /etc/nvme/hostid say, as for nvme-cli; what they do not say is made up once a process.
    pub fn of_this_machine() -> &'static Self {
        static IDENTITY: OnceLock<HostIdentity> = OnceLock::new();
        IDENTITY.get_or_init(|| {
            let read = |path| fs::read_to_string(path).map(|text| text.trim().to_string()).unwrap_or_default();
            let (hostnqn, hostid) = (read("/etc/nvme/hostnqn"), read("/etc/nvme/hostid"));
            let identity = Self::from_texts(&hostnqn, &hostid);
            if !hostnqn.is_empty() && hostnqn != identity.nqn {
                tracing::warn!(
                    "/etc/nvme/hostnqn: \"{hostnqn}\" is no NVMe Qualified Name; this run is {}",
                    identity.nqn
                );
            }
            if !hostid.is_empty() && uuid_of(&hostid).is_none() {
                let made_up = Uuid::from_bytes(identity.id);
                tracing::warn!("/etc/nvme/hostid: \"{hostid}\" is no UUID; this run is {made_up}");
            }
            identity
        })
    }

    fn from_texts(hostnqn: &str, hostid: &str) -> Self {
        // A name of the UUID form carries the identifier too.
        let inside = || hostnqn.strip_prefix(UUID_PREFIX).and_then(uuid_of);
        let id = uuid_of(hostid).or_else(inside).unwrap_or_else(Uuid::new_v4);
        let nqn = if nqn::validate(hostnqn).is_ok() { hostnqn.to_string() } else { format!("{UUID_PREFIX}{id}") };
        Self { nqn, id: id.into_bytes() }
    }
}

/// A UUID that can be a Host Identifier: zero says that there is none (Base 5.1.25.1.28).
fn uuid_of(text: &str) -> Option<Uuid> {
    text.parse().ok().filter(|id: &Uuid| !id.is_nil())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_files_come_first() {
        let id = "11111111-2222-3333-4444-555555555555";
        let named = HostIdentity::from_texts("nqn.2014-08.org.example:me", id);
        assert_eq!((named.nqn.as_str(), named.id[0]), ("nqn.2014-08.org.example:me", 0x11));
        let by_name = HostIdentity::from_texts(&format!("{UUID_PREFIX}{id}"), "");
        assert_eq!(by_name.id, named.id);
        let by_id = HostIdentity::from_texts("", id);
        assert_eq!(by_id.nqn, by_name.nqn);
        for (hostnqn, hostid) in [("", "nonsense"), ("me", "00000000-0000-0000-0000-000000000000")] {
            let made_up = HostIdentity::from_texts(hostnqn, hostid);
            assert!(nqn::validate(&made_up.nqn).is_ok() && made_up.id != [0; 16], "{hostnqn}");
        }
        assert_eq!(HostIdentity::of_this_machine(), HostIdentity::of_this_machine());
    }
}
