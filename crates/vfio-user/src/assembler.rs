//! Bytes and descriptors become messages. Pure: whoever owns the socket reads no more than [`Assembler::want`] has room for, so that
//! one read never crosses the end of a message, and the descriptors of a read belong to the message it was for.

use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, IntoBytes};

use crate::wire::{Command, Header, flags};

const HEADER: usize = size_of::<Header>();

/// A breach of the protocol by the peer; the connection is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the protocol: {0}")]
pub struct Violation(pub String);

/// A whole message.
#[derive(Debug)]
pub struct Message {
    /// What came first.
    pub header: Header,
    /// What followed it.
    pub body: Vec<u8>,
    /// What came along.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// Its command.
    pub fn command(&self) -> Command {
        Command(self.header.cmd.get())
    }

    /// Whether it answers a command.
    pub fn is_reply(&self) -> bool {
        self.header.flags.get() & flags::TYPE == flags::REPLY
    }

    /// The structure that its body begins with; none where it is too short.
    pub fn read<T: FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(&self.body).ok().map(|(value, _)| value)
    }

    /// What follows the structure that its body begins with.
    pub fn after<T>(&self) -> &[u8] {
        self.body.get(size_of::<T>()..).unwrap_or_default()
    }
}

/// Puts messages together.
#[derive(Debug)]
pub struct Assembler {
    header: Header,
    body: Vec<u8>,
    /// Bytes of the message that are here.
    have: usize,
    fds: Vec<OwnedFd>,
    most_bytes: usize,
    most_fds: usize,
}

impl Assembler {
    /// Takes messages of up to `most_bytes` with their header, and up to `most_fds` descriptors with each.
    pub fn new(most_bytes: usize, most_fds: usize) -> Self {
        Self { header: Header::default(), body: Vec::new(), have: 0, fds: Vec::new(), most_bytes, most_fds }
    }

    /// Where the next bytes go; never empty.
    pub fn want(&mut self) -> &mut [u8] {
        match self.have.checked_sub(HEADER) {
            None => &mut self.header.as_mut_bytes()[self.have..],
            Some(at) => &mut self.body[at..],
        }
    }

    /// Whether a message has begun and not ended.
    pub fn is_within_message(&self) -> bool {
        self.have > 0
    }

    /// `count` bytes were put where they were wanted, and `fds` came with them. Returns the message that is whole now.
    ///
    /// # Errors
    /// When the peer breaks the protocol; all descriptors of the message are closed.
    ///
    /// # Panics
    /// When `count` is more than was wanted.
    pub fn received(
        &mut self,
        count: usize,
        fds: impl IntoIterator<Item = OwnedFd>,
    ) -> Result<Option<Message>, Violation> {
        assert!(count <= self.want().len(), "{count} bytes are more than fit");
        self.fds.extend(fds);
        if self.fds.len() > self.most_fds {
            let many = std::mem::take(&mut self.fds).len();
            return Err(Violation(format!("{many} descriptors with a message, at most {} may come", self.most_fds)));
        }
        self.have += count;
        if self.have < HEADER {
            return Ok(None);
        }
        if self.have == HEADER {
            self.begin_body()?;
        }
        if self.have < HEADER + self.body.len() {
            return Ok(None);
        }
        self.have = 0;
        let (body, fds) = (std::mem::take(&mut self.body), std::mem::take(&mut self.fds));
        Ok(Some(Message { header: self.header, body, fds }))
    }

    fn begin_body(&mut self) -> Result<(), Violation> {
        let (size, command) = (self.header.msg_size.get() as usize, Command(self.header.cmd.get()));
        if size < HEADER || size > self.most_bytes {
            let most = self.most_bytes;
            return Err(Violation(format!("{command} says it has {size} bytes, it can have {HEADER} to {most}")));
        }
        if self.header.flags.get() & flags::TYPE > flags::REPLY {
            let bits = self.header.flags;
            return Err(Violation(format!("{command} with flags {bits:#x} is neither a command nor a reply")));
        }
        self.body = vec![0; size - HEADER];
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::OwnedFd};

    use proptest::prelude::*;

    use super::*;
    use crate::wire;

    fn header(command: Command, size: u32) -> Header {
        Header { cmd: command.0.into(), msg_size: size.into(), ..Header::default() }
    }

    fn feed(assembler: &mut Assembler, mut bytes: &[u8]) -> Result<Vec<Message>, Violation> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let room = assembler.want();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            messages.extend(assembler.received(count, [])?);
        }
        Ok(messages)
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_size_that_cannot_be_is_refused_before_anything_is_kept_for_it() {
        for size in [0, 15, 65, u32::MAX] {
            let mut assembler = Assembler::new(64, 1);
            let error = feed(&mut assembler, header(Command::REGION_READ, size).as_bytes()).unwrap_err();
            assert!(error.0.contains(&format!("REGION_READ says it has {size} bytes")), "{error}");
        }
        for size in [16, 64] {
            let mut assembler = Assembler::new(64, 1);
            let message = feed(&mut assembler, header(Command::REGION_READ, size).as_bytes()).unwrap();
            assert_eq!((message.len(), assembler.is_within_message()), (usize::from(size == 16), size != 16));
        }
    }

    #[test]
    fn what_is_neither_command_nor_reply_is_refused() {
        let odd = Header { flags: 2.into(), ..header(Command::VERSION, 16) };
        assert!(feed(&mut Assembler::new(64, 1), odd.as_bytes()).is_err());
    }

    #[test]
    fn descriptors_belong_to_the_message_they_came_with_and_are_counted() {
        let mut assembler = Assembler::new(64, 2);
        let bytes = wire::message(header(Command::DMA_MAP, 0), &[&[0; 8]]);
        assembler.want().copy_from_slice(&bytes[..16]);
        assert!(assembler.received(16, [null()]).unwrap().is_none());
        let message = assembler.received(8, [null()]).unwrap().unwrap();
        assert_eq!(message.fds.len(), 2);
        let next = feed(&mut assembler, header(Command::DEVICE_RESET, 16).as_bytes()).unwrap();
        assert!(next[0].fds.is_empty());
        let error = assembler.received(1, [null(), null(), null()]).unwrap_err();
        assert!(error.0.contains("3 descriptors"), "{error}");
    }

    proptest! {
        #[test]
        fn however_a_stream_is_cut_the_same_messages_come(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
            cuts in prop::collection::vec(1usize..30, 1..20),
        ) {
            let stream: Vec<u8> =
                bodies.iter().flat_map(|body| wire::message(header(Command::REGION_WRITE, 0), &[body])).collect();
            let mut assembler = Assembler::new(64, 1);
            let (mut rest, mut found) = (&stream[..], Vec::new());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                found.extend(feed(&mut assembler, piece).unwrap().into_iter().map(|message| message.body));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(found, bodies);
            prop_assert!(!assembler.is_within_message());
        }

        #[test]
        fn any_bytes_are_messages_or_a_violation(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut assembler = Assembler::new(64, 1);
            if let Ok(messages) = feed(&mut assembler, &bytes) {
                let whole: usize = messages.iter().map(|message| HEADER + message.body.len()).sum();
                prop_assert!(whole <= bytes.len());
                prop_assert_eq!(assembler.is_within_message(), whole < bytes.len());
            }
        }
    }
}
