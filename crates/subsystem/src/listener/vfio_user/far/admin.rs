//! An Admin command of which some data, or the list that says where it lies, is reached by messages. It is carried out once, between
//! the data that comes and the data that goes.

use doorbell_spec::{command::Command, status::Status};

use super::super::{
    memory::{Memory, Trouble},
    transfer,
};
use super::{
    courier::{Courier, Key},
    lists::Lists,
};
use crate::controller::Answer;

/// A command on its way.
#[derive(Debug)]
pub(in super::super) struct AdminJob {
    pub(super) command: Command,
    lists: Lists,
    copy: Option<Key>,
    /// What came of it; none before it is carried out.
    answer: Option<Answer>,
    /// Bytes of data that come with it.
    input: u32,
}

/// What is next for a command.
pub(super) enum Next {
    /// It waits for the host.
    Wait,
    /// It is to be carried out with this data.
    Execute(Vec<u8>),
    /// It is over.
    Done(Status, u64),
}

impl AdminJob {
    /// A command that needs `input` bytes of data.
    pub(in super::super) fn asking(command: Command, input: u32) -> Self {
        Self { command, lists: Lists::default(), copy: None, answer: None, input }
    }

    /// A command that has been carried out and whose data is to be written.
    pub(in super::super) fn answering(command: Command, answer: Answer) -> Self {
        Self { command, lists: Lists::default(), copy: None, answer: Some(answer), input: 0 }
    }

    /// Takes it a step further.
    ///
    /// # Errors
    /// The status that it ends with, or that the host's memory is gone.
    pub(super) fn step(&mut self, memory: Memory<'_>, courier: &mut Courier) -> Result<Next, Trouble> {
        let Some(key) = self.copy else {
            let prps = [self.command.dptr.prp1(), self.command.dptr.prp2()];
            let len = self.answer.as_ref().map_or(self.input, |answer| answer.data.len() as u32);
            let mut pieces = Vec::new();
            let walked = self.lists.walk(memory, courier, |source| {
                pieces.clear();
                transfer::prp(source, prps, len, &mut pieces)
            })?;
            if walked {
                self.copy = Some(match &mut self.answer {
                    None => courier.read(pieces),
                    Some(answer) => courier.write(pieces, std::mem::take(&mut answer.data)),
                });
            }
            return Ok(Next::Wait);
        };
        let Some(copied) = courier.take(key) else { return Ok(Next::Wait) };
        let bytes = copied?;
        Ok(match &self.answer {
            None => Next::Execute(bytes),
            Some(answer) => Next::Done(answer.status, answer.result),
        })
    }
}
