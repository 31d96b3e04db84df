//! The data pointer of a command over RDMA (RDMA 3.4, Base 4.3.2): data in the capsule, one piece of the host's memory by key, or a
//! list of such pieces in the capsule. All of it is the host's word, and is checked before anything is moved.

use doorbell_spec::{
    command::{Command, SglDescriptor, SglKind},
    status::{Status, generic},
};
use zerocopy::{FromZeros, IntoBytes};

/// Most keyed descriptors of a command (MSDBD).
pub(super) const MOST_DESCRIPTORS: u8 = 16;

/// A piece of the host's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) address: u64,
    pub(super) key: u32,
    /// Bytes.
    pub(super) len: u32,
}

/// Where the data of a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pointer {
    /// There is none.
    Nothing,
    /// Behind the command, `at` bytes into the capsule's data.
    InCapsule { at: u32, len: u32 },
    /// In the host's memory: `len` bytes in all. The answer invalidates a key where the host has asked for that.
    Remote { len: u32, invalidate: Option<u32> },
}

impl Pointer {
    /// Bytes of data.
    pub(super) fn len(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::InCapsule { len, .. } | Self::Remote { len, .. } => len,
        }
    }
}

/// Reads the data pointer of a command that came with `in_capsule` bytes behind it, which `read` copies from an offset. `remotes` takes
/// the pieces of the host's memory.
///
/// # Errors
/// The status to answer with.
pub(super) fn parse(
    command: &Command,
    in_capsule: u32,
    read: impl Fn(u32, &mut [u8]),
    remotes: &mut Vec<Remote>,
) -> Result<Pointer, Status> {
    remotes.clear();
    if !command.uses_sgl() {
        return Err(generic::INVALID_FIELD.with_dnr());
    }
    let first = command.sgl();
    match first.kind() {
        // A command without data leaves its data pointer clear.
        SglKind::DataBlock { address: 0, length: 0 } => Ok(Pointer::Nothing),
        SglKind::Keyed { length: 0, .. } => Ok(Pointer::Nothing),
        SglKind::Keyed { .. } => keyed(std::slice::from_ref(&first), remotes),
        SglKind::InCapsule { offset, length } => {
            let at = within(offset, length, in_capsule)?;
            Ok(if length == 0 { Pointer::Nothing } else { Pointer::InCapsule { at, len: length } })
        }
        SglKind::CapsuleSegment { offset, length } => {
            let size = size_of::<SglDescriptor>();
            let count = length as usize / size;
            if count == 0 || !(length as usize).is_multiple_of(size) {
                return Err(generic::INVALID_SGL_SEGMENT.with_dnr());
            }
            if count > MOST_DESCRIPTORS.into() {
                return Err(generic::INVALID_SGL_COUNT.with_dnr());
            }
            let at = within(offset, length, in_capsule)?;
            let mut list: [SglDescriptor; MOST_DESCRIPTORS as usize] = FromZeros::new_zeroed();
            let list = &mut list[..count];
            read(at, list.as_mut_bytes());
            keyed(list, remotes)
        }
        _ => Err(generic::SGL_TYPE_INVALID.with_dnr()),
    }
}

/// The offset of `length` bytes that must lie in a capsule's data.
fn within(offset: u64, length: u32, in_capsule: u32) -> Result<u32, Status> {
    let at = u32::try_from(offset).ok().filter(|&at| at <= in_capsule);
    let at = at.ok_or(generic::SGL_OFFSET_INVALID.with_dnr())?;
    if length > in_capsule - at { Err(generic::DATA_SGL_LENGTH_INVALID.with_dnr()) } else { Ok(at) }
}

fn keyed(list: &[SglDescriptor], remotes: &mut Vec<Remote>) -> Result<Pointer, Status> {
    let (mut sum, mut invalidated) = (0, None);
    for descriptor in list {
        let SglKind::Keyed { address, length: len, key, invalidate } = descriptor.kind() else {
            return Err(generic::SGL_TYPE_INVALID.with_dnr());
        };
        if address.checked_add(len.into()).is_none() {
            return Err(generic::DATA_SGL_LENGTH_INVALID.with_dnr());
        }
        if invalidate {
            // An answer can carry one key.
            invalidated.get_or_insert(key);
        }
        if len > 0 {
            remotes.push(Remote { address, key, len });
            sum += len;
        }
    }
    Ok(Pointer::Remote { len: sum, invalidate: invalidated })
}

#[cfg(test)]
mod tests {
    use doorbell_spec::command::{self, NvmOpcode};

    use super::*;

    const IN_CAPSULE: u32 = 4096;

    fn parsed(sgl: SglDescriptor, list: &[SglDescriptor]) -> (Result<Pointer, Status>, Vec<Remote>) {
        let mut command = command::write(1, 0, 8, 0);
        command.set_sgl(sgl);
        let mut remotes = vec![Remote::default()];
        let read = |at: u32, bytes: &mut [u8]| bytes.copy_from_slice(&list.as_bytes()[at as usize..][..bytes.len()]);
        (parse(&command, IN_CAPSULE, read, &mut remotes), remotes)
    }

    #[test]
    fn data_is_in_the_capsule_or_in_the_hosts_memory() {
        let far = SglDescriptor::keyed(0x1000, 512, 0x1234_5678, true);
        let remote = Remote { address: 0x1000, key: 0x1234_5678, len: 512 };
        assert_eq!(parsed(far, &[]), (Ok(Pointer::Remote { len: 512, invalidate: Some(remote.key) }), vec![remote]));
        let near = SglDescriptor::in_capsule(96, 4000);
        assert_eq!(parsed(near, &[]), (Ok(Pointer::InCapsule { at: 96, len: 4000 }), vec![]));
        for nothing in [SglDescriptor::default(), SglDescriptor::keyed(0, 0, 0, false), SglDescriptor::in_capsule(0, 0)]
        {
            assert_eq!(parsed(nothing, &[]), (Ok(Pointer::Nothing), vec![]));
        }
    }

    #[test]
    fn a_list_lies_in_the_capsule() {
        let list: Vec<_> = (0..16).map(|at| SglDescriptor::keyed(at << 20, 4096, at as u32, at > 2)).collect();
        let (pointer, remotes) = parsed(SglDescriptor::capsule_segment(0, 256), &list);
        assert_eq!(pointer, Ok(Pointer::Remote { len: 65536, invalidate: Some(3) }));
        assert_eq!(remotes.len(), 16);
        assert_eq!(remotes[15], Remote { address: 15 << 20, key: 15, len: 4096 });
        let (pointer, remotes) = parsed(SglDescriptor::capsule_segment(16, 32), &list);
        assert_eq!(pointer, Ok(Pointer::Remote { len: 8192, invalidate: None }));
        assert_eq!(remotes[0].key, 1);
    }

    #[test]
    fn what_a_host_must_not_say_is_answered_with_its_status() {
        let list = [SglDescriptor::keyed(0, 512, 1, false), SglDescriptor::data_block(0, 512)];
        for (sgl, status) in [
            (SglDescriptor::data_block(0x1000, 512), generic::SGL_TYPE_INVALID),
            (SglDescriptor::transport(512), generic::SGL_TYPE_INVALID),
            (SglDescriptor::bit_bucket(512), generic::SGL_TYPE_INVALID),
            (SglDescriptor::segment(0, 32), generic::SGL_TYPE_INVALID),
            (SglDescriptor::last_segment(0, 32), generic::SGL_TYPE_INVALID),
            (SglDescriptor::capsule_segment(0, 32), generic::SGL_TYPE_INVALID),
            (SglDescriptor::capsule_segment(0, 272), generic::INVALID_SGL_COUNT),
            (SglDescriptor::capsule_segment(0, 0), generic::INVALID_SGL_SEGMENT),
            (SglDescriptor::capsule_segment(0, 24), generic::INVALID_SGL_SEGMENT),
            (SglDescriptor::capsule_segment(4096, 16), generic::DATA_SGL_LENGTH_INVALID),
            (SglDescriptor::capsule_segment(u64::MAX, 16), generic::SGL_OFFSET_INVALID),
            (SglDescriptor::in_capsule(4097, 1), generic::SGL_OFFSET_INVALID),
            (SglDescriptor::in_capsule(1 << 32, 1), generic::SGL_OFFSET_INVALID),
            (SglDescriptor::in_capsule(0, 4097), generic::DATA_SGL_LENGTH_INVALID),
            (SglDescriptor::in_capsule(4096, 1), generic::DATA_SGL_LENGTH_INVALID),
            (SglDescriptor::in_capsule(1, u32::MAX), generic::DATA_SGL_LENGTH_INVALID),
            (SglDescriptor::keyed(u64::MAX, 512, 1, false), generic::DATA_SGL_LENGTH_INVALID),
        ] {
            assert_eq!(parsed(sgl, &list).0, Err(status.with_dnr()), "{sgl:?}");
        }
    }

    #[test]
    fn prp_entries_do_not_go_over_a_wire() {
        let mut command = Command::new(NvmOpcode::READ.0, 1);
        command.flags = 0;
        let refused = parse(&command, 0, |_, _| unreachable!(), &mut Vec::new());
        assert_eq!(refused, Err(generic::INVALID_FIELD.with_dnr()));
    }
}
