//! That false alarms are as rare as is said, and changes found as surely.

use super::*;
use crate::{
    ContextResult, Distribution, LatencyStats, Measurement, Operation, RunResult,
    document::{Results, Series, Slice},
};

/// SplitMix64, and normal deviates by Box and Muller.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (one, two) = (1.0 - self.next(), self.next());
        (-2.0 * one.ln()).sqrt() * (2.0 * std::f64::consts::PI * two).cos()
    }

    /// The logarithms of a run's metrics: what a run has of its own moves all of them, and each has noise besides.
    fn run(&mut self, metrics: usize, shift: f64) -> Vec<f64> {
        let own = 0.01 * self.normal();
        (0..metrics).map(|_| shift + own + 0.007 * self.normal()).collect()
    }
}

#[derive(Clone, Copy)]
enum Design {
    Pairs,
    Sides,
}

/// What so many runs a side say; pairs share what the hour brings.
fn estimates(
    random: &mut Random,
    design: Design,
    metrics: usize,
    runs: usize,
    change: f64,
) -> Vec<Result<Estimate, String>> {
    let mut side = |shift: f64, hours: &[f64]| -> Vec<Vec<f64>> {
        hours.iter().map(|hour| random.run(metrics, shift + hour)).collect()
    };
    let hours: Vec<f64> = match design {
        Design::Pairs => (0..runs).map(|hour| 0.05 * (hour as f64).sin()).collect(),
        Design::Sides => vec![0.0; runs],
    };
    let (base, new) = (side(0.0, &hours), side(change, &hours));
    let estimate = |metric: usize| {
        let [one, other] = [&base, &new].map(|side| side.iter().map(|run| run[metric]).collect::<Vec<_>>());
        match design {
            Design::Pairs => Estimate::of_pairs(&one.into_iter().zip(other).collect::<Vec<_>>()),
            Design::Sides => Estimate::of_sides(&one, &other),
        }
    };
    (0..metrics).map(estimate).collect()
}

fn alarm(told: &[Result<Told, String>]) -> bool {
    told.iter().flatten().any(|one| matches!(one.verdict, Verdict::Better | Verdict::Worse))
}

/// So many of a thousand at a probability, strictly: the method has the room for chance, not the test.
fn of_a_thousand(probability: f64) -> usize {
    (1000.0 * probability).round() as usize
}

#[test]
fn a_thousand_comparisons_of_the_same_raise_no_more_false_alarms_than_stated() {
    for (seed, design) in [(1, Design::Pairs), (2, Design::Sides)] {
        for (runs, confidence) in [(2, 0.95), (8, 0.95), (6, 0.8), (6, 0.99)] {
            let question = Question { confidence, ..Question::default() };
            let mut random = Random(seed);
            // Of each metric asked for alone, and of all together.
            let mut alarms = [0; 8];
            for _ in 0..1000 {
                let all = estimates(&mut random, design, 7, runs, 0.0);
                let asked = all.chunks(1).chain([all.as_slice()]);
                asked
                    .zip(&mut alarms)
                    .for_each(|(some, alarms)| *alarms += usize::from(alarm(&decide(some, &question))));
            }
            let stated = of_a_thousand(1.0 - confidence);
            assert!(alarms.iter().all(|&alarms| alarms <= stated), "{alarms:?} of {runs} runs, {stated} stated");
            // And not because nothing is ever told.
            assert!(
                stated == 10 || alarms[..7].iter().all(|&alarms| alarms >= stated / 10),
                "{alarms:?} of {runs} runs"
            );
        }
    }
}

#[test]
fn a_change_of_two_percent_is_found_with_the_number_of_runs_asked_for() {
    let change = 0.02f64.ln_1p();
    for (seed, design) in [(3, Design::Pairs), (4, Design::Sides)] {
        for metrics in [1, 7] {
            let question = Question { metrics: Metric::ALL[..metrics].to_vec(), ..Question::default() };
            let mut random = Random(seed);
            let found = (0..1000).filter(|_| {
                let pilot = estimates(&mut random, design, metrics, 5, 0.0).remove(0).unwrap();
                let runs = pilot.runs_for(change, question.level() / metrics as f64).expect("so few will do") as usize;
                let told = decide(&estimates(&mut random, design, metrics, runs, change), &question);
                told[0].as_ref().unwrap().verdict == Verdict::Better
            });
            let found = found.count();
            assert!(found >= of_a_thousand(0.9), "{found} of 1000, {metrics} metrics");
        }
    }
    // The less these runs tell of the spread, the more are asked for, down to two.
    let asked = [1.0, 2.0, 4.0, 40.0].map(|freedom| {
        let estimate = Estimate { change: 0.0, error: 0.0, freedom, resolution: 0.0, variance: Some(1e-5) };
        estimate.runs_for(change, 0.0286).unwrap()
    });
    assert!(asked.is_sorted_by(|few, many| few > many), "{asked:?}");
}

/// What a run of 200 I/Os with latencies of their own leaves, on a machine that is a little faster or slower each time.
fn measured(random: &mut Random) -> (String, Document) {
    let speed = (0.01 * random.normal()).exp();
    let latencies: Vec<u64> = (0..200).map(|_| (1e5 / speed * (0.5 - random.next().ln())) as u64).collect();
    let (name, mut document) = run(latencies.into_iter());
    document.results.merged.iops = 1e5 * speed * (0.005 * random.normal()).exp();
    document.results.merged.seconds = 1.0;
    let busy_percent = 50.0 / speed * (0.005 * random.normal()).exp();
    document.workers = vec![crate::document::WorkerUse { busy_percent, ..Default::default() }];
    (name, document)
}

#[test]
fn a_thousand_pairs_of_whole_results_of_the_same_raise_no_more_false_alarms_than_stated() {
    let metrics = [Metric::Iops, Metric::Mean, Metric::P50, Metric::P90, Metric::Cpu];
    let question = Question::default();
    let mut random = Random(7);
    // Of each metric asked for alone, and of all together.
    let mut alarms = [0; 6];
    for _ in 0..1000 {
        let [base, new] = [0; 2].map(|_| [0; 3].map(|_| measured(&mut random)));
        let all = metrics.map(|metric| estimate(metric, &base, &new, Basis::Pairs(3), false).1);
        let asked = all.chunks(1).chain([all.as_slice()]);
        asked.zip(&mut alarms).for_each(|(some, alarms)| *alarms += usize::from(alarm(&decide(some, &question))));
    }
    assert!(alarms.iter().all(|&alarms| alarms <= 50) && alarms[0] >= 5 && alarms[4] >= 5, "{alarms:?}");
}

/// A run whose rate wanders: an autoregressive course of slices.
fn wandering(random: &mut Random, slices: usize, memory: f64, level: f64) -> (String, Document) {
    let mut state = random.normal();
    let slice = |at: usize| {
        state = memory * state + (1.0 - memory * memory).sqrt() * random.normal();
        Slice {
            slice: at as u64,
            begin_s: at as f64,
            end_s: at as f64 + 1.0,
            iops: level * (1.0 + 0.03 * state),
            ..Slice::default()
        }
    };
    let slices: Vec<Slice> = (0..slices).map(slice).collect();
    let iops = slices.iter().map(|slice| slice.iops).sum::<f64>() / slices.len() as f64;
    let merged = Measurement { ios: 1000, iops, seconds: slices.len() as f64, ..Measurement::default() };
    let results = Results { merged, ..Results::default() };
    let series = Some(Series { interval_s: 1.0, slices });
    ("run".into(), Document { results, series, ..Document::default() })
}

#[test]
fn a_wandering_run_raises_no_more_false_alarms_than_a_steady_one() {
    let question = Question { metrics: vec![Metric::Iops], ..Question::default() };
    for (memory, slices) in [(0.0, 100), (0.5, 200), (0.9, 800)] {
        let mut random = Random(5);
        let (mut alarms, mut told) = (0, 0);
        for _ in 0..1000 {
            let pair = [0; 2].map(|_| [wandering(&mut random, slices, memory, 1e5)]);
            let comparison = compare(&pair[0], &pair[1], &question).unwrap();
            assert_eq!(comparison.basis, Basis::Courses);
            told += usize::from(comparison.tells());
            alarms += usize::from(comparison.has(Verdict::Better) || comparison.has(Verdict::Worse));
        }
        assert!(alarms <= of_a_thousand(0.05) && told > 900, "{alarms} false alarms, {told} told, memory {memory}");
        let change = compare(
            &[wandering(&mut random, slices, memory, 1e5)],
            &[wandering(&mut random, slices, memory, 0.9e5)],
            &question,
        );
        assert!(change.unwrap().has(Verdict::Worse), "{memory}");
    }
    // What hangs together for as long as the run says nothing.
    let mut random = Random(6);
    let pair = [0; 2].map(|_| [wandering(&mut random, 60, 0.99, 1e5)]);
    let told = compare(&pair[0], &pair[1], &question).unwrap().outcomes.remove(0).told;
    assert!(told.as_ref().is_err_and(|why| why.contains("60 slices cannot tell")), "{told:?}");
}

/// A run of one second with these latencies, in microseconds.
fn run(latencies: impl Iterator<Item = u64>) -> (String, Document) {
    let mut reads = Operation::default();
    latencies.for_each(|us| reads.latency.record(us * 1000));
    reads.completed = reads.latency.count;
    let context = ContextResult { window_ticks: 1_000_000_000, reads, ..ContextResult::default() };
    let run = RunResult { io_size: 512, ticks_per_second: 1e9, contexts: vec![context], ..RunResult::default() };
    ("run".into(), Document { results: Results::of(&run), ..Document::default() })
}

#[test]
fn less_latency_is_better_and_the_threshold_is_held() {
    let side = |scale: f64| -> Vec<(String, Document)> {
        (0..6).map(|at| run((0..2000).map(|us| ((1000 + us) as f64 * scale) as u64 + at))).collect()
    };
    let base = side(1.0);
    let verdicts = |new: &[(String, Document)], threshold| {
        let question = Question { threshold, find: 0.1, paired: true, ..Question::default() };
        let comparison = compare(&base, new, &question).unwrap();
        assert_eq!(comparison.basis, Basis::Pairs(6));
        comparison.outcomes.into_iter().map(|one| one.told.map(|told| told.verdict).ok()).collect::<Vec<_>>()
    };
    use Verdict::{Better, Same, Worse};
    // No workers, so no processor time; 2000 samples carry no 99.9th percentile.
    let of = |iops: Verdict, latency: Verdict| {
        [Some(iops), Some(latency), Some(latency), Some(latency), Some(latency), None, None]
    };
    assert_eq!(verdicts(&side(1.05), 0.02)[1..5], of(Same, Worse)[1..5]);
    assert_eq!(verdicts(&side(0.95), 0.02)[1..5], of(Same, Better)[1..5]);
    assert_eq!(verdicts(&side(1.01), 0.02), of(Same, Same));
    let question = Question { threshold: 0.02, find: 0.1, ..Question::default() };
    let told = compare(&base, &side(1.05), &question).unwrap().outcomes[2].told.clone().unwrap();
    assert!((told.change - 0.05).abs() < 0.002 && told.interval.0 > 0.02 && told.interval.1 < 0.08, "{told:?}");
}

#[test]
fn what_lies_within_a_bucket_is_no_change() {
    // Each side in a bucket of its own, next to each other, and not the least noise.
    let side = |us: u64| -> Vec<_> { (0..8).map(|_| run(std::iter::repeat_n(us, 100))).collect() };
    let question = Question { metrics: vec![Metric::P50, Metric::Mean], ..Question::default() };
    let (one, other) = (side(1000), side(1007));
    let verdicts = |comparison: Comparison| {
        comparison.outcomes.into_iter().map(|one| one.told.unwrap().verdict).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(compare(&one, &other, &question).unwrap()), [Verdict::NoDifference, Verdict::Worse]);
    assert_eq!(verdicts(compare(&one, &side(1050), &question).unwrap()), [Verdict::Worse, Verdict::Worse]);
}

#[test]
fn a_single_run_is_held_against_many_and_never_alone() {
    let runs: Vec<_> = (0..8).map(|at| run((0..1000).map(|us| 1000 + us + 10 * at))).collect();
    let question = Question { metrics: vec![Metric::P50], ..Question::default() };
    let told = |base: Runs<'_>, new: Runs<'_>| compare(base, new, &question).unwrap().outcomes.remove(0).told;
    assert_eq!(told(&runs[..7], &runs[7..]).unwrap().verdict, Verdict::NoDifference);
    let far = [run((0..1000).map(|us| 2000 + us))];
    assert_eq!(told(&runs[..7], &far).unwrap().verdict, Verdict::Worse);
    assert!(told(&runs[..1], &far).unwrap_err().contains("without a time series"));
    let pairs = Question { paired: true, ..question.clone() };
    assert!(compare(&runs[..2], &far, &pairs).unwrap_err().contains("not 2 and 1"));
    assert!(compare(&[], &far, &question).is_err());
    let nothing = [("x.json".to_owned(), Document::default())];
    assert!(compare(&runs, &nothing, &question).unwrap_err().contains("x.json: nothing was measured"));
}

#[test]
fn what_is_unlike_or_doubtful_is_told() {
    let one = [run(1..100), run(1..100)];
    let mut other = one.clone();
    for (_, run) in &mut other {
        run.platform.kernel = "Linux 7".into();
        run.tool.build = "debug".into();
        run.results.merged.errors.insert("Aborted".into(), 3);
        run.command_line = ["doorbell", "perf", "-q", "4", "--json", "x"].map(str::to_owned).to_vec();
    }
    let comparison = compare(&one, &other, &Question::default()).unwrap();
    assert_eq!(comparison.differences, ["options:  | -q 4", "tool:    |   debug", "kernel:  | Linux 7"]);
    assert_eq!(comparison.doubts.iter().filter(|line| line.contains("3 I/Os failed")).count(), 2);
    assert!(compare(&one, &one, &Question::default()).unwrap().differences.is_empty());
}

#[test]
fn slices_give_percentiles_by_batches() {
    let mut random = Random(9);
    let mut course = |scale: f64| {
        let mut all = Distribution::default();
        let slices = (0..50).map(|at| {
            let mut stats = LatencyStats::default();
            (0..300).for_each(|_| stats.record((1e5 * scale * (1.0 - random.next().ln())) as u64));
            let distribution = Distribution::new(&stats, 1e9);
            all.merge(&distribution);
            Slice {
                begin_s: f64::from(at),
                end_s: f64::from(at) + 1.0,
                distribution: Some(distribution),
                ..Slice::default()
            }
        });
        let series = Some(Series { interval_s: 1.0, slices: slices.collect() });
        let mut run = Document { series, ..Document::default() };
        run.results.merged =
            Measurement { ios: 15_000, iops: 300.0, latency: crate::Latency::of(all), ..Measurement::default() };
        [("run".to_owned(), run)]
    };
    let question =
        Question { metrics: vec![Metric::P50, Metric::P90, Metric::P99, Metric::Cpu], ..Question::default() };
    let outcomes = compare(&course(1.0), &course(1.1), &question).unwrap().outcomes;
    let verdicts: Vec<_> = outcomes.iter().map(|one| one.told.as_ref().map(|told| told.verdict)).collect();
    assert_eq!(verdicts[..2], [Ok(Verdict::Worse), Ok(Verdict::Worse)], "{outcomes:?}");
    // Three samples of a slice lie beyond its 99th percentile.
    assert!(outcomes[2].told.as_ref().is_err_and(|why| why.contains("longer ones")), "{outcomes:?}");
    assert!(outcomes[3].told.is_err());
}

#[test]
fn a_comparison_is_written_as_its_grammar_says() {
    let told = |verdict, high| Ok(Told { verdict, change: 0.1, interval: (0.05, high) });
    let verdicts =
        [Verdict::Better, Verdict::Worse, Verdict::Same, Verdict::NoDifference].map(|one| told(one, f64::INFINITY));
    let outcomes = verdicts.into_iter().chain([Err("too few".into())]).zip(Metric::ALL);
    let outcome = |(told, metric)| Outcome { metric, figures: Some((1.0, 2.0)), told, runs: Some(7) };
    let comparison = Comparison {
        basis: Basis::Sides(1, 2),
        response: false,
        outcomes: outcomes.map(outcome).collect(),
        differences: vec!["kernel".into()],
        doubts: vec!["debug".into()],
    };
    let tool = crate::document::Tool { build: "debug".into(), ..Default::default() };
    let runs = [("a.json".to_owned(), Document::default())];
    let record = Record::new(&comparison, &Question::default(), [&runs, &runs], tool, 1);
    let value: serde_json::Value = serde_json::from_str(&record.to_text()).unwrap();
    crate::schema::check_comparison(&value).unwrap();
    let of = |at: usize, name: &str| value["metrics"][at][name].clone();
    assert_eq!([of(0, "verdict"), of(1, "verdict"), of(2, "verdict")], ["better", "worse", "same"]);
    assert_eq!((of(3, "interval_percent"), of(4, "interval_percent")), (serde_json::json!([5.0, null]), ().into()));
    assert_eq!((of(4, "verdict"), of(4, "why")), ("not_told".into(), "too few".into()));
    assert!(crate::schema::check(&value).is_err());
}
