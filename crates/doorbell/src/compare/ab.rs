//! `doorbell ab`: two command lines of `perf` by turns, ABBA, and whether they differ.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Args;
use doorbell_result::{Document, compare::Comparison};
use rustix::process::{Pid, Signal, kill_process};

use super::{How, conclude, judge, words};
use crate::{merge::read, output::tell, scratch::Folder, signals};

/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of a failed run that are shown.
const LAST_WORDS: usize = 5;

/// Options of `doorbell ab`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 B is not worse, 1 it is, 2 an error, 3 these runs cannot tell. docs/compare.md explains it."
)]
pub struct Arguments {
    /// Pairs of runs, in the order AB BA AB BA …: an even number is fair to both when the machine drifts
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pairs: u32,
    /// Length of each run, in place of -t in both
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Keep the result and the output of every run in this folder, which is made
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    #[command(flatten)]
    how: How,
    /// Options of `doorbell perf` in one string, split as a shell would; another program may stand before them
    #[arg(last = true, num_args = 2, required = true, value_names = ["A", "B"])]
    sides: Vec<String>,
}

/// Runs both by turns and compares them.
pub fn run(arguments: &Arguments) -> ExitCode {
    conclude(measure(arguments))
}

fn measure(arguments: &Arguments) -> Result<Comparison, String> {
    let question = arguments.how.question(true)?;
    let json = arguments.how.json()?;
    let sides = [side(&arguments.sides[0], arguments.seconds)?, side(&arguments.sides[1], arguments.seconds)?];
    let scratch;
    let folder = match &arguments.keep {
        Some(folder) => {
            fs::create_dir_all(folder).map_err(|why| format!("--keep: {} cannot be made: {why}", folder.display()))?;
            folder.as_path()
        }
        None => {
            scratch = Folder::new()?;
            scratch.path()
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    signals::on_signal(move || stopped.store(true, Ordering::Relaxed))
        .map_err(|why| format!("handling signals: {why}"))?;

    let mut results: [Vec<(String, Document)>; 2] = Default::default();
    'runs: for pair in 0..arguments.pairs {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for (place, which) in order.into_iter().enumerate() {
            let name = format!("{:03}-{}", pair + 1, ["a", "b"][which]);
            let Some(result) = one(&sides[which], &folder.join(&name), &stop)? else { break 'runs };
            let merged = &result.results.merged;
            let number = 2 * pair as usize + place + 1;
            let side = ["A", "B"][which];
            tell(format_args!("Run {number} of {}: {side}: {:.0} IOPS", 2 * arguments.pairs, merged.iops));
            results[which].push((name, result));
        }
    }
    let pairs = results[0].len().min(results[1].len());
    if stop.load(Ordering::Relaxed) {
        tell(format_args!("Stopped: {pairs} whole pairs of {} are compared", arguments.pairs));
    }
    results.iter_mut().for_each(|side| side.truncate(pairs));
    if pairs < 2 {
        return Err(format!("{pairs} whole pairs tell nothing: at least 2 are needed"));
    }
    judge("doorbell ab", [&results[0], &results[1]], &question, json)
}

/// The program of a side, and its words.
fn side(text: &str, seconds: Option<u32>) -> Result<Vec<String>, String> {
    let mut words = words::split(text)?;
    if words.iter().any(|word| word == "--json" || word.starts_with("--json=")) {
        return Err(format!("\"{text}\": --json is what is compared; --keep DIR keeps it"));
    }
    let own = || -> Result<String, String> {
        let own = std::env::current_exe().map_err(|why| format!("where this program is: {why}"))?;
        own.into_os_string().into_string().map_err(|path| format!("{} is no text", path.display()))
    };
    let is_option = |word: Option<&String>| word.is_none_or(|word| word.starts_with('-'));
    match words.first() {
        Some(word) if word == "perf" => words.insert(0, own()?),
        first if is_option(first) => {
            words.insert(0, "perf".into());
            words.insert(0, own()?);
        }
        Some(program) if !Path::new(program).ends_with("spdk_nvme_perf") && is_option(words.get(1)) => {
            words.insert(1, "perf".into());
        }
        _ => {}
    }
    if let Some(seconds) = seconds {
        words.extend(["-t".into(), seconds.to_string()]);
    }
    Ok(words)
}

/// One run, with what it says and its result in files that begin with `path`; nothing when it was stopped.
///
/// # Errors
/// How the run failed, and its last words.
fn one(words: &[String], path: &Path, stop: &AtomicBool) -> Result<Option<Document>, String> {
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let (json, said) = (path.with_extension("json"), path.with_extension("txt"));
    let log = File::create(&said).map_err(|why| format!("{} cannot be written: {why}", said.display()))?;
    let also = log.try_clone().map_err(|why| format!("{}: {why}", said.display()))?;
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("--json").arg(&json).stdin(Stdio::null()).stdout(log).stderr(also);
    // Ctrl-C reaches it through this program, once.
    let mut child = command.process_group(0).spawn().map_err(|why| format!("{} cannot be started: {why}", words[0]))?;
    let (mut told, mut status) = (false, None);
    while status.is_none() {
        if !std::mem::replace(&mut told, stop.load(Ordering::Relaxed)) && told {
            interrupt(&child);
        }
        status = child.try_wait().map_err(|why| format!("waiting for {}: {why}", words[0]))?;
        if status.is_none() {
            thread::sleep(LOOK);
        }
    }
    match status {
        _ if stop.load(Ordering::Relaxed) => Ok(None),
        Some(status) if !status.success() => {
            // A result says why; what is none has only its last words.
            let why = read(&json).map(|result| result.exit.errors).unwrap_or_default();
            let text = fs::read(&said).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines[lines.len().saturating_sub(LAST_WORDS)..].iter().map(|line| (*line).to_owned()).collect();
            let said = if why.is_empty() { last } else { why };
            Err(format!("{} ended with {status}:\n  {}", words.join(" "), said.join("\n  ")))
        }
        _ => read(&json).map(Some),
    }
}

fn interrupt(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // What has ended meanwhile needs none.
        let _ = kill_process(pid, Signal::INT);
    }
}

#[cfg(test)]
mod tests {
    use super::side;

    #[test]
    fn a_side_is_a_command_line_of_perf() {
        let own = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
        for (text, words) in [
            ("-q 4", vec![own.as_str(), "perf", "-q", "4"]),
            ("perf -q 4", vec![&own, "perf", "-q", "4"]),
            ("/old/doorbell -q 4", vec!["/old/doorbell", "perf", "-q", "4"]),
            ("'/o ld/doorbell' perf -q 4", vec!["/o ld/doorbell", "perf", "-q", "4"]),
            ("/old/spdk_nvme_perf -q 4", vec!["/old/spdk_nvme_perf", "-q", "4"]),
        ] {
            assert_eq!(side(text, None).unwrap(), words, "{text}");
        }
        assert!(side("-q 4", Some(9)).unwrap().ends_with(&["-t".to_owned(), "9".to_owned()]));
        for (text, said) in [("-q 4 --json x", "--keep"), ("-q 4 --json=x", "--keep"), ("-q '4", "not closed")] {
            assert!(side(text, None).unwrap_err().contains(said), "{text}");
        }
    }
}
