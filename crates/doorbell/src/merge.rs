//! `doorbell merge`: the results of runs that went on side by side as one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use doorbell_report::merge::{notes, table};
use doorbell_result::Document;

use crate::{
    output::{show, tell},
    perf::{Output, Sink, record},
};

/// Options of `doorbell merge`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Results of `doorbell perf --json`, or of this
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the sum as a result, with every run in it; - for standard output
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

/// Shows the sum.
///
/// # Errors
/// What cannot be read, merged or written, and why.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let json = arguments.json.as_deref().map(|path| Output::open("json", &Sink::at(path))).transpose()?;
    let runs: Result<Vec<_>, String> =
        arguments.files.iter().map(|path| Ok((path.display().to_string(), read(path)?))).collect();
    let words: Vec<_> = std::env::args_os().skip(2).collect();
    let sum = Document::merge(runs?)?;
    let begun = record::begin("doorbell merge", &words);
    let sum = Document { tool: begun.tool, command_line: begun.command_line, ..sum };
    show(&table(&sum));
    notes(&sum).lines().for_each(tell);
    json.map_or(Ok(()), |json| json.complete(&sum.to_text()))
}

/// Reads a result.
///
/// # Errors
/// The file and what is wrong with it.
pub fn read(path: &Path) -> Result<Document, String> {
    let text = fs::read_to_string(path).map_err(|why| format!("{} cannot be read: {why}", path.display()))?;
    Document::parse(&text).map_err(|why| format!("{} is no result to work with: {why}", path.display()))
}
