//! What an open loop was to do and did: a block behind the tables.

use std::fmt::Write;

use doorbell_result::{LatencyStats, OpenLoop, RunResult, share};

/// The percentiles that are shown.
const CUT_OFFS: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// The arrivals of all contexts, and both kinds of latency side by side; nothing for a closed loop.
pub fn summary(result: &RunResult) -> String {
    let loops = || result.contexts.iter().filter_map(|context| context.open_loop.as_ref());
    let Some(first) = loops().next() else { return String::new() };
    let sum = |of: fn(&OpenLoop) -> u64| loops().map(of).sum::<u64>();
    let micros = |ticks| crate::microseconds(ticks, result.ticks_per_second);
    let (mut response, mut service) = (LatencyStats::default(), LatencyStats::default());
    loops().for_each(|one| response.merge(&one.response));
    result.contexts.iter().for_each(|context| service.merge(&context.latency()));
    let lag = loops().map(|one| one.longest_lag).max().unwrap_or(0);
    let rate: f64 = loops().map(|one| one.rate).sum();
    let mut text = format!(
        "Open loop, {} arrivals at {} a second: {} planned, {} of them found all I/Os in flight and waited, {} were never \
         issued; issued at most {:.1} us late\n",
        first.arrival,
        crate::arrivals(rate),
        sum(|one| one.planned),
        sum(|one| one.late),
        sum(|one| one.dropped),
        micros(lag as f64),
    );
    let _ = write!(text, "{:<34}", "Latency(us)");
    CUT_OFFS.iter().for_each(|cut_off| {
        let _ = write!(text, " {:>12}", format!("{cut_off}%"));
    });
    let _ = writeln!(text, " {:>12} {:>12} {:>10}", "Average", "max", "I/Os");
    for (name, latency) in [("Response, from the planned arrival", &response), ("Service, from submission", &service)] {
        let _ = write!(text, "{name:<34}");
        for cut_off in CUT_OFFS {
            let value = latency.histogram.value_at(share(cut_off));
            let shown = value.map_or("-".into(), |ticks| format!("{:.2}", micros(ticks.min(latency.max) as f64)));
            let _ = write!(text, " {shown:>12}");
        }
        let mean = latency.sum as f64 / (latency.count as f64).max(1.0);
        let _ = writeln!(text, " {:>12.2} {:>12.2} {:>10}", micros(mean), micros(latency.max as f64), latency.count);
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::{Arrival, ContextResult};

    #[test]
    fn both_latencies_of_all_contexts_stand_side_by_side() {
        let context = |ticks: u64| {
            let mut context = ContextResult::default();
            let mut open = OpenLoop {
                rate: 500.0,
                arrival: Arrival::Burst(4),
                planned: 10,
                late: 2,
                dropped: 1,
                longest_lag: ticks,
                ..OpenLoop::default()
            };
            (1..=9).for_each(|_| open.response.record(2 * ticks));
            (1..=9).for_each(|_| context.reads.latency.record(ticks));
            context.open_loop = Some(open);
            context
        };
        let contexts = vec![context(100), context(300)];
        let result = RunResult { ticks_per_second: 1e6, contexts, ..RunResult::default() };
        let text = summary(&result);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "Open loop, burst:4 arrivals at 1000 a second: 20 planned, 4 of them found all I/Os in flight and waited, 2 were never \
             issued; issued at most 300.0 us late"
        );
        let columns = |line: &str| line.split_whitespace().rev().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(columns(lines[2])[..3], ["18", "600.00", "400.00"]);
        assert_eq!(columns(lines[3])[..3], ["18", "300.00", "200.00"]);
        assert_eq!(columns(lines[2])[7], "201.00", "the median is the end of its bucket");
        assert_eq!(summary(&RunResult::default()), "");
    }
}
