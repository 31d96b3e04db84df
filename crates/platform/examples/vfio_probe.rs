//! Opens an NVMe function by VFIO and prints what there is: `vfio_probe ADDRESS [--token UUID] [--watch SECONDS]`. With `--watch` it
//! then looks on, and says when the device goes. For the lab and for a look at a new machine; it starts no I/O.

use std::{
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use doorbell_platform::{Region, Sysfs, memlock, vfio::Device};

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
    let address = arguments.next().ok_or("which device? vfio_probe 0000:01:00.0")?.parse()?;
    let (mut token, mut watch) = (None, None);
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--token" => token = Some(value),
            "--watch" => watch = Some(value.parse().map_err(|error| format!("--watch {value}: {error}"))?),
            _ => return Err(format!("no option {option}")),
        }
    }
    let sysfs = Sysfs::default();
    let device = Device::open(&sysfs, address, token.as_deref())?;
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
    let end = Instant::now() + Duration::from_secs(watch.unwrap_or(0));
    while Instant::now() < end {
        let status = registers.load_u32(CSTS, Ordering::Relaxed);
        if let Some(trouble) = device.trouble() {
            println!("gone: {trouble}");
            break;
        }
        if registers.is_lost() || status == u32::MAX {
            println!("gone: registers lost ({}), CSTS {status:#x}", registers.is_lost());
            break;
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
