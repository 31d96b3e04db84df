//! Controller properties (Base 3.1.4): offsets and bit fields. PCIe maps them as registers,
//! Fabrics reads and writes them with Property Get and Property Set.

use bitfield_struct::bitfield;

/// Controller Capabilities, 8 bytes.
pub const CAP: u32 = 0x00;
/// Version, 4 bytes.
pub const VS: u32 = 0x08;
/// Interrupt Mask Set, 4 bytes; not over Fabrics.
pub const INTMS: u32 = 0x0c;
/// Interrupt Mask Clear, 4 bytes; not over Fabrics.
pub const INTMC: u32 = 0x10;
/// Controller Configuration, 4 bytes.
pub const CC: u32 = 0x14;
/// Controller Status, 4 bytes.
pub const CSTS: u32 = 0x1c;
/// NVM Subsystem Reset, 4 bytes.
pub const NSSR: u32 = 0x20;
/// Admin Queue Attributes, 4 bytes; not over Fabrics.
pub const AQA: u32 = 0x24;
/// Admin Submission Queue base address, 8 bytes; not over Fabrics.
pub const ASQ: u32 = 0x28;
/// Admin Completion Queue base address, 8 bytes; not over Fabrics.
pub const ACQ: u32 = 0x30;
/// Controller Memory Buffer Location, 4 bytes.
pub const CMBLOC: u32 = 0x38;
/// Controller Memory Buffer Size, 4 bytes.
pub const CMBSZ: u32 = 0x3c;
/// Boot Partition Information, 4 bytes.
pub const BPINFO: u32 = 0x40;
/// Boot Partition Read Select, 4 bytes.
pub const BPRSEL: u32 = 0x44;
/// Boot Partition Memory Buffer Location, 8 bytes.
pub const BPMBL: u32 = 0x48;
/// Controller Memory Buffer Memory Space Control, 8 bytes.
pub const CMBMSC: u32 = 0x50;
/// Controller Memory Buffer Status, 4 bytes.
pub const CMBSTS: u32 = 0x58;
/// Controller Memory Buffer Elasticity Buffer Size, 4 bytes.
pub const CMBEBS: u32 = 0x5c;
/// Controller Memory Buffer Sustained Write Throughput, 4 bytes.
pub const CMBSWTP: u32 = 0x60;
/// NVM Subsystem Shutdown, 4 bytes.
pub const NSSD: u32 = 0x64;
/// Controller Ready Timeouts, 4 bytes.
pub const CRTO: u32 = 0x68;
/// Persistent Memory Region Capabilities, 4 bytes.
pub const PMRCAP: u32 = 0xe00;
/// Persistent Memory Region Control, 4 bytes.
pub const PMRCTL: u32 = 0xe04;
/// Persistent Memory Region Status, 4 bytes.
pub const PMRSTS: u32 = 0xe08;
/// Persistent Memory Region Elasticity Buffer Size, 4 bytes.
pub const PMREBS: u32 = 0xe0c;
/// Persistent Memory Region Sustained Write Throughput, 4 bytes.
pub const PMRSWTP: u32 = 0xe10;
/// Persistent Memory Region Memory Space Control, lower half, 4 bytes.
pub const PMRMSCL: u32 = 0xe14;
/// Persistent Memory Region Memory Space Control, upper half, 4 bytes.
pub const PMRMSCU: u32 = 0xe18;
/// First doorbell (PCIe Transport 3.1.2).
pub const DOORBELLS: u32 = 0x1000;

/// What to write to [`NSSR`] to reset the NVM subsystem: "NVMe".
pub const NSSR_RESET: u32 = 0x4e56_4d65;

/// Offset of the submission queue tail doorbell of a queue (PCIe Transport 3.1.2.1).
#[inline]
pub const fn sq_tail_doorbell(qid: u16, dstrd: u8) -> u64 {
    doorbell(2 * qid as u64, dstrd)
}

/// Offset of the completion queue head doorbell of a queue (PCIe Transport 3.1.2.2).
#[inline]
pub const fn cq_head_doorbell(qid: u16, dstrd: u8) -> u64 {
    doorbell(2 * qid as u64 + 1, dstrd)
}

const fn doorbell(index: u64, dstrd: u8) -> u64 {
    DOORBELLS as u64 + (index << (2 + (dstrd & 0xf)))
}

/// CAP: Controller Capabilities (Base 3.1.4.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    /// Maximum queue entries supported, 0-based.
    pub mqes: u16,
    /// Contiguous queues required.
    pub cqr: bool,
    /// Arbitration mechanisms supported: bit 0 weighted round robin, bit 1 vendor specific.
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    /// Timeout of becoming ready, in 500 ms.
    pub to: u8,
    /// Doorbell stride: doorbells are `4 << dstrd` bytes apart.
    #[bits(4)]
    pub dstrd: u8,
    /// NVM subsystem reset supported.
    pub nssrs: bool,
    /// Command sets supported: bit 0 NVM, bit 6 one or more selected by CC.CSS = 110b, bit 7 none.
    pub css: u8,
    /// Boot partition support.
    pub bps: bool,
    /// Controller power scope.
    #[bits(2)]
    pub cps: u8,
    /// Smallest memory page: `4096 << mpsmin` bytes.
    #[bits(4)]
    pub mpsmin: u8,
    /// Largest memory page: `4096 << mpsmax` bytes.
    #[bits(4)]
    pub mpsmax: u8,
    /// Persistent memory region supported.
    pub pmrs: bool,
    /// Controller memory buffer supported.
    pub cmbs: bool,
    /// NVM subsystem shutdown supported.
    pub nsss: bool,
    /// Controller ready modes supported: bit 0 with media, bit 1 independent of media.
    #[bits(2)]
    pub crms: u8,
    /// NVM subsystem shutdown enhancements supported.
    pub nsses: bool,
    #[bits(2)]
    __: u8,
}

impl Cap {
    /// Bit of [`Cap::css`]: the NVM command set.
    pub const CSS_NVM: u8 = 0x01;
    /// Bit of [`Cap::css`]: one or more I/O command sets, chosen with CC.CSS 110b.
    pub const CSS_IO: u8 = 0x40;
    /// Bit of [`Cap::css`]: no I/O command set.
    pub const CSS_ADMIN_ONLY: u8 = 0x80;
}

/// VS: Version (Base 3.1.4.2); the same layout in Identify Controller.
#[bitfield(u32)]
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Vs {
    /// Tertiary version.
    pub ter: u8,
    /// Minor version.
    pub mnr: u8,
    /// Major version.
    pub mjr: u16,
}

impl Vs {
    /// A version from its three parts.
    pub const fn version(mjr: u16, mnr: u8, ter: u8) -> Self {
        Self::new().with_mjr(mjr).with_mnr(mnr).with_ter(ter)
    }
}

/// Writes `2.1`, or `1.2.1` where the tertiary version is not zero.
impl core::fmt::Display for Vs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.mjr(), self.mnr())?;
        if self.ter() != 0 {
            write!(f, ".{}", self.ter())?;
        }
        Ok(())
    }
}

/// CC: Controller Configuration (Base 3.1.4.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cc {
    /// Enable.
    pub en: bool,
    #[bits(3)]
    __: u8,
    /// I/O command set selected: 000b NVM, 110b all supported, 111b Admin only.
    #[bits(3)]
    pub css: u8,
    /// Memory page size: `4096 << mps` bytes.
    #[bits(4)]
    pub mps: u8,
    /// Arbitration mechanism selected: 0 round robin.
    #[bits(3)]
    pub ams: u8,
    /// Shutdown notification: 0 none, 1 normal, 2 abrupt.
    #[bits(2)]
    pub shn: u8,
    /// I/O submission queue entry size: `1 << iosqes` bytes.
    #[bits(4)]
    pub iosqes: u8,
    /// I/O completion queue entry size: `1 << iocqes` bytes.
    #[bits(4)]
    pub iocqes: u8,
    /// Controller ready independent of media enable.
    pub crime: bool,
    #[bits(7)]
    __: u8,
}

impl Cc {
    /// Value of [`Cc::css`]: the NVM command set.
    pub const CSS_NVM: u8 = 0;
    /// Value of [`Cc::css`]: all supported I/O command sets.
    pub const CSS_ALL: u8 = 6;
    /// Value of [`Cc::css`]: the Admin command set only.
    pub const CSS_ADMIN_ONLY: u8 = 7;
    /// Value of [`Cc::shn`]: normal shutdown.
    pub const SHN_NORMAL: u8 = 1;
    /// Value of [`Cc::shn`]: abrupt shutdown.
    pub const SHN_ABRUPT: u8 = 2;
}

/// CSTS: Controller Status (Base 3.1.4.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Csts {
    /// Ready.
    pub rdy: bool,
    /// Controller fatal status.
    pub cfs: bool,
    /// Shutdown status: 0 normal operation, 1 in progress, 2 complete.
    #[bits(2)]
    pub shst: u8,
    /// NVM subsystem reset occurred.
    pub nssro: bool,
    /// Processing paused.
    pub pp: bool,
    /// Shutdown type: an NVM subsystem shutdown, not a controller's.
    pub st: bool,
    #[bits(25)]
    __: u32,
}

impl Csts {
    /// Value of [`Csts::shst`]: normal operation.
    pub const SHST_NORMAL: u8 = 0;
    /// Value of [`Csts::shst`]: shutdown in progress.
    pub const SHST_OCCURRING: u8 = 1;
    /// Value of [`Csts::shst`]: shutdown complete.
    pub const SHST_COMPLETE: u8 = 2;
}

/// AQA: Admin Queue Attributes (Base 3.1.4.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aqa {
    /// Admin submission queue size in entries, 0-based.
    #[bits(12)]
    pub asqs: u16,
    #[bits(4)]
    __: u8,
    /// Admin completion queue size in entries, 0-based.
    #[bits(12)]
    pub acqs: u16,
    #[bits(4)]
    __: u8,
}

/// CMBLOC: Controller Memory Buffer Location (Base 3.1.4.11).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cmbloc {
    /// Base indicator: the PCI base address register.
    #[bits(3)]
    pub bir: u8,
    /// Queue mixed memory support.
    pub cqmms: bool,
    /// Queue physically discontiguous support.
    pub cqpds: bool,
    /// Data pointer mixed locations support.
    pub cdpmls: bool,
    /// Data pointer and command independent locations support.
    pub cdpcils: bool,
    /// Data metadata mixed memory support.
    pub cdmmms: bool,
    /// Queue dword alignment.
    pub cqda: bool,
    #[bits(3)]
    __: u8,
    /// Offset in units of CMBSZ.SZU.
    #[bits(20)]
    pub ofst: u32,
}

/// CMBSZ: Controller Memory Buffer Size (Base 3.1.4.12).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cmbsz {
    /// Submission queues supported.
    pub sqs: bool,
    /// Completion queues supported.
    pub cqs: bool,
    /// PRP and SGL lists supported.
    pub lists: bool,
    /// Read data supported.
    pub rds: bool,
    /// Write data supported.
    pub wds: bool,
    #[bits(3)]
    __: u8,
    /// Size units: 4 KiB times 16 to the power of `szu`.
    #[bits(4)]
    pub szu: u8,
    /// Size in size units.
    #[bits(20)]
    pub sz: u32,
}

/// CMBMSC: Controller Memory Buffer Memory Space Control (Base 3.1.4.16).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cmbmsc {
    /// Capabilities registers enabled.
    pub cre: bool,
    /// Controller memory space enable.
    pub cmse: bool,
    #[bits(10)]
    __: u16,
    /// Controller base address, in units of 4 KiB.
    #[bits(52)]
    pub cba: u64,
}

/// CRTO: Controller Ready Timeouts (Base 3.1.4.21).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Crto {
    /// Ready with media timeout, in 500 ms.
    pub crwmt: u16,
    /// Ready independent of media timeout, in 500 ms.
    pub crimt: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let cap = Cap::from_bits(0x1234_5678_9abc_def0);
        assert_eq!(cap.mqes(), 0xdef0);
        assert!(!cap.cqr());
        assert_eq!(cap.ams(), 2);
        assert_eq!(cap.to(), 0x9a);
        assert_eq!(cap.dstrd(), 8);
        assert!(cap.nssrs());
        assert_eq!(cap.css(), 0xb3);
        assert_eq!(cap.mpsmin(), 4);
        assert_eq!(cap.mpsmax(), 3);
        assert_eq!(cap.crms(), 2);
        // Each field at its lowest bit.
        let table = [
            (Cc::new().with_en(true).into_bits(), 1),
            (Cc::new().with_css(1).into_bits(), 1 << 4),
            (Cc::new().with_mps(1).into_bits(), 1 << 7),
            (Cc::new().with_ams(1).into_bits(), 1 << 11),
            (Cc::new().with_shn(1).into_bits(), 1 << 14),
            (Cc::new().with_iosqes(6).with_iocqes(4).into_bits(), 0x46 << 16),
            (Cc::new().with_crime(true).into_bits(), 1 << 24),
            (Csts::new().with_rdy(true).with_cfs(true).into_bits(), 3),
            (Csts::new().with_shst(2).into_bits(), 2 << 2),
            (Csts::new().with_nssro(true).with_pp(true).with_st(true).into_bits(), 0x70),
            (Aqa::new().with_asqs(31).with_acqs(63).into_bits(), 0x003f_001f),
            (Cmbloc::new().with_bir(2).with_ofst(1).into_bits(), 0x1002),
            (Cmbsz::new().with_wds(true).with_szu(1).with_sz(1).into_bits(), 0x1110),
            (Crto::new().with_crwmt(1).with_crimt(2).into_bits(), 0x0002_0001),
        ];
        for (at, (bits, wanted)) in table.into_iter().enumerate() {
            assert_eq!(bits, wanted, "row {at}");
        }
        assert_eq!(Cmbmsc::new().with_cmse(true).with_cba(1).into_bits(), 0x1002);
    }

    #[test]
    fn versions_order_and_print() {
        assert_eq!(Vs::version(1, 4, 0).to_string(), "1.4");
        assert_eq!(Vs::version(1, 2, 1).to_string(), "1.2.1");
        assert!(Vs::version(1, 3, 9) < Vs::version(2, 0, 0));
        assert_eq!(Vs::version(2, 1, 0).into_bits(), 0x0002_0100);
    }

    #[test]
    fn doorbells_by_stride() {
        assert_eq!(sq_tail_doorbell(0, 0), 0x1000);
        assert_eq!(cq_head_doorbell(0, 0), 0x1004);
        assert_eq!(sq_tail_doorbell(1, 4), 0x1000 + 2 * 64);
        assert_eq!(cq_head_doorbell(u16::MAX, 15), 0x1000 + (131_071 << 17));
    }

    proptest! {
        #[test]
        fn any_bits_round_trip(bits: u64) {
            prop_assert_eq!(Cap::from_bits(bits).into_bits(), bits);
            prop_assert_eq!(Cmbmsc::from_bits(bits).into_bits(), bits);
            let bits = bits as u32;
            prop_assert_eq!(Cc::from_bits(bits).into_bits(), bits);
            prop_assert_eq!(Csts::from_bits(bits).into_bits(), bits);
        }
    }
}
