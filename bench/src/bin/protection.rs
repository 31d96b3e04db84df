//! What it costs to make and to check protection information, beside a copy of the same bytes, on data four times the last-level
//! cache. At most 1.5 times the copy is asked for.
//!
//!     cargo run --release -p doorbell-bench --bin protection

use std::{error::Error, fs, time::Instant};

use doorbell_platform::{Region, cpu};
use doorbell_queue::protection::{Blocks, Layout};
use doorbell_spec::{
    command::control::{PRCHK_APP, PRCHK_GUARD, PRCHK_REF},
    protection::{Expected, Format, Guard},
};

const ROUNDS: usize = 5;
/// As large as an I/O: what is made or checked at a time.
const AT_ONCE: u32 = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    cpu::pin(0)?;
    let bytes = 4 * last_level_cache()?;
    let (from, to) = (Region::new(bytes * 9 / 8)?, Region::new(bytes * 9 / 8)?);
    (0..from.len() as u64)
        .step_by(8)
        .for_each(|at| from.write(at, &at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()));
    to.fill(0, to.len(), 0);
    println!("{} MiB, least of {ROUNDS}, times the copy of the same bytes", bytes >> 20);
    let mut worst = 0.0f64;
    let guards = [(Guard::Crc16, 0), (Guard::Crc32c, 16), (Guard::Crc64, 0)];
    for (guard, storage_bits, metadata_size) in
        guards.into_iter().flat_map(|(guard, bits)| [(guard, bits, guard.size()), (guard, bits, 64)])
    {
        for (block_size, extended) in [(512, true), (512, false), (4096, true), (4096, false)] {
            let format = Format::new(1, guard, storage_bits, metadata_size, false).map_err(|why| why.to_string())?;
            let layout = Layout { format, block_size, metadata_size, extended };
            let count = bytes as u32 / block_size;
            let moved = count as usize * (block_size + u32::from(metadata_size)) as usize;
            let metadata = u64::from(count) * u64::from(block_size);
            let parts = (0..count).step_by((AT_ONCE / block_size) as usize).map(|first| {
                let data = u64::from(first) * u64::from(layout.stride());
                let metadata = metadata + u64::from(first) * u64::from(metadata_size);
                (first, Blocks { data, metadata, count: (AT_ONCE / block_size).min(count - first) })
            });
            let parts: Vec<_> = parts.collect();
            let (mut copy, mut generate, mut verify, mut wrong) = (f64::INFINITY, f64::INFINITY, f64::INFINITY, 0);
            // In turn, so that a slow moment of the machine is none of one of them alone.
            for _ in 0..ROUNDS {
                copy = copy.min(seconds(|| to.copy_from(0, &from, 0, moved)));
                generate = generate.min(seconds(|| {
                    parts.iter().for_each(|&(first, blocks)| layout.generate(&from, blocks, 7, first.into()));
                }));
                verify = verify.min(seconds(|| {
                    for &(first, blocks) in &parts {
                        let checks = PRCHK_GUARD | PRCHK_APP | PRCHK_REF;
                        let expected = Expected { checks, application: (7, 0xffff), tags: first.into() };
                        layout.verify(&from, blocks, expected, |_, _| wrong += 1);
                    }
                }));
            }
            if wrong > 0 {
                return Err(format!("{wrong} blocks are wrong: {layout:?}").into());
            }
            worst = worst.max(generate / copy).max(verify / copy);
            println!(
                "{guard:?} {block_size}+{metadata_size:<2} {:8}  copy {:5.1} GB/s  generate {:.2}  verify {:.2}",
                if extended { "extended" } else { "separate" },
                moved as f64 / copy / 1e9,
                generate / copy,
                verify / copy
            );
        }
    }
    println!("at most {worst:.2}");
    Ok(())
}

/// Seconds that it takes.
fn seconds(act: impl FnOnce()) -> f64 {
    let start = Instant::now();
    act();
    start.elapsed().as_secs_f64()
}

/// Bytes of the largest cache of the first core.
fn last_level_cache() -> Result<usize, Box<dyn Error>> {
    let mut largest = 0;
    for entry in fs::read_dir("/sys/devices/system/cpu/cpu0/cache")? {
        let Ok(text) = fs::read_to_string(entry?.path().join("size")) else { continue };
        let kib: usize = text.trim().trim_end_matches('K').parse()?;
        largest = largest.max(kib << 10);
    }
    if largest == 0 { Err("the size of the cache is not to be had".into()) } else { Ok(largest) }
}
