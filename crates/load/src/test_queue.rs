//! A queue in virtual time, for tests: commands take as long as they are told to, fail or get lost on request, and everything
//! submitted is written down.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use doorbell_platform::{Arena, Backing, Range};
use doorbell_queue::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait, cid::Cids};
use doorbell_spec::{
    command::Command,
    status::{self, Status},
};

use crate::stop::Clock;

/// Time that passes by being looked at: one tick a reading.
#[derive(Clone, Debug, Default)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    pub fn skip(&self, ticks: u64) {
        self.0.fetch_add(ticks, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a test can set and see of a queue.
#[derive(Debug, Default)]
pub struct Script {
    /// Ticks a command takes; more commands at once take no longer.
    pub delay: u64,
    /// Ticks that pass with each poll.
    pub poll: u64,
    /// The first command behind which the connection is lost.
    pub lost_after: Option<u64>,
    /// Status of every n-th command.
    pub fail_every: Option<(u64, Status)>,
    /// Commands from this one on are never answered.
    pub mute_after: Option<u64>,
    /// It has a descriptor to sleep on, if only in name.
    pub sleeps: bool,
    /// Ticks of a wait of its own, which commits.
    pub wait: Option<u64>,
    /// Commits of that wait, and others.
    pub commits: [u64; 2],
    /// Once it is stopped, the device may still write to its memory.
    pub held: bool,
    /// It takes no memory.
    pub useless: bool,
    /// Identifiers of commands that were aborted.
    pub aborted: Vec<u16>,
    pub taken: Vec<Op>,
    pub prepared: Vec<(Slot, Vec<Range>)>,
}

#[derive(Debug)]
pub struct TestQueue {
    clock: VirtualClock,
    script: Arc<Mutex<Script>>,
    cids: Cids,
    slots: u16,
    /// Bytes of memory that each block takes.
    pub block: u32,
    submitted: VecDeque<(Slot, Status)>,
    committed: VecDeque<(u64, Slot, Status)>,
    /// What each slot is prepared for.
    memory: Vec<Vec<Range>>,
    count: u64,
    stopped: bool,
}

impl TestQueue {
    pub fn new(slots: u16, clock: &VirtualClock, script: Script) -> (Self, Arc<Mutex<Script>>) {
        let script = Arc::new(Mutex::new(script));
        let queue = Self {
            clock: clock.clone(),
            script: script.clone(),
            cids: Cids::new(slots),
            slots,
            block: 512,
            submitted: VecDeque::new(),
            committed: VecDeque::new(),
            memory: vec![Vec::new(); slots.into()],
            count: 0,
            stopped: false,
        };
        (queue, script)
    }

    /// A command's memory must be as long as its blocks and no other command's.
    fn check_memory(&self, op: &Op) {
        let own = &self.memory[usize::from(op.slot)];
        assert_eq!(own.iter().map(|range| range.len).sum::<u32>(), op.blocks * self.block, "{op:?}");
        for busy in self.cids.busy() {
            for other in &self.memory[usize::from(busy)] {
                assert!(own.iter().all(|range| range.end() <= other.offset || other.end() <= range.offset), "{op:?}");
            }
        }
    }

    fn is_lost(&self) -> bool {
        self.script.lock().unwrap().lost_after.is_some_and(|last| self.count >= last)
    }

    fn lost() -> Down {
        Down("the test lost it".into())
    }
}

impl IoQueue for TestQueue {
    fn needs(&self) -> Needs {
        Needs { slots: self.slots, alignment: 1, segments: 16, bytes: u32::MAX, backing: Backing::Any }
    }

    fn attach(&mut self, _: &Arc<Arena>) -> Result<(), PrepareError> {
        Ok(())
    }

    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        if !self.cids.is_idle(slot) || data.len() > 16 || self.script.lock().unwrap().useless {
            return Err(PrepareError(format!("slot {slot}: busy, unknown or {} ranges", data.len())));
        }
        self.memory[usize::from(slot)] = data.to_vec();
        self.script.lock().unwrap().prepared.push((slot, data.to_vec()));
        Ok(())
    }

    fn submit(&mut self, ops: &[Op]) -> usize {
        let mut script = self.script.lock().unwrap();
        for (index, op) in ops.iter().enumerate() {
            if self.stopped || !self.cids.is_idle(op.slot) {
                return index;
            }
            self.check_memory(op);
            self.cids.issue(op.slot);
            self.count += 1;
            let status = match script.fail_every {
                Some((n, status)) if self.count.is_multiple_of(n) => status,
                _ => Status::SUCCESS,
            };
            self.submitted.push_back((op.slot, status));
            script.taken.push(*op);
        }
        ops.len()
    }

    fn submit_raw(&mut self, _: Slot, _: &Command) -> bool {
        false
    }

    fn commit(&mut self) -> Result<Progress, Down> {
        let mut script = self.script.lock().unwrap();
        script.commits[1] += 1;
        let due = self.clock.0.load(Ordering::Relaxed) + script.delay;
        let first = self.count - self.submitted.len() as u64;
        for (index, (slot, status)) in self.submitted.drain(..).enumerate() {
            let mute = script.mute_after.is_some_and(|last| first + index as u64 >= last);
            self.committed.push_back((if mute { u64::MAX } else { due }, slot, status));
        }
        drop(script);
        if self.is_lost() { Err(Self::lost()) } else { Ok(Progress::Complete) }
    }

    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        self.clock.skip(self.script.lock().unwrap().poll);
        if self.is_lost() && !self.stopped {
            return Err(Self::lost());
        }
        let now = self.clock.0.load(Ordering::Relaxed);
        for cid in self.script.lock().unwrap().aborted.drain(..) {
            let slot = self.cids.find(cid);
            if let Some(at) = self.committed.iter().position(|&(_, busy, _)| Some(busy) == slot) {
                let (_, slot, _) = self.committed.remove(at).unwrap();
                self.committed.push_front((0, slot, status::generic::ABORT_REQUESTED));
            }
        }
        let mut count = 0;
        while count < done.len()
            && let Some(&(due, slot, status)) = self.committed.front()
            && (due <= now || self.stopped)
        {
            self.committed.pop_front();
            self.cids.retire(slot);
            let status = if self.stopped { status::generic::ABORTED_SQ_DELETION } else { status };
            done[count] = Done { slot, status, result: 0 };
            count += 1;
        }
        Ok(count)
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.committed.extend(self.submitted.drain(..).map(|(slot, status)| (0, slot, status)));
    }

    fn drained(&self) -> Drain {
        match self.cids.outstanding() {
            0 if self.script.lock().unwrap().held => Drain::Quarantined(1),
            0 => Drain::Clean,
            _ => Drain::Busy,
        }
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        Ok(if self.script.lock().unwrap().sleeps { Wait::Fd { fd: -1, writable: false } } else { Wait::Ready })
    }

    fn sleep_commits(&self) -> bool {
        self.script.lock().unwrap().wait.is_some()
    }

    fn sleep(&mut self, _: Duration) -> Result<bool, Down> {
        let Some(ticks) = self.script.lock().unwrap().wait else { return Ok(false) };
        self.commit()?;
        self.clock.skip(ticks);
        let commits = &mut self.script.lock().unwrap().commits;
        *commits = [commits[0] + 1, commits[1] - 1];
        Ok(true)
    }

    fn counters(&self) -> Counters {
        Counters { submitted: self.count, ..Counters::default() }
    }

    fn named(&self, slot: Slot) -> Option<(u16, u16)> {
        self.cids.of(slot).map(|cid| (1, cid))
    }
}
