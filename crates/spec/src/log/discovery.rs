//! Discovery (Base 5.1.12.3.1, LID 70h): a header and the entries of NVM subsystems and of
//! other discovery services, 1024 bytes each.

use crate::nqn::{self, FIELD_LEN, NqnError};
use crate::text::{Ascii, ascii, space_padded};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

open_code! {
    /// Transport type.
    Trtype(u8) {
        RDMA = 1, "RDMA";
        FC = 2, "FC";
        TCP = 3, "TCP";
        INTRA_HOST = 254, "Intra-host";
    }
}

open_code! {
    /// Address family.
    Adrfam(u8) {
        IPV4 = 1, "IPv4";
        IPV6 = 2, "IPv6";
        IB = 3, "IB";
        FC = 4, "FC";
        INTRA_HOST = 254, "Intra-host";
    }
}

open_code! {
    /// Subsystem type.
    Subtype(u8) {
        REFERRAL = 1, "Referral";
        NVM = 2, "NVM Subsystem";
        CURRENT_DISCOVERY = 3, "Current Discovery Subsystem";
    }
}

/// Bits of TREQ, transport requirements.
pub mod treq {
    /// Bits 1:0 = 01b: a fabric secure channel is required.
    pub const SECURE_CHANNEL_REQUIRED: u8 = 0x01;
    /// Bits 1:0 = 10b: a fabric secure channel is not required.
    pub const SECURE_CHANNEL_NOT_REQUIRED: u8 = 0x02;
    /// The mask of the secure channel field.
    pub const SECURE_CHANNEL: u8 = 0x03;
    /// The controller is capable of disabling submission queue flow control.
    pub const SQ_FLOW_CONTROL_DISABLE: u8 = 0x04;
    /// Connect may carry a host identifier of zero.
    pub const ZERO_HOST_ID: u8 = 0x08;

    /// What the secure channel field says.
    pub const fn secure_channel_name(treq: u8) -> &'static str {
        match treq & SECURE_CHANNEL {
            0 => "not specified",
            SECURE_CHANNEL_REQUIRED => "required",
            SECURE_CHANNEL_NOT_REQUIRED => "not required",
            _ => "reserved",
        }
    }
}

/// Bits of EFLAGS, entry flags.
pub mod eflags {
    /// Duplicate returned information: other entries of the same port lead to the same records.
    pub const DUPRETINFO: u16 = 0x0001;
    /// Explicit persistent connection support for discovery.
    pub const EPCSD: u16 = 0x0002;
    /// No CDC connectivity.
    pub const NCC: u16 = 0x0004;
}

/// Security types in byte 0 of TSAS of a TCP entry (TCP 3.1).
pub mod sectype {
    /// No security.
    pub const NONE: u8 = 0;
    /// TLS 1.2.
    pub const TLS_1_2: u8 = 1;
    /// TLS 1.3.
    pub const TLS_1_3: u8 = 2;
}

/// TSAS of an RDMA entry (RDMA 3.1): QP type in byte 0, provider type in byte 1, connection management service in byte 2.
pub mod rdma_tsas {
    /// QP type: reliable connected.
    pub const QPTYPE_RELIABLE_CONNECTED: u8 = 1;
    /// QP type: reliable datagram.
    pub const QPTYPE_RELIABLE_DATAGRAM: u8 = 2;
    /// Provider type: not specified.
    pub const PRTYPE_NONE: u8 = 1;
    /// Provider type: InfiniBand.
    pub const PRTYPE_INFINIBAND: u8 = 2;
    /// Provider type: RoCE.
    pub const PRTYPE_ROCE: u8 = 3;
    /// Provider type: RoCE version 2.
    pub const PRTYPE_ROCE_V2: u8 = 4;
    /// Provider type: iWARP.
    pub const PRTYPE_IWARP: u8 = 5;
    /// Connection management service: RDMA_CM, by IP addresses.
    pub const CMS_RDMA_CM: u8 = 1;
}

/// Header of the Discovery log page, 1024 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct DiscoveryHeader {
    /// Generation counter; differs when the log page changed between two reads.
    pub genctr: U64,
    /// Number of entries that follow.
    pub numrec: U64,
    /// Record format; 0 is the only one.
    pub recfmt: U16,
    /// Reserved.
    pub reserved18: [u8; 1006],
}

layout!(DiscoveryHeader, 1024, genctr @ 0, numrec @ 8, recfmt @ 16);

impl DiscoveryHeader {
    /// A header of `numrec` entries.
    pub fn new(genctr: u64, numrec: u64) -> Self {
        Self { genctr: U64::new(genctr), numrec: U64::new(numrec), ..Self::new_zeroed() }
    }
}

/// Entry of the Discovery log page, 1024 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct DiscoveryEntry {
    /// Transport type, a [`Trtype`].
    pub trtype: u8,
    /// Address family, an [`Adrfam`].
    pub adrfam: u8,
    /// Subsystem type, a [`Subtype`].
    pub subtype: u8,
    /// Bits of [`treq`].
    pub treq: u8,
    /// Port identifier.
    pub portid: U16,
    /// Controller identifier for Connect: FFFFh dynamic model, FFFEh any of the static model.
    pub cntlid: U16,
    /// Most entries of an admin submission queue, at least 32.
    pub asqsz: U16,
    /// Bits of [`eflags`].
    pub eflags: U16,
    /// Reserved.
    pub reserved12: [u8; 20],
    /// Transport service identifier, space padded: a port number.
    pub trsvcid: [u8; 32],
    /// Reserved.
    pub reserved64: [u8; 192],
    /// NQN of the NVM subsystem, NUL terminated.
    pub subnqn: [u8; FIELD_LEN],
    /// Transport address, space padded.
    pub traddr: [u8; 256],
    /// Transport specific address subtype; over TCP byte 0 is a [`sectype`], over RDMA see [`rdma_tsas`].
    pub tsas: [u8; 256],
}

layout!(DiscoveryEntry, 1024, trtype @ 0, adrfam @ 1, subtype @ 2, treq @ 3, portid @ 4,
    cntlid @ 6, asqsz @ 8, eflags @ 10, trsvcid @ 32, subnqn @ 256, traddr @ 512, tsas @ 768);

impl DiscoveryEntry {
    /// The transport type.
    pub fn trtype(&self) -> Trtype {
        Trtype(self.trtype)
    }

    /// The address family.
    pub fn adrfam(&self) -> Adrfam {
        Adrfam(self.adrfam)
    }

    /// The subsystem type.
    pub fn subtype(&self) -> Subtype {
        Subtype(self.subtype)
    }

    /// The transport service identifier, trimmed.
    pub fn trsvcid(&self) -> Ascii<'_> {
        ascii(&self.trsvcid)
    }

    /// The transport address, trimmed.
    pub fn traddr(&self) -> Ascii<'_> {
        ascii(&self.traddr)
    }

    /// The NQN of the NVM subsystem.
    pub fn subnqn(&self) -> Result<&str, NqnError> {
        nqn::from_field(&self.subnqn)
    }

    /// Sets the transport service identifier; what exceeds 32 bytes is cut.
    pub fn set_trsvcid(&mut self, text: &str) {
        self.trsvcid = space_padded(text);
    }

    /// Sets the transport address; what exceeds 256 bytes is cut.
    pub fn set_traddr(&mut self, text: &str) {
        self.traddr = space_padded(text);
    }

    /// Sets the NQN of the NVM subsystem. Fails on one that does not fit its field.
    pub fn set_subnqn(&mut self, nqn: &str) -> Result<(), NqnError> {
        self.subnqn = nqn::to_field(nqn)?;
        Ok(())
    }
}
