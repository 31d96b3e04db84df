//! Memory that can go away under us: a device's registers after its removal, a file that its owner has shortened. Touching it raises
//! SIGBUS; here that becomes memory of our own in the same place, and a mark that says so.
//!
//! Used by [`crate::Region`] for what it maps of others; a SIGBUS anywhere else ends the process as it always did.

use std::{
    io, mem, ptr,
    sync::{
        Once,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
};

/// Mappings that can be watched at once.
const MOST: usize = 4096;

/// A watched mapping; free while `len` is 0.
struct Watched {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    fill: AtomicU8,
    lost: AtomicBool,
}

static WATCHED: [Watched; MOST] = [const {
    Watched {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        fill: AtomicU8::new(0),
        lost: AtomicBool::new(false),
    }
}; MOST];

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
        watched.start.store(start.addr(), Ordering::Relaxed);
        watched.fill.store(fill, Ordering::Relaxed);
        watched.lost.store(false, Ordering::Relaxed);
        watched.len.store(len, Ordering::Release);
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
        WATCHED[self.0].len.store(0, Ordering::Release);
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
        let len = watched.len.load(Ordering::Acquire);
        let start = watched.start.load(Ordering::Relaxed);
        if address.wrapping_sub(start) < len && replace(start, len, watched.fill.load(Ordering::Relaxed)) {
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
