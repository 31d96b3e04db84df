//! A namespace as far as reading and writing it goes.

use doorbell_spec::{
    identify::{self, Csi, nmic},
    log::AnaState,
};

/// A namespace of a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Namespace identifier.
    pub nsid: u32,
    /// Its name in tables: the controller's and ` NSID <n>`.
    pub name: String,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Data bytes of a logical block.
    pub block_size: u32,
    /// Metadata bytes of a logical block.
    pub metadata_size: u16,
    /// Whether the metadata stands behind each block's data.
    pub extended: bool,
    /// Protection information type, 0 for none.
    pub protection: u8,
    /// Most data bytes one command transfers.
    pub max_transfer: u32,
    /// Optimal I/O boundary in blocks, 0 for none.
    pub stripe_blocks: u32,
    /// Whether several controllers may have it (NMIC).
    pub shared: bool,
    /// ANA group, 0 where there are none.
    pub ana_group: u32,
    /// State of that group, where the controller reports it.
    pub ana_state: Option<AnaState>,
    /// IEEE Extended Unique Identifier, zero for none.
    pub eui64: [u8; 8],
    /// Globally Unique Identifier, zero for none.
    pub nguid: [u8; 16],
    /// UUID, zero for none.
    pub uuid: [u8; 16],
    /// I/O command set.
    pub csi: Csi,
    /// What its zones are, in the zoned command set.
    pub zoned: Option<Zoned>,
}

/// What the zones of a namespace are, and how many may be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zoned {
    /// Blocks from the beginning of one zone to that of the next.
    pub zone_blocks: u64,
    /// Blocks that can be written, in all zones together.
    pub capacity: u64,
    /// Most zones that are open at a time; `None` is no limit.
    pub max_open: Option<u32>,
    /// Most zones that are open or closed at a time; `None` is no limit.
    pub max_active: Option<u32>,
    /// Most data bytes of a Zone Append.
    pub max_append: u32,
    /// Whether a Read may go on into the next zone.
    pub reads_across: bool,
}

impl Namespace {
    /// From what the controller called `controller` identified it as, `max_transfer` bytes being the most it transfers at once.
    ///
    /// # Errors
    /// Which of its sizes cannot be.
    pub fn new(nsid: u32, controller: &str, data: &identify::Namespace, max_transfer: u32) -> Result<Self, String> {
        let name = format!("{controller} NSID {nsid}");
        let format = data.format();
        let block_size = match data.lba_size() {
            Some(size) if (512..=1 << 20).contains(&size) => size,
            _ => return Err(format!("{name}: it claims blocks of 2^{} bytes", format.lbads)),
        };
        let blocks = data.nsze.get();
        let stored = u64::from(block_size) + if data.is_extended() { u64::from(data.metadata_size()) } else { 0 };
        if blocks.checked_mul(stored).is_none_or(|size| size > i64::MAX as u64) {
            return Err(format!("{name}: it claims {blocks} blocks of {stored} bytes"));
        }
        if stored > u64::from(max_transfer) {
            return Err(format!(
                "{name}: a block of {stored} bytes does not fit a command ({max_transfer} bytes, MDTS)"
            ));
        }
        Ok(Self {
            nsid,
            name,
            blocks,
            block_size,
            metadata_size: data.metadata_size(),
            extended: data.is_extended(),
            protection: data.protection_type(),
            max_transfer,
            stripe_blocks: data.noiob.get().into(),
            shared: data.nmic & nmic::SHARED != 0,
            ana_group: data.anagrpid.get(),
            ana_state: None,
            eui64: data.eui64,
            nguid: data.nguid,
            uuid: [0; 16],
            csi: Csi::NVM,
            zoned: None,
        })
    }

    /// Bytes of a block as a command transfers them: data, and metadata where it stands behind the data.
    pub fn stored_block_size(&self) -> u32 {
        self.block_size + if self.extended { u32::from(self.metadata_size) } else { 0 }
    }

    /// What tells it from every other namespace, over whichever path it is reached (Base 4.7.1); `None` where it has nothing of
    /// the kind.
    pub fn identifier(&self) -> Option<String> {
        let known = [("UUID", &self.uuid[..]), ("NGUID", &self.nguid[..]), ("EUI64", &self.eui64[..])];
        let (kind, bytes) = known.into_iter().find(|(_, bytes)| bytes.iter().any(|&byte| byte != 0))?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{kind} {digits}"))
    }

    /// Why what is `now` under this identifier cannot be driven as this namespace was: it is another one, or has other limits.
    pub fn difference(&self, now: &Self) -> Option<String> {
        let identity = |of: &Self| (of.eui64, of.nguid, of.uuid, of.csi);
        let format = |of: &Self| (of.block_size, of.metadata_size, of.extended, of.protection);
        if identity(self) != identity(now) {
            return Some("it is another namespace now: its EUI64, NGUID, UUID or command set has changed".into());
        }
        if format(self) != format(now) {
            let (before, after) = (self.stored_block_size(), now.stored_block_size());
            return Some(format!("its format has changed: blocks of {before} bytes before, of {after} now"));
        }
        let zones = |of: &Self| of.zoned.map(|zoned| (zoned.zone_blocks, zoned.max_open, zoned.max_active));
        if zones(self) != zones(now) {
            return Some("its zones have changed: their size, or how many may be open or active".into());
        }
        if self.blocks != now.blocks {
            return Some(format!("its size has changed from {} blocks to {}", self.blocks, now.blocks));
        }
        (now.max_transfer < self.max_transfer)
            .then(|| format!("a command moves {} bytes now, {} before", now.max_transfer, self.max_transfer))
    }

    /// Data bytes in all.
    pub fn size(&self) -> u64 {
        self.blocks * u64::from(self.block_size)
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn a_namespace_that_is_not_what_it_was_says_why() {
        let mut data = identify::Namespace::new_zeroed();
        (data.lbaf[0].lbads, data.nsze, data.nguid) = (12, 100.into(), [7; 16]);
        let before = Namespace::new(1, "TCP (x)", &data, 65536).unwrap();
        let now = |change: fn(&mut Namespace)| {
            let mut now = before.clone();
            change(&mut now);
            before.difference(&now)
        };
        assert_eq!(now(|now| (now.max_transfer, now.ana_group) = (1 << 20, 3)), None);
        for (change, said) in [
            ((|now| now.uuid[0] = 1) as fn(&mut Namespace), "another namespace"),
            (|now| now.nguid[0] = 1, "another namespace"),
            (|now| now.block_size = 512, "blocks of 4096 bytes before, of 512 now"),
            (|now| now.blocks = 99, "from 100 blocks to 99"),
            (|now| now.max_transfer = 4096, "4096 bytes now, 65536 before"),
        ] {
            let why = now(change).unwrap();
            assert!(why.contains(said), "{why}");
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let mut data = identify::Namespace::new_zeroed();
        for (lbads, blocks, good) in
            [(9, 1 << 20, true), (12, 0, true), (12, 1 << 52, false), (8, 1, false), (255, 1, false), (0, 1, false)]
        {
            (data.lbaf[0].lbads, data.nsze) = (lbads, blocks.into());
            let namespace = Namespace::new(7, "TCP (x)", &data, 4096);
            assert_eq!(namespace.is_ok(), good, "2^{lbads} x {blocks}");
            if let Ok(namespace) = namespace {
                assert_eq!((namespace.name.as_str(), namespace.size()), ("TCP (x) NSID 7", blocks << lbads));
            }
        }
    }
}
