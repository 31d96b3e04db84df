//! What a controller tells of a namespace of the Zoned Namespace Command Set.

use doorbell_spec::{
    command,
    identify::{self, Cns, Csi},
    register::Cap,
    zns::{ZonedController, ZonedNamespace, ozcs},
};
use zerocopy::FromBytes;

use super::bring_up::{BringUp, Step};
use crate::{
    namespace::{Namespace, Zoned},
    transport::port::{AdminData, Port},
};

impl BringUp<'_> {
    /// What the zones of a namespace are, or why it cannot be used.
    pub(super) fn zones(
        &self,
        port: &mut Port,
        namespace: &Namespace,
        data: &identify::Namespace,
        cap: Cap,
    ) -> Step<Result<Zoned, String>> {
        let of_namespace = self.zoned_page(port, Cns::CSI_NAMESPACE, namespace.nsid)?;
        let of_controller = self.zoned_page(port, Cns::CSI_CONTROLLER, 0)?;
        let zoned = ZonedNamespace::ref_from_bytes(&of_namespace).expect("4096 bytes");
        let limits = ZonedController::ref_from_bytes(&of_controller).expect("4096 bytes");
        let zone_blocks = zoned.lbafe[data.format_index()].zsze.get();
        if zone_blocks == 0 || zone_blocks > namespace.blocks {
            let (name, blocks) = (&namespace.name, namespace.blocks);
            return Ok(Err(format!("{name}: it claims zones of {zone_blocks} of its {blocks} blocks")));
        }
        let most = limits.max_append(cap.mpsmin()).map_or(u32::MAX, |bytes| bytes.min(u32::MAX.into()) as u32);
        Ok(Ok(Zoned {
            zone_blocks,
            capacity: data.ncap.get(),
            max_open: zoned.max_open(),
            max_active: zoned.max_active(),
            max_append: most.min(namespace.max_transfer),
            reads_across: zoned.ozcs.get() & ozcs::READ_ACROSS_ZONE_BOUNDARIES != 0,
        }))
    }

    fn zoned_page(&self, port: &mut Port, cns: Cns, nsid: u32) -> Step<Vec<u8>> {
        let command = command::identify(cns, nsid, Csi::ZONED, 0);
        port.succeed(&command, &AdminData::In(identify::SIZE as u32), self.timeout()).map(|(_, bytes)| bytes)
    }
}
