//! Images that the tools of the formats make, and loop devices in use. A tool that is not there, and loop devices without root,
//! are passed by; what was tried is counted and told.
#![allow(missing_docs, reason = "tests")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("doorbell-inspect-real-{}-{next}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// A sparse file.
    fn image(&self, size: u64) -> PathBuf {
        let path = self.0.join("image");
        File::create(&path).unwrap().set_len(size).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").status().is_ok_and(|status| status.success())
}

fn shell(script: &str, argument: &Path) -> bool {
    succeeds(Command::new("sh").args(["-ec", script, "sh"]).arg(argument))
}

#[test]
fn what_the_tools_of_each_format_make_is_recognised() {
    let mut tried = 0;
    for (tool, script, found) in [
        ("mkfs.ext4", "mkfs.ext4 -qF $1", "an ext4 file system"),
        ("mkfs.ext3", "mkfs.ext3 -qF $1", "an ext3 file system"),
        ("mkfs.ext2", "mkfs.ext2 -qF $1", "an ext2 file system"),
        ("mkfs.xfs", "mkfs.xfs -q $1", "an XFS file system"),
        ("mkfs.btrfs", "mkfs.btrfs -q $1", "a Btrfs file system"),
        ("mkfs.f2fs", "mkfs.f2fs -q $1", "an F2FS file system"),
        ("mkfs.vfat", "mkfs.vfat -F 32 $1", "a FAT file system"),
        ("mkfs.vfat", "mkfs.vfat -F 12 $1", "a FAT file system"),
        ("mkfs.exfat", "mkfs.exfat $1", "an exFAT file system"),
        ("mkfs.ntfs", "mkfs.ntfs -qFf $1", "an NTFS file system"),
        ("mkfs.nilfs2", "mkfs.nilfs2 -qf $1", "a NILFS2 file system"),
        ("mkfs.jfs", "mkfs.jfs -q $1", "a JFS file system"),
        ("mkreiserfs", "mkreiserfs -qff $1", "a ReiserFS file system"),
        ("mkudffs", "mkudffs $1", "a UDF file system"),
        ("mkswap", "mkswap $1", "a swap area"),
        ("mkswap", "mkswap -p 65536 $1", "a swap area"),
        ("sfdisk", "echo ,20M | sfdisk -q --label dos $1", "a partition table (MBR, 1 entry)"),
        ("sfdisk", "echo ,20M | sfdisk -q --label gpt $1", "a partition table (GPT)"),
        ("sfdisk", "echo ,20M | sfdisk -q --label sun $1", "a disk label (Sun)"),
        ("sfdisk", "echo ,20M | sfdisk -q --label sgi $1", "a disk label (SGI)"),
        (
            "sfdisk",
            "echo ,20M | sfdisk -q --label gpt $1; dd if=/dev/zero of=$1 bs=1M count=1 conv=notrunc",
            "the backup of a partition table (GPT)",
        ),
        (
            "cryptsetup",
            "echo secret | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 $1 -",
            "a LUKS volume",
        ),
        (
            "cryptsetup",
            "echo secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $1 -",
            "a LUKS volume",
        ),
        ("make-bcache", "make-bcache -B $1", "a bcache device"),
        (
            "pvcreate",
            "test $(id -u) = 0; l=$(losetup -f --show $1); pvcreate -q --devices $l $l || e=1; losetup -d $l; exit $e",
            "a physical volume of LVM",
        ),
        ("mkfs.erofs", "mkdir $1.d; mkfs.erofs $1 $1.d", "an EROFS file system"),
        ("mksquashfs", "mkdir $1.d; mksquashfs $1.d $1 -noappend", "a SquashFS file system"),
    ] {
        let scratch = Scratch::new();
        let image = scratch.image(512 << 20);
        if !succeeds(Command::new("sh").args(["-c", &format!("command -v {tool}")])) {
            continue;
        }
        if !shell(script, &image) {
            println!("not tried: {script}");
            continue;
        }
        let findings = doorbell_inspect::path(&image).unwrap();
        assert!(findings.contains(&format!("holds {found}")), "{script}: {findings:?}");
        tried += 1;
    }
    println!("{tried} formats tried");
    assert!(tried > 0, "mkfs.ext4 and mkswap are on every system that these tests are for");
}

/// A loop device, while the machine lets us have one.
struct Loop(String);

impl Loop {
    fn over(image: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["-f", "--show", "-P"]).arg(image).output().ok()?;
        made.status.success().then(|| Self(String::from_utf8(made.stdout).unwrap().trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_loop_device_is_told_from_one_in_use() {
    let scratch = Scratch::new();
    let image = scratch.image(64 << 20);
    let Some(device) = Loop::over(&image) else {
        println!("passed by: no loop device to be had (needs root)");
        return;
    };
    let found = || doorbell_inspect::path(Path::new(&device.0)).unwrap();
    assert_eq!(found(), [""; 0]);
    let behind = |more: &str| format!("is behind {}{more}", device.0);
    assert_eq!(doorbell_inspect::path(&image).unwrap(), [behind("")]);

    assert!(succeeds(Command::new("mkfs.ext4").args(["-qF", &device.0])));
    assert_eq!(found(), ["holds an ext4 file system"]);
    let at = scratch.0.join("at a place");
    fs::create_dir(&at).unwrap();
    assert!(succeeds(Command::new("mount").arg(&device.0).arg(&at)));
    let mounted = Mounted(at.clone());
    let is_mounted = format!("is mounted on {}", at.display());
    assert_eq!(found(), [is_mounted.as_str(), "holds an ext4 file system"]);
    let both = [behind(&format!(", which {is_mounted}")), "holds an ext4 file system".into()];
    assert_eq!(doorbell_inspect::path(&image).unwrap(), both);
    drop(mounted);

    let open = format!("exec 3<>{}; echo ready; read line", device.0);
    let mut writer =
        Command::new("sh").args(["-c", &open]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(writer.stdout.take().unwrap()), &mut String::new())
        .unwrap();
    let findings = found();
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(findings[0], format!("is open for writing in process {} (sh)", writer.id()));
}
