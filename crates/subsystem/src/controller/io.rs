//! I/O queues and the NVM command set (NVM 3): checks, and the calls to the namespace.

use std::sync::{Arc, atomic::Ordering};

use doorbell_platform::{Range, Region};
use doorbell_spec::{
    command::{Command, DsmRange, NSID_ALL, NvmOpcode, control},
    fabrics::{Fctype, disconnect_recfmt, fctype},
    status::{Status, fabrics, generic},
    zns::{ReceiveAction, ReportHeader, Reporting, SendAction, ZoneDescriptor},
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::harm::Harm;
use crate::{
    frames::{FRAME, Frame, frames_for, place, push_ranges},
    namespace::{Clear, Found, Namespace, Outcome, Pool, RESERVE, Request, ZonedBlocks},
    subsystem::{Association, Shared},
};

/// Bytes that are enough for a turn of Dataset Management.
const TURN: u64 = 1 << 20;

/// An I/O queue: it shares only its association's state with the controller.
#[derive(Debug)]
pub(crate) struct IoQueue {
    association: Arc<Association>,
    qid: u16,
    period: u64,
    tally: Tally,
    /// What a fault script does to the data of its commands, where there is one that does.
    pub(super) harm: Option<Box<Harm>>,
}

/// What the queue did since its counts were last added to the subsystem's.
#[derive(Debug, Default)]
struct Tally {
    reads: u64,
    writes: u64,
    read_bytes: u64,
    written_bytes: u64,
}

/// What a command needs before it can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// All its data, in frames, beginning `skew` bytes into the first.
    Data {
        /// Bytes.
        skew: u32,
    },
}

/// What a command of the NVM command set asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What it needs.
    pub(crate) need: Need,
    /// Bytes that it transfers.
    pub(crate) len: u32,
    /// The last of these, which are metadata apart from the data.
    pub(crate) apart: u32,
    /// It reads or writes where nothing is kept.
    pub(crate) vain: bool,
}

impl Plan {
    fn new(need: Need, len: u32) -> Self {
        Self { need, len, apart: 0, vain: false }
    }
}

/// How far a command has come that is carried out in steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    bytes: u64,
    range: usize,
    /// What the completion says beside its status.
    pub(crate) result: u64,
}

/// The bytes a command addresses.
type Extent<'a> = (&'a Namespace, u64, u64);

impl IoQueue {
    pub(super) fn new(association: Arc<Association>, qid: u16, period: u64) -> Self {
        Self { association, qid, period, tally: Tally::default(), harm: None }
    }

    /// Whether the controller it belongs to has been reset or is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.association.period() != self.period
    }

    /// Its identifier.
    pub(crate) fn qid(&self) -> u16 {
        self.qid
    }

    /// Ends all queues of its controller, which fails until it is reset.
    pub(crate) fn fail_controller(&self, shared: &Shared) {
        self.association.reset(shared);
    }

    /// Most bytes of data in a command capsule.
    pub(crate) fn in_capsule_data(&self) -> u32 {
        self.association.subsystem.config.in_capsule_data
    }

    /// Gives the queue identifier back.
    pub(crate) fn close(&mut self) {
        self.add_up();
        self.association.close(self.qid, self.period);
    }

    /// Adds what was counted to the subsystem's totals.
    pub(crate) fn add_up(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        if tally.reads + tally.writes > 0 {
            let totals = &self.association.subsystem.totals;
            totals.reads.fetch_add(tally.reads, Ordering::Relaxed);
            totals.writes.fetch_add(tally.writes, Ordering::Relaxed);
            totals.read_bytes.fetch_add(tally.read_bytes, Ordering::Relaxed);
            totals.written_bytes.fetch_add(tally.written_bytes, Ordering::Relaxed);
        }
    }

    /// Checks a command in a capsule, which comes with `len` bytes of data, or takes them.
    ///
    /// # Errors
    /// The status to answer with.
    #[inline]
    pub(crate) fn check(&self, command: &Command, len: u32) -> Result<Need, Status> {
        if !command.uses_sgl() {
            return Err(generic::INVALID_FIELD.with_dnr());
        }
        if command.is_fabrics() {
            return self.check_fabrics(command);
        }
        let Plan { need, len: least, .. } = self.plan(command)?;
        // Linux sends room for 256 ranges, however few there are.
        let ranges = command.opc == NvmOpcode::DATASET_MANAGEMENT.0;
        let fits = if ranges { (least..=FRAME).contains(&len) } else { len == least || least == 0 };
        if fits { Ok(need) } else { Err(generic::DATA_SGL_LENGTH_INVALID.with_dnr()) }
    }

    /// What a command of the NVM command set asks for.
    ///
    /// # Errors
    /// The status to answer with.
    #[inline]
    pub(crate) fn plan(&self, command: &Command) -> Result<Plan, Status> {
        if self.is_over() {
            return Err(generic::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        if command.fuse() != 0 {
            return Err(generic::INVALID_FIELD.with_dnr());
        }
        match NvmOpcode(command.opc) {
            opcode @ (NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE) => {
                let (namespace, at, len) = self.extent(command)?;
                let reads = opcode == NvmOpcode::READ;
                if let Some(blocks) = namespace.formatted() {
                    let (len, apart) = blocks.admit(command)?;
                    self.fits(len.into())?;
                    let need = if reads { Need::Nothing } else { Need::Data { skew: 0 } };
                    return Ok(Plan { need, len: len + apart, apart, vain: false });
                }
                self.fits(len)?;
                let need = if reads { Need::Nothing } else { Need::Data { skew: (at % u64::from(FRAME)) as u32 } };
                let vain = opcode != NvmOpcode::COMPARE && !namespace.keeps_blocks();
                Ok(Plan { need, len: len as u32, apart: 0, vain })
            }
            NvmOpcode::FLUSH if command.nsid.get() == NSID_ALL => Ok(Plan::new(Need::Nothing, 0)),
            NvmOpcode::FLUSH => self.namespace(command).map(|_| Plan::new(Need::Nothing, 0)),
            NvmOpcode::WRITE_ZEROES | NvmOpcode::VERIFY => {
                let (namespace, ..) = self.extent(command)?;
                namespace.formatted().map_or(Ok((0, 0)), |blocks| blocks.admit(command))?;
                Ok(Plan::new(Need::Nothing, 0))
            }
            NvmOpcode::DATASET_MANAGEMENT => {
                self.namespace(command)?;
                let len = u32::from(command.range_count()) * size_of::<DsmRange>() as u32;
                Ok(Plan::new(Need::Data { skew: 0 }, len))
            }
            NvmOpcode::ZONE_APPEND => {
                self.zones(command)?;
                let (_, _, len) = self.extent(command)?;
                self.fits(len)?;
                Ok(Plan::new(Need::Data { skew: 0 }, len as u32))
            }
            NvmOpcode::ZONE_MANAGEMENT_SEND => {
                self.zones(command)?;
                Ok(Plan::new(Need::Nothing, 0))
            }
            NvmOpcode::ZONE_MANAGEMENT_RECEIVE => {
                self.zones(command)?;
                match u32::try_from(command.receive_bytes()) {
                    Ok(bytes) if bytes <= self.association.subsystem.config.max_transfer => {
                        Ok(Plan::new(Need::Nothing, bytes))
                    }
                    _ => Err(generic::INVALID_FIELD.with_dnr()),
                }
            }
            _ => Err(generic::INVALID_OPCODE.with_dnr()),
        }
    }

    /// Whether a command gets data, which [`IoQueue::read`] finds.
    #[inline]
    pub(crate) fn reads(command: &Command) -> bool {
        matches!(NvmOpcode(command.opc), NvmOpcode::READ | NvmOpcode::ZONE_MANAGEMENT_RECEIVE)
    }

    fn check_fabrics(&self, command: &Command) -> Result<Need, Status> {
        if self.is_over() || fctype(command) == Fctype::CONNECT {
            return Err(generic::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        if command.fuse() != 0 || fctype(command) != Fctype::DISCONNECT {
            return Err(generic::INVALID_FIELD.with_dnr());
        }
        if disconnect_recfmt(command) != 0 {
            return Err(fabrics::CONNECT_INCOMPATIBLE_FORMAT.with_dnr());
        }
        Ok(Need::Nothing)
    }

    /// Counts a command that has been planned and is done without its data being moved, as its namespace keeps nothing.
    #[inline]
    pub(crate) fn pass_by(&mut self, plan: &Plan) {
        let tally = &mut self.tally;
        let (count, bytes) = match plan.need {
            Need::Data { .. } => (&mut tally.writes, &mut tally.written_bytes),
            Need::Nothing => (&mut tally.reads, &mut tally.read_bytes),
        };
        *count += 1;
        *bytes += u64::from(plan.len);
    }

    /// A command may touch blocks in memory: looks for nothing yet, but has where to look brought to the cache.
    #[inline]
    pub(crate) fn approach(&self, command: &Command) {
        if let Some((namespace, at, _)) = self.touched(command) {
            namespace.approach(at);
        }
    }

    /// The same command will be carried out soon: has what it counts in brought to the cache.
    #[inline]
    pub(crate) fn foresee(&self, pool: &Pool, command: &Command) {
        if let Some((namespace, at, _)) = self.touched(command) {
            namespace.foresee(pool, at);
        }
    }

    /// Finds the data of a Read that `plan` has let through, if it is in memory.
    #[inline]
    pub(crate) fn find(&mut self, pool: &mut Pool, command: &Command, found: &mut Found) {
        if self.touched(command).is_some() {
            self.read(pool, command, found);
        }
    }

    /// Has the data of a Write that `plan` has let through put in its place by `write`, if that is one group in memory that nobody
    /// else holds; none where it is not.
    #[inline]
    pub(crate) fn overwrite<T>(
        &mut self,
        pool: &mut Pool,
        command: &Command,
        write: impl FnOnce(&Region, Range) -> T,
    ) -> Option<T> {
        let whole = command.opc == NvmOpcode::WRITE.0 && self.harm.is_none();
        let (namespace, at, len) = self.touched(command).filter(|_| whole)?;
        let written = namespace.overwrite(pool, at, len as u32, write)?;
        self.tally.writes += 1;
        self.tally.written_bytes += len;
        Some(written)
    }

    /// Whether a command reads or writes blocks in memory.
    #[inline]
    pub(crate) fn touches_memory(&self, command: &Command) -> bool {
        self.touched(command).is_some()
    }

    /// Whether a command is a Write whose frames the namespace keeps as they are.
    #[inline]
    pub(crate) fn hands_over(&self, command: &Command) -> bool {
        let keeps = |(namespace, _, len): Extent<'_>| namespace.keeps_frames(len);
        command.opc == NvmOpcode::WRITE.0 && self.touched(command).is_some_and(keeps)
    }

    /// What a fault script makes of what has been found.
    #[cold]
    fn harm_read(&mut self, pool: &mut Pool, command: &Command, found: &mut Found) -> Outcome {
        let done = Outcome::Done(generic::SUCCESS);
        let Some(mut harm) = self.harm.take() else { return done };
        let outcome = match self.extent(command) {
            Ok((namespace, at, len)) => harm.read(pool, namespace, command.cid.get(), (at, len as u32), found),
            Err(_) => done,
        };
        self.harm = Some(harm);
        outcome
    }

    /// The bytes of a Read or a Write that are in memory.
    #[inline]
    fn touched(&self, command: &Command) -> Option<Extent<'_>> {
        let moves = matches!(NvmOpcode(command.opc), NvmOpcode::READ | NvmOpcode::WRITE);
        let namespace = self.association.subsystem.namespace(command.nsid.get());
        let namespace = namespace.filter(|namespace| moves && namespace.is_in_memory())?;
        let (at, len) = within(namespace, command.slba(), command.block_count().into()).ok()?;
        Some((namespace, at, len))
    }

    /// Finds the data of a command that [`IoQueue::reads`] and that `check` has let through.
    #[inline]
    pub(crate) fn read(&mut self, pool: &mut Pool, command: &Command, found: &mut Found) -> Outcome {
        if command.opc == NvmOpcode::ZONE_MANAGEMENT_RECEIVE.0 {
            return self.report(pool, command, found).unwrap_or_else(Outcome::Done);
        }
        let Ok((namespace, at, len)) = self.extent(command) else {
            return Outcome::Done(generic::LBA_OUT_OF_RANGE.with_dnr());
        };
        let mut outcome = match namespace.formatted() {
            Some(blocks) => blocks.read(pool, Request::new(command), found),
            None => namespace.read(pool, at, len as u32, found),
        };
        if self.harm.is_some() && outcome == Outcome::Done(generic::SUCCESS) {
            outcome = self.harm_read(pool, command, found);
        }
        if outcome != Outcome::Again {
            self.tally.reads += 1;
            self.tally.read_bytes += len;
        }
        outcome
    }

    /// Forgets that a Read of so many bytes has been counted.
    #[cold]
    pub(crate) fn uncount_read(&mut self, len: u32) {
        self.tally.reads -= 1;
        self.tally.read_bytes -= u64::from(len);
    }

    /// Carries out any other command that `check` has let through. `frames` has its data.
    pub(crate) fn execute(
        &mut self,
        pool: &mut Pool,
        command: &Command,
        frames: &mut Vec<Frame>,
        progress: &mut Progress,
    ) -> Outcome {
        let instead = self.harm.as_mut().filter(|_| command.opc == NvmOpcode::WRITE.0).map(|harm| {
            let namespace = self.association.subsystem.namespace(command.nsid.get());
            harm.write(pool, namespace, command, frames, progress.bytes == 0)
        });
        let outcome = match instead {
            Some(Err(outcome)) => return outcome,
            Some(Ok(command)) => self.carry_out(pool, &command, frames, progress),
            None => self.carry_out(pool, command, frames, progress),
        };
        let outcome = outcome.unwrap_or_else(Outcome::Done);
        if outcome == Outcome::Done(generic::SUCCESS)
            && command.fua()
            && matches!(NvmOpcode(command.opc), NvmOpcode::WRITE | NvmOpcode::WRITE_ZEROES)
            && let Ok(namespace) = self.namespace(command)
        {
            return Outcome::Done(namespace.flush());
        }
        outcome
    }

    fn carry_out(
        &mut self,
        pool: &mut Pool,
        command: &Command,
        frames: &mut Vec<Frame>,
        progress: &mut Progress,
    ) -> Result<Outcome, Status> {
        Ok(match NvmOpcode(command.opc) {
            NvmOpcode::WRITE => {
                let (namespace, at, len) = self.extent(command)?;
                let outcome = match namespace.formatted() {
                    Some(blocks) => blocks.write(pool, Request::new(command), frames),
                    None => namespace.write(pool, at, len as u32, frames, &mut progress.bytes),
                };
                if outcome != Outcome::Again {
                    self.tally.writes += 1;
                    self.tally.written_bytes += len;
                }
                outcome
            }
            NvmOpcode::COMPARE => {
                let (namespace, at, len) = self.extent(command)?;
                let outcome = match namespace.formatted() {
                    Some(blocks) => blocks.compare(pool, Request::new(command), frames),
                    None => namespace.compare(pool, at, len as u32, frames),
                };
                if outcome != Outcome::Again {
                    self.tally.reads += 1;
                    self.tally.read_bytes += len;
                }
                outcome
            }
            NvmOpcode::WRITE_ZEROES => {
                let (namespace, at, len) = self.extent(command)?;
                let how = if command.control() & control::DEAC != 0 { Clear::Unmap } else { Clear::Keep };
                match namespace.formatted() {
                    Some(blocks) => blocks.write_zeroes(pool, Request::new(command), how, &mut progress.bytes),
                    None => namespace.clear(pool, at, len, how, &mut progress.bytes),
                }
            }
            NvmOpcode::VERIFY => {
                let (namespace, at, len) = self.extent(command)?;
                match namespace.formatted() {
                    Some(blocks) => blocks.verify(pool, Request::new(command), &mut progress.bytes),
                    None => namespace.verify(pool, at, len, &mut progress.bytes),
                }
            }
            NvmOpcode::ZONE_APPEND => {
                let zones = self.zones(command)?;
                let (_, at, len) = self.extent(command)?;
                progress.result = zones.append(pool, at, len as u32, frames)?;
                self.tally.writes += 1;
                self.tally.written_bytes += len;
                Outcome::Done(generic::SUCCESS)
            }
            NvmOpcode::ZONE_MANAGEMENT_SEND => {
                self.manage(command)?;
                Outcome::Done(generic::SUCCESS)
            }
            NvmOpcode::DATASET_MANAGEMENT => self.deallocate(pool, command, frames, progress)?,
            NvmOpcode::FLUSH => {
                let all = &self.association.subsystem.namespaces;
                let addressed = |namespace: &&Namespace| [NSID_ALL, namespace.nsid].contains(&command.nsid.get());
                let failed = all.iter().filter(addressed).map(Namespace::flush).find(|status| !status.is_success());
                Outcome::Done(failed.unwrap_or(generic::SUCCESS))
            }
            _ => Outcome::Done(generic::SUCCESS),
        })
    }

    /// Dataset Management: ranges are checked before any is touched; hints other than deallocate are taken note of by doing
    /// nothing.
    fn deallocate(
        &self,
        pool: &mut Pool,
        command: &Command,
        frames: &[Frame],
        progress: &mut Progress,
    ) -> Result<Outcome, Status> {
        let namespace = self.namespace(command)?;
        let mut bytes = [0; FRAME as usize];
        let count = usize::from(command.range_count());
        let bytes = &mut bytes[..count * size_of::<DsmRange>()];
        pool.frames.store.region().read(place(frames[0]).offset, bytes);
        let ranges = <[DsmRange]>::ref_from_bytes(bytes).expect("whole ranges");
        for range in ranges {
            within(namespace, range.slba.get(), range.nlb.get().into())?;
        }
        if !command.deallocate() {
            return Ok(Outcome::Done(generic::SUCCESS));
        }
        let mut cleared = 0;
        while let Some(range) = ranges.get(progress.range) {
            let (at, len) = within(namespace, range.slba.get(), range.nlb.get().into())?;
            if len > 0 {
                match namespace.clear(pool, at, len, Clear::Hint, &mut progress.bytes) {
                    Outcome::Done(status) if status.is_success() => {}
                    other => return Ok(other),
                }
            }
            *progress = Progress { range: progress.range + 1, ..Progress::default() };
            cleared += len;
            if cleared >= TURN {
                return Ok(Outcome::Turn);
            }
        }
        Ok(Outcome::Done(generic::SUCCESS))
    }

    /// Zone Management Send.
    fn manage(&self, command: &Command) -> Result<(), Status> {
        let (zones, all, slba) = (self.zones(command)?, command.selects_all(), command.slba());
        if !all {
            within(self.namespace(command)?, slba, 1)?;
            if !slba.is_multiple_of(zones.zone().0) {
                return Err(generic::INVALID_FIELD.with_dnr());
            }
        }
        match command.send_action() {
            action @ (SendAction::CLOSE
            | SendAction::FINISH
            | SendAction::OPEN
            | SendAction::RESET
            | SendAction::OFFLINE) => zones.manage(slba, action, all),
            _ => Err(generic::INVALID_FIELD.with_dnr()),
        }
    }

    /// Zone Management Receive: what of the report fits, then zeroes.
    fn report(&self, pool: &mut Pool, command: &Command, found: &mut Found) -> Result<Outcome, Status> {
        let (action, which, partial) = command.receive_action();
        within(self.namespace(command)?, command.slba(), 1)?;
        // Zones have no descriptor extensions.
        if action != ReceiveAction::REPORT || which > Reporting::OFFLINE {
            return Err(generic::INVALID_FIELD.with_dnr());
        }
        let len = command.receive_bytes() as usize;
        if !pool.frames.take(frames_for(0, len as u32), RESERVE, &mut found.frames) {
            return Ok(Outcome::Again);
        }
        let most = len.saturating_sub(size_of::<ReportHeader>()) / size_of::<ZoneDescriptor>();
        let (count, zones) = self.zones(command)?.report(command.slba(), which, most);
        let mut header = ReportHeader::new_zeroed();
        header.nzones = if partial { zones.len() as u64 } else { count }.into();
        let mut bytes = [header.as_bytes(), zones.as_bytes()].concat();
        bytes.resize(len, 0);
        for (&frame, chunk) in found.frames.iter().zip(bytes.chunks(FRAME as usize)) {
            pool.frames.store.region().write(place(frame).offset, chunk);
        }
        push_ranges(&found.frames, 0, 0, len as u32, &mut found.ranges);
        Ok(Outcome::Done(generic::SUCCESS))
    }

    /// The zones of the namespace that a command of the zoned command set is for.
    fn zones(&self, command: &Command) -> Result<&ZonedBlocks, Status> {
        self.namespace(command)?.zones().ok_or(generic::INVALID_OPCODE.with_dnr())
    }

    fn namespace(&self, command: &Command) -> Result<&Namespace, Status> {
        let namespace = self.association.subsystem.namespace(command.nsid.get());
        namespace.ok_or(generic::INVALID_NAMESPACE.with_dnr())
    }

    /// The bytes that a command with a range of blocks addresses.
    #[inline]
    fn extent(&self, command: &Command) -> Result<Extent<'_>, Status> {
        let namespace = self.namespace(command)?;
        let (at, len) = within(namespace, command.slba(), command.block_count().into())?;
        Ok((namespace, at, len))
    }

    /// Whether a command may transfer so many bytes.
    #[inline]
    fn fits(&self, len: u64) -> Result<(), Status> {
        match len <= self.association.subsystem.config.max_transfer.into() {
            true => Ok(()),
            false => Err(generic::INVALID_FIELD.with_dnr()),
        }
    }
}

/// Blocks as bytes, if the namespace has them.
#[inline]
fn within(namespace: &Namespace, slba: u64, blocks: u64) -> Result<(u64, u64), Status> {
    if slba > namespace.blocks || blocks > namespace.blocks - slba {
        return Err(generic::LBA_OUT_OF_RANGE.with_dnr());
    }
    Ok((slba << namespace.block_shift, blocks << namespace.block_shift))
}
