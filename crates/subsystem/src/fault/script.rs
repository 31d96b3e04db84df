//! The script: statements separated by semicolons or lines, each a verb with its values and the conditions on the command.

use std::{fs, path::Path};

use doorbell_spec::{
    command::{Command, NvmOpcode},
    status::Status,
};

use super::latency::{Histogram, Latency};

/// Nanoseconds of the longest time that a script can name, about a day.
const LONGEST: f64 = 1e14;

/// What a target does wrong, and when.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    pub(super) seed: u64,
    pub(super) rules: Vec<Rule>,
    pub(super) stalls: Vec<(When, u64)>,
    pub(super) resets: Vec<(When, Target)>,
    /// Nanoseconds a KiB of data under a digest.
    pub(super) digest: u64,
    /// Latencies are kept as in Intel's drives, for hosts that ask.
    pub(super) intel_latency: bool,
    /// Nanoseconds between two completions; 0 for no limit.
    pub(super) interval: f64,
}

/// What happens to the commands that a match picks.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) deed: Deed,
    pub(super) pick: Pick,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Deed {
    Delay(Latency),
    Fail(Status),
    Drop,
    Duplicate,
    Damage(Damage),
}

/// What becomes of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A write that is not carried out.
    DroppedWrite,
    /// One of which half is.
    TornWrite,
    /// One that goes to other blocks.
    WrongLba,
    /// A read that brings what was there before the last write.
    StaleRead,
    /// One with a bit flipped.
    FlippedBit,
}

impl Damage {
    /// Whether it is done to reads; the others are done to writes.
    pub(super) fn is_of_reads(self) -> bool {
        matches!(self, Self::StaleRead | Self::FlippedBit)
    }
}

/// Which commands a rule is about: those that meet all conditions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pick {
    opcode: Option<u8>,
    nsid: Option<u32>,
    lbas: Option<(u64, u64)>,
    /// One of so many that meet the conditions above.
    pub(super) every: u64,
    /// And of these each with this probability.
    pub(super) rate: f64,
}

/// What a reset takes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Connection,
    Controller,
}

/// A moment, or one each period, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    At(u64),
    Every(u64),
}

impl When {
    /// The last such moment that is not after `now`.
    pub(super) fn last(self, now: u64) -> Option<u64> {
        match self {
            Self::At(at) => (at <= now).then_some(at),
            Self::Every(period) => (period <= now).then(|| now / period * period),
        }
    }

    /// The first such moment after `now`.
    pub(super) fn next(self, now: u64) -> Option<u64> {
        match self {
            Self::At(at) => (at > now).then_some(at),
            Self::Every(period) => Some((now / period + 1) * period),
        }
    }
}

impl Pick {
    /// Whether a command meets the conditions that are its own.
    pub(super) fn covers(&self, command: &Command) -> bool {
        let reaches = |(first, last): (u64, u64)| {
            let blocks = match NvmOpcode(command.opc) {
                NvmOpcode::READ
                | NvmOpcode::WRITE
                | NvmOpcode::COMPARE
                | NvmOpcode::WRITE_ZEROES
                | NvmOpcode::VERIFY => u64::from(command.block_count()),
                // They name a zone.
                NvmOpcode::ZONE_APPEND | NvmOpcode::ZONE_MANAGEMENT_SEND | NvmOpcode::ZONE_MANAGEMENT_RECEIVE => 1,
                _ => return false,
            };
            let slba = command.slba();
            slba <= last && slba.saturating_add(blocks) > first
        };
        self.opcode.is_none_or(|opcode| opcode == command.opc)
            && self.nsid.is_none_or(|nsid| nsid == command.nsid.get())
            && self.lbas.is_none_or(reaches)
    }
}

impl Script {
    /// Whether data of a namespace is read or written in other pieces than hosts ask for.
    pub(crate) fn rewrites(&self, nsid: u32) -> bool {
        self.rules.iter().any(|rule| {
            let anew = [Damage::TornWrite, Damage::StaleRead, Damage::FlippedBit];
            matches!(rule.deed, Deed::Damage(damage) if anew.contains(&damage))
                && rule.pick.nsid.is_none_or(|only| only == nsid)
        })
    }

    /// Reads a script: `text` itself, or the file that it names.
    ///
    /// # Errors
    /// Which statement is wrong, and why.
    pub fn load(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        if !path.is_file() {
            return Self::parse(text);
        }
        let read = fs::read_to_string(path).map_err(|why| format!("cannot read the fault script {text}: {why}"))?;
        Self::parse(&read).map_err(|why| format!("{text}: {why}"))
    }

    /// Reads a script from its text.
    ///
    /// # Errors
    /// Which statement is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self { seed: 1, ..Self::default() };
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        for statement in lines.flat_map(|line| line.split(';')).map(str::trim).filter(|text| !text.is_empty()) {
            let mut words = Words(statement.split_whitespace().collect());
            let taken = script.take(&mut words).and_then(|()| words.end());
            taken.map_err(|why| format!("fault script: \"{statement}\": {why}"))?;
        }
        Ok(script)
    }

    fn take(&mut self, words: &mut Words<'_>) -> Result<(), String> {
        match words.next("a verb")? {
            "seed" => self.seed = number(words.next("a number")?)?,
            "latency" => {
                let latency = latency(words)?;
                self.rule(Deed::Delay(latency), words)?;
            }
            "error" => {
                let status = status(words.next("a status as SCT/SC, in hexadecimal")?)?;
                self.rule(Deed::Fail(status), words)?;
            }
            "drop" => self.rule(Deed::Drop, words)?,
            "duplicate" => self.rule(Deed::Duplicate, words)?,
            "intel-latency" => self.intel_latency = true,
            "corrupt" => {
                let damage = match words.next("a kind of damage")? {
                    "dropped-write" => Damage::DroppedWrite,
                    "torn-write" => Damage::TornWrite,
                    "wrong-lba" => Damage::WrongLba,
                    "stale-read" => Damage::StaleRead,
                    "flipped-bit" => Damage::FlippedBit,
                    other => {
                        return Err(format!(
                            "\"{other}\" is not one of dropped-write, torn-write, wrong-lba, stale-read and flipped-bit"
                        ));
                    }
                };
                self.rule(Deed::Damage(damage), words)?;
                let of = if damage.is_of_reads() { NvmOpcode::READ.0 } else { NvmOpcode::WRITE.0 };
                if let Some(rule) = self.rules.last_mut()
                    && *rule.pick.opcode.get_or_insert(of) != of
                {
                    return Err("this is done to reads or to writes by itself; leave \"on\" out".into());
                }
            }
            "digest" => self.digest = time(words.next("a time a KiB")?)?,
            "limit" => self.interval = 1e9 / rate(words.next("commands a second")?)?,
            "stall" => {
                let span = time(words.next("a time")?)?;
                let when = when(words)?;
                if matches!(when, When::Every(period) if period <= span) {
                    return Err("a stall must end before the next begins".into());
                }
                self.stalls.push((when, span));
            }
            "reset" => {
                let target = match words.next("connection or controller")? {
                    "connection" => Target::Connection,
                    "controller" => Target::Controller,
                    other => return Err(format!("\"{other}\" is not connection or controller")),
                };
                self.resets.push((when(words)?, target));
            }
            other => {
                return Err(format!(
                    "\"{other}\" is not one of seed, latency, error, drop, duplicate, corrupt, digest, intel-latency, limit, stall and reset"
                ));
            }
        }
        Ok(())
    }

    fn rule(&mut self, deed: Deed, words: &mut Words<'_>) -> Result<(), String> {
        let mut pick = Pick { opcode: None, nsid: None, lbas: None, every: 1, rate: 1.0 };
        while let Some(word) = words.peek() {
            words.0.remove(0);
            match word {
                "on" => pick.opcode = Some(opcode(words.next("an opcode")?)?),
                "nsid" => pick.nsid = Some(number(words.next("a namespace identifier")?)?),
                "lba" => {
                    let text = words.next("a range of blocks, FIRST-LAST")?;
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    let (first, last) = (number(first)?, number(last)?);
                    if last < first {
                        return Err(format!("the blocks {first}-{last} end before they begin"));
                    }
                    pick.lbas = Some((first, last));
                }
                "every" => match number(words.next("a number")?)? {
                    0 => return Err("every 0 commands is never; leave the rule out".into()),
                    every => pick.every = every,
                },
                "rate" => pick.rate = share(words.next("a percentage")?)?,
                other => return Err(format!("\"{other}\" is not one of on, nsid, lba, every and rate")),
            }
        }
        if let (Some(opcode), Some(_)) = (pick.opcode.map(NvmOpcode), pick.lbas)
            && matches!(opcode, NvmOpcode::DATASET_MANAGEMENT | NvmOpcode::FLUSH)
        {
            return Err(format!("{opcode} names no blocks that \"lba\" could be held against; leave it out"));
        }
        self.rules.push(Rule { deed, pick });
        Ok(())
    }
}

/// What is left of a statement.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.0.first().copied()
    }

    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        if self.0.is_empty() { Err(format!("{what} is missing")) } else { Ok(self.0.remove(0)) }
    }

    fn end(&self) -> Result<(), String> {
        self.peek().map_or(Ok(()), |word| Err(format!("\"{word}\" is one word too many")))
    }
}

fn latency(words: &mut Words<'_>) -> Result<Latency, String> {
    Ok(match words.next("a distribution")? {
        "fixed" => Latency::Fixed(time(words.next("a time")?)?),
        "uniform" => {
            let (low, high) = (time(words.next("a time")?)?, time(words.next("a second time")?)?);
            if high < low {
                return Err("the second time is less than the first".into());
            }
            Latency::Uniform(low, high)
        }
        "bimodal" => {
            let (usual, other) = (time(words.next("a time")?)?, time(words.next("a second time")?)?);
            Latency::Bimodal(usual, other, share(words.next("a percentage for the second time")?)?)
        }
        "lognormal" => {
            let (median, text) = (time(words.next("the median")?)?, words.next("sigma")?);
            match text.parse() {
                Ok(sigma) if (0.0..=5.0).contains(&sigma) => Latency::LogNormal(median, sigma),
                _ => return Err(format!("sigma \"{text}\" is not a number from 0 to 5")),
            }
        }
        "histogram" => Latency::Histogram(histogram(words.next("a file")?)?),
        other => return Err(format!("\"{other}\" is not one of fixed, uniform, bimodal, lognormal and histogram")),
    })
}

/// A file of lines `LOW HIGH COUNT` or `TIME COUNT`.
fn histogram(path: &str) -> Result<Histogram, String> {
    let text = fs::read_to_string(path).map_err(|why| format!("cannot read {path}: {why}"))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let ranges = lines.map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|line| !line.is_empty());
    let ranges = ranges.map(|line| match *line {
        [low, high, count] => Ok((time(low)?, time(high)?, number(count)?)),
        [at, count] => Ok((time(at)?, time(at)?, number(count)?)),
        _ => Err(format!("\"{}\" is not LOW HIGH COUNT or TIME COUNT", line.join(" "))),
    });
    let ranges: Result<Vec<_>, String> = ranges.collect();
    ranges.and_then(|ranges| Histogram::new(ranges.into_iter())).map_err(|why| format!("{path}: {why}"))
}

fn when(words: &mut Words<'_>) -> Result<When, String> {
    let word = words.next("at or every")?;
    let moment = time(words.next("a time")?)?;
    match word {
        "at" => Ok(When::At(moment)),
        "every" if moment > 0 => Ok(When::Every(moment)),
        "every" => Err("a period of 0 never ends".into()),
        other => Err(format!("\"{other}\" is not at or every")),
    }
}

fn opcode(text: &str) -> Result<u8, String> {
    Ok(match text {
        "flush" => NvmOpcode::FLUSH.0,
        "write" => NvmOpcode::WRITE.0,
        "read" => NvmOpcode::READ.0,
        "compare" => NvmOpcode::COMPARE.0,
        "write-zeroes" => NvmOpcode::WRITE_ZEROES.0,
        "dsm" => NvmOpcode::DATASET_MANAGEMENT.0,
        other => hexadecimal(other)
            .map_err(|why| format!("{why}, nor one of flush, write, read, compare, write-zeroes and dsm"))?,
    })
}

fn status(text: &str) -> Result<Status, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (sct, sc, dnr) = match *parts {
        [sct, sc] => (sct, sc, false),
        [sct, sc, "dnr"] => (sct, sc, true),
        _ => return Err(format!("\"{text}\" is not SCT/SC or SCT/SC/dnr")),
    };
    let status = Status { dnr, ..Status::new(hexadecimal(sct)?, hexadecimal(sc)?) };
    match (status.sct, status.is_success()) {
        (8.., _) => Err(format!("status code types are 0 to 7, not {:x}", status.sct)),
        (_, true) => Err("0/0 is success".into()),
        _ => Ok(status),
    }
}

fn hexadecimal(text: &str) -> Result<u8, String> {
    let digits = text.strip_prefix("0x").or(text.strip_suffix('h')).unwrap_or(text);
    u8::from_str_radix(digits, 16).map_err(|_| format!("\"{text}\" is not a hexadecimal number up to ff"))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not a number that can be here"))
}

/// A time with its unit, in nanoseconds.
fn time(text: &str) -> Result<u64, String> {
    let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9)];
    let parse = |(unit, scale)| text.strip_suffix(unit)?.parse::<f64>().ok().map(|count| count * scale);
    match units.into_iter().find_map(parse) {
        Some(nanoseconds) if (0.0..=LONGEST).contains(&nanoseconds) => Ok(nanoseconds.round() as u64),
        Some(_) => Err(format!("{text} is not between 0 and a day")),
        None => Err(format!("\"{text}\" is not a time like 100us, 2.5ms or 1s")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let (digits, scale) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1e3),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1.0), |digits| (digits, 1e6)),
    };
    match digits.parse::<f64>().map(|count| count * scale) {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err(format!("\"{text}\" is not a rate like 500, 10k or 1.5M")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%').map(str::parse::<f64>) {
        Some(Ok(percent)) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!("\"{text}\" is not a percentage like 0.1%")),
    }
}
