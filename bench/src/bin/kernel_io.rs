//! `doorbell perf` on files and devices of the kernel, in interleaved pairs with fio from the distribution (`apt install fio`):
//!
//!     cargo build --release && cargo run --release -p doorbell-bench --bin kernel_io [PAIRS [TEXT [PATH…]]]
//!
//! As root on a loop device over a file in memory, and on a file; or on the given paths, which are only read. Both sides are pinned to one
//! core. fio waits in io_getevents or io_uring_enter; Doorbell runs twice, looking without end (its default), and sleeping in the same calls
//! (`-E`). Prints the command lines, then a row a shape: IOPS, processor time an I/O as the system charges it to the process where both
//! sleep, and the medians of the ratios to fio run by run; with TEXT only rows that contain it.
//!
//! A loop device's I/Os are done by a thread of the kernel's, and at small depths where it runs decides what both reach: left to itself it
//! moves between cores several times a second. So the kernel's unbound workers are pinned, too, through the system's workqueue mask, which
//! is put back at the end: to another core ("apart"), and to the same ("shared"), where nobody may look without end.

use std::{
    error::Error,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use doorbell_bench::{median, program::doorbell};
use doorbell_platform::cpu;
use signal_hook::consts::{SIGINT, SIGTERM};

const TIME: u32 = 1;
/// What has Doorbell sleep.
const SLEEPING: &str = " -E";
const SIZE: usize = 256 << 20;
/// The cores of the kernel's workers that belong to none.
const WORKERS: &str = "/sys/devices/virtual/workqueue/cpumask";
const DEPTHS: [u32; 3] = [1, 32, 128];
/// Name, options of doorbell, options of fio.
const ENGINES: [(&str, &str, &str); 3] = [
    ("libaio", "--engine libaio", "--ioengine=libaio"),
    ("io_uring", "--engine io_uring --unregistered", "--ioengine=io_uring"),
    ("io_uring registered", "--engine io_uring", "--ioengine=io_uring --fixedbufs=1 --registerfiles=1"),
];

/// What one run reached.
struct Reached {
    iops: f64,
    /// Microseconds of processor time an I/O.
    cpu: f64,
}

type Value = fn(&Reached) -> f64;

/// What is measured on.
struct Subject {
    name: String,
    path: PathBuf,
    /// The core of the kernel's workers, where it matters.
    workers: Option<usize>,
}

/// What was set up for that, taken down when it goes.
#[derive(Default)]
struct Stage {
    files: Vec<PathBuf>,
    device: Option<String>,
    /// What the mask of the kernel's workers was.
    mask: Option<String>,
}

impl Stage {
    fn set_up(&mut self, cores: &[usize], core: usize) -> Result<Vec<Subject>, Box<dyn Error>> {
        let name = format!("doorbell-bench-{}", std::process::id());
        let (memory, disk) = (Path::new("/dev/shm").join(&name), std::env::current_dir()?.join(&name));
        self.files = vec![memory.clone(), disk.clone()];
        for path in &self.files {
            let mut file = File::create(path)?;
            let piece = vec![1; 1 << 20];
            (0..SIZE >> 20).try_for_each(|_| file.write_all(&piece))?;
            file.sync_all()?;
        }
        let mut subjects = Vec::new();
        let device = Command::new("losetup").args(["--find", "--show"]).arg(&memory).output()?;
        if device.status.success() {
            let device = self.device.insert(String::from_utf8(device.stdout)?.trim().to_owned());
            self.mask = Some(fs::read_to_string(WORKERS).map_err(|why| format!("{WORKERS}: {why}"))?);
            let apart = cores.iter().find(|&&other| other != core).map(|&other| ("loop apart", other));
            subjects.extend(apart.into_iter().chain([("loop shared", core)]).map(|(name, workers)| Subject {
                name: name.into(),
                path: device.as_str().into(),
                workers: Some(workers),
            }));
        } else {
            eprintln!("no loop device: {}", String::from_utf8_lossy(&device.stderr).trim());
        }
        subjects.push(Subject { name: "file".into(), path: disk, workers: None });
        Ok(subjects)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mask) = &self.mask
            && let Err(why) = fs::write(WORKERS, mask)
        {
            eprintln!("{WORKERS} is not {} again: {why}", mask.trim());
        }
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
        self.files.iter().for_each(|file| drop(fs::remove_file(file)));
    }
}

/// A core as the system's masks say it: words of 32 bits, the highest first.
fn mask(core: usize) -> String {
    format!("{:x}{}", 1_u32 << (core % 32), ",00000000".repeat(core / 32))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let pairs: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let only = arguments.next().unwrap_or_default();
    let given: Vec<_> =
        arguments.map(|path| Subject { name: path.clone(), path: path.into(), workers: None }).collect();
    let fio = Command::new("fio").arg("--version").output().map_err(|why| format!("fio: {why}; apt install fio"))?;
    let cores = cpu::allowed()?;
    let core = *cores.last().ok_or("no core")?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    println!("{} beside {}", doorbell()?.display(), String::from_utf8_lossy(&fio.stdout).trim());
    let mut stage = Stage::default();
    let subjects = if given.is_empty() { stage.set_up(&cores, core)? } else { given };
    println!("\n    {}", ours("PATH", core, 32, ENGINES[2].1, ""));
    println!("    {}", ours("PATH", core, 32, ENGINES[2].1, SLEEPING));
    println!("    {}\n", theirs("PATH", core, 32, ENGINES[2].2));
    println!("| | fio IOPS | polling | ratio | sleeping | ratio | fio us/I/O | sleeping us/I/O | ratio |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for Subject { name, path, workers } in &subjects {
        let path = path.to_str().ok_or("a path that is no text")?;
        if let Some(workers) = workers {
            fs::write(WORKERS, mask(*workers)).map_err(|why| format!("{WORKERS}: {why}"))?;
        }
        // Who looks without end leaves no time to the kernel's thread.
        let polls = *workers != Some(core);
        for (engine, our_options, their_options) in ENGINES {
            for depth in DEPTHS {
                let row = format!("{name}, {engine}, depth {depth}");
                if !row.contains(&only) {
                    continue;
                }
                let mut sides: [Vec<Reached>; 3] = Default::default();
                for pair in 0..pairs {
                    let mut turn = |side: usize| -> Result<(), Box<dyn Error>> {
                        if stop.load(Ordering::Relaxed) {
                            return Err("interrupted".into());
                        }
                        sides[side].push(match side {
                            0 => run_fio(&theirs(path, core, depth, their_options))?,
                            1 => run_doorbell(&ours(path, core, depth, our_options, ""))?,
                            _ => run_doorbell(&ours(path, core, depth, our_options, SLEEPING))?,
                        });
                        Ok(())
                    };
                    // Who is first changes, as the machine does.
                    (0..3).map(|step| (pair + step) % 3).filter(|&side| side != 1 || polls).try_for_each(&mut turn)?;
                }
                let of = |side: usize, value: Value| median(&mut sides[side].iter().map(value).collect::<Vec<_>>());
                let ratio = |side: usize, value: Value| {
                    let pairs = sides[0].iter().zip(&sides[side]);
                    median(&mut pairs.map(|(fio, our)| value(our) / value(fio)).collect::<Vec<_>>())
                };
                let [iops, cpu]: [Value; 2] = [|one| one.iops, |one| one.cpu];
                let polling = match polls {
                    true => format!("{:.1}k | {:.2}", of(1, iops) / 1e3, ratio(1, iops)),
                    false => "- | -".into(),
                };
                println!(
                    "| {row} | {:.1}k | {polling} | {:.1}k | {:.2} | {:.2} | {:.2} | {:.2} |",
                    of(0, iops) / 1e3,
                    of(2, iops) / 1e3,
                    ratio(2, iops),
                    of(0, cpu),
                    of(2, cpu),
                    ratio(2, cpu)
                );
            }
        }
    }
    Ok(())
}

fn ours(path: &str, core: usize, depth: u32, engine: &str, waits: &str) -> String {
    format!("doorbell perf -q {depth} -o 4096 -w randread -t {TIME} -c [{core}] {engine}{waits} --json - {path}")
}

fn theirs(path: &str, core: usize, depth: u32, engine: &str) -> String {
    format!(
        "fio --name=bench --filename={path} --readonly --rw=randread --bs=4096 --direct=1 --iodepth={depth} --time_based \
         --runtime={TIME} --cpus_allowed={core} --thread --norandommap --randrepeat=0 --output-format=json {engine}"
    )
}

fn run_doorbell(line: &str) -> Result<Reached, Box<dyn Error>> {
    let arguments = line.split(' ').skip(1);
    let output = Command::new(doorbell()?).args(arguments).stderr(Stdio::null()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let document: serde_json::Value = serde_json::from_str(&text).map_err(|why| format!("{line}: {why}"))?;
    if !output.status.success() {
        return Err(format!("{line}: {}", document["exit"]["errors"]).into());
    }
    let percent = document["workers"][0]["cpu_percent"].as_f64().ok_or("no processor time")?;
    let iops = document["results"]["merged"]["iops"].as_f64().ok_or("no IOPS")?;
    Ok(Reached { iops, cpu: percent / 100.0 / iops * 1e6 })
}

fn run_fio(line: &str) -> Result<Reached, Box<dyn Error>> {
    let output = Command::new("fio").args(line.split(' ').skip(1)).stderr(Stdio::null()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let start = text.find('{').ok_or_else(|| format!("{line}: {text}"))?;
    let document: serde_json::Value = serde_json::from_str(&text[start..])?;
    let job = &document["jobs"][0];
    let number = |value: &serde_json::Value| value.as_f64().ok_or("fio's output is of another form");
    let (iops, percent) = (number(&job["read"]["iops"])?, number(&job["usr_cpu"])? + number(&job["sys_cpu"])?);
    Ok(Reached { iops, cpu: percent / 100.0 / iops * 1e6 })
}
