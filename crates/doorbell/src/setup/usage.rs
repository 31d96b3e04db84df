//! Who uses the block devices of a controller: what would break if it went away.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use doorbell_platform::{
    holder::Holder,
    pci::Controller,
    sysfs::{line, names},
};
use rustix::fs::OFlags;

use super::{System, status::Blocker};

/// Every use of a controller's block devices that can be seen, with what ends it, in the order in which they can be ended.
pub fn uses(system: &System, controllers: &[Controller]) -> Vec<Blocker> {
    let tables = Tables::read(system);
    let mut uses = Vec::new();
    for controller in controllers {
        let mut files = vec![controller.name.clone()];
        for block in &controller.blocks {
            let before = uses.len();
            for name in std::iter::once(&block.name).chain(&block.partitions) {
                tables.of_block(system, name, &mut uses);
                files.push(name.clone());
            }
            // The namespace as a character device.
            files.push(block.name.replacen("nvme", "ng", 1));
            // Mounts of other name spaces, and what the kernel does itself, show in nothing else.
            if uses.len() == before && opened_exclusively(&system.dev.join(&block.name)) {
                uses.push(Blocker::new(
                    format!("{} is opened exclusively: mounted in a container, or used by ZFS or the like", block.name),
                    format!("grep {} /proc/*/mountinfo; lsblk -f /dev/{}", block.name, block.name),
                ));
            }
        }
        let files: Vec<_> = files.iter().map(|name| system.dev.join(name)).collect();
        let holders = Holder::all(&files).into_iter();
        uses.extend(holders.map(|holder| {
            let why = format!("{holder} has {} or a namespace of it open", controller.name);
            Blocker::new(why, format!("kill {}", holder.process))
        }));
    }
    uses
}

fn opened_exclusively(device: &Path) -> bool {
    let flags = OFlags::EXCL.union(OFlags::NONBLOCK).bits() as i32;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(device);
    opened.is_err_and(|error| error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()))
}

/// What is mounted and swapped to.
struct Tables {
    mounts: Vec<Mount>,
    /// Device files, such as `/dev/nvme0n1p3`.
    swaps: Vec<String>,
}

struct Mount {
    /// `major:minor`; of no device for some file systems (btrfs).
    number: String,
    point: String,
    /// What was mounted, such as `/dev/nvme0n1p2`.
    source: String,
}

impl Tables {
    fn read(system: &System) -> Self {
        let text = |file: &str| fs::read_to_string(system.proc.join(file)).unwrap_or_default();
        let swaps = text("swaps");
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next().map(unescaped));
        Self { mounts: text("self/mountinfo").lines().filter_map(Mount::parse).collect(), swaps: swaps.collect() }
    }

    /// Adds the uses of a block device, and of those built on it before those of itself.
    fn of_block(&self, system: &System, name: &str, uses: &mut Vec<Blocker>) {
        let folder = system.sysfs.path("class/block").join(name);
        let (number, file, label) = (line(&folder.join("dev")), format!("/dev/{name}"), label(system, name));
        for mount in &self.mounts {
            if number.as_ref() == Some(&mount.number) || mount.source == file {
                let command = format!("umount {}", quoted(&mount.point));
                uses.push(Blocker::new(format!("{label} is mounted on {}", mount.point), command));
            }
        }
        if self.swaps.contains(&file) {
            uses.push(Blocker::new(format!("{label} is swapped to"), format!("swapoff {file}")));
        }
        for holder in names(&folder.join("holders")) {
            self.of_block(system, &holder, uses);
            let mapped = mapped(system, &holder);
            let command = match &mapped {
                Some(mapped) => format!("dmsetup remove {}", quoted(mapped)),
                None if holder.starts_with("md") => format!("mdadm --stop /dev/{holder}"),
                None => format!("lsblk /dev/{name}   # and stop {holder}"),
            };
            uses.push(Blocker::new(format!("{label} is part of {}", self::label(system, &holder)), command));
        }
    }
}

impl Mount {
    /// A line of mountinfo: `36 35 98:0 /root /mnt rw,noatime shared:1 - ext4 /dev/sda1 rw` (proc(5)).
    fn parse(line: &str) -> Option<Self> {
        let (own, system) = line.split_once(" - ")?;
        let own: Vec<&str> = own.split(' ').collect();
        let source = system.split(' ').nth(1)?;
        Some(Self { number: (*own.get(2)?).to_owned(), point: unescaped(own.get(4)?), source: unescaped(source) })
    }
}

/// The name that device mapper gave a device.
fn mapped(system: &System, name: &str) -> Option<String> {
    line(&system.sysfs.path("class/block").join(name).join("dm/name"))
}

fn label(system: &System, name: &str) -> String {
    mapped(system, name).map_or_else(|| name.to_owned(), |mapped| format!("{name} ({mapped})"))
}

/// The kernel writes blanks in these tables as octal numbers: `\040`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
        Some(byte) if byte.is_ascii() => text + &char::from(byte).to_string() + &part[3..],
        _ => text + "\\" + part,
    })
}

/// A word of a shell's command.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::{super::tree::Tree, *};

    fn whys(tree: &Tree) -> Vec<(String, String)> {
        let function = tree.function_at("0000:01:00.0");
        uses(&tree.system(), &function.controllers()).into_iter().map(|one| (one.why, one.remedy)).collect()
    }

    fn expected(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(why, remedy)| (why.to_owned(), remedy.to_owned())).collect()
    }

    #[test]
    fn a_device_that_nobody_uses_has_no_uses() {
        let tree = Tree::with_drive("0000:01:00.0", "nvme0", "S1");
        assert_eq!(whys(&tree), []);
        // A machine without these tables.
        fs::remove_dir_all(tree.path("proc")).unwrap();
        assert_eq!(whys(&tree), []);
    }

    #[test]
    fn mounts_are_found_by_number_and_by_name() {
        let tree = Tree::with_drive("0000:01:00.0", "nvme0", "S1");
        tree.write("sys/class/block/nvme0n1/nvme0n1p1/partition", "1");
        tree.write("sys/class/block/nvme0n1p1/dev", "259:1\n");
        tree.write(
            "proc/self/mountinfo",
            "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
             30 20 259:1 / /mnt/my\\040disk rw,noatime shared:5 - ext4 /dev/root rw\n\
             31 20 0:40 /sub /srv rw - btrfs /dev/nvme0n1 rw\n\
             32 20 0:41 / /run/nvme0n1 rw - tmpfs tmpfs rw\n",
        );
        assert_eq!(
            whys(&tree),
            expected(&[
                ("nvme0n1 is mounted on /srv", "umount /srv"),
                ("nvme0n1p1 is mounted on /mnt/my disk", "umount '/mnt/my disk'"),
            ])
        );
    }

    #[test]
    fn what_is_built_on_a_device_is_ended_from_the_top() {
        let tree = Tree::with_drive("0000:01:00.0", "nvme0", "S1");
        for path in ["nvme0n1/holders/md0", "md0/holders/dm-3"] {
            fs::create_dir_all(tree.path("sys/class/block").join(path)).unwrap();
        }
        tree.write("sys/class/block/dm-3/dm/name", "vg-home\n");
        tree.write("sys/class/block/dm-3/dev", "253:3\n");
        tree.write("proc/self/mountinfo", "30 20 253:3 / /home rw - xfs /dev/mapper/vg-home rw\n");
        tree.write("proc/swaps", "Filename Type Size Used Priority\n/dev/md0 partition 1 0 -2\n");
        assert_eq!(
            whys(&tree),
            expected(&[
                ("md0 is swapped to", "swapoff /dev/md0"),
                ("dm-3 (vg-home) is mounted on /home", "umount /home"),
                ("md0 is part of dm-3 (vg-home)", "dmsetup remove vg-home"),
                ("nvme0n1 is part of md0", "mdadm --stop /dev/md0"),
            ])
        );
    }

    #[test]
    fn a_process_with_the_device_open_is_named() {
        let tree = Tree::with_drive("0000:01:00.0", "nvme0", "S1");
        let _open = File::open(tree.path("dev/nvme0n1")).unwrap();
        let found = whys(&tree);
        assert_eq!(found.len(), 1, "{found:?}");
        let own = std::process::id();
        assert!(found[0].0.starts_with(&format!("process {own} (")) && found[0].0.contains("nvme0"), "{found:?}");
        assert_eq!(found[0].1, format!("kill {own}"));
    }

    #[test]
    fn words_for_a_shell_survive_it() {
        assert_eq!(quoted("/mnt/a-b"), "/mnt/a-b");
        assert_eq!(quoted("a b'c"), r"'a b'\''c'");
        assert_eq!(unescaped(r"a\040b\134c\9"), r"a b\c\9");
    }
}
