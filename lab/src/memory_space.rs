//! Taking the memory of a PCI device away from the process that drives it through VFIO, by clearing Memory Space Enable in the device's
//! command register. The kernel then answers the next access to its registers with SIGBUS.
//!
//! It goes through that process's own VFIO descriptor: VFIO knows nothing of what is written to `config` in sysfs.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Where vfio-pci shows configuration space in a device's file: region 7, a region being 40 bits.
const CONFIG: u64 = 7 << 40;
/// Offset of the command register (PCI Local Bus 6.2.2).
const COMMAND: u64 = 4;
/// Memory Space Enable, in its low byte.
const MEMORY_SPACE: u8 = 1 << 1;

/// Clears Memory Space Enable in the device that the process drives.
///
/// # Errors
/// What could not be done and why.
pub fn off(process: &str) -> Result<(), String> {
    let folder = format!("/proc/{process}/fd");
    let entries = fs::read_dir(&folder).map_err(|why| format!("{folder}: {why}"))?.flatten();
    let is_device = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().contains("[vfio-device]"))
    };
    let number = entries.filter(is_device).find_map(|entry| entry.file_name().to_str()?.parse().ok());
    let number: i32 = number.ok_or_else(|| format!("process {process} has no VFIO device open"))?;
    let device = borrowed(process, number).map_err(|why| format!("descriptor {number} of {process}: {why}"))?;
    let device = File::from(device);
    let mut command = [0];
    let cleared = device.read_exact_at(&mut command, CONFIG + COMMAND);
    let cleared = cleared.and_then(|()| device.write_all_at(&[command[0] & !MEMORY_SPACE], CONFIG + COMMAND));
    cleared.map_err(|why| format!("the device's command register: {why}"))
}

/// A duplicate of another process's descriptor.
fn borrowed(process: &str, number: i32) -> Result<OwnedFd, String> {
    let process = process.parse().ok().and_then(Pid::from_raw).ok_or("no process number")?;
    let handle = pidfd_open(process, PidfdFlags::empty()).map_err(|why| why.to_string())?;
    pidfd_getfd(handle, number, PidfdGetfdFlags::empty()).map_err(|why| why.to_string())
}
