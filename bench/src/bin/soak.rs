//! Connect, run, kill, reconnect, for as long as it is told, on both sides:
//!
//!     cargo build --release && cargo run --release -p doorbell-bench --bin soak -- --minutes 60
//!
//! One target lives through it all while hosts come and go, some of them killed, some of them no hosts at all; and one host lives
//! through it all while its target is killed, ended, and started again. After every cycle, when nothing else is there, the memory
//! and the descriptors of these two are looked at. The status is 0 when neither has grown; a table for docs/soak.md says what it was.

use std::{
    error::Error,
    fs::{self, File},
    io::Write,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const NQN: &str = "nqn.2026-11.io.doorbell:soak";
/// How long anything here may take that should take a moment.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a target may keep the connections of hosts that are gone (it gives a host a second to close), and a bit.
const SETTLE: Duration = Duration::from_millis(1500);
/// Memory that the median of the last quarter may lie above that of the second. Allocators keep back what the largest moment took,
/// and the moments differ; a leak of a kilobyte with every connection is twice this in two minutes and sixty times in an hour.
const GROWTH_KIB: u64 = 512;
/// Cycles without which medians of quarters say nothing.
const LEAST_CYCLES: usize = 12;
/// Connections a cycle that are dropped without having become hosts.
const STRAYS: usize = 48;
/// Runs, one a cycle in turn.
const SHAPES: [&str; 7] = [
    "-q 1 -o 512 -w randread",
    "-q 32 -o 4k -w randwrite",
    "-q 128 -o 4k -w randrw -M 70 -P 4",
    "-q 8 -o 128k -w write -H -I",
    "-q 16 -o 1m -w randrw -M 50 -H",
    "-q 64 -o 16k -w read -I -P 2 -E",
    "-q 4 -o 64k -w randwrite -E -P 8",
];

fn main() -> ExitCode {
    match minutes().and_then(soak) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("soak: {why}");
            ExitCode::FAILURE
        }
    }
}

fn minutes() -> Outcome<Duration> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let minutes: f64 = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => 60.0,
        ["--minutes", number] => number.parse().map_err(|_| format!("--minutes {number} is no number"))?,
        _ => return Err("soak [--minutes N]".into()),
    };
    Ok(Duration::try_from_secs_f64(minutes * 60.0)?)
}

/// Runs it; returns whether everything stayed flat. Every process is killed when its owner here goes, whatever the reason.
fn soak(time: Duration) -> Outcome<bool> {
    let room = Room::new()?;
    let mut target = room.target("target", 0)?;
    let port = target.port()?;
    let mut restarted = room.target("restarted-target", 0)?;
    let restarted_port = restarted.port()?;
    let load = format!("-q 1 -o 4k -w randrw -M 50 -E -H -I -t 1000000 --reconnect 1000 -r {}", id(restarted_port));
    let mut host = room.perf("host", &load)?;
    host.until("Launching workers")?;

    let end = Instant::now() + time;
    let (mut of_target, mut of_host, mut next) = (Vec::new(), Vec::new(), Instant::now());
    while Instant::now() < end {
        let cycle = of_target.len();
        room.run(port, SHAPES[cycle % SHAPES.len()])?;
        room.kill(port, SHAPES[(cycle + 3) % SHAPES.len()], cycle)?;
        strays(port)?;
        for subcommand in ["discover", "identify"] {
            room.start("asking", &[subcommand, "-r", &id(port)])?.finish()?.good()?;
        }
        restarted = room.restart(restarted, restarted_port, cycle)?;
        host.until_times("it is back after", cycle + 1)?;
        room.pause(SETTLE)?;
        of_target.push(target.sample()?);
        of_host.push(host.sample()?);
        if Instant::now() >= next {
            println!("{} cycles; target {}; host {}", of_target.len(), of_target[cycle], of_host[cycle]);
            next += Duration::from_secs(60);
        }
    }
    host.signal("-INT")?;
    let ended = host.finish()?;
    ended.good()?;
    target.signal("-INT")?;
    target.finish()?.good()?;
    let cycles = of_target.len();
    if cycles < LEAST_CYCLES {
        return Err(format!("{cycles} cycles are too few to compare; {LEAST_CYCLES} take about a minute").into());
    }
    println!();
    println!(
        "{cycles} cycles: as many runs and hosts killed, {} stray connections, as many targets lost",
        cycles * STRAYS
    );
    let outages = ended.errors.lines().filter(|line| line.starts_with("Outages:"));
    outages.for_each(|line| println!("{line}"));
    println!();
    println!("| process | | 1st quarter | 2nd | 3rd | 4th |\n|---|---|---|---|---|---|");
    let flat = [report("target", &of_target), report("host", &of_host)];
    Ok(flat.into_iter().all(|flat| flat))
}

fn id(port: u16) -> String {
    // An argument of its own; the words of a shape are split at blanks.
    format!("trtype:tcp\tadrfam:IPv4\ttraddr:127.0.0.1\ttrsvcid:{port}\tsubnqn:{NQN}")
}

/// Connections that say nothing, a part of ICReq, something else, or ICReq and a part of a command, and are gone.
fn strays(port: u16) -> Outcome<()> {
    let mut initialize = [0; 128];
    initialize[..8].copy_from_slice(&[0, 0, 128, 0, 128, 0, 0, 0]);
    let capsule = [4, 0, 72, 72, 0, 32, 0, 0, 1];
    let says: [&[&[u8]]; 4] = [&[], &[&initialize[..50]], &[b"GET / HTTP/1.1\r\n\r\n"], &[&initialize, &capsule]];
    let mut open = Vec::new();
    for at in 0..STRAYS {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        // The target may have closed already what made no sense.
        let _ = says[at % says.len()].iter().try_for_each(|bytes| socket.write_all(bytes));
        open.push(socket);
    }
    Ok(())
}

/// What a process takes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    kib: u64,
    descriptors: u64,
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} KiB, {} descriptors", self.kib, self.descriptors)
    }
}

/// Prints the medians of the quarters; returns whether the last is no more than the second.
fn report(name: &str, samples: &[Sample]) -> bool {
    let quarter = |at: usize| &samples[samples.len() * at / 4..samples.len() * (at + 1) / 4];
    let row = |what, most_growth, of: fn(&Sample) -> u64| {
        let medians = [0, 1, 2, 3].map(|at| {
            let mut values: Vec<u64> = quarter(at).iter().map(of).collect();
            values.sort_unstable();
            values[values.len() / 2]
        });
        let flat = medians[3] <= medians[1] + most_growth;
        let verdict = if flat { "" } else { " **grows**" };
        println!("| {name} | {what} | {} | {} | {} | {}{verdict} |", medians[0], medians[1], medians[2], medians[3]);
        flat
    };
    let memory = row("memory (KiB)", GROWTH_KIB, |sample| sample.kib);
    let descriptors = row("descriptors", 0, |sample| sample.descriptors);
    memory && descriptors
}

/// Where processes run: the binary, a folder for what they say, and the signal to end.
struct Room {
    doorbell: PathBuf,
    folder: PathBuf,
    interrupted: Arc<AtomicBool>,
}

impl Room {
    fn new() -> Outcome<Self> {
        let doorbell = std::env::current_exe()?.with_file_name("doorbell");
        if !doorbell.exists() {
            return Err(format!("{} is missing: cargo build --release", doorbell.display()).into());
        }
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        let folder = std::env::temp_dir().join(format!("doorbell-soak-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self { doorbell, folder, interrupted })
    }

    fn start(&self, name: &str, arguments: &[&str]) -> Outcome<Process> {
        let [output, errors] = ["out", "err"].map(|end| self.folder.join(format!("{name}.{end}")));
        let child = Command::new(&self.doorbell)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?)
            .spawn()?;
        let (name, interrupted) = (name.into(), self.interrupted.clone());
        Ok(Process { name, child, output, errors, interrupted })
    }

    /// A target that sleeps when idle.
    fn target(&self, name: &str, port: u16) -> Outcome<Process> {
        let listen = format!("127.0.0.1:{port}");
        let mut target = self.start(name, &["target", "--ram", "64M", "--listen", &listen, "--nqn", NQN])?;
        target.until("Listening on tcp:")?;
        Ok(target)
    }

    fn perf(&self, name: &str, options: &str) -> Outcome<Process> {
        let arguments: Vec<&str> = std::iter::once("perf").chain(options.split(' ')).collect();
        self.start(name, &arguments)
    }

    /// A run of a second.
    fn run(&self, port: u16, shape: &str) -> Outcome<()> {
        let ended = self.perf("run", &format!("{shape} -t 1 -r {}", id(port)))?.finish()?;
        match ended.output.contains("Total") {
            true => ended.good(),
            false => Err(format!("no Total of {shape}:\n{}{}", ended.output, ended.errors).into()),
        }
    }

    /// A run that is killed in the middle, at another point each time.
    fn kill(&self, port: u16, shape: &str, cycle: usize) -> Outcome<()> {
        let mut run = self.perf("killed", &format!("{shape} -t 60 -r {}", id(port)))?;
        run.until("Launching workers")?;
        self.pause(Duration::from_millis(50 + cycle as u64 * 37 % 300))?;
        run.alive()
    }

    /// Ends a target, by force in every second cycle, and starts it again on its port.
    fn restart(&self, target: Process, port: u16, cycle: usize) -> Outcome<Process> {
        if cycle.is_multiple_of(2) {
            target.signal("-TERM")?;
            target.finish()?.good()?;
        } else {
            drop(target);
        }
        self.pause(Duration::from_millis(100 + cycle as u64 * 53 % 400))?;
        self.target("restarted-target", port)
    }

    fn pause(&self, time: Duration) -> Outcome<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            check(&self.interrupted)?;
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn check(interrupted: &AtomicBool) -> Outcome<()> {
    if interrupted.load(Ordering::Relaxed) { Err("interrupted".into()) } else { Ok(()) }
}

/// A process of ours, killed when dropped.
struct Process {
    name: String,
    child: Child,
    output: PathBuf,
    errors: PathBuf,
    interrupted: Arc<AtomicBool>,
}

/// What a process left.
struct Ended {
    name: String,
    status: ExitStatus,
    output: String,
    errors: String,
}

impl Ended {
    fn good(&self) -> Outcome<()> {
        match self.status.success() {
            true => Ok(()),
            false => Err(format!("{} ended with {}:\n{}{}", self.name, self.status, self.output, self.errors).into()),
        }
    }
}

impl Process {
    fn port(&self) -> Outcome<u16> {
        let said = fs::read_to_string(&self.output)?;
        let port =
            said.lines().find_map(|line| line.strip_prefix("Listening on tcp:")?.rsplit(':').next()?.parse().ok());
        port.ok_or_else(|| format!("{} does not say where it listens: {said}", self.name).into())
    }

    /// Waits until it has said a text.
    fn until(&mut self, text: &str) -> Outcome<()> {
        self.until_times(text, 1)
    }

    /// Waits until it has said a text that often.
    fn until_times(&mut self, text: &str, times: usize) -> Outcome<()> {
        self.wait(&format!("says \"{text}\""), |process| {
            process.alive()?;
            let heard = |path: &Path| fs::read_to_string(path).map(|said| said.matches(text).count());
            Ok((heard(&process.output)? + heard(&process.errors)? >= times).then_some(()))
        })
    }

    fn wait<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Outcome<Option<T>>) -> Outcome<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            check(&self.interrupted)?;
            if let Some(value) = done(self)? {
                return Ok(value);
            }
            if Instant::now() >= end {
                let said = fs::read_to_string(&self.errors)?;
                return Err(format!("{}: waited {PATIENCE:?} until it {what}:\n{said}", self.name).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// An error if it is not there any more.
    fn alive(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let said = fs::read_to_string(&self.errors)?;
                Err(format!("{} is gone, with {status}:\n{said}", self.name).into())
            }
        }
    }

    fn finish(mut self) -> Outcome<Ended> {
        let status = self.wait("ends", |process| Ok(process.child.try_wait()?))?;
        let [output, errors] = [&self.output, &self.errors].map(fs::read_to_string);
        Ok(Ended { name: self.name.clone(), status, output: output?, errors: errors? })
    }

    fn signal(&self, signal: &str) -> Outcome<()> {
        match Command::new("kill").args([signal, &self.child.id().to_string()]).status()?.success() {
            true => Ok(()),
            false => Err(format!("{} is gone", self.name).into()),
        }
    }

    fn sample(&mut self) -> Outcome<Sample> {
        self.alive()?;
        let of = Path::new("/proc").join(self.child.id().to_string());
        let status = fs::read_to_string(of.join("status"))?;
        let memory =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        let descriptors = fs::read_dir(of.join("fd"))?.count() as u64;
        Ok(Sample { kib: memory.ok_or("no VmRSS in /proc")?, descriptors })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(grow: impl Fn(u64) -> (u64, u64)) -> Vec<Sample> {
        let of = |at| {
            let (kib, descriptors) = grow(at);
            Sample { kib, descriptors }
        };
        (0..40).map(of).collect()
    }

    #[test]
    fn what_is_taken_once_or_for_a_moment_is_no_growth() {
        assert!(report("warm-up", &samples(|at| (5000 + 1000 * at.min(10), 10 + at.min(3)))));
        assert!(report("moments", &samples(|at| if at % 3 == 0 { (9000, 30) } else { (5000, 11) })));
    }

    #[test]
    fn what_is_lost_bit_by_bit_is_growth() {
        assert!(!report("memory", &samples(|at| (5000 + 48 * at, 11))));
        assert!(!report("descriptors", &samples(|at| (5000, 11 + at / 20))));
    }
}
