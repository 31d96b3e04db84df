//! The body that DOORBELL_FUZZ names, for libFuzzer.
#![no_main]

use std::sync::OnceLock;

use doorbell_fuzz::{BODIES, Body};
use libfuzzer_sys::fuzz_target;

static CHOSEN: OnceLock<Body> = OnceLock::new();

fn chosen() -> Body {
    let name = std::env::var("DOORBELL_FUZZ").unwrap_or_default();
    match BODIES.into_iter().find(|(known, _)| *known == name) {
        Some((_, body)) => body,
        None => panic!("DOORBELL_FUZZ={name} is none of {:?}", BODIES.map(|(known, _)| known)),
    }
}

fuzz_target!(|data: &[u8]| CHOSEN.get_or_init(chosen)(data));
