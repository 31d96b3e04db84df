//! Targets that do wrong, until they are killed.

use std::{net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use doorbell_platform::{Range, Region};
use doorbell_rdma::{
    Access, Completion, CompletionQueue, EventChannel, EventKind, Flags, Identifier, Opcode, Piece, QueuePair,
    QueueSize, Registration, Status,
};
use doorbell_spec::{
    command::Command,
    completion::Completion as Answer,
    rdma::{Accept, Reject, RejectCode, Request},
    status::Status as NvmeStatus,
};
use zerocopy::{FromZeros, IntoBytes};

use super::{Outcome, next, parameters};

/// What a target does to every host.
#[derive(Clone, Copy, Debug)]
pub enum Misdeed {
    /// Refuses each queue with this code.
    Refuse(RejectCode),
    /// Refuses each queue with a word that is none of NVMe's.
    Babble,
    /// Never says whether it accepts.
    Silent,
    /// Accepts, and answers no command.
    Mute,
    /// Accepts fewer commands than the host asked for, by far.
    Stingy,
    /// Answers the first command, and invalidates a key that nobody asked it to.
    Invalidate,
    /// Answers a command that was never sent.
    Invent,
}

impl FromStr for Misdeed {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "babble" => Ok(Self::Babble),
            "silent" => Ok(Self::Silent),
            "mute" => Ok(Self::Mute),
            "stingy" => Ok(Self::Stingy),
            "invalidate" => Ok(Self::Invalidate),
            "invent" => Ok(Self::Invent),
            _ => match name.strip_prefix("refuse=").and_then(|code| code.parse().ok()) {
                Some(code) => Ok(Self::Refuse(RejectCode(code))),
                None => Err(format!("{name}: refuse=CODE, babble, silent, mute, stingy, invalidate or invent")),
            },
        }
    }
}

/// Capsules received: a command and what data may come with it.
const CAPSULES: u32 = 32;
const CAPSULE_LEN: u32 = 8192;

/// A queue that was accepted.
struct Queue {
    pair: QueuePair,
    completions: Arc<CompletionQueue>,
    region: Arc<Region>,
    answer: [Piece; 1],
}

impl Queue {
    fn accept(identifier: Identifier, receives: u16) -> Outcome<Self> {
        let device = identifier.device()?;
        let completions = CompletionQueue::new(&device, 2 * CAPSULES, None)?;
        let size = QueueSize { sends: CAPSULES, receives: CAPSULES, send_pieces: 1, receive_pieces: 1, inline: 0 };
        let mut pair = QueuePair::new(identifier, size, &completions, None).map_err(|(_, error)| error)?;
        let region = Arc::new(Region::new(((CAPSULES + 1) * CAPSULE_LEN) as usize)?);
        let memory = pair.attach(&Registration::new(&device, region.clone(), Access::Local)?)?;
        for at in 0..CAPSULES {
            let range = Range { offset: u64::from(at * CAPSULE_LEN), len: CAPSULE_LEN };
            pair.push_receive(u64::from(at), &[Piece { memory, range }]);
        }
        pair.post_receives()?;
        pair.identifier().accept(&parameters(Accept::new(receives).as_bytes()))?;
        let range = Range { offset: u64::from(CAPSULES * CAPSULE_LEN), len: size_of::<Answer>() as u32 };
        Ok(Self { pair, completions, region, answer: [Piece { memory, range }] })
    }

    /// Does to the next command what is to be done.
    fn serve(&mut self, misdeed: Misdeed) -> Outcome<()> {
        let mut completion = [Completion::default()];
        if self.completions.poll(&mut completion)? == 0 || completion[0].status() != Status::SUCCESS {
            return Ok(());
        }
        if completion[0].opcode() != Opcode::RECV {
            return Ok(());
        }
        let mut command = Command::new_zeroed();
        self.region.read(completion[0].id() * u64::from(CAPSULE_LEN), command.as_mut_bytes());
        let cid = command.cid.get();
        let answer = |cid| Answer::new(cid, 1, NvmeStatus::SUCCESS, 1);
        match misdeed {
            Misdeed::Invalidate => {
                self.region.write(self.answer[0].range.offset, answer(cid).as_bytes());
                self.pair.push_send_invalidate(1, &self.answer, 0x1234_5678, Flags::SIGNALED);
            }
            Misdeed::Invent => {
                self.region.write(self.answer[0].range.offset, answer(cid ^ 0x0fff).as_bytes());
                self.pair.push_send(1, &self.answer, Flags::SIGNALED);
            }
            _ => return Ok(()),
        }
        self.pair.post_sends()?;
        Ok(())
    }
}

/// Listens and does wrong.
pub fn misbehave(misdeed: Misdeed, at: SocketAddr) -> Outcome<()> {
    let channel = EventChannel::new()?;
    let listener = channel.identifier()?;
    listener.listen(at, 16)?;
    println!("listening");
    let (mut queues, mut undecided): (Vec<Queue>, Vec<Identifier>) = (Vec::new(), Vec::new());
    loop {
        for queue in &mut queues {
            queue.serve(misdeed)?;
        }
        let Some(event) = next(&channel, Duration::from_millis(10))? else { continue };
        println!("{:?} with status {}", event.kind, event.status);
        match event.kind {
            EventKind::ConnectRequest => {
                println!("{:?}", Request::read(&event.private_data));
                let identifier = event.request.ok_or("a request without an identifier")?;
                match misdeed {
                    Misdeed::Refuse(code) => identifier.reject(Reject::new(code).as_bytes())?,
                    Misdeed::Babble => identifier.reject(b"go away")?,
                    Misdeed::Silent => undecided.push(identifier),
                    Misdeed::Stingy => queues.push(Queue::accept(identifier, 1)?),
                    Misdeed::Mute | Misdeed::Invalidate | Misdeed::Invent => {
                        queues.push(Queue::accept(identifier, CAPSULES as u16)?)
                    }
                }
            }
            EventKind::Disconnected => queues.retain(|queue| queue.pair.identifier().token() != event.token),
            _ => {}
        }
    }
}
