//! The GNU `getopt_long` grammar (getopt(3)) over the option table: permutation, `--`, bundled short
//! options, `--name value` and `--name=value`, unambiguous prefixes. Called by [`super::parse`], which
//! handles the items in the order in which they stand on the command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::table::{Entry, Group};

/// One thing found on the command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// An option, with its value if its entry takes one.
    Option(&'static Entry, Option<OsString>),
    /// A positional argument; it may stand before, between or after options.
    Positional(OsString),
}

/// Walks the arguments (without the program's name) and yields an item or what is wrong with an argument.
pub struct Getopt<I> {
    table: &'static [Entry],
    args: I,
    /// What is left of an argument of bundled short options.
    bundle: Vec<u8>,
    /// `--` was seen: all the rest is positional.
    ended: bool,
}

impl<I: Iterator<Item = OsString>> Getopt<I> {
    /// A walk over `args` with the options of `table`.
    pub fn new(table: &'static [Entry], args: I) -> Self {
        Self { table, args, bundle: Vec::new(), ended: false }
    }

    fn short(&mut self) -> Result<Item, String> {
        let letter = char::from(self.bundle.remove(0));
        let Some(entry) = self.table.iter().find(|e| e.short == Some(letter)) else {
            return Err(format!("unknown option -{letter}"));
        };
        let value = match (entry.value, self.bundle.is_empty()) {
            (None, _) => None,
            (Some(_), false) => Some(OsString::from_vec(std::mem::take(&mut self.bundle))),
            (Some(_), true) => Some(self.next_value(entry)?),
        };
        Ok(Item::Option(entry, value))
    }

    fn long(&mut self, text: &[u8]) -> Result<Item, String> {
        let (name, inline) = match text.iter().position(|&b| b == b'=') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let entry = self.named(&String::from_utf8_lossy(name))?;
        let value = match (entry.value, inline) {
            (None, None) => None,
            (None, Some(_)) => return Err(format!("option --{} takes no value", entry.long)),
            (Some(_), Some(value)) => Some(OsStr::from_bytes(value).to_owned()),
            (Some(_), None) if entry.is_optional() => None,
            (Some(_), None) => Some(self.next_value(entry)?),
        };
        Ok(Item::Option(entry, value))
    }

    /// The entry of a long name or of a prefix of one. Our own options are considered last, so that every
    /// abbreviation of a compatible option keeps its meaning.
    fn named(&self, name: &str) -> Result<&'static Entry, String> {
        if let Some(entry) = self.table.iter().find(|e| e.long == name) {
            return Ok(entry);
        }
        let starting = |own: bool| -> Vec<&'static Entry> {
            self.table
                .iter()
                .filter(|e| !name.is_empty() && e.long.starts_with(name))
                .filter(|e| (e.group == Group::Own) == own)
                .collect()
        };
        let mut found = starting(false);
        if found.is_empty() {
            found = starting(true);
        }
        match found.as_slice() {
            [] => Err(format!("unknown option --{name}")),
            [entry] => Ok(entry),
            several => {
                let names: Vec<String> = several.iter().map(|e| format!("--{}", e.long)).collect();
                let names = names.join(", ");
                Err(format!("option --{name} is ambiguous; it could be {names}"))
            }
        }
    }

    fn next_value(&mut self, entry: &Entry) -> Result<OsString, String> {
        let missing = || format!("option {} requires a value", entry.label());
        self.args.next().ok_or_else(missing)
    }
}

impl<I: Iterator<Item = OsString>> Iterator for Getopt<I> {
    type Item = Result<Item, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.bundle.is_empty() {
            return Some(self.short());
        }
        let arg = self.args.next()?;
        match arg.as_bytes() {
            _ if self.ended => Some(Ok(Item::Positional(arg))),
            b"--" => {
                self.ended = true;
                self.next()
            }
            [b'-', b'-', text @ ..] => Some(self.long(text)),
            [b'-', letters @ ..] if !letters.is_empty() => {
                self.bundle = letters.to_vec();
                Some(self.short())
            }
            _ => Some(Ok(Item::Positional(arg))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::TABLE;
    use super::*;

    fn walk(args: &[&str]) -> Vec<String> {
        Getopt::new(TABLE, args.iter().map(OsString::from))
            .map(|item| match item {
                Ok(Item::Option(entry, Some(value))) => {
                    format!("{}={}", entry.long, value.to_string_lossy())
                }
                Ok(Item::Option(entry, None)) => entry.long.to_string(),
                Ok(Item::Positional(arg)) => format!("<{}>", arg.to_string_lossy()),
                Err(message) => format!("! {message}"),
            })
            .collect()
    }

    #[test]
    fn values_attached_and_apart() {
        assert_eq!(walk(&["-q32"]), ["io-depth=32"]);
        assert_eq!(walk(&["-q", "32"]), ["io-depth=32"]);
        assert_eq!(walk(&["--io-depth", "32"]), ["io-depth=32"]);
        assert_eq!(walk(&["--io-depth=32"]), ["io-depth=32"]);
        assert_eq!(walk(&["--io-depth="]), ["io-depth="]);
        assert_eq!(walk(&["-r", "a=b", "--transport=c=d"]), ["transport=a=b", "transport=c=d"]);
    }

    #[test]
    fn a_value_may_look_like_an_option() {
        assert_eq!(walk(&["-c", "--lcores=1"]), ["core-mask=--lcores=1"]);
        assert_eq!(walk(&["-q", "--", "-m"]), ["io-depth=--", "cpu-usage"]);
    }

    #[test]
    fn short_options_bundle() {
        let hi = ["enable-tcp-hdgst", "enable-tcp-ddgst"];
        assert_eq!(walk(&["-HI"]), hi);
        assert_eq!(walk(&["-LLq8"])[2], "io-depth=8");
        assert_eq!(walk(&["-HX"])[1], "! unknown option -X");
    }

    #[test]
    fn positionals_permute_and_two_dashes_end_options() {
        assert_eq!(
            walk(&["/dev/ram0", "-m", "f", "--", "-m", "--", "-"]),
            ["</dev/ram0>", "cpu-usage", "<f>", "<-m>", "<-->", "<->"]
        );
        assert_eq!(walk(&["-"]), ["<->"]);
    }

    #[test]
    fn prefixes() {
        assert_eq!(walk(&["--transport-stat"]), ["transport-stats"]);
        assert_eq!(walk(&["--transport=x"]), ["transport=x"]);
        assert_eq!(walk(&["--help"]), ["help"]);
        assert_eq!(
            walk(&["--enable-t"]),
            ["! option --enable-t is ambiguous; it could be --enable-tcp-hdgst, --enable-tcp-ddgst"]
        );
        assert_eq!(walk(&["--"]), [""; 0]);
        assert_eq!(walk(&["--=x"]), ["! unknown option --"]);
    }

    #[test]
    fn our_own_options_take_no_abbreviation_away() {
        assert_eq!(walk(&["--s", "3"]), ["shmem-grp-id=3"]);
        assert_eq!(walk(&["--see", "3"]), ["seed=3"]);
        assert_eq!(walk(&["--em"]), ["embedded"]);
        assert_eq!(walk(&["--tim", "3", "--time=4", "--timeo=5"]), ["time=3", "time=4", "timeout=5"]);
    }

    #[test]
    fn errors_name_the_option() {
        assert_eq!(walk(&["-q"]), ["! option -q (--io-depth) requires a value"]);
        assert_eq!(walk(&["--fua=1"]), ["! option --fua takes no value"]);
        assert_eq!(walk(&["--bogus=1"]), ["! unknown option --bogus"]);
    }

    #[test]
    fn every_name_is_its_own() {
        for (at, one) in TABLE.iter().enumerate() {
            for other in &TABLE[at + 1..] {
                assert_ne!(one.long, other.long);
                assert!(one.short.is_none() || one.short != other.short, "{}", one.long);
            }
        }
    }
}
