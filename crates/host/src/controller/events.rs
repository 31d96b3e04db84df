//! What a controller's events make its thread do. Each event costs a log page at once; what follows from it, namespaces to be
//! identified again, is done one by one between requests and Keep Alive, however many a controller names. The next event of the
//! kind is asked for with a pause, so that a controller which reports without end costs little.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use doorbell_queue::{Done, Slot};
use doorbell_spec::{
    command,
    feature::AsyncEvent,
    log::{ChangedNamespaces, Lid},
};
use zerocopy::FromBytes;

use super::{
    bring_up::{EVENT_SLOTS, MOST_NAMESPACES},
    service::Service,
};
use crate::{error::Cause, namespace::Namespace};

/// Least time between two Asynchronous Event Requests after the first ones.
const PAUSE: Duration = Duration::from_millis(50);

/// What is left to do after events.
pub(super) struct Events {
    /// Namespaces to be identified again.
    changed: BTreeSet<u32>,
    /// Slots of requests that were answered and are to be sent again.
    answered: Vec<Slot>,
    /// When the next may be sent.
    next: Instant,
}

impl Events {
    pub fn new() -> Self {
        Self { changed: BTreeSet::new(), answered: Vec::new(), next: Instant::now() }
    }
}

impl Service<'_> {
    /// A command that may be an Asynchronous Event Request is over.
    pub(super) fn event(&mut self, done: Done) -> Result<(), Cause> {
        // Whoever gave up wants to leave: an event's commands would only stand in the way of the shutdown.
        let given_up = self.bring_up.cancel.is_cancelled();
        if !EVENT_SLOTS.contains(&done.slot) || !done.status.is_success() || given_up {
            return Ok(());
        }
        self.events.answered.push(done.slot);
        let event = AsyncEvent::from_dword(done.result as u32);
        self.shared.note(format!("event: {}", event.name()));
        self.granted(|service| match event {
            AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED => service.namespaces_changed(),
            AsyncEvent::ANA_CHANGE => service.ana_changed(),
            AsyncEvent { lid: Lid(0), .. } => Ok(()),
            // Reading the page is what lets the controller report the next event of the kind.
            AsyncEvent { lid, .. } => service.bring_up.log_page(&mut service.port, lid, 512, 4096).map(|_| ()),
        })
    }

    /// Does one thing that is left to do, if any, and says in what time there may be another.
    pub(super) fn follow_events(&mut self) -> Result<Duration, Cause> {
        if self.bring_up.cancel.is_cancelled() {
            return Ok(Duration::MAX);
        }
        if let Some(nsid) = self.events.changed.pop_first() {
            self.granted(|service| service.namespace_changed(nsid))?;
            if self.events.changed.is_empty() {
                self.granted(Self::ana_changed)?;
            }
        }
        let now = Instant::now();
        if now >= self.events.next
            && let Some(slot) = self.events.answered.pop()
        {
            self.events.next = now + PAUSE;
            self.port.send(slot, &command::async_event_request())?;
        }
        Ok(match (self.events.changed.is_empty(), self.events.answered.is_empty()) {
            (true, true) => Duration::MAX,
            (true, false) => self.events.next.saturating_duration_since(now),
            (false, _) => Duration::ZERO,
        })
    }

    /// Commands after an event have the time of one; what they are answered with is told, but does not end the controller.
    fn granted(&mut self, work: impl FnOnce(&mut Self) -> Result<(), Cause>) -> Result<(), Cause> {
        self.port.grant("the work after an event", self.bring_up.options.admin_timeout);
        let outcome = work(self);
        self.port.end_grant();
        match outcome {
            Err(cause) if cause.status().is_some() => {
                self.shared.note(format!("after an event: {cause}"));
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Takes down which namespaces the changed namespace list names.
    fn namespaces_changed(&mut self) -> Result<(), Cause> {
        let bytes = self.bring_up.log_page(&mut self.port, Lid::CHANGED_NAMESPACES, 4096, 4096)?;
        let list =
            ChangedNamespaces::read_from_bytes(&bytes).map_err(|_| Cause::Nonsense("a short log page".into()))?;
        let mut changed: Vec<u32> = list.iter().collect();
        if list.overflowed() {
            changed = self.bring_up.active(&mut self.port, &self.learned.data, self.learned.vs)?;
            changed.extend(self.namespaces().iter().map(|namespace| namespace.nsid));
        }
        let room = MOST_NAMESPACES.saturating_sub(self.events.changed.len());
        self.events.changed.extend(changed.into_iter().take(room));
        Ok(())
    }

    /// Identifies a namespace again.
    fn namespace_changed(&mut self, nsid: u32) -> Result<(), Cause> {
        let found = self.bring_up.namespace(
            &mut self.port,
            nsid,
            self.learned.vs,
            self.learned.cap,
            self.learned.max_transfer,
        )?;
        let known = &mut self.shared.present().namespaces;
        let place = known.binary_search_by_key(&nsid, |namespace| namespace.nsid);
        let before = place.ok().map(|at| known.remove(at));
        match found {
            Some(Ok(mut namespace)) => {
                self.shared.note(size(&namespace, before.as_ref()));
                namespace.ana_state = before.and_then(|before| before.ana_state);
                if known.len() < MOST_NAMESPACES {
                    known.insert(place.unwrap_or_else(|at| at), namespace);
                }
            }
            Some(Err(why)) => self.shared.note(why),
            None if before.is_some() => self.shared.note(gone(nsid)),
            None => {}
        }
        Ok(())
    }

    /// Reads the ANA log page again.
    fn ana_changed(&mut self) -> Result<(), Cause> {
        let mut known = self.namespaces();
        self.bring_up.ana_states(&mut self.port, &self.learned.data, self.learned.max_transfer, &mut known)?;
        for (old, new) in self.namespaces().iter().zip(&known) {
            state(new, Some(old)).into_iter().for_each(|text| self.shared.note(text));
        }
        self.shared.present().namespaces = known;
        Ok(())
    }

    fn namespaces(&self) -> Vec<Namespace> {
        self.shared.present().namespaces.clone()
    }
}

/// What became of namespaces while there was nobody to report it; both lists are ascending.
pub(super) fn changes(before: &[Namespace], now: &[Namespace]) -> Vec<String> {
    fn find(list: &[Namespace], nsid: u32) -> Option<&Namespace> {
        list.binary_search_by_key(&nsid, |namespace| namespace.nsid).ok().map(|at| &list[at])
    }
    let lost = before.iter().filter(|old| find(now, old.nsid).is_none()).map(|old| gone(old.nsid));
    let others = now.iter().flat_map(|new| {
        let old = find(before, new.nsid);
        let same = old.is_some_and(|old| (old.blocks, old.block_size) == (new.blocks, new.block_size));
        [(!same).then(|| size(new, old)), state(new, old)]
    });
    lost.chain(others.flatten()).collect()
}

fn size(now: &Namespace, before: Option<&Namespace>) -> String {
    let was = before.map(|before| before.blocks).filter(|&was| was != now.blocks);
    let was = was.map(|was| format!(" (before: {was})")).unwrap_or_default();
    format!("{}: {} blocks of {} bytes{was}", now.name, now.blocks, now.block_size)
}

fn gone(nsid: u32) -> String {
    format!("namespace {nsid} is gone")
}

/// The ANA state, if it has changed.
fn state(now: &Namespace, before: Option<&Namespace>) -> Option<String> {
    let state = now.ana_state.filter(|_| before.and_then(|before| before.ana_state) != now.ana_state)?;
    Some(format!("{}: {}", now.name, state.name()))
}
