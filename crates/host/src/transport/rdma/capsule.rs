//! How a command capsule says where its data is (NVMe/RDMA 3.2.2): one keyed descriptor, a list of them behind the command, or data
//! behind the command. Made once a slot, when its memory is prepared.

use doorbell_platform::{Range, Region, memory::push_joined};
use doorbell_spec::command::{Command, Dptr, SglDescriptor};

use zerocopy::IntoBytes;

use crate::transport::Capsule;

/// Bytes of a command.
pub(super) const COMMAND: u32 = size_of::<Command>() as u32;
/// Bytes of a descriptor.
const DESCRIPTOR: u32 = size_of::<SglDescriptor>() as u32;
/// Most descriptors of a command, whatever the controller takes.
const MOST_DESCRIPTORS: u16 = 16;
/// Most bytes of a keyed descriptor whose length has 24 bits: whole pages, so that what is cut there stays aligned.
const MOST_KEYED: u32 = (1 << 24) - 4096;

/// Where the peer finds a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The address of its first byte.
    pub address: u64,
    /// The key.
    pub key: u32,
}

/// What the commands of a slot have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// The data pointer for data that the controller reads or writes by RDMA.
    pub pointer: [u64; 2],
    /// Bytes of a capsule with it.
    pub bytes: u32,
    /// The data and the pointer of a capsule that brings it along, where it fits.
    pub inside: Option<(Range, [u64; 2])>,
    /// Whether there is any data.
    pub has_data: bool,
}

impl Template {
    /// No data: a keyed descriptor of no bytes.
    pub fn empty() -> Self {
        Self { pointer: words(SglDescriptor::keyed(0, 0, 0, false)), bytes: COMMAND, inside: None, has_data: false }
    }
}

/// What a queue's capsules may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Most data bytes in a capsule.
    data_bytes: u32,
    /// Bytes between the command and the data, or the list.
    offset: u32,
    /// Most descriptors of a command.
    descriptors: u16,
}

impl Rules {
    /// As the controller has it: a list takes the room of data.
    pub fn new(capsule: Capsule) -> Self {
        let room = (capsule.data_bytes / DESCRIPTOR).min(MOST_DESCRIPTORS.into()) as u16;
        let descriptors = capsule.descriptors.min(room).max(1);
        Self { data_bytes: capsule.data_bytes, offset: capsule.data_offset, descriptors }
    }

    /// Most descriptors of a command.
    pub fn descriptors(&self) -> u16 {
        self.descriptors
    }

    /// Most data bytes of a command.
    pub fn most_bytes(&self) -> u32 {
        MOST_KEYED * u32::from(self.descriptors)
    }

    /// Bytes from the start of a capsule to its data or list.
    pub fn data_at(&self) -> u32 {
        COMMAND + self.offset
    }

    /// Most bytes of a capsule, without data in it.
    pub fn capsule_bytes(&self) -> u32 {
        match (self.descriptors, self.data_bytes) {
            (1, 0) => COMMAND,
            (1, _) => self.data_at(),
            (descriptors, _) => self.data_at() + u32::from(descriptors) * DESCRIPTOR,
        }
    }

    /// Describes `data` of a region; `pieces` holds the descriptors of a list afterwards. Each range keeps a descriptor of its own
    /// where the controller takes so many; else those that touch share one.
    ///
    /// # Errors
    /// When it lies in more places than a command has descriptors for.
    pub fn describe(&self, data: &[Range], reach: Reach, pieces: &mut Vec<Range>) -> Result<Template, String> {
        let most = usize::from(self.descriptors);
        pieces.clear();
        data.iter().for_each(|&range| push_joined(pieces, range));
        let together = match pieces[..] {
            [range] if range.len <= self.data_bytes && range.len > 0 => Some(range),
            _ => None,
        };
        if data.len() <= most && data.iter().all(|range| (1..=MOST_KEYED).contains(&range.len)) {
            pieces.clear();
            pieces.extend_from_slice(data);
        }
        cut(pieces);
        if pieces.len() > most {
            let count = pieces.len();
            return Err(format!(
                "the data lies in {count} places, a command has {most} descriptors here (MSDBD, IOCCSZ)"
            ));
        }
        let list = pieces.len() as u32 * DESCRIPTOR;
        let (pointer, bytes) = match pieces[..] {
            [] => return Ok(Template::empty()),
            [piece] => (keyed(piece, reach), COMMAND),
            _ => (SglDescriptor::capsule_segment(0, list), self.data_at() + list),
        };
        let inside = together.map(|range| (range, words(SglDescriptor::in_capsule(0, range.len))));
        Ok(Template { pointer: words(pointer), bytes, inside, has_data: true })
    }
}

/// Writes the list of `pieces` of a region to its place `at` in the memory of capsules.
pub(super) fn write_list(capsules: &Region, at: u64, pieces: &[Range], reach: Reach) {
    for (index, &piece) in pieces.iter().enumerate() {
        capsules.write(at + index as u64 * u64::from(DESCRIPTOR), keyed(piece, reach).as_bytes());
    }
}

/// The descriptor of a piece of a region.
fn keyed(piece: Range, reach: Reach) -> SglDescriptor {
    SglDescriptor::keyed(reach.address + piece.offset, piece.len, reach.key, false)
}

/// Drops what is empty and cuts what is longer than a descriptor can say.
fn cut(pieces: &mut Vec<Range>) {
    pieces.retain(|piece| piece.len > 0);
    let mut at = 0;
    while at < pieces.len() {
        let piece = pieces[at];
        if piece.len > MOST_KEYED {
            pieces[at].len = MOST_KEYED;
            pieces.insert(at + 1, piece.part(MOST_KEYED, u32::MAX));
        }
        at += 1;
    }
}

fn words(descriptor: SglDescriptor) -> [u64; 2] {
    zerocopy::transmute!(Dptr::from(descriptor))
}
