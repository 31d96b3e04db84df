//! The floor beneath a namespace in memory: one core copies random blocks out of a footprint larger than its caches, or into it.

use std::{
    io,
    time::{Duration, Instant},
};

use doorbell_platform::{Region, cpu};

/// Most bytes on the other side of the copies: what a host keeps in flight.
const HOST: u64 = 4 << 20;
/// Most blocks that are in flight.
const MOST_IN_FLIGHT: u64 = 128;

/// Which way the blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the footprint to the host.
    Read,
    /// From the host to the footprint.
    Write,
}

/// Measures copies of blocks of `size` bytes, anywhere in `footprint` bytes, on `core` for `time`; returns copies a second.
///
/// # Errors
/// When memory or core are not to be had.
pub fn measure(way: Way, size: usize, footprint: usize, time: Duration, core: usize) -> io::Result<f64> {
    let measure = move || {
        cpu::pin(core)?;
        let in_flight = (HOST / size as u64).clamp(1, MOST_IN_FLIGHT);
        let (namespace, host) = (Region::new(footprint)?, Region::new(in_flight as usize * size)?);
        namespace.populate()?;
        host.populate()?;
        let blocks = (footprint / size) as u64;
        let (mut random, mut done) = (88_172_645_463_325_252u64, 0u64);
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let (block, buffer) = (random % blocks * size as u64, done % in_flight * size as u64);
                match way {
                    Way::Read => host.copy_from(buffer, &namespace, block, size),
                    Way::Write => namespace.copy_from(block, &host, buffer, size),
                }
                done += 1;
            }
            if start.elapsed() >= time {
                return Ok(done as f64 / start.elapsed().as_secs_f64());
            }
        }
    };
    std::thread::spawn(measure).join().expect("copying does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_any_size_are_copied() {
        let core = cpu::allowed().unwrap()[0];
        for (way, size) in [(Way::Read, 512), (Way::Read, 131_072), (Way::Write, 4096)] {
            assert!(measure(way, size, 1 << 20, Duration::from_millis(5), core).unwrap() > 0.0);
        }
    }
}
