//! What a fault script does to data: writes that are dropped, torn or put in another place, reads that bring what was there before or
//! have a bit flipped. Only queues of a target whose script does such things have any of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use doorbell_spec::{command::Command, status::generic};

use super::io::IoQueue;
use crate::{
    fault::Damage,
    frames::{FRAME, Frame, frames_for, push_ranges},
    namespace::{Found, Namespace, Outcome, Pool, RESERVE},
};

/// What blocks held before they were last written, for stale reads: by namespace and first byte.
pub(crate) type History = Mutex<HashMap<(u32, u64), Vec<u8>>>;

/// The damage of a queue's commands.
#[derive(Debug)]
pub(super) struct Harm {
    history: Option<Arc<History>>,
    /// By command identifier, with bits that choose how.
    damages: HashMap<u16, (Damage, u64)>,
}

impl IoQueue {
    /// Has the data of a command that has come damaged, if there is a damage, and what is overwritten kept where reads may be stale.
    pub(crate) fn harm(&mut self, cid: u16, damage: Option<(Damage, u64)>, history: Option<&Arc<History>>) {
        let none = || Box::new(Harm { history: history.cloned(), damages: HashMap::new() });
        let harm = self.harm.get_or_insert_with(none);
        harm.damages.remove(&cid);
        harm.damages.extend(damage.map(|damage| (cid, damage)));
    }
}

impl Harm {
    /// What a Read found becomes what it is to find.
    pub(super) fn read(
        &mut self,
        pool: &mut Pool,
        namespace: &Namespace,
        cid: u16,
        (at, len): (u64, u32),
        found: &mut Found,
    ) -> Outcome {
        let done = Outcome::Done(generic::SUCCESS);
        let Some((damage, bits)) = self.damages.remove(&cid) else { return done };
        let mut bytes = contents(pool, found);
        match damage {
            Damage::FlippedBit => {
                let bit = bits % (u64::from(len) * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            Damage::StaleRead => {
                let history =
                    self.history.as_ref().map(|history| history.lock().unwrap_or_else(PoisonError::into_inner));
                let size = 1usize << namespace.block_shift;
                for (block, to) in (at..).step_by(size).zip(bytes.chunks_mut(size)) {
                    if let Some(old) = history.as_ref().and_then(|history| history.get(&(namespace.nsid, block))) {
                        to.copy_from_slice(old);
                    }
                }
            }
            // Those of writes find nothing to do here.
            _ => return done,
        }
        let (skew, mut frames) = ((at % u64::from(FRAME)) as u32, Vec::new());
        if !pool.frames.take(frames_for(skew, len), RESERVE, &mut frames) {
            found.clear(pool);
            self.damages.insert(cid, (damage, bits));
            return Outcome::Again;
        }
        found.clear(pool);
        push_ranges(&frames, skew, 0, len, &mut found.ranges);
        let mut from = 0;
        for range in &found.ranges {
            pool.frames.store.region().write(range.offset, &bytes[from..from + range.len as usize]);
            from += range.len as usize;
        }
        found.frames = frames;
        done
    }

    /// The Write that is carried out instead of one; or that nothing is.
    pub(super) fn write(
        &mut self,
        pool: &mut Pool,
        namespace: Option<&Namespace>,
        command: &Command,
        frames: &mut Vec<Frame>,
        begins: bool,
    ) -> Result<Command, Outcome> {
        let (mut command, Some(namespace)) = (*command, namespace) else { return Ok(*command) };
        let blocks = u64::from(command.block_count());
        if begins {
            self.keep(pool, namespace, command.slba(), blocks)?;
        }
        let damage = self.damages.get(&command.cid.get()).map(|&(damage, _)| damage);
        match damage {
            Some(Damage::DroppedWrite) => return Err(Outcome::Done(generic::SUCCESS)),
            Some(Damage::WrongLba) => {
                // So far that the data lies in its frames as it did.
                let far = blocks.next_multiple_of(namespace.group_blocks().into());
                let slba = command.slba();
                let other =
                    if slba + far + blocks <= namespace.blocks { Some(slba + far) } else { slba.checked_sub(far) };
                command.set_slba(other.unwrap_or(slba));
            }
            Some(Damage::TornWrite) => {
                let at = command.slba() << namespace.block_shift;
                let half = ((blocks << namespace.block_shift) / 2) as u32;
                let skew = (at % u64::from(FRAME)) as u32;
                frames.drain(frames_for(skew, half)..).for_each(|frame| pool.frames.release(frame));
                return Err(namespace.write(pool, at, half, frames, &mut 0));
            }
            _ => {}
        }
        Ok(command)
    }

    /// Keeps what is about to be overwritten.
    fn keep(&self, pool: &mut Pool, namespace: &Namespace, slba: u64, blocks: u64) -> Result<(), Outcome> {
        let Some(history) = &self.history else { return Ok(()) };
        let (at, len) = (slba << namespace.block_shift, (blocks << namespace.block_shift) as u32);
        let mut found = Found::default();
        match namespace.read(pool, at, len, &mut found) {
            Outcome::Done(status) if status.is_success() => {}
            other => return Err(other),
        }
        let bytes = contents(pool, &found);
        found.clear(pool);
        let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
        let size = 1usize << namespace.block_shift;
        for (block, old) in (at..).step_by(size).zip(bytes.chunks(size)) {
            history.insert((namespace.nsid, block), old.to_vec());
        }
        Ok(())
    }
}

/// The bytes that a read found.
fn contents(pool: &Pool, found: &Found) -> Vec<u8> {
    let len = found.ranges.iter().map(|range| range.len as usize).sum();
    let (mut bytes, mut to) = (vec![0; len], 0);
    for range in &found.ranges {
        pool.frames.store.region().read(range.offset, &mut bytes[to..to + range.len as usize]);
        to += range.len as usize;
    }
    bytes
}
