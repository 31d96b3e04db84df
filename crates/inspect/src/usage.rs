//! Who on this machine uses a file or a block device: what the kernel says in /proc and /sys, and whether it lets us have the device
//! for ourselves.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use doorbell_platform::{Sysfs, sysfs};
use rustix::fs::{Mode, OFlags, major, minor};

/// A device number as sysfs and mountinfo write it.
pub(crate) fn number(device: u64) -> String {
    format!("{}:{}", major(device), minor(device))
}

/// Where the machine tells of itself.
#[derive(Clone, Debug)]
pub struct Machine {
    proc: PathBuf,
    sys: Sysfs,
}

impl Default for Machine {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: Sysfs::default() }
    }
}

/// A block device and its name.
struct Block {
    name: String,
    number: String,
    folder: PathBuf,
}

impl Machine {
    /// Trees like /proc and /sys in other places.
    pub fn at(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), sys: Sysfs::at(sys) }
    }

    /// Who uses a block device or a part of it.
    pub(crate) fn users_of_device(&self, path: &Path, device: u64) -> Vec<String> {
        let mut findings = self.users_of_number(&number(device));
        if findings.is_empty() {
            findings.extend(self.writers(|file| file.file_type().is_block_device() && file.rdev() == device));
        }
        // Mounts of other namespaces of processes and what else claims a device, are known to the kernel alone.
        let exclusively = rustix::fs::open(path, OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC, Mode::empty());
        if findings.is_empty() && exclusively.err() == Some(rustix::io::Errno::BUSY) {
            findings.push("is claimed by something that the kernel does not name (the device is busy)".into());
        }
        findings
    }

    /// Who uses a regular file.
    pub(crate) fn users_of_file(&self, file: &Metadata) -> Vec<String> {
        let same = |other: &Metadata| other.is_file() && (other.dev(), other.ino()) == (file.dev(), file.ino());
        let mut findings = Vec::new();
        if self.swaps().iter().any(|path| fs::metadata(path).is_ok_and(|other| same(&other))) {
            findings.push("is in use as swap".into());
        }
        let blocks = self.sys.path("block");
        for name in sysfs::names(&blocks) {
            let Some(backing) = sysfs::line(&blocks.join(&name).join("loop/backing_file")) else { continue };
            if fs::metadata(&backing).is_ok_and(|other| same(&other)) {
                let numbers = sysfs::line(&blocks.join(&name).join("dev")).unwrap_or_default();
                let users = self.users_of_number(&numbers);
                let users = if users.is_empty() { String::new() } else { format!(", which {}", users.join(" and ")) };
                findings.push(format!("is behind /dev/{name}{users}"));
            }
        }
        if findings.is_empty() {
            findings.extend(self.writers(same));
        }
        findings
    }

    fn users_of_number(&self, number: &str) -> Vec<String> {
        let Some(device) = self.block(self.sys.path(format!("dev/block/{number}"))) else { return Vec::new() };
        let mut findings = Vec::new();
        let parts = sysfs::names(&device.folder).into_iter().map(|name| device.folder.join(name));
        let parts: Vec<Block> =
            parts.filter(|folder| folder.join("partition").exists()).filter_map(|folder| self.block(folder)).collect();
        // The disk of a partition, as a whole, may be somebody's too.
        let whole = device
            .folder
            .join("partition")
            .exists()
            .then(|| device.folder.parent().and_then(|folder| self.block(folder.into())));
        for block in [Some(&device), whole.flatten().as_ref()].into_iter().flatten().chain(&parts) {
            let which = match block.name == device.name {
                true => String::new(),
                false => format!("({}) ", block.name),
            };
            findings.extend(self.mounts(block).into_iter().map(|at| format!("{which}is mounted on {at}")));
            if self.swaps().iter().any(|path| {
                fs::metadata(path)
                    .is_ok_and(|swap| swap.file_type().is_block_device() && self::number(swap.rdev()) == block.number)
            }) {
                findings.push(format!("{which}is in use as swap"));
            }
            findings.extend(self.holders(block).into_iter().map(|holder| format!("{which}is held by {holder}")));
        }
        findings
    }

    fn block(&self, folder: PathBuf) -> Option<Block> {
        let folder = folder.canonicalize().ok()?;
        let name = folder.file_name()?.to_string_lossy().into_owned();
        Some(Block { number: sysfs::line(&folder.join("dev"))?, name, folder })
    }

    /// Devices on top of this one, as `dm-0 (LVM: vg-lv)`.
    fn holders(&self, block: &Block) -> Vec<String> {
        let holders = block.folder.join("holders");
        let describe = |name: String| {
            let mapper = holders.join(&name).join("dm");
            let Some(mapped) = sysfs::line(&mapper.join("name")) else { return name };
            let uuid = sysfs::line(&mapper.join("uuid")).unwrap_or_default();
            let kind = match uuid.split('-').next() {
                Some("LVM") => "LVM: ",
                Some("CRYPT") => "encrypted: ",
                Some("mpath") => "multipath: ",
                _ => "device-mapper: ",
            };
            format!("{name} ({kind}{mapped})")
        };
        sysfs::names(&holders).into_iter().map(describe).collect()
    }

    /// Where a device is mounted. Some file systems (Btrfs) have a device number of their own and are known by their source.
    fn mounts(&self, block: &Block) -> Vec<String> {
        let table = fs::read(self.proc.join("self/mountinfo")).unwrap_or_default();
        let at = |line: &str| {
            let (mount, source) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(2);
            let (number, place) = (mount.next()?, mount.nth(1)?);
            let source = PathBuf::from(unescape(source.split(' ').nth(1)?));
            let by_source = number.starts_with("0:")
                && source.is_absolute()
                && fs::metadata(source).is_ok_and(|source| {
                    source.file_type().is_block_device() && self::number(source.rdev()) == block.number
                });
            (number == block.number || by_source).then(|| unescape(place))
        };
        String::from_utf8_lossy(&table).lines().filter_map(at).collect()
    }

    fn swaps(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string(self.proc.join("swaps")).unwrap_or_default();
        table
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .map(|path| unescape(path).into())
            .collect()
    }

    /// Other processes that have what `is_it` recognises open for writing, as far as we may look at them.
    fn writers(&self, is_it: impl Fn(&Metadata) -> bool) -> Vec<String> {
        let mut findings = Vec::new();
        for process in sysfs::names(&self.proc) {
            let Ok(pid) = process.parse::<u32>() else { continue };
            if pid == std::process::id() {
                continue;
            }
            let folder = self.proc.join(&process);
            let writes = |fd: &String| {
                fs::metadata(folder.join("fd").join(fd)).is_ok_and(|file| is_it(&file))
                    && sysfs::line(&folder.join("fdinfo").join(fd)).is_some_and(|info| is_for_writing(&info))
            };
            if sysfs::names(&folder.join("fd")).iter().any(writes) {
                let name = sysfs::line(&folder.join("comm")).unwrap_or_default();
                findings.push(format!("is open for writing in process {pid} ({name})"));
            }
        }
        findings
    }
}

/// Whether the flags of an open file, octal in its fdinfo, are those of one that is written to.
fn is_for_writing(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 0o3 != 0)
}

/// A path of mountinfo or swaps, in which blanks and the like are `\` and three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            (byte == b'\\').then(|| after.get(..3)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_paths_are_read() {
        for (text, path) in
            [("/mnt", "/mnt"), ("/a\\040b\\134", "/a b\\"), ("\\9", "\\9"), ("\\777", "\\777"), ("", "")]
        {
            assert_eq!(unescape(text), path);
        }
    }

    #[test]
    fn flags_say_who_writes() {
        for (info, writes) in [("pos:\t0\nflags:\t0100000\nmnt_id:\t1", false), ("flags:\t02100002", true), ("", false)]
        {
            assert_eq!(is_for_writing(info), writes, "{info}");
        }
    }
}
