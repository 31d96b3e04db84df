//! What goes when this process goes, even when a second signal ends it: a folder of this process alone, for sockets that only it
//! connects to, and files that are not complete.

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Names drawn before giving up.
const DRAWS: u32 = 16;

static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn left() -> MutexGuard<'static, Vec<PathBuf>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Such a folder.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one that nobody else may enter.
    ///
    /// # Errors
    /// Where it was to be, and what the system said.
    pub fn new() -> Result<Self, String> {
        let parent = std::env::temp_dir();
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
                    left().push(path.clone());
                    return Ok(Self(path));
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
}
