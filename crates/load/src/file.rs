//! Files and devices of the kernel as a run sees them.

use doorbell_host::PollGroup;
use doorbell_kernel_io::{COMMANDS, Engine, File};
use doorbell_result::IoKind;
use doorbell_spec::identify::Csi;

use crate::{
    metadata::Protect,
    plan::{Access, Shape},
    port::{AnyQueue, Port},
};

impl Port for File {
    fn shape(&self) -> Shape {
        Shape {
            name: self.name().into(),
            path: self.name().into(),
            access: if self.pins() { Access::Fixed } else { Access::Own },
            node: None,
            nsid: self.nsid(),
            csi: Csi::NVM,
            zoned: None,
            blocks: self.blocks(),
            block_size: self.block_size(),
            metadata_size: self.metadata_size(),
            extended: false,
            protection: None,
            protect: Protect::default(),
            max_transfer: self.max_transfer(),
            stripe_blocks: 0,
            queue_entries: self.queue_entries(),
            ana_state: None,
        }
    }

    fn transport(&self) -> Option<String> {
        None
    }

    fn connect(&self, entries: u32, _: &PollGroup) -> Result<AnyQueue, String> {
        let entries = entries.min(self.queue_entries());
        Ok(AnyQueue::Kernel(self.queue(u16::try_from(entries - 1).unwrap_or(u16::MAX))))
    }

    fn failure(&self) -> Option<String> {
        None
    }

    fn events(&self) -> Vec<String> {
        Vec::new()
    }

    fn incarnation(&self) -> Option<u64> {
        Some(0)
    }

    fn attempts(&self) -> u32 {
        0
    }

    fn queue_lost(&self, _: u64, _: String) {}

    fn abort(&self, _: u64, _: u16, _: u16) {}

    fn most_bytes(&self, kind: IoKind) -> Result<Option<u32>, String> {
        match (kind, self.engine()) {
            (IoKind::Read | IoKind::Write, _) => Ok(None),
            (IoKind::Flush, _) => self.flushes().map(|()| None),
            (IoKind::Compare, Engine::UringCmd) => Ok(None),
            (IoKind::Verify, Engine::UringCmd) => Ok(Some(self.max_transfer())),
            (IoKind::Trim, _) => self.clears(true).map(|()| None),
            (IoKind::WriteZeroes, _) => self.clears(false).map(|()| Some(self.max_transfer())),
            (_, engine) => Err(format!("{} carries no {kind}; {COMMANDS}", engine.word())),
        }
    }

    fn advice(&self) -> Option<String> {
        self.advice()
    }

    fn is_named(&self) -> bool {
        true
    }

    fn is_cached(&self) -> bool {
        self.is_cached()
    }

    fn settle(&self) -> Result<(), String> {
        self.settle()
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
