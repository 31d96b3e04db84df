//! The help texts of `doorbell perf`, made from the option table. Called by [`super::parse`] for `-h` and
//! `-v`, and for the usage text that follows some errors.

use super::table::{Entry, Group, State, TABLE};

/// No line of a help text is longer.
const COLUMNS: usize = 100;
/// Where the descriptions start.
const INDENT: usize = 34;

const USAGE: &str = "Usage: doorbell perf [OPTION]...\n\
    Measures NVMe storage. Takes the command lines of spdk_nvme_perf. BYTES, and N of -q, -d and\n\
    --io-queue-size, may end in k, m or g (times 1024, 1024^2, 1024^3).\n";

const EXAMPLES: &str = "
Examples:
  A target inside this process, no device needed:
    doorbell perf --embedded
  70 % random reads on an NVMe/TCP target, two cores, latency histogram:
    doorbell perf -r 'trtype:TCP adrfam:IPv4 traddr:192.168.0.10 trsvcid:4420' \\
      -q 128 -o 4096 -w randrw -M 70 -t 30 -c 0x3 -LL
";

const MORE_EXAMPLES: &str = "  A local drive, sleeping when it has nothing to tell; all local drives without -r:
    doorbell perf -q 32 -o 4096 -w randread -t 10 --poll-mode adaptive \\
      -r 'trtype:PCIe traddr:0000:5e:00.0'
  One namespace of one subsystem, header and data digests, four connections:
    doorbell perf -HI -P 4 -q 64 -o 128k -w write -t 10 \\
      -r 'trtype:TCP traddr:192.168.0.10 trsvcid:4420 subnqn:nqn.2014-08.org.example:disk ns:1'
";

/// `-h`: the essential options and doorbell's own, and two examples.
pub fn short() -> String {
    let mut text = USAGE.to_string();
    group(&mut text, Group::Essential);
    group(&mut text, Group::Own);
    text.push_str(EXAMPLES);
    text.push_str("\nAll options: doorbell perf --help-full\n");
    text
}

/// `-v`: everything.
pub fn full() -> String {
    let mut text = USAGE.to_string();
    for each in Group::ALL {
        group(&mut text, each);
    }
    text.push_str(EXAMPLES);
    text.push_str(MORE_EXAMPLES);
    text
}

fn group(text: &mut String, group: Group) {
    text.push_str(&format!("\n{}:\n", group.heading()));
    for entry in TABLE.iter().filter(|e| e.group == group) {
        option(text, entry);
    }
}

fn option(text: &mut String, entry: &Entry) {
    let short = entry.short.map_or("    ".into(), |s| format!("-{s}, "));
    let blank = if entry.is_optional() { "" } else { " " };
    let value = entry.value.map_or(String::new(), |v| format!("{blank}{v}"));
    let mut line = format!("  {short}--{}{value}", entry.long);
    if line.len() + 2 > INDENT {
        text.push_str(&line);
        text.push('\n');
        line.clear();
    }
    let state = match entry.state {
        State::Built => None,
        State::Later => Some("[not built yet]"),
        State::Refused => Some("[refused: not part of doorbell]"),
    };
    for word in entry.help.split(' ').chain(state) {
        if line.len() + 1 + word.len() > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line.clear();
        }
        if line.len() < INDENT {
            line = format!("{line:INDENT$}");
        } else {
            line.push(' ');
        }
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits() {
        for line in full().lines().chain(short().lines()) {
            assert!(line.len() <= COLUMNS, "{line}");
            assert_eq!(line.trim_end(), line);
        }
    }

    #[test]
    fn full_help_shows_every_option_once_in_its_group() {
        let text = full();
        let mut rest = text.as_str();
        for each in Group::ALL {
            let heading = format!("\n{}:\n", each.heading());
            let (_, after) = rest.split_once(&heading).expect("heading in order");
            let block = after.split("\n\n").next().expect("a block");
            for entry in TABLE.iter().filter(|e| e.group == each) {
                let option = |line: &&str| {
                    let mut words = line.split_whitespace();
                    words.any(|w| w.split('[').next() == Some(&format!("--{}", entry.long)))
                        && line.trim_start().starts_with('-')
                };
                assert_eq!(block.lines().filter(option).count(), 1, "{}", entry.long);
            }
            rest = after;
        }
    }

    #[test]
    fn short_help_has_two_examples_and_points_to_the_full_one() {
        let text = short();
        assert_eq!(text.matches("\n    doorbell perf ").count(), 2);
        assert!(text.contains("--io-depth") && text.contains("--help-full"));
        assert!(!text.contains("--rdma-srq-size"));
    }
}
