//! Whom the target takes, and on what terms: what a host says with its request to connect (RDMA 3.3), held against what the device and
//! the target have.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use doorbell_rdma::Attributes;
use doorbell_spec::rdma::{RejectCode, Request};

use super::{IN_CAPSULE, pointer::MOST_DESCRIPTORS};
use crate::controller::{ADMIN_ENTRIES, Limits, Transport};

/// Most entries of a queue. Each has a buffer for a capsule, pinned as long as the connection lives.
const MOST_ENTRIES: u32 = 1024;
/// Most pieces of our memory that a work request names.
const MOST_PIECES: u32 = 16;
/// Room in the send queue beside that for two work requests a command: one of the largest commands has so many.
const MORE_SENDS: u32 = 64;
/// Work requests of either side that are none of a command's: a marker behind the last one, and a probe.
pub(super) const EXTRA: u32 = 2;

/// Most entries of all queues together whose hosts have not sent Connect: 256 MiB of buffers that strangers have pinned.
const MOST_UNCONNECTED: u32 = 64 << 10;

/// Counts the entries of the queues whose hosts have not sent Connect.
#[derive(Debug, Default)]
pub(super) struct Unconnected(Arc<AtomicU32>);

/// The entries of one such queue, counted until this is dropped.
#[derive(Debug)]
pub(super) struct Stranger {
    all: Arc<AtomicU32>,
    entries: u32,
}

impl Unconnected {
    /// Counts a queue of so many entries.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn add(&self, entries: u32) -> Result<Stranger, RejectCode> {
        let all = self.0.clone();
        let fits = |before: u32| Some(before + entries).filter(|&sum| sum <= MOST_UNCONNECTED);
        match all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Stranger { all, entries }),
            Err(_) => Err(RejectCode::NO_RESOURCES),
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.fetch_sub(self.entries, Ordering::Relaxed);
    }
}

/// What has been agreed of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) qid: u16,
    /// Entries of the submission queue, and receives that are posted for it.
    pub(super) entries: u32,
    /// Work requests of its commands in the send queue.
    pub(super) sends: u32,
    /// RDMA READs under way at a time.
    pub(super) reads: u32,
    /// Pieces of our memory that an RDMA READ fills, and that an RDMA WRITE takes.
    pub(super) read_ranges: usize,
    pub(super) write_ranges: usize,
    pub(super) transport: Transport,
}

impl Terms {
    /// Commands that have come and whose answer is not known to have been sent: a host that has the answer may send the next.
    pub(super) fn slots(&self) -> u32 {
        2 * self.entries
    }
}

/// What there is to agree on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    /// Where the host has come.
    pub(super) local: SocketAddr,
    pub(super) device: &'a Attributes,
    /// Most entries that any subsystem grants.
    pub(super) entries: u32,
    /// Most I/O queues that any subsystem grants.
    pub(super) queues: u16,
}

impl Offer<'_> {
    /// What the queues of the device can be.
    fn limits(&self) -> Limits {
        let device = self.device;
        let by_requests = device.max_qp_wr.saturating_sub(EXTRA);
        let by_completions = device.max_cqe.saturating_sub(MORE_SENDS + 2 * EXTRA) / 3;
        let entries = MOST_ENTRIES.min(by_requests).min(by_completions);
        Limits { entries, in_capsule_data: IN_CAPSULE, descriptors: MOST_DESCRIPTORS }
    }

    /// Reads a request to connect and says on what terms it is accepted. `depth` are the RDMA READs that the host serves at a time,
    /// and `has_controller` knows the controllers there are.
    ///
    /// # Errors
    /// The code to refuse with.
    pub(super) fn terms(
        &self,
        private_data: &[u8],
        depth: u8,
        has_controller: impl Fn(u16) -> bool,
    ) -> Result<Terms, RejectCode> {
        let request = Request::read(private_data)?;
        let (qid, cntlid) = (request.qid.get(), request.cntlid.get());
        if qid > self.queues {
            return Err(RejectCode::INVALID_QID);
        }
        let limits = self.limits();
        let entries = u32::from(request.hsqsize.get()) + 1;
        let most = if qid == 0 { u32::from(ADMIN_ENTRIES) } else { self.entries };
        if entries < 2 || entries > most.min(limits.entries) {
            return Err(RejectCode::INVALID_HSQSIZE);
        }
        // A full queue holds one command less than it has entries, and each is answered.
        if u32::from(request.hrqsize.get()) + 1 < entries {
            return Err(RejectCode::INVALID_HRQSIZE);
        }
        // Hosts that do not know the field leave it 0.
        if qid != 0 && cntlid != 0 && !has_controller(cntlid) {
            return Err(RejectCode::INVALID_CNTLID);
        }
        let device = self.device;
        let reads = u32::from(depth.min(device.max_qp_init_rd_atom));
        if reads == 0 {
            // The data of no Write could be had.
            return Err(RejectCode::INVALID_IRD);
        }
        let write_ranges = device.max_sge.clamp(1, MOST_PIECES);
        Ok(Terms {
            qid,
            entries,
            sends: (2 * entries + MORE_SENDS).min(device.max_qp_wr - EXTRA),
            reads,
            read_ranges: device.max_sge_rd.clamp(1, write_ranges) as usize,
            write_ranges: write_ranges as usize,
            transport: Transport::Rdma { local: self.local, limits },
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use zerocopy::IntoBytes;

    use super::*;

    pub(in super::super) const DEVICE: Attributes = Attributes {
        vendor: 0,
        max_qp_wr: 16384,
        max_sge: 32,
        max_sge_rd: 4,
        max_cqe: 32767,
        max_srq_wr: 0,
        max_qp_rd_atom: 128,
        max_qp_init_rd_atom: 8,
        completion_vectors: 1,
        max_mr_size: u64::MAX,
        is_iwarp: false,
    };

    pub(in super::super) const OFFER: Offer<'_> = Offer {
        local: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4420),
        device: &DEVICE,
        entries: 4096,
        queues: 128,
    };

    fn ask(offer: Offer<'_>, qid: u16, hsqsize: u16, hrqsize: u16, cntlid: u16) -> Result<Terms, RejectCode> {
        let numbers = [qid, hrqsize, hsqsize, cntlid].map(Into::into);
        let [qid, hrqsize, hsqsize, cntlid] = numbers;
        let request = Request { qid, hrqsize, hsqsize, cntlid, ..Request::default() };
        offer.terms(request.as_bytes(), 16, |cntlid| cntlid == 7)
    }

    #[test]
    fn a_queue_is_as_deep_as_the_host_asks() {
        let terms = ask(OFFER, 1, 127, 128, 7).unwrap();
        assert_eq!((terms.qid, terms.entries, terms.sends, terms.slots()), (1, 128, 320, 256));
        assert_eq!((terms.reads, terms.read_ranges, terms.write_ranges), (8, 4, 16));
        let Transport::Rdma { local, limits } = terms.transport else { panic!("{terms:?}") };
        assert_eq!((local, limits.entries, limits.in_capsule_data), (OFFER.local, 1024, 4096));
        assert_eq!(ask(OFFER, 0, 127, 127, 0).unwrap().entries, 128);
        assert_eq!(ask(OFFER, 128, 1, 1, 0).unwrap().entries, 2, "a host that does not know CNTLID");
    }

    #[test]
    fn each_fault_of_a_request_has_its_code() {
        for ((qid, hsqsize, hrqsize, cntlid), code) in [
            ((129, 31, 32, 7), RejectCode::INVALID_QID),
            ((1, 0, 32, 7), RejectCode::INVALID_HSQSIZE),
            ((1, 1024, 2000, 7), RejectCode::INVALID_HSQSIZE),
            ((1, u16::MAX, u16::MAX, 7), RejectCode::INVALID_HSQSIZE),
            ((0, 128, 200, 0), RejectCode::INVALID_HSQSIZE),
            ((1, 127, 126, 7), RejectCode::INVALID_HRQSIZE),
            ((1, 127, 0, 7), RejectCode::INVALID_HRQSIZE),
            ((1, 127, 128, 8), RejectCode::INVALID_CNTLID),
        ] {
            assert_eq!(ask(OFFER, qid, hsqsize, hrqsize, cntlid), Err(code), "{qid} {hsqsize} {hrqsize} {cntlid}");
        }
        let request = Request::new(1, 128, 0);
        let none = |_| false;
        assert_eq!(OFFER.terms(&request.as_bytes()[..31], 16, none), Err(RejectCode::INVALID_LENGTH));
        assert_eq!(OFFER.terms(&[], 16, none), Err(RejectCode::INVALID_LENGTH));
        assert_eq!(OFFER.terms(&[1; 56], 16, none), Err(RejectCode::INVALID_RECFMT));
        assert_eq!(OFFER.terms(request.as_bytes(), 0, none), Err(RejectCode::INVALID_IRD));
    }

    #[test]
    fn hosts_that_do_not_send_connect_are_bounded_by_what_is_pinned_for_them() {
        let unconnected = Unconnected::default();
        let mut strangers: Vec<_> = (0..64).map(|_| unconnected.add(MOST_ENTRIES).unwrap()).collect();
        assert_eq!(unconnected.add(2).unwrap_err(), RejectCode::NO_RESOURCES);
        strangers.pop();
        let small: Vec<_> = (0..MOST_ENTRIES / 2).map(|_| unconnected.add(2).unwrap()).collect();
        assert_eq!(unconnected.add(2).unwrap_err(), RejectCode::NO_RESOURCES);
        drop((strangers, small));
        assert_eq!(unconnected.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_the_device_or_the_target_has_bounds_a_queue() {
        let small = Attributes { max_qp_wr: 100, max_sge: 2, max_sge_rd: 1, max_qp_init_rd_atom: 1, ..DEVICE };
        let offer = Offer { device: &small, ..OFFER };
        let terms = ask(offer, 1, 97, 98, 0).unwrap();
        assert_eq!((terms.entries, terms.sends, terms.reads), (98, 98, 1));
        assert_eq!((terms.read_ranges, terms.write_ranges), (1, 2));
        assert_eq!(ask(offer, 1, 98, 99, 0), Err(RejectCode::INVALID_HSQSIZE));
        let few = Attributes { max_cqe: 1000, ..DEVICE };
        assert_eq!(ask(Offer { device: &few, ..OFFER }, 1, 511, 512, 0), Err(RejectCode::INVALID_HSQSIZE));
        assert_eq!(ask(Offer { entries: 64, ..OFFER }, 1, 64, 65, 0), Err(RejectCode::INVALID_HSQSIZE));
    }
}
