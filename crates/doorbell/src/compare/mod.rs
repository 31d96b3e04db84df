//! `doorbell compare` and `doorbell ab`: whether what was measured has changed.

pub mod ab;
mod words;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use doorbell_report::compare::{table, warnings};
use doorbell_result::{
    Document,
    compare::{self, Comparison, Metric, Question, Record, Runs, Verdict},
};

use crate::{
    merge::read,
    output::{show, tell},
    perf::{Output, Sink, record},
};

/// Exit status when something became worse.
const WORSE: u8 = 1;
/// When there was nothing to compare.
pub const FAULT: u8 = 2;
/// When the runs tell nothing.
const UNTOLD: u8 = 3;

/// Options of `doorbell compare`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 nothing is worse, 1 something is, 2 an error, 3 these runs cannot tell. docs/compare.md explains it."
)]
pub struct Arguments {
    /// Results of the runs before, or one of before and one of after
    #[arg(required = true, value_name = "BASE")]
    base: Vec<PathBuf>,
    /// Results of the runs after
    #[arg(last = true, value_name = "NEW")]
    new: Vec<PathBuf>,
    /// The n-th run before belongs to the n-th after, as those do that `doorbell ab --keep` leaves
    #[arg(long)]
    paired: bool,
    #[command(flatten)]
    how: How,
}

/// How to judge.
#[derive(Clone, Debug, Args)]
pub struct How {
    /// Probability that all verdicts together raise no false alarm
    #[arg(long, value_name = "PERCENT", default_value = "95%", value_parser = confidence)]
    confidence: f64,
    /// Changes up to this size are none
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = share)]
    threshold: f64,
    /// Say how many runs find a change of this size, with a probability of 90 %; it lies above the threshold
    #[arg(long, value_name = "PERCENT", default_value = "2%", value_parser = share)]
    find: f64,
    /// What to compare: the fewer, the surer each [default: all]
    #[arg(long, value_name = "iops,mean,p50,p90,p99,p99.9,cpu", value_delimiter = ',', value_parser = metric)]
    metric: Vec<Metric>,
    /// Write the comparison as JSON (docs/comparison-schema.json); - for standard output
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

impl How {
    /// # Errors
    /// The place of `--json` cannot be written.
    fn json(&self) -> Result<Option<Output>, String> {
        self.json.as_deref().map(|path| Output::open("json", &Sink::at(path))).transpose()
    }

    /// # Errors
    /// Which options do not go together.
    pub fn question(&self, paired: bool) -> Result<Question, String> {
        let How { confidence, threshold, find, metric, .. } = self.clone();
        if find <= threshold {
            return Err("--find must be above --threshold: a change that counts as none is not to be found".into());
        }
        let mut metrics = if metric.is_empty() { Metric::ALL.to_vec() } else { Vec::new() };
        metric.into_iter().for_each(|one| {
            if !metrics.contains(&one) {
                metrics.push(one);
            }
        });
        Ok(Question { confidence, threshold, find, paired, metrics })
    }
}

fn number(text: &str) -> Result<f64, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let wrong = || format!("\"{text}\" is no percentage, like 2% or 0.5");
    digits.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(wrong)
}

fn share(text: &str) -> Result<f64, String> {
    let percent = number(text)?;
    if (0.0..=1000.0).contains(&percent) { Ok(percent / 100.0) } else { Err("it is 0% to 1000%".into()) }
}

fn confidence(text: &str) -> Result<f64, String> {
    let percent = number(text)?;
    if (50.0..=99.9999).contains(&percent) { Ok(percent / 100.0) } else { Err("it is 50% to 99.9999%".into()) }
}

fn metric(text: &str) -> Result<Metric, String> {
    let named = |metric: &Metric| metric.name() == text;
    Metric::ALL.into_iter().find(named).ok_or_else(|| {
        let names = Metric::ALL.map(Metric::name).join(", ");
        format!("there are {names}")
    })
}

/// Compares the results in files, and says with which status to exit.
pub fn run(arguments: &Arguments) -> ExitCode {
    conclude(of_files(arguments))
}

fn of_files(arguments: &Arguments) -> Result<Comparison, String> {
    let (base, new) = match arguments.base.as_slice() {
        [base, new] if arguments.new.is_empty() => (std::slice::from_ref(base), std::slice::from_ref(new)),
        _ if arguments.new.is_empty() => {
            return Err("give two results, or those of each side with -- between them".to_owned());
        }
        base => (base, arguments.new.as_slice()),
    };
    let question = arguments.how.question(arguments.paired)?;
    let json = arguments.how.json()?;
    let side = |files: &[PathBuf]| -> Result<Vec<(String, Document)>, String> {
        let mut runs: Vec<(String, Document)> = Vec::new();
        for path in files {
            let (file, run) = (path.display().to_string(), read(path)?);
            if let Some((twin, _)) = runs.iter().find(|(_, other)| *other == run) {
                return Err(format!("{twin} and {file} are the same run, which tells nothing of how runs differ"));
            }
            runs.push((file, run));
        }
        Ok(runs)
    };
    judge("doorbell compare", [&side(base)?, &side(new)?], &question, json)
}

/// Compares, and shows it.
fn judge(program: &str, sides: [Runs<'_>; 2], question: &Question, json: Option<Output>) -> Result<Comparison, String> {
    let comparison = compare::compare(sides[0], sides[1], question)?;
    show(&table(&comparison, question));
    warnings(&comparison).lines().for_each(tell);
    if let Some(json) = json {
        let words: Vec<_> = std::env::args_os().skip(2).collect();
        let begun = record::begin(program, &words);
        let record = Record::new(&comparison, question, sides, begun.tool, status(&comparison));
        json.complete(&Record { command_line: begun.command_line, ..record }.to_text())?;
    }
    Ok(comparison)
}

fn status(comparison: &Comparison) -> u8 {
    match comparison {
        _ if comparison.has(Verdict::Worse) => WORSE,
        _ if comparison.tells() => 0,
        _ => UNTOLD,
    }
}

fn conclude(comparison: Result<Comparison, String>) -> ExitCode {
    let status = comparison.as_ref().map_or(FAULT, status);
    match comparison {
        Err(why) => tell(format_args!("doorbell: {why}")),
        Ok(_) if status == UNTOLD => tell("doorbell: these runs cannot tell"),
        Ok(_) => {}
    }
    ExitCode::from(status)
}
