//! A row here for each row of reference 1.3 and each option of our own: default, an accepted form, an
//! abbreviation, a form that is refused.

use super::super::table::{Entry, Id};
use super::*;
use doorbell_load::{Arrival, Protect};

type Check = fn(&Options) -> bool;

/// What an accepted value comes to.
enum Then {
    /// The option is set; without it the second check holds.
    Set(Check, Check),
    /// The run goes on as without it, with this note.
    Note(&'static str),
    /// The run goes on as without it: it is the default.
    Same,
    /// The run is refused with this text.
    Refused(&'static str),
    /// Help.
    Help,
}
use Then::{Help, Note, Refused, Same, Set};

struct Row {
    id: Id,
    abbreviation: &'static str,
    value: &'static str,
    then: Then,
    /// A value that is refused and the reason; for a flag, any value is.
    bad: (&'static str, &'static str),
}

const NUMBER: &str = "could not convert";
const FLAG: (&str, &str) = ("1", "takes no value");
/// Any value will do, but there must be one.
const ANY: (&str, &str) = ("", "requires a value");
/// Stands for the path of a key file that the test makes.
const KEY: &str = "<key file>";
const TLS: &str = "needs TLS sockets; add -S ssl";
const NO_FILE: &str = "no file or device of the kernel is tested";
const LOCAL: &str = "has no effect: no local PCIe device is tested";

fn row(id: Id, abbreviation: &'static str, value: &'static str, then: Then, bad: (&'static str, &'static str)) -> Row {
    Row { id, abbreviation, value, then, bad }
}

#[rustfmt::skip]
fn rows() -> Vec<Row> {
    vec![
        row(Id::IoDepth, "io-d", "1k", Set(|o| o.io_depth == 1024, |o| o.io_depth == 32), ("4g", NUMBER)),
        row(Id::IoSize, "io-s", "128k", Set(|o| o.io_size == 131072, |o| o.io_size == 4096), ("-1", NUMBER)),
        row(Id::IoPattern, "io-p", "randwrite",
            Set(|o| o.pattern == Pattern { random: true, read_percent: 0 },
                |o| o.pattern == Pattern { random: false, read_percent: 100 }),
            ("READ", "\"READ\" is not one of")),
        row(Id::Time, "ti", "7", Set(|o| o.time_s == 7, |o| o.time_s == 5), ("1s", NUMBER)),
        row(Id::RwMixRead, "rw", "70", Note("-M (--rwmixread) has no effect: -w read"), ("x", NUMBER)),
        row(Id::Transport, "transport", "trtype:TCP ns:2",
            Set(|o| o.transport_ids.len() == 2, |o| o.transport_ids.len() == 1),
            ANY),
        row(Id::CoreMask, "cor", "[1,3-4]",
            Set(|o| o.cores == [1, 3, 4], |o| o.cores == [0]), ("[1", "is not a core mask")),
        row(Id::Help, "help", "", Help, FLAG),
        row(Id::HelpFull, "help-", "", Help, FLAG),

        row(Id::WarmupTime, "w", "2", Set(|o| o.warmup_s == 2, |o| o.warmup_s == 0), ("-1", NUMBER)),
        row(Id::NumberIos, "numb", "50%",
            Set(|o| o.number_ios == Some(NumberOfIos::Percent(50)), |o| o.number_ios.is_none()),
            ("0%", "1% at least")),
        row(Id::IoUnitSize, "io-u", "512",
            Set(|o| o.io_unit == Some(512), |o| o.io_unit.is_none()), ("6", "not a multiple of 4")),
        row(Id::NumQpairs, "num-q", "4", Set(|o| o.qpairs == 4, |o| o.qpairs == 1), ("0", "must be 1 or more")),
        row(Id::NumUnusedQpairs, "num-u", "3",
            Set(|o| o.unused_qpairs == 3, |o| o.unused_qpairs == 0), ("", NUMBER)),
        row(Id::IoQueueSize, "io-q", "1k",
            Set(|o| o.io_queue_size == 1024, |o| o.io_queue_size == 65535), ("1kk", NUMBER)),
        row(Id::MaxCompletions, "ma", "8",
            Set(|o| o.max_completions == 8, |o| o.max_completions == 0), ("1.5", NUMBER)),
        row(Id::BufferAlignment, "b", "4k",
            Set(|o| o.alignment == 4096, |o| o.alignment == 512), ("32", "a power of two of 64 or more")),
        row(Id::Zipf, "zi", "0.9", Note("-F (--zipf) has no effect: -w read is sequential"), ("1", "theta 1")),
        row(Id::UseEveryCore, "u", "", Set(|o| o.use_every_core, |o| !o.use_every_core), FLAG),
        row(Id::Fua, "f", "", Set(|o| o.fua, |o| !o.fua), FLAG),
        row(Id::ContinueOnError, "con", "1000",
            Set(|o| o.continue_on_error == Some(1000), |o| o.continue_on_error.is_none()), ("0", "must be 1 or more")),
        row(Id::Metadata, "met", "PRACT=1,PRCHK=GUARD|REFTAG",
            Set(|o| o.protect.by_controller && o.protect.checks == 0x1400, |o| o.protect == Protect::default()),
            ("PRACT", "is not KEY=VALUE")),

        row(Id::AllowedPciAddr, "al", "0000:5e:00.0", Note(LOCAL), ("5e", "is no PCI address")),
        row(Id::HugememSize, "hu", "512", Note(LOCAL), ("1g", "would be that many megabytes")),
        row(Id::MemSingleSeg, "mem-", "", Note(LOCAL), FLAG),
        row(Id::ShmemGroup, "s", "0", Note("only local PCIe devices can be shared"), ("-1", NUMBER)),
        row(Id::EnableVmd, "enable-v", "", Refused("turn VMD off in the firmware"), FLAG),
        row(Id::DisableSqCmb, "disable-sq-c", "", Note(LOCAL), FLAG),
        row(Id::EnableInterrupt, "enable-i", "", Set(|o| o.poll_mode == PollMode::Interrupt, |o| o.poll_mode == PollMode::Poll), FLAG),
        row(Id::NoShstNotification, "no-s", "", Note(LOCAL), FLAG),
        row(Id::IovaMode, "iov", "pa", Note(LOCAL), ("xa", "is not va or pa")),
        row(Id::NoHuge, "no-h", "", Refused("--no-huge needs -s"), FLAG),
        row(Id::EnforceNuma, "enf", "", Set(|o| o.enforce_numa, |o| !o.enforce_numa), FLAG),
        row(Id::VfioVfToken, "v", "00112233-4455-6677-8899-aabbccddeeff", Note(LOCAL), ("1", "a UUID looks")),
        row(Id::EnvContext, "env", "--legacy-mem", Refused("-c chooses cores"), ("", "passes arguments to DPDK")),
        row(Id::EnableUring, "enable-u", "", Note(NO_FILE), FLAG),

        row(Id::Hdgst, "enable-tcp-h", "", Set(|o| o.header_digest, |o| !o.header_digest), FLAG),
        row(Id::Ddgst, "enable-tcp-d", "", Set(|o| o.data_digest, |o| !o.data_digest), FLAG),
        row(Id::SockImpl, "def", "posix", Same, ("tcp", "sockets are posix, ssl, uring")),
        row(Id::EnableZcopy, "enable-z", "ssl", Note("sockets are of another kind"), ANY),
        row(Id::DisableZcopy, "disable-z", "posix", Same, ANY),
        row(Id::ZerocopyThreshold, "zerocopy-threshold", "4k",
            Refused("needs --zerocopy-threshold-sock-impl"), ("4q", NUMBER)),
        row(Id::ZerocopyThresholdSockImpl, "zerocopy-threshold-", "posix", Note("zero-copy send is off"),
            ("tcp", "sockets are posix")),
        row(Id::DisableKtls, "disable-k", "", Refused(TLS), FLAG),
        row(Id::EnableKtls, "enable-k", "", Refused(TLS), FLAG),
        row(Id::TlsVersion, "tl", "13", Refused(TLS), ("14", "versions are 0, 11, 12 and 13")),
        row(Id::PskPath, "psk-p", KEY, Refused(TLS), ("key", "the path must be absolute")),
        row(Id::PskIdentity, "psk-i", "x", Note("the identity is derived"), ANY),
        row(Id::DhchapKey, "dhchap-k", KEY, Refused("authentication is not built"), ("k", "must be absolute")),
        row(Id::DhchapCtrlrKey, "dhchap-c", KEY, Refused("authentication is not built"), ("k", "must be absolute")),
        row(Id::DisableSqFlowControl, "disable-sq-f", "",
            Set(|o| o.disable_sq_flow_control, |o| !o.disable_sq_flow_control), FLAG),

        row(Id::TransportTos, "transport-t", "255", Note("no RDMA target"), ("256", "largest value is 255")),
        row(Id::RdmaSrqSize, "rd", "4096", Note("no RDMA target"), ("x", NUMBER)),

        row(Id::KeepAlive, "k", "0", Set(|o| o.keep_alive_ms == 0, |o| o.keep_alive_ms == 10000), ("10s", NUMBER)),

        row(Id::SwLatency, "enable-sw", "",
            Set(|o| o.latency == LatencyOutput::Summary, |o| o.latency == LatencyOutput::None), FLAG),
        row(Id::SsdLatency, "enable-ss", "", Set(|o| o.ssd_latency, |o| !o.ssd_latency), FLAG),
        row(Id::CpuUsage, "cp", "", Set(|o| o.cpu_usage, |o| !o.cpu_usage), FLAG),
        row(Id::TransportStats, "transport-stat", "", Set(|o| o.transport_stats, |o| !o.transport_stats), FLAG),
        row(Id::LogFlag, "logf", "nvme", Refused("use --log-level debug"), ("x", "names a component of SPDK")),
        row(Id::LogLevel, "log-", "warning",
            Set(|o| o.log_level == Level::WARN, |o| o.log_level == Level::ERROR), ("loud", "levels are error,")),
        row(Id::TpointGroupMask, "tp", "nvme_pcie", Refused("trace points"), ("", "trace points")),

        row(Id::Seed, "see", "18446744073709551615",
            Set(|o| o.seed == Some(u64::MAX), |o| o.seed.is_none()), ("1k", NUMBER)),
        row(Id::Embedded, "em", "", Refused("leave -r (--transport) out"), ("usb", "links are tcp and vfio-user")),
        row(Id::Timing, "timi", "sampled:100",
            Set(|o| o.timing == Timing::Sampled(100), |o| o.timing == Timing::Exact), ("sampled:0", "exact, batch, sampled:N")),
        row(Id::PollMode, "po", "adaptive",
            Set(|o| o.poll_mode == PollMode::Adaptive, |o| o.poll_mode == PollMode::Poll), ("sleep", "modes are poll")),
        row(Id::Json, "js", "-", Set(|o| o.json == Some(Sink::Stdout), |o| o.json.is_none()), ("", "the name of a file")),
        row(Id::Csv, "cs", "a/b", Set(|o| o.csv == Some(Sink::File("a/b".into())), |o| o.csv.is_none()), ("", "or - for")),
        row(Id::Hlog, "hl", "x.hlog",
            Set(|o| o.hlog == Some(Sink::File("x.hlog".into())), |o| o.hlog.is_none()), ("", "or - for")),
        row(Id::Interval, "int", "100ms", Note("--interval has no effect"), ("9ms", "10ms at least")),
        row(Id::Ndjson, "nd", "-",
            Set(|o| o.ndjson == Some(Sink::Stdout) && o.interval == Some(Duration::from_secs(1)),
                |o| o.ndjson.is_none() && o.interval.is_none()),
            ("", "or - for")),
        row(Id::Strict, "str", "", Set(|o| o.strict, |o| !o.strict), FLAG),
        row(Id::Reconnect, "rec", "1000",
            Set(|o| o.reconnect == Some(1000), |o| o.reconnect.is_none()), ("0", "1 to 1000 attempts")),
        row(Id::Rate, "rat", "1.5k/worker",
            Set(|o| o.rate == Some(Rate { per_second: 1500.0, arrival: Arrival::Fixed, each_worker: true }), |o| o.rate.is_none()),
            ("0", "I/Os a second like 500")),
        row(Id::Arrival, "arr", "poisson", Refused("--arrival says how the I/Os of --rate"), ("burst:0", "burst:N (N of 1 or more)")),
        row(Id::Range, "ran", "10%-50%", Set(|o| o.range.is_some(), |o| o.selection.range.is_none()), ("5", "FROM-TO is expected")),
        row(Id::Fill, "fill", "zero", Note("--fill has no effect: -w read sends no data"), ("one", "zero, random, pattern:HEX")),
        row(Id::FlushEvery, "flu", "8", Refused("--flush-every counts writes, and -w has none"), ("0", "after 1 write at least")),
        row(Id::Overwrite, "ov", "b", Note("--overwrite has no effect: nothing is written"), ANY),
        row(Id::Verify, "verif", "", Set(|o| o.selection.verify.is_some(), |o| o.selection.verify.is_none()), FLAG),
        row(Id::Coverage, "cov", "full", Note("--coverage full has no effect: -w read is sequential"), ("all", "random and full are known")),
        row(Id::Engine, "engi", "io_uring", Note(NO_FILE), ("aio", "engines are libaio, io_uring")),
        row(Id::IoPoll, "iop", "", Note(NO_FILE), FLAG),
        row(Id::SqPoll, "sq", "", Note(NO_FILE), FLAG),
        row(Id::Unregistered, "unr", "", Note(NO_FILE), FLAG),
        row(Id::Buffered, "buffere", "", Note(NO_FILE), FLAG),
        row(Id::Timeout, "timeo", "250",
            Set(|o| o.timeout_ms == Some(250), |o| o.timeout_ms.is_none()), ("0", "at least a millisecond")),
    ]
}

/// Every way to give an option on the command line.
fn forms(entry: &Entry, abbreviation: &str, value: &str) -> Vec<Vec<String>> {
    let mut forms = Vec::new();
    if entry.value.is_none() || entry.is_optional() {
        forms.extend(entry.short.map(|letter| vec![format!("-{letter}")]));
        forms.push(vec![format!("--{}", entry.long)]);
        forms.push(vec![format!("--{abbreviation}")]);
        return forms;
    }
    if let Some(letter) = entry.short {
        forms.push(vec![format!("-{letter}"), value.into()]);
        forms.extend((!value.is_empty()).then(|| vec![format!("-{letter}{value}")]));
    }
    for name in [entry.long, abbreviation] {
        forms.push(vec![format!("--{name}"), value.into()]);
        forms.push(vec![format!("--{name}={value}")]);
    }
    forms
}

fn run_words(form: &[String]) -> Result<Parsed, UsageError> {
    let words: Vec<&str> = form.iter().map(String::as_str).collect();
    parse_words(&[&BASE, &words[..]].concat())
}

fn check(row: &Row, form: &[String], result: Result<Parsed, UsageError>) {
    let default = run(&[]).unwrap();
    match (&row.then, result) {
        (Set(set, unset), Ok(Parsed::Run(options))) => {
            assert!(set(&options), "{form:?}: {options:?}");
            assert!(unset(&default), "{form:?}: {default:?}");
            assert_eq!(options.notes, default.notes, "{form:?}");
        }
        (Note(text), Ok(Parsed::Run(options))) => {
            assert!(options.notes[0].contains(text), "{form:?}: {:?}", options.notes);
            assert_eq!(Options { notes: vec![], ..*options }, default, "{form:?}");
        }
        (Same, Ok(Parsed::Run(options))) => assert_eq!(*options, default, "{form:?}"),
        (Refused(text), Err(error)) => assert!(error.to_string().contains(text), "{form:?}: {error}"),
        (Help, Ok(Parsed::Help(_))) => (),
        (_, other) => panic!("{form:?}: {other:?}"),
    }
}

#[test]
fn each_row() {
    let key = std::env::temp_dir().join(format!("doorbell-rows-{}", std::process::id()));
    std::fs::write(&key, "secret").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for row in rows() {
        let entry = TABLE.iter().find(|entry| entry.id == row.id).unwrap();
        let value = row.value.replace(KEY, &key.to_string_lossy());
        for form in forms(entry, row.abbreviation, &value) {
            check(&row, &form, run_words(&form));
        }
        let (value, reason) = row.bad;
        let bad = match row.bad == ANY {
            true => vec![format!("--{}", entry.long)],
            false => vec![format!("--{}={value}", entry.long)],
        };
        let error = run_words(&bad).expect_err(&bad[0]).to_string();
        assert!(error.contains(reason), "{bad:?}: {error}");
        let first = error.lines().next().unwrap();
        assert!(first.contains(entry.long) || first.starts_with("-r "), "{bad:?}: {first}");
        let about_the_value =
            entry.value.is_some() && !first.contains("is not built") && !first.contains("is not part of doorbell");
        assert!(first.contains(value) || !about_the_value, "{bad:?}: {first}");
    }
    std::fs::remove_file(&key).unwrap();
}

#[test]
fn no_row_is_missing() {
    let rows: Vec<Id> = rows().iter().map(|row| row.id).collect();
    let table: Vec<Id> = TABLE.iter().map(|entry| entry.id).collect();
    assert_eq!(rows, table);
}

#[test]
fn the_state_shown_in_help_is_what_happens() {
    use super::super::table::State;
    for row in rows() {
        let entry = TABLE.iter().find(|entry| entry.id == row.id).unwrap();
        let refused_for_good = match row.then {
            Refused(_) => run_words(&forms(entry, row.abbreviation, row.value)[0])
                .is_err_and(|e| e.to_string().contains("is not part of doorbell")),
            _ => false,
        };
        assert_eq!(entry.state == State::Refused, refused_for_good, "{}", entry.long);
        if let Set(..) = row.then {
            assert_eq!(entry.state, State::Built, "{}", entry.long);
        }
    }
}

#[test]
fn zipf_shapes_random_patterns() {
    assert_eq!(run(&["-w", "randread", "-F", "0.9"]).unwrap().zipf, Some(0.9));
    assert_eq!(run(&["-w", "randread", "-F", "0"]).unwrap().zipf, None);
    for bad in ["-0.5", "nan", "inf", "", "0.9x"] {
        assert!(run(&["-F", bad]).unwrap_err().to_string().contains(bad), "{bad}");
    }
}

#[test]
fn all_log_levels() {
    for (text, level) in [
        ("error", Level::ERROR),
        ("warning", Level::WARN),
        ("notice", Level::INFO),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
    ] {
        assert_eq!(run(&["--log-level", text]).unwrap().log_level, level);
    }
}

#[test]
fn slices_are_as_long_as_asked_for_where_they_go_somewhere() {
    for (words, milliseconds) in [
        (&["--interval", "10ms", "--json", "x"][..], Some(10)),
        (&["--ndjson", "x", "--interval=2s"], Some(2000)),
        (&["--interval", "1m", "--hlog", "-"], Some(60_000)),
        (&["--json", "x", "--csv", "-"], None),
    ] {
        let interval = run(words).unwrap().interval;
        assert_eq!(interval.map(|interval| interval.as_millis()), milliseconds, "{words:?}");
    }
    for bad in ["", "100", "ms", "0.1s", "-1s", "+1s", "1h", "99999999999999999m", "1 s"] {
        let error = run(&["--json", "-", "--interval", bad]).unwrap_err().to_string();
        assert!(error.contains("--interval") && error.contains("as 100ms"), "{bad}: {error}");
    }
}

#[test]
fn where_the_result_goes_is_known_though_the_rest_is_wrong() {
    let of = |words: &[&str]| json_of(words.iter().map(OsString::from));
    assert_eq!(of(&["-q", "none", "--json", "x", "--unknown"]), Some(Sink::File("x".into())));
    assert_eq!(of(&["-q", "--json=-"]), None, "that is the value of -q");
    assert_eq!(of(&["--json", "x", "--json=-", "-w"]), Some(Sink::Stdout));
}

#[test]
fn tls_sockets_and_zero_copy() {
    for (words, expected) in [
        (&["-S", "ssl", "--tls-version", "13"][..], "-S (--default-sock-impl): ssl is not built"),
        (&["-S", "uring"], "uring is not built yet"),
    ] {
        let error = run(words).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(run(&["-Z", "posix", "-z", "posix"]).unwrap().notes, [""; 0]);
    assert!(run(&["-Z", "mine"]).unwrap().notes[0].contains("sockets are posix, ssl, uring"));
}
