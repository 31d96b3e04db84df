//! What to do when the kernel gives no ring.

use std::{fs, io};

use doorbell_platform::memlock;
use rustix::io::Errno;

/// Why there is no AIO context.
pub fn aio(name: &str, slots: u16, error: &io::Error) -> String {
    let begin = format!("{name}: io_setup for {slots} I/Os at once: {error}");
    match Errno::from_io_error(error) {
        Some(Errno::AGAIN) => {
            let setting =
                |name: &str| fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap_or_default().trim().to_owned();
            format!(
                "{begin}: all processes together have {} of the {} that fs.aio-max-nr allows. Raise it (sysctl -w fs.aio-max-nr=1048576), \
                 lower -q, or use io_uring (-R)",
                setting("aio-nr"),
                setting("aio-max-nr")
            )
        }
        Some(Errno::NOSYS | Errno::PERM) => {
            format!(
                "{begin}: this kernel has no AIO, or a filter for system calls (seccomp) forbids it; use io_uring (-R)"
            )
        }
        _ => begin,
    }
}

/// Why there is no io_uring, which was to have `bytes` of memory registered.
pub fn uring(name: &str, slots: u16, registered: bool, bytes: usize, error: &io::Error) -> String {
    let begin = format!("{name}: io_uring for {slots} I/Os at once: {error}");
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::NOSYS | Errno::ACCESS) => {
            let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
            let why = match disabled.trim() {
                "1" => {
                    "kernel.io_uring_disabled is 1, which leaves it to root and the group of kernel.io_uring_group: run this as root, or \
                        sysctl -w kernel.io_uring_disabled=0"
                }
                "2" => "kernel.io_uring_disabled is 2, which forbids it to all: sysctl -w kernel.io_uring_disabled=0",
                _ => {
                    "this kernel has no io_uring, or a filter for system calls (seccomp, as containers have one) forbids it: allow it there"
                }
            };
            format!("{begin}: {why}, or use --engine libaio")
        }
        Some(Errno::NOMEM) => {
            let limit = memlock::reckon(bytes as u64).err().map_or_else(String::new, |why| format!(": {why}"));
            let way = if registered { "; --unregistered pins nothing for long" } else { "" };
            format!("{begin}{limit}{way}")
        }
        Some(Errno::INVAL) => format!(
            "{begin}: this kernel does not know all that is asked for; leave --iopoll, --sqpoll out, or add --unregistered"
        ),
        _ => begin,
    }
}
