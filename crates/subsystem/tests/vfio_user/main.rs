//! A target over vfio-user and a scripted host: what a driver does, and what none would do. Hosts connect one after another, as the
//! function in a directory has one at a time.

mod commands;
mod host;
mod hostile;
mod life;
mod messages;
mod scripted;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use doorbell_subsystem::{Backend, Deadlines, NamespaceConfig, SubsystemConfig, Target, TargetConfig};

const NQN: &str = "nqn.2014-08.org.example:drive";
/// Namespace 1: memory of 512-byte blocks; 2: memory of 4096-byte blocks; 3: nothing; 4: a file of 512-byte blocks.
const RAM_512: u32 = 1;
const RAM_4096: u32 = 2;
const NOTHING: u32 = 3;
const FILE: u32 = 4;
/// Bytes of the first two and of the file.
const SIZE: u64 = 4 << 20;

/// A target, its directory and its file, which are gone at the end of the test.
struct Bench {
    target: Target,
    folder: PathBuf,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut TargetConfig)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("doorbell-function-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("blocks");
        std::fs::File::create(&file).unwrap().set_len(SIZE).unwrap();
        let namespace = |backend, block_size| NamespaceConfig { backend, block_size };
        let subsystem = SubsystemConfig {
            namespaces: vec![
                namespace(Backend::Ram { size: SIZE }, 512),
                namespace(Backend::Ram { size: SIZE }, 4096),
                namespace(Backend::Null { size: 1 << 30 }, 512),
                namespace(Backend::File { path: file }, 512),
            ],
            ..SubsystemConfig::new(NQN)
        };
        let mut config = TargetConfig::of(subsystem);
        config.vfio_user.push(folder.join("drive"));
        change(&mut config);
        Self { target: Target::start(config).unwrap(), folder }
    }

    fn directory(&self) -> &std::path::Path {
        &self.target.directories()[0]
    }

    /// Waits until no host has anything.
    fn settle(&self) {
        wait_until("the host is let go of", || {
            let usage = self.target.usage();
            (usage.connections, usage.controllers, usage.io_queues) == (0, 0, 0)
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + host::PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not in {:?}", host::PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn hasty() -> Deadlines {
    let second = Duration::from_secs(1);
    Deadlines { connect: second / 2, stall: second, linger: second / 4 }
}

fn pattern(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}
