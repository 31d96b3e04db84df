//! Reading a few blocks at leisure, over an I/O queue of its own: what is on a namespace is looked at by the way it will be used.

use std::time::Duration;

use doorbell_spec::{command, status::media};

use crate::{
    error::{Cause, Error},
    namespace::Namespace,
    transport::port::{AdminData, BUFFER, Port, refused},
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

    fn blocks(&mut self, namespace: &Namespace, offset: u64, bytes: usize) -> Result<Vec<u8>, Cause> {
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
        let mut data = Vec::with_capacity(bytes);
        let (mut block, end) =
            (offset / u64::from(namespace.block_size), (offset + bytes as u64) / u64::from(namespace.block_size));
        while block < end {
            let count = u64::from(most).min(end - block) as u32;
            let command = command::read(namespace.nsid, block, count, 0);
            if apart > 0 {
                self.port.expect_metadata(count * apart);
            }
            let (done, stored_data) = self.port.execute(&command, &AdminData::In(count * stored), self.timeout)?;
            if done.status.is_success() {
                let parts = stored_data.chunks_exact(stored as usize);
                parts.for_each(|one| data.extend_from_slice(&one[..namespace.block_size as usize]));
            } else if done.status.is(media::DEALLOCATED_OR_UNWRITTEN) {
                data.resize(data.len() + count as usize * namespace.block_size as usize, 0);
            } else {
                return Err(refused(&command, done.status, String::new()));
            }
            block += u64::from(count);
        }
        Ok(data)
    }
}
