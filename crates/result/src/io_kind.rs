//! What an I/O does.

use std::fmt;

/// The operation of an I/O, after the command that carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IoKind {
    /// Read.
    #[default]
    Read,
    /// Write.
    Write,
    /// Dataset Management with the attribute Deallocate.
    Trim,
    /// Write Zeroes.
    WriteZeroes,
    /// Verify.
    Verify,
    /// Compare.
    Compare,
    /// Flush.
    Flush,
    /// Zone Append.
    Append,
}

impl IoKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Write,
        Self::Trim,
        Self::WriteZeroes,
        Self::Verify,
        Self::Compare,
        Self::Flush,
        Self::Append,
    ];

    /// The word for it on the command line and in the document.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Trim => "trim",
            Self::WriteZeroes => "write_zeroes",
            Self::Verify => "verify",
            Self::Compare => "compare",
            Self::Flush => "flush",
            Self::Append => "append",
        }
    }
}

impl fmt::Display for IoKind {
    /// As messages begin with it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Trim => "Deallocate",
            Self::WriteZeroes => "Write Zeroes",
            Self::Verify => "Verify",
            Self::Compare => "Compare",
            Self::Flush => "Flush",
            Self::Append => "Zone Append",
        })
    }
}
