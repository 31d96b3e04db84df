use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use super::*;
use crate::frames::{FrameStore, ZERO_FRAMES, frames_for, push_ranges};

const SPARE: usize = 2048;

/// A file that is gone at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(len: u64) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("doorbell-namespace-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::File::create(&path).unwrap().set_len(len).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Bench {
    namespace: Namespace,
    store: Arc<FrameStore>,
}

impl Bench {
    fn new(backend: Backend, block_size: u32) -> Self {
        let config = NamespaceConfig { backend, block_size };
        let store = Arc::new(FrameStore::new(Namespace::frames(&config), SPARE).unwrap());
        let namespace = Namespace::open(&config, "nqn.2014-08.org.example:test", 1, ZERO_FRAMES).unwrap();
        Self { namespace, store }
    }

    fn pool(&self) -> Pool {
        Pool::new(LocalFrames::new(self.store.clone()))
    }

    /// Writes; none if it has to be tried again.
    fn write(&self, pool: &mut Pool, at: u64, bytes: &[u8]) -> Option<Status> {
        let (frames, mut progress) = (&mut frames_of(pool, at, bytes), 0);
        let outcome = self.namespace.write(pool, at, bytes.len() as u32, frames, &mut progress);
        frames.drain(..).for_each(|frame| pool.frames.release(frame));
        done(outcome)
    }

    fn read(&self, pool: &mut Pool, at: u64, len: usize) -> Option<Vec<u8>> {
        let mut found = Found::default();
        let outcome = self.namespace.read(pool, at, len as u32, &mut found);
        done(outcome)?;
        let mut bytes = vec![0; len];
        let mut to = 0;
        for range in &found.ranges {
            let end = to + range.len as usize;
            self.store.region().read(range.offset, &mut bytes[to..end]);
            to = end;
        }
        assert_eq!(to, len);
        found.clear(pool);
        Some(bytes)
    }

    fn clear(&self, pool: &mut Pool, at: u64, len: u64, how: Clear) {
        let mut progress = 0;
        loop {
            if let Some(status) = done(self.namespace.clear(pool, at, len, how, &mut progress)) {
                return assert!(status.is_success());
            }
        }
    }

    fn compare(&self, pool: &mut Pool, at: u64, bytes: &[u8]) -> Option<Status> {
        let mut frames = frames_of(pool, at, bytes);
        let outcome = self.namespace.compare(pool, at, bytes.len() as u32, &frames);
        frames.drain(..).for_each(|frame| pool.frames.release(frame));
        done(outcome)
    }
}

fn frames_of(pool: &mut Pool, at: u64, bytes: &[u8]) -> Vec<Frame> {
    let (skew, len) = ((at % 4096) as u32, bytes.len() as u32);
    let (mut frames, mut ranges) = (Vec::new(), Vec::new());
    while !pool.frames.take(frames_for(skew, len), 0, &mut frames) {
        std::thread::yield_now();
    }
    push_ranges(&frames, skew, 0, len, &mut ranges);
    let mut from = 0;
    for range in ranges {
        let end = from + range.len as usize;
        pool.frames.store.region().write(range.offset, &bytes[from..end]);
        from = end;
    }
    frames
}

fn done(outcome: Outcome) -> Option<Status> {
    match outcome {
        Outcome::Done(status) => Some(status),
        Outcome::Turn | Outcome::Again => None,
    }
}

/// A repeatable number of 31 bits.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn behaves_like_a_vector(backend: &dyn Fn(u64) -> Backend) {
    for block in [512u64, 4096] {
        let blocks = 803;
        let bench = Bench::new(backend(blocks * block), block as u32);
        assert_eq!(bench.namespace.blocks, blocks);
        let mut pool = bench.pool();
        let mut model = vec![0u8; (blocks * block) as usize];
        let mut seed = block;
        for round in 0..300u64 {
            let first = random(&mut seed) % blocks;
            let count = 1 + random(&mut seed) % (blocks - first).min(80);
            let (at, len) = (first * block, (count * block) as usize);
            let part = &mut model[at as usize..at as usize + len];
            match random(&mut seed) % 8 {
                0 => {
                    let how = [Clear::Hint, Clear::Unmap, Clear::Keep][(round % 3) as usize];
                    bench.clear(&mut pool, at, len as u64, how);
                    part.fill(0);
                }
                1 => {
                    let mut bytes = part.to_vec();
                    assert_eq!(bench.compare(&mut pool, at, &bytes), Some(generic::SUCCESS));
                    bytes[len - 1] ^= 1;
                    assert_eq!(bench.compare(&mut pool, at, &bytes), Some(media::COMPARE_FAILURE));
                }
                2..5 => {
                    part.iter_mut().for_each(|byte| *byte = random(&mut seed) as u8);
                    assert_eq!(bench.write(&mut pool, at, part), Some(generic::SUCCESS));
                }
                _ => assert_eq!(bench.read(&mut pool, at, len).as_deref(), Some(&*part), "round {round}"),
            }
        }
        assert_eq!(bench.namespace.flush(), generic::SUCCESS);
        assert!(bench.read(&mut pool, 0, model.len()).unwrap() == model);
        bench.clear(&mut pool, 0, model.len() as u64, Clear::Keep);
        drop(pool);
        let published = if bench.namespace.is_cached() { 0 } else { model.len() / 4096 };
        assert_eq!(bench.store.free(), SPARE + published, "all frames but that of a last group in part are free");
    }
}

#[test]
fn ram_behaves_like_a_vector() {
    behaves_like_a_vector(&|size| Backend::Ram { size });
}

#[test]
fn a_file_behaves_like_a_vector() {
    let scratch = Scratch::new(0);
    behaves_like_a_vector(&|size| {
        let file = fs::File::create(scratch.path()).unwrap();
        file.set_len(size + 300).unwrap();
        Backend::File { path: scratch.path().into() }
    });
}

/// Writers fill groups, blocks and runs of both with one stamp a write, readers look: a group that only whole writes touch has one
/// stamp, and so has each block.
fn no_reader_sees_half_a_write(backend: Backend) {
    const GROUPS: u64 = 4;
    let bench = Bench::new(backend, 512);
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (bench, end) = (&bench, &end);
            scope.spawn(move || {
                let (mut pool, mut seed) = (bench.pool(), writer);
                let mut written = 0;
                while written < 500 || !end.load(Ordering::Relaxed) {
                    let stamp = random(&mut seed) as u8;
                    // The first two groups are written whole, the others by blocks, across their boundary too.
                    let (at, len) = match random(&mut seed) % 4 {
                        0 => (0, 8192),
                        1 => (random(&mut seed) % 2 * 4096, 4096),
                        _ => (8192 + random(&mut seed) % 13 * 512, 512 * (1 + random(&mut seed) % 3) as usize),
                    };
                    if bench.write(&mut pool, at, &vec![stamp; len]) == Some(generic::SUCCESS) {
                        written += 1;
                    }
                    pool.frames.spill(0);
                }
            });
        }
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (bench, end) = (&bench, &end);
                scope.spawn(move || {
                    let mut pool = bench.pool();
                    let mut looks = 0;
                    while looks < 500 || !end.load(Ordering::Relaxed) {
                        let Some(bytes) = bench.read(&mut pool, 0, GROUPS as usize * 4096) else { continue };
                        for part in bytes[..8192].chunks(4096).chain(bytes[8192..].chunks(512)) {
                            assert!(part.iter().all(|&byte| byte == part[0]), "a torn write");
                        }
                        pool.frames.spill(0);
                        looks += 1;
                    }
                })
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(200));
        end.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

#[test]
fn no_reader_of_memory_sees_half_a_write() {
    no_reader_sees_half_a_write(Backend::Ram { size: 16384 });
}

#[test]
fn no_reader_of_a_file_sees_half_a_write() {
    let scratch = Scratch::new(16384);
    no_reader_sees_half_a_write(Backend::File { path: scratch.path().into() });
}

#[test]
fn a_file_keeps_its_content() {
    let scratch = Scratch::new(1 << 20);
    let open = || Bench::new(Backend::File { path: scratch.path().into() }, 4096);
    let bytes: Vec<u8> = (0..600 << 10).map(|at| (at / 7) as u8).collect();
    let (uuid, bench) = (open().namespace.uuid, open());
    assert_eq!(bench.write(&mut bench.pool(), 8192, &bytes), Some(generic::SUCCESS));
    drop(bench);
    let bench = open();
    assert_eq!(bench.namespace.uuid, uuid);
    assert!(bench.read(&mut bench.pool(), 8192, bytes.len()).unwrap() == bytes);
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let scratch = Scratch::new(16384);
    let bench = Bench::new(Backend::File { path: scratch.path().into() }, 4096);
    fs::OpenOptions::new().write(true).open(scratch.path()).unwrap().set_len(4096).unwrap();
    let (mut pool, mut found) = (bench.pool(), Found::default());
    let outcome = bench.namespace.read(&mut pool, 0, 16384, &mut found);
    assert_eq!(outcome, Outcome::Done(media::UNRECOVERED_READ_ERROR));
    assert!(found.ranges.is_empty() && found.frames.is_empty());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let scratch = Scratch::new(100);
    for path in [Path::new("/nonexistent/doorbell"), scratch.path()] {
        let config = NamespaceConfig { backend: Backend::File { path: path.into() }, block_size: 512 };
        let error = Namespace::open(&config, "nqn.2014-08.org.example:test", 1, 0).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn nothing_reads_as_zeroes() {
    let bench = Bench::new(Backend::Null { size: 1 << 30 }, 512);
    let mut pool = bench.pool();
    assert_eq!(bench.write(&mut pool, 512, &[7; 1024]), Some(generic::SUCCESS));
    assert_eq!(bench.read(&mut pool, 512, 2 << 20).unwrap(), vec![0; 2 << 20]);
    assert_eq!(bench.compare(&mut pool, 512, &[0; 5120]), Some(generic::SUCCESS));
    assert_eq!(bench.compare(&mut pool, 512, &[7; 512]), Some(media::COMPARE_FAILURE));
    drop(pool);
    assert_eq!(bench.store.free(), SPARE);
}

#[test]
fn reads_wait_for_frames_and_no_write_is_refused_them() {
    let scratch = Scratch::new(8 << 20);
    let bench = Bench::new(Backend::File { path: scratch.path().into() }, 4096);
    let mut pool = bench.pool();
    let mut all = Vec::new();
    assert!(pool.frames.take(SPARE - RESERVE, RESERVE, &mut all));
    let mut found = Found::default();
    assert_eq!(bench.namespace.read(&mut pool, 0, 4096, &mut found), Outcome::Again);
    assert!(pool.frames.take(RESERVE, 0, &mut all), "the reserve is still there");
    all.drain(..).for_each(|frame| pool.frames.release(frame));
    assert_eq!(bench.read(&mut pool, 0, 4096).unwrap(), [0; 4096]);
}
