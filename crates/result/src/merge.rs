//! Several runs that went on side by side as one: what `doorbell merge` does.

use std::collections::BTreeMap;

use crate::{
    Distribution, Document, Latency, Measurement, Verification,
    document::{
        Check, Exit, ExitReason, Finding, OpenLoopRecord, Plan, Platform, Results, SCHEMA_VERSION, Source, Verdict,
    },
};

/// Share of the longest window in which all must have run for their rates to add up.
const OVERLAP: f64 = 0.95;

impl Document {
    /// The sum of runs that went on side by side, each kept whole in [`Document::sources`]. A sum among them stands for its runs.
    ///
    /// Distributions merge as [`Distribution::merge`] says, counts and rates add up. Whether the windows lay side by side, by the
    /// clocks of their machines, becomes a finding of the audit beside those of the runs.
    ///
    /// # Errors
    /// Which of them cannot be part of one sum, and why.
    pub fn merge(runs: impl IntoIterator<Item = (String, Self)>) -> Result<Self, String> {
        let mut sources = Vec::new();
        runs.into_iter().for_each(|(file, result)| flatten(file, result, &mut sources));
        let first = sources.first().ok_or("there is nothing to merge")?;
        for (at, source) in sources.iter().enumerate() {
            if let Some(twin) = sources[..at].iter().find(|other| other.result == source.result) {
                return Err(format!("{} and {} are the same run, which counts once", twin.file, source.file));
            }
            check(source).map_err(|why| format!("{}: {why}", source.file))?;
            same_kind(&first.result, &source.result)
                .map_err(|why| format!("{} and {} have different I/Os: {why}", first.file, source.file))?;
        }
        let all = || sources.iter().map(|source| &source.result);
        let operations = by(&sources, |results| &results.operations);
        let sizes = by(&sources, |results| &results.sizes);
        let audit = all().zip(&sources).flat_map(|(one, source)| {
            one.audit.iter().map(|finding| {
                let place = finding.place.as_ref().map_or(String::new(), |place| format!(": {place}"));
                Finding { place: Some(source.file.clone() + &place), ..finding.clone() }
            })
        });
        let mut paths = Vec::new();
        all().flat_map(|one| &one.paths).for_each(|path| {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        });
        Ok(Self {
            schema_version: SCHEMA_VERSION,
            started_s: all().map(|one| one.started_s).fold(f64::MAX, f64::min),
            ended_s: all().map(|one| one.ended_s).fold(0.0, f64::max),
            exit: exit(&sources),
            plan: common(all().map(|one| {
                one.plan.clone().map(|plan| Plan { contexts: Vec::new(), cores: Vec::new(), interval_s: None, ..plan })
            })),
            platform: platform(&sources),
            paths,
            results: Results {
                merged: Measurement::merged(all().map(|one| &one.results.merged)),
                operations,
                sizes,
                open_loop: open_loop(&sources),
                window_began_s: all().filter_map(|one| one.results.window_began_s).reduce(f64::min),
                verification: Verification::sum(all().filter_map(|one| one.results.verification.as_ref())),
                ..Results::default()
            },
            audit: audit.chain(side_by_side(&sources)).collect(),
            sources,
            ..Self::default()
        })
    }

    /// The runs that this stands for: those of a sum, else itself.
    pub fn runs(&self) -> Vec<&Self> {
        match self.sources.is_empty() {
            true => vec![self],
            false => self.sources.iter().flat_map(|source| source.result.runs()).collect(),
        }
    }
}

/// The sums of each kind over all runs.
fn by<K: Ord + Clone>(sources: &[Source], of: fn(&Results) -> &BTreeMap<K, Measurement>) -> BTreeMap<K, Measurement> {
    let all = || sources.iter().map(|source| of(&source.result.results));
    let sum = |key: &K| Measurement::merged(all().filter_map(|one| one.get(key)));
    all().flat_map(BTreeMap::keys).map(|key| (key.clone(), sum(key))).collect()
}

fn flatten(file: String, mut result: Document, sources: &mut Vec<Source>) {
    if result.sources.is_empty() {
        return sources.push(Source { file, result });
    }
    for source in std::mem::take(&mut result.sources) {
        flatten(format!("{file}: {}", source.file), source.result, sources);
    }
}

/// Whether a run has what a sum is made of.
fn check(source: &Source) -> Result<(), String> {
    let Document { exit, results, .. } = &source.result;
    if results.merged.ios == 0 && results.merged.failed() == 0 {
        let why = if exit.errors.is_empty() { String::new() } else { format!(": {}", exit.errors.join("; ")) };
        return Err(format!("nothing was measured{why}"));
    }
    let open = results.open_loop.as_ref().and_then(|open| open.response.as_ref());
    let latencies = results.operations.values().chain([&results.merged]).filter_map(|sum| sum.latency.as_ref());
    latencies.chain(open).try_for_each(|latency| latency.distribution.check())
}

/// Whether the I/Os of two runs may stand in one distribution.
fn same_kind(there: &Document, here: &Document) -> Result<(), String> {
    let (Some(one), Some(other)) = (&there.plan, &here.plan) else { return Err("a plan is missing".into()) };
    // What a sample stands for: each I/O, or one in so many.
    let samples = |plan: &Plan| match plan.timing.as_str() {
        "exact" | "batch" => "all".to_owned(),
        other => other.to_owned(),
    };
    let sizes = |plan: &Plan| match plan.sizes.as_slice() {
        [] => "one".to_owned(),
        mix => mix.iter().map(|one| format!("{}:{}%", one.bytes, one.percent)).collect::<Vec<_>>().join(","),
    };
    let said = |value: Option<String>| value.unwrap_or_else(|| "none".into());
    let arrival = |one: &Document| one.results.open_loop.as_ref().map_or("closed".into(), |open| open.arrival.clone());
    for (what, one, other) in [
        ("bytes of one", one.io_bytes.to_string(), other.io_bytes.to_string()),
        ("their sizes", sizes(one), sizes(other)),
        ("the pattern", one.pattern.clone(), other.pattern.clone()),
        ("the share of reads", one.read_percent.to_string(), other.read_percent.to_string()),
        ("the Zipf exponent", said(one.zipf.map(|it| it.to_string())), said(other.zipf.map(|it| it.to_string()))),
        ("full coverage", one.full_coverage.to_string(), other.full_coverage.to_string()),
        (
            "writes to a flush",
            said(one.flush_every.map(|it| it.to_string())),
            said(other.flush_every.map(|it| it.to_string())),
        ),
        ("Force Unit Access", one.fua.to_string(), other.fua.to_string()),
        ("those with a latency", samples(one), samples(other)),
        ("the loop", arrival(there), arrival(here)),
    ] {
        if one != other {
            return Err(format!("{what}: {one} and {other}"));
        }
    }
    Ok(())
}

/// What all have in common, else nothing.
fn common<T: PartialEq>(mut all: impl Iterator<Item = Option<T>>) -> Option<T> {
    let first = all.next()??;
    all.all(|one| one.as_ref() == Some(&first)).then_some(first)
}

/// The first of these reasons that a run has stands for all.
fn exit(sources: &[Source]) -> Exit {
    let has = |reason: &ExitReason| sources.iter().any(|source| source.result.exit.reason == *reason);
    let reasons = [ExitReason::NotStarted, ExitReason::Lost, ExitReason::Signal, ExitReason::Count, ExitReason::Time];
    let errors = sources
        .iter()
        .flat_map(|Source { file, result }| result.exit.errors.iter().map(move |error| format!("{file}: {error}")));
    Exit {
        reason: reasons.into_iter().find(has).unwrap_or_default(),
        good: sources.iter().all(|source| source.result.exit.good),
        partial: sources.iter().any(|source| source.result.exit.partial),
        errors: errors.collect(),
    }
}

/// The machine, where there was one; else the names of all, and what sums need of their clocks.
fn platform(sources: &[Source]) -> Platform {
    let all = || sources.iter().map(|source| &source.result.platform);
    let largest = |of: fn(&Platform) -> Option<f64>| all().filter_map(of).reduce(f64::max);
    let mut hosts: Vec<&str> = all().map(|one| one.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let one = common(all().map(|one| {
        // Measured anew by each run.
        Some(Platform {
            cores: Vec::new(),
            ticks_per_second: None,
            huge_pages: None,
            clock_cost_ns: None,
            largest_error_us: None,
            ..one.clone()
        })
    }));
    Platform {
        host: hosts.join(", "),
        ticks_per_second: sources[0].result.platform.ticks_per_second,
        clock_cost_ns: largest(|one| one.clock_cost_ns),
        largest_error_us: largest(|one| one.largest_error_us),
        ..one.unwrap_or_default()
    }
}

fn open_loop(sources: &[Source]) -> Option<OpenLoopRecord> {
    let loops = || sources.iter().filter_map(|source| source.result.results.open_loop.as_ref());
    let sum = |of: fn(&OpenLoopRecord) -> u64| loops().map(of).fold(0, u64::saturating_add);
    let mut response = Distribution::default();
    loops().filter_map(|one| one.response.as_ref()).for_each(|one| response.merge(&one.distribution));
    Some(OpenLoopRecord {
        arrival: loops().next()?.arrival.clone(),
        rate: loops().map(|one| one.rate).sum(),
        planned: sum(|one| one.planned),
        late: sum(|one| one.late),
        dropped: sum(|one| one.dropped),
        longest_lag_us: loops().map(|one| one.longest_lag_us).fold(0.0, f64::max),
        response: Latency::of(response),
    })
}

/// Rates add up when all were measured at the same time.
fn side_by_side(sources: &[Source]) -> Option<Finding> {
    let windows: Option<Vec<(f64, f64)>> = sources
        .iter()
        .map(|source| {
            let results = &source.result.results;
            results.window_began_s.map(|began| (began, began + results.merged.seconds))
        })
        .collect();
    let finding = Finding { check: Check::Window, limit: Some(OVERLAP), ..Finding::default() };
    let Some(windows) = windows else {
        let text = "a run does not say when its window began, so nothing is known of their overlap".into();
        return Some(Finding { verdict: Verdict::NotChecked, text, ..finding });
    };
    let ended = windows.iter().map(|window| window.1).fold(f64::MAX, f64::min);
    let began = windows.iter().map(|window| window.0).fold(f64::MIN, f64::max);
    let longest = windows.iter().map(|window| window.1 - window.0).fold(0.0, f64::max);
    let share = ((ended - began) / longest).clamp(0.0, 1.0);
    let good = share >= OVERLAP;
    let sum = if good { "their rates add up" } else { "the sum of their rates is no rate that was ever reached" };
    let text = format!(
        "all {} runs were within their windows for {:.1} % of the longest, by the clocks of their machines: {sum}",
        windows.len(),
        share * 100.0
    );
    let verdict = if good { Verdict::Passed } else { Verdict::Failed };
    (windows.len() > 1).then_some(Finding { verdict, size: Some(share), text, ..finding })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::{ContextResult, MismatchKind, Operation, RunResult, document::SizeShare};

    /// A run like no other.
    fn run(rate: f64, contexts: &[Vec<u64>]) -> Document {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let context = |(core, latencies): (usize, &Vec<u64>)| {
            let mut reads = Operation { completed: latencies.len() as u64, ..Operation::default() };
            latencies.iter().for_each(|&ticks| reads.latency.record(ticks));
            ContextResult { core, path: "disk".into(), window_ticks: rate as u64, reads, ..ContextResult::default() }
        };
        let contexts = contexts.iter().enumerate().map(context).collect();
        let run = RunResult { io_size: 4096, ticks_per_second: rate, contexts, ..RunResult::default() };
        let mut document = Document {
            schema_version: SCHEMA_VERSION,
            seed: Some(RUNS.fetch_add(1, Ordering::Relaxed)),
            plan: Some(Plan { io_bytes: 4096, poll_mode: "poll".into(), timing: "exact".into(), ..Plan::default() }),
            results: Results { window_began_s: Some(1000.0), ..Results::of(&run) },
            ..Document::default()
        };
        document.tool.build = "release".into();
        document.exit = Exit { reason: ExitReason::Time, good: true, ..Exit::default() };
        // As it comes from a file.
        Document::parse(&document.to_text()).unwrap()
    }

    fn merge(runs: &[Document]) -> Result<Document, String> {
        let mut sum = Document::merge(runs.iter().enumerate().map(|(at, run)| (format!("{at}.json"), run.clone())))?;
        sum.tool.build = "release".into();
        Ok(sum)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_sum_has_the_percentiles_of_all_samples_recorded_together(
            parts in prop::collection::vec(prop::collection::vec(1u64..1 << 40, 1..150), 2..6),
            cut in 1usize..5,
        ) {
            let cut = cut.min(parts.len() - 1);
            let whole = run(2e9, &[parts.concat()]);
            let sum = merge(&[run(2e9, &parts[..cut]), run(2e9, &parts[cut..])]).unwrap();
            prop_assert_eq!(&sum.results.merged.latency, &whole.results.merged.latency);
            prop_assert_eq!(sum.results.merged.ios, whole.results.merged.ios);
            prop_assert_eq!(&sum.results.operations["read"].latency, &whole.results.merged.latency);
            // Sums of sums are sums of the runs, in any order.
            let singly: Vec<_> = parts.iter().map(|part| run(2e9, std::slice::from_ref(part))).collect();
            let tail = merge(&singly[cut..]).unwrap();
            let nested = merge(&[singly[..cut].to_vec(), vec![tail]].concat()).unwrap();
            prop_assert_eq!(&nested.results.merged.latency, &whole.results.merged.latency);
            prop_assert_eq!(nested.sources.len(), parts.len());
            prop_assert_eq!(Document::parse(&nested.to_text()).unwrap(), nested);
        }
    }

    #[test]
    fn rates_and_counts_add_up_and_rows_stay_with_their_source() {
        let mut one = run(2e9, &[vec![1000; 100], vec![2000; 100]]);
        let mut other = run(3e9, &[vec![3000; 300]]);
        one.results.merged.errors.insert("Aborted".into(), 2);
        (one.platform.host, other.platform.host) = ("a".into(), "b".into());
        let checked = |checked, torn| {
            let mismatches = [(MismatchKind::TornWrite, torn)].into();
            Some(Verification { checked, mismatches, ..Verification::default() })
        };
        (one.results.verification, other.results.verification) = (checked(10, 1), checked(20, 2));
        other.exit = Exit { reason: ExitReason::Signal, good: false, partial: true, errors: vec!["stopped".into()] };
        let sum = merge(&[one.clone(), other.clone()]).unwrap();
        let merged = &sum.results.merged;
        assert_eq!((merged.ios, merged.iops, merged.failed()), (500, 500.0, 2));
        assert_eq!((sum.platform.host.as_str(), sum.exit.good, sum.exit.partial), ("a, b", false, true));
        assert_eq!((sum.exit.reason, sum.exit.errors), (ExitReason::Signal, vec!["1.json: stopped".to_owned()]));
        assert_eq!(sum.results.verification, checked(30, 3));
        assert_eq!((&sum.sources[0].result, &sum.sources[1].result), (&one, &other));
        // Of the clock with 3 GHz, 1 us is 3000 ticks and here 2000.
        let latency = merged.latency.as_ref().unwrap();
        assert_eq!(latency.distribution.samples, 500);
        assert!((latency.mean_us - (100.0 * 0.5 + 400.0) / 500.0).abs() < 1e-9, "{latency:?}");
        assert!((latency.distribution.percentile(50.0).unwrap().us - 1.0).abs() < 1.0 / 64.0);
        let open = |planned, longest_lag_us, ticks: u64| OpenLoopRecord {
            rate: 10.0,
            arrival: "fixed".into(),
            planned,
            late: 1,
            dropped: 2,
            longest_lag_us,
            response: run(2e9, &[vec![ticks; 10]]).results.merged.latency,
        };
        one.results.open_loop = Some(open(3, 7.0, 1000));
        other.results.open_loop = Some(open(4, 5.0, 9000));
        let open = merge(&[one, other]).unwrap().results.open_loop.unwrap();
        assert_eq!((open.rate, open.planned, open.late, open.dropped, open.longest_lag_us), (20.0, 7, 2, 4, 7.0));
        assert_eq!(open.response.unwrap().mean_us, 2.5);
    }

    #[test]
    fn windows_that_did_not_overlap_are_told() {
        let at = |began: Option<f64>| {
            let mut run = run(2e9, &[vec![5; 20]]);
            run.results.window_began_s = began;
            run
        };
        let verdict = |other: Option<f64>| {
            let finding = merge(&[at(Some(1000.0)), at(other)]).unwrap().audit.pop().unwrap();
            (finding.verdict, finding.size)
        };
        assert_eq!(verdict(Some(1000.0)), (Verdict::Passed, Some(1.0)));
        assert_eq!(verdict(Some(1000.75)), (Verdict::Failed, Some(0.25)));
        assert_eq!(verdict(Some(2000.0)), (Verdict::Failed, Some(0.0)));
        assert_eq!(verdict(None), (Verdict::NotChecked, None));
    }

    #[test]
    fn what_cannot_be_merged_is_refused_with_its_reason() {
        let good = run(2e9, &[vec![7; 20]]);
        let changed = |change: fn(&mut Document)| {
            let mut other = good.clone();
            change(&mut other);
            merge(&[good.clone(), other]).unwrap_err()
        };
        let plan = |change: fn(&mut Plan)| {
            let mut other = good.clone();
            change(other.plan.as_mut().unwrap());
            merge(&[good.clone(), other]).unwrap_err()
        };
        for (why, said) in [
            (plan(|plan| plan.zipf = Some(1.1)), "the Zipf exponent: none and 1.1"),
            (plan(|plan| plan.flush_every = Some(8)), "writes to a flush: none and 8"),
            (plan(|plan| plan.sizes = vec![SizeShare { bytes: 4096, percent: 50.0 }]), "their sizes: one and 4096:50%"),
            (plan(|plan| plan.io_bytes = 512), "0.json and 1.json have different I/Os: bytes of one: 4096 and 512"),
            (plan(|plan| plan.pattern = "randwrite".into()), "the pattern:  and randwrite"),
            (plan(|plan| plan.timing = "sampled:16".into()), "those with a latency: all and sampled:16"),
            (changed(|run| run.plan = None), "a plan is missing"),
            (changed(|run| run.results = Results::default()), "1.json: nothing was measured"),
            (changed(|run| run.results.open_loop = Some(OpenLoopRecord::default())), "the loop: closed"),
            (
                changed(|run| run.results.merged.latency.as_mut().unwrap().distribution.ticks_per_second = 0.0),
                "1.json: a distribution is of a clock with 0 ticks a second",
            ),
            (
                changed(|run| run.results.merged.latency.as_mut().unwrap().distribution.samples = 3),
                "1.json: a distribution of 3 samples has 20 in its buckets",
            ),
            (Document::merge([]).unwrap_err(), "nothing to merge"),
        ] {
            assert!(why.contains(said), "{why}");
        }
        assert_eq!(good.runs().len(), 1);
        assert_eq!(merge(&[good.clone(), run(2e9, &[vec![7; 20]])]).unwrap().runs().len(), 2);
        let twice = merge(&[good.clone(), run(2e9, &[vec![7; 20]]), good]).unwrap_err();
        assert_eq!(twice, "0.json and 2.json are the same run, which counts once");
    }
}
