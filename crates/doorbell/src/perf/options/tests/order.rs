//! The refusals of reference 1.4: each alone, and each pair at once, of which the earlier is reported.

use super::*;
use doorbell_load::Arrival;

/// A fault: what it changes in the base command line (`None` leaves an option out), how its message
/// starts, and whether the usage text follows.
struct Fault {
    change: &'static [(&'static str, Option<&'static str>)],
    message: &'static str,
    usage: bool,
}

const fn fault(change: &'static [(&'static str, Option<&'static str>)], message: &'static str, usage: bool) -> Fault {
    Fault { change, message, usage }
}

/// In the order of the checks.
const FAULTS: &[Fault] = &[
    fault(&[("-P", Some("0"))], "-P (--num-qpairs) must be 1", true),
    fault(&[("-q", Some("0"))], "-q (--io-depth) is missing or 0", true),
    fault(&[("-o", Some("0"))], "-o (--io-size) is missing or 0", true),
    fault(&[("-O", Some("6"))], "-O (--io-unit-size): 6 is not", false),
    fault(&[("-w", None)], "-w (--io-pattern) is missing", true),
    fault(&[("-t", Some("0"))], "-t (--time) is missing or 0", true),
    fault(&[("-Q", Some("0"))], "-Q (--continue-on-error) must be 1", true),
    fault(&[("--tls-version", Some("13"))], "--tls-version needs TLS sockets", false),
    fault(&[("-w", Some("randdom"))], "-w (--io-pattern): \"randdom\" is not", false),
    fault(&[("-w", Some("rw")), ("-M", Some("101"))], "-M (--rwmixread): 101 is not", false),
    fault(&[("--zerocopy-threshold", Some("1"))], "--zerocopy-threshold needs", false),
    fault(&[("-a", Some("1")), ("-d", Some("9"))], "-d (--number-ios) and -a", false),
    fault(&[("-d", Some("9"))], "-d (--number-ios): 9 is less than -q", false),
    fault(&[("--embedded", Some(""))], "--embedded tests its own target", false),
    fault(
        &[("--poll-mode", Some("adaptive")), ("-E", Some(""))],
        "-E (--enable-interrupt) is --poll-mode interrupt",
        false,
    ),
    fault(&[("--timing", Some("off")), ("-L", Some(""))], "--timing off takes no latencies", false),
    fault(&[("--timing", Some("off")), ("--hlog", Some("x"))], "--timing off takes no latencies, which --hlog", false),
    fault(&[("--json", Some("-")), ("--csv", Some("-"))], "--json and --csv cannot both", false),
    fault(&[("--iova-mode", Some("xa"))], "--iova-mode: \"xa\" is not", false),
    fault(&[("--no-huge", Some(""))], "--no-huge needs -s", false),
    fault(&[("-c", Some("0x"))], "-c (--core-mask): \"0x\" is not", false),
];

fn with(faults: &[&Fault]) -> Result<Parsed, UsageError> {
    let mut options: Vec<(&str, &str)> = BASE.chunks(2).map(|pair| (pair[0], pair[1])).collect();
    for &(name, value) in faults.iter().flat_map(|f| f.change) {
        options.retain(|&(option, _)| option != name);
        options.extend(value.map(|value| (name, value)));
    }
    let words = options.iter().flat_map(|&(name, value)| [name, value]);
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    parse_words(&words)
}

/// Both faults set one option, or `--embedded` supplies what the other left out.
fn exclude_each_other(one: &Fault, other: &Fault) -> bool {
    one.change == [("-w", None)] && other.change[0].0 == "--embedded"
        || one.change.iter().any(|(name, value)| other.change.iter().any(|(n, v)| n == name && v != value))
}

#[test]
fn every_refusal_alone() {
    assert!(with(&[]).is_ok());
    for fault in FAULTS {
        let error = with(&[fault]).unwrap_err().to_string();
        assert!(error.starts_with(fault.message), "{error}");
        assert_eq!(error.contains("\nUsage: "), fault.usage, "{error}");
    }
}

#[test]
fn of_two_faults_the_earlier_is_reported() {
    let mut pairs = 0;
    for (at, first) in FAULTS.iter().enumerate() {
        for second in FAULTS[at + 1..].iter().filter(|f| !exclude_each_other(first, f)) {
            let error = with(&[first, second]).unwrap_err().to_string();
            assert!(error.starts_with(first.message), "before {}: {error}", second.message);
            pairs += 1;
        }
    }
    assert_eq!(pairs, 21 * 20 / 2 - 4, "all but three pairs of -w faults and one of -w and --embedded");
}

#[test]
fn what_is_required_may_not_be_missing() {
    for (name, message) in [
        ("-q", "-q (--io-depth) is missing or 0"),
        ("-o", "-o (--io-size) is missing or 0"),
        ("-w", "-w (--io-pattern) is missing"),
        ("-t", "-t (--time) is missing or 0"),
    ] {
        let rest: Vec<&str> = BASE.chunks(2).filter(|p| p[0] != name).flatten().copied().collect();
        let error = parse_words(&rest).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let error = run(&["-O", "0"]).unwrap_err().to_string();
    assert!(error.starts_with("-O (--io-unit-size): 0 is not"), "{error}");
}

#[test]
fn a_bad_value_comes_before_all_of_them_and_in_command_line_order() {
    for (words, message) in [
        (&["-P", "0", "-k", "x"][..], "-k (--keepalive): could not convert \"x\""),
        (&["-k", "x", "-F", "y"], "-k (--keepalive)"),
        (&["-F", "y", "-k", "x"], "-F (--zipf)"),
        (&["-F", "y", "--bogus"], "-F (--zipf)"),
        (&["--bogus", "-F", "y"], "unknown option --bogus"),
        (&["-V", "-F", "y"], "-V (--enable-vmd) is not part of doorbell"),
    ] {
        let error = parse_words(words).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn a_rate_is_kept_by_polling_and_is_for_latencies() {
    let good = run(&["--rate", "20k", "--arrival", "burst:8"]).unwrap().rate.unwrap();
    assert_eq!((good.per_second, good.arrival, good.each_worker), (20e3, Arrival::Burst(8), false));
    assert_eq!(run(&["--rate", "2.5M"]).unwrap().rate.unwrap().per_second, 2.5e6);
    for (more, message) in [
        (&["-E"][..], "--rate keeps its plan by never sleeping"),
        (&["--poll-mode", "adaptive"], "--rate keeps its plan by never sleeping"),
        (&["--timing", "off"], "--rate is for response times"),
    ] {
        let error = run(&[&["--rate", "1000"], more].concat()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn full_coverage_is_for_even_random_offsets() {
    let full = |words: &[&str]| run(&[&["--coverage", "full", "-w"], words].concat());
    assert!(full(&["randwrite"]).unwrap().selection.full_coverage);
    assert!(!full(&["read"]).unwrap().selection.full_coverage);
    assert!(!run(&["--coverage", "random", "-w", "randread"]).unwrap().selection.full_coverage);
    let error = full(&["randread", "-F", "0.9"]).unwrap_err().to_string();
    assert!(error.starts_with("--coverage full takes every position equally often"), "{error}");
}

#[test]
fn a_mix_needs_its_share() {
    let error = run(&["-w", "randrw"]).unwrap_err().to_string();
    assert_eq!(error, "-w randrw needs -M (--rwmixread)");
}

#[test]
fn the_limit_may_equal_the_depth_and_a_percentage_is_not_compared() {
    assert_eq!(run(&["-d", "32"]).unwrap().number_ios, Some(NumberOfIos::Count(32)));
    assert_eq!(run(&["-d", "1%"]).unwrap().number_ios, Some(NumberOfIos::Percent(1)));
    assert_eq!(run(&["-d", "0", "-a", "1"]).unwrap().number_ios, None);
}

#[test]
fn no_huge_has_its_rules() {
    for (words, message) in [
        (&["--no-huge", "--iova-mode", "pa"][..], "--no-huge excludes --iova-mode pa"),
        (&["--no-huge"], "--no-huge needs -s"),
        (&["--no-huge", "-s", "0"], "--no-huge needs -s"),
        (&["--no-huge", "-s", "64", "-g"], "--no-huge excludes -g"),
    ] {
        let error = run(words).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    assert!(run(&["--no-huge", "-s", "64", "--iova-mode", "va"]).is_ok());
}

#[test]
fn the_threshold_is_satisfied_by_its_kind_of_sockets() {
    let both = ["--zerocopy-threshold", "4k", "--zerocopy-threshold-sock-impl", "posix"];
    assert_eq!(run(&both).unwrap().notes.len(), 2);
    assert!(run(&["--zerocopy-threshold", "0"]).is_ok());
}
