//! What queues counted, as `--transport-stats` names it.

use doorbell_queue::Counters;
use doorbell_result::TransportCounters;

/// The sums of the queues' counters under the labels of `--transport-stats`; `device` carries the queues, where they say which.
pub(crate) fn counters(transport: String, device: Option<String>, queues: &[Counters]) -> TransportCounters {
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
    let queue_pairs: [(&'static str, Value); 6] = [
        ("completions", |queue| queue.work_completions),
        ("queued_requests", |queue| queue.queued),
        ("total_send_wrs", |queue| queue.submitted),
        ("send_doorbell_updates", |queue| queue.sq_doorbells),
        ("total_recv_wrs", |queue| queue.receives),
        ("recv_doorbell_updates", |queue| queue.receive_doorbells),
    ];
    let (transport, kind) = match transport.as_str() {
        // The original tool calls both kinds of rings by the one name.
        "PCIE" | "VFIOUSER" => ("PCIE".into(), &rings[..]),
        "RDMA" => (transport, &queue_pairs[..]),
        _ => (transport, &sockets[..]),
    };
    let sums = polls.iter().chain(kind).map(|(label, value)| (*label, queues.iter().map(value).sum()));
    TransportCounters { transport, device, counters: sums.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_sockets_and_queue_pairs_have_the_labels_of_the_original() {
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
            work_completions: 11,
            receives: 12,
            receive_doorbells: 13,
        };
        let rings = counters("VFIOUSER".into(), None, &[queue, queue]);
        let values: Vec<_> = rings.counters.iter().map(|(label, value)| format!("{label} {value}")).collect();
        let expected = "polls 2, idle_polls 4, completions 8, cq_mmio_doorbell_updates 18, cq_shadow_doorbell_updates 20, \
                        submitted_requests 10, sq_mmio_doorbell_updates 14, sq_shadow_doorbell_updates 16, queued_requests 12";
        assert_eq!((rings.transport.as_str(), values.join(", ").as_str()), ("PCIE", expected));
        let sockets = counters("TCP".into(), None, &[queue]);
        let expected = [
            ("polls", 1),
            ("idle_polls", 2),
            ("sock_completions", 3),
            ("nvme_completions", 4),
            ("submitted_requests", 5),
            ("queued_requests", 6),
        ];
        assert_eq!((sockets.transport.as_str(), &sockets.counters[..]), ("TCP", &expected[..]));
        let queue_pairs = counters("RDMA".into(), Some("mlx5_0".into()), &[queue, queue]);
        let expected = [
            ("polls", 2),
            ("idle_polls", 4),
            ("completions", 22),
            ("queued_requests", 12),
            ("total_send_wrs", 10),
            ("send_doorbell_updates", 14),
            ("total_recv_wrs", 24),
            ("recv_doorbell_updates", 26),
        ];
        assert_eq!((queue_pairs.device.as_deref(), &queue_pairs.counters[..]), (Some("mlx5_0"), &expected[..]));
    }
}
