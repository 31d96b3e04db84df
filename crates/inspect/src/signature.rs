//! Signatures of partition tables, file systems, volume managers and the like. The bytes may be anybody's: nothing in them is
//! believed further than that they are there.

use crate::content::Ends;

/// What leaves fixed bytes in a fixed place: offset, bytes, name.
const FIXED: &[(u64, &[u8], &str)] = &[
    (0, b"XFSB", "an XFS file system"),
    (0x1_0040, b"_BHRfS_M", "a Btrfs file system"),
    (0x400, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (0, b"hsqs", "a SquashFS file system"),
    (0, b"SFOZ", "a zonefs file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (3, b"ReFS\0\0\0\0", "a ReFS file system"),
    (3, b"-FVE-FS-", "a BitLocker volume"),
    (32, b"NXSB", "an APFS container"),
    (0x400, b"H+\0\x04", "an HFS+ file system"),
    (0x400, b"HX\0\x05", "an HFSX file system"),
    (0x8000, b"JFS1", "a JFS file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (0x8001, b"BEA01", "a UDF file system"),
    (0x2034, b"ReIsErFs", "a ReiserFS file system"),
    (0x1_0034, b"ReIsErFs", "a ReiserFS file system"),
    (0x1_0034, b"ReIsEr2Fs", "a ReiserFS file system"),
    (0x1_0034, b"ReIsEr3Fs", "a ReiserFS file system"),
    (0x1_0000, b"ReIsEr4", "a Reiser4 file system"),
    (0x1_0000, b"\x01\x16\x19\x70\0\0\0\x01", "a GFS2 file system"),
    (0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a bcache device"),
    (0x1018, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "a bcachefs file system"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0x4000, b"SKUL\xba\xbe", "a LUKS volume (second header)"),
    (0, b"verity\0\0", "a dm-verity hash tree"),
    (0, b"integrt\0", "a dm-integrity volume"),
    (0, b"SnAp", "a device-mapper snapshot"),
    (0, b"dmvdo001", "a VDO volume"),
    (0, b"\xfc\x4e\x2b\xa9\x01\0\0\0", "a member of an MD array (metadata 1.1)"),
    (0x1000, b"\xfc\x4e\x2b\xa9\x01\0\0\0", "a member of an MD array (metadata 1.2)"),
    (0x204, b"!Stra0tis\x86\xff\x02^\x41rh", "a Stratis block device"),
    (0x1204, b"!Stra0tis\x86\xff\x02^\x41rh", "a Stratis block device"),
    (0, b"bluestore block device", "a Ceph BlueStore device"),
    (32, b"ORCLDISK", "an Oracle ASM disk"),
];

/// Sizes a page may have: a swap area ends its first one with a word, and none is larger where it can be used.
const PAGES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Sizes a logical block may have.
const BLOCKS: [u64; 4] = [512, 1024, 2048, 4096];

/// What has left its signature, each thing once.
pub fn signatures(ends: &Ends) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let gpt = gpt(ends);
    found.extend(gpt.map(str::to_owned));
    if gpt.is_none() {
        found.extend(mbr(ends));
    }
    found.extend(FIXED.iter().filter(|(offset, magic, _)| ends.has(*offset, magic)).map(|(.., name)| (*name).into()));
    let others = [
        other_tables(ends),
        ext(ends),
        fat(ends),
        nilfs(ends),
        ocfs2(ends),
        swap(ends),
        lvm(ends),
        zfs(ends),
        md(ends),
        raid(ends),
    ];
    found.extend(others.into_iter().flatten().map(str::to_owned));
    let mut seen = Vec::new();
    found.retain(|what| {
        !seen.contains(what) && {
            seen.push(what.clone());
            true
        }
    });
    found
}

/// A GUID partition table: its header is in the second block, its copy in the last.
fn gpt(ends: &Ends) -> Option<&'static str> {
    const MAGIC: &[u8] = b"EFI PART\0\0\x01\0";
    let first = BLOCKS.iter().any(|&block| ends.has(block, MAGIC));
    let last = BLOCKS.iter().any(|block| ends.size.checked_sub(*block).is_some_and(|at| ends.has(at, MAGIC)));
    match (first, last) {
        (true, _) => Some("a partition table (GPT)"),
        (false, true) => Some("the backup of a partition table (GPT)"),
        _ => None,
    }
}

fn boot_signature(ends: &Ends) -> bool {
    ends.has(510, b"\x55\xaa")
}

/// A DOS partition table with an entry in use. A boot sector of a file system ends with the same two bytes.
fn mbr(ends: &Ends) -> Option<String> {
    let table = ends.at(446, 64).filter(|_| boot_signature(ends))?;
    let entries = table.chunks_exact(16);
    if entries.clone().any(|entry| entry[0] & 0x7f != 0) {
        return None;
    }
    let used = entries.filter(|entry| entry[4] != 0 && entry[12..].iter().any(|&byte| byte != 0)).count();
    (used > 0).then(|| format!("a partition table (MBR, {used} {})", if used == 1 { "entry" } else { "entries" }))
}

fn other_tables(ends: &Ends) -> Option<&'static str> {
    if ends.has(0, b"ER") && BLOCKS.iter().any(|&block| ends.has(block, b"PM\0\0")) {
        return Some("a partition table (Apple)");
    }
    if ends.has(512, b"\x57\x45\x56\x82") && ends.has(512 + 132, b"\x57\x45\x56\x82") {
        return Some("a disk label (BSD)");
    }
    let words =
        || ends.at(0, 512)?.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).reduce(|a, b| a ^ b);
    if ends.has(508, b"\xda\xbe") && words() == Some(0) {
        return Some("a disk label (Sun)");
    }
    ends.has(0, b"\x0b\xe5\xa9\x41").then_some("a disk label (SGI)")
}

/// ext2, ext3 and ext4 tell each other by what they need to be understood (features).
fn ext(ends: &Ends) -> Option<&'static str> {
    const SUPER: u64 = 1024;
    const JOURNAL: u64 = 0x4;
    const JOURNAL_DEVICE: u64 = 0x8;
    /// Extents, 64-bit block numbers, flexible block groups.
    const FOURTH: u64 = 0x2c0;
    let block_shift = ends.number(SUPER + 0x18, 4)?;
    if !ends.has(SUPER + 0x38, b"\x53\xef") || block_shift > 6 || ends.number(SUPER + 4, 4)? == 0 {
        return None;
    }
    let (compatible, needed) = (ends.number(SUPER + 0x5c, 4)?, ends.number(SUPER + 0x60, 4)?);
    Some(match () {
        () if needed & JOURNAL_DEVICE != 0 => "the journal of an ext file system",
        () if needed & FOURTH != 0 => "an ext4 file system",
        () if compatible & JOURNAL != 0 => "an ext3 file system",
        () => "an ext2 file system",
    })
}

/// FAT has no signature of its own: a boot sector with its word, or one whose numbers make sense.
fn fat(ends: &Ends) -> Option<&'static str> {
    let named = ends.has(54, b"FAT12   ") || ends.has(54, b"FAT16   ") || ends.has(82, b"FAT32   ");
    let jump = ends.has(0, b"\xeb") && ends.has(2, b"\x90") || ends.has(0, b"\xe9");
    let block = ends.number(11, 2)?;
    let (cluster, reserved, fats, media) =
        (ends.number(13, 1)?, ends.number(14, 2)?, ends.number(16, 1)?, ends.number(21, 1)?);
    let makes_sense = matches!(block, 512 | 1024 | 2048 | 4096)
        && cluster.is_power_of_two()
        && reserved > 0
        && matches!(fats, 1 | 2)
        && (media == 0xf0 || media >= 0xf8);
    (boot_signature(ends) && makes_sense && (named || jump)).then_some("a FAT file system")
}

fn nilfs(ends: &Ends) -> Option<&'static str> {
    const SUPER: u64 = 1024;
    let fits = ends.has(SUPER, b"\x02\0\0\0\0\0\x34\x34") && ends.number(SUPER + 8, 2)? > 0;
    fits.then_some("a NILFS2 file system")
}

fn ocfs2(ends: &Ends) -> Option<&'static str> {
    BLOCKS.iter().any(|block| ends.has(block * 2, b"OCFSV2")).then_some("an OCFS2 file system")
}

fn swap(ends: &Ends) -> Option<&'static str> {
    let word = |word: &[u8; 10]| PAGES.iter().any(|page| ends.has(page - 10, word));
    match () {
        () if word(b"SWAPSPACE2") || word(b"SWAP-SPACE") => Some("a swap area"),
        () if PAGES.iter().any(|page| ends.has(page - 10, b"S1SUSPEND\0")) => Some("a suspended system in a swap area"),
        () => None,
    }
}

/// A label stands in one of the first four sectors.
fn lvm(ends: &Ends) -> Option<&'static str> {
    let label = |sector: u64| ends.has(sector * 512, b"LABELONE") && ends.has(sector * 512 + 24, b"LVM2 001");
    (0..4).any(label).then_some("a physical volume of LVM")
}

/// Four labels of 256 KiB, two from each end, whose second half is a ring of überblocks. A pool is known by any of them.
fn zfs(ends: &Ends) -> Option<&'static str> {
    const LABEL: u64 = 256 << 10;
    let tail = (ends.size / LABEL * LABEL).checked_sub(2 * LABEL);
    let labels = [Some(0), Some(LABEL), tail, tail.map(|tail| tail + LABEL)];
    let mut blocks =
        labels.into_iter().flatten().flat_map(|label| (LABEL / 2..LABEL).step_by(1024).map(move |at| label + at));
    blocks
        .any(|at| ends.has(at, b"\x0c\xb1\xba\0\0\0\0\0") || ends.has(at, b"\0\0\0\0\0\xba\xb1\x0c"))
        .then_some("a member of a ZFS pool")
}

/// The metadata of MD arrays that stand at the end.
fn md(ends: &Ends) -> Option<&'static str> {
    const MAGIC: &[u8] = b"\xfc\x4e\x2b\xa9";
    let oldest = (ends.size & !0xffff).checked_sub(0x1_0000);
    let last = ends.size.checked_sub(0x2000).map(|at| at & !0xfff);
    match () {
        () if oldest.is_some_and(|at| ends.has(at, MAGIC) && ends.has(at + 4, b"\0\0\0\0")) => {
            Some("a member of an MD array (metadata 0.90)")
        }
        () if last.is_some_and(|at| ends.has(at, MAGIC) && ends.has(at + 4, b"\x01\0\0\0")) => {
            Some("a member of an MD array (metadata 1.0)")
        }
        () => None,
    }
}

/// What firmware and DRBD leave at the end.
fn raid(ends: &Ends) -> Option<&'static str> {
    let before = |bytes: u64, magic: &[u8]| ends.size.checked_sub(bytes).is_some_and(|at| ends.has(at, magic));
    if [1024, 8192].iter().any(|&bytes| before(bytes, b"Intel Raid ISM Cfg Sig. ")) {
        return Some("a member of an Intel RAID");
    }
    if before(512, b"\xde\x11\xde\x11") || before(512, b"\x11\xde\x11\xde") {
        return Some("a member of a DDF RAID");
    }
    let drbd = before(4096 - 60, b"\x83\x74\x02\x6b") || before(4096 - 60, b"\x83\x74\x02\x6c");
    drbd.then_some("the metadata of DRBD")
}
