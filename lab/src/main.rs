//! What the lab's scenarios need and a shell cannot do.

mod copy;
mod memory_space;

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use copy::{Direction, copy};
use doorbell_host::TransportId;

const USAGE: &str = "\
usage: doorbell-lab read TRANSPORT-ID BYTES     a namespace's first bytes to standard output, by doorbell's driver
       doorbell-lab write TRANSPORT-ID          standard input to a namespace
       doorbell-lab memory-space-off PID        the memory of a device away from the process that drives it through VFIO";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", id, bytes] => read(id, bytes),
        ["write", id] => write(id),
        ["memory-space-off", process] => memory_space::off(process),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("doorbell-lab: {why}");
            ExitCode::FAILURE
        }
    }
}

fn transport(id: &str) -> Result<TransportId, String> {
    id.parse().map_err(|why| format!("{id}: {why}"))
}

fn read(id: &str, bytes: &str) -> Result<(), String> {
    let mut data = vec![0; bytes.parse().map_err(|why| format!("{bytes}: {why}"))?];
    copy(&transport(id)?, Direction::Read(&mut data))?;
    io::stdout().write_all(&data).map_err(|why| format!("standard output: {why}"))
}

fn write(id: &str) -> Result<(), String> {
    let mut data = Vec::new();
    io::stdin().read_to_end(&mut data).map_err(|why| format!("standard input: {why}"))?;
    copy(&transport(id)?, Direction::Write(&data))
}
