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
            Self::from_texts(&read("/etc/nvme/hostnqn"), &read("/etc/nvme/hostid"))
        })
    }

    fn from_texts(hostnqn: &str, hostid: &str) -> Self {
        let named = nqn::to_field(hostnqn).is_ok() && !hostnqn.is_empty();
        // A name of the UUID form carries the identifier too.
        let inside = hostnqn.strip_prefix(UUID_PREFIX).and_then(|text| text.parse().ok());
        let id: Uuid = hostid.parse().ok().or(inside).unwrap_or_else(Uuid::new_v4);
        let nqn = if named { hostnqn.to_string() } else { format!("{UUID_PREFIX}{id}") };
        Self { nqn, id: id.into_bytes() }
    }
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
        let made_up = HostIdentity::from_texts("", "nonsense");
        assert!(nqn::validate(&made_up.nqn).is_ok() && made_up.id != [0; 16]);
        assert_eq!(HostIdentity::of_this_machine(), HostIdentity::of_this_machine());
    }
}
