//! An I/O command on its way: from the check of its data pointer to its status. One that cannot be done at once is kept with all it
//! holds, and tried again.

use doorbell_platform::Range;
use doorbell_spec::{
    command::{Command, NvmOpcode},
    status::generic,
};
use doorbell_vfio_user::Access;
use zerocopy::FromZeros;

use super::{
    far::Stage,
    memory::{Memory, Piece, Trouble},
    transfer,
};
use crate::{
    controller::{IoQueue, Need, Plan, Progress},
    frames::{Frame, frames_for, push_ranges},
    listener::Context,
    namespace::{Outcome, Pool, RESERVE},
};

/// A command with its data.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) plan: Plan,
    /// Where its data is.
    pub(super) pieces: Vec<Piece>,
    /// What came of the data that it sends.
    pub(super) frames: Vec<Frame>,
    pub(super) progress: Progress,
    /// How far it has come by messages, where it goes by these.
    pub(super) far: Option<Stage>,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            command: Command::new_zeroed(),
            plan: Plan { need: Need::Nothing, len: 0, vain: false },
            pieces: Vec::new(),
            frames: Vec::new(),
            progress: Progress::default(),
            far: None,
        }
    }
}

/// The memory that the host has taken away from under us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// Why a command cannot go on as commands do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The host's memory is gone.
    Lost,
    /// Some of what it names is reached by messages.
    Far,
}

impl Job {
    /// Takes on a command, and carries it out as far as it goes at once.
    #[inline]
    pub(super) fn begin(
        &mut self,
        command: Command,
        queue: &mut IoQueue,
        memory: Memory<'_>,
        context: &mut Context,
    ) -> Result<Outcome, Stop> {
        self.command = command;
        self.pieces.clear();
        self.progress = Progress::default();
        match self.prepare(queue, memory) {
            Ok(true) => Ok(Outcome::Done(generic::SUCCESS)),
            Ok(false) => self.proceed(queue, memory, context),
            Err(Trouble::Status(status)) => Ok(Outcome::Done(status)),
            Err(Trouble::Lost) => Err(Stop::Lost),
            Err(Trouble::Far) => Err(Stop::Far),
        }
    }

    /// Checks the command and finds its data; returns whether it is done with that.
    #[inline]
    fn prepare(&mut self, queue: &mut IoQueue, memory: Memory<'_>) -> Result<bool, Trouble> {
        self.plan = queue.plan(&self.command).map_err(Trouble::Status)?;
        transfer::pieces(memory, &self.command, self.plan.len, &mut self.pieces)?;
        if !self.plan.vain {
            return Ok(false);
        }
        // What keeps nothing gives nothing either: the data stays where it is, if it is somewhere.
        let access = if self.plan.need == Need::Nothing { Access::Write } else { Access::Read };
        memory.check(&self.pieces, access)?;
        queue.pass_by(&self.plan);
        Ok(true)
    }

    /// Goes on with a command that is not done.
    pub(super) fn proceed(
        &mut self,
        queue: &mut IoQueue,
        memory: Memory<'_>,
        context: &mut Context,
    ) -> Result<Outcome, Stop> {
        let outcome = if self.command.opc == NvmOpcode::READ.0 {
            self.read(queue, memory, context)
        } else {
            self.carry_out(queue, memory, context)
        };
        let outcome = match outcome {
            Err(Trouble::Status(status)) => Ok(Outcome::Done(status)),
            Err(Trouble::Lost) => Err(Stop::Lost),
            Err(Trouble::Far) => Err(Stop::Far),
            Ok(outcome) => Ok(outcome),
        };
        if !matches!(outcome, Ok(Outcome::Turn | Outcome::Again)) {
            self.release(&mut context.pool);
        }
        outcome
    }

    /// Gives back what it holds.
    pub(super) fn release(&mut self, pool: &mut Pool) {
        self.frames.drain(..).for_each(|frame| pool.frames.release(frame));
    }

    #[inline]
    fn read(&mut self, queue: &mut IoQueue, memory: Memory<'_>, context: &mut Context) -> Result<Outcome, Trouble> {
        let Context { pool, found, .. } = context;
        let outcome = queue.read(pool, &self.command, found);
        let copied = match outcome {
            Outcome::Done(status) if status.is_success() => {
                memory.fill(&self.pieces, pool.frames.store.region(), &found.ranges)
            }
            _ => Ok(()),
        };
        found.clear(pool);
        if copied == Err(Trouble::Far) {
            // It is begun anew.
            queue.uncount_read(self.plan.len);
        }
        copied.map(|()| outcome)
    }

    fn carry_out(
        &mut self,
        queue: &mut IoQueue,
        memory: Memory<'_>,
        context: &mut Context,
    ) -> Result<Outcome, Trouble> {
        let Context { pool, found, .. } = context;
        if let Need::Data { skew } = self.plan.need
            && self.frames.is_empty()
        {
            if !pool.frames.take(frames_for(skew, self.plan.len), RESERVE, &mut self.frames) {
                return Ok(Outcome::Again);
            }
            let ranges: &mut Vec<Range> = &mut found.ranges;
            push_ranges(&self.frames, skew, 0, self.plan.len, ranges);
            let fetched = memory.fetch(&self.pieces, pool.frames.store.region(), ranges);
            ranges.clear();
            // Nothing is written of data that did not come whole.
            fetched?;
        }
        Ok(queue.execute(pool, &self.command, &mut self.frames, &mut self.progress))
    }
}
