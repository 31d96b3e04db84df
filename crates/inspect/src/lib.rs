//! What is on a device or in a file, and who uses it: asked before a run writes there.
//!
//! [`signatures`] knows partition tables, file systems and what volume managers leave, in bytes from wherever they were read.
//! [`path`] looks at a file or a device of the kernel as a whole: who uses it, and what is on it. What is found is a sentence that
//! goes on after "it".

mod content;
mod format;
mod signature;
mod usage;

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use doorbell_platform::{Sysfs, sysfs};

pub use content::{EDGE, Ends, read_ends};
pub use format::format;
pub use signature::signatures;
pub use usage::Machine;

/// What makes a file or a device of this machine somebody's, in the order of weight; empty when nothing does.
///
/// # Errors
/// What could not be looked at, and why.
pub fn path(path: &Path) -> Result<Vec<String>, String> {
    look(path, &Machine::default())
}

fn look(path: &Path, machine: &Machine) -> Result<Vec<String>, String> {
    let fail = |what: &str, why: io::Error| format!("{what} {}: {why}", path.display());
    let found = std::fs::metadata(path).map_err(|why| fail("looking at", why))?;
    let kind = found.file_type();
    if kind.is_char_device() {
        let block = behind_passthrough(path, found.rdev())?;
        return look(&block, machine);
    }
    // A pipe would be waited for.
    if !kind.is_file() && !kind.is_block_device() {
        return Err(format!("{}: it is neither a file nor a block device", path.display()));
    }
    let file = File::open(path).map_err(|why| fail("opening", why))?;
    // What is found by seeking is the size of a block device too, which its metadata do not have.
    let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|why| fail("measuring", why.into()))?;
    let read = |offset: u64, bytes: usize| {
        let mut data = vec![0; bytes];
        file.read_exact_at(&mut data, offset).map_err(|why| fail("reading", why))?;
        Ok::<_, String>(data)
    };
    let ends = read_ends(size, read)?;
    let mut findings = match kind.is_block_device() {
        true => machine.users_of_device(path, found.rdev()),
        false => machine.users_of_file(&found),
    };
    findings.extend(signatures(&ends).into_iter().map(|what| format!("holds {what}")));
    if kind.is_file() {
        findings.extend(format(&ends).map(|what| format!("is {what}")));
    }
    Ok(findings)
}

/// The block device of an NVMe passthrough device: `ng0n1` is the same namespace as `nvme0n1`, in the same folder of sysfs.
fn behind_passthrough(path: &Path, device: u64) -> Result<PathBuf, String> {
    let number = usage::number(device);
    let folder = Sysfs::default().path(format!("dev/char/{number}"));
    let name = folder.canonicalize().ok().and_then(|folder| {
        let name = folder.file_name()?.to_str()?.strip_prefix("ng")?.to_owned();
        Some((folder.parent()?.to_path_buf(), format!("nvme{name}")))
    });
    let Some((parent, name)) = name else {
        return Err(format!("{}: it is a character device, and no NVMe passthrough device", path.display()));
    };
    // On a controller with several paths the block device is one level up, or the other way round.
    let known = sysfs::names(&parent).contains(&name) || Sysfs::default().path(format!("block/{name}")).exists();
    match known {
        true => Ok(Path::new("/dev").join(name)),
        false => Err(format!("{}: its block device /dev/{name} is not there to be looked at", path.display())),
    }
}

#[cfg(test)]
mod tests;
