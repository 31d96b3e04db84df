//! The completion queue entry (Base 4.2.1), 16 bytes: what a controller answers.

use crate::status::Status;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A completion queue entry (Base 4.2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Completion {
    /// Command specific.
    pub dw0: U32,
    /// Command specific; the high half of the value in Fabrics responses.
    pub dw1: U32,
    /// Submission queue head pointer; FFFFh in the answer to a Connect that turned submission
    /// queue flow control off, reserved on that queue from then on.
    pub sqhd: U16,
    /// Submission queue identifier; reserved over Fabrics.
    pub sqid: U16,
    /// Identifier of the command this completes.
    pub cid: U16,
    /// Phase tag in bit 0 (reserved over Fabrics), status in bits 15:1.
    pub status: U16,
}

layout!(Completion, 16, dw0 @ 0, dw1 @ 4, sqhd @ 8, sqid @ 10, cid @ 12, status @ 14);

impl Completion {
    /// A completion of command `cid` with phase 0 and `sqid` 0.
    #[inline]
    pub fn new(cid: u16, sqhd: u16, status: Status, result: u64) -> Self {
        Self {
            dw0: U32::new(result as u32),
            dw1: U32::new((result >> 32) as u32),
            sqhd: U16::new(sqhd),
            sqid: U16::new(0),
            cid: U16::new(cid),
            status: U16::new(status.to_field(false)),
        }
    }

    /// The status field without the phase tag.
    #[inline]
    pub fn status(&self) -> Status {
        Status::from_field(self.status.get())
    }

    /// The phase tag.
    #[inline]
    pub fn phase(&self) -> bool {
        self.status.get() & 1 != 0
    }

    /// Dwords 0 and 1 as one value, as Property Get returns it.
    #[inline]
    pub fn result64(&self) -> u64 {
        u64::from(self.dw0.get()) | u64::from(self.dw1.get()) << 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::generic;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_parse_and_build_back(bytes: [u8; 16]) {
            let completion = Completion::read_from_bytes(&bytes).unwrap();
            let phase = u16::from(completion.phase());
            let mut built = Completion::new(
                completion.cid.get(),
                completion.sqhd.get(),
                completion.status(),
                completion.result64(),
            );
            built.sqid = completion.sqid;
            built.status = U16::new(built.status.get() | phase);
            prop_assert_eq!(built.as_bytes(), &bytes);
        }
    }

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 0x34, 0x12, 2, 0, 9, 0, 0x05, 0x80];
        let completion = Completion::read_from_bytes(&bytes).unwrap();
        assert_eq!(completion.result64(), 0x0807_0605_0403_0201);
        assert_eq!(completion.sqhd.get(), 0x1234);
        assert_eq!(completion.cid.get(), 9);
        assert!(completion.phase());
        assert_eq!(completion.status(), generic::INVALID_FIELD.with_dnr());
    }
}
