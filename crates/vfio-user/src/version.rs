//! What both ends agree on first: a version and limits, in JSON.

use serde_json::{Value, json};
use zerocopy::IntoBytes;

use crate::{
    MOST_DATA, MOST_DMA_MAPS, MOST_FDS, Message, PAGE, Violation,
    wire::{VERSION_MAJOR, VERSION_MINOR, Version},
};

/// What an end can take. Where it says nothing, the protocol's defaults hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most descriptors in a message.
    pub max_msg_fds: u64,
    /// Most bytes of data in a message.
    pub max_data_xfer_size: u64,
    /// Sizes of pages that can be mapped, a bit each.
    pub pgsizes: u64,
    /// Most ranges that can be mapped (server).
    pub max_dma_maps: u64,
}

impl Limits {
    /// What this crate takes.
    pub const OURS: Self = Self {
        max_msg_fds: MOST_FDS as u64,
        max_data_xfer_size: MOST_DATA as u64,
        pgsizes: PAGE,
        max_dma_maps: MOST_DMA_MAPS as u64,
    };
    /// What holds for an end that says nothing.
    const DEFAULT: Self = Self { max_msg_fds: 1, max_data_xfer_size: 1 << 20, pgsizes: PAGE, max_dma_maps: 65535 };

    /// The body of a VERSION message, or of the reply to one with `minor`.
    pub(crate) fn announce(minor: u16) -> Vec<u8> {
        let Self { max_msg_fds, max_data_xfer_size, pgsizes, max_dma_maps } = Self::OURS;
        let capabilities = json!({
            "max_msg_fds": max_msg_fds,
            "max_data_xfer_size": max_data_xfer_size,
            "pgsizes": pgsizes,
            "max_dma_maps": max_dma_maps,
        });
        let version = Version { major: VERSION_MAJOR.into(), minor: minor.min(VERSION_MINOR).into() };
        let mut body = version.as_bytes().to_vec();
        body.extend(json!({ "capabilities": capabilities }).to_string().into_bytes());
        body.push(0);
        body
    }

    /// Reads a VERSION message or the reply to one: the minor version, and the sender's limits.
    ///
    /// # Errors
    /// When it speaks another version, or what it says cannot be.
    pub(crate) fn read(message: &Message) -> Result<(u16, Self), Violation> {
        let version: Version =
            message.read().ok_or_else(|| Violation(format!("VERSION of {} bytes", message.body.len())))?;
        if version.major.get() != VERSION_MAJOR {
            return Err(Violation(format!(
                "version {}.{} where {VERSION_MAJOR}.{VERSION_MINOR} is spoken",
                version.major, version.minor
            )));
        }
        let text = message.after::<Version>().split(|&byte| byte == 0).next().unwrap_or_default();
        let limits = Self::parse(text).map_err(|why| Violation(format!("VERSION: {why}")))?;
        Ok((version.minor.get(), limits))
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::DEFAULT);
        }
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let number = |name: &str, default: u64| match &value["capabilities"][name] {
            Value::Null => Ok(default),
            given => given.as_u64().ok_or_else(|| format!("{name} is {given}")),
        };
        Ok(Self {
            max_msg_fds: number("max_msg_fds", Self::DEFAULT.max_msg_fds)?,
            max_data_xfer_size: number("max_data_xfer_size", Self::DEFAULT.max_data_xfer_size)?,
            pgsizes: number("pgsizes", Self::DEFAULT.pgsizes)?,
            max_dma_maps: number("max_dma_maps", Self::DEFAULT.max_dma_maps)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Header;

    fn version(major: u16, json: &[u8]) -> Message {
        let mut body = Version { major: major.into(), minor: 7.into() }.as_bytes().to_vec();
        body.extend(json);
        Message { header: Header::default(), body, fds: Vec::new() }
    }

    #[test]
    fn what_we_say_is_read_as_it_was_meant() {
        let said = Message { header: Header::default(), body: Limits::announce(9), fds: Vec::new() };
        assert_eq!(Limits::read(&said), Ok((VERSION_MINOR, Limits::OURS)));
    }

    #[test]
    fn what_is_not_said_has_defaults_and_what_is_unknown_is_passed_over() {
        for json in ["", "\0", "{}\0", "{\"capabilities\":{\"twin_socket\":{\"supported\":true}},\"x\":1}\0", "[]", "7"]
        {
            assert_eq!(Limits::read(&version(0, json.as_bytes())), Ok((7, Limits::DEFAULT)), "{json}");
        }
        let some = version(0, b"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":512}}\0junk");
        let (_, limits) = Limits::read(&some).unwrap();
        assert_eq!((limits.max_msg_fds, limits.max_data_xfer_size, limits.pgsizes), (8, 512, 4096));
    }

    #[test]
    fn another_version_and_limits_that_cannot_be_are_named() {
        for (major, json, what) in [
            (1, "", "version 1.7"),
            (0, "{", "EOF"),
            (0, "{\"capabilities\":{\"max_msg_fds\":-1}}", "max_msg_fds is -1"),
            (0, "{\"capabilities\":{\"max_data_xfer_size\":0.5}}", "max_data_xfer_size is 0.5"),
            (0, "{\"capabilities\":{\"pgsizes\":\"4k\"}}", "pgsizes is \"4k\""),
        ] {
            let error = Limits::read(&version(major, json.as_bytes())).unwrap_err();
            assert!(error.0.contains(what), "{error}");
        }
        let short = Message { header: Header::default(), body: vec![0; 3], fds: Vec::new() };
        assert!(Limits::read(&short).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Limits::read(&version(0, &text));
        }
    }
}
