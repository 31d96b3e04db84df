//! An I/O command of which some data, or the lists that say where it lies, is reached by messages. The command is begun anew here and
//! stays among the parked ones; each try takes it as far as what has come from the host allows.

use doorbell_spec::status::generic;
use doorbell_vfio_user::Access;

use super::super::{
    job::Job,
    memory::{Memory, Trouble},
    transfer,
};
use super::{
    courier::{Courier, Key},
    lists::Lists,
};
use crate::{
    controller::{IoQueue, Need},
    frames::{frames_for, push_ranges},
    listener::Context,
    namespace::{Outcome, RESERVE},
};

/// How far a command has come.
#[derive(Debug)]
pub(in super::super) enum Stage {
    /// It waits for others to be done.
    New,
    /// It looks for its data.
    Lists(Lists),
    /// The data that it sends is asked for.
    Fetch(Key),
    /// That data is here and waits for frames.
    Store(Vec<u8>),
    /// All it needs is here.
    Execute,
    /// It reads.
    Read,
    /// The data that it gets is on its way.
    Fill(Key),
}

impl Stage {
    /// Lets go of what is under way.
    pub(in super::super) fn cancel(&self, courier: &mut Courier) {
        match self {
            Self::Lists(lists) => lists.cancel(courier),
            Self::Fetch(key) | Self::Fill(key) => courier.cancel(*key),
            _ => {}
        }
    }
}

impl Job {
    /// Takes the command a step further.
    ///
    /// # Errors
    /// The status that it ends with, or that the host's memory is gone.
    pub(super) fn step(
        &mut self,
        stage: &mut Stage,
        queue: &mut IoQueue,
        memory: Memory<'_>,
        courier: &mut Courier,
        context: &mut Context,
    ) -> Result<Outcome, Trouble> {
        loop {
            match stage {
                Stage::New => *stage = Stage::Lists(Lists::default()),
                Stage::Lists(lists) => {
                    let Self { command, plan, pieces, .. } = self;
                    *plan = queue.plan(command).map_err(Trouble::Status)?;
                    let walked = lists.walk(memory, courier, |source| {
                        pieces.clear();
                        transfer::pieces(source, command, plan.len, pieces)
                    })?;
                    if !walked {
                        return Ok(Outcome::Again);
                    }
                    let sends = self.plan.need != Need::Nothing;
                    if self.plan.vain {
                        memory.covers(&self.pieces, if sends { Access::Read } else { Access::Write })?;
                        queue.pass_by(&self.plan);
                        return Ok(Outcome::Done(generic::SUCCESS));
                    }
                    *stage = match sends {
                        true => Stage::Fetch(courier.read(std::mem::take(&mut self.pieces))),
                        false if IoQueue::reads(&self.command) => Stage::Read,
                        false => Stage::Execute,
                    };
                }
                Stage::Fetch(key) => {
                    let Some(came) = courier.take(*key) else { return Ok(Outcome::Again) };
                    *stage = Stage::Store(came?);
                }
                Stage::Store(bytes) => {
                    let Need::Data { skew } = self.plan.need else { return Err(Trouble::UNREACHABLE) };
                    let pool = &mut context.pool;
                    if !pool.frames.take(frames_for(skew, self.plan.len), RESERVE, &mut self.frames) {
                        return Ok(Outcome::Again);
                    }
                    let mut ranges = Vec::new();
                    push_ranges(&self.frames, skew, 0, self.plan.len, &mut ranges);
                    let mut rest = &bytes[..];
                    for range in ranges {
                        let (part, behind) = rest.split_at(range.len as usize);
                        pool.frames.store.region().write(range.offset, part);
                        rest = behind;
                    }
                    *stage = Stage::Execute;
                }
                Stage::Execute => {
                    return Ok(queue.execute(&mut context.pool, &self.command, &mut self.frames, &mut self.progress));
                }
                Stage::Read => {
                    let (pool, found) = (&mut context.pool, &mut self.found);
                    let outcome = queue.read(pool, &self.command, found);
                    let mut bytes = vec![0; self.plan.len as usize];
                    if outcome == Outcome::Done(generic::SUCCESS) {
                        let mut rest = &mut bytes[..];
                        for range in &found.ranges {
                            let (part, behind) = rest.split_at_mut(range.len as usize);
                            pool.frames.store.region().read(range.offset, part);
                            rest = behind;
                        }
                    }
                    found.clear(pool);
                    if outcome != Outcome::Done(generic::SUCCESS) {
                        return Ok(outcome);
                    }
                    *stage = Stage::Fill(courier.write(std::mem::take(&mut self.pieces), bytes));
                }
                Stage::Fill(key) => {
                    let Some(went) = courier.take(*key) else { return Ok(Outcome::Again) };
                    return went.map(|_| Outcome::Done(generic::SUCCESS));
                }
            }
        }
    }
}
