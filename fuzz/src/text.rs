//! What a user writes: transport IDs and the command line of `perf`.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use doorbell::perf::options::{Parsed, parse};
use doorbell_host::TransportId;

/// A transport ID that is understood reads back as it shows itself.
pub fn transport_id(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<TransportId>() {
        Ok(id) => {
            let shown = id.to_string();
            assert_eq!(shown.parse(), Ok(id.clone()), "{shown}");
            assert!(id.is_same_controller(&id, "nqn.2014-08.org.example:host"));
        }
        Err(why) => assert!(why.to_string().len() > text.len(), "an error that says nothing"),
    }
}

/// A command line, one argument a line. What is understood can be run: the numbers that the load divides by and allocates for are
/// in their ranges.
pub fn options(data: &[u8]) {
    let arguments: Vec<OsString> = match data {
        [] => Vec::new(),
        data => data.split(|&byte| byte == b'\n').map(|line| OsStr::from_bytes(line).into()).collect(),
    };
    match parse(arguments) {
        Ok(Parsed::Run(options)) => {
            assert!(options.io_depth > 0 && options.io_size > 0 && options.time_s > 0 && options.qpairs > 0);
            assert!(options.pattern.read_percent <= 100);
            assert!(options.io_unit.is_none_or(|unit| unit > 0 && unit.is_multiple_of(4)));
            assert!(options.cores.is_sorted_by(|a, b| a < b) && !options.cores.is_empty());
        }
        Ok(Parsed::Help(text)) => assert!(!text.is_empty()),
        // The text of many contains the whole help, which takes long to make.
        Err(why) => assert!(data.len() > 24 || !why.to_string().is_empty()),
    }
}
