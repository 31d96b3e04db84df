//! Takes the memory of a device away under the process that uses it: `vfio_disable PROCESS` clears Memory Space Enable in the
//! command register of the devices that the process has open by VFIO. What it has mapped of them is gone at once, and its next touch
//! raises SIGBUS. For the lab, as root: a driver must survive it.
//!
//! It has to go by the process's own descriptor: VFIO does not notice what is written by way of sysfs.

use std::{fs::File, os::unix::fs::FileExt, process::ExitCode};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// Where vfio-pci has the command register in a device's file: region 7, byte 4.
const COMMAND: u64 = (7 << 40) + 4;
/// Bits of the low byte: memory space and I/O space.
const SPACES: u8 = 3;

fn main() -> ExitCode {
    match disable() {
        Ok(devices) => {
            println!("{devices} disabled");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("vfio_disable: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn disable() -> Result<usize, String> {
    let number = std::env::args().nth(1).and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
    let process = number.ok_or("which process? vfio_disable 1234")?;
    let failed = |error: &dyn std::fmt::Display| format!("process {process}: {error}");
    let handle = pidfd_open(process, PidfdFlags::empty()).map_err(|error| failed(&error))?;
    let mut devices = 0;
    for entry in std::fs::read_dir(format!("/proc/{process}/fd")).map_err(|error| failed(&error))?.flatten() {
        let is_device = std::fs::read_link(entry.path()).is_ok_and(|link| link.ends_with("anon_inode:[vfio-device]"));
        let descriptor = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(descriptor) = descriptor.filter(|_| is_device) {
            let file = pidfd_getfd(&handle, descriptor, PidfdGetfdFlags::empty()).map_err(|error| failed(&error))?;
            let (file, mut command) = (File::from(file), [0]);
            file.read_exact_at(&mut command, COMMAND).map_err(|error| failed(&error))?;
            file.write_all_at(&[command[0] & !SPACES], COMMAND).map_err(|error| failed(&error))?;
            devices += 1;
        }
    }
    if devices == 0 { Err(failed(&"it has no device open by VFIO")) } else { Ok(devices) }
}
