//! The Zoned Namespace Command Set 1.1 ("ZNS"): what Identify says of zoned namespaces and of
//! controllers that have them, zones as they are reported, and the commands that only zoned
//! namespaces have. Its status codes are among [`command_specific`](crate::status::command_specific).

use crate::command::{Command, NvmOpcode};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Identify Namespace of the zoned command set (ZNS 4.1.5.1, CNS 05h, CSI 02h), 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct ZonedNamespace {
    /// Zone operation characteristics: bits of [`zoc`].
    pub zoc: U16,
    /// Optional zoned command support: bits of [`ozcs`].
    pub ozcs: U16,
    /// Maximum active resources, 0-based; FFFFFFFFh is no limit. See [`Self::max_active`].
    pub mar: U32,
    /// Maximum open resources, 0-based; FFFFFFFFh is no limit. See [`Self::max_open`].
    pub mor: U32,
    /// Reset recommended limit, in seconds; 0 is not reported.
    pub rrl: U32,
    /// Finish recommended limit, in seconds; 0 is not reported.
    pub frl: U32,
    /// Reset recommended limits 1 to 3.
    pub rrl_more: [U32; 3],
    /// Finish recommended limits 1 to 3.
    pub frl_more: [U32; 3],
    /// Number of resources of zone random write areas.
    pub numzrwa: U32,
    /// Flush granularity of a zone random write area, in logical blocks.
    pub zrwafg: U16,
    /// Size of a zone random write area, in logical blocks.
    pub zrwasz: U16,
    /// Capabilities of zone random write areas.
    pub zrwacap: u8,
    /// Reserved.
    pub reserved53: [u8; 2763],
    /// What the zoned command set adds to LBA formats 0 to 63.
    pub lbafe: [LbaFormatExtension; 64],
    /// Vendor specific.
    pub vs: [u8; 256],
}

layout!(ZonedNamespace, 4096, zoc @ 0, ozcs @ 2, mar @ 4, mor @ 8, rrl @ 12, frl @ 16, rrl_more @ 20,
    frl_more @ 32, numzrwa @ 44, zrwafg @ 48, zrwasz @ 50, zrwacap @ 52, lbafe @ 2816, vs @ 3840);

impl ZonedNamespace {
    /// Most zones that are open or closed at a time; `None` is no limit.
    pub fn max_active(&self) -> Option<u32> {
        self.mar.get().checked_add(1)
    }

    /// Most zones that are open at a time; `None` is no limit.
    pub fn max_open(&self) -> Option<u32> {
        self.mor.get().checked_add(1)
    }

    /// The 0-based field of a limit of 1 or more; no limit is FFFFFFFFh.
    pub fn limit(most: Option<u32>) -> U32 {
        U32::new(most.map_or(u32::MAX, |most| most.saturating_sub(1)))
    }
}

/// What the zoned command set adds to an LBA format (ZNS 4.1.5.1), 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct LbaFormatExtension {
    /// Zone size, in logical blocks.
    pub zsze: U64,
    /// Zone descriptor extension size, in 64 bytes.
    pub zdes: u8,
    /// Reserved.
    pub reserved9: [u8; 7],
}

layout!(LbaFormatExtension, 16, zsze @ 0, zdes @ 8);

/// Bits of [`ZonedNamespace::zoc`].
pub mod zoc {
    /// The capacity of a zone may change when it is reset.
    pub const VARIABLE_CAPACITY: u16 = 0x01;
    /// The controller may finish zones by itself.
    pub const ACTIVE_EXCURSIONS: u16 = 0x02;
}

/// Bits of [`ZonedNamespace::ozcs`].
pub mod ozcs {
    /// A Read may cross the boundary of a zone.
    pub const READ_ACROSS_ZONE_BOUNDARIES: u16 = 0x01;
    /// Zones can have a random write area.
    pub const RANDOM_WRITE_AREA: u16 = 0x02;
}

/// Identify Controller of the zoned command set (ZNS 4.1.5.2, CNS 06h, CSI 02h), 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct ZonedController {
    /// Zone append size limit: a power of two in units of `4096 << CAP.MPSMIN` bytes; 0 is MDTS.
    pub zasl: u8,
    /// Reserved.
    pub reserved1: [u8; 4095],
}

layout!(ZonedController, 4096, zasl @ 0);

impl ZonedController {
    /// Most bytes of a Zone Append; `None` where only MDTS limits it.
    pub fn max_append(&self, mpsmin: u8) -> Option<u64> {
        let shift = 12 + u32::from(mpsmin) + u32::from(self.zasl);
        (self.zasl != 0).then(|| 1u64.checked_shl(shift).unwrap_or(u64::MAX))
    }
}

open_code! {
    /// Zone state (ZNS 2.1.1.3).
    ZoneState(u8) {
        EMPTY = 0x1, "Empty";
        IMPLICITLY_OPENED = 0x2, "Implicitly Opened";
        EXPLICITLY_OPENED = 0x3, "Explicitly Opened";
        CLOSED = 0x4, "Closed";
        READ_ONLY = 0xd, "Read Only";
        FULL = 0xe, "Full";
        OFFLINE = 0xf, "Offline";
    }
}

impl ZoneState {
    /// Whether a zone in this state takes one of the open resources.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::IMPLICITLY_OPENED | Self::EXPLICITLY_OPENED)
    }

    /// Whether a zone in this state takes one of the active resources.
    pub const fn is_active(self) -> bool {
        self.is_open() || matches!(self, Self::CLOSED)
    }
}

/// A zone as it is reported (ZNS 3.4.2.2.1), 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct ZoneDescriptor {
    /// Zone type in bits 3:0: see [`Self::SEQUENTIAL_WRITE_REQUIRED`].
    pub zt: u8,
    /// Zone state in bits 7:4: see [`Self::state`].
    pub zs: u8,
    /// Zone attributes: bit 0 finished by the controller, 1 finish recommended, 2 reset recommended, 7 has an extension.
    pub za: u8,
    /// Zone attributes information.
    pub zai: u8,
    /// Reserved.
    pub reserved4: [u8; 4],
    /// Zone capacity, in logical blocks.
    pub zcap: U64,
    /// Its first block.
    pub zslba: U64,
    /// Write pointer: the block to be written next. Says nothing of a zone that is full, read only or offline.
    pub wp: U64,
    /// Reserved.
    pub reserved32: [u8; 32],
}

layout!(ZoneDescriptor, 64, zt @ 0, zs @ 1, za @ 2, zai @ 3, zcap @ 8, zslba @ 16, wp @ 24);

impl ZoneDescriptor {
    /// The only zone type there is.
    pub const SEQUENTIAL_WRITE_REQUIRED: u8 = 0x2;

    /// The zone's state.
    pub fn state(&self) -> ZoneState {
        ZoneState(self.zs >> 4)
    }
}

/// What comes before the descriptors of a report (ZNS 3.4.2.2.1), 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct ReportHeader {
    /// Zones that match, from the one asked for on; of a partial report, those of which the descriptors are there.
    pub nzones: U64,
    /// Reserved.
    pub reserved8: [u8; 56],
}

layout!(ReportHeader, 64, nzones @ 0);

open_code! {
    /// Zone Send Action (ZNS 3.4.3).
    SendAction(u8) {
        CLOSE = 0x01, "Close Zone";
        FINISH = 0x02, "Finish Zone";
        OPEN = 0x03, "Open Zone";
        RESET = 0x04, "Reset Zone";
        OFFLINE = 0x05, "Offline Zone";
        SET_DESCRIPTOR_EXTENSION = 0x10, "Set Zone Descriptor Extension";
        FLUSH_RANDOM_WRITE_AREA = 0x11, "Flush Explicit ZRWA Range";
    }
}

open_code! {
    /// Zone Receive Action (ZNS 3.4.2).
    ReceiveAction(u8) {
        REPORT = 0x00, "Report Zones";
        EXTENDED_REPORT = 0x01, "Extended Report Zones";
    }
}

open_code! {
    /// Which zones a report lists (ZNS 3.4.2.2): all, or those in one state.
    Reporting(u8) {
        EVERY = 0x0, "All";
        EMPTY = 0x1, "Empty";
        IMPLICITLY_OPENED = 0x2, "Implicitly Opened";
        EXPLICITLY_OPENED = 0x3, "Explicitly Opened";
        CLOSED = 0x4, "Closed";
        FULL = 0x5, "Full";
        READ_ONLY = 0x6, "Read Only";
        OFFLINE = 0x7, "Offline";
    }
}

impl Reporting {
    /// Whether a zone in this state is listed.
    pub const fn lists(self, state: ZoneState) -> bool {
        let wanted = match self {
            Self::FULL => ZoneState::FULL,
            Self::READ_ONLY => ZoneState::READ_ONLY,
            Self::OFFLINE => ZoneState::OFFLINE,
            other => ZoneState(other.0),
        };
        matches!(self, Self::EVERY) || wanted.0 == state.0
    }
}

/// Zone Management Send (ZNS 3.4.3) to the zone that begins at `zslba`, or to all that the action applies to.
pub fn management_send(nsid: u32, zslba: u64, action: SendAction, all: bool) -> Command {
    let mut command = Command::new(NvmOpcode::ZONE_MANAGEMENT_SEND.0, nsid);
    command.set_slba(zslba);
    command.cdw13 = U32::new(u32::from(action.0) | u32::from(all) << 8);
    command
}

/// Zone Management Receive (ZNS 3.4.2): `bytes` of a report, a multiple of 4 from 4 on (others are brought there), of the
/// zones from the one with `slba` on; a partial one counts only zones whose descriptors are there.
pub fn report(nsid: u32, slba: u64, bytes: u32, which: Reporting, partial: bool) -> Command {
    let mut command = Command::new(NvmOpcode::ZONE_MANAGEMENT_RECEIVE.0, nsid);
    command.set_slba(slba);
    command.cdw12 = U32::new((bytes / 4).max(1) - 1);
    command.cdw13 = U32::new(u32::from(ReceiveAction::REPORT.0) | u32::from(which.0) << 8 | u32::from(partial) << 16);
    command
}

/// Zone Append (ZNS 3.4.1) to the zone that begins at `zslba`. Arguments else as for [`write`](crate::command::write); the
/// completion's 64-bit result is the block where the data is.
#[inline]
pub fn append(nsid: u32, zslba: u64, blocks: u32, control: u16) -> Command {
    let mut command = crate::command::write(nsid, zslba, blocks, control);
    command.opc = NvmOpcode::ZONE_APPEND.0;
    command
}

/// Accessors of the commands of zones.
impl Command {
    /// Zone Management Send: the action.
    pub fn send_action(&self) -> SendAction {
        SendAction(self.cdw13.get() as u8)
    }

    /// Zone Management Send: whether all zones are meant.
    pub fn selects_all(&self) -> bool {
        self.cdw13.get() & 0x100 != 0
    }

    /// Zone Management Receive: the action, which zones, and whether the report is partial.
    pub fn receive_action(&self) -> (ReceiveAction, Reporting, bool) {
        let dword = self.cdw13.get();
        (ReceiveAction(dword as u8), Reporting((dword >> 8) as u8), dword & 0x1_0000 != 0)
    }

    /// Zone Management Receive: bytes of data.
    pub fn receive_bytes(&self) -> u64 {
        (u64::from(self.cdw12.get()) + 1) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn commands_are_read_as_they_were_built(nsid: u32, slba: u64, action: u8, all: bool, dwords: u32, partial: bool, which: u8) {
            let send = management_send(nsid, slba, SendAction(action), all);
            prop_assert_eq!((send.nsid.get(), send.slba()), (nsid, slba));
            prop_assert_eq!((send.send_action(), send.selects_all()), (SendAction(action), all));
            let bytes = dwords / 4 * 4;
            let receive = report(nsid, slba, bytes, Reporting(which), partial);
            prop_assert_eq!(receive.receive_bytes(), u64::from(bytes.max(4)));
            prop_assert_eq!(receive.receive_action(), (ReceiveAction::REPORT, Reporting(which), partial));
        }
    }

    #[test]
    fn commands_stand_where_the_specification_puts_them() {
        let reset = management_send(1, 0x1_0000_0002, SendAction::RESET, true);
        let bytes = reset.as_bytes();
        assert_eq!((bytes[0], &bytes[40..48], &bytes[52..54]), (0x79, &[2, 0, 0, 0, 1, 0, 0, 0][..], &[4, 1][..]));
        let receive = report(1, 0, 4096, Reporting::FULL, true);
        let bytes = receive.as_bytes();
        assert_eq!((bytes[0], &bytes[48..50], &bytes[52..55]), (0x7a, &[0xff, 3][..], &[0, 5, 1][..]));
        let append = append(1, 64, 8, 0);
        assert_eq!((append.opc, append.slba(), append.block_count()), (0x7d, 64, 8));
    }

    #[test]
    fn limits_are_zero_based_and_may_be_none() {
        use zerocopy::FromZeros;
        let mut data = ZonedNamespace::new_zeroed();
        assert_eq!((data.max_active(), data.max_open()), (Some(1), Some(1)));
        (data.mar, data.mor) = (ZonedNamespace::limit(None), ZonedNamespace::limit(Some(8)));
        assert_eq!((data.max_active(), data.max_open()), (None, Some(8)));
        let mut controller = ZonedController::new_zeroed();
        assert_eq!(controller.max_append(0), None);
        controller.zasl = 5;
        assert_eq!((controller.max_append(0), controller.max_append(1)), (Some(128 << 10), Some(256 << 10)));
        controller.zasl = 0xff;
        assert_eq!(controller.max_append(15), Some(u64::MAX), "any byte");
    }

    #[test]
    fn states_know_what_they_hold_and_which_reports_list_them() {
        let active: std::vec::Vec<_> = ZoneState::ALL.iter().filter(|state| state.is_active()).collect();
        assert_eq!(active, [&ZoneState::IMPLICITLY_OPENED, &ZoneState::EXPLICITLY_OPENED, &ZoneState::CLOSED]);
        assert!(!ZoneState::CLOSED.is_open());
        for &which in &Reporting::ALL[1..] {
            let listed: std::vec::Vec<_> = ZoneState::ALL.iter().filter(|&&state| which.lists(state)).collect();
            assert_eq!(listed.len(), 1, "{which}");
            assert_eq!(listed[0].name(), which.name());
        }
        assert!(ZoneState::ALL.iter().all(|&state| Reporting::EVERY.lists(state)));
    }
}
