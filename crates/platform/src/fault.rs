//! Memory that can go away under us: a device's registers after its removal, a file that its owner has shortened. Touching it raises
//! SIGBUS; here that becomes memory of our own in the same place, and a mark that says so.
//!
//! Used by [`crate::Region`] for what it maps of others; a SIGBUS anywhere else ends the process as it always did.

use std::{
    io, mem, ptr,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence},
    },
};

/// Mappings that can be watched at once.
const MOST: usize = 4096;

/// A watched mapping; free while `len` is 0.
struct Watched {
    taken: AtomicBool,
    /// Odd while what follows changes.
    version: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    fill: AtomicU8,
    lost: AtomicBool,
}

static WATCHED: [Watched; MOST] = [const {
    Watched {
        taken: AtomicBool::new(false),
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        fill: AtomicU8::new(0),
        lost: AtomicBool::new(false),
    }
}; MOST];

impl Watched {
    /// Changes what is watched; whoever has taken it does that, one at a time.
    fn set(&self, start: usize, len: usize, fill: u8) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.fill.store(fill, Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }

    /// Start, length and filling of one mapping: never some of one and some of the next, which would be a range of its own. None
    /// while they change: a mapping is not touched before it is watched, nor behind that.
    fn get(&self) -> Option<(usize, usize, u8)> {
        let version = self.version.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        let fill = self.fill.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let is_whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        is_whole.then_some((start, len, fill))
    }
}

/// A watch over a mapping, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch(usize);

impl Watch {
    /// Watches `len` bytes from `start`, which read as `fill` once they are lost.
    ///
    /// # Errors
    /// When too many mappings are watched already.
    pub fn over(start: *const u8, len: usize, fill: u8) -> io::Result<Self> {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(install);
        let slot = WATCHED.iter().position(|slot| !slot.taken.swap(true, Ordering::AcqRel)).ok_or_else(|| {
            io::Error::new(io::ErrorKind::QuotaExceeded, format!("{MOST} mappings of others are watched already"))
        })?;
        let watched = &WATCHED[slot];
        watched.lost.store(false, Ordering::Relaxed);
        watched.set(start.addr(), len, fill);
        Ok(Self(slot))
    }

    /// Whether the mapping was touched after it had gone.
    #[inline]
    pub fn is_lost(&self) -> bool {
        WATCHED[self.0].lost.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED[self.0].set(0, 0, 0);
        WATCHED[self.0].taken.store(false, Ordering::Release);
    }
}

fn install() {
    // SAFETY: an all-zero sigaction is a valid one; the handler only calls what is safe in a handler (see `handle`).
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
    }
}

extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo, which for SIGBUS holds an address.
    let address = unsafe { (*info).si_addr() }.addr();
    for watched in &WATCHED {
        let Some((start, len, fill)) = watched.get() else { continue };
        if address.wrapping_sub(start) < len && replace(start, len, fill) {
            watched.lost.store(true, Ordering::Release);
            return;
        }
    }
    // SAFETY: as in `install`. The access is repeated when the handler returns, and then ends the process.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

/// Puts memory of our own where a mapping was. Everything it calls may be called in a signal handler.
fn replace(start: usize, len: usize, fill: u8) -> bool {
    let at = ptr::with_exposed_provenance_mut::<libc::c_void>(start);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the range is a mapping that its region, which outlives its watch, owns; regions are reached by copies only, so that
    // other bytes in the same place invalidate nothing.
    unsafe {
        if libc::mmap(at, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) == libc::MAP_FAILED {
            return false;
        }
        if fill != 0 {
            ptr::write_bytes(at.cast::<u8>(), fill, len);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_changes_hands_is_never_half_of_each() {
        const HANDS: [(usize, usize, u8); 2] = [(1 << 12, 1 << 40, 0), (1 << 46, 1 << 12, 0xff)];
        let place = Watched {
            taken: AtomicBool::new(true),
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            fill: AtomicU8::new(0),
            lost: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            let changes = scope.spawn(|| {
                for _ in 0..200_000 {
                    for (start, len, fill) in HANDS {
                        place.set(start, len, fill);
                        place.set(0, 0, 0);
                    }
                }
            });
            while !changes.is_finished() {
                if let Some(found) = place.get() {
                    assert!(HANDS.contains(&found) || found == (0, 0, 0), "{found:x?}");
                }
            }
        });
    }
}
