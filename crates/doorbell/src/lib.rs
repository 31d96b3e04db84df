//! `doorbell`: measures NVMe storage, and is an NVMe target to measure. One file a subcommand; this one only chooses among them.

mod compare;
mod connection;
mod core_mask;
mod discover;
mod identify;
mod merge;
mod metadata;
mod output;
pub mod perf;
mod scratch;
mod setup;
mod signals;
mod size;
mod target;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::{Parser, Subcommand};

/// Measures NVMe storage: a user-space NVMe host, a load generator and a target in one.
#[derive(Debug, Parser)]
#[command(name = "doorbell", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure IOPS, bandwidth and latency: takes any `spdk_nvme_perf` command line
    #[command(disable_help_flag = true)]
    Perf {
        /// Options of `doorbell perf`; `doorbell perf --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Say whether results differ by more than chance
    Compare(compare::Arguments),
    /// Run two command lines of `perf` by turns and compare them
    Ab(compare::ab::Arguments),
    /// Make one result of those of runs that went on side by side
    Merge(merge::Arguments),
    /// Be an NVMe subsystem in memory or on a file
    Target(target::Arguments),
    /// List the subsystems that a discovery controller knows
    Discover(discover::Arguments),
    /// Show what a controller and its namespaces say of themselves
    Identify(identify::Arguments),
    /// See what keeps NVMe devices from being driven, and move them between the kernel's driver and Doorbell
    Setup(setup::Arguments),
}

/// Runs the program with the arguments of this process and says with which status to exit.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| "doorbell".into());
    let name = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
    let first = std::env::args_os().nth(1);
    // `perf` has a grammar of its own, in which even `--help` and `--` are its business.
    if name == "spdk_nvme_perf" {
        return perf::main(&name, arguments);
    }
    if first.is_some_and(|first| first == "perf") {
        return perf::main("doorbell perf", arguments.skip(1));
    }
    let outcome = match Cli::parse().command {
        Command::Perf { arguments } => return perf::main("doorbell perf", arguments),
        Command::Compare(arguments) => return compare::run(&arguments),
        Command::Ab(arguments) => return compare::ab::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
        Command::Target(arguments) => target::run(&arguments),
        Command::Discover(arguments) => discover::run(&arguments),
        Command::Identify(arguments) => identify::run(&arguments),
        Command::Setup(arguments) => setup::run(&arguments),
    };
    match outcome.and_then(|()| output::lost().map_or(Ok(()), Err)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            output::tell(format_args!("doorbell: {why}"));
            ExitCode::FAILURE
        }
    }
}
