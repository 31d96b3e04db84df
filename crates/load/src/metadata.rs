//! The metadata of blocks: what of it commands move, and protection information that is made for what is written and looked at in
//! what was read, by this process rather than the controller.

use doorbell_platform::Region;
use doorbell_queue::protection::{Blocks, Layout};
use doorbell_spec::{
    command::{Direction, control, data_direction},
    protection::{Expected, Format, Mismatch, Type},
};

use crate::{classes::Class, plan::Shape};

/// Wrong blocks that are told of one by one.
const TOLD: usize = 8;

/// What is to be done about protection information, `-e`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protect {
    /// The controller makes it of what is written, and takes it away from what is read where the metadata is nothing else (PRACT).
    pub by_controller: bool,
    /// Which fields are looked at: the PRCHK bits of [`control`].
    pub checks: u16,
}

/// What commands move of a block, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Bytes of a block in a buffer: data, and metadata that stands behind it.
    pub block: u32,
    /// Bytes of metadata in a place of its own.
    pub apart: u32,
    /// Bits of command dword 12.
    pub control: u16,
    /// Bits of an LBA that are a reference tag.
    pub reference_mask: u64,
    /// What this process is to make and to look at.
    pub layout: Option<Layout>,
}

impl Carried {
    /// What is carried of a namespace's blocks.
    pub fn of(shape: &Shape) -> Self {
        let &Shape { block_size, metadata_size, extended, protection, protect, .. } = shape;
        let stays = |format: Format| protect.by_controller && format.guard.size() == metadata_size;
        let metadata = if protection.is_some_and(stays) { 0 } else { u32::from(metadata_size) };
        let layout = protection.filter(|_| !protect.by_controller).map(|format| Layout {
            format,
            block_size,
            metadata_size,
            extended,
        });
        let checks = |format: Format| match format.kind {
            // Nobody but the application knows the reference tag.
            Type::Three => protect.checks & !control::PRCHK_REF,
            _ => protect.checks,
        };
        let action = if protect.by_controller { control::PRACT } else { 0 };
        Self {
            block: block_size + if extended { metadata } else { 0 },
            apart: if extended { 0 } else { metadata },
            control: protection.map_or(0, |format| action | checks(format)),
            reference_mask: protection.map_or(0, |format| format.lba_mask()),
            layout,
        }
    }
}

/// Makes and looks at protection information.
#[derive(Debug)]
pub(crate) struct Protector {
    layout: Layout,
    checks: u16,
    reference_mask: u64,
    /// From the start of a buffer to its metadata that is apart.
    apart_at: u64,
    wrong: u64,
    told: Vec<String>,
}

impl Protector {
    pub fn new(carried: &Carried, apart_at: u32) -> Option<Self> {
        let (checks, reference_mask) = (carried.control, carried.reference_mask);
        carried.layout.map(|layout| Self {
            layout,
            checks,
            reference_mask,
            apart_at: apart_at.into(),
            wrong: 0,
            told: Vec::new(),
        })
    }

    /// An I/O on blocks from `slba` on is to be issued: what it sends is made ready.
    #[inline]
    pub fn issue(&self, class: &Class, region: &Region, buffer: u64, slba: u64) {
        if class.plain && data_direction(class.opcode) == Direction::HostToController {
            self.layout.generate(region, self.blocks(class, buffer), 0, (slba & self.reference_mask).into());
        }
    }

    /// An I/O has ended well: looks at what it brought, and tells how many blocks of it are wrong.
    #[inline]
    pub fn over(&mut self, class: &Class, region: &Region, buffer: u64, slba: u64) -> u64 {
        if !class.plain || data_direction(class.opcode) != Direction::ControllerToHost {
            return 0;
        }
        let before = self.wrong;
        self.look(region, self.blocks(class, buffer), slba);
        self.wrong - before
    }

    /// Looks at blocks in memory.
    #[inline]
    pub fn look(&mut self, region: &Region, blocks: Blocks, slba: u64) {
        let tags = (slba & self.reference_mask).into();
        let expected = Expected { checks: self.checks, application: (0, u16::MAX), tags };
        let layout = self.layout;
        layout.verify(region, blocks, expected, |block, mismatch| {
            self.note(slba + u64::from(block), mismatch);
        });
    }

    fn blocks(&self, class: &Class, buffer: u64) -> Blocks {
        Blocks { data: buffer, metadata: buffer + self.apart_at, count: class.blocks }
    }

    #[cold]
    fn note(&mut self, lba: u64, mismatch: Mismatch) {
        self.wrong += 1;
        if self.told.len() < TOLD {
            let Mismatch { field, expected, actual } = mismatch;
            let field = field.name();
            self.told.push(format!("the {field} of the block at LBA {lba} is {actual:x}h, not {expected:x}h"));
        }
    }

    /// What was wrong with the last block that was told of.
    pub fn last(&self) -> &str {
        self.told.last().map_or("", String::as_str)
    }

    /// All that was wrong, for people.
    pub fn problems(&self, path: &str, core: usize) -> Vec<String> {
        if self.wrong == 0 {
            return Vec::new();
        }
        let mut all = vec![format!(
            "{path} from core {core}: the protection information of {} blocks that were read is wrong; the first are:",
            self.wrong
        )];
        all.extend(self.told.iter().map(|what| format!("{path} from core {core}: {what}")));
        all
    }
}
