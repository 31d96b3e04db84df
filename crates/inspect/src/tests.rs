use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicU32, Ordering},
};

use proptest::prelude::*;

use super::*;

/// A folder that goes with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("doorbell-inspect-{}-{next}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with(size: u64, parts: &[(u64, &[u8])]) -> Ends {
    let mut image = vec![0; size as usize];
    for (offset, bytes) in parts {
        image[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    read_ends(size, |offset, bytes| Ok::<_, ()>(image[offset as usize..][..bytes].to_vec())).unwrap()
}

/// Metadata that no tool makes here without a driver of the kernel, laid out as their formats say.
#[test]
fn what_stands_at_the_end_is_found_there() {
    const SIZE: u64 = (4 << 20) + 3 * 4096 + 512;
    let md = b"\xfc\x4e\x2b\xa9";
    for (parts, found) in [
        (&[(SIZE / 65536 * 65536 - 65536, &md[..])][..], "a member of an MD array (metadata 0.90)"),
        (&[((SIZE - 8192) / 4096 * 4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0")], "a member of an MD array (metadata 1.0)"),
        (&[(4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0")], "a member of an MD array (metadata 1.2)"),
        (&[(0, b"\xfc\x4e\x2b\xa9\x01\0\0\0")], "a member of an MD array (metadata 1.1)"),
        (&[(SIZE - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00")], "a member of an Intel RAID"),
        (&[(SIZE - 512, b"\xde\x11\xde\x11")], "a member of a DDF RAID"),
        (&[(SIZE - 4096 + 60, b"\x83\x74\x02\x6b")], "the metadata of DRBD"),
        (&[(SIZE - 512, b"EFI PART\0\0\x01\0")], "the backup of a partition table (GPT)"),
        (&[(SIZE - 4096, b"EFI PART\0\0\x01\0")], "the backup of a partition table (GPT)"),
        (&[((128 << 10) + 7 * 1024, b"\x0c\xb1\xba\0\0\0\0\0")], "a member of a ZFS pool"),
        (&[(SIZE / 262_144 * 262_144 - (128 << 10), b"\0\0\0\0\0\xba\xb1\x0c")], "a member of a ZFS pool"),
    ] {
        assert_eq!(signatures(&with(SIZE, parts)), [found]);
    }
}

#[test]
fn what_only_looks_like_a_signature_is_none() {
    for parts in [
        // The word of a boot sector over an empty table, one with impossible flags, one of no length.
        &[(510, &b"\x55\xaa"[..])][..],
        &[(510, b"\x55\xaa"), (446, b"\x11aaa\x83bbbccccdddd")],
        &[(510, b"\x55\xaa"), (446, b"\x80aaa\x83bbbcccc\0\0\0\0")],
        // The short magic numbers of ext and NILFS2 without the rest.
        &[(1080, b"\x53\xef")],
        &[(1030, b"\x34\x34")],
        &[(4096, b"\xfc\x4e\x2b\xa9\x07\0\0\0")],
    ] {
        assert_eq!(signatures(&with(2 << 20, parts)), [""; 0], "{parts:?}");
    }
    let table = [(510, &b"\x55\xaa"[..]), (446, b"\x80aaa\x83bbbccccdddd")];
    assert_eq!(signatures(&with(2 << 20, &table)), ["a partition table (MBR, 1 entry)"]);
}

proptest! {
    #[test]
    fn any_bytes_are_looked_at(
        parts in proptest::collection::vec((0..300_000_usize, proptest::collection::vec(any::<u8>(), 0..64)), 0..20),
        head in 0..300_000_usize, tail in 0..300_000_usize, size in any::<u64>(),
    ) {
        let mut ends = Ends { head: vec![0; head], tail: vec![0; tail], size };
        for (at, bytes) in parts {
            for side in [&mut ends.head, &mut ends.tail] {
                if let Some(place) = side.get_mut(at..at + bytes.len()) {
                    place.copy_from_slice(&bytes);
                }
            }
        }
        let _ = (signatures(&ends), format(&ends));
    }
}

#[test]
fn a_file_is_somebodys_when_it_is_of_a_known_kind() {
    let scratch = Scratch::new();
    let file = scratch.0.join("file");
    let with = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        path(&file).unwrap()
    };
    assert_eq!(with(b""), [""; 0]);
    assert_eq!(with(&[0; 8192]), [""; 0]);
    assert_eq!(with(&[0xa5; 8192]), [""; 0]);
    let mut bits = 1_u64;
    let random = |_| {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (bits >> 56) as u8
    };
    assert_eq!(with(&(0..1 << 20).map(random).collect::<Vec<u8>>()), [""; 0], "what a benchmark fills a file with");
    assert_eq!(with(b"SQLite format 3\0\x10\0\x01\x01"), ["is a database (SQLite)"]);
    assert_eq!(with("notes\n".repeat(2000).as_bytes()), ["is a text"]);
    let program = path(&std::env::current_exe().unwrap()).unwrap();
    assert_eq!(program, ["is a program (ELF)"]);
}

#[test]
fn what_is_no_file_and_no_device_is_said_to_be_none() {
    for (name, said) in [
        ("/nowhere", "looking at /nowhere: No such file"),
        ("/tmp", "neither a file nor a block device"),
        ("/dev/null", "no NVMe passthrough device"),
    ] {
        let why = path(Path::new(name)).unwrap_err();
        assert!(why.contains(said), "{why}");
    }
}

/// Device-mapper and MD need drivers that not every machine has: trees like theirs. The lab has the real ones.
#[test]
fn users_of_a_device_are_told_by_the_trees_of_the_kernel() {
    let scratch = Scratch::new();
    let at = |path: &str| scratch.0.join(path);
    let file = |path: &str, text: &str| {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::write(at(path), text).unwrap();
    };
    file("sys/block/sdx/dev", "8:16\n");
    for (part, number) in [("sdx1", "8:17\n"), ("sdx2", "8:18\n")] {
        file(&format!("sys/block/sdx/{part}/dev"), number);
        file(&format!("sys/block/sdx/{part}/partition"), "1\n");
    }
    file("sys/dm-3/dm/name", "vg-home\n");
    file("sys/dm-3/dm/uuid", "LVM-abc\n");
    fs::create_dir_all(at("sys/block/sdx/sdx2/holders")).unwrap();
    symlink(at("sys/dm-3"), at("sys/block/sdx/sdx2/holders/dm-3")).unwrap();
    fs::create_dir_all(at("sys/md0")).unwrap();
    fs::create_dir_all(at("sys/block/sdx/holders")).unwrap();
    symlink(at("sys/md0"), at("sys/block/sdx/holders/md0")).unwrap();
    fs::create_dir_all(at("sys/dev/block")).unwrap();
    for (number, folder) in [("8:16", "sdx"), ("8:17", "sdx/sdx1"), ("8:18", "sdx/sdx2")] {
        symlink(at("sys/block").join(folder), at("sys/dev/block").join(number)).unwrap();
    }
    file(
        "proc/self/mountinfo",
        "36 35 8:17 / /mnt/my\\040disk rw - ext4 /dev/sdx1 rw\n37 35 0:5 / /proc rw - proc none rw\n",
    );
    file("proc/swaps", "Filename Type Size Used Priority\n");
    let machine = Machine::at(at("proc"), at("sys"));
    let users =
        |device: (u32, u32)| machine.users_of_device(Path::new("/nowhere"), rustix::fs::makedev(device.0, device.1));
    assert_eq!(
        users((8, 16)),
        ["is held by md0", "(sdx1) is mounted on /mnt/my disk", "(sdx2) is held by dm-3 (LVM: vg-home)"]
    );
    assert_eq!(users((8, 17)), ["is mounted on /mnt/my disk", "(sdx) is held by md0"]);
    assert_eq!(users((8, 18)), ["is held by dm-3 (LVM: vg-home)", "(sdx) is held by md0"]);
    assert_eq!(users((8, 99)), [""; 0]);
}
