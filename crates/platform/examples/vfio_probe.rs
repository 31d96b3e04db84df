//! Opens NVMe functions by VFIO and prints what there is: `vfio_probe ADDRESS… [--token UUID] [--watch SECONDS]`. With `--watch` it
//! then looks on, and says when the first of them goes. For the lab and for a look at a new machine; it starts no I/O.

use std::{
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use doorbell_platform::{Region, Sysfs, memlock, pci::Address, vfio::Device};

/// Offsets of CAP, VS and CSTS in BAR 0 (NVMe base, 3.1.4).
const CAP: u64 = 0;
const VS: u64 = 8;
const CSTS: u64 = 0x1c;

fn main() -> ExitCode {
    match probe() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("vfio_probe: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let (mut addresses, mut token, mut watch) = (Vec::new(), None, 0);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--token" => token = Some(value()?),
            "--watch" => watch = value()?.parse().map_err(|error| format!("--watch: {error}"))?,
            _ => addresses.push(argument.parse()?),
        }
    }
    let open = |address: &Address| Device::open(&Sysfs::default(), *address, token.as_deref());
    let devices: Vec<Device> = addresses.iter().map(open).collect::<Result<_, _>>()?;
    let registers: Vec<Region> = devices.iter().map(show).collect::<Result<_, _>>()?;
    // One piece of memory for all of them: where they share a container it is mapped once.
    let shared = Arc::new(Region::shared(4 << 20, false).map_err(|error| error.to_string())?);
    for device in &devices {
        match device.map(&shared) {
            Ok(addresses) => println!("{}: common memory at {:#x}", device.address(), addresses.at(0)),
            Err(reason) => println!("{reason}"),
        }
    }
    let end = Instant::now() + Duration::from_secs(watch);
    while Instant::now() < end {
        for (device, registers) in devices.iter().zip(&registers) {
            let status = registers.load_u32(CSTS, Ordering::Relaxed);
            if let Some(trouble) = device.trouble() {
                println!("{}: gone: {trouble}", device.address());
                return Ok(());
            }
            if registers.is_lost() || status == u32::MAX {
                println!("{}: gone: CSTS {status:#x}, lost: {}", device.address(), registers.is_lost());
                return Ok(());
            }
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Prints what a device has and returns its registers.
fn show(device: &Device) -> Result<Region, String> {
    println!("{}:", device.address());
    if let Some(warning) = device.warning() {
        println!("warning: {warning}");
    }
    println!("reset: {}", device.reset()?);
    device.enable()?;
    let mut ids = [0; 4];
    device.read_config(0, &mut ids)?;
    println!("vendor and device: {ids:02x?}");
    for number in 0..6 {
        let bar = device.bar(number)?;
        if bar.len > 0 {
            println!("BAR {number}: {:#x} bytes, mappable {:x?}", bar.len, bar.mappable);
        }
    }
    let registers = device.map_bar(0, 0..4096)?;
    println!("CAP {:#018x}", registers.load_u64(CAP, Ordering::Relaxed));
    println!("VS {:#010x}", registers.load_u32(VS, Ordering::Relaxed));
    let vectors = device.enable_interrupts(64)?;
    println!("interrupts: {vectors}, the first signals: {}", device.interrupt(0)?.is_some());
    for (name, region) in [
        ("huge", Region::shared(4 << 20, true)),
        ("ordinary", Region::shared(4 << 20, false)),
        ("private", Region::new(64 << 10)),
    ] {
        let mapped = region.map_err(|error| error.to_string()).and_then(|region| {
            let region = Arc::new(region);
            memlock::reckon(region.len() as u64)?;
            let addresses = device.map(&region)?;
            let again = device.map(&region)?;
            device.unmap(&region);
            Ok((region.address(), addresses.at(0), addresses == again, addresses.page()))
        });
        match mapped {
            Ok((address, bus, same, page)) => {
                println!(
                    "{name} memory at {address:#x}: {bus:#x} for the device, in pieces of {page}, the same again: {same}"
                );
            }
            Err(reason) => println!("{name} memory: {reason}"),
        }
    }
    Ok(registers)
}
