//! Interrupts: an eventfd for each vector that the host wants to hear of.

use std::io;

use doorbell_platform::Raiser;
use rustix::{
    fd::{AsFd, AsRawFd, OwnedFd},
    fs::readlink,
};

/// What an eventfd is a link to.
const EVENTFD: &[u8] = b"anon_inode:[eventfd]";

/// The vectors of a function.
#[derive(Debug)]
pub(super) struct Interrupts {
    vectors: Vec<Option<OwnedFd>>,
    /// From the first one that somebody hears of.
    raiser: Option<Raiser>,
    /// INTMS and INTMC: vectors that are not to be raised, of the first 32.
    pub(super) mask: u32,
}

impl Interrupts {
    /// Vectors that nobody hears of yet.
    pub(super) fn new(count: u16) -> Self {
        Self { vectors: (0..count).map(|_| None).collect(), raiser: None, mask: 0 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// Raises a vector by this eventfd from now on.
    ///
    /// # Errors
    /// What is wrong with the descriptor, or what the system has not got.
    pub(super) fn set(&mut self, vector: usize, eventfd: OwnedFd) -> io::Result<()> {
        let slot = self.vectors.get_mut(vector).ok_or(io::ErrorKind::InvalidInput)?;
        check(&eventfd)?;
        if self.raiser.is_none() {
            self.raiser = Some(Raiser::new()?);
        }
        *slot = Some(eventfd);
        Ok(())
    }

    /// Raises nothing any more.
    pub(super) fn clear(&mut self) {
        self.vectors.iter_mut().for_each(|vector| *vector = None);
        self.mask = 0;
    }

    /// Raises a vector, if somebody wants to hear of it.
    pub(super) fn raise(&self, vector: u16) {
        let masked = vector < 32 && self.mask & 1 << vector != 0;
        let eventfd = self.vectors.get(usize::from(vector)).filter(|_| !masked);
        if let (Some(Some(eventfd)), Some(raiser)) = (eventfd, &self.raiser) {
            // What the host gave is an eventfd; one that the system cannot raise is one that the host does not hear.
            let _ = raiser.raise(eventfd.as_fd());
        }
    }
}

/// Makes sure that a descriptor of the host's can be raised.
fn check(eventfd: &OwnedFd) -> io::Result<()> {
    let link = readlink(format!("/proc/self/fd/{}", eventfd.as_raw_fd()), Vec::new())?;
    if link.as_bytes() != EVENTFD {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{link:?} is no eventfd")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::{Duration, Instant},
    };

    use rustix::{
        event::{EventfdFlags, eventfd},
        fs::{OFlags, fcntl_setfl},
    };

    use super::*;

    fn value(eventfd: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(eventfd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
    }

    #[test]
    fn a_vector_is_raised_unless_it_is_masked() {
        let mut interrupts = Interrupts::new(2);
        let heard = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        interrupts.set(1, heard.try_clone().unwrap()).unwrap();
        for vector in [0, 1, 1, 2, 40] {
            interrupts.raise(vector);
        }
        assert_eq!(value(&heard), 2);
        interrupts.mask = 2;
        interrupts.raise(1);
        assert_eq!(value(&heard), 0);
        interrupts.clear();
        interrupts.raise(1);
        assert_eq!((value(&heard), interrupts.mask), (0, 0));
        assert!(interrupts.set(2, heard).is_err(), "there is no such vector");
    }

    #[test]
    fn a_descriptor_that_could_make_us_wait_is_refused_or_not_waited_for() {
        let mut interrupts = Interrupts::new(1);
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = interrupts.set(0, null.into()).unwrap_err();
        assert!(error.to_string().contains("no eventfd"), "{error}");
        let full = eventfd(0, EventfdFlags::empty()).unwrap();
        interrupts.set(0, full.try_clone().unwrap()).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        // The host takes back that nobody waits.
        fcntl_setfl(&full, OFlags::empty()).unwrap();
        interrupts.raise(0);
        assert_eq!(value(&full), u64::MAX);
    }

    #[test]
    fn a_host_that_fills_the_counter_just_then_makes_nobody_wait() {
        let mut interrupts = Interrupts::new(1);
        let theirs = eventfd(0, EventfdFlags::empty()).unwrap();
        interrupts.set(0, theirs.try_clone().unwrap()).unwrap();
        let raised = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let raises = scope.spawn(|| {
                for _ in 0..20_000 {
                    interrupts.raise(0);
                    raised.fetch_add(1, Ordering::Relaxed);
                }
            });
            while !raises.is_finished() {
                // Empty for a moment, then full, and who writes waits.
                fcntl_setfl(&theirs, OFlags::NONBLOCK).unwrap();
                value(&theirs);
                let _ = rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes());
                fcntl_setfl(&theirs, OFlags::empty()).unwrap();
                let (before, end) = (raised.load(Ordering::Relaxed), Instant::now() + Duration::from_secs(10));
                while raised.load(Ordering::Relaxed) == before && !raises.is_finished() {
                    if Instant::now() > end {
                        fcntl_setfl(&theirs, OFlags::NONBLOCK).unwrap();
                        value(&theirs);
                        panic!("the host made us wait, after {before}");
                    }
                    std::hint::spin_loop();
                }
            }
        });
    }
}
