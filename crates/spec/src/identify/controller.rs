//! Identify Controller (Base 5.1.13.2.1, CNS 01h): the whole structure with the fields of
//! Base 2.1, and the bits that hosts look at.

use crate::nqn::{self, FIELD_LEN, NqnError};
use crate::register::Vs;
use crate::text::{Ascii, ascii, space_padded};
use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Identify Controller data structure, 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Controller {
    /// PCI vendor ID.
    pub vid: U16,
    /// PCI subsystem vendor ID.
    pub ssvid: U16,
    /// Serial number, space padded.
    pub sn: [u8; 20],
    /// Model number, space padded.
    pub mn: [u8; 40],
    /// Firmware revision, space padded.
    pub fr: [u8; 8],
    /// Recommended arbitration burst, as a power of two commands.
    pub rab: u8,
    /// IEEE organizationally unique identifier, least significant byte first.
    pub ieee: [u8; 3],
    /// Bits of [`cmic`].
    pub cmic: u8,
    /// Maximum data transfer size, as a power of two in units of `4096 << CAP.MPSMIN`; 0 is
    /// no limit. See [`Controller::max_transfer`].
    pub mdts: u8,
    /// Controller identifier.
    pub cntlid: U16,
    /// Version, as the VS property has it.
    pub ver: U32,
    /// Time to resume from runtime D3, in microseconds.
    pub rtd3r: U32,
    /// Time to enter runtime D3, in microseconds; 0 is not reported.
    pub rtd3e: U32,
    /// Optional asynchronous events supported: bits of
    /// [`async_event_config`](crate::feature::async_event_config).
    pub oaes: U32,
    /// Bits of [`ctratt`].
    pub ctratt: U32,
    /// Read recovery levels supported.
    pub rrls: U16,
    /// Boot partition capabilities.
    pub bpcap: u8,
    /// Reserved.
    pub reserved103: u8,
    /// NVM subsystem shutdown latency, in microseconds.
    pub nssl: U32,
    /// Reserved.
    pub reserved108: [u8; 2],
    /// Power loss signaling information.
    pub plsi: u8,
    /// Controller type, a [`Cntrltype`].
    pub cntrltype: u8,
    /// FRU globally unique identifier.
    pub fguid: [u8; 16],
    /// Command retry delay time 1, in 100 ms.
    pub crdt1: U16,
    /// Command retry delay time 2, in 100 ms.
    pub crdt2: U16,
    /// Command retry delay time 3, in 100 ms.
    pub crdt3: U16,
    /// Controller reachability capabilities.
    pub crcap: u8,
    /// Reserved.
    pub reserved135: [u8; 105],
    /// Reserved for the Management Interface.
    pub reserved240: [u8; 13],
    /// NVM subsystem report.
    pub nvmsr: u8,
    /// VPD write cycle information.
    pub vwci: u8,
    /// Management endpoint capabilities.
    pub mec: u8,
    /// Optional Admin command support: bits of [`oacs`].
    pub oacs: U16,
    /// Abort command limit, 0-based.
    pub acl: u8,
    /// Asynchronous Event Request limit, 0-based.
    pub aerl: u8,
    /// Firmware updates: bit 0 slot 1 is read only, bits 3:1 number of slots, bit 4 activation
    /// without reset.
    pub frmw: u8,
    /// Log page attributes: bits of [`lpa`].
    pub lpa: u8,
    /// Error log page entries, 0-based.
    pub elpe: u8,
    /// Number of power states, 0-based.
    pub npss: u8,
    /// Admin vendor specific command configuration.
    pub avscc: u8,
    /// Autonomous power state transition attributes.
    pub apsta: u8,
    /// Warning composite temperature threshold, in kelvins.
    pub wctemp: U16,
    /// Critical composite temperature threshold, in kelvins.
    pub cctemp: U16,
    /// Maximum time for firmware activation, in 100 ms.
    pub mtfa: U16,
    /// Host memory buffer preferred size, in 4 KiB.
    pub hmpre: U32,
    /// Host memory buffer minimum size, in 4 KiB.
    pub hmmin: U32,
    /// Total NVM capacity, in bytes.
    pub tnvmcap: U128,
    /// Unallocated NVM capacity, in bytes.
    pub unvmcap: U128,
    /// Replay protected memory block support.
    pub rpmbs: U32,
    /// Extended device self-test time, in minutes.
    pub edstt: U16,
    /// Device self-test options.
    pub dsto: u8,
    /// Firmware update granularity, in 4 KiB; FFh is no restriction.
    pub fwug: u8,
    /// Keep alive support: granularity of the timer in 100 ms; 0 is not supported.
    pub kas: U16,
    /// Host controlled thermal management attributes.
    pub hctma: U16,
    /// Minimum thermal management temperature, in kelvins.
    pub mntmt: U16,
    /// Maximum thermal management temperature, in kelvins.
    pub mxtmt: U16,
    /// Sanitize capabilities.
    pub sanicap: U32,
    /// Host memory buffer minimum descriptor entry size, in 4 KiB.
    pub hmminds: U32,
    /// Host memory maximum descriptors entries.
    pub hmmaxd: U16,
    /// NVM set identifier maximum.
    pub nsetidmax: U16,
    /// Endurance group identifier maximum.
    pub endgidmax: U16,
    /// ANA transition time, in seconds.
    pub anatt: u8,
    /// Asymmetric namespace access capabilities.
    pub anacap: u8,
    /// ANA group identifier maximum.
    pub anagrpmax: U32,
    /// Number of ANA group identifiers.
    pub nanagrpid: U32,
    /// Persistent event log size, in 64 KiB.
    pub pels: U32,
    /// Domain identifier.
    pub domainid: U16,
    /// Key per I/O capabilities.
    pub kpioc: u8,
    /// Reserved.
    pub reserved359: u8,
    /// Maximum processing time for firmware activation without reset, in 100 ms.
    pub mptfawr: U16,
    /// Reserved.
    pub reserved362: [u8; 6],
    /// Maximum endurance group capacity, in bytes.
    pub megcap: U128,
    /// Temperature threshold hysteresis attributes.
    pub tmpthha: u8,
    /// Reserved.
    pub reserved385: u8,
    /// Command quiesce time, in milliseconds.
    pub cqt: U16,
    /// Reserved.
    pub reserved388: [u8; 124],
    /// Submission queue entry size: required in bits 3:0, maximum in bits 7:4, as powers of two.
    pub sqes: u8,
    /// Completion queue entry size: required in bits 3:0, maximum in bits 7:4, as powers of two.
    pub cqes: u8,
    /// Maximum outstanding commands for an I/O queue over Fabrics; 0 is not reported.
    pub maxcmd: U16,
    /// Number of namespaces: the largest valid NSID.
    pub nn: U32,
    /// Optional NVM command support: bits of [`oncs`].
    pub oncs: U16,
    /// Fused operation support: bit 0 compare and write.
    pub fuses: U16,
    /// Format NVM attributes: bits of [`fna`].
    pub fna: u8,
    /// Volatile write cache: bits of [`vwc`].
    pub vwc: u8,
    /// Atomic write unit normal, in logical blocks, 0-based.
    pub awun: U16,
    /// Atomic write unit power fail, in logical blocks, 0-based.
    pub awupf: U16,
    /// I/O command set vendor specific command configuration.
    pub icsvscc: u8,
    /// Namespace write protection capabilities.
    pub nwpc: u8,
    /// Atomic compare and write unit, in logical blocks, 0-based.
    pub acwu: U16,
    /// Copy descriptor formats supported.
    pub cdfs: U16,
    /// SGL support: bits of [`sgls`].
    pub sgls: U32,
    /// Maximum number of allowed namespaces; 0 is `nn`.
    pub mnan: U32,
    /// Maximum domain namespace attachments.
    pub maxdna: U128,
    /// Maximum I/O controller namespace attachments.
    pub maxcna: U32,
    /// Optimal aggregated queue depth; 0 is not reported.
    pub oaqd: U32,
    /// Recommended host-initiated refresh interval, in days.
    pub rhiri: u8,
    /// Host-initiated refresh time, in minutes.
    pub hirt: u8,
    /// Controller maximum memory range tracking descriptors.
    pub cmmrtd: U16,
    /// NVM subsystem maximum memory range tracking descriptors.
    pub nmmrtd: U16,
    /// Minimum memory range tracking granularity.
    pub minmrtg: u8,
    /// Maximum memory range tracking granularity.
    pub maxmrtg: u8,
    /// Tracking attributes.
    pub trattr: u8,
    /// Reserved.
    pub reserved577: u8,
    /// Maximum controller user data migration queues.
    pub mcudmq: U16,
    /// Maximum NVM subsystem user data migration queues.
    pub mnsudmq: U16,
    /// Maximum CDQ memory ranges.
    pub mcmr: U16,
    /// NVM subsystem maximum CDQ memory ranges.
    pub nmcmr: U16,
    /// Maximum controller data queue PRP count.
    pub mcdqpc: U16,
    /// Reserved.
    pub reserved588: [u8; 180],
    /// NQN of the NVM subsystem, NUL terminated.
    pub subnqn: [u8; FIELD_LEN],
    /// Reserved.
    pub reserved1024: [u8; 768],
    /// I/O queue command capsule supported size, in 16 bytes. Fabrics.
    pub ioccsz: U32,
    /// I/O queue response capsule supported size, in 16 bytes. Fabrics.
    pub iorcsz: U32,
    /// In-capsule data offset, in 16 bytes from the end of the command. Fabrics.
    pub icdoff: U16,
    /// Fabrics controller attributes: bit 0 static controller model.
    pub fcatt: u8,
    /// Maximum SGL data block descriptors in a capsule; 0 is no limit. Fabrics.
    pub msdbd: u8,
    /// Optional Fabrics commands support: bit 0 Disconnect.
    pub ofcs: U16,
    /// Discovery controller type: 0 not reported, 1 direct (DDC), 2 central (CDC).
    pub dctype: u8,
    /// Reserved.
    pub reserved1807: [u8; 241],
    /// Power state descriptors 0 to 31.
    pub psd: [PowerState; 32],
    /// Vendor specific.
    pub vs: [u8; 1024],
}

layout!(Controller, 4096, vid @ 0, sn @ 4, mn @ 24, fr @ 64, rab @ 72, ieee @ 73, cmic @ 76,
    mdts @ 77, cntlid @ 78, ver @ 80, rtd3r @ 84, rtd3e @ 88, oaes @ 92, ctratt @ 96, rrls @ 100,
    bpcap @ 102, nssl @ 104, plsi @ 110, cntrltype @ 111, fguid @ 112, crdt1 @ 128, crcap @ 134,
    nvmsr @ 253, vwci @ 254, mec @ 255, oacs @ 256, acl @ 258, aerl @ 259, frmw @ 260, lpa @ 261,
    elpe @ 262, npss @ 263, avscc @ 264, apsta @ 265, wctemp @ 266, cctemp @ 268, mtfa @ 270,
    hmpre @ 272, hmmin @ 276, tnvmcap @ 280, unvmcap @ 296, rpmbs @ 312, edstt @ 316, dsto @ 318,
    fwug @ 319, kas @ 320, hctma @ 322, mntmt @ 324, mxtmt @ 326, sanicap @ 328, hmminds @ 332,
    hmmaxd @ 336, nsetidmax @ 338, endgidmax @ 340, anatt @ 342, anacap @ 343, anagrpmax @ 344,
    nanagrpid @ 348, pels @ 352, domainid @ 356, kpioc @ 358, mptfawr @ 360, megcap @ 368,
    tmpthha @ 384, cqt @ 386, sqes @ 512, cqes @ 513, maxcmd @ 514, nn @ 516, oncs @ 520,
    fuses @ 522, fna @ 524, vwc @ 525, awun @ 526, awupf @ 528, icsvscc @ 530, nwpc @ 531,
    acwu @ 532, cdfs @ 534, sgls @ 536, mnan @ 540, maxdna @ 544, maxcna @ 560, oaqd @ 564,
    rhiri @ 568, hirt @ 569, cmmrtd @ 570, nmmrtd @ 572, minmrtg @ 574, maxmrtg @ 575,
    trattr @ 576, mcudmq @ 578, mnsudmq @ 580, mcmr @ 582, nmcmr @ 584, mcdqpc @ 586,
    subnqn @ 768, ioccsz @ 1792, iorcsz @ 1796, icdoff @ 1800, fcatt @ 1802, msdbd @ 1803,
    ofcs @ 1804, dctype @ 1806, psd @ 2048, vs @ 3072);

impl Controller {
    /// The serial number, trimmed.
    pub fn sn(&self) -> Ascii<'_> {
        ascii(&self.sn)
    }

    /// The model number, trimmed.
    pub fn mn(&self) -> Ascii<'_> {
        ascii(&self.mn)
    }

    /// The firmware revision, trimmed.
    pub fn fr(&self) -> Ascii<'_> {
        ascii(&self.fr)
    }

    /// Sets the serial number; what exceeds 20 bytes is cut.
    pub fn set_sn(&mut self, text: &str) {
        self.sn = space_padded(text);
    }

    /// Sets the model number; what exceeds 40 bytes is cut.
    pub fn set_mn(&mut self, text: &str) {
        self.mn = space_padded(text);
    }

    /// Sets the firmware revision; what exceeds 8 bytes is cut.
    pub fn set_fr(&mut self, text: &str) {
        self.fr = space_padded(text);
    }

    /// The NQN of the NVM subsystem.
    pub fn subnqn(&self) -> Result<&str, NqnError> {
        nqn::from_field(&self.subnqn)
    }

    /// The version.
    pub fn ver(&self) -> Vs {
        Vs::from_bits(self.ver.get())
    }

    /// The controller type; `NOT_REPORTED` before Base 1.4.
    pub fn cntrltype(&self) -> Cntrltype {
        Cntrltype(self.cntrltype)
    }

    /// The most bytes a command may transfer, given CAP.MPSMIN; none where there is no limit
    /// or it exceeds 64 bits.
    pub fn max_transfer(&self, mpsmin: u8) -> Option<u64> {
        if self.mdts == 0 {
            return None;
        }
        1u64.checked_shl(12 + u32::from(mpsmin) + u32::from(self.mdts))
    }

    /// The most bytes of data that an I/O command capsule carries (IOCCSZ less the command).
    pub fn in_capsule_data_size(&self) -> u64 {
        (u64::from(self.ioccsz.get()) * 16).saturating_sub(64)
    }
}

open_code! {
    /// Controller type (Base 3.1.3).
    Cntrltype(u8) {
        NOT_REPORTED = 0, "Not Reported";
        IO = 1, "I/O Controller";
        DISCOVERY = 2, "Discovery Controller";
        ADMIN = 3, "Administrative Controller";
    }
}

/// Power state descriptor, 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct PowerState {
    /// Maximum power, in 10 mW, or in 0.1 mW when bit 0 of `flags` is set.
    pub mp: U16,
    /// Reserved.
    pub reserved2: u8,
    /// Bit 0 (MXPS) scale of `mp`, bit 1 (NOPS) non-operational state.
    pub flags: u8,
    /// Entry latency, in microseconds.
    pub enlat: U32,
    /// Exit latency, in microseconds.
    pub exlat: U32,
    /// Relative read throughput; lower is better.
    pub rrt: u8,
    /// Relative read latency; lower is better.
    pub rrl: u8,
    /// Relative write throughput; lower is better.
    pub rwt: u8,
    /// Relative write latency; lower is better.
    pub rwl: u8,
    /// Idle power, in the scale of `ips`.
    pub idlp: U16,
    /// Idle power scale in bits 7:6.
    pub ips: u8,
    /// Reserved.
    pub reserved19: u8,
    /// Active power, in the scale of `aps`.
    pub actp: U16,
    /// Active power workload in bits 2:0, active power scale in bits 7:6.
    pub aps: u8,
    /// Reserved.
    pub reserved23: [u8; 9],
}

layout!(PowerState, 32, mp @ 0, flags @ 3, enlat @ 4, exlat @ 8, rrt @ 12, rwl @ 15, idlp @ 16,
    ips @ 18, actp @ 20, aps @ 22);

/// Bits of CMIC, controller multi-path I/O and namespace sharing capabilities.
pub mod cmic {
    /// The NVM subsystem may have several ports.
    pub const MULTI_PORT: u8 = 0x01;
    /// The NVM subsystem may have several controllers.
    pub const MULTI_CONTROLLER: u8 = 0x02;
    /// The controller is an SR-IOV virtual function.
    pub const SR_IOV: u8 = 0x04;
    /// Asymmetric namespace access is reported.
    pub const ANA: u8 = 0x08;
}

/// Bits of CTRATT, controller attributes.
pub mod ctratt {
    /// Host identifiers of 128 bits.
    pub const HIDS: u32 = 1;
    /// Traffic based keep alive: any command restarts the timer.
    pub const TBKAS: u32 = 1 << 6;
    /// Extended LBA formats.
    pub const ELBAS: u32 = 1 << 15;
    /// Flexible data placement.
    pub const FDPS: u32 = 1 << 19;
}

/// Bits of OACS, optional Admin command support.
pub mod oacs {
    /// Security Send and Receive.
    pub const SECURITY: u16 = 1;
    /// Format NVM.
    pub const FORMAT: u16 = 1 << 1;
    /// Firmware Commit and Image Download.
    pub const FIRMWARE: u16 = 1 << 2;
    /// Namespace Management and Attachment.
    pub const NAMESPACE_MANAGEMENT: u16 = 1 << 3;
    /// Device Self-test.
    pub const SELF_TEST: u16 = 1 << 4;
    /// Directives.
    pub const DIRECTIVES: u16 = 1 << 5;
    /// NVMe-MI Send and Receive.
    pub const NVME_MI: u16 = 1 << 6;
    /// Virtualization Management.
    pub const VIRTUALIZATION: u16 = 1 << 7;
    /// Doorbell Buffer Config.
    pub const DOORBELL_BUFFER: u16 = 1 << 8;
    /// Get LBA Status.
    pub const GET_LBA_STATUS: u16 = 1 << 9;
    /// Command and Feature Lockdown.
    pub const LOCKDOWN: u16 = 1 << 10;
}

/// Bits of LPA, log page attributes.
pub mod lpa {
    /// SMART log per namespace.
    pub const SMART_PER_NAMESPACE: u8 = 0x01;
    /// Commands Supported and Effects log.
    pub const EFFECTS: u8 = 0x02;
    /// Extended data: 32-bit lengths and offsets of Get Log Page.
    pub const EXTENDED_DATA: u8 = 0x04;
    /// Telemetry logs.
    pub const TELEMETRY: u8 = 0x08;
    /// Persistent Event log.
    pub const PERSISTENT_EVENT: u8 = 0x10;
    /// Supported Log Pages log, command scopes, feature and NVMe-MI effects logs.
    pub const SUPPORTED_LOG_PAGES: u8 = 0x20;
}

/// Bits of ONCS, optional NVM command support.
pub mod oncs {
    /// Compare.
    pub const COMPARE: u16 = 1;
    /// Write Uncorrectable.
    pub const WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u16 = 1 << 2;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u16 = 1 << 3;
    /// Saving and selecting feature values.
    pub const SAVE_SELECT: u16 = 1 << 4;
    /// Reservations.
    pub const RESERVATIONS: u16 = 1 << 5;
    /// Timestamp feature.
    pub const TIMESTAMP: u16 = 1 << 6;
    /// Verify.
    pub const VERIFY: u16 = 1 << 7;
    /// Copy.
    pub const COPY: u16 = 1 << 8;
}

/// Bits of FNA, Format NVM attributes.
pub mod fna {
    /// A format applies to all namespaces.
    pub const FORMAT_ALL: u8 = 0x01;
    /// A secure erase applies to all namespaces.
    pub const ERASE_ALL: u8 = 0x02;
    /// Cryptographic erase.
    pub const CRYPTO_ERASE: u8 = 0x04;
    /// Format NVM of NSID FFFFFFFFh is not supported.
    pub const NO_BROADCAST: u8 = 0x08;
}

/// Bits of VWC, volatile write cache.
pub mod vwc {
    /// A volatile write cache is present.
    pub const PRESENT: u8 = 0x01;
    /// Bits 2:1 = 10b: Flush of NSID FFFFFFFFh is not supported.
    pub const FLUSH_ALL_UNSUPPORTED: u8 = 0x04;
    /// Bits 2:1 = 11b: Flush of NSID FFFFFFFFh is supported.
    pub const FLUSH_ALL: u8 = 0x06;
}

/// Bits of SGLS, SGL support.
pub mod sgls {
    /// SGLs in NVM commands, without alignment or granularity requirement.
    pub const SUPPORTED: u32 = 1;
    /// SGLs in NVM commands, of dword alignment and granularity.
    pub const SUPPORTED_DWORD: u32 = 2;
    /// Keyed SGL data block descriptors.
    pub const KEYED: u32 = 1 << 2;
    /// SGL bit bucket descriptors.
    pub const BIT_BUCKET: u32 = 1 << 16;
    /// A contiguous metadata buffer may have any byte alignment.
    pub const METADATA_BYTE_ALIGNED: u32 = 1 << 17;
    /// An SGL may be longer than the data.
    pub const OVERSIZED: u32 = 1 << 18;
    /// The metadata pointer may point to an SGL.
    pub const METADATA_SGL: u32 = 1 << 19;
    /// The address of a data block may be an offset: in-capsule data.
    pub const OFFSET: u32 = 1 << 20;
    /// Transport SGL data block descriptors.
    pub const TRANSPORT: u32 = 1 << 21;
}
