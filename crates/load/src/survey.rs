//! Zoned namespaces in a plan: what can be done with them, what zones there are before a run writes them, and which queue gets which: each has zones of its own, so that no two of them write to
//! one, and a part of the limits.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use doorbell_host::Zoned;
use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, IoQueue};
use doorbell_result::IoKind;
use doorbell_spec::{
    command::Command,
    zns::{self, ReportHeader, Reporting, SendAction, ZoneDescriptor, ZoneState},
};
use zerocopy::FromBytes;

use crate::{
    plan::{RunOptions, Shape},
    zones::{Share, Stage, Zone},
};

/// Bytes of a report that are asked for at a time.
const REPORT: u32 = 64 << 10;
/// How long a command may take. Finishing a zone may write all that is left of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a run writes zones, rather than read or deallocate them.
pub(crate) fn writes(options: &RunOptions) -> bool {
    match options.selection.operation {
        None => options.pattern.read_percent < 100,
        Some(operation) => matches!(operation, IoKind::WriteZeroes | IoKind::Append),
    }
}

/// Whether the load can be put on a zoned namespace.
///
/// # Errors
/// Why not.
pub(crate) fn admit(shape: &Shape, zoned: &Zoned, options: &RunOptions) -> Result<(), String> {
    let writes = writes(options);
    let append = options.selection.operation == Some(IoKind::Append);
    if writes && options.pattern.random {
        return Err("its zones are written in order and not at random: use -w write, append or rw, or read".into());
    }
    if writes && options.selection.range.is_some() {
        return Err("what is written goes where the zones' write pointers are, and --range has no say in that".into());
    }
    if writes && options.reconnect.is_some() {
        return Err("writing zones goes not together with --reconnect yet: their write pointers would have to be asked for again".into());
    }
    let sizes = options.sizes();
    let most = if append { zoned.max_append } else { shape.max_transfer };
    if let Some((size, _)) = sizes.iter().find(|(size, _)| writes && *size > most) {
        return Err(format!(
            "an I/O to a zone is one command, and of {size} bytes (-o) it is more than the {most} that one moves"
        ));
    }
    let reads = options.selection.operation.map_or(options.pattern.read_percent > 0, |_| !writes);
    let inside = |size: u32| zoned.zone_blocks.is_multiple_of(u64::from(size / shape.block_size).max(1));
    let start = if reads { shape.range(options)?.start } else { 0 };
    let largest = u64::from(options.io_size / shape.block_size).max(1);
    let mixed = sizes.len() > 1 && !options.pattern.random;
    if reads
        && !zoned.reads_across
        && (mixed || !start.is_multiple_of(largest) || !sizes.iter().all(|(size, _)| inside(*size)))
    {
        return Err(format!(
            "it takes no Reads across zones of {} blocks, and I/Os like these (-o, --range) would be",
            zoned.zone_blocks
        ));
    }
    Ok(())
}

/// I/Os that a context with these zones keeps in flight: one a zone, where it does not append.
pub(crate) fn depth(shares: &[Share], options: &RunOptions) -> u32 {
    let zones: usize = shares.iter().map(|share| share.most.min(share.zones.len())).sum();
    match shares.is_empty() || options.selection.operation == Some(IoKind::Append) {
        true => options.io_depth,
        false => options.io_depth.min(u32::try_from(zones).unwrap_or(u32::MAX)),
    }
}

/// A zoned namespace, and who is to write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Survey {
    pub nsid: u32,
    /// Blocks of the namespace and of a zone.
    pub blocks: u64,
    pub zone_blocks: u64,
    /// Queues that share it.
    pub queues: usize,
    /// Zones that each of them writes at a time.
    pub most: usize,
    /// Blocks of the largest I/O.
    pub io_blocks: u64,
}

impl Survey {
    /// For `sharers` contexts that write it.
    ///
    /// # Errors
    /// When they are too many for its limits.
    pub fn plan(shape: &Shape, zoned: &Zoned, options: &RunOptions, sharers: u64) -> Result<Self, String> {
        let (qpairs, queues) =
            (u32::from(options.qpairs.max(1)), sharers as usize * usize::from(options.qpairs.max(1)));
        let wanted = options.io_depth.div_ceil(qpairs) as usize;
        let limit = zoned.max_open.into_iter().chain(zoned.max_active).min();
        let most = limit.map_or(wanted, |limit| wanted.min(limit as usize / queues));
        if most == 0 {
            let limit = limit.unwrap_or(0);
            return Err(format!(
                "it has {limit} zones open or active at most, and {queues} I/O queues (-c, -P) are to write one each: use fewer"
            ));
        }
        Ok(Self {
            nsid: shape.nsid,
            blocks: shape.blocks,
            zone_blocks: zoned.zone_blocks,
            queues,
            most,
            io_blocks: u64::from(options.io_size / shape.block_size).max(1),
        })
    }

    /// Asks over a queue that nothing else uses. Zones that more than `most` of a share have been left active are finished, so that the
    /// limits hold.
    ///
    /// # Errors
    /// What was asked for, and why it cannot be.
    pub fn take(&self, queue: &mut impl IoQueue) -> Result<Vec<Share>, String> {
        let mut way = Way::new(queue)?;
        let zones = self.zones(&mut way)?;
        let mut excess = Vec::new();
        let shares = self.share_out(&zones, &mut excess)?;
        for start in excess {
            way.run(&zns::management_send(self.nsid, start, SendAction::FINISH, false), 0)?;
        }
        Ok(shares)
    }

    fn zones(&self, way: &mut Way<'_, impl IoQueue>) -> Result<Vec<ZoneDescriptor>, String> {
        let mut zones: Vec<ZoneDescriptor> = Vec::new();
        loop {
            let slba = zones.len() as u64 * self.zone_blocks;
            if slba >= self.blocks {
                return Ok(zones);
            }
            let bytes = REPORT.min(way.queue.needs().bytes);
            let page = way.run(&zns::report(self.nsid, slba, bytes, Reporting::EVERY, true), bytes)?;
            let (header, rest) = ReportHeader::ref_from_prefix(&page).map_err(|_| "a report without a header")?;
            let count = usize::try_from(header.nzones.get()).unwrap_or(usize::MAX);
            let before = zones.len();
            for bytes in rest.chunks_exact(size_of::<ZoneDescriptor>()).take(count) {
                let zone = ZoneDescriptor::read_from_bytes(bytes).map_err(|_| "a report without a zone")?;
                let wanted = zones.len() as u64 * self.zone_blocks;
                if wanted >= self.blocks {
                    break;
                }
                if zone.zslba.get() != wanted || zone.zcap.get() > self.zone_blocks {
                    return Err(format!(
                        "its report has a zone at block {} with a capacity of {} where one of {} at block {wanted} was due",
                        zone.zslba, zone.zcap, self.zone_blocks
                    ));
                }
                zones.push(zone);
            }
            if zones.len() == before {
                return Err(format!("its report has no zone at block {slba}, and there must be one"));
            }
        }
    }

    /// Each zone that can be written to one of the queues in turn; `excess` takes those that cannot stay active.
    fn share_out(&self, zones: &[ZoneDescriptor], excess: &mut Vec<u64>) -> Result<Vec<Share>, String> {
        // With each its turn: those that are active go first, so that they are the ones that stay so.
        let mut shares: Vec<Vec<(u8, Zone)>> = vec![Vec::new(); self.queues];
        let writable = |zone: &&ZoneDescriptor| {
            let kept = ![ZoneState::READ_ONLY, ZoneState::OFFLINE].contains(&zone.state());
            kept && zone.zcap.get() >= self.io_blocks
        };
        let mut places = (0..self.queues).cycle();
        for zone in zones.iter().filter(writable) {
            let share = &mut shares[places.next().unwrap_or(0)];
            let (start, capacity) = (zone.zslba.get(), zone.zcap.get());
            let active = share.iter().filter(|(turn, _)| *turn == 0).count();
            let (turn, written, stage) = match zone.state() {
                ZoneState::EMPTY => (1, 0, Stage::Ready),
                state if state.is_active() && active < self.most => {
                    (0, zone.wp.get().saturating_sub(start).min(capacity), Stage::Ready)
                }
                state => {
                    excess.extend(state.is_active().then_some(start));
                    (2, capacity, Stage::Used)
                }
            };
            share.push((turn, Zone { start, capacity, written, stage, in_flight: 0 }));
        }
        if shares.iter().all(Vec::is_empty) {
            return Err(format!(
                "none of its zones can be written: all are read-only or offline, or hold no I/O of {} blocks",
                self.io_blocks
            ));
        }
        if let Some(count) = shares.iter().position(Vec::is_empty) {
            return Err(format!(
                "{} queues share the {count} zones that I/Os of {} blocks can be written to, and each needs one: name fewer cores (-c), \
                 lower -P or lower -o",
                self.queues, self.io_blocks
            ));
        }
        let share = |mut zones: Vec<(u8, Zone)>| {
            zones.sort_by_key(|(turn, _)| *turn);
            Share {
                nsid: self.nsid,
                zones: zones.into_iter().map(|(_, zone)| zone).collect(),
                most: self.most,
                tally: Arc::default(),
            }
        };
        Ok(shares.into_iter().map(share).collect())
    }
}

/// A queue with memory for one command.
struct Way<'a, Q> {
    queue: &'a mut Q,
    arena: Arc<Arena>,
    memory: Range,
}

impl<'a, Q: IoQueue> Way<'a, Q> {
    fn new(queue: &'a mut Q) -> Result<Self, String> {
        let needs = queue.needs();
        let memory = |error: std::io::Error| format!("no memory for a report of zones: {error}");
        let arena = Arc::new(Arena::backed(needs.backing, REPORT as usize).map_err(memory)?);
        let memory = arena.alloc(REPORT, needs.alignment.max(4096).into()).map_err(memory)?;
        queue.attach(&arena).map_err(|error| error.to_string())?;
        Ok(Self { queue, arena, memory })
    }

    /// Carries out a command that gets so many bytes.
    fn run(&mut self, command: &Command, bytes: u32) -> Result<Vec<u8>, String> {
        let name = doorbell_spec::command::NvmOpcode(command.opc);
        let what = |why: String| format!("{name} at block {}: {why}", command.slba());
        let memory = self.memory.part(0, bytes);
        let data = if bytes > 0 { std::slice::from_ref(&memory) } else { &[] };
        self.queue.prepare(0, data).map_err(|error| what(error.to_string()))?;
        if !self.queue.submit_raw(0, command) {
            return Err(what("the I/O queue does not take it".into()));
        }
        let (mut done, deadline) = ([Done::default()], Instant::now() + PATIENCE);
        loop {
            self.queue.commit().map_err(|down| what(down.to_string()))?;
            if self.queue.reap(&mut done).map_err(|down| what(down.to_string()))? == 1 {
                break;
            }
            if Instant::now() >= deadline {
                return Err(what(format!("no answer within {PATIENCE:?}")));
            }
            thread::sleep(Duration::from_micros(50));
        }
        if !done[0].status.is_success() {
            return Err(what(done[0].status.to_string()));
        }
        let mut page = vec![0; bytes as usize];
        self.arena.region().read(memory.offset, &mut page);
        Ok(page)
    }
}
