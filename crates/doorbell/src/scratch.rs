//! What goes when this process goes, even when a second signal ends it: a folder of this process alone, for sockets that only it
//! connects to, and files that are not complete. A folder of a process that was killed goes with the next that makes one in the
//! same place.

use std::{
    ffi::OsStr,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{FlockOperation, flock};

/// Names drawn before giving up.
const DRAWS: u32 = 16;
/// A file in a folder that is locked for as long as its process lives.
const LOCK: &str = "lock";

static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn left() -> MutexGuard<'static, Vec<PathBuf>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Such a folder.
#[derive(Debug)]
pub struct Folder(PathBuf, #[expect(dead_code, reason = "holds the lock")] File);

impl Folder {
    /// Makes one that nobody else may enter.
    ///
    /// # Errors
    /// Where it was to be, and what the system said.
    pub fn new() -> Result<Self, String> {
        Self::within(&std::env::temp_dir())
    }

    fn within(parent: &Path) -> Result<Self, String> {
        sweep(parent);
        let fail = |why: io::Error| {
            let parent = parent.display();
            format!("making a private folder in {parent}: {why}; TMPDIR may name another place")
        };
        for draw in 0..DRAWS {
            let name = format!("doorbell-{}-{:016x}", process::id(), RandomState::new().hash_one(draw));
            let path = parent.join(name);
            // What exists is somebody else's.
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let lock = File::create(path.join(LOCK)).and_then(|lock| {
                        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                        Ok(lock)
                    });
                    match lock {
                        Ok(lock) => {
                            left().push(path.clone());
                            return Ok(Self(path, lock));
                        }
                        // Somebody who sweeps was here before the lock.
                        Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {}
                        Err(why) => {
                            let _ = fs::remove_dir_all(&path);
                            return Err(fail(why));
                        }
                    }
                }
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
                Err(why) => return Err(fail(why)),
            }
        }
        Err(fail(io::ErrorKind::AlreadyExists.into()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        forget(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes the folders that processes of this user left behind when they were killed: those that nobody has locked.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.file_name().is_some_and(is_ours))
    {
        let ours = |there: fs::Metadata| there.is_dir() && there.uid() == rustix::process::geteuid().as_raw();
        if !fs::symlink_metadata(&path).is_ok_and(ours) {
            continue;
        }
        match File::open(path.join(LOCK)) {
            Ok(lock) if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() => {
                let _ = fs::remove_dir_all(&path);
            }
            // Killed before it had locked anything, or about to: then it makes another.
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                let _ = fs::remove_dir(&path);
            }
            _ => {}
        }
    }
}

/// Whether a name is one that [`Folder::new`] gives: `doorbell-`, a process, 16 hexadecimal digits.
fn is_ours(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.strip_prefix("doorbell-")).and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(process, draw)| {
        let digits = |text: &str, is: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(is);
        digits(process, u8::is_ascii_digit) && draw.len() == 16 && digits(draw, u8::is_ascii_hexdigit)
    })
}

/// Has a file removed when the process exits before it is forgotten.
pub fn add(file: PathBuf) {
    left().push(file);
}

/// Leaves a file or folder alone from now on.
pub fn forget(path: &Path) {
    left().retain(|one| one != path);
}

/// Removes what is left by a process that is about to exit without ending what it does.
pub fn clear() {
    for path in left().drain(..) {
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_folder_is_private_and_goes_with_its_owner() {
        let (first, second) = (Folder::new().unwrap(), Folder::new().unwrap());
        let path = first.path().to_path_buf();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_ne!(path, second.path());
        fs::write(path.join("cntrl"), "").unwrap();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }

    #[test]
    fn a_folder_of_a_process_that_was_killed_goes_with_the_next() {
        let parent = Folder::new().unwrap();
        let at = |name: &str| parent.path().join(name);
        // Killed: nobody holds its lock any more. Or before it had one.
        let (stale, early) = (at("doorbell-4194303-0123456789abcdef"), at("doorbell-4194304-0123456789abcdef"));
        for (folder, files) in [(&stale, &[LOCK, "cntrl"][..]), (&early, &[])] {
            fs::create_dir(folder).unwrap();
            files.iter().for_each(|file| fs::write(folder.join(file), "").unwrap());
        }
        // Not ours by name, not a folder, not empty and without a lock.
        let kept = ["doorbell-1-0123", "doorbell-x-0123456789abcdef", "doorbell-2-0123456789abcdef"].map(at);
        fs::create_dir(&kept[0]).unwrap();
        fs::create_dir(&kept[1]).unwrap();
        fs::write(&kept[2], "").unwrap();
        let full = at("doorbell-3-0123456789abcdef");
        fs::create_dir(&full).unwrap();
        fs::write(full.join("file"), "").unwrap();
        let living = Folder::within(parent.path()).unwrap();
        assert!(!stale.exists() && !early.exists());
        assert!(kept.iter().chain([&full]).all(|path| path.exists()));
        let other = Folder::within(parent.path()).unwrap();
        assert!(living.path().exists() && other.path().exists());
    }
}
