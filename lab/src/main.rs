//! `doorbell-lab memory-space-off PID`: takes the memory of a PCI device away from the process that drives it through VFIO, by clearing
//! Memory Space Enable in the device's command register. The kernel then answers the next access to its registers with SIGBUS.
//!
//! It must go through the process's own VFIO descriptor: of what is written to `config` in sysfs VFIO knows nothing.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::fs::FileExt},
    process::ExitCode,
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Where vfio-pci shows configuration space in a device's file: region 7, a region being 40 bits.
const CONFIG: u64 = 7 << 40;
/// Offset of the command register (PCI Local Bus 6.2.2).
const COMMAND: u64 = 4;
/// Memory Space Enable, in its low byte.
const MEMORY_SPACE: u8 = 1 << 1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["memory-space-off", process] => memory_space_off(process),
        _ => Err("usage: doorbell-lab memory-space-off PID".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("doorbell-lab: {why}");
            ExitCode::FAILURE
        }
    }
}

fn memory_space_off(process: &str) -> Result<(), String> {
    let folder = format!("/proc/{process}/fd");
    let descriptors = fs::read_dir(&folder).map_err(|why| format!("{folder}: {why}"))?.flatten();
    let is_device =
        |path: &fs::DirEntry| fs::read_link(path.path()).is_ok_and(|to| to.to_string_lossy().contains("[vfio-device]"));
    let number = descriptors.filter(is_device).find_map(|path| path.file_name().to_str()?.parse().ok());
    let number: i32 = number.ok_or_else(|| format!("process {process} has no VFIO device open"))?;
    let device =
        File::from(borrowed(process, number).map_err(|why| format!("descriptor {number} of {process}: {why}"))?);
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
