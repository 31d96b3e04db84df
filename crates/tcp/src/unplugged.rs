//! Receiving without a socket: tests and fuzz targets hand over bytes exactly as a gathered receive would.

use doorbell_platform::{Region, socket::MOST_PIECES};

use crate::{Fault, Receiver, Sink};

impl Receiver {
    /// Takes the next bytes of the stream as one call on a socket brings them: those that belong to the data being received go
    /// where that belongs, the rest comes as staging.
    ///
    /// # Errors
    /// As [`Receiver::received`].
    pub fn deliver(&mut self, bytes: &[u8], region: Option<&Region>, sink: &mut impl Sink) -> Result<(), Fault> {
        let mut staging = bytes;
        // One piece of a call is the staging buffer.
        for range in self.want(sink).iter().take(MOST_PIECES - 1) {
            let (piece, rest) = staging.split_at(staging.len().min(range.len as usize));
            region.expect("data needs memory").write(range.offset, piece);
            staging = rest;
        }
        self.received(bytes.len(), staging, region, sink)
    }
}
