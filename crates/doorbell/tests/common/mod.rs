//! Running the binary as a user does: a target on a free port, commands with a deadline whose documents are held against their grammar,
//! and the reader of the result table that scripts use.
#![allow(missing_docs, dead_code, reason = "tests, each of which uses a part of it")]

pub mod both;
pub mod disk;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    ops::{Deref, DerefMut},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use doorbell_result::schema;

pub const DOORBELL: &str = env!("CARGO_BIN_EXE_doorbell");
pub const NQN: &str = "nqn.2016-06.io.doorbell:test";
/// Far more than any command here needs; a hang is a failure, not a stuck test run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Less than a drain may take that nobody hurries (8 s), and enough for a busy machine to end one that somebody does (1.5 s).
pub const BEFORE_THE_DRAIN_ENDS: Duration = Duration::from_secs(6);

/// Tests whose processes poll take turns, so that two cores are enough for them.
pub fn turn() -> File {
    let path = std::env::temp_dir().join("doorbell-polling-tests.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    file.lock().unwrap();
    file
}

/// A finished command.
#[derive(Debug)]
pub struct Output {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

pub fn run(args: &[&str]) -> Output {
    start(args).finish()
}

pub struct Running {
    pub child: Process,
    started: Instant,
    stdout: Pipe,
    stderr: Pipe,
    /// The document that it is to write.
    json: Option<Json>,
}

/// A document by where it goes, and the grammar that it follows.
struct Json {
    place: String,
    check: fn(&serde_json::Value) -> Result<(), String>,
}

impl Json {
    /// That of a command line.
    fn of(args: &[&str]) -> Option<Self> {
        let check = match *args.first()? {
            "perf" | "merge" => schema::check,
            "compare" | "ab" => schema::check_comparison,
            _ => return None,
        };
        let own = args.iter().take_while(|arg| **arg != "--");
        let place = own.skip_while(|arg| **arg != "--json").nth(1)?.to_string();
        Some(Self { place, check })
    }

    /// What is there must follow it, however the process ended.
    fn check(&self, stdout: &str) {
        let text = match self.place.as_str() {
            "-" => stdout.to_owned(),
            file => fs::read_to_string(file).unwrap_or_default(),
        };
        if !text.is_empty() {
            let value = serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}"));
            (self.check)(&value).unwrap_or_else(|why| panic!("{why}: {text}"));
        }
    }
}

/// A process, killed when dropped.
pub struct Process(Child);

impl Process {
    /// Starts it, with nothing to read.
    pub fn of(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = self.wait();
    }
}

/// What a process says, as it comes.
struct Pipe {
    text: Arc<Mutex<String>>,
    thread: thread::JoinHandle<()>,
}

pub fn start(args: &[&str]) -> Running {
    Running { json: Json::of(args), ..start_as(Command::new(DOORBELL).args(args)) }
}

pub fn start_as(command: &mut Command) -> Running {
    let mut child = Process::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (stdout, stderr) = (Pipe::new(child.stdout.take().unwrap()), Pipe::new(child.stderr.take().unwrap()));
    Running { child, started: Instant::now(), stdout, stderr, json: None }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

impl Pipe {
    fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let collected = text.clone();
        let thread = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut bytes) {
                collected.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { text, thread }
    }

    fn rest(self) -> String {
        self.thread.join().unwrap();
        std::mem::take(&mut *self.text.lock().unwrap())
    }
}

impl Running {
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits until it has said this, on either stream.
    pub fn until_it_says(&self, what: &str) {
        self.until(what, || [&self.stdout, &self.stderr].iter().any(|pipe| pipe.text.lock().unwrap().contains(what)));
    }

    /// Waits until something is so, as long as it runs.
    pub fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        while !is_so() {
            let said = || format!("{}{}", self.stdout.text.lock().unwrap(), self.stderr.text.lock().unwrap());
            assert!(
                self.started.elapsed() < PATIENCE && !self.stderr.thread.is_finished(),
                "no \"{what}\": {}",
                said()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn finish(mut self) -> Output {
        let status: ExitStatus = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if self.started.elapsed() > PATIENCE => {
                    self.child.kill().unwrap();
                    panic!("still running after {PATIENCE:?}: {}", self.stdout.rest());
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let (took, stdout, stderr) = (self.started.elapsed(), self.stdout.rest(), self.stderr.rest());
        if let Some(json) = self.json {
            json.check(&stdout);
        }
        Output { status: status.code(), took, stdout, stderr }
    }
}

/// `doorbell target` on a free port of the loopback interface.
pub struct Target {
    pub child: Process,
    pub port: u16,
}

impl Target {
    pub fn start(args: &[&str]) -> Self {
        Self::start_at(0, args)
    }

    /// On a port that one before it had.
    pub fn start_at(port: u16, args: &[&str]) -> Self {
        let mut command = Command::new(DOORBELL);
        command.args(["target", "--listen", &format!("127.0.0.1:{port}"), "--nqn", NQN]).args(args);
        let mut child = Process::of(command.stdout(Stdio::piped()));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, port) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("Listening on tcp:") {
                    let _ = sender.send(address.rsplit(':').next().unwrap().parse().unwrap());
                }
            }
        });
        let port = port.recv_timeout(PATIENCE).expect("the target says where it listens");
        Self { child, port }
    }

    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// The transport ID of its subsystem.
    pub fn id(&self) -> String {
        format!("trtype:tcp adrfam:IPv4 traddr:127.0.0.1 trsvcid:{} subnqn:{NQN}", self.port)
    }

    /// The transport ID of its discovery service.
    pub fn discovery(&self) -> String {
        format!("trtype:tcp adrfam:IPv4 traddr:127.0.0.1 trsvcid:{}", self.port)
    }
}

/// The five numbers behind `Total`, found as the original's own test scripts find them: blanks squeezed, then `Total : `.
pub fn total(stdout: &str) -> Option<[f64; 5]> {
    let squeezed = stdout.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let numbers = squeezed.split_once("Total : ")?.1;
    let parsed: Vec<f64> = numbers.split_whitespace().take(5).map_while(|number| number.parse().ok()).collect();
    parsed.try_into().ok()
}

/// The rows of the result table, by their IOPS.
pub fn rows(stdout: &str) -> Vec<(String, f64)> {
    let row = |line: &str| {
        let (name, numbers) = line.rsplit_once(':')?;
        let (name, _) = name.split_once(" from core ")?;
        let iops = numbers.split_whitespace().next()?.parse().ok()?;
        (numbers.split_whitespace().count() == 5).then(|| (name.trim().to_string(), iops))
    };
    stdout.lines().filter_map(row).collect()
}

/// A folder for the files of a test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("doorbell-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
