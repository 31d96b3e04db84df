//! Planning a run: which namespaces are tested, and what each context, a worker's load on one of them, is to do. Ports are asked
//! what they are and which zones they have, and the observer hears who is left out and who drives what; no queue that
//! carries I/Os is connected yet. The options, and what follows from them and a namespace's shape alone, are in [`crate::plan`].

use std::{
    collections::HashMap,
    sync::{Arc, mpsc::Receiver},
};

use doorbell_platform::{Sysfs, numa};
use doorbell_result::IoKind;

use crate::{
    classes::Class,
    context::Task,
    coverage::Kind,
    fill::Filling,
    lane::Geometry,
    memory::{self, Buffers},
    metadata::Carried,
    observer::{Event, Observer},
    outage::News,
    pacing::{Pacing, Schedule},
    permutation::Cover,
    plan::{Access, Association, Limit, RunOptions, Shape, associate},
    port::Port,
    slices::Exchange,
    survey::{self, Survey},
    workload::{Part, Workload, generator},
    zipf::Zipf,
    zones::Share,
};

/// A context without its queues.
pub(super) struct Plan {
    pub worker: usize,
    pub access: Access,
    pub port: Arc<dyn Port>,
    pub task: Task,
    pub workload: Workload,
    pub pacing: Option<Pacing>,
    /// The incarnation of the controller that the queues will belong to.
    pub incarnation: u64,
    /// What the context will be told of lost controllers, when they are brought back.
    pub news: Option<Receiver<News>>,
    /// The number of the run, data bytes of a block, and the blocks that are verified.
    pub verify: Option<(u64, u32, Part)>,
    /// Its place among all contexts.
    pub index: usize,
    /// The zones that each of its queues writes.
    pub shares: Vec<Share>,
    /// Where its slices go.
    pub exchange: Option<Arc<Exchange>>,
}

/// Which contexts there will be: workers ascending, each one's namespaces in the order of their ports. The clock of the run has so
/// many ticks a second. What was named and is left out is added to `missed`.
///
/// # Errors
/// Why there is nothing to run.
pub(super) fn plan(
    ports: Vec<Arc<dyn Port>>,
    options: &RunOptions,
    observer: &Observer<'_>,
    ticks_per_second: f64,
    missed: &mut Vec<String>,
) -> Result<Vec<Plan>, String> {
    let mut namespaces = Vec::new();
    for port in ports {
        let is_named = port.is_named();
        match admit(port, options) {
            Ok((namespace, advice)) => {
                advice.iter().for_each(|line| observer(Event::Advice(line)));
                namespaces.push(namespace);
            }
            Err(why) => {
                observer(Event::Skipped(&why));
                missed.extend(is_named.then_some(why));
            }
        }
    }
    if namespaces.is_empty() {
        return Err("there is no namespace to test".into());
    }
    let pairs = associate(options.cores.len(), namespaces.len(), options.use_every_core);
    check_parts(&namespaces, &pairs, options)?;
    for (at, namespace) in namespaces.iter_mut().enumerate() {
        if let Some(pair) = pairs.iter().find(|pair| pair.namespace == at) {
            namespace.zones = survey(namespace, pair.sharers, options, observer)?;
        }
    }
    let (mut plans, mut zipfs) = (Vec::new(), HashMap::new());
    for own in pairs.chunk_by(|pair, next| pair.worker == next.worker) {
        for (number, pair) in own.iter().enumerate() {
            let draft = Draft::new(options, &namespaces[pair.namespace], *pair, number);
            let limit = options.number_ios.map(|limit| limit.ios(draft.units));
            let percent_ios = limit.filter(|_| matches!(options.number_ios, Some(Limit::Percent(_))));
            observer(Event::Associated { name: &draft.namespace.shape.name, core: draft.core, percent_ios });
            let theta = options.zipf.filter(|_| options.pattern.random);
            let of_units = |theta| *zipfs.entry(draft.units).or_insert_with(|| Zipf::new(draft.units, theta));
            let workload = draft.workload(theta.map(of_units));
            let pacing = draft.pacing(plans.len(), own.len(), pairs.len(), ticks_per_second);
            plans.push(draft.plan(plans.len(), limit, workload, pacing));
        }
    }
    check_memory(&plans, options)?;
    Ok(plans)
}

/// A namespace that is tested.
struct Admitted {
    port: Arc<dyn Port>,
    shape: Shape,
    /// The blocks that are used.
    range: Part,
    /// Blocks of the largest I/O.
    io_blocks: u64,
    /// Most bytes that a command may be about which moves none.
    most: Option<u32>,
    /// The zones that are written, one share a queue.
    zones: Vec<Share>,
}

impl Admitted {
    /// The largest I/Os that fit in a part of the blocks.
    fn units(&self, blocks: Part) -> u64 {
        (blocks.end - blocks.start) / self.io_blocks
    }
}

/// The namespace of a port, not surveyed yet, with lines of advice about it; or why it is skipped.
fn admit(port: Arc<dyn Port>, options: &RunOptions) -> Result<(Admitted, Vec<String>), String> {
    let shape = Shape { protect: options.protect, ..port.shape() };
    let mut advice = shape.admit(options)?;
    advice.extend(port.advice());
    let skipped = |why: String| format!("{}: {why}; the namespace is skipped", shape.path);
    let most = options.selection.operation.map_or(Ok(None), |kind| port.most_bytes(kind)).map_err(skipped)?;
    if options.selection.flush_every.is_some() {
        port.most_bytes(IoKind::Flush).map_err(skipped)?;
    }
    let range = shape.range(options).map_err(skipped)?;
    let io_blocks = u64::from(options.io_size / shape.block_size).max(1);
    Ok((Admitted { port, shape, range, io_blocks, most, zones: Vec::new() }, advice))
}

/// Fails where a position has one owner, and there are too few for all: who is left without one would issue another's.
fn check_parts(namespaces: &[Admitted], pairs: &[Association], options: &RunOptions) -> Result<(), String> {
    let owned = options.selection.full_coverage || options.selection.verify.is_some();
    let units = |pair: &Association| namespaces[pair.namespace].units(namespaces[pair.namespace].range);
    let Some(pair) = pairs.iter().find(|pair| owned && pair.sharers > units(pair)) else { return Ok(()) };
    let (path, sharers, units) = (&namespaces[pair.namespace].shape.path, pair.sharers, units(pair));
    Err(format!(
        "{path}: --coverage full and --verify give each of {sharers} cores a part of its {units} I/Os of {} bytes, and there are fewer of these; \
         name fewer cores (-c) or lower -o",
        options.io_size
    ))
}

/// The zones of a namespace that its `sharers` contexts write, if they write any.
fn survey(of: &Admitted, sharers: u64, options: &RunOptions, observer: &Observer<'_>) -> Result<Vec<Share>, String> {
    let Admitted { port, shape, .. } = of;
    let Some(zoned) = shape.zoned.as_ref().filter(|_| survey::writes(options)) else { return Ok(Vec::new()) };
    let surveyed = Survey::plan(shape, zoned, options, sharers).and_then(|survey| port.survey(&survey));
    let shares = surveyed.map_err(|why| format!("{}: {why}", shape.path))?;
    let depth = survey::depth(&shares[..usize::from(options.qpairs)], options);
    if depth < options.io_depth {
        observer(Event::Advice(&format!(
            "{}: {depth} of {} I/Os (-q) are kept in flight: one in each zone that may be open.",
            shape.path, options.io_depth
        )));
    }
    Ok(shares)
}

/// Fails where the machine has not got the memory that these contexts need.
fn check_memory(plans: &[Plan], options: &RunOptions) -> Result<(), String> {
    let buffers = |plan: &Plan| Buffers {
        access: plan.access,
        count: plan.task.depth,
        bytes: u64::from(plan.task.geometry.whole()).next_multiple_of(plan.task.alignment.max(1).into()),
    };
    let contexts: Vec<_> = plans.iter().map(buffers).collect();
    let verified = plans.iter().filter_map(|plan| plan.verify).map(|(_, _, part)| part.end - part.start).sum();
    memory::check(options, &contexts)?;
    memory::check_ledger(&contexts, verified)
}

/// A context that is being planned: what its plan follows from.
struct Draft<'a> {
    options: &'a RunOptions,
    namespace: &'a Admitted,
    /// Who drives what, and which of how many it is that share `range`.
    pair: Association,
    core: usize,
    /// Its number among the contexts of its worker.
    number: usize,
    /// The blocks that it works on, and how many of the largest I/Os fit in them.
    range: Part,
    units: u64,
    /// Blocks from one position to the next, and the positions that are its own where those who share the range divide them.
    unit: u64,
    part: Part,
    /// The zones that each of its queues writes.
    shares: &'a [Share],
}

impl<'a> Draft<'a> {
    fn new(options: &'a RunOptions, namespace: &'a Admitted, mut pair: Association, number: usize) -> Self {
        let (mut range, io_blocks) = (namespace.range, namespace.io_blocks);
        if options.selection.verify.is_some() {
            // What one writes another would not expect.
            let part = Part::of(namespace.units(range), pair.share, pair.sharers);
            range = Part { start: range.start + part.start * io_blocks, end: range.start + part.end * io_blocks };
            (pair.share, pair.sharers) = (0, 1);
        }
        // Sizes that are mixed in a sequence have no position in common but the block.
        let unit = if options.sizes().len() > 1 && !options.pattern.random { 1 } else { io_blocks };
        let part = Part::of((range.end - range.start) / unit, pair.share, pair.sharers);
        let shares = namespace.zones.chunks(options.qpairs.into()).nth(pair.share as usize).unwrap_or_default();
        let (core, units) = (options.cores[pair.worker], namespace.units(range));
        Self { options, namespace, pair, core, number, range, units, unit, part, shares }
    }

    /// Each position is taken exactly once before any comes again.
    fn covers(&self) -> bool {
        self.options.selection.full_coverage && self.options.pattern.random
    }

    /// When its I/Os arrive in an open loop: it is the `index`-th context of `all`, of which its worker has `own`.
    fn pacing(&self, index: usize, own: usize, all: usize, ticks_per_second: f64) -> Option<Pacing> {
        let rate = self.options.rate?;
        // Those that share a rate take turns.
        let sharers = if rate.each_worker { own } else { all } as f64;
        let (share, phase) = (rate.per_second / sharers, index as f64 / sharers % 1.0);
        let random = generator(!self.options.seed, self.core, self.number);
        let schedule = Schedule::new(rate.arrival, ticks_per_second / share, phase, random);
        Some(Pacing::new(schedule, share, survey::depth(self.shares, self.options)))
    }

    /// The plan, whose place among all is `index`, with what was made for it.
    fn plan(&self, index: usize, limit: Option<u64>, workload: Workload, pacing: Option<Pacing>) -> Plan {
        let (options, Admitted { port, shape, .. }) = (self.options, self.namespace);
        let task = self.task(limit);
        Plan {
            worker: self.pair.worker,
            access: shape.access,
            port: port.clone(),
            workload,
            pacing,
            incarnation: port.incarnation().unwrap_or(0),
            news: None,
            verify: options.selection.verify.map(|run| (run, shape.block_size, self.range)),
            index,
            shares: self.shares.to_vec(),
            exchange: options.interval.map(|_| Exchange::new(task.geometry.classes.len())),
            task,
        }
    }

    /// The sequence of its I/Os, drawn by `zipf` where there is one.
    fn workload(&self, zipf: Option<Zipf>) -> Workload {
        let &Self { options, core, number, units, part, .. } = self;
        let mut workload = Workload::new(options.pattern, units, part, zipf, generator(options.seed, core, number));
        if self.covers() {
            // Those that share a namespace have the order of a pass in common.
            let order = generator(options.seed, usize::MAX, self.pair.namespace);
            workload = workload.covering(Cover::new(units, part, order));
        }
        let block_size = self.namespace.shape.block_size;
        let blocks = |(bytes, weight): (u32, u32)| (u64::from(bytes / block_size), weight);
        let sizes: Vec<_> = options.sizes().into_iter().map(blocks).collect();
        let all = Part { start: 0, end: self.range.end - self.range.start };
        workload.mixing(&sizes, if options.pattern.random { all } else { part }).flushing(options.selection.flush_every)
    }

    /// How its offsets are chosen, and from which part of its range, in units of so many blocks.
    fn audit(&self, classes: &[Class]) -> (Kind, Part, u64) {
        let options = self.options;
        let in_order = self.shares.is_empty() && options.sizes().len() == 1;
        let kind = match (options.pattern.random, options.zipf) {
            (false, _) if in_order => Kind::Sequential,
            (true, None) if self.covers() => Kind::Full { alone: self.pair.sharers == 1 },
            (true, None) => Kind::Uniform,
            _ => Kind::Skewed,
        };
        // Offsets of the size that is looked at, where they can be told from chance.
        let watched = classes.iter().find(|class| class.watched && kind == Kind::Uniform);
        let unit = watched.map_or(self.unit, |class| class.blocks.into());
        let whole = Part { start: 0, end: (self.range.end - self.range.start) / unit };
        (kind, if options.pattern.random { whole } else { self.part }, unit)
    }

    /// What its worker is told, `limit` being the I/Os after which it ends.
    fn task(&self, limit: Option<u64>) -> Task {
        let (options, Admitted { shape, most, .. }) = (self.options, self.namespace);
        let core = self.core;
        let mut classes = shape.classes(options, *most);
        let placed = !self.shares.is_empty();
        // What is written goes elsewhere.
        classes.iter_mut().for_each(|class| class.watched &= !placed);
        let (kind, part, unit) = self.audit(&classes);
        let node = || shape.node.or_else(|| numa::node_of_core(&Sysfs::default(), core));
        Task {
            name: shape.name.clone(),
            path: shape.path.clone(),
            core,
            depth: survey::depth(self.shares, options),
            alignment: options.alignment,
            node: options.enforce_numa.then(node).flatten(),
            geometry: Geometry {
                nsid: shape.nsid,
                block_size: Carried::of(shape).block,
                carried: Carried::of(shape),
                first_block: self.range.start,
                io_unit: options.io_unit.map_or(u32::MAX, |unit| unit.max(1)),
                classes,
            },
            limit,
            max_completions: options.max_completions,
            continue_on_error: options.continue_on_error.is_some(),
            timing: options.timing,
            histogram: options.histogram,
            kind,
            part,
            unit: unit as u32,
            placed,
            fill: Filling { fill: options.selection.fill.clone(), seed: (options.seed, core, self.number) },
        }
    }
}
