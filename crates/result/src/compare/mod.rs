//! Whether what was measured has changed: what `doorbell compare` and `doorbell ab` say. docs/compare.md explains it.

mod alike;
mod estimate;
mod metric;
mod record;
mod student;

pub use estimate::{Estimate, MOST_RUNS};
pub use metric::Metric;
pub use record::{COMPARISON_VERSION, MetricRecord, Record};

use crate::Document;
use estimate::Course;

/// How to compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The probability of no false alarm in any of the metrics while nothing has changed, between 0 and 1.
    pub confidence: f64,
    /// A change by this share or less is none.
    pub threshold: f64,
    /// The change, above the threshold, for which the number of runs is told that finds it with a probability of 90 %.
    pub find: f64,
    /// The n-th run of one side belongs to the n-th of the other.
    pub paired: bool,
    /// What is compared, each once.
    pub metrics: Vec<Metric>,
}

impl Default for Question {
    fn default() -> Self {
        Self { confidence: 0.95, threshold: 0.0, find: 0.02, paired: false, metrics: Metric::ALL.to_vec() }
    }
}

impl Question {
    /// The level at which verdicts are made: below the one that is stated, so that of a thousand comparisons no more than stated raise a
    /// false alarm though their number varies by chance, with four standard deviations of room. Never less than a quarter, as a thousand
    /// say nothing of what is rarer.
    fn level(&self) -> f64 {
        // √p from p + 4 √(p / 1000) = stated.
        let (stated, half) = (1.0 - self.confidence, 2.0 / 1000f64.sqrt());
        ((half * half + stated).sqrt() - half).powi(2).max(stated / 4.0)
    }
}

/// What the interval rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// So many pairs of runs.
    Pairs(usize),
    /// So many runs of each side.
    Sides(usize, usize),
    /// The courses of two runs.
    Courses,
}

/// How a metric came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Beyond the threshold for the better.
    Better,
    /// Beyond the threshold for the worse.
    Worse,
    /// Not beyond the threshold, as far as these runs tell.
    NoDifference,
    /// Within the threshold for sure.
    Same,
}

/// What is known of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// How it came out.
    pub verdict: Verdict,
    /// The change as a share of the base: 0.02 for 2 % more.
    pub change: f64,
    /// The interval of it, by which the verdict was made.
    pub interval: (f64, f64),
}

/// A metric of both sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Which.
    pub metric: Metric,
    /// The geometric means over the runs of base and new, where they have it.
    pub figures: Option<(f64, f64)>,
    /// What is known, or why nothing is.
    pub told: Result<Told, String>,
    /// Runs a side, or pairs, that find the change asked for; `None` above [`MOST_RUNS`], or where these do not tell.
    pub runs: Option<u32>,
}

/// All of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What it rests on.
    pub basis: Basis,
    /// Latencies are response times, from the planned arrival on.
    pub response: bool,
    /// The metrics.
    pub outcomes: Vec<Outcome>,
    /// What differs between the runs besides their figures.
    pub differences: Vec<String>,
    /// What is to be said against runs.
    pub doubts: Vec<String>,
}

impl Comparison {
    /// Whether this came out for a metric.
    pub fn has(&self, verdict: Verdict) -> bool {
        self.outcomes.iter().any(|one| one.told.as_ref().is_ok_and(|told| told.verdict == verdict))
    }

    /// Whether anything could be told.
    pub fn tells(&self) -> bool {
        self.outcomes.iter().any(|one| one.told.is_ok())
    }
}

/// Runs with where they come from.
pub type Runs<'a> = &'a [(String, Document)];

/// Compares runs.
///
/// # Errors
/// Why there is nothing to compare.
pub fn compare(base: Runs<'_>, new: Runs<'_>, question: &Question) -> Result<Comparison, String> {
    let basis = match (base.len(), new.len()) {
        (0, _) | (_, 0) => return Err("each side needs a run".into()),
        (n, m) if question.paired && n != m => {
            return Err(format!("pairs need as many runs of one side as of the other, not {n} and {m}"));
        }
        (n @ 2.., _) if question.paired => Basis::Pairs(n),
        (1, 1) => Basis::Courses,
        (n, m) => Basis::Sides(n, m),
    };
    for (file, run) in base.iter().chain(new) {
        if run.results.merged.ios == 0 {
            return Err(format!("{file}: nothing was measured: {}", run.exit.errors.join("; ")));
        }
        let latency =
            run.results.merged.latency.iter().chain(run.results.open_loop.iter().flat_map(|open| &open.response));
        let slices =
            run.series.iter().flat_map(|series| &series.slices).filter_map(|slice| slice.distribution.as_ref());
        for one in latency.map(|latency| &latency.distribution).chain(slices.filter(|one| one.samples > 0)) {
            one.check().map_err(|why| format!("{file}: {why}"))?;
        }
    }
    let response = base.iter().chain(new).all(|(_, run)| run.results.open_loop.is_some());
    let estimates: Vec<_> =
        question.metrics.iter().map(|&metric| estimate(metric, base, new, basis, response)).collect();
    let changes: Vec<_> = estimates.iter().map(|(_, one)| one.clone()).collect();
    let told = decide(&changes, question);
    let level = question.level() / changes.iter().flatten().count().max(1) as f64;
    let excess = question.find.ln_1p() - question.threshold.ln_1p();
    let runs = changes.iter().map(|one| one.as_ref().ok()?.runs_for(excess, level));
    let outcomes = question.metrics.iter().zip(estimates).zip(told).zip(runs).map(
        |(((&metric, (figures, _)), mut told), runs)| {
            // Deciding knows changes only, for which more is better.
            if let Ok(told) = &mut told
                && !metric.more_is_better()
            {
                told.verdict = match told.verdict {
                    Verdict::Better => Verdict::Worse,
                    Verdict::Worse => Verdict::Better,
                    other => other,
                };
            }
            Outcome { metric, figures, told, runs }
        },
    );
    let sides = [base, new].map(|side| side.iter().map(|(_, run)| run).collect::<Vec<_>>());
    Ok(Comparison {
        basis,
        response,
        outcomes: outcomes.collect(),
        differences: alike::differences(&sides[0], &sides[1]),
        doubts: base.iter().chain(new).flat_map(|(file, run)| alike::doubts(file, run)).collect(),
    })
}

/// The change of a metric, and the means of both sides.
fn estimate(
    metric: Metric,
    base: Runs<'_>,
    new: Runs<'_>,
    basis: Basis,
    response: bool,
) -> (Option<(f64, f64)>, Result<Estimate, String>) {
    let figures = |side: Runs<'_>| {
        side.iter().map(|(file, run)| metric.of(run, response).ok_or(file.clone())).collect::<Result<Vec<_>, _>>()
    };
    let (one, other) = match (figures(base), figures(new)) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(file), _) | (_, Err(file)) => {
            return (None, Err(format!("{file} does not have it, or too few samples of it")));
        }
    };
    let [logs, new_logs] = [&one, &other].map(|side| side.iter().map(|figure| figure.0.ln()).collect::<Vec<_>>());
    let mean = |logs: &[f64]| (logs.iter().sum::<f64>() / logs.len() as f64).exp();
    let estimate = match basis {
        Basis::Pairs(_) => Estimate::of_pairs(&logs.iter().copied().zip(new_logs.iter().copied()).collect::<Vec<_>>()),
        Basis::Sides(..) => Estimate::of_sides(&logs, &new_logs),
        Basis::Courses => {
            let of = |(file, run): &(String, Document), whole: f64| {
                course(metric, run, response, whole).map_err(|why| format!("{file}: {why}"))
            };
            of(&base[0], one[0].0).and_then(|one| Ok(Estimate::of_courses(one, of(&new[0], other[0].0)?)))
        }
    };
    let wrong = |side: &[metric::Figure]| side.iter().map(|figure| figure.1).fold(0.0, f64::max);
    let estimate = estimate.map(|estimate| Estimate { resolution: wrong(&one) + wrong(&other), ..estimate });
    (Some((mean(&logs), mean(&new_logs))), estimate)
}

/// What the time series of a single run says of a figure.
fn course(metric: Metric, run: &Document, response: bool, whole: f64) -> Result<Course, String> {
    let slices = run.series.as_ref().map(|series| series.slices.as_slice()).unwrap_or_default();
    if slices.is_empty() {
        return Err("one run without a time series (--interval) cannot tell".into());
    }
    if metric == Metric::Cpu || (response && metric != Metric::Iops) {
        return Err("the slices of a run do not have it, so one run cannot tell".into());
    }
    let each: Option<Vec<f64>> = (0..slices.len()).map(|at| metric.of_slices(slices, at..at + 1)).collect();
    let each = each.ok_or("a slice has too few I/Os: longer ones (--interval) would tell")?;
    Course::of(whole, &each, |range| metric.of_slices(slices, range))
}

/// The verdicts, as if more were better. The alarms of all hold together (Holm): the clearest change is held against a level that many
/// times as strict as there are metrics, the next against one less, and so on until one does not hold.
pub fn decide(estimates: &[Result<Estimate, String>], question: &Question) -> Vec<Result<Told, String>> {
    let level = question.level();
    let threshold = question.threshold.ln_1p();
    let p = |at: usize| estimates[at].as_ref().ok().map(|one| one.p(threshold));
    let mut order: Vec<usize> = (0..estimates.len()).filter(|&at| p(at).is_some()).collect();
    order.sort_by(|&one, &other| p(one).partial_cmp(&p(other)).unwrap_or(std::cmp::Ordering::Equal));
    let family = order.len() as f64;
    let mut told = vec![None; estimates.len()];
    let (mut holds, mut strictness) = (true, family);
    for at in order {
        let Ok(estimate) = &estimates[at] else { continue };
        let strict = level / strictness;
        holds &= p(at).is_some_and(|p| p <= strict);
        let (low, high) = estimate.interval(strict);
        let verdict = match holds {
            true if estimate.change > 0.0 => Verdict::Better,
            true => Verdict::Worse,
            false if threshold > 0.0 && low > -threshold && high < threshold => Verdict::Same,
            false => Verdict::NoDifference,
        };
        told[at] = Some(Told { verdict, change: estimate.change.exp_m1(), interval: (low.exp_m1(), high.exp_m1()) });
        if holds {
            strictness -= 1.0;
        }
    }
    // Every estimate has been decided on by now.
    let whole = |(estimate, told): (&Result<Estimate, String>, Option<Told>)| match (estimate, told) {
        (Err(why), _) => Err(why.clone()),
        (_, told) => told.ok_or_else(String::new),
    };
    estimates.iter().zip(told).map(whole).collect()
}

#[cfg(test)]
mod tests;
