//! Bringing up every controller that a list of transport IDs names, all at once.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use doorbell_platform::pci;

use crate::{
    cancel::Cancel,
    controller::{Controller, ControllerOptions, name_of},
    discovery::{Found, discover, found},
    error::{Cause, Error},
    transport,
    transport_id::{TransportId, TransportType},
};

/// Most controllers brought up at a time: a discovery log must not decide how many threads this process has.
const MOST_AT_A_TIME: usize = 64;

/// What became of one transport ID, or of one subsystem found through it.
#[derive(Debug)]
pub struct Probed {
    /// Where it is; with the subsystem's own address and name when it was found through discovery.
    pub id: TransportId,
    /// The controller, or why there is none. IDs of one subsystem, address and host share a controller.
    pub outcome: Result<Controller, Error>,
}

/// Brings up the controllers of all `ids`, in the order given; an ID without a subsystem stands for all that its discovery service
/// lists, a PCIe ID without an address for all devices of this machine that can be used. Takes as long as the slowest one, as long as there are not more than 64; the others are begun as long as
/// [`ControllerOptions::bring_up_timeout`] is not over.
pub fn probe(ids: &[TransportId], options: &ControllerOptions, cancel: &Cancel) -> Vec<Probed> {
    let discoveries: Vec<_> = ids.iter().filter(|id| id.is_discovery()).collect();
    let logs = each(&discoveries, |id| discover(id, options, cancel));
    let mut logs = logs.into_iter();
    let mut wanted: Vec<Result<TransportId, (TransportId, Error)>> = Vec::new();
    for id in ids {
        if id.trtype == TransportType::Pcie && id.traddr.is_empty() {
            let with = |address: pci::Address| TransportId { traddr: address.to_string(), ..id.clone() };
            match transport::pcie::all() {
                Ok(found) => wanted.extend(found.into_iter().map(with).map(Ok)),
                Err(why) => wanted.push(Err((id.clone(), Cause::Transport(why).of("PCIE")))),
            }
            continue;
        }
        if !id.is_discovery() {
            wanted.push(Ok(id.clone()));
            continue;
        }
        match logs.next().expect("a log for each discovery ID") {
            Ok(log) => {
                let before = wanted.len();
                for entry in &log.entries {
                    match found(entry, id) {
                        Found::Subsystem(subsystem) => match transport::unusable(&subsystem.trtype) {
                            None => wanted.push(Ok(*subsystem)),
                            Some(why) => tracing::warn!("{}: skipping {subsystem}: {why}", name_of(id)),
                        },
                        Found::Itself => {}
                        Found::Other(what) => tracing::warn!("{}: skipping {what}", name_of(id)),
                    }
                }
                if wanted.len() == before {
                    let cause =
                        Cause::Nonsense("its discovery log lists no subsystem that this host may and can use".into());
                    wanted.push(Err((id.clone(), cause.of(&name_of(id)))));
                }
            }
            Err(error) => wanted.push(Err((id.clone(), error))),
        }
    }
    let same = |one: &TransportId, other: &TransportId| one.is_same_controller(other, &options.host.nqn);
    let mut unique: Vec<TransportId> = Vec::new();
    for id in wanted.iter().flatten() {
        if !unique.iter().any(|known| same(known, id)) {
            unique.push(id.clone());
        }
    }
    let begin = Instant::now();
    let outcomes = each(&unique.iter().collect::<Vec<_>>(), |id| match begin.elapsed() < options.bring_up_timeout {
        true => Controller::connect(id, options, cancel),
        false => {
            let why = format!("it was not tried: others before it took {:?}", options.bring_up_timeout);
            Err(Cause::Transport(why).of(&name_of(id)))
        }
    });
    let mut outcomes: Vec<_> = outcomes.into_iter().map(Some).collect();
    let mut connected: Vec<Option<Controller>> = vec![None; unique.len()];
    let mut outcome_of = |id: &TransportId| {
        let at = unique.iter().position(|known| same(known, id)).expect("collected above");
        match (outcomes[at].take(), &connected[at]) {
            (Some(outcome), _) => {
                connected[at] = outcome.as_ref().ok().cloned();
                outcome
            }
            (None, Some(controller)) => Ok(controller.clone()),
            (None, None) => Err(Cause::Transport("it did not come up, as said above".into()).of(&name_of(id))),
        }
    };
    let probed = wanted.into_iter().map(|wanted| match wanted {
        Ok(id) => Probed { outcome: outcome_of(&id), id },
        Err((id, error)) => Probed { id, outcome: Err(error) },
    });
    probed.collect()
}

/// Does something for each ID, [`MOST_AT_A_TIME`] at a time, and returns the results in their order.
fn each<T: Send>(ids: &[&TransportId], work: impl Fn(&TransportId) -> T + Sync) -> Vec<T> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let run = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(id) = ids.get(at) else { break };
            let result = work(id);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..ids.len().min(MOST_AT_A_TIME) {
            // This thread works too, so what cannot be started only makes it take longer.
            let _ = thread::Builder::new().name("probe".into()).spawn_scoped(scope, run);
        }
        run();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
