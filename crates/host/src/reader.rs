//! Reading a few blocks at leisure, over an I/O queue of its own: what is on a namespace is looked at by the way it will be used.

use std::{ops::Range, time::Duration};

use doorbell_queue::Done;
use doorbell_spec::{
    command::{self, Command},
    status::media,
};

use crate::{
    error::{Cause, Error},
    namespace::Namespace,
    transport::port::{AdminData, BUFFER, Kind, Port, refused},
};

/// What all commands of one read may take.
const SPAN: Duration = Duration::from_secs(30);

/// An I/O queue to read by; [`crate::Controller::reader`] has one. It goes when this is dropped.
pub struct Reader {
    pub(crate) port: Port,
    pub(crate) controller: String,
    pub(crate) timeout: Duration,
}

impl Reader {
    /// The data from a byte offset of a namespace, both multiples of its block size and within it. Blocks that were never written
    /// are zeroes, also where the controller reports them as an error.
    ///
    /// # Errors
    /// The status of a command that failed; no answer in time; metadata that the transport has no place for.
    pub fn read(&mut self, namespace: &Namespace, offset: u64, bytes: usize) -> Result<Vec<u8>, Error> {
        self.blocks(namespace, offset, bytes).map_err(|cause| cause.of(&self.controller))
    }

    /// Blocks from an LBA on as they are stored: their data, with metadata that stands behind it, and metadata that is apart. The
    /// controller does not check them.
    ///
    /// # Errors
    /// As [`Reader::read`]; blocks that were never written, where the controller reports them.
    pub fn stored(&mut self, namespace: &Namespace, slba: u64, blocks: u32) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let (mut data, mut metadata) = (Vec::new(), Vec::new());
        let take = |command: &Command, done: &Done, some: &[u8], apart: &[u8], _| {
            data.extend_from_slice(some);
            metadata.extend_from_slice(apart);
            if done.status.is_success() { Ok(()) } else { Err(refused(Kind::Io, command, done.status, String::new())) }
        };
        self.each(namespace, slba..slba + u64::from(blocks), take).map_err(|cause| cause.of(&self.controller))?;
        Ok((data, metadata))
    }

    fn blocks(&mut self, namespace: &Namespace, offset: u64, bytes: usize) -> Result<Vec<u8>, Cause> {
        let (block, stored) = (namespace.block_size, namespace.stored_block_size() as usize);
        let mut data = Vec::with_capacity(bytes);
        let range = offset / u64::from(block)..(offset + bytes as u64) / u64::from(block);
        self.each(namespace, range, |command, done, some, _, count| {
            if done.status.is_success() {
                some.chunks_exact(stored).for_each(|one| data.extend_from_slice(&one[..block as usize]));
            } else if done.status.is(media::DEALLOCATED_OR_UNWRITTEN) {
                data.resize(data.len() + count as usize * block as usize, 0);
            } else {
                return Err(refused(Kind::Io, command, done.status, String::new()));
            }
            Ok(())
        })?;
        Ok(data)
    }

    /// Reads blocks in as many commands as they take; `take` has each, what came of it, data, metadata that is apart, and its blocks.
    fn each(
        &mut self,
        namespace: &Namespace,
        range: Range<u64>,
        mut take: impl FnMut(&Command, &Done, &[u8], &[u8], u32) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        let stored = namespace.stored_block_size();
        let apart = if namespace.extended { 0 } else { u32::from(namespace.metadata_size) };
        // Metadata begins at a dword.
        let most = ((BUFFER - 4) / (stored + apart)).min(namespace.max_transfer / stored);
        if most == 0 {
            return Err(Cause::Transport(format!(
                "NSID {}: its blocks of {stored} bytes are too large",
                namespace.nsid
            )));
        }
        self.port.grant("the look at what is there", SPAN);
        let Range { start: mut block, end } = range;
        while block < end {
            // A read must not cross from one zone to the next.
            let in_zone = namespace.zoned.map_or(u64::MAX, |zoned| zoned.zone_blocks - block % zoned.zone_blocks);
            let count = u64::from(most).min(end - block).min(in_zone) as u32;
            let command = command::read(namespace.nsid, block, count, 0);
            if apart > 0 {
                self.port.expect_metadata(count * apart);
            }
            let (done, data) = self.port.execute(&command, &AdminData::In(count * stored), self.timeout)?;
            take(&command, &done, &data, &self.port.metadata(count * apart), count)?;
            block += u64::from(count);
        }
        Ok(())
    }
}
