//! Who holds what: processes that have a file open, and the lock that keeps a device to one process.

use std::{
    fmt,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::pci::Address;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub process: u32,
    /// Its command line.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.process, self.command)
    }
}

impl Holder {
    /// Process `number`, while it runs.
    fn of(number: u32) -> Option<Self> {
        let line = fs::read(format!("/proc/{number}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        Some(Self { process: number, command: printable(&line) })
    }

    /// The processes that have one of `files` open, as far as this user may see.
    pub fn all(files: &[PathBuf]) -> Vec<Self> {
        let holds = |number: &u32| {
            let open = fs::read_dir(format!("/proc/{number}/fd")).into_iter().flatten().flatten();
            open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|file| files.contains(&file))
        };
        crate::sysfs::numbered(Path::new("/proc"), "").into_iter().filter(holds).filter_map(Self::of).collect()
    }
}

/// One line for a message, however long and whatever bytes.
fn printable(text: &str) -> String {
    text.trim().chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A device of this process alone, among the processes that ask; given back when it is dropped or the process ends.
///
/// The lock is the kernel's, on a file whose text only says who has it: what a dead process left there is overwritten.
#[derive(Debug)]
pub struct DeviceLock {
    _file: File,
}

impl DeviceLock {
    /// Takes a PCI function for this process.
    ///
    /// # Errors
    /// A sentence: who has it, or why the lock's file cannot be used.
    pub fn take(address: Address) -> Result<Self, String> {
        Self::take_in(&folder(), address)
    }

    fn take_in(folder: &Path, address: Address) -> Result<Self, String> {
        let path = folder.join(format!("doorbell-{address}.lock"));
        let failed = |error: io::Error| {
            format!(
                "cannot lock {address} for this process: {}: {error}; remove that file when nobody uses the device",
                path.display()
            )
        };
        let mut file = open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // What cannot be read is not told.
                let _ = (&file).take(300).read_to_string(&mut text);
                let holder = printable(&text);
                let holder = if holder.is_empty() { "another process".to_owned() } else { format!("process {holder}") };
                return Err(format!(
                    "{address} is in use by {holder}: a device belongs to one process at a time. Wait for it or end it (lock {})",
                    path.display()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let own =
            Holder::of(std::process::id()).map_or(String::new(), |own| format!("{} ({})\n", own.process, own.command));
        // The lock holds without the text: another user's file can be locked but not always written, and one that has a second name
        // may be somebody's trap.
        let ours = file.metadata().is_ok_and(|data| data.is_file() && data.nlink() == 1);
        if ours {
            let _ = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(own.as_bytes()));
        }
        Ok(Self { _file: file })
    }
}

/// The same folder for every user: the first that all may write to.
fn folder() -> PathBuf {
    let folders = ["/run/lock", "/var/tmp", "/tmp"].map(PathBuf::from);
    let open_to_all =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|data| data.is_dir() && data.permissions().mode() & 0o002 != 0);
    folders.iter().find(|path| open_to_all(path)).unwrap_or(&folders[2]).clone()
}

/// Opens a lock's file, for whoever comes next too. Nothing that exists is opened with leave to create: in a folder like /tmp the
/// kernel denies that for the file of another user.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Whatever somebody put there, it is not followed and waits for nothing.
    options.read(true).custom_flags(OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32);
    match options.clone().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => options.open(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match options.clone().write(true).create_new(true).open(path) {
                Ok(file) => {
                    file.set_permissions(Permissions::from_mode(0o666))?;
                    Ok(file)
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.write(true).open(path),
                Err(error) => Err(error),
            }
        }
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    #[test]
    fn the_second_is_told_who_has_a_device() {
        let tree = Tree::new();
        let folder = tree.sysfs().path("");
        let [one, other] = ["0000:01:00.0", "0000:02:00.0"].map(|text| text.parse::<Address>().unwrap());
        let held = DeviceLock::take_in(&folder, one).unwrap();
        let error = DeviceLock::take_in(&folder, one).unwrap_err();
        let own = Holder::of(std::process::id()).unwrap();
        assert!(error.contains(&format!("0000:01:00.0 is in use by {own}")), "{error}");
        DeviceLock::take_in(&folder, other).unwrap();
        drop(held);
        DeviceLock::take_in(&folder, one).unwrap();
    }

    #[test]
    fn what_a_dead_process_left_is_overwritten() {
        let tree = Tree::new();
        let folder = tree.sysfs().path("");
        let path = folder.join("doorbell-0000:01:00.0.lock");
        fs::write(&path, "1 (a command long gone)\n".repeat(100)).unwrap();
        let _held = DeviceLock::take_in(&folder, "1:0.0".parse().unwrap()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&std::process::id().to_string()) && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn what_others_put_in_a_locks_place_is_not_overwritten() {
        let tree = Tree::new();
        let folder = tree.sysfs().path("");
        fs::write(folder.join("victim"), "kept").unwrap();
        std::os::unix::fs::symlink(folder.join("victim"), folder.join("doorbell-0000:01:00.0.lock")).unwrap();
        let error = DeviceLock::take_in(&folder, "1:0.0".parse().unwrap()).unwrap_err();
        assert!(error.contains("cannot lock 0000:01:00.0") && error.contains(".lock"), "{error}");
        fs::hard_link(folder.join("victim"), folder.join("doorbell-0000:02:00.0.lock")).unwrap();
        DeviceLock::take_in(&folder, "2:0.0".parse().unwrap()).unwrap();
        assert_eq!(fs::read_to_string(folder.join("victim")).unwrap(), "kept");
    }

    #[test]
    fn open_files_are_found_with_their_process() {
        let tree = Tree::new();
        let path = tree.sysfs().path("device");
        let _open = File::create(&path).unwrap();
        let holders = Holder::all(&[PathBuf::from("/nowhere"), path]);
        assert_eq!(holders, [Holder::of(std::process::id()).unwrap()]);
        assert!(!holders[0].command.is_empty());
        assert_eq!(printable("a\nb\u{1b}c\0"), "a?b?c?");
    }
}
