//! Transport IDs: the text that says where a controller is, `trtype:tcp adrfam:IPv4 traddr:10.0.0.1 trsvcid:4420 subnqn:nqn…`.
//!
//! Pairs of key and value, separated by blanks; each pair by the first `:` or `=` in it, so values may hold either. Keys and the
//! words for transports and address families are case-insensitive.

use std::{fmt, fs, net::IpAddr, str::FromStr};

use doorbell_platform::pci;
use doorbell_spec::{
    nqn::{self, DISCOVERY_NQN},
    tcp::IO_PORT,
};

/// Where a controller, or a discovery service, is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportId {
    /// Kind of transport.
    pub trtype: TransportType,
    /// Address family; `None` leaves it to the address.
    pub adrfam: AddressFamily,
    /// Address: for TCP an IP address or a host name.
    pub traddr: String,
    /// Service: for TCP a port; empty for the default.
    pub trsvcid: String,
    /// Subsystem; the discovery NQN when none is given, for every subsystem found there.
    pub subnqn: String,
    /// The host's NQN for this controller, when not the machine's.
    pub hostnqn: Option<String>,
    /// Source address.
    pub hostaddr: Option<String>,
    /// Socket priority.
    pub priority: Option<u32>,
    /// The one namespace to use; `None` for all active ones.
    pub ns: Option<u32>,
}

/// Kind of transport.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TransportType {
    /// A local PCI Express device.
    Pcie,
    /// NVMe/RDMA.
    Rdma,
    /// Fibre Channel.
    Fc,
    /// NVMe/TCP.
    Tcp,
    /// Another process that plays the device.
    VfioUser,
    /// A registered transport, in upper case.
    Custom(String),
}

impl TransportType {
    /// From its word, in any case; other words name custom transports.
    pub fn from_word(word: &str) -> Self {
        match word.to_ascii_uppercase().as_str() {
            "PCIE" => Self::Pcie,
            "RDMA" => Self::Rdma,
            "FC" => Self::Fc,
            "TCP" => Self::Tcp,
            "VFIOUSER" => Self::VfioUser,
            other => Self::Custom(other.into()),
        }
    }

    /// Whether its controllers are within this process's reach: devices of this machine, or processes that play them.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Pcie | Self::VfioUser)
    }

    /// Its word, in upper case.
    pub fn word(&self) -> &str {
        match self {
            Self::Pcie => "PCIE",
            Self::Rdma => "RDMA",
            Self::Fc => "FC",
            Self::Tcp => "TCP",
            Self::VfioUser => "VFIOUSER",
            Self::Custom(word) => word,
        }
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressFamily {
    /// Not said.
    #[default]
    None,
    /// IP version 4.
    Ipv4,
    /// IP version 6.
    Ipv6,
    /// InfiniBand.
    Ib,
    /// Fibre Channel.
    Fc,
}

impl fmt::Display for AddressFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Ib => "IB",
            Self::Fc => "FC",
        })
    }
}

/// A text that is no transport ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("transport ID \"{text}\": {why}")]
pub struct TransportIdError {
    text: String,
    why: String,
}

impl Default for TransportId {
    fn default() -> Self {
        Self {
            trtype: TransportType::Pcie,
            adrfam: AddressFamily::None,
            traddr: String::new(),
            trsvcid: String::new(),
            subnqn: DISCOVERY_NQN.into(),
            hostnqn: None,
            hostaddr: None,
            priority: None,
            ns: None,
        }
    }
}

impl TransportId {
    /// Whether it names a discovery service and not one subsystem. A controller within reach needs none.
    pub fn is_discovery(&self) -> bool {
        self.subnqn == DISCOVERY_NQN && !self.trtype.is_local()
    }

    /// Whether both name the same subsystem at the same address for the same host, so that one controller serves both. An ID
    /// that names no host is for `hostnqn`.
    pub fn is_same_controller(&self, other: &Self, hostnqn: &str) -> bool {
        let key = |id: &Self| Self {
            hostnqn: Some(id.hostnqn.as_deref().unwrap_or(hostnqn).into()),
            // Addresses are written in more than one way.
            traddr: match &id.trtype {
                TransportType::Pcie => id.traddr.parse::<pci::Address>().map(|address| address.to_string()).ok(),
                TransportType::VfioUser => fs::canonicalize(&id.traddr).ok().map(|path| path.display().to_string()),
                _ => id.traddr.parse::<IpAddr>().map(|ip| ip.to_string()).ok(),
            }
            .unwrap_or_else(|| id.traddr.clone()),
            // It has no meaning for devices of this machine.
            subnqn: if id.trtype.is_local() { String::new() } else { id.subnqn.clone() },
            adrfam: AddressFamily::None,
            trsvcid: match (&id.trtype, id.trsvcid.as_str()) {
                (TransportType::Tcp | TransportType::Rdma, "") => IO_PORT.to_string(),
                (_, port) => port.into(),
            },
            ns: None,
            priority: None,
            ..id.clone()
        };
        key(self) == key(other)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let at_most = |most: usize| match value.len() > most {
            true => Err(format!("{key} has {} characters, {most} at most", value.len())),
            false => Ok(value.to_string()),
        };
        let name = |text: String| nqn::to_field(&text).map(|_| text).map_err(|why| format!("{key}:{value}: {why}"));
        match key.to_ascii_lowercase().as_str() {
            "trtype" => self.trtype = TransportType::from_word(&at_most(32)?),
            "adrfam" => {
                self.adrfam = match value.to_ascii_uppercase().as_str() {
                    "IPV4" => AddressFamily::Ipv4,
                    "IPV6" => AddressFamily::Ipv6,
                    "IB" => AddressFamily::Ib,
                    "FC" => AddressFamily::Fc,
                    _ => return Err(format!("adrfam:{value} is not IPv4, IPv6, IB or FC")),
                }
            }
            "traddr" => self.traddr = at_most(256)?,
            "trsvcid" => self.trsvcid = at_most(32)?,
            "subnqn" => self.subnqn = name(value.into())?,
            "hostnqn" => self.hostnqn = Some(name(value.into())?),
            "hostaddr" => self.hostaddr = Some(at_most(256)?),
            "alt_traddr" => {
                return Err("alt_traddr: fail-over to a second address is not built yet; leave it out".into());
            }
            "hostsvcid" => {
                return Err(
                    "hostsvcid: the source port cannot be chosen; leave it out, hostaddr chooses the address".into()
                );
            }
            "priority" => {
                let priority =
                    at_most(4)?.parse().map_err(|_| format!("priority:{value} is no number of 1 to 4 digits"))?;
                self.priority = Some(priority);
            }
            "ns" => match value.parse() {
                Ok(nsid @ 1..=0xffff_fffe) => self.ns = Some(nsid),
                _ => return Err(format!("ns:{value} is no namespace identifier (1 to 4294967294)")),
            },
            _ => {
                return Err(format!(
                    "unknown key \"{key}\"; known are trtype, adrfam, traddr, trsvcid, subnqn, hostnqn, hostaddr, \
                     priority and ns"
                ));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let fabrics = !self.trtype.is_local();
        if self.traddr.is_empty() && self.trtype != TransportType::Pcie {
            return Err(format!("trtype:{} needs a traddr", self.trtype.word()));
        }
        if matches!(self.trtype, TransportType::Tcp | TransportType::Rdma)
            && matches!(self.adrfam, AddressFamily::Ib | AddressFamily::Fc)
        {
            return Err(format!("trtype:{} takes adrfam IPv4 or IPv6, not {}", self.trtype.word(), self.adrfam));
        }
        if self.priority.is_some() && self.trtype == TransportType::Rdma {
            return Err(
                "priority is a socket's, of which RDMA has none; --transport-tos sets the type of service".into()
            );
        }
        if self.hostaddr.is_some() && !fabrics {
            return Err("hostaddr needs a fabric".into());
        }
        Ok(())
    }
}

impl FromStr for TransportId {
    type Err = TransportIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |why| TransportIdError { text: text.into(), why };
        let mut id = Self::default();
        let mut seen = Vec::new();
        for pair in text.split_ascii_whitespace() {
            let Some((key, value)) = pair.split_once([':', '=']) else {
                return Err(fail(format!("\"{pair}\" is not key:value")));
            };
            let lower = key.to_ascii_lowercase();
            if key.is_empty() || value.is_empty() {
                return Err(fail(format!("\"{pair}\" lacks a {}", if key.is_empty() { "key" } else { "value" })));
            }
            if seen.contains(&lower) {
                return Err(fail(format!("{lower} is given twice")));
            }
            id.set(key, value).map_err(fail)?;
            seen.push(lower);
        }
        if seen.is_empty() {
            return Err(fail("it is empty".into()));
        }
        id.check().map_err(fail)?;
        Ok(id)
    }
}

impl fmt::Display for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trtype:{}", self.trtype.word())?;
        let text = |f: &mut fmt::Formatter<'_>, key, value: &str| match value {
            "" => Ok(()),
            value => write!(f, " {key}:{value}"),
        };
        if self.adrfam != AddressFamily::None {
            write!(f, " adrfam:{}", self.adrfam)?;
        }
        text(f, "traddr", &self.traddr)?;
        text(f, "trsvcid", &self.trsvcid)?;
        // A device within reach is no subsystem, whose name says nothing unless it was given.
        if !self.trtype.is_local() || self.subnqn != DISCOVERY_NQN {
            text(f, "subnqn", &self.subnqn)?;
        }
        text(f, "hostnqn", self.hostnqn.as_deref().unwrap_or_default())?;
        text(f, "hostaddr", self.hostaddr.as_deref().unwrap_or_default())?;
        for (key, value) in [("priority", self.priority), ("ns", self.ns)] {
            if let Some(value) = value {
                write!(f, " {key}:{value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> TransportId {
        text.parse().unwrap()
    }

    #[test]
    fn the_usual_texts_are_read() {
        let id = parse("trtype:tcp adrfam:IPv4 traddr:192.168.159.142 trsvcid:4420");
        assert_eq!(
            (&id.trtype, id.adrfam, id.traddr.as_str()),
            (&TransportType::Tcp, AddressFamily::Ipv4, "192.168.159.142")
        );
        assert!(id.is_discovery());
        let id = parse(
            " TRTYPE=TCP\ttraddr=fe80::1 subnqn:nqn.2016-06.io.x:ns:3 ns=7 priority:3 hostnqn:nqn.2014-08.org.x:y\n",
        );
        assert_eq!((id.traddr.as_str(), id.subnqn.as_str()), ("fe80::1", "nqn.2016-06.io.x:ns:3"));
        assert_eq!((id.ns, id.priority), (Some(7), Some(3)), "a substring of a name is no key");
        assert_eq!(parse("trtype:memory traddr:x").trtype, TransportType::Custom("MEMORY".into()));
    }

    #[test]
    fn one_subsystem_written_differently_is_one_controller() {
        let base = parse("trtype:tcp traddr:fe80::1 subnqn:nqn.x");
        for (text, same) in [
            ("trtype:tcp adrfam:ipv6 traddr:fe80:0::01 trsvcid:4420 subnqn:nqn.x ns:3 hostnqn:nqn.me", true),
            ("trtype:tcp traddr:fe80::1 trsvcid:4421 subnqn:nqn.x", false),
            ("trtype:tcp traddr:fe80::1 subnqn:nqn.y", false),
            ("trtype:tcp traddr:fe80::1 subnqn:nqn.x hostnqn:nqn.you", false),
            ("trtype:tcp traddr:fe80::2 subnqn:nqn.x", false),
        ] {
            assert_eq!(base.is_same_controller(&parse(text), "nqn.me"), same, "{text}");
        }
    }

    #[test]
    fn a_device_written_differently_is_one_controller() {
        for (one, other, same) in [
            ("trtype:pcie traddr:0000:00:03.0", "traddr:00.03.0 subnqn:nqn.x", true),
            ("trtype:pcie traddr:0000:00:03.0", "traddr:00:04.0", false),
            ("trtype:vfiouser traddr:/tmp", "trtype:vfiouser traddr:/tmp/../tmp", true),
            ("trtype:vfiouser traddr:/tmp", "trtype:vfiouser traddr:/nowhere", false),
        ] {
            assert_eq!(parse(one).is_same_controller(&parse(other), "nqn.me"), same, "{one} and {other}");
            assert!(!parse(one).is_discovery(), "{one}");
        }
    }

    #[test]
    fn faults_are_named() {
        for (text, said) in [
            ("", "empty"),
            ("nonsense", "nonsense"),
            ("trtype:tcp traddr:", "value"),
            ("trtype:tcp :x", "key"),
            ("trtype:tcp", "traddr"),
            ("trtype:tcp traddr:a traddr:b", "twice"),
            ("trtype:tcp traddr:a adrfam:IPv5", "IPv5"),
            ("trtype:tcp traddr:a adrfam:IB", "IB"),
            ("trtype:tcp traddr:a ns:0", "ns:0"),
            ("trtype:tcp traddr:a ns:x", "ns:x"),
            ("trtype:tcp traddr:a priority:12345", "priority"),
            ("trtype:rdma traddr:a priority:3", "--transport-tos"),
            ("trtype:tcp traddr:a color:red", "color"),
            ("trtype:pcie traddr:0000:01:00.0 hostaddr:10.0.0.1", "fabric"),
            ("trtype:tcp traddr:a hostsvcid:3", "hostsvcid"),
            ("trtype:tcp traddr:a alt_traddr:b", "not built"),
        ] {
            let why = text.parse::<TransportId>().unwrap_err().to_string();
            assert!(why.contains(said), "{text}: {why}");
        }
        let long = format!("trtype:tcp traddr:a subnqn:nqn.{}", "x".repeat(230));
        assert!(long.parse::<TransportId>().is_err());
    }

    proptest! {
        #[test]
        fn a_shown_id_reads_back(
            address in "[a-z0-9.]{1,20}", port in "[0-9]{0,5}", ns in proptest::option::of(1u32..), host in proptest::option::of("nqn[.][a-z:=]{1,20}")
        ) {
            let id = TransportId { trtype: TransportType::Tcp, traddr: address, trsvcid: port, ns: ns.filter(|&ns| ns != u32::MAX), hostnqn: host, ..TransportId::default() };
            prop_assert_eq!(id.to_string().parse::<TransportId>().unwrap(), id);
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<TransportId>();
        }
    }
}
