//! `doorbell setup`: what stands between this machine's NVMe devices and a driver in user space, and moving devices there and back.

mod bind;
mod show;
mod status;
#[cfg(test)]
mod tree;
mod usage;

use std::{path::PathBuf, process, time::Duration};

use clap::{Args, Subcommand};
use doorbell_platform::{Sysfs, pci::Address};

use self::{bind::Mover, status::Machine};
use crate::output;

/// The driver through which a process drives a device.
const VFIO: &str = "vfio-pci";
/// The kernel's own driver.
const KERNEL: &str = "nvme";
/// How long the kernel may take to let go of a device, or to take it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Options of `doorbell setup`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every NVMe device, who uses it, and what must be done before Doorbell can drive it
    Status {
        /// Print JSON, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Take devices from the kernel's driver and give them to vfio-pci, for Doorbell to drive
    Bind {
        #[command(flatten)]
        choice: Choice,
        /// Take the device with this serial number although it is in use: what uses it loses it
        #[arg(long, value_name = "SERIAL")]
        force: Vec<String>,
    },
    /// Give devices back to the kernel's driver
    Reset {
        #[command(flatten)]
        choice: Choice,
    },
}

/// Which devices, and how many huge pages.
#[derive(Debug, Args)]
struct Choice {
    /// Devices by PCI address, like 0000:01:00.0
    #[arg(value_name = "ADDRESS", conflicts_with = "all")]
    addresses: Vec<Address>,
    /// Every NVMe device; those in use are left alone
    #[arg(long)]
    all: bool,
    /// Set this many huge pages of 2 MiB aside first
    #[arg(long, value_name = "COUNT")]
    hugepages: Option<u64>,
}

/// Where the machine shows itself; tests bring a machine of their own.
struct System {
    sysfs: Sysfs,
    proc: PathBuf,
    dev: PathBuf,
    /// Loads a module of the kernel, or says why not.
    modprobe: fn(&Self, &str) -> Result<(), String>,
}

impl System {
    fn this() -> Self {
        Self { sysfs: Sysfs::default(), proc: "/proc".into(), dev: "/dev".into(), modprobe }
    }
}

fn modprobe(_: &System, module: &str) -> Result<(), String> {
    let ended = process::Command::new("modprobe").arg(module).output();
    let ended = ended.map_err(|why| format!("modprobe {module}: cannot be run: {why}"))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() { Ok(()) } else { Err(format!("modprobe {module}: {}: {}", ended.status, said.trim())) }
}

/// Shows or changes what the arguments say.
///
/// # Errors
/// What could not be read or done; what could be done is done all the same.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let system = System::this();
    let mover = Mover { system: &system, patience: PATIENCE, say: &|line| output::show(&format!("{line}\n")) };
    match &arguments.command {
        Command::Status { json } => {
            let machine = Machine::look(&system)?;
            output::show(&if *json { show::as_json(&machine) } else { show::as_text(&machine) });
            Ok(())
        }
        Command::Bind { choice, force } => mover.bind(choice, force),
        Command::Reset { choice } => mover.reset(choice),
    }
}
