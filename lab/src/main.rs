//! What the lab's scenarios need and a shell cannot do.

mod copy;
mod memory_space;
mod rdma;

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    process::ExitCode,
};

use copy::{Direction, copy, look_at};
use doorbell_host::TransportId;

const USAGE: &str = "\
usage: doorbell-lab read TRANSPORT-ID BYTES     a namespace's first bytes to standard output, by doorbell's driver
       doorbell-lab write TRANSPORT-ID          standard input to a namespace
       doorbell-lab look TRANSPORT-ID BYTES     as read, by the queue that perf looks with before it writes
       doorbell-lab memory-space-off PID        the memory of a device away from the process that drives it through VFIO
       doorbell-lab rdma-serve ADDRESS:PORT [shared|sleep]…     one end of the RDMA link by itself: from a shared receive queue,
                                                sleeping on a completion channel
       doorbell-lab rdma-ask ADDRESS:PORT ROUNDS [sleep]        the other
       doorbell-lab rdma-peer ADDRESS:PORT MISDEED              an NVMe/RDMA target that does wrong: refuse=CODE, babble, silent, mute,
                                                stingy, invalidate, invent";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["read", id, bytes] => read(id, bytes),
        ["write", id] => write(id),
        ["look", id, bytes] => look(id, bytes),
        ["memory-space-off", process] => memory_space::off(process),
        ["rdma-serve", at, ref how @ ..] => rdma_serve(at, how),
        ["rdma-ask", to, rounds, ref how @ ..] => rdma_ask(to, rounds, how),
        ["rdma-peer", at, misdeed] => rdma_peer(at, misdeed),
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

fn look(id: &str, bytes: &str) -> Result<(), String> {
    let data = look_at(&transport(id)?, bytes.parse().map_err(|why| format!("{bytes}: {why}"))?)?;
    io::stdout().write_all(&data).map_err(|why| format!("standard output: {why}"))
}

fn rdma_serve(at: &str, how: &[&str]) -> Result<(), String> {
    rdma::serve(address(at)?, how.contains(&"shared"), how.contains(&"sleep")).map_err(|why| why.to_string())
}

fn rdma_ask(to: &str, rounds: &str, how: &[&str]) -> Result<(), String> {
    let rounds = rounds.parse().map_err(|why| format!("{rounds}: {why}"))?;
    rdma::ask(address(to)?, rounds, how.contains(&"sleep")).map_err(|why| why.to_string())
}

fn rdma_peer(at: &str, misdeed: &str) -> Result<(), String> {
    rdma::misbehave(misdeed.parse()?, address(at)?).map_err(|why| why.to_string())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|why| format!("{text}: {why}"))
}

fn write(id: &str) -> Result<(), String> {
    let mut data = Vec::new();
    io::stdin().read_to_end(&mut data).map_err(|why| format!("standard input: {why}"))?;
    copy(&transport(id)?, Direction::Write(&data))
}
