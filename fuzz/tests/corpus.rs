//! The bodies over the checked-in corpus, and over some thousands of inputs made of it, the same ones every time.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
};

use doorbell_fuzz::{BODIES, Body, seeds, vfio_user, vfio_user_messages};
use rand_xoshiro::{
    SplitMix64,
    rand_core::{Rng, SeedableRng},
};

/// Inputs made for each body.
const MUTANTS: usize = 3000;
/// Inputs at least in the corpus of each body.
const LEAST: usize = 4;

/// The corpus of a body, by the names of the files.
fn corpus(body: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(body);
    let files = fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut inputs: Vec<_> = files
        .map(|file| file.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// Runs a body; when that fails, shows with what.
fn try_on(body: Body, what: &str, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(input))) {
        let bytes: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{what}, {} bytes: {bytes}", input.len());
        resume_unwind(panic);
    }
}

/// Changes an input in a few places: bits, numbers that matter, pieces moved, left out, or taken from another.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut SplitMix64) {
    const NUMBERS: [u8; 8] = [0, 1, 4, 0x18, 0x48, 0x7f, 0x80, 0xff];
    for _ in 0..=random.next_u64() % 4 {
        let mut below = |most: usize| (random.next_u64() % most.max(1) as u64) as usize;
        let len = input.len();
        let (at, piece) = (below(len), below(64));
        let end = (at + piece).min(len);
        match below(6) {
            _ if len == 0 => input.extend(&other[..piece.min(other.len())]),
            0 => input[at] ^= 1 << below(8),
            1 => input[at] = NUMBERS[below(NUMBERS.len())],
            2 => drop(input.drain(at..end)),
            3 => input.extend_from_within(at..end),
            4 => input.truncate(at),
            _ => {
                let from = below(other.len());
                let taken = &other[from..(from + piece).min(other.len())];
                input.splice(at..end, taken.iter().copied());
            }
        }
    }
}

/// One body over its corpus and what is made of it.
fn sweep(name: &str) {
    let (_, body) = BODIES.into_iter().find(|(each, _)| *each == name).unwrap();
    let inputs = corpus(name);
    assert!(inputs.len() >= LEAST, "{} inputs", inputs.len());
    try_on(body, "nothing", &[]);
    for (file, input) in &inputs {
        try_on(body, file, input);
    }
    let mut random = SplitMix64::seed_from_u64(7);
    for at in 0..MUTANTS {
        let mut input = inputs[at % inputs.len()].1.clone();
        let other = &inputs[(random.next_u64() % inputs.len() as u64) as usize].1;
        mutate(&mut input, other, &mut random);
        try_on(body, &format!("mutant {at}"), &input);
    }
}

macro_rules! sweeps {
    ($($test:ident => $body:literal),* $(,)?) => {
        $(#[test] fn $test() { sweep($body); })*

        #[test]
        fn no_body_is_left_out() {
            let swept = [$($body),*];
            assert!(BODIES.iter().all(|(name, _)| swept.contains(name)) && swept.len() == BODIES.len());
        }
    };
}

sweeps! {
    any_stream_of_pdus_to_a_host_is_read_as_it_is => "stream_to_host",
    any_stream_of_pdus_to_a_controller_is_read_as_it_is => "stream_to_controller",
    a_target_survives_any_bytes_and_frees_its_memory => "controller",
    any_connect_is_answered_once => "connect",
    a_host_queue_survives_any_bytes_and_keeps_its_memory => "host_queue",
    any_identify_data_is_read_safely => "identify",
    any_log_page_is_read_safely => "log_pages",
    the_ends_of_any_device_are_looked_at_safely => "signatures",
    any_discovery_log_is_read_safely => "discovery_log",
    any_transport_id_is_read_or_refused => "transport_id",
    any_command_line_is_read_or_refused => "options",
    a_vfio_user_device_answers_any_bytes_as_it_must => "vfio_user_server",
    a_vfio_user_client_survives_any_bytes => "vfio_user_client",
    a_target_survives_a_host_that_answers_as_it_likes => "vfio_user_messages",
}

#[test]
fn the_seeds_are_in_the_corpus() {
    for (body, name, bytes) in seeds::all() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(body).join(format!("seed-{name}"));
        let there = fs::read(&path).unwrap_or_default();
        assert_eq!(there, bytes, "{} is not what cargo run -p doorbell-fuzz writes", path.display());
    }
}

/// Else the corpus would begin where everything is refused.
#[test]
fn honest_seeds_get_through() {
    for (body, name, bytes) in seeds::all() {
        let commands = match (body, name.split('-').next()) {
            ("host_queue", Some("reads" | "writes")) => {
                assert!(seeds::is_taken_by_host(&bytes), "{name}");
                continue;
            }
            ("vfio_user_server", Some("conversation")) => {
                assert_eq!(vfio_user::serve(&bytes), 11, "{name}");
                continue;
            }
            ("vfio_user_client", Some("conversation" | "stream")) => {
                assert_eq!(vfio_user::ask(&bytes), 10, "{name}");
                continue;
            }
            ("vfio_user_messages", Some("conversation")) => {
                assert_eq!(vfio_user_messages::converse(&bytes), 15, "{name}");
                continue;
            }
            ("controller", Some("admin")) => 10,
            ("controller", Some("io")) => 8,
            ("controller", Some("requested")) => 2,
            _ => continue,
        };
        assert!(seeds::successes(&bytes) >= commands, "{name}: {} commands succeed", seeds::successes(&bytes));
    }
}
