//! Tests of the whole command line: one for each row of reference 1.3 (`rows`), the refusals of 1.4 in
//! their order (`order`), and that nothing makes the parser panic.

mod order;
mod rows;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;

use super::table::TABLE;
use super::*;

/// A command line that runs: sequential reads on one NVMe/TCP target.
const BASE: [&str; 10] = ["-q", "32", "-o", "4k", "-w", "read", "-t", "5", "-r", "trtype:TCP"];

fn parse_words(words: &[&str]) -> Result<Parsed, UsageError> {
    parse(words.iter().map(OsString::from))
}

/// The options of [`BASE`] and `more`.
fn run(more: &[&str]) -> Result<Options, UsageError> {
    match parse_words(&[&BASE, more].concat())? {
        Parsed::Run(options) => Ok(*options),
        Parsed::Help(text) => panic!("help instead of a run: {text}"),
    }
}

#[test]
fn a_line_of_the_reference() {
    let words = "-r trtype:tcp\u{20}-q 256 -o 4096 -w randrw -M 70 -t 10 -LL -c 0x3 -HI -P 4 --use-every-core";
    let words: Vec<&str> = words.split(' ').collect();
    let Ok(Parsed::Run(options)) = parse_words(&words) else {
        panic!("not a run");
    };
    assert_eq!(options.io_depth, 256);
    assert_eq!(options.pattern, Pattern { random: true, read_percent: 70 });
    assert_eq!(options.latency, LatencyOutput::Histogram);
    assert_eq!(options.cores, [0, 1]);
    assert!(options.header_digest && options.data_digest && options.use_every_core);
    assert_eq!(options.qpairs, 4);
    assert_eq!(options.notes, [""; 0]);
}

#[test]
fn all_patterns() {
    for (word, random, read_percent) in [
        ("read", false, 100),
        ("write", false, 0),
        ("rw", false, 30),
        ("randread", true, 100),
        ("randwrite", true, 0),
        ("randrw", true, 30),
    ] {
        let options = run(&["-w", word, "-M", "30"]).unwrap();
        assert_eq!(options.pattern, Pattern { random, read_percent }, "{word}");
        assert_eq!(options.notes.is_empty(), word.ends_with("rw"), "{word}");
    }
    for word in ["", "rand", "Read", "randrandread", "reads"] {
        let error = run(&["-w", word]).unwrap_err().to_string();
        assert!(error.contains(&format!("\"{word}\" is not one of")), "{error}");
    }
    assert_eq!(run(&["-w", "rw", "-M", "0"]).unwrap().pattern.read_percent, 0);
    assert_eq!(run(&["-w", "rw", "-M", "100"]).unwrap().pattern.read_percent, 100);
}

#[test]
fn the_last_of_several_wins_and_lists_accumulate() {
    let options = run(&["-q", "1", "-q", "2", "-r", "trtype:tcp ns:2", "-L", "-L"]).unwrap();
    assert_eq!(options.io_depth, 2);
    assert_eq!(options.transport_ids, ["trtype:TCP", "trtype:tcp ns:2"]);
    assert_eq!(options.latency, LatencyOutput::Histogram);
}

#[test]
fn at_most_256_targets_and_128_pci_addresses() {
    assert_eq!(run(&["-rtrtype:TCP"; 255]).unwrap().transport_ids.len(), 256);
    let error = run(&["-rtrtype:TCP"; 256]).unwrap_err().to_string();
    assert!(error.starts_with("-r (--transport): at most 256") && error.contains("Usage:"), "{error}");
    assert!(run(&["-b5e:00.0"; 128]).is_ok());
    let error = run(&["-b5e:00.0"; 129]).unwrap_err().to_string();
    assert!(error.starts_with("-b (--allowed-pci-addr): at most 128"), "{error}");
}

#[test]
fn the_embedded_target_needs_no_further_option() {
    let Ok(Parsed::Run(options)) = parse_words(&["--embedded"]) else {
        panic!("not a run");
    };
    assert_eq!(options.embedded, Some(Link::default()));
    assert_eq!((options.io_depth, options.io_size, options.time_s), (128, 4096, 5));
    assert_eq!(options.pattern, Pattern { random: true, read_percent: 100 });
    for (word, link) in [("--embedded=tcp", Link::Tcp), ("--emb=vfio-user", Link::VfioUser)] {
        let Ok(Parsed::Run(options)) = parse_words(&[word]) else { panic!("not a run") };
        assert_eq!(options.embedded, Some(link));
    }
    let Ok(Parsed::Run(apart)) = parse_words(&["--embedded", "tcp"]) else { panic!("not a run") };
    assert_eq!(apart.files, [PathBuf::from("tcp")], "a value that may be left out is never the next word");
    let zero = parse_words(&["--embedded", "-q", "0"]).unwrap_err().to_string();
    assert!(zero.starts_with("-q (--io-depth) is missing or 0"), "{zero}");
}

#[test]
fn what_is_tested_is_named_by_ids_and_files() {
    let base = ["-q", "32", "-o", "4k", "-w", "read", "-t", "5"];
    for others in [&["-r", "trtype:mine"][..], &["-r", "traddr:5e:00.0"], &["-r", "trtype:VFIOUSER traddr:/tmp"], &[]] {
        assert!(parse_words(&[&base[..], others].concat()).is_ok(), "{others:?}");
    }
    for (more, ids) in [(&["-r", "trtype:TCP", "/dev/ram0", "f"][..], 1), (&["/dev/ram0", "f"], 0)] {
        let Ok(Parsed::Run(options)) = parse_words(&[&base, more].concat()) else { panic!("not a run") };
        assert_eq!(options.files, [PathBuf::from("/dev/ram0"), PathBuf::from("f")]);
        assert_eq!((options.transport_ids.len(), options.kernel.reads, options.kernel.writes), (ids, true, false));
        assert_eq!((options.kernel.engine, options.kernel.registered, options.kernel.sleeps), (None, true, false));
    }
    let with = |more: &[&str]| match parse_words(&[&base[..], more, &["f"]].concat()) {
        Ok(Parsed::Run(options)) => Ok(options.kernel),
        other => Err(format!("{other:?}")),
    };
    assert_eq!(
        with(&["-R", "--iopoll", "--sqpoll"]).map(|kernel| (kernel.engine, kernel.iopoll, kernel.sqpoll)),
        Ok((Some(kernel::Engine::Uring), true, true))
    );
    assert_eq!(
        with(&["--buffered", "--unregistered", "-E"]).map(|kernel| (kernel.buffered, kernel.registered, kernel.sleeps)),
        Ok((true, false, true))
    );
    assert_eq!(
        with(&["-R", "--engine", "io_uring_cmd"]).map(|kernel| kernel.engine),
        Ok(Some(kernel::Engine::UringCmd))
    );
    for (more, why) in [
        (&["-R", "--engine", "libaio"][..], "excludes libaio"),
        (&["--engine", "posix"], "engines are libaio"),
        (&["--iopoll", "-E"], "ask for sleep"),
        (&["--iopoll", "--buffered"], "keeps away"),
    ] {
        assert!(with(more).is_err_and(|error| error.contains(why)), "{more:?}");
    }
}

#[test]
fn options_for_rdma_are_honoured_where_something_is_reached_over_it() {
    let options =
        run(&["--transport-tos", "96", "--rdma-srq-size", "512", "-r", "TRTYPE:rdma traddr:10.0.0.1"]).unwrap();
    assert_eq!((options.transport_tos, options.rdma_srq_size, options.notes.len()), (96, 512, 0));
}

#[test]
fn options_for_what_is_within_reach_are_honoured_where_something_is() {
    let base = ["-q", "32", "-o", "4k", "-w", "read", "-t", "5"];
    let options = "-b 5e:0.0 -b 5f:0 -s 512 -D -N --no-huge --enforce-numa --vfio-vf-token \
                   00112233-4455-6677-8899-aabbccddeeff";
    let options: Vec<&str> = options.split_ascii_whitespace().collect();
    let run = |targets: &[&str], more: &[&str]| match parse_words(&[&base[..], targets, &options, more].concat()) {
        Ok(Parsed::Run(options)) => *options,
        other => panic!("{targets:?}: {other:?}"),
    };
    // No target at all is all local devices.
    for targets in [&[][..], &["-r", "trtype:TCP traddr:10.0.0.1", "-r", "trtype=pcie traddr:5e:00.0"]] {
        let run = run(targets, &[]);
        assert_eq!(run.notes, [""; 0], "{targets:?}");
        let given = run.environment;
        assert_eq!(given.allowed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0000:5e:00.0", "0000:5f:00.0"]);
        assert_eq!((given.memory_mb, given.vf_token.map(|token| token[15])), (512, Some(0xff)));
        assert!(given.no_sq_cmb && given.no_shutdown_notification && given.no_huge && run.enforce_numa);
    }
    // What another process plays has neither address nor token.
    let vfio_user = run(&["-r", "trtype:VFIOUSER traddr:/tmp/d"], &[]);
    assert!(vfio_user.notes.len() == 2 && vfio_user.notes.iter().all(|note| note.contains("no local PCIe device")));
    let over_tcp = run(&["-r", "trtype:TCP traddr:10.0.0.1"], &[]);
    assert_eq!(over_tcp.notes.len(), 6, "all but --enforce-numa: {:?}", over_tcp.notes);
    // These mean nothing here, and say why.
    let idle = run(&[], &["--iova-mode", "va", "-i", "3"]);
    assert!(idle.notes[0].contains("virtual addresses behind an IOMMU"), "{:?}", idle.notes);
    assert!(idle.notes[1].contains("sharing a controller between processes is not supported"), "{:?}", idle.notes);
}

#[test]
fn zero_copy_send_is_for_other_machines() {
    let base = ["-q", "32", "-o", "4k", "-w", "write", "-t", "5", "-Z", "posix", "-r", "trtype:TCP traddr:127.0.0.1"];
    let Parsed::Run(options) = parse_words(&base).unwrap() else { panic!("no run") };
    assert!(
        options.notes.iter().any(|note| note.contains("no target over TCP on another machine")),
        "{:?}",
        options.notes
    );
    let threshold = |kind| ["--zerocopy-threshold", "8k", "--zerocopy-threshold-sock-impl", kind];
    for other in ["trtype:TCP traddr:192.0.2.1", "trtype:TCP traddr:localhost"] {
        let run = |more: &[&str]| match parse_words(&[&base[..], &["-r", other], more].concat()).unwrap() {
            Parsed::Run(options) => (options.zero_copy, options.notes),
            _ => panic!("no run"),
        };
        assert_eq!(run(&[]), (Some(0), Vec::new()));
        assert_eq!(run(&threshold("posix")), (Some(8192), Vec::new()));
        let (zero_copy, notes) = run(&threshold("ssl"));
        assert!(
            zero_copy == Some(0) && notes.len() == 2 && notes[0].contains("sockets are of another kind"),
            "{notes:?}"
        );
        assert_eq!(run(&["-z", "posix"]), (None, Vec::new()));
    }
}

#[test]
fn help_ends_parsing_where_it_stands() {
    for words in [&["-h"][..], &["--help"], &["-h", "--bogus"], &["-q", "0", "-h"]] {
        assert_eq!(parse_words(words), Ok(Parsed::Help(help::short())), "{words:?}");
    }
    for words in [&["-v"][..], &["--help-full"], &["--help-f"], &["-v", "x"]] {
        assert_eq!(parse_words(words), Ok(Parsed::Help(help::full())), "{words:?}");
    }
    assert!(parse_words(&["--bogus", "-h"]).is_err());
    assert!(parse_words(&["-q", "x", "-h"]).is_err());
}

#[test]
fn a_value_that_is_not_text_is_named() {
    let raw = OsString::from_vec(b"\xff8".to_vec());
    let error = parse([OsString::from("-q"), raw]).unwrap_err().to_string();
    assert_eq!(error, "-q (--io-depth): \"\\xFF8\" is not valid UTF-8");
}

fn argument() -> impl Strategy<Value = OsString> {
    let option = (0..TABLE.len(), 0..4, any::<String>()).prop_map(|(at, form, value)| {
        let entry = &TABLE[at];
        let half = &entry.long[..entry.long.len() / 2];
        OsString::from(match (form, entry.short) {
            (0, Some(letter)) => format!("-{letter}{value}"),
            (1, Some(letter)) => format!("-{letter}"),
            (2, _) => format!("--{half}"),
            (3, _) => format!("--{}={value}", entry.long),
            _ => format!("--{}", entry.long),
        })
    });
    let plausible = r"(0x)?[0-9a-f]{0,20}[kmgKMG%]?|\[[0-9,-]{0,12}\]?|rand(read|rw)?|posix|PRACT=[01]";
    let words = BASE.to_vec();
    prop_oneof![
        option,
        proptest::sample::select(words).prop_map(OsString::from),
        plausible.prop_map(OsString::from),
        any::<Vec<u8>>().prop_map(OsString::from_vec),
    ]
}

proptest! {
    #[test]
    fn no_command_line_panics(args in prop::collection::vec(argument(), 0..24)) {
        match parse(args) {
            Ok(Parsed::Run(options)) => {
                prop_assert!(options.io_depth > 0 && options.io_size > 0 && options.time_s > 0);
                prop_assert!(!options.cores.is_empty());
                prop_assert!(options.embedded.is_none() || options.transport_ids.is_empty());
            }
            Ok(Parsed::Help(text)) => prop_assert!(text.starts_with("Usage:")),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn no_value_of_an_option_panics(at in 0..TABLE.len(), value in any::<Vec<u8>>()) {
        let mut option = format!("--{}=", TABLE[at].long).into_bytes();
        option.extend(value);
        let args = BASE.iter().map(OsString::from).chain([OsString::from_vec(option)]);
        let _ = parse(args);
    }
}
