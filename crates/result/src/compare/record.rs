//! A comparison as JSON. docs/comparison-schema.json is its grammar.

use serde::Serialize;

use super::{Basis, Comparison, Question, Runs, Verdict};
use crate::document::Tool;

/// The version of the format. It changes with every change of the grammar.
pub const COMPARISON_VERSION: u32 = 1;

/// What `--json` of `doorbell compare` and `doorbell ab` writes. Shares are in percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// [`COMPARISON_VERSION`].
    pub comparison_version: u32,
    /// What compared.
    pub tool: Tool,
    /// The program and its arguments, each as it was given.
    pub command_line: Vec<String>,
    /// That of the program.
    pub exit_status: u8,
    /// The probability that all verdicts together raise no false alarm.
    pub confidence_percent: f64,
    /// Changes up to this size are none.
    pub threshold_percent: f64,
    /// The change for which `runs_to_find` is told.
    pub find_percent: f64,
    /// `pairs`, `sides` or `courses`.
    pub basis: &'static str,
    /// Where the runs before come from.
    pub base: Vec<String>,
    /// Where the runs after come from.
    pub new: Vec<String>,
    /// Latencies are response times, from the planned arrival on.
    pub response_times: bool,
    /// What was compared.
    pub metrics: Vec<MetricRecord>,
    /// What differs between the runs besides their figures.
    pub differences: Vec<String>,
    /// What is to be said against runs.
    pub doubts: Vec<String>,
}

/// A metric of both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricRecord {
    /// Its name, as `--metric` has it.
    pub metric: &'static str,
    /// `IOPS` or `us`.
    pub unit: &'static str,
    /// The geometric mean over the runs before.
    pub base: Option<f64>,
    /// The geometric mean over the runs after.
    pub new: Option<f64>,
    /// `better`, `worse`, `same`, `no_difference` or `not_told`.
    pub verdict: &'static str,
    /// The change from base to new.
    pub change_percent: Option<f64>,
    /// The interval by which the verdict was made; a bound that no number is as large as is written as null.
    pub interval_percent: Option<[f64; 2]>,
    /// Runs a side, or pairs, that find the change asked for; `None` above 1000, or where these do not tell.
    pub runs_to_find: Option<u32>,
    /// Why nothing is told.
    pub why: Option<String>,
}

impl Record {
    /// That of a comparison of these runs, which ended the program with this status.
    pub fn new(
        comparison: &Comparison,
        question: &Question,
        sides: [Runs<'_>; 2],
        tool: Tool,
        exit_status: u8,
    ) -> Self {
        let [base, new] = sides.map(|side| side.iter().map(|(file, _)| file.clone()).collect());
        let metrics = comparison.outcomes.iter().map(|outcome| {
            let told = outcome.told.as_ref();
            MetricRecord {
                metric: outcome.metric.name(),
                unit: outcome.metric.unit(),
                base: outcome.figures.map(|figures| figures.0),
                new: outcome.figures.map(|figures| figures.1),
                verdict: told.map_or("not_told", |told| match told.verdict {
                    Verdict::Better => "better",
                    Verdict::Worse => "worse",
                    Verdict::Same => "same",
                    Verdict::NoDifference => "no_difference",
                }),
                change_percent: told.ok().map(|told| 100.0 * told.change),
                interval_percent: told.ok().map(|told| [100.0 * told.interval.0, 100.0 * told.interval.1]),
                runs_to_find: outcome.runs,
                why: told.err().cloned(),
            }
        });
        Self {
            comparison_version: COMPARISON_VERSION,
            tool,
            command_line: Vec::new(),
            exit_status,
            confidence_percent: 100.0 * question.confidence,
            threshold_percent: 100.0 * question.threshold,
            find_percent: 100.0 * question.find,
            basis: match comparison.basis {
                Basis::Pairs(_) => "pairs",
                Basis::Sides(..) => "sides",
                Basis::Courses => "courses",
            },
            base,
            new,
            response_times: comparison.response,
            metrics: metrics.collect(),
            differences: comparison.differences.clone(),
            doubts: comparison.doubts.clone(),
        }
    }

    /// The text, with a final line feed.
    pub fn to_text(&self) -> String {
        // Strings and numbers always can be written.
        serde_json::to_string(self).expect("a record is plain data") + "\n"
    }
}
