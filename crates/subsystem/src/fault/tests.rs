//! Scripts as they are read, and what becomes of commands under them, without sockets.

use std::{fs, time::Duration};

use doorbell_spec::{
    command::{Command, NvmOpcode},
    status::{Status, generic, media},
};
use zerocopy::FromZeros;

use super::{Engine, Fate, Faults, Reset, Script, engine::Verdict};

const MS: u64 = 1_000_000;

fn command(opcode: NvmOpcode, cid: u16, slba: u64) -> Command {
    let mut command = Command::new_zeroed();
    (command.opc, command.cid, command.nsid) = (opcode.0, cid.into(), 1.into());
    // 8 blocks from here on.
    (command.cdw10, command.cdw11, command.cdw12) = ((slba as u32).into(), ((slba >> 32) as u32).into(), 7.into());
    command
}

/// What becomes of so many Reads at a time.
fn verdicts(script: &str, count: u64, now: u64) -> Vec<Verdict> {
    let engine = Engine::new(Script::parse(script).unwrap(), None).unwrap();
    (0..count).map(|at| engine.judge(&command(NvmOpcode::READ, at as u16, at * 8), now)).collect()
}

fn latencies(script: &str, count: u64) -> Vec<u64> {
    let mut all: Vec<u64> = verdicts(script, count, MS).iter().map(|verdict| verdict.due - MS).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_statement_that_means_nothing_is_named_with_the_reason() {
    for (text, said) in [
        ("latencies fixed 1ms", "\"latencies\" is not one of seed"),
        ("latency", "a distribution is missing"),
        ("latency fixed", "a time is missing"),
        ("latency fixed 5", "\"5\" is not a time"),
        ("latency fixed -1ms", "not between 0 and a day"),
        ("latency fixed 2e6s", "not between 0 and a day"),
        ("latency uniform 2ms 1ms", "less than the first"),
        ("latency lognormal 1ms 9", "sigma"),
        ("latency bimodal 1ms 2ms 5", "\"5\" is not a percentage"),
        ("latency histogram /nowhere", "cannot read /nowhere"),
        ("latency fixed 1ms on nothing", "\"nothing\" is not a hexadecimal number"),
        ("latency fixed 1ms twice", "\"twice\" is not one of on"),
        ("error 0/0", "success"),
        ("error 9/1", "types are 0 to 7"),
        ("error 281", "not SCT/SC"),
        ("error 2/81 every 0", "never"),
        ("drop rate 101%", "not a percentage"),
        ("drop lba 7-x", "\"x\" is not a number"),
        ("drop on dsm lba 7", "Dataset Management (09h) names no blocks"),
        ("drop lba 7 on flush", "Flush (00h) names no blocks"),
        ("limit 0", "not a rate"),
        ("stall 10ms", "at or every is missing"),
        ("stall 10ms every 10ms", "must end before"),
        ("reset port at 1s", "not connection or controller"),
        ("reset connection every 0s", "never ends"),
        ("seed 1 2", "one word too many"),
    ] {
        let why = Script::parse(text).unwrap_err();
        assert!(why.contains(said) && why.contains(text), "{text}: {why}");
    }
}

#[test]
fn statements_stand_in_lines_or_behind_semicolons_and_a_file_holds_a_script_too() {
    let (one, other) = (
        "seed 7; latency fixed 1ms on read;error 2/81 every 5",
        "# what\nseed 7\nlatency fixed 1ms on 2h # two\n\nerror 0x2/81h every 5\n",
    );
    assert_eq!(Script::parse(one), Script::parse(other));
    let path = std::env::temp_dir().join(format!("doorbell-script-{}", std::process::id()));
    fs::write(&path, other).unwrap();
    assert_eq!(Script::load(path.to_str().unwrap()), Script::parse(one));
    fs::write(&path, "drop\nstop\n").unwrap();
    let why = Script::load(path.to_str().unwrap()).unwrap_err();
    assert!(why.contains("\"stop\"") && why.contains(path.to_str().unwrap()), "{why}");
    fs::remove_file(path).unwrap();
}

#[test]
fn latencies_have_the_distribution_that_is_asked_for() {
    let near = |value: u64, wanted: f64| assert!((value as f64 / wanted - 1.0).abs() < 0.02, "{value} for {wanted}");
    const COUNT: usize = 100_000;
    let at = |all: &[u64], share: f64| all[(COUNT as f64 * share) as usize];

    let fixed = latencies("latency fixed 250us", COUNT as u64);
    assert_eq!((fixed[0], fixed[COUNT - 1]), (250_000, 250_000));

    let uniform = latencies("latency uniform 2ms 6ms", COUNT as u64);
    assert!(uniform[0] >= 2 * MS && uniform[COUNT - 1] < 6 * MS);
    [0.1, 0.5, 0.9].iter().for_each(|&share| near(at(&uniform, share), 2e6 + share * 4e6));

    let bimodal = latencies("latency bimodal 1ms 20ms 5%", COUNT as u64);
    near(bimodal.iter().filter(|&&latency| latency == 20 * MS).count() as u64, 5_000.0);
    assert!(bimodal.iter().all(|&latency| latency == MS || latency == 20 * MS));

    // The quantiles of the normal distribution: 0, 1.2816 and 2.3263.
    let lognormal = latencies("latency lognormal 2ms 0.5", COUNT as u64);
    for (share, z) in [(0.1, -1.2816f64), (0.5, 0.0), (0.9, 1.2816), (0.99, 2.3263)] {
        near(at(&lognormal, share), 2e6 * (0.5 * z).exp());
    }

    let path = std::env::temp_dir().join(format!("doorbell-histogram-{}", std::process::id()));
    fs::write(&path, "100us 200us 50 # usual\n1ms 2ms 40\n10ms 10\n").unwrap();
    let drawn = latencies(&format!("latency histogram {}", path.display()), COUNT as u64);
    fs::remove_file(path).unwrap();
    near(at(&drawn, 0.25), 150e3);
    near(at(&drawn, 0.70), 1.5e6);
    near(at(&drawn, 0.95), 10e6);
}

#[test]
fn a_seed_repeats_everything_and_another_does_not() {
    let script = |seed| format!("seed {seed}; latency lognormal 1ms 1; error 2/81 rate 10%; drop rate 1%");
    let first = verdicts(&script(5), 1000, 0);
    assert_eq!(first, verdicts(&script(5), 1000, 0));
    assert_ne!(first, verdicts(&script(6), 1000, 0));
}

#[test]
fn rules_pick_commands_by_what_they_are_and_by_their_number() {
    let engine = |script| Engine::new(Script::parse(script).unwrap(), None).unwrap();
    let fails = |engine: &Engine, command: &Command| engine.judge(command, 0).failure;

    let by_opcode = engine("error 2/80 on write; error 2/81/dnr on read");
    assert_eq!(fails(&by_opcode, &command(NvmOpcode::WRITE, 1, 0)), Some(media::WRITE_FAULT));
    let unrecovered = media::UNRECOVERED_READ_ERROR.with_dnr();
    assert_eq!(fails(&by_opcode, &command(NvmOpcode::READ, 1, 0)), Some(unrecovered));
    assert_eq!(fails(&by_opcode, &command(NvmOpcode::FLUSH, 1, 0)), None);

    let by_place = engine("error 2/81 nsid 1 lba 100-107");
    for (slba, hit) in [(92, false), (93, true), (100, true), (107, true), (108, false)] {
        assert_eq!(fails(&by_place, &command(NvmOpcode::READ, 1, slba)).is_some(), hit, "{slba}");
    }
    for opcode in [NvmOpcode::FLUSH, NvmOpcode::DATASET_MANAGEMENT] {
        assert_eq!(fails(&by_place, &command(opcode, 1, 100)), None, "{opcode} has no blocks");
    }
    for (opcode, slba, hit) in [
        (NvmOpcode::VERIFY, 93, true),
        (NvmOpcode::VERIFY, 92, false),
        (NvmOpcode::ZONE_APPEND, 100, true),
        (NvmOpcode::ZONE_APPEND, 93, false),
        (NvmOpcode::ZONE_MANAGEMENT_SEND, 100, true),
        (NvmOpcode::ZONE_MANAGEMENT_RECEIVE, 108, false),
    ] {
        assert_eq!(fails(&by_place, &command(opcode, 1, slba)).is_some(), hit, "{opcode} at {slba}");
    }

    let third: Vec<bool> = verdicts("error 2/81 every 3", 7, 0).iter().map(|one| one.failure.is_some()).collect();
    assert_eq!(third, [false, false, true, false, false, true, false]);

    let rare = verdicts("duplicate rate 20%; drop every 2 rate 50%", 10_000, 0);
    let count = |of: fn(&Verdict) -> bool| rare.iter().filter(|one| of(one)).count();
    assert!(
        (1_900..2_100).contains(&count(|one| one.duplicated)) && (2_400..2_600).contains(&count(|one| one.dropped))
    );
}

#[test]
fn latencies_that_meet_one_command_add_up_and_the_first_error_counts() {
    let both = verdicts("latency fixed 1ms; latency fixed 5ms every 2; error 2/81 every 2; error 0/6", 2, 0);
    assert_eq!((both[0].due, both[1].due), (MS, 6 * MS));
    assert_eq!(
        (both[0].failure, both[1].failure),
        (Some(generic::INTERNAL_ERROR), Some(media::UNRECOVERED_READ_ERROR))
    );
}

#[test]
fn a_limited_rate_spreads_completions_evenly_and_saves_nothing_up() {
    let engine = Engine::new(Script::parse("limit 3k").unwrap(), None).unwrap();
    let read = command(NvmOpcode::READ, 1, 0);
    let burst: Vec<u64> = (0..3000).map(|_| engine.judge(&read, MS).due).collect();
    assert!((burst[2999] as i64 - 1_001_000_000).abs() < 5_000, "{}", burst[2999]);
    assert!(burst.windows(2).all(|pair| (333_332..=333_334).contains(&(pair[1] - pair[0]))));
    let later = engine.judge(&read, 5_000 * MS).due;
    assert!((5_000_333_332..=5_000_333_334).contains(&later), "{later}");
}

#[test]
fn nothing_completes_in_a_stall() {
    let engine = Engine::new(Script::parse("stall 200ms at 1s; stall 10ms every 50ms").unwrap(), None).unwrap();
    for (due, at) in [
        (0, 0),
        (49, 49),
        (50, 60),
        (59, 60),
        (60, 60),
        // The one ends in the other.
        (1_000, 1_210),
        (1_199, 1_210),
        (1_215, 1_215),
    ] {
        assert_eq!(engine.defer(due * MS), at * MS, "{due}");
    }
}

fn faults(script: &str) -> Box<Faults<u32>> {
    Faults::new(&Engine::new(Script::parse(script).unwrap(), None).unwrap())
}

/// Takes a Read and has it done at once.
fn take(faults: &mut Faults<u32>, cid: u16) -> Fate<u32> {
    let failure = faults.arrived(1, &command(NvmOpcode::READ, cid, 0), 0);
    faults.done(1, cid, failure.unwrap_or(Status::SUCCESS), cid.into())
}

/// All that comes within a time.
fn wait(faults: &mut Faults<u32>) -> Vec<(u16, u32)> {
    let mut all = Vec::new();
    while let Some(due) = faults.due() {
        std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
        all.extend(std::iter::from_fn(|| faults.next()).map(|(_, cid, _, times)| (cid, times)));
        faults.left();
    }
    all
}

#[test]
fn completions_go_in_the_order_in_which_they_are_due() {
    let mut faults = faults("latency fixed 3ms every 2; latency fixed 1ms");
    (1..=6).for_each(|cid| assert!(matches!(take(&mut faults, cid), Fate::Held)));
    assert!(faults.next().is_none(), "none is due");
    let order: Vec<u16> = wait(&mut faults).into_iter().map(|(cid, _)| cid).collect();
    assert_eq!(order, [1, 3, 5, 2, 4, 6]);
}

#[test]
fn lost_completions_never_go_and_repeated_ones_go_twice() {
    let mut faults = faults("drop every 3; duplicate every 2");
    for cid in 1..=6 {
        assert_eq!(matches!(take(&mut faults, cid), Fate::Lost(_)), cid % 3 == 0, "{cid}");
    }
    assert_eq!(wait(&mut faults), [(1, 1), (2, 2), (4, 2), (5, 1)]);
    // Who asks for an Abort gets it for those that are lost and those that wait.
    assert_eq!(faults.abort(|_, cid| cid < 6), [(1, 3)]);
    assert_eq!(faults.abort(|_, _| true), [(1, 6)]);
}

#[test]
fn what_the_script_has_not_seen_is_sent_at_once() {
    let mut faults = faults("latency fixed 1s");
    assert!(matches!(faults.done(1, 9, Status::SUCCESS, 9), Fate::Send(9)));
}

#[test]
fn an_end_gives_back_what_was_kept() {
    let mut faults = faults("latency fixed 1s");
    (1..=3).for_each(|cid| assert!(matches!(take(&mut faults, cid), Fate::Held)));
    let mut kept: Vec<u32> = faults.clear().collect();
    kept.sort_unstable();
    assert_eq!((kept, faults.due()), (vec![1, 2, 3], None));
}

#[test]
fn a_reset_hits_the_connections_of_its_time_once() {
    let engine = Engine::new(Script::parse("reset controller at 5ms").unwrap(), None).unwrap();
    let mut first = Faults::<u32>::new(&engine);
    assert_eq!((first.reset(), first.due()), (None, None), "time has not begun");
    assert!(matches!(take(&mut first, 1), Fate::Held));
    assert!(first.next().is_some());
    std::thread::sleep(Duration::from_millis(6));
    let mut second = Faults::<u32>::new(&engine);
    assert_eq!((first.reset(), second.reset()), (Some(Reset::Controller), None));
    assert_eq!((first.reset(), first.due()), (None, None));
}

#[test]
fn what_a_host_has_reset_meanwhile_is_not_reset_again() {
    let engine = Engine::new(Script::parse("reset controller at 5ms").unwrap(), None).unwrap();
    let mut faults = Faults::<u32>::new(&engine);
    assert!(matches!(take(&mut faults, 1), Fate::Held));
    std::thread::sleep(Duration::from_millis(6));
    faults.skip_resets();
    assert_eq!(faults.reset(), None);
}

#[test]
fn digests_are_made_one_after_the_other() {
    let engine = Engine::new(Script::parse("digest 1ms").unwrap(), None).unwrap();
    let mut faults = Faults::<u32>::new(&engine);
    for cid in 1..=3 {
        faults.arrived(1, &command(NvmOpcode::READ, cid, 0), 4096);
        let _ = faults.done(1, cid, Status::SUCCESS, 0);
    }
    let until = faults.due().unwrap().saturating_duration_since(std::time::Instant::now());
    assert!(until <= Duration::from_millis(4));
    wait(&mut faults);
    assert!(engine.now() >= 12 * MS, "twelve KiB take 12 ms");
}

#[test]
fn the_log_has_a_line_for_each_command() {
    let path = std::env::temp_dir().join(format!("doorbell-fault-log-{}", std::process::id()));
    let engine =
        Engine::new(Script::parse("latency fixed 1ms; error 2/81 every 4; drop every 5").unwrap(), Some(&path));
    let engine = engine.unwrap();
    let mut faults = Faults::<u32>::new(&engine);
    for cid in 1..=8 {
        let _ = take(&mut faults, cid);
    }
    wait(&mut faults);
    drop(faults);
    drop(engine);
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(path).unwrap();
    let lines: Vec<Vec<&str>> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 8, "{text}");
    for line in &lines {
        let [arrived, planned, posted, sent, "1", cid, "0x2", "0", "8", status, fate] = line[..] else {
            panic!("{line:?}")
        };
        let cid: u16 = cid.parse().unwrap();
        assert_eq!(status, if cid == 4 || cid == 8 { "2/81" } else { "0/00" });
        if cid == 5 {
            assert_eq!((planned, fate), ("never", "dropped"));
            continue;
        }
        let [arrived, planned, posted, sent] =
            [arrived, planned, posted, sent].map(|time| time.parse::<u64>().unwrap());
        assert!(planned == arrived + MS && posted >= planned && sent >= posted && fate == "-", "{line:?}");
    }
}
