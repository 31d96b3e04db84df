//! Files that a run of ours was the last to write. They bear a mark, an extended attribute with the size and the time of the last
//! change that the run left: what somebody changed since is theirs again.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};

const NAME: &str = "user.doorbell.written";

fn state(metadata: &Metadata) -> String {
    format!("{} {}.{:09}", metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Marks a regular file as last written by us; does nothing to anything else.
///
/// # Errors
/// That of the system, for instance that the file system keeps no such attributes.
pub fn mark(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_file() {
        let file = File::open(path)?;
        // What is still on its way to the file changes its time when it gets there.
        file.sync_all()?;
        fsetxattr(&file, NAME, state(&file.metadata()?).as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

pub(crate) fn is_marked(file: &File, metadata: &Metadata) -> bool {
    let mut mark = [0; 64];
    let len = fgetxattr(file, NAME, &mut mark);
    len.is_ok_and(|len| mark.get(..len) == Some(state(metadata).as_bytes()))
}
