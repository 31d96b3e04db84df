//! The layouts of `spdk_nvme_perf`, byte for byte against lines that it printed (fixtures/), and read back
//! the way its own test scripts read them (reference 3.2).

use doorbell_report::{spdk_latency, spdk_table, transport_stats};
use doorbell_result::{ContextResult, LatencyStats, Operation, RunResult, TransportCounters};

/// Ticks a second of the machine that printed the fixtures; a microsecond is 2100 ticks.
const TICKS_PER_SECOND: f64 = 2.1e9;

const MALLOC: &str = "TCP (addr:127.0.0.1 subnqn:nqn.2016-06.io.spdk:malloc) NSID 1";
const NULL: &str = "TCP (addr:127.0.0.1 subnqn:nqn.2016-06.io.spdk:null) NSID 1";
const VFIO_USER: &str = "VFIOUSER (/var/run/vfu-null) NSID 1";

fn run(contexts: Vec<ContextResult>) -> RunResult {
    RunResult { io_size: 4096, ticks_per_second: TICKS_PER_SECOND, contexts, ..Default::default() }
}

/// A context that ran 100 s: its I/Os in this time and its latencies in hundredths of a microsecond.
/// I/Os of 4096 bytes.
fn operation(completed: u64) -> Operation {
    Operation { completed, bytes: completed * 4096, ..Operation::default() }
}

fn context(name: &str, completed: u64, [average, min, max]: [u64; 3]) -> ContextResult {
    let mut context = ContextResult {
        name: name.into(),
        core: 1,
        window_ticks: (100.0 * TICKS_PER_SECOND) as u64,
        reads: operation(completed - completed / 3),
        writes: operation(completed / 3),
        ..Default::default()
    };
    context.reads.latency.count = completed;
    context.reads.latency.sum = u128::from(average * 21) * u128::from(completed);
    context.reads.latency.min = min * 21;
    context.reads.latency.max = max * 21;
    context
}

/// The five numbers of the Total line, found as the original's scripts do: blanks squeezed, then what
/// follows "Total : ".
fn total(text: &str) -> Option<[f64; 5]> {
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, after) = squeezed.split_once("Total : ")?;
    let numbers: Vec<f64> = after.split(' ').take(5).map_while(|n| n.parse().ok()).collect();
    numbers.try_into().ok()
}

#[test]
fn table_of_two_contexts() {
    let table = spdk_table::table(&run(vec![
        context(MALLOC, 22_121_458, [7230, 2136, 422_715]),
        context(NULL, 18_603_201, [8598, 2372, 425_694]),
    ]));
    assert_eq!(table, format!("{}\n", include_str!("fixtures/tcp-two-trid.txt")));
    assert_eq!(total(&table), Some([407_246.59, 1590.81, 78.55, 21.36, 4256.94]));
}

#[test]
fn a_dash_stands_for_latencies_that_were_not_taken() {
    // One in four I/Os has a latency, of 100 us: the others count as much in the mean of both rows.
    let mut sampled = context(MALLOC, 4000, [10_000, 5000, 20_000]);
    sampled.reads.latency.count /= 4;
    sampled.reads.latency.sum /= 4;
    let whole = context(NULL, 12_000, [20_000, 6000, 30_000]);
    let table = spdk_table::table(&run(vec![sampled, whole]));
    assert_eq!(total(&table), Some([160.0, 0.62, 175.0, 50.0, 300.0]));

    let mut off = context(MALLOC, 4000, [0, 0, 0]);
    off.reads.latency = LatencyStats::default();
    let table = spdk_table::table(&run(vec![off.clone()]));
    let dashes = format!("{:>11.2}{:>11.2}{:>11}{:>11}{:>11}\n", 40.0, 0.16, "-", "-", "-");
    assert_eq!(table.matches(&dashes).count(), 2, "in its row and in the total: {table}");
    let mixed = spdk_table::table(&run(vec![off, context(NULL, 12_000, [20_000, 6000, 30_000])]));
    assert_eq!(total(&mixed), Some([160.0, 0.62, 200.0, 60.0, 300.0]), "of those that have one");
}

#[test]
fn tcp_counters_and_table() {
    let mut context = context(MALLOC, 35_023_360, [9135, 6828, 427_759]);
    context.transport = Some(TransportCounters {
        transport: "TCP".into(),
        device: None,
        counters: vec![
            ("polls", 14_453_424),
            ("idle_polls", 14_236_882),
            ("sock_completions", 216_542),
            ("nvme_completions", 1_751_169),
            ("submitted_requests", 1_751_170),
            ("queued_requests", 0),
        ],
    });
    let result = run(vec![context]);
    let text = transport_stats::blocks(&result) + &spdk_table::table(&result);
    assert_eq!(text, format!("{}\n", include_str!("fixtures/tcp-stats.txt")));
}

#[test]
fn pcie_counters_and_table() {
    let mut context = context(VFIO_USER, 362_223_700, [3530, 1163, 424_265]);
    context.transport = Some(TransportCounters {
        transport: "PCIE".into(),
        device: None,
        counters: vec![
            ("polls", 70_045_135),
            ("idle_polls", 69_709_823),
            ("completions", 18_111_185),
            ("cq_mmio_doorbell_updates", 335_312),
            ("cq_shadow_doorbell_updates", 0),
            ("submitted_requests", 18_111_185),
            ("sq_mmio_doorbell_updates", 335_311),
            ("sq_shadow_doorbell_updates", 0),
            ("queued_requests", 0),
        ],
    });
    let result = run(vec![context]);
    let text = transport_stats::blocks(&result) + &spdk_table::table(&result);
    assert_eq!(text, format!("{}\n", include_str!("fixtures/vfu-null-stats-q128.txt")));
}

#[test]
fn rdma_counters_are_told_by_device_and_closed_by_a_line() {
    let mut context = context(MALLOC, 1000, [1, 1, 1]);
    context.transport = Some(TransportCounters {
        transport: "RDMA".into(),
        device: Some("rxe0".into()),
        counters: vec![("polls", 5), ("total_send_wrs", 12), ("send_doorbell_updates", 3)],
    });
    let text = transport_stats::blocks(&run(vec![context]));
    let (_, block) = text.split_once("RDMA transport:\n").unwrap();
    // The numbers start in column 24, counted from 1 behind the tab.
    let expected = "\tdev name:              rxe0\n\tpolls:                 5\n\ttotal_send_wrs:        12\n\tsend_doorbell_updates: 3\n\
                    \t---------------------------------\n";
    assert_eq!(block, expected);
}

#[test]
fn percentiles_and_histogram() {
    let fixture = include_str!("fixtures/latency.txt");
    let mut context = context(MALLOC, 1_764_704, [9064, 6869, 423_480]);
    for line in fixture.lines().filter(|line| line.contains("%  (")) {
        let edges_and_count: Vec<f64> =
            line.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|number| number.parse().ok()).collect();
        let [start, end, _, count] = edges_and_count[..] else {
            panic!("{line}");
        };
        // The edges are rounded; the middle is surely inside.
        let ticks = ((start + end) / 2.0 * 2100.0) as u64;
        (0..count as u64).for_each(|_| context.reads.latency.histogram.record(ticks));
    }
    let result = run(vec![context]);
    let text = spdk_latency::summaries(&result) + &spdk_latency::histograms(&result);
    assert_eq!(text, format!("{fixture}\n"));
}

#[test]
fn an_idle_context_has_headings_alone() {
    let mut busy = context("busy", 100, [100, 100, 100]);
    (0..100).for_each(|_| busy.reads.latency.histogram.record(2100));
    let idle = ContextResult { name: "idle".into(), core: 12, ..Default::default() };
    let result = run(vec![busy, idle]);
    let table = spdk_table::table(&result);
    assert!(!table.contains("idle"));
    let summaries = spdk_latency::summaries(&result);
    let name = format!("{:<43}", "idle");
    let rule = "=".repeat(81);
    assert!(summaries.ends_with(&format!("\nSummary latency data for {name} from core 12:\n{rule}\n\n")));
    let histograms = spdk_latency::histograms(&result);
    assert!(histograms.ends_with(&format!(
        "\nLatency histogram for {name} from core 12:\n{}\n       Range in us     Cumulative    IO count\n\n",
        "=".repeat(78)
    )));
}

#[test]
fn without_a_completion_there_is_no_total() {
    let result = run(vec![ContextResult { name: NULL.into(), ..Default::default() }]);
    let table = spdk_table::table(&result);
    assert_eq!(table.lines().count(), 3);
    assert_eq!(total(&table), None);
    assert_eq!(spdk_latency::summaries(&result) + &spdk_latency::histograms(&result), "");
    assert_eq!(spdk_table::table(&run(vec![])).lines().count(), 3);
}

#[test]
fn each_context_counts_its_own_window_and_no_failed_io() {
    let whole = context("n", 1000, [100, 100, 100]);
    let mut half = whole.clone();
    half.core = 100;
    half.window_ticks /= 2;
    half.reads.errors.insert("Internal Error".into(), 500);
    let table = spdk_table::table(&run(vec![whole, half]));
    assert!(table.contains("n from core  1:      10.00 "), "{table}");
    assert!(table.contains("n from core 100:      20.00 "), "{table}");
    assert_eq!(total(&table).unwrap()[0], 30.0);
}
