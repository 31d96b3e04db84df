//! What queues counted, as `--transport-stats` names it.

use doorbell_queue::Counters;
use doorbell_result::TransportCounters;

/// The sums of the queues' counters under the labels of `--transport-stats`.
pub(crate) fn counters(transport: String, queues: &[Counters]) -> TransportCounters {
    type Value = fn(&Counters) -> u64;
    let polls: [(&'static str, Value); 2] = [("polls", |queue| queue.polls), ("idle_polls", |queue| queue.idle_polls)];
    let rings: [(&'static str, Value); 7] = [
        ("completions", |queue| queue.completions),
        ("cq_mmio_doorbell_updates", |queue| queue.cq_doorbells),
        ("cq_shadow_doorbell_updates", |queue| queue.cq_shadow_doorbells),
        ("submitted_requests", |queue| queue.submitted),
        ("sq_mmio_doorbell_updates", |queue| queue.sq_doorbells),
        ("sq_shadow_doorbell_updates", |queue| queue.sq_shadow_doorbells),
        ("queued_requests", |queue| queue.queued),
    ];
    let sockets: [(&'static str, Value); 4] = [
        ("sock_completions", |queue| queue.socket_completions),
        ("nvme_completions", |queue| queue.completions),
        ("submitted_requests", |queue| queue.submitted),
        ("queued_requests", |queue| queue.queued),
    ];
    // The original tool calls both kinds of rings by the one name.
    let is_ring = matches!(transport.as_str(), "PCIE" | "VFIOUSER");
    let (transport, kind) = if is_ring { ("PCIE".into(), &rings[..]) } else { (transport, &sockets[..]) };
    let sums = polls.iter().chain(kind).map(|(label, value)| (*label, queues.iter().map(value).sum()));
    TransportCounters { transport, counters: sums.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_and_sockets_have_the_labels_of_the_original() {
        let queue = Counters {
            polls: 1,
            idle_polls: 2,
            socket_completions: 3,
            completions: 4,
            submitted: 5,
            queued: 6,
            sq_doorbells: 7,
            sq_shadow_doorbells: 8,
            cq_doorbells: 9,
            cq_shadow_doorbells: 10,
        };
        let rings = counters("VFIOUSER".into(), &[queue, queue]);
        let values: Vec<_> = rings.counters.iter().map(|(label, value)| format!("{label} {value}")).collect();
        let expected = "polls 2, idle_polls 4, completions 8, cq_mmio_doorbell_updates 18, cq_shadow_doorbell_updates 20, \
                        submitted_requests 10, sq_mmio_doorbell_updates 14, sq_shadow_doorbell_updates 16, queued_requests 12";
        assert_eq!((rings.transport.as_str(), values.join(", ").as_str()), ("PCIE", expected));
        let sockets = counters("TCP".into(), &[queue]);
        let expected = [
            ("polls", 1),
            ("idle_polls", 2),
            ("sock_completions", 3),
            ("nvme_completions", 4),
            ("submitted_requests", 5),
            ("queued_requests", 6),
        ];
        assert_eq!((sockets.transport.as_str(), &sockets.counters[..]), ("TCP", &expected[..]));
    }
}
