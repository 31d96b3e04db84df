//! What a host and a controller tell each other through the connection manager before an NVMe/RDMA queue stands (RDMA 3.3), as
//! private data. All of it may come padded with zeros, as InfiniBand has its messages of one length.
//!
//! Sections are those of the NVMe/RDMA Transport Specification 1.1 ("RDMA").

use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The format of private data that this crate speaks (RECFMT).
pub const RECFMT: u16 = 0;
/// Port that NVM subsystems listen on by default.
pub const IO_PORT: u16 = 4420;
/// Reason of the connection manager's rejection when a controller refuses (IBA 12.6.7.2, "consumer reject"); private data then has a
/// [`Reject`].
pub const CONSUMER_REJECT: i32 = 28;
/// Reason of the rejection when the peer still holds an earlier connection of the same identity (IBA 12.6.7.2).
pub const STALE_CONNECTION: i32 = 10;

/// A host's wish for a queue.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Request {
    /// Format, [`RECFMT`].
    pub recfmt: U16,
    /// The queue that Connect will name: 0 for the admin queue.
    pub qid: U16,
    /// Receives that the host has posted: entries of its receive queue, counted from 1.
    pub hrqsize: U16,
    /// Commands that the host will have outstanding, less one: the size that Connect will name.
    pub hsqsize: U16,
    /// The controller that the queue belongs to; of no meaning for an admin queue.
    pub cntlid: U16,
    /// Reserved.
    pub reserved: [u8; 22],
}

layout!(Request, 32, recfmt @ 0, qid @ 2, hrqsize @ 4, hsqsize @ 6, cntlid @ 8, reserved @ 10);

/// A controller's consent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Accept {
    /// Format, [`RECFMT`].
    pub recfmt: U16,
    /// Receives that the controller has posted: no more commands may be outstanding.
    pub crqsize: U16,
    /// Reserved.
    pub reserved: [u8; 28],
}

layout!(Accept, 32, recfmt @ 0, crqsize @ 2, reserved @ 4);

/// A controller's refusal.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Reject {
    /// Format, [`RECFMT`].
    pub recfmt: U16,
    /// Why: a [`RejectCode`].
    pub sts: U16,
}

layout!(Reject, 4, recfmt @ 0, sts @ 2);

open_code! {
    /// Why a controller refuses a queue.
    RejectCode(u16) {
        INVALID_LENGTH = 1, "Invalid Private Data Length";
        INVALID_RECFMT = 2, "Invalid RECFMT";
        INVALID_QID = 3, "Invalid QID";
        INVALID_HSQSIZE = 4, "Invalid HSQSIZE";
        INVALID_HRQSIZE = 5, "Invalid HRQSIZE";
        NO_RESOURCES = 6, "No Resources";
        INVALID_IRD = 7, "Invalid IRD";
        INVALID_ORD = 8, "Invalid ORD";
        INVALID_CNTLID = 9, "Invalid CNTLID";
    }
}

impl Request {
    /// A request for queue `qid` of a controller, with `commands` (1 to 65536) outstanding at most and as many receives posted.
    pub const fn new(qid: u16, commands: u32, cntlid: u16) -> Self {
        let most = if commands == 0 { 1 } else { commands };
        let less = most - 1;
        Self {
            recfmt: U16::new(RECFMT),
            qid: U16::new(qid),
            hrqsize: U16::new(if most > u16::MAX as u32 { u16::MAX } else { most as u16 }),
            hsqsize: U16::new(if less > u16::MAX as u32 { u16::MAX } else { less as u16 }),
            cntlid: U16::new(cntlid),
            reserved: [0; 22],
        }
    }

    /// Reads a request; what is behind it is padding.
    ///
    /// # Errors
    /// The code to refuse with: too short, or a format that is not known.
    pub fn read(private_data: &[u8]) -> Result<&Self, RejectCode> {
        let (request, _) = Self::ref_from_prefix(private_data).map_err(|_| RejectCode::INVALID_LENGTH)?;
        if request.recfmt.get() == RECFMT { Ok(request) } else { Err(RejectCode::INVALID_RECFMT) }
    }
}

impl Accept {
    /// Consent, with `receives` posted.
    pub const fn new(receives: u16) -> Self {
        Self { recfmt: U16::new(RECFMT), crqsize: U16::new(receives), reserved: [0; 28] }
    }

    /// Reads an acceptance; none when it is too short or of another format.
    pub fn read(private_data: &[u8]) -> Option<&Self> {
        let (accept, _) = Self::ref_from_prefix(private_data).ok()?;
        (accept.recfmt.get() == RECFMT).then_some(accept)
    }
}

impl Reject {
    /// A refusal.
    pub const fn new(code: RejectCode) -> Self {
        Self { recfmt: U16::new(RECFMT), sts: U16::new(code.0) }
    }

    /// Reads a refusal; none when it is too short or of another format.
    pub fn read(private_data: &[u8]) -> Option<RejectCode> {
        let (reject, _) = Self::ref_from_prefix(private_data).ok()?;
        (reject.recfmt.get() == RECFMT).then_some(RejectCode(reject.sts.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_is_laid_out_as_the_specification_numbers_it() {
        let request = Request::new(3, 128, 0x1234);
        let bytes = request.as_bytes();
        assert_eq!(bytes[..10], [0, 0, 3, 0, 128, 0, 127, 0, 0x34, 0x12]);
        assert_eq!(bytes[10..], [0; 22]);
    }

    #[test]
    fn sizes_at_the_edge_stay_within_their_fields() {
        for (commands, hrqsize, hsqsize) in
            [(0, 1, 0), (1, 1, 0), (65535, 65535, 65534), (65536, 65535, 65535), (u32::MAX, 65535, 65535)]
        {
            let request = Request::new(0, commands, 0);
            assert_eq!((request.hrqsize.get(), request.hsqsize.get()), (hrqsize, hsqsize), "{commands}");
        }
    }

    #[test]
    fn an_answer_is_laid_out_as_the_specification_numbers_it() {
        assert_eq!(Accept::new(0x0180).as_bytes()[..5], [0, 0, 0x80, 1, 0]);
        assert_eq!(Reject::new(RejectCode::NO_RESOURCES).as_bytes(), [0, 0, 6, 0]);
    }

    #[test]
    fn a_request_that_is_short_or_of_another_format_names_the_code_to_refuse_with() {
        let request = Request::new(1, 32, 1);
        let mut bytes = [0; 56];
        bytes[..32].copy_from_slice(request.as_bytes());
        assert_eq!(Request::read(&bytes), Ok(&request), "with padding behind it");
        assert_eq!(Request::read(&bytes[..31]), Err(RejectCode::INVALID_LENGTH));
        assert_eq!(Request::read(&[]), Err(RejectCode::INVALID_LENGTH));
        bytes[1] = 1;
        assert_eq!(Request::read(&bytes), Err(RejectCode::INVALID_RECFMT));
    }

    #[test]
    fn each_code_of_a_refusal_comes_back() {
        for &code in RejectCode::ALL {
            assert_eq!(Reject::read(Reject::new(code).as_bytes()), Some(code));
            assert_ne!(code.name(), "Unknown");
        }
        assert_eq!(Reject::read(&[0, 0, 6]), None);
        assert_eq!(Reject::read(&[1, 0, 6, 0]), None, "another format");
        assert_eq!(RejectCode(10).name(), "Unknown");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (Accept::read(&bytes), Reject::read(&bytes));
            match Request::read(&bytes) {
                Ok(request) => prop_assert_eq!(request.as_bytes(), &bytes[..32]),
                Err(RejectCode::INVALID_LENGTH) => prop_assert!(bytes.len() < 32),
                Err(code) => prop_assert!(code == RejectCode::INVALID_RECFMT && bytes[..2] != [0, 0]),
            }
        }

        #[test]
        fn a_request_comes_back_as_it_went(qid: u16, commands in 1_u32..=65536, cntlid: u16) {
            let request = Request::new(qid, commands, cntlid);
            prop_assert_eq!(Request::read(request.as_bytes()), Ok(&request));
            prop_assert_eq!(u32::from(request.hsqsize.get()) + 1, commands);
        }
    }
}
